//! The revocations, step by step. All of it runs on the revoker's thread: an invalidation ends only after requests that need
//! a free request thread.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use kms_format::PolicyId;

use super::marks::Locked;
use super::processes::{self, Found, How};
use super::watchdog::Watchdog;
use super::{Holder, Kernel, LockReason, Report, Revoke, UserReason};
use crate::fs::{Fs, Kind, NodeId};
use crate::handle::Handle;
use crate::inode::Node;

/// A write of somebody else that passed before admission was closed may put its page into the cache after it was emptied.
/// Measured: within this time it has.
const GRACE: Duration = Duration::from_millis(10);
/// And again, for a writer who did not get to run.
const AGAIN: [Duration; 3] = [
    Duration::from_millis(100),
    Duration::from_secs(1),
    Duration::from_secs(10),
];
/// How long killed processes may take to let go of what they had open.
const DYING: Duration = Duration::from_millis(500);
/// How long processes are looked for at most: what is not found by then counts as found where that is safe.
const SEARCH: Duration = Duration::from_secs(1);
/// How often processes are looked for meanwhile: they may have had children.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// What the revoker's thread has.
pub(super) struct Steps {
    fs: Arc<Fs>,
    kernel: Arc<dyn Kernel>,
    device: Option<String>,
    watchdog: Arc<Watchdog>,
    /// Numbers whose pages are to be forgotten once more, and when.
    late: BinaryHeap<Reverse<(Instant, NodeId)>>,
}

/// Somebody who has something open.
pub(super) fn holder(fs: &Fs, handle: &Handle) -> Holder {
    Holder {
        uid: handle.opener.uid,
        pid: (handle.opener.pid != 0).then_some(handle.opener.pid),
        ino: handle.node.lower.ino(),
        policy: fs.policy_of(&handle.node),
        directory: handle.node.kind == Kind::Directory,
        writable: handle.writable,
    }
}

impl Steps {
    pub(super) fn new(
        fs: Arc<Fs>,
        kernel: Arc<dyn Kernel>,
        device: Option<String>,
        watchdog: Arc<Watchdog>,
    ) -> Steps {
        Steps {
            fs,
            kernel,
            device,
            watchdog,
            late: BinaryHeap::new(),
        }
    }

    /// See [`super::Revoker::revoke_user`].
    pub(super) fn revoke_user(
        &mut self,
        (policy, uid): (PolicyId, u32),
        why: UserReason,
        how: Revoke,
    ) -> Report {
        // From here nothing new is admitted; what is open is found after that, so nothing is missed.
        self.fs
            .marks()
            .change(|state| state.users.entry((policy, uid)).or_default().insert(why));
        let mut handles = self.fs.handles_by(&policy);
        handles.retain(|handle| handle.opener.uid == uid && !handle.is_revoked());
        let (report, handles) = self.end(&policy, uid, how, handles, true);
        self.names(&policy, uid, &handles);
        report
    }

    /// See [`super::Revoker::revoke_group`].
    pub(super) fn revoke_group(
        &mut self,
        (policy, uid, gid): (PolicyId, u32, u32),
        how: Revoke,
    ) -> Report {
        // From now on handles are looked at.
        self.fs.marks().change(|_| ());
        // What was decided before kmsd refused the group is open after this, or asked about once more.
        self.kernel.drain();
        let mut handles = self.fs.handles_by(&policy);
        handles.retain(|handle| {
            (handle.opener.uid, handle.opener.gid) == (uid, gid) && !handle.is_revoked()
        });
        let (report, handles) = self.end(&policy, uid, how, handles, false);
        for handle in handles {
            if handle.node.kind == Kind::Directory {
                self.forget_pages(handle.node.number());
            }
        }
        report
    }

