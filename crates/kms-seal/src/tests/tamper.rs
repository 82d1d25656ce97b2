//! No field of a record can be changed without notice, neither by accident nor on purpose.

use serde_json::Value;

use super::{Chip, Host, Soft, random, unseal};
use crate::{Enrollment, Profile, SealError, enrollment::Body};

/// Failures that tell the operator that the record is at fault.
const FAIR: [&str; 6] = [
    "damaged-record",
    "damaged-blob",
    "other-tpm",
    "pcr-changed",
    "wrong-credential",
    "other-key-file",
];

#[test]
fn damage_is_found_before_the_device_is_asked() {
    let host = Soft::new();
    let (record, _) = host.sealer().enroll(Profile::Machine, &random()).unwrap();
    let json = record.to_json().unwrap();
    for place in 0..json.len() {
        let mut damaged = json.clone();
        damaged[place] ^= 1;
        let outcome = Enrollment::from_json(&damaged);
        assert!(
            outcome.is_err(),
            "byte {place} of {}",
            String::from_utf8_lossy(&damaged)
        );
        assert!(
            Enrollment::from_json(&json[..place]).is_err(),
            "cut at {place}"
        );
    }
}

#[test]
fn a_newer_version_is_named() {
    let (record, _) = Soft::new()
        .sealer()
        .enroll(Profile::Machine, &random())
        .unwrap();
    let mut value = serde_json::to_value(&record).unwrap();
    value["version"] = Value::from(1);
    value["news"] = Value::from("added later");
    let outcome = Enrollment::from_json(&serde_json::to_vec(&value).unwrap());
    assert!(
        matches!(outcome, Err(SealError::UnsupportedRecord { .. })),
        "{outcome:?}"
    );
}

#[test]
fn software_notices_every_edit() {
    every_edit_is_noticed(&Soft::new());
}

#[test]
fn tpm_notices_every_edit() {
    every_edit_is_noticed(&Chip::new());
}

/// Each leaf is changed and the checksum made right again, as somebody would who edits on purpose.
fn every_edit_is_noticed(host: &impl Host) {
    let credential = random();
    let (record, _) = host.sealer().enroll(Profile::Machine, &credential).unwrap();
    let (record, kek) = host.sealer().stage_epoch(&record, &credential).unwrap();
    let body = serde_json::to_value(&record.body).unwrap();
    let mut paths = Vec::new();
    leaves(&body, String::new(), &mut paths);
    assert!(paths.len() > 10, "{paths:?}");
    for path in &paths {
        for edited in edits(&body, path) {
            let Ok(body) = serde_json::from_value::<Body>(edited) else {
                continue;
            };
            assert_ne!(body, record.body, "{path}");
            let mut forged = record.clone();
            forged.body = body;
            let before = unseal(host, &forged, &credential).unwrap_err();
            assert_eq!(
                before.kind().name,
                "damaged-record",
                "{path} without a new checksum"
            );
            forged.resum();
            let error = unseal(host, &forged, &credential).unwrap_err();
            assert!(FAIR.contains(&error.kind().name), "{path}: {error}");
        }
    }
    let mut forged = record.clone();
    forged.mac.0[0] ^= 1;
    forged.resum();
    let error = unseal(host, &forged, &credential).unwrap_err();
    assert_eq!(error.kind().name, "damaged-record");
    assert_eq!(
        unseal(host, &record, &credential).unwrap(),
        *kek.key().expose()
    );
}

fn leaves(value: &Value, path: String, out: &mut Vec<String>) {
    match value {
        Value::Object(map) => map
            .iter()
            .for_each(|(key, value)| leaves(value, format!("{path}/{key}"), out)),
        Value::Array(list) => list
            .iter()
            .enumerate()
            .for_each(|(place, value)| leaves(value, format!("{path}/{place}"), out)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => out.push(path),
    }
}

/// Changed copies of the whole body: another number, the other word, a digit at the start, in the middle, at the end.
fn edits(body: &Value, path: &str) -> Vec<Value> {
    let leaf = body.pointer(path).unwrap();
    let others: Vec<Value> = match leaf {
        Value::Bool(flag) => vec![Value::from(!flag)],
        Value::Number(number) => vec![Value::from(number.as_u64().unwrap() + 1)],
        Value::String(word) if word == "machine" => vec![Value::from("pin")],
        Value::String(word) if word == "a" || word == "b" => {
            vec![Value::from(if word == "a" { "b" } else { "a" })]
        }
        Value::String(digits) => [0, digits.len() / 2, digits.len() - 1]
            .into_iter()
            .map(|place| {
                let mut digits = digits.clone().into_bytes();
                digits[place] = if digits[place] == b'0' { b'1' } else { b'0' };
                Value::from(String::from_utf8(digits).unwrap())
            })
            .collect(),
        Value::Null | Value::Array(_) | Value::Object(_) => Vec::new(),
    };
    assert!(!others.is_empty(), "{path}: {leaf}");
    others
        .into_iter()
        .map(|other| {
            let mut copy = body.clone();
            *copy.pointer_mut(path).unwrap() = other;
            copy
        })
        .collect()
}
