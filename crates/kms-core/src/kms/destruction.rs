//! What trees hold, as far as it was reported: what would be lost is shown before anything is destroyed.

use kms_api::{ApiError, PolicyUse, ReportPolicyUseRequest, Response, Timestamp};

use super::{EMPTY, Kms, Outcome, World};
use crate::authz::Authorized;
use crate::rows::{Change, PolicyRow, PolicyUseRow, Row, policy_id};

impl Kms {
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
