//! Actions: the names that policies allow and deny, and patterns over them.

use std::collections::HashMap;
use std::sync::OnceLock;

use kms_api::{LOCAL_PREFIX, Request};

use super::key::ConditionKey;
use super::pattern::{Syntax, Template};
use super::value::{Context, Values};
use super::{Truth, error::PolicyError};

/// What AWS KMS has permissions for, without the prefix `kms:`. Those of operations that do not exist
/// here are names all the same, so that policies written for AWS mean the same.
const AWS: &[&str] = &[
    "CancelKeyDeletion",
    "ConnectCustomKeyStore",
    "CreateAlias",
    "CreateCustomKeyStore",
    "CreateGrant",
    "CreateKey",
    "Decapsulate",
    "Decrypt",
    "DeleteAlias",
    "DeleteCustomKeyStore",
    "DeleteImportedKeyMaterial",
    "DeriveSharedSecret",
    "DescribeCustomKeyStores",
    "DescribeKey",
    "DisableKey",
    "DisableKeyRotation",
    "DisconnectCustomKeyStore",
    "EnableKey",
    "EnableKeyRotation",
    "Encapsulate",
    "Encrypt",
    "GenerateDataKey",
    "GenerateDataKeyPair",
    "GenerateDataKeyPairWithoutPlaintext",
    "GenerateDataKeyWithoutPlaintext",
    "GenerateMac",
    "GenerateRandom",
    "GetKeyLastUsage",
    "GetKeyPolicy",
    "GetKeyRotationStatus",
    "GetParametersForImport",
    "GetPublicKey",
    "ImportKeyMaterial",
    "ListAliases",
    "ListGrants",
    "ListKeyPolicies",
    "ListKeyRotations",
    "ListKeys",
    "ListResourceTags",
    "ListRetirableGrants",
    "PutKeyPolicy",
    "ReEncryptFrom",
    "ReEncryptTo",
    "ReplicateKey",
    "RetireGrant",
    "RevokeGrant",
    "RotateKeyOnDemand",
    "ScheduleKeyDeletion",
    "Sign",
    "SynchronizeMultiRegionKey",
    "TagResource",
    "UntagResource",
    "UpdateAlias",
    "UpdateCustomKeyStore",
    "UpdateKeyDescription",
    "UpdatePrimaryRegion",
    "Verify",
    "VerifyMac",
];

/// The known actions in a fixed order, and their places in it.
struct Known {
    names: Vec<String>,
    places: HashMap<String, usize>,
}

fn known() -> &'static Known {
    static KNOWN: OnceLock<Known> = OnceLock::new();
    KNOWN.get_or_init(|| {
        let aws = AWS.iter().map(|name| format!("kms:{name}"));
        let local = Request::OPERATIONS
            .iter()
            .filter(|(prefix, _)| *prefix == LOCAL_PREFIX)
            .map(|(_, name)| format!("kmsd:{name}"));
        let names: Vec<String> = aws.chain(local).collect();
        let places = names.iter().cloned().zip(0..).collect();
        Known { names, places }
    })
}

/// Every action that a request may need, for example `kms:Decrypt`.
pub fn known_actions() -> impl Iterator<Item = &'static str> {
    known().names.iter().map(String::as_str)
}

/// The place of a known action, written as [`known_actions`] writes it.
pub(crate) fn place(action: &str) -> Option<usize> {
    known().places.get(action).copied()
}

/// Whether a pattern of a document is about an action.
pub(crate) fn suits(text: &str, action: &str) -> bool {
    pattern("", text)
        .is_ok_and(|pattern| pattern.matches(&action.to_ascii_lowercase(), &Nothing) == Truth::True)
}

/// The actions that a statement names, or all others.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Actions {
    patterns: Vec<Template>,
    inverted: bool,
    /// As the document writes them.
    pub(crate) texts: Vec<String>,
}

impl Actions {
    pub(crate) fn parse(
        path: &str,
        texts: Vec<String>,
        inverted: bool,
    ) -> Result<Self, PolicyError> {
        if texts.is_empty() {
            return Err(PolicyError::new(path, "names no action"));
        }
        let patterns = texts.iter().map(|text| pattern(path, text));
        Ok(Self {
            patterns: patterns.collect::<Result<_, _>>()?,
            inverted,
            texts,
        })
    }

    pub(crate) fn is_inverted(&self) -> bool {
        self.inverted
    }

    /// Whether `action` is among them, whatever its case.
    pub(crate) fn contain(&self, action: &str) -> bool {
        let action = action.to_ascii_lowercase();
        let named = self
            .patterns
            .iter()
            .any(|pattern| pattern.matches(&action, &Nothing) == Truth::True);
        named != self.inverted
    }
}

fn pattern(path: &str, text: &str) -> Result<Template, PolicyError> {
    let refuse = |reason: String| Err(PolicyError::new(path, reason));
    if text != "*" {
        let Some((service, name)) = text.split_once(':') else {
            return refuse(format!("{text:?} has no service prefix such as kms:"));
        };
        let plain = |b: u8| b.is_ascii_alphanumeric() || b == b'-';
        if service.is_empty() || !service.bytes().all(plain) {
            return refuse(format!(
                "{text:?} does not begin with the name of a service"
            ));
        }
        let allowed = |b: u8| b.is_ascii_alphanumeric() || b"*?_-".contains(&b);
        if name.is_empty() || !name.bytes().all(allowed) {
            return refuse(format!("{text:?} is not the name of an action"));
        }
    }
    let syntax = Syntax {
        wildcards: true,
        variables: false,
        arn: false,
    };
    Template::parse(&text.to_ascii_lowercase(), syntax)
        .map_err(|reason| PolicyError::new(path, reason))
}

/// A context without any key: actions have no variables.
struct Nothing;

impl Context for Nothing {
    fn get(&self, _: ConditionKey<'_>) -> Values<'_> {
        Values::Absent
    }
}
