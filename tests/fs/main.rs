//! What a mounted kmsfs owes POSIX.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a failure in a helper is a failed test"
)]

mod attributes;
mod faults;
mod fsx;
mod handles;
mod like_local;
mod limits;
mod model;
mod mounting;
mod names;
mod pjdfstest;
mod space;
mod times;
mod writing;

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};

use kms_tests::mount::Mount;
use kms_tests::require;
use kms_tests::world::World;
// Of the reference in `model`.
use kmsfs::errno;

/// What every test of this suite needs: a mount, a TPM for the daemon behind it, and root, because files
/// of several users are made.
fn machine_can() -> bool {
    require::fuse() && require::tpm() && require::as_root()
}

/// The content modes: everything is tested in each.
fn modes() -> &'static [&'static str] {
    &["xts", "gcm"]
}

/// A new volume of a content mode, not mounted.
fn volume(world: &World, name: &str, mode: &str) -> PathBuf {
    let lower = world.path(format!("{name}.lower"));
    fs::create_dir_all(&lower).unwrap();
    let path = lower.to_str().unwrap();
    world
        .kmsctl(&["fs", "init", path, "--key", "alias/fs", "--mode", mode])
        .ok();
    lower
}

/// Runs `test` on a fresh mount, and `after` on the same directory mounted again, in each content mode.
fn on_a_mount(options: &[&str], test: impl Fn(&Mount), after: impl Fn(&Mount)) {
    if !machine_can() {
        return;
    }
    let world = World::start();
    world.key("alias/fs");
    for mode in modes() {
        println!("mode {mode}");
        let lower = volume(&world, &format!("posix-{mode}"), mode);
        let mount = world.mount_with(&lower, options);
        test(&mount);
        mount.unmount();
        let mount = world.mount_with(&lower, options);
        after(&mount);
        mount.unmount();
    }
}

/// The names in a directory.
fn names(folder: &Path) -> HashSet<String> {
    fs::read_dir(folder)
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect()
}
