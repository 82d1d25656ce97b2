//! AES-SIV (RFC 5297, AEAD_AES_SIV_CMAC_512) for names: deterministic, authenticated, without a nonce.

use zeroize::Zeroizing;

use crate::provider::{Active, Provider, Siv};
use crate::{CryptoError, Key};

/// How many bytes a sealed text is longer than its plaintext: the synthetic IV in front.
pub const SIV_TAG_LEN: usize = 16;
/// The most strings of associated data that RFC 5297 allows.
const MAX_AAD: usize = 126;

/// An AES-256-SIV key, ready for use by any number of threads at once.
///
/// Equal plaintexts with equal associated data give equal results: that is what makes a name findable in its directory,
/// and all that an observer learns besides its length.
///
/// ```
/// use kms_crypto::{Key, SivKey};
///
/// # fn main() -> Result<(), kms_crypto::CryptoError> {
/// let key = SivKey::new(&Key::random()?)?;
/// let sealed = key.seal(&[b"name", b"directory 1"], b"secret-plans.txt")?;
/// assert_eq!(sealed, key.seal(&[b"name", b"directory 1"], b"secret-plans.txt")?);
/// assert_eq!(key.open(&[b"name", b"directory 1"], &sealed)?, b"secret-plans.txt");
/// assert!(key.open(&[b"name", b"directory 2"], &sealed).is_err());
/// # Ok(())
/// # }
/// ```
pub struct SivKey(<Active as Provider>::Siv);

impl SivKey {
    /// Expands a key: 32 bytes for the MAC, then 32 bytes for the encryption.
    ///
    /// # Errors
    /// [`CryptoError::Provider`] if the provider has no memory.
    pub fn new(key: &Key<64>) -> Result<Self, CryptoError> {
        Siv::new(key.expose()).map(Self)
    }

    /// Seals `plaintext`: synthetic IV (16) ‖ ciphertext. The strings of `aad` are authenticated one by one, so where
    /// one ends and the next begins matters.
    ///
    /// # Errors
    /// [`CryptoError::Length`] for more than 126 strings in `aad`.
    pub fn seal(&self, aad: &[&[u8]], plaintext: &[u8]) -> Result<Vec<u8>, CryptoError> {
        check(aad)?;
        let mut body = Zeroizing::new(plaintext.to_vec());
        let iv = self.0.seal(aad, &mut body)?;
        Ok([iv.as_slice(), &body].concat())
    }

    /// Opens what [`SivKey::seal`] made.
    ///
    /// # Errors
    /// [`CryptoError::Length`] if `sealed` is shorter than [`SIV_TAG_LEN`], [`CryptoError::Authentication`] if it was
    /// made with another key or `aad`, or was altered.
    pub fn open(&self, aad: &[&[u8]], sealed: &[u8]) -> Result<Vec<u8>, CryptoError> {
        check(aad)?;
        let (iv, body) = sealed.split_first_chunk().ok_or(CryptoError::Length {
            what: "text sealed with AES-SIV",
            got: sealed.len(),
        })?;
        let mut body = Zeroizing::new(body.to_vec());
        self.0.open(aad, &mut body, iv)?;
        Ok(std::mem::take(&mut *body))
    }
}

fn check(aad: &[&[u8]]) -> Result<(), CryptoError> {
    if aad.len() > MAX_AAD {
        return Err(CryptoError::Length {
            what: "list of associated data for AES-SIV",
            got: aad.len(),
        });
    }
    Ok(())
}
