//! Threads for what takes the processor for long: uses of private keys, and the making of key pairs.
//!
//! Neither is for the threads that answer requests, nor for a moment when somebody holds a lock. What waits is bounded;
//! beyond that a request is throttled, and so is one of a principal who has half of it already: the others get something, too. Pairs are made by threads of their own with a lower priority, so that a flood of
//! RSA keys slows down neither signatures nor data keys.

use std::collections::{HashMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use kms_api::{ApiError, ErrorCode};
use kms_crypto::asymmetric::{KeyPair, PairSpec};
use parking_lot::{Condvar, Mutex};
use tokio::sync::oneshot;

/// Uses of keys that may wait. The slowest, a signature of RSA_4096, takes some milliseconds.
const MAX_USES: u64 = 1024;
/// Pairs that may wait for each thread that makes them, in milliseconds that making them takes on average. Who takes
/// something away from somebody waits for what was allowed before, and so at most about as long.
const MAX_MAKING_MS: u64 = 15_000;
/// How much nicer than the rest of kmsd the threads are that make pairs (nice(2)).
const NICER: i32 = 10;

/// The threads. They are started when there is something to do for the first time.
pub(super) struct Pool {
    uses: Workers,
    making: Workers,
}

impl Default for Pool {
    fn default() -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let makers = cores.saturating_sub(1).max(1);
        Self {
            uses: Workers::new("kmsd-use", cores.max(2), 0, MAX_USES),
            making: Workers::new("kmsd-make", makers, NICER, MAX_MAKING_MS * makers as u64),
        }
    }
}

impl Pool {
    /// Uses a key.
    ///
    /// # Errors
    /// Too much waits already; the error to reply with.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        who: &Arc<str>,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, ApiError> {
        self.uses.run(who, 1, work).await
    }

    /// Makes a key pair.
    ///
    /// # Errors
    /// Too much waits already, or it cannot be made; the error to reply with.
    pub(super) async fn make(&self, who: &Arc<str>, spec: PairSpec) -> Result<KeyPair, ApiError> {
        self.making
            .run(who, milliseconds(spec), move || make(spec))
            .await?
    }
}

/// Makes a key pair on the calling thread.
pub(super) fn make(spec: PairSpec) -> Result<KeyPair, ApiError> {
    KeyPair::generate(spec).map_err(|error| {
        tracing::error!(%error, ?spec, "a key pair could not be made");
        ApiError::new(ErrorCode::Internal, "The key pair could not be made.")
    })
}

/// What making a pair takes on average; RSA varies by several times that.
fn milliseconds(spec: PairSpec) -> u64 {
    match spec {
        PairSpec::Rsa2048 => 100,
        PairSpec::Rsa3072 => 400,
        PairSpec::Rsa4096 => 1200,
        _ => 1,
    }
}

/// Threads that take from one queue.
struct Workers {
    shared: Arc<Shared>,
    name: &'static str,
    threads: usize,
    nice: i32,
    most: u64,
}

#[derive(Default)]
struct Shared {
    queue: Mutex<Queue>,
    wake: Condvar,
}

#[derive(Default)]
struct Queue {
    jobs: VecDeque<Job>,
    /// What waits and what is being done, together.
    cost: u64,
    /// The same by principal.
    shares: HashMap<Arc<str>, u64>,
    started: usize,
    ended: bool,
}

impl Queue {
    /// What was done counts no longer.
    fn done(&mut self, who: &Arc<str>, cost: u64) {
        self.cost = self.cost.saturating_sub(cost);
        if let Some(share) = self.shares.get_mut(who) {
            *share = share.saturating_sub(cost);
            if *share == 0 {
                self.shares.remove(who);
            }
        }
    }
}

struct Job {
    who: Arc<str>,
    cost: u64,
    work: Box<dyn FnOnce() + Send>,
}

impl Workers {
    fn new(name: &'static str, threads: usize, nice: i32, most: u64) -> Self {
        Self {
            shared: Arc::default(),
            name,
            threads,
            nice,
            most,
        }
    }

    async fn run<T: Send + 'static>(
        &self,
        who: &Arc<str>,
        cost: u64,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, ApiError> {
        let (answer, answered) = oneshot::channel();
        self.put(Job {
            who: Arc::clone(who),
            cost,
            work: Box::new(move || {
                // Nobody waits any more when kmsd is about to end.
                let _ = answer.send(work());
            }),
        })?;
        // A panic in there has been reported by the hook.
        answered
            .await
            .map_err(|_| ApiError::new(ErrorCode::Internal, "kmsd failed; its log has the reason."))
    }

