//! Making a store, moving it to a new TPM, and accepting one that was put back.

use std::os::unix::fs::DirBuilderExt as _;
use std::path::Path;

use data_encoding::HEXLOWER;
use kms_core::audit::Record;
use kms_core::clock::Elapsed;
use kms_core::rows::{AuditHead, Bytes, DomainRow, FORMAT, MetaRow, OutboxRow, Row};
use kms_core::setmac::SetMac;
use kms_core::storage::{RawChange, Storage as _};
use kms_core::{Change, Clock, DomainKeys, Snapshot, ids::Scope};
use kms_crypto::{RecoveryPrivateKey, RecoveryPublicKey};
use kms_seal::{Credential, Enrollment, HostKek, Profile, RootSealer, SealError};
use std::sync::Arc;

use super::audit::store_event;
use super::open::{Rollback, assemble, load, open_storage};
use super::tick::recovery_public;
use super::writer::{Anchor, encode, verified};
use super::{EngineConfig, EngineError};
use crate::storage::{CATALOGUE, SqliteStorage, StoreLock};

/// What an enrolment made.
#[derive(Clone, Debug)]
pub struct EnrollReport {
    /// Name of the store, 32 hex digits.
    pub store_id: String,
    /// The recovery key's public half: a recipient of every domain key.
    pub recovery_public: RecoveryPublicKey,
    /// Generation of the store, equal to the counter.
    pub generation: u64,
    /// Keys in the store.
    pub keys: u64,
}

/// What accepting a rollback did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RollbackReport {
    /// Generation that the store had.
    pub found: u64,
    /// The counter's value then.
    pub counter: u64,
    /// Generation and counter now.
    pub accepted: u64,
}

/// Makes a store in `config.directory` under a new root secret.
///
/// `recovery` is the recovery private key as read back from where the administrator keeps it: the
/// new store is opened with it before anything is final, so a recovery key that was written down
/// wrongly is found now and not on the day it is needed. It is not kept. The catalogue appears
/// under its name in one step, complete.
///
/// # Errors
/// There is a store already; the sealer or the disk failed. Nothing is left of a failed attempt.
pub fn enroll(
    config: &EngineConfig,
    sealer: &mut dyn RootSealer,
    profile: Profile,
    credential: &Credential,
    recovery: &RecoveryPrivateKey,
    clock: &dyn Clock,
) -> Result<EnrollReport, EngineError> {
    let sync = |directory: &Path| std::fs::File::open(directory)?.sync_all();
    enroll_with(config, sealer, profile, credential, recovery, clock, &sync)
}

/// Makes the entries of a directory durable.
pub(super) type SyncDirectory<'a> = &'a dyn Fn(&Path) -> std::io::Result<()>;

pub(super) fn enroll_with(
    config: &EngineConfig,
    sealer: &mut dyn RootSealer,
    profile: Profile,
    credential: &Credential,
    recovery: &RecoveryPrivateKey,
    clock: &dyn Clock,
    sync: SyncDirectory<'_>,
) -> Result<EnrollReport, EngineError> {
    let scope = Scope::new(&config.account, &config.region).ok_or(EngineError::BadScope)?;
    let directory = &config.directory;
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory)
        .map_err(|source| EngineError::Io {
            path: directory.clone(),
            source,
        })?;
    let _lock = StoreLock::acquire(directory)?;
    if directory.join(CATALOGUE).exists() {
        return Err(EngineError::AlreadyEnrolled(directory.clone()));
    }
    let (enrollment, kek) = sealer.enroll(profile, credential)?;
    let enrollment = with_checkpoints(sealer, enrollment);
    let written = write_first(
        config,
        sealer,
        &enrollment,
        &kek,
        scope,
        (recovery, clock),
        sync,
    );
    if written.is_err()
        && let Err(error) = sealer.remove(&enrollment)
    {
        tracing::warn!(%error, "a failed enrolment left its counter and epoch secret in the TPM");
    }
    written
}

