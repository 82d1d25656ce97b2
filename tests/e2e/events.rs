//! Events reach who listens and the configured program, each with its record in the audit log; usage is counted from there.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use kms_tests::daemon::path_text;
use kms_tests::http;
use kms_tests::require;
use kms_tests::wait;
use kms_tests::world::World;
use serde_json::{Value, json};

fn configured(text: &str) -> World {
    let mut world = World::enrolled();
    let config = world.daemon.config();
    let before = fs::read_to_string(&config).unwrap();
    fs::write(&config, format!("{before}\n{text}")).unwrap();
    world.daemon.start();
    world
}

fn wait_for_events(world: &World, body: &Value) -> Value {
    let body = body.to_string();
    let reply = http::post(
        &world.daemon.socket(),
        "KmsdLocal.WaitForEvents",
        body.as_bytes(),
    );
    assert_eq!(reply.status, 200, "{}", reply.text);
    reply.json
}

/// Detail types in order.
fn types<'a>(events: impl IntoIterator<Item = &'a Value>) -> Vec<String> {
    events
        .into_iter()
        .map(|event| event["detail-type"].as_str().unwrap().to_owned())
        .collect()
}

/// A key that root may manage and not encrypt with.
fn guarded_key(world: &World) -> String {
    let statement = |effect: &str, action: &str| {
        json!({
            "Effect": effect, "Action": action, "Resource": "*",
            "Principal": { "AWS": "arn:aws:iam::000000000000:root" },
        })
    };
    let policy = json!({
        "Version": "2012-10-17",
        "Statement": [statement("Allow", "kms:*"), statement("Deny", "kms:Encrypt")],
    });
    let made = world.call("CreateKey", &json!({ "Policy": policy.to_string() }));
    made["KeyMetadata"]["KeyId"].as_str().unwrap().to_owned()
}

#[test]
fn events_are_told_to_listeners_and_to_the_program_and_stand_in_the_log() {
    if !require::tpm() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let hook = folder.path().join("hook");
    fs::write(&hook, "#!/bin/sh\ncat >>\"$0.told\"\n").unwrap();
    fs::set_permissions(&hook, fs::Permissions::from_mode(0o755)).unwrap();
    if fs::metadata(&hook)
        .map(|meta| std::os::unix::fs::MetadataExt::uid(&meta))
        .unwrap()
        != 0
    {
        println!("skipped: not root");
        return;
    }
    let world = configured(&format!("[events]\nexec = {hook:?}\ndenial_burst = 3\n"));
    let begin = wait_for_events(&world, &json!({}));
    assert_eq!(begin["Events"], json!([]));

    let key = world.key("alias/rotated");
    world.call("RotateKeyOnDemand", &json!({ "KeyId": key }));
    let asked = json!({ "Marker": begin["NextMarker"], "TimeoutMs": 60_000 });
    let told = wait_for_events(&world, &asked);
    assert_eq!(told["Missed"], false);
    let events = told["Events"].as_array().unwrap();
    let rotation = events
        .iter()
        .map(|told| &told["Event"])
        .find(|event| event["source"] == "aws.kms")
        .expect("the rotation is told");
    assert_eq!(rotation["detail-type"], "KMS CMK Rotation");
    assert_eq!(rotation["source"], "aws.kms");
    assert_eq!(rotation["detail"], json!({ "key-id": key }));

    let doomed = world.key("alias/doomed");
    world.call(
        "ScheduleKeyDeletion",
        &json!({ "KeyId": doomed, "PendingWindowInDays": 7 }),
    );
    let used = world.post(
        "GenerateDataKey",
        &json!({ "KeyId": doomed, "KeySpec": "AES_256" }),
    );
    assert_eq!(used.status, 400);
    let guarded = guarded_key(&world);
    for _ in 0..4 {
        let denied = world.post(
            "Encrypt",
            &json!({ "KeyId": guarded, "Plaintext": "aGVsbG8=" }),
        );
        assert!(denied.text.contains("AccessDenied"), "{}", denied.text);
    }
    let expected = [
        "KMS CMK Rotation",
        "kmsd Key Used While Pending Deletion",
        "kmsd Denial Burst",
    ];
    // The log tells of other things, too, such as checkpoints.
    let is_ours = |kind: &String| expected.contains(&kind.as_str());
    let mut seen = types([rotation]);
    let mut marker = told["NextMarker"].clone();
    while seen.len() < 3 {
        let more = wait_for_events(&world, &json!({ "Marker": marker, "TimeoutMs": 60_000 }));
        marker = more["NextMarker"].clone();
        let events = more["Events"].as_array().unwrap();
        assert!(!events.is_empty(), "only {seen:?}");
        let new = types(events.iter().map(|told| &told["Event"]));
        seen.extend(new.into_iter().filter(is_ours));
    }
    assert_eq!(seen, expected);
    // What was told is not told again, and a marker that is none is refused.
    let quiet = wait_for_events(&world, &json!({ "Marker": marker, "TimeoutMs": 10 }));
    let again = types(
        quiet["Events"]
            .as_array()
            .unwrap()
            .iter()
            .map(|told| &told["Event"]),
    );
    assert!(!again.iter().any(is_ours), "{again:?}");
    let body = json!({ "Marker": "yesterday" }).to_string();
    let refused = http::post(
        &world.daemon.socket(),
        "KmsdLocal.WaitForEvents",
        body.as_bytes(),
    );
    assert!(refused.text.contains("InvalidMarker"), "{}", refused.text);

    let listed = world.kmsctl(&["--json", "events"]).ok().stdout;
    let listed: Vec<Value> = listed
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let ours: Vec<&Value> = listed
        .iter()
        .filter(|event| expected.contains(&event["detail-type"].as_str().unwrap()))
        .collect();
    assert_eq!(types(ours.iter().copied()), expected);
    for event in &ours {
        let id = event["id"].as_str().unwrap();
        let found = world.kmsctl(&["audit", "search", "--event", id]).ok();
        assert!(!found.stdout.is_empty());
    }
    // The program was told the same, in order.
    let told = folder.path().join("hook.told");
    let lines = || -> Vec<Value> {
        let text = fs::read_to_string(&told).unwrap_or_default();
        let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
        whole
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    };
    wait::until_true("the program having been told", wait::PATIENCE, || {
        lines()
            .iter()
            .any(|event| event["detail-type"] == "kmsd Denial Burst")
    });
    let all = lines();
    let hooked: Vec<&Value> = all
        .iter()
        .filter(|event| expected.contains(&event["detail-type"].as_str().unwrap()))
        .collect();
    assert_eq!(hooked, ours);
}

