//! Policy keys from a kmsd that answers, refuses, is down, and comes back: over a real socket, with a
//! server that says what the test wants.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test that cannot go on has failed"
)]

#[path = "support/kmsd.rs"]
mod kmsd;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use kms_api::client::Client;
use kms_api::{ErrorCode, ResourceId};
use kms_format::volume::{PolicyRecord, VolumeRecord};
use kms_format::{PolicyId, VolumeId};
use kmsfs::volume::kmsd::KmsdKeys;
use kmsfs::volume::{Keys, WOULD_WAIT, never_wait_here};

use kmsd::{ARN, FakeKmsd, Mood};

struct World {
    _folder: tempfile::TempDir,
    server: Arc<FakeKmsd>,
    keys: Arc<KmsdKeys>,
    volume: VolumeId,
    policy: PolicyId,
}

fn world(limit: Duration) -> World {
    let folder = tempfile::tempdir().unwrap();
    let server = FakeKmsd::start(folder.path().join("kmsd.sock"));
    let (volume, policy) = (VolumeId::random().unwrap(), PolicyId::random().unwrap());
    let mut record = VolumeRecord::new(volume, "");
    record.policies.push(PolicyRecord {
        policy,
        generation: 1,
        key_arn: "what the lower tree claims".into(),
        content_mode: kms_format::ContentMode::Xts,
        data_key: vec![1, 2, 3],
    });
    let keys = KmsdKeys::new(Client::new(&server.socket), record, limit);
    World {
        _folder: folder,
        server,
        keys: Arc::new(keys),
        volume,
        policy,
    }
}

impl World {
    fn ask(&self) -> Result<(), i32> {
        self.keys
            .policy_key(&self.volume, &self.policy, 1)
            .map(drop)
            .map_err(|errno| errno.raw())
    }
}

#[test]
fn many_callers_ask_once_and_the_registry_decides() {
    let world = world(Duration::from_secs(5));
    std::thread::scope(|scope| {
        for _ in 0..16 {
            scope.spawn(|| assert_eq!(world.ask(), Ok(())));
        }
    });
    assert_eq!(world.server.policies_asked.load(Ordering::SeqCst), 1);
    let unlocked = world.keys.unlocked();
    assert_eq!(unlocked.first().unwrap().key_arn, ARN);
    let contexts = world.server.contexts.lock();
    let context = contexts.first().unwrap();
    assert_eq!(context.get("kmsfs:volume"), Some(&world.volume.to_string()));
    assert_eq!(context.get("kmsfs:policy"), Some(&world.policy.to_string()));
    assert_eq!(context.get("kmsfs:generation"), Some(&"1".to_owned()));
}

#[test]
fn a_refusal_is_enokey_says_why_and_ends_when_the_key_is_enabled() {
    let world = world(Duration::from_secs(5));
    *world.server.mood.lock() = Mood::Refuse(ErrorCode::Disabled);
    for _ in 0..50 {
        assert_eq!(world.ask(), Err(libc::ENOKEY));
    }
    let asked = world.server.policies_asked.load(Ordering::SeqCst);
    assert!(asked < 5, "50 lookups asked kmsd {asked} times");
    let refusal = world.keys.refusal(&world.policy).unwrap().to_string();
    for part in [
        world.policy.to_string().as_str(),
        "DisabledException",
        "kmsctl key enable",
    ] {
        assert!(refusal.contains(part), "{refusal}");
    }
    *world.server.mood.lock() = Mood::Answer;
    let deadline = Instant::now() + Duration::from_secs(5);
    while world.ask().is_err() {
        assert!(Instant::now() < deadline, "still refused");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn another_generation_or_volume_is_refused() {
    let world = world(Duration::from_secs(5));
    *world.server.mood.lock() = Mood::Generation(2);
    assert_eq!(world.ask(), Err(libc::ENOKEY));
    let refusal = world.keys.refusal(&world.policy).unwrap().to_string();
    assert!(
        refusal.contains("generation 1 of the policy key, which was ended; the registry is at 2"),
        "{refusal}"
    );
    // The registry is the older one.
    *world.server.mood.lock() = Mood::Generation(1);
    let refused = world.keys.policy_key(&world.volume, &world.policy, 3);
    assert_eq!(
        refused.map(drop).map_err(|errno| errno.raw()),
        Err(libc::ENOKEY)
    );
    let refusal = world.keys.unlock(&world.policy, 3).map(drop).unwrap_err();
    let refusal = refusal.to_string();
    assert!(
        refusal.contains("generation 3 of the policy key, which the registry never had")
            && refusal.contains("store of kmsd is older"),
        "{refusal}"
    );
    let other = VolumeId::random().unwrap();
    let refused = world.keys.policy_key(&other, &world.policy, 1);
    assert_eq!(
        refused.map(drop).map_err(|errno| errno.raw()),
        Err(libc::ENOKEY)
    );
    let unknown = PolicyId::random().unwrap();
    let refused = world.keys.policy_key(&world.volume, &unknown, 1);
    assert_eq!(
        refused.map(drop).map_err(|errno| errno.raw()),
        Err(libc::ENOKEY)
    );
}

#[test]
fn an_absent_kmsd_is_waited_for_up_to_the_limit() {
    let world = world(Duration::from_millis(300));
    world.server.disappear();
    let begin = Instant::now();
    assert_eq!(world.ask(), Err(libc::ETIMEDOUT));
    assert!(begin.elapsed() >= Duration::from_millis(300));
    assert!(begin.elapsed() < Duration::from_secs(5));
    world.server.listen();
    let deadline = Instant::now() + Duration::from_secs(5);
    while world.ask().is_err() {
        assert!(Instant::now() < deadline, "did not recover");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_kmsd_that_comes_back_is_noticed_while_waiting() {
    let world = world(Duration::from_secs(20));
    world.server.disappear();
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| world.ask());
        std::thread::sleep(Duration::from_millis(150));
        assert!(!waiting.is_finished());
        world.server.listen();
        assert_eq!(waiting.join().unwrap(), Ok(()));
    });
}

#[test]
fn a_request_thread_never_waits() {
    let world = world(Duration::from_secs(5));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            never_wait_here();
            assert_eq!(world.ask(), Err(WOULD_WAIT.raw()));
        });
    });
    assert_eq!(world.server.policies_asked.load(Ordering::SeqCst), 0);
    assert_eq!(world.ask(), Ok(()));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            never_wait_here();
            assert_eq!(world.ask(), Ok(()));
        });
    });
}

#[test]
fn ids_on_the_wire_are_those_of_the_format() {
    let volume = VolumeId::random().unwrap();
    assert_eq!(volume.to_string(), ResourceId(volume.0).to_string());
}
