//! Writing units.

use std::ops::Range;

use super::super::reencrypt::Keyring;
use super::super::{Fault, Faulty, File, Lower, SCRATCH, Units};
use super::read::{Content, room, small, touched};
use super::{CONTENT, Pages};
use crate::bytes::is_zero;
use crate::file::{self, Layout, LengthState};
use crate::gcm::{self, HoleList};
use crate::{FormatError, size};

/// How many pages of zeros are written at a time.
const FILL: u64 = 256;
/// The largest hole that is filled, in units of 4064 bytes, when there are too many.
const FILLED_AT_MOST: u64 = (64 << 20) / CONTENT;

impl<L: Lower> File<L> {
    /// Writes `data` as units; the file grows if need be.
    pub(in super::super) fn write_pages(
        &mut self,
        offset: u64,
        data: &[u8],
    ) -> Faulty<(), L::Error> {
        let old = self.size;
        let new = old.max(offset.saturating_add(data.len() as u64));
        let written = self.try_write_pages(offset, data, new);
        if written.is_err() && new > old {
            // Part of it may be there, with a lower size that means another length.
            self.restore_size();
        }
        written
    }

    fn try_write_pages(&mut self, offset: u64, data: &[u8], new: u64) -> Faulty<(), L::Error> {
        let units = touched(offset, offset + data.len() as u64);
        let gap = gcm::units(self.size)..units.start;
        let grows = new > self.size;
        if grows {
            self.begin_growth()?;
        } else if units.end == gcm::units(self.size) {
            self.clear_end()?;
        }
        let holes = self.pages()?.0.holes.with(gap).without(units.clone());
        let holes = self.make_room(holes)?;
        self.seal_and_write(offset, data, new, units.clone())?;
        if grows {
            let lower_size = size::gcm_lower_size(new)?;
            if lower_size != self.lower_size.max(gcm::offset(units.end)) {
                self.set_lower_size(lower_size)?;
            }
            (self.size, self.lower_size) = (new, lower_size);
        }
        self.set_holes(holes)
    }

    fn seal_and_write(
        &self,
        offset: u64,
        data: &[u8],
        new: u64,
        units: Range<u64>,
    ) -> Faulty<(), L::Error> {
        let (pages, keys) = self.pages()?;
        // What stays of the first unit and of the last.
        let head = self.kept(units.start, offset, data.len())?;
        let tail = match units.end - 1 {
            last if last > units.start => self.kept(last, offset, data.len())?,
            _ => None,
        };
        SCRATCH.with_borrow_mut(|scratch| {
            let buffer = room(scratch, units.end - units.start);
            pages.seal(keys, &units, (offset, data, new), (head, tail), buffer)?;
            self.write_lower(buffer, gcm::offset(units.start))
        })
    }

    /// The content of a unit, if a write leaves some of it as it is.
    fn kept(&self, unit: u64, offset: u64, length: usize) -> Faulty<Option<Box<Kept>>, L::Error> {
        let start = unit * CONTENT;
        let end = self.size.min(start + CONTENT);
        if start >= self.size || (offset <= start && offset + length as u64 >= end) {
            return Ok(None);
        }
        let (content, _) = self.unit(unit, self.size)?;
        Ok(Some(Box::new(content)))
    }

    /// Before the first change above the end: the header allows for it.
    pub(super) fn begin_growth(&mut self) -> Faulty<(), L::Error> {
        let pages = self.pages()?.0;
        if let Some(claim) = &pages.claim
            && (claim.state == LengthState::Exact || pages.unsure)
        {
            let (length, holes) = (claim.length, claim.holes.clone());
            self.write_claim(LengthState::Growing, length, holes)?;
        }
        self.clear_end()
    }

    /// Before the first change of the size or of the last unit: what a stop left behind the end of the file goes, durably,
    /// lest it comes back as content.
    pub(in super::super) fn clear_end(&mut self) -> Faulty<(), L::Error> {
        if !self.pages()?.0.checked {
            let cut = self.cut_pad()?;
            let hidden = match self.hide_tail() {
                // Who reads it is told; it may be overwritten or cut.
                Err(Fault::Damage(_)) => false,
                hidden => hidden?,
            };
            if cut || hidden {
                self.sync_lower()?;
            }
            self.pages_mut()?.checked = true;
        }
        Ok(())
    }

    /// The bytes behind the last page only stand for a number. If they are what is left of a page, they go.
    fn cut_pad(&mut self) -> Faulty<bool, L::Error> {
        let end = gcm::offset(gcm::units(self.size));
        let mut pad = vec![0; small(self.lower_size.saturating_sub(end)).min(gcm::PAGE)];
        let got = self.lower.read_at(&mut pad, end).map_err(Fault::Lower)?;
        if is_zero(pad.get(..got).unwrap_or_default()) {
            return Ok(false);
        }
        self.set_lower_size(end)?;
        self.set_lower_size(self.lower_size)?;
        Ok(true)
    }

