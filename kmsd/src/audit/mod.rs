//! The audit log on disk: who may append when, what is durable when, and what happens when the disk does not.
//!
//! Requests hand over records; one thread gives them their place, writes them in batches and makes each batch durable
//! with one `fdatasync`. A change waits for that before it is answered, a use of a key does not, unless configured.
//! The log's bytes are described in docs/AUDIT.md and made by [`kms_core::audit`].

mod checkpoint;
mod error;
mod files;
mod journald;
pub(crate) mod last_use;
mod limit;
mod log;
mod open;
pub mod search;
mod space;
mod witness;
mod writer;

#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::time::Duration;

pub use checkpoint::{
    CHECKPOINTS, CheckpointConfig, CheckpointError, CheckpointStatus, Checkpoints, KEYS,
};
pub use error::AuditError;
pub use files::{LogFile, list};
pub use limit::Asker;
pub(crate) use limit::Limit;
pub(crate) use limit::network_of;
pub use log::{AuditLog, AuditStatus, Durable, Health, Start, Ticket};
pub(crate) use log::{kms_service, service};
pub use witness::{COSIGNED, Submission, WitnessConfig, WitnessStatus};

use kms_core::audit::Record;

/// What happens to requests when the disk has no room for their records.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnFull {
    /// Every request is refused, except GetStatus.
    #[default]
    Refuse,
    /// Changes are refused; keys can be used, and what is not recorded is counted.
    ReadOnly,
}

/// How the log is kept.
#[derive(Clone, Debug)]
pub struct AuditConfig {
    /// Directory of its files.
    pub directory: PathBuf,
    /// How long the record of a use of a key may wait for the disk; zero: the reply waits for it.
    pub data_delay: Duration,
    /// A file is not continued beyond this many bytes.
    pub rotate_bytes: u64,
    /// Nor beyond this age; `None`: whatever its age.
    pub rotate_age: Option<Duration>,
    /// How many files are kept; `None`: all.
    pub keep_files: Option<usize>,
    /// What happens when the disk is full.
    pub on_full: OnFull,
    /// Bytes that are set aside for the last records before the disk is full.
    pub reserve_bytes: u64,
    /// A warning is recorded when this percentage of the file system is in use, and again at the second.
    pub warn_percent: [u8; 2],
    /// A warning is recorded when fewer bytes are free.
    pub min_free_bytes: u64,
    /// Whether each record goes to the journal of systemd too.
    pub journald: Option<PathBuf>,
    /// Whether a log that lacks records the catalogue knows of is gone on with.
    pub accept_gap: bool,
    /// At the latest after this time there is a checkpoint over a new record.
    pub checkpoint_interval: Duration,
    /// A file to which each checkpoint is appended as well.
    pub checkpoint_copy: Option<PathBuf>,
    /// Who is to cosign the checkpoints.
    pub witnesses: Vec<WitnessConfig>,
    /// Records of requests that nobody allowed, which one user can have written at once; 0: any number.
    pub refused_burst: u32,
    /// And afterwards in a minute.
    pub refused_per_minute: u32,
}

impl AuditConfig {
    /// Where systemd's journal takes datagrams.
    pub const JOURNAL: &'static str = "/run/systemd/journal/socket";

    /// The defaults, for a log in `directory`.
    pub fn new(directory: impl Into<PathBuf>) -> Self {
        Self {
            directory: directory.into(),
            data_delay: Duration::from_millis(20),
            rotate_bytes: 64 << 20,
            rotate_age: None,
            keep_files: None,
            on_full: OnFull::Refuse,
            reserve_bytes: 4 << 20,
            warn_percent: [80, 90],
            min_free_bytes: 64 << 20,
            journald: None,
            accept_gap: false,
            checkpoint_interval: Duration::from_secs(60),
            checkpoint_copy: None,
            witnesses: Vec::new(),
            refused_burst: 1000,
            refused_per_minute: 60,
        }
    }
}

/// A record that is on disk.
#[derive(Clone, Copy, Debug)]
pub struct Appended<'a> {
    /// Its number.
    pub seq: u64,
    /// Its line, without the newline.
    pub line: &'a [u8],
    /// What it says.
    pub record: &'a Record,
}

/// Is told of records once they are on disk, in order, on the log's own thread: it must not block.
pub trait Observer: Send {
    /// Whether it looks at requests that were carried out and changed nothing, too
    /// ([`Record::is_plain_use`]). They are most of all, and keeping what they say until they are on disk costs something.
    fn looks_at_uses(&self) -> bool;

    /// These records became durable, and all others with a smaller number than `end`.
    fn appended(&mut self, records: &[Appended<'_>], end: u64);

    /// A new file was begun; what came before is complete.
    fn rotated(&mut self) {}
}
