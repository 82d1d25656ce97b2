//! Private keys.

use super::der::{context, element};
use super::pkcs8::{PrivateKeyInfo, private_key_info, read_seed, read_spki, spki};
use super::public::must_be_large_enough;
use super::scheme::Prepared;
#[cfg(feature = "sm2")]
use super::sm2;
use super::spec::Family;
use super::{EncryptionScheme, PairSpec, PublicKey, SignatureScheme, SignedMessage};
use crate::provider::aws_lc::pkey::Pkey;
use crate::{CryptoError, Key, SecretBytes, constant_time_eq};

/// Bytes of the seed of an ML-KEM key (d, then z of FIPS 203).
const SEED_LEN: usize = 64;

/// A private key with its public key.
///
/// There is deliberately no `Debug`, `Clone`, `PartialEq` or serialisation. The private part is zeroised when the pair is
/// dropped.
pub struct KeyPair {
    spec: PairSpec,
    private: Private,
    spki: Vec<u8>,
}

enum Private {
    /// With the seed of an ML-KEM key: AWS-LC's FIPS module keeps only what is made of it.
    AwsLc(Pkey, Option<Key<SEED_LEN>>),
    #[cfg(feature = "sm2")]
    Sm2(sm2::Private),
}

impl KeyPair {
    /// Makes a new pair. An RSA pair has the public exponent 65,537 and may take seconds of CPU time.
    ///
    /// # Errors
    /// [`CryptoError::Unavailable`] if this build has not this kind; [`CryptoError::Provider`].
    pub fn generate(spec: PairSpec) -> Result<Self, CryptoError> {
        spec.available()?;
        match spec.kind() {
            Some(kind) if spec.family() == Family::MlKem => {
                let seed = Key::random()?;
                let key = Pkey::ml_kem(kind, seed.expose())?;
                Self::aws_lc(spec, key, Some(seed))
            }
            Some(kind) => Self::aws_lc(spec, Pkey::generate(kind)?, None),
            #[cfg(feature = "sm2")]
            None => Ok(Self::sm2(sm2::Private::generate()?)),
            #[cfg(not(feature = "sm2"))]
            None => Err(CryptoError::Provider("making a key pair")),
        }
    }

    /// Reads a private key in PKCS#8 (DER). Keys of ML-KEM and ML-DSA must be in the form with their seed. RSA moduli must
    /// have exactly the size of `spec`, public exponents must be odd and at least 65,537.
    ///
    /// # Errors
    /// [`CryptoError::Key`] if it is not exactly one valid private key of this kind, or contradicts itself;
    /// [`CryptoError::Unavailable`] if this build has not this kind.
    pub fn from_pkcs8(spec: PairSpec, der: &[u8]) -> Result<Self, CryptoError> {
        spec.available()?;
        let info = PrivateKeyInfo::read(spec, der)?;
        let pair = match spec.family() {
            #[cfg(feature = "sm2")]
            Family::Sm2 => Self::sm2(sm2::Private::read(info.key)?),
            Family::MlDsa | Family::MlKem => {
                let (seed, expanded) = read_seed(spec, info.key)?;
                let (key, seed) = match spec.kind() {
                    Some(kind) if spec.family() == Family::MlKem => {
                        let seed = Key::from_slice(seed)?;
                        (Pkey::ml_kem(kind, seed.expose())?, Some(seed))
                    }
                    _ => (parse(spec, &element(context(0, false), &[seed]))?, None),
                };
                if let Some(expanded) = expanded
                    && !constant_time_eq(&key.raw_private()?, expanded)
                {
                    return Err(CryptoError::Key("its expanded key is not that of its seed"));
                }
                Self::aws_lc(spec, key, seed)?
            }
            _ => Self::aws_lc(spec, parse(spec, info.key)?, None)?,
        };
        if info.public.is_some() && info.public != Some(read_spki(spec, &pair.spki)?) {
            return Err(CryptoError::Key(
                "the public key in it is not that of the private key",
            ));
        }
        Ok(pair)
    }

    fn aws_lc(spec: PairSpec, key: Pkey, seed: Option<Key<SEED_LEN>>) -> Result<Self, CryptoError> {
        let spki = match spec.family() {
            Family::MlKem => spki(spec, &key.raw_public()?),
            _ => key.marshal_public()?,
        };
        let private = Private::AwsLc(key, seed);
        Ok(Self {
            spec,
            private,
            spki,
        })
    }

    #[cfg(feature = "sm2")]
    fn sm2(private: sm2::Private) -> Self {
        let spki = spki(PairSpec::Sm2, &private.public_point());
        Self {
            spec: PairSpec::Sm2,
            private: Private::Sm2(private),
            spki,
        }
    }

    /// What kind of pair this is.
    pub fn spec(&self) -> PairSpec {
        self.spec
    }

    /// The private key in PKCS#8 (DER), version 1; for ML-KEM and ML-DSA with the seed alone.
    ///
    /// # Errors
    /// [`CryptoError::Provider`] if there is no memory.
    pub fn to_pkcs8(&self) -> Result<SecretBytes, CryptoError> {
        match &self.private {
            Private::AwsLc(_, Some(seed)) => {
                let key = element(context(0, false), &[seed.expose()]);
                let mut der = private_key_info(self.spec, &key);
                Ok(SecretBytes::from(std::mem::take(&mut *der)))
            }
            Private::AwsLc(key, None) => key.marshal_private(),
            #[cfg(feature = "sm2")]
            Private::Sm2(key) => {
                let mut der = private_key_info(PairSpec::Sm2, &key.write());
                Ok(SecretBytes::from(std::mem::take(&mut *der)))
            }
        }
    }

