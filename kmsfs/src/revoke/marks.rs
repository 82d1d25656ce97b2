//! What is revoked now: read by every request, changed by the [`super::Revoker`] alone.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use kms_format::PolicyId;
use parking_lot::{Condvar, Mutex, RwLock, RwLockReadGuard};

use super::{LockReason, UserReason};
use crate::errno::Errno;
use crate::fs::{FileHandle, NodeId};

/// What a request asks for, as far as a revocation has to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Class {
    /// Content through a handle, into the page cache or past it.
    Read,
    /// Content to a handle. `cached`: pages of a mapping, on nobody's behalf, through any handle of the file.
    Write {
        /// See above.
        cached: bool,
    },
    /// New attributes, the size among them.
    SetAttr,
    /// Attributes.
    GetAttr,
    /// A name.
    Lookup,
    /// A handle.
    Open,
    /// Something else that shows what is there.
    Show,
    /// Something else that changes what is there.
    Change,
    /// What is answered whatever is revoked.
    Exempt,
}

/// A request.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asked {
    pub(crate) class: Class,
    /// Whom it is for.
    pub(crate) uid: u32,
    /// The node it names.
    pub(crate) node: NodeId,
    /// A second node.
    pub(crate) other: Option<NodeId>,
    /// The handles it names.
    pub(crate) handles: [Option<FileHandle>; 2],
}

impl Asked {
    /// Whether its reply gives something away that a revocation in between has to hold back. What was changed is changed:
    /// saying so gives nothing away.
    pub(crate) const fn shows(&self) -> bool {
        matches!(
            self.class,
            Class::Read | Class::GetAttr | Class::Lookup | Class::Open | Class::Show
        )
    }

    /// Whether the kernel lets no invalidation of the file's pages end before it is answered.
    pub(crate) const fn blocks(&self) -> bool {
        matches!(
            self.class,
            Class::Read | Class::Write { .. } | Class::SetAttr
        )
    }
}

/// What becomes of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It is carried out, or its reply is sent.
    Pass,
    /// It is refused.
    Fail(Errno),
    /// It waits until the present revocation is over.
    Park,
    /// It waits for kmsd to be back, at most until then.
    Wait(Instant),
}

/// A policy that is locked.
#[derive(Debug)]
pub(crate) struct Locked {
    pub(super) reasons: BTreeSet<LockReason>,
    pub(super) since: Instant,
    /// Dirty pages have been written: nothing is taken any more.
    pub(super) closed: bool,
    /// The kernel has nothing of it any more, and the keys are wiped.
    pub(super) done: bool,
}

/// What is revoked.
#[derive(Debug, Default)]
pub(crate) struct State {
    /// Users who may not use a policy.
    pub(crate) users: HashMap<(PolicyId, u32), BTreeSet<UserReason>>,
    /// Policies that nobody may use.
    pub(crate) policies: HashMap<PolicyId, Locked>,
    /// Files whose pages are being taken away from everybody.
    pub(crate) victims: HashSet<NodeId>,
}

type Late = dyn Fn(NodeId) + Send + Sync;

/// All of it.
pub(crate) struct Marks {
    /// Nothing has been revoked since the mount.
    quiet: AtomicBool,
    state: RwLock<State>,
    /// What a user without access gets for what is not open yet.
    denied: OnceLock<Errno>,
    /// How long requests wait for kmsd while a policy is locked because it is away.
    patience: OnceLock<Duration>,
    /// Counts unlockings.
    unlocked: Mutex<u64>,
    changed: Condvar,
    /// Takes the former numbers of files that are written to.
    late: OnceLock<Box<Late>>,
}

impl Default for Marks {
    fn default() -> Marks {
        Marks {
            quiet: AtomicBool::new(true),
            state: RwLock::default(),
            denied: OnceLock::new(),
            patience: OnceLock::new(),
            unlocked: Mutex::default(),
            changed: Condvar::new(),
            late: OnceLock::new(),
        }
    }
}

impl Marks {
    /// Nothing has been revoked since the mount: every request passes.
    pub(crate) fn is_quiet(&self) -> bool {
        self.quiet.load(Ordering::Acquire)
    }

