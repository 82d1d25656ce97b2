//! A new file key and new content, in place (FORMAT.md section 6.3).
//!
//! Units below the watermark in the header are under the new key, those from there on under the old one. In mode xts those
//! that are just being written anew have digests in the header, which tell the two apart after a stop; in mode gcm each page
//! says itself which key it is under.
#![allow(
    clippy::arithmetic_side_effects,
    reason = "offsets are at most those of the largest file: checked where they come in"
)]

mod cells;
mod pages;

use std::sync::Arc;

pub(super) use self::pages::Keyring;
use super::pages::Ranges;
use super::{Fault, Faulty, File, Lower, Units};
use crate::file::{self, Digest, EVERYTHING, Layout};
use crate::{ContentMode, FileHeader, FileKeys, FormatError, UnlockedPolicy, gcm, xts};

/// What is under the old key.
pub(super) struct Former {
    pub(super) keys: FileKeys,
    /// Mode xts, in units.
    pub(super) cells: Option<xts::Content>,
    /// Mode gcm.
    pub(super) ranges: Ranges,
    /// Mode xts: of the units from the watermark on, as many as are being written anew.
    window: Vec<Digest>,
    /// The header in the lower file, or the one that is durable, may be older than the watermark: before content changes
    /// it is written, durably.
    owed: bool,
    /// The slot of the new key may not be durable.
    unpublished: bool,
}

/// How far a re-encryption is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// There is more content to do.
    More {
        /// Bytes that this step wrote anew.
        bytes: u64,
        /// Bytes that are left, holes included.
        left: u64,
    },
    /// All content is under the new key.
    Content {
        /// Bytes that this step wrote anew.
        bytes: u64,
    },
}

const NONE: FormatError = FormatError::Misuse("the file is not being re-encrypted");

impl Former {
    pub(super) fn open(
        header: &FileHeader,
        policy: &UnlockedPolicy,
        new: &FileKeys,
        body: &[u8],
    ) -> Result<Option<Self>, FormatError> {
        let keys = header.unlock_former(policy)?;
        if keys.same_as(new) {
            return Ok(None);
        }
        let cells = header.layout() == Layout::Units && header.mode() == ContentMode::Xts;
        Ok(Some(Self {
            window: if cells {
                file::window(body)?
            } else {
                Vec::new()
            },
            cells: if cells { Some(keys.xts()?) } else { None },
            ranges: Ranges::default(),
            keys,
            // Whoever closed the file may have left a header that is not durable.
            owed: true,
            unpublished: true,
        }))
    }
}

impl<L: Lower> File<L> {
    /// Whether the file has a key of another policy, or of another generation, than this: or is on its way to a new one.
    pub fn is_behind(&self, policy: &UnlockedPolicy) -> bool {
        self.sealed.as_ref().is_some_and(|(header, _)| {
            header.reencrypted().is_some()
                || header.lineage() != (policy.policy(), policy.generation())
        })
    }

    /// How the file is encrypted.
    pub fn mode(&self) -> ContentMode {
        self.policy.mode()
    }

    /// Whether a re-encryption has begun and has not ended.
    pub fn reencrypting(&self) -> bool {
        self.sealed
            .as_ref()
            .is_some_and(|(header, _)| header.reencrypted().is_some())
    }

    /// The old keys of a file that is being re-encrypted: attributes may be under them still.
    pub fn former_keys(&self) -> Option<&FileKeys> {
        self.former.as_ref().map(|former| &former.keys)
    }

    /// Gives the file a new key, wrapped under `to`, durably. From here on attributes are set under it; content follows step
    /// by step. Does nothing if that has happened already.
    ///
    /// # Errors
    /// [`Fault::ReadOnly`], [`Fault::Damage`]; the lower file system's.
    pub fn begin_reencryption(&mut self, to: &Arc<UnlockedPolicy>) -> Faulty<(), L::Error> {
        self.check_writable()?;
        if !self.reencrypting() {
            self.exchange_keys(to)?;
        }
        if self.has_cells() {
            // The header is written with the first step.
            return self.announce();
        }
        self.publish()
    }

