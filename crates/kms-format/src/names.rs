//! Names in the lower tree (FORMAT.md sections 1 and 7).
//!
//! ```
//! use kms_crypto::Key;
//! use kms_format::{ContentMode, DirHeader, PolicyId, UnlockedPolicy, VolumeId};
//! use kms_format::names::{self, EncryptedName};
//!
//! # fn main() -> Result<(), kms_format::FormatError> {
//! # let policy = UnlockedPolicy::derive(
//! #     VolumeId::random()?, PolicyId::random()?, 1, ContentMode::Xts, &Key::random()?, &Key::random()?)?;
//! let (_, keys) = DirHeader::create(&policy)?;
//! let EncryptedName::Short(stored) = names::encrypt(&keys, b"plan.txt", names::LOWER_MAX)? else { unreachable!() };
//! assert_eq!(stored.len(), 43);
//! assert_eq!(names::decrypt(&keys, stored.as_bytes(), None)?, b"plan.txt");
//! # Ok(())
//! # }
//! ```

use data_encoding::{BASE64URL_NOPAD, HEXLOWER};
use kms_crypto::{SIV_TAG_LEN, SivKey};

use crate::bytes::Fields;
use crate::{DirKeys, FORMAT, FileId, FormatError, Record};

/// The longest plain name, in bytes.
pub const NAME_MAX: usize = 255;
/// The longest lower name on every ordinary file system, in bytes: what to pass as `lower_max`.
pub const LOWER_MAX: usize = 255;
/// The directory header.
pub const DIR_HEADER: &str = ".kmsfs";
/// The volume record, in the root.
pub const VOLUME: &str = ".kmsfs.volume";
/// The mark of a mounted or uncleanly stopped volume, in the root.
pub const UNCLEAN: &str = ".kmsfs.unclean";
/// The directory of long symlink targets, in the root.
pub const LINKS: &str = ".kmsfs.links";
/// The directory of the copies of files that get another content mode, in the root, see [`copy`].
pub const COPIES: &str = ".kmsfs.copies";
/// The place of an interrupted job, in the root.
pub const JOB: &str = ".kmsfs.job";
/// What every name of ours starts with; no encrypted name does.
pub const RESERVED: &str = ".kmsfs";

const SIDECAR: &str = ".kmsfs.n.";
const TEMPORARY: &str = ".kmsfs.t.";
const LONG: u8 = b'=';
const MAGIC: &[u8; 8] = b"KMSFSNAM";
const AAD: &[u8] = b"kmsfs/1/name";
const BLOCK: usize = 16;
/// Characters of a base64url SHA-256.
const DIGEST: usize = 43;
/// Bytes of the longest sealed name.
const SEALED_MAX: usize = 272;

/// A name that cannot be stored, or a lower name that means nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NameError {
    /// No bytes at all.
    #[error("an empty name")]
    Empty,
    /// More than 255 bytes (for a symlink target, more than 4095).
    #[error("a name of {0} bytes is too long")]
    TooLong(usize),
    /// A slash, a NUL byte, `.` or `..`.
    #[error("a name that no directory can hold")]
    Invalid,
    /// Not something this program writes: neither base64url of a possible length nor one of our own files.
    #[error("a lower name that was not written by this program")]
    Foreign,
    /// The lower name stands for a long name, and its sidecar record was not given.
    #[error("a long name whose record is missing")]
    SidecarMissing,
    /// The sidecar belongs to another name.
    #[error("a long name whose record belongs to another name")]
    SidecarMismatch,
    /// The padding inside a sealed name is wrong: made by something else that had the key.
    #[error("a stored name with wrong padding")]
    Padding,
}

/// What to put into the lower directory for a plain name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EncryptedName {
    /// The lower name holds everything.
    Short(String),
    /// The lower name is a digest, and a sidecar file beside it holds the name.
    Long {
        /// The lower name of the entry.
        stored: String,
        /// The lower name of the sidecar.
        sidecar: String,
        /// The sidecar's content; written and synced before the entry is made.
        record: Vec<u8>,
    },
}

impl EncryptedName {
    /// The lower name of the entry.
    #[must_use]
    pub fn stored(&self) -> &str {
        match self {
            Self::Short(stored) | Self::Long { stored, .. } => stored,
        }
    }
}

/// What a lower name is, judged without a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LowerName {
    /// An entry whose name is in the lower name.
    Short,
    /// An entry whose name is in a sidecar, see [`sidecar_name`].
    Long,
    /// The directory header.
    DirHeader,
    /// A sidecar of a long name.
    Sidecar,
    /// A temporary file of an unfinished operation: to be removed.
    Temporary,
    /// Another file of ours.
    Reserved,
    /// Not ours: neither shown nor touched.
    Foreign,
}

