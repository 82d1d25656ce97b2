//! Changes past every policy, for `kmsd break-glass`: when the policies lock everyone out, or a key is about to be lost.
//!
//! No request reaches this: it is called by a program that has opened the store by itself.

use std::sync::Arc;

use kms_api::{ApiError, ErrorCode};

use super::Kms;
use super::policies::default_policy;
use crate::ids::Scope;
use crate::place::At;
use crate::policy::{
    ConditionKey, Context, Decision, Effect, Policy, PolicyKind, Query, StatementRef, Values,
};
use crate::rows::{Change, IdentityKind, KeyRow, Manager, Row, State, Table, identity_policy_id};

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Measure {
    /// Give a key another policy: this one, or the one that keys are made with.
    ReplaceKeyPolicy {
        /// Key id, ARN, alias or alias ARN.
        key: String,
        /// JSON.
        policy: Option<String>,
    },
    /// Remove an identity policy of the catalogue.
    DeleteIdentityPolicy {
        /// Kind of identity.
        kind: IdentityKind,
        /// Its name.
        identity: String,
        /// Name of the policy.
        name: String,
    },
    /// Remove a guard rail of the catalogue.
    DeleteGuardRail {
        /// Its name.
        name: String,
    },
    /// Enable a key that is disabled.
    EnableKey {
        /// Key id, ARN, alias or alias ARN.
        key: String,
    },
    /// Keep a key that waits for its deletion. It is disabled then, or waits for imported material that it lacks.
    CancelKeyDeletion {
        /// Key id, ARN, alias or alias ARN.
        key: String,
    },
}

impl Measure {
    /// Its name in the record.
    pub fn name(&self) -> &'static str {
        match self {
            Self::ReplaceKeyPolicy { .. } => "ReplaceKeyPolicy",
            Self::DeleteIdentityPolicy { .. } => "DeleteIdentityPolicy",
            Self::DeleteGuardRail { .. } => "DeleteGuardRail",
            Self::EnableKey { .. } => "EnableKey",
            Self::CancelKeyDeletion { .. } => "CancelKeyDeletion",
        }
    }
}

/// What carrying out a measure changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// All or none.
    pub changes: Vec<Change>,
    /// What is changed: a key ARN, or the name of a policy.
    pub target: String,
    /// The key's ARN, where it is one.
    pub key: Option<String>,
    /// How it was before: the policy that is replaced or removed, or the state of the key.
    pub before: String,
}

/// Something that stands between root and a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Obstacle {
    /// A key ARN, or the name of a guard rail.
    pub target: String,
    /// Why root cannot change its policy.
    pub reason: String,
    /// What `break-glass` can do about it.
    pub remedy: String,
}

impl Kms {
    /// What a measure would change.
    ///
    /// # Errors
    /// There is no such thing, it is in a state in which there is nothing to do, or the new policy is not one.
    pub fn break_glass(&self, measure: &Measure) -> Result<Plan, ApiError> {
        match measure {
            Measure::ReplaceKeyPolicy { key, policy } => {
                let key = self.any_key(key)?;
                let policy = match policy {
                    Some(text) => {
                        Policy::parse(text, PolicyKind::Key).map_err(|error| {
                            ApiError::new(ErrorCode::MalformedPolicyDocument, error.to_string())
                        })?;
                        text.clone()
                    }
                    None => default_policy(&self.snapshot.scope_of(key.id.place())),
                };
                Ok(self.change_key(key, key.policy.clone(), |row| row.policy = policy))
            }
            Measure::EnableKey { key } => {
                let key = self.any_key(key)?;
                self.require(key, State::Disabled, "disabled")?;
                Ok(self.change_key(key, "Disabled".to_owned(), |row| row.state = State::Enabled))
            }
            Measure::CancelKeyDeletion { key } => {
                let key = self.any_key(key)?;
                if key.state != State::PendingReplicaDeletion {
                    self.require(key, State::PendingDeletion, "pending deletion")?;
                }
                // As CancelKeyDeletion: a key that lacks material goes back to waiting for it.
                let state = match key.current {
                    Some(_) if key.absent.is_empty() => State::Disabled,
                    _ => State::PendingImport,
                };
                Ok(self.change_key(key, "PendingDeletion".to_owned(), |row| {
                    row.state = state;
                    row.deletion = None;
                    if let Some(multi_region) = &mut row.multi_region {
                        multi_region.window_days = None;
                    }
                }))
            }
            Measure::DeleteIdentityPolicy {
                kind,
                identity,
                name,
            } => {
                let id = identity_policy_id(*kind, identity, name);
                let row = self.snapshot.identity_policies.get(&id);
                let row = row.ok_or_else(|| {
                    ApiError::not_found(format!(
                        "There is no identity policy {id} in the catalogue."
                    ))
                })?;
                Ok(removal(Table::IdentityPolicy, id, row.document.clone()))
            }
            Measure::DeleteGuardRail { name } => {
                let row = self.snapshot.guard_rails.get(name);
                let row = row.ok_or_else(|| {
                    ApiError::not_found(format!("There is no guard rail {name} in the catalogue."))
                })?;
                Ok(removal(
                    Table::GuardRail,
                    name.clone(),
                    row.document.clone(),
                ))
            }
        }
    }

