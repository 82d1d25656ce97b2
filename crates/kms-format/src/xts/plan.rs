//! Which lower bytes an operation reads, writes and cuts, in which order. No keys here: arithmetic only.

use super::{CELL, UNIT64};
use crate::size::{self, HEADER, SizeError, xts_lower_size};

const CELL64: u64 = CELL as u64;

/// A read: read `lower_len` bytes at `lower_offset`, give them to [`super::Content::open_read`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReadPlan {
    /// Where to read in the lower file.
    pub lower_offset: u64,
    /// How many bytes; 0 at or behind the end of the file.
    pub lower_len: usize,
    /// The unit of the first byte read.
    pub first_unit: u64,
    /// Bytes in front of the wanted ones.
    pub skip: usize,
    /// The wanted bytes: fewer than asked for at the end of the file.
    pub take: usize,
}

/// Makes the bytes behind the end of the file harmless before they become part of it: read the 16 bytes at
/// `lower_offset`, write what [`super::Content::seal_tail`] makes of them to the same place.
/// Neither the lower size nor the plain content changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TailFix {
    /// Where the last cell is in the lower file.
    pub lower_offset: u64,
    /// The plain size the cell belongs to.
    pub size: u64,
    /// Zero bytes to write behind the cell.
    pub pad: usize,
}

/// A write, in this order: `tail_fix`, the write itself, `truncate`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WritePlan {
    /// To do first.
    pub tail_fix: Option<TailFix>,
    /// Lower offset of a cell to read before building the write: the first one.
    pub head: Option<u64>,
    /// Lower offset of a cell to read before building the write: the last one, if it is another.
    pub tail: Option<u64>,
    /// Where to write in the lower file.
    pub lower_offset: u64,
    /// How many bytes will be written there, trailing zeros included.
    pub lower_len: usize,
    /// Then set the lower size to this.
    pub truncate: Option<u64>,
    /// The plain size afterwards.
    pub new_size: u64,
    /// The plain size before.
    pub old_size: u64,
    /// Bytes of data.
    pub len: usize,
    /// Bytes of the first cell in front of the data.
    pub(super) skip: usize,
    /// Zero bytes behind the last cell, so that the write ends at the new lower size.
    pub(super) pad: usize,
}

impl WritePlan {
    /// If the data can be encrypted where it is ([`super::Content::encrypt_units`]) and written: the number of its first unit.
    #[must_use]
    pub fn in_place(&self) -> Option<u64> {
        let alone = self.head.is_none() && self.tail.is_none();
        let aligned = self.lead() == 0 && self.skip == 0 && self.lower_len == self.len;
        (alone && aligned).then(|| self.first_unit())
    }

    pub(super) fn first_unit(&self) -> u64 {
        self.start() / UNIT64
    }

    /// Bytes between the start of the first unit and the first cell written.
    pub(super) fn lead(&self) -> usize {
        small(self.start() % UNIT64)
    }

    /// Bytes of cells written.
    pub(super) fn cells(&self) -> usize {
        self.lower_len.saturating_sub(self.pad)
    }

    fn start(&self) -> u64 {
        self.lower_offset.saturating_sub(HEADER)
    }
}

/// A change of size, in this order: `before`, the truncation, `after`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ResizePlan {
    /// When growing: to do first.
    pub before: Option<TailFix>,
    /// The lower size to set.
    pub truncate: u64,
    /// When shrinking: scrubs the cut bytes out of the last cell. Readers mask them anyway.
    pub after: Option<TailFix>,
}

/// Turning a range into zeros without changing the size: write zeros over `head` and `tail` (plain ranges inside one
/// cell each, with [`plan_write`]), and make a hole of `hole` (lower offsets).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PunchPlan {
    /// Plain bytes to overwrite with zeros.
    pub head: Option<std::ops::Range<u64>>,
    /// Lower bytes to punch, or to write as zeros.
    pub hole: Option<std::ops::Range<u64>>,
    /// Plain bytes to overwrite with zeros.
    pub tail: Option<std::ops::Range<u64>>,
}

/// Plans a read of `len` bytes at `offset` of a file of `size` bytes.
#[must_use]
pub fn plan_read(size: u64, offset: u64, len: usize) -> ReadPlan {
    let offset = offset.min(size);
    let end = offset.saturating_add(len as u64).min(size);
    let first_unit = offset / UNIT64;
    let start = first_unit.saturating_mul(UNIT64);
    let lower_len = if end == offset {
        0
    } else {
        small(up(end).saturating_sub(start))
    };
    ReadPlan {
        lower_offset: HEADER.saturating_add(start),
        lower_len,
        first_unit,
        skip: if lower_len == 0 {
            0
        } else {
            small(offset.saturating_sub(start))
        },
        take: small(end.saturating_sub(offset)),
    }
}

