//! The audit log of a running kmsd: complete after a crash, readable with kmsctl, refused when it lacks records.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use kms_tests::daemon::path_text;
use kms_tests::process::Process;
use kms_tests::world::World;
use kms_tests::{http, programs, require, wait};
use serde_json::{Value, json};

/// The records on disk, in order.
fn records(world: &World) -> Vec<Value> {
    let mut files: Vec<PathBuf> = fs::read_dir(world.daemon.store().join("audit"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| {
            path.file_name()
                .unwrap()
                .to_string_lossy()
                .starts_with("log-")
        })
        .collect();
    files.sort();
    let text: String = files
        .iter()
        .map(|path| fs::read_to_string(path).unwrap())
        .collect();
    text.lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap()["record"].clone())
        .collect()
}

#[test]
fn what_was_answered_is_recorded_once_after_a_kill() {
    if !require::tpm() {
        return;
    }
    let mut world = World::start();
    let made = Mutex::new(Vec::new());
    for _ in 0..3 {
        let enough = AtomicBool::new(false);
        let socket = world.daemon.socket();
        let goal = made.lock().unwrap().len() + 20;
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    let request = b"POST / HTTP/1.1\r\nHost: h\r\nContent-Type: application/x-amz-json-1.1\r\n\
                        X-Amz-Target: TrentService.CreateKey\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}";
                    while !enough.load(Ordering::Relaxed) {
                        if UnixStream::connect(&socket).is_err() {
                            break;
                        }
                        // Whatever was not answered may or may not have been done.
                        let Some(reply) = http::send(&socket, request) else {
                            break;
                        };
                        if let Some(id) = reply.json["KeyMetadata"]["KeyId"].as_str() {
                            made.lock().unwrap().push(id.to_owned());
                        }
                    }
                });
            }
            wait::until_true("keys", wait::PATIENCE, || {
                made.lock().unwrap().len() >= goal
            });
            world.daemon.kill();
            enough.store(true, Ordering::Relaxed);
        });
        world.daemon.start();
    }
    let mut counts: BTreeMap<String, u32> = BTreeMap::new();
    for record in records(&world) {
        if record["operation"] == "CreateKey" {
            let id = record["response"]["keyMetadata"]["keyId"].as_str().unwrap();
            *counts.entry(id.to_owned()).or_default() += 1;
        }
    }
    assert!(counts.values().all(|count| *count == 1), "{counts:?}");
    for id in made.lock().unwrap().iter() {
        assert!(
            counts.contains_key(id),
            "{id} was answered and has no record"
        );
    }
    // Nor is there a key without one, answered or not.
    let listed = world.call("ListKeys", &json!({"Limit": 1000}));
    for key in listed["Keys"].as_array().unwrap() {
        let id = key["KeyId"].as_str().unwrap();
        assert!(counts.contains_key(id), "{id} exists and has no record");
    }
}

