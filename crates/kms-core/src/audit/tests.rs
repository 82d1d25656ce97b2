use kms_api::{ApiError, Caller, CallerRole, ErrorCode};
use proptest::prelude::*;
use serde_json::json;

mod cloudtrail;

use super::*;
use crate::rows::Hash;

fn record(id: u64) -> Record {
    let caller = Caller::new(
        CallerRole::User,
        1000,
        "arn:aws:iam::000000000000:user/alice",
    );
    let mut record = Record {
        kind: Kind::Api,
        caller: Some(Actor::from(&caller).into()),
        error: Some(Failure::from(&ApiError::new(
            ErrorCode::AccessDenied,
            "no\n\"ü\u{1}",
        ))),
        authorization: Some(Authorization {
            by: "implicit".into(),
            effect: Effect::Deny,
        }),
        request_id: Some("r".into()),
        ..Record::service(
            format!("event-{id}"),
            1_790_000_000_123,
            KMS_SOURCE,
            "Decrypt",
        )
    };
    record.parameters.insert("keyId".into(), "alias/x".into());
    record
        .parameters
        .insert("encryptionContext".into(), json!({"b": "2", "a": "1"}));
    record.key("arn:aws:kms:local-host-1:000000000000:key/1")
}

/// The names of every object of `value`, in the order of the bytes.
fn assert_sorted(text: &str) {
    // A second reader: names are what stands before a colon, objects nest by braces.
    let mut stack: Vec<Vec<String>> = Vec::new();
    let mut chars = text.chars().peekable();
    let mut last = String::new();
    while let Some(c) = chars.next() {
        match c {
            '{' => stack.push(Vec::new()),
            '}' => {
                let names = stack.pop().unwrap();
                assert!(names.is_sorted(), "{names:?} in {text}");
            }
            '"' => {
                last.clear();
                while let Some(c) = chars.next() {
                    match c {
                        '\\' => {
                            chars.next();
                        }
                        '"' => break,
                        c => last.push(c),
                    }
                }
                if chars.peek() == Some(&':') {
                    stack.last_mut().unwrap().push(last.clone());
                }
            }
            c => assert!(!c.is_whitespace(), "white space in {text}"),
        }
    }
}

#[test]
fn the_bytes_are_canonical() {
    let mut full = record(1);
    if let Some(actor) = full.caller.as_mut().map(std::sync::Arc::make_mut) {
        actor.checked = true;
        for member in [
            &mut actor.exe,
            &mut actor.exe_sha256,
            &mut actor.label,
            &mut actor.unit,
        ] {
            *member = Some("x".into());
        }
        actor.via = Some(ActorVia {
            arn: "a".into(),
            pid: 1,
            service: "s".into(),
            uid: 2,
        });
    }
    full.authorization = Some(Authorization {
        by: "grant".into(),
        effect: Effect::Allow,
    });
    full.response
        .insert("z".into(), json!({"y": [1, {"b": 1, "a": 2}], "x": null}));
    let full = full.detail("d", 1);
    let bytes = full.to_bytes();
    assert_sorted(std::str::from_utf8(&bytes).unwrap());
    assert_eq!(Record::from_bytes(&bytes).unwrap(), full);
    let mut chain = Chain::new();
    let mut line = Vec::new();
    compose(&mut chain, &bytes, &mut line);
    assert_sorted(std::str::from_utf8(&line).unwrap());
    let parsed = Line::parse(&line).unwrap();
    assert_eq!(
        (parsed.seq, parsed.prev, &parsed.record),
        (0, Hash::default(), &full)
    );
}

#[test]
fn a_second_spelling_is_refused() {
    let mut line = Vec::new();
    compose(&mut Chain::new(), &record(1).to_bytes(), &mut line);
    let text = String::from_utf8(line).unwrap();
    assert!(Line::parse(text.as_bytes()).is_ok());
    for (from, to) in [
        (",\"seq\":0", ", \"seq\":0"),
        ("\"seq\":0", "\"seq\":00"),
        ("alias/x", "alias\\/x"),
        ("\"readOnly\":false", "\"readOnly\":false,\"details\":{}"),
        ("\"kind\"", "\"other\":1,\"kind\""),
    ] {
        assert!(text.contains(from), "{from}");
        let other = text.replacen(from, to, 1);
        assert!(Line::parse(other.as_bytes()).is_err(), "{other}");
    }
}

#[test]
fn the_chain_goes_through_every_line() {
    let mut chain = Chain::new();
    let mut lines = Vec::new();
    for id in 0..5 {
        let mut line = Vec::new();
        let before = chain;
        compose(&mut chain, &record(id).to_bytes(), &mut line);
        let (prev, body, seq) = split(&line).unwrap();
        assert_eq!((prev, seq), (before.value(), before.size()));
        assert_eq!(body, record(id).to_bytes());
        lines.push(line);
    }
    assert_eq!(chain.head().size, 5);
    let mut again = Chain::new();
    for line in &lines {
        assert_eq!(split(line).unwrap().0, again.value());
        again.advance(line);
    }
    assert_eq!(again, chain);
    // Known answer, computed with sha256sum.
    let mut one = Chain::new();
    one.advance(b"{}");
    assert_eq!(
        data_encoding::HEXLOWER.encode(&one.value().0),
        "ccfae2bbb95efdce88ea8e41b8cdb7d35542e650174d1dd244b557b6b899b6a0"
    );
}

#[test]
fn what_is_too_long_is_replaced_by_its_hash() {
    let mut long = record(1);
    long.parameters
        .insert("policy".into(), "ü".repeat(60_000).into());
    long.parameters
        .insert("description".into(), "d".repeat(100).into());
    let bytes = long.to_bytes();
    assert!(bytes.len() < MAX_LINE);
    let read = Record::from_bytes(&bytes).unwrap();
    assert_eq!(read.parameters["policy"]["length"], 120_000);
    assert_eq!(
        read.parameters["policy"]["sha256"],
        data_encoding::HEXLOWER.encode(&kms_crypto::sha256(&["ü".repeat(60_000).as_bytes()]))
    );
    assert_eq!(read.parameters["description"], "d".repeat(100));
    // An error that quotes what a caller sent is cut, at a character.
    let quoted = Failure::from(&ApiError::validation("ü".repeat(5000)));
    assert_eq!(quoted.message.unwrap().len(), 2048);
}

proptest! {
    #[test]
    fn any_bytes_are_split_without_a_panic(bytes: Vec<u8>) {
        let _ = split(&bytes);
        let _ = Line::parse(&bytes);
    }

    #[test]
    fn a_changed_byte_is_seen(at in 0usize..700, with in 1u8..=255) {
        let mut line = Vec::new();
        let mut chain = Chain::new();
        compose(&mut chain, &record(7).to_bytes(), &mut line);
        let at = at % line.len();
        line[at] ^= with;
        let mut again = Chain::new();
        again.advance(&line);
        prop_assert_ne!(again.value(), chain.value());
    }
}
