//! What one record says.

use std::collections::BTreeMap;
use std::sync::Arc;

use data_encoding::HEXLOWER;
use kms_api::{ApiError, Caller, CallerRole};
use kms_crypto::sha256;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::encode::{Encoded, encode};
use super::line::{ENVELOPE, MAX_LINE};
use crate::authz::Verdict;
use crate::ids::Scope;

/// Source of records about operations and events of AWS KMS.
pub const KMS_SOURCE: &str = "kms.amazonaws.com";
/// Source of records about kmsd's own operations and events.
pub const LOCAL_SOURCE: &str = "kmsd.local";

/// A text, or the JSON of another value.
fn text_of(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// What stands for a text that is too long.
fn digest(text: &str) -> Value {
    json!({
        "length": text.len(),
        "sha256": HEXLOWER.encode(&sha256(&[text.as_bytes()])),
    })
}

/// Most bytes of a record, so that its line is no longer than [`MAX_LINE`].
const MAX_RECORD: usize = MAX_LINE - ENVELOPE;

/// Members of a request, a response or an event, by name.
pub type Recorded = BTreeMap<String, Value>;

/// One record: a request with its outcome, or something the service did by itself.
///
/// Never holds a plaintext, a ciphertext, key material or a grant token. The fields are declared in the order of
/// their names, which makes the JSON canonical: sorted members, no spaces, UTF-8.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Record {
    /// The account that the request was made in; none: the home's.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub account: Option<String>,
    /// What decided about the request; none where it did not come to a decision.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub authorization: Option<Authorization>,
    /// Who asked; none for what the service did by itself.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub caller: Option<Arc<Actor>>,
    /// What a service event says, and for a request what CloudTrail has under `additionalEventData`.
    #[serde(skip_serializing_if = "BTreeMap::is_empty", default)]
    pub details: Recorded,
    /// The authorisation epoch it was decided under.
    pub epoch: u64,
    /// Why the request was refused or failed; none if it succeeded.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub error: Option<Failure>,
    /// A UUID.
    pub event_id: String,
    /// ARNs of the keys concerned.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub keys: Vec<String>,
    /// Request or service event.
    pub kind: Kind,
    /// Name of the operation or of the event.
    pub operation: String,
    /// Members of the request, by their names in CloudTrail (`keyId`).
    #[serde(skip_serializing_if = "BTreeMap::is_empty", default)]
    pub parameters: Recorded,
    /// Whether it is an operation that changes nothing; uses of a key count as such, as with AWS.
    pub read_only: bool,
    /// The Region that the request was for; none: the home's.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub region: Option<String>,
    /// The UUID that the reply carries.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub request_id: Option<String>,
    /// Members of the response, where CloudTrail has them.
    #[serde(skip_serializing_if = "BTreeMap::is_empty", default)]
    pub response: Recorded,
    /// [`KMS_SOURCE`] or [`LOCAL_SOURCE`].
    pub source: String,
    /// Wall clock, milliseconds since 1970-01-01 UTC.
    pub time: i64,
}

/// What a record is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// A request.
    Api,
    /// Something the service did by itself.
    Service,
}

/// Who asked.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Actor {
    /// Principal.
    pub arn: String,
    /// Whether a pidfd vouched for what is said of the process.
    #[serde(skip_serializing_if = "std::ops::Not::not", default)]
    pub checked: bool,
    /// Path of the executable.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub exe: Option<String>,
    /// SHA-256 of the executable, where a policy asked for it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub exe_sha256: Option<String>,
    /// Primary group id; none for one that came over the network.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub gid: Option<u32>,
    /// Label of the security module.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub label: Option<String>,
    /// Where the request came from, if it came over the network.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub network: Option<ActorNetwork>,
    /// Process id at connect; none for one that came over the network.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub pid: Option<u32>,
    /// `root`, `admin`, `service`, `user`, `internal`, or `stranger` for one that is not let in.
    pub role: String,
    /// User id; none for one that came over the network.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub uid: Option<u32>,
    /// The systemd unit.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub unit: Option<String>,
    /// Name of the user.
    #[serde(skip_serializing_if = "String::is_empty", default)]
    pub user: String,
    /// The service that asked on behalf of this user.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub via: Option<ActorVia>,
    /// Its bytes, once a record was written: the records of a connection share them.
    #[serde(skip)]
    pub encoded: Encoded,
}

