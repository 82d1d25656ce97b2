//! Access times by the options of the mount, and times far away.

use std::fs::{self, File, OpenOptions};
use std::io::Read;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::process::Command;

use kms_tests::daemon::path_text;
use kms_tests::require::output_of;
use kms_tests::world::World;
use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, UTIME_NOW, UTIME_OMIT};

use crate::on_a_mount;

const LONG_AGO: i64 = 1_000_000_000;

fn set(path: &Path, access: Timespec, modification: Timespec) {
    let times = Timestamps {
        last_access: access,
        last_modification: modification,
    };
    rustix::fs::utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
}

fn at(tv_sec: i64, tv_nsec: i64) -> Timespec {
    Timespec { tv_sec, tv_nsec }
}

/// Whether reading moved the access time of the file, which is old before; nothing else may change.
fn moved(path: &Path, read: impl FnOnce()) -> bool {
    let before = path.symlink_metadata().unwrap();
    // The kernel's clock for files stands still for up to 10 ms.
    std::thread::sleep(std::time::Duration::from_millis(20));
    read();
    let after = path.symlink_metadata().unwrap();
    assert_eq!(
        (before.ctime(), before.ctime_nsec()),
        (after.ctime(), after.ctime_nsec()),
        "reading is no change of status"
    );
    assert_eq!(before.mtime(), after.mtime());
    (before.atime(), before.atime_nsec()) != (after.atime(), after.atime_nsec())
}

/// SEMANTICS: access times
#[test]
fn access_times() {
    if !crate::machine_can() {
        return;
    }
    let world = World::start();
    world.key("alias/fs");
    // Below, every access counts: what is seen is what the mount decides.
    let ram = world.path("ram");
    fs::create_dir(&ram).unwrap();
    let disk = ["-t", "tmpfs", "-o", "strictatime", "tmpfs", path_text(&ram)];
    output_of(Command::new("mount").args(disk));
    let lower = ram.join("volume.lower");
    world.init(&lower, "alias/fs");
    for option in ["relatime", "noatime", "strictatime"] {
        let mount = world.mount_with(&lower, &[option]);
        let file = mount.path(format!("file-{option}"));
        for size in [10, 10_000] {
            fs::write(&file, vec![7; size]).unwrap();
            let old = at(LONG_AGO, 5);
            let age = || set(&file, old, at(LONG_AGO, 6));
            age();
            // Looking is not reading.
            let look = || {
                file.metadata().unwrap();
                assert!(file.exists());
                let flags = OpenOptions::new().write(true).open(&file);
                drop(flags.unwrap());
            };
            assert!(!moved(&file, look), "{option}: looking");
            let quiet = || {
                let mut options = OpenOptions::new();
                let mut file = options
                    .read(true)
                    .custom_flags(libc::O_NOATIME)
                    .open(&file)
                    .unwrap();
                file.read_to_end(&mut Vec::new()).unwrap();
            };
            assert!(!moved(&file, quiet), "{option}: O_NOATIME");
            let read = || drop(fs::read(&file).unwrap());
            assert_eq!(moved(&file, read), option != "noatime", "{option}: old");
            // Now it is newer than the last change, and of today.
            assert_eq!(
                moved(&file, read),
                option == "strictatime",
                "{option}: read again"
            );
            // A file that was not cached when it was written to is due again.
            OpenOptions::new()
                .append(true)
                .open(&file)
                .and_then(|mut file| std::io::Write::write_all(&mut file, b"more"))
                .unwrap();
            assert_eq!(moved(&file, read), option != "noatime", "{option}: changed");
        }
        mount.unmount();
    }
    // Nothing is written below a mount that is read-only.
    let mount = world.mount_with(&lower, &["ro"]);
    let file = mount.path("file-noatime");
    assert!(!moved(&file, || drop(File::open(&file).unwrap())));
    mount.unmount();
    output_of(Command::new("umount").arg(&ram));
}

/// SEMANTICS: times
#[test]
fn times_far_away() {
    let far = [
        (-1, 999_999_999),
        (-1, 0),
        (-2_000_000_000, 1),
        (0, 0),
        (4_102_444_800, 123_456_789),
        (10_000_000_000, 5),
    ];
    on_a_mount(
        &[],
        |mount| {
            for (number, (secs, nanos)) in far.into_iter().enumerate() {
                let path = mount.path(number.to_string());
                match number % 3 {
                    0 => fs::write(&path, "x").unwrap(),
                    1 => fs::create_dir(&path).unwrap(),
                    _ => std::os::unix::fs::symlink("x", &path).unwrap(),
                }
                set(&path, at(secs, nanos), at(secs, nanos));
            }
            // Each of the two by itself, left alone or set to the present.
            let file = mount.path("0");
            set(&file, at(0, UTIME_OMIT), at(77, 7));
            let meta = file.metadata().unwrap();
            assert_eq!((meta.atime(), meta.mtime(), meta.mtime_nsec()), (-1, 77, 7));
            set(&file, at(0, UTIME_NOW), at(0, UTIME_OMIT));
            let meta = file.metadata().unwrap();
            assert!(meta.atime() > LONG_AGO);
            assert_eq!((meta.mtime(), meta.mtime_nsec()), (77, 7));
            set(&file, at(-1, 999_999_999), at(-1, 999_999_999));
        },
        |mount| {
            for (number, (secs, nanos)) in far.into_iter().enumerate() {
                let path = mount.path(number.to_string());
                let meta = path.symlink_metadata().unwrap();
                assert_eq!((meta.mtime(), meta.mtime_nsec()), (secs, nanos));
            }
        },
    );
}
