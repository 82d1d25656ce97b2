//! The header page of a lower file: wrapped keys, length, and the content of small files (FORMAT.md section 5.1).

mod copy;
mod reencrypt;
mod settle;
mod slot;

use kms_crypto::{Key, random_array};
use zeroize::Zeroizing;

use self::copy::ELSEWHERE;
pub use self::copy::PEEK;
pub(crate) use self::reencrypt::window;
pub use self::reencrypt::{Digest, EVERYTHING, WINDOW};
pub use self::settle::Settled;
use self::slot::Slot;
pub use self::slot::Wrap;
use crate::bytes::{Fields, put};
use crate::gcm::HoleList;
use crate::{ContentMode, FORMAT, FileId, FileKeys, FormatError, PolicyId, Record, UnlockedPolicy};

/// Bytes of the header page; it is always written whole.
pub const PAGE: usize = 4096;
/// The largest content that lives in the header page, in bytes.
pub const INLINE_MAX: usize = 3712;

const MAGIC: &[u8; 8] = b"KMSFSFIL";
/// The body's associated data: everything in front of its nonce.
const FIXED: usize = 80;
const NONCE: usize = 80;
const TAG: usize = 92;
const BODY: usize = 256;
/// Where the two slots are: in different 512-byte sectors, so that no torn write hits both.
const SLOTS: [usize; 2] = [128, 3968];

/// Where a file's content is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// In the header page: at most [`INLINE_MAX`] bytes.
    Inline,
    /// In units behind the header page.
    Units,
}

/// What the authenticated length of a header claims.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LengthState {
    /// The file has exactly this length.
    Exact,
    /// At least this much was synced and is still there; there may be more.
    Growing,
}

/// A header page, parsed. Holds no secret.
///
/// A writer holds one per open file and calls one of the `write_` functions for each new page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileHeader {
    mode: ContentMode,
    layout: Layout,
    id: FileId,
    lineage: (PolicyId, u32),
    state: LengthState,
    length: u64,
    /// Of a re-encryption; 0 when there is none.
    watermark: u64,
    body: usize,
    /// The content is in the copy of the file that has this number; 0 if it is here.
    copy: u32,
    slots: [Slot; 2],
    /// The slot that the keys in use came from.
    active: usize,
}

/// An opened header page.
#[derive(Debug)]
pub struct Opened {
    /// What the page says, authenticated.
    pub header: FileHeader,
    /// The file's keys.
    pub keys: FileKeys,
    /// The content of an inline file; empty for units.
    pub content: Zeroizing<Vec<u8>>,
    /// The holes of a file of mode gcm in units; empty otherwise.
    pub holes: HoleList,
}

impl FileHeader {
    /// A new file: fresh id, fresh key, inline and empty. Nothing is sealed until the first `write_`.
    ///
    /// # Errors
    /// [`FormatError::Crypto`] if there are no random bytes or no memory.
    pub fn create(policy: &UnlockedPolicy) -> Result<(Self, FileKeys), FormatError> {
        let id = FileId::random()?;
        let keys = FileKeys::new(id, Key::random()?)?;
        let header = Self {
            mode: policy.mode(),
            layout: Layout::Inline,
            id,
            lineage: (policy.policy(), policy.generation()),
            state: LengthState::Exact,
            length: 0,
            watermark: 0,
            body: 0,
            copy: 0,
            slots: [
                Slot::wrap(policy, id, policy.mode(), (1, false), &keys)?,
                Slot::Empty,
            ],
            active: 0,
        };
        Ok((header, keys))
    }

    /// Parses, unlocks and authenticates a header page in one go.
    ///
    /// # Errors
    /// As [`FileHeader::decode`], [`FileHeader::unlock`] and [`FileHeader::open_body`].
    pub fn open(page: &[u8], policy: &UnlockedPolicy) -> Result<Opened, FormatError> {
        let mut header = Self::decode(page)?;
        let keys = header.unlock(policy)?;
        let body = header.open_body(&keys, page)?;
        let (content, holes) = match (header.layout, header.mode) {
            (Layout::Inline, _) => (body, HoleList::default()),
            (Layout::Units, ContentMode::Gcm) => (Zeroizing::default(), HoleList::decode(&body)?),
            (Layout::Units, ContentMode::Xts) => (Zeroizing::default(), HoleList::default()),
        };
        Ok(Opened {
            header,
            keys,
            content,
            holes,
        })
    }

