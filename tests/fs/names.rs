//! Names and targets at their limits, rename, many entries.

use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::symlink;

use rustix::fs::{CWD, RenameFlags};

use crate::{names, on_a_mount};

/// SEMANTICS: long names
#[test]
fn names_of_every_length() {
    let name =
        |length: usize| -> String { ('a'..='z').cycle().skip(length % 26).take(length).collect() };
    on_a_mount(
        &[],
        |mount| {
            for length in 1..=255 {
                fs::write(mount.path(name(length)), length.to_string()).unwrap();
            }
            let error = fs::write(mount.path("x".repeat(256)), "").unwrap_err();
            assert_eq!(error.raw_os_error(), Some(libc::ENAMETOOLONG));
            // Long names move, link and go like short ones.
            fs::rename(mount.path(name(255)), mount.path("y".repeat(254))).unwrap();
            fs::hard_link(mount.path(name(254)), mount.path("z".repeat(253))).unwrap();
            fs::remove_file(mount.path(name(253))).unwrap();
            fs::create_dir(mount.path("d".repeat(255))).unwrap();
            fs::write(mount.path("d".repeat(255)).join("e".repeat(255)), "deep").unwrap();
        },
        |mount| {
            let mut expected: HashSet<String> = (1..=252).chain([254]).map(name).collect();
            expected.extend(["y".repeat(254), "z".repeat(253), "d".repeat(255)]);
            assert_eq!(names(&mount.point), expected);
            assert_eq!(
                fs::read_to_string(mount.path("y".repeat(254))).unwrap(),
                "255"
            );
            assert_eq!(fs::read_to_string(mount.path(name(200))).unwrap(), "200");
            let deep = mount.path("d".repeat(255)).join("e".repeat(255));
            assert_eq!(fs::read_to_string(deep).unwrap(), "deep");
        },
    );
}

/// SEMANTICS: symlink
#[test]
fn symlink_targets_of_every_length() {
    let lengths = [1, 15, 16, 17, 255, 1_000, 2_040, 3_000, 4_000, 4_095];
    on_a_mount(
        &[],
        |mount| {
            for length in lengths {
                symlink("t".repeat(length), mount.path(format!("link{length}"))).unwrap();
            }
        },
        |mount| {
            for length in lengths {
                let link = mount.path(format!("link{length}"));
                assert_eq!(fs::read_link(&link).unwrap().as_os_str().len(), length);
                assert_eq!(link.symlink_metadata().unwrap().len(), length as u64);
            }
        },
    );
}

/// SEMANTICS: rename
#[test]
fn rename_in_all_its_flags() {
    on_a_mount(
        &[],
        |mount| {
            let (one, two) = (mount.path("one"), mount.path("two"));
            fs::write(&one, "1").unwrap();
            fs::create_dir(&two).unwrap();
            fs::write(two.join("inner"), "2").unwrap();
            let rename = |flags| rustix::fs::renameat_with(CWD, &one, CWD, &two, flags);
            assert_eq!(
                rename(RenameFlags::NOREPLACE),
                Err(rustix::io::Errno::EXIST)
            );
            rename(RenameFlags::EXCHANGE).unwrap();
            assert_eq!(fs::read_to_string(&two).unwrap(), "1");
            assert_eq!(fs::read_to_string(one.join("inner")).unwrap(), "2");
            fs::write(mount.path("three"), "3").unwrap();
            fs::rename(mount.path("three"), &two).unwrap();
        },
        |mount| {
            assert_eq!(fs::read_to_string(mount.path("two")).unwrap(), "3");
            assert_eq!(fs::read_to_string(mount.path("one/inner")).unwrap(), "2");
            assert_eq!(names(&mount.point).len(), 2);
        },
    );
}

/// SEMANTICS: lookup
#[test]
fn many_entries_in_one_directory() {
    const COUNT: usize = 5_000;
    on_a_mount(
        &[],
        |mount| {
            let folder = mount.path("many");
            fs::create_dir(&folder).unwrap();
            for number in 0..COUNT {
                fs::write(
                    folder.join(format!("entry number {number}")),
                    number.to_string(),
                )
                .unwrap();
            }
            // Removing while reading: every entry that stays is seen exactly once.
            let mut seen = HashSet::new();
            for entry in fs::read_dir(&folder).unwrap() {
                let name = entry.unwrap().file_name().into_string().unwrap();
                assert!(seen.insert(name.clone()), "{name} twice");
                if name.ends_with('7') {
                    fs::remove_file(folder.join(name)).unwrap();
                }
            }
            assert_eq!(seen.len(), COUNT);
        },
        |mount| {
            let left = names(&mount.path("many"));
            assert_eq!(left.len(), COUNT - COUNT / 10);
            assert_eq!(
                fs::read_to_string(mount.path("many/entry number 42")).unwrap(),
                "42"
            );
            fs::remove_dir_all(mount.path("many")).unwrap();
            assert_eq!(names(&mount.point).len(), 0);
        },
    );
}
