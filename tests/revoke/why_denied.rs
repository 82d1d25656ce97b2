//! `kmsctl fs why-denied`: each thing that denies a user something is named, and the command it ends with lets them in.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use kms_tests::cli::Said;
use kms_tests::wait;
use kms_tests::world::World;
use serde_json::Value;

use crate::machine_can;
use crate::people::{open_directory, open_file, text};
use crate::shared::{ALICE, BOB, Person, grant, protected_hr, revoke, shared_mount, shared_world};

fn asked(world: &World, path: &str, person: Person, more: &[&str]) -> Said {
    let uid = person.0.to_string();
    let mut arguments = vec!["--json", "fs", "why-denied", path, "--user", &uid];
    arguments.extend(more);
    world.kmsctl(&arguments)
}

/// What denies a person something: each as its kind and where it is below the mount.
#[track_caller]
fn why(world: &World, path: &str, person: Person, more: &[&str]) -> (Vec<String>, Value) {
    let said = asked(world, path, person, more);
    let report = if said.code == 0 {
        said.json()
    } else {
        assert_eq!(said.code, 19, "{said:?}");
        said.json()
    };
    let reasons = report["reasons"].as_array().unwrap();
    assert_eq!(report["allowed"], reasons.is_empty());
    assert_eq!(said.code == 0, reasons.is_empty());
    let point = world.path("files.plain");
    let kinds = reasons.iter().map(|reason| {
        let path = reason["path"].as_str().unwrap();
        let below = Path::new(path).strip_prefix(&point);
        let below = below.map_or_else(|_| path.to_owned(), |path| text(path).to_owned());
        format!("{} {below}", reason["reason"].as_str().unwrap())
    });
    (kinds.collect(), report)
}

/// Runs the command that the first reason ends with.
#[track_caller]
fn mend(world: &World, report: &Value) {
    let step = report["reasons"][0]["next_step"].as_str().unwrap();
    for step in step.split(" && ") {
        let words: Vec<&str> = step.split_whitespace().collect();
        match words.split_first() {
            Some((&"kmsctl", rest)) => drop(world.kmsctl(rest).ok()),
            _ => {
                let output = std::process::Command::new("sh").args(["-c", step]).output();
                let output = output.unwrap();
                assert!(output.status.success(), "{step}: {output:?}");
            }
        }
    }
}

/// The reasons are these, in this order; and the command of each, run one after the other, lets the person in.
#[track_caller]
fn mended_one_by_one(world: &World, path: &str, person: Person, expected: &[&str]) {
    for done in 0..expected.len() {
        person.sh(&format!("cat {path} > /dev/null")).fails("");
        let (kinds, report) = why(world, path, person, &[]);
        assert_eq!(kinds, &expected[done..], "{report:#}");
        mend(world, &report);
        // What takes something away is waited for, what gives is not.
        wait::until_true("the command to have come through", wait::PATIENCE, || {
            why(world, path, person, &[]).0.len() < expected.len() - done
        });
    }
    let (kinds, report) = why(world, path, person, &[]);
    assert!(kinds.is_empty(), "{report:#}");
    person.soon(&format!("cat {path} > /dev/null"));
}

