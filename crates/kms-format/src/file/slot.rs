//! One wrapped file key; a header page holds two, written alternately.

use kms_crypto::Key;

use crate::bytes::{Fields, is_zero, put};
use crate::keys::{self, WRAPPED_KEY};
use crate::{ContentMode, FileId, FileKeys, FormatError, PolicyId, Record, UnlockedPolicy};

/// Bytes of a slot.
pub(super) const SLOT: usize = 128;

const FIXED: usize = 32;
const ROLE: usize = 28;
/// The slot's key is the new one of a re-encryption.
const NEXT: u32 = 1;
const AAD: &[u8] = b"kmsfs/1/file-slot";

/// Under which key a slot says it is wrapped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wrap {
    /// The policy.
    pub policy: PolicyId,
    /// The generation of its key.
    pub generation: u32,
    /// The slot's sequence number, from 1; the newest wins.
    pub sequence: u64,
    /// It wraps the new key of a re-encryption that is under way.
    pub next: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Slot {
    Empty,
    /// Neither empty nor well formed: damage, or half of a torn write. The other slot decides.
    Unusable,
    Wrapped {
        wrap: Wrap,
        key: [u8; WRAPPED_KEY],
    },
}

impl Slot {
    pub(super) fn wrap(
        policy: &UnlockedPolicy,
        id: FileId,
        mode: ContentMode,
        (sequence, next): (u64, bool),
        keys: &FileKeys,
    ) -> Result<Self, FormatError> {
        let (generation, owner) = (policy.generation(), policy.policy());
        let wrap = Wrap {
            policy: owner,
            generation,
            sequence,
            next,
        };
        let fixed = fixed(&wrap)?;
        let key = keys::wrap(policy.files(), &[AAD, &whose(id, mode), &fixed], keys.key())?;
        Ok(Self::Wrapped { wrap, key })
    }

    pub(super) fn unwrap(
        &self,
        policy: &UnlockedPolicy,
        id: FileId,
        mode: ContentMode,
    ) -> Result<Key<32>, FormatError> {
        const RECORD: Record = Record::FileSlot;
        let (wrap, key) = match self {
            Self::Empty => return Err(FormatError::Blank { record: RECORD }),
            Self::Unusable => return Err(FormatError::TagMismatch { record: RECORD }),
            Self::Wrapped { wrap, key } => (wrap, key),
        };
        if wrap.policy != policy.policy() {
            let (found, expected) = (wrap.policy, policy.policy());
            return Err(FormatError::ForeignPolicy {
                record: RECORD,
                found,
                expected,
            });
        }
        if wrap.generation != policy.generation() {
            let (found, expected) = (wrap.generation, policy.generation());
            return Err(FormatError::OtherGeneration {
                record: RECORD,
                found,
                expected,
            });
        }
        keys::unwrap(
            RECORD,
            policy.files(),
            &[AAD, &whose(id, mode), &fixed(wrap)?],
            key,
        )
    }

    pub(super) fn named(&self) -> Option<Wrap> {
        match self {
            Self::Wrapped { wrap, .. } => Some(*wrap),
            Self::Empty | Self::Unusable => None,
        }
    }

    /// Without a re-encryption a slot for its new key is left over from one that did not begin: nothing is under that key.
    pub(super) fn decode(bytes: &[u8; SLOT], reencrypting: bool) -> Result<Self, FormatError> {
        if is_zero(bytes) {
            return Ok(Self::Empty);
        }
        let fields = Fields::exact(Record::FileSlot, bytes, SLOT)?;
        let sequence = fields.u64(0)?;
        let next = match fields.u32(ROLE)? {
            0 => false,
            NEXT if reencrypting => true,
            _ => return Ok(Self::Unusable),
        };
        if sequence == 0 || fields.reserved(80, 48).is_err() {
            return Ok(Self::Unusable);
        }
        let wrap = Wrap {
            policy: PolicyId(fields.array(8)?),
            generation: fields.u32(24)?,
            sequence,
            next,
        };
        Ok(Self::Wrapped {
            wrap,
            key: fields.array(FIXED)?,
        })
    }

    /// An unusable slot is written as an empty one.
    pub(super) fn encode(&self) -> Result<[u8; SLOT], FormatError> {
        let mut out = [0; SLOT];
        if let Self::Wrapped { wrap, key } = self {
            put(&mut out, 0, &fixed(wrap)?)?;
            put(&mut out, FIXED, key)?;
        }
        Ok(out)
    }
}

fn fixed(wrap: &Wrap) -> Result<[u8; FIXED], FormatError> {
    let mut out = [0; FIXED];
    put(&mut out, 0, &wrap.sequence.to_le_bytes())?;
    put(&mut out, 8, &wrap.policy.0)?;
    put(&mut out, 24, &wrap.generation.to_le_bytes())?;
    let role = if wrap.next { NEXT } else { 0 };
    put(&mut out, ROLE, &role.to_le_bytes())?;
    Ok(out)
}

/// Ties a slot to its file: file id and content mode.
fn whose(id: FileId, mode: ContentMode) -> [u8; 17] {
    let mut out = [mode.byte(); 17];
    for (to, from) in out.iter_mut().zip(id.0) {
        *to = from;
    }
    out
}
