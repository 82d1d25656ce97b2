//! A lower file system that does not answer while access ends.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use kms_tests::mount::Mount;
use kms_tests::require::{self, output_of};
use kms_tests::wait;
use kms_tests::world::World;
use rustix::mount::{MountFlags, UnmountFlags};

use crate::people::{self, ALICE, BOB, Person, open_file, shared_over, text};

/// A lower file system of its own, which can be frozen: whoever writes to it hangs.
struct Lower {
    point: PathBuf,
    device: String,
}

impl Lower {
    fn make(world: &World) -> Lower {
        let image = world.path("image");
        fs::File::create(&image).unwrap().set_len(64 << 20).unwrap();
        output_of(Command::new("mkfs.ext4").args(["-q", "-F"]).arg(&image));
        let mut losetup = Command::new("losetup");
        let device = output_of(losetup.args(["--find", "--show"]).arg(&image));
        let lower = Lower {
            point: world.path("below"),
            device: device.trim().to_owned(),
        };
        fs::create_dir(&lower.point).unwrap();
        rustix::mount::mount(
            lower.device.as_str(),
            &lower.point,
            "ext4",
            MountFlags::empty(),
            None,
        )
        .unwrap();
        lower
    }

    fn freeze(&self) {
        output_of(Command::new("fsfreeze").arg("-f").arg(&self.point));
    }

    fn thaw(&self) {
        let _ = Command::new("fsfreeze").arg("-u").arg(&self.point).output();
    }
}

impl Drop for Lower {
    fn drop(&mut self) {
        self.thaw();
        wait::until_true("unmounting the lower file system", wait::PATIENCE, || {
            rustix::mount::unmount(&self.point, UnmountFlags::empty()).is_ok()
        });
        let _ = Command::new("losetup").args(["-d", &self.device]).status();
    }
}

/// A mount over such a one, with a file that both have open and mapped.
fn start(world: &World, lower: &Lower, options: &[&str]) -> (Mount, PathBuf, Person, Person) {
    let mount = shared_over(world, &lower.point.join("volume"), "xts", options);
    let file = mount.path("inside/file");
    open_file(&file, "secret");
    let mut alice = Person::start(ALICE);
    let mut bob = Person::start(BOB);
    for person in [&mut alice, &mut bob] {
        assert_eq!(person.does(&["open", "file", "rw", text(&file)]), "ok");
        let mapped = person.does(&["map", "file", "writable"]);
        assert!(mapped.starts_with("ok secret"), "{mapped}");
    }
    (mount, file, alice, bob)
}

fn machine_can() -> bool {
    crate::machine_can() && require::loop_devices() && require::program("fsfreeze")
}

fn inside(file: &Path) -> &str {
    text(file.parent().unwrap())
}

/// SEMANTICS: a lower file system that hangs
#[test]
fn what_cannot_be_finished_ends_the_mount() {
    if !machine_can() {
        return;
    }
    let world = people::world();
    let lower = Lower::make(&world);
    let (mut mount, file, mut alice, mut bob) = start(&world, &lower, &["revoke_limit=2"]);
    assert_eq!(bob.does(&["store", "file", "dirty"]), "ok");
    lower.freeze();
    // Its dirty page cannot be written.
    world
        .kmsctl(&["fs", "lock", inside(&file)])
        .fails_with("the mount was ended");
    for person in [&mut alice, &mut bob] {
        for what in [["read", "file"], ["splice", "file"]] {
            assert_eq!(person.does(&what), "ENOTCONN", "{what:?}");
        }
        assert_eq!(person.does(&["touch", "file"]), "EFAULT");
        assert_eq!(person.does(&["open", "new", "r", text(&file)]), "ENOTCONN");
    }
    lower.thaw();
    drop((alice, bob));
    let status = mount.process().wait(wait::PATIENCE);
    assert!(!status.success(), "{status}");
    let log = mount.log();
    assert!(log.contains("could not be finished in time"), "{log}");
    drop(mount);
}

#[test]
fn a_write_that_hangs_is_answered_and_holds_nothing_up() {
    if !machine_can() {
        return;
    }
    let world = people::world();
    let lower = Lower::make(&world);
    let (mount, file, mut alice, mut bob) = start(&world, &lower, &[]);
    lower.freeze();
    bob.begins(&["write", "file", "hangs"]);
    let kmsfs = mount.pid().as_raw_nonzero();
    wait::until_true("a thread that hangs", wait::PATIENCE, || {
        let threads = fs::read_dir(format!("/proc/{kmsfs}/task")).unwrap();
        threads.flatten().any(|thread| {
            let stat = fs::read_to_string(thread.path().join("stat"));
            stat.is_ok_and(|stat| stat.contains(") D "))
        })
    });
    let user = ALICE.to_string();
    world
        .kmsctl(&["fs", "lock", inside(&file), "--user", &user])
        .ok();
    assert_eq!(bob.ended(), "ESTALE");
    assert_eq!(alice.does(&["read", "file"]), "EKEYREVOKED");
    assert_eq!(alice.does(&["touch", "file"]), "EFAULT");
    lower.thaw();
    // Others go on.
    assert_eq!(bob.does(&["open", "new", "rw", text(&file)]), "ok");
    assert_eq!(bob.does(&["write", "new", "after"]), "ok");
    assert!(bob.does(&["read", "new"]).starts_with("ok after"));
    drop((alice, bob));
    mount.unmount();
}
