//! `kmsctl fs lock DIR`: nobody gets one more byte, and everything works again after `fs unlock`.

use std::fs;
use std::os::unix::process::ExitStatusExt;

use kms_tests::wait;

use crate::people::{self, ALICE, BOB, Person, as_user, open_directory, open_file, shared, text};

/// SEMANTICS: locking a directory
#[test]
fn what_is_open_ends_and_comes_back() {
    if !crate::machine_can() {
        return;
    }
    let world = people::world();
    for mode in ["xts", "gcm"] {
        println!("mode {mode}");
        let mount = shared(&world, mode, &[]);
        let inside = mount.path("inside");
        let file = inside.join("file");
        open_file(&file, "secret");
        let gone = inside.join("gone");
        open_file(&gone, "removed");
        let other = mount.path("outside/other");
        open_file(&other, "other");
        std::os::unix::fs::symlink("where it leads", inside.join("link")).unwrap();
        let mut alice = Person::start(ALICE);
        let mut bob = Person::start(BOB);
        for (name, path) in [("file", &file), ("gone", &gone)] {
            assert_eq!(alice.does(&["open", name, "r", text(path)]), "ok");
        }
        assert!(alice.does(&["read", "file"]).starts_with("ok secret"));
        assert!(
            alice
                .does(&["map", "file", "shared"])
                .starts_with("ok secret")
        );
        assert_eq!(alice.does(&["open", "dir", "dir", text(&inside)]), "ok");
        assert_eq!(alice.does(&["listfd", "dir"]), "ok file,gone,link");
        assert_eq!(alice.does(&["chdir", text(&inside)]), "ok");
        assert_eq!(alice.does(&["readlink", "link"]), "ok where it leads");
        assert_eq!(bob.does(&["open", "file", "rw", text(&file)]), "ok");
        assert!(
            bob.does(&["map", "file", "writable"])
                .starts_with("ok secret")
        );
        assert_eq!(bob.does(&["open", "other", "r", text(&other)]), "ok");
        fs::remove_file(&gone).unwrap();
        // Dirty when it is locked.
        assert_eq!(bob.does(&["store", "file", "changed"]), "ok");

        let said = world.kmsctl(&["--json", "fs", "lock", text(&inside)]).ok();
        let locked = said.json();
        assert_eq!(locked["files"], 2, "{locked}");
        let holders = locked["holders"].as_array().unwrap();
        for person in [&alice, &bob] {
            let named = |holder: &&serde_json::Value| holder["pid"] == person.pid();
            assert!(holders.iter().any(|h| named(&h)), "{locked}");
        }
        for (what, expected) in [
            (&["read", "file"][..], "ENOKEY"),
            (&["read", "gone"], "ENOKEY"),
            (&["splice", "file"], "ENOKEY"),
            (&["touch", "file"], "EFAULT"),
            (&["sigbus", "file"], "SIGBUS"),
            (&["again", "file"], "ENOKEY"),
            (&["listfd", "dir"], "ENOKEY"),
            (&["list", "."], "ENOKEY"),
            (&["stat", "file"], "ENOKEY"),
            (&["fstat", "file"], "ENOKEY"),
            (&["readlink", "link"], "ENOKEY"),
            (&["open", "new", "r", text(&file)], "ENOKEY"),
        ] {
            assert_eq!(alice.does(what), expected, "alice, {what:?}");
        }
        for (what, expected) in [
            (&["read", "file"][..], "ENOKEY"),
            (&["write", "file", "x"], "ENOKEY"),
            (&["fsync", "file"], "ENOKEY"),
            (&["touch", "file"], "EFAULT"),
        ] {
            assert_eq!(bob.does(what), expected, "bob, {what:?}");
        }
        assert!(bob.does(&["read", "other"]).starts_with("ok other"));
        // Root, too.
        let refused = fs::read(&file).unwrap_err();
        assert_eq!(refused.raw_os_error(), Some(libc::ENOKEY));
        assert!(inside.metadata().is_ok(), "what is locked can be named");

        let status = world.kmsctl(&["fs", "status", text(&mount.point)]).ok();
        assert!(
            status.stdout.contains("locked: by `kmsctl fs lock`"),
            "{status:?}"
        );
        world.kmsctl(&["fs", "unlock", text(&inside)]).ok();
        assert!(alice.does(&["read", "file"]).starts_with("ok changed"));
        assert!(alice.does(&["read", "gone"]).starts_with("ok removed"));
        assert!(alice.does(&["splice", "file"]).starts_with("ok changed"));
        assert!(alice.does(&["touch", "file"]).starts_with("ok changed"));
        assert_eq!(alice.does(&["listfd", "dir"]), "ok file,link");
        assert!(alice.does(&["stat", "file"]).starts_with("ok"));
        assert_eq!(alice.does(&["readlink", "link"]), "ok where it leads");
        assert_eq!(bob.does(&["write", "file", "after"]), "ok");
        assert_eq!(bob.does(&["store", "file", "again"]), "ok");
        assert!(alice.does(&["read", "file"]).starts_with("ok again"));
        let said = world
            .kmsctl(&["--json", "fs", "unlock", text(&inside)])
            .ok();
        assert_eq!(said.json()["was_locked"], false);
        drop((alice, bob));
        mount.unmount();
    }
}

