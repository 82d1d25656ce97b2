//! AWS policy documents: parsed and compiled when they are stored, evaluated with every request.
//!
//! [`Policy::parse`] refuses whatever is not a policy, with the path of the fault, so that nothing can
//! go wrong later. [`Policy::evaluate`] answers what one document says about one request; how the
//! documents of a request combine is the business of the authorisation. Nothing here knows keys,
//! grants or sockets: a request is a [`Query`] over a [`Context`].
//!
//! What cannot be established about a caller ([`Values::Unknown`]) makes a Deny that asks for it apply
//! and an Allow that asks for it not apply.

mod action;
mod check;
mod condition;
mod error;
mod json;
mod key;
mod operator;
mod pattern;
mod principal;
mod statement;
pub mod templates;
mod value;

#[cfg(test)]
mod tests;

use std::sync::Arc;

pub use action::known_actions;
pub use check::{BLOCKED_ACTIONS, Rule, Warning};
pub use error::PolicyError;
pub use key::{ConditionKey, KeyType};
pub use statement::{Effect, Statement};
pub use value::{Context, Names as CallerNames, Value, Values};

use json::Json;
use principal::{Found, Named, Names};

/// Bytes of a policy document.
pub const MAX_POLICY_BYTES: usize = 32_768;

/// What a document may contain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PolicyKind {
    /// A key policy: statements say whom they are about.
    Key,
    /// A policy of a user, group, unit or role.
    Identity,
    /// A policy that limits everyone.
    GuardRail,
}

/// A compiled policy document.
#[derive(Clone, Debug, PartialEq)]
pub struct Policy {
    kind: PolicyKind,
    id: Option<String>,
    statements: Vec<Statement>,
    names: Names,
    /// Words of 64 statements in a row of the tables below.
    words: usize,
    /// For each known action, the statements that deny it.
    denies: Vec<u64>,
    /// For each known action, the statements that allow it.
    allows: Vec<u64>,
}

/// A request as a policy sees it.
#[derive(Clone, Copy)]
pub struct Query<'a> {
    /// Every principal of the caller.
    pub principals: &'a [Arc<str>],
    /// Principals that the caller may have besides, which could not be established: a Deny that names one applies, and
    /// so does one that excepts one; an Allow never does on the strength of them.
    pub possible: &'a [Arc<str>],
    /// The caller's account.
    pub account: &'a str,
    /// For example `kms:Decrypt`.
    pub action: &'a str,
    /// ARN of the key, or of whatever else the action is on; `*` for actions on nothing in particular.
    pub resource: &'a str,
    /// Everything else that conditions may ask for.
    pub context: &'a dyn Context,
}

/// What one document says about a request.
#[derive(Clone, Debug, PartialEq)]
pub enum Decision<'p> {
    /// It is denied, whatever anything else says.
    Deny(StatementRef<'p>),
    /// It is allowed. In a key policy the statement names one of the caller's principals, or everyone.
    AllowPrincipal(StatementRef<'p>),
    /// A statement of a key policy names the caller's account: policies of identities count.
    AllowAccount(StatementRef<'p>),
    /// The document has nothing to say.
    NoMatch,
}

/// The statement that decided.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StatementRef<'p> {
    /// Its place in the document, from 0.
    pub index: usize,
    /// Its `Sid`, if it has one.
    pub sid: Option<&'p str>,
    /// Set when it denies only because this could not be established.
    pub lacking: Option<ConditionKey<'p>>,
}

/// Whether a condition holds, if that is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Truth {
    False,
    Unknown,
    True,
}

