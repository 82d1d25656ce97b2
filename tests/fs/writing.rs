//! The ways of writing.

use std::collections::HashSet;
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::thread;

use crate::on_a_mount;

/// SEMANTICS: write, O_DIRECT
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
