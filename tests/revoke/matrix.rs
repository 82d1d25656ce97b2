//! Three users and two policies in one mount: who notices what, for each way in which access ends.
//!
//! Alice loses access to `hr`, bob keeps it, carol never had it; alice and carol keep `lab`. What is expected is written
//! from docs/SEMANTICS.md, cell by cell.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::Child;

use kms_tests::mount::Mount;
use kms_tests::wait;
use kms_tests::world::World;
use serde_json::json;

use crate::people::{ALICE, BOB, Person, as_user, open_directory, open_file, text};
use crate::shared::{self, grant, revoke, shared_mount, shared_world};

const CAROL: u32 = 3003;
const SECRET: &str = "ok secret";

/// The mount, with everything that does not change from one way to the next.
struct Place {
    mount: Mount,
    world: World,
    hr: PathBuf,
    lab: PathBuf,
    /// Alice's, on the key of `hr`.
    given: String,
}

impl Place {
    fn new() -> Place {
        let world = shared_world();
        let mount = shared_mount(&world, "");
        let (hr, lab) = (mount.path("hr"), mount.path("lab"));
        for (directory, alias) in [(&hr, "alias/hr"), (&lab, "alias/lab")] {
            world.key(alias);
            open_directory(directory);
            let directory = text(directory);
            world
                .kmsctl(&["fs", "protect", directory, "--key", alias])
                .ok();
        }
        for name in ["both", "hers", "his", "idle"] {
            open_file(&hr.join(name), "secret");
        }
        open_directory(&hr.join("deep"));
        open_file(&hr.join("deep/file"), "secret");
        open_file(&lab.join("file"), "secret");
        let program = hr.join("program");
        fs::copy("/bin/dash", &program).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        for person in [shared::ALICE, shared::BOB, shared::CAROL] {
            grant(&world, "alias/top", person);
        }
        grant(&world, "alias/hr", shared::BOB);
        for person in [shared::ALICE, shared::CAROL] {
            grant(&world, "alias/lab", person);
        }
        let given = grant(&world, "alias/hr", shared::ALICE);
        Place {
            mount,
            world,
            hr,
            lab,
            given,
        }
    }

    fn kmsctl(&self, arguments: &[&str]) {
        self.world.kmsctl(arguments).ok();
    }

    /// The policy of `hr`, which is the one under its key.
    fn holders_are(&self, mode: &str) {
        let volumes = self.world.call_local("ListVolumes", &json!({}));
        let volume = volumes["Volumes"][0]["VolumeId"].clone();
        let described = self
            .world
            .call_local("DescribeVolume", &json!({ "VolumeId": volume }));
        for policy in described["Policies"].as_array().unwrap() {
            let body =
                json!({"VolumeId": volume, "PolicyId": policy["PolicyId"], "RevokeMode": mode});
            self.world.call_local("UpdatePolicy", &body);
        }
    }
}

/// Three users in the middle of things.
struct Scene {
    alice: Person,
    bob: Person,
    carol: Person,
    /// Alice's, and as busy as it can be.
    program: Child,
}

