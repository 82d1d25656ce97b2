//! The record of who opened what, for policies that want one: each open, and each refusal, becomes a record in kmsd's audit log.
//!
//! What happens is noted without waiting, and told to kmsd by a thread of its own within a second. Names are not in it: an
//! object is known by its inode number. Equal accesses of one pause are one record with a count, so that a loop over one
//! file is not a thousand records.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use kms_api::client::{Asking, Client, ClientError, User};
use kms_api::{AccessOutcome, RecordFileAccessRequest, ResourceId};
use kms_format::PolicyId;
use parking_lot::{Condvar, Mutex};

use super::policies::{Policies, Policy, Verdict};
use crate::errno::Errno;

/// How long accesses are gathered.
const PAUSE: Duration = Duration::from_secs(1);
/// Different accesses that wait at most; those beyond them are counted only.
const MAX_WAITING: usize = 8192;
/// How long kmsd is waited for at the end of the mount.
const LAST: Duration = Duration::from_secs(5);
/// A record that comes later than this says when the access was.
const LATE: Duration = Duration::from_secs(3);
/// The same failure is logged again after this time.
const LOG_AGAIN: Duration = Duration::from_secs(60);

/// An access to an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Access {
    /// The policy that the object is under.
    pub policy: PolicyId,
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Process.
    pub pid: u32,
    /// The operation, by its FUSE name.
    pub operation: &'static str,
    /// For what it was opened.
    pub mode: Option<&'static str>,
    /// Inode number in the mount.
    pub inode: u64,
    /// The error, if it failed.
    pub error: Option<i32>,
}

/// How often, and since when.
#[derive(Clone, Copy, Debug)]
struct Times {
    count: u32,
    first: SystemTime,
}

/// The accesses of a mount on their way to kmsd.
pub struct Opens {
    policies: Arc<Policies>,
    /// Users are told apart: kmsd is told on behalf of each.
    per_user: bool,
    queue: Mutex<Queue>,
    changed: Condvar,
    /// What each policy had chosen when kmsd last told: of a policy whose key must not be used it tells nothing, and
    /// who is refused for that is to be recorded all the same.
    chosen: Mutex<HashMap<PolicyId, Arc<Policy>>>,
}

#[derive(Default)]
struct Queue {
    waiting: BTreeMap<Access, Times>,
    /// Accesses that will not be recorded.
    lost: u64,
    ended: bool,
    thread: Option<JoinHandle<()>>,
}

/// kmsd does not answer.
#[derive(Debug, PartialEq, Eq)]
struct Away;

/// What became of telling kmsd.
enum Told {
    Recorded,
    /// kmsd does not take it, and would not the next time.
    Refused(String),
    /// kmsd is away.
    Away,
}

impl Opens {
    /// For the mount of a volume; with `per_user` it is a service.
    #[must_use]
    pub fn new(policies: Arc<Policies>, per_user: bool) -> Opens {
        Opens {
            policies,
            per_user,
            queue: Mutex::default(),
            changed: Condvar::new(),
            chosen: Mutex::default(),
        }
    }

    /// Starts the thread that tells kmsd.
    ///
    /// # Errors
    /// No thread.
    pub fn start(self: &Arc<Opens>) -> io::Result<()> {
        let opens = Arc::clone(self);
        let thread = std::thread::Builder::new()
            .name("opens".to_owned())
            .spawn(move || opens.tell())?;
        self.queue.lock().thread = Some(thread);
        Ok(())
    }

    /// Whether accesses under a policy are to be noted: they are recorded, or it is not known yet whether they are.
    #[must_use]
    pub fn wants(&self, policy: &PolicyId) -> bool {
        let known = self.policies.known(policy);
        known.is_none_or(|policy| policy.record_opens)
    }

    /// Notes an access, without waiting.
    pub fn note(&self, access: Access) {
        let mut queue = self.queue.lock();
        if queue.ended {
            return;
        }
        let full = queue.waiting.len() >= MAX_WAITING;
        match queue.waiting.get_mut(&access) {
            Some(times) => times.count = times.count.saturating_add(1),
            None if full => queue.lost += 1,
            None => {
                let first = SystemTime::now();
                queue.waiting.insert(access, Times { count: 1, first });
            }
        }
        drop(queue);
        self.changed.notify_all();
    }

    /// Tells kmsd what is left, and ends.
    pub fn end(&self) {
        let thread = {
            let mut queue = self.queue.lock();
            queue.ended = true;
            queue.thread.take()
        };
        self.changed.notify_all();
        if let Some(thread) = thread
            && thread.join().is_err()
        {
            tracing::error!("the thread that records opens panicked");
        }
    }

