//! The keys of a volume, moved from one host to another.

use kms_core::transfer::TransferError;
use kms_crypto::RecoveryPublicKey;

use super::*;

fn opening(host: &Host) -> Opening {
    Opening {
        sealer: host.sealer(),
        credential: host.credential.clone(),
        clock: Arc::new(host.clock.clone()),
    }
}

fn export(host: &Host, volume: &Value, to: &RecoveryPublicKey) -> Result<Vec<u8>, EngineError> {
    let mut file = Vec::new();
    let volume = volume.as_str().unwrap();
    export_volume(&host.config(), opening(host), volume, to, |bytes| {
        file = bytes.to_vec();
        Ok::<_, EngineError>(())
    })?;
    Ok(file)
}

fn import(host: &Host, file: &[u8]) -> Result<kms_core::transfer::Imported, EngineError> {
    import_volume(&host.config(), opening(host), file, &host.recovery)
}

struct Source {
    host: Host,
    volume: Value,
    /// Of two policies under two keys.
    trees: Vec<Value>,
    keys: Vec<String>,
    blobs: Vec<String>,
}

fn source() -> Source {
    let host = Host::software();
    let engine = host.open().unwrap();
    let keys = vec![create_key(&engine), create_key(&engine)];
    let alias = json!({"AliasName": "alias/moved", "TargetKeyId": keys[0]});
    call(&engine, "CreateAlias", alias).unwrap();
    let mut blobs = vec![encrypt(&engine, &keys[0], b"first version")];
    call(&engine, "RotateKeyOnDemand", json!({"KeyId": keys[0]})).unwrap();
    blobs.push(encrypt(&engine, &keys[0], b"second version"));
    let volume = call(&engine, "CreateVolume", json!({"Label": "hr"})).unwrap()["VolumeId"].clone();
    let trees: Vec<Value> = keys
        .iter()
        .map(|key| {
            let body = json!({"VolumeId": volume, "KeyId": key, "ContentMode": "XTS"});
            let made = call(&engine, "CreatePolicy", body).unwrap();
            json!({"VolumeId": volume, "PolicyId": made["PolicyId"]})
        })
        .collect();
    call(&engine, "RotatePolicy", trees[0].clone()).unwrap();
    // Another volume and its key stay.
    let other = create_key(&engine);
    let elsewhere = call(&engine, "CreateVolume", json!({})).unwrap()["VolumeId"].clone();
    let body = json!({"VolumeId": elsewhere, "KeyId": other, "ContentMode": "XTS"});
    call(&engine, "CreatePolicy", body).unwrap();
    engine.shutdown().unwrap();
    Source {
        host,
        volume,
        trees,
        keys,
        blobs,
    }
}

fn secrets(host: &Host, source: &Source) -> Vec<Value> {
    let engine = host.open().unwrap();
    let mut all: Vec<Value> = source
        .trees
        .iter()
        .map(|tree| call(&engine, "GetPolicy", tree.clone()).unwrap())
        .collect();
    let mut older = source.trees[0].clone();
    older["Generation"] = json!(1);
    all.push(call(&engine, "GetPolicy", older).unwrap());
    for blob in &source.blobs {
        all.push(json!(decrypt(&engine, blob).unwrap()));
    }
    engine.shutdown().unwrap();
    all
}

