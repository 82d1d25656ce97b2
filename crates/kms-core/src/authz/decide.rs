//! The decision about one permission.
//!
//! In this order: a Deny anywhere; a guard rail that permits only other things; the key policy naming the caller; the key
//! policy handing the decision to the account, and an identity policy allowing it; a grant; otherwise denied. What is on no
//! key has no key policy: identity policies decide, and the account's root principal needs none.

use std::borrow::Cow;
use std::cell::OnceCell;
use std::sync::Arc;

use kms_api::{Caller, CallerRole, GrantOperation, MatchedStatement};

use super::basis::{Basis, DenyBasis, Document as Place};
use super::documents::{Document, built_in};
use super::facts::{Facts, NO_CONTEXT, account, known_unit};
use super::table::{Permission, Resource};
use crate::clock::Now;
use crate::grants;
use crate::kms::Kms;
use crate::policy::{ConditionKey, Decision, Effect, Policy, Query, StatementRef};
use crate::rows::{GrantRow, IdentityKind, KeyRow};

/// A question to decide.
pub(crate) struct Question<'a> {
    pub(crate) caller: &'a Caller,
    pub(crate) permission: &'a Permission<'a>,
    /// In place of the key's policy: for the question whether a new policy locks its author out.
    pub(crate) key_policy: Option<&'a Document>,
    pub(crate) now: Now,
}

/// Where every statement that applies is noted, if somebody wants to know.
pub(crate) type Trace<'t> = Option<&'t mut Vec<MatchedStatement>>;

/// Actions with which the account's root principal puts a document in order that cannot be read, and takes back what was
/// granted meanwhile.
const REPAIRS: [&str; 12] = [
    "kms:GetKeyPolicy",
    "kms:PutKeyPolicy",
    "kms:RetireGrant",
    "kms:RevokeGrant",
    "kmsd:GetIdentityPolicy",
    "kmsd:PutIdentityPolicy",
    "kmsd:DeleteIdentityPolicy",
    "kmsd:ListIdentityPolicies",
    "kmsd:GetGuardRail",
    "kmsd:PutGuardRail",
    "kmsd:DeleteGuardRail",
    "kmsd:ListGuardRails",
];

/// One document's word, and the name under which it is known.
struct Said {
    denied: Option<DenyBasis>,
    allowed: Option<Basis>,
}

