//! SimulatePrincipalPolicy: what would be decided, by the code that decides.

use std::sync::Arc;

use kms_api::{
    ApiError, Caller, CallerRole, Decision, ProcessFacts, Response, SimulatePrincipalPolicyRequest,
    SimulatePrincipalPolicyResponse, Via,
};

use super::mapped::{self, Described};
use super::{Kms, Outcome, World, reply};
use crate::authz::{Authorized, DenyBasis, Details, Permission, Question, Resource, names_alias};
use crate::grants::principal;
use crate::policy::known_actions;
use crate::rows::KeyRow;
use crate::specs;
use std::borrow::Cow;

/// A user id for principals that have none.
const NO_UID: u32 = u32::MAX;

impl Kms {
    pub(super) fn simulate(
        &self,
        auth: &Authorized,
        request: &SimulatePrincipalPolicyRequest,
        world: &World<'_>,
    ) -> Result<Outcome, ApiError> {
        let action = known_action(&request.action)?;
        let resource = match (&request.key_id, &request.resource_arn) {
            (Some(_), Some(_)) => {
                return Err(ApiError::validation(
                    "KeyId and ResourceArn cannot be given together.",
                ));
            }
            (Some(key), None) => Resource::Key(self.key_or_alias(auth, key)?),
            // It comes with kms:Decrypt.
            (None, Some(arn)) if action == "kmsd:GetPolicy" => {
                let last = arn.splitn(6, ':').last().unwrap_or_default();
                Resource::Implied(last.to_owned())
            }
            (None, Some(arn)) if action == "kms:ListRetirableGrants" => {
                principal::check(arn, self.snapshot.home(), self.served())?;
                Resource::Principal(arn)
            }
            (None, Some(arn)) => Resource::Given(arn),
            (None, None) => Resource::Any,
        };
        let alias = request.key_id.as_deref().filter(|text| names_alias(text));
        let details = match &resource {
            Resource::Key(key) => usual_details(&action, key),
            _ => Details {
                encryption_algorithm: Some("SYMMETRIC_DEFAULT"),
                ..Details::default()
            },
        };
        let permission = Permission {
            action: &action,
            resource,
            details: Details {
                encryption_context: Some(Cow::Borrowed(&request.encryption_context)),
                request_alias: alias.and_then(|text| self.alias_named(&auth.at, text)),
                ..details
            },
        };
        let caller = self.described(request)?;
        let mut matched_statements = Vec::new();
        let question = Question {
            caller: &caller,
            permission: &permission,
            key_policy: None,
            now: world.now,
        };
        let decided = self.decide(&question, Some(&mut matched_statements));
        let resource = self.resource_arn(&permission.resource).into_owned();
        let (decision, decided_by, reason) = match &decided {
            Ok(basis) => (
                Decision::Allowed,
                basis.to_string(),
                format!(
                    "User: {} is authorized to perform: {action} on resource: {resource}",
                    caller.arn
                ),
            ),
            Err(denied) => {
                let error = self.refusal(&caller, &permission, denied);
                let decision = match denied {
                    DenyBasis::NoKeyPolicy
                    | DenyBasis::NoIdentityPolicy
                    | DenyBasis::OutsideGuardRail { .. } => Decision::ImplicitDeny,
                    _ => Decision::ExplicitDeny,
                };
                let text = error.message.unwrap_or_default();
                (decision, denied.to_string(), text)
            }
        };
        Ok(reply(Response::SimulatePrincipalPolicy(
            SimulatePrincipalPolicyResponse {
                decision,
                decided_by,
                reason,
                principals: caller.principals.iter().map(ToString::to_string).collect(),
                action: action.into_owned(),
                resource,
                matched_statements,
            },
        )))
    }

