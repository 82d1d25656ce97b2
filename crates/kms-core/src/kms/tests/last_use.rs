//! GetKeyLastUsage, and the condition on the days without use.

use super::access::user;
use super::*;
use crate::ids::KeyId;
use crate::last_use::Used;

fn note(bench: &Bench, key: &str, operation: &'static str) {
    let used = Used {
        operation,
        time_ms: bench.now.wall_ms,
        event_id: [0xab; 16],
        request_id: [0xcd; 16],
    };
    bench
        .kms
        .last_use()
        .note(key.parse::<KeyId>().unwrap(), used);
}

#[test]
fn the_last_use_is_told_in_the_shape_of_aws() {
    let mut bench = Bench::new();
    bench.kms.last_use().reaches_back_to(START.wall_ms);
    bench.kms.last_use().complete();
    bench.pass_days(1);
    let key = bench.create_key();
    let ask = |bench: &mut Bench| bench.call("GetKeyLastUsage", json!({"KeyId": arn(&key)}));
    let made = (START.wall_ms + 86_400_000) / 1000;
    assert_eq!(
        ask(&mut bench).unwrap(),
        json!({"KeyId": arn(&key), "KeyLastUsage": {}, "TrackingStartDate": made, "KeyCreationDate": made})
    );
    bench.pass_days(2);
    note(&bench, &key, "ReEncrypt");
    assert_eq!(
        ask(&mut bench).unwrap(),
        json!({
            "KeyId": arn(&key),
            "KeyLastUsage": {
                "Operation": "ReEncrypt",
                "Timestamp": made + 2 * 86_400,
                "CloudTrailEventId": "abababab-abab-abab-abab-abababababab",
                "KmsRequestId": "cdcdcdcd-cdcd-cdcd-cdcd-cdcdcdcdcdcd",
            },
            "TrackingStartDate": made,
            "KeyCreationDate": made,
        })
    );
    // In every state, and by no alias.
    bench
        .call("ScheduleKeyDeletion", json!({"KeyId": key}))
        .unwrap();
    assert!(ask(&mut bench).is_ok());
    assert_eq!(
        bench
            .call("GetKeyLastUsage", json!({"KeyId": "alias/a"}))
            .unwrap_err(),
        "NotFoundException: Invalid keyId 'alias/a'"
    );
}

/// A key that alice may end when nobody used it for 30 days.
fn guarded(bench: &mut Bench) -> String {
    let statement = |effect: &str, action: &[&str], condition: Value| {
        json!({
            "Effect": effect,
            "Principal": {"AWS": "*"},
            "Action": action,
            "Resource": "*",
            "Condition": condition,
        })
    };
    let policy = json!({
        "Version": "2012-10-17",
        "Statement": [
            statement(
                "Allow",
                &["kms:ScheduleKeyDeletion"],
                json!({"NumericGreaterThanEquals": {"kms:TrailingDaysWithoutKeyUsage": "30"}}),
            ),
            statement("Allow", &["kms:DisableKey"], json!({"Bool": {"aws:SecureTransport": "true"}})),
            statement(
                "Deny",
                &["kms:DisableKey"],
                json!({"NumericLessThan": {"kms:TrailingDaysWithoutKeyUsage": "30"}}),
            ),
        ],
    });
    bench.create(json!({
        "Policy": policy.to_string(),
        "BypassPolicyLockoutSafetyCheck": true,
    }))
}

#[test]
fn a_key_in_use_is_neither_deleted_nor_disabled_by_whom_its_policy_tells_to_look() {
    let mut bench = Bench::new();
    let key = guarded(&mut bench);
    let alice = user("alice");
    let may = |bench: &mut Bench, operation: &str| {
        let request = Bench::decode(operation, &json!({"KeyId": key}));
        bench.world_call(|kms, world| kms.handle(&request, &alice, world).outcome.is_ok())
    };
    bench.pass_days(100);
    for operation in ["ScheduleKeyDeletion", "DisableKey"] {
        assert!(
            !may(&mut bench, operation),
            "the log is not read yet: {operation}"
        );
    }
    bench.kms.last_use().reaches_back_to(START.wall_ms);
    bench.kms.last_use().complete();
    for operation in ["ScheduleKeyDeletion", "DisableKey"] {
        assert!(may(&mut bench, operation), "{operation}");
    }
    note(&bench, &key, "Decrypt");
    for (days, allowed) in [(0, false), (29, false), (1, true)] {
        bench.pass_days(days);
        for operation in ["ScheduleKeyDeletion", "DisableKey"] {
            assert_eq!(may(&mut bench, operation), allowed, "{operation}");
        }
    }
}

#[test]
fn a_description_is_replaced() {
    let mut bench = Bench::new();
    let key = bench.create(json!({"Description": "old"}));
    let body = json!({"KeyId": key, "Description": ""});
    assert_eq!(bench.call("UpdateKeyDescription", body).unwrap(), json!({}));
    let described = bench.call("DescribeKey", json!({"KeyId": key})).unwrap();
    assert_eq!(described["KeyMetadata"]["Description"], "");
    let refused = bench.call("UpdateKeyDescription", json!({"KeyId": key}));
    assert!(refused.unwrap_err().contains("Value null at 'description'"));
    bench
        .call("ScheduleKeyDeletion", json!({"KeyId": key}))
        .unwrap();
    let body = json!({"KeyId": key, "Description": "new"});
    assert_eq!(
        bench.call("UpdateKeyDescription", body).unwrap_err(),
        format!(
            "KMSInvalidStateException: {} is pending deletion.",
            arn(&key)
        )
    );
}
