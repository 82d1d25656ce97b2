//! Space: fallocate and holes, copies within the file system; and locks.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

use rustix::fs::{FallocateFlags, FlockOperation, SeekFrom, fallocate, flock, seek};
use rustix::io::Errno;

use crate::on_a_mount;

fn noise(length: usize) -> Vec<u8> {
    (0..length).map(|i| (i * 7 + i / 251 + 1) as u8).collect()
}

fn opened(path: &Path) -> File {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false);
    options.open(path).unwrap()
}

/// SEMANTICS: fallocate, EOPNOTSUPP
#[test]
fn reserving_and_punching() {
    const KEEP: FallocateFlags = FallocateFlags::KEEP_SIZE;
    const PUNCH: FallocateFlags = FallocateFlags::PUNCH_HOLE.union(KEEP);
    const ZERO: FallocateFlags = FallocateFlags::ZERO_RANGE;
    // Mode, from, how much, and whether the range reads as zeros.
    let ways = [
        (FallocateFlags::empty(), 100, 50, false),
        (FallocateFlags::empty(), 3_000, 9_000, false),
        (KEEP, 3_000, 200_000, false),
        (PUNCH, 17, 31, true),
        (PUNCH, 4_064, 8_128, true),
        (PUNCH, 4_000, 300_000, true),
        (ZERO, 5, 4_091, true),
        (ZERO, 8_192, 50_000, true),
        (ZERO.union(KEEP), 8_192, 50_000, true),
    ];
    on_a_mount(
        &[],
        |mount| {
            for size in [10_usize, 3_712, 3_713, 20_000] {
                for (number, (mode, from, length, zeros)) in ways.into_iter().enumerate() {
                    let path = mount.path(format!("{size}-{number}"));
                    let mut expected = noise(size);
                    fs::write(&path, &expected).unwrap();
                    fallocate(opened(&path), mode, from, length).unwrap();
                    let (from, end) = (from as usize, (from + length) as usize);
                    if !mode.contains(KEEP) && end > expected.len() {
                        expected.resize(end, 0);
                    }
                    let inside = from.min(expected.len())..end.min(expected.len());
                    if zeros {
                        expected[inside].fill(0);
                    }
                    assert!(fs::read(&path).unwrap() == expected, "{size}, way {number}");
                    fs::write(path.with_extension("expected"), &expected).unwrap();
                }
            }
            let refused = [FallocateFlags::COLLAPSE_RANGE, FallocateFlags::INSERT_RANGE];
            for mode in refused {
                let file = opened(&mount.path("20000-0"));
                assert_eq!(fallocate(file, mode, 0, 4096), Err(Errno::OPNOTSUPP));
            }
            // Room is given back, and found again as a hole.
            let path = mount.path("large");
            fs::write(&path, noise(1 << 20)).unwrap();
            let file = opened(&path);
            file.sync_all().unwrap();
            let before = file.metadata().unwrap().blocks();
            fallocate(&file, PUNCH, 100_000, 800_000).unwrap();
            file.sync_all().unwrap();
            let after = file.metadata().unwrap().blocks();
            assert!(after + 1_400 < before, "{before} {after}");
        },
        |mount| {
            for entry in fs::read_dir(&mount.point).unwrap() {
                let path = entry.unwrap().path();
                let expected = path.with_extension("expected");
                if expected != path && expected.exists() {
                    assert!(
                        fs::read(&path).unwrap() == fs::read(expected).unwrap(),
                        "{path:?}"
                    );
                }
            }
        },
    );
}

