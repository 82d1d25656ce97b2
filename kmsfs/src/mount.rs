//! A mount from its beginning to its end.
//!
//! Order of the beginning: lock the lower directory, unlock the root policy (a volume whose key is
//! refused is never mounted), open the file system, mount, answer. Order of the end: out of the
//! tree, no more requests, everything durable, keys gone, control socket gone, lock released.

pub mod daemon;
pub mod device;
pub(crate) mod hides;
pub mod lock;
pub mod remount;
pub mod table;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use self::device::{DeviceError, Mounted, Unmounted};
use self::lock::{LockError, LowerLock};
use crate::access::watch::Watch;
use crate::control::ControlSocket;
use crate::errno::Errno;
use crate::fs::Fs;
use crate::fuse::notify::Notifier;
use crate::fuse::session::Session;
use crate::jobs::Jobs;
use crate::options::MountOptions;
use crate::revoke::{Abort, Revoker, Settings};

/// How long an unmount waits for the users of a busy mount.
const BUSY_WAIT: Duration = Duration::from_secs(3);
/// How long those users may go on after the mount is out of the tree.
const LINGER: Duration = Duration::from_secs(10);

/// Why a mount did not come about, or did not end well.
#[derive(Debug, thiserror::Error)]
pub enum MountError {
    /// A path that cannot be used.
    #[error("{path}: {source}; LOWER must be a directory made by `kmsctl fs init`, MOUNTPOINT an existing directory", path = path.display())]
    Path {
        /// The path.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The mount would hide its own lower directory or lie in it.
    #[error("{path} lies in the lower directory; mount somewhere else", path = path.display())]
    Nested {
        /// The mount point.
        path: PathBuf,
    },
    /// The mount would hide what kmsd needs.
    #[error("a mount on {mountpoint} would cover {needed}, which kmsd needs to open it; mount somewhere else", mountpoint = mountpoint.display(), needed = needed.display())]
    Hides {
        /// The mount point.
        mountpoint: PathBuf,
        /// What kmsd needs.
        needed: PathBuf,
    },
    /// Another mount has the lower directory.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// The kernel or fusermount3 refused.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// The volume or its root key.
    #[error(transparent)]
    Volume(#[from] crate::volume::VolumeError),
    /// The lower tree.
    #[error("cannot use the lower directory {path}: {errno}; see the log for what is damaged", path = path.display())]
    Lower {
        /// The lower directory.
        path: PathBuf,
        /// What is wrong.
        errno: Errno,
    },
    /// The control socket.
    #[error("cannot make the control socket {path}: {source}; choose another with --control", path = path.display())]
    Control {
        /// Where it should be.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The user that kmsfs should become.
    #[error(transparent)]
    Service(#[from] crate::service::ServiceError),
    /// No lease from kmsd.
    #[error(transparent)]
    Lease(#[from] crate::access::lease::LeaseError),
    /// Something the operating system should always allow.
    #[error("{what}: {source}")]
    System {
        /// What was tried.
        what: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
}

pub(crate) fn system(what: &'static str) -> impl Fn(io::Error) -> MountError {
    move |source| MountError::System { what, source }
}

/// Where a mount takes from and where it goes.
#[derive(Clone, Debug)]
pub struct Place {
    lower: PathBuf,
    mountpoint: PathBuf,
}

impl Place {
    /// Resolves both directories.
    ///
    /// # Errors
    /// One is not a directory, or the mount point lies in the lower directory.
    pub fn resolve(lower: &Path, mountpoint: &Path) -> Result<Place, MountError> {
        let resolve = |path: &Path| {
            let directory = path.canonicalize().and_then(|path| {
                if path.is_dir() {
                    Ok(path)
                } else {
                    Err(io::ErrorKind::NotADirectory.into())
                }
            });
            directory.map_err(|source| MountError::Path {
                path: path.to_owned(),
                source,
            })
        };
        let (lower, mountpoint) = (resolve(lower)?, resolve(mountpoint)?);
        if mountpoint.starts_with(&lower) {
            return Err(MountError::Nested { path: mountpoint });
        }
        Ok(Place { lower, mountpoint })
    }

    /// The lower directory, absolute and without links.
    #[must_use]
    pub fn lower(&self) -> &Path {
        &self.lower
    }

    /// The mount point, absolute and without links.
    #[must_use]
    pub fn mountpoint(&self) -> &Path {
        &self.mountpoint
    }
}

/// A mounted file system that answers requests.
pub struct ActiveMount {
    mounted: Mounted,
    fs: Option<Arc<Fs>>,
    events: Receiver<Event>,
    stopper: Stopper,
    notifier: Notifier,
    revoker: Arc<Revoker>,
    control: Option<ControlSocket>,
    watch: Option<Watch>,
    jobs: Arc<Jobs>,
    lock: LowerLock,
}

/// Asks a mount to end. Can be used from any thread.
#[derive(Clone)]
pub struct Stopper(mpsc::Sender<Event>);

enum Event {
    Stop,
    Ended(io::Result<()>),
}

impl Stopper {
    /// Begins a clean unmount. A second call does not wait for users of a busy mount any longer.
    pub fn stop(&self) {
        // Nobody listens: it has ended already.
        drop(self.0.send(Event::Stop));
    }
}

impl ActiveMount {
    /// Mounts a file system whose lower directory is locked, and starts answering.
    ///
    /// # Errors
    /// FUSE is not available or the mount is refused.
    pub fn start(
        place: &Place,
        lock: LowerLock,
        fs: Arc<Fs>,
        options: &MountOptions,
    ) -> Result<ActiveMount, MountError> {
        let (connection, mounted) = Mounted::mount(&place.lower, &place.mountpoint, options)?;
        let session = Session::negotiate(
            connection,
            Arc::clone(&fs),
            options.threads,
            options.old_kernel,
        )
        .and_then(|session| {
            let settings = Settings {
                key_wait: options.key_wait,
                limit: options.revoke_limit,
                abort: Abort::prepare(place.mountpoint.clone(), mounted.device()),
                device: mounted.device().map(str::to_owned),
            };
            let revoker = Revoker::start(&fs, session.kernel(), settings)?;
            Ok((session.notifier()?, Arc::new(revoker), session.start()?))
        });
        let (notifier, revoker, running) = session.map_err(|source| {
            drop(mounted.unmount(true));
            system("cannot serve the mount")(source)
        })?;
        let (sender, events) = mpsc::channel();
        let ended = sender.clone();
        let watcher = std::thread::Builder::new()
            .name("fuse-join".to_owned())
            // The receiver is gone only if nobody waits for the end.
            .spawn(move || drop(ended.send(Event::Ended(running.join()))));
        watcher.map_err(|source| {
            drop(mounted.unmount(true));
            system("cannot start a thread")(source)
        })?;
        if options.readahead_kib > 0
            && crate::service::can_mount()
            && let Err(error) = mounted.set_readahead(options.readahead_kib)
        {
            tracing::warn!(%error, kib = options.readahead_kib, "readahead stays at the kernel's default");
        }
        Ok(ActiveMount {
            mounted,
            fs: Some(fs),
            events,
            stopper: Stopper(sender),
            notifier,
            revoker,
            control: None,
            watch: None,
            jobs: Arc::default(),
            lock,
        })
    }

    /// Attaches the control socket, to be removed with the mount, and the jobs that it can begin, to be stopped with it.
    pub fn attach(&mut self, control: ControlSocket, jobs: Arc<Jobs>) {
        self.control = Some(control);
        self.jobs = jobs;
    }

    /// Attaches what hears of changes, to be ended with the mount.
    pub fn watched(&mut self, watch: Watch) {
        self.watch = Some(watch);
    }

    /// What ends this mount.
    #[must_use]
    pub fn stopper(&self) -> Stopper {
        self.stopper.clone()
    }

    /// Tells the kernel to forget what it cached.
    #[must_use]
    pub fn notifier(&self) -> &Notifier {
        &self.notifier
    }

    /// Ends access to what is open in it.
    #[must_use]
    pub fn revoker(&self) -> &Arc<Revoker> {
        &self.revoker
    }

    /// Where it is mounted.
    #[must_use]
    pub fn mountpoint(&self) -> &Path {
        self.mounted.mountpoint()
    }

    /// Asks the file system one question through the kernel.
    ///
    /// # Errors
    /// It does not answer as a mounted file system does.
    pub fn probe(&self) -> io::Result<()> {
        // Not one about the root, which a service may be refused.
        rustix::fs::statfs(self.mounted.mountpoint())?;
        Ok(())
    }

    /// Serves until somebody unmounts it or [`Stopper::stop`] is called, then ends it.
    ///
    /// # Errors
    /// What could not be made durable, or a request thread that failed.
    pub fn wait(mut self) -> io::Result<()> {
        let served = match self.events.recv() {
            Ok(Event::Ended(result)) => result,
            Ok(Event::Stop) | Err(_) => self.unmount(),
        };
        let aborted = self.revoker.aborted();
        let synced = self.finish();
        if aborted {
            return Err(io::Error::other(
                "a revocation could not be finished, and the mount was ended; unmount it, and mount again",
            ));
        }
        served.and(synced)
    }

    /// Out of the tree, then until the last request thread has ended.
    fn unmount(&self) -> io::Result<()> {
        if let Some(fs) = &self.fs
            && let Err(errno) = fs.thaw(None)
        {
            tracing::error!(%errno, "cannot thaw; whoever waits to change something is not answered");
        }
        let deadline = Instant::now() + BUSY_WAIT;
        let mut warned = false;
        loop {
            match self.mounted.unmount(false) {
                Ok(Unmounted::Gone) => break,
                Ok(Unmounted::Busy) => {}
                Err(error) => tracing::warn!(%error, "unmount failed"),
            }
            if !warned {
                let users = self.mounted.users().join(", ");
                tracing::warn!(mountpoint = %self.mountpoint().display(), users, "the mount is busy");
                warned = true;
            }
            let pause = Duration::from_millis(100);
            match self.events.recv_timeout(pause) {
                Ok(Event::Ended(result)) => return result,
                Ok(Event::Stop) => {}
                Err(_) if Instant::now() < deadline => continue,
                Err(_) => {}
            }
            let users = self.mounted.users().join(", ");
            tracing::warn!(
                users,
                "unmounting lazily: what is open stays usable until it is closed"
            );
            self.mounted.unmount(true)?;
            break;
        }
        if let Some(fs) = &self.fs
            && let Err(errno) = fs.sync_all()
        {
            tracing::error!(%errno, "cannot make directory headers durable");
        }
        match self.events.recv_timeout(LINGER) {
            Ok(Event::Ended(result)) => result,
            Ok(Event::Stop) | Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {
                tracing::warn!("ending although files are open: their users get ENOTCONN");
                Ok(())
            }
        }
    }

    /// Everything durable, keys and sockets gone.
    fn finish(&mut self) -> io::Result<()> {
        self.jobs.close();
        drop(self.control.take());
        self.revoker.stop();
        let Some(fs) = self.fs.take() else {
            return Ok(());
        };
        let synced = fs.sync_all();
        drop(fs);
        if let Some(watch) = self.watch.take() {
            watch.end();
        }
        let _: &LowerLock = &self.lock;
        synced.map_err(|errno| io::Error::from_raw_os_error(errno.raw()))
    }
}

impl Drop for ActiveMount {
    /// Only for a mount nobody waited for, as in a failed start or test: out of the tree at once.
    fn drop(&mut self) {
        if self.fs.is_some() {
            drop(self.mounted.unmount(true));
            drop(self.finish());
        }
    }
}
