//! One record for each request, and for each thing that happens without one.
//!
//! The record of a change is written into the same transaction, into the outbox, and then into the log: whatever
//! happens in between, the next start finds it in the outbox and appends it. So no change is in force without a record.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use data_encoding::HEXLOWER;
use kms_api::{
    ApiError, Caller, CallerRole, CreateCheckpointResponse, ErrorCode, GetAuditHeadResponse,
    Request, Response, WitnessInfo,
};
use kms_core::audit::{Actor, KMS_SOURCE, Kind, Record};
use kms_core::last_use::{LastUse, Used, use_of};
use kms_core::rows::{Bytes, Manager, Origin, OutboxRow, RotationKind, Row, Table};
use kms_core::{Basis, Change, Handled, KeyId, Kms, Verdict, Write};
use parking_lot::Mutex;
use uuid::Uuid;

use super::writer::{Anchor, Writer};
use super::{EngineError, Shared};
use crate::audit::{
    self, Asker, AuditLog, AuditStatus, CheckpointStatus, Checkpoints, Health, Limit, Ticket,
};
use crate::service::Refused;
use crate::uuids;

/// Where records go.
pub(super) enum Sink {
    /// Into the log.
    Log(AuditLog),
    /// Into the outbox only: the program that serves requests will append them.
    Outbox,
    /// Nowhere. For measuring.
    Off,
}

impl Sink {
    /// The log, if records go into one.
    pub(super) fn log(&self) -> Option<&AuditLog> {
        match self {
            Self::Log(log) => Some(log),
            Self::Outbox | Self::Off => None,
        }
    }
}

/// A request on its way, and what its record will say.
pub(super) struct Trace {
    log: AuditLog,
    /// Whether the answer waits for the record.
    urgent: bool,
    /// Whose records are limited, with the limit.
    limit: Option<(Arc<Limit>, Asker)>,
    state: Mutex<State>,
}

struct State {
    /// `None` once it has been handed over.
    record: Option<Record>,
    /// Somebody allowed it: a policy, a grant, an office.
    allowed: bool,
    /// The keys that it was about, as in the record.
    keys: [Option<KeyId>; 2],
    ticket: Ticket,
}

impl Trace {
    /// What authorisation said.
    pub(super) fn judged(&self, kms: &Kms, handled: &Handled) {
        let snapshot = kms.snapshot();
        let meta = snapshot.meta();
        let keys = handled.keys.iter().flatten();
        let keys = keys.map(|key| snapshot.arn(*key)).collect();
        let mut state = self.state.lock();
        state.keys = handled.keys;
        // What everybody may ask for himself is allowed by nobody.
        state.allowed = match &handled.verdict {
            Verdict::Allowed(Basis::Party) | Verdict::Unasked | Verdict::Denied(_) => false,
            Verdict::Allowed(_) => true,
        };
        if let Some(record) = &mut state.record {
            record.decided(&handled.verdict, keys, meta.authorization_epoch);
        }
    }

    /// A use of keys has succeeded. Changes are noted where they are committed.
    fn note(&self, uses: &LastUse) {
        let state = self.state.lock();
        let Some(record) = &state.record else {
            return;
        };
        if use_of(&record.operation, 0).is_none() {
            return;
        }
        let uuid = |text: &str| Uuid::try_parse(text).map_or([0; 16], Uuid::into_bytes);
        let event_id = uuid(&record.event_id);
        let request_id = uuid(record.request_id.as_deref().unwrap_or_default());
        for (place, key) in state.keys.iter().enumerate() {
            if let (Some(key), Some(operation)) = (*key, use_of(&record.operation, place)) {
                let used = Used {
                    operation,
                    time_ms: record.time,
                    event_id,
                    request_id,
                };
                uses.note(key, used);
            }
        }
    }

    /// The record of a change that is about to be committed.
    fn committing(&self, result: Result<&Response, &ApiError>) -> Option<Record> {
        let mut record = self.state.lock().record.clone()?;
        record.answered(result);
        Some(record)
    }

