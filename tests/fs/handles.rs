//! Objects reached otherwise than by a path: file handles, files without a name, descriptors of what was removed.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, symlink};
use std::path::Path;
use std::process::Command;

use kms_tests::programs;
use kms_tests::require::output_of;
use kms_tests::world::World;
use rustix::fs::{AtFlags, CWD, Mode, OFlags};

use crate::{names, on_a_mount};

fn python(arguments: &[&str]) -> String {
    let script = programs::source_root().join("tests/fs/handle.py");
    let said = output_of(Command::new("python3").arg(script).args(arguments));
    said.trim_end().to_owned()
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Makes the kernel forget every name and inode that nobody uses.
fn drop_caches() {
    fs::write("/proc/sys/vm/drop_caches", "2").unwrap();
}

/// SEMANTICS: file handles, ESTALE
#[test]
fn file_handles() {
    if !crate::machine_can() {
        return;
    }
    let world = World::start();
    world.key("alias/fs");
    let lower = world.volume("handles", "alias/fs");
    let mount = world.mount(&lower);
    let point = text(&mount.point).to_owned();
    fs::create_dir_all(mount.path("a/b")).unwrap();
    fs::write(mount.path("a/b/file"), "content").unwrap();
    let file = python(&["get", text(&mount.path("a/b/file"))]);
    let folder = python(&["get", text(&mount.path("a/b"))]);
    let root = python(&["get", &point]);
    assert_eq!(python(&["read", &point, &file]), "content");
    // Nobody has looked a name up since the kernel forgot them.
    drop_caches();
    assert_eq!(python(&["read", &point, &file]), "content");
    drop_caches();
    assert_eq!(python(&["list", &point, &folder]), "file");
    assert_eq!(python(&["list", &point, &root]), "a");
    // Looked up by name it is the same object, and a change of place does not matter.
    drop_caches();
    fs::rename(mount.path("a/b"), mount.path("moved")).unwrap();
    fs::rename(mount.path("moved/file"), mount.path("file")).unwrap();
    assert_eq!(python(&["get", text(&mount.path("file"))]), file);
    drop_caches();
    assert_eq!(python(&["read", &point, &file]), "content");
    assert_eq!(python(&["list", &point, &folder]), "");
    // Removed: never another file, whatever numbers the lower file system uses again.
    fs::remove_file(mount.path("file")).unwrap();
    for number in 0..50 {
        fs::write(mount.path(format!("new{number}")), "another").unwrap();
    }
    assert_eq!(python(&["read", &point, &file]), "ESTALE");
    let other = python(&["get", text(&mount.path("new0"))]);
    mount.unmount();
    let mount = world.mount(&lower);
    for number in 0..50 {
        assert!(mount.path(format!("new{number}")).exists());
    }
    assert_eq!(python(&["read", &point, &other]), "ESTALE");
    assert_eq!(python(&["list", &point, &folder]), "ESTALE");
    mount.unmount();
}

/// SEMANTICS: O_TMPFILE
#[test]
fn files_without_a_name() {
    on_a_mount(
        &[],
        |mount| {
            let folder = mount.path("folder");
            fs::create_dir(&folder).unwrap();
            let make = || {
                let flags = OFlags::TMPFILE | OFlags::RDWR;
                File::from(rustix::fs::open(&folder, flags, Mode::from(0o640)).unwrap())
            };
            let mut file = make();
            file.write_all(&[7; 10_000]).unwrap();
            assert_eq!(file.metadata().unwrap().nlink(), 0);
            assert_eq!(file.metadata().unwrap().mode() & 0o7777, 0o640);
            assert!(names(&folder).is_empty());
            let own = format!("/proc/self/fd/{}", file.as_raw_fd());
            let link = |name: &str| {
                let to = folder.join(name);
                rustix::fs::linkat(CWD, &own, CWD, &to, AtFlags::SYMLINK_FOLLOW)
            };
            link("first").unwrap();
            link(&"n".repeat(255)).unwrap();
            assert_eq!(file.metadata().unwrap().nlink(), 2);
            file.write_all(b"end").unwrap();
            // One that nobody names is gone, and so is what was never to be named.
            drop(make());
            let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::EXCL;
            let fd = rustix::fs::open(&folder, flags, Mode::from(0o600)).unwrap();
            let own = format!("/proc/self/fd/{}", fd.as_raw_fd());
            let to = folder.join("never");
            let linked = rustix::fs::linkat(CWD, own, CWD, to, AtFlags::SYMLINK_FOLLOW);
            assert_eq!(linked, Err(rustix::io::Errno::NOENT));
        },
        |mount| {
            let found = names(&mount.path("folder"));
            assert_eq!(found, ["first".to_owned(), "n".repeat(255)].into());
            let content = fs::read(mount.path("folder/first")).unwrap();
            assert_eq!(content.len(), 10_003);
            assert!(content.ends_with(b"\x07end"));
        },
    );
}

/// SEMANTICS: unlink
#[test]
fn descriptors_of_what_was_removed() {
    on_a_mount(
        &[],
        |mount| {
            fs::write(mount.path("file"), "content").unwrap();
            symlink("target", mount.path("link")).unwrap();
            rustix::fs::mknodat(
                CWD,
                mount.path("fifo"),
                rustix::fs::FileType::Fifo,
                Mode::from(0o600),
                0,
            )
            .unwrap();
            fs::create_dir(mount.path("old")).unwrap();
            fs::create_dir(mount.path("new")).unwrap();
            let look = |name: &str| {
                let flags = OFlags::PATH | OFlags::NOFOLLOW;
                rustix::fs::open(mount.path(name), flags, Mode::empty()).unwrap()
            };
            let held = ["file", "link", "fifo"].map(look);
            let folder = File::open(mount.path("old")).unwrap();
            for name in ["file", "link", "fifo"] {
                fs::remove_file(mount.path(name)).unwrap();
            }
            fs::rename(mount.path("new"), mount.path("old")).unwrap();
            for fd in &held {
                assert_eq!(rustix::fs::fstat(fd).unwrap().st_nlink, 0);
            }
            // A directory that a rename replaced.
            assert_eq!(folder.metadata().unwrap().nlink(), 0);
            let target = rustix::fs::readlinkat(&held[1], "", Vec::new()).unwrap();
            assert_eq!(target.as_bytes(), b"target");
            // Through the descriptor the file can even be opened.
            let mut again = OpenOptions::new()
                .read(true)
                .write(true)
                .custom_flags(libc::O_CLOEXEC)
                .open(format!("/proc/self/fd/{}", held[0].as_raw_fd()))
                .unwrap();
            let mut content = String::new();
            again.read_to_string(&mut content).unwrap();
            assert_eq!(content, "content");
            again.write_all(b" and more").unwrap();
            assert_eq!(again.metadata().unwrap().len(), 16);
        },
        |mount| assert_eq!(names(&mount.point), ["old".to_owned()].into()),
    );
}
