//! What was read of a store while no kmsd ran: kept beside the catalogue, and taken into the audit log at the next start.
//!
//! `kmsd offline` writes to no store and has no log: who could open it, with its TPM or the recovery key, could also leave
//! this file out. So a record here shows that something was read; that there is none shows nothing.

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use kms_core::audit::Record;
use parking_lot::Mutex;
use rustix::fs::{Gid, OFlags, Uid};

use super::Shared;
use crate::audit::service;

/// The file, in the directory of the store.
const FILE: &str = "offline.jsonl";
/// More is not read of it.
const MAX_BYTES: u64 = 16 << 20;

/// The file, open for another record.
pub struct OfflineLog {
    file: Mutex<File>,
    path: PathBuf,
}

impl OfflineLog {
    /// Opens the file of the store in `directory`, of which a kmsd on this host has its catalogue.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn open(directory: &Path) -> io::Result<Self> {
        let path = directory.join(FILE);
        let file = File::options()
            .append(true)
            .create(true)
            .mode(0o600)
            .custom_flags(OFlags::NOFOLLOW.bits().cast_signed())
            .open(&path)?;
        // kmsd may run as another user than who rescues.
        let owner = directory.metadata()?;
        let (uid, gid) = (Uid::from_raw(owner.uid()), Gid::from_raw(owner.gid()));
        rustix::fs::fchown(&file, Some(uid), Some(gid))?;
        File::open(directory)?.sync_all()?;
        Ok(Self {
            file: Mutex::new(file),
            path,
        })
    }

    /// Appends a record and makes it durable.
    pub(super) fn append(&self, record: &Record) {
        let mut line = record.to_bytes();
        line.push(b'\n');
        let mut file = self.file.lock();
        if let Err(error) = file.write_all(&line).and_then(|()| file.sync_data()) {
            tracing::warn!(%error, file = %self.path.display(), "what is read is not recorded");
        }
    }
}

impl Shared {
    /// Takes what was read meanwhile into the log.
    pub(super) fn take_up_offline(&self) {
        let Some(log) = self.audit.log() else {
            return;
        };
        let directory = &self.config.directory;
        let path = directory.join(FILE);
        let failed = |error: &dyn std::fmt::Display| {
            tracing::warn!(
                file = %path.display(),
                "what was read while kmsd did not run is not in the audit log yet: {error}"
            );
        };
        let text = match read(&path) {
            Ok(Some(text)) => text,
            Ok(None) => return,
            Err(error) => return failed(&error),
        };
        let (mut taken, mut malformed) = (0u64, 0u64);
        for line in text.split(|byte| *byte == b'\n') {
            match Record::from_bytes(line) {
                _ if line.is_empty() => {}
                // Whatever it says of itself, this is where it comes from.
                Ok(record) => {
                    log.push(record.detail("offline", true), None, true);
                    taken = taken.saturating_add(1);
                }
                Err(_) => malformed = malformed.saturating_add(1),
            }
        }
        self.record_event(
            service("OfflineRecordsTakenUp")
                .detail("records", taken)
                .detail("malformed", malformed),
        );
        // Only what is in the log for good is removed; a crash before that has it twice, with the same ids.
        if let Err(error) = log.flush() {
            return failed(&error);
        }
        let removed = std::fs::remove_file(&path)
            .and_then(|()| File::open(directory).and_then(|directory| directory.sync_all()));
        if let Err(error) = removed {
            failed(&error);
        }
    }
}

fn read(path: &Path) -> io::Result<Option<Vec<u8>>> {
    let file = File::options()
        .read(true)
        .custom_flags(OFlags::NOFOLLOW.bits().cast_signed())
        .open(path);
    let file = match file {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut text = Vec::new();
    file.take(MAX_BYTES).read_to_end(&mut text)?;
    Ok(Some(text))
}
