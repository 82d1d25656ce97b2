//! Imported key material on its way in: the token that carries the wrapping pair, and the unwrapping.
//!
//! The private key of the pair is nowhere but in the token, sealed under the present domain key together with what it is
//! for. So a token is worth nothing to another key, another store, and after the next deletion epoch.

use kms_api::{
    ApiError, Blob, ErrorCode, ImportKeyMaterialRequest, KeySpec, WrappingAlgorithm,
    WrappingKeySpec,
};
use kms_crypto::asymmetric::{EncryptionScheme, KeyPair, PairSpec};
use kms_crypto::{CryptoError, SecretBytes, open_message, seal_message, unwrap_kwp};

use crate::clock::{DAY_MS, Due, Dueness, Now};
use crate::domain::{DomainError, DomainKeys};
use crate::kms::pair_spec;
use crate::specs;

#[cfg(test)]
mod tests;

/// How long a token is good for: 24 hours.
pub const TOKEN_MS: u64 = DAY_MS;
/// How long imported material may last.
pub const MAX_DAYS: u64 = 365;
/// What every token begins with.
const MAGIC: &[u8; 8] = b"kmsdIMP1";
/// Bytes of a token's name.
pub const ID_LEN: usize = 16;

/// What a token says.
pub struct Token {
    /// Names it; the key knows the one that counts.
    pub id: [u8; ID_LEN],
    /// How the material will be wrapped.
    pub algorithm: WrappingAlgorithm,
    /// Kind of the wrapping pair.
    pub spec: WrappingKeySpec,
    /// When it ends.
    pub ends: Due,
    /// The private key, PKCS #8.
    pub private: SecretBytes,
}

impl Token {
    /// Seals it for the key with this ARN.
    ///
    /// # Errors
    /// There is no domain key, or no randomness.
    pub fn seal(&self, arn: &str, domain: &DomainKeys) -> Result<Blob, DomainError> {
        let number = domain.current();
        let key = domain.import_key(number)?;
        let private = self.private.expose();
        let mut plain = Vec::with_capacity(ID_LEN + 18 + private.len());
        plain.extend_from_slice(&self.id);
        plain.push(place(WrappingAlgorithm::WIRE, self.algorithm.as_str()));
        plain.push(place(WrappingKeySpec::WIRE, self.spec.as_str()));
        plain.extend_from_slice(&self.ends.wall_ms.to_be_bytes());
        plain.extend_from_slice(&self.ends.elapsed_ms.to_be_bytes());
        plain.extend_from_slice(private);
        let plain = SecretBytes::from(plain);
        let sealed = seal_message(&key, &associated(arn, number), plain.expose())?;
        let mut blob = MAGIC.to_vec();
        blob.extend_from_slice(&number.to_be_bytes());
        blob.extend_from_slice(&sealed);
        Ok(Blob::new(blob))
    }

    /// Reads one that [`Self::seal`] made for this key.
    pub fn open(blob: &[u8], arn: &str, domain: &DomainKeys) -> Option<Self> {
        let rest = blob.strip_prefix(MAGIC)?;
        let (number, sealed) = rest.split_first_chunk()?;
        let number = u64::from_be_bytes(*number);
        let key = domain.import_key(number).ok()?;
        let plain = open_message(&key, &associated(arn, number), sealed).ok()?;
        let (id, rest) = plain.expose().split_first_chunk()?;
        let (kinds, rest) = rest.split_first_chunk::<2>()?;
        let (wall, rest) = rest.split_first_chunk()?;
        let (elapsed, private) = rest.split_first_chunk()?;
        let [algorithm, spec] = kinds.map(usize::from);
        Some(Self {
            id: *id,
            algorithm: WrappingAlgorithm::from_wire(WrappingAlgorithm::WIRE.get(algorithm)?)?,
            spec: WrappingKeySpec::from_wire(WrappingKeySpec::WIRE.get(spec)?)?,
            ends: Due {
                wall_ms: i64::from_be_bytes(*wall),
                elapsed_ms: u64::from_be_bytes(*elapsed),
            },
            private: SecretBytes::from(private.to_vec()),
        })
    }

    /// Whether one of the clocks has come to its end.
    pub fn has_ended(&self, now: Now) -> bool {
        self.ends.at(now) != Dueness::NotYet
    }
}

fn associated(arn: &str, domain: u64) -> Vec<u8> {
    let mut text = b"kmsd import token 1\0".to_vec();
    text.extend_from_slice(&domain.to_be_bytes());
    text.extend_from_slice(arn.as_bytes());
    text
}

/// The place of a value among all there are; the enumerations are shorter than 256.
fn place(all: &[&str], value: &str) -> u8 {
    let found = all.iter().position(|one| *one == value);
    found
        .and_then(|place| u8::try_from(place).ok())
        .unwrap_or(u8::MAX)
}

/// The kind of pair that wraps, where kmsd has it.
pub fn wrapping_pair(spec: WrappingKeySpec) -> Option<PairSpec> {
    match spec {
        WrappingKeySpec::Rsa2048 => Some(PairSpec::Rsa2048),
        WrappingKeySpec::Rsa3072 => Some(PairSpec::Rsa3072),
        WrappingKeySpec::Rsa4096 => Some(PairSpec::Rsa4096),
        WrappingKeySpec::Sm2 => None,
    }
}

