//! A store's ordinary life, and what refuses to open.

use rusqlite::Connection;

use super::*;

#[test]
fn everything_is_there_after_a_restart() {
    let host = Host::software();
    let engine = host.open().unwrap();
    let key = create_key(&engine);
    call(
        &engine,
        "CreateAlias",
        json!({"AliasName": "alias/a", "TargetKeyId": key}),
    )
    .unwrap();
    let old = encrypt(&engine, "alias/a", b"old");
    call(&engine, "RotateKeyOnDemand", json!({"KeyId": key})).unwrap();
    let new = encrypt(&engine, "alias/a", b"new");
    let volume = call(&engine, "CreateVolume", json!({})).unwrap()["VolumeId"].clone();
    let body = json!({"VolumeId": volume, "KeyId": key, "ContentMode": "XTS"});
    let policy = call(&engine, "CreatePolicy", body).unwrap();
    let disabled = create_key(&engine);
    call(&engine, "DisableKey", json!({"KeyId": disabled})).unwrap();
    engine.shutdown().unwrap();
    assert!(
        decrypt(&engine, &old)
            .unwrap_err()
            .starts_with("ServiceUnavailable")
    );
    assert_eq!(engine.cached_materials(), 0);
    drop(engine);

    let engine = host.open().unwrap();
    assert_eq!(decrypt(&engine, &old).unwrap(), b"old");
    assert_eq!(decrypt(&engine, &new).unwrap(), b"new");
    let get = json!({"VolumeId": volume, "PolicyId": policy["PolicyId"]});
    let got = call(&engine, "GetPolicy", get).unwrap();
    assert_eq!(got["PolicySecret"], policy["PolicySecret"]);
    let body = json!({"KeyId": disabled, "Plaintext": "AAAA"});
    assert!(
        call(&engine, "Encrypt", body)
            .unwrap_err()
            .starts_with("DisabledException")
    );
    let status = engine.status().unwrap();
    assert_eq!(
        (
            status.keys["Enabled"],
            status.keys["Disabled"],
            status.policies
        ),
        (1, 1, 1)
    );
    assert_eq!(status.sealer.kind, "software");
    assert!(
        !status.sealer.warnings.is_empty(),
        "the software sealer warns"
    );
}

#[test]
fn without_a_shutdown_nothing_durable_is_lost() {
    let host = Host::software();
    let engine = host.open().unwrap();
    let key = create_key(&engine);
    let blob = encrypt(&engine, &key, b"x");
    drop(engine);
    assert_eq!(decrypt(&host.open().unwrap(), &blob).unwrap(), b"x");
}

#[test]
fn what_cannot_be_opened_is_named() {
    let host = Host::software();
    assert!(matches!(
        host.enroll(),
        Err(EngineError::AlreadyEnrolled(_))
    ));
    let engine = host.open().unwrap();
    let held = host.open().err().unwrap();
    assert!(held.to_string().contains("in use by process"), "{held}");
    assert_eq!(held.next_step(), "stop the other kmsd, then start this one");
    drop(engine);

    let other = EngineConfig {
        region: "local-host-2".into(),
        ..host.config()
    };
    let clock = Arc::new(host.clock.clone());
    let error = Engine::open(other, host.sealer(), &host.credential, clock.clone())
        .err()
        .unwrap();
    assert!(
        error.to_string().contains("in Region local-host-1"),
        "{error}"
    );

    let empty = EngineConfig {
        directory: host.root.path().join("none"),
        ..host.config()
    };
    let error = Engine::open(empty, host.sealer(), &host.credential, clock.clone())
        .err()
        .unwrap();
    assert!(matches!(error, EngineError::NotEnrolled(_)));

    let wrong = Credential::random().unwrap();
    let error = Engine::open(host.config(), host.sealer(), &wrong, clock)
        .err()
        .unwrap();
    assert!(
        matches!(
            error,
            EngineError::Seal(kms_seal::SealError::WrongCredential)
        ),
        "{error}"
    );
    host.open().unwrap();
}

#[test]
fn a_failed_enrolment_leaves_nothing_in_the_way() {
    let host = Host::software();
    let config = EngineConfig {
        directory: host.root.path().join("second"),
        ..host.config()
    };
    let bad = EngineConfig {
        account: "not digits".into(),
        ..config.clone()
    };
    let mut sealer = host.sealer();
    let mut attempt = |config: &EngineConfig| {
        let profile = Profile::Machine;
        enroll(
            config,
            sealer.as_mut(),
            profile,
            &host.credential,
            &host.recovery,
            &host.clock,
        )
    };
    assert!(matches!(attempt(&bad), Err(EngineError::BadScope)));
    // What a crash in the middle leaves behind.
    std::fs::create_dir_all(&config.directory).unwrap();
    std::fs::write(config.directory.join("catalogue.sqlite.new"), b"half").unwrap();
    attempt(&config).unwrap();
    assert!(!config.directory.join("catalogue.sqlite.new").exists());
}

