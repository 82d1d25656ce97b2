//! Requests of the AWS KMS operations: members, limits and the checks that need no key.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::blob::Blob;
use crate::enums::*;
use crate::error::ApiError;
use crate::members::Text;

/// Largest plaintext of Encrypt, in bytes.
pub const MAX_PLAINTEXT: usize = 4096;
/// Largest ciphertext blob, in bytes.
pub const MAX_CIPHERTEXT: usize = 6144;
/// Most random bytes per call.
pub const MAX_RANDOM: u32 = 1024;

pub(crate) const KEY_ID: Text = Text::len(1, 2048);
pub(crate) const MARKER: Text =
    Text::len(1, 1024).matching("[\\u0020-\\u00FF]*", |c| ('\u{20}'..='\u{ff}').contains(&c));
const ALIAS: Text = Text::len(1, 256).matching("^[a-zA-Z0-9:/_-]+$", |c| {
    c.is_ascii_alphanumeric() || matches!(c, ':' | '/' | '_' | '-')
});
pub(crate) const POLICY: Text = Text::len(1, 131_072)
    .matching("[\\u0009\\u000A\\u000D\\u0020-\\u00FF]+", |c| {
        matches!(c, '\t' | '\n' | '\r' | '\u{20}'..='\u{ff}')
    });
const XKS_KEY_ID: Text = Text::len(1, 128).matching("^[a-zA-Z0-9-_.]+$", |c| {
    c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.')
});

/// Tells which members the client leaves out of the body.
pub(crate) trait Absent {
    fn absent(&self) -> bool {
        false
    }
}
impl<T> Absent for Option<T> {
    fn absent(&self) -> bool {
        self.is_none()
    }
}
impl<T> Absent for Vec<T> {
    fn absent(&self) -> bool {
        self.is_empty()
    }
}
impl<K, V> Absent for BTreeMap<K, V> {
    fn absent(&self) -> bool {
        self.is_empty()
    }
}
impl Absent for bool {
    fn absent(&self) -> bool {
        !self
    }
}
impl Absent for String {}
impl Absent for Blob {}
impl Absent for crate::ResourceId {}
impl Absent for ContentMode {}
impl Absent for IdentityType {}

/// Declares request structures: each field with its wire name and the reader of `Members` that checks it.
macro_rules! requests {
    ($( $(#[$doc:meta])* $name:ident {
        $( $(#[$fdoc:meta])* $field:ident : $ty:ty = $wire:literal $read:ident ( $($arg:expr),* ) ; )*
    } $([ $check:expr ])? )*) => { $(
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Serialize)]
        pub struct $name {
            $( $(#[$fdoc])*
               #[serde(rename = $wire, skip_serializing_if = "crate::request::Absent::absent")]
               pub $field: $ty, )*
        }

        impl $crate::members::FromMembers for $name {
            #[allow(unused_variables, reason = "requests without members do not read any")]
            fn from_members(members: &mut $crate::members::Members) -> Result<Self, $crate::ApiError> {
                $( let $field = members.$read($wire $(, $arg)*)?; )*
                let request = Self { $( $field, )* };
                $(
                    members.finish()?;
                    let check: fn(&Self, &mut $crate::members::Members)
                        -> Result<(), $crate::ApiError> = $check;
                    check(&request, members)?;
                )?
                Ok(request)
            }
        }

        impl $name {
            /// The members that the audit log keeps.
            #[allow(unused_mut, reason = "some requests have none")]
            pub(crate) fn recorded(&self) -> $crate::recorded::Members {
                let mut members = $crate::recorded::Members::new();
                $(
                    if $crate::recorded::is_recorded!($read)
                        && !$crate::request::Absent::absent(&self.$field)
                    {
                        $crate::recorded::add(&mut members, $wire, &self.$field);
                    }
                )*
                members
            }

            pub(crate) fn grant_tokens(&self) -> &[String] {
                $(
                    if let Some(tokens) = $crate::request::tokens_of!($read, &self.$field) {
                        return tokens;
                    }
                )*
                &[]
            }
        }
    )* };
}
pub(crate) use requests;

/// The grant tokens, for the member that is read as such.
macro_rules! tokens_of {
    (grant_tokens, $tokens:expr) => {
        Some($tokens.as_slice())
    };
    ($other:ident, $tokens:expr) => {
        None::<&[String]>
    };
}
pub(crate) use tokens_of;

/// A tag of a key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Tag {
    /// 1 to 128 characters.
    pub tag_key: String,
    /// 0 to 256 characters.
    pub tag_value: String,
}

