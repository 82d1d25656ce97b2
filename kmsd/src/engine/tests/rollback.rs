//! Older copies of the store, put back.

use kms_core::rows::{RawRow, Row};
use kms_core::storage::{RawChange, StorageError};
use kms_core::{DomainKeys, Snapshot};
use kms_seal::testing::Swtpm;
use kms_seal::{Enrollment, SealError};

use super::*;

#[test]
fn an_older_store_is_refused_and_taken_only_with_the_recovery_key() {
    let host = Host::software();
    let engine = host.open().unwrap();
    let key = create_key(&engine);
    engine.tick().unwrap();
    engine.shutdown().unwrap();
    drop(engine);
    let older = host.copy_store("older");
    let engine = host.open().unwrap();
    call(&engine, "DisableKey", json!({"KeyId": key})).unwrap();
    drop(engine);
    let newest = host.copy_store("newest");

    host.put_back(&older);
    let error = host.open().err().unwrap();
    assert!(matches!(error, EngineError::RolledBack { .. }), "{error}");
    assert!(
        error
            .to_string()
            .contains(&host.store().display().to_string()),
        "{error}"
    );
    assert!(error.next_step().contains("recovery key"));

    let wrong = RecoveryPrivateKey::generate().unwrap();
    assert!(matches!(
        host.accept(&wrong),
        Err(EngineError::WrongRecoveryKey(_))
    ));
    assert!(matches!(host.open(), Err(EngineError::RolledBack { .. })));
    let report = host.accept(&host.recovery).unwrap();
    assert!(report.found < report.counter && report.accepted == report.counter + 1);
    let engine = host.open().unwrap();
    let described = call(&engine, "DescribeKey", json!({"KeyId": key})).unwrap();
    assert_eq!(
        described["KeyMetadata"]["KeyState"], "Enabled",
        "that is what was accepted"
    );
    drop(engine);
    assert!(matches!(
        host.accept(&host.recovery),
        Err(EngineError::NotRolledBack(_))
    ));

    // What was the newest store is an older one now.
    host.put_back(&newest);
    assert!(matches!(host.open(), Err(EngineError::RolledBack { .. })));
}

#[test]
fn the_counter_moves_at_once_for_what_tightens_and_later_for_the_rest() {
    let host = Host::software();
    let engine = host.open().unwrap();
    let counter = || engine.shared.writer.lock().counter;
    let start = counter();
    let (key, other) = (create_key(&engine), create_key(&engine));
    let alias = |operation: &str, target: &str| {
        let body = json!({"AliasName": "alias/a", "TargetKeyId": target});
        call(&engine, operation, body).unwrap();
    };
    alias("CreateAlias", &key);
    call(&engine, "RotateKeyOnDemand", json!({"KeyId": key})).unwrap();
    assert_eq!((counter(), meta(&engine).unanchored), (start, 4));
    engine.tick().unwrap();
    engine.tick().unwrap();
    assert_eq!(
        (counter(), meta(&engine).unanchored),
        (start + 1, 0),
        "once for all of them"
    );
    alias("UpdateAlias", &other);
    assert_eq!(counter(), start + 2);
    call(&engine, "DisableKey", json!({"KeyId": key})).unwrap();
    assert_eq!(counter(), start + 3);
    schedule(&engine, &other);
    assert_eq!(counter(), start + 4);
    call(&engine, "DeleteAlias", json!({"AliasName": "alias/a"})).unwrap();
    assert_eq!(counter(), start + 5);
    // Nothing left to anchor: nothing moves.
    engine.tick().unwrap();
    engine.shutdown().unwrap();
    assert_eq!(counter(), start + 5);
    assert_eq!(meta(&engine).generation, start + 5);
}

#[test]
fn the_window_bounds_how_often_the_counter_moves() {
    let host = Host::software();
    let config = EngineConfig {
        anchor_interval: Duration::from_secs(3600),
        ..host.config()
    };
    let clock = Arc::new(host.clock.clone());
    let engine = Engine::open(config, host.sealer(), &host.credential, clock).unwrap();
    let start = meta(&engine).generation;
    create_key(&engine);
    engine.tick().unwrap();
    assert_eq!(meta(&engine).generation, start);
    engine.shutdown().unwrap();
    assert_eq!(
        meta(&engine).generation,
        start + 1,
        "a clean stop leaves nothing open"
    );
}