/// Plans a write of `len` bytes at `offset` into a file of `size` bytes.
///
/// # Errors
/// [`SizeError::TooLarge`].
pub fn plan_write(size: u64, offset: u64, len: usize) -> Result<WritePlan, SizeError> {
    let end = offset.saturating_add(len as u64);
    if len == 0 {
        return Ok(nothing(size, offset));
    }
    let old_lower = xts_lower_size(size)?;
    let new_size = size.max(end);
    let new_lower = xts_lower_size(new_size)?;
    let (first, last) = (down(offset), up(end));
    // The cell of the old last byte becomes visible behind it, and this write does not reach it.
    let tail_fix = if first >= up(size) && offset > size {
        fix(size)?
    } else {
        None
    };
    let one_cell = last.saturating_sub(first) == CELL64;
    let keeps_front = offset > first && first < size;
    let keeps_back = end < last && end < size;
    let head = keeps_front || (keeps_back && one_cell);
    let tail = keeps_back && !one_cell;
    let grows = new_size > size;
    let pad = if grows && new_lower > old_lower {
        new_lower.saturating_sub(HEADER).saturating_sub(last)
    } else {
        0
    };
    Ok(WritePlan {
        tail_fix,
        head: head.then(|| HEADER.saturating_add(first)),
        tail: tail.then(|| HEADER.saturating_add(last).saturating_sub(CELL64)),
        lower_offset: HEADER.saturating_add(first),
        lower_len: small(last.saturating_sub(first).saturating_add(pad)),
        truncate: (grows && new_lower < old_lower).then_some(new_lower),
        new_size,
        old_size: size,
        len,
        skip: small(offset.saturating_sub(first)),
        pad: small(pad),
    })
}

/// Plans a change of size from `old` to `new`.
///
/// # Errors
/// [`SizeError::TooLarge`].
pub fn plan_resize(old: u64, new: u64) -> Result<ResizePlan, SizeError> {
    let truncate = xts_lower_size(new)?;
    Ok(ResizePlan {
        before: if new > old { fix(old)? } else { None },
        truncate,
        after: if new < old { fix(new)? } else { None },
    })
}

/// Plans turning `len` bytes at `offset` into zeros, as far as they are within a file of `size` bytes.
#[must_use]
pub fn plan_punch(size: u64, offset: u64, len: u64) -> PunchPlan {
    let offset = offset.min(size);
    let end = offset.saturating_add(len).min(size);
    let first = up(offset);
    // Behind the end of the file there is nothing to keep.
    let last = if end == size { up(size) } else { down(end) };
    if first >= last {
        // Within one cell, or over the border of two without covering either.
        let border = first.min(end);
        return PunchPlan {
            head: (offset < border).then_some(offset..border),
            hole: None,
            tail: (border < end).then_some(border..end),
        };
    }
    PunchPlan {
        head: (offset < first).then_some(offset..first),
        hole: Some(HEADER.saturating_add(first)..HEADER.saturating_add(last)),
        tail: (last < end).then_some(last..end),
    }
}

fn nothing(size: u64, offset: u64) -> WritePlan {
    WritePlan {
        tail_fix: None,
        head: None,
        tail: None,
        lower_offset: HEADER.saturating_add(down(offset)),
        lower_len: 0,
        truncate: None,
        new_size: size,
        old_size: size,
        len: 0,
        skip: 0,
        pad: 0,
    }
}

/// The fix of the last cell of a file of `size` bytes, if it has bytes to mask.
fn fix(size: u64) -> Result<Option<TailFix>, SizeError> {
    let padded = up(size);
    if padded == size {
        return Ok(None);
    }
    size::xts_lower_size(size)?;
    Ok(Some(TailFix {
        lower_offset: HEADER.saturating_add(padded).saturating_sub(CELL64),
        size,
        pad: small(padded.saturating_sub(size)),
    }))
}

const fn down(offset: u64) -> u64 {
    offset.saturating_sub(offset % CELL64)
}

const fn up(offset: u64) -> u64 {
    offset.saturating_add((CELL64.saturating_sub(offset % CELL64)) % CELL64)
}

/// Lengths of one call, which fit a `usize` because its buffer does.
fn small(length: u64) -> usize {
    usize::try_from(length).unwrap_or(usize::MAX)
}
