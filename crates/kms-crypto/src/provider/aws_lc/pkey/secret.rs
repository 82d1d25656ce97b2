//! Encryption, agreement on a secret, and its encapsulation.
#![allow(
    unsafe_code,
    reason = "AWS-LC keeps these together only in its C interface"
)]

use std::ptr::null_mut;

use zeroize::Zeroizing;

use super::super::lc;
use super::{Md, Pkey, refuse, sized};
use crate::CryptoError;
use crate::secret::SecretBytes;

impl Pkey {
    /// RSAES-OAEP with an empty label.
    pub(crate) fn encrypt_oaep(&self, md: Md, plaintext: &[u8]) -> Result<Vec<u8>, CryptoError> {
        let context = self.context()?;
        // SAFETY: the context is live.
        let ready = unsafe {
            lc::EVP_PKEY_encrypt_init(context.as_ptr()) == 1 && oaep(context.as_ptr(), md)
        };
        let failed = CryptoError::Provider("RSAES-OAEP");
        if !ready {
            return Err(refuse(failed));
        }
        // SAFETY: the context is ready; the buffer has the length that the first call gives.
        let mut ciphertext = sized(failed, |out, len| unsafe {
            lc::EVP_PKEY_encrypt(
                context.as_ptr(),
                out,
                len,
                plaintext.as_ptr(),
                plaintext.len(),
            )
        })?;
        Ok(std::mem::take(&mut *ciphertext))
    }

    /// RSAES-OAEP with an empty label; [`CryptoError::Authentication`] for every ciphertext that does not decrypt.
    pub(crate) fn decrypt_oaep(
        &self,
        md: Md,
        ciphertext: &[u8],
    ) -> Result<SecretBytes, CryptoError> {
        let context = self.context()?;
        // SAFETY: the context is live.
        let ready = unsafe {
            lc::EVP_PKEY_decrypt_init(context.as_ptr()) == 1 && oaep(context.as_ptr(), md)
        };
        if !ready {
            return Err(refuse(CryptoError::Provider("RSAES-OAEP")));
        }
        // SAFETY: the context is ready; the buffer has the length that the first call gives.
        let mut plaintext = sized(CryptoError::Authentication, |out, len| unsafe {
            let (from, count) = (ciphertext.as_ptr(), ciphertext.len());
            lc::EVP_PKEY_decrypt(context.as_ptr(), out, len, from, count)
        })?;
        Ok(SecretBytes::from(std::mem::take(&mut *plaintext)))
    }

    /// ECDH: the x coordinate of the shared point. The peer's key is on the same curve, or it is refused.
    pub(crate) fn agree(&self, peer: &Self) -> Result<SecretBytes, CryptoError> {
        let context = self.context()?;
        // SAFETY: context and peer are live; the context takes its own reference to the peer.
        let ready = unsafe {
            lc::EVP_PKEY_derive_init(context.as_ptr()) == 1
                && lc::EVP_PKEY_derive_set_peer(context.as_ptr(), peer.0.as_ptr()) == 1
        };
        if !ready {
            return Err(refuse(CryptoError::PublicKey));
        }
        // SAFETY: the context is ready; the buffer has the length that the first call gives.
        let mut secret = sized(CryptoError::PublicKey, |out, len| unsafe {
            lc::EVP_PKEY_derive(context.as_ptr(), out, len)
        })?;
        Ok(SecretBytes::from(std::mem::take(&mut *secret)))
    }

    /// ML-KEM: a new secret, and its ciphertext for the holder of the private key.
    pub(crate) fn encapsulate(&self) -> Result<(SecretBytes, Vec<u8>), CryptoError> {
        let failed = CryptoError::PublicKey;
        let context = self.context()?;
        let (mut ciphertext_len, mut secret_len) = (0, 0);
        // SAFETY: the context is live; with null buffers only the lengths are written.
        let asked = unsafe {
            lc::EVP_PKEY_encapsulate(
                context.as_ptr(),
                null_mut(),
                &raw mut ciphertext_len,
                null_mut(),
                &raw mut secret_len,
            )
        };
        if asked != 1 {
            return Err(refuse(failed));
        }
        let mut ciphertext = vec![0; ciphertext_len];
        let mut secret = Zeroizing::new(vec![0; secret_len]);
        // SAFETY: both buffers have the lengths that were asked for.
        let done = unsafe {
            lc::EVP_PKEY_encapsulate(
                context.as_ptr(),
                ciphertext.as_mut_ptr(),
                &raw mut ciphertext_len,
                secret.as_mut_ptr(),
                &raw mut secret_len,
            )
        };
        if done != 1 || ciphertext_len != ciphertext.len() || secret_len != secret.len() {
            return Err(refuse(failed));
        }
        Ok((SecretBytes::from(std::mem::take(&mut *secret)), ciphertext))
    }

    /// ML-KEM: the secret of a ciphertext. One that was not made with this key gives another secret, not an error.
    pub(crate) fn decapsulate(&self, ciphertext: &[u8]) -> Result<SecretBytes, CryptoError> {
        let context = self.context()?;
        let failed = CryptoError::Provider("ML-KEM");
        // SAFETY: the context is live; the buffer has the length that the first call gives.
        let mut secret = sized(failed, |out, len| unsafe {
            let (from, count) = (ciphertext.as_ptr(), ciphertext.len());
            lc::EVP_PKEY_decapsulate(context.as_ptr(), out, len, from, count)
        })?;
        Ok(SecretBytes::from(std::mem::take(&mut *secret)))
    }
}

/// # Safety
/// The context must be live and ready to encrypt or to decrypt, with RSA.
unsafe fn oaep(context: *mut lc::EVP_PKEY_CTX, md: Md) -> bool {
    // SAFETY: the caller vouches for the context; the digests are statics.
    unsafe {
        lc::EVP_PKEY_CTX_set_rsa_padding(context, lc::RSA_PKCS1_OAEP_PADDING) == 1
            && lc::EVP_PKEY_CTX_set_rsa_oaep_md(context, md.description()) == 1
            && lc::EVP_PKEY_CTX_set_rsa_mgf1_md(context, md.description()) == 1
    }
}
