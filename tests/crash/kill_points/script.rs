//! The scripts: what is done on the mount, step by step.

mod attributes;
mod content;
mod names;
mod recovery;

use std::cell::RefCell;
use std::collections::HashMap;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use kms_tests::daemon::path_text;
use kms_tests::world::World;

pub(super) use self::recovery::recovery;
use super::WORKERS;
use crate::rig::Mode;

/// Who mounts in one of the scripts: `daemon`, whose group administers kmsd here.
const USER: User = (1, 1);

/// Where a script is played.
pub(super) struct Stage<'a> {
    root: PathBuf,
    /// None on a plain directory.
    world: Option<&'a World>,
    open: RefCell<HashMap<&'static str, File>>,
}

impl<'a> Stage<'a> {
    pub(super) fn plain(root: &Path) -> Stage<'a> {
        Stage {
            root: root.to_owned(),
            world: None,
            open: RefCell::default(),
        }
    }

    pub(super) fn mounted(world: &'a World, root: &Path) -> Stage<'a> {
        Stage {
            root: root.to_owned(),
            world: Some(world),
            open: RefCell::default(),
        }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    fn keep(&self, name: &'static str, file: File) {
        self.open.borrow_mut().insert(name, file);
    }

    fn with<T>(&self, name: &str, work: impl FnOnce(&File) -> T) -> T {
        work(
            self.open
                .borrow()
                .get(name)
                .expect("opened by an earlier step"),
        )
    }
}

type Step = Box<dyn Fn(&Stage) -> io::Result<()> + Send + Sync>;

/// Steps, and the lower tree that they begin with.
pub(super) struct Script {
    pub(super) name: &'static str,
    pub(super) mode: Mode,
    /// Whose mount it is; None for root.
    pub(super) user: Option<User>,
    /// One for each worker: a volume has one mount at a time.
    pub(super) lowers: Vec<PathBuf>,
    /// Makes the same tree without kmsfs.
    pub(super) prepare: fn(&Path),
    pub(super) steps: Vec<(&'static str, Step)>,
}

impl Script {
    fn new(name: &'static str, lowers: Vec<PathBuf>, steps: Steps) -> Script {
        Script {
            name,
            mode: Mode::Xts,
            user: None,
            lowers,
            prepare: |_| {},
            steps: steps.0,
        }
    }
}

fn bytes(seed: u8, length: usize) -> Vec<u8> {
    (0..length)
        .map(|at| (at as u8).wrapping_mul(31).wrapping_add(seed) | 1)
        .collect()
}

/// A user and group.
pub(super) type User = (u32, u32);
const NOBODY: User = (65_534, 65_534);

/// Runs a program as another user.
pub(super) fn command_as(user: User) -> Command {
    let mut command = Command::new("setpriv");
    command.args([
        &format!("--reuid={}", user.0),
        &format!("--regid={}", user.1),
        "--clear-groups",
    ]);
    command
}

/// Runs a Perl program as another user.
fn as_user(user: User, program: &str, path: &Path) -> io::Result<()> {
    let status = command_as(user)
        .args(["perl", "-e", program])
        .arg(path)
        .status()?;
    if status.success() {
        Ok(())
    } else {
        Err(io::Error::other(format!("{status}")))
    }
}

fn long(letter: &str) -> String {
    letter.repeat(250)
}

struct Steps(Vec<(&'static str, Step)>);

impl Steps {
    fn add(
        &mut self,
        name: &'static str,
        step: impl Fn(&Stage) -> io::Result<()> + Send + Sync + 'static,
    ) {
        self.0.push((name, Box::new(step)));
    }
}

fn volumes(world: &World, name: &str, mode: Mode) -> Vec<PathBuf> {
    (0..WORKERS)
        .map(|worker| {
            let lower = world.path(format!("kill-{name}{worker}.lower"));
            fs::create_dir(&lower).expect("make the lower directory");
            let path = path_text(&lower);
            let init = ["fs", "init", path, "--key", "alias/kill"];
            world
                .kmsctl(&[&init[..], &["--mode", mode.name()]].concat())
                .ok();
            lower
        })
        .collect()
}

fn kmsctl(stage: &Stage, name: &str, arguments: &[&str]) -> io::Result<()> {
    let Some(world) = stage.world else {
        return Ok(());
    };
    let path = stage.at(name);
    let (command, rest) = arguments.split_at(1);
    let done = world.kmsctl(&[&["fs"], command, &[path_text(&path)], rest].concat());
    if done.code == 0 {
        Ok(())
    } else {
        Err(io::Error::other(done.stderr))
    }
}

/// Everything that is done in a healthy tree.
pub(super) fn everything(world: &World) -> Script {
    let mut steps = Steps(Vec::new());
    content::content(&mut steps);
    names::names(&mut steps);
    attributes::attributes(&mut steps);
    attributes::others(&mut steps);
    steps.add("protect", |stage| {
        kmsctl(stage, "empty", &["protect", "--key", "alias/kill"])
    });
    steps.add("create what crosses", |stage| {
        fs::write(stage.at("crosses"), "from one policy into another")
    });
    steps.add("rename into another policy", |stage| {
        fs::rename(stage.at("crosses"), stage.at("empty/crosses"))
    });
    Script::new("everything", volumes(world, "everything", Mode::Xts), steps)
}

/// Content in mode gcm.
pub(super) fn authenticated(world: &World) -> Script {
    let mut steps = Steps(Vec::new());
    content::content(&mut steps);
    steps.add("fsync all", |stage| {
        ["small", "large", "odd", "far", "grown"]
            .iter()
            .try_for_each(|name| stage.with(name, File::sync_all))
    });
    Script {
        mode: Mode::Gcm,
        ..Script::new("gcm", volumes(world, "gcm", Mode::Gcm), steps)
    }
}

/// A freeze, and a thaw.
pub(super) fn frozen(world: &World) -> Script {
    let mut steps = Steps(Vec::new());
    steps.add("mkdir", |stage| fs::create_dir(stage.at("dir")));
    steps.add("fsync of the directory", |stage| {
        File::open(stage.at("dir"))?.sync_all()
    });
    steps.add("freeze", |stage| kmsctl(stage, "", &["freeze"]));
    steps.add("thaw", |stage| kmsctl(stage, "", &["thaw"]));
    steps.add("write", |stage| fs::write(stage.at("file"), "content"));
    Script::new("freeze", volumes(world, "freeze", Mode::Xts), steps)
}

/// New keys, names and contents for everything.
pub(super) fn new_keys(world: &World) -> Script {
    let mut steps = Steps(Vec::new());
    steps.add("a directory", |stage| fs::create_dir(stage.at("dir")));
    steps.add("one with a long name", |stage| {
        fs::create_dir(stage.at(&format!("dir/{}", long("d"))))
    });
    steps.add("a small file", |stage| {
        fs::write(stage.at("dir/small"), bytes(1, 100))
    });
    steps.add("a file", |stage| {
        fs::write(stage.at(&long("f")), bytes(2, 20_000))
    });
    for name in ["dir", "dir/small"] {
        steps.add("an attribute", move |stage| {
            let flags = rustix::fs::XattrFlags::empty();
            let set = rustix::fs::setxattr(stage.at(name), "user.test", b"value", flags);
            Ok(set?)
        });
    }
    for length in [20, 2_000] {
        steps.add("a symlink", move |stage| {
            let name = format!("dir/link{length}");
            std::os::unix::fs::symlink("t".repeat(length), stage.at(&name))
        });
    }
    steps.add("a directory of its own", |stage| {
        fs::create_dir(stage.at("dir/own"))
    });
    steps.add("protect", |stage| {
        kmsctl(stage, "dir/own", &["protect", "--key", "alias/kill"])
    });
    steps.add("reencrypt", |stage| kmsctl(stage, "", &["reencrypt"]));
    Script::new("keys", volumes(world, "keys", Mode::Xts), steps)
}

/// A mount of a user who is not root.
pub(super) fn unprivileged(world: &World) -> Script {
    let lowers = volumes(world, "user", Mode::Xts);
    for lower in &lowers {
        let all = fs::read_dir(lower).expect("the lower root");
        let all = all.map(|entry| entry.expect("an entry").path());
        for path in all.chain([lower.clone()]) {
            std::os::unix::fs::lchown(path, Some(USER.0), Some(USER.1)).expect("chown");
        }
    }
    let mut steps = Steps(Vec::new());
    let mut add = |name, program: &'static str, object: &'static str| {
        steps.add(name, move |stage| as_user(USER, program, &stage.at(object)));
    };
    add(
        "create",
        "open(F, '>', $ARGV[0]) or die $!; print F 'x'; close(F) or die $!",
        "file",
    );
    add("mkdir", "mkdir($ARGV[0], 0300) or die $!", "dir");
    add(
        "mkdir below",
        "mkdir($ARGV[0], 0500) or die $!",
        "dir/below",
    );
    add("chmod", "chmod(0, $ARGV[0]) or die $!", "file");
    add("chmod again", "chmod(0600, $ARGV[0]) or die $!", "file");
    add("utime", "utime(1, 2, $ARGV[0]) or die $!", "dir");
    add("rename", "rename($ARGV[0], $ARGV[0].'2') or die $!", "file");
    Script {
        user: Some(USER),
        ..Script::new("user", lowers, steps)
    }
}
