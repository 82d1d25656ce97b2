//! Backups of a store in use, restored elsewhere; new recovery keys.

use kms_core::backup::BackupError;
use kms_core::sealed::SealedError;
use kms_core::tombstones::{self, Tombstones};

use super::*;

/// A backup, fetched as a client does.
fn backup(engine: &Engine) -> Vec<u8> {
    let mut file = Vec::new();
    let mut body = json!({});
    loop {
        let part = call(engine, "BackupStore", body).unwrap();
        let bytes = part["Part"].as_str().unwrap();
        file.extend(BASE64.decode(bytes.as_bytes()).unwrap());
        if file.len() as u64 == part["Size"].as_u64().unwrap() {
            return file;
        }
        body = json!({"BackupId": part["BackupId"], "Offset": file.len()});
    }
}

/// Another machine: a new sealer, a new directory, the same recovery key.
fn elsewhere(host: &Host) -> Host {
    let root = tempfile::tempdir().unwrap();
    let seal = SealerConfig {
        kind: SealerKind::Software,
        key_file: root.path().join("seal.key"),
        ..SealerConfig::default()
    };
    let text = String::from_utf8(host.recovery.to_text().expose().to_vec()).unwrap();
    Host {
        root,
        seal,
        credential: Credential::random().unwrap(),
        recovery: RecoveryPrivateKey::from_text(&text).unwrap(),
        clock: host.clock.clone(),
    }
}

fn put(
    host: &Host,
    file: &[u8],
    tombstones: Option<&Tombstones>,
    replace: bool,
) -> Result<RestoreReport, EngineError> {
    let source = RestoreSource {
        file,
        recovery: &host.recovery,
        tombstones,
        replace,
    };
    restore(
        &host.config(),
        host.sealer().as_mut(),
        Profile::Machine,
        &host.credential,
        &source,
        &host.clock,
    )
}

#[test]
fn a_backup_of_a_running_store_works_on_a_new_machine() {
    let host = Host::software();
    let engine = host.open().unwrap();
    let key = create_key(&engine);
    let blob = encrypt(&engine, &key, b"one");
    let volume = call(&engine, "CreateVolume", json!({})).unwrap()["VolumeId"].clone();
    let body = json!({"VolumeId": volume, "KeyId": key, "ContentMode": "XTS"});
    let policy = call(&engine, "CreatePolicy", body).unwrap()["PolicyId"].clone();
    let name = json!({"VolumeId": volume, "PolicyId": policy});
    call(&engine, "RotatePolicy", name.clone()).unwrap();
    let secret = call(&engine, "GetPolicy", name.clone()).unwrap();
    let file = backup(&engine);
    // It goes on meanwhile, and what came later is not in the backup.
    let later = create_key(&engine);
    drop(engine);

    let report = verify_backup(&file, None).unwrap();
    assert!(report.opened.is_none());
    let report = verify_backup(&file, Some(&host.recovery)).unwrap();
    let expected = Contents {
        keys: 1,
        volumes: 1,
        policies: 1,
        secrets: 3,
    };
    assert_eq!(report.opened, Some(expected));
    let other = RecoveryPrivateKey::generate().unwrap();
    let error = verify_backup(&file, Some(&other)).unwrap_err();
    assert!(
        matches!(
            error,
            EngineError::Backup(BackupError::Sealed(SealedError::OtherRecoveryKey))
        ),
        "{error}"
    );

    let new = elsewhere(&host);
    let report = put(&new, &file, None, false).unwrap();
    assert_eq!((report.contents, report.buried), (expected, 0));
    let engine = new.open().unwrap();
    assert_eq!(decrypt(&engine, &blob).unwrap(), b"one");
    assert_eq!(call(&engine, "GetPolicy", name).unwrap(), secret);
    assert!(call(&engine, "DescribeKey", json!({"KeyId": later})).is_err());
    // A store like any other: it is written, anchored, backed up, opened again.
    create_key(&engine);
    let again = backup(&engine);
    assert!(verify_backup(&again, Some(&new.recovery)).is_ok());
    engine.shutdown().unwrap();
    drop(engine);
    let engine = new.open().unwrap();
    let found = call(&engine, "LookupEvents", json!({"Operation": "Restored"})).unwrap();
    assert_eq!(found["Events"].as_array().unwrap().len(), 1, "{found}");
    drop(engine);
    // A store that is there is not overwritten.
    let error = put(&new, &file, None, false).unwrap_err();
    assert!(matches!(error, EngineError::StoreInTheWay(_)), "{error}");
    assert_eq!(decrypt(&new.open().unwrap(), &blob).unwrap(), b"one");
}