    /// The record has been handed over with a transaction.
    fn committed(&self, ticket: Ticket) {
        let mut state = self.state.lock();
        state.record = None;
        state.ticket = ticket;
    }

    /// Hands the record over, if that has not been done. What the answer has to wait for, if anything.
    fn finish(&self, result: Result<&Response, &ApiError>) -> Option<Ticket> {
        let mut state = self.state.lock();
        if let Some(mut record) = state.record.take() {
            record.answered(result);
            if let Some((limit, asker)) = &self.limit
                && !state.allowed
            {
                let principal = record.caller.as_ref().map_or("", |caller| &caller.arn);
                if !limit.records(*asker, principal) {
                    return self.urgent.then_some(state.ticket);
                }
                record.shorten();
                limit.charge(*asker);
            }
            state.ticket = self.log.push(record, None, self.urgent);
        }
        // Without a record there is no answer either, where nothing but the end of kmsd keeps it from the log.
        (self.urgent || state.ticket.is_never()).then_some(state.ticket)
    }
}

impl Drop for Trace {
    /// A request that ended in a panic has a record too.
    fn drop(&mut self) {
        let error = ApiError::new(ErrorCode::Internal, "The request ended without a result.");
        self.finish(Err(&error));
    }
}

/// Whose records of refused requests are limited: those of users, who are trusted with nothing but what policies give them.
fn asker(caller: &Caller) -> Option<Asker> {
    let user = caller.role == CallerRole::User;
    if let Some(network) = &caller.network {
        return user.then_some(Asker::access_key(&network.access_key_id));
    }
    user.then(|| match &caller.via {
        None => Asker::Uid(caller.uid),
        // Without a name it is mostly one of the many that a user has in a user namespace.
        Some(_) => Asker::Behalf(caller.login.is_some().then_some(caller.uid)),
    })
}

/// What records say of a caller. The requests of a connection share it: it takes half a dozen strings to make.
fn actor(caller: &Caller) -> Arc<Actor> {
    /// Connections that one thread remembers.
    const KEPT: usize = 16;
    thread_local! {
        // The callers are kept with it, so that equal addresses are equal contents.
        static KNOWN: RefCell<VecDeque<(Caller, Arc<Actor>)>> = const { RefCell::new(VecDeque::new()) };
    }
    fn same<T: ?Sized>(one: Option<&Arc<T>>, other: Option<&Arc<T>>) -> bool {
        match (one, other) {
            (Some(one), Some(other)) => Arc::ptr_eq(one, other),
            (one, other) => one.is_none() && other.is_none(),
        }
    }
    KNOWN.with_borrow_mut(|known| {
        let found = known.iter().find(|(other, _)| {
            Arc::ptr_eq(&other.arn, &caller.arn)
                && Arc::ptr_eq(&other.user_name, &caller.user_name)
                && same(other.process.as_ref(), caller.process.as_ref())
                && same(other.via.as_ref(), caller.via.as_ref())
                && same(other.network.as_ref(), caller.network.as_ref())
                && (other.uid, other.gid, other.pid, other.role)
                    == (caller.uid, caller.gid, caller.pid, caller.role)
        });
        if let Some((_, actor)) = found {
            return Arc::clone(actor);
        }
        let actor = Arc::new(Actor::from(caller));
        if known.len() >= KEPT {
            known.pop_front();
        }
        known.push_back((caller.clone(), Arc::clone(&actor)));
        actor
    })
}

