//! Policies and their generations destroyed, and the list of what was.

use super::*;
use crate::tombstones::{self, Tombstones};

struct Tree {
    volume: Value,
    policy: Value,
}

impl Tree {
    fn new(bench: &mut Bench, key: &str) -> Self {
        let volume = bench.call("CreateVolume", json!({})).unwrap()["VolumeId"].clone();
        let body = json!({"VolumeId": volume, "KeyId": key, "ContentMode": "XTS"});
        let policy = bench.call("CreatePolicy", body).unwrap()["PolicyId"].clone();
        Self { volume, policy }
    }

    fn of(&self, more: Value) -> Value {
        let mut body = json!({"VolumeId": self.volume, "PolicyId": self.policy});
        for (name, value) in more.as_object().unwrap() {
            body[name] = value.clone();
        }
        body
    }

    fn secret(&self, bench: &mut Bench, generation: u32) -> Result<Value, String> {
        let body = self.of(json!({"Generation": generation}));
        bench
            .call("GetPolicy", body)
            .map(|got| got["PolicySecret"].clone())
    }
}

#[test]
fn a_destroyed_policy_has_no_secret_of_any_generation() {
    let mut bench = Bench::new();
    let key = bench.create_key();
    let (tree, other) = (Tree::new(&mut bench, &key), Tree::new(&mut bench, &key));
    bench.call("RotatePolicy", tree.of(json!({}))).unwrap();
    let kept = other.secret(&mut bench, 1).unwrap();
    let before = bench.tightenings;
    let done = bench.call("DestroyPolicy", tree.of(json!({}))).unwrap();
    assert_eq!(done["DestroyedGenerations"], json!(2));
    assert_eq!(bench.tightenings, before + 1, "the counter vouches for it");
    assert!(bench.kms.snapshot().meta().epoch_owed);
    for generation in [1, 2] {
        let error = tree.secret(&mut bench, generation).unwrap_err();
        assert!(error.contains("was destroyed on"), "{error}");
    }
    let error = bench.call("RotatePolicy", tree.of(json!({}))).unwrap_err();
    assert!(error.contains("was destroyed on"), "{error}");
    assert_eq!(other.secret(&mut bench, 1).unwrap(), kept);
    let described = bench
        .call("DescribeVolume", json!({"VolumeId": tree.volume}))
        .unwrap();
    assert!(described["Policies"][0]["DestroyedDate"].is_number());
}

#[test]
fn only_older_generations_are_destroyed_one_by_one() {
    let mut bench = Bench::new();
    let key = bench.create_key();
    let tree = Tree::new(&mut bench, &key);
    for _ in 0..3 {
        bench.call("RotatePolicy", tree.of(json!({}))).unwrap();
    }
    let destroy = |bench: &mut Bench, before: u32| {
        bench.call(
            "DestroyPolicyGenerations",
            tree.of(json!({"Before": before})),
        )
    };
    assert_eq!(
        destroy(&mut bench, 3).unwrap()["DestroyedGenerations"],
        json!(2)
    );
    assert!(
        tree.secret(&mut bench, 2)
            .unwrap_err()
            .contains("was destroyed")
    );
    assert!(tree.secret(&mut bench, 3).is_ok() && tree.secret(&mut bench, 4).is_ok());
    let error = destroy(&mut bench, 5).unwrap_err();
    assert!(error.starts_with("ValidationException"), "{error}");
    assert_eq!(
        destroy(&mut bench, 3).unwrap()["DestroyedGenerations"],
        json!(0)
    );
}

#[test]
fn what_was_destroyed_is_listed_and_buried_in_an_older_store() {
    let mut bench = Bench::new();
    let (doomed, kept) = (bench.create_key(), bench.create_key());
    let lost = bench.encrypt(&doomed, b"lost", json!({}));
    let with_key = Tree::new(&mut bench, &doomed);
    let shredded = Tree::new(&mut bench, &kept);
    let rotated = Tree::new(&mut bench, &kept);
    bench.call("RotatePolicy", rotated.of(json!({}))).unwrap();
    let older = bench.kms.snapshot().clone();
    assert_eq!(tombstones::list(&older).tombstones, []);

    bench
        .call("ScheduleKeyDeletion", json!({"KeyId": doomed}))
        .unwrap();
    bench.destroy(&doomed);
    bench.call("DestroyPolicy", shredded.of(json!({}))).unwrap();
    let body = rotated.of(json!({"Before": 2}));
    bench.call("DestroyPolicyGenerations", body).unwrap();
    let listed = tombstones::list(bench.kms.snapshot());
    assert_eq!(listed.tombstones.len(), 4, "{listed:?}");
    let pages = bench.call("ListTombstones", json!({"Limit": 3})).unwrap();
    let rest = json!({"Marker": pages["NextMarker"]});
    let rest = bench.call("ListTombstones", rest).unwrap();
    let both = [&pages, &rest].map(|page| page["Tombstones"].as_array().unwrap().clone());
    let wire = json!({"StoreId": pages["StoreId"], "DeletionEpoch": pages["DeletionEpoch"], "Tombstones": both.concat()});
    let wire: Tombstones = serde_json::from_value(wire).unwrap();
    assert_eq!(wire, listed);

    // The store from before, as a restore has it.
    bench.kms.replace(older);
    let (count, changes) = tombstones::bury(bench.kms.snapshot(), &listed, START.wall_ms);
    assert_eq!(
        count,
        3 + 1,
        "a key with its policy, a policy, a generation"
    );
    bench.apply(changes);
    let gone = bench.decrypt(&lost, json!({})).unwrap_err();
    assert!(gone.starts_with("AccessDenied"), "{gone}");
    // Whether there are secrets: the domain key of then is gone in this test, as it should be.
    let kept = |tree: &Tree| {
        let mut policies = bench.kms.snapshot().policies();
        let row = policies.find(|row| row.id == tree.policy.as_str().unwrap());
        row.map(|row| (row.secret.is_some(), row.older.len()))
    };
    assert_eq!(kept(&with_key), Some((false, 0)));
    assert_eq!(kept(&shredded), Some((false, 0)));
    assert_eq!(kept(&rotated), Some((true, 0)));
    assert_eq!(tombstones::list(bench.kms.snapshot()).tombstones.len(), 4);
    // Again it finds nothing.
    let (count, _) = tombstones::bury(bench.kms.snapshot(), &listed, START.wall_ms);
    assert_eq!(count, 0);
}