#[test]
fn grants_permissions_and_locks_of_one_user_are_named_in_their_order_and_mended() {
    if !machine_can() {
        return;
    }
    let world = shared_world();
    let mount = shared_mount(&world, "");
    // In a policy in a policy in a policy.
    let hr = {
        world.key("alias/hr");
        world.key("alias/deep");
        let hr = mount.path("hr");
        open_directory(&hr);
        let protect = |path: &Path, key| {
            world
                .kmsctl(&["fs", "protect", text(path), "--key", key])
                .ok();
        };
        protect(&hr, "alias/hr");
        fs::create_dir(hr.join("plain")).unwrap();
        open_directory(&hr.join("plain/deep"));
        protect(&hr.join("plain/deep"), "alias/deep");
        hr
    };
    fs::set_permissions(hr.join("plain"), fs::Permissions::from_mode(0o750)).unwrap();
    let file = hr.join("plain/deep/file");
    fs::write(&file, "salaries").unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).unwrap();
    let file = text(&file);
    // Of the user's groups, too: no entry of an ACL is needed then.
    let (kinds, _) = why(&world, file, ALICE, &["--group", "3001", "--group", "0"]);
    assert_eq!(
        kinds,
        [
            "kmsd_refuses ",
            "kmsd_refuses hr",
            "kmsd_refuses hr/plain/deep"
        ]
    );
    let said = world.kmsctl(&["fs", "why-denied", file, "--user", "3001"]);
    assert_eq!(said.code, 19);
    for part in [
        "denied: 3001 may not read",
        "decided by  nothing that allows it",
        "What would help:\n  kmsctl grant create arn:aws:kms:",
    ] {
        assert!(said.stdout.contains(part), "{part}: {}", said.stdout);
    }
    mended_one_by_one(
        &world,
        file,
        ALICE,
        &[
            "kmsd_refuses ",
            "kmsd_refuses hr",
            "permission hr/plain",
            "kmsd_refuses hr/plain/deep",
            "permission hr/plain/deep/file",
        ],
    );
    // The ACL that was made for her counts, and gave her no more than that.
    let (kinds, _) = why(&world, file, ALICE, &["--access", "write"]);
    assert_eq!(kinds, ["permission hr/plain/deep/file"]);
    ALICE
        .sh(&format!("echo x >> {file}"))
        .fails("ermission denied");
    ALICE.sh(&format!("cat {file}")).says("salaries");
    let new = text(&hr.join("plain/new")).to_owned();
    let (kinds, _) = why(&world, &new, ALICE, &["--access", "write"]);
    assert_eq!(kinds, ["permission hr/plain"]);
    // Bob is somebody else.
    let (kinds, _) = why(&world, file, BOB, &[]);
    assert_eq!(kinds.len(), 5, "{kinds:?}");

    let deep = text(&hr.join("plain/deep")).to_owned();
    world.kmsctl(&["fs", "lock", &deep, "--user", "3001"]).ok();
    let (_, report) = why(&world, file, ALICE, &[]);
    assert_eq!(report["reasons"][0]["error"], "EACCES");
    mended_one_by_one(&world, file, ALICE, &["user_locked hr/plain/deep"]);

    // A Deny is no missing grant, and is named.
    let deny = world.path("deny.json");
    fs::write(
        &deny,
        r#"{"Version":"2012-10-17","Statement":[{"Sid":"Never","Effect":"Deny","Action":"kms:Decrypt","Resource":"*"}]}"#,
    )
    .unwrap();
    world
        .kmsctl(&["iam", "put", "--user", "uid-3001", "no", text(&deny)])
        .ok();
    let (kinds, report) = why(&world, file, ALICE, &[]);
    assert_eq!(kinds[0], "kmsd_refuses ", "{report:#}");
    let decided = report["reasons"][0]["decided_by"].as_str().unwrap();
    assert!(
        decided.contains("a Deny: statement Never of the identity policy"),
        "{decided}"
    );
    world
        .kmsctl(&["iam", "delete", "--user", "uid-3001", "no"])
        .ok();

    // What was open when the grant ended stays revoked when there is another one.
    ALICE.soon(&format!("cat {file}"));
    let mut alice = crate::people::Person::start(ALICE.0);
    assert_eq!(alice.does(&["open", "f", "r", file]), "ok");
    let deny = ["fs", "lock", &deep, "--user", "3001"];
    world.kmsctl(&deny).ok();
    world
        .kmsctl(&["fs", "unlock", &deep, "--user", "3001"])
        .ok();
    let (kinds, report) = why(&world, file, ALICE, &[]);
    assert!(kinds.is_empty(), "{report:#}");
    let note = report["notes"][0].as_str().unwrap();
    assert!(note.contains(&alice.pid().to_string()), "{note}");
    assert_eq!(alice.does(&["read", "f"]), "EKEYREVOKED");
    drop(alice);
    mount.unmount();
}

