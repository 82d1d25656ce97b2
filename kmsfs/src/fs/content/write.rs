//! Writing content.

use kms_format::file::{self, INLINE_MAX, Layout};
use kms_format::{SizeError, size, xts};
use zeroize::Zeroizing;

use super::{Faulty, OpenFile, SCRATCH};
use crate::errno::Errno;

impl OpenFile {
    /// Writes all of `data`, which may be encrypted where it is.
    pub(crate) fn write(&mut self, offset: u64, data: &mut [u8]) -> Faulty<()> {
        if !self.writable {
            return Err(Errno::BADF.into());
        }
        if data.is_empty() {
            return Ok(());
        }
        let end = offset.checked_add(data.len() as u64);
        let end = end.ok_or(SizeError::TooLarge { size: u64::MAX })?;
        size::xts_lower_size(end)?;
        if self.layout == Layout::Units {
            return self.write_units(offset, data);
        }
        if end <= INLINE_MAX as u64 {
            return self.write_inline(offset, data);
        }
        if self.sealed.is_none() && self.lower_size == 0 && offset == 0 {
            return self.write_first(data);
        }
        let covered = offset == 0 && end >= self.size;
        self.spill(covered, |this| this.write_units(offset, data))
    }

    fn write_inline(&mut self, offset: u64, data: &[u8]) -> Faulty<()> {
        let start = usize::try_from(offset).map_err(|_| Errno::FBIG)?;
        let end = start + data.len();
        let mut content = Zeroizing::new(Vec::with_capacity(self.inline.len().max(end)));
        content.extend_from_slice(&self.inline);
        if content.len() < end {
            content.resize(end, 0);
        }
        if let Some(place) = content.get_mut(start..end) {
            place.copy_from_slice(data);
        }
        self.store_inline(content)
    }

    /// The first write of a new file, too large for the header page: header and units in one lower write.
    fn write_first(&mut self, data: &mut [u8]) -> Faulty<()> {
        let plan = xts::plan_write(0, 0, data.len())?;
        let mut page = [0; file::PAGE];
        let (header, keys) = self.sealed()?;
        header.write_units(keys, &mut page)?;
        self.cipher()?;
        let cipher = self.cipher.as_ref().ok_or(Errno::IO)?;
        let written = match plan.in_place() {
            Some(unit) => {
                cipher.encrypt_units(unit, data)?;
                self.lower.write_pair_at(&page, data, 0)
            }
            None => SCRATCH.with_borrow_mut(|scratch| {
                let sealed = cipher.seal_write(&plan, data, None, None, scratch)?;
                Ok::<_, kms_format::FormatError>(self.lower.write_pair_at(&page, sealed, 0))
            })?,
        };
        if let Err(errno) = written {
            let _ = self.lower.truncate(0);
            (self.sealed, self.cipher) = (None, None);
            return Err(errno.into());
        }
        self.layout = Layout::Units;
        self.size = plan.new_size;
        self.lower_size = size::xts_lower_size(plan.new_size)?;
        Ok(())
    }

    /// From inline to units: the old content (unless it is `covered` by what follows), `change`, and then the header that says so.
    /// If any of it fails, everything is as before.
    pub(super) fn spill(
        &mut self,
        covered: bool,
        change: impl FnOnce(&mut OpenFile) -> Faulty<()>,
    ) -> Faulty<()> {
        let (old_size, old_lower) = (self.size, self.lower_size);
        let moved = self.spill_units(covered, change);
        if moved.is_err() {
            // The header still says inline, and has the content.
            (self.size, self.lower_size) = (old_size, old_lower);
            self.layout = Layout::Inline;
            let _ = self.lower.truncate(old_lower.min(size::HEADER));
            let _ = self.lower.truncate(old_lower);
            if old_lower == 0 {
                (self.sealed, self.cipher) = (None, None);
            }
        } else {
            self.inline = Zeroizing::default();
        }
        moved
    }

    fn spill_units(
        &mut self,
        covered: bool,
        change: impl FnOnce(&mut OpenFile) -> Faulty<()>,
    ) -> Faulty<()> {
        self.layout = Layout::Units;
        (self.size, self.lower_size) = (0, size::HEADER);
        self.cipher()?;
        if self.synced {
            // Cells that a conversion left behind when it was killed would show in the holes of this one.
            self.lower.truncate(size::HEADER)?;
        }
        if !covered && !self.inline.is_empty() {
            let mut old = self.inline.clone();
            self.write_units(0, &mut old)?;
        }
        change(self)?;
        if self.synced {
            self.lower.sync_data()?;
        }
        let mut page = [0; file::PAGE];
        let (header, keys) = self.sealed()?;
        header.write_units(keys, &mut page)?;
        self.lower.write_at(&page, 0)?;
        Ok(())
    }

    pub(super) fn write_units(&mut self, offset: u64, data: &mut [u8]) -> Faulty<()> {
        let plan = xts::plan_write(self.size, offset, data.len())?;
        if let Some(fix) = &plan.tail_fix {
            self.fix_tail(fix)?;
        }
        let cipher = self.cipher.as_ref().ok_or(Errno::IO)?;
        let written = if let Some(unit) = plan.in_place() {
            cipher.encrypt_units(unit, data)?;
            self.lower.write_at(data, plan.lower_offset)
        } else {
            let head = plan.head.map(|at| self.cell(at)).transpose()?;
            let tail = plan.tail.map(|at| self.cell(at)).transpose()?;
            SCRATCH.with_borrow_mut(|scratch| {
                let bytes =
                    cipher.seal_write(&plan, data, head.as_ref(), tail.as_ref(), scratch)?;
                Ok::<_, kms_format::FormatError>(self.lower.write_at(bytes, plan.lower_offset))
            })?
        };
        let written = written.and_then(|()| match plan.truncate {
            Some(lower_size) => self.lower.truncate(lower_size),
            None => Ok(()),
        });
        if let Err(errno) = written {
            // Part of it may be there, with a lower size that means another length.
            if plan.new_size != plan.old_size {
                let _ = self.lower.truncate(self.lower_size);
            }
            return Err(errno.into());
        }
        self.size = plan.new_size;
        self.lower_size = size::xts_lower_size(plan.new_size)?;
        Ok(())
    }

    pub(super) fn fix_tail(&self, fix: &xts::TailFix) -> Faulty<()> {
        let cipher = self.cipher.as_ref().ok_or(Errno::IO)?;
        let bytes = cipher.seal_tail(fix, self.cell(fix.lower_offset)?)?;
        Ok(self.lower.write_at(&bytes, fix.lower_offset)?)
    }

    /// A lower cell; zeros where the lower file is shorter.
    fn cell(&self, at: u64) -> Faulty<xts::Cell> {
        let mut cell = [0; xts::CELL];
        if self.lower.read_at(&mut cell, at)? < xts::CELL {
            cell = [0; xts::CELL];
        }
        Ok(cell)
    }
}
