//! Symlink targets (FORMAT.md section 8). They hang on the policy, not on the directory, so that a symlink can be
//! renamed and hard-linked within its policy like any other inode.

use data_encoding::{BASE64URL_NOPAD, HEXLOWER};
use kms_crypto::{SIV_TAG_LEN, random_array};

use crate::bytes::Fields;
use crate::{FORMAT, FormatError, NameError, Record, UnlockedPolicy};

/// The longest plain target, in bytes.
pub const TARGET_MAX: usize = 4095;
/// The longest plain target that a lower symlink holds itself, in bytes.
pub const INLINE_MAX: usize = 713;

/// The longest lower symlink this program writes, in bytes.
pub const STORED_MAX: usize = 1000;

const MAGIC: &[u8; 8] = b"KMSFSSYM";
const HERE: u8 = 1;
const RECORDED: u8 = 2;
/// Kind, generation, id.
const HEAD: usize = 21;
const REFERENCE: usize = 23;
const RECORD_HEAD: usize = 32;
const AAD: &[u8] = b"kmsfs/1/symlink";
const RECORD_AAD: &[u8] = b"kmsfs/1/symlink-record";

/// What to put into the lower tree for a target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SealedTarget {
    /// The lower symlink holds everything.
    Inline(String),
    /// The lower symlink refers to a record, which is written and synced first.
    Recorded {
        /// The lower symlink's target.
        stored: String,
        /// The record's name in [`crate::names::LINKS`].
        name: String,
        /// The record's content.
        record: Vec<u8>,
    },
}

/// A lower symlink's target, parsed. Holds no secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredTarget {
    head: [u8; HEAD],
    generation: u32,
    /// Sealed target, or its length.
    body: Body,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Body {
    Here(Vec<u8>),
    Recorded(u16),
}

/// Seals a target of 1 to [`TARGET_MAX`] bytes.
///
/// # Errors
/// [`FormatError::Name`] for an impossible target, [`FormatError::Crypto`].
pub fn seal(policy: &UnlockedPolicy, target: &[u8]) -> Result<SealedTarget, FormatError> {
    let length = check(target)?;
    let id = random_array::<16>()?;
    let generation = policy.generation().to_le_bytes();
    if target.len() <= INLINE_MAX {
        let head = [[HERE].as_slice(), &generation, &id].concat();
        let sealed = policy.symlinks().seal(&[AAD, &head], target)?;
        return Ok(SealedTarget::Inline(
            BASE64URL_NOPAD.encode(&[head, sealed].concat()),
        ));
    }
    let reference = [
        [RECORDED].as_slice(),
        &generation,
        &id,
        &length.to_le_bytes(),
    ]
    .concat();
    let head = [
        MAGIC.as_slice(),
        &FORMAT.to_le_bytes(),
        &[0, 0],
        &generation,
        &id,
    ]
    .concat();
    let sealed = policy.symlinks().seal(&[RECORD_AAD, &head], target)?;
    Ok(SealedTarget::Recorded {
        stored: BASE64URL_NOPAD.encode(&reference),
        name: HEXLOWER.encode(&id),
        record: [head, sealed].concat(),
    })
}

/// The length of the plain target, from the lower symlink's st_size alone; `None` if the symlink has to be read (its
/// target is in a record, or it is damaged).
#[must_use]
pub fn plain_length(lower_size: u64) -> Option<u64> {
    let length = usize::try_from(lower_size)
        .ok()
        .filter(|length| *length <= STORED_MAX)?;
    let raw = BASE64URL_NOPAD.decode_len(length).ok()?;
    let plain = raw.checked_sub(HEAD.saturating_add(SIV_TAG_LEN))?;
    (1..=INLINE_MAX).contains(&plain).then_some(plain as u64)
}

