//! Finding records.

use serde_json::Value;

use super::{Kind, Record};

/// Which records are wanted; every member that is given must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// The event's id.
    pub event_id: Option<String>,
    /// A key: its id, its ARN or what the request named it by.
    pub key: Option<String>,
    /// The principal's ARN or the user's name.
    pub principal: Option<String>,
    /// Name of the operation or event.
    pub operation: Option<String>,
    /// `ok`, `error` (any), `denied` or an error code.
    pub outcome: Option<String>,
    /// A volume of kmsfs.
    pub volume: Option<String>,
    /// Accesses to the object with this inode number.
    pub inode: Option<u64>,
    /// Not before this, milliseconds since 1970-01-01 UTC.
    pub from_ms: Option<i64>,
    /// Before this.
    pub until_ms: Option<i64>,
}

impl Filter {
    /// Whether a line can be one of them, without reading it: most cannot.
    pub fn may_match(&self, line: &str) -> bool {
        [&self.event_id, &self.operation]
            .into_iter()
            .flatten()
            .all(|wanted| line.contains(wanted.as_str()))
    }

    /// Whether a record is one of them.
    pub fn matches(&self, record: &Record) -> bool {
        let holds = |wanted: &Option<String>, test: &dyn Fn(&str) -> bool| {
            wanted.as_deref().is_none_or(test)
        };
        holds(&self.event_id, &|id| record.event_id == id)
            && holds(&self.operation, &|name| record.operation == name)
            && holds(&self.key, &|key| about_key(record, key))
            && holds(&self.principal, &|who| {
                record.caller.as_ref().is_some_and(|caller| {
                    caller.arn == who
                        || caller.user == who
                        || caller.via.as_ref().is_some_and(|via| via.arn == who)
                })
            })
            && holds(&self.outcome, &|outcome| {
                let access = record.parameters.get("outcome").and_then(Value::as_str);
                let code = record.error.as_ref().map(|error| error.code.as_str());
                match outcome {
                    "ok" => code.is_none(),
                    "error" => code.is_some(),
                    "denied" => code == Some("AccessDeniedException") || access == Some("DENIED"),
                    other => code == Some(other),
                }
            })
            && holds(&self.volume, &|volume| {
                record.parameters.get("volumeId").and_then(Value::as_str) == Some(volume)
            })
            && self.inode.is_none_or(|inode| {
                record.parameters.get("inode").and_then(Value::as_u64) == Some(inode)
            })
            && self.from_ms.is_none_or(|from| record.time >= from)
            && self.until_ms.is_none_or(|until| record.time < until)
    }
}

fn about_key(record: &Record, key: &str) -> bool {
    let same = |arn: &str| arn == key || arn.rsplit('/').next() == Some(key);
    record.keys.iter().any(|arn| same(arn))
        // A search for a key is not about the key.
        || (record.kind == Kind::Api
            && record.operation != "LookupEvents"
            && [
                "keyId",
                "targetKeyId",
                "destinationKeyId",
                "sourceKeyId",
                "aliasName",
            ]
            .iter()
            .filter_map(|name| record.parameters.get(*name)?.as_str())
            .any(|named| named == key || same(named)))
}
