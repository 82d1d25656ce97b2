//! Each user's own access: kmsd is asked on behalf of the caller, and its answer kept as long as it may be relied on.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use kms_api::client::{Kept, LeaseClient, User};
use kms_format::{PolicyId, VolumeId};
use parking_lot::{Condvar, Mutex, RwLock};

use super::Access;
use super::policies::{Policies, Verdict};
use crate::errno::{Errno, FsResult};
use crate::fs::Caller;
use crate::volume::{WOULD_WAIT, latest, may_wait};

/// How long a refusal is believed: a burst of calls asks kmsd once, and who has got a grant just now hardly notices.
const REFUSAL_TTL: Duration = Duration::from_millis(250);
/// Pause between attempts to reach kmsd.
const RETRY: Duration = Duration::from_millis(100);
/// Answers kept at most; who comes beyond them asks each time.
const MAX_KEPT: usize = 65_536;
/// Refusals kept at most: a user has tens of thousands of uids in other user namespaces, all of which are refused.
const MAX_REFUSED: usize = 4096;
/// Groups with which one user may come and is remembered; with others they are asked about each time.
const MAX_GROUPS: usize = 32;

/// A user, as the kernel names the caller, and a policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Who {
    /// The policy.
    pub policy: PolicyId,
    /// User.
    pub uid: u32,
    /// Group, which counts beside those of the name service.
    pub gid: u32,
}

/// An answer that is kept.
struct Decision {
    answer: FsResult<()>,
    /// About this key.
    key_arn: String,
    lease: Arc<LeaseClient>,
    kept: Kept,
    since: Instant,
    /// Since it was asked for last.
    used: AtomicBool,
}

/// One question that is being asked; others wait for its answer.
#[derive(Default)]
struct Flight {
    landed: Mutex<bool>,
    changed: Condvar,
}

/// Decisions about the users of one mount.
pub struct Users {
    policies: Arc<Policies>,
    denied: Errno,
    limit: Duration,
    lease: RwLock<Arc<LeaseClient>>,
    /// Who was let in.
    decisions: RwLock<HashMap<Who, Decision>>,
    /// Who was not. Apart, so that those who are refused do not take the place of those who are not.
    refusals: RwLock<HashMap<Who, Decision>>,
    flights: Mutex<HashMap<Who, Arc<Flight>>>,
    /// The groups with which users were let in.
    groups: Mutex<HashMap<(PolicyId, u32), Vec<u32>>>,
    forgotten: AtomicU64,
}

impl Users {
    /// Who may not is answered `denied`; kmsd is waited for up to `limit`.
    #[must_use]
    pub fn new(
        policies: Arc<Policies>,
        lease: LeaseClient,
        denied: Errno,
        limit: Duration,
    ) -> Users {
        Users {
            policies,
            denied,
            limit,
            lease: RwLock::new(Arc::new(lease)),
            decisions: RwLock::default(),
            refusals: RwLock::default(),
            flights: Mutex::default(),
            groups: Mutex::default(),
            forgotten: AtomicU64::new(0),
        }
    }

    /// The lease that answers are kept under.
    #[must_use]
    pub fn lease(&self) -> Arc<LeaseClient> {
        Arc::clone(&self.lease.read())
    }

    /// What who may not is answered.
    #[must_use]
    pub fn denied(&self) -> Errno {
        self.denied
    }

    /// Whether somebody was let in, and need not be asked about again yet.
    #[must_use]
    pub fn is_let_in(&self, who: &Who) -> bool {
        let decisions = self.decisions.read();
        decisions.get(who).is_some_and(Decision::holds)
    }

    /// Goes on under another lease; nothing is kept from the one before.
    pub fn renew(&self, lease: LeaseClient) {
        let mut decisions = self.decisions.write();
        let mut refusals = self.refusals.write();
        *self.lease.write() = Arc::new(lease);
        decisions.clear();
        refusals.clear();
        self.forgotten.fetch_add(1, Ordering::SeqCst);
    }

    /// Forgets the answers about these keys, or all.
    pub fn forget(&self, key_arns: Option<&[String]>) {
        let concerned = |one: &Decision| key_arns.is_none_or(|arns| arns.contains(&one.key_arn));
        self.decisions.write().retain(|_, one| !concerned(one));
        self.refusals.write().retain(|_, one| !concerned(one));
        self.forgotten.fetch_add(1, Ordering::SeqCst);
    }

