//! Changing the size.

use super::super::{Fault, Faulty, File, Lower};
use super::read::small;
use super::{CONTENT, Moment};
use crate::file::LengthState;
use crate::{gcm, size};

impl<L: Lower> File<L> {
    pub(in super::super) fn resize_pages(&mut self, new: u64) -> Faulty<(), L::Error> {
        let lower_size = size::gcm_lower_size(new)?;
        if new < self.size {
            return self.shrink_pages(new, lower_size);
        }
        if new > self.size {
            let grown = self.grow_pages(new, lower_size);
            if grown.is_err() {
                self.restore_size();
            }
            return grown;
        }
        // Only the time changes.
        self.set_lower_size(lower_size)?;
        self.lower_size = lower_size;
        Ok(())
    }

    fn grow_pages(&mut self, new: u64, lower_size: u64) -> Faulty<(), L::Error> {
        let gap = gcm::units(self.size)..gcm::units(new);
        self.begin_growth()?;
        let holes = self.pages()?.0.holes.with(gap);
        let holes = self.make_room(holes)?;
        if new.is_multiple_of(CONTENT) && gcm::units(self.size) == gcm::units(new) {
            self.reach(new)?;
        }
        self.set_lower_size(lower_size)?;
        (self.size, self.lower_size) = (new, lower_size);
        self.set_holes(holes)
    }

    /// Seals the last unit that a file of `end` bytes has with all the zeros that belong to it. Where a lower file ends with
    /// a page after an unclean stop, its sealed length is taken for the end of the content.
    fn reach(&self, end: u64) -> Faulty<(), L::Error> {
        let Some(unit) = gcm::units(end).checked_sub(1) else {
            return Ok(());
        };
        let needed = small(end - unit * CONTENT);
        let (content, sealed) = match self.unit(unit, self.size) {
            // Who reads it is told.
            Err(Fault::Damage(_)) => return Ok(()),
            unit => unit?,
        };
        // A hole reaches as far as the size.
        if sealed == 0 || sealed >= needed {
            return Ok(());
        }
        let (pages, keys) = self.pages()?;
        let mut page = [0; gcm::PAGE];
        let content = content.get(..needed).unwrap_or_default();
        pages.range(keys, unit)?.seal(unit, content, &mut page)?;
        self.write_lower(&page, gcm::offset(unit))
    }

    fn shrink_pages(&mut self, new: u64, lower_size: u64) -> Faulty<(), L::Error> {
        if self.synced {
            self.clear_end()?;
        }
        let pages = self.pages()?.0;
        if let Some(claim) = &pages.claim
            && (claim.length > new || pages.unsure)
        {
            // The loss has to be allowed before it can be met.
            let (length, holes) = (claim.length.min(new), claim.holes.clone());
            self.write_claim(LengthState::Growing, length, holes)?;
            self.sync_lower()?;
        }
        self.reach(new)?;
        let pages = self.pages_mut()?;
        pages.lost = Moment::now();
        let end = gcm::units(new);
        pages.holes = pages.holes.without(end..u64::MAX);
        // First to the end of a page: what remains behind it would not be zeros when the file grows again.
        self.set_lower_size(gcm::offset(end))?;
        (self.size, self.lower_size) = (end * CONTENT, gcm::offset(end));
        self.set_lower_size(lower_size)?;
        (self.size, self.lower_size) = (new, lower_size);
        // Not needed, since readers stop at the end: drops what was cut early. Damage shows when it is read.
        if self.hide_tail().is_err() {
            self.pages_mut()?.checked = false;
        }
        Ok(())
    }
}
