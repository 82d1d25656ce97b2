//! Signatures.
#![allow(
    unsafe_code,
    reason = "AWS-LC signs digests of every kind only in its C interface"
)]

use std::ptr::{NonNull, null_mut};

use zeroize::Zeroizing;

use super::super::lc;
use super::context::MessageContext;
use super::{Md, Pkey, authentic, refuse, sized};
use crate::CryptoError;

/// RSA's way to encode what is signed.
#[derive(Clone, Copy)]
pub(crate) enum Padding {
    Pkcs1,
    /// With a salt as long as the digest and MGF1 over the same digest.
    Pss,
}

/// How to sign or verify: the padding is for RSA alone, the digest for RSA and ECDSA.
#[derive(Clone, Copy)]
pub(crate) struct Signing {
    pub(crate) padding: Option<Padding>,
    pub(crate) md: Option<Md>,
}

impl Pkey {
    /// Signs a message.
    pub(crate) fn sign(&self, how: Signing, message: &[u8]) -> Result<Vec<u8>, CryptoError> {
        let context = MessageContext::new()?;
        let mut inner = null_mut();
        // SAFETY: context and key are live, the digest is a static or null; `inner` becomes a part of the context.
        let ready = unsafe {
            let (at, md) = (context.as_ptr(), description(how.md));
            lc::EVP_DigestSignInit(at, &raw mut inner, md, null_mut(), self.0.as_ptr()) == 1
                && pad(inner, how.padding)
        };
        let failed = CryptoError::Provider("signing");
        if !ready {
            return Err(refuse(failed));
        }
        // SAFETY: the context is ready; the buffer has the length that the first call gives.
        let mut signature = sized(failed, |out, len| unsafe {
            lc::EVP_DigestSign(context.as_ptr(), out, len, message.as_ptr(), message.len())
        })?;
        Ok(std::mem::take(&mut *signature))
    }

    /// Signs what was hashed already; for ML-DSA, mu.
    pub(crate) fn sign_digest(&self, how: Signing, digest: &[u8]) -> Result<Vec<u8>, CryptoError> {
        let context = self.context()?;
        // SAFETY: the context is live.
        let ready = unsafe {
            lc::EVP_PKEY_sign_init(context.as_ptr()) == 1 && prepare(context.as_ptr(), how)
        };
        let failed = CryptoError::Provider("signing");
        if !ready {
            return Err(refuse(failed));
        }
        // SAFETY: the context is ready; the buffer has the length that the first call gives.
        let mut signature = sized(failed, |out, len| unsafe {
            lc::EVP_PKEY_sign(context.as_ptr(), out, len, digest.as_ptr(), digest.len())
        })?;
        Ok(std::mem::take(&mut *signature))
    }

    /// Whether `signature` is this key's over a message.
    pub(crate) fn verify(
        &self,
        how: Signing,
        message: &[u8],
        signature: &[u8],
    ) -> Result<(), CryptoError> {
        let context = MessageContext::new()?;
        let mut inner = null_mut();
        // SAFETY: context and key are live, the digest is a static or null; `inner` becomes a part of the context.
        let ready = unsafe {
            let (at, md) = (context.as_ptr(), description(how.md));
            lc::EVP_DigestVerifyInit(at, &raw mut inner, md, null_mut(), self.0.as_ptr()) == 1
                && pad(inner, how.padding)
        };
        if !ready {
            return Err(refuse(CryptoError::Provider("verifying a signature")));
        }
        // SAFETY: the context is ready, both buffers are valid for their lengths.
        authentic(unsafe {
            lc::EVP_DigestVerify(
                context.as_ptr(),
                signature.as_ptr(),
                signature.len(),
                message.as_ptr(),
                message.len(),
            )
        })
    }

