//! Responses of the AWS KMS operations.

use serde::{Deserialize, Serialize};

use crate::blob::Blob;
use crate::enums::*;
use crate::timestamp::Timestamp;

/// Declares response structures; optional members are left out when absent.
macro_rules! responses {
    ($( $(#[$doc:meta])* $name:ident {
        $( $(#[$fdoc:meta])* $field:ident : $ty:ty , )*
    } )*) => { $(
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
        #[serde(rename_all = "PascalCase")]
        pub struct $name {
            $( $(#[$fdoc])* pub $field: $ty, )*
        }
    )* };
}
pub(crate) use responses;

responses! {
    /// No members: the body is empty.
    #[derive(Default, Copy)]
    EmptyResponse {}

    /// What there is to know about a key.
    KeyMetadata {
        /// 12 digits.
        #[serde(rename = "AWSAccountId")]
        aws_account_id: String,
        /// UUID.
        key_id: String,
        /// Key ARN.
        arn: String,
        /// When it was created.
        creation_date: Timestamp,
        /// Whether the state is `Enabled`.
        enabled: bool,
        /// Free text.
        description: String,
        /// What it is for.
        key_usage: KeyUsage,
        /// State.
        key_state: KeyState,
        /// When it will be destroyed, while that is pending.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        deletion_date: Option<Timestamp>,
        /// Where the material comes from.
        origin: Origin,
        /// Who manages it.
        key_manager: KeyManager,
        /// Deprecated name of `KeySpec`; absent for the newer kinds of keys.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        customer_master_key_spec: Option<KeySpec>,
        /// Kind of key.
        key_spec: KeySpec,
        /// Algorithms, for keys that encrypt.
        #[serde(skip_serializing_if = "Vec::is_empty", default)]
        encryption_algorithms: Vec<EncryptionAlgorithm>,
        /// Algorithms, for keys that sign.
        #[serde(skip_serializing_if = "Vec::is_empty", default)]
        signing_algorithms: Vec<SigningAlgorithm>,
        /// Algorithms, for keys that agree on secrets.
        #[serde(skip_serializing_if = "Vec::is_empty", default)]
        key_agreement_algorithms: Vec<KeyAgreementAlgorithm>,
        /// Algorithms, for keys that encapsulate secrets.
        #[serde(skip_serializing_if = "Vec::is_empty", default)]
        encapsulation_algorithms: Vec<EncapsulationAlgorithm>,
        /// Algorithms, for HMAC keys.
        #[serde(skip_serializing_if = "Vec::is_empty", default)]
        mac_algorithms: Vec<MacAlgorithm>,
        /// Whether this is a multi-Region key.
        multi_region: bool,
        /// The keys that share the material; only for multi-Region keys.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        multi_region_configuration: Option<crate::MultiRegionConfiguration>,
        /// Waiting period; only for multi-Region keys whose replicas are pending deletion.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        pending_deletion_window_in_days: Option<u32>,
        /// 64 hex digits naming the current key material.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        current_key_material_id: Option<String>,
        /// Whether imported material expires.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        expiration_model: Option<crate::ExpirationModel>,
        /// When the first of its imported materials expires.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        valid_to: Option<Timestamp>,
    }

    /// The new key.
    CreateKeyResponse {
        /// Its metadata.
        key_metadata: KeyMetadata,
    }

    /// The key.
    DescribeKeyResponse {
        /// Its metadata.
        key_metadata: KeyMetadata,
    }

    /// The last successful use of a key; empty where none is known.
    #[derive(Default)]
    KeyLastUsageData {
        /// The operation of AWS KMS.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        operation: Option<String>,
        /// When.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        timestamp: Option<Timestamp>,
        /// Id of its record in the audit log.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        cloud_trail_event_id: Option<String>,
        /// Id of the request.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        kms_request_id: Option<String>,
    }

    /// When a key was last used.
    GetKeyLastUsageResponse {
        /// Key ARN.
        key_id: String,
        /// The use.
        key_last_usage: KeyLastUsageData,
        /// Since when uses of the key are known.
        tracking_start_date: Timestamp,
        /// When the key was made.
        key_creation_date: Timestamp,
    }

    /// One key of a list.
    KeyListEntry {
        /// UUID.
        key_id: String,
        /// Key ARN.
        key_arn: String,
    }

    /// A page of keys.
    ListKeysResponse {
        /// The keys.
        keys: Vec<KeyListEntry>,
        /// Marker of the next page.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        next_marker: Option<String>,
        /// Whether there is a next page.
        truncated: bool,
    }

    /// One alias of a list.
    AliasListEntry {
        /// `alias/` and a name.
        alias_name: String,
        /// Alias ARN.
        alias_arn: String,
        /// UUID of the key.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        target_key_id: Option<String>,
        /// When it was created.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        creation_date: Option<Timestamp>,
        /// When it was last pointed at a key.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        last_updated_date: Option<Timestamp>,
    }

    /// A page of aliases.
    ListAliasesResponse {
        /// The aliases.
        aliases: Vec<AliasListEntry>,
        /// Marker of the next page.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        next_marker: Option<String>,
        /// Whether there is a next page.
        truncated: bool,
    }

    /// A ciphertext.
    EncryptResponse {
        /// Up to 6144 bytes.
        ciphertext_blob: Blob,
        /// Key ARN.
        key_id: String,
        /// The algorithm used.
        encryption_algorithm: EncryptionAlgorithm,
    }

    /// A plaintext.
    DecryptResponse {
        /// Key ARN.
        key_id: String,
        /// The plaintext.
        plaintext: Blob,
        /// The algorithm used.
        encryption_algorithm: EncryptionAlgorithm,
        /// The key material that opened it.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        key_material_id: Option<String>,
    }

    /// A ciphertext under another key.
    ReEncryptResponse {
        /// Up to 6144 bytes.
        ciphertext_blob: Blob,
        /// ARN of the key it was under.
        source_key_id: String,
        /// ARN of the key it is under.
        key_id: String,
        /// The algorithm it was made with.
        source_encryption_algorithm: EncryptionAlgorithm,
        /// The algorithm used.
        destination_encryption_algorithm: EncryptionAlgorithm,
        /// The key material that opened it.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        source_key_material_id: Option<String>,
        /// The key material it is under.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        destination_key_material_id: Option<String>,
    }

    /// A data key.
    GenerateDataKeyResponse {
        /// The data key, encrypted.
        ciphertext_blob: Blob,
        /// The data key.
        plaintext: Blob,
        /// Key ARN.
        key_id: String,
        /// The key material it is under.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        key_material_id: Option<String>,
    }

    /// A data key, encrypted only.
    GenerateDataKeyWithoutPlaintextResponse {
        /// The data key, encrypted.
        ciphertext_blob: Blob,
        /// Key ARN.
        key_id: String,
        /// The key material it is under.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        key_material_id: Option<String>,
    }

    /// Random bytes.
    GenerateRandomResponse {
        /// The bytes.
        plaintext: Blob,
    }

    /// When the key will be destroyed.
    ScheduleKeyDeletionResponse {
        /// Key ARN.
        key_id: String,
        /// When the waiting period ends.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        deletion_date: Option<Timestamp>,
        /// `PendingDeletion`.
        key_state: KeyState,
        /// The waiting period.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        pending_window_in_days: Option<u32>,
    }

    /// The key that is no longer to be destroyed.
    CancelKeyDeletionResponse {
        /// Key ARN.
        key_id: String,
    }

    /// The key being rotated.
    RotateKeyOnDemandResponse {
        /// Key ARN.
        key_id: String,
    }

    /// One version of key material.
    RotationsListEntry {
        /// Key id.
        key_id: String,
        /// 64 hex digits.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        key_material_id: Option<String>,
        /// State, when `IncludeKeyMaterial` asked for all.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        key_material_state: Option<KeyMaterialState>,
        /// What whoever imported it said about it.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        key_material_description: Option<String>,
        /// Whether imported material is there.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        import_state: Option<crate::ImportState>,
        /// Whether imported material expires.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        expiration_model: Option<crate::ExpirationModel>,
        /// When.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        valid_to: Option<Timestamp>,
        /// When the rotation was done; absent for the first material.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        rotation_date: Option<Timestamp>,
        /// What started it; absent for the first material.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        rotation_type: Option<RotationType>,
    }

    /// A page of rotations.
    ListKeyRotationsResponse {
        /// The rotations, oldest first.
        rotations: Vec<RotationsListEntry>,
        /// Marker of the next page.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        next_marker: Option<String>,
        /// Whether there is a next page.
        truncated: bool,
    }

    /// Rotation settings.
    GetKeyRotationStatusResponse {
        /// Whether the key is rotated automatically.
        key_rotation_enabled: bool,
        /// Key ARN.
        key_id: String,
        /// Period of automatic rotation.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        rotation_period_in_days: Option<u32>,
        /// Next automatic rotation.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        next_rotation_date: Option<Timestamp>,
        /// Start of a rotation on demand that is in progress.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        on_demand_rotation_start_date: Option<Timestamp>,
    }
}
