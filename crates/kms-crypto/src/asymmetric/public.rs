//! Public keys.

use super::pkcs8::read_spki;
use super::scheme::Prepared;
#[cfg(feature = "sm2")]
use super::sm2;
use super::spec::Family;
use super::{EncryptionScheme, PairSpec, SignatureScheme, SignedMessage};
use crate::provider::aws_lc::pkey::Pkey;
use crate::{CryptoError, SecretBytes};

/// The least bits of an RSA public exponent: it must be greater than 2^16 (FIPS 186-5, A.1.1).
const EXPONENT_BITS_MIN: u32 = 17;

/// The modulus of ML-KEM's ring (FIPS 203).
const ML_KEM_Q: u16 = 3329;

/// A public key, checked.
pub struct PublicKey {
    spec: PairSpec,
    public: Public,
}

enum Public {
    AwsLc(Pkey),
    #[cfg(feature = "sm2")]
    Sm2(sm2::Public),
}

impl PublicKey {
    /// Reads a `SubjectPublicKeyInfo` (DER).
    ///
    /// # Errors
    /// [`CryptoError::Key`] if it is not exactly one valid public key of this kind: the point must be on the curve, an RSA
    /// modulus must have exactly the size of `spec` and an odd exponent of at least 65,537, the coefficients of an ML-KEM
    /// key must be reduced (FIPS 203, 7.2). That an Ed25519 key is a point shows only when it verifies something.
    /// [`CryptoError::Unavailable`] if this build has not this kind.
    pub fn from_spki(spec: PairSpec, der: &[u8]) -> Result<Self, CryptoError> {
        spec.available()?;
        let key = read_spki(spec, der)?;
        #[cfg(feature = "sm2")]
        if spec == PairSpec::Sm2 {
            let public = Public::Sm2(sm2::Public::read(key)?);
            return Ok(Self { spec, public });
        }
        let invalid = CryptoError::Key("its numbers are not those of a valid key");
        let malformed = match spec.family() {
            Family::MlKem => !reduced(key),
            // The point at infinity.
            Family::Ec => key.first() == Some(&0),
            _ => false,
        };
        if malformed {
            return Err(invalid);
        }
        let key = Pkey::parse_public(der).ok_or(invalid)?;
        must_be_large_enough(spec, &key)?;
        let public = Public::AwsLc(key);
        Ok(Self { spec, public })
    }

    /// What kind of key this is.
    pub fn spec(&self) -> PairSpec {
        self.spec
    }

    pub(super) fn aws_lc(&self) -> Option<&Pkey> {
        match &self.public {
            Public::AwsLc(key) => Some(key),
            #[cfg(feature = "sm2")]
            Public::Sm2(_) => None,
        }
    }

    /// Verifies a signature.
    ///
    /// # Errors
    /// [`CryptoError::Authentication`] if it is not this key's over this message; [`CryptoError::Scheme`] if the
    /// algorithm, or this form of the message, does not go with the key; [`CryptoError::Length`] for a digest or mu of a
    /// wrong length.
    pub fn verify(
        &self,
        scheme: SignatureScheme,
        message: SignedMessage<'_>,
        signature: &[u8],
    ) -> Result<(), CryptoError> {
        scheme.must_go_with(self.spec)?;
        let message = Prepared::new(scheme, message)?;
        match (&self.public, message) {
            (Public::AwsLc(key), message) if scheme == SignatureScheme::Ed25519Ph => {
                key.verify_ed25519ph(&message.sha512()?, signature)
            }
            (Public::AwsLc(key), Prepared::Message(message)) => {
                key.verify(scheme.signing(), message, signature)
            }
            (Public::AwsLc(key), Prepared::Hashed(digest)) => {
                key.verify_digest(scheme.signing(), digest, signature)
            }
            #[cfg(feature = "sm2")]
            (Public::Sm2(key), message) => key.verify(&message, signature),
        }
    }

    /// Encrypts at most [`EncryptionScheme::max_plaintext`] bytes for the holder of the private key.
    ///
    /// # Errors
    /// [`CryptoError::Scheme`] if the algorithm does not go with the key; [`CryptoError::Length`] for too much.
    pub fn encrypt(
        &self,
        scheme: EncryptionScheme,
        plaintext: &[u8],
    ) -> Result<Vec<u8>, CryptoError> {
        if plaintext.len() > scheme.must_go_with(self.spec)? {
            return Err(CryptoError::Length {
                what: "plaintext",
                got: plaintext.len(),
            });
        }
        match (&self.public, scheme.oaep()) {
            (Public::AwsLc(key), Some(md)) => key.encrypt_oaep(md, plaintext),
            (Public::AwsLc(_), None) => Err(CryptoError::Scheme("SM2")),
            #[cfg(feature = "sm2")]
            (Public::Sm2(key), _) => key.encrypt(plaintext),
        }
    }

    /// ML-KEM: a new 32-byte secret, and its ciphertext for the holder of the private key.
    ///
    /// # Errors
    /// [`CryptoError::Scheme`] for a key of another kind; [`CryptoError::Provider`].
    pub fn encapsulate(&self) -> Result<(SecretBytes, Vec<u8>), CryptoError> {
        match self.aws_lc() {
            Some(key) if self.spec.family() == Family::MlKem => key.encapsulate(),
            _ => Err(CryptoError::Scheme("encapsulation")),
        }
    }
}

/// Whether RSA numbers have the sizes of `spec`.
pub(super) fn must_be_large_enough(spec: PairSpec, key: &Pkey) -> Result<(), CryptoError> {
    match (spec.modulus_bits(), key.rsa_bits()) {
        (None, None) => Ok(()),
        (Some(bits), Some((modulus, _))) if modulus != bits => {
            Err(CryptoError::Key("its modulus has another size"))
        }
        (Some(_), Some((_, exponent))) if exponent < EXPONENT_BITS_MIN => {
            Err(CryptoError::Key("its public exponent is below 65,537"))
        }
        (Some(_), Some(_)) => Ok(()),
        _ => Err(CryptoError::Key("it is of another algorithm")),
    }
}

/// The modulus check of FIPS 203, 7.2: all but the last 32 bytes are numbers of 12 bits, below q.
fn reduced(key: &[u8]) -> bool {
    let Some((polynomials, _)) = key.split_last_chunk::<32>() else {
        return false;
    };
    polynomials.chunks(3).all(|chunk| match *chunk {
        [a, b, c] => {
            let (a, b, c) = (u16::from(a), u16::from(b), u16::from(c));
            (a | (b & 0x0f) << 8) < ML_KEM_Q && (b >> 4 | c << 4) < ML_KEM_Q
        }
        _ => false,
    })
}
