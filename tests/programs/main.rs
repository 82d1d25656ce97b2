//! Real programs on a mount: what people keep in a home directory and below a database.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a failure in a helper is a failed test"
)]

mod cargo;
mod git;
mod postgres;
mod rsync;
mod sqlite;
mod stress;

use std::path::Path;
use std::process::Command;

use kms_tests::daemon::path_text;
use kms_tests::mount::Mount;
use kms_tests::require;
use kms_tests::world::World;

/// What every test of this suite needs: root, because programs run as several users.
fn machine_can() -> bool {
    require::fuse() && require::tpm() && require::as_root()
}

/// The content modes that every program is run on.
const MODES: [&str; 2] = ["xts", "gcm"];

/// A volume of one content mode that is killed and mounted again.
struct Volume {
    world: World,
    mode: &'static str,
    mount: Option<Mount>,
}

impl Volume {
    /// A new one, mounted.
    fn new(mode: &'static str) -> Volume {
        let world = World::start();
        world.key("alias/programs");
        let lower = world.path(format!("{mode}.lower"));
        std::fs::create_dir(&lower).unwrap();
        let lower = path_text(&lower);
        world
            .kmsctl(&[
                "fs",
                "init",
                lower,
                "--key",
                "alias/programs",
                "--mode",
                mode,
            ])
            .ok();
        let mut volume = Volume {
            world,
            mode,
            mount: None,
        };
        volume.mount();
        volume
    }

    fn mount(&mut self) {
        let lower = self.world.path(format!("{}.lower", self.mode));
        let mount = self
            .world
            .mount_with(&lower, &["allow_other,access=mounter,suid,dev"]);
        self.mount = Some(mount);
    }

    /// The root of the mount.
    fn point(&self) -> &Path {
        &self.mount.as_ref().expect("it is mounted").point
    }

    /// kmsfs dies with SIGKILL, in the middle of whatever it does.
    fn kill(&mut self) {
        self.mount.take().expect("it is mounted").kill();
    }

    /// A clean unmount, and the mount again: nothing lived in caches only.
    fn remount(&mut self) {
        self.mount.take().expect("it is mounted").unmount();
        self.mount();
    }

    /// Ends it cleanly. kmsfs must have found nothing wrong in its lower tree.
    fn end(mut self) {
        let mount = self.mount.take().expect("it is mounted");
        let log = mount.log();
        let complaint = log
            .lines()
            .find(|line| line.contains(" ERROR ") || line.contains("damaged"));
        assert_eq!(complaint, None, "in the log of kmsfs");
        mount.unmount();
    }
}

/// A command that must be installed: `scripts/deps.sh programs` does it.
fn command(program: &str) -> Command {
    assert!(
        require::on_path(program),
        "{program} is not installed: run scripts/deps.sh programs"
    );
    Command::new(program)
}

/// A line of shell in a folder, which must succeed; gives what it printed.
fn shell(folder: &Path, script: &str) -> String {
    require::output_of(
        Command::new("sh")
            .args(["-euc", script])
            .current_dir(folder),
    )
}
