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

mod access;
mod approve;
mod audit;
mod backup;
mod block_on;
mod break_glass;
mod enroll;
mod error;
mod events;
mod gauges;
mod group;
mod hub;
mod lease;
mod offline;
mod offline_log;
mod open;
mod policies;
mod pool;
mod restore;
mod rotate;
mod signers;
mod status;
mod tick;
mod unenroll;
mod volume;
mod writer;

#[cfg(test)]
mod tests;

use std::ops::{Deref, DerefMut};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use kms_api::{
    ApiError, Caller, ErrorCode, GetStatusResponse, LeaseReport, Reliance, Request, Response,
};
use kms_core::Served;
use kms_core::audit::Record;
use kms_core::ids::Scope;
use kms_core::kms::{HostStatus, Made, Settings, Use, World};
use kms_core::last_use::LastUse;
use kms_core::relevance::takes_away;
use kms_core::{
    Basis, Clock, DomainKeys, Handled, Kms, LocalProvider, Now, Outcome, SystemEntropy, Verdict,
};
use parking_lot::{Mutex, RwLock};
use uuid::Uuid;

pub use approve::approve;
pub use break_glass::{Opened, Reason, break_glass, obstacles};
pub use enroll::{EnrollReport, RollbackReport, accept_rollback, check_recovery, enroll, recover};
pub use error::EngineError;
pub(crate) use gauges::Gauges;
pub use hub::InFlight;
use hub::{Generation, Hub, Settling};
pub use offline::{Offline, Opener};
pub use offline_log::OfflineLog;
use pool::Pool;
pub use restore::{Contents, RestoreReport, RestoreSource, VerifyReport, restore, verify_backup};
pub use rotate::{RotateReport, rotate_recovery};
pub use signers::FixedKey;
pub use unenroll::unenroll;
pub use volume::{Opening, export_volume, import_volume};
use writer::Writer;

use crate::audit::{Asker, AuditConfig, AuditLog, AuditStatus, Checkpoints, Limit, service};
use crate::events::Events;
use crate::metrics::Metrics;
use crate::rates::{RateLimits, Rates};
use crate::service::{Entered, ErrorReply, Refused, Reply};
use audit::{Sink, Trace};

/// Where the store is and what it is called.
#[derive(Clone, Debug)]
pub struct EngineConfig {
    /// Directory of the store; `enroll` makes it.
    pub directory: PathBuf,
    /// Twelve decimal digits.
    pub account: String,
    /// For example `local-host-1`.
    pub region: String,
    /// The accounts and Regions besides.
    pub served: Served,
    /// A change that takes nothing away is under the rollback counter at the latest after this
    /// time; the counter wears, so it is not advanced for each.
    pub anchor_interval: Duration,
    /// What requests depend on.
    pub settings: Settings,
    /// How fast requests may be made.
    pub rates: RateLimits,
    /// How the audit log is kept; `None`: there is none. For measuring only.
    pub audit: Option<AuditConfig>,
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
        let directory = directory.into();
        Self {
            audit: Some(AuditConfig::new(directory.join("audit"))),
            directory,
            account: account.into(),
            region: region.into(),
            served: Served::default(),
            anchor_interval: Self::ANCHOR_INTERVAL,
            settings: Settings::default(),
            rates: RateLimits::NONE,
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
    kms: Arc<RwLock<Current>>,
    domain: Arc<RwLock<DomainKeys>>,
    provider: LocalProvider,
    pool: Pool,
    clock: Arc<dyn Clock>,
    host: HostStatus,
    writer: Mutex<Writer>,
    /// A tightening change is durable and the counter has not been advanced for it yet.
    unproved: AtomicBool,
    hub: Arc<Hub>,
    audit: Sink,
    last_use: Arc<LastUse>,
    /// The account and Region that the store was made for.
    home: Arc<Scope>,
    /// How many refused requests of a user are recorded.
    limit: Arc<Limit>,
    /// How many requests a principal may make in a second.
    rates: Rates,
    /// Makes checkpoints of the audit log; `None` where there is no log, or the sealer cannot vouch.
    checkpoints: Option<Checkpoints>,
    /// Generation of the catalogue, for the checkpoints.
    stored_generation: Arc<AtomicU64>,
    closed: AtomicBool,
    outside: policies::Outside,
    signers: signers::Signers,
    /// Changes that are made durable together.
    group: group::Group,
    metrics: Metrics,
    events: Events,
    /// The backup that is being fetched.
    backup: Mutex<Option<backup::Made>>,
    /// What background work failed with last, and when that was logged.
    last_failure: Mutex<Option<(String, Instant)>>,
}

/// The state machine as it is now, and the answers that were found in it.
struct Current {
    kms: Kms,
    generation: Generation,
}

impl Deref for Current {
    type Target = Kms;

