//! The primitives over the crates of the RustCrypto project: pure Rust, slower, and written by other people than
//! AWS-LC, which is what makes comparing the two worth while.

use aes::Aes256;
use aes_gcm::aead::AeadInOut;
use aes_gcm::aead::inout::InOutBuf;
use aes_gcm::{Aes256Gcm, KeyInit};
use aes_siv::siv::Aes256Siv;
use ed25519_dalek::{Signer, SigningKey, VerifyingKey};
use hkdf::{Hkdf, HkdfExtract};
use hmac::{EagerHash, Hmac, Mac};
use p256::ecdsa::signature::Verifier;
use sha2::{Digest, Sha224, Sha256, Sha384, Sha512};
use x25519_dalek::{PublicKey, StaticSecret};
use xts_mode::{Xts128, get_tweak_default};
use zeroize::Zeroizing;

use super::{Direction, Gcm, Provider, Siv, Xts};
use crate::CryptoError;
use crate::hmac::HmacHash;

/// RustCrypto as a [`Provider`].
pub(crate) struct RustCrypto;

impl Provider for RustCrypto {
    type Xts = RustXts;
    type Gcm = RustGcm;
    type Siv = RustSiv;

    fn fill_random(out: &mut [u8]) -> Result<(), CryptoError> {
        getrandom::fill(out).map_err(|_| CryptoError::Random)
    }

    fn sha256(parts: &[&[u8]]) -> [u8; 32] {
        let mut hash = Sha256::new();
        for part in parts {
            hash.update(part);
        }
        hash.finalize().0
    }

    fn hmac_sha256(key: &[u8], parts: &[&[u8]]) -> [u8; 32] {
        #[expect(
            clippy::expect_used,
            reason = "HMAC is defined for keys of every length"
        )]
        let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes any key");
        for part in parts {
            mac.update(part);
        }
        mac.finalize().into_bytes().0
    }

    fn hmac(hash: HmacHash, key: &[u8], message: &[u8]) -> Vec<u8> {
        match hash {
            HmacHash::Sha224 => hmac_of::<Sha224>(key, message),
            HmacHash::Sha256 => hmac_of::<Sha256>(key, message),
            HmacHash::Sha384 => hmac_of::<Sha384>(key, message),
            HmacHash::Sha512 => hmac_of::<Sha512>(key, message),
        }
    }

    fn hkdf_extract(salt: &[u8], ikm: &[&[u8]], prk: &mut [u8; 32]) -> Result<(), CryptoError> {
        let mut extract = HkdfExtract::<Sha256>::new(Some(salt));
        for part in ikm {
            extract.input_ikm(part);
        }
        prk.copy_from_slice(&Zeroizing::new(extract.finalize().0.0)[..]);
        Ok(())
    }

    fn hkdf_expand(prk: &[u8; 32], info: &[&[u8]], out: &mut [u8]) -> Result<(), CryptoError> {
        const FAILED: CryptoError = CryptoError::Provider("HKDF");
        let hkdf = Hkdf::<Sha256>::from_prk(prk).map_err(|_| FAILED)?;
        hkdf.expand_multi_info(info, out).map_err(|_| FAILED)
    }

    fn x25519_public(private: &[u8; 32]) -> Result<[u8; 32], CryptoError> {
        Ok(PublicKey::from(&StaticSecret::from(*private)).to_bytes())
    }

    fn x25519(private: &[u8; 32], peer: &[u8; 32], out: &mut [u8; 32]) -> Result<(), CryptoError> {
        let shared = StaticSecret::from(*private).diffie_hellman(&PublicKey::from(*peer));
        if !shared.was_contributory() {
            return Err(CryptoError::PublicKey);
        }
        out.copy_from_slice(shared.as_bytes());
        Ok(())
    }

    fn ed25519_public(seed: &[u8; 32]) -> Result<[u8; 32], CryptoError> {
        Ok(SigningKey::from_bytes(seed).verifying_key().to_bytes())
    }

    fn ed25519_sign(seed: &[u8; 32], message: &[u8]) -> Result<[u8; 64], CryptoError> {
        Ok(SigningKey::from_bytes(seed).sign(message).to_bytes())
    }

    fn ed25519_verify(
        public: &[u8; 32],
        message: &[u8],
        signature: &[u8; 64],
    ) -> Result<(), CryptoError> {
        let signature = ed25519_dalek::Signature::from_bytes(signature);
        VerifyingKey::from_bytes(public)
            .and_then(|key| key.verify(message, &signature))
            .map_err(|_| CryptoError::Authentication)
    }

    fn p256_verify(
        public: &[u8; 64],
        message: &[u8],
        signature: &[u8; 64],
    ) -> Result<(), CryptoError> {
        let mut point = [4; 65];
        if let Some((_, xy)) = point.split_first_mut() {
            xy.copy_from_slice(public);
        }
        let key = p256::ecdsa::VerifyingKey::from_sec1_bytes(&point);
        let signature = p256::ecdsa::Signature::from_slice(signature);
        key.and_then(|key| key.verify(message, &signature?))
            .map_err(|_| CryptoError::Authentication)
    }
}

