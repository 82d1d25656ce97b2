//! The calls of services about their leases, and what becomes of leases that run out.

use kms_api::{
    AcknowledgeEpochResponse, ApiError, Changed, ErrorCode, LeaseListEntry, ListLeasesResponse,
    Response, Timestamp, WaitForEpochResponse,
};
use kms_core::Change;
use kms_core::kms::LeaseCall;
use kms_core::relevance::{Reach, Relevance};
use kms_core::rows::Table;

use super::hub::News;
use super::writer::Anchor;
use super::{Engine, EngineError, Shared};
use crate::audit;

impl Engine {
    /// Something that decides what somebody is allowed has changed outside the catalogue, and is in force
    /// already: policy files, the group database. The authorisation epoch rises durably; returns when
    /// nobody relies on older answers any more. Blocks.
    ///
    /// # Errors
    /// The store failed; the change is in force, but services may rely on older answers until a later
    /// change. The next call tries again.
    pub fn authorization_changed(&self, what: &str) -> Result<(), EngineError> {
        let shared = &self.shared;
        let settling = {
            let mut writer = shared.writer()?;
            if writer.stale {
                shared.reload(&mut writer)?;
            }
            let all = Relevance::Tightening(Reach::All);
            shared.commit_as(&mut writer, &[], Anchor::Soon, all)?;
            shared.hub.settling()
        };
        tracing::info!(what, epoch = settling.epoch, "authorisation has changed");
        let report = shared
            .hub
            .settle_blocking(settling)
            .map_err(|_| EngineError::Closed)?;
        shared.note(&report);
        Ok(())
    }
}

impl Shared {
    pub(super) async fn lease(&self, call: LeaseCall) -> Result<Response, ApiError> {
        match call {
            LeaseCall::Wait {
                id,
                epoch,
                timeout_ms,
            } => {
                let news = self.hub.wait(&id, epoch, timeout_ms).await?;
                Ok(Response::WaitForEpoch(self.news(news)))
            }
            other => self.lease_blocking(other),
        }
    }

    /// The calls that do not wait.
    pub(super) fn lease_blocking(&self, call: LeaseCall) -> Result<Response, ApiError> {
        match call {
            LeaseCall::Wait { .. } => Err(ApiError::bare(ErrorCode::Internal)),
            LeaseCall::Acknowledge { id, epoch } => {
                let news = self.hub.applied(&id, epoch)?;
                Ok(Response::AcknowledgeEpoch(AcknowledgeEpochResponse {
                    epoch: news.epoch,
                    remaining_ms: news.remaining_ms,
                }))
            }
            LeaseCall::List => {
                let kms = self.kms.read();
                let leases = kms.snapshot().leases().filter_map(|row| {
                    let state = self.hub.lease(&row.id);
                    Some(LeaseListEntry {
                        lease_id: row.id.parse().ok()?,
                        holder: row.holder.clone(),
                        uid: row.uid,
                        label: row.label.clone(),
                        creation_date: Timestamp::from_millis(row.created_ms),
                        duration_ms: row.duration_ms,
                        remaining_ms: state.left_ms,
                        applied_epoch: state.applied,
                    })
                });
                Ok(Response::ListLeases(ListLeasesResponse {
                    epoch: kms.snapshot().meta().authorization_epoch,
                    leases: leases.collect(),
                }))
            }
        }
    }

    fn news(&self, news: News) -> WaitForEpochResponse {
        let (changed, key_arns) = match news.reach {
            None => (Changed::None, Vec::new()),
            Some(Reach::All) => (Changed::All, Vec::new()),
            Some(Reach::Keys(keys)) => {
                let kms = self.kms.read();
                let arns = keys.iter().map(|key| kms.snapshot().arn(*key)).collect();
                (Changed::Keys, arns)
            }
        };
        WaitForEpochResponse {
            epoch: news.epoch,
            changed,
            key_arns,
            remaining_ms: news.remaining_ms,
        }
    }

    /// Takes leases that have run out off the books: their holders are gone, or hung for too long, and
    /// are told so if they ask again.
    pub(super) fn tick_leases(&self) -> Result<(), EngineError> {
        if self.hub.run_out().is_empty() {
            return Ok(());
        }
        let mut writer = self.writer()?;
        if writer.stale {
            self.reload(&mut writer)?;
        }
        let gone = self.hub.run_out();
        for id in &gone {
            let row = self.kms.read().snapshot().lease(id).cloned();
            if let Some(row) = row {
                self.record_event(
                    audit::service("LeaseExpired")
                        .detail("leaseId", row.id.clone())
                        .detail("label", row.label.clone())
                        .detail("holder", row.holder.clone())
                        .detail("uid", row.uid),
                );
                tracing::warn!(
                    lease = %row.id,
                    label = ?row.label,
                    holder = row.holder,
                    uid = row.uid,
                    "a lease has run out: its holder did not ask in time"
                );
            }
        }
        let changes: Vec<Change> = gone
            .into_iter()
            .map(|id| Change::Remove(Table::Lease, id))
            .collect();
        self.commit(&mut writer, &changes, Anchor::Never)?;
        Ok(())
    }
}