    /// Parses a page of exactly [`PAGE`] bytes; nothing is authenticated yet. [`FileHeader::wraps`] tells which policy
    /// keys [`FileHeader::unlock`] can use.
    ///
    /// # Errors
    /// Any structural fault. [`FormatError::Blank`] is what a power cut can leave of a file that was never synced.
    pub fn decode(page: &[u8]) -> Result<Self, FormatError> {
        let fields = Fields::exact(Record::FileHeader, page, PAGE)?;
        fields.identify(MAGIC)?;
        let mode = fields.u8(10)?;
        let mode = ContentMode::from_byte(mode).ok_or_else(|| fields.bad("content mode", mode))?;
        let layout = match fields.u8(11)? {
            1 => Layout::Inline,
            2 => Layout::Units,
            other => return Err(fields.bad("layout", other)),
        };
        let copy = match fields.u32(12)? {
            0 => {
                fields.reserved(76, 4)?;
                0
            }
            ELSEWHERE => fields.u32(76)?,
            other => return Err(fields.bad("flags", other)),
        };
        let state = match fields.u8(52)? {
            1 => LengthState::Exact,
            2 => LengthState::Growing,
            other => return Err(fields.bad("length state", other)),
        };
        fields.reserved(53, 3)?;
        let length = fields.u64(56)?;
        let watermark = fields.u64(64)?;
        let body = fields.u32(72)?;
        fields.reserved(108, 20)?;
        let body = usize::try_from(body)
            .ok()
            .filter(|body| *body <= INLINE_MAX)
            .ok_or_else(|| fields.bad("body length", body))?;
        let consistent = match (layout, mode) {
            (Layout::Inline, _) => {
                state == LengthState::Exact
                    && length == body as u64
                    && matches!(watermark, 0 | EVERYTHING)
            }
            (Layout::Units, ContentMode::Xts) => {
                state == LengthState::Growing
                    && length == 0
                    && reencrypt::window_fits(watermark, body)
            }
            (Layout::Units, ContentMode::Gcm) => true,
        };
        if !consistent {
            return Err(fields.bad("authenticated length", length));
        }
        if fields.u32(12)? == ELSEWHERE && (watermark != 0 || copy == 0) {
            return Err(fields.bad("number of the copy", copy));
        }
        let [a, b] = SLOTS;
        let slot = |at| Slot::decode(&fields.array(at)?, watermark != 0);
        Ok(Self {
            mode,
            layout,
            id: FileId(fields.array(16)?),
            lineage: (PolicyId(fields.array(32)?), fields.u32(48)?),
            state,
            length,
            watermark,
            body,
            copy,
            slots: [slot(a)?, slot(b)?],
            active: 0,
        })
    }

    /// The policies and generations this file's key is wrapped under, newest first. Not authenticated.
    pub fn wraps(&self) -> impl Iterator<Item = Wrap> + use<> {
        let mut wraps = self.slots.each_ref().map(Slot::named);
        wraps.sort_by_key(|wrap| std::cmp::Reverse(wrap.map_or(0, |wrap| wrap.sequence)));
        wraps.into_iter().flatten()
    }

    /// Opens the file key with the newest usable slot of this policy and generation. While the file is being re-encrypted
    /// that is the new key, which the body is sealed under; [`FileHeader::unlock_former`] gives the other.
    ///
    /// # Errors
    /// [`FormatError::ForeignPolicy`] or [`FormatError::OtherGeneration`] if no slot names this key,
    /// [`FormatError::TagMismatch`] if those that do were altered, [`FormatError::BadField`] if the file has another
    /// content mode than the policy.
    pub fn unlock(&mut self, policy: &UnlockedPolicy) -> Result<FileKeys, FormatError> {
        if self.mode != policy.mode() {
            return Err(FormatError::BadField {
                record: Record::FileHeader,
                field: "content mode (the policy has another)",
                value: self.mode.byte().into(),
            });
        }
        let mut refused = None;
        for index in self.candidates() {
            match self
                .slots
                .get(index)
                .map(|slot| slot.unwrap(policy, self.id, self.mode))
            {
                Some(Ok(key)) => {
                    self.active = index;
                    return FileKeys::new(self.id, key);
                }
                Some(Err(error)) => refused = Some(worse(refused, error)),
                None => {}
            }
        }
        Err(refused.unwrap_or(FormatError::TagMismatch {
            record: Record::FileSlot,
        }))
    }

    /// Authenticates length, state, layout and lineage, and decrypts the body: inline content, or a hole list.
    ///
    /// # Errors
    /// [`FormatError::TagMismatch`] with [`Record::FileBody`].
    pub fn open_body(
        &self,
        keys: &FileKeys,
        page: &[u8],
    ) -> Result<Zeroizing<Vec<u8>>, FormatError> {
        let fields = Fields::exact(Record::FileHeader, page, PAGE)?;
        let mut body = Zeroizing::new(fields.slice(BODY, self.body)?.to_vec());
        keys.header()
            .open_in_place(
                &fields.array(NONCE)?,
                fields.slice(0, FIXED)?,
                &mut body,
                &fields.array(TAG)?,
            )
            .map_err(FormatError::unopened(Record::FileBody))?;
        Ok(body)
    }

