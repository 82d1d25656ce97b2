//! Changes past every policy, to a store of which no kmsd runs.

use std::sync::Arc;

use kms_core::audit::{Actor, LOCAL_SOURCE, Record};
use kms_core::kms::{Measure, Obstacle, Plan};
use kms_core::relevance::relevant;
use kms_core::rows::{Bytes, MetaRow, OutboxRow, Row};
use kms_core::storage::{RawChange, Storage as _};
use kms_core::{Change, Clock, DomainKeys, Kms};
use kms_crypto::RecoveryPrivateKey;
use kms_seal::{Credential, RootSealer};
use uuid::Uuid;

use super::enroll::prove_recovery;
use super::open::{load, open_stopped, open_storage};
use super::writer::{Anchor, encode, verified};
use super::{EngineConfig, EngineError};

/// What opens the store.
pub enum Opened {
    /// The TPM (or software key) it is sealed to; with the recovery key as well, that is proved too.
    Sealer(Box<dyn RootSealer>, Credential, Option<RecoveryPrivateKey>),
    /// The recovery key alone: the TPM is not asked, and not told.
    Recovery(RecoveryPrivateKey),
}

impl Opened {
    fn name(&self) -> &'static str {
        match self {
            Self::Sealer(_, _, None) => "sealer",
            Self::Sealer(_, _, Some(_)) => "sealer and recovery key",
            Self::Recovery(_) => "recovery key",
        }
    }
}

/// Who breaks the glass, and why.
#[derive(Clone, Debug)]
pub struct Reason {
    /// As given.
    pub text: String,
    /// Real user id: who logged in, where `sudo` and the like keep that.
    pub login: Option<u32>,
    /// Effective user id.
    pub uid: u32,
    /// Effective group id.
    pub gid: u32,
}

/// Reads what stands between root and the keys; changes nothing.
///
/// # Errors
/// The store does not open.
pub fn obstacles(
    config: &EngineConfig,
    opened: Opened,
    clock: Arc<dyn Clock>,
) -> Result<Vec<Obstacle>, EngineError> {
    with_store(config, opened, clock, |kms| Ok((kms.obstacles(), None)))
}

/// Carries out a measure, once `confirm` has agreed to what it changes. The record of it is in the same transaction and
/// gets into the log when kmsd starts the next time. Gives back what was changed and the id of the event.
///
/// # Errors
/// The store does not open or cannot be written, there is nothing to do, or `confirm` refuses.
pub fn break_glass<E: From<EngineError>>(
    config: &EngineConfig,
    opened: Opened,
    clock: Arc<dyn Clock>,
    measure: &Measure,
    reason: &Reason,
    confirm: impl FnOnce(&Plan) -> Result<(), E>,
) -> Result<(Plan, String), E> {
    let with = opened.name();
    let now = clock.read().wall_ms;
    let mut refused = None;
    let done = with_store(config, opened, clock, |kms| {
        let plan = kms.break_glass(measure).map_err(EngineError::Refused)?;
        if let Err(error) = confirm(&plan) {
            refused = Some(error);
            return Ok((None, None));
        }
        let record = record(kms, measure, &plan, reason, with, now);
        let id = record.event_id.clone();
        let mut changes = plan.changes.clone();
        changes.push(Change::Put(Row::Outbox(OutboxRow {
            id: id.clone(),
            record: Bytes(record.to_bytes()),
        })));
        Ok((Some((plan, id)), Some(changes)))
    });
    match (done, refused) {
        (_, Some(error)) => Err(error),
        (Ok(Some(done)), None) => Ok(done),
        (Ok(None), None) => Err(EngineError::Closed.into()),
        (Err(error), None) => Err(error.into()),
    }
}

fn record(
    kms: &Kms,
    measure: &Measure,
    plan: &Plan,
    reason: &Reason,
    with: &str,
    now: i64,
) -> Record {
    let meta = kms.snapshot().meta();
    let arn = format!("arn:aws:iam::{}:root", meta.scope.account);
    let mut record = Record::service(Uuid::new_v4().to_string(), now, LOCAL_SOURCE, "BreakGlass")
        .detail("action", measure.name())
        .detail("target", plan.target.as_str())
        .detail("reason", reason.text.as_str())
        .detail("openedWith", with)
        .detail("before", plan.before.as_str());
    if let Some(login) = reason.login {
        record = record.detail("loginUid", login);
    }
    if let Measure::ReplaceKeyPolicy { policy, .. } = measure {
        let after = policy.as_deref().unwrap_or("the default policy");
        record = record.detail("after", after);
    }
    if let Some(key) = &plan.key {
        record = record.key(key.as_str());
    }
    record.epoch = meta.authorization_epoch;
    record.caller = Some(
        Actor {
            arn,
            uid: Some(reason.uid),
            gid: Some(reason.gid),
            pid: Some(std::process::id()),
            role: "root".to_owned(),
            ..Actor::default()
        }
        .into(),
    );
    record
}

