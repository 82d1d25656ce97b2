//! HMAC (RFC 2104, FIPS 198-1) with any digest of SHA-2, over keys of any length.

use crate::constant_time_eq;
use crate::provider::{Active, Provider};

/// The digest under an HMAC.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum HmacHash {
    /// SHA-224.
    Sha224,
    /// SHA-256.
    Sha256,
    /// SHA-384.
    Sha384,
    /// SHA-512.
    Sha512,
}

impl HmacHash {
    /// Bytes of a MAC, which is also the least length of a key (RFC 2104, section 3).
    pub const fn output_len(self) -> usize {
        match self {
            Self::Sha224 => 28,
            Self::Sha256 => 32,
            Self::Sha384 => 48,
            Self::Sha512 => 64,
        }
    }

    /// Bytes of a block of the digest: a longer key is hashed before use.
    pub const fn block_len(self) -> usize {
        match self {
            Self::Sha224 | Self::Sha256 => 64,
            Self::Sha384 | Self::Sha512 => 128,
        }
    }
}

/// The whole MAC of a message.
///
/// ```
/// use kms_crypto::hmac::{HmacHash, mac, verify};
///
/// let tag = mac(HmacHash::Sha384, &[7; 48], b"message");
/// assert!(verify(HmacHash::Sha384, &[7; 48], b"message", &tag));
/// assert!(!verify(HmacHash::Sha384, &[7; 48], b"massage", &tag));
/// ```
pub fn mac(hash: HmacHash, key: &[u8], message: &[u8]) -> Vec<u8> {
    Active::hmac(hash, key, message)
}

/// Whether `tag` is the whole MAC of a message, compared in constant time.
pub fn verify(hash: HmacHash, key: &[u8], message: &[u8], tag: &[u8]) -> bool {
    constant_time_eq(&mac(hash, key, message), tag)
}
