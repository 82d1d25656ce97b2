//! Content of mode gcm: sealed pages and the list of holes (FORMAT.md section 5.5).

mod holes;

use kms_crypto::{GcmKey, random_array};

pub use self::holes::{HOLES_MAX, HoleList};
use crate::bytes::{Fields, is_zero, put};
use crate::{FileId, FormatError, Record};

/// Bytes of a lower page that holds one unit.
pub const PAGE: usize = 4096;
/// Bytes of content in a unit.
pub const CONTENT: usize = 4064;
/// Units that share a key.
pub const RANGE: u64 = 4096;

const NONCE: usize = 0;
const TAG: usize = 12;
const LENGTH: usize = 28;
const DATA: usize = 32;
const AAD: &[u8; 16] = b"kmsfs/1/gcm-unit";

/// Where a unit is in the lower file.
#[must_use]
pub const fn offset(unit: u64) -> u64 {
    unit.saturating_add(1).saturating_mul(PAGE as u64)
}

/// The unit that holds the byte at a plain offset.
#[must_use]
pub const fn unit_of(offset: u64) -> u64 {
    const UNIT: u64 = CONTENT as u64;
    offset / UNIT
}

/// How many units `size` bytes take.
#[must_use]
pub const fn units(size: u64) -> u64 {
    size.div_ceil(CONTENT as u64)
}

/// The range a unit belongs to.
#[must_use]
pub const fn range_of(unit: u64) -> u64 {
    unit / RANGE
}

/// The cipher for [`RANGE`] units of one file. Keep it while working in the range.
pub struct Range {
    id: FileId,
    range: u64,
    key: GcmKey,
}

/// What a lower page holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// This many bytes of content, now decrypted at [`content`]; the unit reads as zeros behind them.
    Data(usize),
    /// Only zero bytes: a hole, if the hole list says so or nothing was synced here; otherwise the page was lost.
    Zero,
}

/// Where the content of a unit is in its page.
#[must_use]
pub fn content(page: &[u8; PAGE]) -> &[u8] {
    page.get(DATA..).unwrap_or_default()
}

impl Range {
    pub(crate) const fn new(id: FileId, range: u64, key: GcmKey) -> Self {
        Self { id, range, key }
    }

    /// The range: units `range * 4096 ..`.
    #[must_use]
    pub const fn range(&self) -> u64 {
        self.range
    }

    /// Builds the page of a unit out of 1 to [`CONTENT`] bytes, with a fresh nonce.
    ///
    /// # Errors
    /// [`FormatError::DoesNotFit`] for another length, [`FormatError::Misuse`] for a unit of another range.
    pub fn seal(
        &self,
        unit: u64,
        content: &[u8],
        page: &mut [u8; PAGE],
    ) -> Result<(), FormatError> {
        let found = content.len();
        let length = u32::try_from(found)
            .ok()
            .filter(|_| (1..=CONTENT).contains(&found));
        let length = length.ok_or(FormatError::DoesNotFit {
            record: Record::GcmUnit,
            found,
            limit: CONTENT,
        })?;
        let aad = self.aad(unit, length)?;
        let nonce = random_array()?;
        page.fill(0);
        put(page, NONCE, &nonce)?;
        put(page, LENGTH, &length.to_le_bytes())?;
        put(page, DATA, content)?;
        let data = page.get_mut(DATA..).ok_or(FormatError::Misuse("page"))?;
        let tag = self.key.seal_in_place(&nonce, &aad, data)?;
        put(page, TAG, &tag)
    }

    /// Authenticates and decrypts a page in place.
    ///
    /// # Errors
    /// [`FormatError::TagMismatch`] for altered or swapped pages, [`FormatError::BadField`] for an impossible length,
    /// [`FormatError::Misuse`] for a unit of another range.
    pub fn open(&self, unit: u64, page: &mut [u8; PAGE]) -> Result<Unit, FormatError> {
        const RECORD: Record = Record::GcmUnit;
        if is_zero(page) {
            return Ok(Unit::Zero);
        }
        let fields = Fields::exact(RECORD, page, PAGE)?;
        let (nonce, tag) = (fields.array(NONCE)?, fields.array(TAG)?);
        let length = fields.u32(LENGTH)?;
        let bytes = usize::try_from(length)
            .ok()
            .filter(|bytes| (1..=CONTENT).contains(bytes));
        let bytes = bytes.ok_or_else(|| fields.bad("length", length))?;
        let aad = self.aad(unit, length)?;
        let data = page.get_mut(DATA..).ok_or(FormatError::Misuse("page"))?;
        self.key
            .open_in_place(&nonce, &aad, data, &tag)
            .map_err(FormatError::unopened(RECORD))?;
        Ok(Unit::Data(bytes))
    }

    fn aad(&self, unit: u64, length: u32) -> Result<[u8; 44], FormatError> {
        if range_of(unit) != self.range {
            return Err(FormatError::Misuse("a unit of another key range"));
        }
        let mut aad = [0; 44];
        put(&mut aad, 0, AAD)?;
        put(&mut aad, 16, &self.id.0)?;
        put(&mut aad, 32, &unit.to_le_bytes())?;
        put(&mut aad, 40, &length.to_le_bytes())?;
        Ok(aad)
    }
}

impl std::fmt::Debug for Range {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Range")
            .field("id", &self.id)
            .field("range", &self.range)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
