//! Who may do what: the one choke point between a decoded request and its handler.
//!
//! [`Kms::handle`](crate::Kms::handle) asks for every permission that a request needs (`table`) and hands the handler an
//! [`Authorized`], which only this module can make: a handler that is reached without one does not compile. What was
//! decided, and by which statement of which document, goes with the outcome ([`Handled`]) into the audit record.

mod basis;
mod decide;
mod documents;
mod facts;
mod table;

use kms_api::{ApiError, Caller, ErrorCode, Request};

use crate::clock::Now;
use crate::ids::KeyId;
use crate::kms::{Kms, Outcome, unknown_key};
use crate::place::At;

pub use basis::{Basis, DenyBasis, Document as DocumentName};
pub(crate) use decide::Question;
pub(crate) use documents::{Attached, Interned, ask_for, built_ins, hold_ms};
pub use documents::{Document, FilePolicies};
pub(crate) use table::{
    Details, Permission, Resource, guard_rail_resource, identity_kind, names_alias,
};

/// Keys that one request can be about: ReEncrypt and UpdateAlias have two.
const MAX_KEYS: usize = 2;

/// The proof that every permission a request needs was given. Handlers take it, and use no key that it does not cover.
#[derive(Debug)]
pub struct Authorized {
    /// What the request is for.
    pub(crate) at: At,
    /// When it was asked for.
    pub(crate) now: Now,
    basis: Basis,
    keys: [Option<KeyId>; MAX_KEYS],
}

impl AsRef<At> for Authorized {
    fn as_ref(&self) -> &At {
        &self.at
    }
}

impl Authorized {
    /// What allowed it.
    pub fn basis(&self) -> &Basis {
        &self.basis
    }

    /// Joins what the handler made of the request.
    pub(crate) fn handled(self, outcome: Result<Outcome, ApiError>) -> Handled {
        Handled {
            verdict: Verdict::Allowed(self.basis),
            keys: self.keys,
            outcome,
        }
    }

    /// The keys that the permissions were for.
    pub(crate) fn keys(&self) -> impl Iterator<Item = KeyId> + '_ {
        self.keys.iter().flatten().copied()
    }

    /// Whether the permissions were for this key.
    pub(crate) fn covers(&self, key: KeyId) -> bool {
        matches!(self.basis, Basis::Internal) || self.keys.contains(&Some(key))
    }
}

/// What was decided about a request before its handler.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The request was refused before anybody asked whether it is allowed: it names nothing that there is.
    Unasked,
    /// Allowed, and by what.
    Allowed(Basis),
    /// Denied, and by what.
    Denied(DenyBasis),
}

/// What became of a request.
pub struct Handled {
    /// What authorisation said.
    pub verdict: Verdict,
    /// The keys that it was about, found by whatever name: for ReEncrypt the destination, then the source.
    pub keys: [Option<KeyId>; MAX_KEYS],
    /// What is to be done, or the error to reply with.
    pub outcome: Result<Outcome, ApiError>,
}

impl Kms {
    /// Asks for every permission of a request.
    pub(crate) fn authorize(
        &self,
        request: &Request,
        caller: &Caller,
        now: Now,
    ) -> Result<Authorized, Box<Handled>> {
        let unasked = |error| {
            Box::new(Handled {
                verdict: match error == unknown_key() {
                    true => Verdict::Denied(DenyBasis::UnknownKey),
                    false => Verdict::Unasked,
                },
                keys: [None; MAX_KEYS],
                outcome: Err(error),
            })
        };
        let at = At {
            crosses: table::crosses(request),
            ..At::of(self.snapshot(), caller)
        };
        let needs = self.needs(request, &at, now).map_err(unasked)?;
        let keys = needs.keys();
        let mut basis = None;
        for permission in &needs.permissions {
            let question = Question {
                caller,
                permission,
                key_policy: None,
                now,
            };
            match self.decide(&question, None) {
                Ok(given) => basis = basis.or(Some(given)),
                Err(denied) => {
                    return Err(Box::new(Handled {
                        outcome: Err(self.refusal(caller, permission, &denied)),
                        verdict: Verdict::Denied(denied),
                        keys,
                    }));
                }
            }
        }
        // Only now: what is wrong with a token tells nobody whether there is a key that he may not use.
        self.check_tokens(request.grant_tokens(), &keys, now)
            .map_err(|error| {
                Box::new(Handled {
                    verdict: Verdict::Unasked,
                    keys,
                    outcome: Err(error),
                })
            })?;
        match basis {
            Some(basis) => Ok(Authorized {
                at,
                now,
                basis,
                keys,
            }),
            // An operation that needs no permission does not exist.
            None => Err(Box::new(Handled {
                verdict: Verdict::Unasked,
                keys,
                outcome: Err(ApiError::bare(ErrorCode::Internal)),
            })),
        }
    }

    /// The error for a permission that was not given, in AWS's words.
    pub(crate) fn refusal(
        &self,
        caller: &Caller,
        permission: &Permission<'_>,
        denied: &DenyBasis,
    ) -> ApiError {
        if permission.details.from_ciphertext {
            return unknown_key();
        }
        let action = permission.action;
        let reason = match denied {
            DenyBasis::Explicit { document, .. } => match document {
                DocumentName::KeyPolicy => "with an explicit deny in a resource-based policy",
                DocumentName::IdentityPolicy { .. } => {
                    "with an explicit deny in an identity-based policy"
                }
                DocumentName::GuardRail { .. } => {
                    "with an explicit deny in a service control policy"
                }
            }
            .to_owned(),
            DenyBasis::OutsideGuardRail { .. } => {
                format!("because no service control policy allows the {action} action")
            }
            DenyBasis::NoKeyPolicy => {
                format!("because no resource-based policy allows the {action} action")
            }
            DenyBasis::NoIdentityPolicy => {
                format!("because no identity-based policy allows the {action} action")
            }
            DenyBasis::Unreadable { document } => format!(
                "because a stored policy ({document}) cannot be read; the account's root \
                 principal can replace it"
            ),
            DenyBasis::UnknownKey => return unknown_key(),
            DenyBasis::NotAParty => "because it is not a party of it".to_owned(),
            DenyBasis::ForeignPrincipal => {
                "because that is a principal of another account".to_owned()
            }
            DenyBasis::OtherAccount => format!(
                "because only callers of account {} may ask that of this host",
                self.snapshot().home().account
            ),
        };
        ApiError::new(
            ErrorCode::AccessDenied,
            format!(
                "User: {} is not authorized to perform: {action} on resource: {} {reason}",
                caller.arn,
                self.resource_arn(&permission.resource),
            ),
        )
    }
}