impl Kms {
    /// Decides.
    pub(crate) fn decide(
        &self,
        question: &Question<'_>,
        mut trace: Trace<'_>,
    ) -> Result<Basis, DenyBasis> {
        let Question {
            caller, permission, ..
        } = question;
        if caller.role == CallerRole::Internal {
            return Ok(Basis::Internal);
        }
        let action = permission.action;
        let own = account(&caller.arn);
        if self.is_hosts_own(permission) && own != self.snapshot().home().account {
            return Err(DenyBasis::OtherAccount);
        }
        if let Resource::Principal(arn) = permission.resource
            && own != account(arn)
        {
            return Err(DenyBasis::ForeignPrincipal);
        }
        // Of a grant it hears what the policy of its key denies: who may retire one is said elsewhere.
        let policed = match &permission.resource {
            Resource::Key(key) | Resource::Grant(key, _) => Some(*key),
            _ => None,
        };
        let foreign = policed.is_some_and(|key| !self.snapshot().is_of(key.id.place(), own));
        let repairs = caller.role == CallerRole::Root && REPAIRS.contains(&action) && !foreign;
        let resource = self.resource_arn(&permission.resource);
        let facts = self.facts(question, false);
        let query = Query {
            principals: &caller.principals,
            possible: &caller.possible_principals,
            account: own,
            action,
            resource: &resource,
            context: &facts,
        };
        // The first Deny is the answer, but whoever wants to know everything gets the rest as well.
        let mut denied = None;

        let outside = self.ask_guard_rails(caller, &query, repairs, &mut denied, &mut trace);
        if denied.is_some() && trace.is_none() {
            return Err(denied.unwrap_or(DenyBasis::NoIdentityPolicy));
        }
        let key = match &permission.resource {
            Resource::Key(key) => Some(*key),
            _ => None,
        };
        let in_key_policy = self.facts(question, true);
        let key_query = Query {
            context: &in_key_policy,
            ..query
        };
        let by_key_policy = policed.map(|key| {
            let document = question
                .key_policy
                .or_else(|| self.snapshot().key_policies.get(&key.id).map(AsRef::as_ref));
            key_policy(
                document,
                caller,
                &key_query,
                repairs,
                &mut denied,
                &mut trace,
            )
        });
        let by_key_policy = by_key_policy.filter(|_| key.is_some());
        if denied.is_some() && trace.is_none() {
            return Err(denied.unwrap_or(DenyBasis::NoKeyPolicy));
        }
        let by_identity = self.ask_identities(caller, &query, repairs, &mut denied, &mut trace);
        let grant = key.and_then(|key| self.grant_for(question, key));
        if let (Some(trace), Some(grant)) = (&mut trace, grant) {
            trace.push(MatchedStatement {
                document: format!("grant:{}", grant.id),
                statement: String::new(),
                effect: "Allow".to_owned(),
            });
        }
        if let Some(denied) = denied.or(outside) {
            return Err(denied);
        }
        // The key's account gives a permission to others, and theirs gives it to them.
        let by_own_account = by_identity.is_some() || caller.role == CallerRole::Root;
        match by_key_policy {
            Some(word) if foreign => match (word, by_identity, grant) {
                (KeyWord::Nothing, _, None) => Err(DenyBasis::NoKeyPolicy),
                _ if !by_own_account => Err(DenyBasis::NoIdentityPolicy),
                (KeyWord::Allows(basis), ..) => Ok(basis),
                (KeyWord::Delegates, Some(basis), _) => Ok(basis),
                (KeyWord::Delegates, None, _) => Ok(Basis::Root),
                (KeyWord::Nothing, _, Some(grant)) => Ok(Basis::Grant {
                    id: grant.id.clone(),
                }),
            },
            Some(KeyWord::Allows(basis)) => Ok(basis),
            Some(word) => match (word, by_identity, grant) {
                (KeyWord::Delegates, Some(basis), _) => Ok(basis),
                (_, _, Some(grant)) => Ok(Basis::Grant {
                    id: grant.id.clone(),
                }),
                (KeyWord::Delegates, None, None) => Err(DenyBasis::NoIdentityPolicy),
                (_, _, None) => Err(DenyBasis::NoKeyPolicy),
            },
            None => match (by_identity, caller.role, &permission.resource) {
                // Another account's grant is its parties' alone: what an account allows is about what is its own.
                (_, _, Resource::Grant(_, row)) if foreign => {
                    match grants::may_retire(row, &caller.principals, question.now) {
                        true => Ok(Basis::Party),
                        false => Err(DenyBasis::NotAParty),
                    }
                }
                (Some(basis), ..) => Ok(basis),
                (None, CallerRole::Root, _) => Ok(Basis::Root),
                (None, _, Resource::Own) => Ok(Basis::Party),
                (None, _, Resource::Implied(_)) => Ok(Basis::Implied),
                (None, _, Resource::Grant(_, row)) => {
                    match grants::may_retire(row, &caller.principals, question.now) {
                        true => Ok(Basis::Party),
                        false => Err(DenyBasis::NotAParty),
                    }
                }
                (None, ..) => Err(DenyBasis::NoIdentityPolicy),
            },
        }
    }

    /// Whether one guard rail lets a question through.
    pub(crate) fn passes(&self, question: &Question<'_>, document: &Document) -> bool {
        let resource = self.resource_arn(&question.permission.resource);
        let facts = self.facts(question, false);
        let query = Query {
            principals: &question.caller.principals,
            possible: &question.caller.possible_principals,
            account: account(&question.caller.arn),
            action: question.permission.action,
            resource: &resource,
            context: &facts,
        };
        match document
            .policy
            .as_ref()
            .map(|policy| policy.evaluate(&query))
        {
            Err(_) | Ok(Decision::Deny(_)) => false,
            Ok(Decision::NoMatch) => !document.allows,
            Ok(Decision::AllowPrincipal(_) | Decision::AllowAccount(_)) => true,
        }
    }

