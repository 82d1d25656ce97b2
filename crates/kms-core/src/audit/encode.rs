//! The canonical bytes of a record.
//!
//! They are what `serde_json` makes of it, which the tests compare. Written out because every request waits for them: the names
//! of members need no escaping, most texts do not either, and who asked is the same for all requests of a connection.

use std::io::Write as _;
use std::sync::OnceLock;

use serde::Serialize;

use super::record::{Actor, Effect, Kind, Record, Recorded};

/// Bytes that were made of a value once. Says nothing about it that the value itself does not.
#[derive(Debug, Default)]
pub struct Encoded(OnceLock<Box<[u8]>>);

impl Clone for Encoded {
    /// A copy may be changed: its bytes are made anew.
    fn clone(&self) -> Self {
        Self::default()
    }
}

impl PartialEq for Encoded {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Encoded {}

/// Appends the bytes of a record.
pub(super) fn encode(record: &Record, out: &mut Vec<u8>) {
    out.push(b'{');
    if let Some(account) = &record.account {
        out.extend_from_slice(b"\"account\":");
        text(account, out);
        out.push(b',');
    }
    if let Some(authorization) = &record.authorization {
        out.extend_from_slice(b"\"authorization\":{\"by\":");
        text(&authorization.by, out);
        out.extend_from_slice(match authorization.effect {
            Effect::Allow => b",\"effect\":\"allow\"},",
            Effect::Deny => b",\"effect\":\"deny\"},",
        });
    }
    if let Some(caller) = &record.caller {
        out.extend_from_slice(b"\"caller\":");
        actor(caller, out);
        out.push(b',');
    }
    members("details", &record.details, out);
    out.extend_from_slice(b"\"epoch\":");
    number(record.epoch, out);
    if let Some(error) = &record.error {
        out.extend_from_slice(b",\"error\":");
        json(error, out);
    }
    out.extend_from_slice(b",\"eventId\":");
    text(&record.event_id, out);
    if !record.keys.is_empty() {
        out.extend_from_slice(b",\"keys\":[");
        for (n, key) in record.keys.iter().enumerate() {
            if n > 0 {
                out.push(b',');
            }
            text(key, out);
        }
        out.push(b']');
    }
    out.extend_from_slice(match record.kind {
        Kind::Api => b",\"kind\":\"api\",\"operation\":",
        Kind::Service => b",\"kind\":\"service\",\"operation\":".as_slice(),
    });
    text(&record.operation, out);
    out.push(b',');
    members("parameters", &record.parameters, out);
    out.extend_from_slice(match record.read_only {
        true => b"\"readOnly\":true,".as_slice(),
        false => b"\"readOnly\":false,",
    });
    if let Some(region) = &record.region {
        out.extend_from_slice(b"\"region\":");
        text(region, out);
        out.push(b',');
    }
    if let Some(id) = &record.request_id {
        out.extend_from_slice(b"\"requestId\":");
        text(id, out);
        out.push(b',');
    }
    members("response", &record.response, out);
    out.extend_from_slice(b"\"source\":");
    text(&record.source, out);
    out.extend_from_slice(b",\"time\":");
    number(record.time, out);
    out.push(b'}');
}

fn actor(actor: &Actor, out: &mut Vec<u8>) {
    let bytes = actor.encoded.0.get_or_init(|| {
        let mut bytes = Vec::new();
        json(actor, &mut bytes);
        bytes.into()
    });
    out.extend_from_slice(bytes);
}

/// Members with their name and a comma after them, where there are any.
fn members(name: &str, members: &Recorded, out: &mut Vec<u8>) {
    if members.is_empty() {
        return;
    }
    out.push(b'"');
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b"\":{");
    for (n, (name, value)) in members.iter().enumerate() {
        if n > 0 {
            out.push(b',');
        }
        text(name, out);
        out.push(b':');
        match value {
            serde_json::Value::String(value) => text(value, out),
            other => json(other, out),
        }
    }
    out.extend_from_slice(b"},");
}

fn text(text: &str, out: &mut Vec<u8>) {
    let plain = |byte: u8| byte >= b' ' && byte != b'"' && byte != b'\\';
    if text.bytes().fold(true, |all, byte| all & plain(byte)) {
        out.push(b'"');
        out.extend_from_slice(text.as_bytes());
        out.push(b'"');
    } else {
        json(text, out);
    }
}

