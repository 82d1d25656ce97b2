//! A user loses access to what they have open; others go on.

use std::fs;
use std::os::unix::process::ExitStatusExt;

use crate::people::{self, ALICE, BOB, Person, open_directory, open_file, shared, text};

/// SEMANTICS: a user who loses access, ekeyrevoked
#[test]
fn stale_takes_everything_from_one_user_and_lets_others_open_again() {
    if !crate::machine_can() {
        return;
    }
    let world = people::world();
    for mode in ["xts", "gcm"] {
        println!("mode {mode}");
        let mount = shared(&world, mode, &[]);
        let inside = mount.path("inside");
        let (both, hers, his) = (inside.join("both"), inside.join("hers"), inside.join("his"));
        for path in [&both, &hers, &his] {
            open_file(path, "secret");
        }
        let outside = mount.path("outside/file");
        open_file(&outside, "outside");
        open_directory(&inside.join("deep"));
        open_file(&inside.join("deep/file"), "deep");
        let mut alice = Person::start(ALICE);
        let mut bob = Person::start(BOB);
        for (name, path) in [("both", &both), ("hers", &hers)] {
            assert_eq!(alice.does(&["open", name, "rw", text(path)]), "ok");
            assert!(
                alice
                    .does(&["map", name, "shared"])
                    .starts_with("ok secret")
            );
        }
        assert_eq!(alice.does(&["open", "outside", "r", text(&outside)]), "ok");
        assert_eq!(alice.does(&["open", "dir", "dir", text(&inside)]), "ok");
        assert_eq!(alice.does(&["chdir", text(&inside.join("deep"))]), "ok");
        for (name, path) in [("both", &both), ("his", &his)] {
            assert_eq!(bob.does(&["open", name, "rw", text(path)]), "ok");
            assert!(
                bob.does(&["map", name, "writable"])
                    .starts_with("ok secret")
            );
        }
        assert_eq!(bob.does(&["chdir", text(&inside)]), "ok");
        let number = bob.does(&["fstat", "both"]);
        assert_eq!(bob.does(&["store", "both", "dirty"]), "ok");

        let user = ALICE.to_string();
        let said = world.kmsctl(&["--json", "fs", "lock", text(&inside), "--user", &user]);
        let locked = said.ok().json();
        assert_eq!(locked["files"], 2, "{locked}");
        let holders = locked["holders"].as_array().unwrap();
        assert!(
            holders.iter().all(|holder| holder["pid"] == alice.pid()),
            "{locked}"
        );
        // The cell of the table in which only she has the file open, and the one in which both have.
        for name in ["hers", "both"] {
            for (what, expected) in [
                (&["read", name][..], "EKEYREVOKED"),
                (&["splice", name], "EKEYREVOKED"),
                (&["touch", name], "EFAULT"),
                (&["sigbus", name], "SIGBUS"),
                (&["write", name, "x"], "EKEYREVOKED"),
                (&["again", name], "ESTALE"),
            ] {
                assert_eq!(alice.does(what), expected, "{what:?}");
            }
        }
        for (what, expected) in [
            // Of which the first call is an fstat.
            (&["listfd", "dir"][..], "EACCES"),
            (&["open", "new", "r", text(&both)], "EACCES"),
            (&["open", "new", "r", "file"], "EACCES"),
            (&["stat", "file"], "EACCES"),
            (&["stat", text(&inside)], "EACCES"),
            (&["list", text(&inside)], "EACCES"),
        ] {
            assert_eq!(alice.does(what), expected, "{what:?}");
        }
        assert!(alice.does(&["read", "outside"]).starts_with("ok outside"));
        // Others: the shared file has to be opened again, all the rest goes on.
        assert_eq!(bob.does(&["read", "both"]), "ESTALE");
        assert_eq!(bob.does(&["write", "both", "x"]), "ESTALE");
        assert_eq!(bob.does(&["touch", "both"]), "EFAULT");
        assert!(bob.does(&["read", "his"]).starts_with("ok secret"));
        assert!(bob.does(&["touch", "his"]).starts_with("ok secret"));
        assert_eq!(bob.does(&["list", "."]), "ok both,deep,hers,his");
        assert_eq!(bob.does(&["open", "new", "rw", text(&both)]), "ok");
        assert!(bob.does(&["read", "new"]).starts_with("ok dirty"));
        assert_eq!(bob.does(&["fstat", "new"]), number);
        // What he reads and writes now does not reach her.
        assert_eq!(bob.does(&["write", "new", "fresh"]), "ok");
        assert!(
            bob.does(&["map", "new", "writable"])
                .starts_with("ok fresh")
        );
        assert_eq!(bob.does(&["store", "new", "newer"]), "ok");
        assert_eq!(alice.does(&["read", "both"]), "EKEYREVOKED");
        assert_eq!(alice.does(&["touch", "both"]), "EFAULT");

        world
            .kmsctl(&["fs", "unlock", text(&inside), "--user", &user])
            .ok();
        assert_eq!(alice.does(&["read", "both"]), "EKEYREVOKED");
        assert_eq!(alice.does(&["open", "new", "r", text(&both)]), "ok");
        assert!(alice.does(&["read", "new"]).starts_with("ok newer"));
        assert_eq!(
            alice.does(&["list", text(&inside)]),
            "ok both,deep,hers,his"
        );
        drop((alice, bob));
        mount.unmount();
    }
}