    fn tell(&self) {
        let client = self.policies.another_client();
        let mut logged = None;
        // Kept over the pauses while kmsd is away.
        let mut taken = BTreeMap::new();
        let mut until = None;
        loop {
            let ended = self.gather(&mut taken, until.is_some());
            if ended {
                until.get_or_insert_with(|| Instant::now() + LAST);
            }
            while let Some((access, times)) = taken.pop_first() {
                match self.send(&client, &access, times) {
                    Told::Recorded => {}
                    Told::Refused(text) => {
                        self.lose(times, &text, &mut logged);
                    }
                    Told::Away => {
                        taken.insert(access, times);
                        break;
                    }
                }
            }
            let Some(until) = until else {
                continue;
            };
            if taken.is_empty() || Instant::now() >= until {
                let left: u64 = taken.values().map(|times| u64::from(times.count)).sum();
                let lost = left + self.queue.lock().lost;
                if lost > 0 {
                    tracing::error!(
                        accesses = lost,
                        "the mount ends before kmsd could be told of accesses to files: they are not in the audit log"
                    );
                }
                return;
            }
            std::thread::sleep(PAUSE / 10);
        }
    }

    /// Waits for accesses, lets a pause go by, and takes them over. Says whether the mount ends.
    fn gather(&self, taken: &mut BTreeMap<Access, Times>, ending: bool) -> bool {
        let mut queue = self.queue.lock();
        while queue.waiting.is_empty() && taken.is_empty() && !queue.ended {
            self.changed.wait(&mut queue);
        }
        let until = Instant::now() + PAUSE;
        while !queue.ended && !ending {
            if self.changed.wait_until(&mut queue, until).timed_out() {
                break;
            }
        }
        // What could not be told yet counts, too.
        let waiting = std::mem::take(&mut queue.waiting);
        for (access, times) in waiting {
            let full = taken.len() >= MAX_WAITING;
            match taken.get_mut(&access) {
                Some(known) => known.count = known.count.saturating_add(times.count),
                None if full => queue.lost += u64::from(times.count),
                None => {
                    taken.insert(access, times);
                }
            }
        }
        queue.ended
    }

    fn send(&self, client: &Client, access: &Access, times: Times) -> Told {
        let deadline = Instant::now() + LAST;
        let found = self.policies.get(&access.policy, deadline);
        let policy = match self.choice(&access.policy, found) {
            Ok(Some(policy)) if policy.record_opens => policy,
            Ok(_) => return Told::Recorded,
            Err(Away) => return Told::Away,
        };
        let lost = std::mem::take(&mut self.queue.lock().lost);
        let told = self.ask(client, access, times, &policy, lost);
        if !matches!(told, Told::Recorded) {
            self.queue.lock().lost += lost;
        }
        told
    }

    /// What a policy has chosen: as kmsd tells now, else as it told last; None if it never did, as for a policy that could
    /// not be used since the mount.
    fn choice(
        &self,
        policy: &PolicyId,
        found: Result<Arc<Policy>, Verdict>,
    ) -> Result<Option<Arc<Policy>>, Away> {
        let mut chosen = self.chosen.lock();
        match found {
            Ok(found) => {
                chosen.insert(*policy, Arc::clone(&found));
                Ok(Some(found))
            }
            Err(verdict) => match chosen.get(policy) {
                Some(last) => Ok(Some(Arc::clone(last))),
                None if matches!(verdict, Verdict::Away(_)) => Err(Away),
                None => Ok(None),
            },
        }
    }

    fn ask(
        &self,
        client: &Client,
        access: &Access,
        times: Times,
        policy: &Policy,
        lost: u64,
    ) -> Told {
        let late = times.first.elapsed().is_ok_and(|since| since > LATE);
        let since = times.first.duration_since(SystemTime::UNIX_EPOCH).ok();
        let request = RecordFileAccessRequest {
            volume_id: ResourceId(self.policies.volume().0),
            policy_id: ResourceId(access.policy.0),
            key_id: Some(policy.key_arn.clone()),
            operation: access.operation.to_owned(),
            access_mode: access.mode.map(str::to_owned),
            inode: access.inode,
            user_id: u64::from(access.uid),
            outcome: Some(outcome(access.error)),
            error: access.error.map(|error| Errno::from_raw(error).name()),
            count: (times.count > 1).then_some(times.count.min(i32::MAX.cast_unsigned())),
            access_time: since
                .filter(|_| late)
                .and_then(|since| u32::try_from(since.as_secs()).ok()),
            not_recorded: (lost > 0).then(|| {
                u32::try_from(lost)
                    .unwrap_or(u32::MAX)
                    .min(i32::MAX.cast_unsigned())
            }),
        };
        let asking = Asking {
            user: self.per_user.then_some(User {
                uid: access.uid,
                gid: access.gid,
                pid: access.pid,
            }),
            deadline: Some(Instant::now() + LAST),
            ..Asking::default()
        };
        match client.send_as(request, asking) {
            Ok(_) => Told::Recorded,
            Err(error) if is_passing(&error) => Told::Away,
            Err(error) => Told::Refused(error.to_string()),
        }
    }

