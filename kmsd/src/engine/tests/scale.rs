//! Very many keys, and very many versions of one: as many as AWS KMS has at most in `make test-full`, fewer otherwise.
//! `make bench-full` prints what it measures on the way.

use std::collections::BTreeSet;

use kms_core::{Change, KeyId};
use rustix::time::{ClockId, clock_gettime};

use super::super::writer::Anchor;
use super::*;

/// Keys, and versions of one of them.
fn numbers() -> (usize, usize) {
    match std::env::var_os("KMS_TESTS_FULL") {
        Some(_) => (100_000, 10_000),
        None => (3_000, 500),
    }
}

/// Evaluates `ask` so many times and commits all of it at once.
fn commit(engine: &Engine, count: usize, ask: impl Fn(&Kms, &World<'_>) -> Vec<Change>) {
    let shared = &engine.shared;
    let mut all = Vec::new();
    for _ in 0..count {
        let mut kms = shared.kms.write();
        let changes = {
            let domain = shared.domain.read();
            let world = World {
                now: shared.now(&kms),
                entropy: &SystemEntropy,
                domain: &domain,
                host: &shared.host,
                made: None,
            };
            ask(&kms, &world)
        };
        // The next one builds on it.
        kms.apply(&changes);
        all.extend(changes);
    }
    let mut writer = shared.writer.lock();
    shared.commit(&mut writer, &all, Anchor::Soon).unwrap();
}

/// Processor time so far: of this thread, or of all.
fn spent(of: ClockId) -> Duration {
    let time = clock_gettime(of);
    Duration::try_from(time).unwrap()
}

/// Processor time that a data key takes, in microseconds, of each of some keys: the least of a few rounds in which they take
/// turns.
fn data_keys<const N: usize>(of: [(&Engine, &str); N]) -> [f64; N] {
    const ROUNDS: usize = 5;
    const CALLS: u32 = 300;
    let mut least = [f64::INFINITY; N];
    for _ in 0..ROUNDS {
        for ((engine, key), least) in of.iter().zip(&mut least) {
            let body = json!({"KeyId": key, "KeySpec": "AES_256"});
            let start = spent(ClockId::ThreadCPUTime);
            for _ in 0..CALLS {
                call(engine, "GenerateDataKey", body.clone()).unwrap();
            }
            let took = spent(ClockId::ThreadCPUTime) - start;
            *least = least.min(took.as_secs_f64() * 1e6 / f64::from(CALLS));
        }
    }
    least
}

fn pages(engine: &Engine, operation: &str, body: Value, members: &str) -> Vec<Value> {
    let mut all = Vec::new();
    let mut body = body;
    loop {
        let page = call(engine, operation, body.clone()).unwrap();
        let entries = page[members].as_array().unwrap();
        all.extend(entries.iter().cloned());
        if page["Truncated"] == false {
            return all;
        }
        assert_eq!(entries.len(), 1000, "a page that is not the last is full");
        body["Marker"] = page["NextMarker"].clone();
    }
}

#[test]
fn many_keys_and_many_versions_are_all_there_after_a_restart() {
    let (keys, versions) = numbers();
    let host = Host::software();
    let engine = host.open().unwrap();
    let old = create_key(&engine);
    let id: KeyId = old.parse().unwrap();
    let mut blobs = vec![encrypt(&engine, &old, b"version 1")];
    let create = Request::decode("TrentService.CreateKey", b"{}").unwrap();
    let caller = Caller::internal("000000000000");
    commit(&engine, keys - 1, |kms, world| {
        match kms.handle(&create, &caller, world).outcome {
            Ok(Outcome::Write(write)) => write.changes,
            _ => panic!("not a new key"),
        }
    });
    for half in 1..=2 {
        commit(&engine, versions / 2, |kms, world| {
            kms.rotate_automatically(id, world).unwrap().changes
        });
        let text = format!("half {half}");
        blobs.push(encrypt(&engine, &old, text.as_bytes()));
    }
    engine.shutdown().unwrap();
    drop(engine);

    let (start, before) = (Instant::now(), spent(ClockId::ProcessCPUTime));
    let engine = host.open().unwrap();
    let (opened, worked) = (start.elapsed(), spent(ClockId::ProcessCPUTime) - before);
    // Not a measurement: something hangs.
    assert!(opened < Duration::from_secs(300), "{opened:?}");
    let listed = pages(&engine, "ListKeys", json!({"Limit": 1000}), "Keys");
    let ids: Vec<&str> = listed
        .iter()
        .map(|key| key["KeyId"].as_str().unwrap())
        .collect();
    assert_eq!(ids.len(), keys);
    assert_eq!(ids.iter().collect::<BTreeSet<_>>().len(), keys);
    assert!(ids.is_sorted());
    assert_eq!(
        engine
            .shared
            .kms
            .read()
            .snapshot()
            .live_keys(kms_core::Place::HOME),
        keys
    );
    let body = json!({"KeyId": old, "Limit": 1000});
    let rotations = pages(&engine, "ListKeyRotations", body, "Rotations");
    assert_eq!(rotations.len(), versions / 2 * 2);
    for (blob, text) in blobs.iter().zip(["version 1", "half 1", "half 2"]) {
        assert_eq!(decrypt(&engine, blob).unwrap(), text.as_bytes());
    }
    for key in [ids[0], ids[keys / 2], ids[keys - 1]] {
        let body = json!({"KeyId": key, "KeySpec": "AES_256"});
        let made = call(&engine, "GenerateDataKey", body).unwrap();
        let blob = made["CiphertextBlob"].as_str().unwrap();
        let opened = decrypt(&engine, blob).unwrap();
        assert_eq!(BASE64.encode(&opened), made["Plaintext"]);
    }

    let empty_host = Host::software();
    let empty = empty_host.open().unwrap();
    let only = create_key(&empty);
    let [alone, versioned, last] =
        data_keys([(&empty, &only), (&engine, &old), (&engine, ids[keys - 1])]);
    eprintln!(
        "{keys} keys, {versions} versions of one of them: the store opens in {:.2} s, {:.2} s of processor time.\n\
         GenerateDataKey takes, processor time within kmsd: {alone:.1} µs in a store with one key; {versioned:.1} µs of the key \
         with {versions} versions, {last:.1} µs of another one.",
        opened.as_secs_f64(),
        worked.as_secs_f64()
    );

    // All of its versions go, and everything else is under another domain key.
    schedule(&engine, &old);
    host.clock.pass_days(8);
    engine.tick().unwrap();
    for blob in &blobs {
        assert!(decrypt(&engine, blob).is_err());
    }
    assert_eq!(engine.shared.kms.read().snapshot().materials(id).count(), 0);
    assert_eq!(
        engine
            .shared
            .kms
            .read()
            .snapshot()
            .live_keys(kms_core::Place::HOME),
        keys - 1
    );
    let other = if ids[0] == old { ids[1] } else { ids[0] };
    let blob = encrypt(&engine, other, b"x");
    assert_eq!(decrypt(&engine, &blob).unwrap(), b"x");
}
