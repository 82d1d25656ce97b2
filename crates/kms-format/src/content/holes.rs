//! Space without content: reserving it, giving it back, finding it.

use super::{Fault, Faulty, File, Lower};
use crate::file::{INLINE_MAX, Layout};
use crate::{ContentMode, gcm, size, xts};

impl<L: Lower> File<L> {
    /// Reserves lower space for `length` bytes at `offset`, and extends the file to their end unless `keep_size`.
    ///
    /// # Errors
    /// As [`File::write`]; [`Fault::Unsupported`] if the lower file system cannot reserve and the size is to stay.
    pub fn allocate(&mut self, offset: u64, length: u64, keep_size: bool) -> Faulty<(), L::Error> {
        self.check_writable()?;
        let end = offset.checked_add(length).ok_or(Fault::TooLarge)?;
        let lower_end = size::lower_size(self.policy.mode(), end)?;
        if self.layout == Layout::Units || end > INLINE_MAX as u64 {
            let start = match self.policy.mode() {
                ContentMode::Xts => size::HEADER.saturating_add(cell_of(offset)),
                ContentMode::Gcm => gcm::offset(gcm::unit_of(offset)),
            };
            let length = lower_end.saturating_sub(start);
            let reserved = self.lower.reserve(start, length).map_err(Fault::Lower)?;
            // As posix_fallocate does where there is nothing to reserve with: only the size.
            if !reserved && keep_size {
                return Err(Fault::Unsupported);
            }
        }
        if keep_size || end <= self.size {
            Ok(())
        } else {
            self.resize(end)
        }
    }

    /// Turns `length` bytes at `offset` into zeros, giving lower space back where possible. The size stays.
    ///
    /// # Errors
    /// As [`File::write`].
    pub fn punch(&mut self, offset: u64, length: u64) -> Faulty<(), L::Error> {
        self.check_writable()?;
        self.settle_watermark()?;
        self.note_change(offset, offset.saturating_add(length));
        match self.layout {
            Layout::Inline => self.clear_inline(offset, length),
            Layout::Units => match self.policy.mode() {
                ContentMode::Xts => self.punch_cells(offset, length),
                ContentMode::Gcm => self.punch_pages(offset, length),
            },
        }
    }

    /// Where data begins at or behind `offset`.
    ///
    /// # Errors
    /// [`Fault::NoData`]; the lower file system's.
    pub fn seek_data(&self, offset: u64) -> Faulty<u64, L::Error> {
        if offset >= self.size {
            return Err(Fault::NoData);
        }
        if self.layout == Layout::Inline {
            return Ok(offset);
        }
        if self.policy.mode() == ContentMode::Gcm {
            return self.seek_data_pages(offset);
        }
        let found = self.lower.seek_data(size::HEADER.saturating_add(offset));
        let found = found.map_err(Fault::Lower)?.ok_or(Fault::NoData)?;
        let found = found.saturating_sub(size::HEADER).max(offset);
        if found < self.size {
            Ok(found)
        } else {
            Err(Fault::NoData)
        }
    }

    /// Where a hole begins at or behind `offset`; at the latest at the end.
    ///
    /// # Errors
    /// [`Fault::NoData`]; the lower file system's.
    pub fn seek_hole(&self, offset: u64) -> Faulty<u64, L::Error> {
        if offset >= self.size {
            return Err(Fault::NoData);
        }
        if self.layout == Layout::Inline {
            return Ok(self.size);
        }
        if self.policy.mode() == ContentMode::Gcm {
            return self.seek_hole_pages(offset);
        }
        let found = self.lower.seek_hole(size::HEADER.saturating_add(offset));
        let found = found.map_err(Fault::Lower)?.unwrap_or(u64::MAX);
        Ok(found.saturating_sub(size::HEADER).clamp(offset, self.size))
    }
}

const fn cell_of(offset: u64) -> u64 {
    const CELL: u64 = xts::CELL as u64;
    offset.saturating_sub(offset % CELL)
}
