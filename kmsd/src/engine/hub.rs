//! What a call that takes something away waits for: answers in flight, and services that keep answers.
//!
//! Every request registers with the *generation* of the present snapshot before it is judged, under the snapshot's
//! lock, and stays registered until its answer is handed to the connection. A change of what somebody is allowed
//! begins a new generation under the same lock: so every answer that was found before it is registered with an
//! older generation (as is one that registered before and was found after, which costs a wait and no more), and when those are empty none of them is still to come. Registering is one
//! increment of a counter that only a few threads share; nobody looks at the counters, since the end of the last
//! holder of a shard says so by itself.

use std::cell::Cell;
use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use kms_api::{ApiError, ErrorCode, LeaseReport};
use kms_core::kms::lease_lost;
use kms_core::lease::{Leases, Standing};
use kms_core::relevance::Reach;
use kms_core::rows::{LeaseRow, Row, Table};
use kms_core::{Change, Snapshot};
use parking_lot::{Condvar, Mutex, MutexGuard};
use rustix::time::{ClockId, clock_gettime};
use tokio::sync::watch;

/// How many epochs are remembered with what they concerned; who asks about older ones is told "all".
const HISTORY: usize = 1024;
/// Most keys named to a holder; beyond that it is told "all".
const MOST_KEYS: usize = 1000;
/// Longest sleep between two looks at the clock, which also counts suspend while sleeping does not.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// Labels in a report, and how much of each: it goes into one header.
const MOST_LABELS: usize = 16;
const LABEL_LENGTH: usize = 48;
/// Shards of a generation; threads spread over them.
const SHARDS: usize = 8;

/// See the module's text.
pub(super) struct Hub {
    state: Mutex<State>,
    changed: Condvar,
    /// Rises with every change of `state` that somebody may wait for.
    version: watch::Sender<u64>,
    ending: AtomicBool,
}

#[derive(Default)]
struct State {
    epoch: u64,
    leases: Leases,
    labels: BTreeMap<String, String>,
    /// Which answers an epoch made wrong, newest last, without gaps.
    history: VecDeque<(u64, Reach)>,
    /// Shards of each generation that have not ended, by its number; the present one included.
    generations: BTreeMap<u64, usize>,
    /// Number of the present generation.
    generation: u64,
    /// The latest wait of each lease: an older one ends.
    waits: BTreeMap<String, u64>,
}

/// Answers that were found under one snapshot.
pub(super) struct Generation {
    shards: [Arc<Shard>; SHARDS],
}

/// Not beside the next one in a cache line.
#[repr(align(128))]
struct Shard {
    hub: Arc<Hub>,
    generation: u64,
}

impl Drop for Shard {
    fn drop(&mut self) {
        self.hub.shard_ended(self.generation);
    }
}

/// An answer that may be on its way. Calls that take something away wait until it is dropped.
pub struct InFlight(#[allow(dead_code, reason = "dropping it is its use")] Arc<Shard>);

impl fmt::Debug for InFlight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("InFlight")
    }
}

impl Generation {
    /// Registers an answer; to be called under the lock of the snapshot.
    pub(super) fn enter(&self) -> InFlight {
        let shard = shard_of_thread() % SHARDS;
        // The remainder is in range; the first shard is as good as any.
        let [first, ..] = &self.shards;
        InFlight(Arc::clone(self.shards.get(shard).unwrap_or(first)))
    }
}

fn shard_of_thread() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    thread_local!(static MINE: Cell<usize> = const { Cell::new(usize::MAX) });
    MINE.with(|mine| {
        if mine.get() == usize::MAX {
            mine.set(NEXT.fetch_add(1, Ordering::Relaxed));
        }
        mine.get()
    })
}

/// Milliseconds that count suspend and that nobody sets.
fn now_ms() -> u64 {
    let now = clock_gettime(ClockId::Boottime);
    let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
    seconds
        .saturating_mul(1000)
        .saturating_add(u64::try_from(now.tv_nsec / 1_000_000).unwrap_or(0))
}

