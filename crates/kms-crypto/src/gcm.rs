//! AES-256-GCM (NIST SP 800-38D) with 96-bit nonces and 128-bit tags.

use crate::CryptoError;
use crate::provider::{Active, Gcm, Provider};

/// Bytes in a nonce.
pub const GCM_NONCE_LEN: usize = 12;
/// Bytes in an authentication tag.
pub const GCM_TAG_LEN: usize = 16;

/// An AES-256-GCM key, ready for use by any number of threads at once.
///
/// It is the caller's duty never to seal twice with one key and nonce: that gives away both plaintexts' difference and
/// lets anybody forge. Random nonces are good for 2^32 messages under one key (SP 800-38D section 8.3).
///
/// ```
/// use kms_crypto::{GcmKey, Key, random_array};
///
/// # fn main() -> Result<(), kms_crypto::CryptoError> {
/// let key = GcmKey::new(Key::<32>::random()?.expose())?;
/// let nonce = random_array()?;
/// let mut data = *b"attack at dawn";
/// let tag = key.seal_in_place(&nonce, b"unit 7", &mut data)?;
/// assert!(key.open_in_place(&nonce, b"unit 8", &mut data.clone(), &tag).is_err());
/// key.open_in_place(&nonce, b"unit 7", &mut data, &tag)?;
/// assert_eq!(&data, b"attack at dawn");
/// # Ok(())
/// # }
/// ```
pub struct GcmKey(<Active as Provider>::Gcm);

impl GcmKey {
    /// Expands a key.
    ///
    /// # Errors
    /// [`CryptoError::Provider`] if the provider has no memory.
    pub fn new(key: &[u8; 32]) -> Result<Self, CryptoError> {
        Gcm::new(key).map(Self)
    }

    /// Encrypts `data` in place and gives the tag over it and `aad`.
    ///
    /// # Errors
    /// [`CryptoError::Provider`] if `data` is longer than the 64 GiB that GCM allows.
    pub fn seal_in_place(
        &self,
        nonce: &[u8; GCM_NONCE_LEN],
        aad: &[u8],
        data: &mut [u8],
    ) -> Result<[u8; GCM_TAG_LEN], CryptoError> {
        self.0.seal(nonce, aad, data)
    }

    /// Decrypts `data` in place if `tag` is right.
    ///
    /// # Errors
    /// [`CryptoError::Authentication`]; the content of `data` is undefined then and must not be used.
    pub fn open_in_place(
        &self,
        nonce: &[u8; GCM_NONCE_LEN],
        aad: &[u8],
        data: &mut [u8],
        tag: &[u8; GCM_TAG_LEN],
    ) -> Result<(), CryptoError> {
        self.0.open(nonce, aad, data, tag)
    }
}
