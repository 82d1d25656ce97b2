//! Under which policy keys the file key is wrapped (FORMAT.md sections 6.1 and 6.2).
//!
//! The header page has two slots. One is in use; the other, the spare, may be empty, or left from a policy or generation the
//! file was under before. A new wrap goes into the spare slot and is made durable before anything depends on it; the slot
//! that was in use stays until nothing depends on that any more.

use std::sync::Arc;

use super::{Fault, Faulty, File, Lower};
use crate::file::{self, Wrap};
use crate::{FileHeader, FormatError, Record, UnlockedPolicy};

impl<L: Lower> File<L> {
    /// What the slot beside the one in use says, if anything: if that is of another policy, it is left from a move that may
    /// not be durable, and whoever puts something else there makes names durable first.
    pub fn spare_wrap(&self) -> Option<Wrap> {
        self.sealed.as_ref().and_then(|(header, _)| header.spare())
    }

    /// Whether the file opens under this policy and generation: a slot says so, or there is no header yet.
    pub fn opens_under(&self, policy: &UnlockedPolicy) -> bool {
        let this = (policy.policy(), policy.generation());
        self.sealed.as_ref().is_none_or(|(header, _)| {
            header
                .wraps()
                .any(|wrap| (wrap.policy, wrap.generation) == this)
        })
    }

    /// Writes a wrap of the file key under another policy, or another generation of this one, into the spare slot. Nothing
    /// may depend on what is there now; the caller makes the page durable before anything depends on the new one. A file
    /// without a header gets none. Not for a file that is being re-encrypted: it needs both slots.
    ///
    /// # Errors
    /// [`Fault::ReadOnly`], [`Fault::Damage`]; the lower file system's. The file is as usable as before then.
    pub fn add_wrap(&mut self, to: &UnlockedPolicy) -> Faulty<(), L::Error> {
        self.check_writable()?;
        let policy = Arc::clone(&self.policy);
        let Some((header, keys)) = self.sealed.as_mut() else {
            return Ok(());
        };
        header.rewrap(to, keys)?;
        // The slot in use stays that of the directory the file is in.
        header.unlock(&policy)?;
        self.store_slots()
    }

    /// From now on the file is under this policy, which [`File::opens_under`] must have said: the slot in use is that one.
    ///
    /// # Errors
    /// [`Fault::Damage`] if it does not open under it; nothing has changed then.
    pub fn adopt(&mut self, policy: &Arc<UnlockedPolicy>) -> Faulty<(), L::Error> {
        if let Some((header, _)) = self.sealed.as_mut() {
            header.unlock(policy)?;
        }
        self.policy = Arc::clone(policy);
        Ok(())
    }

    /// Empties the spare slot. Nothing may depend on it any more, and what is in use must be durable.
    ///
    /// # Errors
    /// [`Fault::ReadOnly`], [`Fault::Damage`]; the lower file system's: then the spare slot may be there still, which is
    /// harmless.
    pub fn drop_spare_wrap(&mut self) -> Faulty<(), L::Error> {
        self.check_writable()?;
        let Some((header, _)) = self.sealed.as_mut() else {
            return Ok(());
        };
        header.retire();
        self.store_slots()
    }

    /// Writes the slots into the page that is there; everything else in it stays as it is.
    fn store_slots(&self) -> Faulty<(), L::Error> {
        let Some((header, _)) = self.sealed.as_ref() else {
            return Ok(());
        };
        let mut page = [0; file::PAGE];
        let found = self.lower.read_at(&mut page, 0).map_err(Fault::Lower)?;
        if found != file::PAGE {
            return Err(Fault::Damage(FormatError::Truncated {
                record: Record::FileHeader,
                found,
                needed: file::PAGE,
            }));
        }
        if FileHeader::decode(&page)?.id() != header.id() {
            return Err(Fault::Damage(FormatError::TagMismatch {
                record: Record::FileHeader,
            }));
        }
        header.write_slots(&mut page)?;
        self.write_lower(&page, 0)
    }
}
