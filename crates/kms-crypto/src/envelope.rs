//! Messages under KMS key material, each with a key of its own and a commitment to the material.

use zeroize::Zeroizing;

use crate::gcm::{GCM_NONCE_LEN, GCM_TAG_LEN};
use crate::kdf::hkdf_with;
use crate::provider::{Active, Gcm, Provider};
use crate::{CryptoError, Key, SecretBytes, constant_time_eq};

const NONCE_LEN: usize = 16;
const COMMITMENT_LEN: usize = 32;
const KEY_LEN: usize = 32;
const INFO: &[u8] = b"kmsd message key, iv and commitment, format 0";

/// How many bytes a sealed message is longer than its plaintext.
pub const MESSAGE_OVERHEAD: usize = NONCE_LEN + COMMITMENT_LEN + GCM_TAG_LEN;

/// Seals `plaintext` under key material: nonce (16) ‖ commitment (32) ‖ ciphertext ‖ tag (16).
///
/// A fresh 128-bit nonce and HKDF-SHA256 give each message its own AES-256-GCM key and IV, so there is no bound on the
/// number of messages that a server could reach, and a commitment, so that no ciphertext opens under two materials.
/// `aad` is authenticated, not stored.
///
/// # Errors
/// [`CryptoError::Random`] if no nonce can be drawn.
pub fn seal_message(
    material: &Key<32>,
    aad: &[u8],
    plaintext: &[u8],
) -> Result<Vec<u8>, CryptoError> {
    seal_with::<Active>(material, &crate::random_array()?, aad, plaintext)
}

/// Opens what [`seal_message`] made.
///
/// # Errors
/// [`CryptoError::Length`] if `sealed` is shorter than [`MESSAGE_OVERHEAD`], [`CryptoError::Authentication`] if it was
/// made with other material or another `aad`, or was altered.
pub fn open_message(
    material: &Key<32>,
    aad: &[u8],
    sealed: &[u8],
) -> Result<SecretBytes, CryptoError> {
    open_with::<Active>(material, aad, sealed)
}

pub(crate) fn seal_with<P: Provider>(
    material: &Key<32>,
    nonce: &[u8; NONCE_LEN],
    aad: &[u8],
    plaintext: &[u8],
) -> Result<Vec<u8>, CryptoError> {
    let message = MessageKey::derive::<P>(material, nonce)?;
    // Only the ciphertext may reach the growing vector, so the plaintext is encrypted in a copy that is zeroised.
    let mut body = Zeroizing::new(plaintext.to_vec());
    let tag = P::Gcm::new(message.key.expose())?.seal(&message.iv, aad, &mut body)?;
    let mut sealed = Vec::with_capacity(plaintext.len() + MESSAGE_OVERHEAD);
    sealed.extend_from_slice(nonce);
    sealed.extend_from_slice(&message.commitment);
    sealed.extend_from_slice(&body);
    sealed.extend_from_slice(&tag);
    Ok(sealed)
}

pub(crate) fn open_with<P: Provider>(
    material: &Key<32>,
    aad: &[u8],
    sealed: &[u8],
) -> Result<SecretBytes, CryptoError> {
    let bad = CryptoError::Length {
        what: "sealed message",
        got: sealed.len(),
    };
    let (nonce, rest) = sealed.split_first_chunk().ok_or_else(|| bad.clone())?;
    let (commitment, rest) = rest
        .split_first_chunk::<COMMITMENT_LEN>()
        .ok_or_else(|| bad.clone())?;
    let (body, tag) = rest.split_last_chunk().ok_or(bad)?;
    let message = MessageKey::derive::<P>(material, nonce)?;
    if !constant_time_eq(&message.commitment, commitment) {
        return Err(CryptoError::Authentication);
    }
    let mut body = Zeroizing::new(body.to_vec());
    P::Gcm::new(message.key.expose())?.open(&message.iv, aad, &mut body, tag)?;
    Ok(SecretBytes::from(std::mem::take(&mut *body)))
}

/// What one nonce makes of the material.
struct MessageKey {
    key: Key<KEY_LEN>,
    iv: [u8; GCM_NONCE_LEN],
    commitment: [u8; COMMITMENT_LEN],
}

impl MessageKey {
    fn derive<P: Provider>(
        material: &Key<32>,
        nonce: &[u8; NONCE_LEN],
    ) -> Result<Self, CryptoError> {
        let mut out = Zeroizing::new([0_u8; KEY_LEN + GCM_NONCE_LEN + COMMITMENT_LEN]);
        hkdf_with::<P>(nonce, &[material.expose()], &[INFO], out.as_mut_slice())?;
        let (key, rest) = out.split_at(KEY_LEN);
        let (iv, commitment) = rest.split_at(GCM_NONCE_LEN);
        let mut message = Self {
            key: Key::from_slice(key)?,
            iv: [0; GCM_NONCE_LEN],
            commitment: [0; COMMITMENT_LEN],
        };
        message.iv.copy_from_slice(iv);
        message.commitment.copy_from_slice(commitment);
        Ok(message)
    }
}