/// Refuses ways to wrap that do not go with the material, and those that AWS offers no more or not everywhere.
///
/// # Errors
/// The error to reply with.
pub fn check_wrapping(
    algorithm: WrappingAlgorithm,
    wrapping: WrappingKeySpec,
    material: KeySpec,
) -> Result<PairSpec, ApiError> {
    use WrappingAlgorithm as A;
    let refuse = |text: String| Err(ApiError::new(ErrorCode::UnsupportedOperation, text));
    let pair = match (algorithm, wrapping_pair(wrapping)) {
        (A::RsaesPkcs1V15, _) => {
            return refuse("WrappingAlgorithm RSAES_PKCS1_V1_5 is no longer supported.".to_owned());
        }
        (A::Sm2Pke, _) | (_, None) => {
            return refuse(format!(
                "WrappingAlgorithm {algorithm} with WrappingKeySpec {wrapping} is supported in China Regions only."
            ));
        }
        (_, Some(pair)) => pair,
    };
    let direct = matches!(algorithm, A::RsaesOaepSha1 | A::RsaesOaepSha256);
    let too_long = match material {
        KeySpec::Rsa2048 | KeySpec::Rsa3072 | KeySpec::Rsa4096 => direct,
        KeySpec::EccNistP521 => direct && wrapping == WrappingKeySpec::Rsa2048,
        _ => false,
    };
    if too_long {
        return refuse(format!(
            "Key material of KeySpec {material} cannot be wrapped with WrappingAlgorithm {algorithm} and \
             WrappingKeySpec {wrapping}."
        ));
    }
    Ok(pair)
}

/// Key material that is to be unwrapped, which takes a private key some milliseconds.
pub struct Wrapped {
    token: Token,
    ciphertext: Blob,
    material: KeySpec,
}

/// Key material as it will be kept: 32 bytes, an HMAC key, or PKCS #8 in kmsd's own encoding.
pub struct Material {
    /// The secret.
    pub secret: SecretBytes,
    /// SubjectPublicKeyInfo of a private key.
    pub public: Option<Vec<u8>>,
}

impl Wrapped {
    /// What `request` brings for a key of this kind.
    pub(crate) fn new(token: Token, request: &ImportKeyMaterialRequest, material: KeySpec) -> Self {
        Self {
            token,
            ciphertext: request.encrypted_key_material.clone(),
            material,
        }
    }

    /// Unwraps it and looks whether it is key material of the key's kind.
    ///
    /// # Errors
    /// `InvalidCiphertextException` if it does not open, `IncorrectKeyMaterialException` if it is no such material.
    pub fn open(&self) -> Result<Material, ApiError> {
        let secret = self
            .unwrap()
            .map_err(|_| ApiError::bare(ErrorCode::InvalidCiphertext))?;
        read(self.material, secret).ok_or_else(|| {
            let spec = self.material;
            ApiError::new(
                ErrorCode::IncorrectKeyMaterial,
                format!("The key material is not valid for a KMS key with KeySpec {spec}."),
            )
        })
    }

    fn unwrap(&self) -> Result<SecretBytes, CryptoError> {
        use WrappingAlgorithm as A;
        let unknown = CryptoError::Scheme("key wrapping");
        let spec = wrapping_pair(self.token.spec).ok_or_else(|| unknown.clone())?;
        let pair = KeyPair::from_pkcs8(spec, self.token.private.expose())?;
        let (scheme, direct) = match self.token.algorithm {
            A::RsaesOaepSha1 => (EncryptionScheme::RsaOaepSha1, true),
            A::RsaesOaepSha256 => (EncryptionScheme::RsaOaepSha256, true),
            A::RsaAesKeyWrapSha1 => (EncryptionScheme::RsaOaepSha1, false),
            A::RsaAesKeyWrapSha256 => (EncryptionScheme::RsaOaepSha256, false),
            A::RsaesPkcs1V15 | A::Sm2Pke => return Err(unknown),
        };
        let bytes = self.ciphertext.as_slice();
        if direct {
            return pair.decrypt(scheme, bytes);
        }
        // An AES key under RSA, and behind it the material under the AES key.
        let modulus = match spec {
            PairSpec::Rsa2048 => 256,
            PairSpec::Rsa3072 => 384,
            _ => 512,
        };
        let (first, second) = bytes.split_at_checked(modulus).ok_or(CryptoError::Length {
            what: "wrapped key material",
            got: bytes.len(),
        })?;
        unwrap_kwp(pair.decrypt(scheme, first)?.expose(), second)
    }
}

/// Key material of this kind, if it is such.
fn read(spec: KeySpec, secret: SecretBytes) -> Option<Material> {
    if let Some(pair) = pair_spec(spec) {
        let pair = KeyPair::from_pkcs8(pair, secret.expose()).ok()?;
        return Some(Material {
            secret: pair.to_pkcs8().ok()?,
            public: Some(pair.public_spki().to_vec()),
        });
    }
    let length = specs::mac_key_len(spec).unwrap_or(32);
    (secret.len() == length).then_some(Material {
        secret,
        public: None,
    })
}
