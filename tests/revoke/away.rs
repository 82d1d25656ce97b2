//! kmsd stopped, hung and back again.

use std::fs;
use std::time::Duration;

use kms_tests::wait;
use rustix::process::Signal;

use crate::machine_can;
use crate::people;
use crate::shared::{ALICE, BOB, CAROL, grant, shared_mount, shared_world, shared_world_with};

// SEMANTICS: kmsd away
#[test]
fn a_restart_of_kmsd_goes_unnoticed_and_what_needs_it_waits_no_longer_than_the_limit() {
    if !machine_can() {
        return;
    }
    let mut world = shared_world();
    let mount = shared_mount(&world, "key_wait=2");
    let root = mount.point.to_str().unwrap().to_owned();
    grant(&world, "alias/top", ALICE);
    ALICE.soon(&format!("echo one > {root}/file"));

    // Who was let in a moment ago need not be asked about again.
    world.daemon.stop();
    ALICE.sh(&format!("cat {root}/file")).says("one\n");
    // Who was not is not let in: after the limit, not before and not much later.
    BOB.sh(&format!("ls {root}")).fails("timed out");
    world.daemon.start();
    ALICE.sh(&format!("cat {root}/file")).says("one\n");
    BOB.sh(&format!("ls {root}")).fails("Permission denied");

    // Hung: the connection is taken, and nothing is said.
    let pid = world.daemon.process().pid();
    let signal = |signal| rustix::process::kill_process(pid, signal).unwrap();
    wait::until_true("a moment without news", wait::PATIENCE, || {
        signal(Signal::STOP);
        // After its start kmsd looks at the host's users and groups, and may have something to say of them.
        let read = ALICE.sh(&format!("cat {root}/file"));
        if !read.ok {
            signal(Signal::CONT);
            ALICE.soon(&format!("cat {root}/file"));
        }
        read.ok
    });
    // Far more than there are threads that wait; none waits longer because of the others.
    let waiting: Vec<_> = (0..40)
        .map(|_| {
            CAROL
                .command(&format!("timeout 20 ls {root}"))
                .stderr(std::process::Stdio::piped())
                .spawn()
                .unwrap()
        })
        .collect();
    for child in waiting {
        let output = child.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(said.contains("timed out"), "{:?} {said}", output.status);
    }
    // The lease has run out by then: nobody is let in on what was said before.
    wait::until_true("the end of the lease", Duration::from_secs(30), || {
        mount.log().contains("has not been heard of for too long")
    });
    let said = ALICE.sh(&format!("ls {root}"));
    let locked = ["timed out", "Required key not available"];
    assert!(
        !said.ok && locked.iter().any(|why| said.stderr.contains(why)),
        "{said:?}"
    );
    signal(Signal::CONT);
    ALICE.soon(&format!("cat {root}/file"));
    mount.unmount();
}

// SEMANTICS: a mount that hangs
// SEMANTICS: A mount that hangs
#[test]
fn who_did_not_acknowledge_is_named_and_lets_nobody_in_when_it_wakes() {
    if !machine_can() {
        return;
    }
    let world = shared_world_with("\n[lease]\nduration = 2\n");
    let mount = shared_mount(&world, "");
    let [open, idle] = ["open", "idle"].map(|name| mount.path(name));
    for file in [&open, &idle] {
        people::open_file(file, "secret");
    }
    let given = grant(&world, "alias/top", ALICE);
    grant(&world, "alias/top", BOB);
    let mut alice = people::Person::start(people::ALICE);
    let mut again = people::Person::start(people::ALICE);
    let mut bob = people::Person::start(people::BOB);
    for person in [&mut alice, &mut again, &mut bob] {
        wait::until_true("a grant to count", wait::PATIENCE, || {
            person.does(&["open", "f", "r", people::text(&open)]) == "ok"
        });
        assert!(
            person
                .does(&["map", "f", "shared"])
                .starts_with("ok secret")
        );
    }
    let signal = |signal| rustix::process::kill_process(mount.pid(), signal).unwrap();
    signal(Signal::STOP);
    let threads = format!("/proc/{}/task", mount.pid().as_raw_nonzero());
    wait::until_true("every thread stopped", wait::PATIENCE, || {
        fs::read_dir(&threads).unwrap().flatten().all(|thread| {
            let stat = fs::read_to_string(thread.path().join("stat"));
            stat.is_ok_and(|stat| stat.contains(") T "))
        })
    });
    alice.begins(&["open", "new", "r", people::text(&idle)]);
    let said = world.kmsctl(&["grant", "revoke", "alias/top", &given]).ok();
    assert!(
        said.stderr.contains("did not answer") && said.stderr.contains(people::text(&mount.point)),
        "{said:?}"
    );
    // What no call of kmsfs is needed for.
    assert!(again.does(&["touch", "f"]).starts_with("ok secret"));
    signal(Signal::CONT);
    // She had been let in, but on an answer that has run out.
    assert_eq!(alice.ended(), "EACCES");
    wait::until_true("the mount hearing of it", wait::PATIENCE, || {
        again.does(&["read", "f"]) == "EKEYREVOKED"
    });
    assert_eq!(again.does(&["touch", "f"]), "EFAULT");
    // Another lease, under which he is asked about anew.
    wait::until_true("what was not revoked", wait::PATIENCE, || {
        bob.does(&["open", "f", "r", people::text(&open)]) == "ok"
    });
    assert!(bob.does(&["map", "f", "shared"]).starts_with("ok secret"));
    assert!(!mount.log().contains("locked until"), "{}", mount.log());
    drop((alice, again));
    // What was open does not end with kmsfs.
    mount.kill();
    assert!(bob.does(&["touch", "f"]).starts_with("ok secret"));
    drop(bob);
}
