//! `kmsctl fs import`: brings an existing tree into an encrypted directory.
//!
//! Each object is made under a temporary name, read back and compared, made durable, and only then named. A work
//! directory in the destination records what is finished; while it is there, the import is not. A directory gets its times at the
//! end. The source is only read, unless its removal was asked for, which comes after everything else.

mod attributes;
mod content;
mod journal;
mod object;
mod place;
mod remove;
mod report;
mod scan;
mod select;
#[cfg(test)]
mod tests;
mod tree;
mod trouble;
mod walk;

use std::collections::HashMap;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::AtomicU64;

use rustix::fs::IFlags;

use self::journal::{Done, Journal, JournalError, WORK, is_unfinished};
use self::place::Places;
use self::report::{Report, Summary};
use self::scan::Selection;
pub(crate) use self::select::Excludes;
use self::tree::{Held, Identity, Meta, Tree};
use self::trouble::Trouble;
use crate::exit::{Exit, Failure};

/// What is wanted of an import.
#[derive(Debug)]
pub(crate) struct Options {
    pub(crate) excludes: Excludes,
    pub(crate) cross_file_systems: bool,
    pub(crate) overwrite: bool,
    pub(crate) dry_run: bool,
    pub(crate) remove_source: bool,
    pub(crate) any_destination: bool,
    /// No progress bar.
    pub(crate) quiet: bool,
}

/// An import that is under way.
struct Import<'a> {
    options: &'a Options,
    places: &'a Places,
    source: Tree,
    destination: Tree,
    selection: Selection<'a>,
    journal: Journal,
    report: &'a Report,
    /// Files with several names: where the first one was imported to.
    links: Mutex<HashMap<Identity, PathBuf>>,
    /// Number of the next temporary file.
    next: AtomicU64,
}

/// Imports `source` into `destination`. The summary is there also when the import stopped.
///
/// # Errors
/// Nothing was done, or the import stopped on the way. Problems with single objects are in the summary.
pub(crate) fn run(
    source: &Path,
    destination: &Path,
    options: &Options,
) -> (Option<Summary>, Result<(), Failure>) {
    let places = match Places::check(source, destination, options.any_destination) {
        Ok(places) => places,
        Err(failure) => return (None, Err(failure)),
    };
    let report = Report::new(
        &places.source,
        &places.destination,
        options.dry_run,
        options.quiet,
    );
    let result = import(&places, options, &report);
    let mut summary = report.end();
    summary.complete = result.is_ok() && summary.problems.is_empty() && !options.dry_run;
    (Some(summary), result)
}

fn import(places: &Places, options: &Options, report: &Report) -> Result<(), Failure> {
    let open =
        |path: &Path| Tree::open(path).map_err(|error| Failure::local(path.display(), &error));
    let (source, destination) = (open(&places.source)?, open(&places.destination)?);
    let root = tree::stat_open(source.root())
        .map_err(|error| Failure::local(places.source.display(), &error))?;
    let selection = Selection {
        excludes: &options.excludes,
        device: (!options.cross_file_systems).then_some(root.device),
    };
    report.scanning();
    if options.dry_run {
        scan::dry_run(&source, &destination, &selection, options.overwrite, report);
        return Ok(());
    }
    let unfinished = is_unfinished(source.root());
    if unfinished.map_err(|error| Failure::local(places.source.display(), &error))? {
        return Err(Failure::new(
            Exit::FileSystem,
            format!("{} holds an unfinished import", places.source.display()),
        )
        .next("Finish that import first: run its command again."));
    }
    let journal =
        Journal::open(&destination, &places.source).map_err(|error| unusable(places, &error))?;
    let import = Import {
        options,
        places,
        source,
        destination,
        selection,
        journal,
        report,
        links: Mutex::default(),
        next: AtomicU64::new(0),
    };
    import.run(root)
}

