//! The thread of a job, and who watches and stops it.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use kms_format::{UnlockedPolicy, names};
use parking_lot::{Condvar, Mutex};

use super::cursor::Cursor;
use super::progress::NAMED;
use super::throttle::Throttle;
use super::walk::{Control, Position, ends_all, is_gone, walk};
use super::{Failure, JobReport, Progress, Step, Work};
use crate::errno::Errno;
use crate::fs::{Fs, FsResult, Kind};
use crate::inode::Node;

/// Objects between two flushes.
const BATCH: u64 = 256;
/// Time between two writes of the place of the job.
const SAVE: Duration = Duration::from_millis(300);
/// Looks at the whole tree before a job gives up finding nothing to do in it.
const PASSES: u32 = 5;

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
pub(crate) type Finish = Box<dyn FnOnce() -> Result<Vec<u32>, String> + Send>;

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

    fn is_closed(&self) -> bool {
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

fn progress(cursor: &Cursor) -> Progress {
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

/// A job on its thread.
struct Run<'a> {
    jobs: &'a Jobs,
    fs: Arc<Fs>,
    policy: Arc<UnlockedPolicy>,
    root: Arc<Node>,
    work: Option<Box<dyn Work>>,
    finish: Option<Finish>,
    watch: Watch<'a>,
    began: Instant,
}

/// How the work came to its end.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    /// Everything was seen, and nothing is left to do but what failed.
    Whole,
    /// Somebody stopped it.
    Stopped,
    /// Each look at the tree found something to do.
    Unsettled,
}

/// What is counted and written while a walk goes on.
struct Watch<'a> {
    jobs: &'a Jobs,
    fs: Arc<Fs>,
    policy: Arc<UnlockedPolicy>,
    stop: Arc<AtomicBool>,
    cursor: Cursor,
    throttle: Throttle,
    failures: Vec<Failure>,
    failed: u64,
    /// Directories with policies of their own that are locked, by lower path: a later look finds them again.
    locked: HashSet<String>,
    /// Objects since the last flush.
    unflushed: u64,
    saved: Instant,
    began: Instant,
    before: u64,
    /// A walk that is not the first: it only looks, as far as anybody knows.
    again: bool,
}

