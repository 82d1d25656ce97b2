//! Why the log cannot be opened.

use std::path::PathBuf;

/// Why the log cannot be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AuditError {
    /// The log ends before the last record that the catalogue knows of.
    #[error(
        "the audit log in {} has {found} records, but the store knows of {expected}: records were removed, or an \
         older copy of the log was put back",
        .directory.display()
    )]
    Missing {
        /// The log.
        directory: PathBuf,
        /// Records found.
        found: u64,
        /// Records that the catalogue knows of.
        expected: u64,
    },
    /// The log has another record where the catalogue's last one should be.
    #[error(
        "the audit log in {} is not the one that the store belongs to: record {seq} or one before it was changed",
        .directory.display()
    )]
    Different {
        /// The log.
        directory: PathBuf,
        /// The last record that the catalogue knows of.
        seq: u64,
    },
    /// A line that is no record, or that does not follow the one before it.
    #[error("{}, byte {offset}: record {seq} is damaged: {reason}", .path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Where the line begins.
        offset: u64,
        /// The number it should have.
        seq: u64,
        /// What is wrong.
        reason: &'static str,
    },
    /// A file is missing between two others.
    #[error("the audit log in {} lacks the file that begins with record {seq}", .directory.display())]
    FileMissing {
        /// The log.
        directory: PathBuf,
        /// First record that is missing.
        seq: u64,
    },
    /// Files cannot be read or written.
    #[error("cannot access {}: {source}", .path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
}

impl AuditError {
    /// What the operator does now.
    pub fn next_step(&self) -> &'static str {
        match self {
            Self::Io { .. } => "check the directory's owner, mode, free space and the kernel log",
            Self::Missing { .. }
            | Self::Different { .. }
            | Self::Damaged { .. }
            | Self::FileMissing { .. } => {
                "find out who changed it (`kmsctl audit verify` names the place) and put the newest copy of the log \
                 back; if it is lost, start kmsd once with --accept-audit-gap, which is itself recorded"
            }
        }
    }

    /// Something failed on `path`.
    pub(super) fn io(path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        |source| Self::Io { path, source }
    }
}
