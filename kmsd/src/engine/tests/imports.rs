//! Imported key material over real files: restarts, expiry by both clocks, and what copies of the store still hold.

use kms_core::audit::{Kind, Record};
use kms_crypto::asymmetric::{EncryptionScheme, PairSpec, PublicKey};

use super::audit::records;
use super::*;

const MATERIAL: [u8; 32] = [7; 32];

fn import(engine: &Engine, key: &str, with: &[(&str, Value)]) -> Result<Value, String> {
    import_by(
        |operation, body| call(engine, operation, body),
        key,
        &MATERIAL,
        with,
    )
}

fn import_by(
    call: impl Fn(&str, Value) -> Result<Value, String>,
    key: &str,
    material: &[u8; 32],
    with: &[(&str, Value)],
) -> Result<Value, String> {
    let body = json!({
        "KeyId": key, "WrappingAlgorithm": "RSAES_OAEP_SHA_256", "WrappingKeySpec": "RSA_2048",
    });
    let given = call("GetParametersForImport", body).unwrap();
    let spki = BASE64.decode(given["PublicKey"].as_str().unwrap().as_bytes());
    let public = PublicKey::from_spki(PairSpec::Rsa2048, &spki.unwrap()).unwrap();
    let wrapped = public.encrypt(EncryptionScheme::RsaOaepSha256, material);
    let mut body = json!({
        "KeyId": key, "ImportToken": given["ImportToken"],
        "EncryptedKeyMaterial": BASE64.encode(&wrapped.unwrap()),
    });
    for (name, value) in with {
        body[*name] = value.clone();
    }
    call("ImportKeyMaterial", body)
}

fn external(engine: &Engine) -> String {
    let made = call(engine, "CreateKey", json!({"Origin": "EXTERNAL"})).unwrap();
    made["KeyMetadata"]["KeyId"].as_str().unwrap().to_owned()
}

fn state(engine: &Engine, key: &str) -> String {
    let described = call(engine, "DescribeKey", json!({"KeyId": key})).unwrap();
    described["KeyMetadata"]["KeyState"]
        .as_str()
        .unwrap()
        .to_owned()
}

fn deletions(all: &[Record]) -> usize {
    let deleted = |record: &&Record| {
        record.operation == "DeleteImportedKeyMaterial" && record.kind == Kind::Service
    };
    all.iter().filter(deleted).count()
}

#[test]
fn imported_material_works_after_a_restart_until_it_expires() {
    let host = Host::software();
    let engine = host.open().unwrap();
    let key = external(&engine);
    let ends = host.clock.read().wall_ms / 1000 + 2 * 86_400;
    import(&engine, &key, &[("ValidTo", json!(ends))]).unwrap();
    let blob = encrypt(&engine, &key, b"text");
    let imports: Vec<_> = records(&host.store())
        .into_iter()
        .filter(|record| record.operation == "ImportKeyMaterial")
        .collect();
    let [imported] = &imports[..] else {
        panic!("{imports:?}");
    };
    assert!(!imported.read_only && imported.error.is_none());
    assert_eq!(
        imported.response["keyId"],
        format!("arn:aws:kms:local-host-1:000000000000:key/{key}")
    );
    let text = String::from_utf8(imported.to_bytes()).unwrap();
    for secret in ["importToken", "encryptedKeyMaterial"] {
        assert!(!text.contains(secret), "{text}");
    }
    engine.shutdown().unwrap();
    drop(engine);

    let engine = host.open().unwrap();
    assert_eq!(decrypt(&engine, &blob).unwrap(), b"text");
    host.clock.0.lock().wall_ms += i64::try_from(3 * DAY_MS).unwrap();
    engine.shared.tick().unwrap();
    let refused = decrypt(&engine, &blob).unwrap_err();
    assert!(refused.ends_with("is pending import."), "{refused}");
    let id = key.parse().unwrap();
    let there = |engine: &Engine| engine.shared.kms.read().snapshot().materials(id).count();
    assert_eq!(there(&engine), 1, "one clock is not enough to destroy it");
    host.clock.0.lock().uptime_ms += 3 * DAY_MS;
    let before = meta(&engine).deletion_epoch;
    engine.shared.tick().unwrap();
    assert_eq!(state(&engine, &key), "PendingImport");
    assert_eq!(there(&engine), 0);
    assert!(
        decrypt(&engine, &blob)
            .unwrap_err()
            .ends_with("is pending import.")
    );
    let now = meta(&engine);
    assert_eq!(now.deletion_epoch, before + 1);
    assert!(!now.epoch_owed && now.epoch_change.is_none());
    assert_eq!(deletions(&records(&host.store())), 1);

    let forever = json!("KEY_MATERIAL_DOES_NOT_EXPIRE");
    import(&engine, &key, &[("ExpirationModel", forever)]).unwrap();
    assert_eq!(decrypt(&engine, &blob).unwrap(), b"text");
}

