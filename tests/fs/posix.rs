//! What pjdfstest and fsx do not ask: names and targets at their limits, attributes, rename's flags, the
//! ways of writing, several users, and how a mount begins and ends.

use std::collections::HashSet;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt, symlink};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::thread;

use kms_tests::cli;
use kms_tests::daemon::path_text;
use kms_tests::mount::{Mount, is_mounted, unmount};
use kms_tests::wait;
use kms_tests::world::World;
use rustix::fs::{AtFlags, CWD, RenameFlags, XattrFlags};
use rustix::process::Signal;

/// Runs `test` on a fresh mount, and `after` on the same directory mounted again.
fn on_a_mount(options: &[&str], test: impl FnOnce(&Mount), after: impl FnOnce(&Mount)) {
    if !crate::machine_can() {
        return;
    }
    let world = World::start();
    world.key("alias/fs");
    let lower = world.volume("posix", "alias/fs");
    let mount = world.mount_with(&lower, options);
    test(&mount);
    mount.unmount();
    let mount = world.mount_with(&lower, options);
    after(&mount);
    mount.unmount();
}

fn names(folder: &Path) -> HashSet<String> {
    fs::read_dir(folder)
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect()
}

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

#[test]
fn user_attributes() {
    on_a_mount(
        &[],
        |mount| {
            let file = mount.path("file");
            fs::write(&file, "x").unwrap();
            for number in 0..20 {
                let value = vec![number; usize::from(number) * 4];
                let name = format!("user.attribute-{number}");
                rustix::fs::setxattr(&file, name.as_str(), &value, XattrFlags::CREATE).unwrap();
            }
            let again = rustix::fs::setxattr(&file, "user.attribute-3", b"", XattrFlags::CREATE);
            assert_eq!(again, Err(rustix::io::Errno::EXIST));
            rustix::fs::removexattr(&file, "user.attribute-4").unwrap();
            let absent = rustix::fs::setxattr(&file, "user.absent", b"", XattrFlags::REPLACE);
            assert_eq!(absent, Err(rustix::io::Errno::NODATA));
        },
        |mount| {
            let file = mount.path("file");
            let mut value = vec![0; 4096];
            let length = rustix::fs::getxattr(&file, "user.attribute-7", &mut value[..]).unwrap();
            assert_eq!(&value[..length], [7; 28]);
            let mut list = vec![0; 4096];
            let length = rustix::fs::listxattr(&file, &mut list[..]).unwrap();
            let listed = String::from_utf8(list[..length].to_vec()).unwrap();
            let listed: HashSet<&str> = listed.split_terminator('\0').collect();
            assert_eq!(listed.len(), 19, "{listed:?}");
            assert!(listed.contains("user.attribute-0") && !listed.contains("user.attribute-4"));
        },
    );
}

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

