//! One writer at a time: an exclusive `flock(2)` on the lower directory itself.
//!
//! It needs no file of its own, works on a read-only lower file system, and the kernel drops it
//! however the process ends.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, Mode, OFlags};

/// How long a mount that was just taken out of the tree may need to end.
const UNMOUNTING: Duration = Duration::from_secs(5);

/// The lock, held until dropped.
#[derive(Debug)]
pub struct LowerLock(#[allow(dead_code, reason = "held for its lock")] OwnedFd);

/// Why a lower directory could not be locked.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Not there, not a directory, not ours to open.
    #[error("cannot open {path}: {source}; check that it exists and that you may read it", path = path.display())]
    Open {
        /// The directory.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// Somebody else has it.
    #[error("{path} is in use by {holder}; a lower directory has one user at a time: unmount it there first", path = path.display())]
    Held {
        /// The directory.
        path: PathBuf,
        /// Who, as far as `/proc` tells.
        holder: String,
    },
    /// The lower file system has no locks.
    #[error("cannot lock {path}: {source}; kmsfs needs a local file system with flock", path = path.display())]
    Unsupported {
        /// The directory.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
}

impl LowerLock {
    /// Locks `lower`. Waits a moment for a holder that has no mount in the tree any more: it is
    /// writing out what is left, as right after `fusermount3 -u`.
    ///
    /// # Errors
    /// See [`LockError`].
    pub fn take_after_unmount(lower: &Path) -> Result<LowerLock, LockError> {
        let deadline = Instant::now() + UNMOUNTING;
        loop {
            match LowerLock::take(lower) {
                Err(LockError::Held { .. })
                    if Instant::now() < deadline && !is_mounted_somewhere(lower) =>
                {
                    std::thread::sleep(Duration::from_millis(10));
                }
                result => return result,
            }
        }
    }

    /// Locks `lower`, without waiting.
    ///
    /// # Errors
    /// See [`LockError`].
    pub fn take(lower: &Path) -> Result<LowerLock, LockError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory =
            rustix::fs::open(lower, flags, Mode::empty()).map_err(|source| LockError::Open {
                path: lower.to_owned(),
                source: source.into(),
            })?;
        match rustix::fs::flock(&directory, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(LowerLock(directory)),
            Err(rustix::io::Errno::WOULDBLOCK) => Err(LockError::Held {
                path: lower.to_owned(),
                holder: holder(lower),
            }),
            Err(source) => Err(LockError::Unsupported {
                path: lower.to_owned(),
                source: source.into(),
            }),
        }
    }
}

fn is_mounted_somewhere(lower: &Path) -> bool {
    super::table::mounts().is_ok_and(|mounts| {
        mounts
            .iter()
            .any(|mount| mount.fs_type == super::table::FS_TYPE && mount.source == lower)
    })
}

/// Names the process that holds the lock: `/proc/locks` has its id, `/proc/ID/cmdline` its name.
fn holder(lower: &Path) -> String {
    let unknown = || "another process".to_owned();
    let Some(pid) = holder_pid(lower) else {
        return unknown();
    };
    let command = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let command = String::from_utf8_lossy(&command).replace('\0', " ");
    let mounted = super::table::mounts()
        .unwrap_or_default()
        .into_iter()
        .find(|mount| mount.fs_type == super::table::FS_TYPE && mount.source == lower)
        .map(|mount| format!(", mounted at {}", mount.mountpoint.display()))
        .unwrap_or_default();
    format!("process {pid} ({}){mounted}", command.trim())
}

fn holder_pid(lower: &Path) -> Option<u32> {
    let inode = format!(":{}", std::fs::metadata(lower).ok()?.ino());
    let locks = std::fs::read_to_string("/proc/locks").ok()?;
    // `1: FLOCK  ADVISORY  WRITE 4242 00:2d:1234 0 EOF`
    locks.lines().find_map(|line| {
        let mut fields = line.split_whitespace();
        if fields.nth(1)? != "FLOCK" {
            return None;
        }
        let pid = fields.nth(2)?;
        fields.next()?.ends_with(&inode).then(|| pid.parse().ok())?
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_is_refused_and_told_who_is_first() {
        let lower = tempfile::tempdir().unwrap();
        let first = LowerLock::take(lower.path()).unwrap();
        let refused = LowerLock::take(lower.path()).unwrap_err().to_string();
        assert!(
            refused.contains(&format!("process {}", std::process::id())),
            "{refused}"
        );
        drop(first);
        LowerLock::take(lower.path()).unwrap();
    }

    #[test]
    fn what_is_not_a_directory_is_named() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let error = LowerLock::take(file.path()).unwrap_err();
        assert!(matches!(error, LockError::Open { .. }), "{error}");
    }
}