/// Opens the store, lets `work` look at it, and commits the changes it gives.
fn with_store<T>(
    config: &EngineConfig,
    opened: Opened,
    clock: Arc<dyn Clock>,
    work: impl FnOnce(&Kms) -> Result<(T, Option<Vec<Change>>), EngineError>,
) -> Result<T, EngineError> {
    match opened {
        Opened::Sealer(sealer, credential, recovery) => with_sealer(
            config,
            (sealer, &credential),
            recovery.as_ref(),
            clock,
            work,
        ),
        Opened::Recovery(key) => with_recovery(config, &key, clock.as_ref(), work),
    }
}

fn with_sealer<T>(
    config: &EngineConfig,
    (sealer, credential): (Box<dyn RootSealer>, &Credential),
    recovery: Option<&RecoveryPrivateKey>,
    clock: Arc<dyn Clock>,
    work: impl FnOnce(&Kms) -> Result<(T, Option<Vec<Change>>), EngineError>,
) -> Result<T, EngineError> {
    let (_lock, shared) = open_stopped(config, sealer, credential, clock)?;
    if let Some(key) = recovery {
        let kms = shared.kms.read();
        let meta = kms.snapshot().meta();
        let row = kms.snapshot().domains().find(|row| row.id == meta.domain);
        let row =
            row.ok_or_else(|| EngineError::Tampered("its domain key is missing".to_owned()))?;
        prove_recovery(meta, row, key, &config.directory)?;
    }
    let mut writer = shared.writer.lock();
    shared.increment(&mut writer)?;
    let (result, changes) = work(&shared.kms.read())?;
    if let Some(changes) = changes {
        shared.commit(&mut writer, &changes, Anchor::Now)?;
        shared.increment(&mut writer)?;
    }
    Ok(result)
}

/// The counter is not asked: if this is an older store, the next start says so. The change counts as one that is not anchored
/// yet.
fn with_recovery<T>(
    config: &EngineConfig,
    key: &RecoveryPrivateKey,
    clock: &dyn Clock,
    work: impl FnOnce(&Kms) -> Result<(T, Option<Vec<Change>>), EngineError>,
) -> Result<T, EngineError> {
    let (_lock, mut storage) = open_storage(&config.directory)?;
    let (rows, snapshot) = load(&mut storage, config)?;
    let mut domain = DomainKeys::new(snapshot.meta());
    for row in snapshot.domains() {
        domain
            .open_as_recovery(row, key)
            .map_err(|_| EngineError::WrongRecoveryKey(config.directory.clone()))?;
    }
    let mut mac = verified(&rows, &snapshot, domain.mac_key(snapshot.meta().domain)?)?;
    let kms = Kms::new(snapshot);
    let (result, changes) = work(&kms)?;
    let Some(mut changes) = changes else {
        return Ok(result);
    };
    let meta = kms.snapshot().meta();
    let relevance = relevant(kms.snapshot(), &changes);
    changes.push(Change::Put(Row::Meta(Box::new(MetaRow {
        revision: meta.revision.saturating_add(1),
        unanchored: meta.unanchored.saturating_add(1),
        elapsed: meta.elapsed.advanced(&clock.read()),
        authorization_epoch: meta
            .authorization_epoch
            .saturating_add(u64::from(relevance.scope().is_some())),
        ..meta.clone()
    }))));
    let mut raw = changes.iter().map(encode).collect::<Result<Vec<_>, _>>()?;
    for change in &raw {
        match change {
            RawChange::Put(row) => mac.put(row),
            RawChange::Remove(table, id) => mac.remove(*table, id),
        }
    }
    raw.push(encode(&Change::Put(Row::Mac(mac.value().to_vec())))?);
    storage.commit(meta.revision, &raw)?;
    Ok(result)
}