    fn deref(&self) -> &Kms {
        &self.kms
    }
}

impl DerefMut for Current {
    fn deref_mut(&mut self) -> &mut Kms {
        &mut self.kms
    }
}

impl Engine {
    /// Answers a request. Reads and uses of keys are answered in place, in microseconds; changes
    /// run on tokio's blocking pool, since they wait for the disk and sometimes for the TPM. What takes
    /// something away is answered when nobody relies on older answers any more.
    ///
    /// # Errors
    /// The error to reply with.
    pub async fn call(
        &self,
        id: Uuid,
        request: Request,
        caller: Caller,
    ) -> Result<Reply, ErrorReply> {
        let entered = self.enter();
        self.call_entered(id, request, caller, entered).await
    }

    /// Registers a request whose caller is about to be looked at once more: see [`Service::enter`].
    ///
    /// [`Service::enter`]: crate::service::Service::enter
    pub fn enter(&self) -> Entered {
        self.shared.enter()
    }

    /// The same as [`Self::call`] for a request that is registered.
    ///
    /// # Errors
    /// The error to reply with.
    pub async fn call_entered(
        &self,
        id: Uuid,
        request: Request,
        caller: Caller,
        entered: Entered,
    ) -> Result<Reply, ErrorReply> {
        let shared = &self.shared;
        shared.rates.admit(&request, &caller)?;
        let trace = if shared.must_wait() {
            let waiting = Arc::clone(shared);
            let (request, caller) = (request.clone(), caller.clone());
            tokio::task::spawn_blocking(move || waiting.trace(id, &request, &caller))
                .await
                .unwrap_or_else(|_| Err(ApiError::bare(ErrorCode::Internal)))?
        } else {
            shared.trace(id, &request, &caller)?
        };
        let result = self.answer(trace.clone(), request, caller, entered).await;
        let response = match &result {
            Ok(reply) => Ok(&reply.response),
            Err(failure) => Err(&failure.error),
        };
        shared.recorded(trace.as_ref(), response).await?;
        result
    }

