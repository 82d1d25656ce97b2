//! Hears of changes and acts on them: whose access has ended, which policies nobody may use any more, and when kmsd is away.
//!
//! A service holds a lease and hears at once; kmsd's call that took something away returns when the news were applied here.
//! Any other mount asks again every [`POLL`].

use std::collections::{HashMap, HashSet};
use std::io;
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use kms_api::client::{ClientError, LeaseClient};
use kms_api::{Changed, ErrorCode};
use kms_format::PolicyId;

use super::policies::{Policies, Verdict};
use super::users::{Users, Who};
use crate::revoke::{LockReason, Revoker};
use crate::volume::kmsd::KmsdKeys;

/// How often a mount without a lease asks whether its keys may still be used.
pub const POLL: Duration = Duration::from_secs(10);
/// The same while kmsd is away: somebody waits for it.
const AGAIN: Duration = Duration::from_secs(2);
/// How often everything is asked again, although the news would have told.
const MINUTE: Duration = Duration::from_secs(60);
/// Pause between attempts to reach kmsd.
const RETRY: Duration = Duration::from_millis(100);

/// The thread that watches, until [`Watch::end`].
pub struct Watch {
    stop: mpsc::Sender<()>,
    users: Option<Arc<Users>>,
}

/// kmsd did not answer while something was to be applied: it is not applied.
struct NotApplied;

struct Watcher {
    policies: Arc<Policies>,
    keys: Arc<KmsdKeys>,
    revoker: Arc<Revoker>,
    users: Option<Arc<Users>>,
    /// Names the lease to people.
    label: String,
    stop: mpsc::Receiver<()>,
    states: HashMap<PolicyId, State>,
    /// Users whose access has ended, until they get it back.
    revoked: HashSet<(PolicyId, u32)>,
    /// Since when kmsd's answers hold no longer.
    lost: Option<Instant>,
}

/// What is known of a policy here.
struct State {
    /// Empty while not known.
    key_arn: String,
    /// Seconds after the loss of kmsd.
    lock_after: Option<u64>,
    unusable: bool,
    lost: bool,
}

impl Default for State {
    fn default() -> State {
        State {
            key_arn: String::new(),
            lock_after: Some(0),
            unusable: false,
            lost: false,
        }
    }
}

/// What to look at.
enum Scope<'a> {
    All,
    Keys(&'a [String]),
}

impl Watch {
    /// Watches for a mount: with `users` under their lease, which `label` names to people.
    ///
    /// # Errors
    /// No thread.
    pub fn start(
        policies: Arc<Policies>,
        (keys, revoker): (Arc<KmsdKeys>, Arc<Revoker>),
        users: Option<Arc<Users>>,
        label: String,
    ) -> io::Result<Watch> {
        let (stop, stopped) = mpsc::channel();
        let watched = users.clone();
        let mut watcher = Watcher {
            policies,
            keys,
            revoker,
            users,
            label,
            stop: stopped,
            states: HashMap::new(),
            revoked: HashSet::new(),
            lost: None,
        };
        std::thread::Builder::new()
            .name("watch".to_owned())
            .spawn(move || match watcher.users.clone() {
                Some(users) => watcher.hold(&users),
                None => watcher.poll(),
            })?;
        Ok(Watch {
            stop,
            users: watched,
        })
    }

    /// Ends it and gives the lease back: nothing is relied on any more.
    pub fn end(&self) {
        // The thread may have ended.
        let _ = self.stop.send(());
        if let Some(users) = &self.users
            && let Err(error) = users.lease().release()
        {
            tracing::debug!(%error, "the lease runs out by itself");
        }
    }
}

