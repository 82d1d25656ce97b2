//! Where a job is, in a file in the lower root (FORMAT.md section 10).
//!
//! It is authenticated under the policy key that the job works towards. What is not is passed over: the job begins anew, which does
//! no harm.

use std::sync::Arc;

use kms_format::{Record, UnlockedPolicy, names};
use serde::{Deserialize, Serialize};

use super::{JobKind, Rate};
use crate::backing::{Dir, Small};
use crate::errno::Errno;
use crate::fs::{Fs, FsResult};

/// Larger ones are not ours.
const MAX: usize = 1 << 20;

/// What a job has to know to go on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Cursor {
    pub(crate) kind: JobKind,
    /// The policy, 32 hex digits.
    pub(crate) policy: String,
    /// The generation it works towards.
    pub(crate) generation: u32,
    /// Everything before this in the order of the walk is done: inode numbers from the policy's root down.
    pub(crate) position: Vec<u64>,
    pub(crate) done: u64,
    pub(crate) changed: u64,
    pub(crate) bytes: u64,
    #[serde(default)]
    pub(crate) total: Option<u64>,
    #[serde(default)]
    pub(crate) rate: Rate,
    /// End older generations when everything is done.
    #[serde(default)]
    pub(crate) destroy_old: bool,
    /// Somebody stopped it: it does not go on by itself.
    #[serde(default)]
    pub(crate) stopped: bool,
    /// Everything was seen, and so many objects could not be worked on: it does not go on by itself either, and is in nobody's
    /// way. Its command looks at everything again.
    #[serde(default)]
    pub(crate) failed: u64,
    /// Everything was seen and hangs on the generation, but the older ones could not be ended: it does not go on by itself, and is
    /// in nobody's way. Its command, which ends them, makes no other generation.
    #[serde(default)]
    pub(crate) kept_older: bool,
}

impl Cursor {
    /// The one in the lower root, if there is any. Not authenticated.
    pub(crate) fn read(root: &Dir) -> FsResult<Option<Sealed>> {
        let text = match root.read_small(names::JOB, MAX + 1)? {
            Small::Bytes(text) if text.len() <= MAX => text,
            Small::Bytes(_) | Small::NotAFile => return Err(Errno::IO),
            Small::Missing => return Ok(None),
        };
        let sealed = kms_format::job::split(&text).map_err(|error| Errno::from(&error))?;
        let cursor = serde_json::from_slice(sealed.body).map_err(|_| Errno::IO)?;
        Ok(Some(Sealed { cursor, text }))
    }

    /// Whether it has seen everything: it does not go on by itself, and is in nobody's way.
    pub(crate) fn is_over(&self) -> bool {
        self.failed > 0 || self.kept_older
    }

    pub(crate) fn write(&self, fs: &Fs, policy: &UnlockedPolicy) -> FsResult<()> {
        let body = serde_json::to_vec(self).map_err(|_| Errno::IO)?;
        let text = kms_format::job::seal(policy, &body).map_err(|error| Errno::from(&error))?;
        fs.put_root_file(names::JOB, &text)
    }
}

/// A cursor as it was found.
pub(crate) struct Sealed {
    /// What it says, which nobody has vouched for yet.
    pub(crate) cursor: Cursor,
    text: Vec<u8>,
}

impl Sealed {
    /// The cursor, if `policy` wrote it.
    pub(crate) fn open(self, policy: &Arc<UnlockedPolicy>) -> FsResult<Cursor> {
        match kms_format::job::open(policy, &self.text) {
            Ok(_) => Ok(self.cursor),
            Err(error) => {
                tracing::warn!(%error, record = %Record::Job, "the place of a job is not what kmsfs wrote: it begins anew");
                Err(Errno::IO)
            }
        }
    }
}
