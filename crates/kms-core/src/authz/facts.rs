//! What conditions can ask about a request.

use std::cell::OnceCell;
use std::collections::BTreeMap;

use kms_api::{Caller, CallerRole, CreateGrantRequest, GrantConstraints, MultiRegionKeyType};

use super::table::{Details, VOLUME};
use crate::clock::Now;
use crate::kms::key_type;
use crate::last_use::LastUse;
use crate::policy::{CallerNames, ConditionKey as K, Context, Value, Values};
use crate::rows::{KeyRow, Origin};
use crate::snapshot::Snapshot;

/// Aliases beyond which `kms:ResourceAliases` has no value, as on AWS.
const MAX_RESOURCE_ALIASES: usize = 50;

/// A request as conditions see it.
pub(crate) struct Facts<'a> {
    pub(crate) caller: &'a Caller,
    pub(crate) action: &'a str,
    pub(crate) key: Option<&'a KeyRow>,
    pub(crate) details: &'a Details<'a>,
    pub(crate) snapshot: &'a Snapshot,
    pub(crate) last_use: &'a LastUse,
    pub(crate) boot_id: Option<&'a str>,
    pub(crate) now: Now,
    /// For a key policy: it cannot ask which aliases the key has.
    pub(crate) in_key_policy: bool,
    /// What the principals of units begin with, once it is asked for.
    pub(crate) units: OnceCell<[String; 2]>,
}