    async fn answer(
        &self,
        trace: Option<Arc<Trace>>,
        request: Request,
        caller: Caller,
        entered: Entered,
    ) -> Result<Reply, ErrorReply> {
        let shared = &self.shared;
        let mut evaluated = shared.evaluate(trace.as_deref(), &request, &caller, None)?;
        let Entered { in_flight, epoch } = entered;
        let mut made = None;
        let long = match std::mem::replace(&mut evaluated.outcome, Ok(Outcome::Host)) {
            Ok(Outcome::MakePair(spec)) => {
                Some(shared.pool.make(&caller.arn, spec).await.map(Made::Pair))
            }
            Ok(Outcome::Unwrap(wrapped)) => {
                let opened = shared.pool.run(&caller.arn, move || wrapped.open()).await;
                Some(opened.flatten().map(Made::Imported))
            }
            outcome => {
                evaluated.outcome = outcome;
                None
            }
        };
        match long {
            Some(Ok(done)) => {
                let done = made.insert(done);
                evaluated = shared.evaluate(trace.as_deref(), &request, &caller, Some(done))?;
            }
            Some(Err(error)) => evaluated.outcome = Err(error),
            None => {}
        }
        let Evaluated {
            outcome,
            ends_ms,
            domain,
        } = evaluated;
        let known = (epoch, ends_ms);
        let takes_away = takes_away(&request);
        match outcome {
            Ok(_) if matches!(request, Request::ReloadPolicies(_)) => {
                drop(in_flight);
                Ok(self.reload_by_request().await?.into())
            }
            Ok(Outcome::Use(usage)) => {
                let waiting = Waiting {
                    usage: *usage,
                    domain,
                };
                let (trace, made) = (trace.as_deref(), made.as_ref());
                let used = shared.use_or_again(trace, &request, &caller, waiting, made);
                match used.await {
                    Ok(response) => Ok(shared.reply(response, &caller, in_flight, known)),
                    Err(error) => Err(shared.failure(error, &caller, in_flight, known)),
                }
            }
            Ok(Outcome::Reply(response)) if !takes_away => {
                Ok(shared.reply(*response, &caller, in_flight, known))
            }
            Ok(Outcome::Lease(lease)) => {
                // It holds nothing that could be taken away, and may wait for long.
                drop(in_flight);
                Ok(shared.lease(*lease).await?.into())
            }
            Ok(Outcome::Host) => {
                drop(in_flight);
                if let Request::WaitForEvents(request) = &request {
                    let response = shared.wait_for_events(request).await?;
                    return Ok(response.into());
                }
                // Reads files.
                let reading = Arc::clone(shared);
                let task = tokio::task::spawn_blocking(move || reading.host(&request));
                let response = task
                    .await
                    .unwrap_or_else(|_| Err(ApiError::bare(ErrorCode::Internal)))?;
                Ok(response.into())
            }
            Err(error) if takes_away => {
                drop(in_flight);
                if may_be_done(&error) {
                    shared.hub.settle(shared.hub.settling()).await?;
                }
                Err(error.into())
            }
            Err(error) => Err(shared.failure(error, &caller, in_flight, known)),
            Ok(Outcome::Write(write)) if group::is_addition(&request) => {
                let job = group::Job {
                    trace,
                    first: Some(*write),
                    evaluate: Box::new(move |kms, world| {
                        let made = made.as_ref();
                        kms.handle(&request, &caller, &World { made, ..*world })
                    }),
                    in_flight,
                };
                let done = shared.write_together(job).await?;
                Ok(shared.done(done.response, None, None))
            }
            Ok(change) => {
                let revoked = revoked(&request);
                let writing = Arc::clone(shared);
                let task = tokio::task::spawn_blocking(move || {
                    let done = writing.change(trace.as_deref(), change, &request, |kms, world| {
                        let made = made.as_ref();
                        kms.handle(&request, &caller, &World { made, ..*world })
                    });
                    // Not before the change is made: the caller may become another while it waits for its turn. Nor
                    // after: it waits for those who were here before it.
                    drop(in_flight);
                    done
                });
                // A panic in there has been reported by the hook; the caller learns that it failed.
                let done = task.await.unwrap_or_else(|_| {
                    Err(ApiError::new(
                        ErrorCode::Internal,
                        "The change could not be carried out.",
                    ))
                })?;
                let leases = match done.settling {
                    Some(settling) => Some(shared.hub.settle(settling).await?),
                    None => None,
                };
                Ok(shared.done(done.response, leases, revoked.as_deref()))
            }
        }
    }

    /// The same, on the calling thread. Not for requests that wait for an epoch.
    ///
    /// # Errors
    /// The error to reply with.
    pub fn call_blocking(&self, request: &Request, caller: &Caller) -> Result<Response, ApiError> {
        let trace = self.shared.trace(Uuid::new_v4(), request, caller)?;
        let result = self.answer_blocking(trace.as_deref(), request, caller);
        self.shared
            .recorded_blocking(trace.as_ref(), result.as_ref())?;
        result
    }

