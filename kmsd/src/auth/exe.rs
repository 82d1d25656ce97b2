//! Digests of executables.

use std::collections::HashMap;
use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::sync::LazyLock;

use parking_lot::Mutex;
use sha2::{Digest as _, Sha256};

use super::process::Place;

/// Largest executable that is read, in bytes.
const MAX_SIZE: u64 = 512 * 1024 * 1024;
/// Most digests that are remembered.
const MAX_CACHED: usize = 256;

/// What a digest is remembered by: a file that was written to since has another time of change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Version {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Version {
    fn of(meta: &std::fs::Metadata) -> Self {
        Self {
            device: meta.dev(),
            inode: meta.ino(),
            size: meta.size(),
            modified: (meta.mtime(), meta.mtime_nsec()),
            changed: (meta.ctime(), meta.ctime_nsec()),
        }
    }
}

static CACHE: LazyLock<Mutex<HashMap<Version, String>>> = LazyLock::new(Mutex::default);

/// The SHA-256 of the executable of a process, in hex digits; `None` when it cannot be read, is larger
/// than [`MAX_SIZE`], or changes while it is read. Reads the file: may take a while.
pub(super) fn sha256(place: &Place) -> Option<String> {
    let mut file = place.open_exe().ok()?;
    let version = Version::of(&file.metadata().ok()?);
    if version.size > MAX_SIZE {
        return None;
    }
    if let Some(known) = CACHE.lock().get(&version) {
        return Some(known.clone());
    }
    let mut digest = Sha256::new();
    let mut chunk = vec![0; 256 * 1024];
    loop {
        match file.read(&mut chunk) {
            Ok(0) => break,
            Ok(count) => digest.update(chunk.get(..count)?),
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(_) => return None,
        }
    }
    if Version::of(&file.metadata().ok()?) != version {
        return None;
    }
    let text = data_encoding::HEXLOWER.encode(&digest.finalize());
    let mut cache = CACHE.lock();
    if cache.len() >= MAX_CACHED {
        cache.clear();
    }
    cache.insert(version, text.clone());
    Some(text)
}