#[test]
fn material_that_expired_while_kmsd_was_down_is_deleted_at_its_start() {
    let host = Host::software();
    let engine = host.open().unwrap();
    let key = external(&engine);
    let ends = host.clock.read().wall_ms / 1000 + 86_400;
    import(&engine, &key, &[("ValidTo", json!(ends))]).unwrap();
    engine.shutdown().unwrap();
    drop(engine);
    host.clock.pass_days(2);
    let engine = host.open().unwrap();
    engine.shared.tick().unwrap();
    assert_eq!(state(&engine, &key), "PendingImport");
}

#[test]
fn whatever_has_expired_is_deleted_in_one_epoch() {
    let host = Host::software();
    let engine = host.open().unwrap();
    let ends = host.clock.read().wall_ms / 1000 + 86_400;
    let keys = [(); 3].map(|()| external(&engine));
    for key in &keys {
        import(&engine, key, &[("ValidTo", json!(ends))]).unwrap();
    }
    host.clock.pass_days(2);
    engine.shared.tick().unwrap();
    for key in &keys {
        assert_eq!(state(&engine, key), "PendingImport");
    }
    let now = meta(&engine);
    assert_eq!(now.deletion_epoch, 1);
    assert!(!now.epoch_owed && now.epoch_change.is_none());
    assert_eq!(deletions(&records(&host.store())), keys.len());
}

#[test]
fn deleted_material_is_in_no_older_copy_of_the_store() {
    let host = Host::software();
    let engine = host.open().unwrap();
    let key = external(&engine);
    let forever = [("ExpirationModel", json!("KEY_MATERIAL_DOES_NOT_EXPIRE"))];
    import(&engine, &key, &forever).unwrap();
    let kept = create_key(&engine);
    let blob = encrypt(&engine, &kept, b"kept");
    let before = engine.shared.kms.read().snapshot().clone();
    let id = key.parse().unwrap();
    let row = before.materials(id).next().unwrap().clone();
    let opens = |engine: &Engine| {
        let domain = engine.shared.domain.read();
        domain.unwrap(row.subject(), &row.secret).is_ok()
    };
    assert!(opens(&engine));
    call(&engine, "DeleteImportedKeyMaterial", json!({"KeyId": key})).unwrap();
    assert!(!opens(&engine), "the domain key of the old row is gone");
    assert_eq!(meta(&engine).deletion_epoch, 1);
    assert_eq!(deletions(&records(&host.store())), 0, "it was asked for");
    assert_eq!(decrypt(&engine, &blob).unwrap(), b"kept");
    // A token from before the epoch is worth nothing; a new one is.
    import(&engine, &key, &forever).unwrap();
    assert_eq!(state(&engine, &key), "Enabled");
}

