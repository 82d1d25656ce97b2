//! A new recovery key for a store of which no kmsd runs.

use std::path::Path;
use std::sync::Arc;

use kms_core::domain::DomainError;
use kms_core::rows::{Bytes, MetaRow, Row};
use kms_core::{Change, Clock};
use kms_crypto::{RecoveryPrivateKey, RecoveryPublicKey};
use kms_seal::{Credential, RootSealer};

use super::audit::store_event;
use super::enroll::prove_recovery;
use super::open::open_stopped;
use super::tick::recovery_public;
use super::writer::Anchor;
use super::{EngineConfig, EngineError, Shared};

/// What a rotation of the recovery key did.
#[derive(Clone, Copy, Debug)]
pub struct RotateReport {
    /// Public half of the recovery key until now.
    pub former: RecoveryPublicKey,
    /// Public half of the new one.
    pub recovery_public: RecoveryPublicKey,
    /// Whether the former one is ended.
    pub ended: bool,
}

/// Makes `new`, as read back from where it is kept, the recovery key of the store. The former one still opens the store until
/// a deletion epoch: the next one, or with `end_former` one that follows at once.
///
/// # Errors
/// The store does not open, or the disk or the sealer failed. If that was in the epoch, the new key counts and the epoch is
/// ended at the next start.
pub fn rotate_recovery(
    config: &EngineConfig,
    sealer: Box<dyn RootSealer>,
    credential: &Credential,
    new: &RecoveryPrivateKey,
    end_former: bool,
    clock: Arc<dyn Clock>,
) -> Result<RotateReport, EngineError> {
    let (_lock, shared) = open_stopped(config, sealer, credential, clock)?;
    let mut writer = shared.writer.lock();
    shared.increment(&mut writer)?;
    let public = new.public_key()?;
    let former = recovery_public(&shared.kms.read().snapshot().meta().recovery_public.0)?;
    let changes = changes(&shared, new, end_former, &config.directory)?;
    let event = store_event("RecoveryKeyRotated", shared.clock.read().wall_ms)
        .detail("former", former.to_text())
        .detail("new", public.to_text())
        .detail("formerEnded", end_former);
    shared.commit_recorded(&mut writer, &changes, Anchor::Now, vec![event])?;
    shared.increment(&mut writer)?;
    if end_former {
        shared.finish_epoch(&mut writer)?;
    }
    Ok(RotateReport {
        former,
        recovery_public: public,
        ended: end_former,
    })
}

fn changes(
    shared: &Shared,
    new: &RecoveryPrivateKey,
    end_former: bool,
    directory: &Path,
) -> Result<Vec<Change>, EngineError> {
    let public = new.public_key()?;
    let kms = shared.kms.read();
    let snapshot = kms.snapshot();
    let domain = shared.domain.read();
    let rows = snapshot
        .domains()
        .map(|row| domain.with_recovery(row, &public))
        .collect::<Result<Vec<_>, DomainError>>()?;
    // It opens what it is for, before it counts.
    for row in &rows {
        prove_recovery(snapshot.meta(), row, new, directory)?;
    }
    let meta = MetaRow {
        recovery_public: Bytes(public.as_bytes().to_vec()),
        epoch_owed: end_former || snapshot.meta().epoch_owed,
        ..snapshot.meta().clone()
    };
    let rows = rows.into_iter().map(Row::Domain);
    Ok(std::iter::once(Row::Meta(Box::new(meta)))
        .chain(rows)
        .map(Change::Put)
        .collect())
}
