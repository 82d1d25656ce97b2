//! How far a long command is.

use std::io::IsTerminal as _;

use indicatif::{ProgressBar, ProgressStyle};
use kmsfs::check::Counts;

/// A line on the terminal that shows how far it is.
pub(super) struct Progress(ProgressBar);

impl Progress {
    pub(super) fn start() -> Progress {
        if !std::io::stderr().is_terminal() {
            return Progress(ProgressBar::hidden());
        }
        let bar = ProgressBar::new_spinner();
        if let Ok(style) = ProgressStyle::with_template("{spinner} [{elapsed_precise}] {msg}") {
            bar.set_style(style);
        }
        Progress(bar)
    }

    pub(super) fn show(&self, counts: &Counts) {
        if self.0.is_hidden() {
            return;
        }
        let objects = counts.directories + counts.files + counts.symlinks + counts.others;
        self.0.set_message(format!(
            "{objects} objects, {} read, damage: {}",
            indicatif::HumanBytes(counts.bytes),
            counts.damage
        ));
        self.0.tick();
    }

    pub(super) fn end(&self) {
        self.0.finish_and_clear();
    }
}
