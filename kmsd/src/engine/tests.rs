//! The engine over real files and real sealers, with a clock of its own.

mod audit;
mod backup;
mod crash;
mod destruction;
mod faults;
mod grants;
mod group;
mod imports;
mod leases;
mod life;
mod pairs;
mod policies;
mod rates;
mod rollback;
mod scale;
mod volume;

use std::path::{Path, PathBuf};

use data_encoding::BASE64;
use kms_core::clock::{DAY_MS, Reading};
use kms_core::storage::Storage;
use kms_crypto::RecoveryPrivateKey;
use kms_seal::{Credential, Profile, RootSealer, SealerConfig, SealerKind};
use serde_json::{Value, json};

use super::*;
use crate::storage::{CATALOGUE, SqliteStorage};

#[derive(Clone)]
struct TestClock(Arc<Mutex<Reading>>);

impl TestClock {
    fn new() -> Self {
        let boot = "test".to_owned();
        Self(Arc::new(Mutex::new(Reading {
            wall_ms: 1_700_000_000_000,
            uptime_ms: 0,
            boot,
        })))
    }

    fn pass_days(&self, days: u64) {
        let mut reading = self.0.lock();
        reading.wall_ms += i64::try_from(days * DAY_MS).unwrap();
        reading.uptime_ms += days * DAY_MS;
    }
}

impl Clock for TestClock {
    fn read(&self) -> Reading {
        self.0.lock().clone()
    }
}

/// A store directory, the sealer's files beside it, a clock and the keys that open it.
struct Host {
    root: tempfile::TempDir,
    seal: SealerConfig,
    credential: Credential,
    recovery: RecoveryPrivateKey,
    clock: TestClock,
}

impl Host {
    fn software() -> Self {
        let root = tempfile::tempdir().unwrap();
        let seal = SealerConfig {
            kind: SealerKind::Software,
            key_file: root.path().join("seal.key"),
            ..SealerConfig::default()
        };
        Self::with(root, seal)
    }

    fn with(root: tempfile::TempDir, seal: SealerConfig) -> Self {
        let host = Self {
            root,
            seal,
            credential: Credential::random().unwrap(),
            recovery: RecoveryPrivateKey::generate().unwrap(),
            clock: TestClock::new(),
        };
        host.enroll().unwrap();
        host
    }

    fn store(&self) -> PathBuf {
        self.root.path().join("store")
    }

    fn config(&self) -> EngineConfig {
        self.config_of(&self.store())
    }

    fn config_of(&self, store: &Path) -> EngineConfig {
        let mut config = EngineConfig {
            anchor_interval: Duration::ZERO,
            ..EngineConfig::new(store, "000000000000", "local-host-1")
        };
        if let Some(audit) = &mut config.audit {
            // Whatever room the disk of the tests has.
            audit.warn_percent = [101, 101];
            audit.min_free_bytes = 0;
        }
        config
    }

    fn sealer(&self) -> Box<dyn RootSealer> {
        kms_seal::open(&self.seal).unwrap()
    }

    fn enroll(&self) -> Result<EnrollReport, EngineError> {
        enroll(
            &self.config(),
            self.sealer().as_mut(),
            Profile::Machine,
            &self.credential,
            &self.recovery,
            &self.clock,
        )
    }

    fn open(&self) -> Result<Engine, EngineError> {
        Engine::open(
            self.config(),
            self.sealer(),
            &self.credential,
            Arc::new(self.clock.clone()),
        )
    }

    fn storage(&self) -> Box<dyn Storage> {
        Box::new(SqliteStorage::open(&self.store().join(CATALOGUE)).unwrap())
    }

    fn open_with(
        &self,
        storage: Box<dyn Storage>,
        sealer: Box<dyn RootSealer>,
    ) -> Result<Engine, EngineError> {
        let clock = Arc::new(self.clock.clone());
        let observe = |_: &AuditLog, _: &Events, _| {};
        Engine::open_with(
            self.config(),
            storage,
            sealer,
            &self.credential,
            clock,
            observe,
        )
    }

    fn accept(&self, recovery: &RecoveryPrivateKey) -> Result<RollbackReport, EngineError> {
        let clock = Arc::new(self.clock.clone());
        accept_rollback(
            &self.config(),
            self.sealer(),
            &self.credential,
            recovery,
            clock,
        )
    }

    /// Copies the whole store directory aside.
    fn copy_store(&self, name: &str) -> PathBuf {
        let to = self.root.path().join(name);
        copy_dir(&self.store(), &to);
        to
    }

    /// Puts a copy in the place of the store.
    fn put_back(&self, copy: &Path) {
        std::fs::remove_dir_all(self.store()).unwrap();
        copy_dir(copy, &self.store());
    }
}

fn copy_dir(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_dir() {
            copy_dir(&entry.path(), &to.join(entry.file_name()));
        } else {
            std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
        }
    }
}

/// A request as JSON; the answer as JSON, or the error as `Code: text`.
fn call(engine: &Engine, operation: &str, body: Value) -> Result<Value, String> {
    let (prefix, _) = Request::OPERATIONS
        .iter()
        .find(|(_, name)| *name == operation)
        .unwrap();
    let body = body.to_string();
    let request = Request::decode(&format!("{prefix}.{operation}"), body.as_bytes())
        .map_err(|e| e.to_string())?;
    let response = engine
        .call_blocking(&request, &Caller::internal("000000000000"))
        .map_err(|e| e.to_string())?;
    let body = response.to_json().unwrap();
    Ok(if body.is_empty() {
        json!({})
    } else {
        serde_json::from_slice(&body).unwrap()
    })
}

fn create_key(engine: &Engine) -> String {
    let made = call(engine, "CreateKey", json!({})).unwrap();
    made["KeyMetadata"]["KeyId"].as_str().unwrap().to_owned()
}

fn encrypt(engine: &Engine, key: &str, text: &[u8]) -> String {
    let body = json!({"KeyId": key, "Plaintext": BASE64.encode(text)});
    call(engine, "Encrypt", body).unwrap()["CiphertextBlob"]
        .as_str()
        .unwrap()
        .to_owned()
}

fn decrypt(engine: &Engine, blob: &str) -> Result<Vec<u8>, String> {
    let reply = call(engine, "Decrypt", json!({"CiphertextBlob": blob}))?;
    Ok(BASE64
        .decode(reply["Plaintext"].as_str().unwrap().as_bytes())
        .unwrap())
}

fn schedule(engine: &Engine, key: &str) {
    let body = json!({"KeyId": key, "PendingWindowInDays": 7});
    call(engine, "ScheduleKeyDeletion", body).unwrap();
}

fn meta(engine: &Engine) -> kms_core::rows::MetaRow {
    engine.shared.kms.read().snapshot().meta().clone()
}
