//! The content of a regular file: copied with its holes, and read back.

use std::ffi::OsStr;
use std::fmt;
use std::io;
use std::os::fd::OwnedFd;

use rustix::fs::{Advice, OFlags, SeekFrom};
use rustix::io::Errno;
use sha2::{Digest as _, Sha256};

use super::tree::{self, Meta};

/// Content is looked at in units of this size.
const UNIT: usize = 4096;
/// Bytes read at once.
const BUFFER: usize = 1 << 20;

/// SHA-256 over the size and every 4 KiB unit that is not all zero, with its place: the same for the same
/// content, wherever its holes are, and cheap for holes of terabytes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Digest([u8; 32]);

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&data_encoding::HEXLOWER.encode(&self.0))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Which of the two files failed.
#[derive(Debug)]
pub(crate) enum Failed {
    Reading(io::Error),
    Writing(io::Error),
}

/// Reads a file from its beginning to its end and tells what it is made of.
struct Reader {
    hash: Sha256,
    buffer: Vec<u8>,
}

impl Reader {
    fn new() -> Reader {
        Reader {
            hash: Sha256::new(),
            buffer: vec![0; BUFFER],
        }
    }

    /// Calls `data` with the place and bytes of everything outside of holes. `size` is what the file should
    /// have; a file that ends earlier gives another digest.
    fn read<E>(
        mut self,
        file: &OwnedFd,
        size: u64,
        fail: impl Fn(io::Error) -> E,
        mut data: impl FnMut(u64, &[u8]) -> Result<(), E>,
    ) -> Result<Digest, E> {
        let mut at = 0;
        while let Some((start, end)) = next_data(file, at, size).map_err(&fail)? {
            at = start;
            while at < end {
                let want = usize::try_from(end - at).unwrap_or(BUFFER).min(BUFFER);
                let space = self.buffer.get_mut(..want).unwrap_or_default();
                let got = read_full(file, space, at).map_err(&fail)?;
                let bytes = self.buffer.get(..got).unwrap_or_default();
                if bytes.is_empty() {
                    break;
                }
                for (place, unit) in (at..).step_by(UNIT).zip(bytes.chunks(UNIT)) {
                    if !is_zero(unit) {
                        self.hash.update(place.to_le_bytes());
                        self.hash.update(unit);
                    }
                }
                data(at, bytes)?;
                at += bytes.len() as u64;
            }
            at = end;
        }
        self.hash.update(size.to_le_bytes());
        Ok(Digest(self.hash.finalize().into()))
    }
}

/// The next range with data at or behind `at`, in whole units but for the end of the file.
fn next_data(file: &OwnedFd, at: u64, size: u64) -> io::Result<Option<(u64, u64)>> {
    if at >= size {
        return Ok(None);
    }
    let unit = UNIT as u64;
    let start = match rustix::fs::seek(file, SeekFrom::Data(at)) {
        Ok(start) => (start / unit * unit).max(at),
        Err(Errno::NXIO) => return Ok(None),
        // No SEEK_DATA there: all of it is data.
        Err(Errno::INVAL | Errno::OPNOTSUPP | Errno::NOSYS) => return Ok(Some((at, size))),
        Err(error) => return Err(error.into()),
    };
    if start >= size {
        return Ok(None);
    }
    let end = match rustix::fs::seek(file, SeekFrom::Hole(start)) {
        Ok(end) => end.div_ceil(unit).saturating_mul(unit).min(size),
        Err(_) => size,
    };
    // A file that changes meanwhile must not keep us here.
    Ok(Some((start, end.max((start + unit).min(size)))))
}

