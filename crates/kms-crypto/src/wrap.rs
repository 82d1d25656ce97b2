//! Keys under keys.

use zeroize::Zeroizing;

use crate::gcm::{GCM_NONCE_LEN, GCM_TAG_LEN};
use crate::provider::{Active, Gcm, Provider};
use crate::{CryptoError, Key, SecretBytes};

/// How many bytes a wrapped key is longer than the key.
pub const WRAP_OVERHEAD: usize = GCM_NONCE_LEN + GCM_TAG_LEN;

/// Wraps `key` under `kek` with AES-256-GCM and a random nonce: nonce (12) ‖ ciphertext (`N`) ‖ tag (16).
///
/// `aad` names what the key is for; the same bytes are needed to unwrap. One `kek` may wrap 2^32 keys.
///
/// ```
/// use kms_crypto::{Key, unwrap_key, wrap_key};
///
/// # fn main() -> Result<(), kms_crypto::CryptoError> {
/// let (kek, file_key) = (Key::random()?, Key::<64>::random()?);
/// let wrapped = wrap_key(&kek, b"file 1", &file_key)?;
/// assert_eq!(unwrap_key::<64>(&kek, b"file 1", &wrapped)?.expose(), file_key.expose());
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// [`CryptoError::Random`] if no nonce can be drawn.
pub fn wrap_key<const N: usize>(
    kek: &Key<32>,
    aad: &[u8],
    key: &Key<N>,
) -> Result<Vec<u8>, CryptoError> {
    wrap_with::<Active, N>(kek, &crate::random_array()?, aad, key)
}

/// Opens what [`wrap_key`] made.
///
/// # Errors
/// [`CryptoError::Length`] if `wrapped` is not `N` + [`WRAP_OVERHEAD`] bytes long, [`CryptoError::Authentication`] if
/// it was made with another key or `aad`, or was altered.
pub fn unwrap_key<const N: usize>(
    kek: &Key<32>,
    aad: &[u8],
    wrapped: &[u8],
) -> Result<Key<N>, CryptoError> {
    unwrap_with::<Active, N>(kek, aad, wrapped)
}

/// The same for a secret of any length, in the same form: what is 32 bytes long may be opened as a key.
///
/// # Errors
/// [`CryptoError::Random`] if no nonce can be drawn.
pub fn wrap_bytes(kek: &Key<32>, aad: &[u8], secret: &[u8]) -> Result<Vec<u8>, CryptoError> {
    let nonce = crate::random_array()?;
    // Only the ciphertext may reach a vector that is not zeroised.
    let mut body = Zeroizing::new(secret.to_vec());
    let tag = <Active as Provider>::Gcm::new(kek.expose())?.seal(&nonce, aad, &mut body)?;
    let mut wrapped = Vec::with_capacity(body.len() + WRAP_OVERHEAD);
    wrapped.extend_from_slice(&nonce);
    wrapped.extend_from_slice(&body);
    wrapped.extend_from_slice(&tag);
    Ok(wrapped)
}

/// Opens what [`wrap_bytes`] (or [`wrap_key`]) made.
///
/// # Errors
/// [`CryptoError::Length`] if `wrapped` is shorter than [`WRAP_OVERHEAD`], [`CryptoError::Authentication`] if it was made
/// with another key or `aad`, or was altered.
pub fn unwrap_bytes(kek: &Key<32>, aad: &[u8], wrapped: &[u8]) -> Result<SecretBytes, CryptoError> {
    let bad = CryptoError::Length {
        what: "wrapped secret",
        got: wrapped.len(),
    };
    let (nonce, rest) = wrapped.split_first_chunk().ok_or_else(|| bad.clone())?;
    let (body, tag) = rest.split_last_chunk().ok_or(bad)?;
    let mut body = Zeroizing::new(body.to_vec());
    <Active as Provider>::Gcm::new(kek.expose())?.open(nonce, aad, &mut body, tag)?;
    Ok(SecretBytes::from(std::mem::take(&mut *body)))
}

pub(crate) fn wrap_with<P: Provider, const N: usize>(
    kek: &Key<32>,
    nonce: &[u8; GCM_NONCE_LEN],
    aad: &[u8],
    key: &Key<N>,
) -> Result<Vec<u8>, CryptoError> {
    // The ciphertext is made in locked memory, so that the plain key is never copied to the heap.
    let mut body = key.duplicate()?;
    let tag = P::Gcm::new(kek.expose())?.seal(nonce, aad, body.expose_mut())?;
    let mut wrapped = Vec::with_capacity(N + WRAP_OVERHEAD);
    wrapped.extend_from_slice(nonce);
    wrapped.extend_from_slice(body.expose());
    wrapped.extend_from_slice(&tag);
    Ok(wrapped)
}

pub(crate) fn unwrap_with<P: Provider, const N: usize>(
    kek: &Key<32>,
    aad: &[u8],
    wrapped: &[u8],
) -> Result<Key<N>, CryptoError> {
    let bad = CryptoError::Length {
        what: "wrapped key",
        got: wrapped.len(),
    };
    let (nonce, rest) = wrapped.split_first_chunk().ok_or_else(|| bad.clone())?;
    let (body, tag) = rest.split_last_chunk().ok_or_else(|| bad.clone())?;
    if body.len() != N {
        return Err(bad);
    }
    let mut key = Key::from_slice(body)?;
    P::Gcm::new(kek.expose())?.open(nonce, aad, key.expose_mut(), tag)?;
    Ok(key)
}