#[test]
fn events_are_shown_found_and_exported() {
    if !require::tpm() {
        return;
    }
    let world = World::start();
    let id = world.key("alias/hr");
    let context = json!({"Department": "HR"});
    let sealed = world.call(
        "Encrypt",
        &json!({"KeyId": "alias/hr", "Plaintext": "c2VjcmV0", "EncryptionContext": context}),
    );
    let blob = sealed["CiphertextBlob"].clone();
    world.call(
        "Decrypt",
        &json!({"CiphertextBlob": blob, "EncryptionContext": context}),
    );
    let wrong = world.post("Decrypt", &json!({"CiphertextBlob": blob}));
    assert_eq!(wrong.error(), "InvalidCiphertextException");
    world.post("NoSuchOperation", &json!({}));
    http::post(&world.daemon.socket(), "TrentService.Decrypt", b"{");
    wait::until_true("the data path's records", wait::PATIENCE, || {
        records(&world)
            .iter()
            .any(|record| record["error"]["code"] == "SerializationException")
    });

    let lines = |arguments: &[&str]| -> Vec<Value> {
        let said = world.kmsctl(arguments).ok();
        said.stdout
            .lines()
            .map(|line| serde_json::from_str::<Value>(line).unwrap()["record"].clone())
            .collect()
    };
    let found = lines(&[
        "--json",
        "audit",
        "search",
        "--operation",
        "Decrypt",
        "--outcome",
        "ok",
    ]);
    assert_eq!(found.len(), 1);
    assert_eq!(found[0]["parameters"]["encryptionContext"], context);
    let event = found[0]["eventId"].as_str().unwrap();
    assert_eq!(
        lines(&["--json", "audit", "search", "--event", event]),
        found
    );
    world
        .kmsctl(&["audit", "search", "--event", "no-such-event"])
        .fails_with("no such event");
    let key = lines(&[
        "--json",
        "audit",
        "search",
        "--key",
        &id,
        "--principal",
        "root",
    ]);
    let operations: Vec<_> = key
        .iter()
        .map(|record| record["operation"].as_str().unwrap())
        .collect();
    // Newest first.
    assert_eq!(
        operations,
        ["Decrypt", "Decrypt", "Encrypt", "CreateAlias", "CreateKey"]
    );
    let unread = lines(&[
        "--json",
        "audit",
        "search",
        "--outcome",
        "UnknownOperationException",
    ]);
    assert_eq!(unread[0]["operation"], "NoSuchOperation");
    assert!(lines(&["--json", "audit", "search", "--to", "2001-01-01"]).is_empty());
    let tail = world
        .kmsctl(&["audit", "tail", "-n", "3", "--key", &id])
        .ok()
        .stdout;
    assert_eq!(tail.lines().count(), 3, "{tail}");
    assert!(
        tail.lines()
            .last()
            .unwrap()
            .contains(": InvalidCiphertextException"),
        "{tail}"
    );

    // The files say the same as kmsd.
    let directory = world.daemon.store().join("audit");
    let directory = path_text(&directory);
    assert_eq!(
        lines(&[
            "--json",
            "audit",
            "search",
            "--key",
            &id,
            "--principal",
            "root",
            "--directory",
            directory
        ]),
        key
    );
    let export = |more: &[&str]| {
        let command: Vec<&str> = ["audit", "export", "--cloudtrail", "--key", &id]
            .iter()
            .chain(more)
            .copied()
            .collect();
        world.kmsctl(&command).ok().json()
    };
    let exported = export(&[]);
    assert_eq!(exported, export(&["--directory", directory]));
    let events = exported["Records"].as_array().unwrap();
    assert_eq!(events.len(), 5);
    let decrypt = &events[3];
    assert_eq!(decrypt["eventName"], "Decrypt");
    assert_eq!(decrypt["eventVersion"], "1.11");
    assert_eq!(
        decrypt["requestParameters"]["encryptionAlgorithm"],
        "SYMMETRIC_DEFAULT"
    );
    assert_eq!(decrypt["responseElements"], Value::Null);
    assert_eq!(decrypt["additionalEventData"]["localIdentity"]["uid"], 0);
    let text = exported.to_string()
        + &fs::read_to_string(world.daemon.store().join("audit/log-000000000000.jsonl")).unwrap();
    for secret in ["c2VjcmV0", blob.as_str().unwrap()] {
        assert!(!text.contains(secret), "{secret}");
    }
    // Reading the log is recorded, too.
    assert!(
        records(&world)
            .iter()
            .any(|record| record["operation"] == "LookupEvents")
    );
}

#[test]
fn a_log_that_lacks_records_is_refused_and_accepted_only_when_told() {
    if !require::tpm() {
        return;
    }
    let mut world = World::start();
    world.key("alias/one");
    world.daemon.stop();
    let path = world.daemon.store().join("audit/log-000000000000.jsonl");
    let whole = fs::read_to_string(&path).unwrap();
    let last = whole.trim_end().rfind('\n').unwrap() + 1;
    fs::write(&path, &whole[..last]).unwrap();
    let (code, said) = world.daemon.start_refused();
    assert_eq!(code, 74, "{said}");
    assert!(
        said.contains("records were removed") && said.contains("--accept-audit-gap"),
        "{said}"
    );
    // Put back, it is the log again.
    fs::write(&path, &whole).unwrap();
    world.daemon.start();
    world.daemon.stop();

    fs::remove_file(&path).unwrap();
    let (code, said) = world.daemon.start_refused();
    assert_eq!(code, 74, "{said}");
    let mut command = Command::new(programs::path("kmsd"));
    command
        .arg("--accept-audit-gap")
        .arg("--config")
        .arg(world.daemon.config());
    let mut kmsd = Process::start("kmsd", &mut command, &world.path("gap.log"));
    wait::until_true("kmsd answering", wait::PATIENCE, || {
        kmsd.assert_running();
        UnixStream::connect(world.daemon.socket()).is_ok()
    });
    // The log's thread writes it while kmsd already listens.
    wait::until_true("the accepted gap in the log", wait::PATIENCE, || {
        records(&world)
            .iter()
            .any(|record| record["operation"] == "AuditGapAccepted")
    });
    assert!(kmsd.terminate().success());
    world.daemon.start();
}
