//! A deletion epoch, stopped at every step.

use super::faults::{FailingSealer, FailingStorage, Fuse};
use super::*;

struct Prepared {
    host: Host,
    doomed: String,
    kept: Vec<(String, Vec<u8>)>,
    lost: String,
}

/// A store with some keys in several versions, and one key whose time has come.
fn prepare() -> Prepared {
    let host = Host::software();
    let engine = host.open().unwrap();
    let doomed = create_key(&engine);
    let lost = encrypt(&engine, &doomed, b"lost");
    let mut kept = vec![];
    for n in 0..3u8 {
        let key = create_key(&engine);
        kept.push((encrypt(&engine, &key, &[n]), vec![n]));
        call(&engine, "RotateKeyOnDemand", json!({"KeyId": key})).unwrap();
        kept.push((encrypt(&engine, &key, &[n, n]), vec![n, n]));
    }
    schedule(&engine, &doomed);
    engine.shutdown().unwrap();
    drop(engine);
    host.clock.pass_days(7);
    Prepared {
        host,
        doomed,
        kept,
        lost,
    }
}

impl Prepared {
    fn engine(&self, fuse: &Arc<Fuse>) -> Engine {
        let storage = FailingStorage(self.host.storage(), Arc::clone(fuse));
        let sealer = FailingSealer(self.host.sealer(), Arc::clone(fuse));
        self.host
            .open_with(Box::new(storage), Box::new(sealer))
            .unwrap()
    }

    fn check_done(&self, engine: &Engine, place: &str) {
        let gone = call(engine, "DescribeKey", json!({"KeyId": self.doomed})).unwrap_err();
        assert!(gone.starts_with("NotFoundException"), "{place}: {gone}");
        assert!(
            decrypt(engine, &self.lost)
                .unwrap_err()
                .starts_with("AccessDenied"),
            "{place}"
        );
        for (blob, text) in &self.kept {
            assert_eq!(&decrypt(engine, blob).unwrap(), text, "{place}");
        }
        let kms = engine.shared.kms.read();
        let snapshot = kms.snapshot();
        assert_eq!(snapshot.meta().epoch_change, None, "{place}");
        assert_eq!(snapshot.meta().deletion_epoch, 1, "{place}");
        assert_eq!(snapshot.domains().count(), 1, "{place}");
        let record = kms_seal::Enrollment::from_json(snapshot.enrollment()).unwrap();
        assert!(!record.has_retired_epoch(), "{place}");
    }
}

/// Runs `attempt` with a failure at effect 0, 1, 2, ... until none is reached any more.
fn at_every_effect(attempt: impl Fn(i64, bool) -> bool) {
    for after in [false, true] {
        let mut effect = 0;
        while attempt(effect, after) {
            effect += 1;
            assert!(effect < 100, "an epoch of this store has far fewer steps");
        }
        // stage, begin, move, drop, scrub, destroy, finish, count
        assert!(effect >= 8, "{effect}");
    }
}

#[test]
fn a_crash_after_any_step_is_made_up_for_at_the_next_start() {
    at_every_effect(|effect, after| {
        let place = format!("effect {effect}, done all the same: {after}");
        let prepared = prepare();
        let before = prepared.host.copy_store("before");
        let fuse = Fuse::new(effect, after, true);
        let engine = prepared.engine(&fuse);
        let result = engine.tick();
        let blown = fuse.blown.load(Ordering::SeqCst);
        assert_eq!(result.is_err(), blown, "{place}: {result:?}");
        drop(engine);

        let engine = prepared
            .host
            .open()
            .unwrap_or_else(|e| panic!("{place}: {e}"));
        for (blob, text) in &prepared.kept {
            assert_eq!(&decrypt(&engine, blob).unwrap(), text, "{place}");
        }
        assert!(decrypt(&engine, &prepared.lost).is_err(), "{place}");
        engine.tick().unwrap();
        prepared.check_done(&engine, &place);
        engine.shutdown().unwrap();
        drop(engine);
        let engine = prepared.host.open().unwrap();
        prepared.check_done(&engine, &place);
        drop(engine);
        prepared.host.put_back(&before);
        assert!(
            prepared.host.open().is_err(),
            "{place}: the store from before opens"
        );
        blown
    });
}

#[test]
fn a_failure_that_passes_is_made_up_for_without_a_restart() {
    at_every_effect(|effect, after| {
        let place = format!("effect {effect}, done all the same: {after}");
        let prepared = prepare();
        let fuse = Fuse::new(effect, after, false);
        let engine = prepared.engine(&fuse);
        let result = engine.tick();
        let blown = fuse.blown.load(Ordering::SeqCst);
        assert_eq!(result.is_err(), blown, "{place}: {result:?}");
        fuse.disarm();
        // Life goes on in between, and the next tick finds its way.
        let made = create_key(&engine);
        let blob = encrypt(&engine, &made, b"between");
        engine.tick().unwrap_or_else(|e| panic!("{place}: {e}"));
        prepared.check_done(&engine, &place);
        assert_eq!(decrypt(&engine, &blob).unwrap(), b"between", "{place}");
        drop(engine);
        let engine = prepared
            .host
            .open()
            .unwrap_or_else(|e| panic!("{place}: {e}"));
        prepared.check_done(&engine, &place);
        assert_eq!(decrypt(&engine, &blob).unwrap(), b"between", "{place}");
        blown
    });
}
