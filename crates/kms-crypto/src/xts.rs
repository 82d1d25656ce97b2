//! AES-256-XTS (IEEE 1619, NIST SP 800-38E) for file content that is not authenticated.

use crate::provider::{Active, Direction, Provider, Xts};
use crate::{CryptoError, Key, constant_time_eq};

/// Bytes in one data unit: the unit of encryption and the page of the lower file.
pub const XTS_UNIT: usize = 4096;

/// An AES-256-XTS key, ready for use by any number of threads at once.
///
/// A call works on a run of 4 KiB units; only the last unit of a call may be shorter, any multiple of 16 bytes. The
/// tweak of a unit is its number in the file, 16 bytes little-endian, so equal plaintext in two units of a file, or in
/// two files, gives unequal ciphertext. XTS does not detect changes: altered ciphertext decrypts to noise.
///
/// ```
/// use kms_crypto::{Key, XTS_UNIT, XtsKey};
///
/// # fn main() -> Result<(), kms_crypto::CryptoError> {
/// let key = XtsKey::new(&Key::random()?)?;
/// let mut data = vec![7; 2 * XTS_UNIT + 32];
/// key.encrypt_in_place(10, &mut data)?; // units 10, 11 and the first 32 bytes of 12
/// let mut plain = vec![0; XTS_UNIT];
/// key.decrypt_to(11, &data[XTS_UNIT..2 * XTS_UNIT], &mut plain)?;
/// assert_eq!(plain, [7; XTS_UNIT]);
/// # Ok(())
/// # }
/// ```
pub struct XtsKey(<Active as Provider>::Xts);

impl XtsKey {
    /// Expands a key: 32 bytes for the data, then 32 bytes for the tweak.
    ///
    /// # Errors
    /// [`CryptoError::EqualXtsHalves`] if both halves are equal.
    pub fn new(key: &Key<64>) -> Result<Self, CryptoError> {
        Self::from_bytes(key.expose())
    }

    /// Like [`XtsKey::new`], from bytes the caller holds.
    ///
    /// # Errors
    /// [`CryptoError::EqualXtsHalves`] if both halves are equal.
    pub fn from_bytes(key: &[u8; 64]) -> Result<Self, CryptoError> {
        let (data, tweak) = key.split_at(32);
        if constant_time_eq(data, tweak) {
            return Err(CryptoError::EqualXtsHalves);
        }
        Xts::new(key).map(Self)
    }

    /// Encrypts `data`, which begins at the start of unit `first_unit`.
    ///
    /// # Errors
    /// [`CryptoError::Length`] if `data` is empty or not a multiple of 16 bytes long; `data` is unchanged then.
    pub fn encrypt_in_place(&self, first_unit: u64, data: &mut [u8]) -> Result<(), CryptoError> {
        self.in_place(Direction::Encrypt, first_unit, data)
    }

    /// Decrypts `data`, which begins at the start of unit `first_unit`.
    ///
    /// # Errors
    /// As [`XtsKey::encrypt_in_place`].
    pub fn decrypt_in_place(&self, first_unit: u64, data: &mut [u8]) -> Result<(), CryptoError> {
        self.in_place(Direction::Decrypt, first_unit, data)
    }

    /// Encrypts `from`, which begins at the start of unit `first_unit`, into `to` of the same length.
    ///
    /// # Errors
    /// [`CryptoError::Length`] if `from` is empty or not a multiple of 16 bytes long, or `to` has another length; `to`
    /// is unchanged then.
    pub fn encrypt_to(
        &self,
        first_unit: u64,
        from: &[u8],
        to: &mut [u8],
    ) -> Result<(), CryptoError> {
        self.copy(Direction::Encrypt, first_unit, from, to)
    }

    /// Decrypts `from`, which begins at the start of unit `first_unit`, into `to` of the same length.
    ///
    /// # Errors
    /// As [`XtsKey::encrypt_to`].
    pub fn decrypt_to(
        &self,
        first_unit: u64,
        from: &[u8],
        to: &mut [u8],
    ) -> Result<(), CryptoError> {
        self.copy(Direction::Decrypt, first_unit, from, to)
    }

    fn in_place(&self, way: Direction, first: u64, data: &mut [u8]) -> Result<(), CryptoError> {
        check(data.len())?;
        self.0.in_place(way, first.into(), XTS_UNIT, data)
    }

    fn copy(
        &self,
        way: Direction,
        first: u64,
        from: &[u8],
        to: &mut [u8],
    ) -> Result<(), CryptoError> {
        check(from.len())?;
        if to.len() != from.len() {
            return Err(CryptoError::Length {
                what: "output of AES-XTS",
                got: to.len(),
            });
        }
        self.0.copy(way, first.into(), XTS_UNIT, from, to)
    }
}

fn check(len: usize) -> Result<(), CryptoError> {
    if len == 0 || !len.is_multiple_of(16) {
        return Err(CryptoError::Length {
            what: "data for AES-XTS",
            got: len,
        });
    }
    Ok(())
}
