//! `EVP_CIPHER_CTX` of AWS-LC: the way to its XTS, which aws-lc-rs does not offer, and to a CTR that keeps the expanded
//! key in one place on the heap (aws-lc-rs moves it over the stack by value, where nobody zeroises it).
#![allow(unsafe_code, reason = "AWS-LC has AES-XTS only in its C interface")]

use std::ptr::{NonNull, null, null_mut};

use super::lc::{
    EVP_CIPHER, EVP_CIPHER_CTX, EVP_CIPHER_CTX_copy, EVP_CIPHER_CTX_free, EVP_CIPHER_CTX_new,
    EVP_Cipher, EVP_CipherInit_ex, EVP_aes_256_ctr, EVP_aes_256_xts,
};
use parking_lot::Mutex;

use crate::CryptoError;
use crate::provider::Direction;

const FAILED: CryptoError = CryptoError::Provider("an AES context");

/// How many idle contexts one direction of one key keeps. A call takes one for its duration, so this is the number
/// of threads that can work on one file without allocating; a context is about 1 KiB.
const IDLE_MAX: usize = 8;

/// Contexts of one key and direction. A context carries the IV of the unit it works on, so each call needs one for
/// itself; copying one is much cheaper than expanding the key again, and taking an idle one cheaper still.
pub(super) struct Pool {
    /// Never used for data, so that a shared borrow of it can be copied at any time.
    pristine: Context,
    idle: Mutex<Vec<Context>>,
}

impl Pool {
    /// # Errors
    /// [`CryptoError::Provider`] if the key has not the length of the cipher, or there is no memory.
    pub(super) fn new(cipher: Cipher, key: &[u8], way: Direction) -> Result<Self, CryptoError> {
        let pristine = Context::new(cipher, key, way)?;
        Ok(Self {
            pristine,
            idle: Mutex::new(Vec::new()),
        })
    }

    /// Lends a context.
    pub(super) fn with<R>(
        &self,
        work: impl FnOnce(&mut Context) -> Result<R, CryptoError>,
    ) -> Result<R, CryptoError> {
        let idle = self.idle.lock().pop();
        let mut context = match idle {
            Some(context) => context,
            None => self.pristine.duplicate()?,
        };
        let result = work(&mut context);
        let mut idle = self.idle.lock();
        if idle.len() < IDLE_MAX {
            idle.push(context);
        }
        result
    }
}

/// What a context computes. The counter of CTR has 128 bits, big-endian.
#[derive(Clone, Copy)]
pub(super) enum Cipher {
    Aes256Xts,
    Aes256Ctr,
    /// The examples of RFC 5297 use it.
    #[cfg(test)]
    Aes128Ctr,
}

impl Cipher {
    fn key_len(self) -> usize {
        match self {
            Self::Aes256Xts => 64,
            Self::Aes256Ctr => 32,
            #[cfg(test)]
            Self::Aes128Ctr => 16,
        }
    }

    fn description(self) -> *const EVP_CIPHER {
        // SAFETY: each takes nothing and gives a static.
        unsafe {
            match self {
                Self::Aes256Xts => EVP_aes_256_xts(),
                Self::Aes256Ctr => EVP_aes_256_ctr(),
                #[cfg(test)]
                Self::Aes128Ctr => super::lc::EVP_aes_128_ctr(),
            }
        }
    }
}

/// An owned `EVP_CIPHER_CTX` with its key set. AWS-LC zeroises it when it is freed.
pub(super) struct Context(NonNull<EVP_CIPHER_CTX>);

// SAFETY: a context is plain memory without ties to a thread.
unsafe impl Send for Context {}
// SAFETY: the only use of a shared borrow is `duplicate`, which reads.
unsafe impl Sync for Context {}

impl Context {
    /// Runs the cipher over `data` from a new IV.
    pub(super) fn in_place(&mut self, iv: &[u8; 16], data: &mut [u8]) -> Result<(), CryptoError> {
        let at = data.as_mut_ptr();
        // SAFETY: `at` is valid for reads and writes of the length; AWS-LC allows one buffer to be input and output.
        unsafe { self.run(iv, at.cast_const(), at, data.len()) }
    }

    /// Runs the cipher from `from` to `to`, which are of one length, from a new IV.
    pub(super) fn copy(
        &mut self,
        iv: &[u8; 16],
        from: &[u8],
        to: &mut [u8],
    ) -> Result<(), CryptoError> {
        let len = from.len().min(to.len());
        // SAFETY: `from` is valid for reads and `to` for writes of `len` bytes, and being a shared and a unique borrow
        // they do not overlap.
        unsafe { self.run(iv, from.as_ptr(), to.as_mut_ptr(), len) }
    }

    fn empty() -> Result<Self, CryptoError> {
        // SAFETY: takes nothing; gives null or an owned context, which `Drop` frees.
        NonNull::new(unsafe { EVP_CIPHER_CTX_new() })
            .map(Self)
            .ok_or(FAILED)
    }

    fn new(cipher: Cipher, key: &[u8], way: Direction) -> Result<Self, CryptoError> {
        if key.len() != cipher.key_len() {
            return Err(FAILED);
        }
        let context = Self::empty()?;
        let cipher = cipher.description();
        let encrypt = i32::from(way == Direction::Encrypt);
        // SAFETY: the context is live, the cipher is a static, and the key has the length that it reads.
        let done = unsafe {
            EVP_CipherInit_ex(
                context.0.as_ptr(),
                cipher,
                null_mut(),
                key.as_ptr(),
                null(),
                encrypt,
            )
        };
        if done == 1 { Ok(context) } else { Err(FAILED) }
    }

    fn duplicate(&self) -> Result<Self, CryptoError> {
        let copy = Self::empty()?;
        // SAFETY: both contexts are live and distinct; the source is only read.
        let done = unsafe { EVP_CIPHER_CTX_copy(copy.0.as_ptr(), self.0.as_ptr()) };
        if done == 1 { Ok(copy) } else { Err(FAILED) }
    }

    /// # Safety
    /// `from` must be valid for reads and `to` for writes of `len` bytes; they must be equal or not overlap.
    unsafe fn run(
        &mut self,
        iv: &[u8; 16],
        from: *const u8,
        to: *mut u8,
        len: usize,
    ) -> Result<(), CryptoError> {
        // SAFETY: the context is live and has its cipher and key; both ciphers read 16 bytes of IV; -1 keeps the
        // direction.
        let ready = unsafe {
            EVP_CipherInit_ex(self.0.as_ptr(), null(), null_mut(), null(), iv.as_ptr(), -1)
        };
        if ready != 1 {
            return Err(FAILED);
        }
        // SAFETY: the context is ready; the caller vouches for the buffers.
        let done = unsafe { EVP_Cipher(self.0.as_ptr(), to, from, len) };
        if done == 1 { Ok(()) } else { Err(FAILED) }
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        // SAFETY: the context is owned and not used again.
        unsafe { EVP_CIPHER_CTX_free(self.0.as_ptr()) };
    }
}
