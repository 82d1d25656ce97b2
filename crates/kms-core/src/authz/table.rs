//! The permissions that each request needs. The match names every operation, so that a new one cannot be forgotten.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use kms_api::{
    ApiError, CreateGrantRequest, DEFAULT_POLICY_NAME, EncryptionAlgorithm, ExpirationModel,
    IdentityType, KeySpec, KeyUsage, MessageType, Request, ResourceId, Tag, Timestamp,
};

use super::MAX_KEYS;
use crate::blob::Header;
use crate::clock::Now;
use crate::grants::principal;
use crate::ids::{KeyId, KeyReference};
use crate::kms::Kms;
use crate::place::{At, Place};
use crate::rows::{GrantRow, IdentityKind, KeyRow};

/// What a request needs.
#[derive(Debug)]
pub(crate) struct Needs<'a> {
    /// Every one of them must be given; the first is on the key that the answer is about.
    pub(crate) permissions: Vec<Permission<'a>>,
}

/// One permission.
#[derive(Clone, Debug)]
pub(crate) struct Permission<'a> {
    /// For example `kms:Decrypt`.
    pub(crate) action: &'a str,
    /// On what.
    pub(crate) resource: Resource<'a>,
    /// What conditions can ask about the request.
    pub(crate) details: Details<'a>,
}

