//! What allowed or denied a request, as replies, audit records and explanations name it.

use std::fmt;

use serde::{Deserialize, Serialize};

/// What allowed a request. In an audit record it is one text, for example `identity-policy:user/alice/read#Sid1`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type")]
pub enum Basis {
    /// A statement of the key's policy.
    KeyPolicy {
        /// Its Sid, or its index from 0 where it has none.
        statement: String,
    },
    /// A statement of an identity policy.
    IdentityPolicy {
        /// `user/alice/NAME`, or `built-in/NAME`.
        policy: String,
        /// Its Sid, or its index from 0 where it has none.
        statement: String,
    },
    /// A grant on the key.
    Grant {
        /// Its id.
        id: String,
    },
    /// The caller is the account's root principal, and the action is on no key.
    Root,
    /// The caller is named by the thing itself: the retiring principal of a grant, the requester of an approval.
    Party,
    /// The other permissions of the request, which this one comes with.
    Implied,
    /// The daemon itself.
    Internal,
}

/// A policy document.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "document")]
pub enum Document {
    /// The key's policy.
    KeyPolicy,
    /// An identity policy.
    IdentityPolicy {
        /// `user/alice/NAME`, or `built-in/NAME`.
        policy: String,
    },
    /// A guard rail.
    GuardRail {
        /// Its name.
        name: String,
    },
}

/// What denied a request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type")]
pub enum DenyBasis {
    /// A Deny statement that applies.
    Explicit {
        /// The document it stands in.
        #[serde(flatten)]
        document: Document,
        /// Its Sid, or its index from 0 where it has none.
        statement: String,
        /// The condition key that could not be established, if it applies only for that.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        lacking: Option<String>,
    },
    /// A guard rail that has Allow statements, none of which covers the request.
    OutsideGuardRail {
        /// Its name.
        name: String,
    },
    /// The key policy neither allows the caller nor hands the decision to the identity policies of the account, and no
    /// grant allows it.
    NoKeyPolicy,
    /// The decision is the identity policies', and none of them allows it; nor does a grant.
    NoIdentityPolicy,
    /// A stored document cannot be read, so what it denies is not known.
    Unreadable {
        /// The document.
        #[serde(flatten)]
        document: Document,
    },
    /// A ciphertext of a key that does not exist here.
    UnknownKey,
    /// The caller is not a party of the thing: neither retiring principal nor grantee of the grant.
    NotAParty,
    /// The caller's account is not the one that the host's own things belong to.
    OtherAccount,
    /// The principal that is asked about is of another account.
    ForeignPrincipal,
}

impl fmt::Display for Basis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::KeyPolicy { statement } => write!(f, "key-policy#{statement}"),
            Self::IdentityPolicy { policy, statement } => {
                write!(f, "identity-policy:{policy}#{statement}")
            }
            Self::Grant { id } => write!(f, "grant:{id}"),
            Self::Root => f.write_str("root"),
            Self::Party => f.write_str("party"),
            Self::Implied => f.write_str("implied"),
            Self::Internal => f.write_str("internal"),
        }
    }
}

impl fmt::Display for Document {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::KeyPolicy => f.write_str("key-policy"),
            Self::IdentityPolicy { policy } => write!(f, "identity-policy:{policy}"),
            Self::GuardRail { name } => write!(f, "guard-rail:{name}"),
        }
    }
}

impl fmt::Display for DenyBasis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Explicit {
                document,
                statement,
                lacking,
            } => {
                write!(f, "explicit-deny:{document}#{statement}")?;
                match lacking {
                    Some(key) => write!(f, " (not established: {key})"),
                    None => Ok(()),
                }
            }
            Self::OutsideGuardRail { name } => write!(f, "outside-guard-rail:{name}"),
            Self::NoKeyPolicy => f.write_str("implicit-deny:no-key-policy-allows"),
            Self::NoIdentityPolicy => f.write_str("implicit-deny:no-identity-policy-allows"),
            Self::Unreadable { document } => write!(f, "unreadable:{document}"),
            Self::UnknownKey => f.write_str("unknown-key"),
            Self::NotAParty => f.write_str("not-a-party"),
            Self::OtherAccount => f.write_str("other-account"),
            Self::ForeignPrincipal => f.write_str("foreign-principal"),
        }
    }
}