#[test]
fn programs_that_run_end() {
    if !crate::machine_can() {
        return;
    }
    let world = people::world();
    let mount = shared(&world, "xts", &[]);
    let program = mount.path("inside/sleep");
    fs::copy("/bin/sleep", &program).unwrap();
    let mut running = as_user(ALICE, text(&program)).arg("1000").spawn().unwrap();
    let exe = format!("/proc/{}/exe", running.id());
    wait::until_true("the program running", wait::PATIENCE, || {
        fs::read_link(&exe).is_ok_and(|exe| exe == program)
    });
    let who = world.kmsctl(&["--json", "fs", "who", text(&mount.path("inside"))]);
    let who = who.ok().json();
    let found: Vec<_> = who
        .as_array()
        .unwrap()
        .iter()
        .filter(|holder| holder["pid"] == running.id())
        .map(|holder| holder["how"].clone())
        .collect();
    assert!(found.contains(&"program".into()), "{who}");
    let human = world.kmsctl(&["fs", "who", text(&mount.path("inside"))]);
    assert!(human.ok().stdout.contains("3001"));
    let nobody = world.kmsctl(&["fs", "who", text(&mount.path("outside"))]);
    assert!(nobody.ok().stdout.contains("Nobody"));
    world
        .kmsctl(&[
            "--json",
            "fs",
            "lock",
            text(&mount.path("inside")),
            "--force",
        ])
        .ok();
    let status = running.wait().unwrap();
    assert!(
        [Some(libc::SIGKILL), Some(libc::SIGBUS)].contains(&status.signal()),
        "{status}"
    );
    mount.unmount();
}

#[test]
fn only_directories_with_a_policy_of_their_own_can_be_locked() {
    if !crate::machine_can() {
        return;
    }
    let world = people::world();
    let mount = shared(&world, "xts", &[]);
    let below = mount.path("inside/below");
    open_directory(&below);
    world
        .kmsctl(&["fs", "lock", text(&below)])
        .fails_with("has no policy of its own");
    // The root of the mount is one, and what is below another one is not concerned.
    world.kmsctl(&["fs", "lock", text(&mount.point)]).ok();
    let refused = fs::read_dir(mount.path("outside")).unwrap_err();
    assert_eq!(refused.raw_os_error(), Some(libc::ENOKEY));
    let said = world.kmsctl(&["--json", "fs", "unlock", text(&below)]).ok();
    assert_eq!(said.json()["was_locked"], true);
    assert!(fs::read_dir(mount.path("outside")).is_ok());
    mount.unmount();
}

#[test]
fn what_is_locked_can_be_named_after_the_kernel_forgot_it() {
    if !crate::machine_can() {
        return;
    }
    let world = people::world();
    let mount = shared(&world, "xts", &[]);
    let inside = mount.path("inside");
    world.kmsctl(&["fs", "lock", text(&inside)]).ok();
    // Dentries and inodes: the next lookup makes a new node for the directory.
    fs::write("/proc/sys/vm/drop_caches", "2").unwrap();
    let again = world.kmsctl(&["--json", "fs", "lock", text(&inside)]).ok();
    assert_eq!(again.json()["files"], 0);
    fs::write("/proc/sys/vm/drop_caches", "2").unwrap();
    let said = world
        .kmsctl(&["--json", "fs", "unlock", text(&inside)])
        .ok();
    assert_eq!(said.json()["was_locked"], true);
    assert!(fs::read_dir(&inside).is_ok());
    mount.unmount();
}