    fn facts<'q>(&'q self, question: &'q Question<'_>, in_key_policy: bool) -> Facts<'q> {
        Facts {
            caller: question.caller,
            action: question.permission.action,
            key: match &question.permission.resource {
                Resource::Key(key) | Resource::Grant(key, _) => Some(*key),
                _ => None,
            },
            details: &question.permission.details,
            snapshot: self.snapshot(),
            last_use: &self.last_use,
            boot_id: self.boot_id.as_deref(),
            now: question.now,
            in_key_policy,
            units: OnceCell::new(),
        }
    }

    /// Whether a permission is on what belongs to the host and not to an account.
    fn is_hosts_own(&self, permission: &Permission<'_>) -> bool {
        match permission.resource {
            Resource::Key(_)
            | Resource::Alias(..)
            | Resource::Grant(..)
            | Resource::Identity(..)
            | Resource::Identities
            | Resource::Principal(_)
            | Resource::Own => false,
            Resource::Local(_) | Resource::Given(_) | Resource::Implied(_) | Resource::Any => {
                permission.action.starts_with("kmsd:")
            }
        }
    }

    /// The ARN that documents see.
    pub(crate) fn resource_arn(&self, resource: &Resource<'_>) -> Cow<'static, str> {
        let scope = self.snapshot().home();
        match resource {
            Resource::Key(key) | Resource::Grant(key, _) => self.snapshot().arn(key.id).into(),
            Resource::Alias(place, name) => self.snapshot().scope_of(*place).alias_arn(name).into(),
            Resource::Local(last) | Resource::Implied(last) => scope.local_arn(last).into(),
            Resource::Given(arn) | Resource::Principal(arn) => Cow::Owned((*arn).to_owned()),
            Resource::Identity(place, last) => {
                self.snapshot().scope_of(*place).local_arn(last).into()
            }
            Resource::Any | Resource::Identities | Resource::Own => Cow::Borrowed("*"),
        }
    }

    /// Every guard rail, those of files first.
    pub(crate) fn guard_rails(&self) -> impl Iterator<Item = (&str, &Arc<Document>)> {
        let files = self.file_policies.attached.guard_rails();
        files.chain(self.snapshot().attached.guard_rails())
    }

    /// Asks the guard rails; returns the first that permits only other things.
    fn ask_guard_rails(
        &self,
        caller: &Caller,
        query: &Query<'_>,
        repairs: bool,
        denied: &mut Option<DenyBasis>,
        trace: &mut Trace<'_>,
    ) -> Option<DenyBasis> {
        let mut outside = None;
        for (name, document) in self.guard_rails() {
            let place = || Place::GuardRail {
                name: name.to_owned(),
            };
            let said = ask(document, caller, query, place, repairs, trace);
            if said.denied.is_some() {
                *denied = denied.take().or(said.denied);
                if trace.is_none() {
                    return None;
                }
            } else if document.allows && said.allowed.is_none() && outside.is_none() {
                outside = Some(DenyBasis::OutsideGuardRail {
                    name: name.to_owned(),
                });
            }
        }
        outside
    }

    /// Asks every policy of the caller's identities; returns the first that allows.
    fn ask_identities(
        &self,
        caller: &Caller,
        query: &Query<'_>,
        repairs: bool,
        denied: &mut Option<DenyBasis>,
        trace: &mut Trace<'_>,
    ) -> Option<Basis> {
        let mut allowed = None;
        let mut hear = |said: Said| {
            if said.denied.is_some() {
                *denied = denied.take().or(said.denied);
            }
            allowed = allowed.take().or(said.allowed);
        };
        if let Some((name, document)) = built_in(caller.role) {
            let place = || Place::IdentityPolicy {
                policy: name.to_owned(),
            };
            hear(ask(document, caller, query, place, repairs, trace));
        }
        let unit = known_unit(caller);
        let users = std::iter::once((IdentityKind::User, &*caller.user_name));
        let groups = caller.group_names.iter();
        let groups = groups.map(|name| (IdentityKind::Group, &**name));
        let roles = caller.roles.iter();
        let roles = roles.map(|name| (IdentityKind::Role, &**name));
        let unit_identity = unit.flatten().map(|name| (IdentityKind::Unit, name));
        let own = account(&caller.arn);
        for (kind, identity) in users.chain(groups).chain(unit_identity).chain(roles) {
            let identity = self.identity_in(own, identity);
            for (name, document) in self.policies_of_identity(kind, &identity) {
                let place = || identity_place(kind, &identity, name);
                hear(ask(document, caller, query, place, repairs, trace));
            }
        }
        // What would be denied to one that it may be is denied; what would be allowed is not allowed.
        let roles = caller.possible_roles.iter().flat_map(|role| {
            let role = self.identity_in(own, role);
            let policies = self.policies_of_identity(IdentityKind::Role, &role);
            let named = policies.map(|(name, document)| {
                let identity = role.clone().into_owned();
                (IdentityKind::Role, identity, name, document)
            });
            named.collect::<Vec<_>>()
        });
        let all = self.identity_policies();
        let units = all.filter(|(kind, identity, ..)| {
            let of_account = || self.account_of_identity(identity).0 == own;
            unit.is_none() && *kind == IdentityKind::Unit && of_account()
        });
        let units = units
            .map(|(kind, identity, name, document)| (kind, identity.to_owned(), name, document));
        for (kind, identity, name, document) in roles.chain(units) {
            let place = || identity_place(kind, &identity, name);
            let mut noted = trace.as_ref().map(|_| Vec::new());
            let said = ask(document, caller, query, place, repairs, &mut noted.as_mut());
            let denied = said.denied.map(|denied| not_established(denied, caller));
            let allowed = None;
            hear(Said { denied, allowed });
            if let (Some(trace), Some(noted)) = (&mut *trace, noted) {
                trace.extend(noted.into_iter().filter(|one| one.effect == "Deny"));
            }
        }
        allowed
    }

    /// What an identity of an account is called among those of all accounts: at home by its name, elsewhere `ACCOUNT/NAME`. No
    /// name has a slash.
    pub(crate) fn identity_in<'n>(&self, account: &str, name: &'n str) -> Cow<'n, str> {
        match account == self.snapshot().home().account {
            true => Cow::Borrowed(name),
            false => Cow::Owned(format!("{account}/{name}")),
        }
    }

    /// The inverse of [`Self::identity_in`].
    pub(crate) fn account_of_identity<'n>(&'n self, identity: &'n str) -> (&'n str, &'n str) {
        identity
            .split_once('/')
            .unwrap_or((&self.snapshot().home().account, identity))
    }

    /// The policies of one identity, those of files first.
    fn policies_of_identity(
        &self,
        kind: IdentityKind,
        identity: &str,
    ) -> impl Iterator<Item = (&str, &Arc<Document>)> {
        let files = self.file_policies.attached.of(kind, identity);
        files.chain(self.snapshot().attached.of(kind, identity))
    }

    /// Every identity policy: kind, identity, name, document.
    pub(crate) fn identity_policies(
        &self,
    ) -> impl Iterator<Item = (IdentityKind, &str, &str, &Arc<Document>)> {
        let files = self.file_policies.attached.identities();
        files.chain(self.snapshot().attached.identities())
    }

    /// A grant that allows it.
    fn grant_for<'q>(&'q self, question: &Question<'_>, key: &KeyRow) -> Option<&'q Arc<GrantRow>> {
        let details = &question.permission.details;
        let action = question.permission.action.strip_prefix("kms:")?;
        let operation = GrantOperation::from_wire(action)?;
        let principals = &question.caller.principals;
        if operation == GrantOperation::CreateGrant {
            let request = details.grant?;
            let constraints = request.constraints.as_ref();
            let child = grants::Child {
                operations: &request.operations,
                context_equals: constraints.and_then(|c| c.encryption_context_equals.as_ref()),
                context_subset: constraints.and_then(|c| c.encryption_context_subset.as_ref()),
                source_arn: constraints.and_then(|c| c.source_arn.as_deref()),
            };
            return grants::find_parent(self.snapshot(), key.id, principals, &child, question.now);
        }
        grants::find(
            self.snapshot(),
            key.id,
            principals,
            operation,
            details.encryption_context.as_deref().unwrap_or(&NO_CONTEXT),
            self.facts(question, false).source_arn().as_deref(),
            question.now,
        )
    }
}