impl Context for Facts<'_> {
    fn get(&self, key: K<'_>) -> Values<'_> {
        let details = self.details;
        let caller = self.caller;
        match key {
            K::CallerAccount | K::PrincipalAccount => account(&caller.arn).into(),
            K::ViaService => Values::optional(caller.via.as_ref().map(|via| &*via.service)),
            K::EncryptionContextKeys => match &details.encryption_context {
                Some(context) if !context.is_empty() => many(context.keys()),
                _ => Values::Absent,
            },
            K::EncryptionContext(name) => match &details.encryption_context {
                Some(context) => without_case(context.iter(), name),
                None => Values::Absent,
            },
            K::EncryptionAlgorithm => Values::optional(details.encryption_algorithm),
            K::KeySpec | K::CustomerMasterKeySpec => {
                let spec = self
                    .key
                    .map_or("SYMMETRIC_DEFAULT", |key| key.spec.as_str());
                self.key_fact(spec, |new| Value::from(new.spec.as_str()))
            }
            K::KeyUsage | K::CustomerMasterKeyUsage => {
                let usage = self.key.map_or("ENCRYPT_DECRYPT", |key| key.usage.as_str());
                self.key_fact(usage, |new| Value::from(new.usage.as_str()))
            }
            K::KeyOrigin => {
                let origin = match self.key.map(|key| key.origin) {
                    Some(Origin::External) => "EXTERNAL",
                    Some(Origin::AwsKms) | None => "AWS_KMS",
                };
                self.key_fact(origin, |new| Value::from(new.origin.as_str()))
            }
            K::MultiRegion => {
                let multi_region = self.key.is_some_and(|key| key.multi_region.is_some());
                self.key_fact(multi_region, |new| Value::from(new.multi_region))
            }
            K::MultiRegionKeyType => match (&details.new_key, self.key) {
                (Some(new), _) => {
                    Values::optional(new.multi_region.then_some(match new.is_replica {
                        true => "REPLICA",
                        false => "PRIMARY",
                    }))
                }
                (None, Some(key)) => {
                    let scope = self.snapshot.scope_of(key.id.place());
                    Values::optional(key_type(&scope, key).map(MultiRegionKeyType::as_str))
                }
                (None, None) => Values::Absent,
            },
            K::PrimaryRegion => Values::optional(details.primary_region),
            K::ReplicaRegion => Values::optional(details.replica_region),
            K::RequestAlias => Values::optional(details.request_alias.as_deref()),
            K::ResourceAliases => self.resource_aliases(),
            K::GrantOperations => match details.grant {
                Some(grant) => {
                    let names = grant.operations.iter().map(|operation| operation.as_str());
                    Values::Many(names.map(Value::from).collect())
                }
                None => Values::Absent,
            },
            K::GranteePrincipal => self.grant(|grant| grant.grantee_principal.as_deref()),
            K::RetiringPrincipal => self.grant(|grant| grant.retiring_principal.as_deref()),
            K::GranteeServicePrincipal => {
                self.grant(|grant| grant.grantee_service_principal.as_deref())
            }
            K::RetiringServicePrincipal => {
                self.grant(|grant| grant.retiring_service_principal.as_deref())
            }
            K::GrantConstraintType => self.constraint(|constraints| {
                match (
                    &constraints.encryption_context_equals,
                    &constraints.encryption_context_subset,
                ) {
                    (Some(_), _) => Some("EncryptionContextEquals"),
                    (None, Some(_)) => Some("EncryptionContextSubset"),
                    (None, None) => None,
                }
            }),
            K::GrantConstraintSourceArn => {
                self.constraint(|constraints| constraints.source_arn.as_deref())
            }
            // A service that works for a user makes and removes grants of its own.
            K::GrantIsForAwsResource => match (self.action, &caller.via) {
                ("kms:CreateGrant" | "kms:ListGrants" | "kms:RevokeGrant", Some(_)) => true.into(),
                _ => Values::Absent,
            },
            K::ReEncryptOnSameKey => Values::optional(details.same_key),
            K::BypassPolicyLockoutSafetyCheck => Values::optional(details.bypass_lockout_check),
            K::RotationPeriodInDays => Values::optional(details.rotation_period_days),
            K::ScheduleKeyDeletionPendingWindowInDays => {
                Values::optional(details.pending_window_days)
            }
            K::TrailingDaysWithoutKeyUsage => match (self.action, self.key) {
                ("kms:ScheduleKeyDeletion" | "kms:DisableKey", Some(key)) => {
                    let now = self.now.wall_ms;
                    // Not known while the audit log is being read after a start.
                    match self.last_use.days_without(key.id, key.created_ms, now) {
                        Some(days) => days.into(),
                        None => Values::Unknown,
                    }
                }
                _ => Values::Absent,
            },
            K::PolicyName => Values::optional(details.policy_name),
            K::ExpirationModel => Values::optional(details.expiration_model),
            K::ValidTo => match details.valid_to_ms {
                Some(ms) => Values::One(Value::Time(ms)),
                None => Values::Absent,
            },
            K::WrappingAlgorithm => Values::optional(details.wrapping_algorithm),
            K::WrappingKeySpec => Values::optional(details.wrapping_key_spec),

            // Whole seconds, as times are written.
            K::CurrentTime => Values::One(Value::Time(self.now.wall_ms.div_euclid(1000) * 1000)),
            K::EpochTime => self.now.wall_ms.div_euclid(1000).into(),
            K::PrincipalArn => Values::Names(self.names()),
            K::PrincipalType => principal_type(caller).into(),
            K::PrincipalIsAwsService => false.into(),
            K::UserName => match caller.role {
                CallerRole::Root => Values::Absent,
                // A session of a role has no user.
                _ if caller.network.is_some() && caller.arn.contains(":assumed-role/") => {
                    Values::Absent
                }
                _ => (&*caller.user_name).into(),
            },
            K::UserId => match &caller.network {
                Some(network) => (&*network.access_key_id).into(),
                None => caller.uid.to_string().into_one(),
            },
            K::SourceArn => self.source_arn().map_or(Values::Absent, IntoOne::into_one),
            K::SourceAccount => match self.source_arn() {
                Some(_) => self.snapshot.meta.scope.account.as_str().into(),
                None => Values::Absent,
            },
            // On a socket of this host nobody listens in, and there is no address.
            K::SecureTransport => caller
                .network
                .as_ref()
                .is_none_or(|network| network.tls)
                .into(),
            K::SourceIp => match &caller.network {
                Some(network) => network.address.into(),
                None => Values::Absent,
            },
            K::TagKeys => self.tag_keys(),
            K::RequestTag(name) => without_case(
                details
                    .request_tags
                    .iter()
                    .map(|tag| (&tag.tag_key, &tag.tag_value)),
                name,
            ),
            K::ResourceTag(name) => match self.key {
                Some(key) => without_case(key.tags.iter().map(|(k, v)| (k, v)), name),
                None => Values::Absent,
            },
            // What is on no key belongs to the caller's account.
            K::ResourceAccount => match self.key {
                Some(key) => {
                    let scope = self.snapshot.scope_of(key.id.place());
                    scope.account.clone().into_one()
                }
                None => account(&caller.arn).into(),
            },
            K::RequestedRegion if details.requested_region.is_some() => {
                Values::optional(details.requested_region)
            }
            K::RequestedRegion => {
                let asked = caller
                    .scope
                    .as_ref()
                    .unwrap_or_else(|| self.snapshot.home());
                asked.region.as_str().into()
            }
            K::ViaAwsService => caller.via.is_some().into(),
            K::CalledVia => match &caller.via {
                Some(via) => Values::Many(vec![Value::from(&*via.service)]),
                None => Values::Absent,
            },
            K::CalledViaFirst | K::CalledViaLast => {
                Values::optional(caller.via.as_ref().map(|via| &*via.service))
            }

            K::User => Values::optional(caller.login.as_deref()),
            K::Uid => match caller.local_ids() {
                Some((uid, ..)) => uid.into(),
                None => Values::Absent,
            },
            K::Gid => match caller.local_ids() {
                Some((_, gid, _)) => gid.into(),
                None => Values::Absent,
            },
            K::Groups => match caller.group_names.is_empty() {
                true => Values::Absent,
                false => Values::Texts(&caller.group_names),
            },
            K::GroupIds => match caller.groups.is_empty() {
                true => Values::Absent,
                false => Values::Many(caller.groups.iter().map(|gid| Value::from(*gid)).collect()),
            },
            K::Unit => self.process(|facts| Values::optional(facts.unit.as_deref())),
            K::Cgroup => self.process(|facts| Values::known(facts.cgroup.as_deref())),
            K::InvocationId => {
                self.process(|facts| Values::optional(facts.invocation_id.as_deref()))
            }
            K::Exe => self.process(|facts| Values::known(facts.exe.as_deref())),
            K::ExeSha256 => self.process(|facts| Values::known(facts.exe_sha256.as_deref())),
            K::SecurityLabel => {
                self.process(|facts| Values::optional(facts.security_label.as_deref()))
            }
            K::BootId => Values::known(self.boot_id),

            K::SigningAlgorithm => Values::optional(details.signing_algorithm),
            K::MessageType => Values::optional(details.message_type),
            K::MacAlgorithm => Values::optional(details.mac_algorithm),
            K::KeyAgreementAlgorithm => Values::optional(details.key_agreement_algorithm),
            K::DataKeyPairSpec => Values::optional(details.data_key_pair_spec),

            // Operations that have these do not exist here yet, or no request has them.
            K::RecipientAttestation(_) | K::PrincipalTag(_) | K::Elsewhere(_) => Values::Absent,
        }
    }
}