impl Scene {
    fn begin(place: &Place) -> Scene {
        let file = |name: &str| place.hr.join(name).to_str().unwrap().to_owned();
        let lab = place.lab.join("file");
        let [mut alice, mut bob, mut carol] = [ALICE, BOB, CAROL].map(Person::start);
        for (person, own) in [(&mut alice, "hers"), (&mut bob, "his")] {
            wait::until_true("a grant to count", wait::PATIENCE, || {
                person.does(&["open", "both", "rw", &file("both")]) == "ok"
            });
            assert_eq!(person.does(&["open", "own", "rw", &file(own)]), "ok");
            for (name, how) in [("both", "shared"), ("own", "private")] {
                assert!(person.does(&["read", name]).starts_with(SECRET));
                assert!(person.does(&["map", name, how]).starts_with(SECRET));
            }
            assert_eq!(person.does(&["open", "dir", "dir", text(&place.hr)]), "ok");
            assert!(person.does(&["listfd", "dir"]).starts_with("ok both,deep"));
            assert_eq!(person.does(&["open", "idle", "path", &file("idle")]), "ok");
            assert_eq!(person.does(&["chdir", &file("deep")]), "ok");
            assert!(person.does(&["stat", "file"]).starts_with("ok"));
            assert_eq!(person.does(&["run", &file("program")]), "ok");
        }
        for person in [&mut alice, &mut carol] {
            wait::until_true("a grant to count", wait::PATIENCE, || {
                person.does(&["open", "lab", "rw", text(&lab)]) == "ok"
            });
        }
        assert_eq!(carol.does(&["open", "both", "r", &file("both")]), "EACCES");
        // What was opened by alice and by bob, in carol's hands, and what was opened by bob in alice's.
        pass(&mut alice, "own", &mut carol, "alice's");
        pass(&mut bob, "own", &mut carol, "bob's");
        pass(&mut bob, "own", &mut alice, "bob's");
        for name in ["alice's", "bob's"] {
            assert!(carol.does(&["read", name]).starts_with(SECRET));
        }
        assert!(alice.does(&["read", "bob's"]).starts_with(SECRET));
        let program = as_user(ALICE, &file("program"))
            .args(["-c", "while :; do :; done"])
            .spawn()
            .unwrap();
        let exe = format!("/proc/{}/exe", program.id());
        wait::until_true("the program running", wait::PATIENCE, || {
            fs::read_link(&exe).is_ok_and(|exe| exe.ends_with("hr/program"))
        });
        Scene {
            alice,
            bob,
            carol,
            program,
        }
    }

    /// Alice and whoever has what she opened: nothing of `hr` any more.
    fn alice_has_nothing(&mut self, place: &Place) {
        let (hr, both) = (text(&place.hr), place.hr.join("both"));
        let idle = place.hr.join("idle");
        cells(
            "alice",
            &mut self.alice,
            &[
                (&["read", "both"], "EKEYREVOKED"),
                (&["read", "own"], "EKEYREVOKED"),
                (&["splice", "both"], "EKEYREVOKED"),
                (&["write", "own", "x"], "EKEYREVOKED"),
                (&["touch", "both"], "EFAULT"),
                (&["sigbus", "both"], "SIGBUS"),
                (&["touch", "own"], "EFAULT"),
                (&["sigbus", "own"], "SIGBUS"),
                // The kernel asks about the node alone, which is another one now.
                (&["fstat", "own"], "ESTALE"),
                (&["again", "both"], "ESTALE"),
                (&["again", "own"], "ESTALE"),
                (&["again", "idle"], "EACCES"),
                (&["listfd", "dir"], "EACCES"),
                (&["list", "."], "EACCES"),
                (&["stat", "file"], "EACCES"),
                (&["open", "new", "r", "file"], "EACCES"),
                (&["open", "new", "r", text(&both)], "EACCES"),
                (&["open", "new", "r", text(&idle)], "EACCES"),
                (&["open", "new", "path", text(&both)], "EACCES"),
                (&["stat", hr], "EACCES"),
                (&["list", hr], "EACCES"),
                (&["chdir", hr], "EACCES"),
                (&["run", text(&place.hr.join("program"))], "status 127"),
            ],
        );
        assert_eq!(self.carol.does(&["read", "alice's"]), "EKEYREVOKED");
        assert_eq!(self.program.wait().unwrap().signal(), Some(libc::SIGBUS));
        // What is bob's is bob's.
        assert!(self.alice.does(&["read", "bob's"]).starts_with(SECRET));
        assert!(self.alice.does(&["read", "lab"]).starts_with(SECRET));
    }

    /// The cell of the shared file where nobody is killed: bob opens it again.
    fn bob_opens_again(&mut self, place: &Place) {
        let both = place.hr.join("both");
        cells(
            "bob",
            &mut self.bob,
            &[
                (&["read", "both"], "ESTALE"),
                (&["write", "both", "x"], "ESTALE"),
                (&["touch", "both"], "EFAULT"),
                (&["open", "both", "rw", text(&both)], "ok"),
            ],
        );
        let mapped = self.bob.does(&["map", "both", "shared"]);
        assert!(mapped.starts_with(SECRET), "{mapped}");
    }

