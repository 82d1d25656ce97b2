//! The volume record of a lower directory, `.kmsfs.volume`: read, and replaced as a whole.

use std::io::{self, Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use kms_format::volume::VolumeRecord;
use rustix::fs::{AtFlags, Mode, OFlags};

use super::VolumeError;

/// Its name in the root of the lower directory.
pub const NAME: &str = ".kmsfs.volume";
/// Its name while it is written.
const TEMPORARY: &str = ".kmsfs.volume.new";
/// Larger ones are refused unread.
const MAX_BYTES: u64 = 1 << 20;

/// The volume record of one lower directory.
#[derive(Debug)]
pub struct RecordFile {
    directory: OwnedFd,
    path: PathBuf,
}

impl RecordFile {
    /// Of this lower directory. The record need not exist.
    ///
    /// # Errors
    /// The directory cannot be opened.
    pub fn in_directory(lower: &Path) -> Result<RecordFile, VolumeError> {
        let path = lower.join(NAME);
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory =
            rustix::fs::open(lower, flags, Mode::empty()).map_err(|error| VolumeError::Io {
                path: path.clone(),
                source: error.into(),
            })?;
        Ok(RecordFile { directory, path })
    }

    /// Reads and checks it.
    ///
    /// # Errors
    /// There is none, it cannot be read, or it is damaged.
    pub fn read(&self) -> Result<VolumeRecord, VolumeError> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = match rustix::fs::openat(&self.directory, NAME, flags, Mode::empty()) {
            Ok(file) => std::fs::File::from(file),
            Err(rustix::io::Errno::NOENT) => {
                return Err(VolumeError::NotAVolume {
                    path: self.path.parent().unwrap_or(&self.path).to_owned(),
                });
            }
            Err(error) => return Err(self.io(error.into())),
        };
        let mut bytes = Vec::new();
        file.take(MAX_BYTES + 1)
            .read_to_end(&mut bytes)
            .map_err(|error| self.io(error))?;
        VolumeRecord::decode(&bytes).map_err(|source| VolumeError::Format {
            path: self.path.clone(),
            source,
        })
    }

    /// Replaces it, durably: after a crash the old or the new record is there, whole.
    ///
    /// # Errors
    /// The lower file system refuses.
    pub fn replace(&self, record: &VolumeRecord) -> Result<(), VolumeError> {
        let bytes = record.encode().map_err(|source| VolumeError::Format {
            path: self.path.clone(),
            source,
        })?;
        self.write(&bytes).map_err(|error| self.io(error))
    }

    fn write(&self, bytes: &[u8]) -> io::Result<()> {
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&self.directory, TEMPORARY, flags, Mode::from(0o600))?;
        let mut file = std::fs::File::from(file);
        file.write_all(bytes)?;
        file.sync_all()?;
        rustix::fs::renameat(&self.directory, TEMPORARY, &self.directory, NAME)?;
        rustix::fs::fsync(&self.directory)?;
        Ok(())
    }

    /// Removes it, for an initialisation that did not succeed.
    pub(crate) fn remove(&self) {
        for name in [TEMPORARY, NAME] {
            let _ = rustix::fs::unlinkat(&self.directory, name, AtFlags::empty());
        }
    }

    fn io(&self, source: io::Error) -> VolumeError {
        VolumeError::Io {
            path: self.path.clone(),
            source,
        }
    }
}