/// Encrypts a name for the directory of `keys`. Deterministic: it is also how a name is looked up.
/// `lower_max` is the longest lower name; at least 44.
///
/// # Errors
/// [`FormatError::Name`] for names that no directory can hold.
pub fn encrypt(
    keys: &DirKeys,
    name: &[u8],
    lower_max: usize,
) -> Result<EncryptedName, FormatError> {
    check(name)?;
    let sealed = seal_padded(keys.names(), AAD, name)?;
    if BASE64URL_NOPAD.encode_len(sealed.len()) <= lower_max.min(LOWER_MAX) {
        return Ok(EncryptedName::Short(BASE64URL_NOPAD.encode(&sealed)));
    }
    let length = u16::try_from(sealed.len()).map_err(|_| FormatError::Misuse("sealed name"))?;
    let digest = digest(&sealed);
    let record = [
        MAGIC.as_slice(),
        &FORMAT.to_le_bytes(),
        &length.to_le_bytes(),
        &sealed,
    ]
    .concat();
    Ok(EncryptedName::Long {
        stored: format!("={digest}"),
        sidecar: format!("{SIDECAR}{digest}"),
        record,
    })
}

/// Decrypts a lower name of the directory of `keys`, or of its former key; a [`LowerName::Long`] one needs the content of
/// its sidecar.
///
/// # Errors
/// [`FormatError::Name`] for names that are not encrypted names, [`FormatError::TagMismatch`] for names that
/// were altered or moved here from another directory, and every fault of a sidecar.
pub fn decrypt(
    keys: &DirKeys,
    lower: &[u8],
    sidecar: Option<&[u8]>,
) -> Result<Vec<u8>, FormatError> {
    let sealed = match classify(lower) {
        LowerName::Short => BASE64URL_NOPAD
            .decode(lower)
            .map_err(|_| FormatError::Name(NameError::Foreign))?,
        LowerName::Long => {
            let record = sidecar.ok_or(NameError::SidecarMissing)?;
            let sealed = decode_sidecar(record)?;
            if digest(sealed).as_bytes() != lower.get(1..).unwrap_or_default() {
                return Err(NameError::SidecarMismatch.into());
            }
            sealed.to_vec()
        }
        LowerName::DirHeader
        | LowerName::Sidecar
        | LowerName::Temporary
        | LowerName::Reserved
        | LowerName::Foreign => return Err(NameError::Foreign.into()),
    };
    let open = |keys: &DirKeys| open_padded(Record::Name, keys.names(), AAD, &sealed);
    let name = match (open(keys), keys.former()) {
        (Err(error), Some(former)) if error.is_of_the_bytes() => match open(former) {
            // The one that was made with the key in use counts.
            Err(other) if other.is_of_the_bytes() => return Err(error),
            opened => opened?,
        },
        (opened, _) => opened?,
    };
    check(&name).map_err(|_| NameError::Padding)?;
    Ok(name)
}

/// Whether the sidecar of a [`LowerName::Long`] name belongs to it, judged without a key. Fine for every other name.
///
/// # Errors
/// [`NameError::SidecarMissing`], [`NameError::SidecarMismatch`], and every fault of a sidecar.
pub fn check_sidecar(lower: &[u8], sidecar: Option<&[u8]>) -> Result<(), FormatError> {
    if classify(lower) != LowerName::Long {
        return Ok(());
    }
    let sealed = decode_sidecar(sidecar.ok_or(NameError::SidecarMissing)?)?;
    if digest(sealed).as_bytes() == lower.get(1..).unwrap_or_default() {
        Ok(())
    } else {
        Err(NameError::SidecarMismatch.into())
    }
}

/// Tells what a lower name is, without a key.
#[must_use]
pub fn classify(lower: &[u8]) -> LowerName {
    let Ok(text) = std::str::from_utf8(lower) else {
        return LowerName::Foreign;
    };
    if text == DIR_HEADER {
        LowerName::DirHeader
    } else if text.starts_with(SIDECAR) {
        LowerName::Sidecar
    } else if text.starts_with(TEMPORARY) {
        LowerName::Temporary
    } else if text.starts_with(RESERVED) {
        LowerName::Reserved
    } else if let Some((&LONG, digest)) = lower.split_first() {
        if digest.len() == DIGEST && digest.iter().all(|byte| is_base64url(*byte)) {
            LowerName::Long
        } else {
            LowerName::Foreign
        }
    } else if is_short(lower) {
        LowerName::Short
    } else {
        LowerName::Foreign
    }
}

