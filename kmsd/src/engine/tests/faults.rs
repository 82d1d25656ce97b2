//! Storages and sealers that fail at a chosen moment or answer late.

use std::sync::atomic::{AtomicBool, AtomicI64};
use std::sync::mpsc;

use kms_core::rows::RawRow;
use kms_core::storage::{RawChange, StorageError};
use kms_seal::{Checkpointer, Enrollment, HostKek, PcrState, SealError, SealStatus};

use super::*;

/// Counts effects down; the one at zero fails.
pub(super) struct Fuse {
    left: AtomicI64,
    /// Whether the failing effect happens all the same (a reply that got lost).
    after: bool,
    /// Whether everything later fails as well (the process is dead).
    dead: bool,
    pub(super) blown: AtomicBool,
}

impl Fuse {
    pub(super) fn new(after_effects: i64, after: bool, dead: bool) -> Arc<Self> {
        let left = AtomicI64::new(after_effects);
        Arc::new(Self {
            left,
            after,
            dead,
            blown: AtomicBool::new(false),
        })
    }

    /// The effect after `after_effects` more fails.
    pub(super) fn arm(&self, after_effects: i64) {
        self.left.store(after_effects, Ordering::SeqCst);
    }

    /// Nothing fails from now on.
    pub(super) fn disarm(&self) {
        self.left.store(-1, Ordering::SeqCst);
    }

    fn effect<T, E>(
        &self,
        run: impl FnOnce() -> Result<T, E>,
        error: impl Fn() -> E,
    ) -> Result<T, E> {
        if self.dead && self.blown.load(Ordering::SeqCst) {
            return Err(error());
        }
        if self.left.fetch_sub(1, Ordering::SeqCst) != 0 {
            return run();
        }
        self.blown.store(true, Ordering::SeqCst);
        if self.after {
            run()?;
        }
        Err(error())
    }
}

pub(super) struct FailingStorage(pub(super) Box<dyn Storage>, pub(super) Arc<Fuse>);

fn io() -> StorageError {
    StorageError::Io("injected".into())
}

impl Storage for FailingStorage {
    fn load(&mut self) -> Result<(u64, Vec<RawRow>), StorageError> {
        self.0.load()
    }
    fn commit(&mut self, expected: u64, changes: &[RawChange]) -> Result<(), StorageError> {
        let Self(inner, fuse) = self;
        fuse.effect(|| inner.commit(expected, changes), io)
    }
    fn scrub(&mut self) -> Result<(), StorageError> {
        let Self(inner, fuse) = self;
        fuse.effect(|| inner.scrub(), io)
    }
}

pub(super) struct FailingSealer(pub(super) Box<dyn RootSealer>, pub(super) Arc<Fuse>);

fn gone() -> SealError {
    SealError::NoDevice {
        device: "injected".into(),
        reason: "injected".into(),
    }
}

impl RootSealer for FailingSealer {
    fn status(&mut self) -> Result<SealStatus, SealError> {
        self.0.status()
    }
    fn check(&mut self, enrollment: &Enrollment) -> Result<(), SealError> {
        self.0.check(enrollment)
    }
    fn enroll(
        &mut self,
        profile: Profile,
        credential: &Credential,
    ) -> Result<(Enrollment, HostKek), SealError> {
        self.0.enroll(profile, credential)
    }
    fn unseal(&mut self, e: &Enrollment, credential: &Credential) -> Result<HostKek, SealError> {
        self.0.unseal(e, credential)
    }
    fn counter(&mut self, e: &Enrollment) -> Result<u64, SealError> {
        self.0.counter(e)
    }
    fn increment(&mut self, e: &Enrollment) -> Result<u64, SealError> {
        let Self(inner, fuse) = self;
        fuse.effect(|| inner.increment(e), gone)
    }
    fn stage_epoch(
        &mut self,
        e: &Enrollment,
        credential: &Credential,
    ) -> Result<(Enrollment, HostKek), SealError> {
        let Self(inner, fuse) = self;
        fuse.effect(|| inner.stage_epoch(e, credential), gone)
    }
    fn commit_epoch(&mut self, e: &Enrollment) -> Result<Enrollment, SealError> {
        let Self(inner, fuse) = self;
        fuse.effect(|| inner.commit_epoch(e), gone)
    }
    fn approve(
        &mut self,
        e: &Enrollment,
        credential: &Credential,
        state: &PcrState,
    ) -> Result<Enrollment, SealError> {
        self.0.approve(e, credential, state)
    }
    fn remove(&mut self, e: &Enrollment) -> Result<(), SealError> {
        self.0.remove(e)
    }
    fn prepare_checkpoints(&mut self, e: &Enrollment) -> Result<Enrollment, SealError> {
        self.0.prepare_checkpoints(e)
    }
    fn checkpointer(&self, e: &Enrollment) -> Result<Box<dyn Checkpointer>, SealError> {
        self.0.checkpointer(e)
    }
}

