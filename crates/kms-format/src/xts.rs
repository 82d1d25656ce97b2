//! Content of mode xts (FORMAT.md sections 5.3 and 5.4): the cipher over units and cells, and, in `plan`, which
//! lower bytes to read, write and cut for an operation, in which order.
//!
//! ```
//! use kms_crypto::Key;
//! use kms_format::{ContentMode, FileHeader, PolicyId, UnlockedPolicy, VolumeId, size, xts};
//!
//! # fn main() -> Result<(), kms_format::FormatError> {
//! # let policy = UnlockedPolicy::derive(
//! #     VolumeId::random()?, PolicyId::random()?, 1, ContentMode::Xts, &Key::random()?, &Key::random()?)?;
//! # let (_, keys) = FileHeader::create(&policy)?;
//! # let mut lower = vec![0; 4096]; // a file of no bytes: only its header page
//! let content = keys.xts()?;
//!
//! // Write five bytes at the start of an empty file.
//! let plan = xts::plan_write(0, 0, 5)?;
//! assert!(plan.tail_fix.is_none() && plan.head.is_none() && plan.tail.is_none());
//! let mut scratch = Vec::new();
//! let bytes = content.seal_write(&plan, b"hello", None, None, &mut scratch)?;
//! lower.truncate(plan.lower_offset as usize);
//! lower.extend_from_slice(bytes); // one pwrite, and the lower size is right
//! assert_eq!(lower.len() as u64, size::xts_lower_size(5)?);
//!
//! // Read it back.
//! let plan = xts::plan_read(5, 1, 100);
//! let mut buffer = lower[4096..4096 + plan.lower_len].to_vec();
//! let range = content.open_read(&plan, &mut buffer, plan.lower_len)?;
//! assert_eq!(&buffer[range], b"ello");
//! # Ok(())
//! # }
//! ```

mod plan;

use std::ops::Range;

use kms_crypto::XtsKey;
use zeroize::Zeroizing;

pub use self::plan::{
    PunchPlan, ReadPlan, ResizePlan, TailFix, WritePlan, plan_punch, plan_read, plan_resize,
    plan_write,
};
use crate::bytes::is_zero;
use crate::{FormatError, Record};

/// Bytes of a unit: one lower page, one tweak.
pub const UNIT: usize = 4096;
/// Bytes of a cell: the smallest piece that can be rewritten alone.
pub const CELL: usize = 16;
const UNIT64: u64 = UNIT as u64;

/// Sixteen bytes of the lower file, as read.
pub type Cell = [u8; CELL];

/// The cipher of one file. `Send`, `Sync`, cheap per call.
pub struct Content {
    key: XtsKey,
}

impl Content {
    pub(crate) const fn new(key: XtsKey) -> Self {
        Self { key }
    }

    /// Encrypts in place; `data` starts at the first byte of `first_unit` and is a whole number of cells.
    ///
    /// # Errors
    /// [`FormatError::Crypto`] for another length.
    pub fn encrypt_units(&self, first_unit: u64, data: &mut [u8]) -> Result<(), FormatError> {
        if data.is_empty() {
            return Ok(());
        }
        Ok(self.key.encrypt_in_place(first_unit, data)?)
    }

    /// Decrypts in place; an all-zero cell is a hole and stays zero. `data` starts at the first byte of `first_unit`
    /// and is a whole number of cells.
    ///
    /// # Errors
    /// [`FormatError::Misuse`] for another length.
    pub fn decrypt_units(&self, first_unit: u64, data: &mut [u8]) -> Result<(), FormatError> {
        if !data.len().is_multiple_of(CELL) {
            return Err(FormatError::Misuse("content is a whole number of cells"));
        }
        // Runs of units without a hole are decrypted in one call each.
        let mut run = first_unit;
        let mut rest = data;
        while !rest.is_empty() {
            let dense = rest.chunks(UNIT).take_while(|unit| !has_hole(unit)).count();
            let length = dense.saturating_mul(UNIT).min(rest.len());
            let (now, later) = rest.split_at_mut(length);
            if !now.is_empty() {
                self.key.decrypt_in_place(run, now)?;
            }
            run = run.saturating_add(dense as u64);
            let (sparse, later) = later.split_at_mut(later.len().min(UNIT));
            if !sparse.is_empty() {
                self.decrypt_sparse(run, sparse)?;
                run = run.saturating_add(1);
            }
            rest = later;
        }
        Ok(())
    }

    /// One unit with at least one hole.
    fn decrypt_sparse(&self, unit: u64, data: &mut [u8]) -> Result<(), FormatError> {
        if is_zero(data) {
            return Ok(());
        }
        let mut holes = [false; UNIT / CELL];
        for (hole, cell) in holes.iter_mut().zip(data.chunks(CELL)) {
            *hole = is_zero(cell);
        }
        self.key.decrypt_in_place(unit, data)?;
        for (hole, cell) in holes.iter().zip(data.chunks_mut(CELL)) {
            if *hole {
                cell.fill(0);
            }
        }
        Ok(())
    }