    /// Everything that bob has works, and what carol has of him.
    fn others_go_on(&mut self, place: &Place) {
        for name in ["both", "own"] {
            for what in ["read", "splice", "touch"] {
                let said = self.bob.does(&[what, name]);
                assert!(said.starts_with(SECRET), "bob, {what} {name}: {said}");
            }
        }
        let hr = place.hr.join("program");
        for what in [
            &["write", "both", "secret"][..],
            &["fsync", "both"],
            &["again", "idle"],
            &["listfd", "dir"],
            &["list", "."],
            &["stat", "file"],
            &["open", "new", "r", "file"],
            &["run", text(&hr)],
        ] {
            let said = self.bob.does(what);
            assert!(said.starts_with("ok"), "bob, {what:?}: {said}");
        }
        for name in ["bob's", "lab"] {
            let said = self.carol.does(&["read", name]);
            assert!(said.starts_with(SECRET), "carol, {name}: {said}");
        }
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        let _ = self.program.kill();
        let _ = self.program.wait();
    }
}

/// A descriptor goes through a socket.
fn pass(from: &mut Person, name: &str, to: &mut Person, new: &str) {
    let place = format!("kms-matrix-{}-{}", from.pid(), to.pid());
    assert_eq!(to.does(&["await", &place]), "ok");
    to.begins(&["take", new, &place]);
    assert_eq!(from.does(&["give", name, &place]), "ok");
    assert_eq!(to.ended(), "ok");
}

fn cells(who: &str, person: &mut Person, cells: &[(&[&str], &str)]) {
    let wrong: Vec<_> = cells
        .iter()
        .filter_map(|(what, expected)| {
            let said = person.does(what);
            (said != *expected).then(|| format!("{what:?}: {said} instead of {expected}"))
        })
        .collect();
    assert!(wrong.is_empty(), "{who}:\n{}", wrong.join("\n"));
}

// SEMANTICS: A user who loses access, With a handle, New and lost grants
#[test]
fn one_user_loses_what_is_open_in_the_middle_of_everything() {
    if !crate::machine_can() {
        return;
    }
    let mut place = Place::new();
    let user = ALICE.to_string();
    let hr = text(&place.hr).to_owned();
    let key = place
        .world
        .call("DescribeKey", &json!({"KeyId": "alias/hr"}));
    let key = key["KeyMetadata"]["KeyId"].as_str().unwrap().to_owned();
    let before = place.world.call(
        "GetKeyPolicy",
        &json!({"KeyId": key, "PolicyName": "default"}),
    );
    let put = |place: &Place, policy: &str| {
        let body = json!({"KeyId": key, "PolicyName": "default", "Policy": policy});
        place.world.call("PutKeyPolicy", &body);
    };
    let before = before["Policy"].as_str().unwrap().to_owned();
    for way in ["grant", "policy", "end", "lock"] {
        println!("{way}");
        let mut scene = Scene::begin(&place);
        match way {
            "grant" => revoke(&place.world, "alias/hr", &place.given),
            "policy" => {
                let mut policy: serde_json::Value = serde_json::from_str(&before).unwrap();
                let statements = policy["Statement"].as_array_mut().unwrap();
                statements.push(json!({"Sid": "NotAlice", "Effect": "Deny",
                    "Principal": {"AWS": format!("arn:aws:iam::000000000000:user/uid-{ALICE}")},
                    "Action": "kms:Decrypt", "Resource": "*"}));
                put(&place, &policy.to_string());
            }
            "end" => {
                // The other one goes, which she does not notice; then the end of this one comes.
                let to = shared::ALICE.grantee();
                place.kmsctl(&[
                    "grant",
                    "create",
                    "alias/hr",
                    "--to",
                    &to,
                    "--operations",
                    "Decrypt",
                    "--for",
                    "1h",
                ]);
                revoke(&place.world, "alias/hr", &place.given);
                assert!(scene.alice.does(&["read", "own"]).starts_with(SECRET));
                // No call tells when all of it has ended: the log of the mount does.
                let ends = |place: &Place| place.mount.log().matches("a user lost access").count();
                let before = ends(&place);
                place.world.daemon.set_clock(3601);
                wait::until_true("the end of the grant", wait::PATIENCE, || {
                    ends(&place) > before
                        && scene.alice.does(&["read", "own"]) == "EKEYREVOKED"
                        && scene.program.try_wait().unwrap().is_some()
                });
            }
            _ => place.kmsctl(&["fs", "lock", &hr, "--user", &user]),
        }
        scene.alice_has_nothing(&place);
        scene.bob_opens_again(&place);
        scene.others_go_on(&place);
        // Access again is for what is opened from now on.
        match way {
            "policy" => put(&place, &before),
            "lock" => place.kmsctl(&["fs", "unlock", &hr, "--user", &user]),
            _ => place.given = grant(&place.world, "alias/hr", shared::ALICE),
        }
        let idle = place.hr.join("idle");
        wait::until_true("access again", wait::PATIENCE, || {
            scene.alice.does(&["open", "new", "r", text(&idle)]) == "ok"
        });
        assert!(scene.alice.does(&["read", "new"]).starts_with(SECRET));
        assert_eq!(scene.alice.does(&["read", "own"]), "EKEYREVOKED");
        assert!(scene.alice.does(&["list", "."]).starts_with("ok file"));
    }
    place.mount.unmount();
}