/// What a key policy says about a caller.
enum KeyWord {
    Allows(Basis),
    /// The account's identity policies are to decide.
    Delegates,
    Nothing,
}

fn key_policy(
    document: Option<&Document>,
    caller: &Caller,
    query: &Query<'_>,
    repairs: bool,
    denied: &mut Option<DenyBasis>,
    trace: &mut Trace<'_>,
) -> KeyWord {
    let place = || Place::KeyPolicy;
    // A key without a document does not occur; it would allow nothing.
    let Some(document) = document else {
        return KeyWord::Nothing;
    };
    let policy = match &document.policy {
        Ok(policy) => policy,
        Err(_) if repairs => return KeyWord::Allows(Basis::Root),
        Err(_) => {
            let unreadable = DenyBasis::Unreadable { document: place() };
            *denied = denied.take().or(Some(unreadable));
            return KeyWord::Nothing;
        }
    };
    let mut query = *query;
    let possible: Vec<Arc<str>>;
    if !document.units.is_empty() && known_unit(caller).is_none() {
        // The caller may be one of the units that are named here.
        possible = query
            .possible
            .iter()
            .chain(&document.units)
            .cloned()
            .collect();
        query.possible = &possible;
    }
    note(policy, &query, &place, trace);
    match policy.evaluate(&query) {
        Decision::Deny(statement) => {
            let explicit = DenyBasis::Explicit {
                document: place(),
                statement: Document::name_of(statement),
                lacking: lacking(statement, caller),
            };
            *denied = denied.take().or(Some(explicit));
            KeyWord::Nothing
        }
        Decision::AllowPrincipal(statement) => KeyWord::Allows(Basis::KeyPolicy {
            statement: Document::name_of(statement),
        }),
        Decision::AllowAccount(_) => KeyWord::Delegates,
        Decision::NoMatch => KeyWord::Nothing,
    }
}

