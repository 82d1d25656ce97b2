//! Attributes: extended ones, owners, modes and times.

use std::collections::HashSet;
use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::process::Command;

use kms_tests::daemon::path_text;
use kms_tests::require::output_of;
use rustix::fs::{AtFlags, CWD, XattrFlags};

use crate::on_a_mount;

/// SEMANTICS: user attributes
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

/// SEMANTICS: create
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
        &["allow_other,access=mounter"],
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

/// SEMANTICS: inode numbers
#[test]
fn attributes_survive_a_remount() {
    on_a_mount(
        &["allow_other,access=mounter"],
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

/// SEMANTICS: chattr flags
#[test]
fn flags_of_chattr() {
    // Not on tmpfs before Linux 6.6, and not on every file system.
    let said = |program: &str, arguments: &[&str]| {
        let output = Command::new(program).args(arguments).output().unwrap();
        (
            output.status.success(),
            String::from_utf8_lossy(&output.stdout).into_owned(),
        )
    };
    on_a_mount(
        &[],
        |mount| {
            let file = mount.path("file");
            fs::write(&file, "content").unwrap();
            let (file, point) = (path_text(&file), path_text(&mount.point));
            assert!(said("chattr", &["+d", file]).0);
            assert!(said("lsattr", &[file]).1.contains('d'));
            // Immutable: nothing changes, and it stays readable.
            assert!(said("chattr", &["+i", file]).0);
            assert!(fs::write(file, "other").is_err());
            assert!(fs::remove_file(file).is_err());
            assert!(fs::rename(file, mount.path("elsewhere")).is_err());
            assert!(fs::set_permissions(file, Permissions::from_mode(0o600)).is_err());
            assert_eq!(fs::read_to_string(file).unwrap(), "content");
            assert!(said("lsattr", &[file]).1.contains('i'));
            assert!(!said("chattr", &["+a", file]).0, "append-only");
            // A directory: nothing comes, nothing goes.
            let folder = mount.path("folder");
            fs::create_dir(&folder).unwrap();
            fs::write(folder.join("inside"), "").unwrap();
            let folder_text = path_text(&folder);
            assert!(said("chattr", &["+i", folder_text]).0);
            assert!(fs::write(folder.join("new"), "").is_err());
            assert!(fs::remove_file(folder.join("inside")).is_err());
            fs::write(folder.join("inside"), "changed").unwrap();
            assert!(said("chattr", &["-i", folder_text]).0);
            let listed = said("lsattr", &["-d", point]);
            assert!(listed.0, "{}", listed.1);
        },
        |mount| {
            let file = mount.path("file");
            assert_eq!(fs::read_to_string(&file).unwrap(), "content");
            assert!(fs::write(&file, "other").is_err());
            let text = path_text(&file);
            let extended = output_of(Command::new("xfs_io").args(["-r", "-c", "lsattr", text]));
            assert!(
                extended.contains('i') && extended.contains('d'),
                "{extended}"
            );
            assert!(said("chattr", &["-i", text]).0);
            fs::write(&file, "other").unwrap();
        },
    );
}

/// SEMANTICS: time of creation, older kernels
#[test]
fn the_time_of_creation() {
    on_a_mount(
        &[],
        |mount| fs::write(mount.path("file"), "").unwrap(),
        |mount| {
            let born = |path: &std::path::Path| path.metadata().unwrap().created();
            let file = mount.path("file");
            if std::env::var_os("KMSFS_KERNEL").is_some_and(|kernel| kernel == "6.1") {
                // Asked for with STATX, which is newer.
                assert!(born(&file).is_err());
                return;
            }
            // Where the lower file system keeps one.
            if let Ok(lower) = born(&mount.lower) {
                let time = born(&file).unwrap();
                assert!(time >= lower && time <= std::time::SystemTime::now());
                fs::write(&file, "changed").unwrap();
                assert_eq!(born(&file).unwrap(), time);
            }
        },
    );
}

/// SEMANTICS: user attributes
#[test]
fn many_and_large_attributes() {
    on_a_mount(
        &[],
        |mount| {
            for (name, directory) in [("file", false), ("folder", true)] {
                let path = mount.path(name);
                if directory {
                    fs::create_dir(&path).unwrap();
                } else {
                    fs::write(&path, "x").unwrap();
                }
                // As many as the lower file system takes, which says so then.
                let mut count = 0;
                let refused = loop {
                    let name = format!("user.{count:03}{}", "n".repeat(count % 200));
                    let value = vec![7; (count * 13) % 300];
                    match rustix::fs::setxattr(&path, name, &value, XattrFlags::CREATE) {
                        Ok(()) => count += 1,
                        Err(errno) => break Some(errno),
                    }
                    if count == 500 {
                        break None;
                    }
                };
                let full = [
                    None,
                    Some(rustix::io::Errno::NOSPC),
                    Some(rustix::io::Errno::DQUOT),
                ];
                assert!(
                    full.contains(&refused) && count >= 10,
                    "{refused:?} {count}"
                );
                let mut list = vec![0; 65_536];
                let length = rustix::fs::listxattr(&path, &mut list[..]).unwrap();
                let listed = list[..length].split(|byte| *byte == 0);
                assert_eq!(
                    listed.filter(|name| name.starts_with(b"user.")).count(),
                    count
                );
                let short = rustix::fs::listxattr(&path, &mut [0; 10][..]);
                assert_eq!(short, Err(rustix::io::Errno::RANGE));
                let mut value = [0; 5];
                let short = rustix::fs::getxattr(&path, "user.001n", &mut value[..]);
                assert_eq!(short, Err(rustix::io::Errno::RANGE));
                rustix::fs::removexattr(&path, "user.000").unwrap();
            }
        },
        |mount| {
            for name in ["file", "folder"] {
                let mut value = [0; 300];
                let got = rustix::fs::getxattr(mount.path(name), "user.001n", &mut value[..]);
                assert_eq!((got, &value[..13]), (Ok(13), &[7; 13][..]));
                let gone = rustix::fs::getxattr(mount.path(name), "user.000", &mut value[..]);
                assert_eq!(gone, Err(rustix::io::Errno::NODATA));
            }
        },
    );
}

/// SEMANTICS: other attributes
#[test]
fn trusted_and_security_attributes() {
    let kinds = ["file", "folder", "link", "fifo"];
    on_a_mount(
        &["allow_other,access=mounter"],
        |mount| {
            fs::set_permissions(&mount.point, Permissions::from_mode(0o755)).unwrap();
            fs::write(mount.path("file"), "").unwrap();
            fs::create_dir(mount.path("folder")).unwrap();
            std::os::unix::fs::symlink("nowhere", mount.path("link")).unwrap();
            let fifo = mount.path("fifo");
            rustix::fs::mkfifoat(CWD, fifo, rustix::fs::Mode::from_raw_mode(0o644)).unwrap();
            for kind in kinds {
                let path = mount.path(kind);
                for name in ["trusted.test", "security.test"] {
                    rustix::fs::lsetxattr(&path, name, kind.as_bytes(), XattrFlags::empty())
                        .unwrap();
                }
                // user. attributes are for files and directories.
                let user = rustix::fs::lsetxattr(&path, "user.a", b"", XattrFlags::empty());
                assert_eq!(user.is_ok(), kind == "file" || kind == "folder", "{kind}");
            }
        },
        |mount| {
            for kind in kinds {
                for name in ["trusted.test", "security.test"] {
                    let mut value = [0; 16];
                    let path = mount.path(kind);
                    let length = rustix::fs::lgetxattr(&path, name, &mut value[..]).unwrap();
                    assert_eq!(&value[..length], kind.as_bytes());
                }
            }
            let listed = |uid: u32| {
                let output = Command::new("getfattr")
                    .args(["-m", "-", "-h"])
                    .arg(mount.path("file"))
                    .uid(uid)
                    .output()
                    .unwrap();
                String::from_utf8(output.stdout).unwrap()
            };
            assert!(listed(0).contains("trusted.test"));
            let other = listed(65_534);
            assert!(!other.contains("trusted.test") && other.contains("security.test"));
        },
    );
}
