//! What is allowed in a policy and still worth a second look.

use std::fmt;

use super::action::{known_actions, suits};
use super::key::{ConditionKey, KeyType};
use super::statement::{Effect, Statement};
use super::{Policy, PolicyKind};

/// A remark on a policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning {
    /// What it is about.
    pub rule: Rule,
    /// The place in the document.
    pub path: String,
    /// What is so, and what it leads to.
    pub text: String,
}

/// What a warning is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Rule {
    /// A statement, or a part of one, never matches.
    NoEffect,
    /// Nobody, or nobody but single principals, could change the policy again.
    LockOut,
    /// Everyone is allowed something (AWS Security Hub KMS.5).
    PublicAccess,
    /// A policy of an identity allows opening what any key made (KMS.1, KMS.2).
    BlockedActions,
    /// More is allowed than the author may have meant.
    Broad,
    /// Two statements have one name, so that records do not say which one decided.
    SameSid,
}

impl Rule {
    /// Its name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NoEffect => "no-effect",
            Self::LockOut => "lock-out",
            Self::PublicAccess => "public-access",
            Self::BlockedActions => "blocked-actions",
            Self::Broad => "broad",
            Self::SameSid => "same-sid",
        }
    }
}

impl fmt::Display for Warning {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(to, "{}: {} ({})", self.path, self.text, self.rule.as_str())
    }
}

/// Actions that open ciphertexts of any key: what Security Hub's KMS.1 and KMS.2 look for.
pub const BLOCKED_ACTIONS: [&str; 2] = ["kms:Decrypt", "kms:ReEncryptFrom"];

impl Policy {
    /// What is worth a second look, in the order of the document.
    pub fn warnings(&self) -> Vec<Warning> {
        let mut found = Vec::new();
        let mut sids = Vec::new();
        for statement in self.statements() {
            let mut warn = |rule, element: &str, text: String| {
                let path = format!("Statement[{}]{element}", statement.index());
                found.push(Warning { rule, path, text });
            };
            if let Some(sid) = statement.sid() {
                if sids.contains(&sid) {
                    warn(
                        Rule::SameSid,
                        ".Sid",
                        format!("{sid:?} names an earlier statement too"),
                    );
                }
                sids.push(sid);
            }
            without_effect(statement, &mut warn);
            conditions(statement, &mut warn);
            if statement.effect() == Effect::Allow && statement.has_effect() {
                match self.kind() {
                    PolicyKind::Key => key_allow(statement, &mut warn),
                    PolicyKind::Identity => identity_allow(statement, &mut warn),
                    PolicyKind::GuardRail => {}
                }
            }
        }
        if self.kind() == PolicyKind::Key {
            found.extend(self.lock_out());
        }
        found
    }

    /// Whether a key policy leaves somebody, and not only single principals, who can change it.
    fn lock_out(&self) -> Option<Warning> {
        let put = |statement: &&Statement| {
            statement.has_effect() && statement.is_about("kms:PutKeyPolicy")
        };
        let warning = |path: &str, text: &str| {
            Some(Warning {
                rule: Rule::LockOut,
                path: path.to_owned(),
                text: text.to_owned(),
            })
        };
        let of = |effect| {
            self.statements()
                .filter(put)
                .filter(move |s| s.effect() == effect)
        };
        if let Some(deny) = of(Effect::Deny).find(|s| s.is_for_anyone() && !s.is_conditional()) {
            let path = format!("Statement[{}]", deny.index());
            return warning(
                &path,
                "denies kms:PutKeyPolicy to everyone: the policy could never be changed again",
            );
        }
        if of(Effect::Allow).next().is_none() {
            return warning(
                "Policy",
                "allows kms:PutKeyPolicy to nobody: the policy could never be changed again",
            );
        }
        let root =
            |s: &Statement| s.is_for_anyone() || s.not_principal() || !s.accounts().is_empty();
        if !of(Effect::Allow).any(root) {
            return warning(
                "Policy",
                "lets only the principals that it names change it: when they are gone, nobody can; \
                 name the account's root principal too",
            );
        }
        None
    }
}

fn without_effect(statement: &Statement, warn: &mut impl FnMut(Rule, &str, String)) {
    if !statement.has_effect() {
        let missing = if statement.actions().is_empty() {
            "Action"
        } else {
            "Resource"
        };
        warn(
            Rule::NoEffect,
            "",
            format!("has no {missing} and never matches"),
        );
    }
    for action in statement.actions() {
        if !known_actions().any(|known| suits(action, known)) {
            let text = format!("{action} is the name of no action here");
            warn(
                Rule::NoEffect,
                if statement.not_action() {
                    ".NotAction"
                } else {
                    ".Action"
                },
                text,
            );
        }
    }
}

