//! The state machine over memory, driven through the wire's JSON.

mod access;
mod access_keys;
mod aliases;
mod approvals;
mod asymmetric;
mod crypto;
mod decisions;
mod destruction;
mod epochs;
mod granted;
mod grants;
mod imports;
mod keys;
mod last_use;
mod markers;
mod multi_region;
mod places;
mod possible;
mod programs;
mod quotas;
mod registry;
mod service_keys;
mod states;
mod table;
mod transfers;

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use kms_api::{MemoryInfo, Request, SealerInfo};
use kms_crypto::{Key, RecoveryPrivateKey};
use parking_lot::RwLock;
use serde_json::{Value, json};

use super::*;
use crate::clock::Elapsed;
use crate::ids::Scope;
use crate::provider::{KeyProvider, LocalProvider};
use crate::rows::{Bytes, FORMAT, MetaRow, Row};
use crate::{DomainKeys, SystemEntropy};

/// A store in memory: commits by applying.
struct Bench {
    kms: Kms,
    domain: Arc<RwLock<DomainKeys>>,
    provider: LocalProvider,
    host: HostStatus,
    now: Now,
    kek: Key<32>,
    tightenings: u32,
}

const START: Now = Now {
    wall_ms: 1_700_000_000_000,
    elapsed_ms: 5_000,
};

impl Bench {
    fn new() -> Self {
        Self::of("000000000000", "local-host-1")
    }

    fn of(account: &str, region: &str) -> Self {
        let recovery = RecoveryPrivateKey::generate()
            .unwrap()
            .public_key()
            .unwrap();
        let meta = MetaRow {
            format: FORMAT,
            store_id: "0123456789abcdef0123456789abcdef".into(),
            scope: Scope::new(account, region).unwrap(),
            created_ms: START.wall_ms,
            revision: 1,
            generation: 1,
            unanchored: 0,
            deletion_epoch: 0,
            domain: 1,
            epoch_change: None,
            recovery_public: Bytes(recovery.as_bytes().to_vec()),
            elapsed: Elapsed::default(),
            authorization_epoch: 0,
            audit_head: None,
            revoked: Vec::new(),
            epoch_owed: false,
        };
        let kek = Key::random().unwrap();
        let mut domain = DomainKeys::new(&meta);
        domain.draw(1).unwrap();
        let row = domain.row(1, START.wall_ms, &kek, &recovery).unwrap();
        let mut snapshot = Snapshot::new(meta, b"enrolled".to_vec());
        snapshot.apply(&Change::Put(Row::Domain(row)));
        let domain = Arc::new(RwLock::new(domain));
        Self {
            kms: Kms::new(snapshot),
            provider: LocalProvider::new(Arc::clone(&domain)),
            domain,
            host: HostStatus {
                version: "test".into(),
                started_ms: 0,
                sealer: SealerInfo {
                    kind: "none".into(),
                    device: String::new(),
                    manufacturer: None,
                    warnings: vec![],
                },
                memory: MemoryInfo {
                    locked_bytes: 0,
                    unlocked_bytes: 0,
                },
                warnings: vec![],
                settings: Settings::default(),
            },
            now: START,
            kek,
            tightenings: 0,
        }
    }

    fn pass_days(&mut self, days: u64) {
        let due = crate::clock::Due::after(self.now, days * crate::clock::DAY_MS);
        self.now = Now {
            wall_ms: due.wall_ms,
            elapsed_ms: due.elapsed_ms,
        };
    }