    fn answer_blocking(
        &self,
        trace: Option<&Trace>,
        request: &Request,
        caller: &Caller,
    ) -> Result<Response, ApiError> {
        let shared = &self.shared;
        let entered = shared.enter();
        let evaluated = shared.evaluate(trace, request, caller, None)?;
        let mut made = None;
        let domain = evaluated.domain;
        let mut outcome = evaluated.outcome?;
        let long = match &outcome {
            Outcome::MakePair(spec) => Some(Made::Pair(pool::make(*spec)?)),
            Outcome::Unwrap(wrapped) => Some(Made::Imported(wrapped.open()?)),
            _ => None,
        };
        if let Some(done) = long {
            let done = made.insert(done);
            outcome = shared
                .evaluate(trace, request, caller, Some(done))?
                .outcome?;
        }
        match outcome {
            Outcome::Use(usage) => {
                let usage = *usage;
                let (waiting, made) = (Waiting { usage, domain }, made.as_ref());
                block_on::block_on(shared.use_or_again(trace, request, caller, waiting, made))
            }
            Outcome::Reply(response) if !takes_away(request) => Ok(*response),
            Outcome::Lease(lease) => shared.lease_blocking(*lease),
            Outcome::Host => shared.host(request),
            change => {
                let done = shared.change(trace, change, request, |kms, world| {
                    let made = made.as_ref();
                    kms.handle(request, caller, &World { made, ..*world })
                })?;
                drop(entered);
                let leases = match done.settling {
                    Some(settling) => Some(shared.hub.settle_blocking(settling)?),
                    None => None,
                };
                Ok(shared
                    .done(done.response, leases, revoked(request).as_deref())
                    .response)
            }
        }
    }

    /// Whether requests of `asker` are looked at: too many of them may have been refused.
    ///
    /// # Errors
    /// They are not; the error to reply with.
    pub fn answers(&self, asker: Asker, principal: &Arc<str>) -> Result<(), ApiError> {
        if self.shared.limit.answers(asker, principal) {
            return Ok(());
        }
        Err(ApiError::new(
            ErrorCode::Throttling,
            "Rate exceeded: too many requests of this user were refused; try again in a minute. \
             kmsd limits them with audit.refused_burst and audit.refused_per_minute.",
        ))
    }

    /// Records a request that was refused before a policy could be asked.
    ///
    /// # Errors
    /// It cannot be recorded; the error to reply with instead.
    pub fn refused(&self, refused: &Refused<'_>) -> Result<(), ApiError> {
        self.shared.record_refused(refused)
    }

    /// Records a request of a known caller that could not be read as one.
    ///
    /// # Errors
    /// It cannot be recorded; the error to reply with instead.
    pub fn unreadable(
        &self,
        id: Uuid,
        operation: &str,
        caller: &Caller,
        error: &ApiError,
    ) -> Result<(), ApiError> {
        self.shared.record_unreadable(id, operation, caller, error)
    }

    /// The audit log, for those who want to see every record; `None` where there is none.
    pub fn audit_log(&self) -> Option<&AuditLog> {
        self.shared.audit.log()
    }

    /// Records something that happened without a request and without a change of the catalogue.
    pub fn record_event(&self, event: Record) {
        self.shared.record_event(event);
    }

    /// How the audit log stands; `None` where there is none.
    pub fn audit_status(&self) -> Option<AuditStatus> {
        self.shared.audit_status()
    }