    /// Ends what is open by these handles of a user. `all`: the user has no access by any other right either. Gives those of them that
    /// are still open.
    fn end(
        &mut self,
        policy: &PolicyId,
        uid: u32,
        how: Revoke,
        mut handles: Vec<Arc<Handle>>,
        all: bool,
    ) -> (Report, Vec<Arc<Handle>>) {
        let holders = handles.iter().map(|handle| holder(&self.fs, handle));
        let mut report = Report {
            holders: holders.collect(),
            ..Report::default()
        };
        for handle in &handles {
            handle.revoke();
        }
        if how == Revoke::Kill {
            self.kernel.drain();
            report.killed = self.kill(policy, Some(uid), &handles, all);
            let alive: HashSet<_> = self.fs.all_handles().iter().map(Arc::as_ptr).collect();
            handles.retain(|handle| alive.contains(&Arc::as_ptr(handle)));
        }
        let victims = files(handles.iter().map(|handle| &handle.node));
        report.files = victims.len();
        self.take_pages(&victims, uid);
        (report, handles)
    }

    /// Every reply that was judged before is sent on return.
    pub(super) fn settle(&mut self) {
        self.kernel.drain();
    }

    /// Takes the pages of files away from everybody, and their numbers, so that no page comes back for who has an old
    /// descriptor.
    fn take_pages(&mut self, victims: &[Arc<Node>], uid: u32) {
        let ids: Vec<_> = victims.iter().map(|node| node.id).collect();
        self.fs
            .marks()
            .change(|state| state.victims.extend(ids.iter().copied()));
        self.kernel.drain();
        // Dirty pages are written here: a write that is refused would be lost.
        for node in victims {
            self.forget_pages(node.number());
        }
        let renumbered = victims
            .iter()
            .filter_map(|node| Some((self.fs.renumber(node)?, Arc::clone(node))));
        let former: Vec<_> = renumbered.collect();
        self.kernel.drain();
        for (number, _) in &former {
            self.forget_pages(*number);
        }
        let writing: HashSet<_> = self
            .fs
            .all_handles()
            .iter()
            .filter(|handle| handle.writable && handle.opener.uid != uid)
            .map(|handle| handle.node.id)
            .collect();
        let mut disturbed = former
            .iter()
            .filter(|(_, node)| writing.contains(&node.id))
            .peekable();
        if disturbed.peek().is_some() {
            std::thread::sleep(GRACE);
        }
        for (number, _) in disturbed {
            self.forget_pages(*number);
        }
        self.fs.marks().change(|state| {
            for id in &ids {
                state.victims.remove(id);
            }
        });
        Arc::clone(&self.kernel).release();
        for (number, _) in former {
            self.late(number);
        }
    }

    /// Names and attributes: walks through directories of the policy are refused to the user, so the kernel must not answer
    /// them by itself where the user could begin one.
    fn names(&mut self, policy: &PolicyId, uid: u32, handles: &[Arc<Handle>]) {
        let mut directories = self.fs.nodes_under(policy);
        directories.retain(|node| {
            let directory = node.directory();
            directory.is_ok_and(|directory| !directory.watched.swap(true, Ordering::AcqRel))
        });
        self.kernel.drain();
        for node in &directories {
            self.kernel.forget_attributes(node.number());
        }
        for handle in handles {
            if handle.node.kind == Kind::Directory {
                // The listing that the kernel keeps.
                self.forget_pages(handle.node.number());
            }
        }
        let found = self.uses(Some(uid), SEARCH);
        if !found.unseen.is_empty() {
            // They may stand anywhere: all directories stay watched, which costs a question for each step of a walk and nothing else.
            tracing::warn!(
                uid, %policy, processes = found.unseen.len(),
                "processes of a user who lost access could not be looked into in time: every directory of the policy is watched"
            );
            return;
        }
        let mut stands: HashSet<_> = found
            .uses
            .iter()
            .filter_map(|found| Some(self.fs.node_of_inode(found.ino)?.id))
            .collect();
        stands.extend(handles.iter().map(|handle| handle.node.id));
        for node in directories {
            let root = node
                .parent()
                .is_none_or(|parent| self.fs.policy_of(&parent).as_ref() != Some(policy));
            if !root
                && !stands.contains(&node.id)
                && let Ok(directory) = node.directory()
            {
                directory.watched.store(false, Ordering::Release);
            }
        }
    }

