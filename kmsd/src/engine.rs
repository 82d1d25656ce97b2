//! The engine: the state machine with its store, its sealer and its clock.
//!
//! Readers evaluate against the snapshot in memory and use cached key material: they wait for no
//! disk, no TPM and no writer's I/O. Writers take turns: evaluate, make durable, apply, and where
//! something is taken away from somebody advance the rollback counter, then reply.
//!
//! The counter's rules (generation of the store g, counter c): a tightening change commits with
//! g = c + 1 and increments before its reply; any other change leaves g alone and is *anchored* the
//! same way within [`EngineConfig::anchor_interval`] and at shutdown. At start g = c is the newest
//! store, g = c + 1 one whose increment a crash prevented (it is made up for), anything else is
//! refused.

mod approve;
mod block_on;
mod enroll;
mod error;
mod offline;
mod open;
mod status;
mod tick;
mod unenroll;
mod writer;

#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use kms_api::{ApiError, Caller, ErrorCode, GetStatusResponse, Request, Response};
use kms_core::kms::{HostStatus, World};
use kms_core::{Clock, DomainKeys, Kms, LocalProvider, Now, Outcome, SystemEntropy, Write};
use parking_lot::{Mutex, RwLock};

pub use approve::approve;
pub use enroll::{EnrollReport, RollbackReport, accept_rollback, enroll, recover};
pub use error::EngineError;
pub use offline::{Offline, Opener};
pub use unenroll::unenroll;
use writer::Writer;

/// Where the store is and what it is called.
#[derive(Clone, Debug)]
pub struct EngineConfig {
    /// Directory of the store; `enroll` makes it.
    pub directory: PathBuf,
    /// Twelve decimal digits.
    pub account: String,
    /// For example `local-host-1`.
    pub region: String,
    /// A change that takes nothing away is under the rollback counter at the latest after this
    /// time; the counter wears, so it is not advanced for each.
    pub anchor_interval: Duration,
}

impl EngineConfig {
    /// The usual window between a change and its anchoring.
    pub const ANCHOR_INTERVAL: Duration = Duration::from_secs(5);

    /// A configuration with the usual window.
    pub fn new(
        directory: impl Into<PathBuf>,
        account: impl Into<String>,
        region: impl Into<String>,
    ) -> Self {
        Self {
            directory: directory.into(),
            account: account.into(),
            region: region.into(),
            anchor_interval: Self::ANCHOR_INTERVAL,
        }
    }
}

/// An open store that answers requests. Clones are the same engine.
#[derive(Clone)]
pub struct Engine {
    shared: Arc<Shared>,
}

struct Shared {
    config: EngineConfig,
    kms: RwLock<Kms>,
    domain: Arc<RwLock<DomainKeys>>,
    provider: LocalProvider,
    clock: Arc<dyn Clock>,
    host: HostStatus,
    writer: Mutex<Writer>,
    /// A tightening change is durable and the counter has not been advanced for it yet.
    unproved: AtomicBool,
    closed: AtomicBool,
    /// What background work failed with last, and when that was logged.
    last_failure: Mutex<Option<(String, Instant)>>,
}

impl Engine {
    /// Answers a request. Reads and uses of keys are answered in place, in microseconds; changes
    /// run on tokio's blocking pool, since they wait for the disk and sometimes for the TPM.
    ///
    /// # Errors
    /// The error to reply with.
    pub async fn call(&self, request: Request, caller: Caller) -> Result<Response, ApiError> {
        match self.shared.evaluate(&request, &caller)? {
            Outcome::Reply(response) if !self.shared.must_be_proved(&request) => Ok(*response),
            Outcome::Use(usage) => usage.run(&self.shared.provider).await,
            change => {
                let shared = Arc::clone(&self.shared);
                let task = tokio::task::spawn_blocking(move || {
                    shared.write(first(change), |kms, world| {
                        kms.handle(&request, &caller, world).outcome
                    })
                });
                // A panic in there has been reported by the hook; the caller learns that it failed.
                task.await.unwrap_or_else(|_| {
                    Err(ApiError::new(
                        ErrorCode::Internal,
                        "The change could not be carried out.",
                    ))
                })
            }
        }
    }

