//! Space without content: reserving it, giving it back, finding it.

use kms_format::file::{INLINE_MAX, Layout};
use kms_format::{size, xts};
use zeroize::Zeroizing;

use super::{Faulty, OpenFile};
use crate::errno::Errno;

const ZEROS: usize = 64 * 1024;

impl OpenFile {
    /// Reserves lower space for `length` bytes at `offset`, and extends the file to their end unless `keep_size`.
    pub(crate) fn allocate(&mut self, offset: u64, length: u64, keep_size: bool) -> Faulty<()> {
        if !self.writable {
            return Err(Errno::BADF.into());
        }
        let end = offset.checked_add(length).ok_or(Errno::FBIG)?;
        let lower_end = size::xts_lower_size(end)?;
        if self.layout == Layout::Inline && end <= INLINE_MAX as u64 {
            // The header page is there, or is written now.
            return if keep_size || end <= self.size {
                Ok(())
            } else {
                self.resize(end)
            };
        }
        let start = size::HEADER.saturating_add(offset - offset % xts::CELL as u64);
        match self.lower.reserve(start, lower_end - start) {
            // As posix_fallocate does where there is nothing to reserve with.
            Err(Errno::OPNOTSUPP) if !keep_size => {}
            result => result?,
        }
        if keep_size || end <= self.size {
            Ok(())
        } else {
            self.resize(end)
        }
    }

    /// Turns `length` bytes at `offset` into zeros, giving lower space back where possible. The size stays.
    pub(crate) fn punch(&mut self, offset: u64, length: u64) -> Faulty<()> {
        if !self.writable {
            return Err(Errno::BADF.into());
        }
        if self.layout == Layout::Inline {
            let limit = self.inline.len();
            let at = |position: u64| usize::try_from(position).unwrap_or(limit).min(limit);
            let range = at(offset)..at(offset.saturating_add(length));
            if range.is_empty() {
                return Ok(());
            }
            let mut content = Zeroizing::new(self.inline.to_vec());
            content.get_mut(range).unwrap_or_default().fill(0);
            return self.store_inline(content);
        }
        let plan = xts::plan_punch(self.size, offset, length);
        for part in [plan.head, plan.tail].into_iter().flatten() {
            let length = usize::try_from(part.end - part.start).map_err(|_| Errno::IO)?;
            self.write_units(part.start, &mut vec![0; length])?;
        }
        let Some(hole) = plan.hole else { return Ok(()) };
        match self.lower.punch(hole.start, hole.end - hole.start) {
            Err(Errno::OPNOTSUPP) => {
                // Zero cells are holes, too.
                let zeros = [0; ZEROS];
                let mut at = hole.start;
                while at < hole.end {
                    let count = usize::try_from(hole.end - at).unwrap_or(ZEROS).min(ZEROS);
                    self.lower
                        .write_at(zeros.get(..count).unwrap_or_default(), at)?;
                    at += count as u64;
                }
                Ok(())
            }
            result => Ok(result?),
        }
    }

    /// Where data begins at or behind `offset`.
    pub(crate) fn seek_data(&self, offset: u64) -> Faulty<u64> {
        if offset >= self.size {
            return Err(Errno::NXIO.into());
        }
        if self.layout == Layout::Inline {
            return Ok(offset);
        }
        let found = self.lower.seek_data(size::HEADER.saturating_add(offset))?;
        let found = found.saturating_sub(size::HEADER).max(offset);
        if found < self.size {
            Ok(found)
        } else {
            Err(Errno::NXIO.into())
        }
    }

    /// Where a hole begins at or behind `offset`; at the latest at the end.
    pub(crate) fn seek_hole(&self, offset: u64) -> Faulty<u64> {
        if offset >= self.size {
            return Err(Errno::NXIO.into());
        }
        if self.layout == Layout::Inline {
            return Ok(self.size);
        }
        let found = self.lower.seek_hole(size::HEADER.saturating_add(offset))?;
        Ok(found.saturating_sub(size::HEADER).clamp(offset, self.size))
    }
}
