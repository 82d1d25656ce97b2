//! What kmsd takes away is gone from open files when its call returns.

use std::fs;

use kms_tests::mount::Mount;
use kms_tests::wait;
use kms_tests::world::World;

use crate::machine_can;
use crate::people;
use crate::shared::{ALICE, BOB, grant, revoke, shared_mount, shared_world};

/// A shared mount with a file that everybody may read and write.
fn with_a_file(world: &World) -> (Mount, String) {
    let mount = shared_mount(world, "");
    let file = mount.path("file");
    people::open_file(&file, "secret");
    let file = file.to_str().unwrap().to_owned();
    (mount, file)
}

fn opens(person: &mut people::Person, file: &str) {
    wait::until_true("a grant to count", wait::PATIENCE, || {
        person.does(&["open", "f", "rw", file]) == "ok"
    });
    for how in [&["read", "f"][..], &["map", "f", "shared"]] {
        assert!(person.does(how).starts_with("ok secret"), "{how:?}");
    }
}

// SEMANTICS: New and lost grants
#[test]
fn a_revoked_grant_takes_open_files_and_mappings_with_it_and_leaves_others_theirs() {
    if !machine_can() {
        return;
    }
    let world = shared_world();
    let (mount, file) = with_a_file(&world);
    let given = grant(&world, "alias/top", ALICE);
    grant(&world, "alias/top", BOB);
    let mut alice = people::Person::start(people::ALICE);
    let mut bob = people::Person::start(people::BOB);
    opens(&mut alice, &file);
    opens(&mut bob, &file);

    revoke(&world, "alias/top", &given);
    for (what, expected) in [
        (&["read", "f"][..], "EKEYREVOKED"),
        (&["splice", "f"], "EKEYREVOKED"),
        (&["write", "f", "x"], "EKEYREVOKED"),
        (&["sigbus", "f"], "SIGBUS"),
        (&["open", "again", "r", &file], "EACCES"),
        (&["stat", &file], "EACCES"),
    ] {
        assert_eq!(alice.does(what), expected, "{what:?}");
    }
    // He opens it again, because she had it open, too.
    assert_eq!(bob.does(&["open", "f", "r", &file]), "ok");
    assert!(bob.does(&["read", "f"]).starts_with("ok secret"));

    // A new grant counts for what she opens from now on.
    grant(&world, "alias/top", ALICE);
    wait::until_true("a grant to count", wait::PATIENCE, || {
        alice.does(&["open", "new", "r", &file]) == "ok"
    });
    assert!(alice.does(&["read", "new"]).starts_with("ok secret"));
    assert_eq!(alice.does(&["read", "f"]), "EKEYREVOKED");
    drop((alice, bob));
    mount.unmount();
}

#[test]
fn a_policy_may_say_that_holders_are_killed() {
    if !machine_can() {
        return;
    }
    let world = shared_world();
    let (mount, file) = with_a_file(&world);
    let status = world.kmsctl(&["--json", "fs", "status", mount.point.to_str().unwrap()]);
    let status = status.ok().json().to_string();
    let policy = world.call_local("ListVolumes", &serde_json::json!({}));
    let volume = policy["Volumes"][0]["VolumeId"]
        .as_str()
        .unwrap()
        .to_owned();
    let described = world.call_local("DescribeVolume", &serde_json::json!({ "VolumeId": volume }));
    let policy = described["Policies"][0]["PolicyId"].as_str().unwrap();
    assert!(status.contains(policy), "{status}");
    world.call_local(
        "UpdatePolicy",
        &serde_json::json!({ "VolumeId": volume, "PolicyId": policy, "RevokeMode": "KILL" }),
    );
    let given = grant(&world, "alias/top", ALICE);
    grant(&world, "alias/top", BOB);
    let mut alice = people::Person::start(people::ALICE);
    let mut bob = people::Person::start(people::BOB);
    opens(&mut alice, &file);
    opens(&mut bob, &file);
    revoke(&world, "alias/top", &given);
    assert!(!alice.end().success());
    // He notices nothing.
    assert!(bob.does(&["read", "f"]).starts_with("ok secret"));
    drop(bob);
    mount.unmount();
}

#[test]
fn a_disabled_key_locks_its_directories_until_it_is_enabled() {
    if !machine_can() {
        return;
    }
    let world = shared_world();
    let (mount, file) = with_a_file(&world);
    grant(&world, "alias/top", ALICE);
    let mut alice = people::Person::start(people::ALICE);
    opens(&mut alice, &file);
    world.kmsctl(&["key", "disable", "alias/top"]).ok();
    assert_eq!(alice.does(&["read", "f"]), "ENOKEY");
    assert_eq!(alice.does(&["sigbus", "f"]), "SIGBUS");
    assert_eq!(alice.does(&["open", "again", "r", &file]), "ENOKEY");
    // Root, too, but for naming it.
    assert!(fs::metadata(&mount.point).is_ok());
    let refused = fs::read(&file).unwrap_err();
    assert_eq!(refused.raw_os_error(), Some(libc::ENOKEY));
    world.kmsctl(&["key", "enable", "alias/top"]).ok();
    wait::until_true("the key being used again", wait::PATIENCE, || {
        alice.does(&["read", "f"]).starts_with("ok secret")
    });
    drop(alice);
    mount.unmount();
}

// SEMANTICS: One user's mounts
#[test]
fn a_mount_of_one_user_hears_of_a_disabled_key_when_it_asks() {
    if !machine_can() {
        return;
    }
    let world = shared_world();
    world.key("alias/top");
    let lower = world.volume("own", "alias/top");
    let mount = world.mount_with(&lower, &[]);
    fs::write(mount.path("file"), "secret").unwrap();
    let mut file = people::Person::start(0);
    let path = mount.path("file");
    assert_eq!(file.does(&["open", "f", "r", path.to_str().unwrap()]), "ok");
    world.kmsctl(&["key", "disable", "alias/top"]).ok();
    wait::until_true(
        "the next question",
        std::time::Duration::from_secs(30),
        || file.does(&["read", "f"]) == "ENOKEY",
    );
    world.kmsctl(&["key", "enable", "alias/top"]).ok();
    wait::until_true(
        "the question after it",
        std::time::Duration::from_secs(30),
        || file.does(&["read", "f"]) == "ok secret",
    );
    drop(file);
    mount.unmount();
}
