//! The volume record of a lower directory, `.kmsfs.volume`: read, and replaced as a whole.

use std::io;
use std::path::{Path, PathBuf};

use kms_format::volume::VolumeRecord;
use kms_format::{FormatError, Record};
use rustix::fs::RenameFlags;

use super::VolumeError;
use crate::backing::{Dir, Small};
use crate::errno::{Errno, FsResult};

/// Its name in the root of the lower directory.
pub const NAME: &str = ".kmsfs.volume";
/// Its name while it is written.
const TEMPORARY: &str = ".kmsfs.volume.new";
/// Larger ones are refused unread.
const MAX_BYTES: usize = 1 << 20;

/// The volume record of one lower directory.
#[derive(Debug)]
pub struct RecordFile {
    directory: Dir,
    path: PathBuf,
}

impl RecordFile {
    /// Of this lower directory. The record need not exist.
    ///
    /// # Errors
    /// The directory cannot be opened.
    pub fn in_directory(lower: &Path) -> Result<RecordFile, VolumeError> {
        let path = lower.join(NAME);
        let directory = Dir::open_root(lower).map_err(|errno| VolumeError::Io {
            path: path.clone(),
            source: io_error(errno),
        })?;
        Ok(RecordFile { directory, path })
    }

    /// Reads and checks it.
    ///
    /// # Errors
    /// There is none, it cannot be read, or it is damaged.
    pub fn read(&self) -> Result<VolumeRecord, VolumeError> {
        let found = self.directory.read_small(NAME, MAX_BYTES + 1);
        let bytes = match found.map_err(|errno| self.io(errno))? {
            Small::Bytes(bytes) => bytes,
            Small::NotAFile => {
                let record = Record::Volume;
                return Err(VolumeError::Format {
                    path: self.path.clone(),
                    source: FormatError::WrongMagic { record },
                });
            }
            Small::Missing => {
                return Err(VolumeError::NotAVolume {
                    path: self.path.parent().unwrap_or(&self.path).to_owned(),
                });
            }
        };
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
        self.write(&bytes).map_err(|errno| self.io(errno))
    }

    fn write(&self, bytes: &[u8]) -> FsResult<()> {
        let dir = &self.directory;
        match dir.unlink(TEMPORARY) {
            // Left from a crash, or not.
            Ok(()) | Err(Errno::NOENT) => {}
            Err(errno) => return Err(errno),
        }
        dir.write_small(TEMPORARY, bytes)?.sync()?;
        dir.rename(TEMPORARY, dir, NAME, RenameFlags::empty())?;
        dir.sync()
    }

    /// Removes it, for an initialisation that did not succeed.
    pub(crate) fn remove(&self) {
        for name in [TEMPORARY, NAME] {
            let _ = self.directory.unlink(name);
        }
    }

    fn io(&self, errno: Errno) -> VolumeError {
        VolumeError::Io {
            path: self.path.clone(),
            source: io_error(errno),
        }
    }
}

fn io_error(errno: Errno) -> io::Error {
    io::Error::from_raw_os_error(errno.raw())
}
