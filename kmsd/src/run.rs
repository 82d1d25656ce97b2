//! The daemon's life: open, serve, tick, end.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use kms_api::sigv4::Signed;
use kms_api::{ApiError, Caller, ErrorCode, Request};
use kms_core::audit::Record;
use kms_core::ids::Scope;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval};
use uuid::Uuid;

use crate::audit::{Asker, AuditLog};
use crate::auth::{Auth, Signer};
use crate::config::Config;
use crate::engine::{Engine, FixedKey};
use crate::events::{Events, Hook};
use crate::exit::Failure;
use crate::listen::Listener;
use crate::listen::network::Network;
use crate::listen::server::{Server, stopped};
use crate::listen::tls::Certificates;
use crate::policies::PolicyFiles;
use crate::service::{Entered, ErrorReply, Needs, Refused, Reply, Service};
use crate::{metrics, notify, world};

/// How often the engine does what time brings.
const TICK: Duration = Duration::from_secs(1);

impl Service for Engine {
    fn enter(&self) -> Entered {
        Engine::enter(self)
    }

    async fn call(
        &self,
        id: Uuid,
        request: Request,
        caller: Caller,
        entered: Entered,
    ) -> Result<Reply, ErrorReply> {
        self.call_entered(id, request, caller, entered).await
    }

    fn answers(&self, asker: Asker, principal: &Arc<str>) -> Result<(), ApiError> {
        Engine::answers(self, asker, principal)
    }

    fn unreadable(
        &self,
        id: Uuid,
        operation: &str,
        caller: &Caller,
        error: &ApiError,
    ) -> Result<(), ApiError> {
        Engine::unreadable(self, id, operation, caller, error)
    }

    fn refused(&self, refused: &Refused<'_>) -> Result<(), ApiError> {
        Engine::refused(self, refused)
    }

    fn needs(&self) -> Needs {
        Engine::needs(self)
    }

    fn signer(&self, signed: &Signed) -> Result<Arc<Signer>, ApiError> {
        Engine::signer(self, signed)
    }

    fn accepted(&self, access_key_id: &str) {
        self.access_key_used(access_key_id);
    }

    fn now_ms(&self) -> i64 {
        self.wall_ms()
    }

    fn identity_changed(&self) -> bool {
        self.authorization_changed("users and groups")
            .inspect_err(|error| {
                tracing::error!(%error, "users or groups have changed, and that could not be noted");
            })
            .is_ok()
    }

    fn answered(&self, operation: &str, outcome: Option<ErrorCode>, took: Duration) {
        self.metrics().requests.answered(operation, outcome, took);
    }
}

/// Is told the URLs of the network once they are served.
pub(crate) type Ready<'a> = &'a dyn Fn(&[String]);

/// How serving begins.
#[derive(Default)]
pub(crate) struct Start<'a> {
    /// A log that lacks records is gone on with.
    pub(crate) accept_gap: bool,
    /// Access keys besides those of the catalogue.
    pub(crate) keys: Vec<FixedKey>,
    /// Told the URLs of the network when they are served.
    pub(crate) ready: Option<Ready<'a>>,
}

/// Serves until SIGTERM or SIGINT.
pub(crate) fn serve(config: &Config, start: Start<'_>) -> Result<(), Failure> {
    let Start {
        accept_gap,
        keys,
        ready,
    } = start;
    let auth = Arc::new(Auth::new(&config.server, &config.identity)?);
    trust_module()?;
    notify::status("Opening the root key");
    let (engine, bursts) = open(config, accept_gap)?;
    engine.use_policies(PolicyFiles::new(&config.identity.policies))?;
    engine.know_host(auth.role_names());
    engine.use_fixed_keys(keys);
    let listener = Listener::open(&config.server)?;
    let network = Network::open(config)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|e| system("the runtime", &e))?;
    let served = runtime.block_on(live(
        config,
        auth,
        engine.clone(),
        bursts,
        (listener, network),
        ready,
    ));
    // Threads that still wait for the TPM have had their time.
    runtime.shutdown_timeout(Duration::from_secs(config.server.shutdown_timeout));
    let closed = engine.shutdown();
    served?;
    closed?;
    tracing::info!("kmsd has ended");
    Ok(())
}

