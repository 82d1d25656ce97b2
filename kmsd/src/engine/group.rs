//! Changes that are made durable together.
//!
//! A sync of the disk takes as long for a hundred changes as for one. Requests that only add keys wait in a queue; one
//! thread takes whatever waits, makes one transaction of it, and takes what came meanwhile. Each request is evaluated
//! against the same rows, which is the same as one after the other only if none of them reads what another one writes: so
//! only new keys with new material are put together, and whatever else an evaluation comes to is carried out by itself.

use std::collections::HashSet;
use std::sync::Arc;

use kms_api::{ApiError, ErrorCode, Request};
use kms_core::audit::Record;
use kms_core::kms::World;
use kms_core::rows::Row;
use kms_core::{
    Change, Handled, KeyId, Kms, Outcome, Snapshot, StorageError, SystemEntropy, Write,
};
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::oneshot;

use super::audit::Trace;
use super::hub::InFlight;
use super::writer::{Anchor, Writer};
use super::{Done, EngineError, Shared};

/// Most changes of one transaction.
const MOST: usize = 128;
/// How often a group is evaluated again after a conflict.
const ATTEMPTS: usize = 3;

/// What a request makes of the state as it is now.
pub(super) type Evaluate = Box<dyn Fn(&Kms, &World<'_>) -> Handled + Send>;

/// Changes that wait for their transaction.
#[derive(Default)]
pub(super) struct Group {
    queue: Mutex<Queue>,
}

#[derive(Default)]
struct Queue {
    waiting: Vec<Asked>,
    /// A thread is at work, and will look again.
    is_led: bool,
}

/// One change.
pub(super) struct Job {
    /// Its record.
    pub(super) trace: Option<Arc<Trace>>,
    /// What it came to at the revision that is named in there.
    pub(super) first: Option<Write>,
    /// What it comes to at another one.
    pub(super) evaluate: Evaluate,
    /// Who waits for registered requests waits until the change is made, and no longer.
    pub(super) in_flight: Option<InFlight>,
}

/// A job and who waits for it.
struct Asked {
    job: Job,
    answer: oneshot::Sender<Result<Done, ApiError>>,
}

impl Asked {
    fn answer(self, done: Result<Done, ApiError>) {
        let Self { job, answer } = self;
        drop(job.in_flight);
        // Who asked may be gone.
        let _ = answer.send(done);
    }
}

/// Whether a request may be carried out together with others.
pub(super) fn is_addition(request: &Request) -> bool {
    matches!(request, Request::CreateKey(_))
}

/// While it lives a thread is at work. One that ends early (a panic) fails what waits, so that nobody waits for ever.
struct Lead<'a>(&'a Group);

impl Lead<'_> {
    /// What waits; with nothing the work is over.
    fn next(&self) -> Vec<Asked> {
        let mut queue = self.0.queue.lock();
        let count = queue.waiting.len().min(MOST);
        if count == 0 {
            queue.is_led = false;
        }
        queue.waiting.drain(..count).collect()
    }
}

impl Drop for Lead<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let mut queue = self.0.queue.lock();
            queue.is_led = false;
            queue.waiting.clear();
        }
    }
}

impl Shared {
    /// Carries out a change together with others that wait for the disk.
    ///
    /// # Errors
    /// The error to reply with.
    pub(super) async fn write_together(self: &Arc<Self>, job: Job) -> Result<Done, ApiError> {
        let (answer, done) = oneshot::channel();
        let leads = {
            let mut queue = self.group.queue.lock();
            queue.waiting.push(Asked { job, answer });
            !std::mem::replace(&mut queue.is_led, true)
        };
        if leads {
            let shared = Arc::clone(self);
            tokio::task::spawn_blocking(move || {
                let lead = Lead(&shared.group);
                loop {
                    let asked = lead.next();
                    if asked.is_empty() {
                        break;
                    }
                    shared.carry_out(asked);
                }
            });
        }
        // A panic has been reported by the hook; the caller learns that it failed.
        done.await.unwrap_or_else(|_| {
            Err(ApiError::new(
                ErrorCode::Internal,
                "The change could not be carried out.",
            ))
        })
    }

