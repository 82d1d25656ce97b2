//! `kmsctl fs protect` when an fsync of the lower file system fails.
//!
//! The header may be in its place although its fsync failed. What is made below it then must be readable in later mounts:
//! the volume record has to keep the line with the key.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use kms_tests::cli::Said;
use kms_tests::daemon::path_text;
use kms_tests::mount::{self, Mount};
use kms_tests::process::Process;
use kms_tests::wait;
use kms_tests::world::World;

use super::sites::{self, Sites};

/// A mount of the program with failpoints.
struct Failing {
    process: Process,
    lower: PathBuf,
    point: PathBuf,
    calls: PathBuf,
}

impl Failing {
    /// Mounts a new volume whose fsync with this number fails.
    fn start(world: &World, sites: &Sites, fail: u64) -> Failing {
        let lower = world.volume(&format!("late{fail}"), "alias/late");
        let (point, calls) = (lower.with_extension("plain"), lower.with_extension("calls"));
        fs::create_dir(&point).expect("a mount point");
        let mut command = Command::new(&sites.program);
        command.args(["mount", "--foreground", "--socket"]);
        command.arg(world.daemon.socket()).arg(&lower).arg(&point);
        command.env("KMSFS_FAILPOINT_LOG", &calls);
        command.env("KMSFS_FAIL_SYNC", format!("{fail}:{}", libc::EIO));
        let log = point.with_extension("log");
        let mut process = Process::start("kmsfs-failpoints", &mut command, &log);
        wait::until_true("the mount", wait::PATIENCE, || {
            process.assert_running();
            mount::is_mounted(&point)
        });
        Failing {
            process,
            lower,
            point,
            calls,
        }
    }

    /// How many fsyncs there were.
    fn syncs(&self) -> u64 {
        let calls = fs::read_to_string(&self.calls).unwrap_or_default();
        calls.lines().filter(|line| line.starts_with("0 ")).count() as u64
    }

    /// The header of the only directory.
    fn header(&self) -> Vec<u8> {
        let lower = fs::read_dir(&self.lower).expect("list the lower directory");
        let mut directories = lower
            .map(|entry| entry.expect("an entry").path())
            .filter(|path| path.is_dir() && path.join(".kmsfs").exists());
        let only = directories.next().expect("the directory");
        assert_eq!(directories.next(), None);
        fs::read(only.join(".kmsfs")).expect("read the header")
    }

    fn unmount(mut self) -> PathBuf {
        mount::unmount(&self.point).expect("unmount");
        let status = self.process.wait(wait::PATIENCE);
        assert!(status.success(), "{status}");
        self.lower
    }
}

fn protect(world: &World, folder: &Path) -> Said {
    world.kmsctl(&["fs", "protect", path_text(folder), "--key", "alias/own"])
}

#[test]
fn what_is_made_after_a_protect_that_failed_late_is_readable_later() {
    if !crate::machine_can() {
        return;
    }
    let world = World::start();
    let sites = sites::build(&world);
    world.key("alias/late");
    world.key("alias/own");
    // Number 0 is no fsync's: nothing fails.
    let count = Failing::start(&world, &sites, 0);
    let folder = count.point.join("folder");
    fs::create_dir(&folder).expect("mkdir");
    let before = count.syncs();
    protect(&world, &folder).ok();
    let after = count.syncs();
    count.unmount();
    assert!(before + 2 <= after, "{before} {after}");

    let mut late = 0;
    for fail in before + 1..=after {
        let failing = Failing::start(&world, &sites, fail);
        let folder = failing.point.join("folder");
        fs::create_dir(&folder).expect("mkdir");
        let old = failing.header();
        let said = protect(&world, &folder);
        if said.code != 0 && failing.header() != old {
            late += 1;
        }
        fs::write(folder.join("file"), "content").expect("write below the directory");
        let (lower, point) = (failing.lower.clone(), failing.point.clone());
        failing.unmount();
        let again = Mount::start(&lower, &point, &world.daemon.socket(), &[]);
        let found = fs::read_to_string(again.path("folder/file"));
        assert_eq!(
            found.expect("read it in a later mount"),
            "content",
            "fsync {fail} failed, and protect said: {}",
            said.stderr
        );
        again.unmount();
        world.kmsctl(&["fs", "check", path_text(&lower)]).ok();
    }
    assert!(late > 0, "no protect failed with its header in place");
}
