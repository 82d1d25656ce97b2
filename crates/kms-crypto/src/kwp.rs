//! AES key wrap with padding (RFC 5649, KWP of SP 800-38F): secrets of any length under an AES key, without a nonce.
//! This is how key material is carried that is too long for RSA, not how this project keeps keys: see
//! [`wrap_key`](crate::wrap_key) for that.

use zeroize::Zeroizing;

use crate::provider::aws_lc::kwp;
use crate::{CryptoError, SecretBytes};

/// The longest secret: far above any key, far below what RFC 5649 allows.
const SECRET_MAX: usize = 64 * 1024;

/// Wraps a secret of 1 to 65,536 bytes under a `kek` of 16 or 32 bytes.
///
/// ```
/// use kms_crypto::{unwrap_kwp, wrap_kwp};
///
/// # fn main() -> Result<(), kms_crypto::CryptoError> {
/// let wrapped = wrap_kwp(&[7; 32], b"a private key")?;
/// assert_eq!(unwrap_kwp(&[7; 32], &wrapped)?.expose(), b"a private key");
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// [`CryptoError::Length`] if key or secret have a wrong length.
pub fn wrap_kwp(kek: &[u8], secret: &[u8]) -> Result<Vec<u8>, CryptoError> {
    must_be_kek(kek)?;
    if !(1..=SECRET_MAX).contains(&secret.len()) {
        return Err(CryptoError::Length {
            what: "secret to wrap",
            got: secret.len(),
        });
    }
    // Whole blocks of 8 bytes, and one in front.
    let mut wrapped = vec![0; secret.len().next_multiple_of(8) + 8];
    let len = kwp::wrap(kek, secret, &mut wrapped)?;
    wrapped.truncate(len);
    Ok(wrapped)
}

/// Opens what [`wrap_kwp`], or another implementation, made.
///
/// # Errors
/// [`CryptoError::Length`] if the key or `wrapped` cannot have their lengths; [`CryptoError::Authentication`] if it was
/// made with another key, or was altered.
pub fn unwrap_kwp(kek: &[u8], wrapped: &[u8]) -> Result<SecretBytes, CryptoError> {
    must_be_kek(kek)?;
    if !(16..=SECRET_MAX + 8).contains(&wrapped.len()) || !wrapped.len().is_multiple_of(8) {
        return Err(CryptoError::Length {
            what: "wrapped secret",
            got: wrapped.len(),
        });
    }
    let mut secret = Zeroizing::new(vec![0; wrapped.len()]);
    let len = kwp::unwrap(kek, wrapped, &mut secret)?;
    secret.truncate(len);
    Ok(SecretBytes::from(std::mem::take(&mut *secret)))
}

fn must_be_kek(kek: &[u8]) -> Result<(), CryptoError> {
    match kek.len() {
        16 | 32 => Ok(()),
        got => Err(CryptoError::Length {
            what: "AES key to wrap with",
            got,
        }),
    }
}