/// Runs the self-tests of the cryptographic module, before it is given a key.
fn trust_module() -> Result<(), Failure> {
    let module = kms_crypto::fips::status().map_err(|error| {
        Failure::local(
            "the cryptographic module cannot be trusted",
            &io::Error::other(error),
            "Do not use this program: install it again, and look whether the machine computes correctly.",
        )
    })?;
    let (version, fips) = (&module.version, module.approved);
    tracing::info!(%version, fips, "the cryptographic module has passed its self-tests");
    Ok(())
}

/// The engine, and the bursts of denials that it is to record.
fn open(config: &Config, accept_gap: bool) -> Result<(Engine, UnboundedReceiver<Record>), Failure> {
    let sealer = world::sealer(config)?;
    let credential = world::credential(config)?;
    let clock = world::clock(config)?;
    let mut engine_config = world::engine_config(config);
    if let Some(audit) = &mut engine_config.audit {
        audit.accept_gap = accept_gap;
    }
    let (found, bursts) = unbounded_channel();
    let observe = tell(config, found)?;
    let engine = Engine::open_observed(engine_config, sealer, &credential, clock, observe)?;
    if let Ok(status) = engine.status() {
        for warning in status.sealer.warnings.iter().chain(&status.warnings) {
            tracing::warn!("{warning}");
        }
    }
    Ok((engine, bursts))
}

async fn live(
    config: &Config,
    auth: Arc<Auth>,
    engine: Engine,
    bursts: UnboundedReceiver<Record>,
    (listener, network): (Listener, Network),
    ready: Option<Ready<'_>>,
) -> Result<(), Failure> {
    let (stop, stopping) = watch::channel(false);
    let signals = tokio::spawn(signals(engine.clone(), stop)?);
    let ticks = tokio::spawn(ticks(engine.clone(), stopping.clone()));
    let waits = tokio::spawn(end_waits(engine.clone(), stopping.clone()));
    tokio::spawn(policies(engine.clone(), stopping.clone()));
    tokio::spawn(names(Arc::clone(&auth), engine.clone(), stopping.clone()));
    tokio::spawn(record(bursts, engine.clone()));
    let watched = metrics::serve::open(&config.metrics).await?;
    let watched = tokio::spawn(metrics::serve::run(
        watched,
        {
            let engine = engine.clone();
            move || engine.scrape()
        },
        stopping.clone(),
    ));
    let place = match listener.is_passed() {
        true => "the socket passed by the service manager".to_owned(),
        false => config.server.socket.display().to_string(),
    };
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        socket = place,
        network = ?network.urls(),
        "kmsd serves requests"
    );
    if let Some(certificates) = network.certificates() {
        tokio::spawn(follow(certificates, stopping.clone()));
    }
    let service = Arc::new(engine);
    let urls = network.urls();
    let network = network.serve(config, Arc::clone(&service), stopping.clone());
    let server = Server::new(&config.server, auth, service);
    let run = async { tokio::join!(server.run(listener, stopping), network) };
    notify::ready(&format!("Serving requests on {place}"));
    if let Some(ready) = ready {
        ready(&urls);
    }
    let (result, network) = run.await;
    signals.abort();
    let _ = ticks.await;
    waits.abort();
    let _ = watched.await;
    result.map_err(|e| system("the socket", &e))?;
    network.map_err(|e| system("the network", &e))
}

/// Derives events from the records of the log, for those who listen and for the program of `events.exec`: what is to be
/// done with the log when it is opened. Bursts of denials go to `found`.
fn tell(
    config: &Config,
    found: UnboundedSender<Record>,
) -> Result<impl FnOnce(&AuditLog, &Events, Scope), Failure> {
    let hook = match &config.events.exec {
        Some(program) => {
            let limit = Duration::from_secs(config.events.exec_timeout);
            Some(Hook::start(program, limit).map_err(|e| system("a thread", &e))?)
        }
        None => None,
    };
    let denial_burst = config.events.denial_burst;
    Ok(move |log: &AuditLog, events: &Events, scope: Scope| {
        let observer = events.observer(scope, denial_burst, hook, move |record| {
            let _ = found.send(record);
        });
        log.observe(Box::new(observer));
        events.begin(log.durable().head.size);
    })
}

/// Records bursts of denials; not on the log's own thread: that one is what writes them down.
async fn record(mut bursts: UnboundedReceiver<Record>, engine: Engine) {
    while let Some(burst) = bursts.recv().await {
        engine.record_event(burst);
    }
}