    fn lose(&self, times: Times, text: &str, logged: &mut Option<Instant>) {
        self.queue.lock().lost += u64::from(times.count);
        if logged.is_none_or(|last| last.elapsed() >= LOG_AGAIN) {
            *logged = Some(Instant::now());
            tracing::error!(text, "kmsd does not record an access to a file");
        }
    }
}

fn outcome(error: Option<i32>) -> AccessOutcome {
    match error {
        None => AccessOutcome::Allowed,
        Some(error) if is_denial(Errno::from_raw(error)) => AccessOutcome::Denied,
        Some(_) => AccessOutcome::Failed,
    }
}

/// Whether an error says that somebody may not, whichever of them the mount was told to answer.
#[must_use]
pub fn is_denial(errno: Errno) -> bool {
    [libc::EACCES, libc::EPERM, libc::ENOKEY, libc::EKEYREVOKED].contains(&errno.raw())
}

/// `EACCES` for 13.
fn is_passing(error: &ClientError) -> bool {
    crate::volume::refusal::Reason::from_client(error).is_passing()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn access(inode: u64) -> Access {
        Access {
            policy: PolicyId([1; 16]),
            uid: 1000,
            gid: 1000,
            pid: 1,
            operation: "OPEN",
            mode: Some("READ"),
            inode,
            error: None,
        }
    }

    fn opens() -> Opens {
        let nowhere = std::path::Path::new("/nonexistent/kmsd.sock");
        let volume = kms_format::VolumeId([2; 16]);
        Opens::new(Arc::new(Policies::new(nowhere, volume)), true)
    }

    #[test]
    fn equal_accesses_are_counted_and_too_many_different_ones_are_too() {
        let opens = opens();
        for _ in 0..3 {
            opens.note(access(7));
        }
        for inode in 0..MAX_WAITING as u64 + 10 {
            opens.note(access(inode));
        }
        let queue = opens.queue.lock();
        assert_eq!(queue.waiting.len(), MAX_WAITING);
        assert_eq!(queue.waiting[&access(7)].count, 4);
        assert_eq!(queue.lost, 10);
    }

    #[test]
    fn what_is_not_known_is_noted_and_errors_have_names() {
        assert!(opens().wants(&PolicyId([1; 16])));
        assert_eq!(Errno::from_raw(libc::EACCES).name(), "EACCES");
        assert_eq!(Errno::from_raw(libc::EKEYREVOKED).name(), "EKEYREVOKED");
        assert_eq!(outcome(Some(libc::ENOKEY)), AccessOutcome::Denied);
        assert_eq!(outcome(Some(libc::ENOENT)), AccessOutcome::Failed);
    }

    #[test]
    fn a_policy_that_cannot_be_used_any_more_is_recorded_as_it_chose() {
        let opens = opens();
        let policy = PolicyId([1; 16]);
        let unusable = || Err(Verdict::Unusable("disabled".to_owned()));
        let away = || Err(Verdict::Away("no answer".to_owned()));
        // Nothing is known of it: nothing is missing from the log either.
        assert!(opens.choice(&policy, unusable()).unwrap().is_none());
        assert_eq!(opens.choice(&policy, away()).err(), Some(Away));
        let told = Arc::new(Policy::for_tests("arn:key", true));
        opens.choice(&policy, Ok(told)).unwrap();
        for lost in [unusable(), away()] {
            let chosen = opens.choice(&policy, lost).unwrap().unwrap();
            assert!(chosen.record_opens);
        }
    }

    #[test]
    fn the_end_does_not_wait_for_ever_for_a_kmsd_that_is_away() {
        let opens = Arc::new(opens());
        opens.start().unwrap();
        opens.note(access(7));
        opens.end();
        assert!(opens.queue.lock().ended);
    }
}
