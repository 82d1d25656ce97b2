//! Opening a store: unseal, verify, compare with the counter, finish what a crash interrupted.

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use kms_core::ids::Scope;
use kms_core::kms::HostStatus;
use kms_core::rows::{RawRow, Row};
use kms_core::storage::Storage;
use kms_core::{Change, Clock, DomainKeys, Kms, LocalProvider, Snapshot};
use kms_seal::{
    Checkpointer, Credential, Enrollment, GenerationCheck, RootSealer, SealError, check_generation,
};
use parking_lot::{Mutex, RwLock};

use super::audit::Sink;
use super::hub::Hub;
use super::writer::{Anchor, Writer, verified};
use super::{Current, Engine, EngineConfig, EngineError, Shared, status};
use crate::audit::{AuditLog, CheckpointConfig, Checkpoints, Limit, last_use, service};
use crate::events::Events;
use crate::metrics::Metrics;
use crate::rates::Rates;
use crate::storage::{CATALOGUE, SqliteStorage, StoreLock};

/// What an administrator does who wants checkpoints and has none.
const NO_CHECKPOINTS: &str =
    "see \"Checkpoints\" in docs/OPERATIONS.md; records are kept all the same";

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
        Self::open_observed(config, sealer, credential, clock, |_, _, _| {})
    }

    /// The same. `observe` is handed the audit log, if there is one, before the records of what was done while kmsd did not
    /// run get there, so that who is told of records is told of these.
    pub(crate) fn open_observed(
        config: EngineConfig,
        sealer: Box<dyn RootSealer>,
        credential: &Credential,
        clock: Arc<dyn Clock>,
        observe: impl FnOnce(&AuditLog, &Events, Scope),
    ) -> Result<Self, EngineError> {
        let (lock, storage) = open_storage(&config.directory)?;
        let storage = Box::new(storage);
        let mut engine = Self::open_with(config, storage, sealer, credential, clock, observe)?;
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
        observe: impl FnOnce(&AuditLog, &Events, Scope),
    ) -> Result<Self, EngineError> {
        let mut shared = assemble(config, storage, sealer, credential, clock, Rollback::Refuse)?;
        let mut known = HashSet::new();
        if let Some(audit) = shared.config.audit.clone() {
            let head = shared.kms.read().snapshot().meta().audit_head;
            let start = AuditLog::open(audit, head)?;
            known = start.events;
            let scope = shared.kms.read().snapshot().meta().scope.clone();
            observe(&start.log, &shared.events, scope);
            shared.audit = Sink::Log(start.log);
        }
        {
            let mut writer = shared.writer.lock();
            shared.drain_outbox(&mut writer, &known)?;
            shared.take_up_offline();
            shared.record_event(
                service("ServiceStarted").detail("version", env!("CARGO_PKG_VERSION")),
            );
            shared.increment(&mut writer)?;
            shared.finish_epoch(&mut writer)?;
        }
        shared.start_checkpoints();
        shared.fill_last_use();
        Ok(Self {
            shared: Arc::new(shared),
        })
    }
}

impl Shared {
    /// Looks up in the log when each key was last used, while requests are answered already.
    fn fill_last_use(&self) {
        let Some(log) = self.audit.log() else {
            return;
        };
        let kms = self.kms.read();
        let live = kms
            .snapshot()
            .keys()
            .filter(|key| key.destroyed_ms.is_none());
        let wanted = live.map(|key| (key.id, key.created_ms)).collect();
        // What is recorded from here on is noted by whoever does it.
        let uses = kms.last_use();
        uses.reaches_back_to(self.clock.read().wall_ms);
        let home = Arc::clone(&self.home);
        last_use::fill(log.directory(), log.head().1.size, wanted, home, uses);
    }

    /// Lets checkpoints of the audit log be made. A sealer that cannot vouch for them is no reason not to serve.
    fn start_checkpoints(&mut self) {
        let Some(log) = self.audit.log().cloned() else {
            return;
        };
        match self.checkpointer() {
            Ok(desk) => {
                let config = CheckpointConfig {
                    interval: log.config().checkpoint_interval,
                    copy: log.config().checkpoint_copy.clone(),
                    witnesses: log.config().witnesses.clone(),
                    scope: format!("{}/{}", self.config.account, self.config.region),
                };
                let generation = Arc::clone(&self.stored_generation);
                generation.store(
                    self.kms.read().snapshot().meta().generation,
                    Ordering::SeqCst,
                );
                let generation = move || generation.load(Ordering::SeqCst);
                match Checkpoints::start(log, desk, config, generation) {
                    Ok(checkpoints) => self.checkpoints = Some(checkpoints),
                    Err(error) => {
                        tracing::error!(%error, "no checkpoints of the audit log are made: {NO_CHECKPOINTS}");
                    }
                }
            }
            Err(error) => {
                tracing::error!(%error, "no checkpoints of the audit log are made: {NO_CHECKPOINTS}");
            }
        }
    }

    /// What vouches for checkpoints, made at the first start that has an audit log.
    fn checkpointer(&self) -> Result<Box<dyn Checkpointer>, EngineError> {
        let mut writer = self.writer.lock();
        if !writer.enrollment.has_checkpoints() {
            let Writer {
                sealer, enrollment, ..
            } = &mut *writer;
            let prepared = sealer.prepare_checkpoints(enrollment)?;
            let row = Row::Enrollment(prepared.to_json()?);
            self.commit(&mut writer, &[Change::Put(row)], Anchor::Soon)?;
            writer.enrollment = prepared;
        }
        Ok(writer.sealer.checkpointer(&writer.enrollment)?)
    }
}

/// Opens the newest store for a command that works on it while kmsd is stopped.
pub(super) fn open_stopped(
    config: &EngineConfig,
    sealer: Box<dyn RootSealer>,
    credential: &Credential,
    clock: Arc<dyn Clock>,
) -> Result<(StoreLock, Shared), EngineError> {
    let (lock, storage) = open_storage(&config.directory)?;
    let storage = Box::new(storage);
    let refuse = Rollback::Refuse;
    let shared = assemble(config.clone(), storage, sealer, credential, clock, refuse)?;
    Ok((lock, shared))
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
    let limit = match &config.audit {
        Some(audit) => Limit::new(audit.refused_burst, audit.refused_per_minute),
        None => Limit::new(0, 0),
    };
    let rates = Rates::new(config.rates.clone());
    let events = Events::new(0);
    let metrics = Metrics::default();
    metrics.counter_is(counter);
    let mut kms = Kms::new(snapshot);
    kms.set_served(config.served.clone());
    let kms = Arc::new(RwLock::new(Current {
        kms,
        generation: hub.begin(),
    }));
    let keeper = Arc::clone(&kms);
    let provider = LocalProvider::new(Arc::clone(&domain))
        .keeping(move |material| keeper.read().keeps_open(material));
    let (last_use, home) = {
        let kms = kms.read();
        (
            Arc::clone(kms.last_use()),
            Arc::clone(kms.snapshot().home()),
        )
    };
    Ok(Shared {
        config,
        last_use,
        home,
        kms,
        hub,
        provider,
        pool: Default::default(),
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
        limit: Arc::new(limit),
        rates,
        checkpoints: None,
        stored_generation: Arc::new(AtomicU64::new(0)),
        unproved: AtomicBool::new(false),
        closed: AtomicBool::new(false),
        outside: Default::default(),
        signers: Default::default(),
        group: Default::default(),
        metrics,
        events,
        backup: Mutex::new(None),
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