/// Waits for the signals: TERM and INT end kmsd, HUP has it read the policy files again.
fn signals(
    engine: Engine,
    stop: watch::Sender<bool>,
) -> Result<impl Future<Output = ()> + Send, Failure> {
    let handler = |kind| signal(kind).map_err(|e| system("a signal handler", &e));
    let mut term = handler(SignalKind::terminate())?;
    let mut int = handler(SignalKind::interrupt())?;
    let mut hup = handler(SignalKind::hangup())?;
    Ok(async move {
        loop {
            tokio::select! {
                _ = term.recv() => break,
                _ = int.recv() => break,
                _ = hup.recv() => {
                    tracing::info!("SIGHUP: reading the policy files; a restart reads the configuration");
                    let engine = engine.clone();
                    // Its outcome is in the log.
                    tokio::task::spawn_blocking(move || engine.reload_policies("SIGHUP"));
                }
            }
        }
        tracing::info!("kmsd is told to end");
        notify::stopping();
        let _ = stop.send(true);
        // The server ends by this; stay, so that a second signal does not kill it half way.
        std::future::pending::<()>().await;
    })
}

/// Lets calls that wait for services end when kmsd is told to: they are requests in progress, and the end
/// waits for those.
async fn end_waits(engine: Engine, mut stopping: watch::Receiver<bool>) {
    stopped(&mut stopping).await;
    engine.end_waits();
}

/// Lets the engine do what time brings, one tick at a time, and tells the service manager that kmsd
/// is alive: the next tick waits for the last one (a slow TPM), the sign of life does not.
async fn ticks(engine: Engine, mut stopping: watch::Receiver<bool>) {
    let mut timer = interval(TICK);
    timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut last = tokio::spawn(async {});
    loop {
        tokio::select! {
            _ = timer.tick() => {}
            () = stopped(&mut stopping) => break,
        }
        notify::alive();
        if last.is_finished() {
            let engine = engine.clone();
            last = tokio::task::spawn_blocking(move || {
                // The engine logs what fails and tries again.
                let _ = engine.tick();
            });
        }
    }
    // One that is under way ends first: it may be half way through a deletion.
    let _ = last.await;
}

/// Follows the policy files every second: who is told of new policies may have to be waited for.
async fn policies(engine: Engine, mut stopping: watch::Receiver<bool>) {
    let mut timer = interval(TICK);
    timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = timer.tick() => {}
            () = stopped(&mut stopping) => break,
        }
        let engine = engine.clone();
        // A panic in there has been reported by the hook.
        let _ = tokio::task::spawn_blocking(move || engine.watch_policies()).await;
    }
}

/// Looks every second whether the files of the certificate have changed.
async fn follow(certificates: Arc<Certificates>, mut stopping: watch::Receiver<bool>) {
    let mut timer = interval(TICK);
    timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = timer.tick() => {}
            () = stopped(&mut stopping) => break,
        }
        let certificates = Arc::clone(&certificates);
        let look = move || match certificates.refresh() {
            Ok(true) => tracing::info!("the certificate was read again; new connections get it"),
            Ok(false) => {}
            Err(error) => tracing::error!(
                %error,
                next_step = error.next_step(),
                "the certificate has changed and cannot be used; the former one stays in force"
            ),
        };
        // A panic in there has been reported by the hook.
        let _ = tokio::task::spawn_blocking(look).await;
    }
}

/// Looks every second whether users and groups are still what they were. Apart from the ticks: the name
/// service may be slow.
async fn names(auth: Arc<Auth>, engine: Engine, mut stopping: watch::Receiver<bool>) {
    let mut timer = interval(TICK);
    timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // Leases outlast a restart, and whether users and groups have changed meanwhile is not known.
    let mut is_told = false;
    loop {
        tokio::select! {
            _ = timer.tick() => {}
            () = stopped(&mut stopping) => break,
        }
        let (auth, engine) = (Arc::clone(&auth), engine.clone());
        let look = move || {
            if auth.refresh() {
                tracing::info!("users or groups have changed: decisions made before are void");
                is_told = false;
            }
            is_told || Service::identity_changed(&engine)
        };
        // A panic in there has been reported by the hook.
        is_told = tokio::task::spawn_blocking(look).await.unwrap_or(false);
    }
}

fn system(what: &str, e: &io::Error) -> Failure {
    Failure::local(
        what,
        e,
        "Look at the limits of the process and the kernel's log.",
    )
}