    /// Whether `signature` is this key's over what was hashed already; for ML-DSA, mu.
    pub(crate) fn verify_digest(
        &self,
        how: Signing,
        digest: &[u8],
        signature: &[u8],
    ) -> Result<(), CryptoError> {
        let context = self.context()?;
        // SAFETY: the context is live.
        let ready = unsafe {
            lc::EVP_PKEY_verify_init(context.as_ptr()) == 1 && prepare(context.as_ptr(), how)
        };
        if !ready {
            return Err(refuse(CryptoError::Provider("verifying a signature")));
        }
        // SAFETY: the context is ready, both buffers are valid for their lengths.
        authentic(unsafe {
            lc::EVP_PKEY_verify(
                context.as_ptr(),
                signature.as_ptr(),
                signature.len(),
                digest.as_ptr(),
                digest.len(),
            )
        })
    }

    /// Ed25519ph (RFC 8032) without a context, over a SHA-512 digest.
    pub(crate) fn sign_ed25519ph(&self, digest: &[u8; 64]) -> Result<Vec<u8>, CryptoError> {
        // AWS-LC's form of the private key: the seed, then the public key.
        let (seed, public) = (self.raw_private()?, self.raw_public()?);
        let mut private = Zeroizing::new([0; 64]);
        if seed.len() != 32 || public.len() != 32 {
            return Err(CryptoError::Provider("Ed25519ph"));
        }
        for (to, from) in private.iter_mut().zip(seed.iter().chain(&public)) {
            *to = *from;
        }
        let mut signature = vec![0; 64];
        // SAFETY: 64 bytes are written; digest and private key have 64 bytes, the context none.
        let done = unsafe {
            lc::ED25519ph_sign_digest(
                signature.as_mut_ptr(),
                digest.as_ptr(),
                private.as_ptr(),
                NonNull::dangling().as_ptr(),
                0,
            )
        };
        if done == 1 {
            Ok(signature)
        } else {
            Err(refuse(CryptoError::Provider("Ed25519ph")))
        }
    }

    /// Whether `signature` is this key's Ed25519ph signature over a SHA-512 digest.
    pub(crate) fn verify_ed25519ph(
        &self,
        digest: &[u8; 64],
        signature: &[u8],
    ) -> Result<(), CryptoError> {
        let public = self.raw_public()?;
        if signature.len() != 64 || public.len() != 32 {
            return Err(CryptoError::Authentication);
        }
        // SAFETY: the digest and the signature have 64 bytes, the public key 32, the context none.
        authentic(unsafe {
            lc::ED25519ph_verify_digest(
                digest.as_ptr(),
                signature.as_ptr(),
                public.as_ptr(),
                NonNull::dangling().as_ptr(),
                0,
            )
        })
    }
}

fn description(md: Option<Md>) -> *const lc::EVP_MD {
    md.map_or(std::ptr::null(), Md::description)
}

/// # Safety
/// The context must be live and ready to sign or to verify.
unsafe fn prepare(context: *mut lc::EVP_PKEY_CTX, how: Signing) -> bool {
    // SAFETY: the caller vouches for the context; the digest is a static.
    unsafe {
        pad(context, how.padding)
            && how
                .md
                .is_none_or(|md| lc::EVP_PKEY_CTX_set_signature_md(context, md.description()) == 1)
    }
}

/// # Safety
/// The context must be live and ready to sign or to verify, with RSA if there is a padding.
unsafe fn pad(context: *mut lc::EVP_PKEY_CTX, padding: Option<Padding>) -> bool {
    // SAFETY: the caller vouches for the context.
    unsafe {
        match padding {
            None => true,
            Some(Padding::Pkcs1) => {
                lc::EVP_PKEY_CTX_set_rsa_padding(context, lc::RSA_PKCS1_PADDING) == 1
            }
            Some(Padding::Pss) => {
                lc::EVP_PKEY_CTX_set_rsa_padding(context, lc::RSA_PKCS1_PSS_PADDING) == 1
                    && lc::EVP_PKEY_CTX_set_rsa_pss_saltlen(context, lc::RSA_PSS_SALTLEN_DIGEST)
                        == 1
            }
        }
    }
}
