//! Alice and Bob at one kmsd: key policies, identity policies, grants and guard rails decide, and the log says what did.

use kms_tests::wait;
use serde_json::json;

use crate::machine_can;
use crate::people::{ALICE, BOB, Person, open_world, readable, secret};

fn decrypt(world: &kms_tests::world::World, person: Person, sealed: &str) -> crate::people::Said {
    person.kmsctl(world, &["decrypt", "--key", "alias/hr", "--in", sealed])
}

/// `kmsctl why last` says this, once the record is on disk: those of requests that change nothing follow the answer.
#[track_caller]
fn explained(world: &kms_tests::world::World, texts: &[&str]) {
    wait::until_true("the denial explained", wait::PATIENCE, || {
        let why = world.kmsctl(&["why", "last"]).ok().stdout;
        texts.iter().all(|text| why.contains(text))
    });
}

#[test]
fn policies_of_keys_and_identities_decide_about_real_users() {
    if !machine_can() {
        return;
    }
    let world = open_world();
    world.key("alias/hr");
    let sealed = secret(&world, "alias/hr", "salaries");
    let none = "because no identity-based policy allows the kms:Decrypt action";
    decrypt(&world, ALICE, &sealed).denied(none);
    decrypt(&world, BOB, &sealed).denied(none);

    // An identity policy for Alice: the default key policy lets it count.
    let allow = json!({"Version": "2012-10-17", "Statement": {"Sid": "Read", "Effect": "Allow",
        "Action": ["kms:Decrypt"], "Resource": "*"}});
    let put = |name: &str, document: &serde_json::Value| {
        let body = json!({"IdentityType": "USER", "Identity": ALICE.name(), "PolicyName": name,
            "Document": document.to_string()});
        let target = "KmsdLocal.PutIdentityPolicy";
        let reply =
            kms_tests::http::post(&world.daemon.socket(), target, body.to_string().as_bytes());
        assert_eq!(reply.status, 200, "{}", reply.text);
    };
    put("read", &allow);
    assert_eq!(decrypt(&world, ALICE, &sealed).ok().stdout, "salaries");
    decrypt(&world, BOB, &sealed).denied(none);

    // The key policy names Bob and does not delegate any more; root keeps the key.
    let root = "arn:aws:iam::000000000000:root";
    let only_bob = json!({"Version": "2012-10-17", "Statement": [
        {"Sid": "Root", "Effect": "Allow", "Principal": {"AWS": root}, "Action": "kms:*KeyPolicy*", "Resource": "*"},
        {"Sid": "Bob", "Effect": "Allow", "Principal": {"AWS": BOB.arn()}, "Action": "kms:Decrypt", "Resource": "*"}]});
    let file = readable(&world, "only-bob.json", only_bob.to_string());
    let id =
        world.call("DescribeKey", &json!({"KeyId": "alias/hr"}))["KeyMetadata"]["KeyId"].clone();
    let id = id.as_str().unwrap();
    world.kmsctl(&["key", "policy", "put", id, &file]).ok();
    assert_eq!(decrypt(&world, BOB, &sealed).ok().stdout, "salaries");
    decrypt(&world, ALICE, &sealed)
        .denied("because no resource-based policy allows the kms:Decrypt action");

    // Which statement decided, asked and remembered.
    let simulated = |person: Person| {
        let arn = person.arn();
        world.kmsctl(&[
            "--json",
            "policy",
            "simulate",
            "--principal",
            &arn,
            "--action",
            "decrypt",
            "--key",
            id,
        ])
    };
    let said = simulated(BOB);
    assert_eq!(said.code, 0, "{said:?}");
    assert_eq!(said.json()["DecidedBy"], "key-policy#Bob");
    let said = simulated(ALICE);
    assert_eq!(said.code, 19, "{said:?}");
    assert_eq!(said.json()["Decision"], "IMPLICIT_DENY");
    let who = world
        .kmsctl(&["--json", "who-can", "decrypt", id])
        .ok()
        .json();
    assert_eq!(who["Delegated"], false);
    assert!(
        who["Allowed"]
            .as_array()
            .unwrap()
            .iter()
            .any(|entry| entry["Principal"] == BOB.arn())
    );
    explained(
        &world,
        &["user:uid-3001 asked for Decrypt", "kmsctl key policy get"],
    );
}

#[test]
fn a_guard_rail_limits_root_and_says_so() {
    if !machine_can() {
        return;
    }
    let world = open_world();
    let id = world.key("alias/hr");
    let rail = json!({"Version": "2012-10-17", "Statement": {"Sid": "NobodyDeletesKeys", "Effect": "Deny",
        "Action": "kms:ScheduleKeyDeletion", "Resource": "*"}});
    let file = readable(&world, "rail.json", rail.to_string());
    ALICE
        .kmsctl(&world, &["guard-rail", "put", "keep", &file])
        .denied("kmsd:PutGuardRail");
    world.kmsctl(&["guard-rail", "put", "keep", &file]).ok();
    let text = "with an explicit deny in a service control policy";
    world
        .kmsctl(&["key", "schedule-deletion", &id, "--yes"])
        .fails_with(text);
    explained(
        &world,
        &["statement NobodyDeletesKeys of the guard rail keep"],
    );
    world.kmsctl(&["guard-rail", "delete", "keep"]).ok();
    world
        .kmsctl(&["key", "schedule-deletion", &id, "--yes"])
        .ok();
}

#[test]
fn nobody_locks_himself_out_of_a_key_by_mistake() {
    if !machine_can() {
        return;
    }
    let world = open_world();
    let id = world.key("alias/hr");
    let policy = json!({"Version": "2012-10-17", "Statement": {"Effect": "Allow",
        "Principal": {"AWS": BOB.arn()}, "Action": "kms:*", "Resource": "*"}});
    let file = readable(&world, "policy.json", policy.to_string());
    let refused = "The new key policy will not allow you to update the key policy in the future";
    world
        .kmsctl(&["key", "policy", "put", &id, &file])
        .fails_with(refused);
    world
        .kmsctl(&["key", "policy", "put", &id, &file, "--bypass-lockout-check"])
        .ok();
    world
        .kmsctl(&["key", "policy", "get", &id])
        .fails_with("AccessDenied");
    BOB.kmsctl(&world, &["key", "policy", "get", &id]).ok();
    BOB.kmsctl(&world, &["key", "tag", &id, "project=alpha"])
        .ok();
    assert!(
        BOB.kmsctl(&world, &["key", "tags", &id])
            .ok()
            .stdout
            .contains("alpha")
    );
}