/// What a permission is on.
#[derive(Clone, Debug)]
pub(crate) enum Resource<'a> {
    /// A key: its policy, grants and, if it says so, identity policies decide.
    Key(&'a KeyRow),
    /// An alias of that place; identity policies decide.
    Alias(Place, Cow<'a, str>),
    /// A thing of kmsd's own, by the last part of its ARN; identity policies decide.
    Local(String),
    /// The identity policies of an account, by the last part of their ARNs; identity policies decide.
    Identity(Place, String),
    /// All of them (`*`).
    Identities,
    /// The same, by its whole ARN.
    Given(&'a str),
    /// A principal of the caller's account, by its ARN; identity policies decide.
    Principal(&'a str),
    /// A thing of kmsd's own that comes with the request's other permissions, by the last part of its ARN: allowed to
    /// whoever has those, unless something denies it.
    Implied(String),
    /// Nothing in particular (`*`); identity policies decide.
    Any,
    /// A grant on a key: its parties may retire it, whatever the key's policy says, and otherwise identity policies
    /// decide.
    Grant(&'a KeyRow, &'a GrantRow),
    /// The caller itself: allowed unless something denies it.
    Own,
}

/// What conditions can ask about a request. Everything is absent where the operation does not have it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Details<'a> {
    /// `kms:EncryptionContext:*`, `kms:EncryptionContextKeys`.
    pub(crate) encryption_context: Option<Cow<'a, BTreeMap<String, String>>>,
    /// `kms:EncryptionAlgorithm`.
    pub(crate) encryption_algorithm: Option<&'static str>,
    /// `kms:SigningAlgorithm`.
    pub(crate) signing_algorithm: Option<&'static str>,
    /// `kms:MessageType`, also where it is the default.
    pub(crate) message_type: Option<&'static str>,
    /// `kms:MacAlgorithm`.
    pub(crate) mac_algorithm: Option<&'static str>,
    /// `kms:KeyAgreementAlgorithm`.
    pub(crate) key_agreement_algorithm: Option<&'static str>,
    /// `kms:DataKeyPairSpec`.
    pub(crate) data_key_pair_spec: Option<&'static str>,
    /// `kms:RequestAlias`: the name, where the request gave one.
    pub(crate) request_alias: Option<Cow<'a, str>>,
    /// `kms:KeySpec` and its siblings for a key that does not exist yet.
    pub(crate) new_key: Option<NewKey>,
    /// `aws:RequestTag/*`, and with `tag_keys` `aws:TagKeys`.
    pub(crate) request_tags: &'a [Tag],
    /// Names of tags to be removed.
    pub(crate) tag_keys: &'a [String],
    /// `kms:BypassPolicyLockoutSafetyCheck`.
    pub(crate) bypass_lockout_check: Option<bool>,
    /// `kms:ScheduleKeyDeletionPendingWindowInDays`.
    pub(crate) pending_window_days: Option<u32>,
    /// `kms:RotationPeriodInDays`.
    pub(crate) rotation_period_days: Option<u32>,
    /// `kms:ExpirationModel`.
    pub(crate) expiration_model: Option<&'static str>,
    /// `kms:ValidTo`, milliseconds since 1970.
    pub(crate) valid_to_ms: Option<i64>,
    /// `kms:WrappingAlgorithm`.
    pub(crate) wrapping_algorithm: Option<&'static str>,
    /// `kms:WrappingKeySpec`.
    pub(crate) wrapping_key_spec: Option<&'static str>,
    /// `kms:PolicyName`.
    pub(crate) policy_name: Option<&'a str>,
    /// `kms:ReplicaRegion`.
    pub(crate) replica_region: Option<&'a str>,
    /// `kms:PrimaryRegion`.
    pub(crate) primary_region: Option<&'a str>,
    /// `aws:RequestedRegion`, where it is not the request's own.
    pub(crate) requested_region: Option<&'a str>,
    /// `kms:ReEncryptOnSameKey`.
    pub(crate) same_key: Option<bool>,
    /// The grant to be made: `kms:GrantOperations`, `kms:GranteePrincipal` and their siblings; and a grant that allows
    /// CreateGrant allows it only for what [`crate::grants::find_parent`] says.
    pub(crate) grant: Option<&'a CreateGrantRequest>,
    /// The key is known from the ciphertext only: a refusal must not tell that it exists.
    pub(crate) from_ciphertext: bool,
}

/// The key that CreateKey is to make.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NewKey {
    pub(crate) spec: KeySpec,
    pub(crate) usage: KeyUsage,
    pub(crate) origin: kms_api::Origin,
    pub(crate) multi_region: bool,
    pub(crate) is_replica: bool,
}

impl<'a> Needs<'a> {
    /// One permission on a key.
    fn key(action: &'static str, key: &'a KeyRow) -> Self {
        Self::with(action, Resource::Key(key), Details::default())
    }

    /// One permission on nothing in particular.
    fn any(action: &'static str) -> Self {
        Self::with(action, Resource::Any, Details::default())
    }

    /// One permission on a thing of kmsd's own.
    fn local(action: &'static str, resource: String) -> Self {
        Self::with(action, Resource::Local(resource), Details::default())
    }

    fn with(action: &'static str, resource: Resource<'a>, details: Details<'a>) -> Self {
        Self {
            permissions: vec![Permission {
                action,
                resource,
                details,
            }],
        }
    }

    fn and(mut self, action: &'static str, resource: Resource<'a>, details: Details<'a>) -> Self {
        self.permissions.push(Permission {
            action,
            resource,
            details,
        });
        self
    }

    /// The keys that the permissions are on.
    pub(crate) fn keys(&self) -> [Option<KeyId>; MAX_KEYS] {
        let mut keys = self.permissions.iter().filter_map(|p| match p.resource {
            Resource::Key(key) | Resource::Grant(key, _) => Some(key.id),
            _ => None,
        });
        std::array::from_fn(|_| keys.next())
    }
}

/// Whether a request may be about a key of another account than the caller's. The others do not tell whether there is one.
pub(super) fn crosses(request: &Request) -> bool {
    use Request as R;
    matches!(
        request,
        R::DescribeKey(_)
            | R::Encrypt(_)
            | R::Decrypt(_)
            | R::ReEncrypt(_)
            | R::GenerateDataKey(_)
            | R::GenerateDataKeyWithoutPlaintext(_)
            | R::GenerateDataKeyPair(_)
            | R::GenerateDataKeyPairWithoutPlaintext(_)
            | R::Sign(_)
            | R::Verify(_)
            | R::GetPublicKey(_)
            | R::GenerateMac(_)
            | R::VerifyMac(_)
            | R::DeriveSharedSecret(_)
            | R::Encapsulate(_)
            | R::Decapsulate(_)
            | R::CreateGrant(_)
            | R::CreateTemporaryGrant(_)
            | R::ListGrants(_)
            | R::DescribeGrants(_)
            | R::RetireGrant(_)
            | R::RevokeGrant(_)
            | R::GetKeyRotationStatus(_)
    )
}

impl Kms {
    /// The permissions that `request` needs, on what it names.
    ///
    /// # Errors
    /// What it names does not exist: the error to reply with.
    pub(crate) fn needs<'a>(
        &'a self,
        request: &'a Request,
        at: &At,
        now: Now,
    ) -> Result<Needs<'a>, ApiError> {
        use Request as R;
        Ok(match request {
            R::CreateKey(r) => {
                let details = Details {
                    new_key: Some(NewKey {
                        spec: r.spec(),
                        usage: r.key_usage.unwrap_or(KeyUsage::EncryptDecrypt),
                        origin: r.origin.unwrap_or(kms_api::Origin::AwsKms),
                        multi_region: r.multi_region,
                        is_replica: false,
                    }),
                    request_tags: &r.tags,
                    bypass_lockout_check: Some(r.bypass_policy_lockout_safety_check),
                    ..Details::default()
                };
                let needs = Needs::with("kms:CreateKey", Resource::Any, details.clone());
                if r.tags.is_empty() {
                    needs
                } else {
                    needs.and("kms:TagResource", Resource::Any, details)
                }
            }
            // kmsfs's own key is made when somebody looks for it.
            R::DescribeKey(r) if self.wants_service_key(at, &r.key_id) => {
                Needs::with("kms:DescribeKey", Resource::Any, self.named(at, &r.key_id))
            }
            R::DescribeKey(r) => {
                let key = self.key_or_alias(at, &r.key_id)?;
                Needs::with(
                    "kms:DescribeKey",
                    Resource::Key(key),
                    self.named(at, &r.key_id),
                )
            }
            R::ListKeys(_) => Needs::any("kms:ListKeys"),
            R::GetParametersForImport(r) => {
                let details = Details {
                    wrapping_algorithm: Some(r.wrapping_algorithm.as_str()),
                    wrapping_key_spec: Some(r.wrapping_key_spec.as_str()),
                    ..Details::default()
                };
                let key = Resource::Key(self.key(at, &r.key_id)?);
                Needs::with("kms:GetParametersForImport", key, details)
            }
            R::ImportKeyMaterial(r) => {
                let model = r.expiration_model.unwrap_or(ExpirationModel::Expires);
                let details = Details {
                    expiration_model: Some(model.as_str()),
                    valid_to_ms: r.valid_to.map(Timestamp::millis),
                    ..Details::default()
                };
                let key = Resource::Key(self.key(at, &r.key_id)?);
                Needs::with("kms:ImportKeyMaterial", key, details)
            }
            R::DeleteImportedKeyMaterial(r) => {
                Needs::key("kms:DeleteImportedKeyMaterial", self.key(at, &r.key_id)?)
            }
            R::CreateCustomKeyStore(_) => Needs::any("kms:CreateCustomKeyStore"),
            R::ConnectCustomKeyStore(_) => Needs::any("kms:ConnectCustomKeyStore"),
            R::DisconnectCustomKeyStore(_) => Needs::any("kms:DisconnectCustomKeyStore"),
            R::DescribeCustomKeyStores(_) => Needs::any("kms:DescribeCustomKeyStores"),
            R::UpdateCustomKeyStore(_) => Needs::any("kms:UpdateCustomKeyStore"),
            R::DeleteCustomKeyStore(_) => Needs::any("kms:DeleteCustomKeyStore"),
            R::GetKeyLastUsage(r) => Needs::key("kms:GetKeyLastUsage", self.key(at, &r.key_id)?),
            R::ReplicateKey(r) => self.replicating(at, r)?,
            R::UpdatePrimaryRegion(r) => {
                let key = self.key(at, &r.key_id)?;
                // Whether there is one is nobody's affair who may not move the primary key.
                let next = self.next_primary(key, &r.primary_region).ok();
                let action = "kms:UpdatePrimaryRegion";
                let details = Details {
                    primary_region: Some(&r.primary_region),
                    ..Details::default()
                };
                let needs = Needs::with(action, Resource::Key(key), details.clone());
                match next.filter(|next| next.id != key.id) {
                    Some(next) => needs.and(action, Resource::Key(next), details),
                    None => needs,
                }
            }
            R::UpdateKeyDescription(r) => {
                Needs::key("kms:UpdateKeyDescription", self.key(at, &r.key_id)?)
            }
            R::ListAliases(r) => {
                if let Some(key) = &r.key_id {
                    self.key(at, key)?;
                }
                Needs::any("kms:ListAliases")
            }
            R::CreateAlias(r) => {
                crate::kms::check_alias_name(&r.alias_name)?;
                let key = self.target(at, &r.target_key_id)?;
                let alias = Resource::Alias(at.place, Cow::Borrowed(&r.alias_name));
                Needs::key("kms:CreateAlias", key).and("kms:CreateAlias", alias, Details::default())
            }
            R::UpdateAlias(r) => {
                let current = self.alias_target(at, &r.alias_name)?;
                let new = self.target(at, &r.target_key_id)?;
                let alias = Resource::Alias(at.place, Cow::Borrowed(&r.alias_name));
                let action = "kms:UpdateAlias";
                Needs::key(action, new)
                    .and(action, Resource::Key(current), Details::default())
                    .and(action, alias, Details::default())
            }
            R::DeleteAlias(r) => {
                let key = self.alias_target(at, &r.alias_name)?;
                let alias = Resource::Alias(at.place, Cow::Borrowed(&r.alias_name));
                Needs::key("kms:DeleteAlias", key).and("kms:DeleteAlias", alias, Details::default())
            }
            R::Encrypt(r) => {
                let details = Details {
                    encryption_context: Some(Cow::Borrowed(&r.encryption_context)),
                    encryption_algorithm: Some(algorithm(r.encryption_algorithm)),
                    ..self.named(at, &r.key_id)
                };
                Needs::with("kms:Encrypt", self.key_resource(at, &r.key_id)?, details)
            }
            R::Decrypt(r) => {
                let (resource, details) = self.opened(
                    at,
                    r.key_id.as_deref(),
                    r.ciphertext_blob.as_ref(),
                    &r.encryption_context,
                    r.encryption_algorithm,
                )?;
                Needs::with("kms:Decrypt", resource, details)
            }
            R::ReEncrypt(r) => {
                let to = self.key_or_alias(at, &r.destination_key_id)?;
                let (from, mut from_details) = self.opened(
                    at,
                    r.source_key_id.as_deref(),
                    r.ciphertext_blob.as_ref(),
                    &r.source_encryption_context,
                    r.source_encryption_algorithm,
                )?;
                let same = matches!(from, Resource::Key(key) if key.id == to.id);
                from_details.same_key = Some(same);
                let to_details = Details {
                    encryption_context: Some(Cow::Borrowed(&r.destination_encryption_context)),
                    encryption_algorithm: Some(algorithm(r.destination_encryption_algorithm)),
                    same_key: Some(same),
                    ..self.named(at, &r.destination_key_id)
                };
                Needs::with("kms:ReEncryptTo", Resource::Key(to), to_details).and(
                    "kms:ReEncryptFrom",
                    from,
                    from_details,
                )
            }
            R::GenerateDataKey(r) => {
                let details = self.data_key(at, &r.key_id, &r.encryption_context);
                Needs::with(
                    "kms:GenerateDataKey",
                    self.key_resource(at, &r.key_id)?,
                    details,
                )
            }
            R::GenerateDataKeyWithoutPlaintext(r) => {
                let details = self.data_key(at, &r.key_id, &r.encryption_context);
                let action = "kms:GenerateDataKeyWithoutPlaintext";
                Needs::with(action, self.key_resource(at, &r.key_id)?, details)
            }
            R::GenerateDataKeyPair(r) => {
                let details = Details {
                    data_key_pair_spec: Some(r.key_pair_spec.as_str()),
                    ..self.data_key(at, &r.key_id, &r.encryption_context)
                };
                let key = self.key_resource(at, &r.key_id)?;
                Needs::with("kms:GenerateDataKeyPair", key, details)
            }
            R::GenerateDataKeyPairWithoutPlaintext(r) => {
                let details = Details {
                    data_key_pair_spec: Some(r.key_pair_spec.as_str()),
                    ..self.data_key(at, &r.key_id, &r.encryption_context)
                };
                let action = "kms:GenerateDataKeyPairWithoutPlaintext";
                Needs::with(action, self.key_resource(at, &r.key_id)?, details)
            }
            R::Sign(r) => {
                let details = Details {
                    signing_algorithm: Some(r.signing_algorithm.as_str()),
                    message_type: Some(message_type(r.message_type)),
                    ..self.named(at, &r.key_id)
                };
                Needs::with("kms:Sign", self.key_resource(at, &r.key_id)?, details)
            }
            R::Verify(r) => {
                let details = Details {
                    signing_algorithm: Some(r.signing_algorithm.as_str()),
                    message_type: Some(message_type(r.message_type)),
                    ..self.named(at, &r.key_id)
                };
                Needs::with("kms:Verify", self.key_resource(at, &r.key_id)?, details)
            }
            R::GetPublicKey(r) => {
                let key = self.key_resource(at, &r.key_id)?;
                Needs::with("kms:GetPublicKey", key, self.named(at, &r.key_id))
            }
            R::GenerateMac(r) => {
                let details = Details {
                    mac_algorithm: Some(r.mac_algorithm.as_str()),
                    ..self.named(at, &r.key_id)
                };
                Needs::with(
                    "kms:GenerateMac",
                    self.key_resource(at, &r.key_id)?,
                    details,
                )
            }
            R::VerifyMac(r) => {
                let details = Details {
                    mac_algorithm: Some(r.mac_algorithm.as_str()),
                    ..self.named(at, &r.key_id)
                };
                Needs::with("kms:VerifyMac", self.key_resource(at, &r.key_id)?, details)
            }
            R::DeriveSharedSecret(r) => {
                let details = Details {
                    key_agreement_algorithm: Some(r.key_agreement_algorithm.as_str()),
                    ..self.named(at, &r.key_id)
                };
                let key = self.key_resource(at, &r.key_id)?;
                Needs::with("kms:DeriveSharedSecret", key, details)
            }
            R::Encapsulate(r) => {
                let key = self.key_resource(at, &r.key_id)?;
                Needs::with("kms:Encapsulate", key, self.named(at, &r.key_id))
            }
            R::Decapsulate(r) => {
                let key = self.key_resource(at, &r.key_id)?;
                Needs::with("kms:Decapsulate", key, self.named(at, &r.key_id))
            }
            R::GenerateRandom(_) => Needs::any("kms:GenerateRandom"),
            R::EnableKey(r) => Needs::key("kms:EnableKey", self.key(at, &r.key_id)?),
            R::DisableKey(r) => Needs::key("kms:DisableKey", self.key(at, &r.key_id)?),
            R::ScheduleKeyDeletion(r) => {
                let details = Details {
                    pending_window_days: Some(r.pending_window_in_days.unwrap_or(30)),
                    ..Details::default()
                };
                let key = Resource::Key(self.key(at, &r.key_id)?);
                Needs::with("kms:ScheduleKeyDeletion", key, details)
            }
            R::CancelKeyDeletion(r) => {
                Needs::key("kms:CancelKeyDeletion", self.key(at, &r.key_id)?)
            }
            R::RotateKeyOnDemand(r) => {
                Needs::key("kms:RotateKeyOnDemand", self.key(at, &r.key_id)?)
            }
            R::ListKeyRotations(r) => Needs::key("kms:ListKeyRotations", self.key(at, &r.key_id)?),
            R::GetKeyRotationStatus(r) => {
                Needs::key("kms:GetKeyRotationStatus", self.key(at, &r.key_id)?)
            }
            R::EnableKeyRotation(r) => {
                let details = Details {
                    rotation_period_days: Some(r.rotation_period_in_days.unwrap_or(365)),
                    ..Details::default()
                };
                let key = Resource::Key(self.key(at, &r.key_id)?);
                Needs::with("kms:EnableKeyRotation", key, details)
            }
            R::DisableKeyRotation(r) => {
                Needs::key("kms:DisableKeyRotation", self.key(at, &r.key_id)?)
            }
            R::CreateGrant(r) => self.granting(at, r)?,
            R::CreateTemporaryGrant(r) => self.granting(at, &r.grant)?,
            R::ListGrants(r) => Needs::key("kms:ListGrants", self.key(at, &r.key_id)?),
            R::DescribeGrants(r) => Needs::key("kms:ListGrants", self.key(at, &r.key_id)?),
            R::ListRetirableGrants(r) => {
                let action = "kms:ListRetirableGrants";
                match &r.retiring_principal {
                    Some(arn) => {
                        principal::check(arn, self.snapshot().home(), self.served())?;
                        Needs::with(action, Resource::Principal(arn), Details::default())
                    }
                    None => Needs::any(action),
                }
            }
            R::RetireGrant(r) => {
                let (key, grant) = self.retired(at, r, now)?;
                let resource = Resource::Grant(key, grant);
                Needs::with("kms:RetireGrant", resource, Details::default())
            }
            R::RevokeGrant(r) => Needs::key("kms:RevokeGrant", self.key(at, &r.key_id)?),
            R::CreateVolume(_) => Needs::any("kmsd:CreateVolume"),
            // Or with the first policy that asks for it.
            R::CreatePolicy(r) if self.wants_service_key(&At::home(self.snapshot()), &r.key_id) => {
                self.volume(r.volume_id)?;
                let details = Details {
                    new_key: Some(NewKey {
                        spec: KeySpec::SymmetricDefault,
                        usage: KeyUsage::EncryptDecrypt,
                        origin: kms_api::Origin::AwsKms,
                        multi_region: false,
                        is_replica: false,
                    }),
                    ..Details::default()
                };
                Needs::with("kms:CreateKey", Resource::Any, details).and(
                    "kmsd:CreatePolicy",
                    volume_resource(r.volume_id),
                    Details::default(),
                )
            }
            // Directories hang on keys of the home, whatever place the request is for.
            R::CreatePolicy(r) => {
                let at = &At::home(self.snapshot());
                self.volume(r.volume_id)?;
                let key = self.key_or_alias(at, &r.key_id)?;
                // The policy has no id yet, so conditions cannot ask for it.
                let context = registry_context(r.volume_id, None, 1);
                let details = Details {
                    encryption_context: Some(Cow::Owned(context)),
                    encryption_algorithm: Some(algorithm(None)),
                    ..self.named(at, &r.key_id)
                };
                Needs::with("kms:GenerateDataKey", Resource::Key(key), details).and(
                    "kmsd:CreatePolicy",
                    volume_resource(r.volume_id),
                    Details::default(),
                )
            }
            R::GetPolicy(r) => {
                let row = self.policy(r.volume_id, r.policy_id)?;
                let found = self.generation(row, r.generation)?;
                let key = self.key_by_id(found.key)?;
                let details = data_key_of(r.volume_id, r.policy_id, found.generation);
                // Who may open the data key has no use for it without what lies beside it.
                Needs::with("kms:Decrypt", Resource::Key(key), details).and(
                    "kmsd:GetPolicy",
                    Resource::Implied(format!("volume/{}", r.volume_id)),
                    Details::default(),
                )
            }
            R::UpdatePolicy(r) => {
                self.policy(r.volume_id, r.policy_id)?;
                Needs::with(
                    "kmsd:UpdatePolicy",
                    volume_resource(r.volume_id),
                    Details::default(),
                )
            }
            // Whoever may not open the tree may not hang it on something else either.
            R::RotatePolicy(r) => {
                let at = &At::home(self.snapshot());
                let row = self.policy(r.volume_id, r.policy_id)?;
                let from = self.key_by_id(row.key)?;
                let (to, named) = match &r.key_id {
                    Some(name) => (self.key_or_alias(at, name)?, self.named(at, name)),
                    None => (from, Details::default()),
                };
                let next = row.generation.saturating_add(1);
                let new = Details {
                    request_alias: named.request_alias,
                    ..data_key_of(r.volume_id, r.policy_id, next)
                };
                let old = data_key_of(r.volume_id, r.policy_id, row.generation);
                Needs::with("kms:GenerateDataKey", Resource::Key(to), new)
                    .and("kms:Decrypt", Resource::Key(from), old)
                    .and(
                        "kmsd:RotatePolicy",
                        volume_resource(r.volume_id),
                        Details::default(),
                    )
            }
            R::PutKeyPolicy(r) => {
                let details = Details {
                    policy_name: Some(r.policy_name.as_deref().unwrap_or(DEFAULT_POLICY_NAME)),
                    bypass_lockout_check: Some(r.bypass_policy_lockout_safety_check),
                    ..Details::default()
                };
                let key = Resource::Key(self.key(at, &r.key_id)?);
                Needs::with("kms:PutKeyPolicy", key, details)
            }
            R::GetKeyPolicy(r) => {
                let details = Details {
                    policy_name: Some(r.policy_name.as_deref().unwrap_or(DEFAULT_POLICY_NAME)),
                    ..Details::default()
                };
                let key = Resource::Key(self.key(at, &r.key_id)?);
                Needs::with("kms:GetKeyPolicy", key, details)
            }
            R::ListKeyPolicies(r) => Needs::key("kms:ListKeyPolicies", self.key(at, &r.key_id)?),
            R::TagResource(r) => {
                let details = Details {
                    request_tags: &r.tags,
                    ..Details::default()
                };
                let key = Resource::Key(self.key(at, &r.key_id)?);
                Needs::with("kms:TagResource", key, details)
            }
            R::UntagResource(r) => {
                let details = Details {
                    tag_keys: &r.tag_keys,
                    ..Details::default()
                };
                let key = Resource::Key(self.key(at, &r.key_id)?);
                Needs::with("kms:UntagResource", key, details)
            }
            R::ListResourceTags(r) => Needs::key("kms:ListResourceTags", self.key(at, &r.key_id)?),
            R::PutIdentityPolicy(r) => Needs::with(
                "kmsd:PutIdentityPolicy",
                Resource::Identity(
                    at.place,
                    identity_resource(r.identity_type, &r.identity, &r.policy_name),
                ),
                Details::default(),
            ),
            R::GetIdentityPolicy(r) => Needs::with(
                "kmsd:GetIdentityPolicy",
                Resource::Identity(
                    at.place,
                    identity_resource(r.identity_type, &r.identity, &r.policy_name),
                ),
                Details::default(),
            ),
            R::ListIdentityPolicies(_) => Needs::with(
                "kmsd:ListIdentityPolicies",
                Resource::Identities,
                Details::default(),
            ),
            R::DeleteIdentityPolicy(r) => Needs::with(
                "kmsd:DeleteIdentityPolicy",
                Resource::Identity(
                    at.place,
                    identity_resource(r.identity_type, &r.identity, &r.policy_name),
                ),
                Details::default(),
            ),
            R::PutGuardRail(r) => {
                Needs::local("kmsd:PutGuardRail", guard_rail_resource(&r.guard_rail_name))
            }
            R::GetGuardRail(r) => {
                Needs::local("kmsd:GetGuardRail", guard_rail_resource(&r.guard_rail_name))
            }
            R::ListGuardRails(_) => Needs::any("kmsd:ListGuardRails"),
            R::DeleteGuardRail(r) => Needs::local(
                "kmsd:DeleteGuardRail",
                guard_rail_resource(&r.guard_rail_name),
            ),
            R::CreateAccessKey(r) => {
                let principal = Resource::Given(&r.principal_arn);
                Needs::with("kmsd:CreateAccessKey", principal, Details::default())
            }
            R::ListAccessKeys(_) => Needs::any("kmsd:ListAccessKeys"),
            R::UpdateAccessKey(r) => Needs::local(
                "kmsd:UpdateAccessKey",
                access_key_resource(&r.access_key_id),
            ),
            R::DeleteAccessKey(r) => Needs::local(
                "kmsd:DeleteAccessKey",
                access_key_resource(&r.access_key_id),
            ),
            R::SimulatePrincipalPolicy(r) => {
                if let Some(key) = &r.key_id {
                    self.key_or_alias(at, key)?;
                }
                Needs::any("kmsd:SimulatePrincipalPolicy")
            }
            R::WhoCan(r) => {
                self.key_or_alias(at, &r.key_id)?;
                Needs::any("kmsd:WhoCan")
            }
            R::DescribeVolume(r) => {
                Needs::local("kmsd:DescribeVolume", format!("volume/{}", r.volume_id))
            }
            R::ReportPolicyUse(r) => {
                self.policy(r.volume_id, r.policy_id)?;
                Needs::local("kmsd:ReportPolicyUse", format!("volume/{}", r.volume_id))
            }
            // A service says it of whoever came, allowed or not; who mounts for himself may use the key.
            R::RecordFileAccess(_) if at.for_user => {
                Needs::with("kmsd:RecordFileAccess", Resource::Own, Details::default())
            }
            R::RecordFileAccess(r) => {
                let row = self.policy(r.volume_id, r.policy_id)?;
                let key = self.key_by_id(row.key)?;
                let details = data_key_of(r.volume_id, r.policy_id, row.generation);
                Needs::with("kms:Decrypt", Resource::Key(key), details).and(
                    "kmsd:RecordFileAccess",
                    Resource::Implied(format!("volume/{}", r.volume_id)),
                    Details::default(),
                )
            }
            // As much is lost as with the key.
            R::DestroyPolicy(r) => {
                self.destroying("kmsd:DestroyPolicy", r.volume_id, r.policy_id)?
            }
            R::DestroyPolicyGenerations(r) => {
                self.destroying("kmsd:DestroyPolicyGenerations", r.volume_id, r.policy_id)?
            }
            R::ListTombstones(_) => Needs::local("kmsd:ListTombstones", "store".to_owned()),
            R::BackupStore(_) => Needs::local("kmsd:BackupStore", "store".to_owned()),
            R::ListVolumes(_) => Needs::any("kmsd:ListVolumes"),
            R::GetAuditHead(_) => Needs::local("kmsd:GetAuditHead", "audit".to_owned()),
            R::CreateCheckpoint(_) => Needs::local("kmsd:CreateCheckpoint", "audit".to_owned()),
            R::WaitForEvents(_) => Needs::local("kmsd:WaitForEvents", "audit".to_owned()),
            R::LookupEvents(_) => Needs::local("kmsd:LookupEvents", "audit".to_owned()),
            R::GetStatus(_) => Needs::any("kmsd:GetStatus"),
            R::ReloadPolicies(_) => Needs::any("kmsd:ReloadPolicies"),
            R::GetCallerIdentity(_) => {
                Needs::with("kmsd:GetCallerIdentity", Resource::Own, Details::default())
            }
            // The handlers let services only use leases, and each only its own.
            R::AcquireLease(_) => Needs::local("kmsd:AcquireLease", "lease/*".to_owned()),
            R::WaitForEpoch(r) => {
                Needs::local("kmsd:WaitForEpoch", format!("lease/{}", r.lease_id))
            }
            R::AcknowledgeEpoch(r) => {
                Needs::local("kmsd:AcknowledgeEpoch", format!("lease/{}", r.lease_id))
            }
            R::ReleaseLease(r) => {
                Needs::local("kmsd:ReleaseLease", format!("lease/{}", r.lease_id))
            }
            R::ListLeases(_) => Needs::local("kmsd:ListLeases", "lease/*".to_owned()),
            // The handlers look who is the requester, an approver or an administrator.
            R::ListApprovals(_) => {
                Needs::with("kmsd:ListApprovals", Resource::Own, Details::default())
            }
            R::DescribeApproval(_) => {
                Needs::with("kmsd:DescribeApproval", Resource::Own, Details::default())
            }
            R::ApproveRequest(_) => {
                Needs::with("kmsd:ApproveRequest", Resource::Own, Details::default())
            }
            R::CancelApproval(_) => {
                Needs::with("kmsd:CancelApproval", Resource::Own, Details::default())
            }
        })
    }

    /// What ReplicateKey needs: the permission on the primary key, and to make a key in the other Region.
    fn replicating<'a>(
        &'a self,
        at: &At,
        request: &'a kms_api::ReplicateKeyRequest,
    ) -> Result<Needs<'a>, ApiError> {
        let key = self.key(at, &request.key_id)?;
        let details = Details {
            replica_region: Some(&request.replica_region),
            bypass_lockout_check: Some(request.bypass_policy_lockout_safety_check),
            request_tags: &request.tags,
            ..Details::default()
        };
        let made = Details {
            new_key: Some(NewKey {
                spec: key.spec,
                usage: key.usage,
                origin: crate::kms::wire_origin(key.origin),
                multi_region: true,
                is_replica: true,
            }),
            requested_region: Some(&request.replica_region),
            ..details.clone()
        };
        let needs = Needs::with("kms:ReplicateKey", Resource::Key(key), details).and(
            "kms:CreateKey",
            Resource::Any,
            made.clone(),
        );
        Ok(match request.tags.is_empty() {
            true => needs,
            false => needs.and("kms:TagResource", Resource::Any, made),
        })
    }

    fn granting<'a>(
        &'a self,
        at: &At,
        request: &'a CreateGrantRequest,
    ) -> Result<Needs<'a>, ApiError> {
        let pairs = request.constraints.as_ref().and_then(|constraints| {
            constraints
                .encryption_context_equals
                .as_ref()
                .or(constraints.encryption_context_subset.as_ref())
        });
        let details = Details {
            encryption_context: pairs.map(Cow::Borrowed),
            grant: Some(request),
            ..Details::default()
        };
        let key = Resource::Key(self.key(at, &request.key_id)?);
        Ok(Needs::with("kms:CreateGrant", key, details))
    }

    fn destroying<'a>(
        &'a self,
        action: &'static str,
        volume: ResourceId,
        policy: ResourceId,
    ) -> Result<Needs<'a>, ApiError> {
        let row = self.policy(volume, policy)?;
        let key = self.key_by_id(row.key)?;
        Ok(Needs::key("kms:ScheduleKeyDeletion", key).and(
            action,
            volume_resource(volume),
            Details::default(),
        ))
    }

    fn key_resource(&self, at: &At, text: &str) -> Result<Resource<'_>, ApiError> {
        self.key_or_alias(at, text).map(|key| Resource::Key(key))
    }

    /// Details of a request that names its key as `text`.
    fn named<'a>(&self, at: &At, text: &str) -> Details<'a> {
        Details {
            request_alias: names_alias(text)
                .then(|| self.alias_named(at, text))
                .flatten(),
            ..Details::default()
        }
    }

    /// The alias that `text` names.
    pub(crate) fn alias_named<'a>(&self, at: &At, text: &str) -> Option<Cow<'a, str>> {
        match KeyReference::parse(text, at, |scope| self.snapshot().known_place(scope)) {
            Ok(KeyReference::Alias(_, name)) => Some(Cow::Owned(name)),
            Ok(KeyReference::Key(_)) | Err(_) => None,
        }
    }

    fn data_key<'a>(
        &self,
        at: &At,
        key: &str,
        context: &'a BTreeMap<String, String>,
    ) -> Details<'a> {
        Details {
            encryption_context: Some(Cow::Borrowed(context)),
            encryption_algorithm: Some(algorithm(None)),
            ..self.named(at, key)
        }
    }

    /// The key that a ciphertext is to be opened under: the one that is named, else the one that the ciphertext names.
    fn opened<'a>(
        &'a self,
        at: &At,
        named: Option<&str>,
        blob: Option<&kms_api::Blob>,
        context: &'a BTreeMap<String, String>,
        chosen: Option<EncryptionAlgorithm>,
    ) -> Result<(Resource<'a>, Details<'a>), ApiError> {
        let (key, mut details) = match named {
            Some(text) => (self.key_or_alias(at, text)?, self.named(at, text)),
            // A ciphertext of an asymmetric key does not name it.
            None if chosen
                .is_some_and(|chosen| chosen != EncryptionAlgorithm::SymmetricDefault) =>
            {
                return Err(crate::kms::null_key_id());
            }
            None => {
                let details = Details {
                    from_ciphertext: true,
                    ..Details::default()
                };
                (self.key_of_blob(at, blob)?, details)
            }
        };
        details.encryption_context = Some(Cow::Borrowed(context));
        details.encryption_algorithm = Some(algorithm(chosen));
        Ok((Resource::Key(key), details))
    }

    fn key_of_blob(&self, at: &At, blob: Option<&kms_api::Blob>) -> Result<&Arc<KeyRow>, ApiError> {
        // Only a dry run that ignores the ciphertext has none, and that must name its key.
        let Some(blob) = blob else {
            return Err(crate::kms::null_key_id());
        };
        let (header, ..) = Header::decode(blob.as_slice())
            .ok_or_else(|| ApiError::bare(kms_api::ErrorCode::InvalidCiphertext))?;
        self.key_of_header(at, &header)
    }
}

