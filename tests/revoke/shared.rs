//! Users of this host, a kmsd that knows kmsfs as a service, and a shared mount.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use kms_tests::mount::Mount;
use kms_tests::wait;
use kms_tests::world::World;

/// As whom kmsfs runs: a user that this host has no name for.
pub(crate) const SERVICE: u32 = 3100;
pub(crate) const ALICE: Person = Person(3001);
pub(crate) const BOB: Person = Person(3002);
pub(crate) const CAROL: Person = Person(3003);

/// A user that this host has no name for: kmsd knows it as `uid-N`.
#[derive(Clone, Copy)]
pub(crate) struct Person(pub(crate) u32);

/// What a command of a person came to.
#[derive(Debug)]
pub(crate) struct Said {
    pub(crate) ok: bool,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Said {
    /// It worked, and said this.
    #[track_caller]
    pub(crate) fn says(self, text: &str) {
        assert!(
            self.ok && self.stdout == text,
            "expected {text:?}: {self:?}"
        );
    }

    #[track_caller]
    pub(crate) fn works(self) {
        assert!(self.ok, "{self:?}");
    }

    /// It failed, and said why: the text of an errno.
    #[track_caller]
    pub(crate) fn fails(self, text: &str) {
        assert!(
            !self.ok && self.stderr.contains(text),
            "expected a failure with {text:?}: {self:?}"
        );
    }
}

impl Person {
    /// A command of this user that is not started yet.
    pub(crate) fn command(self, line: &str) -> Command {
        let mut command = Command::new("sh");
        command
            .args(["-c", line])
            .env("LC_ALL", "C")
            .current_dir("/")
            .stdin(Stdio::null())
            .uid(self.0)
            .gid(self.0);
        command
    }

    /// Runs a line of shell as this user.
    pub(crate) fn sh(self, line: &str) -> Said {
        let output = self.command(line).output().expect("run a shell");
        Said {
            ok: output.status.success(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// Waits until a line of shell works: what gives more is not waited for by kmsd.
    #[track_caller]
    pub(crate) fn soon(self, line: &str) {
        wait::until_true(line, wait::PATIENCE, || self.sh(line).ok);
    }

    /// The grantee, for kmsctl.
    pub(crate) fn grantee(self) -> String {
        format!("user:uid-{}", self.0)
    }
}

/// A kmsd that takes [`SERVICE`] for a service, and a folder that everybody may pass.
#[track_caller]
pub(crate) fn shared_world() -> World {
    shared_world_with("")
}

/// The same with more configuration.
#[track_caller]
pub(crate) fn shared_world_with(more: &str) -> World {
    let mut world = World::enrolled();
    let config = world.daemon.config();
    let text = fs::read_to_string(&config).expect("the configuration");
    let service =
        format!("[server]\nservice_uids = [{{ user = {SERVICE}, service = \"kmsfs\" }}]\n");
    let text = text.replacen("[server]\n", &service, 1) + more;
    fs::write(&config, text).expect("write the configuration");
    fs::set_permissions(world.path(""), fs::Permissions::from_mode(0o711))
        .expect("open the folder");
    world.daemon.start();
    world
}

/// Mounts a volume under the key `alias/top` for everybody, with a root that everybody may write to.
#[track_caller]
pub(crate) fn shared_mount(world: &World, more: &str) -> Mount {
    world.key("alias/top");
    let lower = world.volume("files", "alias/top");
    let mount = mount_again(world, &lower, more);
    fs::set_permissions(&mount.point, fs::Permissions::from_mode(0o1777)).expect("open the root");
    mount
}

/// A directory `hr` of the mount under the key `alias/hr`. Alice and Bob may use the volume, and nobody yet what is below.
#[track_caller]
pub(crate) fn protected_hr(world: &World, mount: &Mount) -> String {
    world.key("alias/hr");
    for person in [ALICE, BOB] {
        grant(world, "alias/top", person);
    }
    let hr = mount.path("hr");
    fs::create_dir(&hr).expect("make hr");
    let hr = hr.to_str().expect("a path in UTF-8").to_owned();
    world
        .kmsctl(&["fs", "protect", &hr, "--key", "alias/hr"])
        .ok();
    hr
}

#[track_caller]
pub(crate) fn mount_again(world: &World, lower: &std::path::Path, more: &str) -> Mount {
    let options = format!("allow_other,user={SERVICE}");
    let mut list = vec![options.as_str()];
    if !more.is_empty() {
        list.push(more);
    }
    world.mount_with(lower, &list)
}

/// Root grants `Decrypt` on a key; the grant's id.
#[track_caller]
pub(crate) fn grant(world: &World, alias: &str, to: Person) -> String {
    let to = to.grantee();
    let said = world.kmsctl(&[
        "grant",
        "create",
        alias,
        "--to",
        &to,
        "--operations",
        "Decrypt",
    ]);
    said.ok().stdout.trim().to_owned()
}

#[track_caller]
pub(crate) fn revoke(world: &World, alias: &str, grant: &str) {
    world.kmsctl(&["grant", "revoke", alias, grant]).ok();
}
