//! Units of mode xts (FORMAT.md section 5.4).

use super::{Fault, Faulty, File, Lower, SCRATCH, Units};
use crate::{FormatError, size, xts};

const ZEROS: usize = 64 * 1024;

impl<L: Lower> File<L> {
    pub(super) fn cipher(&self) -> Result<&xts::Content, FormatError> {
        match &self.units {
            Units::Cells(cipher) => Ok(cipher),
            _ => Err(FormatError::Misuse("a file in units has a cipher")),
        }
    }

    /// Reads, one key after the other.
    pub(super) fn read_cells(&self, offset: u64, out: &mut [u8]) -> Faulty<usize, L::Error> {
        let mut done = 0;
        loop {
            let at = offset.saturating_add(done as u64);
            let rest = out.get_mut(done..).unwrap_or_default();
            if rest.is_empty() || at >= self.size {
                return Ok(done);
            }
            let (cipher, end) = self.cipher_at(at)?;
            let most = usize::try_from(end.saturating_sub(at)).unwrap_or(usize::MAX);
            let part = rest.get_mut(..most.min(rest.len()));
            match self.read_run(cipher, at, part.unwrap_or_default())? {
                0 => return Ok(done),
                got => done = done.saturating_add(got),
            }
        }
    }

    fn read_run(
        &self,
        cipher: &xts::Content,
        offset: u64,
        out: &mut [u8],
    ) -> Faulty<usize, L::Error> {
        let plan = xts::plan_read(self.size, offset, out.len());
        if plan.lower_len == 0 {
            return Ok(0);
        }
        let read = |buffer: &mut [u8]| {
            let got = self.lower.read_at(buffer, plan.lower_offset);
            let got = got.map_err(Fault::Lower)?;
            Ok::<_, Fault<L::Error>>(cipher.open_read(&plan, buffer, got)?)
        };
        if plan.skip == 0 && plan.lower_len <= out.len() {
            read(out.get_mut(..plan.lower_len).unwrap_or_default())?;
            return Ok(plan.take);
        }
        SCRATCH.with_borrow_mut(|scratch| {
            if scratch.len() < plan.lower_len {
                scratch.resize(plan.lower_len, 0);
            }
            let buffer = scratch.get_mut(..plan.lower_len).unwrap_or_default();
            let range = read(buffer)?;
            let plain = buffer.get(range).unwrap_or_default();
            if let Some(out) = out.get_mut(..plain.len()) {
                out.copy_from_slice(plain);
            }
            Ok(plain.len())
        })
    }

    /// Writes, one key after the other: as if the part below the border had been written alone.
    pub(super) fn write_cells(&mut self, offset: u64, data: &mut [u8]) -> Faulty<(), L::Error> {
        let below = self.border_of_cells().saturating_sub(offset);
        match usize::try_from(below) {
            Ok(below) if below > 0 && below < data.len() => {
                let (old_size, border) = (self.size, offset.saturating_add(below as u64));
                let (first, second) = data.split_at_mut(below);
                self.write_run(offset, first)?;
                let written = self.write_run(border, second);
                if written.is_err() && self.size > old_size {
                    let _ = self.resize_cells(old_size);
                }
                written
            }
            _ => self.write_run(offset, data),
        }
    }

    fn write_run(&mut self, offset: u64, data: &mut [u8]) -> Faulty<(), L::Error> {
        let plan = xts::plan_write(self.size, offset, data.len())?;
        if let Some(fix) = &plan.tail_fix {
            self.fix_tail(fix)?;
        }
        let (cipher, _) = self.cipher_at(offset)?;
        let written = if let Some(unit) = plan.in_place() {
            cipher.encrypt_units(unit, data)?;
            self.lower.write_at(data, plan.lower_offset)
        } else {
            let head = plan.head.map(|at| self.cell(at)).transpose()?;
            let tail = plan.tail.map(|at| self.cell(at)).transpose()?;
            SCRATCH.with_borrow_mut(|scratch| {
                let bytes =
                    cipher.seal_write(&plan, data, head.as_ref(), tail.as_ref(), scratch)?;
                Ok::<_, FormatError>(self.lower.write_at(bytes, plan.lower_offset))
            })?
        };
        let written = written.and_then(|()| match plan.truncate {
            Some(lower_size) => self.lower.set_size(lower_size),
            None => Ok(()),
        });
        if let Err(error) = written {
            // Part of it may be there, with a lower size that means another length.
            if plan.new_size != plan.old_size {
                let _ = self.lower.set_size(self.lower_size);
            }
            return Err(Fault::Lower(error));
        }
        self.size = plan.new_size;
        self.lower_size = size::xts_lower_size(plan.new_size)?;
        Ok(())
    }

    pub(super) fn resize_cells(&mut self, new: u64) -> Faulty<(), L::Error> {
        let plan = xts::plan_resize(self.size, new)?;
        if let Some(fix) = &plan.before {
            self.fix_tail(fix)?;
        }
        self.set_lower_size(plan.truncate)?;
        self.size = new;
        self.lower_size = plan.truncate;
        if let Some(fix) = &plan.after {
            self.fix_tail(fix)?;
        }
        Ok(())
    }

    pub(super) fn punch_cells(&mut self, offset: u64, length: u64) -> Faulty<(), L::Error> {
        let plan = xts::plan_punch(self.size, offset, length);
        for part in [plan.head, plan.tail].into_iter().flatten() {
            let length = part.end.saturating_sub(part.start);
            let length = usize::try_from(length).map_err(|_| Fault::TooLarge)?;
            self.write_cells(part.start, &mut vec![0; length])?;
        }
        match plan.hole {
            Some(hole) => self.punch_lower(hole.start, hole.end),
            None => Ok(()),
        }
    }

    /// Turns lower bytes into zeros, giving their space back if possible.
    pub(super) fn punch_lower(&self, start: u64, end: u64) -> Faulty<(), L::Error> {
        let length = end.saturating_sub(start);
        if self.lower.punch(start, length).map_err(Fault::Lower)? {
            return Ok(());
        }
        // Written zeros are a hole, too.
        let zeros = [0; ZEROS];
        let mut at = start;
        while at < end {
            let left = end.saturating_sub(at);
            let count = usize::try_from(left).unwrap_or(ZEROS).min(ZEROS);
            self.write_lower(zeros.get(..count).unwrap_or_default(), at)?;
            at = at.saturating_add(count as u64);
        }
        Ok(())
    }

    fn fix_tail(&self, fix: &xts::TailFix) -> Faulty<(), L::Error> {
        let (cipher, _) = self.cipher_at(fix.lower_offset.saturating_sub(size::HEADER))?;
        let bytes = cipher.seal_tail(fix, self.cell(fix.lower_offset)?)?;
        self.write_lower(&bytes, fix.lower_offset)
    }

    /// A lower cell; zeros where the lower file is shorter.
    fn cell(&self, at: u64) -> Faulty<xts::Cell, L::Error> {
        let mut cell = [0; xts::CELL];
        if self.lower.read_at(&mut cell, at).map_err(Fault::Lower)? < xts::CELL {
            cell = [0; xts::CELL];
        }
        Ok(cell)
    }
}