    /// Builds the page of an inline file.
    ///
    /// # Errors
    /// [`FormatError::DoesNotFit`] for more than [`INLINE_MAX`] bytes, [`FormatError::Misuse`] for keys of another file.
    pub fn write_inline(
        &mut self,
        keys: &FileKeys,
        content: &[u8],
        page: &mut [u8; PAGE],
    ) -> Result<(), FormatError> {
        self.write(
            keys,
            Layout::Inline,
            LengthState::Exact,
            content.len() as u64,
            content,
            page,
        )
    }

    /// Builds the page of a file of mode xts whose content is in units. It need not be written again when the size
    /// changes: it claims no length.
    ///
    /// # Errors
    /// [`FormatError::Misuse`] for keys of another file or a file of mode gcm.
    pub fn write_units(
        &mut self,
        keys: &FileKeys,
        page: &mut [u8; PAGE],
    ) -> Result<(), FormatError> {
        self.write_window(keys, &[], page)
    }

    /// As [`FileHeader::write_units`], with the window of a re-encryption: one digest of the new page for each unit that
    /// is about to be written anew.
    ///
    /// # Errors
    /// [`FormatError::Misuse`] for keys of another file, a file of mode gcm, or one that is not being re-encrypted.
    pub fn write_window(
        &mut self,
        keys: &FileKeys,
        window: &[Digest],
        page: &mut [u8; PAGE],
    ) -> Result<(), FormatError> {
        if self.mode != ContentMode::Xts {
            return Err(FormatError::Misuse(
                "a file of mode gcm needs a length and holes",
            ));
        }
        if !reencrypt::window_fits(self.watermark, window.as_flattened().len()) {
            return Err(FormatError::Misuse("a window belongs to a re-encryption"));
        }
        let window = window.as_flattened();
        self.write(keys, Layout::Units, LengthState::Growing, 0, window, page)
    }

    /// Builds the page of a file of mode gcm whose content is in units.
    ///
    /// # Errors
    /// [`FormatError::Misuse`] for keys of another file or a file of mode xts.
    pub fn write_units_gcm(
        &mut self,
        keys: &FileKeys,
        length: u64,
        state: LengthState,
        holes: &HoleList,
        page: &mut [u8; PAGE],
    ) -> Result<(), FormatError> {
        if self.mode != ContentMode::Gcm {
            return Err(FormatError::Misuse(
                "a file of mode xts has no length and no hole list",
            ));
        }
        self.write(keys, Layout::Units, state, length, &holes.encode(), page)
    }

    fn write(
        &mut self,
        keys: &FileKeys,
        layout: Layout,
        state: LengthState,
        length: u64,
        body: &[u8],
        page: &mut [u8; PAGE],
    ) -> Result<(), FormatError> {
        if keys.id() != self.id {
            return Err(FormatError::Misuse("keys of another file"));
        }
        let (found, limit) = (body.len(), INLINE_MAX);
        let body_length = u32::try_from(found).ok().filter(|_| found <= limit);
        let body_length = body_length.ok_or(FormatError::DoesNotFit {
            record: Record::FileBody,
            found,
            limit,
        })?;
        page.fill(0);
        put(page, 0, MAGIC)?;
        put(page, 8, &FORMAT.to_le_bytes())?;
        put(
            page,
            10,
            &[
                self.mode.byte(),
                match layout {
                    Layout::Inline => 1,
                    Layout::Units => 2,
                },
            ],
        )?;
        let flags = if self.copy == 0 { 0 } else { ELSEWHERE };
        put(page, 12, &flags.to_le_bytes())?;
        put(page, 16, &self.id.0)?;
        put(page, 32, &self.lineage.0.0)?;
        put(page, 48, &self.lineage.1.to_le_bytes())?;
        put(
            page,
            52,
            &[match state {
                LengthState::Exact => 1,
                LengthState::Growing => 2,
            }],
        )?;
        put(page, 56, &length.to_le_bytes())?;
        put(page, 64, &self.watermark.to_le_bytes())?;
        put(page, 72, &body_length.to_le_bytes())?;
        put(page, 76, &self.copy.to_le_bytes())?;
        let nonce = random_array()?;
        put(page, NONCE, &nonce)?;
        put(page, BODY, body)?;
        let (head, tail) = page.split_at_mut(BODY);
        let fixed = head.get(..FIXED).ok_or(FormatError::Misuse("page"))?;
        let plain = tail.get_mut(..found).ok_or(FormatError::Misuse("page"))?;
        let tag = keys.header().seal_in_place(&nonce, fixed, plain)?;
        put(page, TAG, &tag)?;
        self.write_slots(page)?;
        (self.layout, self.state, self.length, self.body) = (layout, state, length, found);
        Ok(())
    }