    /// Turns what was read according to `plan` into plain bytes and says where in `buffer` they are. `got` is how many
    /// of the `plan.lower_len` bytes the lower file gave; the rest reads as zeros.
    ///
    /// # Errors
    /// [`FormatError::Misuse`] if `buffer` is shorter than `plan.lower_len`.
    pub fn open_read(
        &self,
        plan: &ReadPlan,
        buffer: &mut [u8],
        got: usize,
    ) -> Result<Range<usize>, FormatError> {
        let buffer = buffer.get_mut(..plan.lower_len).ok_or(FormatError::Misuse(
            "a read needs the whole buffer of its plan",
        ))?;
        let got = got.min(plan.lower_len);
        let whole = got.saturating_sub(got % CELL);
        if let Some(missing) = buffer.get_mut(whole..) {
            missing.fill(0);
        }
        if let Some(present) = buffer.get_mut(..whole) {
            self.decrypt_units(plan.first_unit, present)?;
        }
        let end = plan.skip.saturating_add(plan.take);
        if let Some(beyond) = buffer.get_mut(end..) {
            beyond.fill(0);
        }
        Ok(plan.skip..end)
    }

    /// Builds the bytes to write at `plan.lower_offset`. `head` and `tail` are the lower cells at `plan.head` and
    /// `plan.tail` as read (zeros where the lower file is shorter); `scratch` is reused between calls.
    ///
    /// For `plan.in_place` plans it is quicker to call [`Content::encrypt_units`] on the data itself.
    ///
    /// # Errors
    /// [`FormatError::Misuse`] if `data` has not the planned length or a planned cell is missing.
    pub fn seal_write<'a>(
        &self,
        plan: &WritePlan,
        data: &[u8],
        head: Option<&Cell>,
        tail: Option<&Cell>,
        scratch: &'a mut Vec<u8>,
    ) -> Result<&'a [u8], FormatError> {
        const SHORT: FormatError = FormatError::Misuse("a write plan and its data disagree");
        if data.len() != plan.len
            || plan.head.is_some() != head.is_some()
            || plan.tail.is_some() != tail.is_some()
        {
            return Err(SHORT);
        }
        // From the start of the first unit, because the cipher counts cells from there; what is before is not written.
        let lead = plan.lead();
        let cells = plan.cells();
        scratch.clear();
        scratch.resize(lead.saturating_add(cells), 0);
        let body = scratch.get_mut(lead..).ok_or(SHORT)?;
        if let (Some(offset), Some(cell)) = (plan.head, head) {
            let old = self.old_cell(offset, plan.old_size, *cell)?;
            body.get_mut(..CELL)
                .ok_or(SHORT)?
                .copy_from_slice(old.as_slice());
        }
        if let (Some(offset), Some(cell)) = (plan.tail, tail) {
            let old = self.old_cell(offset, plan.old_size, *cell)?;
            let at = cells.saturating_sub(CELL);
            body.get_mut(at..)
                .ok_or(SHORT)?
                .copy_from_slice(old.as_slice());
        }
        let end = plan.skip.saturating_add(data.len());
        body.get_mut(plan.skip..end)
            .ok_or(SHORT)?
            .copy_from_slice(data);
        self.encrypt_units(plan.first_unit(), scratch)?;
        scratch.resize(scratch.len().saturating_add(plan.pad), 0);
        scratch.get(lead..).ok_or(SHORT)
    }

    /// Builds the bytes to write at `fix.lower_offset`, out of the cell read there: the masked cell, then zeros.
    ///
    /// # Errors
    /// [`FormatError::Crypto`] if the provider fails.
    pub fn seal_tail(&self, fix: &TailFix, cell: Cell) -> Result<Vec<u8>, FormatError> {
        let plain = self.old_cell(fix.lower_offset, fix.size, cell)?;
        let mut out = self.one_cell(fix.lower_offset, *plain, true)?.to_vec();
        out.resize(CELL.saturating_add(fix.pad), 0);
        Ok(out)
    }

    /// The plain bytes of a lower cell, with those from `size` on masked.
    fn old_cell(&self, lower: u64, size: u64, cell: Cell) -> Result<Zeroizing<Cell>, FormatError> {
        let mut plain = if is_zero(&cell) {
            Zeroizing::new(cell)
        } else {
            Zeroizing::new(self.one_cell(lower, cell, false)?)
        };
        let offset = lower.saturating_sub(crate::size::HEADER);
        let keep = usize::try_from(size.saturating_sub(offset))
            .unwrap_or(CELL)
            .min(CELL);
        if let Some(beyond) = plain.get_mut(keep..) {
            beyond.fill(0);
        }
        Ok(plain)
    }

    /// Runs one cell through the cipher: it has to start at the unit's first cell, so those before go along.
    fn one_cell(&self, lower: u64, cell: Cell, encrypt: bool) -> Result<Cell, FormatError> {
        const MISPLACED: FormatError = FormatError::Misuse("a cell lies on a multiple of 16");
        let offset = lower.saturating_sub(crate::size::HEADER);
        let (unit, at) = (offset / UNIT64, offset % UNIT64);
        let at = usize::try_from(at).map_err(|_| MISPLACED)?;
        let mut scratch = Zeroizing::new([0; UNIT]);
        let used = scratch
            .get_mut(..at.saturating_add(CELL))
            .ok_or(MISPLACED)?;
        used.get_mut(at..).ok_or(MISPLACED)?.copy_from_slice(&cell);
        if encrypt {
            self.key.encrypt_in_place(unit, used)?;
        } else {
            self.key.decrypt_in_place(unit, used)?;
        }
        let mut out = [0; CELL];
        out.copy_from_slice(used.get(at..).ok_or(MISPLACED)?);
        Ok(out)
    }
}

impl std::fmt::Debug for Content {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Content")
            .field("of", &Record::XtsContent)
            .finish_non_exhaustive()
    }
}

fn has_hole(unit: &[u8]) -> bool {
    let (cells, _) = unit.as_chunks::<CELL>();
    cells.iter().any(|cell| u128::from_ne_bytes(*cell) == 0)
}

#[cfg(test)]
mod tests;
