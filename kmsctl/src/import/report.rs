//! What an import did, what it could not do, and how far it is.

use std::io::IsTerminal as _;
use std::path::Path;
use std::sync::Mutex;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;

use super::journal::lock;
use super::tree::Kind;

/// Something about one object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Remark {
    /// Path below the source; bytes that are not UTF-8 are shown as U+FFFD.
    pub(crate) path: String,
    pub(crate) what: String,
}

/// Sums and remarks.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Summary {
    pub(crate) source: String,
    pub(crate) destination: String,
    /// Everything was imported and verified, but for what `notes` names.
    pub(crate) complete: bool,
    pub(crate) dry_run: bool,
    /// Objects that are in the destination now, by kind.
    pub(crate) files: u64,
    pub(crate) directories: u64,
    pub(crate) symlinks: u64,
    /// Named pipes and devices.
    pub(crate) special_files: u64,
    /// Names of files that have another name in the tree; not counted as files.
    pub(crate) hard_links: u64,
    /// Sizes of the files.
    pub(crate) bytes: u64,
    /// Of these objects, those that an earlier run had finished.
    pub(crate) finished_earlier: u64,
    /// Of these objects, those that were in the destination before and are the same.
    pub(crate) already_there: u64,
    /// What `--exclude` left out; a directory counts once.
    pub(crate) excluded: u64,
    /// Names removed from the source.
    pub(crate) removed: u64,
    /// What was not imported although it should be.
    pub(crate) problems: Vec<Remark>,
    /// What was left out or changed because it cannot be otherwise.
    pub(crate) notes: Vec<Remark>,
}

/// How an object came to be in the destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum How {
    Made,
    Earlier,
    AlreadyThere,
}

/// Collects what all workers do.
#[derive(Debug)]
pub(crate) struct Report {
    summary: Mutex<Summary>,
    bar: ProgressBar,
}

impl Report {
    /// An empty report. With `quiet` there is no progress bar.
    pub(crate) fn new(source: &Path, destination: &Path, dry_run: bool, quiet: bool) -> Report {
        let bar = if quiet || !std::io::stderr().is_terminal() {
            ProgressBar::with_draw_target(None, ProgressDrawTarget::hidden())
        } else {
            ProgressBar::new_spinner()
        };
        Report {
            summary: Mutex::new(Summary {
                source: source.display().to_string(),
                destination: destination.display().to_string(),
                dry_run,
                ..Summary::default()
            }),
            bar,
        }
    }

    /// Changes the sums.
    pub(crate) fn count(&self, change: impl FnOnce(&mut Summary)) {
        change(&mut lock(&self.summary));
    }

    /// Counts an object that is in the destination.
    pub(crate) fn imported(&self, kind: Kind, size: u64, is_link: bool, how: How) {
        self.count(|sums| {
            match kind {
                _ if is_link => sums.hard_links += 1,
                Kind::File => {
                    sums.files += 1;
                    sums.bytes += size;
                }
                Kind::Directory => sums.directories += 1,
                Kind::Symlink => sums.symlinks += 1,
                Kind::Fifo | Kind::CharacterDevice | Kind::BlockDevice | Kind::Socket => {
                    sums.special_files += 1;
                }
            }
            match how {
                How::Made => {}
                How::Earlier => sums.finished_earlier += 1,
                How::AlreadyThere => sums.already_there += 1,
            }
            if how != How::Made && kind == Kind::File && !is_link {
                self.bar.inc(size);
            }
        });
        if !self.bar.is_hidden() {
            let sums = lock(&self.summary);
            let objects = sums.files + sums.symlinks + sums.special_files + sums.hard_links;
            self.bar.set_message(format!("{objects} files"));
        }
    }

    /// Names an object that could not be imported.
    pub(crate) fn problem(&self, path: &Path, what: impl Into<String>) {
        let remark = remark(path, what.into());
        self.line(&format!("problem: {}: {}", remark.path, remark.what));
        self.count(|sums| sums.problems.push(remark));
    }

    /// Names an object that was left out or changed.
    pub(crate) fn note(&self, path: &Path, what: impl Into<String>) {
        let remark = remark(path, what.into());
        self.line(&format!("note: {}: {}", remark.path, remark.what));
        self.count(|sums| sums.notes.push(remark));
    }

    /// A line on standard error, above the bar.
    pub(crate) fn line(&self, text: &str) {
        self.bar.suspend(|| eprintln!("{text}"));
    }

    /// Shows that the source is being looked at.
    pub(crate) fn scanning(&self) {
        self.bar.set_message("looking at the source");
        self.bar.enable_steady_tick(Duration::from_millis(200));
    }

    /// Shows a bar for so many bytes.
    pub(crate) fn begin(&self, bytes: u64) {
        let style = ProgressStyle::with_template(
            "{wide_bar} {bytes}/{total_bytes} {binary_bytes_per_sec} {eta} left, {msg}",
        );
        self.bar
            .set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        self.bar.set_length(bytes);
        self.bar.set_position(0);
        self.bar.reset_eta();
    }

    /// Some bytes of a file were copied.
    pub(crate) fn progress(&self, bytes: u64) {
        self.bar.inc(bytes);
    }

    /// Shows what comes after the copying.
    pub(crate) fn phase(&self, what: &'static str) {
        self.bar.set_message(what);
    }

    /// How many problems there are so far.
    pub(crate) fn problems(&self) -> usize {
        lock(&self.summary).problems.len()
    }

    /// Takes the bar away and gives what was collected.
    pub(crate) fn end(&self) -> Summary {
        self.bar.finish_and_clear();
        lock(&self.summary).clone()
    }
}

fn remark(path: &Path, what: String) -> Remark {
    let path = path.display().to_string();
    Remark {
        // The root of the source has the empty path.
        path: if path.is_empty() {
            ".".to_owned()
        } else {
            path
        },
        what,
    }
}

impl Summary {
    /// For people.
    pub(crate) fn human(&self) -> String {
        let mut text = format!(
            "{} files ({} bytes), {} directories, {} symlinks, {} pipes and devices, {} hard links",
            self.files,
            self.bytes,
            self.directories,
            self.symlinks,
            self.special_files,
            self.hard_links
        );
        text.push_str(if self.dry_run {
            " to import"
        } else {
            " imported and verified"
        });
        for (number, what) in [
            (
                self.finished_earlier,
                "of these were finished by an earlier run",
            ),
            (self.already_there, "of these were there already"),
            (self.excluded, "excluded"),
            (self.removed, "removed from the source"),
            (self.notes.len() as u64, "notes, see above"),
            (self.problems.len() as u64, "PROBLEMS, see above"),
        ] {
            if number > 0 {
                text.push_str(&format!("\n{number} {what}"));
            }
        }
        text.push('\n');
        let (from, to) = (&self.source, &self.destination);
        text.push_str(&match (self.dry_run, self.complete) {
            (true, _) => "Nothing was changed.".to_owned(),
            (false, true) => {
                format!("Complete: {to} holds all of {from}, but for what was excluded or noted.")
            }
            (false, false) => format!("NOT COMPLETE: {to} does not hold all of {from} yet."),
        });
        text
    }
}
