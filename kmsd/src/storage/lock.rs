//! One process per store.

use std::fs::{File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

/// Holds a store's directory for this process until dropped (or until the process ends, however it
/// ends).
#[derive(Debug)]
pub struct StoreLock {
    file: File,
}

/// The store could not be taken.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another process has it.
    #[error("the store {} is in use by {}", .directory.display(), holder(.pid))]
    Held {
        /// The store.
        directory: PathBuf,
        /// Who has it, as far as it said so.
        pid: Option<u32>,
    },
    /// The lock file cannot be opened.
    #[error("cannot lock the store {}: {source}", .directory.display())]
    Io {
        /// The store.
        directory: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
}

fn holder(pid: &Option<u32>) -> String {
    match pid {
        Some(pid) => format!("process {pid}"),
        None => "another process".to_owned(),
    }
}

impl StoreLock {
    /// Takes the store in `directory`, without waiting.
    ///
    /// # Errors
    /// [`LockError`].
    pub fn acquire(directory: &Path) -> Result<Self, LockError> {
        let io = |source| LockError::Io {
            directory: directory.to_owned(),
            source,
        };
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(directory.join("lock"))
            .map_err(io)?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => {
                let mut text = String::new();
                // Only for the message: whoever holds the lock may not have written it yet.
                let pid = file
                    .read_to_string(&mut text)
                    .ok()
                    .and_then(|_| text.trim().parse().ok());
                return Err(LockError::Held {
                    directory: directory.to_owned(),
                    pid,
                });
            }
            Err(error) => return Err(io(error.into())),
        }
        file.set_len(0).map_err(io)?;
        writeln!(file, "{}", std::process::id()).map_err(io)?;
        Ok(Self { file })
    }
}

impl Drop for StoreLock {
    fn drop(&mut self) {
        // Closing alone would leave the lock to a child that was forked and has not executed its
        // program yet: it still has a copy of the descriptor.
        let _ = flock(&self.file, FlockOperation::Unlock);
    }
}
