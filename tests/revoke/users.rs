//! What a user sees of a shared mount with and without a grant.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use crate::machine_can;
use crate::shared::{ALICE, BOB, grant, protected_hr, revoke, shared_mount, shared_world};

/// Every kind of operation, each of which has to be refused to somebody without a grant. `D` is the directory, and has a
/// file `file`, a link `link` and a directory `sub`.
const OPERATIONS: [&str; 22] = [
    "ls D",
    "stat D",
    "stat D/file",
    "cat D/file",
    "readlink -v D/link",
    "echo x >> D/file",
    "touch D/new",
    "mkdir D/newdir",
    "mkfifo D/fifo",
    "ln -s x D/newlink",
    "ln D/file D/second",
    "mv D/file D/other",
    "mv D/file /tmp/kms-not-mine",
    "rm D/file",
    "rmdir D/sub",
    "chmod 700 D/file",
    "touch D/file",
    "truncate -s 0 D/file",
    "chattr +d D/file",
    "lsattr -d D",
    "python3 -c 'import os; os.getxattr(\"D/file\", \"user.x\")'",
    "env -C D true",
];

// SEMANTICS: Shared mounts, Without a grant, New and lost grants, EACCES
#[test]
fn without_a_grant_nothing_of_a_directory_is_reachable_and_with_one_everything() {
    if !machine_can() {
        return;
    }
    let world = shared_world();
    let mount = shared_mount(&world, "");
    let root = mount.point.to_str().unwrap().to_owned();
    world.key("alias/hr");
    // Alice may use the volume, but not what is protected below it.
    grant(&world, "alias/top", ALICE);
    let hr = mount.path("hr");
    fs::create_dir(&hr).unwrap();
    let hr = hr.to_str().unwrap();
    world
        .kmsctl(&["fs", "protect", hr, "--key", "alias/hr"])
        .ok();
    let given = grant(&world, "alias/hr", ALICE);
    fs::set_permissions(hr, fs::Permissions::from_mode(0o777)).unwrap();
    ALICE.soon(&format!("ls {hr}"));
    let line = |line: &str| line.replace('D', hr);
    ALICE
        .sh(&line(
            "cd D && echo salaries > file && setfattr -n user.x -v 1 file || true; ln -s there link && mkdir sub",
        ))
        .works();
    ALICE.sh(&line("cat D/file")).says("salaries\n");
    // Bob has no grant at all, not even for the root.
    BOB.sh(&format!("ls {root}")).fails("Permission denied");
    BOB.sh(&format!("stat {root}")).fails("Permission denied");

    revoke(&world, "alias/hr", &given);
    // The name is the parent's, and so is what a listing says of it.
    ALICE.sh(&format!("ls {root}")).says("hr\n");
    for operation in OPERATIONS {
        ALICE.sh(&line(operation)).fails("ermission denied");
    }
    // Root sees everything, and nothing has been changed.
    let mut names: Vec<_> = fs::read_dir(hr)
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    names.sort();
    assert_eq!(names, ["file", "link", "sub"]);
    assert_eq!(fs::read(mount.path("hr/file")).unwrap(), b"salaries\n");

    grant(&world, "alias/hr", ALICE);
    ALICE.soon(&line("ls D"));
    ALICE.sh(&line("cat D/file")).says("salaries\n");
    ALICE.sh(&line("mv D/file D/moved && rmdir D/sub")).works();
    // POSIX permissions still apply.
    fs::set_permissions(hr, fs::Permissions::from_mode(0o700)).unwrap();
    ALICE.sh(&line("ls D")).fails("Permission denied");
    mount.unmount();
}

// SEMANTICS: With a handle, Paths
#[test]
fn what_is_open_is_the_openers_and_no_walk_is_missed_whatever_the_kernel_knows() {
    if !machine_can() {
        return;
    }
    let world = shared_world();
    let mount = shared_mount(&world, "");
    let hr = protected_hr(&world, &mount);
    let hr = hr.as_str();
    fs::create_dir_all(mount.path("hr/sub/deep")).unwrap();
    fs::write(mount.path("hr/sub/deep/file"), "salaries\n").unwrap();
    grant(&world, "alias/hr", ALICE);
    ALICE.soon(&format!("ls {hr}"));
    // All of it is in the kernel's caches now, and stays there.
    for _ in 0..2 {
        ALICE
            .sh(&format!("cat {hr}/sub/deep/file; ls -lR {hr}"))
            .works();
        BOB.sh(&format!("stat {hr}/sub/deep/file"))
            .fails("Permission denied");
        BOB.sh(&format!("cat {hr}/sub/deep/file"))
            .fails("Permission denied");
        BOB.sh(&format!("ls {hr}/sub")).fails("Permission denied");
        BOB.sh(&format!("exec 3< {hr}")).fails("ermission denied");
    }
    // From inside: root enters, and becomes Bob.
    let inside = |line: &str| {
        std::process::Command::new("setpriv")
            .args([
                "--reuid=3002",
                "--regid=3002",
                "--clear-groups",
                "sh",
                "-c",
                line,
            ])
            .current_dir(mount.path("hr/sub"))
            .output()
            .unwrap()
    };
    for line in [
        "ls .",
        "cat deep/file",
        "ls deep",
        "echo x > new",
        "mkdir new",
        "mv deep other",
    ] {
        let output = inside(line);
        assert!(!output.status.success(), "{line}: {output:?}");
    }
    // What root has opened for him.
    let file = fs::File::options()
        .read(true)
        .write(true)
        .open(mount.path("hr/sub/deep/file"))
        .unwrap();
    let output = BOB
        .command("stat -L -c %s /dev/stdin; cat; echo more >&0")
        .stdin(file)
        .output()
        .unwrap();
    assert_eq!(
        String::from_utf8_lossy(&output.stdout),
        "9\nsalaries\n",
        "{output:?}"
    );
    assert_eq!(
        fs::read(mount.path("hr/sub/deep/file")).unwrap(),
        b"salaries\nmore\n"
    );
    mount.unmount();
}

