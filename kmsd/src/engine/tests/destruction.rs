//! Policies destroyed in an epoch of their own, stopped at every step.

use super::faults::{FailingSealer, FailingStorage, Fuse};
use super::*;

struct Prepared {
    host: Host,
    /// Bodies that name them.
    doomed: Value,
    kept: Value,
    secret: Value,
    blob: String,
}

fn prepare() -> Prepared {
    let host = Host::software();
    let engine = host.open().unwrap();
    let key = create_key(&engine);
    let blob = encrypt(&engine, &key, b"kept");
    let volume = call(&engine, "CreateVolume", json!({})).unwrap()["VolumeId"].clone();
    let policy = || {
        let body = json!({"VolumeId": volume, "KeyId": key, "ContentMode": "XTS"});
        let made = call(&engine, "CreatePolicy", body).unwrap();
        json!({"VolumeId": volume, "PolicyId": made["PolicyId"]})
    };
    let (doomed, kept) = (policy(), policy());
    call(&engine, "RotatePolicy", kept.clone()).unwrap();
    let secret = call(&engine, "GetPolicy", kept.clone()).unwrap()["PolicySecret"].clone();
    engine.shutdown().unwrap();
    Prepared {
        host,
        doomed,
        kept,
        secret,
        blob,
    }
}

impl Prepared {
    fn check_done(&self, engine: &Engine, place: &str) {
        let error = call(engine, "GetPolicy", self.doomed.clone()).unwrap_err();
        assert!(error.contains("was destroyed on"), "{place}: {error}");
        let got = call(engine, "GetPolicy", self.kept.clone()).unwrap();
        assert_eq!(got["PolicySecret"], self.secret, "{place}");
        let mut older = self.kept.clone();
        older["Generation"] = json!(1);
        assert!(call(engine, "GetPolicy", older).is_ok(), "{place}");
        assert_eq!(decrypt(engine, &self.blob).unwrap(), b"kept", "{place}");
        let meta = meta(engine);
        assert_eq!(
            (meta.epoch_change, meta.epoch_owed),
            (None, false),
            "{place}"
        );
        assert_eq!(meta.deletion_epoch, 1, "{place}");
    }
}

#[test]
fn the_answer_comes_when_no_older_copy_opens_any_more() {
    let prepared = prepare();
    let before = prepared.host.copy_store("before");
    let engine = prepared.host.open().unwrap();
    let done = call(&engine, "DestroyPolicy", prepared.doomed.clone()).unwrap();
    assert_eq!(
        (&done["DestroyedGenerations"], &done["DeletionEpoch"]),
        (&json!(1), &json!(1))
    );
    // No clean stop, no tick.
    drop(engine);
    let engine = prepared.host.open().unwrap();
    prepared.check_done(&engine, "after");
    // Asked again it is done already, and costs no epoch.
    let again = call(&engine, "DestroyPolicy", prepared.doomed.clone()).unwrap();
    assert_eq!(
        (&again["DestroyedGenerations"], &again["DeletionEpoch"]),
        (&json!(0), &json!(1))
    );
    engine.shutdown().unwrap();
    drop(engine);
    prepared.host.put_back(&before);
    assert!(prepared.host.open().is_err());
    assert!(
        prepared.host.accept(&prepared.host.recovery).is_err(),
        "the epoch secret of before is gone, so not even an accepted rollback opens it"
    );
}

#[test]
fn older_generations_go_in_an_epoch_too() {
    let prepared = prepare();
    let before = prepared.host.copy_store("before");
    let engine = prepared.host.open().unwrap();
    let mut body = prepared.kept.clone();
    body["Before"] = json!(2);
    call(&engine, "DestroyPolicyGenerations", body).unwrap();
    let mut older = prepared.kept.clone();
    older["Generation"] = json!(1);
    let error = call(&engine, "GetPolicy", older).unwrap_err();
    assert!(error.contains("Generation 1"), "{error}");
    let got = call(&engine, "GetPolicy", prepared.kept.clone()).unwrap();
    assert_eq!(got["PolicySecret"], prepared.secret);
    drop(engine);
    prepared.host.put_back(&before);
    assert!(prepared.host.open().is_err());
}

#[test]
fn an_interruption_anywhere_is_made_up_for() {
    for (after, dead) in [(false, true), (true, true), (false, false)] {
        let mut effect = 0;
        loop {
            let place = format!("effect {effect}, done all the same: {after}, dead: {dead}");
            let prepared = prepare();
            let before = prepared.host.copy_store("before");
            let fuse = Fuse::new(effect, after, dead);
            let engine = {
                let storage = FailingStorage(prepared.host.storage(), Arc::clone(&fuse));
                let sealer = FailingSealer(prepared.host.sealer(), Arc::clone(&fuse));
                prepared.host.open_with(Box::new(storage), Box::new(sealer))
            };
            let blown = || fuse.blown.load(Ordering::SeqCst);
            let result = engine
                .as_ref()
                .map(|engine| call(engine, "DestroyPolicy", prepared.doomed.clone()));
            let answered = matches!(result, Ok(Ok(_)));
            if !blown() {
                assert!(answered, "{place}");
                break;
            }
            if !dead && let Ok(engine) = &engine {
                fuse.disarm();
                call(engine, "DestroyPolicy", prepared.doomed.clone())
                    .unwrap_or_else(|e| panic!("{place}: {e}"));
                prepared.check_done(engine, &place);
            }
            drop(engine);
            let engine = prepared
                .host
                .open()
                .unwrap_or_else(|e| panic!("{place}: {e}"));
            // Whoever was told nothing asks again.
            call(&engine, "DestroyPolicy", prepared.doomed.clone())
                .unwrap_or_else(|e| panic!("{place}: {e}"));
            prepared.check_done(&engine, &place);
            engine.shutdown().unwrap();
            drop(engine);
            prepared.host.put_back(&before);
            assert!(
                prepared.host.open().is_err(),
                "{place}: the store from before opens"
            );
            effect += 1;
            assert!(effect < 100, "an epoch of this store has far fewer steps");
        }
        assert!(effect >= 10, "{effect}");
    }
}

/// The bytes of the wrapped secret are nowhere in the store's files afterwards.
#[test]
fn nothing_of_the_secret_stays_in_the_files() {
    let prepared = prepare();
    let engine = prepared.host.open().unwrap();
    let wrapped = {
        let kms = engine.shared.kms.read();
        let id = prepared.doomed["PolicyId"].as_str().unwrap();
        let row = kms.snapshot().policies().find(|row| row.id == id).cloned();
        let secret = row.unwrap().secret.clone().unwrap();
        BASE64.encode(&secret.blob.0)
    };
    let holds = || {
        std::fs::read_dir(prepared.host.store())
            .unwrap()
            .flatten()
            .filter(|entry| entry.file_type().unwrap().is_file())
            .any(|entry| {
                let bytes = std::fs::read(entry.path()).unwrap();
                bytes
                    .windows(wrapped.len())
                    .any(|window| window == wrapped.as_bytes())
            })
    };
    assert!(holds());
    call(&engine, "DestroyPolicy", prepared.doomed.clone()).unwrap();
    assert!(!holds());
}
