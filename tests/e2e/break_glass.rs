//! `kmsctl break-glass`: what root can do when the policies lock everyone out, with the TPM, without it, and with shares of the
//! recovery key.

use std::fs;

use kms_tests::cli::{self, Said};
use kms_tests::daemon::path_text;
use kms_tests::require;
use kms_tests::world::World;
use serde_json::{Value, json};

const REASON: [&str; 2] = ["--reason", "the policy of payroll locks everyone out"];

fn break_glass(world: &World, arguments: &[&str]) -> Said {
    let config = world.daemon.config();
    let first = ["break-glass", "--config", path_text(&config), "--json"];
    cli::run("kmsctl", &[&first, arguments].concat(), None)
}

/// The same with a reason and without asking.
fn change(world: &World, arguments: &[&str]) -> Said {
    break_glass(world, &[arguments, &REASON, &["--yes"]].concat())
}

fn obstacles(world: &World) -> Vec<(String, String)> {
    let shown = break_glass(world, &["show"]).ok().json();
    let list = shown["Obstacles"].as_array().unwrap();
    let text = |one: &Value, name: &str| one[name].as_str().unwrap().to_owned();
    list.iter()
        .map(|one| (text(one, "Target"), text(one, "Reason")))
        .collect()
}

fn can() -> bool {
    require::tpm() && require_root()
}

fn require_root() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        println!("skipped: not root");
    }
    root
}

/// A key whose policy lets only a user in who does not exist.
fn locked_key(world: &World) -> String {
    let policy = json!({ "Version": "2012-10-17", "Statement": {
        "Sid": "OnlyNobody", "Effect": "Allow", "Action": "kms:*", "Resource": "*",
        "Principal": { "AWS": "arn:aws:iam::000000000000:user/left-the-company" },
    }});
    let body = json!({ "Policy": policy.to_string(), "BypassPolicyLockoutSafetyCheck": true });
    let made = world.call("CreateKey", &body);
    made["KeyMetadata"]["KeyId"].as_str().unwrap().to_owned()
}

#[test]
fn a_key_that_locks_everyone_out_gets_a_policy_again() {
    if !can() {
        return;
    }
    let mut world = World::start();
    let free = world.key("alias/free");
    let locked = locked_key(&world);
    // Not while kmsd runs, and nothing without a reason.
    let running = change(&world, &["enable-key", &free]);
    assert_eq!(running.code, 64, "{running:?}");
    world.daemon.stop();
    let put = ["put-key-policy", locked.as_str(), "--default"];
    let silent = break_glass(&world, &[&put[..], &["--yes"]].concat());
    assert_eq!(silent.code, 2, "{silent:?}");
    let unconfirmed = break_glass(&world, &[&put[..], &REASON].concat());
    assert_eq!(unconfirmed.code, 6, "{unconfirmed:?}");

    let found = obstacles(&world);
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].0.ends_with(&locked), "{found:?}");

    let wrong = world.path("wrong.json");
    fs::write(
        &wrong,
        r#"{"Version":"2012-10-17","Statement":{"Effect":"Perhaps"}}"#,
    )
    .unwrap();
    let policy = [
        "put-key-policy",
        locked.as_str(),
        "--policy",
        path_text(&wrong),
    ];
    change(&world, &policy).fails_with("Effect");
    change(&world, &["put-key-policy", "alias/none", "--default"]).fails_with("not found");
    assert_eq!(obstacles(&world).len(), 1, "nothing has changed");

    let done = change(&world, &put).ok().json();
    assert_eq!(done["Action"], "ReplaceKeyPolicy");
    assert!(done["EventId"].as_str().is_some_and(|id| id.len() == 36));
    assert_eq!(obstacles(&world), []);
    world.daemon.start();
    world.call("DisableKey", &json!({ "KeyId": locked }));
    // The record is in the log now, with the reason.
    let event = done["EventId"].as_str().unwrap();
    let found = world
        .kmsctl(&["--json", "audit", "search", "--event", event])
        .ok();
    for text in [
        "BreakGlass",
        REASON[1],
        "ReplaceKeyPolicy",
        "left-the-company",
    ] {
        assert!(found.stdout.contains(text), "{text} in {}", found.stdout);
    }
}

#[test]
fn keys_are_enabled_and_kept_with_the_tpm_and_without_it() {
    if !can() {
        return;
    }
    let mut world = World::start();
    let key = world.key("alias/key");
    world.call(
        "ScheduleKeyDeletion",
        &json!({ "KeyId": key, "PendingWindowInDays": 7 }),
    );
    world.daemon.stop();
    change(&world, &["enable-key", "alias/key"]).fails_with("is not disabled");
    change(&world, &["cancel-deletion", "alias/key"]).ok();
    change(&world, &["cancel-deletion", "alias/key"]).fails_with("is not pending deletion");

    // The TPM is gone: with the recovery key alone, and only with this store's.
    world.tpm.power_off();
    let other = World::enrolled();
    let (own, foreign) = (world.daemon.recovery_key(), other.daemon.recovery_key());
    let with = |key: &str| {
        change(
            &world,
            &[
                "enable-key",
                "alias/key",
                "--without-tpm",
                "--recovery-from",
                key,
            ],
        )
    };
    assert_eq!(with(path_text(&foreign)).code, 71);
    with(path_text(&own)).ok();
    world.tpm.power_on();
    world.daemon.start();
    let data = json!({ "KeyId": "alias/key", "KeySpec": "AES_256" });
    world.call("GenerateDataKey", &data);
    world.daemon.stop();
    // It was anchored at the stop, so the store is the newest one.
    world.daemon.start();
    world.call("GenerateDataKey", &data);
}

#[test]
fn with_shares_required_the_tpm_alone_is_not_enough() {
    if !can() {
        return;
    }
    let mut world = World::start();
    let key = world.key("alias/key");
    world.call("DisableKey", &json!({ "KeyId": key }));
    world.daemon.stop();
    let config = world.daemon.config();
    let text = fs::read_to_string(&config).unwrap();
    fs::write(
        &config,
        format!("{text}\n[approval]\nbreak_glass = \"shares\"\n"),
    )
    .unwrap();
    let shares = world.path("shares");
    fs::create_dir(&shares).unwrap();
    let recovery = world.daemon.recovery_key();
    let split = [
        "recovery",
        "split",
        "--config",
        path_text(&config),
        "--shares",
        "3",
        "--threshold",
        "2",
    ];
    let from = [
        "--recovery-from",
        path_text(&recovery),
        "--out-dir",
        path_text(&shares),
    ];
    cli::run("kmsctl", &[&split[..], &from[..]].concat(), None).ok();
    let mut files: Vec<_> = fs::read_dir(&shares)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort();

    let alone = change(&world, &["enable-key", "alias/key"]);
    assert_eq!(alone.code, 5, "{alone:?}");
    let one = [
        "enable-key",
        "alias/key",
        "--recovery-share",
        path_text(&files[0]),
    ];
    change(&world, &one).fails_with("2 shares are needed, 1 were given");
    change(
        &world,
        &[&one[..], &["--recovery-share", path_text(&files[2])]].concat(),
    )
    .ok();
    world.daemon.start();
    let data = json!({ "KeyId": "alias/key", "KeySpec": "AES_256" });
    world.call("GenerateDataKey", &data);
}
