//! Who may do what: the one choke point between a decoded request and its handler.
//!
//! [`Kms::handle`](crate::Kms::handle) asks for every permission that a request needs ([`table`]) and hands the handler an
//! [`Authorized`], which only this module can make: a handler that is reached without one does not compile. What was
//! decided, and by which statement of which document, goes with the outcome ([`Handled`]) into the audit record.

#![expect(
    dead_code,
    reason = "the conditions that ask for details come with the evaluator"
)]

mod basis;
mod table;

use kms_api::{ApiError, Caller, CallerRole, ErrorCode, Request};

use crate::clock::Now;
use crate::grants;
use crate::ids::KeyId;
use crate::kms::{Kms, Outcome};

pub use basis::{Basis, DenyBasis, Document};

/// Keys that one request can be about: ReEncrypt and UpdateAlias have two.
const MAX_KEYS: usize = 2;

/// The proof that every permission a request needs was given. Handlers take it, and use no key that it does not cover.
#[derive(Debug)]
pub struct Authorized {
    basis: Basis,
    keys: [Option<KeyId>; MAX_KEYS],
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

/// A request without permission.
#[derive(Debug)]
pub struct Denied {
    /// The error to reply with.
    pub error: ApiError,
    /// What denied it.
    pub basis: DenyBasis,
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
                verdict: Verdict::Unasked,
                keys: [None; MAX_KEYS],
                outcome: Err(error),
            })
        };
        let needs = self.needs(request, now).map_err(unasked)?;
        let keys = needs.keys();
        self.check_tokens(request.grant_tokens(), &keys, now)
            .map_err(unasked)?;
        let basis = match caller.role {
            CallerRole::Internal => Basis::Internal,
            CallerRole::Root => Basis::Root,
            CallerRole::Admin => Basis::built_in("AdministratorAccess"),
            CallerRole::Service => Basis::built_in("ServiceAccess"),
            CallerRole::User
                if needs
                    .permissions
                    .iter()
                    .all(|needed| match needed.resource {
                        table::Resource::Own => true,
                        table::Resource::Grant(_, row) => {
                            grants::may_retire(row, &caller.principals, now)
                        }
                        _ => false,
                    }) =>
            {
                Basis::Party
            }
            CallerRole::User => {
                let action = needs.permissions.first().map_or("", |first| first.action);
                return Err(Box::new(Handled {
                    verdict: Verdict::Denied(DenyBasis::NoIdentityPolicy),
                    keys,
                    outcome: Err(ApiError::new(
                        ErrorCode::AccessDenied,
                        format!(
                            "User: {} is not authorized to perform: {action} because no \
                             identity-based policy allows the {action} action",
                            caller.arn
                        ),
                    )),
                }));
            }
        };
        Ok(Authorized { basis, keys })
    }
}
