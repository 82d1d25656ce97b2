//! The thread of a job, and who watches and stops it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use kms_format::UnlockedPolicy;
use parking_lot::{Condvar, Mutex};

use super::cursor::Cursor;
use super::whole::Run;
use super::{JobReport, Progress, Work};
use crate::fs::Fs;
use crate::inode::Node;

/// There is a job already.
#[derive(Clone, Debug)]
pub struct Busy(pub Progress);

/// The job of one mount.
#[derive(Default)]
pub struct Jobs {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    now: Option<Running>,
    last: Option<JobReport>,
    /// Unmounting: nothing begins any more.
    closed: bool,
    /// How many have begun.
    number: u64,
}

struct Running {
    progress: Progress,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

/// What a job is to do when it has seen everything: gives the generations that were ended, or why they were not.
pub(crate) type Finish = Box<dyn FnOnce() -> Result<Vec<u32>, NotEnded> + Send>;

/// Why older generations were not ended.
pub(crate) enum NotEnded {
    /// Something may hang on them still: nobody is to end them.
    Needed(String),
    /// kmsd does not let this mount; whoever gave the command may end them.
    Refused(String),
}

/// A job to begin, or to go on with.
pub(crate) struct Spec {
    pub(crate) fs: Arc<Fs>,
    /// What it works towards.
    pub(crate) policy: Arc<UnlockedPolicy>,
    /// The root of the policy, visited.
    pub(crate) root: Arc<Node>,
    pub(crate) cursor: Cursor,
    pub(crate) work: Box<dyn Work>,
    pub(crate) finish: Option<Finish>,
}

impl Jobs {
    /// Begins a job, and gives its number.
    ///
    /// # Errors
    /// There is one.
    pub(crate) fn start(self: &Arc<Self>, spec: Spec) -> Result<u64, Box<Busy>> {
        let mut state = self.state.lock();
        let progress = progress(&spec.cursor);
        if let Some(now) = &state.now {
            return Err(Box::new(Busy(now.progress.clone())));
        }
        if state.closed {
            return Err(Box::new(Busy(progress)));
        }
        let stop = Arc::new(AtomicBool::new(false));
        let (jobs, stopped) = (Arc::clone(self), Arc::clone(&stop));
        let busy = progress.clone();
        let thread = std::thread::Builder::new()
            .name("job".to_owned())
            .spawn(move || {
                let report = Run::new(&jobs, spec, stopped).whole();
                let mut state = jobs.state.lock();
                state.now = None;
                state.last = Some(report);
                jobs.changed.notify_all();
            });
        let thread = thread.map_err(|error| {
            tracing::error!(%error, "cannot start a thread for a job");
            Box::new(Busy(busy))
        })?;
        state.last = None;
        state.number += 1;
        state.now = Some(Running {
            progress,
            stop,
            thread: Some(thread),
        });
        Ok(state.number)
    }

    /// How far the job is, if there is one.
    #[must_use]
    pub fn progress(&self) -> Option<Progress> {
        self.state
            .lock()
            .now
            .as_ref()
            .map(|now| now.progress.clone())
    }

    /// The number of the job that runs, for [`Jobs::wait`].
    #[must_use]
    pub fn number(&self) -> Option<u64> {
        let state = self.state.lock();
        state.now.as_ref().map(|_| state.number)
    }

    /// What came of the last job.
    #[must_use]
    pub fn last(&self) -> Option<JobReport> {
        self.state.lock().last.clone()
    }

    /// Waits for the end of job `number` up to `limit`. None if it goes on still.
    #[must_use]
    pub fn wait(&self, number: u64, limit: Duration) -> Option<JobReport> {
        let until = Instant::now() + limit;
        let mut state = self.state.lock();
        loop {
            if state.number != number || state.now.is_none() {
                // Perhaps of one that came after it: whoever watched this one looked away.
                return state.last.clone();
            }
            if self.changed.wait_until(&mut state, until).timed_out() {
                return None;
            }
        }
    }

    /// Stops the job and waits until it has put its place down. False if there is none.
    pub fn stop(&self) -> bool {
        self.halt()
    }

    /// Unmounting: as [`Jobs::stop`], but the job goes on at the next mount.
    pub fn close(&self) {
        self.state.lock().closed = true;
        self.changed.notify_all();
        let _ = self.halt();
    }

    fn halt(&self) -> bool {
        let mut state = self.state.lock();
        let Some(now) = &mut state.now else {
            return false;
        };
        now.stop.store(true, Ordering::SeqCst);
        let thread = now.thread.take();
        drop(state);
        match thread {
            Some(thread) => drop(thread.join()),
            // Somebody else waits for it.
            None => {
                let mut state = self.state.lock();
                while state.now.is_some() {
                    self.changed.wait(&mut state);
                }
            }
        }
        true
    }

    /// Waits for the unmount up to `limit`: whether it has begun.
    #[must_use]
    pub fn closes_within(&self, limit: Duration) -> bool {
        let until = Instant::now() + limit;
        let mut state = self.state.lock();
        while !state.closed {
            if self.changed.wait_until(&mut state, until).timed_out() {
                return state.closed;
            }
        }
        true
    }

    /// For whoever asks how far it is.
    pub(super) fn tell(&self, progress: Progress) {
        if let Some(now) = &mut self.state.lock().now {
            now.progress = progress;
        }
    }

    /// Whether the unmount has begun.
    pub(super) fn is_closed(&self) -> bool {
        self.state.lock().closed
    }
}

impl std::fmt::Debug for Jobs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Jobs")
            .field("progress", &self.progress())
            .finish_non_exhaustive()
    }
}

/// How far a job is that is at `cursor`.
pub(super) fn progress(cursor: &Cursor) -> Progress {
    Progress {
        kind: cursor.kind,
        policy: cursor.policy.clone(),
        generation: cursor.generation,
        done: cursor.done,
        total: cursor.total,
        changed: cursor.changed,
        bytes: cursor.bytes,
        failed: 0,
        locked: 0,
        eta_seconds: None,
    }
}