/// Where a request over the network came from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ActorNetwork {
    /// Id of the access key that signed it, or is said to have.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub access_key_id: Option<String>,
    /// Address of the client.
    pub address: String,
    /// SHA-256 of the certificate of the client, in hexadecimal.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub certificate: Option<String>,
    /// Whether the connection was encrypted.
    pub tls: bool,
    /// What the client calls itself.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub user_agent: Option<String>,
}

/// A service that asked on behalf of a user.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ActorVia {
    /// The service's own principal.
    pub arn: String,
    /// Its process id at connect.
    pub pid: u32,
    /// `kms:ViaService`.
    pub service: String,
    /// Its user id.
    pub uid: u32,
}

/// Whether a decision allows or denies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Effect {
    /// The request was authorised.
    Allow,
    /// It was not.
    Deny,
}

/// What decided about a request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Authorization {
    /// The text of a [`Basis`](crate::authz::Basis) or [`DenyBasis`](crate::authz::DenyBasis), for example
    /// `identity-policy:user/alice/read#Sid1`.
    pub by: String,
    /// Allowed or denied.
    pub effect: Effect,
}

impl Authorization {
    /// What `verdict` says; nothing where nobody was asked.
    pub fn of(verdict: &Verdict) -> Option<Self> {
        match verdict {
            Verdict::Unasked => None,
            Verdict::Allowed(basis) => Some(Self {
                by: basis.to_string(),
                effect: Effect::Allow,
            }),
            Verdict::Denied(basis) => Some(Self {
                by: basis.to_string(),
                effect: Effect::Deny,
            }),
        }
    }
}

/// The error of a request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Failure {
    /// The code on the wire, for example `AccessDeniedException`.
    pub code: String,
    /// The text of the reply.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub message: Option<String>,
}

impl Failure {
    /// Longest text that is recorded, in bytes; an error may quote what a caller sent.
    const MAX_MESSAGE: usize = 2048;
}

impl From<&ApiError> for Failure {
    fn from(error: &ApiError) -> Self {
        let message = error.message.as_deref().map(|text| {
            let end = (0..=text.len().min(Self::MAX_MESSAGE))
                .rev()
                .find(|end| text.is_char_boundary(*end));
            text.get(..end.unwrap_or(0)).unwrap_or_default().to_owned()
        });
        Self {
            code: error.code.as_str().to_owned(),
            message,
        }
    }
}

impl From<&Caller> for Actor {
    fn from(caller: &Caller) -> Self {
        let ids = caller.local_ids();
        let mut actor = Self {
            arn: caller.arn.to_string(),
            gid: ids.map(|(_, gid, _)| gid),
            network: caller.network.as_deref().map(|network| ActorNetwork {
                access_key_id: Some(network.access_key_id.to_string()),
                address: network.address.to_string(),
                certificate: network.certificate.as_deref().map(str::to_owned),
                tls: network.tls,
                user_agent: network.user_agent.as_deref().map(str::to_owned),
            }),
            pid: ids.map(|(_, _, pid)| pid),
            role: match caller.role {
                CallerRole::Root => "root",
                CallerRole::Admin => "admin",
                CallerRole::Service => "service",
                CallerRole::User => "user",
                CallerRole::Internal => "internal",
            }
            .to_owned(),
            uid: ids.map(|(uid, ..)| uid),
            user: caller.user_name.to_string(),
            via: caller.via.as_deref().map(|via| ActorVia {
                arn: via.arn.to_string(),
                pid: via.pid,
                service: via.service.to_string(),
                uid: via.uid,
            }),
            ..Self::default()
        };
        if let Some(facts) = caller.process.as_deref() {
            actor.checked = facts.checked;
            actor.exe.clone_from(&facts.exe);
            actor.exe_sha256.clone_from(&facts.exe_sha256);
            actor.label.clone_from(&facts.security_label);
            actor.unit.clone_from(&facts.unit);
        }
        actor
    }
}