impl Policy {
    /// Reads and compiles a document.
    ///
    /// # Errors
    /// The document is not a policy of that kind; the error names the place.
    pub fn parse(text: &str, kind: PolicyKind) -> Result<Self, PolicyError> {
        let refuse = |reason: String| Err(PolicyError::new("Policy", reason));
        if text.len() > MAX_POLICY_BYTES {
            return refuse(format!("is longer than {MAX_POLICY_BYTES} bytes"));
        }
        let document: Json = match serde_json::from_str(text) {
            Ok(document) => document,
            Err(error) => return refuse(format!("is not JSON: {error}")),
        };
        let (mut id, mut version, mut statements) = (None, None, None);
        for (name, value) in document.members("Policy")? {
            match name.as_str() {
                "Version" => version = Some(value.text("Version")?),
                "Id" => id = Some(value.text("Id")?),
                "Statement" => statements = Some(value.one_or_many()),
                _ => return Err(PolicyError::new(name, "is not an element of a policy")),
            }
        }
        let variables = match version.as_deref() {
            Some("2012-10-17") => true,
            None | Some("2008-10-17") => false,
            Some(other) => {
                let reason = format!("is {other:?}, and neither 2012-10-17 nor 2008-10-17");
                return Err(PolicyError::new("Version", reason));
            }
        };
        let Some(statements) = statements.filter(|statements| !statements.is_empty()) else {
            return Err(PolicyError::new("Statement", "is missing or empty"));
        };
        let mut names = Names::default();
        let statements = statements
            .into_iter()
            .enumerate()
            .map(|(index, value)| Statement::parse(index, value, kind, variables, &mut names))
            .collect::<Result<Vec<_>, _>>()?;
        let words = statements.len().div_ceil(64);
        let mut policy = Self {
            kind,
            id,
            statements,
            names,
            words,
            denies: Vec::new(),
            allows: Vec::new(),
        };
        for action in known_actions() {
            let row = policy.row(action, Effect::Deny);
            policy.denies.extend(row);
            let row = policy.row(action, Effect::Allow);
            policy.allows.extend(row);
        }
        Ok(policy)
    }

    /// What the document is.
    pub fn kind(&self) -> PolicyKind {
        self.kind
    }

    /// Its `Id`, if it has one.
    pub fn id(&self) -> Option<&str> {
        self.id.as_deref()
    }

    /// Its statements, in order.
    pub fn statements(&self) -> impl Iterator<Item = &Statement> {
        self.statements.iter()
    }

    /// Every condition key that any statement may ask for, those of policy variables included.
    pub fn condition_keys(&self) -> impl Iterator<Item = ConditionKey<'_>> {
        self.statements.iter().flat_map(Statement::condition_keys)
    }

    /// At which times, in milliseconds since 1970, it may come to say something else, in order; `None` when it may at
    /// any time.
    pub fn turns(&self) -> Option<Vec<i64>> {
        let turns = self.statements.iter().map(Statement::turns);
        let mut turns = turns.collect::<Option<Vec<_>>>()?.concat();
        turns.sort_unstable();
        turns.dedup();
        Some(turns)
    }

    /// Whether any statement asks for `key`.
    pub fn mentions(&self, key: ConditionKey<'_>) -> bool {
        self.condition_keys().any(|known| known == key)
    }

    /// What the document says about a request: a Deny before everything else, and an Allow for the
    /// principal before one for its account.
    pub fn evaluate<'p>(&'p self, query: &Query<'_>) -> Decision<'p> {
        let (denies, allows);
        let (denies, allows): (&[u64], &[u64]) = match self.rows(query.action) {
            Some(rows) => rows,
            None => {
                denies = self.row(query.action, Effect::Deny);
                allows = self.row(query.action, Effect::Allow);
                (&denies, &allows)
            }
        };
        let who = self.who(query);
        for statement in self.chosen(denies) {
            let surely = match who.denied(statement) {
                Truth::False => continue,
                surely => surely,
            };
            match statement.holds(query) {
                Truth::False => {}
                Truth::True => {
                    return Decision::Deny(StatementRef {
                        lacking: (surely == Truth::Unknown).then_some(ConditionKey::PrincipalArn),
                        ..statement.reference()
                    });
                }
                Truth::Unknown => {
                    return Decision::Deny(StatementRef {
                        lacking: statement.lacking(query.context),
                        ..statement.reference()
                    });
                }
            }
        }
        let mut account = None;
        for statement in self.chosen(allows) {
            let named = who.allowed(statement);
            if named == Named::No || (named == Named::Account && account.is_some()) {
                continue;
            }
            if statement.holds(query) == Truth::True {
                if named == Named::Principal {
                    return Decision::AllowPrincipal(statement.reference());
                }
                account = Some(statement.reference());
            }
        }
        account.map_or(Decision::NoMatch, Decision::AllowAccount)
    }

    /// Every statement that applies to a request, in order, and whether it only delegates to the caller's account: for
    /// explanations. A Deny is among them, too, if it applies only because something could not be established.
    pub fn matching<'p>(&'p self, query: &Query<'_>) -> Vec<(&'p Statement, bool)> {
        let who = self.who(query);
        let applies = |statement: &&Statement| match statement.holds(query) {
            Truth::True => true,
            Truth::Unknown => statement.effect() == Effect::Deny,
            Truth::False => false,
        };
        self.statements
            .iter()
            .filter(|statement| statement.is_about(query.action))
            .filter(applies)
            .filter_map(|statement| match statement.effect() {
                Effect::Deny => {
                    (who.denied(statement) != Truth::False).then_some((statement, false))
                }
                Effect::Allow => match who.allowed(statement) {
                    Named::No => None,
                    named => Some((statement, named == Named::Account)),
                },
            })
            .collect()
    }

    /// Whom the statements name, of those that the caller is and may be.
    fn who<'q>(&self, query: &Query<'q>) -> Who<'q> {
        let known = self.names.find(query.principals);
        let possible = match query.possible.is_empty() {
            true => None,
            false => known.with(&self.names.find(query.possible)),
        };
        Who {
            known,
            possible,
            account: query.account,
        }
    }

    /// The statements that deny a known action, and those that allow it.
    fn rows(&self, action: &str) -> Option<(&[u64], &[u64])> {
        let start = action::place(action)? * self.words;
        let range = start..start + self.words;
        Some((self.denies.get(range.clone())?, self.allows.get(range)?))
    }

    fn row(&self, action: &str, effect: Effect) -> Vec<u64> {
        let mut row = vec![0; self.words];
        for statement in &self.statements {
            let at = statement.index();
            if let Some(word) = row.get_mut(at / 64)
                && statement.effect() == effect
                && statement.is_about(action)
            {
                *word |= 1 << (at % 64);
            }
        }
        row
    }

    /// The statements whose bits are set.
    fn chosen<'p>(&'p self, row: &[u64]) -> impl Iterator<Item = &'p Statement> {
        row.iter().enumerate().flat_map(move |(at, word)| {
            let mut left = *word;
            std::iter::from_fn(move || {
                let bit = left.trailing_zeros();
                left &= left.checked_sub(1)?;
                self.statements.get(at * 64 + bit as usize)
            })
        })
    }
}