impl StoredTarget {
    /// Parses what readlink gave.
    ///
    /// # Errors
    /// [`FormatError::Truncated`] or [`FormatError::BadField`] for anything this program does not write.
    pub fn parse(stored: &[u8]) -> Result<Self, FormatError> {
        const RECORD: Record = Record::Symlink;
        let raw = BASE64URL_NOPAD
            .decode(stored)
            .map_err(|_| FormatError::WrongMagic { record: RECORD })?;
        let fields = Fields::at_least(RECORD, &raw, REFERENCE)?;
        let body = match fields.u8(0)? {
            HERE => {
                const OVERHEAD: usize = HEAD + SIV_TAG_LEN;
                Fields::at_least(RECORD, &raw, OVERHEAD + 1)?;
                if raw.len() > OVERHEAD + INLINE_MAX {
                    let (found, expected) = (raw.len(), OVERHEAD + INLINE_MAX);
                    return Err(FormatError::TooLong {
                        record: RECORD,
                        found,
                        expected,
                    });
                }
                Body::Here(fields.rest(HEAD)?.to_vec())
            }
            RECORDED => {
                let length = Fields::exact(RECORD, &raw, REFERENCE)?.u16(HEAD)?;
                if !(INLINE_MAX + 1..=TARGET_MAX).contains(&usize::from(length)) {
                    return Err(fields.bad("target length", length));
                }
                Body::Recorded(length)
            }
            other => return Err(fields.bad("kind", other)),
        };
        Ok(Self {
            head: fields.array(0)?,
            generation: fields.u32(1)?,
            body,
        })
    }

    /// The generation of the policy key that [`StoredTarget::open`] needs.
    #[must_use]
    pub const fn generation(&self) -> u32 {
        self.generation
    }

    /// The name of the record in [`crate::names::LINKS`], if the target is not in the symlink.
    #[must_use]
    pub fn record_name(&self) -> Option<String> {
        match self.body {
            Body::Here(_) => None,
            Body::Recorded(_) => self.head.get(5..).map(|id| HEXLOWER.encode(id)),
        }
    }

    /// The length of the plain target, in bytes.
    #[must_use]
    pub fn length(&self) -> usize {
        match &self.body {
            Body::Here(sealed) => sealed.len().saturating_sub(SIV_TAG_LEN),
            Body::Recorded(length) => usize::from(*length),
        }
    }

    /// Decrypts the target; `record` is the content of the record of [`StoredTarget::record_name`].
    ///
    /// # Errors
    /// [`FormatError::OtherGeneration`] if another policy key is needed, [`FormatError::TagMismatch`] if anything was
    /// altered or belongs to another policy, [`FormatError::Truncated`] without the record.
    pub fn open(
        &self,
        policy: &UnlockedPolicy,
        record: Option<&[u8]>,
    ) -> Result<Vec<u8>, FormatError> {
        if self.generation != policy.generation() {
            let (found, expected) = (self.generation, policy.generation());
            return Err(FormatError::OtherGeneration {
                record: Record::Symlink,
                found,
                expected,
            });
        }
        let target = match &self.body {
            Body::Here(sealed) => policy
                .symlinks()
                .open(&[AAD, &self.head], sealed)
                .map_err(FormatError::unopened(Record::Symlink))?,
            Body::Recorded(length) => {
                self.open_record(policy, record.unwrap_or_default(), usize::from(*length))?
            }
        };
        check(&target)?;
        Ok(target)
    }

    fn open_record(
        &self,
        policy: &UnlockedPolicy,
        record: &[u8],
        length: usize,
    ) -> Result<Vec<u8>, FormatError> {
        const RECORD: Record = Record::SymlinkRecord;
        let whole = RECORD_HEAD
            .saturating_add(SIV_TAG_LEN)
            .saturating_add(length);
        let fields = Fields::exact(RECORD, record, whole)?;
        fields.identify(MAGIC)?;
        fields.reserved(10, 2)?;
        // The reference's generation and id, so that a record cannot stand in for another.
        if Some(fields.slice(12, 20)?) != self.head.get(1..) {
            return Err(FormatError::TagMismatch { record: RECORD });
        }
        policy
            .symlinks()
            .open(
                &[RECORD_AAD, fields.slice(0, RECORD_HEAD)?],
                fields.rest(RECORD_HEAD)?,
            )
            .map_err(FormatError::unopened(RECORD))
    }
}

fn check(target: &[u8]) -> Result<u16, NameError> {
    let length = target.len();
    match u16::try_from(length) {
        _ if target.is_empty() => Err(NameError::Empty),
        Ok(short) if length <= TARGET_MAX => {
            if target.contains(&0) {
                Err(NameError::Invalid)
            } else {
                Ok(short)
            }
        }
        _ => Err(NameError::TooLong(length)),
    }
}

#[cfg(test)]
mod tests;