fn number(number: impl std::fmt::Display, out: &mut Vec<u8>) {
    let _ = write!(out, "{number}");
}

/// Every member has a JSON form, and memory takes every write.
fn json<T: Serialize + ?Sized>(value: &T, out: &mut Vec<u8>) {
    let _ = serde_json::to_writer(out, value);
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::collection::{btree_map, vec};
    use proptest::option;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::super::record::{ActorVia, Authorization, Failure};
    use super::*;

    fn value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            any::<String>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<bool>().prop_map(Value::from),
            Just(Value::Null),
        ];
        leaf.prop_recursive(2, 8, 4, |inner| {
            prop_oneof![
                vec(inner.clone(), 0..4).prop_map(Value::from),
                vec((any::<String>(), inner), 0..4)
                    .prop_map(|pairs| Value::Object(pairs.into_iter().collect())),
            ]
        })
    }

    fn recorded() -> impl Strategy<Value = Recorded> {
        btree_map(any::<String>(), value(), 0..4)
    }

    fn caller() -> impl Strategy<Value = Actor> {
        let texts = (
            any::<String>(),
            option::of(any::<String>()),
            any::<String>(),
        );
        (texts, any::<(u32, u32, bool)>(), any::<bool>()).prop_map(|(texts, numbers, via)| Actor {
            arn: texts.0.clone(),
            exe: texts.1,
            user: texts.2,
            role: "user".to_owned(),
            uid: Some(numbers.0),
            pid: Some(numbers.1),
            checked: numbers.2,
            via: via.then(|| ActorVia {
                arn: texts.0,
                pid: 1,
                service: "kmsfs".to_owned(),
                uid: 2,
            }),
            ..Actor::default()
        })
    }

    prop_compose! {
        fn records()(
            ids in (any::<String>(), option::of(any::<String>()), any::<String>(), any::<String>()),
            maps in (recorded(), recorded(), recorded()),
            caller in option::of(caller()),
            by in option::of((any::<String>(), any::<bool>())),
            error in option::of((any::<String>(), option::of(any::<String>()))),
            keys in vec(any::<String>(), 0..3),
            numbers in any::<(u64, i64, bool, bool)>(),
            place in (option::of(any::<String>()), option::of(any::<String>())),
        ) -> Record {
            let mut record = Record::service(ids.0, numbers.1, &ids.2, &ids.3);
            record.request_id = ids.1;
            (record.account, record.region) = place;
            (record.details, record.parameters, record.response) = maps;
            record.caller = caller.map(Arc::new);
            record.authorization = by.map(|(by, allow)| Authorization {
                by,
                effect: if allow { Effect::Allow } else { Effect::Deny },
            });
            record.error = error.map(|(code, message)| Failure { code, message });
            record.keys = keys;
            record.epoch = numbers.0;
            record.kind = if numbers.2 { Kind::Api } else { Kind::Service };
            record.read_only = numbers.3;
            record
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(1000))]

        #[test]
        fn the_bytes_are_those_of_serde_json(record in records()) {
            let mut bytes = Vec::new();
            encode(&record, &mut bytes);
            prop_assert_eq!(std::str::from_utf8(&bytes).unwrap(), serde_json::to_string(&record).unwrap());
            // Again, with the bytes of the caller that were kept.
            let mut again = Vec::new();
            encode(&record, &mut again);
            prop_assert_eq!(&bytes, &again);
        }
    }

    #[test]
    fn a_copy_that_was_changed_has_its_own_bytes() {
        let mut record = Record::service("id".into(), 1, "kmsd.local", "Test");
        record.caller = Some(Arc::new(Actor {
            arn: "one".to_owned(),
            ..Actor::default()
        }));
        let first: Value = serde_json::from_slice(&record.to_bytes()).unwrap();
        assert_eq!(first["caller"]["arn"], json!("one"));
        let mut copy = record.clone();
        Arc::make_mut(copy.caller.as_mut().unwrap()).arn = "two".to_owned();
        let second: Value = serde_json::from_slice(&copy.to_bytes()).unwrap();
        assert_eq!(second["caller"]["arn"], json!("two"));
        assert_eq!(
            serde_json::from_slice::<Value>(&record.to_bytes()).unwrap(),
            first
        );
    }
}