/// The leases that a call waits for, and the epoch that their holders are to apply.
pub(super) struct Settling {
    pub(super) epoch: u64,
    /// Older generations must have ended.
    generation: u64,
    open: Vec<String>,
    report: LeaseReport,
}

/// What a holder that asked about an epoch is told.
pub(super) struct News {
    pub(super) epoch: u64,
    /// None when there is nothing newer.
    pub(super) reach: Option<Reach>,
    /// What was left of the lease when the question came.
    pub(super) remaining_ms: u64,
}

/// A lease as it stands.
pub(super) struct LeaseState {
    pub(super) left_ms: Option<u64>,
    pub(super) applied: u64,
}

impl Hub {
    /// The leases of a store that is being opened: each counts from now.
    pub(super) fn new(snapshot: &Snapshot) -> Arc<Self> {
        let hub = Self {
            state: Mutex::default(),
            changed: Condvar::new(),
            version: watch::channel(0).0,
            ending: AtomicBool::new(false),
        };
        hub.adopt(snapshot);
        Arc::new(hub)
    }

    /// Takes over what a store says, after it was read (again). Leases that are known keep their time.
    pub(super) fn adopt(&self, snapshot: &Snapshot) {
        let mut state = self.state.lock();
        let now = now_ms();
        let epoch = snapshot.meta().authorization_epoch;
        if epoch != state.epoch {
            state.history.clear();
            state.epoch = epoch;
        }
        let rows: BTreeMap<&str, &Arc<LeaseRow>> = snapshot
            .leases()
            .map(|row| (row.id.as_str(), row))
            .collect();
        let State { leases, labels, .. } = &mut *state;
        labels.retain(|id, _| {
            let stays = rows.contains_key(id.as_str());
            if !stays {
                leases.remove(id, now);
            }
            stays
        });
        for (id, row) in rows {
            if labels.insert(id.to_owned(), row.label.clone()).is_none() {
                leases.adopt(id, row.uid, row.duration_ms, now);
            }
        }
        self.notify(state);
    }

    /// Begins a generation; the caller drops the one before.
    pub(super) fn begin(self: &Arc<Self>) -> Generation {
        let generation = {
            let mut state = self.state.lock();
            state.generation += 1;
            let generation = state.generation;
            state.generations.insert(generation, SHARDS);
            generation
        };
        Generation {
            shards: std::array::from_fn(|_| {
                Arc::new(Shard {
                    hub: Arc::clone(self),
                    generation,
                })
            }),
        }
    }

    fn shard_ended(&self, generation: u64) {
        let mut state = self.state.lock();
        if let Some(left) = state.generations.get_mut(&generation) {
            *left -= 1;
            if *left == 0 {
                state.generations.remove(&generation);
                self.notify(state);
            }
        }
    }

    /// Notes a committed transaction; to be called under the lock of the snapshot, so that whoever reads
    /// the new snapshot is told the new epoch.
    pub(super) fn committed(&self, epoch: u64, reach: Option<&Reach>, changes: &[Change]) {
        let mut state = self.state.lock();
        let now = now_ms();
        for change in changes {
            match change {
                Change::Put(Row::Lease(row)) => {
                    state.labels.insert(row.id.clone(), row.label.clone());
                    state
                        .leases
                        .acquire(&row.id, row.uid, row.duration_ms, epoch, now);
                }
                Change::Remove(Table::Lease, id) => {
                    state.leases.remove(id, now);
                    state.labels.remove(id);
                    state.waits.remove(id);
                }
                _ => {}
            }
        }
        state.epoch = epoch;
        if let Some(reach) = reach {
            state.history.push_back((epoch, reach.clone()));
            if state.history.len() > HISTORY {
                state.history.pop_front();
            }
        }
        self.notify(state);
    }

    /// Ends every wait: kmsd is about to end.
    pub(super) fn end(&self) {
        self.ending.store(true, Ordering::SeqCst);
        self.notify(self.state.lock());
    }