/// Acceptance: a deleted key after its waiting period; store and sealed blobs from before, put back
/// under the same TPM.
#[test]
fn a_deleted_key_stays_deleted_whatever_is_put_back_under_the_same_tpm() {
    let root = tempfile::tempdir().unwrap();
    let tpm = Swtpm::start(root.path().join("tpm")).unwrap();
    let seal = SealerConfig {
        kind: SealerKind::Tpm,
        device: tpm.device(),
        ..SealerConfig::default()
    };
    let host = Host::with(root, seal);
    let engine = host.open().unwrap();
    let (doomed, kept) = (create_key(&engine), create_key(&engine));
    let (lost, blob) = (
        encrypt(&engine, &doomed, b"lost"),
        encrypt(&engine, &kept, b"kept"),
    );
    schedule(&engine, &doomed);
    engine.shutdown().unwrap();
    drop(engine);
    let before = host.copy_store("before");

    host.clock.pass_days(7);
    let engine = host.open().unwrap();
    engine.tick().unwrap();
    assert!(
        decrypt(&engine, &lost)
            .unwrap_err()
            .starts_with("AccessDenied")
    );
    let gone = call(&engine, "DescribeKey", json!({"KeyId": doomed})).unwrap_err();
    assert!(gone.starts_with("NotFoundException: Key '"), "{gone}");
    assert_eq!(decrypt(&engine, &blob).unwrap(), b"kept");
    engine.shutdown().unwrap();
    drop(engine);
    let after = host.copy_store("after");

    // Put back: refused, and the recovery key makes no difference to the TPM.
    host.put_back(&before);
    let error = host.open().err().unwrap();
    let destroyed = |error: &EngineError| {
        matches!(
            error,
            EngineError::Seal(SealError::EpochDestroyed { .. } | SealError::EpochReplaced { .. })
        )
    };
    assert!(destroyed(&error), "{error}");
    assert!(destroyed(&host.accept(&host.recovery).unwrap_err()));

    // With every check of the engine bypassed: the old record gives no KEK, and the KEK that the
    // TPM still gives opens no domain key of the old store.
    let rows = host.storage().load().unwrap().1;
    let old = Snapshot::from_rows(&rows).unwrap();
    let record = Enrollment::from_json(old.enrollment()).unwrap();
    assert!(host.sealer().unseal(&record, &host.credential).is_err());
    host.put_back(&after);
    let rows = host.storage().load().unwrap().1;
    let new = Snapshot::from_rows(&rows).unwrap();
    let record = Enrollment::from_json(new.enrollment()).unwrap();
    let kek = host.sealer().unseal(&record, &host.credential).unwrap();
    let mut domain = DomainKeys::new(old.meta());
    for row in old.domains() {
        assert!(domain.open_as_host(row, kek.key()).is_err());
    }
    // No wrap of the old domain key, and no old row, is left in any file of the new store.
    let old_wraps = old
        .domains()
        .flat_map(|row| row.wraps.clone())
        .map(|w| BASE64.encode(&w.blob.0));
    let old_rows = old
        .keys()
        .flat_map(|key| old.materials(key.id))
        .map(|m| BASE64.encode(&m.secret.blob.0));
    for text in old_wraps.chain(old_rows) {
        for entry in std::fs::read_dir(host.store()).unwrap() {
            let entry = entry.unwrap();
            if entry.file_type().unwrap().is_dir() {
                // The audit log, which never has any.
                continue;
            }
            let bytes = std::fs::read(entry.path()).unwrap();
            assert!(
                !bytes
                    .windows(text.len())
                    .any(|window| window == text.as_bytes())
            );
        }
    }

    // What does open it, and the documentation says so: the recovery key with the old copy.
    for row in old.domains() {
        domain.open_as_recovery(row, &host.recovery).unwrap();
    }
    let material = old.materials(doomed.parse().unwrap()).next().unwrap();
    let subject = material.subject();
    assert!(domain.unwrap(subject, &material.secret).is_ok());
    let engine = host.open().unwrap();
    assert_eq!(decrypt(&engine, &blob).unwrap(), b"kept");
}

/// Keeps every row that was ever written, as freed blocks and copies from the middle do.
struct Remembering(Box<dyn Storage>, Arc<Mutex<Vec<RawRow>>>);

impl Storage for Remembering {
    fn load(&mut self) -> Result<(u64, Vec<RawRow>), StorageError> {
        self.0.load()
    }
    fn commit(&mut self, expected: u64, changes: &[RawChange]) -> Result<(), StorageError> {
        for change in changes {
            if let RawChange::Put(row) = change {
                self.1.lock().push(row.clone());
            }
        }
        self.0.commit(expected, changes)
    }
    fn scrub(&mut self) -> Result<(), StorageError> {
        self.0.scrub()
    }
}

#[test]
fn a_copy_from_the_middle_of_an_epoch_does_not_open_what_is_older() {
    let host = Host::software();
    let rows = Arc::new(Mutex::new(host.storage().load().unwrap().1));
    let storage = Remembering(host.storage(), Arc::clone(&rows));
    let engine = host.open_with(Box::new(storage), host.sealer()).unwrap();
    let old = meta(&engine).domain;
    let doomed = create_key(&engine);
    schedule(&engine, &doomed);
    host.clock.pass_days(8);
    engine.tick().unwrap();
    let now = meta(&engine);
    assert_eq!((now.deletion_epoch, now.epoch_change), (1, None));

    let enrollment = engine.shared.writer.lock().enrollment.clone();
    let kek = host.sealer().unseal(&enrollment, &host.credential).unwrap();
    let (mut opened, mut closed) = (0, 0);
    for row in rows.lock().iter() {
        let Ok(Row::Domain(row)) = Row::decode(row) else {
            continue;
        };
        match DomainKeys::new(&now).open_as_host(&row, kek.key()) {
            Ok(()) => {
                assert_ne!(row.id, old, "the older domain key opens in the new epoch");
                opened += 1;
            }
            Err(_) => closed += 1,
        }
    }
    assert!(opened > 0 && closed > 0);
}
