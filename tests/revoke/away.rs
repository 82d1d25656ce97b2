//! kmsd stopped, hung and back again.

use std::time::Duration;

use kms_tests::wait;
use rustix::process::Signal;

use crate::machine_can;
use crate::shared::{ALICE, BOB, CAROL, grant, shared_mount, shared_world};

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