fn write_first(
    config: &EngineConfig,
    sealer: &mut dyn RootSealer,
    enrollment: &Enrollment,
    kek: &HostKek,
    scope: Scope,
    (recovery, clock): (&RecoveryPrivateKey, &dyn Clock),
    sync: SyncDirectory<'_>,
) -> Result<EnrollReport, EngineError> {
    let directory = &config.directory;
    let reading = clock.read();
    let public = recovery.public_key()?;
    let store_id = HEXLOWER.encode(&kms_crypto::random_array::<16>()?);
    let generation = sealer.counter(enrollment)?;
    let meta = MetaRow {
        format: FORMAT,
        store_id: store_id.clone(),
        scope,
        created_ms: reading.wall_ms,
        revision: 1,
        generation,
        unanchored: 0,
        deletion_epoch: 0,
        domain: 1,
        epoch_change: None,
        recovery_public: kms_core::rows::Bytes(public.as_bytes().to_vec()),
        elapsed: Elapsed::starting(&reading),
        authorization_epoch: 0,
        audit_head: None,
        revoked: Vec::new(),
        epoch_owed: false,
    };
    let mut domain = DomainKeys::new(&meta);
    domain.draw(meta.domain)?;
    let domain_row = domain.row(meta.domain, reading.wall_ms, kek.key(), &public)?;
    prove_recovery(&meta, &domain_row, recovery, directory)?;

    let mut mac = SetMac::new(domain.mac_key(meta.domain)?);
    let mut rows = vec![
        Row::Meta(Box::new(meta)),
        Row::Enrollment(enrollment.to_json()?),
        Row::Domain(domain_row),
    ];
    rows.extend(event_row(config, "Enrolled", clock, None));
    let mut changes = Vec::new();
    for row in rows {
        let change = encode(&Change::Put(row))?;
        if let RawChange::Put(raw) = &change {
            mac.put(raw);
        }
        changes.push(change);
    }
    changes.push(encode(&Change::Put(Row::Mac(mac.value().to_vec())))?);
    write_catalogue(directory, &changes, sync)?;
    Ok(EnrollReport {
        store_id,
        recovery_public: public,
        generation,
        keys: 0,
    })
}

/// Makes a catalogue, which appears under its name in one step, complete.
pub(super) fn write_catalogue(
    directory: &Path,
    changes: &[RawChange],
    sync: SyncDirectory<'_>,
) -> Result<(), EngineError> {
    let new = directory.join(format!("{CATALOGUE}.new"));
    remove_leftovers(&new)?;
    let mut storage = SqliteStorage::create(&new)?;
    storage.commit(0, changes)?;
    storage.close()?;
    let io = |path: &Path| {
        let path = path.to_owned();
        move |source| EngineError::Io { path, source }
    };
    std::fs::File::open(&new)
        .and_then(|file| file.sync_all())
        .map_err(io(&new))?;
    let catalogue = directory.join(CATALOGUE);
    std::fs::rename(&new, &catalogue).map_err(io(&new))?;
    if let Err(source) = sync(directory) {
        // The enrolment goes only together with the catalogue, which nothing else opens.
        match std::fs::remove_file(&catalogue) {
            Ok(()) => return Err(io(directory)(source)),
            Err(error) => tracing::warn!(
                %source, %error,
                "the store is made, but the system does not say that its name is on the disk"
            ),
        }
    }
    Ok(())
}