#[test]
fn nothing_of_the_host_is_in_a_backup_and_nothing_readable() {
    let host = Host::software();
    let engine = host.open().unwrap();
    let body = json!({"Description": "a telling description"});
    call(&engine, "CreateKey", body).unwrap();
    let file = backup(&engine);
    let text = b"a telling description";
    assert!(!file.windows(text.len()).any(|window| window == text));
    let (_, rows) = kms_core::backup::open(&file, &host.recovery).unwrap();
    let names: Vec<_> = rows.iter().map(|row| row.table.name()).collect();
    assert!(names.contains(&"keys") && names.contains(&"domain_keys"));
    for of_the_host in ["enrollment", "mac", "leases", "approvals", "audit_outbox"] {
        assert!(!names.contains(&of_the_host), "{of_the_host}");
    }
    let domains = rows.iter().filter(|row| row.table.name() == "domain_keys");
    for row in domains {
        let text = String::from_utf8(row.body.clone()).unwrap();
        assert!(!text.contains("Host"), "{text}");
    }
}

#[test]
fn what_was_destroyed_since_a_backup_stays_destroyed() {
    let host = Host::software();
    let engine = host.open().unwrap();
    let (doomed, kept) = (create_key(&engine), create_key(&engine));
    let (lost, still) = (
        encrypt(&engine, &doomed, b"lost"),
        encrypt(&engine, &kept, b"still"),
    );
    let volume = call(&engine, "CreateVolume", json!({})).unwrap()["VolumeId"].clone();
    let body = json!({"VolumeId": volume, "KeyId": kept, "ContentMode": "XTS"});
    let policy = call(&engine, "CreatePolicy", body).unwrap()["PolicyId"].clone();
    let tree = json!({"VolumeId": volume, "PolicyId": policy});
    let file = backup(&engine);
    schedule(&engine, &doomed);
    host.clock.pass_days(8);
    engine.tick().unwrap();
    call(&engine, "DestroyPolicy", tree.clone()).unwrap();
    let list = tombstones::list(engine.shared.kms.read().snapshot());
    engine.shutdown().unwrap();
    drop(engine);

    let check = |host: &Host, gone: bool, place: &str| {
        let engine = host.open().unwrap();
        assert_eq!(decrypt(&engine, &lost).is_err(), gone, "{place}");
        let got = call(&engine, "GetPolicy", tree.clone());
        assert_eq!(got.is_err(), gone, "{place}: {got:?}");
        assert_eq!(decrypt(&engine, &still).unwrap(), b"still", "{place}");
    };
    // With neither the list nor the live store it is back: that is what the threat model says.
    let new = elsewhere(&host);
    put(&new, &file, None, false).unwrap();
    check(&new, false, "nothing at hand");
    let new = elsewhere(&host);
    assert_eq!(put(&new, &file, Some(&list), false).unwrap().buried, 2);
    check(&new, true, "the list");
    // Over the live store, whose tombstones are at hand; its own enrolment ends.
    let live = host.copy_store("live");
    let report = put(&host, &file, None, true).unwrap();
    assert_eq!(report.buried, 2);
    check(&host, true, "the live store");
    let replaced = report.replaced.unwrap();
    assert!(replaced.exists());
    let before = host.copy_store("restored");
    host.put_back(&live);
    assert!(host.open().is_err(), "the store that was replaced");
    host.put_back(&before);
    check(&host, true, "again");

    // A list of another store does not belong to it.
    let foreign = Tombstones {
        store_id: "0".repeat(32),
        ..list
    };
    let new = elsewhere(&host);
    let error = put(&new, &file, Some(&foreign), false).unwrap_err();
    assert!(matches!(error, EngineError::OtherStore { .. }), "{error}");
    assert!(!new.store().join(CATALOGUE).exists());
}

