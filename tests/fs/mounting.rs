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

/// SEMANTICS: mount options, remount
#[test]
fn mounting_with_mount() {
    if !crate::machine_can() {
        return;
    }
    let world = World::start();
    world.key("alias/fs");
    let lower = world.volume("helper", "alias/fs");
    let folder = world.path("helper");
    fs::create_dir_all(folder.join("point")).unwrap();
    let script = r#"
        lower=$1 point=$2 folder=$3 socket=$4
        shown() { findmnt -n -o OPTIONS "$point"; }
        has() { shown | tr , '\n' | grep -qx "$1" || { echo "no $1 in $(shown)"; exit 1; }; }
        has_not() { ! shown | tr , '\n' | grep -qx "$1" || { echo "$1 in $(shown)"; exit 1; }; }

        # The defaults: owners and modes in the lower tree are not authenticated.
        mount -t fuse.kmsfs "$lower" "$point" -o "socket=$socket,log=$folder/log,control=$folder/control"
        has nosuid; has nodev; has rw; has_not noexec; has relatime
        cp /bin/true "$point/program"; "$point/program"
        mount -o remount,ro "$point"
        has ro; has nosuid; has nodev
        ! touch "$point/new" 2>/dev/null
        mount -o remount,rw,noexec "$point"
        has rw; has nosuid; has noexec
        touch "$point/new"
        ! "$point/program" 2>/dev/null
        mount -o remount,exec "$point"
        "$point/program"
        umount "$point"

        # As fstab would have it.
        echo "$lower $point kmsfs allow_suid,allow_dev,noatime,nofail,x-systemd.automount,socket=$socket,log=$folder/log,control=$folder/control 0 0" >"$folder/fstab"
        until mount -T "$folder/fstab" "$point" 2>"$folder/said"; do
            # The last mount may still be writing its end.
            grep -q "in use" "$folder/said" || { cat "$folder/said"; exit 1; }
            sleep 0.1
        done
        has_not nosuid; has_not nodev; has noatime
        cp /bin/true "$point/program"; chmod 4755 "$point/program"
        mknod "$point/null" c 1 3; echo x >"$point/null"
        mount -o remount,nosuid,nodev "$point"
        has nosuid; has nodev
        ! echo x 2>/dev/null >"$point/null"
        umount "$point"

        # Begun read-only, it stays so, and says why.
        until mount -r -t kmsfs "$lower" "$point" -o "socket=$socket,log=$folder/log,control=$folder/control" 2>"$folder/said"; do
            grep -q "in use" "$folder/said" || { cat "$folder/said"; exit 1; }
            sleep 0.1
        done
        has ro
        ! mount -o remount,rw "$point" 2>"$folder/said"
        grep -q "mounted with .ro." "$folder/said"
        has ro
        umount "$point"
    "#;
    let output = crate::pjdfstest::with_mount_helper(&folder)
        .args(["sh", "-euc", script, "sh"])
        .args([&lower, &folder.join("point"), &folder])
        .arg(world.daemon.socket())
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}