#[test]
fn ways_of_writing() {
    on_a_mount(
        &[],
        |mount| {
            // O_APPEND from several processes' worth of handles: no line is lost or torn.
            let log = mount.path("log");
            thread::scope(|scope| {
                for writer in 0..4 {
                    let log = &log;
                    scope.spawn(move || {
                        let mut file = OpenOptions::new()
                            .append(true)
                            .create(true)
                            .open(log)
                            .unwrap();
                        for line in 0..250 {
                            file.write_all(format!("{writer} {line:04}\n").as_bytes())
                                .unwrap();
                        }
                    });
                }
            });
            let text = fs::read_to_string(&log).unwrap();
            let lines: HashSet<&str> = text.lines().collect();
            assert_eq!((text.len(), lines.len()), (7_000, 1_000));

            // O_DIRECT: aligned memory, whole pages.
            let mut buffer = vec![0_u8; 3 * 4096];
            let start = buffer.as_ptr().align_offset(4096);
            let page = &mut buffer[start..start + 8192];
            page.fill(0x5a);
            let direct = mount.path("direct");
            let file = OpenOptions::new()
                .write(true)
                .create(true)
                .custom_flags(libc::O_DIRECT)
                .open(&direct)
                .unwrap();
            file.write_all_at(page, 4096).unwrap();
            drop(file);
            let read = OpenOptions::new()
                .read(true)
                .custom_flags(libc::O_DIRECT)
                .open(&direct);
            page.fill(0);
            read.unwrap().read_exact_at(page, 4096).unwrap();
            assert!(page.iter().all(|byte| *byte == 0x5a));

            // Holes: far writes leave no blocks behind them, and read as zeros.
            let mut sparse = File::create(mount.path("sparse")).unwrap();
            sparse.seek(SeekFrom::Start(64 << 20)).unwrap();
            sparse.write_all(b"end").unwrap();
            sparse.sync_all().unwrap();
            assert!(mount.path("sparse").metadata().unwrap().blocks() < 2_048);
            sparse.set_len((64 << 20) + 1).unwrap();
            sparse.set_len((64 << 20) + 3).unwrap();
        },
        |mount| {
            assert_eq!(mount.path("log").metadata().unwrap().len(), 7_000);
            let direct = fs::read(mount.path("direct")).unwrap();
            assert_eq!(direct.len(), 12_288);
            assert!(direct[..4096].iter().all(|byte| *byte == 0));
            assert!(direct[4096..].iter().all(|byte| *byte == 0x5a));
            let mut sparse = File::open(mount.path("sparse")).unwrap();
            let mut page = [1_u8; 4096];
            sparse.read_exact(&mut page).unwrap();
            assert_eq!(page, [0; 4096]);
            sparse.seek(SeekFrom::Start(64 << 20)).unwrap();
            let mut end = Vec::new();
            sparse.read_to_end(&mut end).unwrap();
            assert_eq!(end, b"e\0\0");
        },
    );
}

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

#[test]
fn files_of_other_users() {
    // nobody, which every Debian has.
    const OTHER: u32 = 65_534;
    let as_other = |program: &str, arguments: &[&str]| {
        Command::new(program)
            .args(arguments)
            .uid(OTHER)
            .gid(OTHER)
            .status()
            .unwrap()
            .success()
    };
    on_a_mount(
        &["allow_other"],
        |mount| {
            fs::set_permissions(&mount.point, Permissions::from_mode(0o755)).unwrap();
            let shared = mount.path("shared");
            fs::create_dir(&shared).unwrap();
            fs::set_permissions(&shared, Permissions::from_mode(0o777)).unwrap();
            let private = mount.path("private");
            fs::write(&private, "root's").unwrap();
            fs::set_permissions(&private, Permissions::from_mode(0o600)).unwrap();
            let shared = path_text(&shared);
            assert!(as_other(
                "sh",
                &["-c", &format!("umask 027; echo mine > {shared}/mine")]
            ));
            assert!(as_other("mkdir", &[&format!("{shared}/folder")]));
            assert!(as_other("ln", &["-s", "target", &format!("{shared}/link")]));
            assert!(!as_other("cat", &[path_text(&private)]));
            assert!(!as_other(
                "touch",
                &[&format!("{}/nothing", path_text(&mount.point))]
            ));
        },
        |mount| {
            for (name, mode) in [("mine", 0o640), ("folder", 0o755)] {
                let meta = mount.path("shared").join(name).metadata().unwrap();
                assert_eq!((meta.uid(), meta.gid()), (OTHER, OTHER), "{name}");
                assert_eq!(meta.permissions().mode() & 0o7777, mode, "{name}");
            }
            let link = mount.path("shared/link").symlink_metadata().unwrap();
            assert_eq!((link.uid(), link.gid()), (OTHER, OTHER));
        },
    );
}