#[test]
fn a_rotation_to_imported_material_is_recorded_once() {
    let host = Host::software();
    let engine = host.open().unwrap();
    let key = external(&engine);
    let forever = ("ExpirationModel", json!("KEY_MATERIAL_DOES_NOT_EXPIRE"));
    import(&engine, &key, std::slice::from_ref(&forever)).unwrap();
    let refused = import(
        &engine,
        &key,
        &[forever.clone(), ("ImportType", json!("NEW_KEY_MATERIAL"))],
    );
    assert!(
        refused
            .unwrap_err()
            .starts_with("IncorrectKeyMaterialException")
    );
    // As if it had been rotated to: what is imported again is not rotated to again.
    let id = key.parse().unwrap();
    {
        let mut kms = engine.shared.kms.write();
        let mut row = kms
            .snapshot()
            .materials(id)
            .next()
            .unwrap()
            .as_ref()
            .clone();
        row.rotated = Some(kms_core::rows::RotationKind::OnDemand);
        kms.apply(&[kms_core::Change::Put(kms_core::Row::Material(row))]);
    }
    import(&engine, &key, &[forever]).unwrap();
    let all = records(&host.store());
    assert!(!all.iter().any(|record| record.operation == "RotateKey"));
}

fn decoded(operation: &str, body: &Value) -> Request {
    Request::decode(
        &format!("TrentService.{operation}"),
        body.to_string().as_bytes(),
    )
    .unwrap()
}

fn me() -> Caller {
    Caller::internal("000000000000")
}

/// What a request came to that is carried out later.
fn waiting(engine: &Engine, request: &Request) -> Waiting {
    let evaluated = engine.shared.evaluate(None, request, &me(), None).unwrap();
    match evaluated.outcome {
        Ok(Outcome::Use(usage)) => Waiting {
            usage: *usage,
            domain: evaluated.domain,
        },
        _ => panic!("no use of a key"),
    }
}

#[test]
fn deletions_that_wait_for_each_other_share_an_epoch() {
    let host = Host::software();
    let engine = host.open().unwrap();
    let shared = &engine.shared;
    let forever = [("ExpirationModel", json!("KEY_MATERIAL_DOES_NOT_EXPIRE"))];
    let keys = [(); 3].map(|()| external(&engine));
    for key in &keys {
        import(&engine, key, &forever).unwrap();
    }
    // All of them wait for the writer, one after the other has it.
    let mut writer = shared.writer.lock();
    for key in &keys {
        let request = decoded("DeleteImportedKeyMaterial", &json!({"KeyId": key}));
        let done = shared.write_as(&mut writer, None, None, &|kms, world| {
            kms.handle(&request, &me(), world)
        });
        assert!(done.unwrap().owes_epoch);
    }
    assert!(shared.kms.read().snapshot().meta().epoch_owed);
    drop(writer);
    // None of them is answered before it is over.
    for _ in &keys {
        shared.pay_epoch().unwrap();
        let now = meta(&engine);
        assert!(!now.epoch_owed && now.epoch_change.is_none());
    }
    assert_eq!(meta(&engine).deletion_epoch, 1);
    for key in &keys {
        assert_eq!(state(&engine, key), "PendingImport");
    }
}

#[test]
fn a_use_that_waited_while_an_epoch_went_by_is_looked_at_again() {
    let host = Host::software();
    let engine = host.open().unwrap();
    let shared = &engine.shared;
    let forever = [("ExpirationModel", json!("KEY_MATERIAL_DOES_NOT_EXPIRE"))];
    let (doomed, kept) = (external(&engine), create_key(&engine));
    import(&engine, &doomed, &forever).unwrap();
    let body = |key: &str| json!({"KeyId": key, "Plaintext": "aGVsbG8="});
    let requests = [&doomed, &kept].map(|key| decoded("Encrypt", &body(key)));
    let [of_doomed, of_kept] = requests.each_ref().map(|request| waiting(&engine, request));
    call(
        &engine,
        "DeleteImportedKeyMaterial",
        json!({"KeyId": doomed}),
    )
    .unwrap();
    shared.provider.forget_all();
    let again = |request: &Request, waiting: Waiting| {
        block_on::block_on(shared.use_or_again(None, request, &me(), waiting, None))
    };
    // The key that was not touched works, and the other one says why it does not.
    let Ok(Response::Encrypt(done)) = again(&requests[1], of_kept) else {
        panic!("the other key failed");
    };
    let blob = BASE64.encode(done.ciphertext_blob.as_slice());
    assert_eq!(decrypt(&engine, &blob).unwrap(), b"hello");
    let refused = again(&requests[0], of_doomed).unwrap_err();
    assert!(
        refused.to_string().ends_with("is pending import."),
        "{refused}"
    );
}

