//! kmsd's own operations (`KmsdLocal.*`): the registry of volumes and policies, and the status.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::blob::Blob;
use crate::destruction::PolicyUse;
use crate::enums::*;
use crate::generations::{OldGenerationSummary, PolicySettings};
use crate::id::ResourceId;
use crate::members::Text;
use crate::request::requests;
use crate::response::responses;
use crate::timestamp::Timestamp;

requests! {
    /// Registers a volume.
    #[derive(Default)]
    CreateVolumeRequest {
        /// Free text, up to 256 characters.
        label: Option<String> = "Label" opt_text(Text::len(0, 256));
    }

    /// Registers a policy: binds a directory tree of a volume to a key.
    CreatePolicyRequest {
        /// The volume.
        volume_id: ResourceId = "VolumeId" id();
        /// Key id, key ARN, alias name or alias ARN.
        key_id: String = "KeyId" text(Text::len(1, 2048));
        /// How content is protected.
        content_mode: ContentMode = "ContentMode" required_enum(ContentMode::Xts);
    }

    /// Reads a policy and its secret; refused in the same key states as Decrypt.
    GetPolicyRequest {
        /// The volume.
        volume_id: ResourceId = "VolumeId" id();
        /// The policy.
        policy_id: ResourceId = "PolicyId" id();
        /// The generation, any that is kept; the current one when absent.
        generation: Option<u32> = "Generation" opt_int(1, i32::MAX as u32);
    }

    /// Describes a volume and its policies.
    DescribeVolumeRequest {
        /// The volume.
        volume_id: ResourceId = "VolumeId" id();
    }

    /// Lists volumes.
    #[derive(Default)]
    ListVolumesRequest {
        /// Most entries to return, 1 to 1000, 100 by default.
        limit: Option<u32> = "Limit" opt_int(1, 1000);
        /// Where the previous page ended.
        marker: Option<String> = "Marker" opt_text(Text::len(1, 1024));
    }

    /// Asks how the daemon is.
    #[derive(Default, Copy)]
    GetStatusRequest {}
}

responses! {
    /// The new volume.
    CreateVolumeResponse {
        /// Its identifier.
        volume_id: ResourceId,
    }

    /// The new policy.
    CreatePolicyResponse {
        /// Its identifier.
        policy_id: ResourceId,
        /// Key ARN.
        key_arn: String,
        /// How content is protected.
        content_mode: ContentMode,
        /// Generation of the policy key, from 1.
        generation: u32,
        /// 32 bytes that go into the policy key and exist nowhere else.
        policy_secret: Blob,
    }

    /// One generation of a policy.
    GetPolicyResponse {
        /// Its identifier.
        policy_id: ResourceId,
        /// Key ARN.
        key_arn: String,
        /// How content is protected.
        content_mode: ContentMode,
        /// The generation of the policy key that the answer is about, from 1.
        generation: u32,
        /// The generation under which everything new is made.
        current_generation: u32,
        /// The generations before it that are kept.
        #[serde(skip_serializing_if = "Vec::is_empty", default)]
        older_generations: Vec<u32>,
        /// 32 bytes that go into the policy key and exist nowhere else.
        policy_secret: Blob,
        /// State of the key.
        key_state: KeyState,
        /// What the administrator chose.
        #[serde(flatten)]
        settings: PolicySettings,
    }

    /// A policy as DescribeVolume lists it: without its secret.
    PolicySummary {
        /// Its identifier.
        policy_id: ResourceId,
        /// Key ARN.
        key_arn: String,
        /// How content is protected.
        content_mode: ContentMode,
        /// Generation of the policy key, from 1.
        generation: u32,
        /// State of the key; absent once the key is destroyed.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        key_state: Option<KeyState>,
        /// Current material of the key.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        current_key_material_id: Option<String>,
        /// What it protected when that was last counted.
        #[serde(rename = "Use", skip_serializing_if = "Option::is_none", default)]
        usage: Option<PolicyUse>,
        /// When its secrets were destroyed.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        destroyed_date: Option<Timestamp>,
        /// When the generation was made.
        creation_date: Timestamp,
        /// The generations before it that are kept.
        #[serde(skip_serializing_if = "Vec::is_empty", default)]
        older_generations: Vec<OldGenerationSummary>,
        /// What the administrator chose.
        #[serde(flatten)]
        settings: PolicySettings,
    }

    /// A volume and its policies.
    DescribeVolumeResponse {
        /// Its identifier.
        volume_id: ResourceId,
        /// Free text.
        label: String,
        /// When it was registered.
        creation_date: Timestamp,
        /// Its policies.
        policies: Vec<PolicySummary>,
    }

    /// One volume of a list.
    VolumeListEntry {
        /// Its identifier.
        volume_id: ResourceId,
        /// Free text.
        label: String,
        /// When it was registered.
        creation_date: Timestamp,
        /// Number of its policies.
        policy_count: u64,
    }

    /// A page of volumes.
    ListVolumesResponse {
        /// The volumes.
        volumes: Vec<VolumeListEntry>,
        /// Marker of the next page.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        next_marker: Option<String>,
        /// Whether there is a next page.
        truncated: bool,
    }

    /// The sealer behind the root key.
    SealerInfo {
        /// `tpm` or `software`.
        kind: String,
        /// Device or key file.
        device: String,
        /// Manufacturer of the TPM.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        manufacturer: Option<String>,
        /// What an operator should know about it (software sealer, PCRs not measured, lockout).
        #[serde(skip_serializing_if = "Vec::is_empty", default)]
        warnings: Vec<String>,
    }

    /// Memory that holds keys.
    MemoryInfo {
        /// Bytes locked against swapping.
        locked_bytes: u64,
        /// Bytes in use that could not be locked (RLIMIT_MEMLOCK).
        unlocked_bytes: u64,
    }

    /// The cryptographic module that computes for the daemon.
    ModuleInfo {
        /// Its name and version.
        version: String,
        /// Whether it is a FIPS 140-3 module in its approved mode, so that algorithms that are not approved are refused.
        fips: bool,
        /// `PASSED`: its self-tests, when the daemon started. A daemon whose module fails them does not start.
        self_tests: String,
    }

    /// How the daemon is.
    GetStatusResponse {
        /// Version of kmsd.
        version: String,
        /// Account of its ARNs.
        account_id: String,
        /// Region of its ARNs.
        region: String,
        /// When it was started.
        start_date: Timestamp,
        /// Its clock now.
        current_date: Timestamp,
        /// Revision of the store: grows with every change.
        store_revision: u64,
        /// Deletion epoch: grows whenever key material is destroyed.
        deletion_epoch: u64,
        /// Authorisation epoch: grows whenever somebody may be allowed something else than before.
        authorization_epoch: u64,
        /// Number of leases that services hold.
        leases: u64,
        /// Number of keys by state.
        keys: BTreeMap<String, u64>,
        /// Number of aliases.
        aliases: u64,
        /// Number of volumes.
        volumes: u64,
        /// Number of policies.
        policies: u64,
        /// The sealer.
        sealer: SealerInfo,
        /// Memory for keys.
        memory: MemoryInfo,
        /// The cryptographic module; older daemons do not say.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        cryptographic_module: Option<ModuleInfo>,
        /// Public half of the recovery key: who has the other half can open the store and its backups.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        recovery_public_key: Option<String>,
        /// What an operator should look into.
        #[serde(skip_serializing_if = "Vec::is_empty", default)]
        warnings: Vec<String>,
    }
}