    fn world_call<T>(&self, run: impl FnOnce(&Kms, &World<'_>) -> T) -> T {
        let domain = self.domain.read();
        let world = World {
            now: self.now,
            entropy: &SystemEntropy,
            domain: &domain,
            host: &self.host,
            made: None,
        };
        run(&self.kms, &world)
    }

    /// A request as JSON; the answer as JSON, or the error as `Code: text`.
    fn call(&mut self, operation: &str, body: Value) -> Result<Value, String> {
        self.call_as(&Caller::internal("000000000000"), operation, body)
    }

    fn decode(operation: &str, body: &Value) -> Request {
        let known = Request::OPERATIONS.iter();
        let (prefix, _) = known.clone().find(|(_, name)| *name == operation).unwrap();
        Request::decode(
            &format!("{prefix}.{operation}"),
            body.to_string().as_bytes(),
        )
        .unwrap()
    }

    /// The same for somebody.
    fn call_as(&mut self, caller: &Caller, operation: &str, body: Value) -> Result<Value, String> {
        let prefix = Request::OPERATIONS
            .iter()
            .find(|(_, name)| *name == operation)
            .unwrap()
            .0;
        let target = format!("{prefix}.{operation}");
        let request =
            Request::decode(&target, body.to_string().as_bytes()).map_err(|e| e.to_string())?;
        let mut outcome = self.world_call(|kms, world| kms.handle(&request, caller, world).outcome);
        let made = match &outcome {
            Ok(Outcome::MakePair(spec)) => Some(Made::Pair(KeyPair::generate(*spec).unwrap())),
            Ok(Outcome::Unwrap(wrapped)) => {
                Some(Made::Imported(wrapped.open().map_err(|e| e.to_string())?))
            }
            _ => None,
        };
        if made.is_some() {
            outcome = self.world_call(|kms, world| {
                let made = made.as_ref();
                kms.handle(&request, caller, &World { made, ..*world })
                    .outcome
            });
        }
        let response = match outcome.map_err(|e| e.to_string())? {
            Outcome::Reply(response) => *response,
            Outcome::Use(usage) => ready(usage.run(&self.provider)).map_err(|e| e.to_string())?,
            Outcome::Write(mut write) => {
                let refusal = write.refusal.take();
                let response = self.commit(*write);
                if let Some(error) = refusal {
                    return Err(error.to_string());
                }
                response
            }
            Outcome::MakePair(_) | Outcome::Unwrap(_) => panic!("the pair was made"),
            Outcome::Lease(_) | Outcome::Host => panic!("only the engine has leases and a log"),
        };
        assert_eq!(response.operation(), operation);
        let body = response.to_json().unwrap();
        Ok(if body.is_empty() {
            json!({})
        } else {
            serde_json::from_slice(&body).unwrap()
        })
    }

    fn commit(&mut self, write: Write) -> Response {
        assert_eq!(write.expected, self.kms.snapshot().meta().revision);
        self.tightenings += u32::from(write.tightening);
        self.apply(write.changes);
        for effect in write.effects {
            let Effect::Forget(key) = effect else {
                continue;
            };
            self.provider.forget(key);
        }
        write.response
    }

    fn apply(&mut self, mut changes: Vec<Change>) {
        let given = changes.iter().find_map(|change| match change {
            Change::Put(Row::Meta(meta)) => Some((**meta).clone()),
            _ => None,
        });
        let mut meta = given.unwrap_or_else(|| self.kms.snapshot().meta().clone());
        meta.revision += 1;
        changes.push(Change::Put(Row::Meta(Box::new(meta))));
        // What is applied is what a store would give back.
        for change in &changes {
            if let Change::Put(row) = change {
                assert_eq!(Row::decode(&row.encode().unwrap()).unwrap(), *row);
            }
        }
        self.kms.apply(&changes);
    }

    fn create_key(&mut self) -> String {
        self.create(json!({}))
    }

    fn create(&mut self, body: Value) -> String {
        let made = self.call("CreateKey", body).unwrap();
        made["KeyMetadata"]["KeyId"].as_str().unwrap().to_owned()
    }

    fn encrypt(&mut self, key: &str, text: &[u8], context: Value) -> String {
        let plaintext = data_encoding::BASE64.encode(text);
        let body = json!({"KeyId": key, "Plaintext": plaintext, "EncryptionContext": context});
        self.call("Encrypt", body).unwrap()["CiphertextBlob"]
            .as_str()
            .unwrap()
            .to_owned()
    }

    fn decrypt(&mut self, blob: &str, context: Value) -> Result<Vec<u8>, String> {
        let body = json!({"CiphertextBlob": blob, "EncryptionContext": context});
        let reply = self.call("Decrypt", body)?;
        Ok(data_encoding::BASE64
            .decode(reply["Plaintext"].as_str().unwrap().as_bytes())
            .unwrap())
    }

    fn state(&mut self, key: &str) -> String {
        let reply = self.call("DescribeKey", json!({"KeyId": key})).unwrap();
        reply["KeyMetadata"]["KeyState"]
            .as_str()
            .unwrap()
            .to_owned()
    }

    fn material(&mut self, key: &str) -> String {
        let reply = self.call("DescribeKey", json!({"KeyId": key})).unwrap();
        reply["KeyMetadata"]["CurrentKeyMaterialId"]
            .as_str()
            .unwrap()
            .to_owned()
    }
}

fn arn(id: &str) -> String {
    format!("arn:aws:kms:local-host-1:000000000000:key/{id}")
}

/// A local provider never leaves anything pending.
fn ready<F: Future>(future: F) -> F::Output {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => output,
        Poll::Pending => panic!("pending"),
    }
}

const NOWHERE: &str = "00000000-0000-4000-8000-000000000000";
