//! Random programs: whatever the requests, the snapshot stays whole.

use proptest::prelude::*;

use super::*;
use crate::rows::State;

#[derive(Clone, Debug)]
struct Step {
    operation: usize,
    key: usize,
    name: usize,
}

const OPERATIONS: [&str; 12] = [
    "CreateKey",
    "CreateAlias",
    "UpdateAlias",
    "DeleteAlias",
    "EnableKey",
    "DisableKey",
    "ScheduleKeyDeletion",
    "CancelKeyDeletion",
    "RotateKeyOnDemand",
    "EnableKeyRotation",
    "Encrypt",
    "destroy",
];

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step =
        (0..OPERATIONS.len(), 0..8usize, 0..4usize).prop_map(|(operation, key, name)| Step {
            operation,
            key,
            name,
        });
    proptest::collection::vec(step, 1..60)
}

fn check_whole(bench: &Bench) {
    let snapshot = bench.kms.snapshot();
    for key in snapshot.keys() {
        let versions: Vec<_> = snapshot.materials(key.id).collect();
        assert_eq!(key.state == State::Destroyed, versions.is_empty());
        assert_eq!(key.state == State::PendingDeletion, key.deletion.is_some());
        if key.state != State::Destroyed {
            let current = key.current.unwrap();
            let newest = versions.iter().max_by_key(|row| row.version).unwrap();
            assert_eq!(newest.id, current);
            for row in versions {
                let subject = row.subject();
                bench.domain.read().unwrap(subject, &row.secret).unwrap();
            }
        }
    }
    for alias in snapshot.aliases.all() {
        assert!(snapshot.names[&alias.key].contains(&alias.name));
        assert_ne!(snapshot.keys[&alias.key].state, State::Destroyed);
    }
    let named: usize = snapshot.names.values().map(|names| names.len()).sum();
    assert_eq!(named, snapshot.aliases.len());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]
    #[test]
    fn any_program_leaves_a_whole_store(program in steps()) {
        let mut bench = Bench::new();
        let mut keys = vec![bench.create_key()];
        let mut blobs: Vec<(usize, String)> = vec![];
        for step in program {
            let at = step.key % keys.len();
            let key = keys[at].clone();
            let name = format!("alias/{}", step.name);
            match OPERATIONS[step.operation] {
                "CreateKey" => keys.push(bench.create_key()),
                operation @ ("CreateAlias" | "UpdateAlias" | "DeleteAlias") => {
                    let body = json!({"AliasName": name, "TargetKeyId": key});
                    let _ = bench.call(operation, body);
                }
                "Encrypt" => {
                    let body = json!({"KeyId": key, "Plaintext": "AAAA"});
                    if let Ok(reply) = bench.call("Encrypt", body) {
                        blobs.push((at, reply["CiphertextBlob"].as_str().unwrap().to_owned()));
                    }
                }
                "destroy" => {
                    if bench.call("CancelKeyDeletion", json!({"KeyId": key})).is_ok() {
                        bench.call("ScheduleKeyDeletion", json!({"KeyId": key})).unwrap();
                        bench.destroy(&key);
                    }
                }
                operation => {
                    let _ = bench.call(operation, json!({"KeyId": key}));
                }
            }
            check_whole(&bench);
        }
        // A blob opens exactly while its key is enabled, whatever happened in between.
        for (at, blob) in blobs {
            let described = bench.call("DescribeKey", json!({"KeyId": keys[at]}));
            let enabled = described.is_ok_and(|d| d["KeyMetadata"]["KeyState"] == "Enabled");
            prop_assert_eq!(bench.decrypt(&blob, json!({})).is_ok(), enabled);
        }
    }
}