    /// Puts the current slots into a page that was read from the file, leaving everything else as it is: the second
    /// half of [`FileHeader::rewrap`] and [`FileHeader::retire`].
    ///
    /// # Errors
    /// None in practice: the layout is fixed.
    pub fn write_slots(&self, page: &mut [u8; PAGE]) -> Result<(), FormatError> {
        for (slot, offset) in self.slots.iter().zip(SLOTS) {
            put(page, offset, &slot.encode()?)?;
        }
        Ok(())
    }

    /// Wraps the file key under another policy or generation as well, in the slot that is not in use. The caller writes
    /// the page ([`FileHeader::write_slots`]) and syncs it before anything depends on it.
    ///
    /// # Errors
    /// [`FormatError::Misuse`] for keys of another file, a policy of another content mode, or a file that is being
    /// re-encrypted: both slots are in use then.
    pub fn rewrap(&mut self, to: &UnlockedPolicy, keys: &FileKeys) -> Result<(), FormatError> {
        if keys.id() != self.id {
            return Err(FormatError::Misuse("keys of another file"));
        }
        if to.mode() != self.mode {
            return Err(FormatError::Misuse("a file keeps its content mode"));
        }
        if self.copy != 0 {
            return Err(FormatError::Misuse("the content is elsewhere"));
        }
        if self.watermark != 0 {
            return Err(FormatError::Misuse(
                "a file that is being re-encrypted has no free slot",
            ));
        }
        let next = self.next_sequence()?;
        let target = 1_usize.saturating_sub(self.active);
        if let Some(slot) = self.slots.get_mut(target) {
            *slot = Slot::wrap(to, self.id, self.mode, (next, false), keys)?;
        }
        self.active = target;
        Ok(())
    }

    /// Empties the slot that is not in use; call it when the page with the new slot is known to be on the disk. Does
    /// nothing while the file is being re-encrypted.
    pub fn retire(&mut self) {
        if self.watermark != 0 {
            return;
        }
        if let Some(slot) = self.slots.get_mut(1_usize.saturating_sub(self.active)) {
            *slot = Slot::Empty;
        }
    }

    /// What the slot that is not in use says, if anything.
    #[must_use]
    pub fn spare(&self) -> Option<Wrap> {
        self.slots
            .get(1_usize.saturating_sub(self.active))
            .and_then(Slot::named)
    }

    /// Whether one of the two slots is neither empty nor well formed: damage, or half of a torn write.
    #[must_use]
    pub fn has_unusable_slot(&self) -> bool {
        self.slots.contains(&Slot::Unusable)
    }

    fn next_sequence(&self) -> Result<u64, FormatError> {
        let newest = self.sequence(0).max(self.sequence(1));
        newest
            .checked_add(1)
            .ok_or(FormatError::Misuse("slot sequence"))
    }

    fn sequence(&self, index: usize) -> u64 {
        self.slots
            .get(index)
            .and_then(Slot::named)
            .map_or(0, |wrap| wrap.sequence)
    }

    /// The file's identity.
    #[must_use]
    pub const fn id(&self) -> FileId {
        self.id
    }

    /// How units are encrypted.
    #[must_use]
    pub const fn mode(&self) -> ContentMode {
        self.mode
    }

    /// Where the content is.
    #[must_use]
    pub const fn layout(&self) -> Layout {
        self.layout
    }

    /// The authenticated length, in bytes: the size of an inline file; see [`FileHeader::state`] for gcm; 0 for units
    /// of mode xts, whose size only the lower size tells.
    #[must_use]
    pub const fn length(&self) -> u64 {
        self.length
    }

    /// What the authenticated length claims.
    #[must_use]
    pub const fn state(&self) -> LengthState {
        self.state
    }

    /// Policy and generation under which the file key was made.
    #[must_use]
    pub const fn lineage(&self) -> (PolicyId, u32) {
        self.lineage
    }
}

/// Of two refusals the one that says more: an altered slot before another generation before another policy.
fn worse(first: Option<FormatError>, second: FormatError) -> FormatError {
    let rank = |error: &FormatError| match error {
        FormatError::ForeignPolicy { .. } => 1,
        FormatError::OtherGeneration { .. } => 2,
        FormatError::Blank { .. } => 0,
        _ => 3,
    };
    match first {
        Some(first) if rank(&first) >= rank(&second) => first,
        _ => second,
    }
}

#[cfg(test)]
mod tests;
