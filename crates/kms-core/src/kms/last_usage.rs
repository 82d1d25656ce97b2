//! GetKeyLastUsage.

use kms_api::{
    ApiError, GetKeyLastUsageRequest, GetKeyLastUsageResponse, KeyLastUsageData, Response,
    Timestamp,
};

use super::{Kms, Outcome, World, reply};
use crate::authz::Authorized;
use crate::ids::uuid_text;

impl Kms {
    pub(super) fn get_key_last_usage(
        &self,
        auth: &Authorized,
        request: &GetKeyLastUsageRequest,
        world: &World<'_>,
    ) -> Result<Outcome, ApiError> {
        let key = self.key(auth, &request.key_id)?;
        let since = self
            .last_use
            .tracked_since(key.created_ms, world.now.wall_ms);
        let used = self.last_use.of(key.id);
        Ok(reply(Response::GetKeyLastUsage(GetKeyLastUsageResponse {
            key_id: self.arn(key.id),
            key_last_usage: used.map_or_else(KeyLastUsageData::default, |used| KeyLastUsageData {
                operation: Some(used.operation.to_owned()),
                timestamp: Some(Timestamp::from_millis(used.time_ms)),
                cloud_trail_event_id: Some(uuid_text(used.event_id)),
                kms_request_id: Some(uuid_text(used.request_id)),
            }),
            // A use that the log told of is known, however far the log has been read.
            tracking_start_date: Timestamp::from_millis(match used {
                Some(used) => since.min(used.time_ms).max(key.created_ms),
                None => since,
            }),
            key_creation_date: Timestamp::from_millis(key.created_ms),
        })))
    }
}
