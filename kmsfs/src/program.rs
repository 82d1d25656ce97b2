//! The program: `kmsfs mount`, `kmsfs remount`.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use clap::Parser as _;
use kms_api::client::Client;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::access::opens::Opens;
use crate::access::policies::Policies;
use crate::access::users::Users;
use crate::access::watch::Watch;
use crate::access::{Access, AccessMode, lease};
use crate::control::way::Deciders;
use crate::control::{self, ControlSocket, Controlled};
use crate::fs::Fs;
use crate::jobs::Jobs;
use crate::mount::lock::LowerLock;
use crate::mount::remount::remount;
use crate::mount::{ActiveMount, MountError, Place, Stopper, daemon, hides, system};
use crate::options::{self, Cli, Command, MountArgs, MountOptions};
use crate::revoke::Revoker;
use crate::service;
use crate::volume::kmsd::KmsdKeys;
use crate::volume::{Keys, RecordFile, VolumeError};

/// Exit status: the mount failed, or did not end well.
const FAILED: u8 = 1;
/// Exit status: the command line is wrong.
const USAGE: u8 = 2;

/// Runs the program with these arguments, the first of which is its name.
///
/// Exit status: 0 mounted (and, in the foreground, unmounted cleanly), 1 failed, 2 wrong usage.
#[must_use]
pub fn run(arguments: Vec<OsString>) -> ExitCode {
    let cli = match Cli::try_parse_from(options::from_mount_helper(arguments)) {
        Ok(cli) => cli,
        Err(error) => {
            drop(error.print());
            return if error.use_stderr() {
                ExitCode::from(USAGE)
            } else {
                ExitCode::SUCCESS
            };
        }
    };
    let args = match cli.command {
        Command::Mount(args) => args,
        Command::Remount(args) => {
            return match remount(&args.mountpoint, &args.options, args.all) {
                Ok(()) => ExitCode::SUCCESS,
                Err(error) => {
                    eprintln!("kmsfs: {error}");
                    ExitCode::from(FAILED)
                }
            };
        }
    };
    let options = match MountOptions::from_args(&args) {
        Ok(options) => options,
        Err(error) => {
            eprintln!("kmsfs: {error}");
            return ExitCode::from(USAGE);
        }
    };
    if !args.foreground && !daemon::is_background() {
        return daemon::start().unwrap_or_else(|error| {
            eprintln!("kmsfs: cannot start in the background: {error}");
            ExitCode::from(FAILED)
        });
    }
    match mount(&args, &options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("kmsfs: {error}");
            tracing::error!("{error}");
            ExitCode::from(FAILED)
        }
    }
}

fn mount(args: &MountArgs, options: &MountOptions) -> Result<(), MountError> {
    kms_crypto::harden_process().map_err(|error| {
        system("cannot keep keys out of core dumps")(std::io::Error::other(error))
    })?;
    allow_descriptors();
    // Modes come with each request, the umask of the caller with them.
    rustix::process::umask(rustix::fs::Mode::empty());
    let place = Place::resolve(&args.lower, &args.mountpoint)?;
    let mut options = options.clone();
    absolute(&mut options).map_err(system("cannot find the current directory"))?;
    if let Some(needed) = hides::hidden(place.mountpoint(), &options.socket) {
        return Err(MountError::Hides {
            mountpoint: place.mountpoint().to_owned(),
            needed,
        });
    }
    crate::log::start(args.foreground, options.log.as_deref())
        .map_err(system("cannot open the log file"))?;
    if !args.foreground {
        daemon::detach().map_err(system("cannot leave the terminal"))?;
    }
    // Before there is a second thread.
    if options.access() == AccessMode::Users && rustix::process::geteuid().is_root() {
        service::become_user(&options.user)?;
    }
    let lock = LowerLock::take_after_unmount(place.lower())?;
    let record = RecordFile::in_directory(place.lower())?.read()?;
    let policies = Arc::new(Policies::new(&options.socket, record.volume));
    let users = match options.access() {
        AccessMode::Users => Some(known_users(&place, &options, &policies)?),
        AccessMode::Mounter => None,
    };
    let keys = open_volume(&place, &options)?;
    let fs = Fs::new(
        place.lower(),
        Arc::clone(&keys) as Arc<dyn Keys>,
        options.read_only,
    )
    .map_err(|errno| MountError::Lower {
        path: place.lower().to_owned(),
        errno,
    })?;
    let opens = Arc::new(Opens::new(Arc::clone(&policies), users.is_some()));
    let fs = fs
        .with_access_times(options.access_times)
        .with_opens(Arc::clone(&opens));
    let fs = Arc::new(match &users {
        Some(users) => fs.with_access(Arc::clone(users) as Arc<dyn Access>),
        None => fs,
    });
    // Caught before the mount is there: whoever sees it may end it, and it is taken down with it. Not earlier: until then a
    // signal ends the program, also while it waits for kmsd.
    let signals = catch_signals().map_err(system("cannot handle signals"))?;
    let mut active = ActiveMount::start(&place, lock, Arc::clone(&fs), &options)?;
    stop_on_signals(signals, active.stopper()).map_err(system("cannot handle signals"))?;
    let revoker = Arc::clone(active.revoker());
    revoker.set_denied(options.denied);
    let label = lease::label(place.mountpoint());
    let watching = (Arc::clone(&keys), Arc::clone(&revoker));
    opens.start().map_err(system("cannot start a thread"))?;
    let deciders = Deciders {
        policies: Arc::clone(&policies),
        users: users.clone(),
    };
    let watch = Watch::start(policies, watching, users, label);
    active.watched(watch.map_err(system("cannot start a thread"))?);
    let jobs = Arc::new(Jobs::default());
    let parts = (fs, revoker, deciders, Arc::clone(&jobs));
    let control = control_socket(&place, parts, &keys, &options)?;
    active.attach(control, jobs);
    active
        .probe()
        .map_err(system("the mount does not answer"))?;
    tracing::info!(
        volume = %keys.volume(),
        lower = %place.lower().display(),
        mountpoint = %place.mountpoint().display(),
        "mounted"
    );
    if args.foreground {
        // Only a service manager listens.
        drop(sd_notify::notify(&[sd_notify::NotifyState::Ready]));
    } else {
        daemon::ready().map_err(system("nobody waits for the mount"))?;
    }
    let ended = active.wait();
    opens.end();
    ended.map_err(system("the file system did not end well"))?;
    tracing::info!(mountpoint = %place.mountpoint().display(), "unmounted");
    Ok(())
}