fn hmac_of<D: EagerHash>(key: &[u8], message: &[u8]) -> Vec<u8>
where
    Hmac<D>: KeyInit + Mac,
{
    #[expect(
        clippy::expect_used,
        reason = "HMAC is defined for keys of every length"
    )]
    let mut mac = <Hmac<D> as KeyInit>::new_from_slice(key).expect("HMAC takes any key");
    mac.update(message);
    mac.finalize().into_bytes().to_vec()
}

/// AES-256-XTS of `xts-mode`.
pub(crate) struct RustXts(Xts128<Aes256>);

impl Xts for RustXts {
    fn new(key: &[u8; 64]) -> Result<Self, CryptoError> {
        const FAILED: CryptoError = CryptoError::Provider("AES-XTS");
        let (data, tweak) = key.split_at(32);
        let data = Aes256::new_from_slice(data).map_err(|_| FAILED)?;
        let tweak = Aes256::new_from_slice(tweak).map_err(|_| FAILED)?;
        Ok(Self(Xts128::new(data, tweak)))
    }

    fn in_place(
        &self,
        way: Direction,
        first: u128,
        unit: usize,
        data: &mut [u8],
    ) -> Result<(), CryptoError> {
        match way {
            Direction::Encrypt => self.0.encrypt_area(data, unit, first, get_tweak_default),
            Direction::Decrypt => self.0.decrypt_area(data, unit, first, get_tweak_default),
        }
        Ok(())
    }

    fn copy(
        &self,
        way: Direction,
        first: u128,
        unit: usize,
        from: &[u8],
        to: &mut [u8],
    ) -> Result<(), CryptoError> {
        to.copy_from_slice(from);
        self.in_place(way, first, unit, to)
    }
}

/// AES-256-GCM of `aes-gcm`.
pub(crate) struct RustGcm(Aes256Gcm);

impl Gcm for RustGcm {
    fn new(key: &[u8; 32]) -> Result<Self, CryptoError> {
        Ok(Self(Aes256Gcm::new(key.into())))
    }

    fn seal(&self, nonce: &[u8; 12], aad: &[u8], data: &mut [u8]) -> Result<[u8; 16], CryptoError> {
        self.0
            .encrypt_inout_detached(nonce.into(), aad, InOutBuf::from(data))
            .map(|tag| tag.0)
            .map_err(|_| CryptoError::Provider("AES-GCM"))
    }

    fn open(
        &self,
        nonce: &[u8; 12],
        aad: &[u8],
        data: &mut [u8],
        tag: &[u8; 16],
    ) -> Result<(), CryptoError> {
        self.0
            .decrypt_inout_detached(nonce.into(), aad, InOutBuf::from(data), tag.into())
            .map_err(|_| CryptoError::Authentication)
    }
}

/// AES-256-SIV of `aes-siv`, whose cipher is stateful: each call makes one.
pub(crate) struct RustSiv(Zeroizing<[u8; 64]>);

impl RustSiv {
    fn cipher(&self) -> Aes256Siv {
        Aes256Siv::new((&*self.0).into())
    }
}

impl Siv for RustSiv {
    fn new(key: &[u8; 64]) -> Result<Self, CryptoError> {
        Ok(Self(Zeroizing::new(*key)))
    }

    fn seal(&self, headers: &[&[u8]], data: &mut [u8]) -> Result<[u8; 16], CryptoError> {
        self.cipher()
            .encrypt_inout_detached(headers, InOutBuf::from(data))
            .map(|iv| iv.0)
            .map_err(|_| CryptoError::Provider("AES-SIV"))
    }

    fn open(&self, headers: &[&[u8]], data: &mut [u8], iv: &[u8; 16]) -> Result<(), CryptoError> {
        self.cipher()
            .decrypt_inout_detached(headers, InOutBuf::from(data), iv.into())
            .map_err(|_| CryptoError::Authentication)
    }
}
