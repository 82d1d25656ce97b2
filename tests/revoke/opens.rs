//! Opens that a policy has recorded: in the audit log is who opened which file, and who was refused.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};

use kms_tests::wait;
use kms_tests::world::World;
use serde_json::Value;

use crate::machine_can;
use crate::shared::{ALICE, BOB, grant, protected_hr, shared_mount, shared_world};

/// The records of accesses to a file, newest first.
fn accesses(world: &World, more: &[&str]) -> Vec<Value> {
    let mut arguments = vec![
        "--json",
        "audit",
        "search",
        "--operation",
        "RecordFileAccess",
    ];
    arguments.extend(more);
    let said = world.kmsctl(&arguments).ok().stdout;
    let lines = said.lines().filter(|line| !line.is_empty());
    lines
        .map(|line| serde_json::from_str(line).expect("a line of the log"))
        .collect()
}

// SEMANTICS: Recorded opens
#[test]
fn a_policy_has_opens_recorded_who_which_file_and_whether_it_was_allowed() {
    if !machine_can() {
        return;
    }
    let world = shared_world();
    let mount = shared_mount(&world, "");
    let hr = protected_hr(&world, &mount);
    let hr = hr.as_str();
    grant(&world, "alias/hr", ALICE);
    fs::set_permissions(hr, fs::Permissions::from_mode(0o777)).unwrap();
    ALICE.soon(&format!("ls {hr}"));
    ALICE.sh(&format!("echo salaries > {hr}/list")).works();
    assert!(accesses(&world, &[]).is_empty());

    world
        .kmsctl(&["fs", "policy", "set", hr, "--record-opens", "on"])
        .ok();
    let list = format!("{hr}/list");
    let inode = fs::metadata(&list).unwrap().ino();
    let directory = fs::metadata(hr).unwrap().ino();
    let first = || {
        ALICE.sh(&format!("cat {list}")).says("salaries\n");
        let found = accesses(&world, &["--file", &list, "--principal", "uid-3001"]);
        found.into_iter().next()
    };
    let allowed = wait::until("the record of an open", wait::PATIENCE, first);
    let parameters = &allowed["record"]["parameters"];
    assert_eq!(parameters["operation"], "OPEN");
    assert_eq!(parameters["accessMode"], "READ");
    assert_eq!(parameters["inode"], inode);
    assert_eq!(parameters["outcome"], "ALLOWED");
    assert_eq!(parameters["userId"], ALICE.0);
    assert_eq!(allowed["record"]["caller"]["uid"], ALICE.0);
    assert_eq!(
        allowed["record"]["caller"]["via"]["service"],
        "kmsfs.local-host-1.amazonaws.com"
    );
    // No name and no content is in it.
    assert!(!allowed.to_string().contains("list"), "{allowed}");

    BOB.sh(&format!("cat {list}")).fails("Permission denied");
    ALICE.sh(&format!("echo more >> {list}")).works();
    let denied = wait::until("the record of a refusal", wait::PATIENCE, || {
        let found = accesses(&world, &["--outcome", "denied", "--key", "alias/hr"]);
        found.into_iter().next()
    });
    let parameters = &denied["record"]["parameters"];
    assert_eq!(denied["record"]["caller"]["uid"], BOB.0);
    assert_eq!(parameters["inode"], directory);
    assert_eq!(parameters["error"], "EACCES");
    wait::until_true("the record of a write", wait::PATIENCE, || {
        let found = accesses(&world, &["--file", &list]);
        found
            .iter()
            .any(|one| one["record"]["parameters"]["accessMode"] == "WRITE")
    });
    // People read it, too.
    let said = world.kmsctl(&["audit", "search", "--file", &list]).ok();
    let shown = format!("OPEN for WRITE of inode {inode}");
    assert!(said.stdout.contains(&shown), "{}", said.stdout);

    // What is open when the mount ends is recorded before it has ended; outside of the tree nothing is.
    ALICE
        .sh(&format!("echo > {}/outside", mount.point.display()))
        .works();
    ALICE.sh(&format!("echo > {hr}/last")).works();
    let last = fs::metadata(format!("{hr}/last")).unwrap().ino();
    let outside = fs::metadata(mount.path("outside")).unwrap().ino();
    mount.unmount();
    let all = accesses(&world, &[]);
    let about = |inode: u64| {
        all.iter()
            .filter(|one| one["record"]["parameters"]["inode"] == inode)
            .count()
    };
    assert!(about(last) > 0);
    assert_eq!(about(outside), 0);
}
