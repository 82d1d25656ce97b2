//! Exports against the members and values of the log entries that AWS documents.

use std::sync::Arc;

use kms_api::{Caller, CallerRole, Request, Response};
use serde_json::{Value, json};

use super::super::*;
use crate::authz::{Basis, Verdict};
use crate::ids::Scope;
use crate::rows::Hash;

const KEY: &str = "arn:aws:kms:us-west-2:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab";
const ID: &str = "1234abcd-12ab-34cd-56ef-1234567890ab";
const MATERIAL: &str = "123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef0";
/// 2025-05-20T20:45:00Z.
const TIME: i64 = 1_747_773_900_000;

fn scope() -> Scope {
    Scope::new("111122223333", "us-west-2").unwrap()
}

fn exported(record: Record) -> Value {
    let line = Line {
        prev: Hash::default(),
        record,
        seq: 7,
    };
    cloudtrail::event(&line, &scope())
}

/// The record of a request by Alice, as the engine makes it.
fn asked(operation: &str, body: Value, response: Value) -> Value {
    let target = format!("TrentService.{operation}");
    let request = Request::decode(&target, body.to_string().as_bytes()).unwrap();
    let response = Response::from_json(&request, response.to_string().as_bytes()).unwrap();
    let alice = Caller::new(
        CallerRole::User,
        1000,
        "arn:aws:iam::111122223333:user/Alice",
    );
    let mut record = Record::request(
        "event".into(),
        "request".into(),
        TIME,
        &request,
        Arc::new(Actor::from(&alice)),
    );
    let basis = Basis::KeyPolicy {
        statement: "Users".into(),
    };
    record.decided(&Verdict::Allowed(basis), vec![KEY.into()], 3);
    record.answered(Ok(&response));
    // Through the bytes, as an export reads it.
    exported(Record::from_bytes(&record.to_bytes()).unwrap())
}

#[test]
fn a_record_of_another_place_names_it() {
    let key = "arn:aws:kms:eu-west-1:999988887777:key/00000000-0000-4000-8000-000000000001";
    let theirs = Scope::new("999988887777", "eu-west-1").unwrap();
    let mut record = Record::service("event".into(), TIME, "kms.amazonaws.com", "Encrypt");
    record.kind = Kind::Api;
    record.keys = vec![key.to_owned(), KEY.to_owned()];
    record.made_for(&theirs, &scope());
    let event = exported(Record::from_bytes(&record.to_bytes()).unwrap());
    assert_eq!(event["awsRegion"], "eu-west-1");
    assert_eq!(event["recipientAccountId"], "999988887777");
    assert_eq!(event["resources"][0]["accountId"], "999988887777");
    assert_eq!(event["resources"][1]["accountId"], "111122223333");
    // What the service does with a key is told where the key is; at home nothing is written.
    let rotated = Record::service("event".into(), TIME, "kms.amazonaws.com", "RotateKey").key(key);
    assert_eq!(exported(rotated)["awsRegion"], "eu-west-1");
    record.made_for(&scope(), &scope());
    assert_eq!((&record.account, &record.region), (&None, &None));
    assert_eq!(exported(record)["awsRegion"], "us-west-2");
}

/// Every member of a documented entry, and no other than CloudTrail has.
fn compare(ours: &Value, documented: &Value) {
    const KNOWN: [&str; 22] = [
        "eventVersion",
        "userIdentity",
        "eventTime",
        "eventSource",
        "eventName",
        "awsRegion",
        "sourceIPAddress",
        "userAgent",
        "errorCode",
        "errorMessage",
        "requestParameters",
        "responseElements",
        "additionalEventData",
        "requestID",
        "eventID",
        "readOnly",
        "resources",
        "eventType",
        "managementEvent",
        "recipientAccountId",
        "serviceEventDetails",
        "eventCategory",
    ];
    for name in ours.as_object().unwrap().keys() {
        assert!(KNOWN.contains(&name.as_str()), "{name}");
    }
    for (name, value) in documented.as_object().unwrap() {
        assert_eq!(&ours[name], value, "{name} of {ours:#}");
    }
}

fn alice(also: Value) -> Value {
    let mut entry = json!({
        "eventVersion": "1.11",
        "userIdentity": {
            "type": "IAMUser",
            "principalId": "uid-1000",
            "arn": "arn:aws:iam::111122223333:user/Alice",
            "accountId": "111122223333",
            "userName": "Alice",
        },
        "eventTime": "2025-05-20T20:45:00Z",
        "eventSource": "kms.amazonaws.com",
        "awsRegion": "us-west-2",
        "requestID": "request",
        "eventID": "event",
        "resources": [{"accountId": "111122223333", "type": "AWS::KMS::Key", "ARN": KEY}],
        "eventType": "AwsApiCall",
        "managementEvent": true,
        "recipientAccountId": "111122223333",
        "eventCategory": "Management",
    });
    entry
        .as_object_mut()
        .unwrap()
        .extend(also.as_object().unwrap().clone());
    entry
}

