//! When a key was last used: told by a kmsd that was started since, and asked for by conditions.

use kms_tests::http;
use kms_tests::world::World;
use kms_tests::{require, wait};
use serde_json::{Value, json};

/// What there is to know of a key once the log was read.
fn last_use(world: &World, key: &str) -> Value {
    world.call("GetKeyLastUsage", &json!({ "KeyId": key }))
}

/// Asks to end a key.
fn delete(world: &World, key: &str) -> http::Reply {
    world.post(
        "ScheduleKeyDeletion",
        &json!({ "KeyId": key, "PendingWindowInDays": 7 }),
    )
}

#[test]
fn the_last_use_is_known_after_a_restart_and_guards_the_key() {
    if !require::tpm() {
        return;
    }
    let mut world = World::start();
    let policy = json!({
        "Version": "2012-10-17",
        "Statement": [
            {"Effect": "Allow", "Principal": {"AWS": "*"}, "Action": "kms:*", "Resource": "*"},
            {
                "Effect": "Deny", "Principal": {"AWS": "*"}, "Action": "kms:ScheduleKeyDeletion", "Resource": "*",
                "Condition": {"NumericLessThan": {"kms:TrailingDaysWithoutKeyUsage": "30"}},
            },
        ],
    });
    let key = |world: &World| {
        let made = world.call("CreateKey", &json!({ "Policy": policy.to_string() }));
        made["KeyMetadata"]["KeyId"].as_str().unwrap().to_owned()
    };
    let (used, unused) = (key(&world), key(&world));
    assert_eq!(last_use(&world, &used)["KeyLastUsage"], json!({}));
    world.call(
        "GenerateDataKey",
        &json!({ "KeyId": used, "KeySpec": "AES_256" }),
    );
    let before = last_use(&world, &used);
    assert_eq!(before["KeyLastUsage"]["Operation"], "GenerateDataKey");
    let event = before["KeyLastUsage"]["CloudTrailEventId"]
        .as_str()
        .unwrap();
    let found = world.call_local("LookupEvents", &json!({ "EventId": event }));
    let line: Value = serde_json::from_str(found["Events"][0]["Line"].as_str().unwrap()).unwrap();
    assert_eq!(line["record"]["operation"], "GenerateDataKey");
    assert_eq!(
        line["record"]["requestId"],
        before["KeyLastUsage"]["KmsRequestId"]
    );

    world.daemon.stop();
    world.daemon.start();
    let after = wait::until("the log being read", wait::PATIENCE, || {
        let now = last_use(&world, &used);
        (now["KeyLastUsage"] != json!({})).then_some(now)
    });
    assert_eq!(after, before);
    let refused = delete(&world, &used);
    assert_eq!(
        refused.json["__type"], "AccessDeniedException",
        "{}",
        refused.text
    );

    // Forty days later: the unused key may go, one that was used again may not.
    world.daemon.stop();
    world.daemon.set_clock(40 * 24 * 60 * 60);
    world.daemon.start();
    world.call(
        "GenerateDataKey",
        &json!({ "KeyId": used, "KeySpec": "AES_256" }),
    );
    wait::until_true("the log being read", wait::PATIENCE, || {
        delete(&world, &unused).status == 200
    });
    let refused = delete(&world, &used);
    assert_eq!(
        refused.json["__type"], "AccessDeniedException",
        "{}",
        refused.text
    );
}