    /// The whole re-encryption of a file whose content is in its header page, or which has none: one write. Only for a file
    /// that has no attributes under its old key. Says whether that was possible.
    ///
    /// # Errors
    /// [`Fault::ReadOnly`], [`Fault::Damage`]; the lower file system's.
    pub fn reencrypt_inline(&mut self, to: &Arc<UnlockedPolicy>) -> Faulty<bool, L::Error> {
        self.check_writable()?;
        if self.layout != Layout::Inline || self.reencrypting() || self.sealed.is_none() {
            return Ok(false);
        }
        let (before, _) = self.sealed()?;
        let before = before.clone();
        self.exchange_keys(to)?;
        let former = self.former.take();
        let written = self.write_ended();
        if let (Err(_), Some(former)) = (&written, former) {
            // Either page may be there, and both are good; the old one, to go on with.
            self.sealed = Some((before, former.keys));
            let _ = self.write_header();
        }
        written?;
        self.sync_lower()?;
        Ok(true)
    }

    /// Writes up to `units` units anew (at most [`file::WINDOW`]), durably. To be called until there are no more; anything else may happen
    /// to the file in between.
    ///
    /// # Errors
    /// [`Fault::ReadOnly`], [`Fault::Damage`]; the lower file system's. The file is in order, and the step can be tried again.
    pub fn reencrypt_step(&mut self, units: usize) -> Faulty<Progress, L::Error> {
        self.check_writable()?;
        if self.reencrypted()? == EVERYTHING {
            return Ok(Progress::Content { bytes: 0 });
        }
        if !self.has_cells() {
            self.publish()?;
        }
        let units = units.clamp(1, file::WINDOW);
        let (bytes, unit) = match self.policy.mode() {
            ContentMode::Xts => (self.step_cells(units)?, xts::UNIT),
            ContentMode::Gcm => (self.step_pages(units as u64)?, gcm::CONTENT),
        };
        let done = self.reencrypted()?.saturating_mul(unit as u64);
        let left = self.size.saturating_sub(done);
        Ok(if left == 0 {
            Progress::Content { bytes }
        } else {
            Progress::More { bytes, left }
        })
    }

    /// Ends the re-encryption of a file whose content is under the new key, and whose attributes are so durably: the old key
    /// goes from the header, durably. Says whether it is over; it is not if there is content to do still.
    ///
    /// # Errors
    /// [`Fault::ReadOnly`], [`Fault::Damage`]; the lower file system's.
    pub fn end_reencryption(&mut self) -> Faulty<bool, L::Error> {
        self.check_writable()?;
        if !self.reencrypting() {
            return Ok(true);
        }
        if self.reencrypted()? != EVERYTHING {
            let unit = match self.policy.mode() {
                ContentMode::Xts => xts::UNIT,
                ContentMode::Gcm => gcm::CONTENT,
            };
            let whole = self.size.div_ceil(unit as u64);
            if self.window_is_open() || self.reencrypted()? < whole {
                return Ok(false);
            }
        }
        // What was cut is gone, and what is there is there, before there is no key for it.
        self.sync_lower()?;
        let policy = Arc::clone(&self.policy);
        let (header, keys) = self.sealed.as_mut().ok_or(NONE)?;
        let before = header.clone();
        header.set_reencrypted(EVERYTHING)?;
        header.replace_former(&policy, keys)?;
        let replaced = self.write_header().and_then(|()| self.sync_lower());
        if let Err(fault) = replaced {
            // Both say the same of the content; attributes may yet come to be under the old key.
            self.sealed()?.0.clone_from(&before);
            self.owe();
            return Err(fault);
        }
        self.former = None;
        self.sealed()?.0.end_reencryption()?;
        // If this is lost in a crash, the one before is as good.
        self.write_header()?;
        Ok(true)
    }

    /// How many units are under the new key.
    fn reencrypted(&self) -> Result<u64, FormatError> {
        let header = self.sealed.as_ref().map(|(header, _)| header);
        header.and_then(FileHeader::reencrypted).ok_or(NONE)
    }

    /// The unit from which on content is under the old key, and that key.
    pub(super) fn border(&self) -> Option<(u64, &Former)> {
        let former = self.former.as_ref()?;
        let border = self.reencrypted().ok()?;
        (border != EVERYTHING).then_some((border, former))
    }

    /// Before any content changes: units that are being written anew are finished, and the header that says how far it is is
    /// durable.
    pub(super) fn settle_watermark(&mut self) -> Faulty<(), L::Error> {
        if self.window_is_open() {
            self.finish_window()?;
        }
        if self.former.as_ref().is_some_and(|former| former.owed) {
            self.write_header()?;
            self.sync_lower()?;
            self.published();
        }
        Ok(())
    }

