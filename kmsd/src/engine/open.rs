//! Opening a store: unseal, verify, compare with the counter, finish what a crash interrupted.

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use kms_core::kms::HostStatus;
use kms_core::rows::RawRow;
use kms_core::storage::Storage;
use kms_core::{Clock, DomainKeys, Kms, LocalProvider, Snapshot};
use kms_seal::{Credential, Enrollment, GenerationCheck, RootSealer, SealError, check_generation};
use parking_lot::{Mutex, RwLock};

use super::audit::Sink;
use super::hub::Hub;
use super::writer::{Writer, verified};
use super::{Current, Engine, EngineConfig, EngineError, Shared, status};
use crate::audit::{AuditLog, service};
use crate::events::Events;
use crate::metrics::Metrics;
use crate::storage::{CATALOGUE, SqliteStorage, StoreLock};

/// What is done about a store that the counter does not vouch for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rollback {
    Refuse,
    /// Only for [`super::accept_rollback`], which has checked the recovery key.
    Accept,
}

impl Engine {
    /// Opens the store in `config.directory` and makes it ready to answer. Blocks, on a real TPM
    /// for seconds. A deletion epoch that a crash interrupted is finished first.
    ///
    /// # Errors
    /// [`EngineError`], each with a next step.
    pub fn open(
        config: EngineConfig,
        sealer: Box<dyn RootSealer>,
        credential: &Credential,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, EngineError> {
        let (lock, storage) = open_storage(&config.directory)?;
        let mut engine = Self::open_with(config, Box::new(storage), sealer, credential, clock)?;
        if let Some(shared) = Arc::get_mut(&mut engine.shared) {
            shared.writer.get_mut()._lock = Some(lock);
        }
        Ok(engine)
    }

    pub(super) fn open_with(
        config: EngineConfig,
        storage: Box<dyn Storage>,
        sealer: Box<dyn RootSealer>,
        credential: &Credential,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, EngineError> {
        let mut shared = assemble(config, storage, sealer, credential, clock, Rollback::Refuse)?;
        let mut known = HashSet::new();
        if let Some(audit) = shared.config.audit.clone() {
            let head = shared.kms.read().snapshot().meta().audit_head;
            let start = AuditLog::open(audit, head)?;
            known = start.events;
            shared.audit = Sink::Log(start.log);
        }
        {
            let mut writer = shared.writer.lock();
            shared.drain_outbox(&mut writer, &known)?;
            shared.record_event(
                service("ServiceStarted").detail("version", env!("CARGO_PKG_VERSION")),
            );
            shared.increment(&mut writer)?;
            shared.finish_epoch(&mut writer)?;
        }
        Ok(Self {
            shared: Arc::new(shared),
        })
    }
}

pub(super) fn assemble(
    config: EngineConfig,
    mut storage: Box<dyn Storage>,
    mut sealer: Box<dyn RootSealer>,
    credential: &Credential,
    clock: Arc<dyn Clock>,
    rollback: Rollback,
) -> Result<Shared, EngineError> {
    let (rows, snapshot) = load(storage.as_mut(), &config)?;
    let enrollment = Enrollment::from_json(snapshot.enrollment())?;
    let kek = sealer.unseal(&enrollment, credential)?;
    let mut domain = DomainKeys::new(snapshot.meta());
    for row in snapshot.domains() {
        domain.open_as_host(row, kek.key())?;
    }
    drop(kek);
    let mac = verified(&rows, &snapshot, domain.mac_key(snapshot.meta().domain)?)?;
    let counter = sealer.counter(&enrollment)?;
    match check_generation(snapshot.meta().generation, counter) {
        Ok(GenerationCheck::Current) => {}
        Ok(GenerationCheck::IncrementMissing) => tracing::warn!(
            generation = snapshot.meta().generation,
            "the last change was not anchored before kmsd stopped; anchoring it now"
        ),
        Err(SealError::RolledBack { store, counter }) if rollback == Rollback::Refuse => {
            let directory = config.directory;
            return Err(if store < counter {
                EngineError::RolledBack {
                    directory,
                    store,
                    counter,
                }
            } else {
                EngineError::CounterBehind {
                    directory,
                    store,
                    counter,
                }
            });
        }
        Err(SealError::RolledBack { .. }) => {}
        Err(error) => return Err(error.into()),
    }
    let host = HostStatus {
        settings: config.settings.clone(),
        ..status::at_start(sealer.as_mut(), clock.read().wall_ms)
    };
    let hub = Hub::new(&snapshot);
    let domain = Arc::new(RwLock::new(domain));
    let now = Instant::now();
    let audit = match config.audit {
        Some(_) => Sink::Outbox,
        None => Sink::Off,
    };
    let events = Events::new(0);
    let metrics = Metrics::default();
    metrics.counter_is(counter);
    Ok(Shared {
        config,
        kms: RwLock::new(Current {
            kms: Kms::new(snapshot),
            generation: hub.begin(),
        }),
        hub,
        provider: LocalProvider::new(Arc::clone(&domain)),
        domain,
        clock,
        host,
        writer: Mutex::new(Writer {
            storage,
            sealer,
            credential: credential.clone(),
            enrollment,
            mac,
            counter,
            anchored: now,
            counted: now,
            alerted: None,
            outbox: Vec::new(),
            logged: now,
            stale: false,
            _lock: None,
        }),
        audit,
        unproved: AtomicBool::new(false),
        closed: AtomicBool::new(false),
        outside: Default::default(),
        metrics,
        events,
        last_failure: Mutex::new(None),
    })
}

/// Takes the lock and opens the catalogue.
pub(super) fn open_storage(directory: &Path) -> Result<(StoreLock, SqliteStorage), EngineError> {
    let catalogue = directory.join(CATALOGUE);
    if !catalogue.exists() {
        return Err(EngineError::NotEnrolled(directory.to_owned()));
    }
    let lock = StoreLock::acquire(directory)?;
    Ok((lock, SqliteStorage::open(&catalogue)?))
}

/// Reads the rows and checks that they are this configuration's store. Not verified yet.
pub(super) fn load(
    storage: &mut dyn Storage,
    config: &EngineConfig,
) -> Result<(Vec<RawRow>, Snapshot), EngineError> {
    let (revision, rows) = storage.load()?;
    let snapshot = Snapshot::from_rows(&rows)?;
    let meta = snapshot.meta();
    if meta.revision != revision {
        return Err(EngineError::Tampered(
            "its revision does not fit its rows".to_owned(),
        ));
    }
    if meta.scope.account != config.account || meta.scope.region != config.region {
        let scope = meta.scope.clone();
        return Err(EngineError::OtherScope {
            account: scope.account,
            region: scope.region,
        });
    }
    Ok((rows, snapshot))
}