/// Every open file and many directories take a descriptor. A service manager or shell starts programs with few, but lets
/// them have more.
fn allow_descriptors() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    // With few it works, too.
    let _ = setrlimit(Resource::Nofile, limit);
}

/// The daemon changes its directory: paths are resolved before.
fn absolute(options: &mut MountOptions) -> std::io::Result<()> {
    let full = |path: &PathBuf| std::path::absolute(path);
    options.socket = full(&options.socket)?;
    options.control = options.control.as_ref().map(full).transpose()?;
    options.log = options.log.as_ref().map(full).transpose()?;
    Ok(())
}

/// Reads the volume record and unlocks the root: a volume whose root is refused is not mounted.
fn open_volume(place: &Place, options: &MountOptions) -> Result<Arc<KmsdKeys>, VolumeError> {
    let record = RecordFile::in_directory(place.lower())?.read()?;
    // A kmsd that takes the call and says nothing must not hold a caller longer than the limit.
    let client = Client::new(&options.socket)
        .with_timeout(options.key_wait.max(std::time::Duration::from_secs(1)));
    let keys = KmsdKeys::new(client, record, options.key_wait);
    let (policy, generation) = crate::init::root_policy(place.lower())?;
    keys.unlock(&policy, generation)?;
    Ok(Arc::new(keys))
}

/// Those whose own grants count in a shared mount, for which kmsfs has to be a service.
fn known_users(
    place: &Place,
    options: &MountOptions,
    policies: &Arc<Policies>,
) -> Result<Arc<Users>, MountError> {
    let lease = lease::take(&options.socket, place.mountpoint(), options.key_wait)?;
    let (denied, limit) = (options.denied, options.key_wait);
    let users = Users::new(Arc::clone(policies), lease, denied, limit);
    Ok(Arc::new(users))
}

fn control_socket(
    place: &Place,
    (fs, revoker, deciders, jobs): (Arc<Fs>, Arc<Revoker>, Deciders, Arc<Jobs>),
    keys: &Arc<KmsdKeys>,
    options: &MountOptions,
) -> Result<ControlSocket, MountError> {
    let path = options
        .control
        .clone()
        .unwrap_or_else(|| control::default_path(&keys.volume()));
    let controlled = Controlled {
        lower: place.lower().to_owned(),
        mountpoint: place.mountpoint().to_owned(),
        fs,
        keys: Arc::clone(keys),
        revoker,
        deciders,
        record: RecordFile::in_directory(place.lower())?,
        record_lock: Arc::default(),
        jobs,
    };
    ControlSocket::open(&path, controlled).map_err(|source| MountError::Control { path, source })
}

fn catch_signals() -> std::io::Result<Signals> {
    Signals::new([SIGTERM, SIGINT, SIGHUP])
}

/// Those that have come since [`catch_signals`], too.
fn stop_on_signals(mut signals: Signals, stopper: Stopper) -> std::io::Result<()> {
    std::thread::Builder::new()
        .name("signals".to_owned())
        .spawn(move || {
            for signal in &mut signals {
                // A closed terminal is no reason to unmount.
                if signal != SIGHUP {
                    stopper.stop();
                }
            }
        })?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use rustix::process::{Resource, getrlimit, setrlimit};

    use super::*;

    #[test]
    fn descriptors_are_limited_by_the_administrator_and_not_by_the_shell() {
        let all = getrlimit(Resource::Nofile).maximum;
        let mut fewer = getrlimit(Resource::Nofile);
        fewer.current = all.map(|all| all.min(1 << 20) - 1);
        setrlimit(Resource::Nofile, fewer).unwrap();
        allow_descriptors();
        assert_eq!(getrlimit(Resource::Nofile).current, all);
    }
}
