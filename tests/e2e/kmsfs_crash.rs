//! kmsfs killed in the middle of writes: what was synced and what was closed is there.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Mutex;
use std::thread;

use kms_tests::mount::Mount;
use kms_tests::world::World;
use kms_tests::{require, wait};

/// Bytes that tell the file, the round and the place.
fn content(worker: u64, round: u64, length: usize) -> Vec<u8> {
    let mut state = (worker << 32 | round).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

/// What must be there after the crash.
struct Owed {
    bytes: Vec<u8>,
    /// Closed: exactly these bytes. Otherwise synced and being written: these, and maybe more.
    closed: bool,
}

/// All of it, by path below the mount.
type Promised = Mutex<BTreeMap<PathBuf, Owed>>;

/// Makes files of all sizes, some fsynced, some only closed, until the mount dies under it.
fn write_until_death(mount: &Mount, worker: u64, promised: &Promised) {
    let folder = PathBuf::from(format!("worker {worker}"));
    let _ = fs::create_dir(mount.path(&folder));
    for round in 0_u64.. {
        let length = [10, 700, 3_712, 3_713, 4_096, 9_999, 70_001][round as usize % 7];
        let bytes = content(worker, round, length);
        let path = folder.join(format!("file number {round}"));
        let written = (|| -> std::io::Result<()> {
            let mut file = File::create(mount.path(&path))?;
            for part in bytes.chunks(5_000) {
                file.write_all(part)?;
            }
            if round % 3 == 0 {
                file.sync_all()?;
                let owed = Owed {
                    bytes: bytes.clone(),
                    closed: false,
                };
                promised.lock().unwrap().insert(path.clone(), owed);
                // More after the sync, of which nothing is promised but that the synced part stays.
                file.write_all_at(b"and more", length as u64)?;
                file.set_len(length as u64)?;
            }
            drop(file);
            Ok(())
        })();
        if written.is_err() {
            return;
        }
        promised.lock().unwrap().insert(
            path.clone(),
            Owed {
                bytes,
                closed: true,
            },
        );
        if round % 11 == 10 {
            let (old, new) = (
                folder.join(format!("file number {}", round - 1)),
                folder.join("moved"),
            );
            // Once the rename is on its way the file may be under either name: neither is promised.
            let bytes = promised.lock().unwrap().remove(&old);
            promised.lock().unwrap().remove(&new);
            if fs::rename(mount.path(&old), mount.path(&new)).is_err() {
                return;
            }
            if let Some(bytes) = bytes {
                promised.lock().unwrap().insert(new, bytes);
            }
        }
    }
}

#[test]
fn what_was_synced_or_closed_survives_a_kill() {
    if !crate::machine_can() {
        return;
    }
    let world = World::start();
    world.key("alias/crash");
    let lower = world.volume("volume", "alias/crash");
    let kills = if require::full() { 30 } else { 5 };
    for kill in 0..kills {
        let promised = Promised::default();
        let mut mount = world.mount(&lower);
        thread::scope(|scope| {
            for worker in 0..3 {
                let (mount, promised) = (&mount, &promised);
                let worker = kill * 10 + worker;
                scope.spawn(move || write_until_death(mount, worker, promised));
            }
            // Each kill at another amount of work done.
            let goal = 20 + 37 * kill as usize;
            wait::until_true("files being written", wait::PATIENCE, || {
                promised.lock().unwrap().len() >= goal
            });
            rustix::process::kill_process(mount.pid(), rustix::process::Signal::KILL).unwrap();
        });
        mount.process().wait(wait::PATIENCE);
        mount.kill();

        let promised = promised.into_inner().unwrap();
        let mount = world.mount(&lower);
        for (path, owed) in &promised {
            let bytes = &owed.bytes;
            let found = fs::read(mount.path(path));
            let found = found.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            assert!(
                if owed.closed {
                    found == *bytes
                } else {
                    found.starts_with(bytes)
                },
                "{}: {} bytes, {} expected, differ first at {:?}",
                path.display(),
                found.len(),
                bytes.len(),
                found.iter().zip(bytes).position(|(a, b)| a != b)
            );
        }
        // Nothing that is listed fails to open, and the volume goes on working.
        for path in kms_tests::tree::files(&mount.point) {
            fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        }
        fs::write(mount.path("after"), kill.to_string()).unwrap();
        mount.unmount();
    }
}
