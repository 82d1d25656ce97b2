//! Key policies and tags of keys: operations of AWS KMS.

use serde::{Deserialize, Serialize};

use crate::members::Text;
use crate::request::{KEY_ID, MARKER, POLICY, Tag, requests};
use crate::response::responses;

/// The one name that a key policy has.
pub const DEFAULT_POLICY_NAME: &str = "default";

const POLICY_NAME: Text =
    Text::len(1, 128).matching("[\\w]+", |c| c.is_ascii_alphanumeric() || c == '_');

requests! {
    /// Replaces the policy of a key.
    PutKeyPolicyRequest {
        /// Key id or key ARN.
        key_id: String = "KeyId" text(KEY_ID);
        /// `default`, which is also what is meant without it.
        policy_name: Option<String> = "PolicyName" opt_text(POLICY_NAME);
        /// The policy document, JSON, up to 32,768 bytes.
        policy: String = "Policy" text(POLICY);
        /// Skips the check that the caller could change the policy again.
        bypass_policy_lockout_safety_check: bool = "BypassPolicyLockoutSafetyCheck" flag();
    }

    /// Reads the policy of a key.
    GetKeyPolicyRequest {
        /// Key id or key ARN.
        key_id: String = "KeyId" text(KEY_ID);
        /// `default`, which is also what is meant without it.
        policy_name: Option<String> = "PolicyName" opt_text(POLICY_NAME);
    }

    /// Lists the names of a key's policies: there is one, `default`.
    ListKeyPoliciesRequest {
        /// Key id or key ARN.
        key_id: String = "KeyId" text(KEY_ID);
        /// Most entries to return, 1 to 1000, 100 by default.
        limit: Option<u32> = "Limit" opt_int(1, 1000);
        /// Where the previous page ended.
        marker: Option<String> = "Marker" opt_text(MARKER);
    }

    /// Gives a key tags, and new values to those it has.
    TagResourceRequest {
        /// Key id or key ARN.
        key_id: String = "KeyId" text(KEY_ID);
        /// The tags.
        tags: Vec<Tag> = "Tags" required_tags();
    }

    /// Takes tags from a key; those it does not have are no error.
    UntagResourceRequest {
        /// Key id or key ARN.
        key_id: String = "KeyId" text(KEY_ID);
        /// Their keys.
        tag_keys: Vec<String> = "TagKeys" tag_keys();
    }

    /// Lists the tags of a key.
    ListResourceTagsRequest {
        /// Key id or key ARN.
        key_id: String = "KeyId" text(KEY_ID);
        /// Most entries to return, 1 to 50, 50 by default.
        limit: Option<u32> = "Limit" opt_int(1, 50);
        /// Where the previous page ended.
        marker: Option<String> = "Marker" opt_text(MARKER);
    }
}

responses! {
    /// The policy of a key.
    GetKeyPolicyResponse {
        /// The policy document, as it was given.
        policy: String,
        /// `default`.
        policy_name: String,
    }

    /// A page of names of policies.
    ListKeyPoliciesResponse {
        /// The names.
        policy_names: Vec<String>,
        /// Marker of the next page.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        next_marker: Option<String>,
        /// Whether there is a next page.
        truncated: bool,
    }

    /// A page of tags.
    ListResourceTagsResponse {
        /// The tags.
        tags: Vec<Tag>,
        /// Marker of the next page.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        next_marker: Option<String>,
        /// Whether there is a next page.
        truncated: bool,
    }
}