impl Watcher {
    /// Under a lease.
    fn hold(&mut self, users: &Arc<Users>) {
        let mut due = Instant::now();
        let mut all_due = Instant::now() + MINUTE;
        loop {
            let mut applied = Ok(());
            let lease = users.lease();
            let heard = lease.next();
            let there = heard.is_ok();
            if self.stopped(Duration::ZERO) {
                return;
            }
            match heard {
                Ok(news) => {
                    applied = match &news {
                        _ if self.lost.is_some() => self.apply(&Scope::All, &lease),
                        None => Ok(()),
                        Some(news) => match news.changed {
                            Changed::None => Ok(()),
                            Changed::Keys => self.apply(&Scope::Keys(&news.key_arns), &lease),
                            Changed::All => self.apply(&Scope::All, &lease),
                        },
                    };
                    if applied.is_ok() {
                        self.found();
                        if let Some(news) = &news
                            && let Err(error) = lease.applied(news)
                        {
                            tracing::debug!(%error, "said again with the next question");
                        }
                    }
                }
                Err(error) if is_unknown(&error) => self.take_another(users),
                Err(error) => tracing::debug!(%error, "kmsd does not answer"),
            }
            if users.lease().left_ms().is_none() {
                // Who was stopped for longer than the lease finds a kmsd that answers: another lease, and nothing is locked.
                if there {
                    self.take_another(users);
                } else {
                    self.lose(Instant::now());
                }
            }
            let third = users.lease().length() / 3;
            if self.lost.is_none() && due <= Instant::now() {
                due = Instant::now() + third;
                // Between half of the lease and the next time but one they are asked once more.
                users.refresh(users.lease().length() / 2);
                let all = all_due <= Instant::now();
                if all {
                    all_due = Instant::now() + MINUTE;
                }
                self.look_again(&users.lease(), all);
            }
            // Asking is waiting already, if kmsd is there and answers.
            let pause = if self.lost.is_some() || applied.is_err() {
                RETRY
            } else {
                Duration::ZERO
            };
            if self.stopped(pause) {
                return;
            }
        }
    }

    /// Without a lease.
    fn poll(&mut self) {
        let mut heard = Instant::now();
        let mut pause = POLL;
        for round in 1_u32.. {
            if self.stopped(pause) {
                return;
            }
            // What the registry says of a policy changes seldom, and a key that is not its any more is refused anyway.
            if round % 6 == 0 {
                self.policies.forget(None);
            }
            if self.check_keys(&Scope::All, None).is_ok() {
                heard = Instant::now();
                self.found();
                pause = POLL;
            } else {
                pause = AGAIN;
                if heard.elapsed() >= POLL * 2 {
                    self.lose(Instant::now());
                }
            }
        }
    }

    fn stopped(&self, pause: Duration) -> bool {
        !matches!(
            self.stop.recv_timeout(pause),
            Err(RecvTimeoutError::Timeout)
        )
    }

    /// Everything that the news concern: answers forgotten, keys and users asked about again, access ended.
    fn apply(&mut self, scope: &Scope<'_>, lease: &Arc<LeaseClient>) -> Result<(), NotApplied> {
        let arns = match scope {
            Scope::All => None,
            Scope::Keys(arns) => Some(*arns),
        };
        self.policies.forget(arns);
        if let Some(users) = &self.users {
            users.forget(arns);
            // What was let in before is open now, and asked about below.
            self.revoker.settle();
        }
        self.check_keys(scope, Some(lease))?;
        self.check_users(scope, lease)
    }

    /// Under a lease all policies of the volume count, also those that are not unlocked: an answer that unlocks one may be
    /// on its way. Who asks again and again does not ask about what was never theirs: each refusal is recorded.
    fn note_policies(&mut self) {
        let policies: Vec<PolicyId> = if self.users.is_some() {
            let record = self.keys.record();
            record.policies.iter().map(|entry| entry.policy).collect()
        } else {
            let unlocked = self.keys.unlocked();
            unlocked.iter().map(|one| one.policy.policy()).collect()
        };
        for policy in policies {
            self.states.entry(policy).or_default();
        }
    }