#[test]
fn what_denies_everybody_is_named_with_its_time_and_mended() {
    if !machine_can() {
        return;
    }
    let mut world = shared_world();
    let mount = shared_mount(&world, "key_wait=2");
    let hr = protected_hr(&world, &mount);
    fs::set_permissions(&hr, fs::Permissions::from_mode(0o755)).unwrap();
    let file = format!("{hr}/file");
    open_file(Path::new(&file), "salaries");
    let given = grant(&world, "alias/hr", ALICE);
    ALICE.soon(&format!("cat {file}"));

    world.kmsctl(&["fs", "lock", &hr]).ok();
    let (_, report) = why(&world, &file, ALICE, &[]);
    let first = &report["reasons"][0];
    assert_eq!(first["error"], "ENOKEY");
    let message = first["message"].as_str().unwrap();
    assert!(
        message.contains("by `kmsctl fs lock` since 2") && message.contains(" UTC"),
        "{message}"
    );
    // Names behind it cannot be looked up, and that is said.
    assert!(report["notes"][0].as_str().unwrap().contains("is below"));
    mended_one_by_one(&world, &file, ALICE, &["locked hr"]);

    world.kmsctl(&["key", "disable", "alias/hr"]).ok();
    wait::until_true("the mount hearing of it", wait::PATIENCE, || {
        why(&world, &file, ALICE, &[]).0 == ["key_unusable hr"]
    });
    let (_, report) = why(&world, &file, ALICE, &[]);
    let message = report["reasons"][0]["message"].as_str().unwrap();
    assert!(message.contains("its key is disabled"), "{message}");
    mended_one_by_one(&world, &file, ALICE, &["key_unusable hr"]);

    // kmsd away: who was let in still is for a while, who was not is not.
    revoke(&world, "alias/hr", &given);
    ALICE.sh(&format!("cat {file}")).fails("ermission denied");
    world.daemon.stop();
    let (kinds, report) = why(&world, &file, ALICE, &[]);
    assert!(kinds.contains(&"kmsd_away hr".to_owned()), "{report:#}");
    let last = report["reasons"].as_array().unwrap().last().unwrap();
    assert_eq!(last["next_step"], "systemctl start kmsd");
    world.daemon.start();
    wait::until_true("kmsd being back", wait::PATIENCE, || {
        why(&world, &file, ALICE, &[]).0 == ["kmsd_refuses hr"]
    });
    mended_one_by_one(&world, &file, ALICE, &["kmsd_refuses hr"]);

    // A user may not ask, not even about themselves.
    let program = world.path("kmsctl");
    fs::copy(kms_tests::programs::path("kmsctl"), &program).unwrap();
    let output = ALICE
        .command(&format!(
            "{} fs why-denied {file} --user 3001",
            text(&program)
        ))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(4), "{said}");
    assert!(
        said.contains("only root and the user who mounted"),
        "{said}"
    );
    mount.unmount();
}

#[test]
fn mounts_of_one_user_links_and_damage() {
    if !machine_can() {
        return;
    }
    let world = World::start();
    fs::set_permissions(world.path(""), fs::Permissions::from_mode(0o755)).unwrap();
    world.key("alias/top");
    let lower = world.volume("files", "alias/top");
    let mount = world.mount(&lower);
    open_directory(&mount.path("sub"));
    let file = mount.path("sub/file");
    open_file(&file, "for root");
    fs::set_permissions(&mount.point, fs::Permissions::from_mode(0o755)).unwrap();
    let file = text(&file).to_owned();
    let (kinds, _) = why(&world, &file, BOB, &[]);
    assert_eq!(kinds, ["private_mount "]);
    assert!(why(&world, &file, Person(0), &[]).0.is_empty());
    let damaged = fs::metadata(mount.path("sub")).unwrap().ino();
    mount.unmount();

    let mount = world.mount_with(&lower, &["allow_other,access=mounter,ro"]);
    // Permissions above the mount, and a link that leads through a directory that is closed.
    assert!(why(&world, &file, BOB, &[]).0.is_empty());
    BOB.sh(&format!("cat {file} > /dev/null")).works();
    fs::create_dir(world.path("closed")).unwrap();
    fs::set_permissions(world.path("closed"), fs::Permissions::from_mode(0o700)).unwrap();
    let link = world.path("closed/link");
    std::os::unix::fs::symlink(&file, &link).unwrap();
    let (kinds, _) = why(&world, text(&link), BOB, &[]);
    assert_eq!(
        kinds,
        [format!("permission {}", text(&world.path("closed")))]
    );
    let (kinds, report) = why(&world, &file, BOB, &["--access", "write"]);
    assert_eq!(kinds, ["read_only "]);
    assert_eq!(report["reasons"][0]["error"], "EROFS");
    mount.unmount();

    // The header of a directory.
    let header = below(&lower)
        .into_iter()
        .find(|path| path.metadata().unwrap().ino() == damaged)
        .unwrap()
        .join(".kmsfs");
    let mut bytes = fs::read(&header).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    fs::write(&header, bytes).unwrap();
    let mount = world.mount_with(&lower, &["allow_other,access=mounter"]);
    let (kinds, report) = why(&world, &file, BOB, &[]);
    assert_eq!(kinds, ["damaged sub"]);
    assert_eq!(report["reasons"][0]["error"], "EIO");
    let step = report["reasons"][0]["next_step"].as_str().unwrap();
    assert!(step.starts_with("kmsctl fs check "), "{step}");
    // Nothing there, and not in a mount.
    asked(&world, text(&mount.path("none")), BOB, &[]).fails_with("No such file");
    let said = asked(&world, text(&world.path("")), BOB, &[]);
    assert_eq!(said.code, 12, "{said:?}");
    mount.unmount();
}

/// All directories below one.
fn below(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut left = vec![directory.to_owned()];
    while let Some(directory) = left.pop() {
        for entry in fs::read_dir(&directory).unwrap().flatten() {
            if entry.file_type().unwrap().is_dir() {
                found.push(entry.path());
                left.push(entry.path());
            }
        }
    }
    found
}
