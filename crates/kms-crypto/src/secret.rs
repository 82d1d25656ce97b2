//! Types that hold secrets: zeroised when dropped, without `Debug`, `Clone` or serialisation.

mod arena;

use zeroize::{Zeroize, Zeroizing};

use crate::CryptoError;
use arena::Slot;

pub use arena::{LockStatus, lock_status};

/// A key of `N` bytes (1 to 4096) in locked memory.
///
/// The bytes live in pages that are locked against swapping as far as `RLIMIT_MEMLOCK` allows ([`lock_status`] counts
/// what it did not), are left out of core dumps, stand between guard pages, and are zeroised when the key is dropped.
///
/// There is deliberately no `Debug`, `Clone`, `PartialEq` or serialisation.
///
/// ```
/// use kms_crypto::Key;
///
/// # fn main() -> Result<(), kms_crypto::CryptoError> {
/// let mut bytes = [7; 32];
/// let key = Key::take(&mut bytes)?;
/// assert_eq!(bytes, [0; 32], "the source is zeroised");
/// assert_eq!(key.expose(), &[7; 32]);
/// # Ok(())
/// # }
/// ```
pub struct Key<const N: usize>(Slot<N>);

impl<const N: usize> Key<N> {
    /// A new key from the system's random number generator.
    ///
    /// # Errors
    /// [`CryptoError::Random`], [`CryptoError::Memory`].
    pub fn random() -> Result<Self, CryptoError> {
        Self::try_init(|bytes| crate::fill_random(bytes))
    }

    /// A copy of `bytes`. Where the caller owns the bytes, [`Key::take`] leaves no second copy behind.
    ///
    /// # Errors
    /// [`CryptoError::Length`] if there are not exactly `N` bytes, [`CryptoError::Memory`].
    pub fn from_slice(bytes: &[u8]) -> Result<Self, CryptoError> {
        let bytes: &[u8; N] = bytes.try_into().map_err(|_| CryptoError::Length {
            what: "key",
            got: bytes.len(),
        })?;
        Self::try_init(|key| {
            key.copy_from_slice(bytes);
            Ok(())
        })
    }

    /// Moves `bytes` into a key and zeroises them, also when that fails.
    ///
    /// # Errors
    /// [`CryptoError::Memory`].
    pub fn take(bytes: &mut [u8; N]) -> Result<Self, CryptoError> {
        let key = Self::from_slice(bytes);
        bytes.zeroize();
        key
    }

    /// A key that `fill` writes where it will live. It starts as zeros.
    ///
    /// # Errors
    /// What `fill` gives, or [`CryptoError::Memory`].
    pub fn try_init(
        fill: impl FnOnce(&mut [u8; N]) -> Result<(), CryptoError>,
    ) -> Result<Self, CryptoError> {
        let mut slot = Slot::new()?;
        fill(slot.bytes_mut())?;
        Ok(Self(slot))
    }

    /// The bytes of the key. Do not copy them to where nobody zeroises them.
    pub fn expose(&self) -> &[u8; N] {
        self.0.bytes()
    }

    /// A second key with the same bytes; named so that it is seen in review, unlike a `clone`.
    ///
    /// # Errors
    /// [`CryptoError::Memory`].
    pub fn duplicate(&self) -> Result<Self, CryptoError> {
        Self::from_slice(self.expose())
    }

    pub(crate) fn expose_mut(&mut self) -> &mut [u8; N] {
        self.0.bytes_mut()
    }
}

/// Secret bytes of any length on the heap, zeroised when dropped. For plaintexts; keys belong into a [`Key`].
///
/// ```
/// let secret = kms_crypto::SecretBytes::from(vec![1, 2, 3]);
/// assert_eq!(secret.expose(), [1, 2, 3]);
/// ```
#[derive(Default)]
pub struct SecretBytes(Zeroizing<Vec<u8>>);

impl SecretBytes {
    /// The bytes.
    pub fn expose(&self) -> &[u8] {
        &self.0
    }

    /// How many bytes there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Takes the vector over; earlier copies that its growing may have left on the heap are not found.
impl From<Vec<u8>> for SecretBytes {
    fn from(bytes: Vec<u8>) -> Self {
        Self(Zeroizing::new(bytes))
    }
}
