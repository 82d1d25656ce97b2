//! Leases of services: who may take and use one. What a lease is worth at a moment is known to the
//! engine, which has the clock; see [`crate::lease`].

use kms_api::{
    AcquireLeaseRequest, AcquireLeaseResponse, ApiError, CallerRole, ErrorCode, ResourceId,
    Response,
};

use super::{Caller, EMPTY, Kms, Outcome, World, no_entropy};
use crate::entropy;
use crate::lease::{MAX_LEASE_MS, MAX_LEASES, MIN_LEASE_MS};
use crate::rows::{Change, LeaseRow, Row, Table};

/// Something that the engine does with its leases.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LeaseCall {
    /// Note an acknowledgement, then wait for a newer epoch, at most so many milliseconds.
    Wait {
        /// The lease.
        id: String,
        /// What its holder has applied.
        epoch: u64,
        /// The longest wait asked for.
        timeout_ms: Option<u32>,
    },
    /// Note an acknowledgement.
    Acknowledge {
        /// The lease.
        id: String,
        /// What its holder has applied.
        epoch: u64,
    },
    /// List the leases.
    List,
}

impl Kms {
    pub(super) fn acquire_lease(
        &self,
        request: &AcquireLeaseRequest,
        caller: &Caller,
        world: &World<'_>,
    ) -> Result<Outcome, ApiError> {
        if caller.role != CallerRole::Service {
            return Err(ApiError::new(
                ErrorCode::AccessDenied,
                format!(
                    "User: {} is not authorized to perform: kmsd:AcquireLease because only the users in \
                     server.service_uids hold leases",
                    caller.arn
                ),
            ));
        }
        if self.snapshot.leases.len() >= MAX_LEASES {
            return Err(ApiError::new(
                ErrorCode::LimitExceeded,
                format!("There are {MAX_LEASES} leases already; `kmsctl lease list` shows them."),
            ));
        }
        let lease_id = ResourceId(entropy::array(world.entropy).map_err(no_entropy)?);
        let asked = request.duration_ms.map(u64::from);
        let duration_ms = asked
            .unwrap_or(world.host.settings.lease_ms)
            .clamp(MIN_LEASE_MS, MAX_LEASE_MS);
        let row = LeaseRow {
            id: lease_id.to_string(),
            holder: caller.arn.to_string(),
            uid: caller.uid,
            label: request.label.clone().unwrap_or_default(),
            duration_ms,
            created_ms: world.now.wall_ms,
        };
        let response = Response::AcquireLease(AcquireLeaseResponse {
            lease_id,
            duration_ms,
            epoch: self.snapshot.meta.authorization_epoch,
        });
        Ok(self
            .write(response, vec![Change::Put(Row::Lease(row))])
            .into())
    }

    pub(super) fn release_lease(
        &self,
        id: ResourceId,
        caller: &Caller,
    ) -> Result<Outcome, ApiError> {
        let id = self.own_lease(id, caller)?;
        let changes = vec![Change::Remove(Table::Lease, id)];
        Ok(self.write(Response::ReleaseLease(EMPTY), changes).into())
    }

    /// The id of a lease that the caller holds. One answer for leases that never were, that have run out
    /// and those of others: the caller has none by that name.
    pub(super) fn own_lease(&self, id: ResourceId, caller: &Caller) -> Result<String, ApiError> {
        let text = id.to_string();
        let held = self.snapshot.leases.get(&text);
        if caller.role == CallerRole::Service && held.is_some_and(|row| row.uid == caller.uid) {
            return Ok(text);
        }
        Err(lease_lost(&text))
    }
}

/// The error for a lease that is not held (any more).
pub fn lease_lost(id: &str) -> ApiError {
    ApiError::not_found(format!(
        "Lease '{id}' is not held (any more): drop every answer that was kept under it, and acquire another"
    ))
}