    /// Replies to requests that were decided before this call are not sent before they are decided once more.
    pub fn decide_anew(&self) {
        self.forgotten.fetch_add(1, Ordering::SeqCst);
    }

    /// The groups with which a user was let in.
    #[must_use]
    pub fn groups(&self, policy: PolicyId, uid: u32) -> Vec<u32> {
        let groups = self.groups.lock();
        groups.get(&(policy, uid)).cloned().unwrap_or_default()
    }

    /// Forgets the groups of all but these.
    pub fn forget_groups(&self, but: &HashSet<(PolicyId, u32)>) {
        let mut groups = self.groups.lock();
        // Who has been let in a moment ago may be about to open something.
        if groups.len() > MAX_KEPT / 16 {
            groups.retain(|who, _| but.contains(who));
        }
    }

    /// Asks again, before they run out, about those who have come since the last time, and forgets what has run out.
    pub fn refresh(&self, older_than: Duration) {
        let mut due = Vec::new();
        self.decisions.write().retain(|who, decision| {
            let old = decision.since.elapsed() >= older_than;
            if old && decision.answer.is_ok() && decision.used.swap(false, Ordering::Relaxed) {
                due.push(*who);
            }
            decision.holds()
        });
        self.refusals.write().retain(|_, one| one.holds());
        for who in due {
            if self.ask(&who, 0, Instant::now() + RETRY).is_none() {
                // What is kept holds for a while yet.
                return;
            }
        }
    }

    /// Asks kmsd now, until `deadline`, and keeps the answer. None if kmsd did not answer.
    pub fn ask(&self, who: &Who, pid: u32, deadline: Instant) -> Option<Verdict> {
        let user = User {
            uid: who.uid,
            gid: who.gid,
            pid,
        };
        loop {
            let lease = self.lease();
            let since = Instant::now();
            let policy = self.policies.get(&who.policy, deadline);
            let (verdict, kept) = match &policy {
                Ok(policy) => policy.ask(&lease, Some(user), deadline),
                Err(verdict) => (verdict.clone(), None),
            };
            let answer = match &verdict {
                Verdict::Allowed => Ok(()),
                Verdict::Denied => Err(self.denied),
                Verdict::Unusable(_) => Err(Errno::NOKEY),
                Verdict::Away(text) => {
                    tracing::debug!(policy = %who.policy, uid = who.uid, text, "kmsd does not answer");
                    if Instant::now() + RETRY >= deadline {
                        return None;
                    }
                    std::thread::sleep(RETRY);
                    continue;
                }
            };
            tracing::debug!(policy = %who.policy, uid = who.uid, gid = who.gid, pid, ?verdict, "asked");
            let remembered = verdict != Verdict::Allowed || self.remember_group(who);
            if let (Some(kept), Ok(policy)) = (kept, policy) {
                let key_arn = policy.key_arn.clone();
                let decision = Decision {
                    answer,
                    key_arn,
                    lease,
                    kept,
                    since,
                    used: AtomicBool::new(false),
                };
                self.keep(who, decision, remembered);
            }
            return Some(verdict);
        }
    }

    /// Whether the group is among those with which the user is remembered.
    fn remember_group(&self, who: &Who) -> bool {
        let mut groups = self.groups.lock();
        let of = groups.entry((who.policy, who.uid)).or_default();
        let known = of.contains(&who.gid);
        if !known && of.len() < MAX_GROUPS {
            of.push(who.gid);
            return true;
        }
        known
    }

    /// Keeps a decision in the place of the one before it; only takes that away if there is no room.
    fn keep(&self, who: &Who, decision: Decision, remembered: bool) {
        let (mut decisions, mut refusals) = (self.decisions.write(), self.refusals.write());
        decisions.remove(who);
        refusals.remove(who);
        // Under the locks: either it is too old here, or who applies the news finds it.
        if !decision.lease.may_keep(&decision.kept) {
            return;
        }
        if decision.answer.is_err() {
            if refusals.len() >= MAX_REFUSED {
                // They hold for a moment only: nothing is lost but a question.
                refusals.clear();
            }
            refusals.insert(*who, decision);
        } else if remembered {
            if decisions.len() >= MAX_KEPT {
                decisions.retain(|_, one| one.holds());
            }
            if decisions.len() < MAX_KEPT {
                decisions.insert(*who, decision);
            }
        }
    }

