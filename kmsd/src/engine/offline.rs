//! A copy of a store, opened to be read only: for rescue, where no kmsd runs.
//!
//! Nothing is written but what was read, for the audit log of this host's kmsd: not the store, not the TPM's counter. So nothing that a request changes can be asked for, and a
//! store that is older than the counter says is opened too, if the recovery key is given.

use std::path::Path;
use std::sync::Arc;

use kms_api::{ApiError, Caller, ErrorCode, MemoryInfo, Request, Response, SealerInfo};
use kms_core::audit::{Actor, Record};
use kms_core::kms::{HostStatus, Settings, World};
use kms_core::storage::Storage as _;
use kms_core::{
    Basis, Clock, DomainKeys, Handled, KeyId, Kms, LocalProvider, Now, Outcome, Snapshot,
    SystemEntropy, Verdict,
};
use kms_crypto::RecoveryPrivateKey;
use kms_seal::{Credential, Enrollment, RootSealer, check_generation};
use parking_lot::RwLock;

use super::writer::verified;
use super::{EngineError, OfflineLog};
use crate::service::{Entered, ErrorReply, Reply, Service};
use crate::storage::{CATALOGUE, SqliteStorage};
use crate::uuids;

/// What opens the store.
pub enum Opener {
    /// The TPM (or software key) it is sealed to. The store must be the newest one.
    Sealer(Box<dyn RootSealer>, Credential),
    /// The recovery key. Whether the store is the newest one is not known.
    Recovery(RecoveryPrivateKey),
}

/// A store that answers `GetPolicy` and `Decrypt`, and nothing else.
pub struct Offline {
    kms: Kms,
    domain: Arc<RwLock<DomainKeys>>,
    provider: LocalProvider,
    clock: Arc<dyn Clock>,
    host: HostStatus,
    log: Option<OfflineLog>,
}

impl Offline {
    /// Opens the catalogue in `copy`, a directory that is this process's alone; `directory` is where it was copied from.
    ///
    /// # Errors
    /// [`EngineError`], each with a next step.
    pub fn open(
        copy: &Path,
        directory: &Path,
        opener: Opener,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, EngineError> {
        let mut storage = SqliteStorage::open(&copy.join(CATALOGUE))?;
        let (revision, rows) = storage.load()?;
        let snapshot = Snapshot::from_rows(&rows)?;
        if snapshot.meta().revision != revision {
            return Err(EngineError::Tampered(
                "its revision does not fit its rows".to_owned(),
            ));
        }
        let mut domain = DomainKeys::new(snapshot.meta());
        match opener {
            Opener::Recovery(key) => {
                for row in snapshot.domains() {
                    domain
                        .open_as_recovery(row, &key)
                        .map_err(|_| EngineError::WrongRecoveryKey(directory.to_owned()))?;
                }
            }
            Opener::Sealer(mut sealer, credential) => {
                let enrollment = Enrollment::from_json(snapshot.enrollment())?;
                let kek = sealer.unseal(&enrollment, &credential)?;
                for row in snapshot.domains() {
                    domain.open_as_host(row, kek.key())?;
                }
                check_generation(snapshot.meta().generation, sealer.counter(&enrollment)?)?;
            }
        }
        verified(&rows, &snapshot, domain.mac_key(snapshot.meta().domain)?)?;
        let domain = Arc::new(RwLock::new(domain));
        Ok(Self {
            provider: LocalProvider::new(Arc::clone(&domain)),
            kms: Kms::new(snapshot),
            domain,
            host: HostStatus {
                version: env!("CARGO_PKG_VERSION").to_owned(),
                started_ms: clock.read().wall_ms,
                sealer: SealerInfo {
                    kind: String::new(),
                    device: String::new(),
                    manufacturer: None,
                    warnings: Vec::new(),
                },
                memory: MemoryInfo {
                    locked_bytes: 0,
                    unlocked_bytes: 0,
                },
                warnings: Vec::new(),
                settings: Settings::default(),
            },
            clock,
            log: None,
        })
    }

    /// Has everything that is read recorded, beginning with `opening`: where the store is and what opened it.
    #[must_use]
    pub fn recorded(mut self, log: OfflineLog, opening: Record) -> Self {
        log.append(&opening);
        self.log = Some(log);
        self
    }

    /// Records what was asked and answered, whom ever it is told to.
    fn record(
        &self,
        id: uuid::Uuid,
        request: &Request,
        (keys, result): (&[Option<KeyId>], Result<&Response, &ApiError>),
    ) {
        let Some(log) = &self.log else {
            return;
        };
        let meta = self.kms.snapshot().meta();
        let actor = Actor {
            arn: format!("arn:aws:iam::{}:root", meta.scope.account),
            gid: Some(nix::unistd::getegid().as_raw()),
            pid: Some(std::process::id()),
            role: "root".to_owned(),
            uid: Some(nix::unistd::geteuid().as_raw()),
            ..Actor::default()
        };
        let mut record = Record::request(
            uuids::text(uuids::draw()),
            uuids::text(id),
            self.clock.read().wall_ms,
            request,
            Arc::new(actor),
        );
        let keys = keys.iter().flatten();
        let keys = keys.map(|key| self.kms.snapshot().arn(*key));
        let verdict = Verdict::Allowed(Basis::Internal);
        record.decided(&verdict, keys.collect(), meta.authorization_epoch);
        record.answered(result);
        log.append(&record);
    }

    fn evaluate(&self, request: &Request, caller: &Caller) -> Handled {
        let reading = self.clock.read();
        let elapsed = self.kms.snapshot().meta().elapsed.advanced(&reading);
        let world = World {
            now: Now {
                wall_ms: reading.wall_ms,
                elapsed_ms: elapsed.total_ms,
            },
            entropy: &SystemEntropy,
            domain: &self.domain.read(),
            host: &self.host,
            made: None,
        };
        self.kms.handle(request, caller, &world)
    }
}

impl Service for Offline {
    async fn call(
        &self,
        id: uuid::Uuid,
        request: Request,
        caller: Caller,
        _: Entered,
    ) -> Result<Reply, ErrorReply> {
        // Whoever could open the store, with its TPM or the recovery key, has every key in it: policies protect nothing
        // here, and must not keep anybody from rescuing files. Others get nothing from this process.
        if caller.uid != nix::unistd::geteuid().as_raw() {
            return Err(ApiError::new(
                ErrorCode::AccessDenied,
                "This kmsd answers only the user who started it.",
            )
            .into());
        }
        let caller = Caller::internal(&self.kms.snapshot().meta().scope.account);
        let Handled { outcome, keys, .. } = match &request {
            Request::GetPolicy(_) | Request::Decrypt(_) => self.evaluate(&request, &caller),
            _ => {
                return Err(ApiError::new(
                    ErrorCode::AccessDenied,
                    "This kmsd was started to read a store only.",
                )
                .into());
            }
        };
        let result = match outcome {
            Ok(Outcome::Reply(response)) => Ok(*response),
            Ok(Outcome::Use(usage)) => usage.run(&self.provider).await,
            Ok(
                Outcome::Write(_)
                | Outcome::MakePair(_)
                | Outcome::Unwrap(_)
                | Outcome::Lease(_)
                | Outcome::Host,
            ) => Err(ApiError::bare(ErrorCode::Internal)),
            Err(error) => Err(error),
        };
        self.record(id, &request, (&keys, result.as_ref()));
        Ok(result?.into())
    }
}
