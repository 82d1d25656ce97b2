//! The primitives over AWS-LC.

mod context;
pub(crate) mod fips;
mod hkdf;
pub(crate) mod kwp;
pub(crate) mod pkey;
mod siv;
mod xts;

// The C interface of the library that aws-lc-rs itself stands on: everything below that needs it takes it from here.
#[cfg(feature = "fips")]
use aws_lc_fips_sys as lc;
#[cfg(not(feature = "fips"))]
use aws_lc_sys as lc;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey,
};
use aws_lc_rs::{agreement, digest, hmac, rand};

use super::{Gcm, Provider};
use crate::CryptoError;
use crate::hmac::HmacHash;

/// AWS-LC as a [`Provider`].
pub(crate) struct AwsLc;

impl Provider for AwsLc {
    type Xts = xts::AwsLcXts;
    type Gcm = AwsLcGcm;
    type Siv = siv::AwsLcSiv;

    fn fill_random(out: &mut [u8]) -> Result<(), CryptoError> {
        rand::fill(out).map_err(|_| CryptoError::Random)
    }

    fn sha256(parts: &[&[u8]]) -> [u8; 32] {
        // Without a context, which would be an allocation.
        if let [whole] = parts {
            return array(digest::digest(&digest::SHA256, whole).as_ref());
        }
        let mut context = digest::Context::new(&digest::SHA256);
        for part in parts {
            context.update(part);
        }
        array(context.finish().as_ref())
    }

    fn hmac_sha256(key: &[u8], parts: &[&[u8]]) -> [u8; 32] {
        let mut context = hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, key));
        for part in parts {
            context.update(part);
        }
        array(context.sign().as_ref())
    }

    fn hmac(hash: HmacHash, key: &[u8], message: &[u8]) -> Vec<u8> {
        let algorithm = match hash {
            HmacHash::Sha224 => hmac::HMAC_SHA224,
            HmacHash::Sha256 => hmac::HMAC_SHA256,
            HmacHash::Sha384 => hmac::HMAC_SHA384,
            HmacHash::Sha512 => hmac::HMAC_SHA512,
        };
        hmac::sign(&hmac::Key::new(algorithm, key), message)
            .as_ref()
            .to_vec()
    }

    fn hkdf_extract(salt: &[u8], ikm: &[&[u8]], prk: &mut [u8; 32]) -> Result<(), CryptoError> {
        hkdf::extract(salt, ikm, prk)
    }

    fn hkdf_expand(prk: &[u8; 32], info: &[&[u8]], out: &mut [u8]) -> Result<(), CryptoError> {
        hkdf::expand(prk, info, out)
    }

    fn x25519_public(private: &[u8; 32]) -> Result<[u8; 32], CryptoError> {
        let failed = CryptoError::Provider("X25519");
        let key = agreement::PrivateKey::from_private_key(&agreement::X25519, private)
            .map_err(|_| failed.clone())?;
        let public = key.compute_public_key().map_err(|_| failed)?;
        Ok(array(public.as_ref()))
    }

    fn x25519(private: &[u8; 32], peer: &[u8; 32], out: &mut [u8; 32]) -> Result<(), CryptoError> {
        let key = agreement::PrivateKey::from_private_key(&agreement::X25519, private)
            .map_err(|_| CryptoError::Provider("X25519"))?;
        let peer = agreement::UnparsedPublicKey::new(&agreement::X25519, peer);
        agreement::agree(&key, peer, CryptoError::PublicKey, |secret| {
            out.copy_from_slice(secret);
            Ok(())
        })
    }

    fn ed25519_public(seed: &[u8; 32]) -> Result<[u8; 32], CryptoError> {
        Ok(array(ed25519(seed)?.public_key().as_ref()))
    }

    fn ed25519_sign(seed: &[u8; 32], message: &[u8]) -> Result<[u8; 64], CryptoError> {
        Ok(array(ed25519(seed)?.sign(message).as_ref()))
    }

    fn ed25519_verify(
        public: &[u8; 32],
        message: &[u8],
        signature: &[u8; 64],
    ) -> Result<(), CryptoError> {
        UnparsedPublicKey::new(&ED25519, public)
            .verify(message, signature)
            .map_err(|_| CryptoError::Authentication)
    }

    fn p256_verify(
        public: &[u8; 64],
        message: &[u8],
        signature: &[u8; 64],
    ) -> Result<(), CryptoError> {
        // SEC 1, 2.3.3: the uncompressed form of a point.
        let mut point = [4; 65];
        if let Some((_, xy)) = point.split_first_mut() {
            xy.copy_from_slice(public);
        }
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point)
            .verify(message, signature)
            .map_err(|_| CryptoError::Authentication)
    }
}

pub(crate) fn sha512(message: &[u8]) -> [u8; 64] {
    array(digest::digest(&digest::SHA512, message).as_ref())
}

fn ed25519(seed: &[u8; 32]) -> Result<Ed25519KeyPair, CryptoError> {
    Ed25519KeyPair::from_seed_unchecked(seed).map_err(|_| CryptoError::Provider("Ed25519"))
}

/// The bytes of a digest whose length is known to be `N`.
fn array<const N: usize>(bytes: &[u8]) -> [u8; N] {
    let mut out = [0; N];
    out.copy_from_slice(bytes);
    out
}

/// AES-256-GCM over `EVP_aead_aes_256_gcm`.
pub(crate) struct AwsLcGcm(LessSafeKey);

impl Gcm for AwsLcGcm {
    fn new(key: &[u8; 32]) -> Result<Self, CryptoError> {
        let key =
            UnboundKey::new(&AES_256_GCM, key).map_err(|_| CryptoError::Provider("AES-GCM"))?;
        Ok(Self(LessSafeKey::new(key)))
    }

    fn seal(&self, nonce: &[u8; 12], aad: &[u8], data: &mut [u8]) -> Result<[u8; 16], CryptoError> {
        let nonce = Nonce::assume_unique_for_key(*nonce);
        let tag = self
            .0
            .seal_in_place_separate_tag(nonce, Aad::from(aad), data)
            .map_err(|_| CryptoError::Provider("AES-GCM"))?;
        Ok(array(tag.as_ref()))
    }

    fn open(
        &self,
        nonce: &[u8; 12],
        aad: &[u8],
        data: &mut [u8],
        tag: &[u8; 16],
    ) -> Result<(), CryptoError> {
        let nonce = Nonce::assume_unique_for_key(*nonce);
        self.0
            .open_in_place_separate_tag(nonce, Aad::from(aad), tag, data)
            .map(|_| ())
            .map_err(|_| CryptoError::Authentication)
    }
}