fn conditions(statement: &Statement, warn: &mut impl FnMut(Rule, &str, String)) {
    for (operator, key, values) in statement.conditions() {
        let place = format!(".Condition.{operator}.{}", key.name());
        let base = operator.rsplit(':').next().unwrap_or(operator);
        if let ConditionKey::Elsewhere(_) = key {
            let text = "no request here has this key".to_owned();
            warn(Rule::NoEffect, &place, text);
        }
        let fits = match key.value_type() {
            KeyType::Date => !base.starts_with("IpAddress") && !base.starts_with("NotIp"),
            KeyType::Number => !base.starts_with("Ip") && !base.starts_with("Arn"),
            KeyType::Text | KeyType::Arn => {
                !["Numeric", "Date"]
                    .iter()
                    .any(|family| base.starts_with(family))
                    || matches!(
                        key,
                        ConditionKey::ResourceTag(_)
                            | ConditionKey::RequestTag(_)
                            | ConditionKey::PrincipalTag(_)
                            | ConditionKey::EncryptionContext(_)
                    )
            }
            KeyType::Bool | KeyType::Ip => !["Numeric", "Date", "Arn"]
                .iter()
                .any(|family| base.starts_with(family)),
        };
        if !fits {
            warn(
                Rule::NoEffect,
                &place,
                format!("{base} never agrees with values of this key"),
            );
        }
        if key == ConditionKey::UserName && base.starts_with("StringEquals") {
            let other = values.iter().find(|value| !may_be_user_name(value));
            if let Some(value) = other {
                let text = format!(
                    "nobody is called {value:?} here: a user whose name IAM would not allow is uid-N; use kmsd:User or \
                     kmsd:Uid"
                );
                warn(Rule::NoEffect, &place, text);
            }
        }
        let wildcard = |value: &String| value.contains(['*', '?']);
        if base.starts_with("StringEquals") && values.iter().any(wildcard) {
            let text = "StringEquals takes * and ? literally; StringLike has wildcards".to_owned();
            warn(Rule::NoEffect, &place, text);
        }
        if statement.effect() == Effect::Allow && operator.starts_with("ForAllValues:") {
            let guarded = statement.conditions().any(|(o, k, v)| {
                (o == "Null" && k == key && v == ["false"]) || (k == key && o.starts_with("ForAny"))
            });
            if !guarded {
                let text = "ForAllValues also holds for requests without the key; add \
                            \"Null\": {key: \"false\"} if it must be there"
                    .to_owned();
                warn(Rule::Broad, &place, text);
            }
        }
    }
}

/// Whether `aws:username` can be this: IAM's characters, or a variable. (Wildcards have a warning of their own.)
fn may_be_user_name(value: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b"+=,.@_-*?".contains(&b);
    value.contains("${") || value.bytes().all(allowed)
}

fn key_allow(statement: &Statement, warn: &mut impl FnMut(Rule, &str, String)) {
    if statement.not_principal() {
        let text = "with Allow, allows everyone else, of every account".to_owned();
        warn(Rule::PublicAccess, ".NotPrincipal", text);
    } else if statement.is_for_anyone() && !statement.is_narrowed() {
        let text = "allows everyone; name principals, or add a condition with fixed values on \
                    kms:CallerAccount, aws:PrincipalArn, aws:SourceArn, kmsd:Uid, kmsd:Groups or kmsd:Unit"
            .to_owned();
        warn(Rule::PublicAccess, ".Principal", text);
    }
    if statement.not_action() {
        let text =
            "with Allow, allows every other action, those of later versions included".to_owned();
        warn(Rule::Broad, ".NotAction", text);
    }
}

fn identity_allow(statement: &Statement, warn: &mut impl FnMut(Rule, &str, String)) {
    if statement.not_action() {
        let text =
            "with Allow, allows every other action, those of later versions included".to_owned();
        warn(Rule::Broad, ".NotAction", text);
    }
    let blocked: Vec<_> = BLOCKED_ACTIONS
        .into_iter()
        .filter(|action| statement.is_about(action))
        .collect();
    if !blocked.is_empty() && statement.is_for_every_key() {
        let text = format!(
            "allows {} on every key; name the keys",
            blocked.join(" and ")
        );
        warn(Rule::BlockedActions, ".Resource", text);
    }
}

impl Statement {
    /// Whether a condition says who is meant, with fixed values only (what AWS Config's
    /// `kms-key-policy-no-public-access` accepts).
    pub fn is_narrowed(&self) -> bool {
        use ConditionKey as K;

        self.conditions().any(|(operator, key, values)| {
            let positive = matches!(
                operator,
                "StringEquals"
                    | "StringEqualsIgnoreCase"
                    | "StringLike"
                    | "ArnEquals"
                    | "ArnLike"
                    | "NumericEquals"
                    | "IpAddress"
                    | "ForAnyValue:StringEquals"
            );
            let who = matches!(
                key,
                K::CallerAccount
                    | K::PrincipalArn
                    | K::PrincipalAccount
                    | K::UserName
                    | K::User
                    | K::UserId
                    | K::SourceArn
                    | K::SourceAccount
                    | K::SourceIp
                    | K::PrincipalTag(_)
                    | K::Uid
                    | K::Gid
                    | K::Groups
                    | K::GroupIds
                    | K::Unit
                    | K::Exe
                    | K::ExeSha256
            );
            let fixed = |value: &String| !value.contains(['*', '?']) && !value.contains("${");
            positive && who && values.iter().all(fixed)
        })
    }

    /// Whether its resources are keys whatever their ids: `*`, `arn:aws:kms:*`, `…:key/*`, or all but
    /// some.
    pub fn is_for_every_key(&self) -> bool {
        let every = |text: &String| match text.splitn(6, ':').nth(5) {
            Some(resource) => resource
                .strip_suffix('*')
                .is_some_and(|prefix| "key/".starts_with(prefix)),
            None => text.ends_with('*'),
        };
        self.not_resource() || self.resources().iter().any(every)
    }
}