fn read_full(file: &OwnedFd, space: &mut [u8], at: u64) -> io::Result<usize> {
    let mut got = 0;
    while let Some(rest) = space.get_mut(got..).filter(|rest| !rest.is_empty()) {
        match rustix::io::pread(file, rest, at + got as u64) {
            Ok(0) => break,
            Ok(more) => got += more,
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(got)
}

fn write_full(file: &OwnedFd, mut bytes: &[u8], mut at: u64) -> io::Result<()> {
    while !bytes.is_empty() {
        match rustix::io::pwrite(file, bytes, at) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => {
                bytes = bytes.get(written..).unwrap_or_default();
                at += written as u64;
            }
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

fn is_zero(bytes: &[u8]) -> bool {
    bytes.iter().all(|byte| *byte == 0)
}

/// Copies all content of `from`, whose attributes are `meta`, into the empty file `to`, and gives its digest as
/// it was read. `progress` is told how far it is.
pub(crate) fn copy(
    from: &OwnedFd,
    meta: &Meta,
    to: &OwnedFd,
    progress: impl Fn(u64),
) -> Result<Digest, Failed> {
    // Zeros of a file without holes stay written: their owner may have meant to reserve the space.
    let sparse = meta.blocks.saturating_mul(512) < meta.size;
    let mut written = 0;
    let mut told = 0;
    let digest = Reader::new().read(from, meta.size, Failed::Reading, |at, bytes| {
        for (place, run) in runs(at, bytes, sparse) {
            write_full(to, run, place).map_err(Failed::Writing)?;
            written = place + run.len() as u64;
        }
        progress(at + bytes.len() as u64 - told);
        told = at + bytes.len() as u64;
        Ok(())
    })?;
    if written < meta.size {
        rustix::fs::ftruncate(to, meta.size).map_err(|error| Failed::Writing(error.into()))?;
    }
    progress(meta.size.saturating_sub(told));
    Ok(digest)
}

/// The parts of `bytes` to write: all of it, or all but units of zeros.
fn runs(at: u64, bytes: &[u8], sparse: bool) -> Vec<(u64, &[u8])> {
    if !sparse {
        return vec![(at, bytes)];
    }
    let mut runs = Vec::new();
    let mut start = None;
    let mut place = 0;
    for unit in bytes.chunks(UNIT) {
        match (is_zero(unit), start) {
            (false, None) => start = Some(place),
            (true, Some(from)) => {
                runs.push((from, place));
                start = None;
            }
            _ => {}
        }
        place += unit.len();
    }
    runs.extend(start.map(|from| (from, place)));
    runs.into_iter()
        .filter_map(|(from, to)| Some((at + from as u64, bytes.get(from..to)?)))
        .collect()
}

/// The digest of a file as its file system gives it now, past the kernel's cache of it: with `direct` the
/// reads go to kmsfs itself.
pub(crate) fn read_back(directory: &OwnedFd, name: &OsStr, direct: bool) -> io::Result<Digest> {
    let plain = tree::open_file(directory, name, OFlags::empty())?;
    // Of everything, from the beginning. Clean pages go; that is all there are after an fsync.
    rustix::fs::fadvise(&plain, 0, None, Advice::DontNeed)?;
    let file = if direct {
        tree::open_file(directory, name, OFlags::DIRECT)?
    } else {
        plain
    };
    let size = tree::stat_open(&file)?.size;
    Reader::new().read(&file, size, |error| error, |_, _| Ok(()))
}

/// Makes a file durable that is there already.
pub(crate) fn make_durable(directory: &OwnedFd, name: &OsStr) -> io::Result<()> {
    let file = tree::open_file(directory, name, OFlags::empty())?;
    Ok(rustix::fs::fsync(&file)?)
}

/// The digest of a file of the source.
pub(crate) fn digest(file: &OwnedFd, size: u64) -> io::Result<Digest> {
    Reader::new().read(file, size, |error| error, |_, _| Ok(()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{FileExt as _, MetadataExt as _};

    use super::*;

    fn digest_of(path: &std::path::Path) -> Digest {
        let file: OwnedFd = std::fs::File::open(path).unwrap().into();
        let size = tree::stat_open(&file).unwrap().size;
        digest(&file, size).unwrap()
    }

    fn copied(from: &std::path::Path) -> (Digest, std::path::PathBuf) {
        let to = from.with_extension("copy");
        let target: OwnedFd = std::fs::File::create(&to).unwrap().into();
        let source: OwnedFd = std::fs::File::open(from).unwrap().into();
        let meta = tree::stat_open(&source).unwrap();
        let told = std::cell::Cell::new(0);
        let digest = copy(&source, &meta, &target, |n| told.set(told.get() + n)).unwrap();
        assert_eq!(told.get(), meta.size, "progress adds up to the size");
        (digest, to)
    }

    #[test]
    fn content_and_holes_are_copied() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("sparse");
        let file = std::fs::File::create(&path).unwrap();
        file.write_all_at(b"begin", 3).unwrap();
        file.write_all_at(&[7; 9000], 5 << 20).unwrap();
        file.write_all_at(b"x", (1 << 33) + 1).unwrap();
        file.set_len((1 << 33) + 70_000).unwrap();
        file.sync_all().unwrap();
        let (digest, to) = copied(&path);
        assert_eq!(digest, digest_of(&path));
        assert_eq!(digest, digest_of(&to));
        let meta = std::fs::metadata(&to).unwrap();
        assert_eq!(meta.len(), (1 << 33) + 70_000);
        assert!(meta.blocks() < 200, "{} blocks", meta.blocks());
        let mut bytes = [0; 9002];
        let copy = std::fs::File::open(&to).unwrap();
        copy.read_exact_at(&mut bytes, (5 << 20) - 1).unwrap();
        assert_eq!(bytes[0], 0);
        assert!(bytes[1..9001].iter().all(|byte| *byte == 7));
    }

    #[test]
    fn every_size_and_every_changed_byte_counts() {
        let folder = tempfile::tempdir().unwrap();
        let mut seen = std::collections::HashSet::new();
        for size in [0, 1, 4095, 4096, 4097, 8192, 1 << 20, (1 << 20) + 1] {
            let path = folder.path().join(size.to_string());
            std::fs::write(&path, vec![0; size]).unwrap();
            let (digest, to) = copied(&path);
            assert_eq!(digest, digest_of(&to));
            assert_eq!(std::fs::read(&to).unwrap().len(), size);
            assert!(seen.insert(digest.to_string()), "zeros of size {size}");
            if size > 0 {
                std::fs::File::options()
                    .write(true)
                    .open(&to)
                    .unwrap()
                    .write_all_at(b"1", size as u64 - 1)
                    .unwrap();
                assert!(
                    seen.insert(digest_of(&to).to_string()),
                    "last byte of {size}"
                );
            }
        }
    }

    #[test]
    fn reserved_zeros_stay_reserved() {
        let bytes = vec![0; 3 * UNIT];
        assert_eq!(runs(0, &bytes, false).len(), 1);
        assert!(runs(0, &bytes, true).is_empty());
        let mut mixed = bytes;
        mixed[UNIT] = 1;
        let found = runs(4096, &mixed, true);
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].0, found[0].1.len()), (8192, UNIT));
    }
}