impl<'a> Facts<'a> {
    /// A fact of the key, or of the one that is to be made.
    fn key_fact(
        &self,
        existing: impl Into<Value<'a>>,
        new: impl FnOnce(&super::table::NewKey) -> Value<'a>,
    ) -> Values<'a> {
        match (&self.details.new_key, self.key) {
            (Some(made), _) => Values::One(new(made)),
            (None, Some(_)) => Values::One(existing.into()),
            (None, None) => Values::Absent,
        }
    }

    fn grant(&self, fact: impl FnOnce(&'a CreateGrantRequest) -> Option<&'a str>) -> Values<'a> {
        Values::optional(self.details.grant.and_then(fact))
    }

    fn constraint(&self, fact: impl FnOnce(&'a GrantConstraints) -> Option<&'a str>) -> Values<'a> {
        self.grant(|grant| grant.constraints.as_ref().and_then(fact))
    }

    /// What the caller is called. One whose unit is not known may be called like any unit.
    fn names(&self) -> CallerNames<'_> {
        let beginnings = match known_unit(self.caller) {
            Some(_) => &[][..],
            None => self.units.get_or_init(|| {
                let account = account(&self.caller.arn);
                [
                    format!("arn:aws:sts::{account}:assumed-role/unit/"),
                    format!("arn:aws:iam::{account}:role/unit/"),
                ]
            }),
        };
        CallerNames {
            known: &self.caller.principals,
            possible: &self.caller.possible_principals,
            beginnings,
        }
    }

    /// A fact of the caller's process, which nobody may have vouched for.
    fn process(&self, fact: impl FnOnce(&'a kms_api::ProcessFacts) -> Values<'a>) -> Values<'a> {
        match &self.caller.process {
            Some(facts) if facts.checked => fact(facts),
            // It runs on another host, or nobody knows where.
            None if self.caller.network.is_some() => Values::Absent,
            Some(_) | None => Values::Unknown,
        }
    }

    fn resource_aliases(&self) -> Values<'a> {
        let Some(key) = self.key.filter(|_| !self.in_key_policy) else {
            return Values::Absent;
        };
        match self.snapshot.names.get(&key.id) {
            Some(names) if names.len() <= MAX_RESOURCE_ALIASES => many(names.iter()),
            _ => Values::Absent,
        }
    }

    /// What a service acts on behalf of: the volume that its encryption context names. Only a service is believed.
    pub(super) fn source_arn(&self) -> Option<String> {
        if self.caller.role != CallerRole::Service && self.caller.via.is_none() {
            return None;
        }
        let volume = self.details.encryption_context.as_ref()?.get(VOLUME)?;
        let scope = &self.snapshot.meta.scope;
        Some(scope.local_arn(&format!("volume/{volume}")))
    }

    fn tag_keys(&self) -> Values<'a> {
        let details = self.details;
        if details.request_tags.is_empty() && details.tag_keys.is_empty() {
            return Values::Absent;
        }
        let given = details.request_tags.iter().map(|tag| &tag.tag_key);
        many(given.chain(details.tag_keys))
    }
}

