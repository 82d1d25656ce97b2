//! How large, how many, how deep.

use std::fs::{self, File, OpenOptions};
use std::io::{Seek, SeekFrom};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::process::Command;

use kms_tests::require;
use rustix::fs::{Mode, OFlags};

use crate::{names, on_a_mount};

/// SEMANTICS: sparse files
#[test]
fn eight_tebibytes_with_holes() {
    const SIZE: u64 = 8 << 40;
    on_a_mount(
        &[],
        |mount| {
            let path = mount.path("sparse");
            let mut file = OpenOptions::new()
                .read(true)
                .write(true)
                .create_new(true)
                .open(&path)
                .unwrap();
            file.set_len(SIZE).unwrap();
            for offset in [0, 5_000, 1 << 32, 3 << 40, SIZE - 7] {
                file.write_all_at(b"islands", offset).unwrap();
            }
            file.sync_all().unwrap();
            let meta = file.metadata().unwrap();
            assert_eq!(meta.len(), SIZE);
            assert!(meta.blocks() < 1_000, "{} blocks", meta.blocks());
            // From island to island, by the lower file system's holes.
            let second = file_seek_data(&mut file, 1 << 20);
            assert!(second <= 1 << 32 && second > (1 << 32) - 65_536, "{second}");
        },
        |mount| {
            let path = mount.path("sparse");
            let file = File::open(&path).unwrap();
            let mut word = [0; 7];
            for offset in [0, 5_000, 1 << 32, 3 << 40, SIZE - 7] {
                file.read_exact_at(&mut word, offset).unwrap();
                assert_eq!(&word, b"islands", "{offset}");
            }
            file.read_exact_at(&mut word, 2 << 40).unwrap();
            assert_eq!(word, [0; 7]);
            // Down to an inline file in one step.
            OpenOptions::new()
                .write(true)
                .open(&path)
                .unwrap()
                .set_len(5_003)
                .unwrap();
            let content = fs::read(&path).unwrap();
            assert_eq!(content.len(), 5_003);
            assert!(content.ends_with(b"isl"));
        },
    );
}

fn file_seek_data(file: &mut File, from: u64) -> u64 {
    let found = rustix::fs::seek(&*file, rustix::fs::SeekFrom::Data(from)).unwrap();
    file.seek(SeekFrom::Start(0)).unwrap();
    found
}

/// SEMANTICS: many entries
#[test]
fn a_hundred_thousand_entries() {
    // Links: the same for the directory as files, and quick.
    let count = if require::full() { 100_000 } else { 20_000 };
    on_a_mount(
        &[],
        |mount| {
            let folder = mount.path("many");
            fs::create_dir(&folder).unwrap();
            for number in 0..count {
                let name = folder.join(format!("entry number {number}"));
                rustix::fs::mknodat(
                    rustix::fs::CWD,
                    name,
                    rustix::fs::FileType::RegularFile,
                    Mode::from(0o600),
                    0,
                )
                .unwrap();
            }
        },
        |mount| {
            let folder = mount.path("many");
            let empty = memory(mount.pid().as_raw_nonzero().get());
            assert_eq!(names(&folder).len(), count);
            for number in 0..count {
                let name = folder.join(format!("entry number {number}"));
                assert_eq!(name.metadata().unwrap().len(), 0);
            }
            let known = memory(mount.pid().as_raw_nonzero().get());
            let each = (known - empty) * 1024 / count as u64;
            println!("{each} bytes for each inode that the kernel knows");
            assert!(each < 1_500, "{each} bytes for each inode");
            assert!(folder.join(format!("entry number {}", count - 1)).exists());
            let before = memory(mount.pid().as_raw_nonzero().get());
            let removed = Command::new("rm").arg("-rf").arg(&folder).status();
            assert!(removed.unwrap().success());
            // What the kernel forgot takes a bounded place.
            let after = memory(mount.pid().as_raw_nonzero().get());
            assert!(
                after < before + 32_768,
                "{before} KiB before, {after} KiB after"
            );
        },
    );
}

/// Memory of a process in KiB.
fn memory(process: i32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:"));
    let number = line.unwrap().split_whitespace().nth(1).unwrap();
    number.parse().unwrap()
}

/// SEMANTICS: deep trees
#[test]
fn four_thousand_levels() {
    const DEPTH: usize = 4_000;
    let open = |from: &std::os::fd::OwnedFd, name: &str| {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        rustix::fs::openat(from, name, flags, Mode::empty()).unwrap()
    };
    let root = |path: &std::path::Path| {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        rustix::fs::open(path, flags, Mode::empty()).unwrap()
    };
    on_a_mount(
        &[],
        |mount| {
            let mut here = root(&mount.point);
            for _ in 0..DEPTH {
                rustix::fs::mkdirat(&here, "d", Mode::from(0o755)).unwrap();
                here = open(&here, "d");
            }
            let flags = OFlags::CREATE | OFlags::RDWR;
            let file = rustix::fs::openat(&here, "file", flags, Mode::from(0o600)).unwrap();
            rustix::io::write(&file, b"deep").unwrap();
            rustix::fs::fsync(&file).unwrap();
        },
        |mount| {
            let mut here = root(&mount.point);
            for _ in 0..DEPTH {
                here = open(&here, "d");
            }
            let file = rustix::fs::openat(&here, "file", OFlags::RDONLY, Mode::empty()).unwrap();
            let mut content = [0; 4];
            assert_eq!(rustix::io::read(&file, &mut content), Ok(4));
            assert_eq!(&content, b"deep");
            drop((file, here));
            // The whole of it at once, by a program that keeps few directories open.
            let found = require::output_of(
                Command::new("find")
                    .arg(&mount.point)
                    .args(["-type", "f", "-name", "file", "-printf", "%d"]),
            );
            assert_eq!(found, (DEPTH + 1).to_string());
            let removed = Command::new("rm").arg("-rf").arg(mount.path("d")).status();
            assert!(removed.unwrap().success());
            assert!(names(&mount.point).is_empty());
        },
    );
}