#[test]
fn access_keys_of_a_backup_are_refused_until_somebody_takes_them_back() {
    let host = Host::software();
    let engine = host.open().unwrap();
    let principal = "arn:aws:iam::000000000000:user/backup";
    let ids: Vec<String> = ["stands", "disabled", "deleted", "was-off"]
        .iter()
        .map(|what| {
            let body = json!({"PrincipalArn": principal, "Description": what});
            let made = call(&engine, "CreateAccessKey", body).unwrap();
            made["AccessKeyId"].as_str().unwrap().to_owned()
        })
        .collect();
    let [stands, disabled, deleted, was_off] = &ids[..] else {
        panic!("{ids:?}");
    };
    let switch = |engine: &Engine, id: &str, status: &str| {
        let body = json!({"AccessKeyId": id, "Status": status});
        call(engine, "UpdateAccessKey", body).unwrap();
    };
    switch(&engine, was_off, "Inactive");
    let file = backup(&engine);
    engine.shutdown().unwrap();
    drop(engine);
    let early = host.copy_store("early");
    let engine = host.open().unwrap();
    switch(&engine, disabled, "Inactive");
    call(&engine, "DeleteAccessKey", json!({"AccessKeyId": deleted})).unwrap();
    let list = tombstones::list(engine.shared.kms.read().snapshot());
    engine.shutdown().unwrap();
    drop(engine);

    let statuses = |engine: &Engine| -> Vec<(String, String)> {
        let list = call(engine, "ListAccessKeys", json!({})).unwrap();
        let text = |entry: &Value, name: &str| entry[name].as_str().unwrap().to_owned();
        let entries = list["AccessKeys"].as_array().unwrap().iter();
        let mut all: Vec<_> = entries
            .map(|entry| (text(entry, "Description"), text(entry, "Status")))
            .collect();
        all.sort();
        all
    };
    let named = |report: &RestoreReport, deleted: bool| -> Vec<String> {
        let doubts = report.access_keys.iter();
        let doubts = doubts.filter(|doubt| doubt.deleted == deleted);
        let mut all: Vec<_> = doubts
            .map(|doubt| doubt.row.description.clone().unwrap())
            .collect();
        all.sort();
        all
    };
    let pairs = |list: &[(&str, &str)]| -> Vec<(String, String)> {
        let owned = list.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned()));
        owned.collect()
    };
    // Without the store that was lost nobody knows, with a list of what was destroyed or not.
    for tombstones in [None, Some(&list)] {
        let new = elsewhere(&host);
        let report = put(&new, &file, tombstones, false).unwrap();
        assert_eq!(named(&report, false), ["deleted", "disabled", "stands"]);
        assert!(named(&report, true).is_empty());
        let engine = new.open().unwrap();
        assert_eq!(
            statuses(&engine),
            pairs(&[
                ("deleted", "Inactive"),
                ("disabled", "Inactive"),
                ("stands", "Inactive"),
                ("was-off", "Inactive")
            ])
        );
        switch(&engine, stands, "Active");
        assert!(statuses(&engine).contains(&("stands".to_owned(), "Active".to_owned())));
        let found = call(&engine, "LookupEvents", json!({"Operation": "Restored"})).unwrap();
        assert!(found.to_string().contains("accessKeysDisabled"), "{found}");
    }
    // The store that is replaced knows, but no copy of it from before.
    let everything = tempfile::tempdir().unwrap();
    let newest = everything.path().join("newest");
    copy_dir(host.root.path(), &newest);
    host.put_back(&early);
    let report = put(&host, &file, None, true).unwrap();
    assert_eq!(named(&report, false), ["deleted", "disabled", "stands"]);
    assert!(named(&report, true).is_empty());
    drop(report);
    std::fs::remove_dir_all(host.root.path()).unwrap();
    copy_dir(&newest, host.root.path());
    let report = put(&host, &file, None, true).unwrap();
    assert_eq!(named(&report, false), ["disabled"]);
    assert_eq!(named(&report, true), ["deleted"]);
    let engine = host.open().unwrap();
    assert_eq!(
        statuses(&engine),
        pairs(&[
            ("disabled", "Inactive"),
            ("stands", "Active"),
            ("was-off", "Inactive")
        ])
    );
}

