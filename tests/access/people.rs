//! Processes of other users, and a kmsd that they can reach.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use kms_tests::world::World;

/// A user that this host has no name for: kmsd knows it as `uid-N`.
#[derive(Clone, Copy)]
pub(crate) struct Person(pub(crate) u32);

pub(crate) const ALICE: Person = Person(3001);
pub(crate) const BOB: Person = Person(3002);

/// What a program of a person said.
#[derive(Debug)]
pub(crate) struct Said {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Said {
    #[track_caller]
    pub(crate) fn ok(self) -> Self {
        assert!(
            self.code == 0,
            "exit code {}: {}{}",
            self.code,
            self.stdout,
            self.stderr
        );
        self
    }

    /// Exit code 4, access denied, with this text.
    #[track_caller]
    pub(crate) fn denied(self, text: &str) -> Self {
        let as_expected = self.code == 4 && self.stderr.contains(text);
        assert!(
            as_expected,
            "expected a denial that says {text:?}: {self:?}"
        );
        self
    }
}

/// A kmsd whose socket every user may open, as an administrator has it who lets policies decide.
#[track_caller]
pub(crate) fn open_world() -> World {
    open_world_with("")
}

/// The same with more configuration of `[server]`.
#[track_caller]
pub(crate) fn open_world_with(server: &str) -> World {
    let mut world = World::enrolled();
    let config = world.daemon.config();
    let text = fs::read_to_string(&config).expect("the configuration");
    let text = text.replacen(
        "[server]\n",
        &format!("[server]\nsocket_mode = \"0666\"\n{server}\n"),
        1,
    );
    fs::write(&config, text).expect("write the configuration");
    fs::set_permissions(world.path(""), fs::Permissions::from_mode(0o711))
        .expect("open the folder");
    // Where the tests are built need not be where everybody can look.
    fs::copy(kms_tests::programs::path("kmsctl"), program(&world)).expect("copy kmsctl");
    world.daemon.start();
    world
}

fn program(world: &World) -> PathBuf {
    world.path("kmsctl")
}

impl Person {
    /// The principal that policies name.
    pub(crate) fn arn(self) -> String {
        format!("arn:aws:iam::000000000000:user/uid-{}", self.0)
    }

    /// The user's name for kmsd.
    pub(crate) fn name(self) -> String {
        format!("uid-{}", self.0)
    }

    /// Runs kmsctl as this user.
    pub(crate) fn kmsctl(self, world: &World, arguments: &[&str]) -> Said {
        let output = Command::new(program(world))
            .args(arguments)
            .env("KMSD_SOCKET", world.daemon.socket())
            .current_dir("/")
            .stdin(Stdio::null())
            .uid(self.0)
            .gid(self.0)
            .output()
            .expect("run kmsctl");
        Said {
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

/// A file that everybody can read.
pub(crate) fn readable(world: &World, name: &str, bytes: impl AsRef<[u8]>) -> String {
    let path = world.path(name);
    fs::write(&path, bytes).expect("write a file");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).expect("open a file");
    path.to_str().expect("test paths are UTF-8").to_owned()
}

/// Something encrypted under a key, in a file that everybody can read.
pub(crate) fn secret(world: &World, alias: &str, text: &str) -> String {
    let plain = readable(world, "plain", text);
    let sealed = world.path("sealed");
    let path = sealed.to_str().expect("test paths are UTF-8").to_owned();
    world
        .kmsctl(&["encrypt", "--key", alias, "--in", &plain, "--out", &path])
        .ok();
    fs::set_permissions(&sealed, fs::Permissions::from_mode(0o644)).expect("open a file");
    path
}