#[test]
fn a_decryption() {
    let context = json!({"Department": "Engineering", "Project": "Alpha"});
    let ours = asked(
        "Decrypt",
        json!({"CiphertextBlob": "AAAA", "EncryptionContext": context}),
        json!({"KeyId": KEY, "Plaintext": "AAAA", "EncryptionAlgorithm": "SYMMETRIC_DEFAULT", "KeyMaterialId": MATERIAL}),
    );
    compare(
        &ours,
        &alice(json!({
            "eventName": "Decrypt",
            "requestParameters": {
                "encryptionAlgorithm": "SYMMETRIC_DEFAULT", "keyId": KEY, "encryptionContext": context,
            },
            "responseElements": null,
            "readOnly": true,
        })),
    );
    let additional = &ours["additionalEventData"];
    assert_eq!(additional["keyMaterialId"], MATERIAL);
    assert_eq!(additional["localIdentity"]["uid"], 1000);
    assert_eq!(additional["authorization"]["by"], "key-policy#Users");
    assert_eq!(additional["logSequence"], 7);
}

#[test]
fn a_data_key() {
    let context = json!({"Department": "Engineering", "Project": "Alpha"});
    let ours = asked(
        "GenerateDataKey",
        json!({"KeyId": ID, "KeySpec": "AES_256", "EncryptionContext": context}),
        json!({"KeyId": KEY, "Plaintext": "AAAA", "CiphertextBlob": "AAAA", "KeyMaterialId": MATERIAL}),
    );
    compare(
        &ours,
        &alice(json!({
            "eventName": "GenerateDataKey",
            "requestParameters": {"keyId": ID, "keySpec": "AES_256", "encryptionContext": context},
            "responseElements": null,
            "readOnly": true,
        })),
    );
    assert_eq!(ours["additionalEventData"]["keyMaterialId"], MATERIAL);
}

#[test]
fn a_grant() {
    let ours = asked(
        "CreateGrant",
        json!({
            "KeyId": KEY,
            "GranteePrincipal": "arn:aws:iam::111122223333:user/Bob",
            "Operations": ["Encrypt", "RetireGrant"],
            "Constraints": {"EncryptionContextSubset": {"ContextKey1": "Value1"}},
        }),
        json!({"GrantId": "f020", "GrantToken": "secret"}),
    );
    compare(
        &ours,
        &alice(json!({
            "eventName": "CreateGrant",
            "requestParameters": {
                "keyId": KEY,
                "constraints": {"encryptionContextSubset": {"ContextKey1": "Value1"}},
                "operations": ["Encrypt", "RetireGrant"],
                "granteePrincipal": "arn:aws:iam::111122223333:user/Bob",
            },
            "responseElements": {"grantId": "f020", "keyId": KEY},
            "readOnly": false,
        })),
    );
    assert!(!ours.to_string().contains("secret"));
}

#[test]
fn a_scheduled_deletion_and_a_change_without_output() {
    let ours = asked(
        "ScheduleKeyDeletion",
        json!({"KeyId": ID, "PendingWindowInDays": 20}),
        // 2021-04-12T18:58:30Z.
        json!({"KeyId": KEY, "KeyState": "PendingDeletion", "DeletionDate": 1_618_253_910, "PendingWindowInDays": 20}),
    );
    compare(
        &ours,
        &alice(json!({
            "eventName": "ScheduleKeyDeletion",
            "requestParameters": {"pendingWindowInDays": 20, "keyId": ID},
            "responseElements": {
                "keyId": KEY,
                "keyState": "PendingDeletion",
                "deletionDate": "Apr 12, 2021, 6:58:30 PM",
                "pendingWindowInDays": 20,
            },
            "readOnly": false,
        })),
    );
    let ours = asked("DisableKey", json!({"KeyId": ID}), json!({}));
    compare(
        &ours,
        &alice(json!({
            "eventName": "DisableKey",
            "requestParameters": {"keyId": ID},
            "responseElements": {"keyId": KEY},
            "readOnly": false,
        })),
    );
}