// SEMANTICS: One user's mounts
#[test]
fn where_everybody_counts_as_the_one_who_mounts_nobody_needs_a_grant() {
    if !machine_can() {
        return;
    }
    let world = shared_world();
    world.key("alias/top");
    let lower = world.volume("files", "alias/top");
    let mount = world.mount_with(&lower, &["allow_other,access=mounter"]);
    fs::set_permissions(&mount.point, fs::Permissions::from_mode(0o755)).unwrap();
    fs::write(mount.path("file"), "for all\n").unwrap();
    let file = mount.path("file");
    let file = file.to_str().unwrap();
    BOB.sh(&format!("cat {file}")).says("for all\n");
    fs::set_permissions(file, fs::Permissions::from_mode(0o600)).unwrap();
    BOB.sh(&format!("cat {file}")).fails("Permission denied");
    let pid = mount.pid().as_raw_nonzero();
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    assert!(status.contains("Uid:\t0\t0\t0\t0"), "{status}");
    mount.unmount();
}

#[test]
fn what_somebody_without_a_grant_is_answered_can_be_chosen() {
    if !machine_can() {
        return;
    }
    let world = shared_world();
    let mount = shared_mount(&world, "denied=ENOKEY");
    let root = mount.point.to_str().unwrap().to_owned();
    BOB.sh(&format!("ls {root}"))
        .fails("Required key not available");
    mount.unmount();
}

#[test]
fn a_mount_that_tells_users_apart_runs_as_a_service_or_not_at_all() {
    if !machine_can() {
        return;
    }
    let world = shared_world();
    let mount = shared_mount(&world, "");
    let pid = mount.pid().as_raw_nonzero();
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        line.unwrap().trim().to_owned()
    };
    assert_eq!(field("Uid:"), "3100\t3100\t3100\t3100");
    assert_eq!(field("Gid:"), "3100\t3100\t3100\t3100");
    assert_eq!(field("Groups:"), "");
    assert_eq!(field("NoNewPrivs:"), "1");
    let capabilities = u64::from_str_radix(&field("CapEff:"), 16).unwrap();
    for (number, name) in [
        (6, "SETGID"),
        (7, "SETUID"),
        (8, "SETPCAP"),
        (16, "SYS_MODULE"),
        (12, "NET_ADMIN"),
    ] {
        assert_eq!(capabilities >> number & 1, 0, "CAP_{name}");
    }
    // Every thread of it.
    for task in fs::read_dir(format!("/proc/{pid}/task")).unwrap() {
        let status = fs::read_to_string(task.unwrap().path().join("status")).unwrap();
        assert!(status.contains("Uid:\t3100\t3100\t3100\t3100"), "{status}");
        assert!(
            status.contains(&format!("CapEff:\t{}", field("CapEff:"))),
            "{status}"
        );
    }
    // What root makes is root's, what others make theirs.
    fs::write(mount.path("roots"), "x").unwrap();
    grant(&world, "alias/top", ALICE);
    let root = mount.point.to_str().unwrap().to_owned();
    ALICE.soon(&format!("echo x > {root}/alices"));
    let said = ALICE.sh(&format!("stat -c '%n %u %g' {root}/* | sed 's#.*/##'"));
    said.says("alices 3001 3001\nroots 0 0\n");
    let lower = mount.lower.clone();
    mount.unmount();

    // Somebody whom kmsd does not know as a service.
    let refused = |options: &str, text: &str| {
        let output = std::process::Command::new(kms_tests::programs::path("kmsfs"))
            .args(["mount", "--foreground", "--socket"])
            .arg(world.daemon.socket())
            .args(["-o", options])
            .arg(&lower)
            .arg(world.path("files.plain"))
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && said.contains(text), "{said}");
    };
    refused("allow_other,user=3999", "service_uids");
    refused("allow_other,user=root", "root is none");
    refused("allow_other,user=no-such-user", "access=mounter");
    refused("access=users", "allow_other");
}
