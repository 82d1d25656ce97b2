//! Room on the disk: how much there is, and what is set aside for the last records.

use std::fs::File;
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::fs::{FallocateFlags, fallocate, statvfs};

/// Room on a file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Room {
    /// Bytes that may still be written.
    pub(super) free: u64,
    /// Percent of the file system in use.
    pub(super) used_percent: u8,
}

impl Room {
    pub(super) fn of(directory: &Path) -> io::Result<Self> {
        let vfs = statvfs(directory)?;
        let free = vfs.f_bavail.saturating_mul(vfs.f_frsize);
        let used = vfs.f_blocks.saturating_sub(vfs.f_bfree);
        // As df counts: what is kept back for root is not free.
        let total = used.saturating_add(vfs.f_bavail).max(1);
        let percent = u128::from(used).saturating_mul(100) / u128::from(total);
        Ok(Self {
            free,
            used_percent: u8::try_from(percent).unwrap_or(100),
        })
    }

    /// The step of the warnings that it has reached: none, the two percentages, little left.
    pub(super) fn step(self, [first, second]: [u8; 2], min_free: u64) -> u8 {
        match self.used_percent {
            _ if self.free < min_free => 3,
            used if used >= second => 2,
            used if used >= first => 1,
            _ => 0,
        }
    }
}

/// Blocks that are allocated to a file nobody reads, and given back when the disk is full.
#[derive(Debug)]
pub(super) struct Reserve {
    path: PathBuf,
    bytes: u64,
    held: bool,
}

impl Reserve {
    pub(super) fn new(directory: &Path, bytes: u64) -> Self {
        Self {
            path: directory.join("reserve"),
            bytes,
            held: false,
        }
    }

    /// Takes the blocks. Whether they are held.
    pub(super) fn take(&mut self) -> io::Result<bool> {
        if self.bytes == 0 || self.held {
            return Ok(true);
        }
        let allocate = || -> io::Result<()> {
            let file = File::options()
                .write(true)
                .create(true)
                .truncate(true)
                .mode(0o600)
                .open(&self.path)?;
            fallocate(&file, FallocateFlags::empty(), 0, self.bytes)?;
            file.sync_all()
        };
        match allocate() {
            Ok(()) => self.held = true,
            Err(error) => {
                let _ = std::fs::remove_file(&self.path);
                if !is_full(&error) {
                    return Err(error);
                }
            }
        }
        Ok(self.held)
    }

    /// Gives the blocks back. Whether there were any.
    pub(super) fn release(&mut self) -> bool {
        std::mem::take(&mut self.held) && std::fs::remove_file(&self.path).is_ok()
    }
}

/// Whether an error means that there is no room.
pub(super) fn is_full(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::ENOSPC | libc::EDQUOT | libc::EFBIG)
    )
}

/// The wall clock, milliseconds.
pub(super) fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| {
        i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
    })
}
