//! Ending access to what is open.
//!
//! A [`Revoker`] does that for one mount, on a thread of its own, one revocation after the other. Three kinds:
//!
//! * [`Revoker::revoke_user`] with [`Revoke::Stale`]: a user loses what they have open. The page cache belongs to the file, not
//!   to the user, so the files concerned get another number in the kernel: whoever else had them open gets `ESTALE`, and
//!   opens them again by their path.
//! * The same with [`Revoke::Kill`]: the user's processes that have something open are killed; others notice nothing.
//! * [`Revoker::lock_policy`]: nobody may use a policy, its keys are wiped. What was open works again after
//!   [`Revoker::unlock_policy`].
//!
//! What the kernel does, and why the steps are these and in this order, was measured; `docs/ARCHITECTURE.md` has the reasons.
//! The parts: `marks` is what is revoked now, `steps` are the revocations, [`processes`] finds and ends those who hold
//! something, `watchdog` ends the mount when a revocation cannot be finished.

pub(crate) mod marks;
pub mod processes;
mod scan;
mod steps;
mod watchdog;

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use kms_format::PolicyId;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use self::marks::Marks;
use self::processes::Found;
use self::steps::Steps;
pub use self::watchdog::Abort;
use self::watchdog::Watchdog;
use crate::errno::Errno;
use crate::fs::{Fs, NodeId};

/// How often whoever waits for a revocation looks whether the mount was ended.
const LOOK: Duration = Duration::from_millis(50);

/// How a user loses what they have open.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Revoke {
    /// Their descriptors and mappings fail. Others who have the same files open get `ESTALE`, and open them again.
    #[default]
    Stale,
    /// Their processes that have something open are killed. Others notice nothing.
    Kill,
}

/// Why a policy is locked. It stays locked as long as there is any reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LockReason {
    /// `kmsctl fs lock`.
    Administrator,
    /// Nobody may use its key.
    KeyUnusable,
    /// kmsd is away. Requests wait a while for it to come back.
    KmsdLost,
}

impl LockReason {
    /// For an administrator, with what to do.
    #[must_use]
    pub const fn text(self) -> &'static str {
        match self {
            LockReason::Administrator => "by `kmsctl fs lock`, until `kmsctl fs unlock`",
            LockReason::KeyUnusable => {
                "nobody may use its key, until it is enabled and granted again"
            }
            LockReason::KmsdLost => "kmsd is away, until it is back",
        }
    }
}

/// Why a user may not use a policy. They may again when there is no reason left.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum UserReason {
    /// `kmsctl fs lock --user`.
    Administrator,
    /// kmsd does not give them the key any more.
    Grants,
}

/// What became of a revocation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Files that were open, and whose content the kernel had to forget.
    pub files: usize,
    /// Who had something open.
    pub holders: Vec<Holder>,
    /// Processes that were killed.
    pub killed: Vec<u32>,
    /// How long it took.
    pub took: Duration,
    /// It could not be finished, and the mount was ended.
    pub aborted: bool,
}

/// Somebody who has something open.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Holder {
    /// Who opened it.
    pub uid: u32,
    /// The process that opened it; another one may have it now.
    pub pid: Option<u32>,
    /// What, as `stat(2)` shows it.
    pub ino: u64,
    /// The policy it is under.
    pub policy: Option<PolicyId>,
    /// A directory.
    pub directory: bool,
    /// Content can be written through it.
    pub writable: bool,
}

/// What a revocation does to the kernel and to requests.
pub(crate) trait Kernel: Send + Sync {
    /// Dirty pages of a node are written, then all its pages and attributes forgotten. Not for request threads.
    ///
    /// # Errors
    /// The kernel does not take it.
    fn forget_pages(&self, node: NodeId) -> io::Result<()>;
    /// The attributes of a node are asked for again.
    fn forget_attributes(&self, node: NodeId);
    /// Names are looked up again.
    fn forget_names(&self);
    /// On return no reply will be sent that was judged before the call, and nothing that is refused holds up
    /// [`Kernel::forget_pages`].
    fn drain(&self);
    /// Requests that waited for the end of a revocation go on.
    fn release(self: Arc<Self>);
}