impl Shared {
    /// Begins the record of a request, if it has one: what kmsd asks itself changes nothing and has none.
    ///
    /// # Errors
    /// It cannot be recorded, and is refused for that.
    pub(super) fn trace(
        &self,
        id: Uuid,
        request: &Request,
        caller: &Caller,
    ) -> Result<Option<Arc<Trace>>, ApiError> {
        let read_only = request.is_read_only();
        let Some(log) = self.audit.log() else {
            return Ok(None);
        };
        if caller.role == CallerRole::Internal && read_only {
            return Ok(None);
        }
        log.admit(request.operation(), read_only)?;
        let mut record = Record::request(
            uuids::text(uuids::draw()),
            uuids::text(id),
            self.clock.read().wall_ms,
            request,
            actor(caller),
        );
        if let Some(scope) = caller.scope.as_deref() {
            record.made_for(scope, &self.home);
        }
        Ok(Some(Arc::new(Trace {
            urgent: !read_only || log.config().data_delay.is_zero(),
            log: log.clone(),
            // What a service says of accesses is its own matter: it gathers them.
            limit: asker(caller)
                .filter(|_| {
                    caller.via.is_none() || !matches!(request, Request::RecordFileAccess(_))
                })
                .map(|asker| (Arc::clone(&self.limit), asker)),
            state: Mutex::new(State {
                record: Some(record),
                allowed: false,
                keys: [None; 2],
                ticket: Ticket::default(),
            }),
        })))
    }

    /// Whether [`Self::trace`] would block.
    pub(super) fn must_wait(&self) -> bool {
        self.audit.log().is_some_and(AuditLog::must_wait)
    }

    /// Records what was answered, and waits for the disk where the answer has to.
    ///
    /// # Errors
    /// The record did not get onto the disk.
    pub(super) async fn recorded(
        &self,
        trace: Option<&Arc<Trace>>,
        result: Result<&Response, &ApiError>,
    ) -> Result<(), ApiError> {
        let Some(trace) = trace else {
            return Ok(());
        };
        if result.is_ok() {
            trace.note(&self.last_use);
        }
        match trace.finish(result) {
            Some(ticket) => trace.log.wait(ticket).await,
            None => Ok(()),
        }
    }

    /// The same, on the calling thread.
    ///
    /// # Errors
    /// The record did not get onto the disk.
    pub(super) fn recorded_blocking(
        &self,
        trace: Option<&Arc<Trace>>,
        result: Result<&Response, &ApiError>,
    ) -> Result<(), ApiError> {
        let Some(trace) = trace else {
            return Ok(());
        };
        if result.is_ok() {
            trace.note(&self.last_use);
        }
        match trace.finish(result) {
            Some(ticket) => trace.log.wait_blocking(ticket),
            None => Ok(()),
        }
    }

    /// Records a request that did not get as far as a caller or an operation.
    ///
    /// # Errors
    /// See [`AuditLog::admit_now`].
    pub(super) fn record_refused(&self, refused: &Refused<'_>) -> Result<(), ApiError> {
        let actor = Actor {
            arn: refused.principal.to_owned(),
            gid: refused.ids.map(|(_, gid, _)| gid),
            network: refused.network.cloned(),
            pid: refused.ids.map(|(.., pid)| pid),
            role: "stranger".to_owned(),
            uid: refused.ids.map(|(uid, ..)| uid),
            ..Actor::default()
        };
        let Refused {
            id,
            operation,
            asker,
            error,
            ..
        } = *refused;
        self.record_early(id, operation, actor, asker, error)
    }

    /// Records a request of a known caller that could not be read.
    ///
    /// # Errors
    /// See [`AuditLog::admit_now`].
    pub(super) fn record_unreadable(
        &self,
        id: Uuid,
        operation: &str,
        caller: &Caller,
        error: &ApiError,
    ) -> Result<(), ApiError> {
        self.record_early(id, operation, Actor::from(caller), asker(caller), error)
    }

    fn record_early(
        &self,
        id: Uuid,
        operation: &str,
        actor: Actor,
        asker: Option<Asker>,
        error: &ApiError,
    ) -> Result<(), ApiError> {
        let Some(log) = self.audit.log() else {
            return Ok(());
        };
        log.admit_now(operation, true)?;
        let mut record = audit::service(operation);
        record.kind = Kind::Api;
        record.time = self.clock.read().wall_ms;
        let ours = Request::OPERATIONS
            .iter()
            .any(|(prefix, name)| *name == operation && *prefix == kms_api::LOCAL_PREFIX);
        if !ours {
            record.source = KMS_SOURCE.to_owned();
        }
        record.request_id = Some(id.to_string());
        record.caller = Some(Arc::new(actor));
        record.answered(Err(error));
        if let Some(asker) = asker {
            record.shorten();
            self.limit.charge(asker);
        }
        log.push(record, None, false);
        Ok(())
    }

