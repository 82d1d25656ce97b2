//! Destroying what a directory tree hangs on; what was destroyed; and what trees hold, so that it can be shown before.

use kms_api::{
    ApiError, DestroyPolicyGenerationsRequest, DestroyPolicyRequest, DestroyPolicyResponse,
    ListTombstonesRequest, ListTombstonesResponse, PolicyUse, ReportPolicyUseRequest, ResourceId,
    Response, Timestamp,
};

use super::{EMPTY, Effect, Kms, Outcome, World, Write, pages, reply};
use crate::authz::Authorized;
use crate::rows::{Change, MetaRow, PolicyRow, PolicyUseRow, Row, policy_id};
use crate::tombstones;

impl Kms {
    /// The secrets are gone with the transaction; the epoch that it owes takes them from older copies of the store.
    pub(super) fn destroy_policy(
        &self,
        _auth: &Authorized,
        request: &DestroyPolicyRequest,
        world: &World<'_>,
    ) -> Result<Outcome, ApiError> {
        let row = self.policy(request.volume_id, request.policy_id)?;
        let count = row.secret.iter().count() + row.older.len();
        let new = PolicyRow {
            secret: None,
            older: Vec::new(),
            destroyed_ms: row.destroyed_ms.or(Some(world.now.wall_ms)),
            ..PolicyRow::clone(row)
        };
        let changed = (new != *row).then_some(new);
        Ok(self.destroyed(request.policy_id, count, changed, Response::DestroyPolicy))
    }

    pub(super) fn destroy_generations(
        &self,
        _auth: &Authorized,
        request: &DestroyPolicyGenerationsRequest,
    ) -> Result<Outcome, ApiError> {
        let row = self.policy(request.volume_id, request.policy_id)?;
        let current = row.generation;
        if request.before > u64::from(current) {
            return Err(ApiError::validation(format!(
                "Generation {} is not an older one: the current generation of policy '{}' is {current}. DestroyPolicy \
                 destroys that as well.",
                request.before.saturating_sub(1),
                row.id
            )));
        }
        let mut new = PolicyRow::clone(row);
        new.older
            .retain(|old| u64::from(old.generation) >= request.before);
        let count = row.older.len().saturating_sub(new.older.len());
        let changed = (count > 0).then_some(new);
        Ok(self.destroyed(
            request.policy_id,
            count,
            changed,
            Response::DestroyPolicyGenerations,
        ))
    }

    /// The answer comes when the epoch is over, also to who asks again after a failure in the middle of it.
    fn destroyed(
        &self,
        policy_id: ResourceId,
        count: usize,
        changed: Option<PolicyRow>,
        response: fn(DestroyPolicyResponse) -> Response,
    ) -> Outcome {
        let meta = &self.snapshot.meta;
        let unfinished = meta.epoch_owed || meta.epoch_change.is_some();
        let epochs = u64::from(changed.is_some() || meta.epoch_owed);
        let response = response(DestroyPolicyResponse {
            policy_id,
            destroyed_generations: count as u64,
            deletion_epoch: meta.deletion_epoch.saturating_add(epochs),
        });
        if changed.is_none() && !unfinished {
            return reply(response);
        }
        let meta = MetaRow {
            epoch_owed: changed.is_some() || meta.epoch_owed,
            ..meta.clone()
        };
        let mut changes = vec![Change::Put(Row::Meta(Box::new(meta)))];
        changes.extend(changed.map(|row| Change::Put(Row::Policy(row))));
        let write = self.write(response, changes).tightening();
        Write {
            effects: vec![Effect::DeletionEpoch],
            ..write
        }
        .into()
    }

    pub(super) fn list_tombstones(
        &self,
        _auth: &Authorized,
        request: &ListTombstonesRequest,
    ) -> Result<Outcome, ApiError> {
        let after = pages::start("ListTombstones", request.marker.as_deref())?;
        let rest = tombstones::each(&self.snapshot)
            .filter(|(place, _)| after.as_ref().is_none_or(|after| place > after));
        let page = pages::page("ListTombstones", request.limit.unwrap_or(1000), rest);
        Ok(reply(Response::ListTombstones(ListTombstonesResponse {
            store_id: self.snapshot.meta.store_id.clone(),
            deletion_epoch: self.snapshot.meta.deletion_epoch,
            tombstones: page.entries,
            next_marker: page.next_marker,
            truncated: page.truncated,
        })))
    }

    pub(super) fn report_policy_use(
        &self,
        _auth: &Authorized,
        request: &ReportPolicyUseRequest,
        world: &World<'_>,
    ) -> Result<Outcome, ApiError> {
        let policy = self.policy(request.volume_id, request.policy_id)?;
        let row = PolicyUseRow {
            volume: policy.volume.clone(),
            id: policy.id.clone(),
            files: request.files,
            directories: request.directories,
            bytes: request.bytes,
            mountpoint: request.mountpoint.clone(),
            reported_ms: world.now.wall_ms,
        };
        let response = Response::ReportPolicyUse(EMPTY);
        Ok(self
            .write(response, vec![Change::Put(Row::PolicyUse(row))])
            .into())
    }

    /// What a policy protected when that was last counted.
    pub(super) fn policy_use(&self, policy: &PolicyRow) -> Option<PolicyUse> {
        let id = policy_id(&policy.volume, &policy.id);
        let row = self.snapshot.policy_use.get(&id)?;
        Some(PolicyUse {
            files: row.files,
            directories: row.directories,
            bytes: row.bytes,
            mountpoint: row.mountpoint.clone(),
            date: Timestamp::from_millis(row.reported_ms),
        })
    }
}