    /// See [`super::Revoker::kill_holders`].
    pub(super) fn kill_all(&self, policy: &PolicyId) -> Vec<u32> {
        self.kill(policy, None, &self.fs.handles_under(policy), true)
    }

    /// Kills the processes of a user, or all, that have something of these handles open, or, if `all`, anything of the policy, and
    /// waits until the handles are gone.
    fn kill(
        &self,
        policy: &PolicyId,
        uid: Option<u32>,
        handles: &[Arc<Handle>],
        all: bool,
    ) -> Vec<u32> {
        let ours: HashSet<_> = handles.iter().map(Arc::as_ptr).collect();
        let inodes: HashSet<_> = handles
            .iter()
            .map(|handle| handle.node.lower.ino())
            .collect();
        let until = Instant::now() + DYING;
        let mut killed = Vec::new();
        loop {
            let found = self.uses(uid, SEARCH);
            // What cannot be looked into is not killed: it may have nothing, and what is left open is taken away below without it.
            let concerned: HashSet<_> = found
                .uses
                .iter()
                // Where everybody loses access there is no harm in standing there, as the administrator may.
                .filter(|found| uid.is_some() || !matches!(found.how, How::Directory | How::Root))
                .filter(|found| {
                    // What has no name any more is found by its handle only.
                    if inodes.contains(&found.ino) {
                        return true;
                    }
                    let node = self.fs.node_of_inode(found.ino);
                    all && node
                        .is_some_and(|node| self.fs.policy_of(&node).as_ref() == Some(policy))
                })
                .map(|found| (found.pid, found.began))
                .collect();
            for process in &concerned {
                if processes::kill(*process, uid) && !killed.contains(&process.0) {
                    killed.push(process.0);
                }
            }
            let look_again = (Instant::now() + LOOK_AGAIN).min(until);
            loop {
                if !self.any_open(&ours) && processes::all_gone(&killed) {
                    return killed;
                }
                if Instant::now() >= look_again {
                    break;
                }
                std::thread::sleep(Duration::from_millis(1));
            }
            if Instant::now() >= until {
                tracing::warn!(uid, %policy, "not everything was closed after its processes were killed");
                return killed;
            }
        }
    }

    fn any_open(&self, handles: &HashSet<*const Handle>) -> bool {
        let open = self.fs.all_handles();
        open.iter()
            .any(|handle| handles.contains(&Arc::as_ptr(handle)))
    }

    fn uses(&self, uid: Option<u32>, limit: Duration) -> Found {
        let device = self.device.as_deref();
        let found = device.map(|device| processes::uses(device, uid, limit));
        // However long that took, it ends by itself.
        self.watchdog.moves_on();
        found.unwrap_or_default()
    }