    /// Records how many requests were not answered: for each user at most once in a minute, or with `last` all of them.
    pub(super) fn record_unanswered(&self, last: bool) {
        for report in self.limit.reports(last) {
            tracing::warn!(
                uid = report.details.get("uid").map(|uid| uid.to_string()),
                address = report
                    .details
                    .get("sourceIPAddress")
                    .and_then(|one| one.as_str()),
                requests = report
                    .details
                    .get("requests")
                    .map(|count| count.to_string()),
                "requests were not answered: too many of this user were refused"
            );
            self.record_event(report);
        }
        for report in self.rates.reports(last) {
            let text = |name: &str| report.details.get(name).map(|value| value.to_string());
            tracing::warn!(
                principal = text("principal"),
                class = text("class"),
                requests = text("requests"),
                "requests were refused: their rate was exceeded"
            );
            self.record_event(report);
        }
    }

    /// Records something that happened by itself, outside the catalogue.
    pub(super) fn record_event(&self, mut event: Record) {
        if let Some(log) = self.audit.log() {
            event.time = self.clock.read().wall_ms;
            event.epoch = self.kms.read().snapshot().meta().authorization_epoch;
            log.push(event, None, true);
        }
    }

    /// How the log stands.
    pub(super) fn audit_status(&self) -> Option<AuditStatus> {
        let mut status = self.audit.log().map(AuditLog::status)?;
        if let Some(checkpoints) = self.checkpoint_status() {
            let warnings = checkpoints.witnesses.into_iter();
            status
                .warnings
                .extend(warnings.filter_map(|witness| witness.warning));
        }
        Some(status)
    }

    /// How its checkpoints stand; none where there are none.
    pub(super) fn checkpoint_status(&self) -> Option<CheckpointStatus> {
        self.checkpoints.as_ref().map(Checkpoints::status)
    }

    /// Answers what the log is asked.
    ///
    /// # Errors
    /// There is no log, or it cannot be read.
    pub(super) fn look_up(&self, request: &Request) -> Result<Response, ApiError> {
        let Some(log) = self.audit.log() else {
            let text = "This kmsd keeps no audit log.";
            return Err(ApiError::new(ErrorCode::UnsupportedOperation, text));
        };
        // Who asks sees what was answered before. What cannot be written now is told by GetAuditHead.
        if log.status().health == Health::Good {
            log.flush()?;
        }
        match request {
            Request::GetAuditHead(_) => {
                let durable = log.durable();
                let status = log.status();
                Ok(Response::GetAuditHead(GetAuditHeadResponse {
                    size: durable.head.size,
                    chain: HEXLOWER.encode(&durable.head.chain.0),
                    root: HEXLOWER.encode(&durable.edge().root()),
                    pending: status.pending,
                    health: match status.health {
                        Health::Good => "good".to_owned(),
                        Health::Full => "full".to_owned(),
                        Health::Failed(why) => why,
                    },
                    lost: status.lost,
                    refused: status.refused,
                    directory: log.directory().display().to_string(),
                }))
            }
            Request::CreateCheckpoint(_) => self.checkpoint_now(log),
            Request::WaitForEvents(request) => self.events_now(request),
            Request::LookupEvents(request) => {
                let (_, head) = log.head();
                audit::search::search(log.directory(), head.size, request)
                    .map(Response::LookupEvents)
            }
            _ => Err(ApiError::bare(ErrorCode::Internal)),
        }
    }