    fn notify(&self, state: MutexGuard<'_, State>) {
        // Under the lock: who looks, finds something to wait for and locks again sees the new version.
        self.version.send_modify(|version| *version += 1);
        drop(state);
        self.changed.notify_all();
    }

    /// What a call that made the present epoch, or finds it made, waits for.
    pub(super) fn settling(&self) -> Settling {
        let mut state = self.state.lock();
        let now = now_ms();
        let epoch = state.epoch;
        Settling {
            epoch,
            generation: state.generation,
            open: state.leases.live(now),
            report: LeaseReport {
                epoch,
                ..LeaseReport::default()
            },
        }
    }

    /// Takes off what is settled by now. How long to sleep before the next look, or `None` when
    /// nothing is left.
    fn look(&self, settling: &mut Settling) -> Option<Duration> {
        let mut state = self.state.lock();
        let now = now_ms();
        let mut longest = 0;
        let Settling {
            epoch,
            generation,
            open,
            report,
        } = settling;
        let State { leases, labels, .. } = &mut *state;
        open.retain(|id| match leases.standing(id, *epoch, now) {
            Standing::Relies(left) => {
                longest = longest.max(left);
                true
            }
            Standing::Applied => {
                report.acknowledged += 1;
                false
            }
            Standing::RanOut => {
                report.ran_out += 1;
                if report.labels.len() < MOST_LABELS {
                    let label = labels.get(id).filter(|label| !label.is_empty());
                    let label = label.unwrap_or(id).chars().take(LABEL_LENGTH).collect();
                    report.labels.push(label);
                }
                false
            }
        });
        let drained = state
            .generations
            .first_key_value()
            .is_none_or(|(oldest, _)| *oldest >= *generation);
        if drained && open.is_empty() {
            return None;
        }
        // One more: a lease runs out at the end of its last millisecond.
        let wait = Duration::from_millis(longest.saturating_add(1));
        Some(if drained {
            wait.min(LOOK_INTERVAL)
        } else {
            LOOK_INTERVAL
        })
    }

    /// Waits until no answer from before the epoch is in flight and nobody relies on one.
    pub(super) async fn settle(&self, mut settling: Settling) -> Result<LeaseReport, ApiError> {
        let mut version = self.version.subscribe();
        loop {
            version.borrow_and_update();
            match self.look(&mut settling) {
                None => return Ok(settling.report),
                Some(_) if self.is_ending() => return Err(ending()),
                // Either the time is over or something has changed.
                Some(wait) => {
                    let _ = tokio::time::timeout(wait, version.changed()).await;
                }
            }
        }
    }

    /// The same, on the calling thread.
    pub(super) fn settle_blocking(&self, mut settling: Settling) -> Result<LeaseReport, ApiError> {
        loop {
            let seen = *self.version.borrow();
            match self.look(&mut settling) {
                None => return Ok(settling.report),
                Some(_) if self.is_ending() => return Err(ending()),
                Some(wait) => {
                    let mut state = self.state.lock();
                    if *self.version.borrow() == seen {
                        self.changed.wait_for(&mut state, wait);
                    }
                }
            }
        }
    }

    fn is_ending(&self) -> bool {
        self.ending.load(Ordering::SeqCst)
    }

    /// The holder says what it has applied.
    ///
    /// # Errors
    /// It does not hold the lease any more.
    pub(super) fn applied(&self, id: &str, epoch: u64) -> Result<News, ApiError> {
        let mut state = self.state.lock();
        let current = state.epoch;
        let news = state.applied(id, epoch, current)?;
        self.notify(state);
        Ok(news)
    }

