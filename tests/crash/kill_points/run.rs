//! One run of a script on a mount that is killed somewhere, and what must be left.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use kms_tests::daemon::path_text;
use kms_tests::mount::{self, Mount};
use kms_tests::process::Process;
use kms_tests::wait;
use kms_tests::world::World;

use super::script::{self, Script, Stage};
use super::seen::{self, Tree};
use super::sites::Sites;
use crate::check::Found;
use crate::rig;

const OPTIONS: [&str; 3] = ["allow_other,access=mounter", "suid", "dev"];
/// Logged after a crash although nothing is wrong.
const EXPECTED: &str = "nothing in it was ever synced";

/// Where kmsfs dies, or which call fails.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Plan {
    pub(super) kill_before: Option<u64>,
    pub(super) kill_after: Option<u64>,
    /// This call answers ENOSPC.
    pub(super) fail: Option<u64>,
    /// This fsync answers EIO, counted by themselves.
    pub(super) fail_sync: Option<u64>,
}

impl Plan {
    pub(super) fn kill(&self) -> Option<u64> {
        self.kill_before.or(self.kill_after)
    }

    fn fails(&self) -> bool {
        self.fail.or(self.fail_sync).is_some()
    }
}

/// A call that changes the lower tree, or an fsync.
#[derive(Clone, Debug)]
pub(super) struct Call {
    /// From 1; 0 for an fsync.
    pub(super) number: u64,
    pub(super) site: String,
}

/// What a run came to.
pub(super) struct Run {
    pub(super) calls: Vec<Call>,
    /// Where it was killed.
    pub(super) killed: Option<String>,
}

/// Says which run it was that failed.
struct Which<'a>(&'static str, &'a Plan);

impl Drop for Which<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            rig::say(&format!("kill points: in script {}: {:?}", self.0, self.1));
        }
    }
}

/// Runs one script.
pub(super) struct Runner<'a> {
    world: &'a World,
    sites: &'a Sites,
    script: &'a Script,
    /// The tree before the first step and after each.
    trees: Vec<Tree>,
    next: AtomicUsize,
    /// What was compared after crashes.
    found: Mutex<Found>,
}

