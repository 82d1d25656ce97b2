//! What may be changed about a policy of the registry: its settings and its generations.

use serde::{Deserialize, Serialize};

use crate::enums::*;
use crate::error::ApiError;
use crate::id::ResourceId;
use crate::local::CreatePolicyResponse;
use crate::members::Text;
use crate::request::{KEY_ID, requests};
use crate::response::responses;
use crate::timestamp::Timestamp;

/// Longest time for which a tree stays open while kmsd cannot be asked, in seconds (a week).
pub const MAX_LOCK_AFTER_SECONDS: u32 = 604_800;

requests! {
    /// Changes what the administrator chose for a policy; what is absent stays.
    UpdatePolicyRequest {
        /// The volume.
        volume_id: ResourceId = "VolumeId" id();
        /// The policy.
        policy_id: ResourceId = "PolicyId" id();
        /// Free text, up to 256 characters.
        label: Option<String> = "Label" opt_text(Text::len(0, 256));
        /// What a user who loses access keeps of open files.
        revoke_mode: Option<RevokeMode> = "RevokeMode" opt_enum();
        /// What happens while kmsd cannot be asked. `LOCK_AFTER` needs `LockAfterSeconds`.
        on_kmsd_loss: Option<OnKmsdLoss> = "OnKmsdLoss" opt_enum();
        /// Locks the tree this long after the last answer of kmsd has run out.
        lock_after_seconds: Option<u32> = "LockAfterSeconds" opt_int(0, MAX_LOCK_AFTER_SECONDS);
        /// Whether opens are recorded in the audit log.
        record_opens: Option<bool> = "RecordOpens" opt_flag();
        /// Whether new key material starts a rewrap.
        rewrap_after_rotation: Option<bool> = "RewrapAfterRotation" opt_flag();
    } [|request, _| match (request.on_kmsd_loss, request.lock_after_seconds) {
        (Some(OnKmsdLoss::KeepOpen), Some(_)) => Err(ApiError::validation(
            "LockAfterSeconds can not be used when OnKmsdLoss is KEEP_OPEN.",
        )),
        (Some(OnKmsdLoss::LockAfter), None) => Err(ApiError::validation(
            "LockAfterSeconds is required when OnKmsdLoss is LOCK_AFTER.",
        )),
        _ => Ok(()),
    }]

    /// Begins the next generation of a policy key. The former ones are kept until they are destroyed.
    RotatePolicyRequest {
        /// The volume.
        volume_id: ResourceId = "VolumeId" id();
        /// The policy.
        policy_id: ResourceId = "PolicyId" id();
        /// The key that the new generation hangs on; that of the former one when absent.
        key_id: Option<String> = "KeyId" opt_text(KEY_ID);
        /// How content is protected from now on; as before when absent.
        content_mode: Option<ContentMode> = "ContentMode" opt_enum();
        /// Number of the new generation: refused if it is not the next one, so that a repeated request
        /// does not rotate twice.
        generation: Option<u32> = "Generation" opt_int(2, i32::MAX as u32);
    }
}

responses! {
    /// What the administrator chose for a policy.
    #[derive(Default)]
    PolicySettings {
        /// Free text.
        #[serde(skip_serializing_if = "String::is_empty", default)]
        label: String,
        /// What a user who loses access keeps of open files.
        #[serde(default)]
        revoke_mode: RevokeMode,
        /// The tree is locked this long after the last answer of kmsd has run out; absent: it stays open.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        lock_after_seconds: Option<u32>,
        /// Whether opens are recorded in the audit log.
        #[serde(default)]
        record_opens: bool,
        /// Whether new key material starts a rewrap.
        #[serde(default)]
        rewrap_after_rotation: bool,
    }

    /// The settings in force.
    UpdatePolicyResponse {
        /// The policy.
        policy_id: ResourceId,
        /// What is chosen now.
        #[serde(flatten)]
        settings: PolicySettings,
    }

    /// A generation of a policy key that is not the current one any more.
    OldGenerationSummary {
        /// Its number.
        generation: u32,
        /// ARN of the key it hangs on.
        key_arn: String,
        /// How content was protected.
        content_mode: ContentMode,
        /// When it was made.
        creation_date: Timestamp,
        /// State of the key.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        key_state: Option<KeyState>,
    }
}

/// The new generation, like a new policy.
pub type RotatePolicyResponse = CreatePolicyResponse;
