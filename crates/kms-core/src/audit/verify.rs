//! Verification of a log from its public keys: of the notes, then of the lines against what the notes say.
//!
//! Every finding names a place and says what it means. Nothing is trusted but the keys, and copies of checkpoints that were
//! kept elsewhere.

mod checkpoints;
mod log;

#[cfg(test)]
mod tests;

use serde::Serialize;

pub use checkpoints::{Checkpoints, Known, verify_note};
pub use log::{LogReport, LogVerifier};

use crate::rows::Hash;

/// What was found wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What it is.
    pub kind: FindingKind,
    /// Where.
    #[serde(flatten)]
    pub place: Place,
    /// What it means, in a sentence.
    pub text: String,
}

/// Where something was found; what does not apply is left out.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Place {
    /// Name of the file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    /// Line in the file, from 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub line: Option<u64>,
    /// Number of the record, from 0; the first of several.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub record: Option<u64>,
    /// The last of several records.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_record: Option<u64>,
    /// Id of the event, as far as it can be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub event: Option<String>,
    /// Number of the checkpoint.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub checkpoint: Option<u64>,
}

/// Kinds of damage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum FindingKind {
    /// A record was altered.
    Edited,
    /// Records are missing, with records after them.
    Removed,
    /// A record is there twice, or one was put in.
    Duplicated,
    /// Records are not in their order.
    Reordered,
    /// Records were altered and the chain was made to fit.
    Rechained,
    /// The end is missing, up to records that a checkpoint covers.
    Truncated,
    /// Everything is as it was at an earlier time.
    RolledBack,
    /// A file is not the one that its name says.
    FileMisplaced,
    /// A checkpoint is malformed, altered, or not signed by a known key.
    CheckpointAltered,
    /// Checkpoints are missing.
    CheckpointMissing,
    /// Values of the chip's counter were used up by checkpoints that are not there: others were put in their place.
    CounterGap,
    /// The chip's clock or its count of resets went back.
    ClockBack,
}

impl FindingKind {
    /// The name in JSON.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Edited => "edited",
            Self::Removed => "removed",
            Self::Duplicated => "duplicated",
            Self::Reordered => "reordered",
            Self::Rechained => "rechained",
            Self::Truncated => "truncated",
            Self::RolledBack => "rolled-back",
            Self::FileMisplaced => "file-misplaced",
            Self::CheckpointAltered => "checkpoint-altered",
            Self::CheckpointMissing => "checkpoint-missing",
            Self::CounterGap => "counter-gap",
            Self::ClockBack => "clock-back",
        }
    }
}

/// Something known about the log when it had a certain size.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mark {
    /// Number of records.
    pub size: u64,
    /// Chain value of the last.
    pub chain: Hash,
    /// Root of the tree, where it is known.
    pub root: Option<Hash>,
    /// Who knows it.
    pub source: Source,
}

/// Who knows what the log was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// The log's own checkpoint of this number.
    Checkpoint(u64),
    /// A copy of a checkpoint that was kept elsewhere.
    Copy(u64),
    /// The catalogue of a running kmsd.
    Head,
}

impl Source {
    const fn checkpoint(&self) -> Option<u64> {
        match self {
            Self::Checkpoint(number) | Self::Copy(number) => Some(*number),
            Self::Head => None,
        }
    }
}

impl std::fmt::Display for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Checkpoint(number) => write!(f, "checkpoint {number}"),
            Self::Copy(number) => write!(f, "the copy of checkpoint {number}"),
            Self::Head => f.write_str("the catalogue of the running kmsd"),
        }
    }
}
