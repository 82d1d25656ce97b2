//! RecordFileAccess: what is left of it is its record.

use kms_api::{ApiError, RecordFileAccessRequest, Response};

use super::{EMPTY, Kms, Outcome, reply};
use crate::authz::Authorized;

impl Kms {
    pub(super) fn record_file_access(
        &self,
        _auth: &Authorized,
        request: &RecordFileAccessRequest,
    ) -> Result<Outcome, ApiError> {
        let policy = self.policy(request.volume_id, request.policy_id)?;
        // A record that names another key would be found with the wrong one.
        let key = self.arn(policy.key);
        if request.key_id.as_ref().is_some_and(|named| *named != key) {
            let text = format!("The policy is under the key {key}.");
            return Err(ApiError::validation(text));
        }
        Ok(reply(Response::RecordFileAccess(EMPTY)))
    }
}