#[test]
fn a_program_that_others_could_change_stops_kmsd_from_starting() {
    if !require::tpm() {
        return;
    }
    let world = World::enrolled();
    let hook = world.path("hook");
    fs::write(&hook, "#!/bin/sh\n").unwrap();
    fs::set_permissions(&hook, fs::Permissions::from_mode(0o777)).unwrap();
    let config = world.daemon.config();
    let before = fs::read_to_string(&config).unwrap();
    fs::write(&config, format!("{before}\n[events]\nexec = {hook:?}\n")).unwrap();
    let (code, said) = world.daemon.start_refused();
    assert_eq!(code, 3, "{said}");
    assert!(said.contains("events.exec"), "{said}");
}

#[test]
fn usage_is_what_was_called() {
    if !require::tpm() {
        return;
    }
    let mut world = World::start();
    let key = world.key("alias/usage");
    for _ in 0..5 {
        world.call(
            "GenerateDataKey",
            &json!({ "KeyId": key, "KeySpec": "AES_256" }),
        );
    }
    world.call("DisableKey", &json!({ "KeyId": key }));
    let refused = world.post(
        "GenerateDataKey",
        &json!({ "KeyId": key, "KeySpec": "AES_256" }),
    );
    assert_eq!(refused.status, 400);
    // The record of the last one has its own, short delay.
    let usage = wait::until("the records of all calls", wait::PATIENCE, || {
        let usage = world.kmsctl(&["--json", "usage"]).ok().json();
        let rows = usage["Rows"].as_array().unwrap();
        let row = rows
            .iter()
            .find(|row| row["Operation"] == "GenerateDataKey")?
            .clone();
        (row["Failed"] == 1).then_some((row, usage))
    });
    let (row, usage) = usage;
    assert_eq!(row["Succeeded"], 5);
    assert!(row["Key"].as_str().unwrap().ends_with(&key), "{row}");
    assert_eq!(row["Principal"], "arn:aws:iam::000000000000:root");
    let arn = row["Key"].as_str().unwrap();
    assert!(usage["LastUsed"][arn].as_i64().is_some(), "{usage}");
    let estimate = &usage["Estimate"];
    assert_eq!(estimate["Source"], "https://aws.amazon.com/kms/pricing/");
    let items = estimate["Items"].as_array().unwrap();
    let requests = items
        .iter()
        .find(|item| item["What"] == "requests")
        .unwrap();
    assert_eq!(requests["Amount"], 0.0, "a few requests are free");

    // The same from the files, with kmsd stopped; another month has nothing.
    world.daemon.stop();
    let audit = world.daemon.store().join("audit");
    let read = |month: &[&str]| {
        let arguments = [
            &["--json", "usage", "--directory", path_text(&audit)],
            month,
        ]
        .concat();
        kms_tests::cli::run("kmsctl", &arguments, None).ok().json()
    };
    let rows = read(&[])["Rows"].clone();
    assert!(rows.as_array().unwrap().contains(&row), "{rows}");
    assert_eq!(read(&["--month", "1999-12"])["Rows"], json!([]));
    let wrong = [
        "usage",
        "--directory",
        path_text(&audit),
        "--month",
        "1999-13",
    ];
    assert_eq!(kms_tests::cli::run("kmsctl", &wrong, None).code, 2);
}
