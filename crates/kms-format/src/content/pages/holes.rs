//! Holes: making and finding them.

use super::super::{Fault, Faulty, File, Lower};
use super::read::{room, small};
use super::{CONTENT, Moment};
use crate::bytes::is_zero;
use crate::file::LengthState;
use crate::gcm;

/// Pages that are looked at together.
const LOOK: u64 = 64;

impl<L: Lower> File<L> {
    pub(in super::super) fn punch_pages(
        &mut self,
        offset: u64,
        length: u64,
    ) -> Faulty<(), L::Error> {
        let offset = offset.min(self.size);
        let end = offset.saturating_add(length).min(self.size);
        let first = gcm::units(offset);
        let last = if end == self.size {
            gcm::units(end)
        } else {
            end / CONTENT
        };
        if first < last {
            self.clear(offset, first * CONTENT)?;
            if last * CONTENT < end {
                self.clear(last * CONTENT, end)?;
            }
            self.punch_units(first, last)
        } else {
            // Within one unit, or over the border of two without covering either.
            let border = (first * CONTENT).clamp(offset, end);
            self.clear(offset, border)?;
            self.clear(border, end)
        }
    }

    /// Writes zeros over bytes of one unit.
    fn clear(&mut self, start: u64, end: u64) -> Faulty<(), L::Error> {
        // A listed hole may have content all the same.
        if start >= end || self.unit(start / CONTENT, self.size)?.1 == 0 {
            return Ok(());
        }
        let zeros = [0; gcm::CONTENT];
        let zeros = zeros.get(..small(end - start)).unwrap_or_default();
        self.write_pages(start, zeros)
    }

    fn punch_units(&mut self, first: u64, last: u64) -> Faulty<(), L::Error> {
        if last == gcm::units(self.size) {
            self.clear_end()?;
        }
        let wanted = self.pages()?.0.holes.with(first..last);
        let holes = self.make_room(wanted)?;
        if !holes.contains(first) {
            // It was the smallest hole, and there are too many: it has zeros now.
            return self.set_holes(holes);
        }
        let pages = self.pages()?.0;
        if let Some(claim) = &pages.claim {
            let vouched = gcm::units(claim.length);
            let listed = claim.holes.with(first.min(vouched)..last.min(vouched));
            if listed != claim.holes || pages.unsure {
                // The loss has to be allowed before it can be met.
                let (state, length) = (claim.state, claim.length);
                let listed = if listed.fits() {
                    listed
                } else {
                    // Holes that were filled need not be listed once what fills them is durable.
                    self.sync_lower()?;
                    holes.clone()
                };
                self.write_claim(state, length, listed)?;
                self.sync_lower()?;
            }
        }
        let pages = self.pages_mut()?;
        pages.lost = Moment::now();
        pages.holes = holes;
        self.punch_lower(gcm::offset(first), gcm::offset(last))
    }

    /// Finds the holes of a file that was found growing.
    pub(super) fn learn(&mut self) -> Faulty<(), L::Error> {
        let end = gcm::units(self.size);
        let Some(mut unit) = self.pages()?.0.unknown else {
            return Ok(());
        };
        while unit < end {
            let data = self.lower.seek_data(gcm::offset(unit));
            let data = data.map_err(Fault::Lower)?.map_or(end, unit_at);
            let data = data.clamp(unit, end);
            self.found_hole(unit, data)?;
            if data == end {
                break;
            }
            let hole = self.lower.seek_hole(gcm::offset(data));
            let hole = hole.map_err(Fault::Lower)?;
            let hole = hole.map_or(end, |at| unit_at(at.next_multiple_of(gcm::PAGE as u64)));
            let hole = hole.clamp(data + 1, end);
            self.look(data, hole)?;
            unit = hole;
        }
        self.pages_mut()?.unknown = None;
        Ok(())
    }

    /// Looks for pages of zeros among those that the lower file system calls data.
    fn look(&mut self, mut from: u64, end: u64) -> Faulty<(), L::Error> {
        let mut buffer = Vec::new();
        while from < end {
            let count = (end - from).min(LOOK);
            let buffer = room(&mut buffer, count);
            self.fetch(from, buffer)?;
            let mut run: Option<u64> = None;
            for (unit, page) in (from..).zip(buffer.as_chunks::<{ gcm::PAGE }>().0) {
                match (is_zero(page), run) {
                    (true, None) => run = Some(unit),
                    (false, Some(start)) => {
                        self.found_hole(start, unit)?;
                        run = None;
                    }
                    _ => {}
                }
            }
            if let Some(start) = run {
                self.found_hole(start, from + count)?;
            }
            from += count;
        }
        Ok(())
    }

    fn found_hole(&mut self, from: u64, end: u64) -> Faulty<(), L::Error> {
        let holes = self.pages()?.0.holes.with(from..end);
        let holes = self.make_room(holes)?;
        self.set_holes(holes)
    }

    pub(in super::super) fn seek_data_pages(&self, offset: u64) -> Faulty<u64, L::Error> {
        let mut unit = offset / CONTENT;
        // What is listed may have content all the same: the lower file knows.
        while let Some(hole) = self.pages()?.0.holes.at_or_after(unit)
            && hole.contains(&unit)
        {
            let data = self.lower.seek_data(gcm::offset(unit));
            unit = match data.map_err(Fault::Lower)?.map(unit_at) {
                Some(data) if data < hole.end => {
                    unit = data;
                    break;
                }
                _ => hole.end,
            };
        }
        let found = unit.saturating_mul(CONTENT).max(offset);
        if found < self.size {
            Ok(found)
        } else {
            Err(Fault::NoData)
        }
    }

    pub(in super::super) fn seek_hole_pages(&self, offset: u64) -> Faulty<u64, L::Error> {
        let mut unit = offset / CONTENT;
        while let Some(hole) = self.pages()?.0.holes.at_or_after(unit) {
            unit = unit.max(hole.start);
            let found = self.lower.seek_hole(gcm::offset(unit));
            match found.map_err(Fault::Lower)?.map(unit_at) {
                Some(found) if found < hole.end => {
                    return Ok(found.saturating_mul(CONTENT).clamp(offset, self.size));
                }
                _ => unit = hole.end,
            }
        }
        Ok(self.size)
    }

    /// Whether the header says less than there is: the length of a file that is not being written should be exact.
    pub fn unfinished(&self) -> bool {
        match self.pages() {
            Ok((pages, _)) => pages.claim.as_ref().is_some_and(|claim| {
                claim.state != LengthState::Exact || pages.unsure || claim.holes != pages.holes
            }),
            Err(_) => false,
        }
    }
}

/// The unit that a lower offset behind the header page lies in.
fn unit_at(offset: u64) -> u64 {
    (offset / gcm::PAGE as u64).saturating_sub(1)
}
