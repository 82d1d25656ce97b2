//! SHA-256, HMAC (RFC 2104) and HKDF (RFC 5869) with it, and comparison in constant time.

use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use crate::provider::{Active, Provider};
use crate::{CryptoError, Key};

/// The longest output of HKDF-SHA256.
const HKDF_MAX: usize = 255 * 32;

/// Fills `out` with HKDF-SHA256. `ikm` and `info` are concatenated, so parts that vary in length must be framed by
/// the caller.
///
/// # Errors
/// [`CryptoError::Length`] if `out` is longer than 8160 bytes.
pub fn hkdf_sha256(
    salt: &[u8],
    ikm: &[&[u8]],
    info: &[&[u8]],
    out: &mut [u8],
) -> Result<(), CryptoError> {
    hkdf_with::<Active>(salt, ikm, info, out)
}

/// [`hkdf_sha256`] into a new key in locked memory.
///
/// ```
/// use kms_crypto::{Key, hkdf_key};
///
/// # fn main() -> Result<(), kms_crypto::CryptoError> {
/// let root = Key::<32>::random()?;
/// let content: Key<64> = hkdf_key(b"", &[root.expose()], &[b"file content"])?;
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// [`CryptoError::Memory`] if no memory for the key can be mapped.
pub fn hkdf_key<const N: usize>(
    salt: &[u8],
    ikm: &[&[u8]],
    info: &[&[u8]],
) -> Result<Key<N>, CryptoError> {
    Key::try_init(|out| hkdf_sha256(salt, ikm, info, out))
}

/// HMAC-SHA256 over the concatenation of `parts`.
pub fn hmac_sha256(key: &[u8], parts: &[&[u8]]) -> [u8; 32] {
    Active::hmac_sha256(key, parts)
}

/// SHA-256 over the concatenation of `parts`.
pub fn sha256(parts: &[&[u8]]) -> [u8; 32] {
    Active::sha256(parts)
}

/// Whether `a` and `b` are equal, in a time that depends only on their lengths.
pub fn constant_time_eq(a: &[u8], b: &[u8]) -> bool {
    a.ct_eq(b).into()
}

pub(crate) fn hkdf_with<P: Provider>(
    salt: &[u8],
    ikm: &[&[u8]],
    info: &[&[u8]],
    out: &mut [u8],
) -> Result<(), CryptoError> {
    if out.len() > HKDF_MAX {
        return Err(CryptoError::Length {
            what: "output of HKDF-SHA256",
            got: out.len(),
        });
    }
    let mut prk = Zeroizing::new([0; 32]);
    P::hkdf_extract(salt, ikm, &mut prk)?;
    P::hkdf_expand(&prk, info, out)
}