impl Import<'_> {
    fn run(self, root: Meta) -> Result<(), Failure> {
        if self.journal.is_removing() {
            if !self.options.remove_source {
                return Err(Failure::new(
                    Exit::FileSystem,
                    format!(
                        "everything was imported into {}, and the removal of the source has begun",
                        self.places.destination.display()
                    ),
                )
                .next(format!(
                    "Run the same command with --remove-source to go on; or, to keep what is left of the source, remove {}/{WORK}.",
                    self.places.destination.display()
                )));
            }
        } else {
            self.copy(root)?;
            if self.report.problems() > 0 {
                // The work directory stays: the import is not finished.
                return Ok(());
            }
        }
        if self.options.remove_source {
            self.report.phase("removing the source");
            let failed =
                |error: std::io::Error| stopped(self.places, "making everything durable", error);
            self.make_durable().map_err(failed)?;
            self.journal.start_removing().map_err(failed)?;
            self.remove_source();
        }
        self.complete()
    }

    fn copy(&self, root: Meta) -> Result<(), Failure> {
        if self.journal.is_resumed() {
            self.report.line("going on with the unfinished import");
        }
        let totals = scan::totals(&self.source, &self.selection);
        self.report.begin(totals.bytes);
        if let Ok(fs) = rustix::fs::fstatvfs(self.destination.root()) {
            let free = fs.f_bavail.saturating_mul(fs.f_frsize);
            if free < totals.occupied && !self.journal.is_resumed() {
                self.report.line(&format!(
                    "warning: the source occupies {} bytes and the destination has {free} left; when it is full the import stops, \
                     and goes on when there is room",
                    totals.occupied
                ));
            }
        }
        self.walk(root)?;
        for path in self.journal.unfinished_now() {
            let gone = match self.source.parent(path) {
                Ok((parent, name)) => matches!(tree::stat_if_there(&parent, name), Ok(None)),
                Err(error) => error.kind() == std::io::ErrorKind::NotFound,
            };
            // Else it was excluded this time, or named as a problem.
            if !gone {
                continue;
            }
            self.report.note(
                path,
                "it is no longer in the source; what an earlier run imported stays in the destination",
            );
        }
        Ok(())
    }

    /// The last steps: flags that forbid changes, and the work directory.
    fn complete(&self) -> Result<(), Failure> {
        self.report.phase("finishing");
        let late = self.journal.late();
        let (of_root, inner): (Vec<_>, Vec<_>) = late
            .into_iter()
            .partition(|(path, _)| path.as_os_str().is_empty());
        self.set_late_flags(&inner);
        let failed =
            |error: std::io::Error| stopped(self.places, "removing the work directory", error);
        let root = Held::open(self.destination.root(), OsStr::new(".")).map_err(failed)?;
        let before = root.stat().map_err(failed)?;
        self.journal.remove(&self.destination).map_err(failed)?;
        // That moved the time of the root, which is the source's by now.
        attributes::set_times(&root, before.atime, before.mtime)
            .and_then(|()| Ok(rustix::fs::fsync(self.destination.root())?))
            .map_err(failed)?;
        self.set_late_flags(&of_root);
        Ok(())
    }

    fn set_late_flags(&self, objects: &[(PathBuf, Done)]) {
        for (path, done) in objects {
            let flags = IFlags::from_bits_retain(done.late_flags);
            let held = if path.as_os_str().is_empty() {
                Held::open(self.destination.root(), OsStr::new("."))
            } else {
                self.destination
                    .parent(path)
                    .and_then(|(parent, name)| Held::open(&parent, name))
            };
            let set = held.and_then(|held| attributes::set_flags(&held, done.kind, flags));
            if let Err(error) = set {
                self.report
                    .note(path, format!("file flags {flags:?} were not set: {error}"));
            }
        }
    }
}

/// Something that concerns the whole destination failed.
fn stopped(places: &Places, what: &str, error: std::io::Error) -> Failure {
    let what = format!("{what} in {}", places.destination.display());
    match Trouble::destination(what)(error) {
        Trouble::Stop(failure) => failure,
        Trouble::Problem(text) => Failure::new(Exit::Local, text)
            .next("Mend that, then run the same command again: it goes on where it stopped."),
    }
}

fn unusable(places: &Places, error: &JournalError) -> Failure {
    let work = places.destination.join(WORK);
    let failure = Failure::new(
        Exit::FileSystem,
        format!("{}: {error}", places.destination.display()),
    );
    match error {
        JournalError::Busy => failure.next("Wait for it, or end it."),
        JournalError::Other(source) => failure.next(format!(
            "Finish it with `kmsctl fs import {} {}`, or give it up by removing {}.",
            source.display(),
            places.destination.display(),
            work.display()
        )),
        JournalError::Damaged(_) => failure.next(format!(
            "Remove {} and run the same command again: what is there is then compared anew.",
            work.display()
        )),
        JournalError::Io(error) => Failure::local(work.display(), error)
            .next("Look at owner and mode of the destination, and whether it is full."),
    }
}