    /// The holder says what it has applied, and waits for something newer.
    ///
    /// # Errors
    /// It does not hold the lease (any more).
    pub(super) async fn wait(
        &self,
        id: &str,
        epoch: u64,
        timeout_ms: Option<u32>,
    ) -> Result<News, ApiError> {
        let mut version = self.version.subscribe();
        let (first, ticket, most) = {
            let mut state = self.state.lock();
            let current = state.epoch;
            let news = state.applied(id, epoch, current)?;
            let length = state.leases.get(id, now_ms()).map_or(0, |l| l.duration_ms);
            let ticket = state.waits.entry(id.to_owned()).or_default();
            *ticket += 1;
            let ticket = *ticket;
            self.notify(state);
            // Often enough that the lease stays fresh: each question renews it.
            (news, ticket, length / 3)
        };
        if first.reach.is_some() {
            return Ok(first);
        }
        let asked = timeout_ms.map_or(most, u64::from).min(most);
        let deadline = Instant::now() + Duration::from_millis(asked);
        loop {
            version.borrow_and_update();
            {
                let mut state = self.state.lock();
                let news = state.news(id, epoch, first.remaining_ms)?;
                let superseded = state.waits.get(id) != Some(&ticket);
                let left = deadline.saturating_duration_since(Instant::now());
                if news.reach.is_some() || superseded || left.is_zero() || self.is_ending() {
                    return Ok(news);
                }
            }
            let left = deadline.saturating_duration_since(Instant::now());
            let _ = tokio::time::timeout(left, version.changed()).await;
        }
    }

    /// For how long the holder of a lease may rely on an answer, in milliseconds from now; none when
    /// that is not its lease.
    pub(super) fn reliance(&self, id: &str, uid: u32) -> Option<u64> {
        let mut state = self.state.lock();
        let now = now_ms();
        let lease = state.leases.get(id, now)?;
        let own = lease.uid == uid;
        own.then(|| state.leases.left(id, now)).flatten()
    }

    /// How a lease stands.
    pub(super) fn lease(&self, id: &str) -> LeaseState {
        let mut state = self.state.lock();
        let now = now_ms();
        let applied = state.leases.get(id, now).map_or(0, |lease| lease.applied);
        LeaseState {
            left_ms: state.leases.left(id, now),
            applied,
        }
    }

    /// Ids of leases that have run out and are still in the store.
    pub(super) fn run_out(&self) -> Vec<String> {
        self.state.lock().leases.run_out(now_ms())
    }
}

impl State {
    fn applied(&mut self, id: &str, epoch: u64, current: u64) -> Result<News, ApiError> {
        let left = self.leases.applied(id, epoch, current, now_ms());
        self.news(id, epoch, left.map_err(|_| lease_lost(id))?)
    }

    fn news(&mut self, id: &str, epoch: u64, remaining_ms: u64) -> Result<News, ApiError> {
        let held = self.leases.get(id, now_ms()).is_some();
        held.then(|| News {
            epoch: self.epoch,
            reach: self.reach_since(epoch),
            remaining_ms,
        })
        .ok_or_else(|| lease_lost(id))
    }

    /// What the epochs after `epoch` concern together.
    fn reach_since(&self, epoch: u64) -> Option<Reach> {
        if epoch == self.epoch {
            return None;
        }
        let newer = self.history.iter().rev().take_while(|(of, _)| *of > epoch);
        let missing = self.epoch.checked_sub(epoch);
        let (mut count, mut sum) = (0, None::<Reach>);
        for (_, reach) in newer {
            count += 1;
            sum = Some(match sum {
                None => reach.clone(),
                Some(sum) => sum.and(reach.clone()),
            });
        }
        match sum {
            Some(Reach::Keys(keys)) if missing == Some(count) && keys.len() <= MOST_KEYS => {
                Some(Reach::Keys(keys))
            }
            // Older than what is remembered, or from a store that was newer than this one.
            _ => Some(Reach::All),
        }
    }
}

fn ending() -> ApiError {
    ApiError::new(
        ErrorCode::ServiceUnavailable,
        "The change is in force, but kmsd ends before every service has acknowledged it: repeat the request \
         to wait for the rest.",
    )
}