    /// Ends every wait for services, so that kmsd can end: the calls that wait are told so.
    pub fn end_waits(&self) {
        self.shared.hub.end();
        self.shared.events.end();
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

/// A request that was looked at under one snapshot.
struct Evaluated {
    outcome: Result<Outcome, ApiError>,
    /// The domain key that secrets were under.
    domain: u64,
    /// Milliseconds until what allowed it ends by itself.
    ends_ms: Option<u64>,
}

/// A use of a key that was allowed, and is to be carried out.
struct Waiting {
    usage: Use,
    /// The domain key that secrets were under when it was allowed.
    domain: u64,
}

/// A change that was made, or was made already.
struct Done {
    response: Response,
    /// A deletion epoch has to be gone through before the answer ([`Shared::pay_epoch`]).
    owes_epoch: bool,
    /// What has to be waited for before the answer, without the writer.
    settling: Option<Settling>,
}

/// The grant that a request takes away, where it names it.
fn revoked(request: &Request) -> Option<String> {
    match request {
        Request::RevokeGrant(request) => Some(request.grant_id.clone()),
        Request::RetireGrant(request) => request.grant_id.clone(),
        _ => None,
    }
}

/// Whether an error says what somebody is allowed, or the state of a key: it stays right until the epoch rises.
fn says_what_is_allowed(error: &ApiError) -> bool {
    matches!(
        error.code,
        ErrorCode::AccessDenied
            | ErrorCode::Disabled
            | ErrorCode::InvalidState
            | ErrorCode::DryRunOperation
    )
}

/// Whether an error may mean that the same request has been carried out before.
fn may_be_done(error: &ApiError) -> bool {
    matches!(
        error.code,
        ErrorCode::NotFound | ErrorCode::InvalidState | ErrorCode::InvalidGrantToken
    )
}

impl Shared {
    /// Carries out a change, or finds it done: a caller who was told that the counter failed, or who was
    /// told nothing at all, and tries again must not be told "done" any earlier.
    fn change(
        &self,
        trace: Option<&Trace>,
        outcome: Outcome,
        request: &Request,
        evaluate: impl Fn(&Kms, &World<'_>) -> Handled,
    ) -> Result<Done, ApiError> {
        let first = match outcome {
            Outcome::Write(write) => Some(*write),
            Outcome::Reply(response) if !self.unproved.load(Ordering::SeqCst) => {
                return Ok(Done {
                    response: *response,
                    owes_epoch: false,
                    settling: Some(self.hub.settling()),
                });
            }
            Outcome::Reply(_)
            | Outcome::Use(_)
            | Outcome::MakePair(_)
            | Outcome::Unwrap(_)
            | Outcome::Lease(_)
            | Outcome::Host => None,
        };
        let mut done = self.write(trace, first, evaluate)?;
        if done.settling.is_none() && takes_away(request) {
            done.settling = Some(self.hub.settling());
        }
        Ok(done)
    }

    /// The answer to a request that changed nothing. It stays registered until it is handed over.
    fn reply(
        &self,
        response: Response,
        caller: &Caller,
        in_flight: Option<InFlight>,
        known: (u64, Option<u64>),
    ) -> Reply {
        Reply {
            response,
            leases: None,
            reliance: self.reliance(caller, known),
            in_flight,
        }
    }

    /// The same for an error. One that says what the caller is allowed, or what the key is good for, may be relied
    /// on like any other answer.
    fn failure(
        &self,
        error: ApiError,
        caller: &Caller,
        in_flight: Option<InFlight>,
        known: (u64, Option<u64>),
    ) -> ErrorReply {
        let reliance = says_what_is_allowed(&error)
            .then(|| self.reliance(caller, known))
            .flatten();
        // Of an older refusal nobody has to be afraid.
        let is_yes = error.code == ErrorCode::DryRunOperation;
        ErrorReply {
            error,
            reliance,
            in_flight: in_flight.filter(|_| is_yes),
        }
    }

    /// For how long the service that asked may rely on an answer, if it named a lease.
    fn reliance(&self, caller: &Caller, (epoch, ends_ms): (u64, Option<u64>)) -> Option<Reliance> {
        let lease = caller.lease.as_deref()?;
        let uid = caller.via.as_ref().map_or(caller.uid, |via| via.uid);
        let left = self.hub.reliance(lease, uid).unwrap_or(0);
        Some(Reliance {
            epoch,
            milliseconds: ends_ms.map_or(left, |ends| ends.min(left)),
        })
    }

    /// The answer to a change that nobody has to be waited for any more.
    fn done(
        &self,
        response: Response,
        leases: Option<LeaseReport>,
        revoked: Option<&str>,
    ) -> Reply {
        if let Some(report) = &leases {
            self.note(report);
        }
        if let Some(grant) = revoked {
            self.kms.write().forget_revoked(grant);
        }
        Reply {
            leases,
            ..response.into()
        }
    }

    /// Nobody relies on answers of before an epoch any more.
    fn note(&self, report: &LeaseReport) {
        if report.ran_out > 0 {
            self.metrics.leases_ran_out(report.ran_out);
            tracing::warn!(
                epoch = report.epoch,
                acknowledged = report.acknowledged,
                ran_out = report.ran_out,
                labels = ?report.labels,
                "services did not acknowledge a change; their leases have run out"
            );
            self.record_event(
                service("LeaseRanOut")
                    .detail("epoch", report.epoch)
                    .detail("acknowledged", report.acknowledged)
                    .detail("labels", report.labels.clone()),
            );
        }
    }

    fn enter(&self) -> Entered {
        let kms = self.kms.read();
        // Under the lock: see `hub`.
        Entered {
            in_flight: Some(kms.generation.enter()),
            epoch: kms.snapshot().meta().authorization_epoch,
        }
    }

    /// Uses a key. A use that waited while a deletion epoch went by knows the material under a domain key that is gone: then
    /// the request is looked at again, which finds it under the new one, or says why it is not there.
    async fn use_or_again(
        self: &Arc<Self>,
        trace: Option<&Trace>,
        request: &Request,
        caller: &Caller,
        waiting: Waiting,
        made: Option<&Made>,
    ) -> Result<Response, ApiError> {
        let Waiting { usage, domain } = waiting;
        let used = self.use_key(&caller.arn, usage).await;
        match used {
            Err(error) if self.is_outdated(&error, domain) => {
                match self.evaluate(trace, request, caller, made)?.outcome? {
                    Outcome::Use(usage) => self.use_key(&caller.arn, *usage).await,
                    _ => Err(error),
                }
            }
            used => used,
        }
    }

    /// Whether a use failed that was allowed under another domain key than the present one.
    fn is_outdated(&self, error: &ApiError, domain: u64) -> bool {
        error.code == ErrorCode::Internal && self.kms.read().snapshot().meta().domain != domain
    }

    /// Has a key used that the state machine has allowed.
    async fn use_key(self: &Arc<Self>, who: &Arc<str>, usage: Use) -> Result<Response, ApiError> {
        if !usage.is_slow() {
            return usage.run(&self.provider).await;
        }
        let shared = Arc::clone(self);
        let work = move || block_on::block_on(usage.run(&shared.provider));
        self.pool.run(who, work).await?
    }

    /// Looks at a request that is registered; `pair` is what it needs made.
    fn evaluate(
        &self,
        trace: Option<&Trace>,
        request: &Request,
        caller: &Caller,
        made: Option<&Made>,
    ) -> Result<Evaluated, ApiError> {
        self.check_open()?;
        let mut live;
        let host = if matches!(request, Request::GetStatus(_)) {
            live = status::live(&self.host, self.audit_status());
            live.warnings.extend(self.policy_fault());
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
            made,
        };
        let handled = kms.handle(request, caller, &world);
        if let Some(trace) = trace {
            trace.judged(&kms, &handled);
        }
        // Nobody relies on a temporary grant beyond its end, nor on a condition on the time.
        let ends_ms = caller.lease.as_ref().and_then(|_| {
            let keys = || handled.keys.iter().flatten().copied();
            let grant = match &handled.verdict {
                Verdict::Allowed(Basis::Grant { id }) => {
                    keys().find_map(|key| kms.snapshot().grants().get(key, id))
                }
                _ => None,
            };
            let ends = grant.and_then(|row| row.ends);
            let ends = ends.map(|ends| ends.left_ms(world.now));
            ends.into_iter()
                .chain(kms.holds_ms(keys(), world.now))
                .min()
        });
        Ok(Evaluated {
            ends_ms,
            domain: kms.snapshot().meta().domain,
            outcome: handled.outcome,
        })
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
        self.record_unanswered(true);
        self.record_event(service("ServiceStopped"));
        if let Some(log) = self.audit.log() {
            log.close();
        }
        // After the last record, before the keys are gone.
        if let Some(checkpoints) = &self.checkpoints {
            checkpoints.close();
        }
        let anchored = self
            .anchor_all(&mut writer)
            .and_then(|()| self.count_time(&mut writer))
            .and_then(|()| self.anchor_log(&mut writer));
        self.provider.forget_all();
        self.domain.write().forget_all();
        anchored
    }
}
