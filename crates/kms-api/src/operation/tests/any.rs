//! No body makes the decoder panic, whatever it holds. The members and values of the bodies are those that the decoders of
//! the operations look for.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use proptest::prelude::*;
use serde_json::{Value, json};

use crate::members::seen::{self, Seen};
use crate::*;

/// The targets, each with what its decoder looks for, at whatever depth.
static OPERATIONS: LazyLock<Vec<(String, Seen)>> = LazyLock::new(|| {
    let all = Request::OPERATIONS.iter();
    all.map(|(prefix, name)| {
        let target = format!("{prefix}.{name}");
        let seen = looked_for(&target);
        (target, seen)
    })
    .collect()
});

fn looked_for(target: &str) -> Seen {
    let decode = |body: Value| {
        seen::by(|| {
            let _ = Request::decode(target, body.to_string().as_bytes());
        })
    };
    let mut all = decode(json!({}));
    // What lies inside of a member is looked for when it is there.
    for name in all.members.clone() {
        for inside in [json!({}), json!([{}]), json!(["x"])] {
            let more = decode(json!({ name.as_str(): inside }));
            all.members.extend(more.members);
            all.values.extend(more.values);
        }
    }
    all
}

#[test]
fn what_is_looked_for_is_known() {
    let of = |target: &str| {
        let found = OPERATIONS.iter().find(|(name, _)| name == target);
        &found.expect(target).1
    };
    let has = |target: &str, names: &[&str]| {
        let seen = of(target);
        for name in names {
            let known = seen.members.contains(*name) || seen.values.contains(name);
            assert!(known, "{target}: {name} in {seen:?}");
        }
    };
    has(
        "TrentService.Encrypt",
        &["Plaintext", "EncryptionContext", "DryRun", "SM2PKE"],
    );
    has(
        "TrentService.CreateKey",
        &["MultiRegion", "TagKey", "TagValue", "ML_KEM_768"],
    );
    has(
        "TrentService.CreateGrant",
        &["EncryptionContextSubset", "Decapsulate"],
    );
    has(
        "TrentService.ImportKeyMaterial",
        &["ValidTo", "NEW_KEY_MATERIAL"],
    );
    has(
        "KmsdLocal.CreateTemporaryGrant",
        &["ExpiresInSeconds", "Constraints"],
    );
    let without: Vec<&str> = OPERATIONS
        .iter()
        .filter(|(_, seen)| seen.members.is_empty())
        .map(|(target, _)| target.as_str())
        .collect();
    // Requests that have no members at all.
    assert!(without.len() < 10, "{without:?}");
}

/// Values that are wrong, or right, in most places.
fn values() -> Vec<Value> {
    vec![
        Value::Null,
        json!(true),
        json!(0),
        json!(-1),
        json!(7),
        json!(i64::MAX),
        json!(i64::MIN),
        json!(u64::MAX),
        json!(1.5),
        json!(-1e300),
        json!(""),
        json!("x"),
        json!("\u{0}\u{7f}\u{ffff}\u{10ffff}"),
        json!("AA=="),
        json!("alias/x"),
        json!("arn:aws:kms:::::"),
        json!("0123456789abcdef0123456789abcdef"),
        json!("{\"Version\":\"2012-10-17\",\"Statement\":[]}"),
        json!("x".repeat(300_000)),
        json!([]),
        json!([null]),
        json!(["x", "x"]),
        json!([[]]),
        json!({}),
        json!({ "x": null }),
        json!({ "x": "y" }),
        json!({ "x": {} }),
        json!([{ "TagKey": "x", "TagValue": "y" }]),
    ]
}

fn assert_told(target: &str, body: &Value) {
    if let Err(error) = Request::decode(target, body.to_string().as_bytes()) {
        assert_eq!(error.code.http_status(), 400, "{target} {body:.300}");
        let length = error.message.map_or(0, |text| text.len());
        assert!(length < 20_000, "{target} {body:.300}: {length} bytes");
    }
}

