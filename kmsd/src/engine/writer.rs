//! The one writer: makes transactions durable under the set-MAC, and anchors them.

use std::collections::HashSet;
use std::sync::atomic::Ordering;
use std::time::Instant;

use kms_api::{ApiError, ErrorCode};
use kms_core::kms::World;
use kms_core::provider::KeyProvider as _;
use kms_core::relevance::{Relevance, relevant};
use kms_core::rows::{MetaRow, RawRow, RevokedGrant, Row, RowError, Table};
use kms_core::setmac::SetMac;
use kms_core::storage::{RawChange, Storage, StorageError};
use kms_core::{Change, Effect, Handled, Kms, Outcome, Snapshot, SystemEntropy, Write};
use kms_seal::{Credential, Enrollment, RootSealer};
use parking_lot::MutexGuard;

use super::audit::Trace;
use super::{Done, EngineError, Shared};
use crate::audit::Ticket;

/// What only the thread that writes may touch.
pub(super) struct Writer {
    pub(super) storage: Box<dyn Storage>,
    pub(super) sealer: Box<dyn RootSealer>,
    pub(super) credential: Credential,
    pub(super) enrollment: Enrollment,
    pub(super) mac: SetMac,
    /// The rollback counter, as last seen.
    pub(super) counter: u64,
    /// When changes were last anchored.
    pub(super) anchored: Instant,
    /// When elapsed time was last made durable.
    pub(super) counted: Instant,
    /// When clocks that disagree were last reported.
    pub(super) alerted: Option<Instant>,
    /// Records of the outbox, and when the log has them.
    pub(super) outbox: Vec<(String, Ticket)>,
    /// When the log's end was last put into the catalogue.
    pub(super) logged: Instant,
    /// Storage may differ from the snapshot: load it before the next write.
    pub(super) stale: bool,
    /// Held for its lifetime.
    pub(super) _lock: Option<crate::storage::StoreLock>,
}

/// How a transaction stands to the rollback counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Anchor {
    /// At once, before the reply.
    Now,
    /// Within the configured window.
    Soon,
    /// Bookkeeping that needs none of its own.
    Never,
}

/// How often a transaction is evaluated again after a conflict.
const ATTEMPTS: usize = 3;

