//! A log with several checkpoints, and what `kmsctl audit verify` says of it.

use std::fs;
use std::path::{Path, PathBuf};

use kms_tests::cli::{self, Said};
use kms_tests::daemon::path_text;
use kms_tests::tree;
use kms_tests::world::World;
use serde_json::{Value, json};

/// The exit code for a log that was tampered with.
pub(crate) const TAMPERED: i32 = 18;

/// A stopped kmsd with three checkpoints, one of each run, and a copy of its keys from elsewhere.
pub(crate) struct Written {
    pub(crate) world: World,
    pub(crate) keys: PathBuf,
}

impl Written {
    /// Small files, so that there are several.
    pub(crate) fn new() -> Self {
        let mut world = World::enrolled();
        let copy = world.path("witness");
        let config = fs::read_to_string(world.daemon.config()).unwrap();
        let audit = format!("\n[audit]\ncheckpoint_copy = {copy:?}\n");
        fs::write(world.daemon.config(), config + &audit).unwrap();
        for run in 0..3 {
            world.daemon.start();
            world.key(&format!("alias/{run}"));
            for _ in 0..4 {
                world.call("ListKeys", &json!({}));
            }
            world.daemon.stop();
        }
        let keys = world.path("keys.json");
        fs::copy(world.daemon.store().join("audit/keys.json"), &keys).unwrap();
        Self { world, keys }
    }

    pub(crate) fn directory(&self) -> PathBuf {
        self.world.daemon.store().join("audit")
    }

    /// A copy of the log to damage.
    pub(crate) fn copy(&self, name: &str) -> PathBuf {
        let copy = self.world.path(name);
        tree::copy(&self.directory(), &copy);
        copy
    }

    pub(crate) fn witness(&self) -> PathBuf {
        self.world.path("witness")
    }

    pub(crate) fn verify(&self, directory: &Path, more: &[&str]) -> Said {
        let mut arguments = vec!["--json", "audit", "verify"];
        arguments.extend(["--directory", path_text(directory)]);
        arguments.extend(["--keys", path_text(&self.keys)]);
        arguments.extend(more);
        let socket = self.world.daemon.socket();
        cli::run("kmsctl", &arguments, Some(&socket))
    }

    /// What is said of a sound log.
    #[track_caller]
    pub(crate) fn sound(&self, directory: &Path, more: &[&str]) -> Value {
        let said = self.verify(directory, more).ok().json();
        assert_eq!(said["sound"], true, "{said:#}");
        said
    }

    /// The findings in a damaged one, the first wrong place first.
    #[track_caller]
    pub(crate) fn findings(&self, directory: &Path, more: &[&str]) -> Vec<Value> {
        let said = self.verify(directory, more);
        assert_eq!(said.code, TAMPERED, "{}{}", said.stdout, said.stderr);
        said.json()["findings"].as_array().unwrap().clone()
    }
}

/// The only file of a log.
pub(crate) fn file(directory: &Path) -> PathBuf {
    directory.join("log-000000000000.jsonl")
}

pub(crate) fn lines(directory: &Path) -> Vec<String> {
    let text = fs::read_to_string(file(directory)).unwrap();
    text.lines().map(str::to_owned).collect()
}

pub(crate) fn write(directory: &Path, lines: &[String]) {
    fs::write(file(directory), lines.join("\n") + "\n").unwrap();
}

/// The sizes of the checkpoints.
pub(crate) fn sizes(directory: &Path) -> Vec<usize> {
    notes(directory)
        .iter()
        .map(|note| note.lines().nth(1).unwrap().parse().unwrap())
        .collect()
}

/// The checkpoints as they stand in their file.
pub(crate) fn notes(directory: &Path) -> Vec<String> {
    let text = fs::read_to_string(directory.join("checkpoints")).unwrap();
    let mut notes = Vec::new();
    let mut note = String::new();
    for line in text.split_inclusive('\n') {
        if !line.starts_with('\u{2014}') && note.lines().any(|line| line.starts_with('\u{2014}')) {
            notes.push(std::mem::take(&mut note));
        }
        note.push_str(line);
    }
    notes.push(note);
    notes
}

/// The id of a line's event.
pub(crate) fn event(line: &str) -> String {
    let line: Value = serde_json::from_str(line).unwrap();
    line["record"]["eventId"].as_str().unwrap().to_owned()
}
