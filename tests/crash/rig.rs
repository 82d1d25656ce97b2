//! A volume on a lower file system that is cut off again and again.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use kms_tests::daemon::path_text;
use kms_tests::mount::Mount;
use kms_tests::wait;
use kms_tests::world::World;
use serde_json::Value;
use tempfile::TempDir;

use crate::check::{self, Found, Owed};
use crate::ledger::{Ledger, Op};
use crate::load::{self, Shared};
use crate::lower::Lower;
use crate::random::Random;
use crate::tree::{ROOT, Tree};

/// Workers of a load.
pub(crate) const WORKERS: u64 = 3;
/// What kmsfs logs as an error although nothing is wrong: entries of a directory that was never synced.
const EXPECTED: &str = "nothing in it was ever synced";

/// A line past the test runner's capture.
pub(crate) fn say(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// The line of a test that found nothing wrong; scripts/crash-table.sh makes a table of them.
pub(crate) fn report(
    what: &str,
    lower: &str,
    mode: Mode,
    points: u64,
    found: Found,
    start: Instant,
) {
    say(&format!(
        "crash points: {what} | {lower} | {} | {points} | {} | {} | {}",
        mode.name(),
        found.files,
        found.bytes >> 20,
        start.elapsed().as_secs(),
    ));
}

/// How content is encrypted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Mode {
    Xts,
    Gcm,
}

impl Mode {
    pub(crate) const ALL: [Mode; 2] = [Mode::Xts, Mode::Gcm];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Mode::Xts => "xts",
            Mode::Gcm => "gcm",
        }
    }

    /// How much content one lower page holds.
    pub(crate) fn unit(self) -> usize {
        match self {
            Mode::Xts => 4096,
            Mode::Gcm => 4064,
        }
    }
}

/// A folder for images: in memory, if there is such a place.
pub(crate) fn image_folder() -> TempDir {
    let memory = Path::new("/dev/shm");
    let mut builder = tempfile::Builder::new();
    builder.prefix("kms-crash-");
    if memory.is_dir() {
        builder.tempdir_in(memory)
    } else {
        builder.tempdir()
    }
    .expect("a folder for images")
}

/// Makes the volume `volume` on a lower file system.
pub(crate) fn make_volume(world: &World, lower: &Lower, mode: Mode) -> PathBuf {
    let volume = lower.point().join("volume");
    fs::create_dir(&volume).expect("make the lower directory");
    let mut arguments = vec!["fs", "init", path_text(&volume), "--key", "alias/crash"];
    if mode != Mode::Xts {
        arguments.extend(["--mode", mode.name()]);
    }
    world.kmsctl(&arguments).ok();
    volume
}

/// The folders and ledgers of a load.
pub(crate) struct Load {
    pub(crate) shared: Shared,
    pub(crate) ledgers: Vec<Ledger>,
    folders: Vec<String>,
    seed: u64,
}

impl Load {
    /// Makes a folder for each worker, durably, and forgets those of earlier loads.
    pub(crate) fn prepare(point: &Path, round: u64, seed: u64) -> Load {
        let folders: Vec<String> = (0..WORKERS).map(|n| format!("{round}-{n}")).collect();
        for folder in &folders {
            fs::create_dir(point.join(folder)).expect("make a worker's folder");
        }
        File::open(point)
            .and_then(|root| root.sync_all())
            .expect("sync the root");
        Load {
            shared: Shared::default(),
            ledgers: folders.iter().map(|_| Ledger::default()).collect(),
            folders,
            seed,
        }
    }

    /// Runs the workers, and `crash` beside them; ends when all have ended. Errors of workers that nobody
    /// expected are returned.
    pub(crate) fn run<T: Send>(&self, point: &Path, crash: impl FnOnce() -> T) -> (T, Vec<String>) {
        thread::scope(|scope| {
            let workers: Vec<_> = self
                .folders
                .iter()
                .zip(&self.ledgers)
                .zip(1..)
                .map(|((folder, ledger), number)| {
                    let (root, shared) = (point.join(folder), &self.shared);
                    let seed = Random::new(self.seed ^ number).next();
                    scope.spawn(move || load::run(&root, ledger, shared, seed))
                })
                .collect();
            // What an earlier load left is removed meanwhile, and may be cut off in that.
            let remover = scope.spawn(|| remove_old(point, &self.folders));
            let result = crash();
            let mut errors: Vec<String> = workers
                .into_iter()
                .filter_map(|worker| worker.join().unwrap().err())
                .collect();
            if let Err(error) = remover.join().unwrap()
                && !self.shared.cut.load(Ordering::Acquire)
            {
                errors.push(format!("removing an old folder: {error}"));
            }
            (result, errors)
        })
    }

    /// Waits until this many operations have returned, or a worker has stopped for an error.
    pub(crate) fn wait_for(&self, operations: u64) {
        let deadline = Instant::now() + wait::PATIENCE;
        while self.shared.returned.load(Ordering::Relaxed) < operations && Instant::now() < deadline
        {
            thread::sleep(Duration::from_millis(1));
        }
    }

