//! Signatures: Ed25519 (RFC 8032) to sign and to verify, ECDSA over P-256 with SHA-256 (FIPS 186-5) to verify, which
//! is what a TPM signs with.

use crate::provider::{Active, Provider};
use crate::{CryptoError, Key};

/// Bytes of a signature of either kind.
pub const SIGNATURE_LEN: usize = 64;

/// The public key of an Ed25519 seed.
///
/// # Errors
/// [`CryptoError::Provider`] if the provider fails.
pub fn ed25519_public(seed: &Key<32>) -> Result<[u8; 32], CryptoError> {
    Active::ed25519_public(seed.expose())
}

/// Signs `message` with the key of an Ed25519 seed.
///
/// # Errors
/// [`CryptoError::Provider`] if the provider fails.
pub fn ed25519_sign(seed: &Key<32>, message: &[u8]) -> Result<[u8; SIGNATURE_LEN], CryptoError> {
    Active::ed25519_sign(seed.expose(), message)
}

/// Verifies an Ed25519 signature.
///
/// # Errors
/// [`CryptoError::Authentication`] for a signature that is not this key's over this message, or a key that is none.
pub fn ed25519_verify(
    public: &[u8; 32],
    message: &[u8],
    signature: &[u8; SIGNATURE_LEN],
) -> Result<(), CryptoError> {
    Active::ed25519_verify(public, message, signature)
}

/// Verifies an ECDSA signature (r, then s) over SHA-256 of `message`; `public` is the point's x, then y.
///
/// # Errors
/// [`CryptoError::Authentication`] for a signature that is not this key's over this message, or a point that is not on
/// the curve.
pub fn p256_verify(
    public: &[u8; 64],
    message: &[u8],
    signature: &[u8; SIGNATURE_LEN],
) -> Result<(), CryptoError> {
    Active::p256_verify(public, message, signature)
}
