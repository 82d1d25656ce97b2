//! What can be wrong with bytes from the lower tree.

use kms_crypto::CryptoError;

use crate::{FileId, NameError, PolicyId, SizeError, VolumeId};

/// Why a record was refused, precise enough for one log line.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FormatError {
    /// Fewer bytes than the record has.
    #[error("{record} is truncated: {found} bytes where {needed} are needed")]
    Truncated {
        /// What was being read.
        record: Record,
        /// Bytes there are.
        found: usize,
        /// Bytes needed.
        needed: usize,
    },
    /// More bytes than the record has.
    #[error("{record} is too long: {found} bytes where {expected} are expected")]
    TooLong {
        /// What was being read.
        record: Record,
        /// Bytes there are.
        found: usize,
        /// Bytes allowed.
        expected: usize,
    },
    /// Only zero bytes: the record's creation did not reach the disk.
    #[error("{record} is blank: it was never written to the disk")]
    Blank {
        /// What was being read.
        record: Record,
    },
    /// Not such a record at all.
    #[error("{record} does not start with its magic: this is something else")]
    WrongMagic {
        /// What was being read.
        record: Record,
    },
    /// Written by another version of the format.
    #[error(
        "{record} has format number {found}; this program knows only {}",
        crate::FORMAT
    )]
    UnsupportedFormat {
        /// What was being read.
        record: Record,
        /// The number found.
        found: u16,
    },
    /// Bytes that must be zero are not.
    #[error("{record} has reserved bytes set at offset {offset}")]
    Reserved {
        /// What was being read.
        record: Record,
        /// Where the reserved field starts.
        offset: usize,
    },
    /// A field holds a value that does not exist.
    #[error("{record}: field {field} holds {value}, which is not valid")]
    BadField {
        /// What was being read.
        record: Record,
        /// The field of FORMAT.md.
        field: &'static str,
        /// What it holds.
        value: u64,
    },
    /// The record belongs to another volume.
    #[error("{record} belongs to volume {found}, not to {expected}")]
    ForeignVolume {
        /// What was being read.
        record: Record,
        /// The volume it names.
        found: VolumeId,
        /// The volume in use.
        expected: VolumeId,
    },
    /// The record belongs to another policy.
    #[error("{record} belongs to policy {found}, not to {expected}")]
    ForeignPolicy {
        /// What was being read.
        record: Record,
        /// The policy it names.
        found: PolicyId,
        /// The policy in use.
        expected: PolicyId,
    },
    /// The record is wrapped under another generation of the same policy.
    #[error("{record} is wrapped under generation {found} of the policy key, not {expected}")]
    OtherGeneration {
        /// What was being read.
        record: Record,
        /// The generation it names.
        found: u32,
        /// The generation in use.
        expected: u32,
    },
    /// A directory with its own policy that its parent did not admit.
    #[error("{record} carries a policy of its own that the parent directory did not admit")]
    NotAdmitted {
        /// What was being read.
        record: Record,
    },
    /// Authentication failed: altered bytes, or a key that does not belong to them.
    #[error("{record} fails authentication: it was altered, or it belongs to another key")]
    TagMismatch {
        /// What was being read.
        record: Record,
    },
    /// A checksum of a text record is wrong.
    #[error("{record} fails its checksum: it is damaged")]
    Checksum {
        /// What was being read.
        record: Record,
    },
    /// A text record does not parse.
    #[error("{record} does not parse: {reason}")]
    Syntax {
        /// What was being read.
        record: Record,
        /// The parser's words.
        reason: String,
    },
    /// Content that does not fit where it should go.
    #[error("{found} bytes do not fit into {record}, which holds {limit}")]
    DoesNotFit {
        /// Where it should go.
        record: Record,
        /// Bytes given.
        found: usize,
        /// Bytes it holds.
        limit: usize,
    },
    /// A content unit of mode gcm that is not what was written there.
    #[error("content unit {unit} (at lower offset {}) {what}", crate::gcm::offset(*unit))]
    Unit {
        /// Which.
        unit: u64,
        /// What is wrong with it.
        what: &'static str,
    },
    /// The content of a file that gets another content mode is in its copy, which has to be put in its place first.
    #[error(
        "the file was getting another content mode, and what is in it now is in its copy {}/{}",
        crate::names::COPIES,
        crate::names::copy(*id, *number)
    )]
    Elsewhere {
        /// The file.
        id: FileId,
        /// The number of its copy.
        number: u32,
    },
    /// The size of a lower file contradicts the authenticated length.
    #[error("the file has {held} bytes, but {claimed} bytes were synced: it was cut or extended")]
    Length {
        /// What the header says.
        claimed: u64,
        /// What the lower size says.
        held: u64,
    },
    /// The size of a lower file means nothing.
    #[error(transparent)]
    Size(#[from] SizeError),
    /// A name that cannot be stored, or a stored name that means nothing.
    #[error(transparent)]
    Name(#[from] NameError),
    /// The cryptographic library refused (no randomness, no memory, equal key halves).
    #[error("cryptographic library: {0}")]
    Crypto(#[from] kms_crypto::CryptoError),
    /// A caller's buffer or argument does not have the agreed shape.
    #[error("internal: {0}")]
    Misuse(&'static str),
}

impl FormatError {
    /// What it means that the cryptographic library did not open a record: that the key is not its key, or the library itself failed.
    pub(crate) fn unopened(record: Record) -> impl FnOnce(CryptoError) -> FormatError {
        move |error| match error {
            CryptoError::Authentication | CryptoError::Length { .. } => {
                FormatError::TagMismatch { record }
            }
            error => FormatError::Crypto(error),
        }
    }

    /// Whether it says something of the bytes that were read: they are damaged, or under another key. Otherwise this program failed (no
    /// memory, no randomness), and nothing is known of them: whoever tries one key after the other must not go on as if this one
    /// did not open them.
    #[must_use]
    pub const fn is_of_the_bytes(&self) -> bool {
        !matches!(self, FormatError::Crypto(_) | FormatError::Misuse(_))
    }

    /// Nothing if a key does not open something.
    ///
    /// # Errors
    /// What does not say that: see [`FormatError::is_of_the_bytes`].
    pub fn opened<T>(result: Result<T, FormatError>) -> Result<Option<T>, FormatError> {
        match result {
            Ok(opened) => Ok(Some(opened)),
            Err(error) if error.is_of_the_bytes() => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// The kinds of records in a lower tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Record {
    /// `.kmsfs.volume`.
    Volume,
    /// `.kmsfs`.
    DirHeader,
    /// The first page of a lower file.
    FileHeader,
    /// One of the two wrapped keys in a file header.
    FileSlot,
    /// Inline content or hole list in a file header.
    FileBody,
    /// A page of a file of mode gcm.
    GcmUnit,
    /// The list of holes of a file of mode gcm.
    HoleList,
    /// A stored name.
    Name,
    /// The record of a long name.
    Sidecar,
    /// A lower symlink.
    Symlink,
    /// The record of a long symlink target.
    SymlinkRecord,
    /// The stored name of an extended attribute.
    XattrName,
    /// The stored value of an extended attribute.
    XattrValue,
    /// Content of mode xts.
    XtsContent,
    /// `.kmsfs.job`.
    Job,
}

impl std::fmt::Display for Record {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Volume => "volume record",
            Self::DirHeader => "directory header",
            Self::FileHeader => "file header",
            Self::FileSlot => "key slot of the file header",
            Self::FileBody => "body of the file header",
            Self::GcmUnit => "content unit",
            Self::HoleList => "hole list",
            Self::Name => "stored name",
            Self::Sidecar => "long-name record",
            Self::Symlink => "symlink target",
            Self::SymlinkRecord => "long symlink record",
            Self::XattrName => "stored attribute name",
            Self::XattrValue => "stored attribute value",
            Self::XtsContent => "content",
            Self::Job => "place of a job",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_of_the_library_is_not_taken_for_another_key() {
        let unopened = |error| FormatError::unopened(Record::Name)(error);
        let closed = FormatError::opened::<()>(Err(unopened(CryptoError::Authentication)));
        assert!(matches!(closed, Ok(None)));
        let short = CryptoError::Length {
            what: "sealed name",
            got: 3,
        };
        assert!(matches!(
            FormatError::opened::<()>(Err(unopened(short))),
            Ok(None)
        ));
        for failed in [CryptoError::Provider("AES-SIV"), CryptoError::Random] {
            let failed = FormatError::opened::<()>(Err(unopened(failed)));
            assert!(matches!(failed, Err(FormatError::Crypto(_))));
        }
        let misused = Err(FormatError::Misuse("sealed name"));
        assert!(FormatError::opened::<()>(misused).is_err());
        assert!(matches!(FormatError::opened(Ok(5)), Ok(Some(5))));
    }
}
