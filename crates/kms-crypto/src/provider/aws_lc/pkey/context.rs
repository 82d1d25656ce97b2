//! The contexts that an operation with a key needs, freed whatever happens.

use std::ffi::c_int;
use std::ptr::{NonNull, null_mut};

use super::super::lc;
use super::refuse;
use crate::CryptoError;

const FAILED: CryptoError = CryptoError::Provider("a context of a key");

/// An owned `EVP_PKEY_CTX`.
pub(super) struct KeyContext(NonNull<lc::EVP_PKEY_CTX>);

impl KeyContext {
    /// For making a key of a kind.
    pub(super) fn of_kind(id: c_int) -> Result<Self, CryptoError> {
        // SAFETY: takes a number; gives null or an owned context.
        let context = unsafe { lc::EVP_PKEY_CTX_new_id(id, null_mut()) };
        NonNull::new(context)
            .map(Self)
            .ok_or_else(|| refuse(FAILED))
    }

    /// For using a key.
    ///
    /// # Safety
    /// The key must be live.
    pub(super) unsafe fn of_key(key: *mut lc::EVP_PKEY) -> Result<Self, CryptoError> {
        // SAFETY: the caller vouches for the key; gives null or an owned context.
        let context = unsafe { lc::EVP_PKEY_CTX_new(key, null_mut()) };
        NonNull::new(context)
            .map(Self)
            .ok_or_else(|| refuse(FAILED))
    }

    pub(super) fn as_ptr(&self) -> *mut lc::EVP_PKEY_CTX {
        self.0.as_ptr()
    }
}

impl Drop for KeyContext {
    fn drop(&mut self) {
        // SAFETY: the context is owned and not used again.
        unsafe { lc::EVP_PKEY_CTX_free(self.0.as_ptr()) };
    }
}

/// An owned `EVP_MD_CTX`, for signatures over whole messages.
pub(super) struct MessageContext(NonNull<lc::EVP_MD_CTX>);

impl MessageContext {
    pub(super) fn new() -> Result<Self, CryptoError> {
        // SAFETY: takes nothing; gives null or an owned context.
        let context = unsafe { lc::EVP_MD_CTX_new() };
        NonNull::new(context)
            .map(Self)
            .ok_or_else(|| refuse(FAILED))
    }

    pub(super) fn as_ptr(&self) -> *mut lc::EVP_MD_CTX {
        self.0.as_ptr()
    }
}

impl Drop for MessageContext {
    fn drop(&mut self) {
        // SAFETY: the context is owned and not used again.
        unsafe { lc::EVP_MD_CTX_free(self.0.as_ptr()) };
    }
}