    /// The caller that a simulation is about.
    fn described(&self, request: &SimulatePrincipalPolicyRequest) -> Result<Caller, ApiError> {
        let account = &self.snapshot.meta.scope.account;
        let given = &request.principal;
        let iam = format!("arn:aws:iam::{account}:");
        let short = given
            .strip_prefix(&iam)
            .map_or_else(|| given.clone(), |resource| resource.replacen('/', ":", 1));
        let role = |role: CallerRole| match self.roles.admits(&request.groups) {
            true => CallerRole::Admin,
            false => role,
        };
        let mut unit = request.unit.clone();
        let mut service = None;
        let mut caller = match short.split_once(':') {
            _ if short == "root" => Caller::new(CallerRole::Root, 0, format!("{iam}root")),
            Some(("user", name)) if !name.is_empty() => {
                let services = &self.roles.services;
                service = services.iter().find(|(user, _)| user == name);
                // For whom another service asks is a user.
                service = service.filter(|_| request.via_service.is_none());
                let role = match service {
                    Some(_) => CallerRole::Service,
                    None => role(CallerRole::User),
                };
                let mut caller = Caller::new(role, NO_UID, format!("{iam}user/{name}"));
                caller.login = Some(Arc::clone(&caller.user_name));
                caller
            }
            // The role of a unit is what a mapping rule would not give.
            Some(("role", name)) if !name.is_empty() => match name.strip_prefix("unit/") {
                Some(name) => {
                    unit.get_or_insert_with(|| name.to_owned());
                    nobody(format!("arn:aws:sts::{account}:assumed-role/unit/{name}"))
                }
                None => {
                    let mut caller = nobody(format!("{iam}role/{name}"));
                    caller.roles = Arc::new([Arc::from(name)]);
                    caller
                }
            },
            Some(("unit", name)) if !name.is_empty() => {
                unit.get_or_insert_with(|| name.to_owned());
                nobody(format!("arn:aws:sts::{account}:assumed-role/unit/{name}"))
            }
            Some(("group", name)) if !name.is_empty() => {
                let mut caller = nobody(format!("{iam}group/{name}"));
                caller.group_names = Arc::new([Arc::from(name)]);
                if self.roles.admits(&[name.to_owned()]) {
                    caller.role = CallerRole::Admin;
                }
                caller
            }
            Some(("arn", _)) => nobody(given.clone()),
            _ => {
                return Err(ApiError::validation(format!(
                    "'{given}' is not a principal: give an ARN, root, user:NAME, group:NAME, unit:NAME or role:NAME."
                )));
            }
        };
        let mut principals = caller.principals.to_vec();
        if let Some(unit) = &unit {
            for arn in [
                format!("arn:aws:sts::{account}:assumed-role/unit/{unit}"),
                format!("{iam}role/unit/{unit}"),
            ] {
                if !principals.iter().any(|known| **known == *arn) {
                    principals.push(arn.into());
                }
            }
        }
        if let Some((_, name)) = service {
            let region = &self.snapshot.meta.scope.region;
            principals.push(format!("{name}.amazonaws.com").into());
            principals.push(format!("{name}.{region}.amazonaws.com").into());
        }
        let groups = caller.group_names.iter().cloned();
        let more = request.groups.iter().map(|name| Arc::from(name.as_str()));
        caller.group_names = groups.chain(more).collect();
        caller.groups = Arc::new([]);
        // Nothing is known of the process of a user for whom a service asks.
        let is_known = request.via_service.is_none() || unit.is_some() || request.exe.is_some();
        let who = Described {
            user: caller.login.as_deref(),
            groups: &caller.group_names,
            process: is_known.then_some((unit.as_deref(), request.exe.as_deref())),
        };
        let (given, possible) = mapped::roles(&self.roles.mapped, &who);
        let user = &caller.user_name;
        let arns = |role: &Arc<str>| {
            [
                Arc::from(format!("arn:aws:sts::{account}:assumed-role/{role}/{user}")),
                Arc::from(format!("{iam}role/{role}")),
            ]
        };
        principals.extend(given.iter().flat_map(arns));
        caller.possible_principals = possible.iter().flat_map(arns).collect();
        caller.principals = principals.into();
        let named = caller.roles.iter().cloned();
        caller.roles = named.chain(given).collect();
        caller.possible_roles = possible.into();
        caller.process = is_known.then(|| {
            Arc::new(ProcessFacts {
                unit,
                exe: request.exe.clone(),
                checked: true,
                ..ProcessFacts::default()
            })
        });
        caller.via = request.via_service.as_deref().map(|service| {
            Arc::new(Via {
                service: service.into(),
                arn: Arc::from(""),
                uid: NO_UID,
                pid: 0,
            })
        });
        Ok(caller)
    }
}

/// A caller that is no user.
fn nobody(arn: String) -> Caller {
    let mut caller = Caller::new(CallerRole::User, NO_UID, arn);
    caller.user_name = Arc::from("");
    caller
}

/// The action that somebody means: any case, with or without its prefix.
pub(super) fn known_action(text: &str) -> Result<Cow<'static, str>, ApiError> {
    let wanted = |name: &&str| {
        let bare = name.split_once(':').map_or(*name, |(_, bare)| bare);
        name.eq_ignore_ascii_case(text) || bare.eq_ignore_ascii_case(text)
    };
    let found = known_actions().find(wanted).map(str::to_owned);
    found.map(Cow::Owned).ok_or_else(|| {
        let both = text
            .trim_start_matches("kms:")
            .eq_ignore_ascii_case("ReEncrypt");
        ApiError::validation(match both {
            true => "ReEncrypt needs two permissions: ask for kms:ReEncryptFrom on the source key \
                     and for kms:ReEncryptTo on the destination key."
                .to_owned(),
            false => format!("'{text}' is not an action, such as kms:Decrypt."),
        })
    })
}

/// What a request about this key says of algorithms when it takes the first that the key has.
fn usual_details(action: &str, key: &KeyRow) -> Details<'static> {
    let (spec, usage) = (key.spec, key.usage);
    let encryption = specs::encryption_algorithms(spec, usage);
    let signing = specs::signing_algorithms(spec, usage);
    let signs = matches!(action, "kms:Sign" | "kms:Verify") && !signing.is_empty();
    Details {
        encryption_algorithm: encryption.first().map(|algorithm| algorithm.as_str()),
        signing_algorithm: signing
            .first()
            .filter(|_| signs)
            .map(|algorithm| algorithm.as_str()),
        message_type: signs.then_some("RAW"),
        mac_algorithm: specs::mac_algorithms(spec)
            .first()
            .map(|algorithm| algorithm.as_str()),
        key_agreement_algorithm: specs::agreement_algorithms(usage)
            .first()
            .map(|algorithm| algorithm.as_str()),
        ..Details::default()
    }
}
