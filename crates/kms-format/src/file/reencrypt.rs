//! What a header says while its file gets a new key (FORMAT.md section 6.3).

use super::{FileHeader, INLINE_MAX, Slot, Wrap};
use crate::{FileKeys, FormatError, PolicyId, Record, UnlockedPolicy};
use kms_crypto::Key;

/// Stands for a unit of mode xts as it is under the new key: the first bytes of the SHA-256 of its cells.
pub type Digest = [u8; 12];

/// The most units of mode xts that are written anew at a time: as many digests fit into the header page.
pub const WINDOW: usize = 256;

/// All content is under the new key, whatever is added later.
pub const EVERYTHING: u64 = u64::MAX;

/// Whether a body of so many bytes can be the window of a file of mode xts.
pub(super) const fn window_fits(watermark: u64, body: usize) -> bool {
    let digest = size_of::<Digest>();
    let open = watermark != 0 && watermark != u64::MAX;
    body == 0 || open && body.is_multiple_of(digest) && body <= WINDOW.saturating_mul(digest)
}

const _: () = assert!(WINDOW * size_of::<Digest>() <= INLINE_MAX);
const NONE: FormatError = FormatError::Misuse("the file is not being re-encrypted");

impl FileHeader {
    /// The number of units that are under the new key if the file is being re-encrypted ([`EVERYTHING`]: all there will
    /// ever be); None if it is not.
    #[must_use]
    pub const fn reencrypted(&self) -> Option<u64> {
        match self.watermark {
            0 => None,
            u64::MAX => Some(EVERYTHING),
            more => Some(more.saturating_sub(1)),
        }
    }

    /// Makes a new file key and wraps it under `to`, in the slot that is not in use. Pages written from here on are sealed
    /// under the new key, which is returned. The other slot keeps the old one.
    ///
    /// # Errors
    /// [`FormatError::Misuse`] for a policy of another content mode, or if the file is being re-encrypted already.
    pub fn begin_reencryption(&mut self, to: &UnlockedPolicy) -> Result<FileKeys, FormatError> {
        if to.mode() != self.mode || self.watermark != 0 || self.copy != 0 {
            return Err(FormatError::Misuse("a re-encryption that cannot begin"));
        }
        let keys = FileKeys::new(self.id, Key::random()?)?;
        let sequence = self.next_sequence()?;
        let target = self.other();
        self.put_slot(target, to, (sequence, true), &keys)?;
        self.active = target;
        self.watermark = 1;
        Ok(keys)
    }

    /// Where the slot of the new key is: whether it lies in another sector than the watermark, so that it has to be
    /// durable before the watermark says that there is one.
    #[must_use]
    pub const fn new_slot_is_apart(&self) -> bool {
        self.watermark != 0 && self.active != 0
    }

    /// As this header is before the re-encryption, but with the slot of the new key, which means nothing yet: the page to
    /// make durable first if [`FileHeader::new_slot_is_apart`].
    ///
    /// # Errors
    /// None in practice: the layout is fixed.
    pub fn announce(&self, page: &mut [u8; super::PAGE]) -> Result<(), FormatError> {
        self.write_slots(page)
    }

    /// So many units are under the new key.
    ///
    /// # Errors
    /// [`FormatError::Misuse`] if the file is not being re-encrypted, or if that would be fewer than before.
    pub fn set_reencrypted(&mut self, units: u64) -> Result<(), FormatError> {
        let watermark = units.saturating_add(1);
        if self.watermark == 0 || watermark < self.watermark {
            return Err(NONE);
        }
        self.watermark = watermark;
        Ok(())
    }

    /// Opens the old file key of a file that is being re-encrypted. Once everything is under the new key the slot may hold
    /// that already.
    ///
    /// # Errors
    /// As [`FileHeader::unlock`].
    pub fn unlock_former(&self, policy: &UnlockedPolicy) -> Result<FileKeys, FormatError> {
        let slot = self.slots.get(self.other()).ok_or(NONE)?;
        FileKeys::new(self.id, slot.unwrap(policy, self.id, self.mode)?)
    }