#[test]
fn a_use_that_was_allowed_before_leaves_nothing_of_a_key_in_memory() {
    let host = Host::software();
    let engine = host.open().unwrap();
    let shared = &engine.shared;
    let run = |request: &Request, allowed: Waiting| {
        block_on::block_on(shared.use_or_again(None, request, &me(), allowed, None))
    };
    let key = create_key(&engine);
    let body = json!({"KeySpec": "HMAC_256", "KeyUsage": "GENERATE_VERIFY_MAC"});
    let mac = call(&engine, "CreateKey", body).unwrap()["KeyMetadata"]["KeyId"].clone();
    let mac = mac.as_str().unwrap();
    let requests = [
        decoded("Encrypt", &json!({"KeyId": key, "Plaintext": "aGVsbG8="})),
        decoded(
            "GenerateMac",
            &json!({"KeyId": mac, "Message": "aGVsbG8=", "MacAlgorithm": "HMAC_SHA_256"}),
        ),
    ];
    for (key, request) in [key.as_str(), mac].into_iter().zip(&requests) {
        shared.provider.forget_all();
        let allowed = waiting(&engine, request);
        call(&engine, "DisableKey", json!({"KeyId": key})).unwrap();
        run(request, allowed).unwrap();
        assert_eq!(engine.cached_materials(), 0, "{key}");
        call(&engine, "EnableKey", json!({"KeyId": key})).unwrap();
        let allowed = waiting(&engine, request);
        run(request, allowed).unwrap();
        assert_eq!(engine.cached_materials(), 1, "{key}");
    }
}

#[test]
fn what_a_replica_imports_for_the_first_time_is_recorded_as_no_rotation() {
    let host = Host::software();
    let config = EngineConfig {
        served: Served {
            accounts: Vec::new(),
            regions: vec!["us-west-2".to_owned()],
            any_region: false,
        },
        ..host.config()
    };
    let clock = Arc::new(host.clock.clone());
    let engine = Engine::open(config, host.sealer(), &host.credential, clock).unwrap();
    let body = json!({"Origin": "EXTERNAL", "MultiRegion": true});
    let made = call(&engine, "CreateKey", body).unwrap();
    let key = made["KeyMetadata"]["KeyId"].as_str().unwrap().to_owned();
    let here = |operation: &str, body: Value| call(&engine, operation, body);
    let there = |operation: &str, body: Value| {
        let mut caller = me();
        caller.scope = Scope::new("000000000000", "us-west-2").map(Arc::new);
        let answer = engine.call_blocking(&decoded(operation, &body), &caller);
        let json = answer.map_err(|e| e.to_string())?.to_json().unwrap();
        Ok(serde_json::from_slice(&json).unwrap_or_default())
    };
    let forever = ("ExpirationModel", json!("KEY_MATERIAL_DOES_NOT_EXPIRE"));
    let new = [forever.clone(), ("ImportType", json!("NEW_KEY_MATERIAL"))];
    let forever = std::slice::from_ref(&forever);
    import_by(here, &key, &MATERIAL, forever).unwrap();
    import_by(here, &key, &[8; 32], &new).unwrap();
    here("RotateKeyOnDemand", json!({"KeyId": key})).unwrap();
    here(
        "ReplicateKey",
        json!({"KeyId": key, "ReplicaRegion": "us-west-2"}),
    )
    .unwrap();
    for material in [[8; 32], MATERIAL] {
        import_by(there, &key, &material, forever).unwrap();
    }
    let rotations = |host: &Host| {
        let all = records(&host.store());
        all.into_iter()
            .filter(|record| record.operation == "RotateKey")
            .count()
    };
    assert_eq!(rotations(&host), 1);
    // The next one is that of both.
    import_by(here, &key, &[9; 32], &new).unwrap();
    import_by(there, &key, &[9; 32], forever).unwrap();
    here("RotateKeyOnDemand", json!({"KeyId": key})).unwrap();
    assert_eq!(rotations(&host), 3);
}
