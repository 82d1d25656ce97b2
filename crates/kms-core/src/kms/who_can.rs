//! WhoCan: which statements, grants and roles let somebody do something on a key.

use kms_api::{ApiError, Response, WhoCanEntry, WhoCanRequest, WhoCanResponse};
use serde_json::{Map, Value};

use super::simulate::known_action;
use super::{Kms, Outcome, World, reply};
use crate::authz::{Authorized, Document, DocumentName, built_ins};
use crate::grants;
use crate::policy::{Effect, Statement};
use crate::rows::{GrantRow, KeyRow, State};

/// A question about one key.
struct Asked<'a> {
    action: &'a str,
    resource: &'a str,
}

impl Kms {
    pub(super) fn who_can(
        &self,
        auth: &Authorized,
        request: &WhoCanRequest,
        world: &World<'_>,
    ) -> Result<Outcome, ApiError> {
        let action = known_action(&request.action)?;
        let key = self.key_or_alias(auth, &request.key_id)?;
        let resource = self.arn(key.id);
        let asked = Asked {
            action: &action,
            resource: &resource,
        };
        let mut answer = WhoCanResponse {
            action: action.to_string(),
            resource: resource.clone(),
            allowed: Vec::new(),
            denied: Vec::new(),
            delegated: false,
            notes: Vec::new(),
        };
        for (name, document) in self.guard_rails() {
            self.guard_rail_says(&asked, name, document, &mut answer);
        }
        self.key_policy_says(&asked, key, &mut answer);
        self.identities_say(&asked, &mut answer);
        for row in self.snapshot.grants.of_key(key.id, None) {
            let name = action.strip_prefix("kms:").unwrap_or_default();
            let listed = row.operations.iter().any(|operation| operation == name);
            if listed && !grants::ended(row, world.now) {
                answer.allowed.push(grant_entry(row));
            }
        }
        if answer.allowed.is_empty() {
            answer.notes.push("Nobody may.".to_owned());
        }
        if key.state != State::Enabled {
            let state = super::keys::wire_state(key.state);
            answer
                .notes
                .push(format!("The key is in the state {state}."));
        }
        Ok(reply(Response::WhoCan(answer)))
    }

    fn guard_rail_says(
        &self,
        asked: &Asked<'_>,
        name: &str,
        document: &Document,
        answer: &mut WhoCanResponse,
    ) {
        let place = DocumentName::GuardRail {
            name: name.to_owned(),
        }
        .to_string();
        let Ok(policy) = &document.policy else {
            answer
                .notes
                .push(format!("{place} cannot be read: everybody is denied."));
            return;
        };
        let mut permits = false;
        for statement in policy.statements().filter(|s| asked.is_meant_by(s)) {
            match statement.effect() {
                Effect::Deny => answer.denied.push(entry("*", &place, statement)),
                Effect::Allow => permits = true,
            }
        }
        if document.allows && !permits {
            answer
                .notes
                .push(format!("{place} permits only other things: nobody may."));
        }
    }

    fn key_policy_says(&self, asked: &Asked<'_>, key: &KeyRow, answer: &mut WhoCanResponse) {
        let place = DocumentName::KeyPolicy.to_string();
        let policy = self.snapshot.key_policies.get(&key.id);
        let Some(Ok(policy)) = policy.map(|document| &document.policy) else {
            answer.notes.push(
                "The key policy cannot be read: everybody is denied, and only the account's root principal can \
                 replace it (PutKeyPolicy)."
                    .to_owned(),
            );
            return;
        };
        let scope = self.snapshot.scope_of(key.id.place());
        let account = &scope.account;
        for statement in policy.statements().filter(|s| asked.is_meant_by(s)) {
            let names = statement.principals().iter();
            let entries = names.map(|name| match statement.not_principal() {
                true => entry(&format!("everybody but {name}"), &place, statement),
                false => entry(name, &place, statement),
            });
            match statement.effect() {
                Effect::Deny => answer.denied.extend(entries),
                Effect::Allow => {
                    answer.allowed.extend(entries);
                    answer.delegated |= !statement.not_principal()
                        && statement.accounts().iter().any(|known| known == account);
                }
            }
            if statement.effect() == Effect::Allow && statement.is_for_anyone() {
                let text = match statement.is_conditional() {
                    true => "Everybody who meets the conditions of the key policy may.",
                    false => "Everybody may: the key policy allows it to *.",
                };
                answer.notes.push(text.to_owned());
            }
        }
        answer.notes.push(match answer.delegated {
            true => format!(
                "The key policy hands this decision to account {account}: identity policies count, and its root \
                 principal (uid 0) may."
            ),
            false => "Identity policies that allow it do not count: the key policy does not hand this decision to \
                      the account."
                .to_owned(),
        });
    }