/// SEMANTICS: killing instead
#[test]
fn kill_ends_the_user_s_processes_and_nobody_else_notices() {
    if !crate::machine_can() {
        return;
    }
    let world = people::world();
    let mount = shared(&world, "xts", &[]);
    let inside = mount.path("inside");
    let both = inside.join("both");
    open_file(&both, "secret");
    let mut alice = Person::start(ALICE);
    let mut stands = Person::start(ALICE);
    let mut idle = Person::start(ALICE);
    let mut bob = Person::start(BOB);
    assert_eq!(alice.does(&["open", "both", "r", text(&both)]), "ok");
    assert!(
        alice
            .does(&["map", "both", "shared"])
            .starts_with("ok secret")
    );
    assert_eq!(alice.does(&["close", "both"]), "ok");
    assert_eq!(stands.does(&["chdir", text(&inside)]), "ok");
    assert!(idle.does(&["pid"]).starts_with("ok"));
    assert_eq!(bob.does(&["open", "both", "rw", text(&both)]), "ok");
    assert!(
        bob.does(&["map", "both", "writable"])
            .starts_with("ok secret")
    );
    let user = ALICE.to_string();
    let said = world.kmsctl(&[
        "--json",
        "fs",
        "lock",
        text(&inside),
        "--user",
        &user,
        "--force",
    ]);
    let locked = said.ok().json();
    let mut killed: Vec<_> = locked["killed"]
        .as_array()
        .unwrap()
        .iter()
        .map(|pid| pid.as_u64().unwrap())
        .collect();
    killed.sort_unstable();
    let mut expected = vec![u64::from(alice.pid()), u64::from(stands.pid())];
    expected.sort_unstable();
    assert_eq!(killed, expected, "{locked}");
    assert_eq!(locked["files"], 0, "{locked}");
    for person in [&mut alice, &mut stands] {
        assert_eq!(person.end().signal(), Some(libc::SIGKILL));
    }
    assert!(bob.does(&["read", "both"]).starts_with("ok secret"));
    assert!(bob.does(&["touch", "both"]).starts_with("ok secret"));
    assert_eq!(bob.does(&["write", "both", "after"]), "ok");
    assert_eq!(idle.does(&["open", "both", "r", text(&both)]), "EACCES");
    assert_eq!(fs::read(&both).unwrap().get(..5).unwrap(), b"after");
    drop((idle, bob));
    mount.unmount();
}

/// SEMANTICS: what remains observable
#[test]
fn what_was_copied_before_remains() {
    if !crate::machine_can() {
        return;
    }
    let world = people::world();
    let mount = shared(&world, "xts", &[]);
    let inside = mount.path("inside");
    let file = inside.join("file");
    open_file(&file, "secret");
    let mut alice = Person::start(ALICE);
    let mut bob = Person::start(BOB);
    assert_eq!(alice.does(&["open", "file", "r", text(&file)]), "ok");
    assert!(alice.does(&["map", "file", "own"]).starts_with("ok secret"));
    assert_eq!(alice.does(&["store", "file", "copied"]), "ok");
    let size = alice.does(&["known", "file"]);
    assert_eq!(alice.does(&["chdir", text(&inside)]), "ok");
    let user = ALICE.to_string();
    world
        .kmsctl(&["fs", "lock", text(&inside), "--user", &user])
        .ok();
    // The page that she wrote is hers.
    assert!(alice.does(&["touch", "file"]).starts_with("ok copied"));
    assert_eq!(alice.does(&["read", "file"]), "EKEYREVOKED");
    assert_eq!(alice.does(&["known", "file"]), size);
    assert_eq!(alice.does(&["cwd"]), format!("ok {}", text(&inside)));
    // What he gives her is his.
    assert_eq!(bob.does(&["open", "file", "r", text(&file)]), "ok");
    assert!(bob.does(&["read", "file"]).starts_with("ok secret"));
    drop((alice, bob));
    mount.unmount();
}
