//! Multi-Region keys: ReplicateKey, UpdatePrimaryRegion, and what DescribeKey says about them.

use serde::{Deserialize, Serialize};

use crate::enums::wire_enum;
use crate::error::ApiError;
use crate::members::Text;
use crate::request::{KEY_ID, POLICY, Tag, requests};
use crate::response::{KeyMetadata, responses};

const PATTERN: &str = "^([a-z]+-){2,3}\\d+$";
const REGION: Text = Text::len(1, 32).matching(PATTERN, |c| {
    c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-'
});

fn check(region: &str, member: &str) -> Result<(), ApiError> {
    if is_region(region) {
        return Ok(());
    }
    Err(ApiError::validation(format!(
        "1 validation error detected: Value '{region}' at '{member}' failed to satisfy constraint: Member must satisfy \
         regular expression pattern: {PATTERN}"
    )))
}

fn is_region(text: &str) -> bool {
    let mut parts = text.rsplit('-');
    let number = parts.next().unwrap_or_default();
    let words: Vec<&str> = parts.collect();
    !number.is_empty()
        && number.bytes().all(|byte| byte.is_ascii_digit())
        && (2..=3).contains(&words.len())
        && words
            .iter()
            .all(|word| !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_lowercase()))
}

wire_enum! {
    /// What a multi-Region key is to the others.
    MultiRegionKeyType {
        Primary = "PRIMARY", Replica = "REPLICA",
    }
}

requests! {
    /// Makes a replica of a multi-Region primary key in another Region.
    ReplicateKeyRequest {
        /// The primary key: id or ARN.
        key_id: String = "KeyId" text(KEY_ID);
        /// The Region of the replica.
        replica_region: String = "ReplicaRegion" text(REGION);
        /// Key policy of the replica, JSON.
        policy: Option<String> = "Policy" opt_text(POLICY);
        /// Skips the check that the policy leaves someone able to change it.
        bypass_policy_lockout_safety_check: bool = "BypassPolicyLockoutSafetyCheck" flag();
        /// Free text of the replica, up to 8192 characters.
        description: Option<String> = "Description" opt_text(Text::len(0, 8192));
        /// Tags of the replica.
        tags: Vec<Tag> = "Tags" tags();
    } [|request, _| check(&request.replica_region, "replicaRegion")]

    /// Makes a replica the primary key, and the primary key a replica.
    UpdatePrimaryRegionRequest {
        /// The primary key: id or ARN.
        key_id: String = "KeyId" text(KEY_ID);
        /// The Region of the replica that is to be the primary key.
        primary_region: String = "PrimaryRegion" text(REGION);
    } [|request, _| check(&request.primary_region, "primaryRegion")]
}

responses! {
    /// One of the keys that share their material.
    MultiRegionKey {
        /// Key ARN.
        arn: String,
        /// Its Region.
        region: String,
    }

    /// The keys that share their material.
    MultiRegionConfiguration {
        /// What this one is.
        multi_region_key_type: MultiRegionKeyType,
        /// The primary key.
        primary_key: MultiRegionKey,
        /// The replicas.
        replica_keys: Vec<MultiRegionKey>,
    }

    /// The new replica.
    ReplicateKeyResponse {
        /// Its metadata.
        replica_key_metadata: KeyMetadata,
        /// Its key policy.
        replica_policy: String,
        /// Its tags.
        replica_tags: Vec<Tag>,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn regions_have_two_or_three_words_and_a_number() {
        for good in ["us-west-2", "local-host-1", "us-gov-west-1", "a-b-10"] {
            assert!(is_region(good), "{good}");
        }
        for bad in [
            "",
            "us-2",
            "us-west",
            "us--west-2",
            "Us-west-2",
            "a-b-c-d-1",
            "us-west-2a",
        ] {
            assert!(!is_region(bad), "{bad}");
        }
    }
}