impl Shared {
    /// Carries out a change: `first` if the store is still at the revision it was evaluated against,
    /// otherwise what `evaluate` makes of the present one.
    pub(super) fn write(
        &self,
        trace: Option<&Trace>,
        first: Option<Write>,
        evaluate: impl Fn(&Kms, &World<'_>) -> Handled,
    ) -> Result<Done, ApiError> {
        let mut writer = self.writer.lock();
        let done = self.write_as(&mut writer, trace, first, &evaluate);
        if !matches!(&done, Ok(done) if done.owes_epoch) {
            return done;
        }
        // Whoever waits for the writer with another destruction goes first: then one epoch is enough for all of them.
        MutexGuard::unlock_fair(writer);
        self.pay_epoch()?;
        done
    }

    /// The same for whoever is the writer; an epoch that the change owes is still to be gone through.
    pub(super) fn write_as(
        &self,
        writer: &mut Writer,
        trace: Option<&Trace>,
        first: Option<Write>,
        evaluate: &dyn Fn(&Kms, &World<'_>) -> Handled,
    ) -> Result<Done, ApiError> {
        self.check_open()?;
        let mut ready = first;
        for _ in 0..ATTEMPTS {
            if writer.stale {
                self.reload(writer).map_err(|error| self.report(&error))?;
            }
            let revision = self.kms.read().snapshot().meta().revision;
            let write = match ready.take().filter(|write| write.expected == revision) {
                Some(write) => write,
                None => {
                    let kms = self.kms.read();
                    let domain = self.domain.read();
                    let world = World {
                        now: self.now(&kms),
                        entropy: &SystemEntropy,
                        domain: &domain,
                        host: &self.host,
                        made: None,
                    };
                    let handled = evaluate(&kms, &world);
                    if let Some(trace) = trace {
                        trace.judged(&kms, &handled);
                    }
                    match handled.outcome? {
                        Outcome::Write(write) => *write,
                        // Done already, at most the counter is missing.
                        Outcome::Reply(response) => {
                            self.prove(writer)?;
                            return Ok(Done {
                                response: *response,
                                owes_epoch: false,
                                settling: None,
                            });
                        }
                        Outcome::Use(_)
                        | Outcome::MakePair(_)
                        | Outcome::Unwrap(_)
                        | Outcome::Lease(_)
                        | Outcome::Host => {
                            return Err(ApiError::bare(ErrorCode::Internal));
                        }
                    }
                }
            };
            let anchor = if write.tightening {
                Anchor::Now
            } else {
                Anchor::Soon
            };
            if anchor == Anchor::Now {
                // Before anyone can see the change: who finds it done waits for the counter too.
                self.unproved.store(true, Ordering::SeqCst);
            }
            let records = self.records_of(trace, &write);
            let committed = self.commit_traced(writer, &write.changes, anchor, records, trace);
            let relevance = match committed {
                Ok(relevance) => relevance,
                Err(EngineError::Storage(StorageError::Conflict { .. })) => continue,
                Err(error) => return Err(self.report(&error)),
            };
            // Who holds a lease now, before another change can be made.
            let settling = relevance.tightens().then(|| self.hub.settling());
            let mut epoch = false;
            for effect in &write.effects {
                match effect {
                    Effect::Forget(key) => self.provider.forget(*key),
                    Effect::DeletionEpoch => epoch = true,
                }
            }
            if anchor == Anchor::Now {
                self.prove(writer)?;
            }
            if let Some(error) = write.refusal {
                return Err(error);
            }
            return Ok(Done {
                response: write.response,
                owes_epoch: epoch,
                settling,
            });
        }
        Err(too_fast())
    }

    /// Goes through the deletion epoch that a change owes, unless somebody else has done so since.
    pub(super) fn pay_epoch(&self) -> Result<(), ApiError> {
        let mut writer = self.writer.lock();
        self.check_open()?;
        if writer.stale {
            self.reload(&mut writer)
                .map_err(|error| self.report(&error))?;
        }
        self.go_through_epoch(&mut writer)
    }

    /// Advances the counter before the reply to a tightening change. If that fails, the change is
    /// durable and in force all the same; only the proof against putting an older store back is
    /// missing, and the next tick tries again.
    fn prove(&self, writer: &mut Writer) -> Result<(), ApiError> {
        self.unproved.store(true, Ordering::SeqCst);
        self.increment(writer).map_err(|error| {
            self.count_failure(&error);
            tracing::error!(%error, "the rollback counter could not be advanced");
            ApiError::new(
                ErrorCode::DependencyTimeout,
                "The change is in force, but the rollback counter could not be advanced.",
            )
        })
    }

    /// Takes what was destroyed from older copies of the store, before the reply. If that fails, it is gone from this store all
    /// the same, and the next tick tries again.
    fn go_through_epoch(&self, writer: &mut Writer) -> Result<(), ApiError> {
        self.finish_epoch(writer).map_err(|error| {
            self.count_failure(&error);
            tracing::error!(
                %error,
                next_step = error.next_step(),
                "a deletion epoch could not be finished; it is tried again"
            );
            ApiError::new(
                ErrorCode::DependencyTimeout,
                "It is destroyed in this store, but older copies of the store still open: the deletion epoch could not be \
                 finished. kmsd tries again; repeat the call to learn when it is done.",
            )
        })
    }

    /// Makes a transaction durable and applies it. Nothing is applied if this fails. What it does to
    /// older answers follows from its changes: the authorisation epoch rises in the same transaction.
    pub(super) fn commit(
        &self,
        writer: &mut Writer,
        changes: &[Change],
        anchor: Anchor,
    ) -> Result<Relevance, EngineError> {
        let relevance = relevant(self.kms.read().snapshot(), changes);
        self.commit_as(writer, changes, anchor, relevance)
    }

    /// The same for a change that is not in the rows, or not only.
    pub(super) fn commit_as(
        &self,
        writer: &mut Writer,
        changes: &[Change],
        anchor: Anchor,
        relevance: Relevance,
    ) -> Result<Relevance, EngineError> {
        let mut meta = self.next_meta(writer, changes, anchor);
        if relevance.scope().is_some() {
            meta.authorization_epoch = meta.authorization_epoch.saturating_add(1);
            remember_revoked(&mut meta, changes);
        }
        let epoch = meta.authorization_epoch;
        let expected = meta.revision.saturating_sub(1);
        let mut all: Vec<Change> = changes
            .iter()
            .filter(|change| !is_meta(change))
            .cloned()
            .collect();
        let settled: HashSet<String> = self
            .settle_outbox(writer, &mut meta, &mut all)
            .into_iter()
            .collect();
        all.push(Change::Put(Row::Meta(Box::new(meta))));
        let mut raw = all.iter().map(encode).collect::<Result<Vec<_>, _>>()?;
        // From here on the running MAC is ahead of the store until the commit is through.
        writer.stale = true;
        for change in &raw {
            match change {
                RawChange::Put(row) => writer.mac.put(row),
                RawChange::Remove(table, id) => writer.mac.remove(*table, id),
            }
        }
        let mac = Change::Put(Row::Mac(writer.mac.value().to_vec()));
        raw.push(encode(&mac)?);
        all.push(mac);
        writer.storage.commit(expected, &raw)?;
        writer.stale = false;
        writer.outbox.retain(|(id, _)| !settled.contains(id));
        let mut kms = self.kms.write();
        kms.apply(&all);
        self.stored_generation
            .store(kms.snapshot().meta().generation, Ordering::SeqCst);
        self.hub.committed(epoch, relevance.scope(), changes);
        let older = relevance
            .scope()
            .map(|_| std::mem::replace(&mut kms.generation, self.hub.begin()));
        drop(kms);
        drop(older);
        Ok(relevance)
    }

    /// Advances the counter to the generation that the store already has.
    pub(super) fn increment(&self, writer: &mut Writer) -> Result<(), EngineError> {
        let generation = self.kms.read().snapshot().meta().generation;
        if generation > writer.counter {
            writer.counter = writer.sealer.increment(&writer.enrollment)?;
            self.metrics.counter_advanced(writer.counter);
            writer.anchored = Instant::now();
        }
        if writer.counter > generation {
            // Somebody else has used the counter: follow it, or the next start would refuse.
            tracing::warn!(
                counter = writer.counter,
                generation,
                "the rollback counter ran ahead"
            );
            let mut meta = self.kms.read().snapshot().meta().clone();
            meta.generation = writer.counter;
            self.commit(
                writer,
                &[Change::Put(Row::Meta(Box::new(meta)))],
                Anchor::Never,
            )?;
        }
        self.unproved.store(false, Ordering::SeqCst);
        Ok(())
    }

    /// Anchors everything that is not anchored yet.
    pub(super) fn anchor_all(&self, writer: &mut Writer) -> Result<(), EngineError> {
        if writer.stale {
            self.reload(writer)?;
        }
        if self.kms.read().snapshot().meta().unanchored > 0 {
            self.commit(writer, &[], Anchor::Now)?;
        }
        self.increment(writer)
    }

    /// Reads the store again, after a conflict or a commit with an unknown end.
    pub(super) fn reload(&self, writer: &mut Writer) -> Result<(), EngineError> {
        let (_, rows) = writer.storage.load()?;
        let snapshot = Snapshot::from_rows(&rows)?;
        let mac_key = self.domain.read().mac_key(snapshot.meta().domain)?;
        writer.mac = verified(&rows, &snapshot, mac_key)?;
        writer.enrollment = Enrollment::from_json(snapshot.enrollment())?;
        self.domain.write().make_current(snapshot.meta().domain);
        for key in snapshot
            .keys()
            .filter(|key| key.state != kms_core::rows::State::Enabled)
        {
            self.provider.forget(key.id);
        }
        let mut kms = self.kms.write();
        self.hub.adopt(&snapshot);
        kms.kms.replace(snapshot);
        let older = std::mem::replace(&mut kms.generation, self.hub.begin());
        drop(kms);
        drop(older);
        writer.stale = false;
        self.drain_outbox(writer, &HashSet::new())
    }

    fn next_meta(&self, writer: &Writer, changes: &[Change], anchor: Anchor) -> MetaRow {
        let given = changes.iter().rev().find_map(|change| match change {
            Change::Put(Row::Meta(meta)) => Some(MetaRow::clone(meta)),
            _ => None,
        });
        let kms = self.kms.read();
        let current = kms.snapshot().meta();
        let mut meta = given.unwrap_or_else(|| current.clone());
        meta.revision = current.revision.saturating_add(1);
        meta.elapsed = current.elapsed.advanced(&self.clock.read());
        match anchor {
            Anchor::Now => {
                meta.generation = writer.counter.saturating_add(1);
                meta.unanchored = 0;
            }
            Anchor::Soon => meta.unanchored = current.unanchored.saturating_add(1),
            Anchor::Never => {}
        }
        meta
    }

    /// Counts a failure for the metrics.
    pub(super) fn count_failure(&self, error: &EngineError) {
        let (kind, sealer) = super::gauges::failure(error);
        self.metrics.failed(kind, sealer);
    }

    /// Logs a failure and turns it into what the caller may know.
    pub(super) fn report(&self, error: &EngineError) -> ApiError {
        self.count_failure(error);
        tracing::error!(%error, next_step = error.next_step(), "a change could not be carried out");
        if self.closed.load(Ordering::SeqCst) {
            return ApiError::new(ErrorCode::ServiceUnavailable, "kmsd is shutting down.");
        }
        match error {
            EngineError::Seal(_) => ApiError::new(
                ErrorCode::DependencyTimeout,
                "The TPM did not do what it was asked; see kmsd's log.",
            ),
            _ => ApiError::new(
                ErrorCode::Internal,
                "The store could not be written; see kmsd's log.",
            ),
        }
    }
}

/// Every attempt met a change by somebody else.
pub(super) fn too_fast() -> ApiError {
    let text = "The store changes faster than this can be done.";
    ApiError::new(ErrorCode::Internal, text)
}

/// Computes the set-MAC over loaded rows and compares it with the stored one.
pub(super) fn verified(
    rows: &[RawRow],
    snapshot: &Snapshot,
    key: kms_crypto::Key<32>,
) -> Result<SetMac, EngineError> {
    let mut mac = SetMac::new(key);
    rows.iter().for_each(|row| mac.put(row));
    if kms_crypto::constant_time_eq(&mac.value(), snapshot.mac()) {
        return Ok(mac);
    }
    Err(EngineError::Tampered(
        "its rows do not fit its MAC".to_owned(),
    ))
}

pub(super) fn encode(change: &Change) -> Result<RawChange, EngineError> {
    let damaged = |error: RowError| EngineError::Tampered(error.to_string());
    Ok(match change {
        Change::Put(row) => RawChange::Put(row.encode().map_err(damaged)?),
        Change::Remove(table, id) => RawChange::Remove(*table, id.clone()),
    })
}

/// Grants that go are remembered until whoever revoked them is told so, which is when every service has heard of
/// it: revoking one again in this time, perhaps after a lost answer, is no error.
fn remember_revoked(meta: &mut MetaRow, changes: &[Change]) {
    /// More at a time are revoked by nobody who waits for the answers.
    const MOST: usize = 1024;
    let elapsed_ms = meta.elapsed.total_ms;
    let gone = changes.iter().filter_map(|change| match change {
        Change::Remove(Table::Grant, id) => Some(id.clone()),
        _ => None,
    });
    meta.revoked
        .extend(gone.map(|id| RevokedGrant { id, elapsed_ms }));
    let old = elapsed_ms.saturating_sub(RevokedGrant::KEPT_MS);
    meta.revoked.retain(|row| row.elapsed_ms >= old);
    let excess = meta.revoked.len().saturating_sub(MOST);
    meta.revoked.drain(..excess);
}

fn is_meta(change: &Change) -> bool {
    matches!(change, Change::Put(Row::Meta(_)))
}
