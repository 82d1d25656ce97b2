//! The seam between what this crate promises and the library that computes it.
//!
//! Lengths are checked above this line: a provider may assume what each function's comment says.

#[cfg(feature = "aws-lc")]
#[cfg_attr(
    all(feature = "prefer-rustcrypto", not(test)),
    allow(
        dead_code,
        reason = "beside RustCrypto it is only the oracle of the tests"
    )
)]
pub(crate) mod aws_lc;
#[cfg(feature = "rustcrypto")]
#[cfg_attr(
    all(feature = "aws-lc", not(feature = "prefer-rustcrypto"), not(test)),
    allow(dead_code, reason = "beside AWS-LC it is only the oracle of the tests")
)]
pub(crate) mod rustcrypto;

use crate::CryptoError;
use crate::hmac::HmacHash;

/// The provider that does the work. `rustcrypto` alone must not change behaviour, because another crate of the build may
/// have asked for it; `prefer-rustcrypto` is the wish to.
#[cfg(all(feature = "aws-lc", not(feature = "prefer-rustcrypto")))]
pub(crate) type Active = aws_lc::AwsLc;
#[cfg(all(
    feature = "rustcrypto",
    any(feature = "prefer-rustcrypto", not(feature = "aws-lc"))
))]
pub(crate) type Active = rustcrypto::RustCrypto;

/// A full set of primitives.
pub(crate) trait Provider {
    type Xts: Xts;
    type Gcm: Gcm;
    type Siv: Siv;

    fn fill_random(out: &mut [u8]) -> Result<(), CryptoError>;

    fn sha256(parts: &[&[u8]]) -> [u8; 32];

    fn hmac_sha256(key: &[u8], parts: &[&[u8]]) -> [u8; 32];

    fn hmac(hash: HmacHash, key: &[u8], message: &[u8]) -> Vec<u8>;

    /// RFC 5869 extract: the pseudo-random key for `hkdf_expand`.
    fn hkdf_extract(salt: &[u8], ikm: &[&[u8]], prk: &mut [u8; 32]) -> Result<(), CryptoError>;

    /// RFC 5869 expand, `out` at most 255 * 32 bytes.
    fn hkdf_expand(prk: &[u8; 32], info: &[&[u8]], out: &mut [u8]) -> Result<(), CryptoError>;

    fn x25519_public(private: &[u8; 32]) -> Result<[u8; 32], CryptoError>;

    /// RFC 7748 shared secret; an all-zero result (peer of small order) is [`CryptoError::PublicKey`].
    fn x25519(private: &[u8; 32], peer: &[u8; 32], out: &mut [u8; 32]) -> Result<(), CryptoError>;

    fn ed25519_public(seed: &[u8; 32]) -> Result<[u8; 32], CryptoError>;

    fn ed25519_sign(seed: &[u8; 32], message: &[u8]) -> Result<[u8; 64], CryptoError>;

    fn ed25519_verify(
        public: &[u8; 32],
        message: &[u8],
        signature: &[u8; 64],
    ) -> Result<(), CryptoError>;

    /// ECDSA over SHA-256: a point as x and y, a signature as r and s.
    fn p256_verify(
        public: &[u8; 64],
        message: &[u8],
        signature: &[u8; 64],
    ) -> Result<(), CryptoError>;
}

/// Which way a cipher runs.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Direction {
    Encrypt,
    Decrypt,
}

/// AES-256-XTS over a run of data units. Unit `i` of a call has the tweak `first + i` as 16 bytes little-endian.
/// Data is never empty, and no unit, the last included, is shorter than 16 bytes.
pub(crate) trait Xts: Sized + Send + Sync {
    /// The halves of `key` differ.
    fn new(key: &[u8; 64]) -> Result<Self, CryptoError>;

    fn in_place(
        &self,
        way: Direction,
        first: u128,
        unit: usize,
        data: &mut [u8],
    ) -> Result<(), CryptoError>;

    /// `from` and `to` have one length.
    fn copy(
        &self,
        way: Direction,
        first: u128,
        unit: usize,
        from: &[u8],
        to: &mut [u8],
    ) -> Result<(), CryptoError>;
}

/// AES-256-GCM with 96-bit nonces and 128-bit tags.
pub(crate) trait Gcm: Sized + Send + Sync {
    fn new(key: &[u8; 32]) -> Result<Self, CryptoError>;

    fn seal(&self, nonce: &[u8; 12], aad: &[u8], data: &mut [u8]) -> Result<[u8; 16], CryptoError>;

    fn open(
        &self,
        nonce: &[u8; 12],
        aad: &[u8],
        data: &mut [u8],
        tag: &[u8; 16],
    ) -> Result<(), CryptoError>;
}

/// RFC 5297 with AES-256 (64-byte key), at most 126 headers.
pub(crate) trait Siv: Sized + Send + Sync {
    fn new(key: &[u8; 64]) -> Result<Self, CryptoError>;

    /// Encrypts `data` in place and gives the synthetic IV.
    fn seal(&self, headers: &[&[u8]], data: &mut [u8]) -> Result<[u8; 16], CryptoError>;

    /// Decrypts `data` in place; on a wrong `iv` the content of `data` is undefined.
    fn open(&self, headers: &[&[u8]], data: &mut [u8], iv: &[u8; 16]) -> Result<(), CryptoError>;
}