/// Opens the store with the recovery private key and seals it to `sealer`, with a new root secret.
/// Every key is kept. Whether the store is the newest one cannot be known here: the counter that
/// knew is the old TPM's. The former enrolment is removed if it was in the same TPM: a store that
/// still uses it, such as the one that this is a copy of, needs the recovery key from then on.
///
/// # Errors
/// There is no store, the key is another store's, the store was changed; the sealer or the disk
/// failed, and then the store is as it was, but the former enrolment may be gone: run it again.
pub fn recover(
    config: &EngineConfig,
    sealer: &mut dyn RootSealer,
    profile: Profile,
    credential: &Credential,
    recovery: &RecoveryPrivateKey,
    clock: &dyn Clock,
) -> Result<EnrollReport, EngineError> {
    let (_lock, mut storage) = open_storage(&config.directory)?;
    let (rows, snapshot) = load(&mut storage, config)?;
    let mut domain = DomainKeys::new(snapshot.meta());
    for row in snapshot.domains() {
        domain
            .open_as_recovery(row, recovery)
            .map_err(|_| EngineError::WrongRecoveryKey(config.directory.clone()))?;
    }
    let mut mac = verified(&rows, &snapshot, domain.mac_key(snapshot.meta().domain)?)?;
    let public = recovery_public(&snapshot.meta().recovery_public.0)?;

    let (enrollment, kek) = sealer.enroll(profile, credential)?;
    let enrollment = with_checkpoints(sealer, enrollment);
    let result = (|| {
        // A store that comes without its log begins a new one, and says so in its first record.
        let head = snapshot.meta().audit_head.filter(|_| has_log(config));
        let meta = MetaRow {
            audit_head: head,
            revision: snapshot.meta().revision.saturating_add(1),
            generation: sealer.counter(&enrollment)?,
            unanchored: 0,
            elapsed: snapshot.meta().elapsed.moved(&clock.read()),
            ..snapshot.meta().clone()
        };
        let report = EnrollReport {
            store_id: meta.store_id.clone(),
            recovery_public: public,
            generation: meta.generation,
            keys: snapshot
                .keys()
                .filter(|key| key.destroyed_ms.is_none())
                .count() as u64,
        };
        let mut rows = vec![
            Row::Meta(Box::new(meta)),
            Row::Enrollment(enrollment.to_json()?),
        ];
        let lost = snapshot.meta().audit_head.filter(|_| head.is_none());
        rows.extend(event_row(config, "Recovered", clock, lost));
        for row in snapshot.domains() {
            rows.push(Row::Domain(domain.with_host(row, kek.key())?));
        }
        let mut changes = Vec::new();
        for row in rows {
            let change = encode(&Change::Put(row))?;
            if let RawChange::Put(raw) = &change {
                mac.put(raw);
            }
            changes.push(change);
        }
        changes.push(encode(&Change::Put(Row::Mac(mac.value().to_vec())))?);
        // If the former enrolment is in this very TPM, it goes before the new one counts: the store
        // as it is now must not pass for the newest one again. A crash here leaves a store that the
        // recovery key opens, and that is being used anyway.
        match Enrollment::from_json(snapshot.enrollment()).and_then(|old| sealer.remove(&old)) {
            Ok(()) => tracing::info!("the former enrolment is removed, if it was here"),
            Err(error) => tracing::info!(%error, "the former enrolment is not here"),
        }
        storage.commit(snapshot.meta().revision, &changes)?;
        Ok(report)
    })();
    if result.is_err()
        && let Err(error) = sealer.remove(&enrollment)
    {
        tracing::warn!(%error, "a failed recovery left its counter and epoch secret in the TPM");
    }
    if result.is_ok() {
        remove_former(sealer, snapshot.enrollment());
    }
    result
}

/// Makes a store current that the rollback counter does not vouch for. Needs the recovery private
/// key: whoever can merely write the store's directory cannot do this.
///
/// # Errors
/// The store is not rolled back, the key is another store's, or the store does not open. A store
/// from before a deletion does not open any more; [`recover`] can open it with the recovery key.
pub fn accept_rollback(
    config: &EngineConfig,
    sealer: Box<dyn RootSealer>,
    credential: &Credential,
    recovery: &RecoveryPrivateKey,
    clock: Arc<dyn Clock>,
) -> Result<RollbackReport, EngineError> {
    let (_lock, storage) = open_storage(&config.directory)?;
    let shared = assemble(
        config.clone(),
        Box::new(storage),
        sealer,
        credential,
        clock,
        Rollback::Accept,
    )?;
    let (meta, row) = {
        let kms = shared.kms.read();
        let meta = kms.snapshot().meta().clone();
        let row = kms
            .snapshot()
            .domains()
            .find(|row| row.id == meta.domain)
            .cloned();
        (meta, row)
    };
    let row = row.ok_or_else(|| EngineError::Tampered("its domain key is missing".to_owned()))?;
    prove_recovery(&meta, &row, recovery, &config.directory)?;
    let mut writer = shared.writer.lock();
    let (found, counter) = (meta.generation, writer.counter);
    if found == counter || found == counter.saturating_add(1) {
        return Err(EngineError::NotRolledBack(config.directory.clone()));
    }
    let event = store_event("RollbackAccepted", shared.clock.read().wall_ms)
        .detail("found", found)
        .detail("counter", counter);
    shared.commit_recorded(&mut writer, &[], Anchor::Now, vec![event])?;
    shared.increment(&mut writer)?;
    Ok(RollbackReport {
        found,
        counter,
        accepted: writer.counter,
    })
}