    fn carry_out(&self, mut waiting: Vec<Asked>) {
        let mut writer = self.writer.lock();
        for _ in 0..ATTEMPTS {
            let usable = self.check_open().and_then(|()| match writer.stale {
                true => self.reload(&mut writer).map_err(|e| self.report(&e)),
                false => Ok(()),
            });
            if let Err(error) = usable {
                waiting
                    .drain(..)
                    .for_each(|asked| asked.answer(Err(error.clone())));
                break;
            }
            let (together, alone) = self.sorted(waiting);
            waiting = self.commit_together(&mut writer, together);
            for (asked, first) in alone {
                let Job {
                    trace, evaluate, ..
                } = &asked.job;
                // None of these destroys anything.
                let done = self.write_as(&mut writer, trace.as_deref(), first, evaluate);
                debug_assert!(!matches!(&done, Ok(done) if done.owes_epoch));
                asked.answer(done);
            }
            if waiting.is_empty() {
                break;
            }
        }
        for asked in waiting {
            asked.answer(Err(super::writer::too_fast()));
        }
        // Others who want to write have waited for as long as those of the next group.
        MutexGuard::unlock_fair(writer);
    }

    /// What can be done together, and what has to be done by itself. Whoever is refused has his answer.
    #[allow(clippy::type_complexity, reason = "a pair of lists, used once")]
    fn sorted(&self, waiting: Vec<Asked>) -> (Vec<(Asked, Write)>, Vec<(Asked, Option<Write>)>) {
        let kms = self.kms.read();
        let domain = self.domain.read();
        let world = World {
            now: self.now(&kms),
            entropy: &SystemEntropy,
            domain: &domain,
            host: &self.host,
            made: None,
        };
        let snapshot = kms.snapshot();
        let revision = snapshot.meta().revision;
        let left = kms.fewest_keys_left(&self.host.settings.quotas);
        let mut new = HashSet::new();
        let (mut together, mut alone) = (Vec::new(), Vec::new());
        for mut asked in waiting {
            let first = asked.job.first.take();
            let write = match first.filter(|write| write.expected == revision) {
                Some(write) => Some(write),
                None => {
                    let handled = (asked.job.evaluate)(&kms, &world);
                    if let Some(trace) = &asked.job.trace {
                        trace.judged(&kms, &handled);
                    }
                    match handled.outcome {
                        Ok(Outcome::Write(write)) => Some(*write),
                        Ok(_) => None,
                        Err(error) => {
                            asked.answer(Err(error));
                            continue;
                        }
                    }
                }
            };
            match write {
                Some(write) if new.len() < left && only_adds(&write, snapshot, &mut new) => {
                    together.push((asked, write));
                }
                write => alone.push((asked, write)),
            }
        }
        (together, alone)
    }

    /// One transaction. Returns what has to be evaluated again.
    fn commit_together(&self, writer: &mut Writer, group: Vec<(Asked, Write)>) -> Vec<Asked> {
        if group.is_empty() {
            return Vec::new();
        }
        let mut changes: Vec<Change> = Vec::new();
        let mut records: Vec<(Vec<Record>, Option<&Trace>)> = Vec::new();
        for (asked, write) in &group {
            let trace = asked.job.trace.as_deref();
            records.push((self.records_of(trace, write), trace));
            changes.extend(write.changes.iter().cloned());
        }
        let error = match self.commit_all(writer, &changes, Anchor::Soon, records) {
            Ok(_) => None,
            Err(EngineError::Storage(StorageError::Conflict { .. })) => {
                return group.into_iter().map(|(asked, _)| asked).collect();
            }
            Err(error) => Some(self.report(&error)),
        };
        for (asked, write) in group {
            asked.answer(match &error {
                Some(error) => Err(error.clone()),
                None => Ok(Done {
                    response: write.response,
                    owes_epoch: false,
                    settling: None,
                }),
            });
        }
        Vec::new()
    }
}

/// Whether a transaction only adds keys that nobody else adds, with their material.
fn only_adds(write: &Write, snapshot: &Snapshot, new: &mut HashSet<KeyId>) -> bool {
    if write.tightening || !write.effects.is_empty() || write.refusal.is_some() {
        return false;
    }
    let keys: Vec<KeyId> = write
        .changes
        .iter()
        .filter_map(|change| match change {
            Change::Put(Row::Key(row)) => Some(row.id),
            _ => None,
        })
        .collect();
    let adds = write.changes.iter().all(|change| match change {
        Change::Put(Row::Key(row)) => snapshot.key(row.id).is_none() && !new.contains(&row.id),
        Change::Put(Row::Material(row)) => keys.contains(&row.key),
        _ => false,
    });
    if adds {
        new.extend(keys);
    }
    adds
}
