//! The keys of a volume: which policies it has, and how kmsd unlocks them.
//!
//! The file system layer knows only [`Keys`]. [`kmsd::KmsdKeys`] is the real thing; tests put a
//! double with fixed keys in its place.

pub mod kmsd;
pub mod record;
pub mod refusal;
pub mod rotate;

use std::cell::Cell;
use std::sync::Arc;
use std::time::{Duration, Instant};

use kms_format::{PolicyId, UnlockedPolicy, VolumeId};

use crate::errno::Errno;

pub use record::RecordFile;
pub use refusal::{Refusal, VolumeError};

/// Answer of [`Keys::policy_key`] on a thread that must not wait: the key has to be asked for.
///
/// It never reaches the kernel. Whoever gets it passes it up unchanged and without having changed
/// anything, and the transport runs the whole operation again where waiting is allowed.
pub const WOULD_WAIT: Errno = Errno::from_raw(libc::ERESTART);

/// Gives out policy keys.
pub trait Keys: Send + Sync {
    /// The key of a policy, unlocked. Cached; asks kmsd at most once at a time for each policy.
    ///
    /// # Errors
    /// * `ENOKEY`: refused (key disabled or pending deletion, access denied, unknown policy); the log
    ///   says why and what to do.
    /// * `ETIMEDOUT`: kmsd did not answer within the limit; the next call tries again.
    /// * [`WOULD_WAIT`]: on a thread for which [`never_wait_here`] was called.
    fn policy_key(
        &self,
        volume: &VolumeId,
        policy: &PolicyId,
        generation: u32,
    ) -> Result<Arc<UnlockedPolicy>, Errno>;

    /// A generation of this policy that is kept beside this one and has another content mode, if there is any: files of both
    /// modes may be under the policy. What it says need not be authentic.
    fn of_other_mode(&self, _policy: &UnlockedPolicy) -> Option<u32> {
        None
    }

    /// Drops the keys of a policy that is locked, and keeps none until [`Keys::allow`].
    fn bar(&self, _policy: &PolicyId) {}

    /// The keys of a policy may be asked for again.
    fn allow(&self, _policy: &PolicyId) {}

    /// Whether a policy was destroyed for good, or the key that it hangs on: nothing opens it again. False when in doubt.
    fn is_destroyed(&self, _policy: &PolicyId) -> bool {
        false
    }

    /// Why a policy was refused last, in words for an operator.
    fn refusal_text(&self, _policy: &PolicyId) -> Option<String> {
        None
    }
}

thread_local! {
    static MAY_WAIT: Cell<bool> = const { Cell::new(true) };
    static WAITING_SINCE: Cell<Option<Instant>> = const { Cell::new(None) };
}

/// Makes every later [`Keys::policy_key`] on this thread answer [`WOULD_WAIT`] instead of asking
/// kmsd: it answers requests that others wait for.
pub fn never_wait_here() {
    MAY_WAIT.set(false);
}

/// From now on this thread works for somebody who has waited since `since`: a limit counts from then.
pub fn waiting_since(since: Instant) {
    WAITING_SINCE.set(Some(since));
}

/// Until when this thread may wait for kmsd, with this limit.
#[must_use]
pub fn latest(limit: Duration) -> Instant {
    WAITING_SINCE.get().unwrap_or_else(Instant::now) + limit
}

/// Whether this thread may wait for kmsd.
#[must_use]
pub fn may_wait() -> bool {
    MAY_WAIT.get()
}