#[test]
fn any_edit_of_any_row_is_noticed() {
    let host = Host::software();
    let engine = host.open().unwrap();
    let (a, b) = (create_key(&engine), create_key(&engine));
    call(
        &engine,
        "CreateAlias",
        json!({"AliasName": "alias/a", "TargetKeyId": a}),
    )
    .unwrap();
    call(&engine, "CreateVolume", json!({"Label": "v"})).unwrap();
    call(&engine, "DisableKey", json!({"KeyId": b})).unwrap();
    engine.shutdown().unwrap();
    drop(engine);
    let sound = host.copy_store("sound");
    let edits = [
        format!("UPDATE keys SET body = replace(body, 'Disabled', 'Enabled') WHERE id = '{b}'"),
        format!("DELETE FROM keys WHERE id = '{b}'"),
        "DELETE FROM aliases".to_owned(),
        format!("UPDATE aliases SET body = replace(body, '{a}', '{b}')"),
        "UPDATE volumes SET body = replace(body, '\"v\"', '\"w\"')".to_owned(),
        "UPDATE mac SET body = zeroblob(32)".to_owned(),
        "DELETE FROM key_materials".to_owned(),
        "UPDATE meta SET body = replace(body, '\"unanchored\":0', '\"unanchored\":1')".to_owned(),
        "UPDATE meta SET body = replace(body, '\"deletion_epoch\":0', '\"deletion_epoch\":1')"
            .to_owned(),
        "UPDATE revision SET value = value + 1".to_owned(),
        "INSERT INTO aliases SELECT 'alias/b', replace(body, 'alias/a', 'alias/b') FROM aliases"
            .to_owned(),
    ];
    for edit in edits {
        host.put_back(&sound);
        // Bodies are blobs: text functions need them as text, and the column takes blobs only.
        let edit = edit.replace("replace(body,", "replace(CAST(body AS TEXT),");
        let database = Connection::open(host.store().join(CATALOGUE)).unwrap();
        let changed = database
            .execute(&edit, [])
            .or_else(|_| {
                let cast = edit
                    .replace("replace(CAST", "CAST(replace(CAST")
                    .replace(" WHERE", " AS BLOB) WHERE")
                    .replace(" FROM aliases", " AS BLOB) FROM aliases");
                let cast = if cast.contains("AS BLOB)") {
                    cast
                } else {
                    format!("{cast} AS BLOB)")
                };
                database.execute(&cast, [])
            })
            .unwrap();
        assert!(changed > 0, "{edit}");
        drop(database);
        let error = host.open().err();
        assert!(
            matches!(error, Some(EngineError::Tampered(_))),
            "{edit}: {error:?}"
        );
    }
    host.put_back(&sound);
    host.open().unwrap();
}

#[test]
fn wraps_do_not_open_in_another_place() {
    let host = Host::software();
    let engine = host.open().unwrap();
    let (a, b) = (create_key(&engine), create_key(&engine));
    let kms = engine.shared.kms.read();
    let row = |key: &str| {
        kms.snapshot()
            .materials(key.parse().unwrap())
            .next()
            .unwrap()
            .clone()
    };
    let (a, b) = (row(&a), row(&b));
    let domain = engine.shared.domain.read();
    let subject = |row: &kms_core::rows::MaterialRow| row.subject();
    assert!(domain.unwrap(subject(&a), &a.secret).is_ok());
    assert!(domain.unwrap(subject(&a), &b.secret).is_err());
}