#[test]
fn what_the_service_did_by_itself() {
    for (event, details) in [
        (
            "RotateKey",
            json!({
                "rotationType": "AUTOMATIC",
                "keyOrigin": "AWS_KMS",
                "previousKeyMaterialId": MATERIAL,
                "currentKeyMaterialId": MATERIAL,
                "keyId": ID,
            }),
        ),
        ("DeleteKey", json!({"keyId": ID})),
    ] {
        let mut record = Record::service("event".into(), TIME, KMS_SOURCE, event).key(KEY);
        for (name, value) in details.as_object().unwrap() {
            record = record.detail(name, value.clone());
        }
        compare(
            &exported(record),
            &json!({
                "eventVersion": "1.11",
                "userIdentity": {"accountId": "111122223333", "invokedBy": "AWS Internal"},
                "eventTime": "2025-05-20T20:45:00Z",
                "eventSource": "kms.amazonaws.com",
                "eventName": event,
                "awsRegion": "us-west-2",
                "sourceIPAddress": "AWS Internal",
                "userAgent": "AWS Internal",
                "requestParameters": null,
                "responseElements": null,
                "eventID": "event",
                "readOnly": false,
                "resources": [{"accountId": "111122223333", "type": "AWS::KMS::Key", "ARN": KEY}],
                "eventType": "AwsServiceEvent",
                "managementEvent": true,
                "recipientAccountId": "111122223333",
                "serviceEventDetails": details,
                "eventCategory": "Management",
            }),
        );
    }
}

#[test]
fn a_denial_and_the_kinds_of_identities() {
    let mut record = super::record(1);
    record.error = Some(Failure {
        code: "AccessDeniedException".into(),
        message: Some("User: a is not authorized to perform: kms:Decrypt".into()),
    });
    let actor = Arc::make_mut(record.caller.as_mut().unwrap());
    actor.arn = "arn:aws:sts::111122223333:assumed-role/unit/nginx.service".into();
    actor.via = Some(ActorVia {
        arn: "arn:aws:iam::111122223333:user/kmsfs".into(),
        pid: 1,
        service: "kmsfs.us-west-2.amazonaws.com".into(),
        uid: 990,
    });
    let ours = exported(record.clone());
    assert_eq!(ours["errorCode"], "AccessDenied");
    assert!(
        ours["errorMessage"]
            .as_str()
            .unwrap()
            .contains("kms:Decrypt")
    );
    let identity = &ours["userIdentity"];
    assert_eq!(identity["type"], "AssumedRole");
    assert_eq!(identity["invokedBy"], "kmsfs.us-west-2.amazonaws.com");
    assert_eq!(
        identity["sessionContext"]["sessionIssuer"]["arn"],
        "arn:aws:iam::111122223333:role/unit"
    );
    Arc::make_mut(record.caller.as_mut().unwrap()).arn = "arn:aws:iam::111122223333:root".into();
    assert_eq!(exported(record)["userIdentity"]["type"], "Root");
}

#[test]
fn filters_find_what_they_say() {
    let record = super::record(1);
    let line = serde_json::to_string(&record).unwrap();
    let some = |text: &str| Some(text.to_owned());
    let good = [
        Filter::default(),
        Filter {
            event_id: some("event-1"),
            ..Filter::default()
        },
        Filter {
            key: some("1"),
            ..Filter::default()
        },
        Filter {
            key: some("alias/x"),
            ..Filter::default()
        },
        Filter {
            principal: some("alice"),
            ..Filter::default()
        },
        Filter {
            operation: some("Decrypt"),
            outcome: some("denied"),
            ..Filter::default()
        },
        Filter {
            outcome: some("error"),
            from_ms: Some(record.time),
            ..Filter::default()
        },
    ];
    for filter in good {
        assert!(
            filter.matches(&record) && filter.may_match(&line),
            "{filter:?}"
        );
    }
    let bad = [
        Filter {
            event_id: some("event-2"),
            ..Filter::default()
        },
        Filter {
            key: some("alias/y"),
            ..Filter::default()
        },
        Filter {
            principal: some("bob"),
            ..Filter::default()
        },
        Filter {
            operation: some("Encrypt"),
            ..Filter::default()
        },
        Filter {
            outcome: some("ok"),
            ..Filter::default()
        },
        Filter {
            until_ms: Some(record.time),
            ..Filter::default()
        },
    ];
    for filter in bad {
        assert!(!filter.matches(&record), "{filter:?}");
    }
    let mut search = record;
    search.keys.clear();
    search.operation = "LookupEvents".into();
    let by_key = Filter {
        key: some("alias/x"),
        ..Filter::default()
    };
    assert!(!by_key.matches(&search));
}