    /// Makes a checkpoint over everything that was recorded so far. Blocks on the TPM.
    fn checkpoint_now(&self, log: &AuditLog) -> Result<Response, ApiError> {
        const PATIENCE: Duration = Duration::from_secs(30);
        let failed = |text: &str| Err(ApiError::new(ErrorCode::Internal, text));
        let Some(checkpoints) = &self.checkpoints else {
            return failed("No checkpoints of the audit log are made; kmsd's log says why.");
        };
        let (_, head) = log.head();
        if !checkpoints.make_now(PATIENCE) {
            return failed("The checkpoint is not made yet: the TPM takes long.");
        }
        let status = checkpoints.status();
        if status.size < head.size {
            return failed("No checkpoint could be made; kmsd's log says why.");
        }
        let witnesses = status.witnesses.into_iter().map(|witness| WitnessInfo {
            name: witness.name,
            size: witness.size,
            time: witness.time,
            error: witness.error,
        });
        Ok(Response::CreateCheckpoint(CreateCheckpointResponse {
            number: status.number,
            size: status.size,
            time: status.time_ms,
            witnesses: witnesses.collect(),
        }))
    }

    /// The records that belong to a transaction: its request's, and those of the rotations in it.
    pub(super) fn records_of(&self, trace: Option<&Trace>, write: &Write) -> Vec<Record> {
        if matches!(self.audit, Sink::Off) {
            return Vec::new();
        }
        let result = write.refusal.as_ref().map_or(Ok(&write.response), Err);
        let asked = trace.and_then(|trace| trace.committing(result));
        let ended = match trace {
            Some(_) => Vec::new(),
            None => {
                let mut ended = self.ended_grants(&write.changes);
                ended.extend(self.expired_materials(&write.changes));
                ended
            }
        };
        asked
            .into_iter()
            .chain(self.rotations(&write.changes))
            .chain(self.service_keys(&write.changes))
            .chain(ended)
            .collect()
    }

    /// A key that kmsd makes for a service, whatever request needed it.
    fn service_keys(&self, changes: &[Change]) -> Vec<Record> {
        let kms = self.kms.read();
        let snapshot = kms.snapshot();
        let time = self.clock.read().wall_ms;
        let made = changes.iter().filter_map(|change| match change {
            Change::Put(Row::Key(row)) if row.manager == Manager::Service => Some(row),
            _ => None,
        });
        made.filter(|row| snapshot.key(row.id).is_none())
            .map(|row| {
                let mut event = audit::kms_service("CreateKey")
                    .key(snapshot.arn(row.id))
                    .detail("keyId", row.id.to_string())
                    .detail("keyManager", "AWS");
                event.time = time;
                event
            })
            .collect()
    }

    /// AWS KMS records a rotation by itself, whatever caused it.
    fn rotations(&self, changes: &[Change]) -> Vec<Record> {
        let kms = self.kms.read();
        let snapshot = kms.snapshot();
        let time = self.clock.read().wall_ms;
        changes
            .iter()
            .filter_map(|change| match change {
                Change::Put(Row::Material(row)) => Some((row, row.rotated?)),
                _ => None,
            })
            .filter_map(|(row, kind)| {
                let key = snapshot.key(row.key)?;
                // Material that is imported again was rotated to before.
                let current = changes.iter().any(|change| {
                    matches!(change, Change::Put(Row::Key(new)) if new.id == row.key && new.current == Some(row.id))
                });
                // Nor is it rotated to what a replica imports for the first time.
                let other = key.current.is_some_and(|id| id != row.id);
                (current && other).then_some((row, kind, key))
            })
            .map(|(row, kind, key)| {
                let before = key.current.map(|id| id.to_string());
                let mut event = audit::kms_service("RotateKey")
                    .key(snapshot.arn(row.key))
                    .detail("keyId", row.key.to_string())
                    .detail(
                        "keyOrigin",
                        match key.origin {
                            Origin::AwsKms => "AWS_KMS",
                            Origin::External => "EXTERNAL",
                        },
                    )
                    .detail(
                        "rotationType",
                        match kind {
                            RotationKind::Automatic => "AUTOMATIC",
                            RotationKind::OnDemand => "ON_DEMAND",
                        },
                    )
                    .detail("currentKeyMaterialId", row.id.to_string());
                if let Some(before) = before {
                    event = event.detail("previousKeyMaterialId", before);
                }
                event.time = time;
                event
            })
            .collect()
    }

