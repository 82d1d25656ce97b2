//! Who may use a policy now.
//!
//! The file system layer knows only [`Access`]. A mount of one user has [`Everybody`]: whom the kernel lets in counts as the
//! one who mounted. Tests put a double in its place.

pub mod lease;
pub mod opens;
pub mod policies;
pub mod users;
pub mod watch;

use kms_format::{PolicyId, VolumeId};

use crate::errno::FsResult;
use crate::fs::Caller;

/// Says who may use which policy.
pub trait Access: Send + Sync {
    /// Whether `who` may use the policy now: list its directories, open its files, change them.
    ///
    /// # Errors
    /// * `EACCES`, or what the mount was told to answer: not allowed.
    /// * `ETIMEDOUT`: kmsd did not answer in time.
    /// * [`crate::volume::WOULD_WAIT`]: kmsd has to be asked, and this thread must not wait.
    fn may_use(&self, who: &Caller, volume: &VolumeId, policy: &PolicyId) -> FsResult<()>;

    /// Whether `who` may use the policy now and, more than that, bring under it what was encrypted under another one.
    ///
    /// # Errors
    /// As [`Access::may_use`]; `EXDEV`: may use it, but what is brought has to be encrypted anew.
    fn may_bring(&self, who: &Caller, volume: &VolumeId, policy: &PolicyId) -> FsResult<()> {
        self.may_use(who, volume, policy)
    }

    /// Rises whenever decisions are forgotten because they may be wrong: a reply that rests on one from before is not to be
    /// sent.
    fn decisions(&self) -> u64 {
        0
    }

    /// Whether users are told apart. Then every walk through the root of a policy has to be seen, and no listing may be
    /// kept for the next reader.
    fn per_user(&self) -> bool;
}

/// Whose grants count in a mount.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AccessMode {
    /// Those of each user who comes.
    Users,
    /// Those of the one who mounted: whom the kernel lets in counts as him.
    Mounter,
}

/// Everybody may use everything that is unlocked.
#[derive(Clone, Copy, Debug, Default)]
pub struct Everybody;

impl Access for Everybody {
    fn may_use(&self, _who: &Caller, _volume: &VolumeId, _policy: &PolicyId) -> FsResult<()> {
        Ok(())
    }

    fn per_user(&self) -> bool {
        false
    }
}