#[test]
fn attributes_survive_a_remount() {
    on_a_mount(
        &["allow_other"],
        |mount| {
            let file = mount.path("file");
            fs::write(&file, "content").unwrap();
            fs::set_permissions(&file, Permissions::from_mode(0o4751)).unwrap();
            std::os::unix::fs::chown(&file, Some(1234), Some(4321)).unwrap();
            fs::set_permissions(&file, Permissions::from_mode(0o2751)).unwrap();
            let time = rustix::fs::Timespec {
                tv_sec: 1_000_000_000,
                tv_nsec: 123_456_789,
            };
            let times = rustix::fs::Timestamps {
                last_access: time,
                last_modification: time,
            };
            rustix::fs::utimensat(CWD, &file, &times, AtFlags::empty()).unwrap();
            fs::hard_link(&file, mount.path("second")).unwrap();
            rustix::fs::mkfifoat(
                CWD,
                mount.path("fifo"),
                rustix::fs::Mode::from_raw_mode(0o600),
            )
            .unwrap();
        },
        |mount| {
            let meta = mount.path("file").metadata().unwrap();
            assert_eq!(meta.permissions().mode() & 0o7777, 0o2751);
            assert_eq!((meta.uid(), meta.gid()), (1234, 4321));
            assert_eq!(
                (meta.mtime(), meta.mtime_nsec()),
                (1_000_000_000, 123_456_789)
            );
            assert_eq!((meta.len(), meta.nlink()), (7, 2));
            assert_eq!(meta.ino(), mount.path("second").metadata().unwrap().ino());
            use std::os::unix::fs::FileTypeExt;
            assert!(mount.path("fifo").metadata().unwrap().file_type().is_fifo());
            let statfs = rustix::fs::statvfs(&mount.point).unwrap();
            assert_eq!(statfs.f_namemax, 255);
            assert!(statfs.f_blocks > 0);
        },
    );
}

#[test]
fn a_second_mount_of_the_same_lower_is_refused() {
    if !crate::machine_can() {
        return;
    }
    let world = World::start();
    world.key("alias/fs");
    let lower = world.volume("twice", "alias/fs");
    let mount = world.mount(&lower);
    let other = world.path("other");
    fs::create_dir(&other).unwrap();
    let arguments = ["mount", path_text(&lower), path_text(&other)];
    let said = cli::run("kmsfs", &arguments, Some(&world.daemon.socket()));
    assert!(said.code > 0 && !is_mounted(&other), "{said:?}");
    assert!(said.stderr.contains(path_text(&lower)), "{said:?}");
    mount.unmount();
}

#[test]
fn sigterm_unmounts_cleanly() {
    if !crate::machine_can() {
        return;
    }
    let world = World::start();
    world.key("alias/fs");
    let lower = world.volume("term", "alias/fs");
    let mut mount = world.mount(&lower);
    fs::write(mount.path("file"), "kept").unwrap();
    mount.process().signal(Signal::TERM);
    let status = mount.process().wait(wait::PATIENCE);
    assert!(status.success(), "{status}: {}", mount.log());
    assert!(!is_mounted(&mount.point));
    drop(mount);
    let mount = world.mount(&lower);
    assert_eq!(fs::read_to_string(mount.path("file")).unwrap(), "kept");
    mount.unmount();
}

#[test]
fn mounting_in_the_background() {
    if !crate::machine_can() {
        return;
    }
    let world = World::start();
    world.key("alias/fs");
    let lower = world.volume("daemon", "alias/fs");
    let point = world.path("point");
    fs::create_dir(&point).unwrap();
    let log = world.path("kmsfs.log");
    let arguments = [
        "mount",
        "--log",
        path_text(&log),
        path_text(&lower),
        path_text(&point),
    ];
    cli::run("kmsfs", &arguments, Some(&world.daemon.socket())).ok();
    // The command has returned: the mount works from here on.
    assert!(is_mounted(&point));
    fs::write(point.join("file"), "x").unwrap();
    unmount(&point).unwrap();
    // The lock on the lower directory is free once the last byte is written.
    wait::until_true("the lower directory being free", wait::PATIENCE, || {
        let said = cli::run("kmsfs", &arguments, Some(&world.daemon.socket()));
        said.code == 0
    });
    assert_eq!(fs::read_to_string(point.join("file")).unwrap(), "x");
    unmount(&point).unwrap();
}