#[test]
fn a_volume_opens_on_another_host_with_every_generation() {
    let from = source();
    let to = Host::software();
    let public = to.recovery.public_key().unwrap();
    let file = export(&from.host, &from.volume, &public).unwrap();
    let expected = secrets(&from.host, &from);

    let imported = import(&to, &file).unwrap();
    assert_eq!((imported.keys, imported.policies), (2, 2));
    assert_eq!(secrets(&to, &from), expected);
    let engine = to.open().unwrap();
    let described = call(&engine, "DescribeKey", json!({"KeyId": "alias/moved"})).unwrap();
    assert_eq!(described["KeyMetadata"]["KeyId"], json!(from.keys[0]));
    let listed = call(&engine, "ListVolumes", json!({})).unwrap();
    assert_eq!(listed["Volumes"].as_array().unwrap().len(), 1);
    assert_eq!(listed["Volumes"][0]["Label"], "hr");
    let status = call(&engine, "GetStatus", json!({})).unwrap();
    assert_eq!(
        status["Keys"],
        json!({"Enabled": 2}),
        "the other key stayed"
    );
    for (engine, event) in [
        (&engine, "VolumeImported"),
        (&from.host.open().unwrap(), "VolumeExported"),
    ] {
        let found = call(engine, "LookupEvents", json!({"Operation": event})).unwrap();
        assert_eq!(found["Events"].as_array().unwrap().len(), 1, "{found}");
    }
    engine.shutdown().unwrap();
    drop(engine);
    // Once more it changes nothing.
    let again = import(&to, &file).unwrap();
    assert_eq!((again.keys, again.policies), (0, 0));
    assert_eq!(secrets(&to, &from), expected);
}

#[test]
fn only_the_other_hosts_recovery_key_opens_the_file() {
    let (from, to) = (source(), Host::software());
    let public = to.recovery.public_key().unwrap();
    let file = export(&from.host, &from.volume, &public).unwrap();
    let error = import(&from.host, &file).err().unwrap();
    assert!(error.next_step().contains("--to"), "{error}");
    let mut wrong = opening(&to);
    wrong.credential = to.credential.clone();
    let other = RecoveryPrivateKey::generate().unwrap();
    let error = import_volume(&to.config(), wrong, &file, &other)
        .err()
        .unwrap();
    assert!(matches!(error, EngineError::WrongRecoveryKey(_)), "{error}");
    // Names and secrets are not readable in it.
    assert!(!file.windows(11).any(|window| window == b"alias/moved"));
    for at in [9, file.len() / 2, file.len() - 1] {
        let mut bad = file.clone();
        bad[at] ^= 1;
        assert!(import(&to, &bad).is_err(), "altered at {at}");
    }
    let missing = json!("0".repeat(32));
    let error = export(&from.host, &missing, &public).unwrap_err();
    assert!(
        matches!(error, EngineError::Transfer(TransferError::NoVolume(_))),
        "{error}"
    );
}

#[test]
fn what_was_destroyed_or_differs_is_not_taken_in() {
    let (from, to) = (source(), Host::software());
    let public = to.recovery.public_key().unwrap();
    let first = export(&from.host, &from.volume, &public).unwrap();
    // Destroyed on the other host: a policy, then a key.
    import(&to, &first).unwrap();
    let engine = to.open().unwrap();
    call(&engine, "DestroyPolicy", from.trees[1].clone()).unwrap();
    engine.shutdown().unwrap();
    drop(engine);
    let refused = |what: &str| {
        let error = import(&to, &first).err().unwrap();
        assert!(
            matches!(error, EngineError::Transfer(TransferError::Destroyed(_))),
            "{what}: {error}"
        );
    };
    refused("policy");
    let engine = to.open().unwrap();
    schedule(&engine, &from.keys[0]);
    to.clock.pass_days(8);
    engine.tick().unwrap();
    engine.shutdown().unwrap();
    drop(engine);
    refused("key");

    // Rotated on the first host since: neither is the other.
    let third = Host::software();
    let public = third.recovery.public_key().unwrap();
    let older = export(&from.host, &from.volume, &public).unwrap();
    import(&third, &older).unwrap();
    let engine = from.host.open().unwrap();
    call(&engine, "RotatePolicy", from.trees[0].clone()).unwrap();
    engine.shutdown().unwrap();
    drop(engine);
    let newer = export(&from.host, &from.volume, &public).unwrap();
    let error = import(&third, &newer).err().unwrap();
    assert!(
        matches!(error, EngineError::Transfer(TransferError::Differs(_))),
        "{error}"
    );

    // A key that waits for its deletion is not moved.
    let engine = from.host.open().unwrap();
    schedule(&engine, &from.keys[1]);
    engine.shutdown().unwrap();
    drop(engine);
    let error = export(&from.host, &from.volume, &public).unwrap_err();
    assert!(
        matches!(error, EngineError::Transfer(TransferError::Pending(_))),
        "{error}"
    );
}