    /// What is revoked, to be looked at.
    pub(super) fn read(&self) -> RwLockReadGuard<'_, State> {
        self.state.read()
    }

    /// Changes what is revoked.
    pub(super) fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let mut state = self.state.write();
        self.quiet.store(false, Ordering::Release);
        change(&mut state)
    }

    #[cfg(test)]
    pub(crate) fn change_for_test<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        self.change(change)
    }

    #[cfg(test)]
    pub(crate) fn lock_for_test(
        &self,
        policy: PolicyId,
        why: LockReason,
        closed: bool,
        done: bool,
    ) {
        self.change(|state| {
            let locked = state.policies.entry(policy).or_insert_with(|| Locked {
                reasons: BTreeSet::new(),
                since: Instant::now(),
                closed,
                done,
            });
            locked.reasons.insert(why);
            (locked.closed, locked.done) = (closed, done);
        });
    }

    /// What happens when: see the fields. Only the first call counts.
    pub(crate) fn set(&self, patience: Duration, late: impl Fn(NodeId) + Send + Sync + 'static) {
        let _ = self.patience.set(patience);
        let _ = self.late.set(Box::new(late));
    }

    /// What a user whose access was revoked gets for what is not open yet; `EACCES` unless set. Only the first call counts.
    pub(crate) fn set_denied(&self, denied: Errno) {
        let _ = self.denied.set(denied);
    }

    /// Pages of this former number were written: what the kernel keeps of them has to go.
    pub(crate) fn wrote_late(&self, number: NodeId) {
        if let Some(late) = self.late.get() {
            late(number);
        }
    }

    /// Whether a policy's keys may be used.
    ///
    /// # Errors
    /// `ENOKEY`: it is locked.
    pub(crate) fn check(&self, policy: &PolicyId) -> Result<(), Errno> {
        if !self.is_quiet() && self.state.read().policies.contains_key(policy) {
            return Err(Errno::NOKEY);
        }
        Ok(())
    }

    /// Whether something under `policy` may be done or shown for `uid`.
    pub(crate) fn of_policy(&self, policy: &PolicyId, asked: &Asked) -> Verdict {
        let state = self.state.read();
        let writeback = asked.class == Class::Write { cached: true };
        if let Some(locked) = state.policies.get(policy)
            && (locked.closed || !writeback)
        {
            return match self.until(locked) {
                Some(until) => Verdict::Wait(until),
                None => Verdict::Fail(Errno::NOKEY),
            };
        }
        if !writeback && state.users.contains_key(&(*policy, asked.uid)) {
            return Verdict::Fail(self.denied.get().copied().unwrap_or(Errno::ACCES));
        }
        Verdict::Pass
    }

    /// Until when requests wait for kmsd to be back. Not while pages are being taken away, which they would hold up.
    fn until(&self, locked: &Locked) -> Option<Instant> {
        let away = locked
            .reasons
            .iter()
            .all(|why| *why == LockReason::KmsdLost);
        let until = locked.since + self.patience.get().copied().unwrap_or_default();
        (away && locked.done && Instant::now() < until).then_some(until)
    }

    /// Whether requests of a policy wait for kmsd.
    pub(super) fn waits(&self, policy: &PolicyId) -> bool {
        let state = self.state.read();
        let locked = state.policies.get(policy);
        locked.is_some_and(|locked| self.until(locked).is_some())
    }

    /// Whether a file's pages are being taken away from everybody; by its first number.
    pub(crate) fn is_victim(&self, id: NodeId) -> bool {
        self.state.read().victims.contains(&id)
    }

    /// Calls `keep` if a revocation is under way, so that what it keeps is found when that ends. Says whether it did.
    pub(crate) fn during(&self, keep: impl FnOnce()) -> bool {
        let state = self.state.read();
        let under_way = !state.victims.is_empty();
        if under_way {
            keep();
        }
        under_way
    }

    /// A policy may be used again.
    pub(super) fn wake(&self) {
        *self.unlocked.lock() += 1;
        self.changed.notify_all();
    }

    /// How often a policy was unlocked.
    pub(crate) fn unlockings(&self) -> u64 {
        *self.unlocked.lock()
    }

    /// Waits until there are more unlockings than `seen`, or until then. Says whether there are.
    pub(crate) fn wait_for_unlocking(&self, seen: u64, until: Instant) -> bool {
        let mut unlocked = self.unlocked.lock();
        while *unlocked == seen {
            if self.changed.wait_until(&mut unlocked, until).timed_out() {
                return false;
            }
        }
        true
    }
}