#[test]
fn every_member_takes_or_refuses_every_kind_of_value() {
    for (target, seen) in OPERATIONS.iter() {
        let mut whole = serde_json::Map::new();
        for name in &seen.members {
            for value in values() {
                assert_told(target, &json!({ name.as_str(): value }));
            }
            for value in &seen.values {
                assert_told(target, &json!({ name.as_str(): value }));
                assert_told(target, &json!({ name.as_str(): [value] }));
            }
            whole.insert(name.clone(), json!("x"));
        }
        assert_told(target, &Value::Object(whole));
    }
}

fn any_operation() -> impl Strategy<Value = (String, Seen)> {
    prop::sample::select(OPERATIONS.as_slice())
}

fn any_target() -> impl Strategy<Value = String> {
    prop_oneof![8 => any_operation().prop_map(|(target, _)| target), 1 => ".{0,40}"]
}

/// Mostly members of the operation, some of others, and some of none.
fn any_member(seen: &Seen) -> BoxedStrategy<String> {
    let own: Vec<String> = match seen.members.is_empty() {
        true => vec!["KeyId".to_owned()],
        false => seen.members.iter().cloned().collect(),
    };
    let all = OPERATIONS.iter().flat_map(|(_, seen)| seen.members.iter());
    let all: Vec<String> = all.cloned().collect();
    prop_oneof![
        9 => prop::sample::select(own),
        1 => prop::sample::select(all),
        1 => ".{0,10}"
    ]
    .boxed()
}

fn any_json(seen: &Seen) -> impl Strategy<Value = Value> + use<> {
    let mut texts: Vec<&str> = seen.values.iter().copied().collect();
    texts.push("AES_256");
    let member = any_member(seen);
    let leaf = prop_oneof![
        4 => prop::sample::select(texts).prop_map(Value::from),
        1 => Just(Value::Null),
        1 => any::<bool>().prop_map(Value::from),
        1 => any::<i64>().prop_map(Value::from),
        2 => (0i64..3000).prop_map(Value::from),
        1 => any::<f64>().prop_map(Value::from),
        2 => ".{0,40}".prop_map(Value::from),
        1 => prop::sample::select(values()),
        1 => "[0-9a-f]{32}".prop_map(Value::from),
        2 => prop::collection::vec(any::<u8>(), 0..50)
            .prop_map(|bytes| Value::from(data_encoding::BASE64.encode(&bytes))),
    ];
    leaf.prop_recursive(3, 16, 4, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map(member.clone(), inner, 0..4)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

fn any_request() -> impl Strategy<Value = (String, Value)> {
    any_operation().prop_flat_map(|(target, seen)| {
        let members = prop::collection::btree_map(any_member(&seen), any_json(&seen), 0..8);
        let body = members.prop_map(|map| Value::Object(map.into_iter().collect()));
        (Just(target), body)
    })
}

proptest! {
    #[test]
    fn any_bytes_are_decoded_or_refused(
        target in any_target(),
        body in prop::collection::vec(any::<u8>(), 0..300),
    ) {
        let _ = Request::decode(&target, &body);
    }

    #[test]
    fn any_json_is_decoded_or_refused_for_a_reason_of_the_client((target, body) in any_request()) {
        match Request::decode(&target, body.to_string().as_bytes()) {
            Ok(request) => {
                // What was understood is what a client would have sent.
                let again = request.to_json().unwrap();
                prop_assert_eq!(Request::decode(&request.target(), &again).unwrap(), request);
            }
            Err(error) => prop_assert_eq!(error.code.http_status(), 400),
        }
    }

    #[test]
    fn requests_survive_the_wire(
        key_id in ".{1,100}",
        plaintext in prop::collection::vec(any::<u8>(), 1..4097),
        encryption_context in prop::collection::btree_map(".{0,20}", ".{0,20}", 0..5),
        dry_run: bool,
    ) {
        let encryption_context: BTreeMap<String, String> = encryption_context;
        let request = Request::from(EncryptRequest {
            key_id, plaintext: Blob::new(plaintext), encryption_context, dry_run,
            grant_tokens: vec![], encryption_algorithm: None,
        });
        let body = request.to_json().unwrap();
        prop_assert_eq!(Request::decode("TrentService.Encrypt", &body).unwrap(), request);
    }
}