    /// See [`super::Revoker::lock_policy`].
    pub(super) fn lock(&mut self, policy: PolicyId, why: LockReason) -> Report {
        let marks = Arc::clone(self.fs.marks());
        let already = marks.change(|state| {
            let locked = state.policies.entry(policy).or_insert_with(|| Locked {
                reasons: std::collections::BTreeSet::new(),
                since: Instant::now(),
                closed: false,
                done: false,
            });
            locked.reasons.insert(why);
            locked.done
        });
        let handles = self.fs.handles_under(&policy);
        let open = files(handles.iter().map(|handle| &handle.node));
        let report = Report {
            files: open.len(),
            holders: handles.iter().map(|h| holder(&self.fs, h)).collect(),
            ..Report::default()
        };
        if already {
            // Who waits for kmsd may not any more.
            marks.wake();
            return report;
        }
        self.kernel.drain();
        let nodes = self.fs.nodes_under(&policy);
        // What is dirty is written here, for which the keys are needed. What is open first.
        let opened: HashSet<_> = open.iter().map(|node| node.id).collect();
        let (first, rest): (Vec<_>, Vec<_>) = nodes
            .into_iter()
            .partition(|node| opened.contains(&node.id));
        for node in first.iter().chain(&rest) {
            self.forget_pages(node.number());
        }
        marks.change(|state| {
            if let Some(locked) = state.policies.get_mut(&policy) {
                locked.closed = true;
            }
        });
        self.kernel.drain();
        for node in &first {
            self.forget_pages(node.number());
        }
        let writing: HashSet<_> = handles
            .iter()
            .filter(|handle| handle.writable)
            .map(|handle| handle.node.id)
            .collect();
        if !writing.is_empty() {
            std::thread::sleep(GRACE);
        }
        for node in first.iter().filter(|node| writing.contains(&node.id)) {
            self.forget_pages(node.number());
        }
        self.kernel.forget_names();
        self.fs.wipe(&policy);
        marks.change(|state| {
            if let Some(locked) = state.policies.get_mut(&policy) {
                locked.done = true;
            }
        });
        for node in first {
            self.late(node.number());
        }
        report
    }

    /// See [`super::Revoker::unlock_policy`].
    pub(super) fn unlock(&mut self, policy: PolicyId, why: LockReason) {
        let marks = self.fs.marks();
        let free = marks.change(|state| {
            let Some(locked) = state.policies.get_mut(&policy) else {
                return false;
            };
            locked.reasons.remove(&why);
            locked.reasons.is_empty() && {
                // Before the mark goes: who passes then may ask for keys.
                self.fs.allow_keys(&policy);
                state.policies.remove(&policy).is_some()
            }
        });
        marks.wake();
        if free {
            tracing::info!(%policy, ?why, "a policy is not locked any more");
        }
    }

    /// Pages of a former number may still come: they are forgotten now and a few times later.
    pub(super) fn late(&mut self, number: NodeId) {
        let now = Instant::now();
        for delay in AGAIN {
            self.late.push(Reverse((now + delay, number)));
        }
    }

    /// Pages were written under a former number just now.
    pub(super) fn late_now(&mut self, number: NodeId) {
        if self.may_forget(number) {
            self.forget_pages(number);
        }
    }

    /// When the next pages are to be forgotten.
    pub(super) fn next_late(&self) -> Option<Instant> {
        self.late.peek().map(|Reverse((when, _))| *when)
    }

    /// Forgets the pages whose time has come.
    pub(super) fn forget_late(&mut self) {
        let now = Instant::now();
        let mut numbers = HashSet::new();
        while let Some(Reverse((when, number))) = self.late.peek().copied()
            && when <= now
        {
            self.late.pop();
            numbers.insert(number);
        }
        for number in numbers {
            self.late_now(number);
        }
    }

    /// Requests that wait for kmsd would hold it up, and nobody's access was ended then.
    fn may_forget(&self, number: NodeId) -> bool {
        let Ok(node) = self.fs.node(number) else {
            return true;
        };
        let policy = self.fs.policy_of(&node);
        policy.is_none_or(|policy| !self.fs.marks().waits(&policy))
    }

    fn forget_pages(&self, number: NodeId) {
        // The watchdog ends it, and the kernel takes everything once the mount is ended.
        while let Err(error) = self.kernel.forget_pages(number) {
            tracing::warn!(node = number.0, %error, "the kernel did not forget what it has of a file; trying again");
            std::thread::sleep(GRACE);
        }
        self.watchdog.moves_on();
    }
}

/// The files among nodes, each once.
fn files<'a>(nodes: impl Iterator<Item = &'a Arc<Node>>) -> Vec<Arc<Node>> {
    let mut seen = HashSet::new();
    nodes
        .filter(|node| node.kind == Kind::File && seen.insert(node.id))
        .map(Arc::clone)
        .collect()
}
