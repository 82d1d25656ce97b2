//! A request as both evaluators see it.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use kms_core::policy::{ConditionKey, Context, Decision, Policy, PolicyKind, Query, Value, Values};

/// A value with its type.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Typed {
    Text(String),
    Number(i64),
    Bool(bool),
    /// Milliseconds.
    Time(i64),
    Ip(IpAddr),
}

/// What the request has under a condition key.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Fact {
    Unknown,
    One(Typed),
    Many(Vec<Typed>),
}

#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) principals: Vec<String>,
    pub(crate) account: String,
    pub(crate) action: String,
    pub(crate) resource: String,
    /// By the names that AWS's documentation writes; absent keys are absent.
    pub(crate) facts: BTreeMap<String, Fact>,
}

/// What came out, without the statement.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Verdict {
    Deny,
    NoMatch,
    AllowAccount,
    AllowPrincipal,
}

impl Context for Request {
    fn get(&self, key: ConditionKey<'_>) -> Values<'_> {
        let wanted = key.name();
        let mut facts = self.facts.iter();
        let found = facts.find(|(name, _)| name.eq_ignore_ascii_case(&wanted));
        match found.map(|(_, fact)| fact) {
            None => Values::Absent,
            Some(Fact::Unknown) => Values::Unknown,
            Some(Fact::One(value)) => Values::One(typed(value)),
            Some(Fact::Many(values)) => Values::Many(values.iter().map(typed).collect()),
        }
    }
}

fn typed(value: &Typed) -> Value<'_> {
    match value {
        Typed::Text(text) => Value::from(text.as_str()),
        Typed::Number(number) => Value::Number(*number),
        Typed::Bool(value) => Value::Bool(*value),
        Typed::Time(ms) => Value::Time(*ms),
        Typed::Ip(address) => Value::Ip(*address),
    }
}

impl Request {
    /// What the compiled evaluator says.
    pub(crate) fn ask(&self, policy: &Policy) -> Verdict {
        let principals: Vec<Arc<str>> = self.principals.iter().map(|p| p.as_str().into()).collect();
        let query = Query {
            principals: &principals,
            possible: &[],
            account: &self.account,
            action: &self.action,
            resource: &self.resource,
            context: self,
        };
        match policy.evaluate(&query) {
            Decision::Deny(_) => Verdict::Deny,
            Decision::AllowPrincipal(_) => Verdict::AllowPrincipal,
            Decision::AllowAccount(_) => Verdict::AllowAccount,
            Decision::NoMatch => Verdict::NoMatch,
        }
    }
}

/// Parses a document that must be a policy.
pub(crate) fn parse(document: &serde_json::Value, kind: PolicyKind) -> Policy {
    Policy::parse(&document.to_string(), kind)
        .unwrap_or_else(|error| panic!("{error} in {document:#}"))
}
