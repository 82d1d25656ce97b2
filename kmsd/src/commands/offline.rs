//! `kmsd offline`: a store, or a backup of one, opened for reading, for `kmsctl fs extract` and `kmsctl fs check`.
//!
//! Not for people: kmsctl starts it with a private directory for its socket, and it ends when its standard input does.

use std::fs;
use std::io::{self, Read as _, Write as _};
use std::path::Path;
use std::sync::Arc;

use kms_seal::SealError;
use rustix::fs::{FlockOperation, flock};
use tokio::sync::watch;

use super::recovery;
use crate::audit::service;
use crate::auth::Auth;
use crate::cli::OfflineArgs;
use crate::config::{Config, NameOrId, Server};
use crate::engine::{EngineError, Offline, OfflineLog, Opener};
use crate::exit::Failure;
use crate::listen::Listener;
use crate::listen::server::Server as Serving;
use crate::storage::{CATALOGUE, LockError};
use crate::world;

/// Said on standard output when requests are answered.
const READY: &str = "ready";

/// `kmsd offline`.
pub(crate) fn offline(config: &Config, args: &OfflineArgs) -> Result<(), Failure> {
    let directory = args.store.as_ref().unwrap_or(&config.store.directory);
    let private = args.socket.parent().unwrap_or_else(|| Path::new("."));
    copy(directory, private)?;
    let opened = open(config, args, directory, private);
    for file in fs::read_dir(private).into_iter().flatten().flatten() {
        let _ = fs::remove_file(file.path());
    }
    serve(config, args, recorded(config, args, directory, opened?))
}

/// Keeps what is read for the audit log of the kmsd that this host is configured for. Where there is none, or its directory takes
/// nothing, that is said; it keeps nobody from rescuing files.
fn recorded(config: &Config, args: &OfflineArgs, directory: &Path, opened: Offline) -> Offline {
    let own = &config.store.directory;
    if !own.join(CATALOGUE).exists() {
        tracing::warn!("what is read is recorded nowhere: this host has no store of its own");
        return opened;
    }
    let log = match OfflineLog::open(own) {
        Ok(log) => log,
        Err(error) => {
            tracing::warn!(%error, directory = %own.display(), "what is read is not recorded");
            return opened;
        }
    };
    let given = args.recovery.recovery_from.is_some() || !args.recovery.recovery_share.is_empty();
    let with = if given { "recovery key" } else { "sealer" };
    let opening = service("OfflineOpened")
        .detail("store", directory.display().to_string())
        .detail("openedWith", with)
        .detail("uid", rustix::process::getuid().as_raw());
    opened.recorded(log, opening)
}

fn open(
    config: &Config,
    args: &OfflineArgs,
    directory: &Path,
    private: &Path,
) -> Result<Offline, Failure> {
    let opener = match recovery::given(&args.recovery)? {
        Some(key) => Opener::Recovery(key),
        None => Opener::Sealer(world::sealer(config)?, world::credential(config)?),
    };
    let clock = world::clock(config)?;
    Offline::open(private, directory, opener, clock).map_err(|error| {
        let older = matches!(error, EngineError::Seal(SealError::RolledBack { .. }));
        let failure = Failure::from(error);
        if !older {
            return failure;
        }
        Failure {
            next_step: "Give the recovery key with --recovery-key: for reading it opens an older store, too."
                .to_owned(),
            ..failure
        }
    })
}

/// Copies the catalogue with its log: opening it in place would write beside it.
fn copy(directory: &Path, private: &Path) -> Result<(), Failure> {
    let io = |path: &Path| {
        let path = path.to_owned();
        move |source| EngineError::Io { path, source }
    };
    let catalogue = directory.join(CATALOGUE);
    if !catalogue.exists() {
        return Err(Failure {
            next_step: "name the directory of the store, or of its backup, with --store".to_owned(),
            ..EngineError::NotEnrolled(directory.to_owned()).into()
        });
    }
    // A running kmsd writes to it. A backup may have no lock file.
    let lock = match fs::File::open(directory.join("lock")) {
        Ok(lock) => Some(lock),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(io(&directory.join("lock"))(error).into()),
    };
    if let Some(lock) = &lock
        && flock(lock, FlockOperation::NonBlockingLockShared).is_err()
    {
        let error = EngineError::Lock(LockError::Held {
            directory: directory.to_owned(),
            pid: None,
        });
        return Err(Failure {
            next_step: "leave out --store to use the kmsd that runs, or stop it".to_owned(),
            ..error.into()
        });
    }
    for suffix in ["", "-wal"] {
        let name = format!("{CATALOGUE}{suffix}");
        let from = directory.join(&name);
        match fs::copy(&from, private.join(&name)) {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound && !suffix.is_empty() => {}
            Err(error) => return Err(io(&from)(error).into()),
        }
    }
    Ok(())
}

fn serve(config: &Config, args: &OfflineArgs, store: Offline) -> Result<(), Failure> {
    let server = Server {
        socket: args.socket.clone(),
        socket_mode: "0600".to_owned(),
        socket_group: None,
        admin_group: None,
        // Who starts it.
        service_uids: vec![NameOrId::Id(rustix::process::geteuid().as_raw()).into()],
        ..config.server.clone()
    };
    let auth = Arc::new(Auth::new(&server, &config.identity)?);
    let listener = Listener::bind(&server)?;
    let system = |error: io::Error| {
        Failure::local(
            "the socket",
            &error,
            "Look at the limits of the process and the kernel's log.",
        )
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(system)?;
    let (stop, stopping) = watch::channel(false);
    std::thread::spawn(move || {
        // Ends with whoever started it, however that ends.
        let _ = io::stdin().read_to_end(&mut Vec::new());
        let _ = stop.send(true);
    });
    let serving = Serving::new(&server, auth, Arc::new(store));
    println!("{READY}");
    io::stdout().flush().map_err(system)?;
    runtime
        .block_on(serving.run(listener, stopping))
        .map_err(system)
}
