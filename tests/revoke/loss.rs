//! What each policy has chosen for the time without kmsd: locked after a while, or open files go on.

use std::fs;
use std::path::Path;

use kms_tests::mount::Mount;
use kms_tests::wait;
use kms_tests::world::World;
use serde_json::Value;

use crate::machine_can;
use crate::people::{self, open_directory, open_file, text};
use crate::shared::{ALICE, grant, mount_again, protected_hr, shared_mount, shared_world_with};

/// The policies of the mount, as `kmsctl fs status` has them, and whether kmsd answered.
fn status(world: &World, mount: &Mount) -> (Vec<Value>, bool) {
    let said = world.kmsctl(&["--json", "fs", "status", text(&mount.point)]);
    let volume = said.ok().json()[0].clone();
    let policies = volume["policies"].as_array().unwrap().clone();
    (policies, volume["kmsd_error"].is_null())
}

/// The id of the policy of a directory.
fn id_of(policies: &[Value], directory: &Path) -> String {
    let found = policies
        .iter()
        .find(|policy| policy["directory"].as_str() == Some(text(directory)));
    found.unwrap()["policy"].as_str().unwrap().to_owned()
}

#[track_caller]
fn choose(world: &World, directory: &Path, what: &str) {
    world
        .kmsctl(&[
            "fs",
            "policy",
            "set",
            text(directory),
            "--on-kmsd-loss",
            what,
        ])
        .ok();
}

// SEMANTICS: kmsd away
#[test]
fn each_policy_is_locked_or_goes_on_as_it_says_and_both_recover() {
    if !machine_can() {
        return;
    }
    let mut world = shared_world_with("\n[lease]\nduration = 2\n");
    let mount = shared_mount(&world, "");
    protected_hr(&world, &mount);
    let [locked, kept] = ["hr", "kept"].map(|name| mount.path(name));
    fs::create_dir(&kept).unwrap();
    world
        .kmsctl(&["fs", "protect", text(&kept), "--key", "alias/hr"])
        .ok();
    for directory in [&locked, &kept] {
        open_directory(&directory.join("sub"));
        open_file(&directory.join("file"), "salaries");
        fs::set_permissions(
            directory,
            std::os::unix::fs::PermissionsExt::from_mode(0o755),
        )
        .unwrap();
    }
    choose(&world, &mount.point, "keep-open");
    choose(&world, &kept, "keep-open");
    choose(&world, &locked, "lock-after=1");
    let lower = mount.lower.clone();
    mount.unmount();
    let mount = mount_again(&world, &lower, "key_wait=1");
    grant(&world, "alias/hr", ALICE);
    let mut alice = people::Person::start(ALICE.0);
    let open = |alice: &mut people::Person, name: &str, path: &Path, how: &str| {
        alice.does(&["open", name, how, text(path)])
    };
    for (name, directory) in [("locked", &locked), ("kept", &kept)] {
        wait::until_true("a grant to count", wait::PATIENCE, || {
            open(&mut alice, name, &directory.join("file"), "r") == "ok"
        });
        let listed = format!("{name}.dir");
        assert_eq!(open(&mut alice, &listed, directory, "dir"), "ok");
        assert!(alice.does(&["read", name]).starts_with("ok salaries"));
    }
    let (policies, answers) = status(&world, &mount);
    assert!(answers);
    let (locked_id, kept_id) = (id_of(&policies, &locked), id_of(&policies, &kept));
    let of = |policies: &[Value], id: &str| {
        let mut policies = policies.iter();
        policies.find(|one| one["policy"] == id).unwrap().clone()
    };
    let settings = |id: &str| of(&policies, id)["settings"]["lock_after_seconds"].clone();
    assert_eq!(settings(&locked_id), 1);
    assert!(settings(&kept_id).is_null());

    world.daemon.stop();
    wait::until_true("the lock", wait::PATIENCE, || {
        of(&status(&world, &mount).0, &locked_id)["reason"]
            .as_str()
            .is_some_and(|reason| reason.contains("locked: kmsd is away"))
    });
    // Nobody gets a byte of it, by what is open either.
    assert_eq!(alice.does(&["read", "locked"]), "ENOKEY");
    // The other goes on, and says that it is open.
    assert!(alice.does(&["read", "kept"]).starts_with("ok salaries"));
    let (policies, answers) = status(&world, &mount);
    assert!(!answers);
    let one = of(&policies, &kept_id);
    assert!(
        one["unlocked"] == true && one["reason"].is_null(),
        "{one:#}"
    );
    // Nothing is opened or listed anew: nobody can be asked.
    for (name, directory) in [("locked.dir", &locked), ("kept.dir", &kept)] {
        let said = alice.does(&["listfd", name]);
        assert!(["ETIMEDOUT", "ENOKEY"].contains(&said.as_str()), "{said}");
        let said = open(&mut alice, "new", &directory.join("file"), "r");
        assert!(["ETIMEDOUT", "ENOKEY"].contains(&said.as_str()), "{said}");
    }
    world.daemon.start();
    wait::until_true("kmsd being back", wait::PATIENCE, || {
        alice.does(&["read", "locked"]).starts_with("ok salaries")
    });
    for (name, directory) in [("locked.dir", &locked), ("kept.dir", &kept)] {
        assert_eq!(alice.does(&["listfd", name]), "ok file,sub");
        let said = open(&mut alice, "new", &directory.join("file"), "r");
        assert_eq!(said, "ok");
        assert!(alice.does(&["read", "new"]).starts_with("ok salaries"));
    }
    let (policies, _) = status(&world, &mount);
    assert!(of(&policies, &locked_id)["reason"].is_null());
    drop(alice);
    mount.unmount();
}
