//! Work without a request: anchoring, deletion epochs, automatic rotation.

use std::time::{Duration, Instant};

use kms_core::audit::Record;
use kms_core::domain::DomainError;
use kms_core::kms::World;
use kms_core::provider::KeyProvider as _;
use kms_core::rows::{ApprovalRow, EpochPhase, Table};
use kms_core::setmac::SetMac;
use kms_core::{Change, KeyId, Kms, Outcome, epoch};
use kms_crypto::RecoveryPublicKey;

use super::audit::internal;
use super::writer::{Anchor, Writer};
use super::{EngineError, Shared};
use crate::audit::service;

/// Elapsed time is made durable at least this often.
const COUNT_INTERVAL: Duration = Duration::from_secs(60 * 60);
/// The end of the audit log is in the catalogue at the latest after this time.
const LOG_INTERVAL: Duration = Duration::from_secs(60);
/// A failure that stays is reported at most this often.
const FAILURE_INTERVAL: Duration = Duration::from_secs(60);
/// Clocks that disagree are reported at most this often.
const ALERT_INTERVAL: Duration = Duration::from_secs(60 * 60);

impl Shared {
    pub(super) fn tick(&self) -> Result<(), EngineError> {
        self.forget_backup();
        let results = [
            self.tick_anchor(),
            self.tick_deletions(),
            self.tick_rotations(),
            self.tick_imports(),
            self.tick_grants(),
            self.tick_leases(),
            self.tick_audit(),
            self.tick_unanswered(),
            self.tick_approvals(),
            self.tick_access_keys(),
        ];
        let result: Result<(), EngineError> = results.into_iter().collect();
        if let Err(error) = &result {
            self.count_failure(error);
            self.log_failure(error);
        }
        result
    }

    /// A TPM that is gone fails at every tick: the same failure is logged once a minute.
    fn log_failure(&self, error: &EngineError) {
        let text = error.to_string();
        let mut last = self.last_failure.lock();
        let known = last
            .as_ref()
            .is_some_and(|(said, at)| *said == text && at.elapsed() < FAILURE_INTERVAL);
        if !known && !matches!(error, EngineError::Closed) {
            tracing::error!(
                error = text,
                next_step = error.next_step(),
                "background work failed; it is tried again"
            );
            *last = Some((text, Instant::now()));
        }
    }

    fn tick_anchor(&self) -> Result<(), EngineError> {
        let mut writer = self.writer()?;
        let (pending, unanchored) = {
            let kms = self.kms.read();
            let meta = kms.snapshot().meta();
            (meta.generation > writer.counter, meta.unanchored > 0)
        };
        let due = writer.anchored.elapsed() >= self.config.anchor_interval;
        if pending || writer.stale || (unanchored && due) {
            self.anchor_all(&mut writer)?;
        }
        if writer.counted.elapsed() >= COUNT_INTERVAL {
            self.count_time(&mut writer)?;
        }
        Ok(())
    }

    /// Puts the log's end into the catalogue from time to time: a change does it at once.
    fn tick_audit(&self) -> Result<(), EngineError> {
        let mut writer = self.writer()?;
        if writer.logged.elapsed() >= LOG_INTERVAL && !writer.stale {
            writer.logged = Instant::now();
            self.anchor_log(&mut writer)?;
        }
        Ok(())
    }

    fn tick_unanswered(&self) -> Result<(), EngineError> {
        self.record_unanswered(false);
        Ok(())
    }

    /// Makes durable how much time has passed.
    pub(super) fn count_time(&self, writer: &mut Writer) -> Result<(), EngineError> {
        self.commit(writer, &[], Anchor::Never)?;
        writer.counted = Instant::now();
        Ok(())
    }