impl<'a> Run<'a> {
    fn new(jobs: &'a Jobs, spec: Spec, stop: Arc<AtomicBool>) -> Run<'a> {
        let now = Instant::now();
        Run {
            jobs,
            watch: Watch {
                jobs,
                fs: Arc::clone(&spec.fs),
                policy: Arc::clone(&spec.policy),
                stop,
                throttle: Throttle::new(spec.cursor.rate),
                before: spec.cursor.done,
                cursor: spec.cursor,
                failures: Vec::new(),
                failed: 0,
                locked: HashSet::new(),
                unflushed: 0,
                saved: now,
                began: now,
                again: false,
            },
            fs: spec.fs,
            policy: spec.policy,
            root: spec.root,
            work: Some(spec.work),
            finish: spec.finish,
            began: now,
        }
    }

    fn whole(mut self) -> JobReport {
        let kind = self.watch.cursor.kind.as_str();
        let policy = self.watch.cursor.policy.clone();
        tracing::info!(
            kind,
            policy,
            generation = self.watch.cursor.generation,
            done = self.watch.cursor.done,
            "a job begins"
        );
        self.fs.watch_moves();
        let result = self.work_off();
        for node in self.fs.take_moves() {
            self.fs.leave(&node);
        }
        while !self.fs.moves_over() {
            for node in self.fs.take_moves() {
                self.fs.leave(&node);
            }
        }
        self.fs.leave(&self.root);
        let (finished, mut error) = match result {
            Ok(End::Whole) => (true, None),
            Ok(End::Stopped) => (false, None),
            Ok(End::Unsettled) => (false, Some(unsettled())),
            Err(errno) => (false, Some(ended(errno))),
        };
        let (mut ends, mut older_kept) = (Vec::new(), None);
        if finished {
            if let Some(finish) = self.finish.take() {
                if self.watch.failed > 0 {
                    error = Some(format!(
                        "{} objects could not be worked on: old generations are kept, since these hang on them",
                        self.watch.failed
                    ));
                } else {
                    match finish() {
                        Ok(generations) => ends = generations,
                        Err(text) => {
                            error = Some(text);
                            older_kept = Some(self.policy.generation());
                        }
                    }
                }
            }
            self.put_away();
        }
        let report = JobReport {
            progress: self.watch.progress(),
            finished,
            error,
            failures: std::mem::take(&mut self.watch.failures),
            ended: ends,
            older_kept,
            seconds: self.began.elapsed().as_secs_f64(),
        };
        if let Some(error) = &report.error {
            tracing::error!(
                kind,
                policy,
                done = report.progress.done,
                error,
                "a job ended early"
            );
        } else {
            tracing::info!(
                kind,
                policy,
                done = report.progress.done,
                changed = report.progress.changed,
                failed = report.progress.failed,
                finished,
                "a job ended"
            );
        }
        report
    }

    /// The place of a job that has seen everything: away, or, if something failed, kept for its command, which then looks at
    /// everything again instead of making another generation.
    fn put_away(&mut self) {
        if self.watch.failed == 0 {
            if let Err(errno) = self.fs.drop_root_file(names::JOB) {
                tracing::warn!(%errno, "the place of a finished job cannot be removed");
            }
            return;
        }
        let again = Cursor {
            position: Vec::new(),
            done: 0,
            total: None,
            failed: self.watch.failed,
            ..self.watch.cursor.clone()
        };
        if let Err(errno) = again.write(&self.fs, &self.policy) {
            tracing::warn!(%errno, "the place of a job cannot be kept: it looks at everything again at the next mount");
        }
    }

    /// Everything, until nothing is left.
    fn work_off(&mut self) -> FsResult<End> {
        let Some(mut work) = self.work.take() else {
            return Ok(End::Stopped);
        };
        self.watch.save(&mut *work, false)?;
        if self.watch.cursor.total.is_none() {
            self.watch.cursor.total = self.count();
        }
        let result = self.passes(&mut *work);
        // What was begun is brought to its end, whatever happened.
        let flushed = work.flush(&self.fs);
        let complete = matches!(result, Ok(End::Whole)) && flushed.is_ok();
        if complete {
            self.fs.sync_lower()?;
            return Ok(End::Whole);
        }
        let asked = self.watch.stopped() && !self.jobs.is_closed();
        self.watch.save(&mut *work, asked)?;
        flushed.and(result)
    }

    fn passes(&mut self, work: &mut dyn Work) -> FsResult<End> {
        let mut from = std::mem::take(&mut self.watch.cursor.position);
        // What was moved while nobody watched, before this mount, or in the time of a copy.
        let mut sure = from.is_empty();
        self.watch.cursor.position.clone_from(&from);
        for _ in 0..PASSES {
            let before = self.watch.cursor.changed;
            let root = Arc::clone(&self.root);
            // What failed in an earlier look comes again.
            self.watch.failed = 0;
            self.watch.failures.clear();
            if !walk(&self.fs, &root, &from, work, &mut self.watch)? {
                return Ok(End::Stopped);
            }
            self.moved(work)?;
            if !self.open_files(work)? {
                return Ok(End::Stopped);
            }
            let nothing = self.watch.cursor.changed == before;
            if self.watch.again && nothing {
                return Ok(End::Whole);
            }
            // Whoever ends generations looks twice.
            if sure && self.finish.is_none() {
                return Ok(End::Whole);
            }
            sure = true;
            from = Vec::new();
            self.watch.again = true;
            self.watch.cursor.position = vec![u64::MAX];
        }
        // Something new each time: it is not known that nothing hangs on older generations.
        Ok(End::Unsettled)
    }

    /// What got another place under the walk.
    fn moved(&mut self, work: &mut dyn Work) -> FsResult<()> {
        loop {
            let nodes = self.fs.take_moves();
            if nodes.is_empty() {
                return Ok(());
            }
            let mut result = Ok(());
            for node in nodes {
                if result.is_ok() && !self.watch.stopped() {
                    result = self.moved_one(work, &node);
                }
                self.fs.leave(&node);
            }
            result?;
            if self.watch.stopped() {
                return Ok(());
            }
        }
    }

    fn moved_one(&mut self, work: &mut dyn Work, node: &Arc<Node>) -> FsResult<()> {
        let done = self.one(work, node);
        match done {
            Ok(()) => Ok(()),
            Err(errno) if is_gone(errno) => Ok(()),
            Err(Errno::INTR) if self.watch.stopped() => Ok(()),
            Err(errno) if ends_all(errno) => Err(errno),
            Err(errno) => {
                self.watch.failed(node.lower_path(), errno);
                Ok(())
            }
        }
    }

    fn one(&mut self, work: &mut dyn Work, node: &Arc<Node>) -> FsResult<()> {
        if node.kind == Kind::Directory {
            if self.fs.context_of(node)?.policy.policy() == work.policy() {
                let mut quiet = Aside(&mut self.watch);
                walk(&self.fs, node, &[], work, &mut quiet)?;
            }
            return Ok(());
        }
        for place in node.places() {
            if self.fs.context_of(&place.parent)?.policy.policy() == work.policy() {
                let mut pace = |bytes| self.watch.part(bytes);
                let step = work.entry(&self.fs, &place.parent, &place.name, node, &mut pace)?;
                self.watch.count(step);
                if node.kind == Kind::File {
                    break;
                }
            }
        }
        Ok(())
    }

    /// Files that are open may have no name, and get one later.
    fn open_files(&mut self, work: &mut dyn Work) -> FsResult<bool> {
        for node in self.fs.open_files() {
            let result = if self.watch.stopped() {
                Ok(())
            } else {
                self.nameless(work, &node)
            };
            self.fs.leave(&node);
            match result {
                Err(errno) if ends_all(errno) => return Err(errno),
                Ok(()) => {}
                Err(errno) if is_gone(errno) || self.watch.stopped() => {}
                // It may get a name later, and then be under a generation that was ended.
                Err(errno) => self.watch.failed(node.lower_path(), errno),
            }
        }
        Ok(!self.watch.stopped())
    }

    fn nameless(&mut self, work: &mut dyn Work, node: &Arc<Node>) -> FsResult<()> {
        let Some(nameless) = node.nameless() else {
            return Ok(());
        };
        if self.fs.context_of(&nameless.parent)?.policy.policy() == work.policy() {
            let mut pace = |bytes| self.watch.part(bytes);
            let step = work.entry(&self.fs, &nameless.parent, "", node, &mut pace)?;
            self.watch.count(step);
        }
        Ok(())
    }

    /// How many objects there are, as the lower tree lists them.
    fn count(&self) -> Option<u64> {
        struct Counting<'a>(u64, &'a AtomicBool);
        impl crate::fs::walk::Visit for Counting<'_> {
            fn entry(
                &mut self,
                _: &crate::fs::walk::Here<'_>,
                entry: &crate::backing::LowerEntry,
                _: Kind,
            ) -> FsResult<bool> {
                if self.1.load(Ordering::SeqCst) {
                    return Err(Errno::from_raw(libc::EINTR));
                }
                let name = names::classify(&entry.name);
                let counts = matches!(name, names::LowerName::Short | names::LowerName::Long);
                self.0 += u64::from(counts);
                Ok(counts)
            }
            fn unreadable(
                &mut self,
                _: &crate::fs::walk::Here<'_>,
                _: &str,
                _: Errno,
            ) -> FsResult<()> {
                Ok(())
            }
        }
        let root = self.fs.lower_dir(&self.root).ok()?;
        let mut counting = Counting(1, &self.watch.stop);
        crate::fs::walk::walk(&root, &mut counting).ok()?;
        Some(counting.0)
    }
}