    /// The same, on the calling thread.
    ///
    /// # Errors
    /// The error to reply with.
    pub fn call_blocking(&self, request: &Request, caller: &Caller) -> Result<Response, ApiError> {
        match self.shared.evaluate(request, caller)? {
            Outcome::Reply(response) if !self.shared.must_be_proved(request) => Ok(*response),
            Outcome::Use(usage) => block_on::block_on(usage.run(&self.shared.provider)),
            change => self.shared.write(first(change), |kms, world| {
                kms.handle(request, caller, world).outcome
            }),
        }
    }

    /// What `GetStatus` says.
    ///
    /// # Errors
    /// The engine is shut down.
    pub fn status(&self) -> Result<GetStatusResponse, ApiError> {
        let caller = Caller::internal(&self.shared.config.account);
        match self.call_blocking(&Request::GetStatus(kms_api::GetStatusRequest {}), &caller)? {
            Response::GetStatus(status) => Ok(status),
            _ => Err(ApiError::bare(ErrorCode::Internal)),
        }
    }

    /// Does what time brings: anchors changes, destroys keys whose waiting period is over, rotates.
    /// Blocks; to be called about once a second. Failures are logged and tried again at the next
    /// call; the first of them is returned.
    ///
    /// # Errors
    /// The store or the sealer failed.
    pub fn tick(&self) -> Result<(), EngineError> {
        self.shared.tick()
    }

    /// Anchors what is not anchored yet and wipes every key. Later calls get
    /// `ServiceUnavailableException`.
    ///
    /// # Errors
    /// The store or the sealer failed; the keys are wiped all the same.
    pub fn shutdown(&self) -> Result<(), EngineError> {
        self.shared.shutdown()
    }

    /// Number of key versions that are open in memory.
    pub fn cached_materials(&self) -> usize {
        self.shared.provider.cached()
    }
}

/// The transaction of an outcome that has one.
fn first(outcome: Outcome) -> Option<Write> {
    match outcome {
        Outcome::Write(write) => Some(*write),
        Outcome::Reply(_) | Outcome::Use(_) => None,
    }
}

impl Shared {
    /// Whether an answer that changes nothing must wait for the counter all the same: a caller who
    /// was told that the counter failed and tries again must not be told "done" too early.
    fn must_be_proved(&self, request: &Request) -> bool {
        self.unproved.load(Ordering::SeqCst)
            && matches!(
                request,
                Request::DisableKey(_) | Request::UpdateAlias(_) | Request::ScheduleKeyDeletion(_)
            )
    }

    fn evaluate(&self, request: &Request, caller: &Caller) -> Result<Outcome, ApiError> {
        self.check_open()?;
        let live;
        let host = if matches!(request, Request::GetStatus(_)) {
            live = status::live(&self.host);
            &live
        } else {
            &self.host
        };
        let kms = self.kms.read();
        let domain = self.domain.read();
        let world = World {
            now: self.now(&kms),
            entropy: &SystemEntropy,
            domain: &domain,
            host,
        };
        kms.handle(request, caller, &world).outcome
    }

    fn check_open(&self) -> Result<(), ApiError> {
        if self.closed.load(Ordering::SeqCst) {
            return Err(ApiError::new(
                ErrorCode::ServiceUnavailable,
                "kmsd is shutting down.",
            ));
        }
        Ok(())
    }

    fn now(&self, kms: &Kms) -> Now {
        let reading = self.clock.read();
        let elapsed = kms.snapshot().meta().elapsed.advanced(&reading);
        Now {
            wall_ms: reading.wall_ms,
            elapsed_ms: elapsed.total_ms,
        }
    }

    fn shutdown(&self) -> Result<(), EngineError> {
        let mut writer = self.writer.lock();
        self.closed.store(true, Ordering::SeqCst);
        let anchored = self
            .anchor_all(&mut writer)
            .and_then(|()| self.count_time(&mut writer));
        self.provider.forget_all();
        self.domain.write().forget_all();
        anchored
    }
}