    /// Nothing is under the old key any more: its slot goes, and the new key is wrapped there, as in any other file. `to`
    /// is the policy that the new key is wrapped under, and from here on the lineage.
    ///
    /// # Errors
    /// [`FormatError::Misuse`] if content is under the old key still, or for the keys of another file.
    pub fn replace_former(
        &mut self,
        to: &UnlockedPolicy,
        keys: &FileKeys,
    ) -> Result<(), FormatError> {
        if self.reencrypted() != Some(EVERYTHING) || keys.id() != self.id {
            return Err(NONE);
        }
        let sequence = self.next_sequence()?;
        self.put_slot(self.other(), to, (sequence, false), keys)?;
        self.lineage = (to.policy(), to.generation());
        Ok(())
    }

    /// The re-encryption is over: the slot that was only for its time goes. Call it when the page that
    /// [`FileHeader::replace_former`] is for is known to be on the disk.
    ///
    /// # Errors
    /// [`FormatError::Misuse`] if the former key was not replaced.
    pub fn end_reencryption(&mut self) -> Result<(), FormatError> {
        let other = self.other();
        let replaced = self.slots.get(other).and_then(Slot::named);
        if self.reencrypted() != Some(EVERYTHING) || replaced.is_none_or(|wrap| wrap.next) {
            return Err(NONE);
        }
        if let Some(slot) = self.slots.get_mut(self.active) {
            *slot = Slot::Empty;
        }
        self.active = other;
        self.watermark = 0;
        Ok(())
    }

    /// The wrap under this policy that [`FileHeader::unlock`] tries first.
    #[must_use]
    pub fn wrap_in_use(&self, policy: PolicyId) -> Option<Wrap> {
        let named = |index: usize| self.slots.get(index).and_then(Slot::named);
        let mut wraps = self.candidates().into_iter().filter_map(named);
        wraps.find(|wrap| wrap.policy == policy)
    }

    /// The wrap of the old key of a file that is being re-encrypted.
    #[must_use]
    pub fn former_wrap(&self) -> Option<Wrap> {
        self.reencrypted()?;
        self.slots.get(self.other()).and_then(Slot::named)
    }

    /// The slots that may hold the file key, best first: the new key's while there is one. The other one may hold that
    /// key, too, once everything is under it; the body says whether it does.
    pub(super) fn candidates(&self) -> Vec<usize> {
        let named = |index: usize| self.slots.get(index).and_then(Slot::named);
        let next = |index: usize| named(index).is_some_and(|wrap| wrap.next);
        let mut all = vec![0, 1];
        if self.watermark != 0 {
            let half = self.watermark != u64::MAX || all.iter().any(|index| next(*index));
            all.retain(|index| !half || next(*index));
        }
        all.sort_unstable_by_key(|index| std::cmp::Reverse((self.sequence(*index), *index)));
        all
    }

    const fn other(&self) -> usize {
        1_usize.saturating_sub(self.active)
    }

    fn put_slot(
        &mut self,
        index: usize,
        to: &UnlockedPolicy,
        role: (u64, bool),
        keys: &FileKeys,
    ) -> Result<(), FormatError> {
        let slot = Slot::wrap(to, self.id, self.mode, role, keys)?;
        *self.slots.get_mut(index).ok_or(NONE)? = slot;
        Ok(())
    }
}

/// The window of a file of mode xts, out of the body of its header.
pub(crate) fn window(body: &[u8]) -> Result<Vec<Digest>, FormatError> {
    let (digests, rest) = body.as_chunks();
    if rest.is_empty() {
        return Ok(digests.to_vec());
    }
    Err(FormatError::BadField {
        record: Record::FileHeader,
        field: "body length",
        value: body.len() as u64,
    })
}