    /// Grants that are removed without a request have come to their end.
    fn ended_grants(&self, changes: &[Change]) -> Vec<Record> {
        let kms = self.kms.read();
        let time = self.clock.read().wall_ms;
        changes
            .iter()
            .filter_map(|change| match change {
                Change::Remove(Table::Grant, id) => id.split_once('/'),
                _ => None,
            })
            .map(|(key, grant)| {
                let mut event = audit::service("GrantEnded").detail("grantId", grant);
                if let Ok(key) = KeyId::from_row_id(key) {
                    event = event.key(kms.snapshot().arn(key));
                }
                event.time = time;
                event
            })
            .collect()
    }

    /// Imported material that is deleted without a request has expired: AWS KMS's record of that.
    fn expired_materials(&self, changes: &[Change]) -> Vec<Record> {
        let kms = self.kms.read();
        let time = self.clock.read().wall_ms;
        changes
            .iter()
            .filter_map(|change| match change {
                Change::Remove(Table::Material, id) => id.split_once('/'),
                _ => None,
            })
            .map(|(key, material)| {
                let mut event = audit::kms_service("DeleteImportedKeyMaterial")
                    .detail("keyMaterialId", material);
                if let Ok(key) = KeyId::from_row_id(key) {
                    event = event
                        .key(kms.snapshot().arn(key))
                        .detail("keyId", key.to_string());
                }
                event.time = time;
                event
            })
            .collect()
    }

    /// AWS KMS's record of a key that is destroyed.
    pub(super) fn deletions(&self, keys: &[KeyId]) -> Vec<Record> {
        let kms = self.kms.read();
        let time = self.clock.read().wall_ms;
        keys.iter()
            .map(|key| {
                let mut event = audit::kms_service("DeleteKey")
                    .key(kms.snapshot().arn(*key))
                    .detail("keyId", key.to_string());
                event.time = time;
                event
            })
            .collect()
    }

    /// Commits with records: they are durable with the changes, and handed to the log.
    pub(super) fn commit_recorded(
        &self,
        writer: &mut Writer,
        changes: &[Change],
        anchor: Anchor,
        records: Vec<Record>,
    ) -> Result<kms_core::relevance::Relevance, EngineError> {
        self.commit_traced(writer, changes, anchor, records, None)
    }

    /// The same; the first record is the request's.
    pub(super) fn commit_traced(
        &self,
        writer: &mut Writer,
        changes: &[Change],
        anchor: Anchor,
        records: Vec<Record>,
        trace: Option<&Trace>,
    ) -> Result<kms_core::relevance::Relevance, EngineError> {
        self.commit_all(writer, changes, anchor, vec![(records, trace)])
    }

    /// The same with the records of several requests, of which each is the first of its own.
    pub(super) fn commit_all(
        &self,
        writer: &mut Writer,
        changes: &[Change],
        anchor: Anchor,
        groups: Vec<(Vec<Record>, Option<&Trace>)>,
    ) -> Result<kms_core::relevance::Relevance, EngineError> {
        let is_empty = groups.iter().all(|(records, _)| records.is_empty());
        if matches!(self.audit, Sink::Off) || is_empty {
            return self.commit(writer, changes, anchor);
        }
        let records: Vec<(Record, Vec<u8>, Option<&Trace>)> = groups
            .into_iter()
            .flat_map(|(records, trace)| {
                records.into_iter().enumerate().map(move |(n, record)| {
                    let bytes = record.to_bytes();
                    (record, bytes, trace.filter(|_| n == 0))
                })
            })
            .collect();
        let mut all = changes.to_vec();
        all.extend(
            records
                .iter()
                .map(|(record, bytes, _)| outbox(record, bytes)),
        );
        let relevance = self.commit(writer, &all, anchor)?;
        if let Some(log) = self.audit.log() {
            for (record, bytes, trace) in records {
                let id = record.event_id.clone();
                for (key, used) in audit::last_use::uses_in(&record, &self.home) {
                    self.last_use.note(key, used);
                }
                let ticket = log.push(record, Some(&bytes), true);
                writer.outbox.push((id, ticket));
                if let Some(trace) = trace {
                    trace.committed(ticket);
                }
            }
        }
        Ok(relevance)
    }