/// A caller as the statements of one policy may name it.
struct Who<'q> {
    known: Found,
    /// With what it may be besides, where the policy names any of that.
    possible: Option<Found>,
    account: &'q str,
}

impl Who<'_> {
    /// Whether a Deny is about the caller.
    fn denied(&self, statement: &Statement) -> Truth {
        let named = |found| statement.name(found, self.account) != Named::No;
        if named(&self.known) {
            return Truth::True;
        }
        match self.possible.as_ref().is_some_and(named) {
            true => Truth::Unknown,
            false => Truth::False,
        }
    }

    /// How an Allow is about the caller, whatever it may be besides.
    fn allowed(&self, statement: &Statement) -> Named {
        let known = statement.name(&self.known, self.account);
        match &self.possible {
            Some(found) => known.min(statement.name(found, self.account)),
            None => known,
        }
    }
}

impl Statement {
    fn reference(&self) -> StatementRef<'_> {
        StatementRef {
            index: self.index(),
            sid: self.sid(),
            lacking: None,
        }
    }
}

impl std::fmt::Display for StatementRef<'_> {
    fn fmt(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.sid {
            Some(sid) => write!(to, "Statement[{}] ({sid})", self.index),
            None => write!(to, "Statement[{}]", self.index),
        }
    }
}

impl From<bool> for Truth {
    fn from(value: bool) -> Self {
        if value { Self::True } else { Self::False }
    }
}

impl Truth {
    fn any(values: impl Iterator<Item = Self>) -> Self {
        let mut any = Self::False;
        for value in values {
            match value {
                Self::True => return Self::True,
                Self::Unknown => any = Self::Unknown,
                Self::False => {}
            }
        }
        any
    }

    fn all(values: impl Iterator<Item = Self>) -> Self {
        let mut all = Self::True;
        for value in values {
            match value {
                Self::False => return Self::False,
                Self::Unknown => all = Self::Unknown,
                Self::True => {}
            }
        }
        all
    }

    fn negated_if(self, negated: bool) -> Self {
        match (self, negated) {
            (Self::True, true) => Self::False,
            (Self::False, true) => Self::True,
            (same, _) => same,
        }
    }
}