    /// The content goes, or is in the header page: nothing is left under the old key. The caller writes the header.
    pub(super) fn everything_is_new(&mut self) -> Result<(), FormatError> {
        if self.reencrypting() {
            self.sealed()?.0.set_reencrypted(EVERYTHING)?;
            if let Some(former) = &mut self.former {
                former.window.clear();
            }
        }
        Ok(())
    }

    fn window_is_open(&self) -> bool {
        self.former
            .as_ref()
            .is_some_and(|former| !former.window.is_empty())
    }

    fn owe(&mut self) {
        if let Some(former) = &mut self.former {
            former.owed = true;
        }
    }

    /// A new key, in memory.
    fn exchange_keys(&mut self, to: &Arc<UnlockedPolicy>) -> Faulty<(), L::Error> {
        let layout = self.layout;
        let cells = self.has_cells();
        let (header, keys) = self.sealed()?;
        let former_cells = if cells { Some(keys.xts()?) } else { None };
        let mut next = header.clone();
        let new_keys = next.begin_reencryption(to)?;
        if layout == Layout::Inline {
            next.set_reencrypted(EVERYTHING)?;
        }
        let new_cells = if cells { Some(new_keys.xts()?) } else { None };
        *header = next;
        let (header, keys) = self.sealed.take().ok_or(NONE)?;
        self.sealed = Some((header, new_keys));
        let mut former = Former {
            keys,
            cells: former_cells,
            ranges: Ranges::default(),
            window: Vec::new(),
            owed: false,
            unpublished: true,
        };
        match (&mut self.units, new_cells) {
            (Units::Cells(cipher), Some(new)) => *cipher = new,
            (Units::Pages(pages), _) => former.ranges = std::mem::take(&mut pages.ranges),
            _ => {}
        }
        self.former = Some(former);
        self.policy = Arc::clone(to);
        // From here on the old content is owed.
        self.synced = true;
        Ok(())
    }

    /// Makes the header with the slot of the new key durable, if it may not be: before anything is under that key.
    pub(super) fn publish(&mut self) -> Faulty<(), L::Error> {
        if self
            .former
            .as_ref()
            .is_some_and(|former| former.unpublished)
        {
            self.announce()?;
            self.write_header()?;
            self.sync_lower()?;
            self.published();
        }
        Ok(())
    }

    /// The slot of the new key is made durable before the header says that there is one, if it lies in another sector: so even
    /// a torn page keeps a key for what is there.
    fn announce(&mut self) -> Faulty<(), L::Error> {
        let (header, _) = self.sealed()?;
        if !header.new_slot_is_apart() {
            return Ok(());
        }
        let header = header.clone();
        let mut page = [0; file::PAGE];
        let got = self.lower.read_at(&mut page, 0).map_err(Fault::Lower)?;
        if got == file::PAGE && FileHeader::decode(&page)?.reencrypted().is_none() {
            header.announce(&mut page)?;
            self.write_lower(&page, 0)?;
            self.sync_lower()?;
        }
        Ok(())
    }

    /// The header in the lower file is the newest, and durable.
    fn published(&mut self) {
        if let Some(former) = &mut self.former {
            (former.unpublished, former.owed) = (false, false);
        }
    }

    fn has_cells(&self) -> bool {
        self.layout == Layout::Units && self.policy.mode() == ContentMode::Xts
    }

    /// The header page of an inline file after a re-encryption that is nothing else.
    fn write_ended(&mut self) -> Faulty<(), L::Error> {
        let policy = Arc::clone(&self.policy);
        let (header, keys) = self.sealed.as_mut().ok_or(NONE)?;
        header.replace_former(&policy, keys)?;
        header.end_reencryption()?;
        self.write_header()
    }

    /// Writes the header page as it is now.
    pub(super) fn write_header(&mut self) -> Faulty<(), L::Error> {
        let mut page = [0; file::PAGE];
        let (header, keys) = self.sealed.as_mut().ok_or(NONE)?;
        match (self.layout, self.policy.mode()) {
            (Layout::Inline, _) => header.write_inline(keys, &self.inline, &mut page)?,
            (Layout::Units, ContentMode::Xts) => {
                let window = self.former.as_ref().map(|former| &*former.window);
                header.write_window(keys, window.unwrap_or_default(), &mut page)?;
            }
            (Layout::Units, ContentMode::Gcm) => return self.repeat_claim(),
        }
        self.write_lower(&page, 0)
    }
}
