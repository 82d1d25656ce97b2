//! The keys of one volume, moved to another host, with no kmsd running.

use std::sync::Arc;

use kms_core::transfer::{self, Head, Imported};
use kms_core::{Change, Clock};
use kms_crypto::{RecoveryPrivateKey, RecoveryPublicKey};
use kms_seal::{Credential, RootSealer};

use super::audit::store_event;
use super::enroll::check_public;
use super::open::open_stopped;
use super::writer::Anchor;
use super::{EngineConfig, EngineError, Shared};
use kms_core::audit::Record;

/// What opens the store: what it is sealed to, and the credential.
pub struct Opening {
    /// What it is sealed to.
    pub sealer: Box<dyn RootSealer>,
    /// The credential.
    pub credential: Credential,
    /// The clock.
    pub clock: Arc<dyn Clock>,
}

/// Makes the file with the keys of a volume, for the holder of `recipient`. `write` puts it where it is to be; it is recorded
/// before that.
///
/// # Errors
/// The store does not open, there is no such volume, or one of its keys waits for its deletion; what `write` says.
pub fn export_volume<E: From<EngineError>>(
    config: &EngineConfig,
    opening: Opening,
    volume: &str,
    recipient: &RecoveryPublicKey,
    write: impl FnOnce(&[u8]) -> Result<(), E>,
) -> Result<Head, E> {
    let mut made = None;
    with_store(config, opening, |shared| {
        let kms = shared.kms.read();
        let now = shared.now(&kms);
        let domain = shared.domain.read();
        let (head, file) = transfer::export(kms.snapshot(), &domain, volume, recipient, now)?;
        let event = store_event("VolumeExported", now.wall_ms)
            .detail("volumeId", volume)
            .detail("recipient", recipient.to_text());
        let event = keys(event, shared, &head);
        made = Some((head, file));
        Ok((Vec::new(), event))
    })?;
    let (head, file) = made.ok_or(EngineError::Closed)?;
    write(&file)?;
    Ok(head)
}

/// Takes in the keys of a volume of another host.
///
/// # Errors
/// The store does not open, `recovery` is not its recovery key, or the file cannot be taken in; then nothing is changed.
pub fn import_volume(
    config: &EngineConfig,
    opening: Opening,
    file: &[u8],
    recovery: &RecoveryPrivateKey,
) -> Result<Imported, EngineError> {
    let mut done = None;
    with_store(config, opening, |shared| {
        let kms = shared.kms.read();
        check_public(kms.snapshot(), recovery, &config.directory)?;
        let now = shared.now(&kms);
        let domain = shared.domain.read();
        let (imported, changes) = transfer::import(kms.snapshot(), &domain, file, recovery, now)?;
        let event = store_event("VolumeImported", now.wall_ms)
            .detail("volumeId", imported.head.volume_id.as_str())
            .detail("fromStore", imported.head.store_id.as_str())
            .detail("keysAdded", imported.keys)
            .detail("policiesAdded", imported.policies);
        let event = keys(event, shared, &imported.head);
        done = Some(imported);
        Ok((changes, event))
    })?;
    done.ok_or(EngineError::Closed)
}

fn keys(event: Record, shared: &Shared, head: &Head) -> Record {
    let kms = shared.kms.read();
    let arns = head.keys.iter().map(|key| kms.snapshot().arn(*key));
    arns.fold(event, |event, arn| event.key(arn))
}

fn with_store(
    config: &EngineConfig,
    opening: Opening,
    work: impl FnOnce(&Shared) -> Result<(Vec<Change>, Record), EngineError>,
) -> Result<(), EngineError> {
    let (_lock, shared) = open_stopped(config, opening.sealer, &opening.credential, opening.clock)?;
    let mut writer = shared.writer.lock();
    shared.increment(&mut writer)?;
    let (changes, event) = work(&shared)?;
    shared.commit_recorded(&mut writer, &changes, Anchor::Now, vec![event])?;
    shared.increment(&mut writer)
}
