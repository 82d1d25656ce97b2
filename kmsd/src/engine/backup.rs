//! A backup of the store while it is being used.
//!
//! The rows are those of one revision: they are read between two transactions. The file is kept until it has been fetched in
//! parts, since a store may be larger than an answer.

use std::sync::Arc;
use std::time::{Duration, Instant};

use data_encoding::HEXLOWER;
use kms_api::{
    ApiError, BackupStoreRequest, BackupStoreResponse, Blob, ErrorCode, Request, Response,
};
use kms_core::{Snapshot, backup};
use kms_crypto::sha256;
use uuid::Uuid;

use super::tick::recovery_public;
use super::{EngineError, Shared};

/// Most bytes of an answer.
const PART: usize = 4 << 20;
/// How long a backup is kept that nobody fetches.
const KEPT: Duration = Duration::from_secs(300);

/// A backup that is being fetched.
#[derive(Clone)]
pub(super) struct Made {
    file: Arc<Vec<u8>>,
    response: BackupStoreResponse,
    used: Instant,
}

impl Shared {
    /// Answers what only the daemon knows.
    ///
    /// # Errors
    /// The error to reply with.
    pub(super) fn host(&self, request: &Request) -> Result<Response, ApiError> {
        match request {
            Request::BackupStore(request) => self.backup_part(request).map(Response::BackupStore),
            request => self.look_up(request),
        }
    }

    fn backup_part(&self, request: &BackupStoreRequest) -> Result<BackupStoreResponse, ApiError> {
        let mut kept = self.backup.lock();
        let made = match &request.backup_id {
            None => {
                let made = self.make_backup().map_err(|error| self.report(&error))?;
                kept.insert(made)
            }
            Some(id) => kept
                .as_mut()
                .filter(|made| made.response.backup_id == *id)
                .ok_or_else(|| {
                    let text = "This backup is not kept any more: begin a new one.";
                    ApiError::new(ErrorCode::NotFound, text)
                })?,
        };
        made.used = Instant::now();
        let from = usize::try_from(request.offset.unwrap_or(0)).unwrap_or(usize::MAX);
        let rest = made.file.get(from..).ok_or_else(|| {
            ApiError::validation(format!("The backup has {} bytes only.", made.file.len()))
        })?;
        let part = rest.get(..PART).unwrap_or(rest);
        let response = BackupStoreResponse {
            part: Blob::from(part),
            ..made.response.clone()
        };
        if part.len() == rest.len() {
            *kept = None;
        }
        Ok(response)
    }

    fn make_backup(&self) -> Result<Made, EngineError> {
        let rows = {
            let mut writer = self.writer()?;
            if writer.stale {
                self.reload(&mut writer)?;
            }
            writer.storage.load()?.1
        };
        let snapshot = Snapshot::from_rows(&rows)?;
        let meta = snapshot.meta();
        let now = self.clock.read().wall_ms;
        let file = backup::seal(&rows, &snapshot, now, env!("CARGO_PKG_VERSION"))?;
        let response = BackupStoreResponse {
            backup_id: Uuid::new_v4().to_string(),
            size: file.len() as u64,
            sha256: HEXLOWER.encode(&sha256(&[&file])),
            store_id: meta.store_id.clone(),
            store_revision: meta.revision,
            recovery_public_key: recovery_public(&meta.recovery_public.0)?.to_text(),
            part: Blob::default(),
        };
        Ok(Made {
            file: Arc::new(file),
            response,
            used: Instant::now(),
        })
    }

    /// Drops a backup whose remainder nobody fetches.
    pub(super) fn forget_backup(&self) {
        let mut kept = self.backup.lock();
        if kept
            .as_ref()
            .is_some_and(|made| made.used.elapsed() >= KEPT)
        {
            *kept = None;
        }
    }
}
