//! Random bytes for keys, nonces and identifiers.

use crate::CryptoError;
use crate::provider::{Active, Provider};

/// Fills `out` with bytes of a cryptographically secure generator seeded by the kernel.
///
/// # Errors
/// [`CryptoError::Random`] if the generator fails; `out` must not be used then.
///
/// ```
/// let mut nonce = [0; 12];
/// kms_crypto::fill_random(&mut nonce)?;
/// # Ok::<(), kms_crypto::CryptoError>(())
/// ```
pub fn fill_random(out: &mut [u8]) -> Result<(), CryptoError> {
    Active::fill_random(out)
}

/// An array of `N` random bytes, for nonces and identifiers. For keys use [`Key::random`](crate::Key::random).
///
/// # Errors
/// [`CryptoError::Random`] if the generator fails.
pub fn random_array<const N: usize>() -> Result<[u8; N], CryptoError> {
    let mut out = [0; N];
    fill_random(&mut out)?;
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_draws_differ() {
        assert_ne!(random_array::<32>().unwrap(), random_array::<32>().unwrap());
    }

    #[test]
    fn no_byte_position_stays_constant() {
        let mut seen = [0_u8; 64];
        for _ in 0..64 {
            for (seen, byte) in seen.iter_mut().zip(random_array::<64>().unwrap()) {
                *seen |= byte;
            }
        }
        assert_eq!(seen, [0xff; 64]);
    }
}