    /// Syncs some of what the workers, who have ended, left behind.
    pub(crate) fn sync_some(&self, point: &Path, random: &mut Random) {
        for (folder, ledger) in self.folders.iter().zip(&self.ledgers) {
            let mut tree = Tree::default();
            let mut files = HashSet::new();
            let mut dirs = HashSet::from([ROOT]);
            for entry in ledger.up_to(ledger.reach().returned) {
                tree.apply(&entry.op);
                match entry.op {
                    Op::Create { object, .. } => drop(files.insert(object)),
                    Op::MakeDir { object, .. } => drop(dirs.insert(object)),
                    _ => {}
                }
            }
            for (path, object) in tree.entries {
                if !random.percent(20) {
                    continue;
                }
                let op = if files.contains(&object) {
                    let data_only = random.percent(50);
                    Op::SyncFile { object, data_only }
                } else if dirs.contains(&object) {
                    Op::SyncDir { path: path.clone() }
                } else {
                    continue;
                };
                let file = File::open(point.join(folder).join(path)).expect("open what was made");
                let data_only = matches!(
                    op,
                    Op::SyncFile {
                        data_only: true,
                        ..
                    }
                );
                ledger.begin(op);
                let synced = if data_only {
                    file.sync_data()
                } else {
                    file.sync_all()
                };
                synced.expect("sync what was made");
                ledger.returned(0);
            }
        }
    }

    /// What is owed at this moment at the earliest.
    pub(crate) fn owed(&self) -> Vec<Owed<'_>> {
        self.folders
            .iter()
            .zip(&self.ledgers)
            .map(|(folder, ledger)| Owed {
                folder: folder.clone(),
                ledger,
                reach: ledger.reach(),
            })
            .collect()
    }
}

/// The crash has come: what had begun by now may be there.
pub(crate) fn close(owed: &mut [Owed]) {
    for owed in owed {
        owed.reach.begun = owed.ledger.reach().begun;
    }
}

fn remove_old(point: &Path, keep: &[String]) -> std::io::Result<()> {
    for entry in fs::read_dir(point)? {
        let name = entry?.file_name();
        if !keep.iter().any(|kept| name == kept.as_str()) {
            fs::remove_dir_all(point.join(name))?;
        }
    }
    Ok(())
}

/// Has `kmsctl fs check` look at a volume that is not mounted. The only damage may be a directory that was never
/// synced and lost the names in it; with `repair` that is repaired, and a second check is clean.
fn fs_check(world: &World, volume: &Path, repair: bool) -> Vec<String> {
    let check = |repair: &[&str], allowed: &[i32]| {
        let arguments = ["--json", "fs", "check", path_text(volume), "--content"];
        let said = world.kmsctl(&[&arguments[..], repair].concat());
        let mut wrong = Vec::new();
        if !allowed.contains(&said.code) {
            wrong.push(format!("exit code {}: {}", said.code, said.stderr));
        }
        let report: Value = serde_json::from_str(&said.stdout).unwrap_or_default();
        let findings = report["findings"].as_array().cloned().unwrap_or_default();
        let text = |finding: &Value, member| finding[member].as_str().unwrap_or("").to_owned();
        let headless: HashSet<String> = findings
            .iter()
            .filter(|finding| text(finding, "code") == "directory-header-missing")
            .map(|finding| text(finding, "lower_path"))
            .collect();
        let damage = findings.iter().filter(|finding| {
            let path = text(finding, "lower_path");
            let inside = path
                .rsplit_once('/')
                .is_some_and(|(up, _)| headless.contains(up));
            let nameless = inside && text(finding, "code") == "name-unreadable";
            text(finding, "severity") == "damage" && !headless.contains(&path) && !nameless
        });
        wrong.extend(damage.map(Value::to_string));
        wrong
            .into_iter()
            .map(|wrong| format!("kmsctl fs check {}: {wrong}", repair.concat()))
            .collect::<Vec<_>>()
    };
    if repair {
        [check(&["--repair"], &[0, 13]), check(&[], &[0])].concat()
    } else {
        check(&[], &[0, 14])
    }
}

/// Checks a volume after a crash, mounts it and checks everything.
pub(crate) fn check(
    world: &World,
    volume: &Path,
    point: &Path,
    owed: &[Owed],
    mode: Mode,
    repair: bool,
) -> (Mount, Result<Found, Vec<String>>) {
    let mut damage = fs_check(world, volume, repair);
    let log = point.with_extension("log");
    let _ = fs::remove_file(&log);
    let mount = Mount::start(volume, point, &world.daemon.socket(), &[]);
    let mut result = check::mount(point, owed, mode);
    damage.extend(
        mount
            .log()
            .lines()
            .filter(|line| line.contains("ERROR") && !line.contains(EXPECTED))
            .map(|line| format!("kmsfs logged: {line}")),
    );
    if !damage.is_empty() {
        let mut wrong = result.err().unwrap_or_default();
        wrong.extend(damage);
        result = Err(wrong);
    }
    (mount, result)
}
