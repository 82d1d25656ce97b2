//! The next generation of a policy key.
//!
//! Order: data key, volume record (durable), registry. A crash in between leaves an entry of the record for a generation
//! that the registry does not have yet, which is made anew by the next attempt. The other order could leave a generation in
//! the registry whose data key nobody has.

use std::sync::Arc;

use kms_api::client::ClientError;
use kms_api::{ContentMode as WireMode, ErrorCode, ResourceId, RotatePolicyRequest};
use kms_format::PolicyId;
use kms_format::volume::PolicyRecord;

use super::kmsd::{KmsdKeys, Unlocked, content_mode, data_key, derive};
use super::{RecordFile, VolumeError};

/// Why a policy key was not rotated.
#[derive(Debug, thiserror::Error)]
pub enum RotateError {
    /// kmsd refuses or cannot be reached.
    #[error("{0}")]
    Kmsd(#[from] ClientError),
    /// The volume record cannot be written.
    #[error("{0}")]
    Record(#[from] VolumeError),
    /// kmsd's answer does not fit.
    #[error("kmsd's answer cannot be used: {0}; update kmsfs and kmsd together")]
    Unusable(String),
}

impl RotateError {
    /// Whether kmsd keeps as many older generations of the policy as it can.
    #[must_use]
    pub fn too_many(&self) -> bool {
        let Self::Kmsd(error) = self else {
            return false;
        };
        error
            .api()
            .is_some_and(|error| error.code == ErrorCode::LimitExceeded)
    }
}

/// Begins the next generation of a policy, under `key` (id, ARN or alias) if it is to hang on another one, and gives its key.
/// The former generations are kept. The caller sees to it that nobody else replaces the record meanwhile.
///
/// # Errors
/// Nothing has changed, unless kmsd's answer was lost: the registry then has the generation, and the record its data key.
pub fn rotate_policy(
    keys: &KmsdKeys,
    file: &RecordFile,
    policy: PolicyId,
    key: Option<&str>,
    mode: Option<WireMode>,
) -> Result<Unlocked, RotateError> {
    let volume = keys.volume();
    let now = keys.registry(&policy, None)?;
    let next = now.current_generation.checked_add(1);
    let next = next.ok_or_else(|| RotateError::Unusable("no generations are left".to_owned()))?;
    let key = key.unwrap_or(&now.key_arn);
    let made = data_key(keys.client(), key, volume, policy, next)?;
    let mode = mode.unwrap_or(now.content_mode);
    let mut record = keys.record();
    // Left from an attempt that did not come further.
    let stale = |entry: &PolicyRecord| (entry.policy, entry.generation) == (policy, next);
    record.policies.retain(|entry| !stale(entry));
    record.policies.push(PolicyRecord {
        policy,
        generation: next,
        key_arn: made.key_id.clone(),
        content_mode: content_mode(mode),
        data_key: made.ciphertext_blob.as_slice().to_vec(),
    });
    file.replace(&record)?;
    let rotated = keys.client().send(RotatePolicyRequest {
        volume_id: ResourceId(volume.0),
        policy_id: ResourceId(policy.0),
        key_id: Some(made.key_id.clone()),
        content_mode: Some(mode),
        generation: Some(next),
    });
    if rotated.as_ref().is_err_and(|error| error.api().is_some()) {
        // Refused: there is no such generation. What is left of a failure here is a line that the next attempt replaces.
        let mut record = record.clone();
        record.policies.retain(|entry| !stale(entry));
        let _ = file.replace(&record);
    }
    let row = rotated?;
    let unlocked = derive(
        (
            volume,
            policy,
            row.generation,
            content_mode(row.content_mode),
        ),
        made.plaintext.as_slice(),
        row.policy_secret.as_slice(),
    )
    .map_err(|reason| RotateError::Unusable(format!("{reason:?}")))?;
    let unlocked = Unlocked {
        policy: Arc::new(unlocked),
        key_arn: row.key_arn,
        key_material_id: made.key_material_id,
    };
    keys.add(record, unlocked.clone());
    Ok(unlocked)
}
