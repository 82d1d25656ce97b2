//! From inline to units and back (FORMAT.md section 5.4).

use zeroize::Zeroizing;

use super::{Fault, Faulty, File, Lower, SCRATCH, Units};
use crate::file::{self, Layout};
use crate::{ContentMode, FormatError, size, xts};

impl<L: Lower> File<L> {
    /// The first write of a new file, too large for the header page: header and units in one lower write.
    pub(super) fn write_first(&mut self, data: &mut [u8]) -> Faulty<(), L::Error> {
        let plan = xts::plan_write(0, 0, data.len())?;
        let mut page = [0; file::PAGE];
        let (header, keys) = self.sealed()?;
        header.write_units(keys, &mut page)?;
        self.start_units()?;
        let cipher = self.cipher()?;
        let written = match plan.in_place() {
            Some(unit) => {
                cipher.encrypt_units(unit, data)?;
                self.lower.write_pair_at(&page, data, 0)
            }
            None => SCRATCH.with_borrow_mut(|scratch| {
                let sealed = cipher.seal_write(&plan, data, None, None, scratch)?;
                Ok::<_, FormatError>(self.lower.write_pair_at(&page, sealed, 0))
            })?,
        };
        if let Err(error) = written {
            let _ = self.lower.set_size(0);
            (self.sealed, self.units) = (None, Units::None);
            return Err(Fault::Lower(error));
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
        change: impl FnOnce(&mut Self) -> Faulty<(), L::Error>,
    ) -> Faulty<(), L::Error> {
        let (old_size, old_lower) = (self.size, self.lower_size);
        let moved = self.spill_units(covered, change);
        if moved.is_err() {
            // The header still says inline, and has the content.
            (self.size, self.lower_size) = (old_size, old_lower);
            self.layout = Layout::Inline;
            let _ = self.lower.set_size(old_lower.min(size::HEADER));
            // If it was the header that failed, it may say otherwise.
            self.restore_inline(old_lower);
            self.units = Units::None;
            if old_lower == 0 {
                (self.sealed, self.units) = (None, Units::None);
            }
        } else {
            self.inline = Zeroizing::default();
        }
        moved
    }

    fn spill_units(
        &mut self,
        covered: bool,
        change: impl FnOnce(&mut Self) -> Faulty<(), L::Error>,
    ) -> Faulty<(), L::Error> {
        self.layout = Layout::Units;
        (self.size, self.lower_size) = (0, size::HEADER);
        self.start_units()?;
        if self.synced {
            // Cells that a conversion left behind when it was killed would show in the holes of this one.
            self.set_lower_size(size::HEADER)?;
        }
        if !covered && !self.inline.is_empty() {
            let mut old = self.inline.clone();
            self.write_units(0, &mut old)?;
        }
        change(self)?;
        // Content in the header page may be durable without an fsync of ours: sync(2) does not reach a FUSE file system,
        // but it does reach the lower one.
        let held = !self.inline.is_empty();
        if held {
            // Now the units are made durable, and mode gcm vouches for them: what goes later has to go durably, too.
            self.synced = true;
        }
        match self.policy.mode() {
            ContentMode::Xts => {
                if self.synced {
                    self.sync_lower()?;
                }
                let mut page = [0; file::PAGE];
                let (header, keys) = self.sealed()?;
                header.write_units(keys, &mut page)?;
                self.write_lower(&page, 0)
            }
            ContentMode::Gcm => {
                // There is nothing to lose if the content was empty.
                if held {
                    self.sync_lower()?;
                }
                self.first_claim(held)
            }
        }
    }

    /// From units to an empty inline file: the header first.
    pub(super) fn empty(&mut self) -> Faulty<(), L::Error> {
        if self.synced && self.policy.mode() == ContentMode::Gcm {
            self.clear_end()?;
        }
        let mut page = [0; file::PAGE];
        let before = self.sealed()?.0.clone();
        self.everything_is_new()?;
        let (header, keys) = self.sealed()?;
        header.write_inline(keys, &[], &mut page)?;
        if let Err(fault) = self.write_lower(&page, 0) {
            self.sealed()?.0.clone_from(&before);
            self.doubt_header();
            return Err(fault);
        }
        // From here on the header says "empty", whatever the size says.
        self.layout = Layout::Inline;
        self.units = Units::None;
        self.inline = Zeroizing::default();
        self.size = 0;
        if self.synced && (self.policy.mode() == ContentMode::Gcm || self.reencrypting()) {
            // The loss has to be allowed before it can be met.
            self.sync_lower()?;
        }
        self.set_lower_size(size::HEADER)?;
        self.lower_size = size::HEADER;
        Ok(())
    }
}