/// The record with what vouches for checkpoints of the audit log, made here because making an NV index may need the owner's
/// password. Without it the store works all the same, and a later start tries again.
pub(super) fn with_checkpoints(sealer: &mut dyn RootSealer, enrollment: Enrollment) -> Enrollment {
    match sealer.prepare_checkpoints(&enrollment) {
        Ok(prepared) => prepared,
        Err(error) => {
            tracing::warn!(%error, "the sealer cannot vouch for checkpoints of the audit log yet");
            enrollment
        }
    }
}

/// Takes the former enrolment out of this TPM, if it is in this one. It would go on vouching for the
/// store as it was before the recovery: that one, put back later, must not pass for the newest.
pub(super) fn remove_former(sealer: &mut dyn RootSealer, record: &[u8]) {
    let removed = Enrollment::from_json(record).and_then(|former| sealer.remove(&former));
    match removed {
        Ok(()) => {}
        Err(
            SealError::OtherTpm { .. }
            | SealError::OtherKeyFile { .. }
            | SealError::UnsupportedRecord { .. },
        ) => {}
        Err(error) => tracing::warn!(%error, "the former enrolment stays in the TPM"),
    }
}

/// Checks that a recovery private key is the one of this store: its public half is a recipient there.
///
/// # Errors
/// There is no store, or it has another recovery key.
pub fn check_recovery(
    config: &EngineConfig,
    recovery: &RecoveryPrivateKey,
) -> Result<(), EngineError> {
    let (_lock, mut storage) = open_storage(&config.directory)?;
    let (_, snapshot) = load(&mut storage, config)?;
    check_public(&snapshot, recovery, &config.directory)
}

pub(super) fn check_public(
    snapshot: &Snapshot,
    recovery: &RecoveryPrivateKey,
    directory: &Path,
) -> Result<(), EngineError> {
    if recovery_public(&snapshot.meta().recovery_public.0)? == recovery.public_key()? {
        return Ok(());
    }
    Err(EngineError::WrongRecoveryKey(directory.to_owned()))
}

/// The recovery key opens this domain key, now.
pub(super) fn prove_recovery(
    meta: &MetaRow,
    row: &DomainRow,
    recovery: &RecoveryPrivateKey,
    directory: &Path,
) -> Result<(), EngineError> {
    DomainKeys::new(meta)
        .open_as_recovery(row, recovery)
        .map_err(|_| EngineError::WrongRecoveryKey(directory.to_owned()))
}

/// Files of an enrolment that did not get to its end.
fn remove_leftovers(new: &Path) -> Result<(), EngineError> {
    for suffix in ["", "-wal", "-shm", "-journal"] {
        let mut path = new.as_os_str().to_owned();
        path.push(suffix);
        match std::fs::remove_file(&path) {
            Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
                return Err(EngineError::Io {
                    path: path.into(),
                    source,
                });
            }
            _ => {}
        }
    }
    Ok(())
}

/// Whether the audit log came with the store.
pub(super) fn has_log(config: &EngineConfig) -> bool {
    let audit = config.audit.as_ref();
    audit.is_some_and(|audit| {
        !crate::audit::list(&audit.directory).is_ok_and(|files| files.is_empty())
    })
}

/// The row that lets the first start record what was done to the store.
fn event_row(
    config: &EngineConfig,
    event: &str,
    clock: &dyn Clock,
    lost: Option<AuditHead>,
) -> Option<Row> {
    config.audit.as_ref()?;
    let mut record = store_event(event, clock.read().wall_ms);
    if let Some(lost) = lost {
        record = record
            .detail("formerLogRecords", lost.size)
            .detail("formerLogChain", HEXLOWER.encode(&lost.chain.0));
    }
    Some(outbox_row(&record))
}

/// The row that a record waits in for the log.
pub(super) fn outbox_row(record: &Record) -> Row {
    Row::Outbox(OutboxRow {
        id: record.event_id.clone(),
        record: Bytes(record.to_bytes()),
    })
}