trait IntoOne<'a> {
    fn into_one(self) -> Values<'a>;
}

impl<'a> IntoOne<'a> for String {
    fn into_one(self) -> Values<'a> {
        Values::One(self.into())
    }
}

fn many<'a, T: AsRef<str> + ?Sized + 'a>(texts: impl Iterator<Item = &'a T>) -> Values<'a> {
    Values::Many(texts.map(|text| Value::from(text.as_ref())).collect())
}

/// The value of `name`, whatever its case. Two that differ in case only are no value that can be relied on.
fn without_case<'a>(
    pairs: impl Iterator<Item = (&'a String, &'a String)>,
    name: &str,
) -> Values<'a> {
    let mut found = pairs.filter(|(key, _)| key.eq_ignore_ascii_case(name));
    match (found.next(), found.next()) {
        (None, _) => Values::Absent,
        (Some((_, value)), None) => value.as_str().into(),
        (Some(_), Some(_)) => Values::Unknown,
    }
}

/// The caller's unit, if it is known: none inside for a caller that is in no unit.
pub(super) fn known_unit(caller: &Caller) -> Option<Option<&str>> {
    if caller.network.is_some() {
        return Some(None);
    }
    let facts = caller.process.as_deref().filter(|facts| facts.checked)?;
    Some(facts.unit.as_deref())
}

/// The account in an ARN.
pub(crate) fn account(arn: &str) -> &str {
    arn.split(':').nth(4).unwrap_or_default()
}

fn principal_type(caller: &Caller) -> &'static str {
    match (caller.role, caller.arn.contains(":assumed-role/")) {
        (CallerRole::Root, _) => "Account",
        (_, true) => "AssumedRole",
        (_, false) => "User",
    }
}

/// No encryption context.
pub(crate) static NO_CONTEXT: BTreeMap<String, String> = BTreeMap::new();