// SEMANTICS: Killing instead
#[test]
fn where_holders_are_killed_nobody_else_notices() {
    if !crate::machine_can() {
        return;
    }
    let place = Place::new();
    place.holders_are("KILL");
    let mut scene = Scene::begin(&place);
    // Only what is hers: whoever else has a descriptor of hers counts as a holder.
    assert_eq!(scene.carol.does(&["close", "alice's"]), "ok");
    let mut outside = Person::start(ALICE);
    assert!(outside.does(&["pid"]).starts_with("ok"));
    revoke(&place.world, "alias/hr", &place.given);
    assert_eq!(scene.alice.end().signal(), Some(libc::SIGKILL));
    assert_eq!(scene.program.wait().unwrap().signal(), Some(libc::SIGKILL));
    scene.others_go_on(&place);
    let both = place.hr.join("both");
    assert_eq!(outside.does(&["open", "new", "r", text(&both)]), "EACCES");
    drop((scene, outside));
    place.mount.unmount();
}

// SEMANTICS: Locking a directory, ENOKEY
#[test]
fn what_nobody_may_use_fails_for_everybody_and_comes_back() {
    if !crate::machine_can() {
        return;
    }
    let place = Place::new();
    for way in ["disable", "schedule"] {
        println!("{way}");
        let mut scene = Scene::begin(&place);
        match way {
            "disable" => place.kmsctl(&["key", "disable", "alias/hr"]),
            _ => place.kmsctl(&["key", "schedule-deletion", "alias/hr", "--yes"]),
        }
        let both = place.hr.join("both");
        for (who, person) in [("alice", &mut scene.alice), ("bob", &mut scene.bob)] {
            cells(
                who,
                person,
                &[
                    (&["read", "both"], "ENOKEY"),
                    (&["splice", "own"], "ENOKEY"),
                    (&["write", "own", "x"], "ENOKEY"),
                    (&["touch", "both"], "EFAULT"),
                    (&["sigbus", "own"], "SIGBUS"),
                    (&["again", "both"], "ENOKEY"),
                    (&["again", "idle"], "ENOKEY"),
                    (&["listfd", "dir"], "ENOKEY"),
                    (&["list", "."], "ENOKEY"),
                    (&["stat", "file"], "ENOKEY"),
                    (&["open", "new", "r", text(&both)], "ENOKEY"),
                ],
            );
        }
        for name in ["alice's", "bob's"] {
            assert_eq!(scene.carol.does(&["read", name]), "ENOKEY", "{name}");
        }
        assert_eq!(scene.program.wait().unwrap().signal(), Some(libc::SIGBUS));
        for person in [&mut scene.alice, &mut scene.carol] {
            assert!(person.does(&["read", "lab"]).starts_with(SECRET));
        }
        if way == "schedule" {
            place.kmsctl(&["key", "cancel-deletion", "alias/hr"]);
            assert_eq!(scene.bob.does(&["read", "both"]), "ENOKEY");
        }
        place.kmsctl(&["key", "enable", "alias/hr"]);
        wait::until_true("the key being used again", wait::PATIENCE, || {
            scene.bob.does(&["read", "both"]).starts_with(SECRET)
        });
        assert!(scene.alice.does(&["read", "own"]).starts_with(SECRET));
        assert!(scene.alice.does(&["touch", "both"]).starts_with(SECRET));
        assert!(scene.carol.does(&["read", "alice's"]).starts_with(SECRET));
        scene.others_go_on(&place);
    }
    place.mount.unmount();
}