    /// The public key as a `SubjectPublicKeyInfo` (DER).
    pub fn public_spki(&self) -> &[u8] {
        &self.spki
    }

    /// The public key, ready for use.
    ///
    /// # Errors
    /// [`CryptoError::Provider`] if there is no memory.
    pub fn public_key(&self) -> Result<PublicKey, CryptoError> {
        PublicKey::from_spki(self.spec, &self.spki)
    }

    /// Signs. Signatures of ECDSA and SM2DSA are DER, the others as their standards have them.
    ///
    /// # Errors
    /// [`CryptoError::Scheme`] if the algorithm, or this form of the message, does not go with the key;
    /// [`CryptoError::Length`] for a digest or mu of a wrong length.
    pub fn sign(
        &self,
        scheme: SignatureScheme,
        message: SignedMessage<'_>,
    ) -> Result<Vec<u8>, CryptoError> {
        scheme.must_go_with(self.spec)?;
        let message = Prepared::new(scheme, message)?;
        match (&self.private, message) {
            (Private::AwsLc(key, _), message) if scheme == SignatureScheme::Ed25519Ph => {
                key.sign_ed25519ph(&message.sha512()?)
            }
            (Private::AwsLc(key, _), Prepared::Message(message)) => {
                key.sign(scheme.signing(), message)
            }
            (Private::AwsLc(key, _), Prepared::Hashed(digest)) => {
                key.sign_digest(scheme.signing(), digest)
            }
            #[cfg(feature = "sm2")]
            (Private::Sm2(key), message) => key.sign(&message),
        }
    }

    /// Decrypts.
    ///
    /// # Errors
    /// [`CryptoError::Scheme`] if the algorithm does not go with the key; [`CryptoError::Authentication`] for a ciphertext
    /// that is not one for this key, without saying why.
    pub fn decrypt(
        &self,
        scheme: EncryptionScheme,
        ciphertext: &[u8],
    ) -> Result<SecretBytes, CryptoError> {
        scheme.must_go_with(self.spec)?;
        match (&self.private, scheme.oaep()) {
            (Private::AwsLc(key, _), Some(md)) => key.decrypt_oaep(md, ciphertext),
            (Private::AwsLc(..), None) => Err(CryptoError::Scheme("SM2")),
            #[cfg(feature = "sm2")]
            (Private::Sm2(key), _) => key.decrypt(ciphertext),
        }
    }

    /// ECDH with another's public key, a `SubjectPublicKeyInfo` of the same curve: the x coordinate of the shared point
    /// (SP 800-56A; all these curves have the cofactor 1). Derive keys from it, do not use it as one.
    ///
    /// # Errors
    /// [`CryptoError::Key`] for a peer that is not a valid public key of this curve; [`CryptoError::Scheme`] for a pair
    /// that is not of P-256, P-384, P-521 or SM2.
    pub fn agree(&self, peer_spki: &[u8]) -> Result<SecretBytes, CryptoError> {
        match self.spec {
            PairSpec::P256 | PairSpec::P384 | PairSpec::P521 | PairSpec::Sm2 => {}
            _ => return Err(CryptoError::Scheme("key agreement")),
        }
        let peer = PublicKey::from_spki(self.spec, peer_spki)?;
        match (&self.private, peer.aws_lc()) {
            (Private::AwsLc(key, _), Some(peer)) => key.agree(peer),
            (Private::AwsLc(..), None) => Err(CryptoError::PublicKey),
            #[cfg(feature = "sm2")]
            (Private::Sm2(key), _) => key.agree(read_spki(self.spec, peer_spki)?),
        }
    }

    /// ML-KEM: the 32-byte secret of a ciphertext. One that was not made for this key gives a secret that nobody knows,
    /// not an error (implicit rejection, FIPS 203).
    ///
    /// # Errors
    /// [`CryptoError::Length`] for a ciphertext of a wrong length; [`CryptoError::Scheme`] for a pair of another kind.
    pub fn decapsulate(&self, ciphertext: &[u8]) -> Result<SecretBytes, CryptoError> {
        match (&self.private, self.spec.encapsulation_len()) {
            (Private::AwsLc(key, _), Some(len)) if len == ciphertext.len() => {
                key.decapsulate(ciphertext)
            }
            (_, Some(_)) => Err(CryptoError::Length {
                what: "ML-KEM ciphertext",
                got: ciphertext.len(),
            }),
            (_, None) => Err(CryptoError::Scheme("decapsulation")),
        }
    }
}

/// A private key of AWS-LC from its inner form.
fn parse(spec: PairSpec, key: &[u8]) -> Result<Pkey, CryptoError> {
    let key = Pkey::parse_private(&private_key_info(spec, key))
        .ok_or(CryptoError::Key("its numbers are not those of a valid key"))?;
    must_be_large_enough(spec, &key)?;
    Ok(key)
}