/// The lower name of the sidecar of a [`LowerName::Long`] name; `None` for any other.
#[must_use]
pub fn sidecar_name(lower: &[u8]) -> Option<String> {
    match classify(lower) {
        LowerName::Long => {
            let digest = std::str::from_utf8(lower.get(1..)?).ok()?;
            Some(format!("{SIDECAR}{digest}"))
        }
        _ => None,
    }
}

/// The lower name of the entry a [`LowerName::Sidecar`] belongs to; `None` for any other.
#[must_use]
pub fn sidecar_entry(lower: &[u8]) -> Option<String> {
    let digest = std::str::from_utf8(lower).ok()?.strip_prefix(SIDECAR)?;
    let entry = format!("={digest}");
    (classify(entry.as_bytes()) == LowerName::Long).then_some(entry)
}

/// The name of a file's copy of this number in [`COPIES`].
#[must_use]
pub fn copy(id: FileId, number: u32) -> String {
    format!("{id}.{number:08x}")
}

/// Whether a name in [`COPIES`] is one of a copy.
#[must_use]
pub fn is_copy(name: &str) -> bool {
    let hex = |text: &str, length| {
        text.len() == length
            && text
                .bytes()
                .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
    };
    name.split_once('.')
        .is_some_and(|(id, number)| hex(id, 32) && hex(number, 8))
}

/// A fresh name for a temporary file.
///
/// # Errors
/// [`FormatError::Crypto`] if the system gives no random bytes.
pub fn temporary() -> Result<String, FormatError> {
    Ok(format!(
        "{TEMPORARY}{}",
        HEXLOWER.encode(&kms_crypto::random_array::<8>()?)
    ))
}

fn check(name: &[u8]) -> Result<(), NameError> {
    match name {
        [] => Err(NameError::Empty),
        b"." | b".." => Err(NameError::Invalid),
        _ if name.len() > NAME_MAX => Err(NameError::TooLong(name.len())),
        _ if name.iter().any(|byte| matches!(byte, 0 | b'/')) => Err(NameError::Invalid),
        _ => Ok(()),
    }
}

fn decode_sidecar(record: &[u8]) -> Result<&[u8], FormatError> {
    const HEAD: usize = 12;
    let fields = Fields::at_least(Record::Sidecar, record, HEAD)?;
    fields.identify(MAGIC)?;
    let length = usize::from(fields.u16(10)?);
    if length > SEALED_MAX {
        return Err(fields.bad("length", fields.u16(10)?));
    }
    Fields::exact(Record::Sidecar, record, HEAD.saturating_add(length))?.slice(HEAD, length)
}

fn digest(sealed: &[u8]) -> String {
    BASE64URL_NOPAD.encode(&kms_crypto::sha256(&[sealed]))
}

const fn is_base64url(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_')
}

/// Possible lengths are those of a tag and one or more blocks.
fn is_short(lower: &[u8]) -> bool {
    BASE64URL_NOPAD
        .decode_len(lower.len())
        .is_ok_and(is_sealed_length)
        && lower.len() <= LOWER_MAX
        && lower.iter().all(|byte| is_base64url(*byte))
}

const fn is_sealed_length(sealed: usize) -> bool {
    sealed > SIV_TAG_LEN && sealed.is_multiple_of(BLOCK)
}

/// Pads with NUL bytes to 16 (never a whole block) and seals. `plain` must neither be empty nor contain NUL.
pub(crate) fn seal_padded(key: &SivKey, aad: &[u8], plain: &[u8]) -> Result<Vec<u8>, FormatError> {
    let mut padded = plain.to_vec();
    padded.resize(plain.len().next_multiple_of(BLOCK), 0);
    Ok(key.seal(&[aad], &padded)?)
}

/// The inverse of [`seal_padded`]; the result is not empty and has no NUL.
pub(crate) fn open_padded(
    record: Record,
    key: &SivKey,
    aad: &[u8],
    sealed: &[u8],
) -> Result<Vec<u8>, FormatError> {
    let mut plain = key
        .open(&[aad], sealed)
        .map_err(FormatError::unopened(record))?;
    let padded = plain.len();
    let length = plain
        .iter()
        .rposition(|byte| *byte != 0)
        .map_or(0, |last| last.saturating_add(1));
    plain.truncate(length);
    if length == 0 || length.next_multiple_of(BLOCK) != padded || plain.contains(&0) {
        return Err(NameError::Padding.into());
    }
    Ok(plain)
}

#[cfg(test)]
mod tests;
