use super::*;
use crate::audit::{Actor, Failure};

const KEY: &str = "arn:aws:kms:us-west-2:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab";

fn scope() -> Scope {
    Scope::new("111122223333", "us-west-2").unwrap()
}

fn request(operation: &str, principal: &str, time: i64, error: Option<(&str, &str)>) -> Record {
    let mut record = Record::service("e".into(), time, KMS_SOURCE, operation);
    record.kind = Kind::Api;
    record.caller = Some(
        Actor {
            arn: principal.into(),
            uid: Some(1000),
            ..Actor::default()
        }
        .into(),
    );
    record.error = error.map(|(code, message)| Failure {
        code: code.into(),
        message: Some(message.into()),
    });
    record.key(KEY)
}

/// The example of AWS's documentation, word for word.
#[test]
fn a_rotation_is_told_as_aws_does() {
    let id = "6a7e8feb-b491-4cf7-a9f1-bf3703467718";
    let record = Record::service(id.into(), 1_660_149_470_000, KMS_SOURCE, "RotateKey").key(KEY);
    let expected = json!({
        "version": "0",
        "id": id,
        "detail-type": "KMS CMK Rotation",
        "source": "aws.kms",
        "account": "111122223333",
        "time": "2022-08-10T16:37:50Z",
        "region": "us-west-2",
        "resources": [KEY],
        "detail": { "key-id": "1234abcd-12ab-34cd-56ef-1234567890ab" },
    });
    assert_eq!(event(&record, &scope()), Some(expected));
    let deleted = Record::service(id.into(), 0, KMS_SOURCE, "DeleteKey").key(KEY);
    let deleted = event(&deleted, &scope()).unwrap();
    assert_eq!(deleted["detail-type"], "KMS CMK Deletion");
    assert_eq!(deleted["time"], "1970-01-01T00:00:00Z");
}

#[test]
fn events_of_our_own_have_their_details_and_requests_are_none() {
    let lease = Record::service("e".into(), 0, LOCAL_SOURCE, "LeaseRanOut").detail("label", "/srv");
    let told = event(&lease, &scope()).unwrap();
    assert_eq!(told["detail-type"], "kmsd Lease Ran Out");
    assert_eq!(told["source"], "kmsd.local");
    assert_eq!(told["detail"], json!({ "label": "/srv" }));
    assert_eq!(told["resources"], json!([]));

    let decrypt = |error| request("Decrypt", "arn:aws:iam::111122223333:user/alice", 0, error);
    assert_eq!(event(&decrypt(None), &scope()), None);
    let denied = Some(("AccessDeniedException", "no"));
    assert_eq!(event(&decrypt(denied), &scope()), None);
    let pending = format!("{KEY} is pending deletion.");
    let told = event(
        &decrypt(Some(("KMSInvalidStateException", &pending))),
        &scope(),
    )
    .unwrap();
    assert_eq!(told["detail-type"], "kmsd Key Used While Pending Deletion");
    let expected = json!({
        "key-id": "1234abcd-12ab-34cd-56ef-1234567890ab",
        "operation": "Decrypt",
        "principal": "arn:aws:iam::111122223333:user/alice",
    });
    assert_eq!(told["detail"], expected);
    let disabled = Some(("KMSInvalidStateException", "it is disabled."));
    assert_eq!(event(&decrypt(disabled), &scope()), None);
}

#[test]
fn times_are_those_of_the_calendar() {
    let cases = [
        (951_782_399_000, "2000-02-28T23:59:59Z"),
        (951_782_400_000, "2000-02-29T00:00:00Z"),
        (1_709_251_199_999, "2024-02-29T23:59:59Z"),
        (4_102_444_800_000, "2100-01-01T00:00:00Z"),
        (-1, "1969-12-31T23:59:59Z"),
    ];
    for (ms, text) in cases {
        assert_eq!(seconds(ms), text);
    }
}

#[test]
fn a_burst_is_one_principal_denied_often_within_a_minute() {
    let mut bursts = Bursts::new(3);
    let denied = Some(("AccessDeniedException", "no"));
    let mut at = |principal: &str, time: i64| {
        bursts
            .seen(&request("Decrypt", principal, time, denied), || {
                "burst".into()
            })
            .map(|record| record.details["denials"].clone())
    };
    assert_eq!(at("alice", 0), None);
    assert_eq!(at("bob", 1), None);
    assert_eq!(at("alice", 10_000), None);
    assert_eq!(at("alice", 59_999), Some(json!(3)));
    // Not again within the same minute, however often.
    assert_eq!(at("alice", 59_999), None);
    assert_eq!(at("bob", 60_000), None);
    // A new minute begins from nothing, also when the clock was put back.
    assert_eq!(at("alice", 60_000), None);
    assert_eq!(at("alice", 60_001), None);
    assert_eq!(at("alice", 100), None);
    assert_eq!(at("alice", 101), None);
    assert_eq!(at("alice", 102), Some(json!(3)));
    // Other errors do not count, and 0 is off.
    let other = Some(("DisabledException", "no"));
    for _ in 0..5 {
        let record = request("Decrypt", "carol", 0, other);
        assert_eq!(bursts.seen(&record, String::new), None);
        assert_eq!(
            Bursts::new(0).seen(&request("D", "c", 0, denied), String::new),
            None
        );
    }
    let burst = Bursts::new(1).seen(&request("Decrypt", "dave", 7, denied), || "id".into());
    let told = event(&burst.unwrap(), &scope()).unwrap();
    assert_eq!(told["detail-type"], "kmsd Denial Burst");
    assert_eq!(told["detail"]["principal"], "dave");
    assert_eq!(told["resources"], json!([KEY]));
}
