//! What is counted, written down and held back while a job walks over a tree.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use kms_format::UnlockedPolicy;

use super::cursor::Cursor;
use super::progress::NAMED;
use super::run::{Jobs, progress};
use super::throttle::Throttle;
use super::walk::{Control, Position};
use super::{Failure, Progress, Step, Work};
use crate::errno::Errno;
use crate::fs::{Fs, FsResult};

/// Objects between two flushes.
const BATCH: u64 = 256;
/// Time between two writes of the place of the job.
const SAVE: Duration = Duration::from_millis(300);
/// What is counted and written while a walk goes on.
pub(super) struct Watch<'a> {
    pub(super) jobs: &'a Jobs,
    pub(super) fs: Arc<Fs>,
    pub(super) policy: Arc<UnlockedPolicy>,
    pub(super) stop: Arc<AtomicBool>,
    pub(super) cursor: Cursor,
    pub(super) throttle: Throttle,
    pub(super) failures: Vec<Failure>,
    pub(super) failed: u64,
    /// Directories with policies of their own that are locked, by lower path: a later look finds them again.
    pub(super) locked: HashSet<String>,
    /// Objects since the last flush.
    pub(super) unflushed: u64,
    pub(super) saved: Instant,
    pub(super) began: Instant,
    pub(super) before: u64,
    /// A walk that is not the first: it only looks, as far as anybody knows.
    pub(super) again: bool,
}

impl Watch<'_> {
    /// Counts what was done at an object.
    pub(super) fn count(&mut self, step: Step) {
        self.cursor.changed += u64::from(step.changed);
        self.cursor.bytes += step.bytes;
        self.unflushed += 1;
    }

    /// How far it is.
    pub(super) fn progress(&self) -> Progress {
        let done = self.cursor.done - self.before;
        let seconds = self.began.elapsed().as_secs_f64();
        let left = self
            .cursor
            .total
            .and_then(|total| total.checked_sub(self.cursor.done));
        let eta = left.filter(|_| done > 0 && seconds >= 1.0);
        Progress {
            failed: self.failed,
            locked: self.locked.len() as u64,
            eta_seconds: eta.map(|left| (left as f64 * seconds / done as f64) as u64),
            ..progress(&self.cursor)
        }
    }

    /// Makes durable what was done, and then the place up to which it was.
    pub(super) fn save(&mut self, work: &mut dyn Work, stopped: bool) -> FsResult<()> {
        work.flush(&self.fs)?;
        self.unflushed = 0;
        self.saved = Instant::now();
        self.cursor.stopped = stopped;
        self.cursor.write(&self.fs, &self.policy)
    }

    fn tell(&self) {
        self.jobs.tell(self.progress());
    }
}

impl Control for Watch<'_> {
    fn done(
        &mut self,
        work: &mut dyn Work,
        result: FsResult<Step>,
        at: &dyn Fn() -> Position,
    ) -> FsResult<()> {
        let step = result?;
        self.count(step);
        if !self.again {
            self.cursor.done += 1;
        }
        let due = self.saved.elapsed() >= SAVE;
        if self.unflushed >= BATCH || due || self.stopped() {
            if !self.again {
                self.cursor.position = at();
            }
            if due {
                self.save(work, false)?;
            } else {
                work.flush(&self.fs)?;
                self.unflushed = 0;
            }
            self.tell();
        }
        let objects = u64::from(step.changed);
        let stop = Arc::clone(&self.stop);
        self.throttle
            .pass(objects, step.bytes, || stop.load(Ordering::SeqCst));
        Ok(())
    }

    fn part(&mut self, bytes: u64) -> bool {
        self.cursor.bytes += bytes;
        self.tell();
        let stop = Arc::clone(&self.stop);
        self.throttle.pass(0, bytes, || stop.load(Ordering::SeqCst));
        !self.stopped()
    }

    fn failed(&mut self, lower: String, errno: Errno) {
        self.failed += 1;
        tracing::warn!(lower, %errno, "a job cannot work on this");
        if self.failures.len() < NAMED {
            let error = errno.to_string();
            self.failures.push(Failure { lower, error });
        }
    }

    fn locked(&mut self, lower: String, errno: Errno) {
        if !self.locked.contains(&lower) {
            tracing::info!(lower, %errno, "a directory with a policy of its own, which is locked: a job passes it over");
            self.locked.insert(lower);
        }
    }

    fn stopped(&self) -> bool {
        self.stop.load(Ordering::SeqCst)
    }
}

/// A walk beside the main one: it has no place of its own.
pub(super) struct Aside<'a, 'b>(pub(super) &'a mut Watch<'b>);

impl Control for Aside<'_, '_> {
    fn done(
        &mut self,
        work: &mut dyn Work,
        result: FsResult<Step>,
        _: &dyn Fn() -> Position,
    ) -> FsResult<()> {
        let step = result?;
        self.0.count(step);
        if self.0.unflushed >= BATCH {
            work.flush(&self.0.fs)?;
            self.0.unflushed = 0;
        }
        let stop = Arc::clone(&self.0.stop);
        let throttle = &mut self.0.throttle;
        throttle.pass(u64::from(step.changed), step.bytes, || {
            stop.load(Ordering::SeqCst)
        });
        Ok(())
    }

    fn part(&mut self, bytes: u64) -> bool {
        self.0.part(bytes)
    }

    fn failed(&mut self, lower: String, errno: Errno) {
        self.0.failed(lower, errno);
    }

    fn locked(&mut self, lower: String, errno: Errno) {
        self.0.locked(lower, errno);
    }

    fn stopped(&self) -> bool {
        self.0.stopped()
    }
}
