//! SM2 (GB/T 32918) over the crate `sm2` of RustCrypto, which AWS-LC has not. It is maintained, meant to be constant
//! time, and was never audited.

use sm2::dsa::signature::hazmat::{PrehashVerifier, RandomizedPrehashSigner};
use sm2::dsa::signature::{RandomizedSigner, Verifier};
use sm2::dsa::{Signature, SigningKey, VerifyingKey};
use sm2::elliptic_curve::Generate;
use sm2::elliptic_curve::common::getrandom::SysRng;
use sm2::elliptic_curve::point::AffineCoordinates;
use sm2::elliptic_curve::sec1::ToSec1Point;
use sm2::pke::{DecryptingKey, EncryptingKey};
use sm2::{ProjectivePoint, SecretKey};
use zeroize::Zeroizing;

use super::PairSpec;
use super::der::{BIT_STRING, INTEGER, OCTET_STRING, Reader, SEQUENCE, context, element};
use super::pkcs8::bits;
use super::scheme::Prepared;
use crate::{CryptoError, SecretBytes};

/// The identity that goes into every digest where none is agreed on (GB/T 35276).
const IDENTITY: &str = "1234567812345678";

/// Bytes of an uncompressed point.
const POINT_LEN: usize = 65;

const INVALID: CryptoError = CryptoError::Key("its numbers are not those of a valid key");
const FAILED: CryptoError = CryptoError::Provider("SM2");

/// A private key, zeroised when dropped.
pub(super) struct Private(SecretKey);

impl Private {
    pub(super) fn generate() -> Result<Self, CryptoError> {
        SecretKey::try_generate_from_rng(&mut SysRng)
            .map(Self)
            .map_err(|_| CryptoError::Random)
    }

    /// Reads `ECPrivateKey` of RFC 5915. Curve and public key may stand in it, and must be right then.
    pub(super) fn read(der: &[u8]) -> Result<Self, CryptoError> {
        let malformed = CryptoError::Key("it is not one private key of an elliptic curve in DER");
        let body = Reader::only(der, SEQUENCE).ok_or_else(|| malformed.clone())?;
        let mut body = Reader::new(body);
        let mut read = || {
            let version = body.take(INTEGER)?;
            let number = body.take(OCTET_STRING)?;
            let curve = match body.has(context(0, true)) {
                true => Some(body.take(context(0, true))?),
                false => None,
            };
            let public = match body.has(context(1, true)) {
                true => Some(bits(Reader::only(
                    body.take(context(1, true))?,
                    BIT_STRING,
                )?)?),
                false => None,
            };
            (version == [1] && body.is_empty()).then_some((number, curve, public))
        };
        let (number, curve, public) = read().ok_or(malformed)?;
        if number.len() != 32
            || curve.is_some_and(|curve| !PairSpec::Sm2.algorithm().ends_with(curve))
        {
            return Err(INVALID);
        }
        let private = Self(SecretKey::from_slice(number).map_err(|_| INVALID)?);
        if public.is_some_and(|public| public != private.public_point()) {
            return Err(CryptoError::Key(
                "the public key in it is not that of the private key",
            ));
        }
        Ok(private)
    }

    /// `ECPrivateKey` with the public key.
    pub(super) fn write(&self) -> Zeroizing<Vec<u8>> {
        let number = Zeroizing::new(self.0.to_bytes());
        let number = element(OCTET_STRING, &[number.as_slice()]);
        let public = element(BIT_STRING, &[&[0], &self.public_point()]);
        let public = element(context(1, true), &[&public]);
        element(SEQUENCE, &[b"\x02\x01\x01", &number, &public])
    }

    /// The public key, uncompressed.
    pub(super) fn public_point(&self) -> Vec<u8> {
        self.0.public_key().to_sec1_point(false).as_bytes().to_vec()
    }

    pub(super) fn sign(&self, message: &Prepared<'_>) -> Result<Vec<u8>, CryptoError> {
        let key = SigningKey::new(IDENTITY, &self.0).map_err(|_| FAILED)?;
        let signature = match message {
            Prepared::Message(message) => key.try_sign_with_rng(&mut SysRng, message),
            Prepared::Hashed(digest) => key.sign_prehash_with_rng(&mut SysRng, digest),
        };
        Ok(signature.map_err(|_| FAILED)?.to_der().to_vec())
    }

    pub(super) fn decrypt(&self, ciphertext: &[u8]) -> Result<SecretBytes, CryptoError> {
        DecryptingKey::new(self.0.clone())
            .decrypt_der(ciphertext)
            .map(SecretBytes::from)
            .map_err(|_| CryptoError::Authentication)
    }

    /// The x coordinate of the point that both sides compute.
    pub(super) fn agree(&self, peer: &[u8]) -> Result<SecretBytes, CryptoError> {
        let peer = ProjectivePoint::from(*point(peer)?.as_affine());
        let scalar = Zeroizing::new(self.0.to_nonzero_scalar());
        let shared = (peer * **scalar).to_affine();
        Ok(SecretBytes::from(shared.x().to_vec()))
    }
}

/// A point on the curve.
pub(super) struct Public(sm2::PublicKey);

impl Public {
    pub(super) fn read(key: &[u8]) -> Result<Self, CryptoError> {
        point(key).map(Self)
    }

    pub(super) fn verify(
        &self,
        message: &Prepared<'_>,
        signature: &[u8],
    ) -> Result<(), CryptoError> {
        let bad = |_| CryptoError::Authentication;
        let key = VerifyingKey::new(IDENTITY, self.0).map_err(|_| FAILED)?;
        let signature = Signature::from_der(signature).map_err(bad)?;
        match message {
            Prepared::Message(message) => key.verify(message, &signature).map_err(bad),
            Prepared::Hashed(digest) => key.verify_prehash(digest, &signature).map_err(bad),
        }
    }

    pub(super) fn encrypt(&self, plaintext: &[u8]) -> Result<Vec<u8>, CryptoError> {
        if plaintext.is_empty() {
            return Err(CryptoError::Length {
                what: "plaintext",
                got: 0,
            });
        }
        EncryptingKey::new(self.0)
            .encrypt_der(&mut SysRng, plaintext)
            .map_err(|_| FAILED)
    }
}

fn point(key: &[u8]) -> Result<sm2::PublicKey, CryptoError> {
    if key.len() != POINT_LEN {
        return Err(INVALID);
    }
    sm2::PublicKey::from_sec1_bytes(key).map_err(|_| INVALID)
}