    /// Seals the last unit again if its page holds bytes from behind the end of the file.
    pub(super) fn hide_tail(&mut self) -> Faulty<bool, L::Error> {
        let (unit, used) = (self.size / CONTENT, small(self.size % CONTENT));
        if used == 0 {
            return Ok(false);
        }
        let (content, sealed) = self.unit(unit, self.size)?;
        if sealed <= used {
            return Ok(false);
        }
        let (pages, keys) = self.pages()?;
        let mut page = [0; gcm::PAGE];
        let used = content.get(..used).unwrap_or_default();
        pages.range(keys, unit)?.seal(unit, used, &mut page)?;
        self.write_lower(&page, gcm::offset(unit))?;
        Ok(true)
    }

    /// After a failure: the lower size is again what the size says.
    pub(super) fn restore_size(&mut self) {
        if let Ok(pages) = self.pages_mut() {
            pages.checked = false;
        }
        let _ = self.lower.set_size(gcm::offset(gcm::units(self.size)));
        let _ = self.lower.set_size(self.lower_size);
    }

    /// If there are more holes than a header can list, the smallest are filled with zeros.
    pub(super) fn make_room(&self, mut holes: HoleList) -> Faulty<HoleList, L::Error> {
        while !holes.fits() {
            let smallest = holes.smallest().unwrap_or_default();
            if smallest.end - smallest.start > FILLED_AT_MOST {
                return Err(Fault::Holes);
            }
            self.fill(smallest.clone())?;
            holes = holes.without(smallest);
        }
        Ok(holes)
    }

    /// Writes sealed zeros.
    pub(super) fn fill(&self, units: Range<u64>) -> Faulty<(), L::Error> {
        let (pages, keys) = self.pages()?;
        let zeros = [0; gcm::CONTENT];
        SCRATCH.with_borrow_mut(|scratch| {
            let mut from = units.start;
            while from < units.end {
                let count = (units.end - from).min(FILL);
                let buffer = room(scratch, count);
                for (unit, page) in (from..).zip(buffer.as_chunks_mut().0) {
                    pages.range(keys, unit)?.seal(unit, &zeros, page)?;
                }
                self.write_lower(buffer, gcm::offset(from))?;
                from += count;
            }
            Ok(())
        })
    }

    /// The first write of a new file, too large for the header page: header and units in one lower write.
    pub(in super::super) fn write_first_pages(&mut self, data: &[u8]) -> Faulty<(), L::Error> {
        let new = data.len() as u64;
        let lower_size = size::gcm_lower_size(new)?;
        let mut header_page = [0; file::PAGE];
        let none = HoleList::default();
        let (header, keys) = self.sealed()?;
        header.write_units_gcm(keys, 0, LengthState::Growing, &none, &mut header_page)?;
        let mut pages = Pages::new();
        pages.claim = Some(super::Claim {
            state: LengthState::Growing,
            length: 0,
            holes: none,
        });
        let units = touched(0, new);
        let (_, now) = self.sealed.as_ref().ok_or(super::NO_PAGES)?;
        let keys = Keyring { now, former: None };
        let written = SCRATCH.with_borrow_mut(|scratch| {
            let buffer = room(scratch, units.end);
            pages.seal(keys, &units, (0, data, new), (None, None), buffer)?;
            let pair = self.lower.write_pair_at(&header_page, buffer, 0);
            let sized = pair.and_then(|()| {
                if lower_size == gcm::offset(units.end) {
                    Ok(())
                } else {
                    self.lower.set_size(lower_size)
                }
            });
            sized.map_err(Fault::Lower)
        });
        if let Err(fault) = written {
            self.restore_inline(self.lower_size);
            if self.lower_size == 0 {
                (self.sealed, self.units) = (None, Units::None);
            }
            return Err(fault);
        }
        self.layout = Layout::Units;
        self.units = Units::Pages(pages);
        (self.size, self.lower_size) = (new, lower_size);
        Ok(())
    }
}

type Kept = zeroize::Zeroizing<Content>;

impl Pages {
    /// Seals `data`, which goes to `offset` of a file that will have `size` bytes, into a page for each of `units`. Of the
    /// first and last unit the old content may stay around it.
    fn seal(
        &self,
        keys: Keyring<'_>,
        units: &Range<u64>,
        (offset, data, size): (u64, &[u8], u64),
        (mut head, mut tail): (Option<Box<Kept>>, Option<Box<Kept>>),
        buffer: &mut [u8],
    ) -> Result<(), FormatError> {
        let end = offset + data.len() as u64;
        for (unit, page) in (units.start..).zip(buffer.as_chunks_mut().0) {
            let start = unit * CONTENT;
            let range = self.range(keys, unit)?;
            let (from, to) = (offset.max(start), end.min(start + CONTENT));
            let part = data
                .get(small(from - offset)..small(to - offset))
                .unwrap_or_default();
            let length = small((size - start).min(CONTENT));
            if part.len() == length {
                range.seal(unit, part, page)?;
                continue;
            }
            let kept = if unit == units.start {
                head.take()
            } else {
                tail.take()
            };
            let mut content = kept.unwrap_or_else(|| Box::new(Kept::new([0; gcm::CONTENT])));
            if let Some(place) = content.get_mut(small(from - start)..small(to - start)) {
                place.copy_from_slice(part);
            }
            range.seal(unit, content.get(..length).unwrap_or_default(), page)?;
        }
        Ok(())
    }
}