/// Work for the revoker's thread.
enum Job {
    User((PolicyId, u32), UserReason, Revoke, Sender<Report>),
    Group((PolicyId, u32, u32), Revoke, Sender<Report>),
    Lock(PolicyId, LockReason, Sender<Report>),
    Unlock(PolicyId, LockReason, Sender<()>),
    Kill(PolicyId, Sender<Vec<u32>>),
    Settle(Sender<()>),
    /// A file was written under a former number.
    Late(NodeId),
    Stop,
}

/// Ends access to what is open in one mount.
pub struct Revoker {
    jobs: Sender<Job>,
    fs: std::sync::Weak<Fs>,
    marks: Arc<Marks>,
    watchdog: Arc<Watchdog>,
    device: Option<String>,
    thread: Mutex<Option<JoinHandle<()>>>,
    /// [`Revoker::stop`] has begun.
    stopping: AtomicBool,
}

/// What a mount decides.
#[derive(Debug)]
pub struct Settings {
    /// How long requests wait for kmsd while a policy is locked because it is away.
    pub key_wait: Duration,
    /// How long a revocation may take before the mount is ended.
    pub limit: Duration,
    /// How the mount is ended.
    pub abort: Abort,
    /// The device of the mount, `major:minor`, by which processes that use it are found.
    pub device: Option<String>,
}

impl Revoker {
    /// Starts the threads.
    ///
    /// # Errors
    /// No more threads.
    pub(crate) fn start(
        fs: &Arc<Fs>,
        kernel: Arc<dyn Kernel>,
        settings: Settings,
    ) -> io::Result<Revoker> {
        let (jobs, work) = mpsc::channel();
        let marks = Arc::clone(fs.marks());
        let late = jobs.clone();
        marks.set(settings.key_wait, move |number| {
            // The thread is gone only when the mount is.
            drop(late.send(Job::Late(number)));
        });
        let watchdog = Watchdog::start(settings.limit, settings.abort)?;
        let device = settings.device.clone();
        let mut steps = Steps::new(
            Arc::clone(fs),
            kernel,
            settings.device,
            Arc::clone(&watchdog),
        );
        let guard = Arc::clone(&watchdog);
        let thread = std::thread::Builder::new()
            .name("revoker".to_owned())
            .spawn(move || run(&work, &mut steps, &guard))?;
        Ok(Revoker {
            jobs,
            fs: Arc::downgrade(fs),
            marks,
            watchdog,
            device,
            thread: Mutex::new(Some(thread)),
            stopping: AtomicBool::new(false),
        })
    }

    /// Ends a user's access to everything under a policy, what is open included. On return they get not one more byte of
    /// it, by no descriptor or mapping. It lasts until [`Revoker::restore_user`]; what they had open stays revoked.
    pub fn revoke_user(&self, policy: PolicyId, uid: u32, how: Revoke) -> Report {
        self.end_user((policy, uid), UserReason::Grants, how)
    }

    /// The same on behalf of an administrator, whatever kmsd says of the user; until [`Revoker::unlock_user`].
    pub fn lock_user(&self, policy: PolicyId, uid: u32, how: Revoke) -> Report {
        self.end_user((policy, uid), UserReason::Administrator, how)
    }

    fn end_user(&self, whose: (PolicyId, u32), why: UserReason, how: Revoke) -> Report {
        let (sender, report) = mpsc::channel();
        self.reported(Job::User(whose, why, how, sender), &report)
    }

    /// Ends what a user has opened with one group, which has lost the right that others of the user's still have. What they open from
    /// now on is for kmsd to decide, which has refused that group already.
    pub fn revoke_group(&self, policy: PolicyId, (uid, gid): (u32, u32), how: Revoke) -> Report {
        let (sender, report) = mpsc::channel();
        self.reported(Job::Group((policy, uid, gid), how, sender), &report)
    }

    /// A user has access again: what they open from now on works.
    pub fn restore_user(&self, policy: PolicyId, uid: u32) {
        self.give_back((policy, uid), UserReason::Grants);
    }

    /// Takes [`Revoker::lock_user`] back. Says whether there was anything to take back.
    pub fn unlock_user(&self, policy: PolicyId, uid: u32) -> bool {
        self.give_back((policy, uid), UserReason::Administrator)
    }