    fn kept(&self, who: &Who) -> Option<FsResult<()>> {
        {
            let decisions = self.decisions.read();
            if let Some(decision) = decisions.get(who).filter(|decision| decision.holds()) {
                if !decision.used.load(Ordering::Relaxed) {
                    decision.used.store(true, Ordering::Relaxed);
                }
                return Some(decision.answer);
            }
        }
        let refusals = self.refusals.read();
        let refused = refusals.get(who).filter(|decision| decision.holds())?;
        Some(refused.answer)
    }

    /// Asks, or waits for somebody who asks the same.
    fn decide(&self, who: &Who, pid: u32) -> FsResult<()> {
        let late = Err(Errno::from_raw(libc::ETIMEDOUT));
        // One attempt at least.
        let deadline = latest(self.limit.max(Duration::from_secs(1)));
        loop {
            let (flight, leads) = self.board(who);
            if leads {
                let verdict = self.ask(who, pid, deadline);
                self.flights.lock().remove(who);
                *flight.landed.lock() = true;
                flight.changed.notify_all();
                return match verdict {
                    Some(Verdict::Allowed) => Ok(()),
                    Some(Verdict::Denied) => Err(self.denied),
                    Some(Verdict::Unusable(_)) => Err(Errno::NOKEY),
                    Some(Verdict::Away(_)) | None => late,
                };
            }
            let mut landed = flight.landed.lock();
            while !*landed {
                if flight.changed.wait_until(&mut landed, deadline).timed_out() {
                    return late;
                }
            }
            drop(landed);
            if let Some(answer) = self.kept(who) {
                return answer;
            }
        }
    }

    /// The question about `who` that is being asked, or a new one, which the caller has to ask.
    fn board(&self, who: &Who) -> (Arc<Flight>, bool) {
        let mut flights = self.flights.lock();
        if let Some(flight) = flights.get(who) {
            return (Arc::clone(flight), false);
        }
        let flight = Arc::new(Flight::default());
        flights.insert(*who, Arc::clone(&flight));
        (flight, true)
    }
}

impl Drop for Users {
    /// A mount that did not come about holds nobody up.
    fn drop(&mut self) {
        if let Err(error) = self.lease.read().release() {
            tracing::debug!(%error, "the lease runs out by itself");
        }
    }
}

impl Decision {
    fn holds(&self) -> bool {
        self.lease.may_use(&self.kept)
            && (self.answer.is_ok() || self.since.elapsed() < REFUSAL_TTL)
    }
}

impl Access for Users {
    fn may_use(&self, who: &Caller, volume: &VolumeId, policy: &PolicyId) -> FsResult<()> {
        if *volume != self.policies.volume() {
            return Err(Errno::NOKEY);
        }
        let asked = Who {
            policy: *policy,
            uid: who.uid,
            gid: who.gid,
        };
        match self.kept(&asked) {
            Some(answer) => answer,
            None if may_wait() => self.decide(&asked, who.pid),
            None => Err(WOULD_WAIT),
        }
    }

    /// Not kept: it is asked for where files are synced anyway.
    fn may_bring(&self, who: &Caller, volume: &VolumeId, policy: &PolicyId) -> FsResult<()> {
        self.may_use(who, volume, policy)?;
        if !may_wait() {
            return Err(WOULD_WAIT);
        }
        let user = User {
            uid: who.uid,
            gid: who.gid,
            pid: who.pid,
        };
        let deadline = latest(self.limit);
        loop {
            let policy = self.policies.get(policy, deadline);
            let verdict = match policy {
                Ok(policy) => policy.ask_to_bring(&self.lease(), user, deadline),
                Err(verdict) => verdict,
            };
            match verdict {
                Verdict::Allowed => return Ok(()),
                Verdict::Denied => return Err(Errno::XDEV),
                Verdict::Unusable(_) => return Err(Errno::NOKEY),
                Verdict::Away(_) if Instant::now() + RETRY < deadline => {
                    std::thread::sleep(RETRY);
                }
                Verdict::Away(_) => return Err(Errno::from_raw(libc::ETIMEDOUT)),
            }
        }
    }

    fn decisions(&self) -> u64 {
        self.forgotten.load(Ordering::SeqCst)
    }

    fn per_user(&self) -> bool {
        true
    }
}
