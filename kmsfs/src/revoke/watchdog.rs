//! A revocation that cannot be finished ends the mount: nobody gets anything any more then.

use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use rustix::fs::{Mode, OFlags};
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, UnmountFlags};

/// How a mount is ended when nothing else helps.
#[derive(Debug)]
pub struct Abort {
    /// The kernel's file for it, opened beforehand: later there may be no right or no time to.
    switch: Option<File>,
    mountpoint: PathBuf,
}

impl Abort {
    /// For the mount at `mountpoint`, whose device is `major:minor`.
    #[must_use]
    pub fn prepare(mountpoint: PathBuf, device: Option<&str>) -> Abort {
        let switch = device.and_then(|device| {
            let connection = connection(device)?;
            match switch(connection) {
                Ok(switch) => Some(switch),
                Err(error) => {
                    tracing::debug!(%error, "no switch of the kernel to end the mount with");
                    None
                }
            }
        });
        Abort { switch, mountpoint }
    }

    /// Writes to a file instead.
    #[cfg(test)]
    pub(crate) fn into_file(switch: File) -> Abort {
        Abort {
            switch: Some(switch),
            mountpoint: PathBuf::from("/nowhere"),
        }
    }

    /// Fails every request, also those that wait, and all later ones. If that cannot be done the mount is taken out of the
    /// tree and the process ends, with which the kernel does the same.
    fn now(&self) {
        let written = match &self.switch {
            Some(switch) => {
                let mut switch = switch;
                switch.write_all(b"1")
            }
            None => Err(io::ErrorKind::NotFound.into()),
        };
        if let Err(error) = written {
            tracing::error!(%error, "the mount cannot be aborted: it is taken down, and this process ends");
            if rustix::mount::unmount(&self.mountpoint, UnmountFlags::DETACH).is_err() {
                let mut helper = std::process::Command::new("fusermount3");
                drop(helper.arg("-uz").arg("--").arg(&self.mountpoint).status());
            }
            std::process::exit(1);
        }
    }
}

/// The number of a connection under `/sys/fs/fuse/connections`: the kernel's form of the device number.
fn connection(device: &str) -> Option<u64> {
    let (major, minor) = device.split_once(':')?;
    let (major, minor): (u64, u64) = (major.parse().ok()?, minor.parse().ok()?);
    Some((major << 20) | minor)
}

/// The file that aborts a connection, where it is mounted or else in a mount of our own that nobody sees.
fn switch(connection: u64) -> io::Result<File> {
    let name = format!("{connection}/abort");
    let usual = PathBuf::from("/sys/fs/fuse/connections").join(&name);
    match File::options().write(true).open(usual) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        opened => return opened,
    }
    let fs = rustix::mount::fsopen("fusectl", FsOpenFlags::FSOPEN_CLOEXEC)?;
    rustix::mount::fsconfig_create(&fs)?;
    let root = rustix::mount::fsmount(&fs, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())?;
    let flags = OFlags::WRONLY | OFlags::CLOEXEC;
    let switch: OwnedFd = rustix::fs::openat(&root, name, flags, Mode::empty())?;
    Ok(File::from(switch))
}

/// Watches over one revocation at a time.
pub(super) struct Watchdog {
    limit: Duration,
    state: Mutex<State>,
    changed: Condvar,
    fired: AtomicBool,
    thread: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Default)]
struct State {
    /// What has to end by when.
    watched: Option<(String, Instant)>,
    stopped: bool,
}

impl Watchdog {
    pub(super) fn start(limit: Duration, abort: Abort) -> io::Result<Arc<Watchdog>> {
        let watchdog = Arc::new(Watchdog {
            limit,
            state: Mutex::default(),
            changed: Condvar::new(),
            fired: AtomicBool::new(false),
            thread: Mutex::default(),
        });
        let watching = Arc::clone(&watchdog);
        let thread = std::thread::Builder::new()
            .name("watchdog".to_owned())
            .spawn(move || watching.run(&abort))?;
        *watchdog.thread.lock() = Some(thread);
        Ok(watchdog)
    }

    /// Does `work`, and ends the mount if that takes too long.
    pub(super) fn guard<T>(&self, what: &str, work: impl FnOnce() -> T) -> T {
        self.state.lock().watched = Some((what.to_owned(), Instant::now() + self.limit));
        self.changed.notify_all();
        let done = work();
        self.state.lock().watched = None;
        done
    }

    /// Something was finished: what is watched does not hang, however much of it there is.
    pub(super) fn moves_on(&self) {
        if let Some((_, until)) = &mut self.state.lock().watched {
            *until = Instant::now() + self.limit;
        }
    }

    /// Ends the mount now, because `what` cannot be finished. On return it is ended.
    pub(super) fn end(&self, what: &str) {
        let mut state = self.state.lock();
        while !self.fired() && !state.stopped {
            state.watched = Some((what.to_owned(), Instant::now()));
            self.changed.notify_all();
            self.changed.wait_for(&mut state, Duration::from_millis(50));
        }
    }

    /// Whether it ended the mount.
    pub(super) fn fired(&self) -> bool {
        self.fired.load(Ordering::Acquire)
    }

    fn run(&self, abort: &Abort) {
        let mut state = self.state.lock();
        while !state.stopped {
            match &state.watched {
                None => self.changed.wait(&mut state),
                Some((what, until)) if Instant::now() >= *until => {
                    tracing::error!(
                        limit = ?self.limit,
                        mountpoint = %abort.mountpoint.display(),
                        "{what} could not be finished in time: the mount ends, so that nobody gets anything any more. \
                         Look for a lower file system that does not answer, unmount, and mount again"
                    );
                    self.fired.store(true, Ordering::Release);
                    state.watched = None;
                    abort.now();
                }
                Some((_, until)) => {
                    let until = *until;
                    self.changed.wait_until(&mut state, until);
                }
            }
        }
    }

    pub(super) fn stop(&self) {
        self.state.lock().stopped = true;
        self.changed.notify_all();
        if let Some(thread) = self.thread.lock().take()
            && thread.join().is_err()
        {
            tracing::error!("the watchdog panicked");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_are_numbered_by_their_device() {
        assert_eq!(connection("0:57"), Some(57));
        assert_eq!(connection("8:1"), Some((8 << 20) + 1));
        assert_eq!(connection("57"), None);
    }

    #[test]
    fn only_what_takes_too_long_ends_the_mount() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("abort");
        let switch = File::create(&path).unwrap();
        let abort = Abort::into_file(switch);
        let watchdog = Watchdog::start(Duration::from_millis(300), abort).unwrap();
        assert_eq!(watchdog.guard("a short one", || 7), 7);
        assert!(!watchdog.fired());
        watchdog.guard("a long one", || {
            while !watchdog.fired() || std::fs::read(&path).unwrap().is_empty() {
                std::thread::yield_now();
            }
        });
        assert_eq!(std::fs::read(&path).unwrap(), b"1");
        watchdog.stop();
    }

    #[test]
    fn what_cannot_be_finished_ends_the_mount_at_once() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("abort");
        let abort = Abort::into_file(File::create(&path).unwrap());
        let watchdog = Watchdog::start(Duration::from_secs(3600), abort).unwrap();
        watchdog.end("something");
        assert!(watchdog.fired());
        // The state is free again only after that.
        watchdog.end("something else");
        assert_eq!(std::fs::read(&path).unwrap(), b"1");
        watchdog.stop();
    }
}