    fn give_back(&self, whose: (PolicyId, u32), why: UserReason) -> bool {
        let (was, last) = self.marks.change(|state| {
            let Some(reasons) = state.users.get_mut(&whose) else {
                return (false, false);
            };
            let was = reasons.remove(&why);
            if reasons.is_empty() {
                state.users.remove(&whose);
            }
            (was, !state.users.keys().any(|(of, _)| *of == whose.0))
        });
        if last && let Some(fs) = self.fs.upgrade() {
            fs.unwatch(&whose.0);
        }
        was
    }

    /// Ends everybody's access to a policy, and wipes its keys. On return nobody gets one more byte.
    pub fn lock_policy(&self, policy: PolicyId, why: LockReason) -> Report {
        let (sender, report) = mpsc::channel();
        self.reported(Job::Lock(policy, why, sender), &report)
    }

    /// One reason less for a policy to be locked. Without any, what is open works again, as soon as kmsd gives the keys.
    pub fn unlock_policy(&self, policy: PolicyId, why: LockReason) {
        let (sender, done) = mpsc::channel();
        self.ask(Job::Unlock(policy, why, sender), &done);
    }

    /// Kills the processes that have something of a policy open; for one that is locked, so that they do not go on with
    /// what fails. Returns which were killed.
    pub fn kill_holders(&self, policy: PolicyId) -> Vec<u32> {
        let (sender, killed) = mpsc::channel();
        self.ask(Job::Kill(policy, sender), &killed)
    }

    /// On return every reply that was judged before the call is sent: what it opened is among what is open, and what is
    /// sent from then on was judged afterwards.
    pub fn settle(&self) {
        let (sender, done) = mpsc::channel();
        self.ask(Job::Settle(sender), &done);
    }

    /// Why policies are locked; without those that are not.
    pub fn locks(&self) -> Vec<(PolicyId, Vec<LockReason>)> {
        let state = self.marks.read();
        let locked = state.policies.iter();
        locked
            .map(|(policy, locked)| (*policy, locked.reasons.iter().copied().collect()))
            .collect()
    }

    /// Why a policy is locked, and for how long it has been. None if it is not.
    pub fn locked(&self, policy: &PolicyId) -> Option<(Vec<LockReason>, Duration)> {
        let state = self.marks.read();
        let locked = state.policies.get(policy)?;
        let reasons = locked.reasons.iter().copied().collect();
        Some((reasons, locked.since.elapsed()))
    }

    /// Whether a user may not use a policy: because of [`Revoker::lock_user`], and of [`Revoker::revoke_user`].
    pub fn shut_out(&self, policy: PolicyId, uid: u32) -> (bool, bool) {
        let state = self.marks.read();
        let reasons = state.users.get(&(policy, uid));
        let has = |why| reasons.is_some_and(|reasons| reasons.contains(&why));
        (has(UserReason::Administrator), has(UserReason::Grants))
    }

    /// What a user without access gets for what is not open yet, instead of `EACCES`. Only the first call counts.
    pub fn set_denied(&self, denied: Errno) {
        self.marks.set_denied(denied);
    }

    /// Who has something open, under a policy or at all.
    pub fn holders(&self, policy: Option<PolicyId>) -> Vec<Holder> {
        let Some(fs) = self.fs.upgrade() else {
            return Vec::new();
        };
        let handles = match policy {
            Some(policy) => fs.handles_by(&policy),
            None => fs.all_handles(),
        };
        handles
            .iter()
            .map(|handle| steps::holder(&fs, handle))
            .collect()
    }

    /// The uses of the mount by processes, as far as they are found within `limit`: see [`processes::uses`].
    pub fn uses(&self, limit: Duration) -> Found {
        let device = self.device.as_deref();
        let found = device.map(|device| processes::uses(device, None, limit));
        found.unwrap_or_default()
    }

    /// Who has something open that is not revoked: the policy whose right that needs, the user, and the group with which they opened
    /// it. What was moved to another policy since needs the right to both.
    pub fn users(&self) -> Vec<(PolicyId, u32, u32)> {
        let Some(fs) = self.fs.upgrade() else {
            return Vec::new();
        };
        let handles = fs.all_handles();
        let live = handles.iter().filter(|handle| !handle.is_revoked());
        let mut users: Vec<_> = live
            .flat_map(|handle| {
                let opener = handle.opener;
                let policies = [handle.policy, fs.policy_of(&handle.node)];
                let policies = policies.into_iter().flatten();
                policies.map(move |policy| (policy, opener.uid, opener.gid))
            })
            .collect();
        users.sort_unstable();
        users.dedup();
        users
    }