impl<'a> Runner<'a> {
    pub(super) fn new(world: &'a World, sites: &'a Sites, script: &'a Script) -> Runner<'a> {
        // What each step does, done on a plain directory.
        let plain = world.path(format!("{}.reference", script.name));
        fs::create_dir(&plain).expect("a folder");
        open_to_all(&plain);
        (script.prepare)(&plain);
        let stage = Stage::plain(&plain);
        let mut trees = vec![seen::tree(&plain)];
        for (name, step) in &script.steps {
            step(&stage).unwrap_or_else(|error| panic!("{name}, without kmsfs: {error}"));
            trees.push(seen::tree(&plain));
        }
        Runner {
            world,
            sites,
            script,
            trees,
            next: AtomicUsize::new(0),
            found: Mutex::default(),
        }
    }

    /// The calls of a run that nothing disturbs.
    pub(super) fn count(&self) -> Vec<Call> {
        self.run(0, &Plan::default()).calls
    }

    pub(super) fn found(&self) -> Found {
        *self.found.lock().unwrap()
    }

    /// A run, which must leave what it owes.
    pub(super) fn run(&self, worker: usize, plan: &Plan) -> Run {
        let _which = Which(self.script.name, plan);
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let name = format!("{}{number}", self.script.name);
        let folder = self.world.path(&name);
        fs::create_dir(&folder).expect("a folder");
        open_to_all(&folder);
        let (lower, point) = (folder.join("lower"), folder.join("point"));
        let copied = Command::new("cp")
            .arg("-a")
            .arg(&self.script.lowers[worker])
            .arg(&lower)
            .status();
        assert!(copied.expect("start cp").success());
        fs::create_dir(&point).expect("a mount point");
        open_to_all(&point);
        let calls = folder.join("calls");

        let (done, killed) = self.play(plan, &lower, &point, &calls);
        let calls = read_calls(&calls);
        self.check(plan, &lower, &folder, done);
        fs::remove_dir_all(&folder).expect("remove the folder");
        // Other threads may have made calls since.
        let at = calls
            .iter()
            .find(|call| killed && Some(call.number) == plan.kill());
        Run {
            killed: at.map(|call| call.site.clone()),
            calls,
        }
    }

    /// How many steps were done before the end, and whether that was a kill.
    fn play(&self, plan: &Plan, lower: &Path, point: &Path, calls: &Path) -> (usize, bool) {
        let mut command = match self.script.user {
            None => Command::new(&self.sites.program),
            Some(user) => {
                let mut command = script::command_as(user);
                command.arg(&self.sites.program);
                command
            }
        };
        command.args(["mount", "--foreground", "--socket"]);
        command.arg(self.world.daemon.socket());
        if self.script.user.is_none() {
            for option in OPTIONS {
                command.args(["-o", option]);
            }
        }
        command
            .arg(lower)
            .arg(point)
            .env("KMSFS_FAILPOINT_LOG", calls);
        for (variable, number) in [
            ("KMSFS_CRASH_BEFORE", plan.kill_before),
            ("KMSFS_CRASH_AFTER", plan.kill_after),
        ] {
            if let Some(number) = number {
                command.env(variable, number.to_string());
            }
        }
        if let Some(number) = plan.fail {
            command.env("KMSFS_FAIL_AT", format!("{number}:{}", libc::ENOSPC));
        }
        if let Some(number) = plan.fail_sync {
            command.env("KMSFS_FAIL_SYNC", format!("{number}:{}", libc::EIO));
        }
        let log = point.with_extension("log");
        let mut process = Process::start("kmsfs-failpoints", &mut command, &log);
        wait::until_true("the mount or its end", wait::PATIENCE, || {
            process.ended().is_some() || mount::is_mounted(point)
        });
        let mut done = 0;
        let mut failed = None;
        if process.ended().is_none() {
            let stage = Stage::mounted(self.world, point);
            for (name, step) in &self.script.steps {
                if let Err(error) = step(&stage) {
                    failed = Some(format!("{name}: {error}"));
                    break;
                }
                done += 1;
            }
            drop(stage);
        }
        let _ = Command::new("fusermount3")
            .args(["-u", "-z", "-q"])
            .arg(point)
            .status();
        let status = process.wait(wait::PATIENCE);
        use std::os::unix::process::ExitStatusExt;
        let killed = status.signal() == Some(libc::SIGKILL);
        // A call that comes from a thread of its own may be missing once: then the number of a kill is never reached.
        let whole = done == self.script.steps.len() && status.success();
        let right = if killed {
            plan.kill().is_some()
        } else {
            whole || (plan.fails() && status.code().is_some())
        };
        assert!(right, "{plan:?}: {status}, {failed:?}\n{}", process.log());
        wait::until_true("the mount being gone", wait::PATIENCE, || {
            !mount::is_mounted(point)
        });
        (done, killed)
    }

    /// Mounts what is left with the usual program.
    fn check(&self, plan: &Plan, lower: &Path, folder: &Path, done: usize) {
        let point: PathBuf = folder.join("again");
        let left = Mount::start(lower, &point, &self.world.daemon.socket(), &OPTIONS);
        let found = seen::tree(&point);
        let log = left.log();
        let errors: Vec<_> = log
            .lines()
            .filter(|line| line.contains("ERROR") && !line.contains(EXPECTED))
            .collect();
        assert!(errors.is_empty(), "{plan:?}: {errors:#?}");
        let after = (done + 1).min(self.trees.len() - 1);
        let step = self
            .script
            .steps
            .get(done)
            .map_or("unmount", |(name, _)| name);
        if let Err(what) = seen::between(&self.trees[done], &self.trees[after], &found) {
            panic!("{plan:?}, during {step:?}: {what}\n{log}");
        }
        self.found.lock().unwrap().add(Found {
            names: found.len() as u64,
            files: found.values().filter(|seen| seen.is_file()).count() as u64,
            bytes: found.values().map(seen::Seen::length).sum(),
        });
        fs::write(point.join("and it goes on"), "working").expect("write after the crash");
        left.unmount();
        let checked = self.world.kmsctl(&["fs", "check", path_text(lower)]);
        assert_eq!(
            checked.code, 0,
            "{plan:?}, during {step:?}: kmsctl fs check:\n{}{}",
            checked.stdout, checked.stderr
        );
    }
}

/// Other users come to the mount through this folder.
pub(super) fn open_to_all(folder: &Path) {
    use std::os::unix::fs::PermissionsExt;
    let all = fs::Permissions::from_mode(0o777);
    fs::set_permissions(folder, all).expect("open the folder");
}

fn read_calls(path: &Path) -> Vec<Call> {
    let text = fs::read_to_string(path).unwrap_or_default();
    text.lines()
        .filter_map(|line| {
            let (number, site) = line.split_once(' ')?;
            Some(Call {
                number: number.parse().ok()?,
                site: site.to_owned(),
            })
        })
        .collect()
}