#[test]
fn nobody_is_told_done_before_the_counter_has_moved() {
    let host = Host::software();
    let never = Fuse::new(i64::MAX, false, false);
    let fuse = Fuse::new(0, false, false);
    let engine = host
        .open_with(
            Box::new(FailingStorage(host.storage(), never)),
            Box::new(FailingSealer(host.sealer(), Arc::clone(&fuse))),
        )
        .unwrap();
    let key = create_key(&engine);
    let disable = || call(&engine, "DisableKey", json!({"KeyId": key}));
    let error = disable().unwrap_err();
    assert!(
        error.starts_with("DependencyTimeoutException: The change is in force"),
        "{error}"
    );
    let body = json!({"KeyId": key, "Plaintext": "AAAA"});
    assert!(
        call(&engine, "Encrypt", body)
            .unwrap_err()
            .starts_with("DisabledException")
    );
    let counter = engine.shared.writer.lock().counter;
    assert_eq!(meta(&engine).generation, counter + 1);
    // Trying again finds the key disabled and still waits for the counter.
    fuse.left.store(0, Ordering::SeqCst);
    assert!(disable().unwrap_err().starts_with("DependencyTimeout"));
    disable().unwrap();
    assert_eq!(engine.shared.writer.lock().counter, counter + 1);
    disable().unwrap();
    assert_eq!(engine.shared.writer.lock().counter, counter + 1);
}

#[test]
fn a_commit_with_an_unknown_end_is_looked_up() {
    for happened in [false, true] {
        let host = Host::software();
        let fuse = Fuse::new(1, happened, false);
        let engine = host
            .open_with(
                Box::new(FailingStorage(host.storage(), fuse)),
                host.sealer(),
            )
            .unwrap();
        let first = create_key(&engine);
        let error = call(&engine, "CreateKey", json!({})).unwrap_err();
        assert!(error.starts_with("KMSInternalException"), "{error}");
        let third = create_key(&engine);
        let listed = call(&engine, "ListKeys", json!({})).unwrap();
        assert_eq!(
            listed["Keys"].as_array().unwrap().len(),
            if happened { 3 } else { 2 }
        );
        let blobs = [&first, &third].map(|key| encrypt(&engine, key, b"x"));
        engine.shutdown().unwrap();
        drop(engine);
        let engine = host.open().unwrap();
        assert!(blobs.iter().all(|blob| decrypt(&engine, blob).is_ok()));
    }
}

/// Blocks in `commit` until told to go on.
struct SlowStorage(
    Box<dyn Storage>,
    mpsc::Sender<()>,
    Mutex<mpsc::Receiver<()>>,
);

impl Storage for SlowStorage {
    fn load(&mut self) -> Result<(u64, Vec<RawRow>), StorageError> {
        self.0.load()
    }
    fn commit(&mut self, expected: u64, changes: &[RawChange]) -> Result<(), StorageError> {
        self.1.send(()).unwrap();
        self.2.lock().recv().unwrap();
        self.0.commit(expected, changes)
    }
    fn scrub(&mut self) -> Result<(), StorageError> {
        self.0.scrub()
    }
}