#[test]
fn a_new_tpm_and_the_recovery_key_keep_every_key() {
    let host = Host::software();
    let engine = host.open().unwrap();
    let key = create_key(&engine);
    let blob = encrypt(&engine, &key, b"kept");
    engine.shutdown().unwrap();
    drop(engine);

    let new = SealerConfig {
        key_file: host.root.path().join("new.key"),
        ..host.seal.clone()
    };
    let credential = Credential::random().unwrap();
    let attempt = |recovery: &RecoveryPrivateKey| {
        let mut sealer = kms_seal::open(&new).unwrap();
        recover(
            &host.config(),
            sealer.as_mut(),
            Profile::Machine,
            &credential,
            recovery,
            &host.clock,
        )
    };
    let wrong = RecoveryPrivateKey::generate().unwrap();
    assert!(matches!(
        attempt(&wrong),
        Err(EngineError::WrongRecoveryKey(_))
    ));
    host.open().unwrap();
    let report = attempt(&host.recovery).unwrap();
    assert_eq!(report.keys, 1);

    assert!(
        host.open().is_err(),
        "the old sealer is no recipient any more"
    );
    let clock = Arc::new(host.clock.clone());
    let sealer = kms_seal::open(&new).unwrap();
    let engine = Engine::open(host.config(), sealer, &credential, clock).unwrap();
    assert_eq!(decrypt(&engine, &blob).unwrap(), b"kept");
    // Domain keys made from now on have the same recovery recipient.
    let doomed = create_key(&engine);
    schedule(&engine, &doomed);
    host.clock.pass_days(7);
    engine.tick().unwrap();
    assert_eq!(meta(&engine).deletion_epoch, 1);
    drop(engine);
    let before = host.copy_store("before");
    attempt(&host.recovery).unwrap();
    // The former enrolment was in the same key file: the store from before does not pass again.
    host.put_back(&before);
    let clock = Arc::new(host.clock.clone());
    let sealer = kms_seal::open(&new).unwrap();
    assert!(Engine::open(host.config(), sealer, &credential, clock).is_err());
}

#[test]
fn keys_are_rotated_when_their_time_comes() {
    let host = Host::software();
    let engine = host.open().unwrap();
    let key = create_key(&engine);
    let body = json!({"KeyId": key, "RotationPeriodInDays": 90});
    call(&engine, "EnableKeyRotation", body).unwrap();
    let blob = encrypt(&engine, &key, b"x");
    engine.tick().unwrap();
    let count = |engine: &Engine| {
        let list = call(engine, "ListKeyRotations", json!({"KeyId": key})).unwrap();
        list["Rotations"].as_array().unwrap().len()
    };
    assert_eq!(count(&engine), 0);
    host.clock.pass_days(90);
    engine.tick().unwrap();
    engine.tick().unwrap();
    assert_eq!(count(&engine), 1);
    assert_eq!(decrypt(&engine, &blob).unwrap(), b"x");
}

#[test]
fn time_counts_over_restarts_and_one_clock_alone_destroys_nothing() {
    let host = Host::software();
    let engine = host.open().unwrap();
    let key = create_key(&engine);
    schedule(&engine, &key);
    host.clock.0.lock().wall_ms += 365 * i64::try_from(DAY_MS).unwrap();
    engine.tick().unwrap();
    assert_eq!(meta(&engine).deletion_epoch, 0);
    assert!(
        engine
            .status()
            .unwrap()
            .warnings
            .iter()
            .any(|w| w.contains("clock"))
    );
    host.clock.pass_days(4);
    engine.shutdown().unwrap();
    drop(engine);
    // A reboot: uptime starts again.
    {
        let mut reading = host.clock.0.lock();
        reading.boot = "second".into();
        reading.uptime_ms = 2 * DAY_MS;
    }
    let engine = host.open().unwrap();
    engine.tick().unwrap();
    assert_eq!(
        meta(&engine).deletion_epoch,
        0,
        "six of seven days have passed for certain"
    );
    host.clock.pass_days(1);
    engine.tick().unwrap();
    assert_eq!(meta(&engine).deletion_epoch, 1);
}

#[test]
fn the_uptime_of_another_host_is_no_time_that_the_store_has_seen() {
    let host = Host::software();
    let engine = host.open().unwrap();
    let key = create_key(&engine);
    schedule(&engine, &key);
    engine.shutdown().unwrap();
    drop(engine);

    // The other host has been up for a year, and its wall clock is wrong.
    {
        let mut reading = host.clock.0.lock();
        reading.wall_ms += i64::try_from(30 * DAY_MS).unwrap();
        reading.uptime_ms = 365 * DAY_MS;
        reading.boot = "another host".to_owned();
    }
    recover(
        &host.config(),
        host.sealer().as_mut(),
        Profile::Machine,
        &host.credential,
        &host.recovery,
        &host.clock,
    )
    .unwrap();
    let engine = host.open().unwrap();
    engine.tick().unwrap();
    let body = json!({"KeyId": key});
    let state = call(&engine, "DescribeKey", body).unwrap();
    assert_eq!(state["KeyMetadata"]["KeyState"], "PendingDeletion");
}