    /// Whether the mount was ended because a revocation could not be finished.
    pub fn aborted(&self) -> bool {
        self.watchdog.fired()
    }

    fn ask<T: Default>(&self, job: Job, answer: &Receiver<T>) -> T {
        let mut alive = self.jobs.send(job).is_ok();
        // The thread may hang in the lower file system; once the mount is ended there is nothing to wait for.
        while alive && !self.watchdog.fired() {
            match answer.recv_timeout(LOOK) {
                Ok(answer) => return answer,
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => alive = false,
            }
        }
        // At the unmount nothing is served any more. Otherwise the thread has failed, and access can be ended in one way only.
        if !alive && !self.stopping.load(Ordering::Acquire) {
            self.watchdog
                .end("a revocation: the thread for that is gone, which");
        }
        T::default()
    }

    fn reported(&self, job: Job, report: &Receiver<Report>) -> Report {
        let report = self.ask(job, report);
        Report {
            aborted: self.watchdog.fired(),
            ..report
        }
    }

    /// Ends the threads.
    pub(crate) fn stop(&self) {
        self.stopping.store(true, Ordering::Release);
        drop(self.jobs.send(Job::Stop));
        if let Some(thread) = self.thread.lock().take()
            && thread.join().is_err()
        {
            tracing::error!("the thread for revocations panicked");
        }
        self.watchdog.stop();
    }
}

impl Drop for Revoker {
    fn drop(&mut self) {
        self.stop();
    }
}

impl std::fmt::Debug for Revoker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Revoker").finish_non_exhaustive()
    }
}

fn run(work: &Receiver<Job>, steps: &mut Steps, watchdog: &Watchdog) {
    loop {
        let job = match steps.next_late() {
            None => work.recv().ok(),
            Some(next) => match work.recv_timeout(next.saturating_duration_since(Instant::now())) {
                Ok(job) => Some(job),
                Err(RecvTimeoutError::Timeout) => {
                    watchdog.guard("pages that came late", || steps.forget_late());
                    continue;
                }
                Err(RecvTimeoutError::Disconnected) => None,
            },
        };
        let start = Instant::now();
        // Who asked may have gone.
        match job {
            Some(Job::User((policy, uid), why, how, sender)) => {
                let what = format!("the revocation of user {uid} from policy {policy}");
                let mut report =
                    watchdog.guard(&what, || steps.revoke_user((policy, uid), why, how));
                report.took = start.elapsed();
                tracing::info!(%policy, uid, ?why, ?how, files = report.files, took = ?report.took, "a user lost access");
                drop(sender.send(report));
            }
            Some(Job::Group((policy, uid, gid), how, sender)) => {
                let what =
                    format!("the revocation of group {gid} of user {uid} from policy {policy}");
                let mut report =
                    watchdog.guard(&what, || steps.revoke_group((policy, uid, gid), how));
                report.took = start.elapsed();
                tracing::info!(%policy, uid, gid, ?how, files = report.files, took = ?report.took, "a group of a user's lost access");
                drop(sender.send(report));
            }
            Some(Job::Lock(policy, why, sender)) => {
                let what = format!("the locking of policy {policy}");
                let mut report = watchdog.guard(&what, || steps.lock(policy, why));
                report.took = start.elapsed();
                tracing::info!(%policy, ?why, files = report.files, took = ?report.took, "a policy is locked");
                drop(sender.send(report));
            }
            Some(Job::Unlock(policy, why, sender)) => {
                steps.unlock(policy, why);
                let _ = sender.send(());
            }
            Some(Job::Kill(policy, sender)) => {
                let what = format!("killing who has something of policy {policy} open");
                drop(sender.send(watchdog.guard(&what, || steps.kill_all(&policy))));
            }
            Some(Job::Settle(sender)) => {
                watchdog.guard("requests under way", || steps.settle());
                let _ = sender.send(());
            }
            Some(Job::Late(number)) => {
                watchdog.guard("pages that came late", || steps.late_now(number));
            }
            Some(Job::Stop) | None => return,
        }
    }
}
