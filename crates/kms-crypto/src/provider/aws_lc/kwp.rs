//! RFC 5649 over AWS-LC. Lengths are checked above.

use aws_lc_rs::key_wrap::{AES_128, AES_256, AesKek, KeyWrapPadded};

use crate::CryptoError;

/// Gives the length of what it wrote.
pub(crate) fn wrap(kek: &[u8], secret: &[u8], out: &mut [u8]) -> Result<usize, CryptoError> {
    let written = kek_of(kek)?
        .wrap_with_padding(secret, out)
        .map_err(|_| CryptoError::Provider("AES key wrap"))?;
    Ok(written.len())
}

/// Gives the length of what it wrote. `out` is as long as `wrapped`.
pub(crate) fn unwrap(kek: &[u8], wrapped: &[u8], out: &mut [u8]) -> Result<usize, CryptoError> {
    let written = kek_of(kek)?
        .unwrap_with_padding(wrapped, out)
        .map_err(|_| CryptoError::Authentication)?;
    Ok(written.len())
}

fn kek_of(kek: &[u8]) -> Result<AesKek, CryptoError> {
    let cipher = if kek.len() == 16 { &AES_128 } else { &AES_256 };
    AesKek::new(cipher, kek).map_err(|_| CryptoError::Provider("AES key wrap"))
}
