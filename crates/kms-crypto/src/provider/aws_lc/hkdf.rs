//! HKDF-SHA256 (RFC 5869) over AWS-LC's HMAC, with every intermediate value in one place, zeroised.
//!
//! aws-lc-rs gives HMAC results by value, and what is derived here are keys: copies on the stack would stay there.
#![allow(
    unsafe_code,
    reason = "only AWS-LC's C interface writes a MAC to where it shall be"
)]

use std::ptr::{NonNull, null, null_mut};

use super::lc::{
    EVP_sha256, HMAC_CTX, HMAC_CTX_free, HMAC_CTX_new, HMAC_Final, HMAC_Init_ex, HMAC_Update,
};
use zeroize::Zeroizing;

use crate::CryptoError;

const FAILED: CryptoError = CryptoError::Provider("HKDF");

pub(super) fn extract(salt: &[u8], ikm: &[&[u8]], prk: &mut [u8; 32]) -> Result<(), CryptoError> {
    let mut mac = Hmac::new(salt)?;
    for part in ikm {
        mac.update(part)?;
    }
    mac.finish(prk)
}

pub(super) fn expand(prk: &[u8; 32], info: &[&[u8]], out: &mut [u8]) -> Result<(), CryptoError> {
    let mut mac = Hmac::new(prk)?;
    let mut block = Zeroizing::new([0; 32]);
    for (counter, chunk) in (1_u8..=255).zip(out.chunks_mut(32)) {
        if counter > 1 {
            mac.restart()?;
            mac.update(block.as_slice())?;
        }
        for part in info {
            mac.update(part)?;
        }
        mac.update(&[counter])?;
        mac.finish(&mut block)?;
        for (to, from) in chunk.iter_mut().zip(block.iter()) {
            *to = *from;
        }
    }
    Ok(())
}

/// HMAC-SHA256 with its key set. AWS-LC zeroises it when it is freed.
struct Hmac(NonNull<HMAC_CTX>);

impl Hmac {
    fn new(key: &[u8]) -> Result<Self, CryptoError> {
        // SAFETY: takes nothing; gives null or an owned context, which `Drop` frees.
        let mac = NonNull::new(unsafe { HMAC_CTX_new() })
            .map(Self)
            .ok_or(FAILED)?;
        // SAFETY: the context is live, the key is valid for its length (and not null when empty), the digest a static.
        check(unsafe {
            HMAC_Init_ex(
                mac.0.as_ptr(),
                key.as_ptr().cast(),
                key.len(),
                EVP_sha256(),
                null_mut(),
            )
        })?;
        Ok(mac)
    }

    fn update(&mut self, data: &[u8]) -> Result<(), CryptoError> {
        // SAFETY: the context is live and `data` valid for its length.
        check(unsafe { HMAC_Update(self.0.as_ptr(), data.as_ptr(), data.len()) })
    }

    fn finish(&mut self, out: &mut [u8; 32]) -> Result<(), CryptoError> {
        // SAFETY: the context is live; HMAC-SHA256 writes 32 bytes; the length is not asked for.
        check(unsafe { HMAC_Final(self.0.as_ptr(), out.as_mut_ptr(), null_mut()) })
    }

    /// Begins another message under the same key.
    fn restart(&mut self) -> Result<(), CryptoError> {
        // SAFETY: the context is live and has key and digest, which nulls keep.
        check(unsafe { HMAC_Init_ex(self.0.as_ptr(), null(), 0, null(), null_mut()) })
    }
}

impl Drop for Hmac {
    fn drop(&mut self) {
        // SAFETY: the context is owned and not used again.
        unsafe { HMAC_CTX_free(self.0.as_ptr()) };
    }
}

fn check(done: i32) -> Result<(), CryptoError> {
    if done == 1 { Ok(()) } else { Err(FAILED) }
}
