//! Users, and what they do in a mount: each has a process that does one thing for each line it gets.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};

use kms_tests::mount::Mount;
use kms_tests::world::World;

pub(crate) const ALICE: u32 = 3001;
pub(crate) const BOB: u32 = 3002;

/// A process of a user. Dropping it ends it.
pub(crate) struct Person {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Person {
    pub(crate) fn start(uid: u32) -> Person {
        // Not by its path, which the user may not be allowed to walk.
        let mut child = as_user(uid, "/usr/bin/python3")
            .args(["-c", include_str!("client.py")])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        Person {
            input: child.stdin.take().unwrap(),
            output: BufReader::new(child.stdout.take().unwrap()),
            child,
        }
    }

    /// What became of it: `ok`, perhaps with what was read, or the name of the error.
    #[track_caller]
    pub(crate) fn does(&mut self, what: &[&str]) -> String {
        self.begins(what);
        self.ended()
    }

    /// Begins with something; [`Person::ended`] waits for its end.
    pub(crate) fn begins(&mut self, what: &[&str]) {
        writeln!(self.input, "{}", what.join("\t")).unwrap();
    }

    /// What became of what it began.
    #[track_caller]
    pub(crate) fn ended(&mut self) -> String {
        let mut said = String::new();
        self.output.read_line(&mut said).unwrap();
        assert!(!said.is_empty(), "the process ended");
        said.trim_end().to_owned()
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// How it ended, once it has.
    pub(crate) fn end(&mut self) -> ExitStatus {
        self.child.wait().unwrap()
    }
}

impl Drop for Person {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A program, run as a user.
pub(crate) fn as_user(uid: u32, program: &str) -> Command {
    let mut command = Command::new("setpriv");
    let uid = uid.to_string();
    command
        .args(["--reuid", &uid, "--regid", &uid, "--clear-groups", "--"])
        .arg(program);
    command
}

/// A mount that all users may use, with a directory `inside` under a key of its own and one outside of it.
pub(crate) fn shared(world: &World, mode: &str, options: &[&str]) -> Mount {
    shared_over(world, &world.path(format!("{mode}.lower")), mode, options)
}

/// The same with the lower directory at a chosen place.
pub(crate) fn shared_over(world: &World, lower: &Path, mode: &str, options: &[&str]) -> Mount {
    // Made for root alone.
    let everybody = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(world.path(""), everybody).unwrap();
    std::fs::create_dir_all(lower).unwrap();
    let path = lower.to_str().unwrap();
    world
        .kmsctl(&["fs", "init", path, "--key", "alias/fs", "--mode", mode])
        .ok();
    let mut all = vec!["allow_other,access=mounter"];
    all.extend(options);
    let mount = world.mount_with(lower, &all);
    for name in ["inside", "outside"] {
        open_directory(&mount.path(name));
    }
    let inside = mount.path("inside");
    let inside = inside.to_str().unwrap();
    world
        .kmsctl(&[
            "fs",
            "protect",
            inside,
            "--key",
            "alias/own",
            "--mode",
            mode,
        ])
        .ok();
    mount
}

/// A world with the keys that [`shared`] needs.
pub(crate) fn world() -> World {
    let world = World::start();
    world.key("alias/fs");
    world.key("alias/own");
    world
}

pub(crate) fn open_directory(path: &Path) {
    std::fs::create_dir(path).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o777)).unwrap();
}

/// A file that everybody may read and write.
pub(crate) fn open_file(path: &Path, content: &str) {
    // More than a page, so that not all of it is in the first.
    let mut bytes = content.as_bytes().to_vec();
    bytes.resize(20_000, b'.');
    std::fs::write(path, bytes).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o666)).unwrap();
}

pub(crate) fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}
