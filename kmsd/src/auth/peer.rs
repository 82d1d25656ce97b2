//! What the kernel says about the other end of a connection.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tokio::net::UnixStream;

use super::process::Place;
use crate::sys::{self, PeerPidfd};

/// A peer, as it was when it connected.
#[derive(Clone, Debug)]
pub(crate) struct Peer {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) pid: u32,
    /// Its supplementary groups.
    pub(crate) groups: Vec<u32>,
    /// Label of the security module.
    pub(crate) label: Option<String>,
    /// Its process.
    pub(crate) process: Arc<PeerProcess>,
}

/// The process of a peer. Only with a pidfd is it known to be the one that connected.
#[derive(Debug)]
pub(crate) struct PeerProcess {
    pub(super) pidfd: Pidfd,
    /// Its directory in /proc: opened once, it never becomes another process's.
    pub(super) place: Option<Place>,
}

/// What vouches for a process id.
#[derive(Debug)]
pub(super) enum Pidfd {
    Held(OwnedFd),
    /// The process had ended before it could be looked at.
    Gone,
    /// Nothing (before Linux 6.5): the number may have been re-used.
    Unsupported,
}

impl Peer {
    /// Asks the kernel. `pidfds`: whether to use pidfds where the kernel has them.
    pub(crate) fn of(stream: &UnixStream, pidfds: bool) -> io::Result<Self> {
        let credentials = stream.peer_cred()?;
        let pid = credentials
            .pid()
            .and_then(|pid| u32::try_from(pid).ok())
            .unwrap_or(0);
        let pidfd = match pidfds {
            true => sys::peer_pidfd(stream)?,
            false => PeerPidfd::Unsupported,
        };
        Ok(Self {
            uid: credentials.uid(),
            gid: credentials.gid(),
            pid,
            groups: sys::peer_groups(stream)?,
            label: sys::peer_label(stream),
            process: Arc::new(PeerProcess::open(pid, pidfd)),
        })
    }
}

impl PeerProcess {
    fn open(pid: u32, pidfd: PeerPidfd) -> Self {
        let pidfd = match pidfd {
            PeerPidfd::Held(fd) => Pidfd::Held(fd),
            PeerPidfd::Gone => Pidfd::Gone,
            PeerPidfd::Unsupported => Pidfd::Unsupported,
        };
        let mut process = Self { pidfd, place: None };
        // The number may have been re-used between the connect and now; when the process still lives
        // after the directory was opened, the directory is its own.
        let place = Place::open(pid);
        if process.may_live() {
            process.place = place;
        }
        process
    }

    /// Whether the process that connected has not been seen to end.
    pub(crate) fn may_live(&self) -> bool {
        match &self.pidfd {
            Pidfd::Held(fd) => {
                let mut fds = [PollFd::new(fd, PollFlags::IN)];
                // Readable once the process has ended.
                matches!(poll(&mut fds, Some(&Timespec::default())), Ok(0))
            }
            Pidfd::Gone => false,
            Pidfd::Unsupported => true,
        }
    }

    /// Whether a pidfd vouches for what is read about the process.
    pub(crate) fn is_checked(&self) -> bool {
        matches!(self.pidfd, Pidfd::Held(_) | Pidfd::Gone)
    }
}