fn identity_resource(kind: IdentityType, identity: &str, name: &str) -> String {
    let kind = identity_kind(kind);
    format!("identity-policy/{}/{identity}/{name}", kind.as_str())
}

fn access_key_resource(id: &str) -> String {
    format!("access-key/{id}")
}

pub(crate) fn guard_rail_resource(name: &str) -> String {
    format!("guard-rail/{name}")
}

/// The kind of identity that the wire names.
pub(crate) fn identity_kind(kind: IdentityType) -> IdentityKind {
    match kind {
        IdentityType::User => IdentityKind::User,
        IdentityType::Group => IdentityKind::Group,
        IdentityType::Unit => IdentityKind::Unit,
        IdentityType::Role => IdentityKind::Role,
    }
}

fn volume_resource<'a>(volume: ResourceId) -> Resource<'a> {
    Resource::Local(format!("volume/{volume}"))
}

/// The name in kmsfs's encryption context of the volume that it acts for.
pub(super) const VOLUME: &str = "kmsfs:volume";

/// The encryption context under which kmsfs keeps the data key of a policy (docs/FORMAT.md).
/// What is asked about the data key of one generation of a policy.
fn data_key_of(volume: ResourceId, policy: ResourceId, generation: u32) -> Details<'static> {
    let context = registry_context(volume, Some(policy), generation);
    Details {
        encryption_context: Some(Cow::Owned(context)),
        encryption_algorithm: Some(algorithm(None)),
        ..Details::default()
    }
}

fn registry_context(
    volume: ResourceId,
    policy: Option<ResourceId>,
    generation: u32,
) -> BTreeMap<String, String> {
    let mut context = BTreeMap::from([
        (VOLUME.to_owned(), volume.to_string()),
        ("kmsfs:generation".to_owned(), generation.to_string()),
    ]);
    if let Some(policy) = policy {
        context.insert("kmsfs:policy".to_owned(), policy.to_string());
    }
    context
}

/// Whether a text is meant as an alias.
pub(crate) fn names_alias(text: &str) -> bool {
    text.starts_with("alias/") || text.contains(":alias/")
}

fn algorithm(chosen: Option<EncryptionAlgorithm>) -> &'static str {
    chosen
        .unwrap_or(EncryptionAlgorithm::SymmetricDefault)
        .as_str()
}

/// The kind of message, also where it is the default.
fn message_type(chosen: Option<MessageType>) -> &'static str {
    chosen.unwrap_or(MessageType::Raw).as_str()
}