impl Record {
    /// A record of something the service did by itself; `source` is [`KMS_SOURCE`] or [`LOCAL_SOURCE`].
    pub fn service(event_id: String, time_ms: i64, source: &str, event: &str) -> Self {
        Self {
            account: None,
            authorization: None,
            caller: None,
            details: Recorded::new(),
            epoch: 0,
            error: None,
            event_id,
            keys: Vec::new(),
            kind: Kind::Service,
            operation: event.to_owned(),
            parameters: Recorded::new(),
            read_only: false,
            region: None,
            request_id: None,
            response: Recorded::new(),
            source: source.to_owned(),
            time: time_ms,
        }
    }

    /// Notes the account and Region that a request is for, where they are not those of `home`.
    pub fn made_for(&mut self, scope: &Scope, home: &Scope) {
        self.account = (scope.account != home.account).then(|| scope.account.clone());
        self.region = (scope.region != home.region).then(|| scope.region.clone());
    }

    /// The account and Region that it is about: those of the request, and of a service event those of its key.
    pub fn scope(&self, home: &Scope) -> Scope {
        let of_key = match self.kind {
            Kind::Service => self.keys.first().and_then(|arn| Scope::of_arn(arn)),
            Kind::Api => None,
        };
        of_key.unwrap_or_else(|| Scope {
            account: self.account.as_ref().unwrap_or(&home.account).clone(),
            region: self.region.as_ref().unwrap_or(&home.region).clone(),
        })
    }

    /// Whether it is nothing but a request that was carried out and changed nothing: almost every record is.
    pub fn is_plain_use(&self) -> bool {
        self.kind == Kind::Api && self.read_only && self.error.is_none()
    }

    /// With a detail.
    #[must_use]
    pub fn detail(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.details.insert(name.to_owned(), value.into());
        self
    }

    /// With a key.
    #[must_use]
    pub fn key(mut self, arn: impl Into<String>) -> Self {
        self.keys.push(arn.into());
        self
    }

    /// The canonical bytes. Members that are too long for a line are replaced by their length and SHA-256, the
    /// longest first.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(1024);
        self.write_to(&mut bytes);
        bytes
    }

    /// Appends the [canonical bytes](Self::to_bytes) to `out`.
    pub fn write_to(&self, out: &mut Vec<u8>) {
        let start = out.len();
        encode(self, out);
        if out.len() - start > MAX_RECORD {
            out.truncate(start);
            out.extend_from_slice(&self.shortened());
        }
    }

    /// Replaces what is long by its length and SHA-256: members of the request beyond 512 bytes, and the end of the error's
    /// text. For a request that nobody allowed, so that who asks for nothing but records does not get long ones.
    pub fn shorten(&mut self) {
        const MAX_MEMBER: usize = 512;
        for value in self.parameters.values_mut() {
            let text = text_of(value);
            if text.len() > MAX_MEMBER {
                *value = digest(&text);
            }
        }
        if let Some(message) = self.error.as_mut().and_then(|error| error.message.as_mut()) {
            message.truncate(message.floor_char_boundary(MAX_MEMBER));
        }
    }

    fn shortened(&self) -> Vec<u8> {
        let whole = |record: &Self| {
            let mut bytes = Vec::new();
            encode(record, &mut bytes);
            bytes
        };
        let mut shorter = self.clone();
        loop {
            let members = shorter
                .parameters
                .values_mut()
                .chain(shorter.response.values_mut())
                .chain(shorter.details.values_mut());
            let longest = members
                .map(|value| (value.to_string(), value))
                .max_by_key(|(text, _)| text.len());
            match longest {
                Some((text, value)) if text.len() > 128 => {
                    *value = digest(&text_of(value));
                }
                // Only names are left, which the decoder bounds.
                _ => {
                    shorter.parameters.clear();
                    shorter.response.clear();
                    shorter.keys.truncate(16);
                    return whole(&shorter);
                }
            }
            let bytes = whole(&shorter);
            if bytes.len() <= MAX_RECORD {
                return bytes;
            }
        }
    }

    /// Reads canonical bytes.
    ///
    /// # Errors
    /// The text says why they are no record.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, String> {
        serde_json::from_slice(bytes).map_err(|error| error.to_string())
    }
}