#[test]
fn a_backup_is_fetched_in_parts_and_not_kept() {
    let host = Host::software();
    let engine = host.open().unwrap();
    create_key(&engine);
    let first = call(&engine, "BackupStore", json!({})).unwrap();
    // It was small: it is forgotten with its last part.
    let body = json!({"BackupId": first["BackupId"], "Offset": 0});
    let error = call(&engine, "BackupStore", body).unwrap_err();
    assert!(error.contains("not kept any more"), "{error}");
}

fn rotate(host: &Host, new: &RecoveryPrivateKey, end_former: bool) -> RotateReport {
    rotate_recovery(
        &host.config(),
        host.sealer(),
        &host.credential,
        new,
        end_former,
        Arc::new(host.clock.clone()),
    )
    .unwrap()
}

fn recovers(host: &Host, with: &RecoveryPrivateKey) -> bool {
    let copy = host.root.path().join("copy");
    copy_dir(&host.store(), &copy);
    let opened = Offline::open(
        &copy,
        &copy,
        Opener::Recovery(RecoveryPrivateKey::from_text(&text(with)).unwrap()),
        Arc::new(host.clock.clone()),
    );
    std::fs::remove_dir_all(&copy).unwrap();
    opened.is_ok()
}

fn text(key: &RecoveryPrivateKey) -> String {
    String::from_utf8(key.to_text().expose().to_vec()).unwrap()
}

#[test]
fn a_new_recovery_key_opens_at_once_and_the_former_until_an_epoch() {
    let host = Host::software();
    let engine = host.open().unwrap();
    let key = create_key(&engine);
    let blob = encrypt(&engine, &key, b"text");
    engine.shutdown().unwrap();
    drop(engine);
    let (second, third) = (
        RecoveryPrivateKey::generate().unwrap(),
        RecoveryPrivateKey::generate().unwrap(),
    );
    assert!(recovers(&host, &host.recovery) && !recovers(&host, &second));

    assert!(!rotate(&host, &second, false).ended);
    assert!(recovers(&host, &host.recovery) && recovers(&host, &second));
    assert!(check_recovery(&host.config(), &second).is_ok());
    let engine = host.open().unwrap();
    assert_eq!(decrypt(&engine, &blob).unwrap(), b"text");
    let status = call(&engine, "GetStatus", json!({})).unwrap();
    assert!(
        status["Warnings"]
            .to_string()
            .contains("former recovery key"),
        "{status}"
    );
    // New backups are for the new key only.
    let file = backup(&engine);
    assert!(verify_backup(&file, Some(&host.recovery)).is_err());
    assert!(verify_backup(&file, Some(&second)).is_ok());
    let found = call(
        &engine,
        "LookupEvents",
        json!({"Operation": "RecoveryKeyRotated"}),
    )
    .unwrap();
    assert_eq!(found["Events"].as_array().unwrap().len(), 1, "{found}");
    schedule(&engine, &create_key(&engine));
    host.clock.pass_days(8);
    engine.tick().unwrap();
    engine.shutdown().unwrap();
    drop(engine);
    assert!(!recovers(&host, &host.recovery) && recovers(&host, &second));

    assert!(rotate(&host, &third, true).ended);
    assert!(!recovers(&host, &second) && recovers(&host, &third));
    let engine = host.open().unwrap();
    assert_eq!(decrypt(&engine, &blob).unwrap(), b"text");
    assert_eq!(meta(&engine).deletion_epoch, 2);
    let status = call(&engine, "GetStatus", json!({})).unwrap();
    assert!(
        !status["Warnings"]
            .to_string()
            .contains("former recovery key")
    );
}