    /// Asks for the mount itself, about every policy.
    fn check_keys(
        &mut self,
        scope: &Scope<'_>,
        lease: Option<&Arc<LeaseClient>>,
    ) -> Result<(), NotApplied> {
        self.note_policies();
        let concerned: Vec<PolicyId> = self
            .states
            .iter()
            .filter(|(_, state)| scope.covers(&state.key_arn))
            .map(|(policy, _)| *policy)
            .collect();
        for policy in concerned {
            let verdict = self.ask_for_itself(&policy, lease);
            let Some(state) = self.states.get_mut(&policy) else {
                continue;
            };
            match verdict {
                Verdict::Away(_) => return Err(NotApplied),
                Verdict::Allowed => {
                    if std::mem::take(&mut state.unusable) {
                        tracing::info!(%policy, key = state.key_arn, "the key can be used again: unlocked");
                        self.revoker.unlock_policy(policy, LockReason::KeyUnusable);
                    }
                }
                Verdict::Denied | Verdict::Unusable(_) if state.unusable => {}
                refused @ (Verdict::Denied | Verdict::Unusable(_)) => {
                    state.unusable = true;
                    let why = match refused {
                        Verdict::Unusable(text) => text,
                        _ => "kmsd refuses the key to this mount".to_owned(),
                    };
                    tracing::warn!(%policy, key = state.key_arn, why, "the key must not be used any more: locked");
                    self.revoker.lock_policy(policy, LockReason::KeyUnusable);
                }
            }
        }
        Ok(())
    }

    fn ask_for_itself(&mut self, policy: &PolicyId, lease: Option<&Arc<LeaseClient>>) -> Verdict {
        let deadline = patience(lease);
        let row = match self.policies.get(policy, deadline) {
            Ok(row) => row,
            Err(verdict) => return verdict,
        };
        if let Some(state) = self.states.get_mut(policy) {
            state.key_arn.clone_from(&row.key_arn);
            state.lock_after = row.lock_after;
        }
        match lease {
            Some(lease) => row.ask(lease, None, deadline).0,
            None => self.policies.ask_plainly(&row, deadline),
        }
    }

    /// Asks about everybody who has something open, and everybody whose access had ended.
    fn check_users(
        &mut self,
        scope: &Scope<'_>,
        lease: &Arc<LeaseClient>,
    ) -> Result<(), NotApplied> {
        // Who has something open, and with which groups.
        let mut holders: HashMap<(PolicyId, u32), Vec<u32>> = HashMap::new();
        for (policy, uid, gid) in self.revoker.users() {
            holders.entry((policy, uid)).or_default().push(gid);
        }
        if let Some(users) = &self.users {
            users.forget_groups(&holders.keys().copied().collect());
        }
        for whose in &self.revoked {
            holders.entry(*whose).or_default();
        }
        for ((policy, uid), gids) in holders {
            let state = self.states.get(&policy);
            if state.is_some_and(|state| state.unusable || !scope.covers(&state.key_arn)) {
                continue;
            }
            let mut ended = Vec::new();
            for gid in &gids {
                if !self.may(policy, (uid, *gid), lease)? {
                    ended.push(*gid);
                }
            }
            let allowed = ended.len() < gids.len() || self.may_come(policy, uid, &ended, lease)?;
            if allowed && self.revoked.remove(&(policy, uid)) {
                tracing::info!(%policy, uid, "may use it again");
                self.revoker.restore_user(policy, uid);
            } else if allowed && !ended.is_empty() {
                if let Some(users) = &self.users {
                    // What is being carried out was decided before.
                    users.decide_anew();
                }
                let ending = self.policies.known(&policy).map(|row| row.ending);
                for gid in ended {
                    tracing::info!(%policy, uid, gid, "access by this group has ended");
                    self.revoker
                        .revoke_group(policy, (uid, gid), ending.unwrap_or_default());
                }
            } else if !allowed && self.revoked.insert((policy, uid)) {
                let ending = self.policies.known(&policy).map(|row| row.ending);
                tracing::info!(%policy, uid, "access has ended");
                self.revoker
                    .revoke_user(policy, uid, ending.unwrap_or_default());
            }
        }
        Ok(())
    }

    /// Whether a user may use a policy, with this group.
    fn may(
        &self,
        policy: PolicyId,
        (uid, gid): (u32, u32),
        lease: &Arc<LeaseClient>,
    ) -> Result<bool, NotApplied> {
        let Some(users) = &self.users else {
            return Ok(true);
        };
        let who = Who { policy, uid, gid };
        match users.ask(&who, 0, patience(Some(lease))) {
            Some(verdict) => Ok(verdict == Verdict::Allowed),
            None => Err(NotApplied),
        }
    }