/// SEMANTICS: lseek
#[test]
fn data_and_holes() {
    on_a_mount(
        &[],
        |mount| {
            let file = opened(&mount.path("file"));
            file.write_all_at(&noise(10_000), 1 << 20).unwrap();
            file.set_len(4 << 20).unwrap();
        },
        |mount| {
            let file = opened(&mount.path("file"));
            let data = seek(&file, SeekFrom::Data(0)).unwrap();
            assert!(data <= 1 << 20 && data > (1 << 20) - 65_536, "{data}");
            let hole = seek(&file, SeekFrom::Hole(1 << 20)).unwrap();
            assert!(((1 << 20) + 10_000..2 << 20).contains(&hole), "{hole}");
            assert_eq!(seek(&file, SeekFrom::Hole(0)), Ok(0));
            assert_eq!(seek(&file, SeekFrom::Data(3 << 20)), Err(Errno::NXIO));
            assert_eq!(seek(&file, SeekFrom::Hole(4 << 20)), Err(Errno::NXIO));
            // A small file has no holes but the end.
            fs::write(mount.path("small"), "x").unwrap();
            let small = opened(&mount.path("small"));
            assert_eq!(seek(&small, SeekFrom::Hole(0)), Ok(1));
            assert_eq!(seek(&small, SeekFrom::Data(0)), Ok(0));
        },
    );
}

/// SEMANTICS: copy_file_range
#[test]
fn copies_within_the_file_system() {
    on_a_mount(
        &[],
        |mount| {
            let content = noise(300_000);
            fs::write(mount.path("source"), &content).unwrap();
            let (source, target) = (opened(&mount.path("source")), opened(&mount.path("target")));
            let copy = |from: u64, to: u64, length: usize| {
                let (mut from, mut to) = (from, to);
                rustix::fs::copy_file_range(
                    &source,
                    Some(&mut from),
                    &target,
                    Some(&mut to),
                    length,
                )
            };
            assert_eq!(copy(5, 0, 3_000), Ok(3_000));
            assert_eq!(copy(100, 4_000, 250_001), Ok(250_001));
            // Not beyond the end of the source.
            assert_eq!(copy(299_990, 254_001, 1_000), Ok(10));
            assert_eq!(copy(300_000, 0, 10), Ok(0));
            let mut expected = vec![0; 254_011];
            expected[..3_000].copy_from_slice(&content[5..3_005]);
            expected[4_000..254_001].copy_from_slice(&content[100..250_101]);
            expected[254_001..].copy_from_slice(&content[299_990..]);
            assert!(fs::read(mount.path("target")).unwrap() == expected);
            let within = rustix::fs::copy_file_range(
                &source,
                Some(&mut 0),
                &source,
                Some(&mut 1_000),
                2_000,
            );
            assert_eq!(within, Err(Errno::INVAL), "overlapping");
        },
        |mount| assert_eq!(mount.path("target").metadata().unwrap().len(), 254_011),
    );
}

/// SEMANTICS: file locks
#[test]
fn locks() {
    on_a_mount(
        &[],
        |mount| {
            let (one, two) = (opened(&mount.path("file")), opened(&mount.path("file")));
            flock(&one, FlockOperation::LockExclusive).unwrap();
            let tried = flock(&two, FlockOperation::NonBlockingLockShared);
            assert_eq!(tried, Err(Errno::WOULDBLOCK));
            flock(&one, FlockOperation::Unlock).unwrap();
            flock(&two, FlockOperation::NonBlockingLockExclusive).unwrap();
            // POSIX locks are the process's: another process sees them.
            rustix::fs::fcntl_lock(&one, FlockOperation::NonBlockingLockExclusive).unwrap();
            let script = "import fcntl, sys\n\
                f = open(sys.argv[1], 'r+')\n\
                try: fcntl.lockf(f, fcntl.LOCK_EX | fcntl.LOCK_NB)\n\
                except BlockingIOError: sys.exit(7)";
            let other = || {
                let mut python = std::process::Command::new("python3");
                python.args(["-c", script]).arg(mount.path("file"));
                python.status().unwrap().code()
            };
            assert_eq!(other(), Some(7));
            rustix::fs::fcntl_lock(&one, FlockOperation::Unlock).unwrap();
            assert_eq!(other(), Some(0));
        },
        |_| {},
    );
}
