//! Keys of volumes that go to another host.

use super::*;
use crate::ids::KeyId;
use crate::rows::Manager;
use crate::transfer::{self, Imported};

/// A host whose volume hangs on kmsfs's own key: the volume, and the key.
fn host() -> (Bench, String, KeyId) {
    let mut bench = Bench::new();
    let volume = bench.call("CreateVolume", json!({})).unwrap();
    let volume = volume["VolumeId"].as_str().unwrap().to_owned();
    let body = json!({"VolumeId": volume, "KeyId": KMSFS_ALIAS, "ContentMode": "XTS"});
    bench.call("CreatePolicy", body).unwrap();
    let key = described(&mut bench, KMSFS_ALIAS);
    let id = key["KeyId"].as_str().unwrap().parse().unwrap();
    (bench, volume, id)
}

fn described(bench: &mut Bench, key: &str) -> Value {
    let found = bench.call("DescribeKey", json!({"KeyId": key}));
    found.unwrap()["KeyMetadata"].clone()
}

/// Takes the keys of a volume from one host to another.
fn take(to: &mut Bench, from: &Bench, volume: &str) -> Imported {
    let recovery = RecoveryPrivateKey::generate().unwrap();
    let public = recovery.public_key().unwrap();
    let there = from.domain.read();
    let file = transfer::export(from.kms.snapshot(), &there, volume, &public, from.now);
    let (_, file) = file.unwrap();
    let here = to.domain.read();
    let taken = transfer::import(to.kms.snapshot(), &here, &file, &recovery, to.now);
    drop(here);
    let (imported, changes) = taken.unwrap();
    to.apply(changes);
    imported
}

fn manager(bench: &Bench, key: KeyId) -> Manager {
    bench.kms.snapshot().key(key).unwrap().manager
}

#[test]
fn the_key_of_kmsfs_keeps_its_name_where_that_is_free() {
    let (from, volume, key) = host();
    let mut to = Bench::new();
    let imported = take(&mut to, &from, &volume);
    assert!(imported.now_customer_managed.is_empty());
    assert_eq!(manager(&to, key), Manager::Service);
    assert_eq!(described(&mut to, KMSFS_ALIAS)["KeyId"], key.to_string());
}

#[test]
fn a_second_key_of_kmsfs_is_the_administrators() {
    let (from, volume, key) = host();
    let (mut to, _, own) = host();
    let imported = take(&mut to, &from, &volume);
    assert_eq!(imported.now_customer_managed, [key]);
    assert!(imported.aliases_taken.is_empty());
    assert_eq!(manager(&to, key), Manager::Customer);
    assert_eq!(manager(&to, own), Manager::Service);
    assert_eq!(described(&mut to, KMSFS_ALIAS)["KeyId"], own.to_string());
    // Nobody is locked out of it.
    for (operation, more) in [
        (
            "CreateAlias",
            json!({"AliasName": "alias/moved", "TargetKeyId": key.to_string()}),
        ),
        ("DisableKey", json!({})),
    ] {
        let mut body = more;
        body["KeyId"] = json!(key.to_string());
        let root = Caller::new(
            kms_api::CallerRole::Root,
            0,
            "arn:aws:iam::000000000000:root",
        );
        to.call_as(&root, operation, body).unwrap();
    }
}

#[test]
fn a_nameless_key_of_kmsfs_gets_the_name_back() {
    let (mut from, volume, key) = host();
    let alias = crate::rows::alias_id(key.place(), KMSFS_ALIAS);
    from.apply(vec![Change::Remove(crate::rows::Table::Alias, alias)]);
    let mut to = Bench::new();
    let imported = take(&mut to, &from, &volume);
    assert!(imported.now_customer_managed.is_empty());
    assert_eq!(described(&mut to, KMSFS_ALIAS)["KeyId"], key.to_string());
}