#[test]
fn readers_do_not_wait_for_a_writers_disk() {
    let host = Host::software();
    let engine = host.open().unwrap();
    let key = create_key(&engine);
    engine.shutdown().unwrap();
    drop(engine);
    let (entered, has_entered) = mpsc::channel();
    let (go_on, may_go_on) = mpsc::channel();
    let slow = SlowStorage(host.storage(), entered, Mutex::new(may_go_on));
    let engine = host.open_with(Box::new(slow), host.sealer()).unwrap();
    let blob = encrypt(&engine, &key, b"before");
    let writer = {
        let engine = engine.clone();
        std::thread::spawn(move || call(&engine, "DisableKey", json!({"KeyId": key})))
    };
    has_entered.recv().unwrap();
    // Whoever finds the key disabled in the moment after the commit must wait for the counter too.
    assert!(engine.shared.unproved.load(Ordering::SeqCst));
    // The writer stands in its commit: everything that reads is answered, by the old state.
    assert_eq!(decrypt(&engine, &blob).unwrap(), b"before");
    let status = engine.status().unwrap();
    assert_eq!(status.keys["Enabled"], 1);
    go_on.send(()).unwrap();
    writer.join().unwrap().unwrap();
    assert!(
        decrypt(&engine, &blob)
            .unwrap_err()
            .starts_with("DisabledException")
    );
}

#[tokio::test]
async fn many_at_once_get_their_own_answers() {
    let host = Host::software();
    let engine = host.open().unwrap();
    let caller = Caller::internal("000000000000");
    let mut tasks = tokio::task::JoinSet::new();
    for n in 0..24 {
        let (engine, caller) = (engine.clone(), caller.clone());
        tasks.spawn(async move {
            let create = Request::decode("TrentService.CreateKey", b"{}").unwrap();
            let Response::CreateKey(made) = engine
                .call(Uuid::new_v4(), create, caller.clone())
                .await
                .unwrap()
                .response
            else {
                panic!("CreateKey answers CreateKey");
            };
            let key = made.key_metadata.key_id;
            let body = json!({"KeyId": key, "Plaintext": BASE64.encode(&[n])}).to_string();
            let encrypt = Request::decode("TrentService.Encrypt", body.as_bytes()).unwrap();
            let Response::Encrypt(made) = engine
                .call(Uuid::new_v4(), encrypt, caller.clone())
                .await
                .unwrap()
                .response
            else {
                panic!("Encrypt answers Encrypt");
            };
            let body = json!({"CiphertextBlob": made.ciphertext_blob}).to_string();
            let decrypt = Request::decode("TrentService.Decrypt", body.as_bytes()).unwrap();
            let Response::Decrypt(opened) = engine
                .call(Uuid::new_v4(), decrypt, caller)
                .await
                .unwrap()
                .response
            else {
                panic!("Decrypt answers Decrypt");
            };
            assert_eq!(opened.plaintext.as_slice(), [n]);
            key
        });
    }
    let mut keys = tasks.join_all().await;
    keys.sort();
    keys.dedup();
    assert_eq!(keys.len(), 24);
}

#[test]
fn an_enrolment_whose_name_is_not_durable_leaves_nothing() {
    let root = tempfile::tempdir().unwrap();
    let seal = SealerConfig {
        kind: SealerKind::Software,
        key_file: root.path().join("seal.key"),
        ..SealerConfig::default()
    };
    let config = EngineConfig::new(root.path().join("store"), "000000000000", "local-host-1");
    let credential = Credential::random().unwrap();
    let recovery = RecoveryPrivateKey::generate().unwrap();
    let enroll = |sync: super::super::enroll::SyncDirectory<'_>| {
        super::super::enroll::enroll_with(
            &config,
            kms_seal::open(&seal).unwrap().as_mut(),
            Profile::Machine,
            &credential,
            &recovery,
            &TestClock::new(),
            sync,
        )
    };
    let error = enroll(&|_| Err(std::io::Error::other("injected"))).unwrap_err();
    assert!(matches!(error, EngineError::Io { .. }), "{error}");
    assert!(!config.directory.join(CATALOGUE).exists());
    enroll(&|_| Ok(())).unwrap();
    Engine::open(
        config.clone(),
        kms_seal::open(&seal).unwrap(),
        &credential,
        Arc::new(TestClock::new()),
    )
    .unwrap();
}
