//! Event notifications, in the shape of Amazon EventBridge, derived from audit records.
//!
//! Every event is one record of the log told again to whoever listens, so there is none without a record, and what was missed can
//! be read there.

use std::collections::HashMap;

use kms_api::civil::Civil;
use serde_json::{Map, Value, json};

use crate::audit::{KMS_SOURCE, Kind, LOCAL_SOURCE, Record};
use crate::ids::Scope;

#[cfg(test)]
mod tests;

/// The service event that tells of a burst of denials.
pub const DENIAL_BURST: &str = "DenialBurst";

/// The event that a record is, if it is one.
///
/// Rotations, deletions and expiries have the detail types of AWS KMS. What kmsd does by itself besides has a detail type of its own,
/// made of the record's name (`LeaseRanOut` is `kmsd Lease Ran Out`); of requests only a use of a key that waits for its
/// deletion is an event.
pub fn event(record: &Record, home: &Scope) -> Option<Value> {
    let scope = record.scope(home);
    let (detail_type, source) = match (record.kind, record.source.as_str()) {
        (Kind::Service, KMS_SOURCE) => (aws_detail_type(&record.operation)?.to_owned(), "aws.kms"),
        (Kind::Service, _) => (format!("kmsd{}", words(&record.operation)), LOCAL_SOURCE),
        (Kind::Api, _) if is_use_while_pending_deletion(record) => (
            "kmsd Key Used While Pending Deletion".to_owned(),
            LOCAL_SOURCE,
        ),
        (Kind::Api, _) => return None,
    };
    Some(json!({
        "version": "0",
        "id": record.event_id,
        "detail-type": detail_type,
        "source": source,
        "account": scope.account,
        "time": seconds(record.time),
        "region": scope.region,
        "resources": record.keys,
        "detail": detail(record, source),
    }))
}

fn aws_detail_type(operation: &str) -> Option<&'static str> {
    match operation {
        "RotateKey" => Some("KMS CMK Rotation"),
        "DeleteKey" => Some("KMS CMK Deletion"),
        "DeleteImportedKeyMaterial" => Some("KMS Imported Key Material Expiration"),
        _ => None,
    }
}

/// ` Lease Ran Out` for `LeaseRanOut`.
fn words(name: &str) -> String {
    let mut words = String::with_capacity(name.len() + 8);
    for letter in name.chars() {
        if letter.is_ascii_uppercase() || words.is_empty() {
            words.push(' ');
        }
        words.push(letter);
    }
    words
}

/// Whether a record is of an attempt to use a key that waits for its deletion.
pub fn is_use_while_pending_deletion(record: &Record) -> bool {
    record.error.as_ref().is_some_and(|error| {
        error.code == "KMSInvalidStateException"
            && error.message.as_deref().is_some_and(|text| {
                text.ends_with("is pending deletion.")
                    || text.ends_with("is pending deletion (or pending replica deletion).")
            })
    })
}

fn detail(record: &Record, source: &str) -> Value {
    let mut detail = Map::new();
    if let Some(id) = record.keys.first().and_then(|arn| arn.rsplit('/').next()) {
        detail.insert("key-id".to_owned(), id.into());
    }
    // AWS's events have nothing else.
    if source == LOCAL_SOURCE {
        if record.kind == Kind::Api {
            detail.insert("operation".to_owned(), record.operation.as_str().into());
        }
        if let Some(caller) = &record.caller {
            detail.insert("principal".to_owned(), caller.arn.as_str().into());
        }
        for (name, value) in &record.details {
            detail.insert(name.clone(), value.clone());
        }
    }
    Value::Object(detail)
}

/// Whole seconds in UTC, as EventBridge has them: `2022-08-10T16:37:50Z`.
pub fn seconds(ms: i64) -> String {
    Civil::from_millis(ms).iso8601()
}

/// Notices when a principal is denied often.
#[derive(Debug)]
pub struct Bursts {
    /// How many denials of one principal within a minute are a burst; 0: none ever is.
    threshold: u32,
    principals: HashMap<String, Window>,
}

#[derive(Debug)]
struct Window {
    began_ms: i64,
    denials: u32,
}

impl Bursts {
    const WINDOW_MS: i64 = 60_000;
    /// Principals that are watched at a time; more are made room for by forgetting the windows that are over.
    const MAX_PRINCIPALS: usize = 10_000;

    /// `threshold` denials of one principal within a minute are a burst; 0 switches it off.
    pub fn new(threshold: u32) -> Self {
        Self {
            threshold,
            principals: HashMap::new(),
        }
    }

    /// Looks at a record; gives the record of a burst with the denial that makes it one. The next one of the same
    /// principal comes after a minute at the earliest.
    pub fn seen(&mut self, record: &Record, event_id: impl FnOnce() -> String) -> Option<Record> {
        let denied = record
            .error
            .as_ref()
            .is_some_and(|error| error.code == "AccessDeniedException");
        let caller = record.caller.as_ref()?;
        if !denied || record.kind != Kind::Api || self.threshold == 0 {
            return None;
        }
        let now = record.time;
        let over = |window: &Window| !(0..Self::WINDOW_MS).contains(&(now - window.began_ms));
        if self.principals.len() >= Self::MAX_PRINCIPALS {
            self.principals.retain(|_, window| !over(window));
            if self.principals.len() >= Self::MAX_PRINCIPALS {
                self.principals.clear();
            }
        }
        let window = match self.principals.get_mut(&caller.arn) {
            Some(window) => window,
            None => self.principals.entry(caller.arn.clone()).or_insert(Window {
                began_ms: now,
                denials: 0,
            }),
        };
        if over(window) {
            *window = Window {
                began_ms: now,
                denials: 0,
            };
        }
        window.denials = window.denials.saturating_add(1);
        if window.denials != self.threshold {
            return None;
        }
        let mut burst = Record::service(event_id(), now, LOCAL_SOURCE, DENIAL_BURST)
            .detail("principal", caller.arn.as_str())
            .detail("denials", window.denials)
            .detail("withinMs", now - window.began_ms)
            .detail("lastOperation", record.operation.as_str());
        burst = match (caller.uid, &caller.network) {
            (Some(uid), _) => burst.detail("uid", uid),
            (None, Some(network)) => burst.detail("sourceIPAddress", network.address.as_str()),
            (None, None) => burst,
        };
        burst.epoch = record.epoch;
        burst.keys.clone_from(&record.keys);
        Some(burst)
    }
}