    fn put(&self, job: Job) -> Result<(), ApiError> {
        let mut queue = self.shared.queue.lock();
        // One that costs more than everything together may wait alone.
        if queue.cost > 0 && queue.cost.saturating_add(job.cost) > self.most {
            return Err(throttled());
        }
        let share = queue.shares.get(&job.who).copied().unwrap_or(0);
        if share > 0 && share.saturating_add(job.cost) > self.most / 2 {
            return Err(throttled());
        }
        if queue.started < self.threads {
            self.start(&mut queue)?;
        }
        queue.cost = queue.cost.saturating_add(job.cost);
        queue
            .shares
            .insert(Arc::clone(&job.who), share.saturating_add(job.cost));
        queue.jobs.push_back(job);
        drop(queue);
        self.shared.wake.notify_one();
        Ok(())
    }

    fn start(&self, queue: &mut Queue) -> Result<(), ApiError> {
        let (shared, nice) = (Arc::clone(&self.shared), self.nice);
        let thread = std::thread::Builder::new().name(self.name.to_owned());
        match thread.spawn(move || shared.serve(nice)) {
            Ok(_) => queue.started += 1,
            Err(error) if queue.started == 0 => {
                tracing::error!(%error, "a thread could not be started");
                return Err(ApiError::new(
                    ErrorCode::Internal,
                    "kmsd could not start a thread.",
                ));
            }
            Err(error) => tracing::warn!(%error, "a thread could not be started"),
        }
        Ok(())
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.shared.queue.lock().ended = true;
        self.shared.wake.notify_all();
    }
}

impl Shared {
    fn serve(&self, nice: i32) {
        if nice > 0 {
            let thread = rustix::thread::gettid();
            // Where that is not allowed, they are as fast as the rest.
            let _ = rustix::process::setpriority_process(Some(thread), nice);
        }
        let mut queue = self.queue.lock();
        while !queue.ended {
            let Some(job) = queue.jobs.pop_front() else {
                self.wake.wait(&mut queue);
                continue;
            };
            drop(queue);
            let _ = catch_unwind(AssertUnwindSafe(job.work));
            queue = self.queue.lock();
            queue.done(&job.who, job.cost);
        }
    }
}

/// AWS's words.
fn throttled() -> ApiError {
    ApiError::new(
        ErrorCode::Throttling,
        "You have exceeded the rate at which you may call KMS. Reduce the frequency of your calls.",
    )
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;
    use crate::engine::block_on::block_on;

    #[test]
    fn what_does_not_fit_is_throttled_and_what_panics_is_an_error() {
        let workers = Arc::new(Workers::new("test", 1, NICER, 2));
        let (begun, has_begun) = mpsc::channel();
        let (end, may_end) = mpsc::channel::<()>();
        let first = std::thread::spawn({
            let workers = Arc::clone(&workers);
            move || {
                block_on(workers.run(&"a".into(), 1, move || {
                    begun.send(()).unwrap();
                    may_end.recv().unwrap();
                    7
                }))
            }
        });
        has_begun.recv().unwrap();
        let second = std::thread::spawn({
            let workers = Arc::clone(&workers);
            move || block_on(workers.run(&"b".into(), 1, || -> u8 { panic!("for the test") }))
        });
        while workers.shared.queue.lock().cost < 2 {
            std::thread::yield_now();
        }
        let third = block_on(workers.run(&"c".into(), 1, || ()));
        assert_eq!(third.unwrap_err().code, ErrorCode::Throttling);
        end.send(()).unwrap();
        assert_eq!(first.join().unwrap().unwrap(), 7);
        let second = second.join().unwrap();
        assert_eq!(second.unwrap_err().code, ErrorCode::Internal);
        // The thread lives on, and what was done counts no longer, soon after its answer.
        while workers.shared.queue.lock().cost > 0 {
            std::thread::yield_now();
        }
        assert_eq!(block_on(workers.run(&"a".into(), 2, || 8)).unwrap(), 8);
    }

    #[test]
    fn pairs_are_what_was_asked_for() {
        let pool = Pool::default();
        let pair = block_on(pool.make(&"a".into(), PairSpec::P256)).unwrap();
        assert_eq!(pair.spec(), PairSpec::P256);
    }

    #[test]
    fn nobody_has_more_than_half_of_it() {
        let workers = Workers::new("test", 1, NICER, 8);
        let (end, may_end) = mpsc::channel::<()>();
        let may_end = Mutex::new(may_end);
        let put = |who: &str, cost, work: Box<dyn FnOnce() + Send>| {
            let who = who.into();
            workers.put(Job { who, cost, work })
        };
        put("eve", 3, Box::new(move || may_end.lock().recv().unwrap())).unwrap();
        put("eve", 1, Box::new(|| ())).unwrap();
        let refused = put("eve", 1, Box::new(|| ())).unwrap_err();
        assert_eq!(refused.code, ErrorCode::Throttling);
        put("bob", 4, Box::new(|| ())).unwrap();
        end.send(()).unwrap();
        while workers.shared.queue.lock().cost > 0 {
            std::thread::yield_now();
        }
        assert!(workers.shared.queue.lock().shares.is_empty());
        // One that is larger than a share may be alone.
        put("eve", 6, Box::new(|| ())).unwrap();
    }
}
