//! The copying of a whole tree: directories one after the other, the files of one on a few threads.
//!
//! A directory gets its owner, mode and times after everything in it. Nothing here recurses, and no descriptor stays
//! open for a directory that is not worked on: depth costs memory for its paths only.

use std::ffi::{OsStr, OsString};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use rustix::fs::Mode;
use rustix::io::Errno;

use super::Import;
use super::attributes::Attributed;
use super::journal::{Done, WORK, lock};
use super::object::{Pair, remove};
use super::report::How;
use super::scan::{OTHER_FILE_SYSTEM, SOCKET};
use super::tree::{self, Held, Kind, Meta};
use super::trouble::Trouble;
use crate::exit::Failure;

/// Files copied at a time: most of the time of small ones is waiting for the disk.
const WORKERS: usize = 4;

enum Step {
    Enter(PathBuf, Meta),
    Leave(PathBuf, Meta),
}

type Entry = (OsString, Meta);

impl Import<'_> {
    /// Copies everything below the roots.
    pub(super) fn walk(&self, root: Meta) -> Result<(), Failure> {
        let mut steps = vec![Step::Enter(PathBuf::new(), root)];
        while let Some(step) = steps.pop() {
            let (below, result) = match step {
                Step::Enter(below, meta) => {
                    let result = self.enter(&below, &meta).map(|inner| {
                        steps.push(Step::Leave(below.clone(), meta));
                        // Popped in the order of their names.
                        for (name, meta) in inner.into_iter().rev() {
                            steps.push(Step::Enter(tree::join(&below, &name), meta));
                        }
                    });
                    (below, result)
                }
                Step::Leave(below, meta) => {
                    let result = self.leave(&below, &meta);
                    (below, result)
                }
            };
            self.note_trouble(&below, result)?;
        }
        Ok(())
    }

    /// A problem is named and the import goes on; what stops it comes out.
    fn note_trouble(&self, below: &Path, result: Result<(), Trouble>) -> Result<(), Failure> {
        match result {
            Ok(()) => Ok(()),
            Err(Trouble::Problem(what)) => {
                self.report.problem(below, what);
                Ok(())
            }
            Err(Trouble::Stop(failure)) => Err(failure),
        }
    }

    /// Makes a directory and imports what is in it, but for the directories there, which it returns.
    fn enter(&self, below: &Path, meta: &Meta) -> Result<Vec<Entry>, Trouble> {
        let entered = self.selection.enters(meta);
        let read = Trouble::source("reading the directory");
        // First, so that nothing is made for what cannot be read.
        let source = self.source.directory(below).map_err(&read)?;
        let names = if entered {
            tree::list(&source).map_err(&read)?
        } else {
            self.report.note(below, OTHER_FILE_SYSTEM);
            Vec::new()
        };
        self.make_directory(below)?;
        let failed = Trouble::destination("opening the directory in the destination");
        let at = Pair {
            below,
            source,
            destination: self.destination.directory(below).map_err(&failed)?,
        };
        for name in tree::list(&at.destination).map_err(&failed)? {
            if self.journal.is_temporary(&name) {
                // What was being made when an earlier run ended.
                remove(&at.destination, &name);
            }
        }
        let (mut directories, mut files, mut linked) = (Vec::new(), Vec::new(), Vec::new());
        for name in names {
            let path = tree::join(below, &name);
            if self.selection.excludes.matches(&path) {
                self.report.count(|sums| sums.excluded += 1);
                continue;
            }
            if below.as_os_str().is_empty() && name == WORK {
                self.report.problem(
                    &path,
                    "an unfinished import is in the source; finish that first",
                );
                continue;
            }
            match tree::stat(&at.source, &name) {
                Ok(meta) if meta.kind == Kind::Directory => directories.push((name, meta)),
                Ok(meta) if meta.kind == Kind::Socket => self.report.note(&path, SOCKET),
                // One after the other: the second name needs the first.
                Ok(meta) if meta.links > 1 => linked.push((name, meta)),
                Ok(meta) => files.push((name, meta)),
                Err(error) => {
                    self.note(&path, Trouble::source("looking at it")(error))?;
                }
            }
        }
        self.objects(&at, &files, WORKERS)?;
        self.objects(&at, &linked, 1)?;
        rustix::fs::fsync(&at.destination)
            .map_err(|error| Trouble::destination("making the directory durable")(error.into()))?;
        Ok(directories)
    }

    /// Names a problem of one entry.
    fn note(&self, path: &Path, trouble: Trouble) -> Result<(), Trouble> {
        match trouble {
            Trouble::Problem(what) => {
                self.report.problem(path, what);
                Ok(())
            }
            stop @ Trouble::Stop(_) => Err(stop),
        }
    }

    /// Imports entries of one directory on some threads; the first that stops the import stops all.
    fn objects(&self, at: &Pair<'_>, entries: &[Entry], workers: usize) -> Result<(), Trouble> {
        let next = AtomicUsize::new(0);
        let stop: Mutex<Option<Trouble>> = Mutex::new(None);
        let work = || {
            while lock(&stop).is_none()
                && let Some((name, meta)) = entries.get(next.fetch_add(1, Ordering::Relaxed))
            {
                let path = tree::join(at.below, name);
                let result = match self.object(at, name, meta) {
                    Ok(()) => Ok(()),
                    Err(trouble) => self.note(&path, trouble),
                };
                if let Err(trouble) = result {
                    lock(&stop).get_or_insert(with_path(trouble, &path));
                }
            }
        };
        match workers.min(entries.len()) {
            0 | 1 => work(),
            workers => std::thread::scope(|scope| {
                for _ in 0..workers {
                    scope.spawn(work);
                }
            }),
        }
        stop.into_inner()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .map_or(Ok(()), Err)
    }

    fn make_directory(&self, below: &Path) -> Result<(), Trouble> {
        if below.as_os_str().is_empty() {
            return Ok(());
        }
        let failed = Trouble::destination("making a directory");
        let (parent, name) = self.destination.parent(below).map_err(&failed)?;
        match rustix::fs::mkdirat(&parent, name, Mode::RWXU) {
            Ok(()) => return Ok(()),
            Err(Errno::EXIST) => {}
            Err(error) => return Err(failed(error.into())),
        }
        let there = tree::stat(&parent, name).map_err(&failed)?;
        if there.kind != Kind::Directory {
            return Err(Trouble::problem(
                "it is a directory, and something else has its name in the destination; move that away",
            ));
        }
        // An earlier run may have given it its final mode, which only root can write past.
        if there.mode & 0o700 != 0o700 && !rustix::process::geteuid().is_root() {
            let held = Held::open(&parent, name).map_err(&failed)?;
            rustix::fs::chmod(held.path(), Mode::from_raw_mode(there.mode | 0o700))
                .map_err(|error| failed(error.into()))?;
        }
        Ok(())
    }

    /// Gives a directory its attributes when everything in it is done.
    fn leave(&self, below: &Path, entered: &Meta) -> Result<(), Trouble> {
        let look = Trouble::source("looking at the directory again");
        let directory = self.source.directory(below).map_err(look)?;
        let done = self.directory_attributes(&directory, below, entered)?;
        self.journal
            .finish(below, done)
            .map_err(Trouble::destination("recording what is finished"))?;
        self.report.imported(Kind::Directory, 0, false, How::Made);
        Ok(())
    }

    fn directory_attributes(
        &self,
        source: &OwnedFd,
        below: &Path,
        entered: &Meta,
    ) -> Result<Done, Trouble> {
        let own = Held::open(source, OsStr::new("."))
            .map_err(Trouble::source("looking at the directory again"))?;
        let attributed =
            Attributed::read(&own).map_err(Trouble::source("reading its attributes"))?;
        if attributed.meta.seen() != entered.seen() {
            return Err(Trouble::problem(
                "the directory changed while it was imported; stop what changes it, then run the same command again",
            ));
        }
        let failed = Trouble::destination("giving the directory its attributes");
        let directory = self.destination.directory(below).map_err(&failed)?;
        let held = Held::open(&directory, OsStr::new(".")).map_err(&failed)?;
        for note in attributed.apply(&held)? {
            self.report.note(below, note);
        }
        for name in &attributed.left {
            let what = format!(
                "attribute {} has no meaning elsewhere, it was left out",
                name.display()
            );
            self.report.note(below, what);
        }
        rustix::fs::fsync(&directory).map_err(|error| failed(error.into()))?;
        let differences = attributed.differences(&held).map_err(&failed)?;
        if !differences.is_empty() {
            return Err(Trouble::problem(format!(
                "the destination did not take: {}",
                differences.join(", ")
            )));
        }
        Ok(Done {
            kind: Kind::Directory,
            source: attributed.meta.seen(),
            copy: held.stat().map_err(&failed)?.seen(),
            digest: None,
            late_flags: attributed.late_flags().bits(),
        })
    }
}

fn with_path(trouble: Trouble, path: &Path) -> Trouble {
    match trouble {
        Trouble::Stop(mut failure) => {
            let path = path.display().to_string();
            if !failure.message.contains(&path) {
                failure.message = format!("{path}: {}", failure.message);
            }
            Trouble::Stop(failure)
        }
        problem @ Trouble::Problem(_) => problem,
    }
}