/// What could not be established, if a statement denies only for that.
fn lacking(statement: StatementRef<'_>, caller: &Caller) -> Option<String> {
    Some(match statement.lacking? {
        ConditionKey::PrincipalArn => unknown_fact(caller).to_owned(),
        key => key.name().into_owned(),
    })
}

/// The fact without which it is not known which principals a caller has.
fn unknown_fact(caller: &Caller) -> &'static str {
    match known_unit(caller) {
        None => "kmsd:Unit",
        Some(_) => "kmsd:Exe",
    }
}

/// Asks an identity policy or a guard rail.
fn ask(
    document: &Document,
    caller: &Caller,
    query: &Query<'_>,
    place: impl Fn() -> Place,
    repairs: bool,
    trace: &mut Trace<'_>,
) -> Said {
    let nothing = Said {
        denied: None,
        allowed: None,
    };
    let policy = match &document.policy {
        Ok(policy) => policy,
        Err(_) if repairs => return nothing,
        Err(_) => {
            return Said {
                denied: Some(DenyBasis::Unreadable { document: place() }),
                ..nothing
            };
        }
    };
    note(policy, query, &place, trace);
    match policy.evaluate(query) {
        Decision::Deny(statement) => Said {
            denied: Some(DenyBasis::Explicit {
                document: place(),
                statement: Document::name_of(statement),
                lacking: lacking(statement, caller),
            }),
            ..nothing
        },
        Decision::AllowPrincipal(statement) | Decision::AllowAccount(statement) => Said {
            allowed: Some(Basis::IdentityPolicy {
                policy: match place() {
                    Place::IdentityPolicy { policy } => policy,
                    other => other.to_string(),
                },
                statement: Document::name_of(statement),
            }),
            ..nothing
        },
        Decision::NoMatch => nothing,
    }
}

/// Notes the statements that apply.
fn note(policy: &Policy, query: &Query<'_>, place: &impl Fn() -> Place, trace: &mut Trace<'_>) {
    let Some(trace) = trace else { return };
    for (statement, delegates) in policy.matching(query) {
        trace.push(MatchedStatement {
            document: place().to_string(),
            statement: match statement.sid() {
                Some(sid) if !sid.is_empty() => sid.to_owned(),
                _ => statement.index().to_string(),
            },
            effect: match (statement.effect(), delegates) {
                (Effect::Deny, _) => "Deny",
                (Effect::Allow, true) => "Delegate",
                (Effect::Allow, false) => "Allow",
            }
            .to_owned(),
        });
    }
}

fn identity_place(kind: IdentityKind, identity: &str, name: &str) -> Place {
    Place::IdentityPolicy {
        policy: format!("{}/{identity}/{name}", kind.as_str()),
    }
}

/// A denial that holds only because it is not known which unit or which role the caller is.
fn not_established(denied: DenyBasis, caller: &Caller) -> DenyBasis {
    match denied {
        DenyBasis::Explicit {
            document,
            statement,
            lacking,
        } => DenyBasis::Explicit {
            document,
            statement,
            lacking: lacking.or_else(|| Some(unknown_fact(caller).to_owned())),
        },
        other => other,
    }
}
