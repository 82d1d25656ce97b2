//! Principals: whom a statement of a key policy is about.

use std::collections::HashMap;
use std::sync::Arc;

use super::error::PolicyError;
use super::json::Json;

/// The principals that a policy names, each with a number.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Names {
    places: HashMap<Box<str>, usize>,
}

impl Names {
    fn intern(&mut self, name: &str) -> usize {
        let next = self.places.len();
        *self.places.entry(name.into()).or_insert(next)
    }

    /// The numbers of those of a caller's principals that the policy names at all.
    pub(crate) fn find(&self, principals: &[Arc<str>]) -> Found {
        let mut found = Found::default();
        if !self.places.is_empty() {
            for principal in principals {
                if let Some(place) = self.places.get(principal.as_ref()) {
                    found.push(*place);
                }
            }
        }
        found
    }
}

/// A caller's principals by number; the usual few without an allocation.
#[derive(Default)]
pub(crate) struct Found {
    first: [usize; 6],
    count: usize,
    more: Vec<usize>,
}

impl Found {
    fn push(&mut self, place: usize) {
        match self.first.get_mut(self.count) {
            Some(free) => {
                *free = place;
                self.count += 1;
            }
            None => self.more.push(place),
        }
    }

    /// Both together; `None` when the others are none.
    pub(crate) fn with(&self, others: &Self) -> Option<Self> {
        let mut both = Self::default();
        let mut more = false;
        for place in self.iter() {
            both.push(place);
        }
        for place in others.iter() {
            both.push(place);
            more = true;
        }
        more.then_some(both)
    }

    fn iter(&self) -> impl Iterator<Item = usize> {
        self.first
            .iter()
            .take(self.count)
            .chain(&self.more)
            .copied()
    }
}

/// How a statement names a caller, the weaker first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Named {
    No,
    /// Through its account only.
    Account,
    /// Itself, or everyone.
    Principal,
}

/// The element `Principal` or `NotPrincipal`.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Principals {
    inverted: bool,
    anyone: bool,
    accounts: Vec<String>,
    /// Numbers in [`Names`], in order.
    exact: Vec<usize>,
    /// As the document writes them, without the words `AWS` and `Service`.
    pub(crate) texts: Vec<String>,
}

impl Principals {
    pub(crate) fn parse(
        path: &str,
        value: Json,
        inverted: bool,
        names: &mut Names,
    ) -> Result<Self, PolicyError> {
        let mut principals = Self {
            inverted,
            anyone: false,
            accounts: Vec::new(),
            exact: Vec::new(),
            texts: Vec::new(),
        };
        match value {
            Json::Text(text) if text == "*" => {
                principals.anyone = true;
                principals.texts.push(text);
            }
            Json::Text(text) => {
                let reason = format!("{text:?} is neither \"*\" nor an object");
                return Err(PolicyError::new(path, reason));
            }
            object => {
                for (kind, value) in object.members(path)? {
                    let path = format!("{path}.{kind}");
                    let texts = value.texts(&path)?;
                    if texts.is_empty() {
                        return Err(PolicyError::new(path, "names nobody"));
                    }
                    for text in texts {
                        principals.add(&path, &kind, &text, names)?;
                        principals.texts.push(text);
                    }
                }
            }
        }
        if principals.texts.is_empty() {
            return Err(PolicyError::new(path, "names nobody"));
        }
        principals.exact.sort_unstable();
        principals.exact.dedup();
        Ok(principals)
    }

    fn add(
        &mut self,
        path: &str,
        kind: &str,
        text: &str,
        names: &mut Names,
    ) -> Result<(), PolicyError> {
        let refuse = |reason: String| Err(PolicyError::new(path, reason));
        match kind {
            "AWS" if text == "*" => self.anyone = true,
            "AWS" => match read_aws(text) {
                Ok(Aws::Account(account)) => {
                    // The root principal itself is the account's, and everyone in it is delegated to.
                    self.exact
                        .push(names.intern(&format!("arn:aws:iam::{account}:root")));
                    self.accounts.push(account.to_owned());
                }
                Ok(Aws::Exact) => self.exact.push(names.intern(text)),
                Err(reason) => return refuse(reason),
            },
            "Service" if is_service(text) => self.exact.push(names.intern(text)),
            "Service" => {
                return refuse(format!(
                    "{text:?} is not a service such as kmsfs.local-host-1.amazonaws.com"
                ));
            }
            "Federated" | "CanonicalUser" => {
                return refuse(format!(
                    "principals of the kind {kind} do not exist here: nobody could be meant"
                ));
            }
            _ => return refuse(format!("{kind} is not a kind of principal")),
        }
        Ok(())
    }

    /// How a caller with these principals, of this account, is named.
    pub(crate) fn name(&self, found: &Found, account: &str) -> Named {
        let exact = || {
            self.anyone
                || found
                    .iter()
                    .any(|place| self.exact.binary_search(&place).is_ok())
        };
        if self.inverted {
            // An account here means its root principal, as AWS has it: the others are not excepted.
            return if exact() { Named::No } else { Named::Principal };
        }
        if exact() {
            Named::Principal
        } else if self.accounts.iter().any(|known| known == account) {
            Named::Account
        } else {
            Named::No
        }
    }

    pub(crate) fn is_inverted(&self) -> bool {
        self.inverted
    }

    /// Whether it is everyone.
    pub(crate) fn is_anyone(&self) -> bool {
        self.anyone && !self.inverted
    }

    /// The accounts named.
    pub(crate) fn accounts(&self) -> &[String] {
        &self.accounts
    }
}

/// What a text under `AWS` names.
enum Aws<'a> {
    Account(&'a str),
    Exact,
}

fn read_aws(text: &str) -> Result<Aws<'_>, String> {
    if is_account(text) {
        return Ok(Aws::Account(text));
    }
    if text.contains(['*', '?']) {
        return Err(format!(
            "{text:?} has a wildcard: a principal is \"*\" or written out; use a condition on \
             aws:PrincipalArn to match several"
        ));
    }
    let not_one = || {
        format!(
            "{text:?} is not a principal: an account id, or the ARN of an account's root, a user, a \
             role or a session of a role"
        )
    };
    let parts: Vec<&str> = text.splitn(6, ':').collect();
    let ["arn", partition, service, "", account, resource] = parts.as_slice() else {
        return Err(not_one());
    };
    if !partition.starts_with("aws") || !is_account(account) {
        return Err(not_one());
    }
    let (kind, name) = resource.split_once('/').unwrap_or((resource, ""));
    match (*service, kind) {
        ("iam", "root") if *resource == "root" => Ok(Aws::Account(account)),
        ("iam", "group") => Err(format!(
            "{text:?} is a group, and groups are not principals: write a policy for the group, or \
             use a condition on kmsd:Groups"
        )),
        ("iam", "user" | "role") if !name.is_empty() && !name.ends_with('/') => Ok(Aws::Exact),
        ("sts", "assumed-role") if name.split('/').filter(|p| !p.is_empty()).count() == 2 => {
            Ok(Aws::Exact)
        }
        ("sts", "federated-user") if !name.is_empty() => Ok(Aws::Exact),
        _ => Err(not_one()),
    }
}

fn is_account(text: &str) -> bool {
    text.len() == 12 && text.bytes().all(|b| b.is_ascii_digit())
}

fn is_service(text: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b == b'.' || b == b'-';
    text.contains('.') && text.bytes().all(allowed)
}