    /// What keeps the account's root principal from changing the policies of keys. Documents in files are not known here, and
    /// what a condition asks for counts as not given.
    pub fn obstacles(&self) -> Vec<Obstacle> {
        let mut obstacles = Vec::new();
        let root_of = |scope: &Scope| (scope.account.clone(), [Arc::from(scope.root_arn())]);
        let root = root_of(self.snapshot.home());
        for row in self.snapshot.guard_rails.values() {
            let found = obstacle_of_rail(&row.document, &root);
            obstacles.extend(found.map(|reason| Obstacle {
                target: format!("guard rail {}", row.name),
                reason,
                remedy: format!("break-glass delete-guard-rail {}", row.name),
            }));
        }
        for key in self.snapshot.keys.values() {
            // Nobody is to change the policy of a service's key.
            if key.state == State::Destroyed || key.manager == Manager::Service {
                continue;
            }
            let arn = self.arn(key.id);
            let root = root_of(&self.snapshot.scope_of(key.id.place()));
            let reason = match Policy::parse(&key.policy, PolicyKind::Key) {
                Err(error) => Some(format!("its policy cannot be read: {error}")),
                Ok(policy) => match decide(&policy, &root, &arn) {
                    Decision::Deny(by) => Some(format!("its policy denies it, {}", named(&by))),
                    Decision::NoMatch => Some("its policy does not let root change it".to_owned()),
                    Decision::AllowPrincipal(_) | Decision::AllowAccount(_) => None,
                },
            };
            let name = match key.id.place().is_home() {
                true => key.id.to_string(),
                false => arn.clone(),
            };
            obstacles.extend(reason.map(|reason| Obstacle {
                target: arn,
                reason,
                remedy: format!("break-glass put-key-policy {name} --default"),
            }));
        }
        obstacles
    }

    /// A key by id, ARN, alias or alias ARN; tombstones are none.
    fn any_key(&self, text: &str) -> Result<&Arc<KeyRow>, ApiError> {
        // Whoever breaks the glass is of no account.
        let mut at = At::home(&self.snapshot);
        at.crosses = true;
        if let Some(named) = Scope::of_arn(text) {
            at.place = self.snapshot.place(&named);
            at.scope = named.into();
        }
        self.key_or_alias(&at, text)
    }

    fn require(&self, key: &KeyRow, state: State, word: &str) -> Result<(), ApiError> {
        if key.state == state {
            return Ok(());
        }
        let text = format!(
            "{} is not {word}: there is nothing to do.",
            self.arn(key.id)
        );
        Err(ApiError::new(ErrorCode::InvalidState, text))
    }

    fn change_key(&self, key: &KeyRow, before: String, change: impl FnOnce(&mut KeyRow)) -> Plan {
        let mut row = key.clone();
        change(&mut row);
        let arn = self.arn(key.id);
        Plan {
            changes: vec![Change::Put(Row::Key(Box::new(row)))],
            target: arn.clone(),
            key: Some(arn),
            before,
        }
    }
}

fn removal(table: Table, id: String, before: String) -> Plan {
    Plan {
        target: id.clone(),
        changes: vec![Change::Remove(table, id)],
        key: None,
        before,
    }
}

/// Account and principals of root.
type Root = (String, [Arc<str>; 1]);

fn decide<'p>(policy: &'p Policy, root: &Root, resource: &str) -> Decision<'p> {
    policy.evaluate(&Query {
        principals: &root.1,
        possible: &[],
        account: &root.0,
        action: "kms:PutKeyPolicy",
        resource,
        context: &Nothing,
    })
}

fn obstacle_of_rail(document: &str, root: &Root) -> Option<String> {
    let policy = match Policy::parse(document, PolicyKind::GuardRail) {
        Ok(policy) => policy,
        Err(error) => return Some(format!("it cannot be read: {error}")),
    };
    match decide(&policy, root, "*") {
        Decision::Deny(by) => Some(format!("it denies changing key policies, {}", named(&by))),
        Decision::NoMatch => {
            let limits = policy.statements().any(|one| one.effect() == Effect::Allow);
            limits.then(|| "it allows only other things than changing key policies".to_owned())
        }
        Decision::AllowPrincipal(_) | Decision::AllowAccount(_) => None,
    }
}

fn named(statement: &StatementRef<'_>) -> String {
    match statement.sid {
        Some(sid) => format!("statement {sid:?}"),
        None => format!("statement {}", statement.index),
    }
}

/// A request of which nothing more is known.
struct Nothing;

impl Context for Nothing {
    fn get(&self, _: ConditionKey<'_>) -> Values<'_> {
        Values::Absent
    }
}