    fn identities_say(&self, asked: &Asked<'_>, answer: &mut WhoCanResponse) {
        let built_in = built_ins()
            .into_iter()
            .map(|(who, name, document)| (who.to_owned(), name.to_owned(), document.as_ref()));
        let attached = self
            .identity_policies()
            .map(|(kind, identity, name, document)| {
                let who = format!("{}/{identity}", kind.as_str());
                (who.clone(), format!("{who}/{name}"), document.as_ref())
            });
        for (who, name, document) in built_in.chain(attached) {
            let place = DocumentName::IdentityPolicy { policy: name }.to_string();
            let Ok(policy) = &document.policy else {
                answer
                    .notes
                    .push(format!("{place} cannot be read: {who} is denied."));
                continue;
            };
            for statement in policy.statements().filter(|s| asked.is_meant_by(s)) {
                match statement.effect() {
                    Effect::Deny => answer.denied.push(entry(&who, &place, statement)),
                    Effect::Allow if answer.delegated => {
                        answer.allowed.push(entry(&who, &place, statement));
                    }
                    Effect::Allow => {}
                }
            }
        }
    }
}

impl Asked<'_> {
    /// Whether a statement can be about this action on this key.
    fn is_meant_by(&self, statement: &Statement) -> bool {
        statement.is_about(self.action) && statement.may_cover(self.resource)
    }
}

fn entry(principal: &str, document: &str, statement: &Statement) -> WhoCanEntry {
    WhoCanEntry {
        principal: principal.to_owned(),
        document: document.to_owned(),
        statement: match statement.sid() {
            Some(sid) if !sid.is_empty() => sid.to_owned(),
            _ => statement.index().to_string(),
        },
        conditions: conditions(statement),
    }
}

fn grant_entry(row: &GrantRow) -> WhoCanEntry {
    let mut constraints = Map::new();
    let mut add = |name: &str, value: Option<Value>| {
        if let Some(value) = value {
            constraints.insert(name.to_owned(), value);
        }
    };
    let pairs = |pairs: &Option<grants::Context>| {
        pairs.as_ref().map(|pairs| {
            let pairs = pairs
                .iter()
                .map(|(k, v)| (k.clone(), Value::from(v.as_str())));
            Value::Object(pairs.collect())
        })
    };
    add("EncryptionContextEquals", pairs(&row.context_equals));
    add("EncryptionContextSubset", pairs(&row.context_subset));
    add("SourceArn", row.source_arn.as_deref().map(Value::from));
    add(
        "EndsAt",
        row.ends.map(|ends| Value::from(ends.wall_ms / 1000)),
    );
    WhoCanEntry {
        principal: row.grantee.clone(),
        document: format!("grant:{}", row.id),
        statement: String::new(),
        conditions: (!constraints.is_empty()).then(|| Value::Object(constraints).to_string()),
    }
}

/// The conditions of a statement as its document has them.
fn conditions(statement: &Statement) -> Option<String> {
    if !statement.is_conditional() {
        return None;
    }
    let mut operators = Map::new();
    for (operator, key, values) in statement.conditions() {
        let values = values
            .iter()
            .map(|value| Value::from(value.as_str()))
            .collect();
        let keys = operators
            .entry(operator.to_owned())
            .or_insert_with(|| Value::Object(Map::new()));
        if let Value::Object(keys) = keys {
            keys.insert(key.name().into_owned(), Value::Array(values));
        }
    }
    Some(Value::Object(operators).to_string())
}
