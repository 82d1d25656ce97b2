//! How a mount begins and ends.

use std::fs;

use kms_tests::cli;
use kms_tests::daemon::path_text;
use kms_tests::mount::{is_mounted, unmount};
use kms_tests::wait;
use kms_tests::world::World;
use rustix::process::Signal;

#[test]
fn a_second_mount_of_the_same_lower_is_refused() {
    if !crate::machine_can() {
        return;
    }
    let world = World::start();
    world.key("alias/fs");
    let lower = world.volume("twice", "alias/fs");
    let mount = world.mount(&lower);
    let other = world.path("other");
    fs::create_dir(&other).unwrap();
    let arguments = ["mount", path_text(&lower), path_text(&other)];
    let said = cli::run("kmsfs", &arguments, Some(&world.daemon.socket()));
    assert!(said.code > 0 && !is_mounted(&other), "{said:?}");
    assert!(said.stderr.contains(path_text(&lower)), "{said:?}");
    mount.unmount();
}

#[test]
fn sigterm_unmounts_cleanly() {
    if !crate::machine_can() {
        return;
    }
    let world = World::start();
    world.key("alias/fs");
    let lower = world.volume("term", "alias/fs");
    let mut mount = world.mount(&lower);
    fs::write(mount.path("file"), "kept").unwrap();
    mount.process().signal(Signal::TERM);
    let status = mount.process().wait(wait::PATIENCE);
    assert!(status.success(), "{status}: {}", mount.log());
    assert!(!is_mounted(&mount.point));
    drop(mount);
    let mount = world.mount(&lower);
    assert_eq!(fs::read_to_string(mount.path("file")).unwrap(), "kept");
    mount.unmount();
}

#[test]
fn mounting_in_the_background() {
    if !crate::machine_can() {
        return;
    }
    let world = World::start();
    world.key("alias/fs");
    let lower = world.volume("daemon", "alias/fs");
    let point = world.path("point");
    fs::create_dir(&point).unwrap();
    let log = world.path("kmsfs.log");
    let arguments = [
        "mount",
        "--log",
        path_text(&log),
        path_text(&lower),
        path_text(&point),
    ];
    cli::run("kmsfs", &arguments, Some(&world.daemon.socket())).ok();
    // The command has returned: the mount works from here on.
    assert!(is_mounted(&point));
    fs::write(point.join("file"), "x").unwrap();
    unmount(&point).unwrap();
    // The lock on the lower directory is free once the last byte is written.
    wait::until_true("the lower directory being free", wait::PATIENCE, || {
        let said = cli::run("kmsfs", &arguments, Some(&world.daemon.socket()));
        said.code == 0
    });
    assert_eq!(fs::read_to_string(point.join("file")).unwrap(), "x");
    unmount(&point).unwrap();
}