    /// Whether a user may use a policy with one of the groups with which they have come, other than those that were refused just now.
    fn may_come(
        &self,
        policy: PolicyId,
        uid: u32,
        refused: &[u32],
        lease: &Arc<LeaseClient>,
    ) -> Result<bool, NotApplied> {
        let Some(users) = &self.users else {
            return Ok(true);
        };
        let mut gids = users.groups(policy, uid);
        if gids.is_empty() && refused.is_empty() {
            gids.push(primary_group(uid));
        }
        gids.retain(|gid| !refused.contains(gid));
        for gid in gids {
            if self.may(policy, (uid, gid), lease)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// What came into use since. With `all` everything, which should have been in the news: kmsd records each question, so
    /// that is not done often.
    fn look_again(&mut self, lease: &Arc<LeaseClient>, all: bool) {
        let scope = if all { Scope::All } else { Scope::Keys(&[]) };
        // What kmsd does not answer now it is asked the next time.
        if self.check_keys(&scope, Some(lease)).is_ok() && all {
            drop(self.check_users(&scope, lease));
        }
    }

    /// kmsd does not know the lease any more: everything is void, and another one begins.
    fn take_another(&mut self, users: &Arc<Users>) {
        users.forget(None);
        match LeaseClient::acquire(self.policies.another_client(), &self.label, None) {
            Ok(lease) => {
                users.renew(lease);
                let lease = users.lease();
                match self.apply(&Scope::All, &lease) {
                    Ok(()) => self.found(),
                    Err(NotApplied) => self.lose(Instant::now()),
                }
            }
            Err(error) => {
                tracing::debug!(%error, "no other lease yet");
                self.lose(Instant::now());
            }
        }
    }

    /// kmsd has not been heard of for too long: policies are locked as they say.
    fn lose(&mut self, now: Instant) {
        if self.lost.is_none() {
            tracing::warn!(
                "kmsd has not been heard of for too long: nothing that it said holds any more"
            );
            if let Some(users) = &self.users {
                users.forget(None);
            }
        }
        let since = *self.lost.get_or_insert(now);
        self.note_policies();
        for (policy, state) in &mut self.states {
            let due = state.lock_after.unwrap_or(u64::MAX);
            if !state.lost && now.duration_since(since).as_secs() >= due {
                state.lost = true;
                tracing::warn!(%policy, key = state.key_arn, "locked until kmsd is back");
                self.revoker.lock_policy(*policy, LockReason::KmsdLost);
            }
        }
    }

    /// kmsd is back, and has been asked about everything.
    fn found(&mut self) {
        if self.lost.take().is_none() {
            return;
        }
        tracing::info!("kmsd is back");
        for (policy, state) in &mut self.states {
            if std::mem::take(&mut state.lost) {
                self.revoker.unlock_policy(*policy, LockReason::KmsdLost);
            }
        }
    }
}

impl Scope<'_> {
    fn covers(&self, key_arn: &str) -> bool {
        match self {
            Scope::All => true,
            Scope::Keys(arns) => key_arn.is_empty() || arns.iter().any(|arn| arn == key_arn),
        }
    }
}

/// Until when one question is worth waiting for: after the end of the lease something else is to be done.
fn patience(lease: Option<&Arc<LeaseClient>>) -> Instant {
    let left = lease.and_then(|lease| lease.left_ms());
    Instant::now() + left.map_or(Duration::from_secs(3), Duration::from_millis)
}

fn is_unknown(error: &ClientError) -> bool {
    error
        .api()
        .is_some_and(|error| error.code == ErrorCode::NotFound)
}

fn primary_group(uid: u32) -> u32 {
    let user = nix::unistd::User::from_uid(nix::unistd::Uid::from_raw(uid));
    // Without an entry users mostly have the group of their number, and with a wrong one they lose access.
    user.ok().flatten().map_or(uid, |user| user.gid.as_raw())
}