    fn tick_deletions(&self) -> Result<(), EngineError> {
        let found = {
            let kms = self.kms.read();
            kms.deletions_due(self.now(&kms))
        };
        let begin = self.kms.read().waits_to_begin();
        for key in begin {
            let begun = self.write(None, None, |kms, world: &World<'_>| {
                internal(kms.begin_wait(key, world).map(Outcome::from))
            });
            begun.map_err(EngineError::Refused)?;
            tracing::info!(%key, "the last replica is destroyed: the waiting period of the primary key begins");
        }
        if !found.clocks_disagree.is_empty() {
            self.alert("deletion", &found.clocks_disagree)?;
        }
        let unfinished = {
            let kms = self.kms.read();
            let meta = kms.snapshot().meta();
            meta.epoch_change.is_some() || meta.epoch_owed
        };
        if found.due.is_empty() && !unfinished {
            return Ok(());
        }
        let mut writer = self.writer()?;
        if writer.stale {
            self.reload(&mut writer)?;
        }
        self.finish_epoch(&mut writer)?;
        // A cancellation may have come first.
        let due = {
            let kms = self.kms.read();
            kms.deletions_due(self.now(&kms)).due
        };
        if due.is_empty() {
            return Ok(());
        }
        self.begin_epoch(&mut writer, &due)?;
        self.finish_epoch(&mut writer)
    }

    fn tick_rotations(&self) -> Result<(), EngineError> {
        let found = {
            let kms = self.kms.read();
            kms.rotations_due(self.now(&kms))
        };
        if !found.clocks_disagree.is_empty() {
            self.alert("rotation", &found.clocks_disagree)?;
        }
        for key in found.due {
            let rotated = self.write(None, None, |kms, world: &World<'_>| {
                internal(kms.rotate_automatically(key, world).map(Outcome::from))
            });
            rotated.map_err(EngineError::Refused)?;
            tracing::info!(%key, "rotated automatically");
        }
        Ok(())
    }

    /// Deletes imported material that has expired, all of it in one deletion epoch.
    fn tick_imports(&self) -> Result<(), EngineError> {
        let found = {
            let kms = self.kms.read();
            kms.materials_expired(self.now(&kms))
        };
        if !found.clocks_disagree.is_empty() {
            self.alert("expiry of imported key material", &found.clocks_disagree)?;
        }
        if found.due.is_empty() {
            return Ok(());
        }
        // What has been imported again meanwhile stays.
        self.write(None, None, |kms, world: &World<'_>| {
            internal(Ok(kms.expire(world.now)))
        })
        .map_err(EngineError::Refused)?;
        for (key, material) in found.due {
            tracing::warn!(%key, %material, "imported key material has expired and is deleted");
        }
        Ok(())
    }

    /// Removes grants whose time is over. They allow nothing since then.
    fn tick_grants(&self) -> Result<(), EngineError> {
        loop {
            let ended = {
                let kms = self.kms.read();
                kms.grants_ended(self.now(&kms))
            };
            if ended.is_empty() {
                return Ok(());
            }
            self.write(None, None, |kms: &Kms, _| {
                internal(Ok(kms.retire_ended(&ended).into()))
            })
            .map_err(EngineError::Refused)?;
            for grant in &ended {
                tracing::info!(
                    key = %grant.key,
                    grant = grant.id,
                    grantee = grant.grantee,
                    "a temporary grant has ended"
                );
            }
        }
    }

    /// Removes requests that nobody approved in time.
    fn tick_approvals(&self) -> Result<(), EngineError> {
        let lapsed = || {
            let kms = self.kms.read();
            kms.approvals_lapsed(self.now(&kms))
        };
        if lapsed().is_empty() {
            return Ok(());
        }
        let mut writer = self.writer()?;
        if writer.stale {
            self.reload(&mut writer)?;
        }
        let gone = lapsed();
        let records = {
            let kms = self.kms.read();
            let rows = kms.snapshot().approvals();
            let time = self.clock.read().wall_ms;
            rows.filter(|row| gone.contains(&row.id))
                .map(|row| lapsed_approval(row, time))
                .collect()
        };
        for approval in &gone {
            tracing::info!(approval, "a request was not approved in time");
        }
        let changes: Vec<Change> = gone
            .into_iter()
            .map(|id| Change::Remove(Table::Approval, id))
            .collect();
        self.commit_recorded(&mut writer, &changes, Anchor::Never, records)?;
        Ok(())
    }

    /// Writes down when access keys were used last.
    fn tick_access_keys(&self) -> Result<(), EngineError> {
        if self.kms.read().used_access_keys().is_empty() {
            return Ok(());
        }
        let mut writer = self.writer()?;
        if writer.stale {
            self.reload(&mut writer)?;
        }
        let changes = self.kms.read().used_access_keys();
        self.commit_recorded(&mut writer, &changes, Anchor::Never, Vec::new())?;
        Ok(())
    }

    /// The writer, unless the engine is shut down.
    pub(super) fn writer(&self) -> Result<parking_lot::MutexGuard<'_, Writer>, EngineError> {
        let writer = self.writer.lock();
        self.check_open().map_err(|_| EngineError::Closed)?;
        Ok(writer)
    }

    fn alert(&self, what: &str, keys: &[KeyId]) -> Result<(), EngineError> {
        let mut writer = self.writer()?;
        if writer
            .alerted
            .is_none_or(|at| at.elapsed() >= ALERT_INTERVAL)
        {
            writer.alerted = Some(Instant::now());
            for key in keys {
                tracing::error!(
                    %key,
                    "a {what} waits: the wall clock and the time known to have passed disagree about \
                     whether it is due; check the system's clock"
                );
                let arn = self.kms.read().snapshot().arn(*key);
                self.record_event(service("ClocksDisagree").key(arn).detail("waits", what));
            }
        }
        Ok(())
    }

    /// Step 1 of a deletion epoch: see [`kms_core::epoch`].
    fn begin_epoch(&self, writer: &mut Writer, doomed: &[KeyId]) -> Result<(), EngineError> {
        for key in doomed {
            tracing::warn!(%key, "the waiting period is over; destroying the key material");
            self.provider.forget(*key);
        }
        // Under the epoch that is about to end: what copies of this phase hold dies with it.
        let kek = writer
            .sealer
            .unseal(&writer.enrollment, &writer.credential)?;
        let meta = self.kms.read().snapshot().meta().clone();
        let recovery = recovery_public(&meta.recovery_public.0)?;
        let new = meta.domain.saturating_add(1);
        let now = {
            let kms = self.kms.read();
            self.now(&kms)
        };
        let drawn = {
            let mut domain = self.domain.write();
            domain.draw(new)?;
            domain
                .row(new, now.wall_ms, kek.key(), &recovery)
                .and_then(|row| Ok((row, domain.mac_key(new)?)))
        };
        drop(kek);
        let begun = drawn.map_err(EngineError::from).and_then(|(row, mac_key)| {
            // The new domain key also changes the key of the set-MAC.
            writer.stale = true;
            let (_, stored) = writer.storage.load()?;
            let mut mac = SetMac::new(mac_key);
            stored.iter().for_each(|row| mac.put(row));
            writer.mac = mac;
            let changes = {
                let kms = self.kms.read();
                epoch::begin(kms.snapshot(), doomed, row, now)
            };
            self.commit_recorded(writer, &changes, Anchor::Soon, self.deletions(doomed))
        });
        match begun {
            Ok(_) => {
                self.domain.write().make_current(new);
                Ok(())
            }
            Err(error) => {
                // Whether the commit went through is not known: keep the key until a reload tells.
                tracing::error!(%error, "a deletion epoch could not begin; it is tried again");
                Err(error)
            }
        }
    }

    /// Step 5: a new epoch secret, and the one domain key that is left under it.
    fn reseal(&self, writer: &mut Writer) -> Result<(), EngineError> {
        let (staged, kek) = writer
            .sealer
            .stage_epoch(&writer.enrollment, &writer.credential)?;
        let changes = {
            let kms = self.kms.read();
            let recovery = recovery_public(&kms.snapshot().meta().recovery_public.0)?;
            let domain = self.domain.read();
            let rows = kms
                .snapshot()
                .domains()
                .map(|row| domain.row(row.id, row.created_ms, kek.key(), &recovery))
                .collect::<Result<Vec<_>, DomainError>>()?;
            epoch::reseal(rows, staged.to_json()?)
        };
        self.commit(writer, &changes, Anchor::Soon)?;
        writer.enrollment = staged;
        Ok(())
    }

    /// Ends the epoch that is under way, if one is, and goes through one that is owed.
    pub(super) fn finish_epoch(&self, writer: &mut Writer) -> Result<(), EngineError> {
        self.finish_begun(writer)?;
        if self.kms.read().snapshot().meta().epoch_owed {
            self.begin_epoch(writer, &[])?;
            self.finish_begun(writer)?;
        }
        Ok(())
    }

    /// Steps 2 to 8, from wherever the store stands.
    fn finish_begun(&self, writer: &mut Writer) -> Result<(), EngineError> {
        let phase = |shared: &Self| shared.kms.read().snapshot().meta().epoch_change;
        if phase(self) == Some(EpochPhase::Rewrapping) {
            loop {
                let changes = {
                    let kms = self.kms.read();
                    epoch::rewrap(kms.snapshot(), &self.domain.read())?
                };
                if changes.is_empty() {
                    break;
                }
                self.commit(writer, &changes, Anchor::Soon)?;
            }
            let changes = {
                let kms = self.kms.read();
                epoch::drop_old(kms.snapshot())
            };
            self.commit(writer, &changes, Anchor::Soon)?;
        }
        if phase(self) == Some(EpochPhase::Scrubbing) {
            self.domain.write().retain_current();
            if !writer.enrollment.has_retired_epoch() {
                self.reseal(writer)?;
            }
            writer.storage.scrub()?;
            let committed = writer.sealer.commit_epoch(&writer.enrollment)?;
            let changes = {
                let kms = self.kms.read();
                epoch::finish(kms.snapshot(), committed.to_json()?)
            };
            self.commit(writer, &changes, Anchor::Now)?;
            writer.enrollment = committed;
            self.increment(writer)?;
            let epoch = self.kms.read().snapshot().meta().deletion_epoch;
            tracing::info!(
                epoch,
                "deletion epoch complete: no older copy of the store opens any more"
            );
        }
        Ok(())
    }
}

pub(super) fn recovery_public(bytes: &[u8]) -> Result<RecoveryPublicKey, EngineError> {
    <[u8; 32]>::try_from(bytes)
        .map(RecoveryPublicKey::from_bytes)
        .map_err(|_| EngineError::Tampered("the recovery public key has a wrong length".to_owned()))
}

/// A request that waited for approvals and did not get them in time.
fn lapsed_approval(row: &ApprovalRow, time_ms: i64) -> Record {
    let approvers: Vec<&str> = row.approvers.iter().map(|one| one.arn.as_str()).collect();
    let mut event = service("ApprovalLapsed")
        .detail("approvalId", row.id.as_str())
        .detail("operation", row.operation.as_str())
        .detail("requester", row.requester.as_str())
        .detail("required", row.required)
        .detail("approvers", approvers);
    event.keys.clone_from(&row.keys);
    event.time = time_ms;
    event
}
