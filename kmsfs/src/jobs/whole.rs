//! A job from its beginning to its end, on its thread.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use kms_format::{UnlockedPolicy, names};

use super::cursor::Cursor;
use super::run::{Finish, Jobs, NotEnded, Spec};
use super::throttle::Throttle;
use super::walk::{Control as _, ends_all, is_gone, walk};
use super::watching::{Aside, Watch};
use super::{JobReport, Work};
use crate::errno::Errno;
use crate::fs::{Fs, FsResult, Kind};
use crate::inode::Node;

/// Looks at the whole tree before a job gives up finding nothing to do in it.
const PASSES: u32 = 5;

/// A job on its thread.
pub(super) struct Run<'a> {
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

impl<'a> Run<'a> {
    pub(super) fn new(jobs: &'a Jobs, spec: Spec, stop: Arc<AtomicBool>) -> Run<'a> {
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

    /// From its beginning, or where it was, to its end.
    pub(super) fn whole(mut self) -> JobReport {
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
        let (mut ends, mut older_kept, mut not_ended) = (Vec::new(), None, false);
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
                        Err(NotEnded::Needed(text)) => {
                            error = Some(text);
                            not_ended = true;
                        }
                        Err(NotEnded::Refused(text)) => {
                            error = Some(text);
                            not_ended = true;
                            older_kept = Some(self.policy.generation());
                        }
                    }
                }
            }
            self.put_away(not_ended);
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

    /// The place of a job that has seen everything: away, or, if something failed or the older generations are there still, kept for its
    /// command, which then looks at everything again instead of making another generation.
    fn put_away(&mut self, kept_older: bool) {
        // What a stop left of copies that were not whole.
        if self.watch.failed == 0
            && let Err(errno) = self.fs.drop_copies(Some(self.policy.policy()))
        {
            tracing::warn!(%errno, "copies of files that no file needs cannot be removed: kmsctl fs check --repair does, unmounted");
        }
        if self.watch.failed == 0 && !kept_older {
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
            kept_older,
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
        // What a stop left of a copy that was not whole takes room that the next one needs.
        self.fs.drop_copies(None)?;
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
