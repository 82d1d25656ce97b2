//! Long work on a mounted tree: one job at a time for each mount, on a thread of its own, while the tree is in use.
//!
//! A job is stopped at unmount and goes on where it was: at the next mount, or with the command that began it. Its place is in
//! `.kmsfs.job`, a file in the lower root. What it does at an object must be harmless to do again: after a crash the last few
//! objects are seen twice.

pub(crate) mod cursor;
mod progress;
pub(crate) mod reencrypt;
pub(crate) mod rewrap;
pub(crate) mod run;
mod throttle;
pub(crate) mod walk;
mod watching;
mod whole;

use std::sync::Arc;

use serde::{Deserialize, Serialize};

pub use self::progress::{Failure, JobReport, Progress};
pub use self::run::{Busy, Jobs};
pub use self::throttle::Rate;
use crate::fs::{Fs, FsResult};
use crate::inode::Node;

/// Which job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JobKind {
    /// Keys of directories and files under the newest generation of the policy key.
    Rewrap,
    /// The same onto another KMS key.
    Rekey,
    /// New keys and contents, too.
    Reencrypt,
}

impl JobKind {
    /// The word for people and commands.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            JobKind::Rewrap => "rewrap",
            JobKind::Rekey => "rekey",
            JobKind::Reencrypt => "reencrypt",
        }
    }
}

/// What was done at one object.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Step {
    /// It was changed.
    pub(crate) changed: bool,
    /// Bytes of content that were written anew.
    pub(crate) bytes: u64,
}

impl Step {
    /// There was nothing to do.
    pub(crate) const NOTHING: Step = Step {
        changed: false,
        bytes: 0,
    };
    /// It was changed, and no content was written.
    pub(crate) const CHANGED: Step = Step {
        changed: true,
        bytes: 0,
    };
}

/// Told of bytes that were written anew in the middle of an object; waits as long as that is to take, and says whether to go
/// on. If not, the object is left with `EINTR`, and comes again when the job goes on.
pub(crate) type Pace<'a> = &'a mut dyn FnMut(u64) -> bool;

/// What a job does. Errors that concern the object alone are counted and the job goes on; those after which nothing else would
/// work either end it ([`walk::ends_all`]); `ENOENT` and `ESTALE` say that the object is gone, which is no error.
pub(crate) trait Work: Send {
    /// A directory of the policy, before what is in it is listed: names may change. What takes long asks `pace` in between.
    fn directory(&mut self, fs: &Fs, dir: &Arc<Node>, pace: Pace<'_>) -> FsResult<Step>;

    /// Anything else in `dir`, under its lower name. Hard links come once, except those of symlinks, which come as often as they
    /// have names. What takes long asks `pace` in between.
    fn entry(
        &mut self,
        fs: &Fs,
        dir: &Arc<Node>,
        name: &str,
        node: &Arc<Node>,
        pace: Pace<'_>,
    ) -> FsResult<Step>;

    /// Makes durable what was done so far: the place of the job is written next. Called every so many objects and at the end.
    fn flush(&mut self, _fs: &Fs) -> FsResult<()> {
        Ok(())
    }

    /// Where to stop: a directory that has another policy is not gone into.
    fn policy(&self) -> kms_format::PolicyId;
}
