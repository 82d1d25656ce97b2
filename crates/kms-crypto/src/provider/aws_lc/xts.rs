//! AES-256-XTS over `EVP_aes_256_xts`, which aws-lc-rs does not offer.
#![allow(unsafe_code, reason = "AWS-LC has AES-XTS only in its C interface")]

use std::ptr::{NonNull, null, null_mut};

use aws_lc_sys::{
    EVP_CIPHER_CTX, EVP_CIPHER_CTX_copy, EVP_CIPHER_CTX_free, EVP_CIPHER_CTX_new, EVP_Cipher,
    EVP_CipherInit_ex, EVP_aes_256_xts,
};
use parking_lot::Mutex;

use crate::CryptoError;
use crate::provider::{Direction, Xts};

const FAILED: CryptoError = CryptoError::Provider("AES-XTS");

/// How many idle contexts one direction of one key keeps. A call takes one for its duration, so this is the number
/// of threads that can work on one file without allocating; a context is about 1 KiB.
const IDLE_MAX: usize = 8;

/// Both directions of one key. AES has different round keys for each.
pub(crate) struct AwsLcXts {
    encrypt: Pool,
    decrypt: Pool,
}

impl Xts for AwsLcXts {
    fn new(key: &[u8; 64]) -> Result<Self, CryptoError> {
        Ok(Self {
            encrypt: Pool::new(Context::new(key, Direction::Encrypt)?),
            decrypt: Pool::new(Context::new(key, Direction::Decrypt)?),
        })
    }

    fn in_place(
        &self,
        way: Direction,
        first: u128,
        unit: usize,
        data: &mut [u8],
    ) -> Result<(), CryptoError> {
        self.pool(way).with(|context| {
            for (tweak, chunk) in (first..).zip(data.chunks_mut(unit)) {
                let at = chunk.as_mut_ptr();
                // SAFETY: `at` is valid for reads and writes of `chunk.len()` bytes; AWS-LC documents that input and
                // output may be the same buffer.
                unsafe { context.unit(tweak, at.cast_const(), at, chunk.len())? };
            }
            Ok(())
        })
    }

    fn copy(
        &self,
        way: Direction,
        first: u128,
        unit: usize,
        from: &[u8],
        to: &mut [u8],
    ) -> Result<(), CryptoError> {
        self.pool(way).with(|context| {
            let chunks = from.chunks(unit).zip(to.chunks_mut(unit));
            for (tweak, (from, to)) in (first..).zip(chunks) {
                let len = from.len().min(to.len());
                // SAFETY: `from` is valid for reads and `to` for writes of `len` bytes, and being a shared and a
                // unique borrow they do not overlap.
                unsafe { context.unit(tweak, from.as_ptr(), to.as_mut_ptr(), len)? };
            }
            Ok(())
        })
    }
}

impl AwsLcXts {
    fn pool(&self, way: Direction) -> &Pool {
        match way {
            Direction::Encrypt => &self.encrypt,
            Direction::Decrypt => &self.decrypt,
        }
    }
}

/// Contexts of one key and direction. A context carries the tweak of the unit it works on, so each call needs one for
/// itself; copying one is much cheaper than expanding the key again, and taking an idle one cheaper still.
struct Pool {
    /// Never used for data, so that a shared borrow of it can be copied at any time.
    pristine: Context,
    idle: Mutex<Vec<Context>>,
}

impl Pool {
    fn new(pristine: Context) -> Self {
        Self {
            pristine,
            idle: Mutex::new(Vec::new()),
        }
    }

    fn with<R>(
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

/// An owned `EVP_CIPHER_CTX` with its key set. AWS-LC zeroises it when it is freed.
struct Context(NonNull<EVP_CIPHER_CTX>);

// SAFETY: a context is plain memory without ties to a thread.
unsafe impl Send for Context {}
// SAFETY: the only use of a shared borrow is `duplicate`, which reads.
unsafe impl Sync for Context {}

impl Context {
    fn empty() -> Result<Self, CryptoError> {
        // SAFETY: takes nothing; gives null or an owned context, which `Drop` frees.
        NonNull::new(unsafe { EVP_CIPHER_CTX_new() })
            .map(Self)
            .ok_or(FAILED)
    }

    fn new(key: &[u8; 64], way: Direction) -> Result<Self, CryptoError> {
        let context = Self::empty()?;
        let encrypt = i32::from(way == Direction::Encrypt);
        // SAFETY: the context is live, the cipher is a static, and AES-256-XTS reads 64 bytes of key.
        let done = unsafe {
            EVP_CipherInit_ex(
                context.0.as_ptr(),
                EVP_aes_256_xts(),
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

    /// En- or decrypts one data unit.
    ///
    /// # Safety
    /// `from` must be valid for reads and `to` for writes of `len` bytes; they must be equal or not overlap.
    unsafe fn unit(
        &mut self,
        tweak: u128,
        from: *const u8,
        to: *mut u8,
        len: usize,
    ) -> Result<(), CryptoError> {
        let iv = tweak.to_le_bytes();
        // SAFETY: the context is live and has its cipher and key; AES-XTS reads 16 bytes of `iv`; -1 keeps the
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