    /// What every transaction carries for the log: where it ends on disk, and the records of the outbox that it has.
    /// Returns how many of the writer's tickets are done with it.
    pub(super) fn settle_outbox(
        &self,
        writer: &Writer,
        meta: &mut kms_core::rows::MetaRow,
        changes: &mut Vec<Change>,
    ) -> Vec<String> {
        let Some(log) = self.audit.log() else {
            return Vec::new();
        };
        let (done, head) = log.head();
        meta.audit_head = Some(head);
        let settled: Vec<String> = writer
            .outbox
            .iter()
            .filter(|(_, ticket)| *ticket <= done)
            .map(|(id, _)| id.clone())
            .collect();
        changes.extend(
            settled
                .iter()
                .map(|id| Change::Remove(Table::Outbox, id.clone())),
        );
        settled
    }

    /// Appends what is in the outbox and has not been handed over: after a start, and after a commit with an unknown end.
    /// `known`: ids of events that the log has.
    pub(super) fn drain_outbox(
        &self,
        writer: &mut Writer,
        known: &std::collections::HashSet<String>,
    ) -> Result<(), EngineError> {
        let Some(log) = self.audit.log() else {
            return Ok(());
        };
        let kms = self.kms.read();
        writer
            .outbox
            .retain(|(id, _)| kms.snapshot().outbox().any(|row| row.id == *id));
        let mut waiting = Vec::new();
        for row in kms.snapshot().outbox() {
            if writer.outbox.iter().any(|(id, _)| *id == row.id) {
                continue;
            }
            if known.contains(&row.id) {
                writer.outbox.push((row.id.clone(), Ticket::default()));
                continue;
            }
            let record = Record::from_bytes(&row.record.0)
                .map_err(|error| EngineError::Tampered(format!("an audit record: {error}")))?;
            waiting.push((record, row.record.0.clone()));
        }
        waiting.sort_by(|(a, _), (b, _)| (a.time, &a.event_id).cmp(&(b.time, &b.event_id)));
        for (record, bytes) in waiting {
            for (key, used) in audit::last_use::uses_in(&record, &self.home) {
                self.last_use.note(key, used);
            }
            let id = record.event_id.clone();
            let ticket = log.push(record, Some(&bytes), true);
            writer.outbox.push((id, ticket));
        }
        Ok(())
    }

    /// Puts the log's end under the catalogue's MAC, so that records up to here cannot be cut off.
    pub(super) fn anchor_log(&self, writer: &mut Writer) -> Result<(), EngineError> {
        let Some(log) = self.audit.log() else {
            return Ok(());
        };
        let durable = log.durable();
        let known = self.kms.read().snapshot().meta().audit_head;
        if known != Some(durable.head) || !writer.outbox.is_empty() {
            self.commit(writer, &[], Anchor::Never)?;
        }
        // Also where another transaction has carried the head already: the note is what a start begins with.
        log.save(&durable);
        Ok(())
    }
}

/// The row of the outbox that carries a record.
pub(super) fn outbox(record: &Record, bytes: &[u8]) -> Change {
    Change::Put(Row::Outbox(OutboxRow {
        id: record.event_id.clone(),
        record: Bytes(bytes.to_vec()),
    }))
}

/// A record about the store itself, for a command that has no log open.
pub(super) fn store_event(event: &str, time_ms: i64) -> Record {
    let mut record = audit::service(event).detail("uid", rustix::process::getuid().as_raw());
    record.time = time_ms;
    record
}

/// What authorisation says of background work.
pub(super) fn internal(outcome: Result<kms_core::Outcome, ApiError>) -> Handled {
    Handled {
        verdict: Verdict::Allowed(kms_core::Basis::Internal),
        keys: [None; 2],
        outcome,
    }
}