requests! {
    /// Creates a key.
    #[derive(Default)]
    CreateKeyRequest {
        /// Key policy, JSON.
        policy: Option<String> = "Policy" opt_text(POLICY);
        /// Free text, up to 8192 characters.
        description: Option<String> = "Description" opt_text(Text::len(0, 8192));
        /// What the key is for; required unless the key is symmetric.
        key_usage: Option<KeyUsage> = "KeyUsage" opt_enum();
        /// Deprecated name of `KeySpec`.
        customer_master_key_spec: Option<KeySpec> = "CustomerMasterKeySpec" opt_enum();
        /// Kind of key, `SYMMETRIC_DEFAULT` by default.
        key_spec: Option<KeySpec> = "KeySpec" opt_enum();
        /// Where the material comes from, `AWS_KMS` by default.
        origin: Option<Origin> = "Origin" opt_enum();
        /// Custom key store.
        custom_key_store_id: Option<String> = "CustomKeyStoreId" opt_text(Text::len(1, 64));
        /// Skips the check that the policy leaves someone able to change it.
        bypass_policy_lockout_safety_check: bool = "BypassPolicyLockoutSafetyCheck" flag();
        /// Tags.
        tags: Vec<Tag> = "Tags" tags();
        /// Multi-Region primary key.
        multi_region: bool = "MultiRegion" flag();
        /// External key of an external key store.
        xks_key_id: Option<String> = "XksKeyId" opt_text(XKS_KEY_ID);
    } [|request, members| {
        let deprecated = request.customer_master_key_spec;
        if let Some(spec) = deprecated.filter(|spec| spec.customer_master_key_spec().is_none()) {
            let has_old_name = |name: &&&str| {
                KeySpec::from_wire(name).is_some_and(|spec| spec.customer_master_key_spec().is_some())
            };
            let known: Vec<&str> = KeySpec::WIRE.iter().filter(has_old_name).copied().collect();
            let limit = format!("Member must satisfy enum value set: [{}]", known.join(", "));
            members.violate(&format!("'{spec}'"), "customerMasterKeySpec", &limit);
        }
        if request.key_spec.is_some() && request.customer_master_key_spec.is_some() {
            return Err(ApiError::validation(
                "You cannot specify KeySpec and CustomerMasterKeySpec in the same request. \
                 CustomerMasterKeySpec is deprecated.",
            ));
        }
        Ok(())
    }]

    /// Describes a key.
    DescribeKeyRequest {
        /// Key id, key ARN, alias name or alias ARN.
        key_id: String = "KeyId" text(KEY_ID);
        /// Grant tokens.
        grant_tokens: Vec<String> = "GrantTokens" grant_tokens();
    }

    /// Asks when a key was last used with success.
    GetKeyLastUsageRequest {
        /// Key id or key ARN.
        key_id: String = "KeyId" text(KEY_ID);
    }

    /// Replaces a key's description.
    UpdateKeyDescriptionRequest {
        /// Key id or key ARN.
        key_id: String = "KeyId" text(KEY_ID);
        /// Free text, up to 8192 characters.
        description: String = "Description" text(Text::len(0, 8192));
    }

    /// Lists keys.
    #[derive(Default)]
    ListKeysRequest {
        /// Most entries to return, 1 to 1000, 100 by default.
        limit: Option<u32> = "Limit" opt_int(1, 1000);
        /// Where the previous page ended.
        marker: Option<String> = "Marker" opt_text(MARKER);
        /// Whose keys, the account's own by default.
        resource_owners: Vec<ResourceOwner> = "ResourceOwners" enums_of(1, 2);
    }

    /// Gives a key a name.
    CreateAliasRequest {
        /// `alias/` and a name.
        alias_name: String = "AliasName" text(ALIAS);
        /// Key id or key ARN.
        target_key_id: String = "TargetKeyId" text(KEY_ID);
    }

    /// Points a name at another key.
    UpdateAliasRequest {
        /// `alias/` and a name.
        alias_name: String = "AliasName" text(ALIAS);
        /// Key id or key ARN.
        target_key_id: String = "TargetKeyId" text(KEY_ID);
    }

    /// Removes a name.
    DeleteAliasRequest {
        /// `alias/` and a name.
        alias_name: String = "AliasName" text(ALIAS);
    }

    /// Lists names, of one key or of all.
    #[derive(Default)]
    ListAliasesRequest {
        /// Only the names of this key (key id or key ARN).
        key_id: Option<String> = "KeyId" opt_text(KEY_ID);
        /// Most entries to return, 1 to 100, 50 by default.
        limit: Option<u32> = "Limit" opt_int(1, 100);
        /// Where the previous page ended.
        marker: Option<String> = "Marker" opt_text(MARKER);
    }

    /// Encrypts up to 4096 bytes.
    EncryptRequest {
        /// Key id, key ARN, alias name or alias ARN.
        key_id: String = "KeyId" text(KEY_ID);
        /// 1 to 4096 bytes.
        plaintext: Blob = "Plaintext" blob(1, MAX_PLAINTEXT);
        /// Authenticated with the ciphertext, and needed to decrypt it.
        encryption_context: BTreeMap<String, String> = "EncryptionContext" context();
        /// Grant tokens.
        grant_tokens: Vec<String> = "GrantTokens" grant_tokens();
        /// `SYMMETRIC_DEFAULT` by default.
        encryption_algorithm: Option<EncryptionAlgorithm> = "EncryptionAlgorithm" opt_enum();
        /// Only check whether the call would succeed.
        dry_run: bool = "DryRun" flag();
    }

    /// Decrypts a ciphertext blob.
    #[derive(Default)]
    DecryptRequest {
        /// 1 to 6144 bytes; required unless this is a dry run that ignores it.
        ciphertext_blob: Option<Blob> = "CiphertextBlob" opt_blob(1, MAX_CIPHERTEXT);
        /// The context given at encryption.
        encryption_context: BTreeMap<String, String> = "EncryptionContext" context();
        /// Grant tokens.
        grant_tokens: Vec<String> = "GrantTokens" grant_tokens();
        /// The key the blob must have been made under; taken from the blob when absent.
        key_id: Option<String> = "KeyId" opt_text(KEY_ID);
        /// `SYMMETRIC_DEFAULT` by default.
        encryption_algorithm: Option<EncryptionAlgorithm> = "EncryptionAlgorithm" opt_enum();
        /// Only check whether the call would succeed.
        dry_run: bool = "DryRun" flag();
        /// `IGNORE_CIPHERTEXT` checks the key only.
        dry_run_modifiers: Vec<DryRunModifier> = "DryRunModifiers" enums();
    } [|request, members| {
        members.no_recipient()?;
        match ignores_ciphertext(request.dry_run, &request.dry_run_modifiers) {
            true if request.key_id.is_none() => Err(missing("keyId")),
            false if request.ciphertext_blob.is_none() => Err(missing("ciphertextBlob")),
            _ => Ok(()),
        }
    }]

    /// Decrypts under one key and encrypts under another.
    ReEncryptRequest {
        /// 1 to 6144 bytes; required unless this is a dry run that ignores it.
        ciphertext_blob: Option<Blob> = "CiphertextBlob" opt_blob(1, MAX_CIPHERTEXT);
        /// The context given at encryption.
        source_encryption_context: BTreeMap<String, String> = "SourceEncryptionContext" context();
        /// The key the blob must have been made under; taken from the blob when absent.
        source_key_id: Option<String> = "SourceKeyId" opt_text(KEY_ID);
        /// The key to encrypt under.
        destination_key_id: String = "DestinationKeyId" text(KEY_ID);
        /// Context of the new ciphertext.
        destination_encryption_context: BTreeMap<String, String> = "DestinationEncryptionContext" context();
        /// `SYMMETRIC_DEFAULT` by default.
        source_encryption_algorithm: Option<EncryptionAlgorithm> = "SourceEncryptionAlgorithm" opt_enum();
        /// `SYMMETRIC_DEFAULT` by default.
        destination_encryption_algorithm: Option<EncryptionAlgorithm> = "DestinationEncryptionAlgorithm" opt_enum();
        /// Grant tokens.
        grant_tokens: Vec<String> = "GrantTokens" grant_tokens();
        /// Only check whether the call would succeed.
        dry_run: bool = "DryRun" flag();
        /// `IGNORE_CIPHERTEXT` checks the keys only.
        dry_run_modifiers: Vec<DryRunModifier> = "DryRunModifiers" enums();
    } [|request, _| {
        match ignores_ciphertext(request.dry_run, &request.dry_run_modifiers) {
            true if request.source_key_id.is_none() => Err(missing("sourceKeyId")),
            false if request.ciphertext_blob.is_none() => Err(missing("ciphertextBlob")),
            _ => Ok(()),
        }
    }]

    /// Makes a data key, in the clear and encrypted.
    GenerateDataKeyRequest {
        /// Key id, key ARN, alias name or alias ARN.
        key_id: String = "KeyId" text(KEY_ID);
        /// Authenticated with the ciphertext, and needed to decrypt it.
        encryption_context: BTreeMap<String, String> = "EncryptionContext" context();
        /// Length in bytes, 1 to 1024; exactly one of this and `KeySpec`.
        number_of_bytes: Option<u32> = "NumberOfBytes" opt_int(1, MAX_RANDOM);
        /// Length by name; exactly one of this and `NumberOfBytes`.
        key_spec: Option<DataKeySpec> = "KeySpec" opt_enum();
        /// Grant tokens.
        grant_tokens: Vec<String> = "GrantTokens" grant_tokens();
        /// Only check whether the call would succeed.
        dry_run: bool = "DryRun" flag();
    } [|request, members| {
        members.no_recipient()?;
        one_length(request.number_of_bytes, request.key_spec)
    }]

    /// Makes a data key, encrypted only.
    GenerateDataKeyWithoutPlaintextRequest {
        /// Key id, key ARN, alias name or alias ARN.
        key_id: String = "KeyId" text(KEY_ID);
        /// Authenticated with the ciphertext, and needed to decrypt it.
        encryption_context: BTreeMap<String, String> = "EncryptionContext" context();
        /// Length by name; exactly one of this and `NumberOfBytes`.
        key_spec: Option<DataKeySpec> = "KeySpec" opt_enum();
        /// Length in bytes, 1 to 1024; exactly one of this and `KeySpec`.
        number_of_bytes: Option<u32> = "NumberOfBytes" opt_int(1, MAX_RANDOM);
        /// Grant tokens.
        grant_tokens: Vec<String> = "GrantTokens" grant_tokens();
        /// Only check whether the call would succeed.
        dry_run: bool = "DryRun" flag();
    } [|request, _| one_length(request.number_of_bytes, request.key_spec)]

    /// Random bytes.
    GenerateRandomRequest {
        /// 1 to 1024; required, though the model does not say so.
        number_of_bytes: Option<u32> = "NumberOfBytes" opt_int(1, MAX_RANDOM);
        /// Custom key store to take them from.
        custom_key_store_id: Option<String> = "CustomKeyStoreId" opt_text(Text::len(1, 64));
    } [|request, members| {
        members.no_recipient()?;
        match request.number_of_bytes {
            Some(_) => Ok(()),
            None => Err(ApiError::validation("NumberOfBytes is required.")),
        }
    }]

    /// Enables a key.
    EnableKeyRequest {
        /// Key id or key ARN.
        key_id: String = "KeyId" text(KEY_ID);
    }

    /// Disables a key.
    DisableKeyRequest {
        /// Key id or key ARN.
        key_id: String = "KeyId" text(KEY_ID);
    }

    /// Schedules the destruction of a key.
    ScheduleKeyDeletionRequest {
        /// Key id or key ARN.
        key_id: String = "KeyId" text(KEY_ID);
        /// Waiting period in days; the model allows 1 to 365, the service 7 to 30 (30 by default).
        pending_window_in_days: Option<u32> = "PendingWindowInDays" opt_int(1, 365);
    }

    /// Cancels the destruction of a key.
    CancelKeyDeletionRequest {
        /// Key id or key ARN.
        key_id: String = "KeyId" text(KEY_ID);
    }

    /// Makes new key material now.
    RotateKeyOnDemandRequest {
        /// Key id or key ARN.
        key_id: String = "KeyId" text(KEY_ID);
    }

    /// Lists rotations.
    ListKeyRotationsRequest {
        /// Key id or key ARN.
        key_id: String = "KeyId" text(KEY_ID);
        /// `ROTATIONS_ONLY` by default.
        include_key_material: Option<IncludeKeyMaterial> = "IncludeKeyMaterial" opt_enum();
        /// Most entries to return, 1 to 1000, 100 by default.
        limit: Option<u32> = "Limit" opt_int(1, 1000);
        /// Where the previous page ended.
        marker: Option<String> = "Marker" opt_text(MARKER);
    }

    /// Asks for the rotation settings of a key.
    GetKeyRotationStatusRequest {
        /// Key id or key ARN.
        key_id: String = "KeyId" text(KEY_ID);
    }

    /// Rotates a key automatically from now on.
    EnableKeyRotationRequest {
        /// Key id or key ARN.
        key_id: String = "KeyId" text(KEY_ID);
        /// 90 to 2560 days, 365 by default.
        rotation_period_in_days: Option<u32> = "RotationPeriodInDays" opt_int(90, 2560);
    }

    /// Ends automatic rotation.
    DisableKeyRotationRequest {
        /// Key id or key ARN.
        key_id: String = "KeyId" text(KEY_ID);
    }
}

impl CreateKeyRequest {
    /// The kind of key asked for, by either name of the member.
    pub fn spec(&self) -> KeySpec {
        self.key_spec
            .or(self.customer_master_key_spec)
            .unwrap_or(KeySpec::SymmetricDefault)
    }
}

fn ignores_ciphertext(dry_run: bool, modifiers: &[DryRunModifier]) -> bool {
    dry_run && modifiers.contains(&DryRunModifier::IgnoreCiphertext)
}

fn missing(at: &str) -> ApiError {
    ApiError::validation(format!(
        "1 validation error detected: Value null at '{at}' failed to satisfy constraint: Member \
         must not be null"
    ))
}

fn one_length(bytes: Option<u32>, spec: Option<DataKeySpec>) -> Result<(), ApiError> {
    match (bytes, spec) {
        (Some(_), None) | (None, Some(_)) => Ok(()),
        (None, None) | (Some(_), Some(_)) => Err(ApiError::validation(
            "Please specify either number of bytes or key spec.",
        )),
    }
}