impl Watch<'_> {
    fn count(&mut self, step: Step) {
        self.cursor.changed += u64::from(step.changed);
        self.cursor.bytes += step.bytes;
        self.unflushed += 1;
    }

    fn progress(&self) -> Progress {
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
    fn save(&mut self, work: &mut dyn Work, stopped: bool) -> FsResult<()> {
        work.flush(&self.fs)?;
        self.unflushed = 0;
        self.saved = Instant::now();
        self.cursor.stopped = stopped;
        self.cursor.write(&self.fs, &self.policy)
    }

    fn tell(&self) {
        let progress = self.progress();
        if let Some(now) = &mut self.jobs.state.lock().now {
            now.progress = progress;
        }
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
struct Aside<'a, 'b>(&'a mut Watch<'b>);

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

fn unsettled() -> String {
    format!(
        "each of {PASSES} looks at the tree found something to do, so it is not sure that nothing hangs on older generations: they are kept; \
         see in the log of the mount what comes again and again, then give the same command again"
    )
}

fn ended(errno: Errno) -> String {
    let next = match errno.raw() {
        libc::ENOSPC | libc::EDQUOT => "make room on the lower file system",
        libc::ENOKEY | libc::EKEYREVOKED => "see in the log of the mount why the policy is locked",
        libc::ETIMEDOUT => "check that kmsd runs (kmsctl status)",
        libc::EROFS => "the lower file system is read-only now: see the kernel's log",
        _ => "see the log of the mount",
    };
    format!("{errno}; {next}, then give the same command again: it goes on where it was")
}
