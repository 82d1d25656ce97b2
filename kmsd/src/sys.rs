//! What kmsd needs of the kernel that no safe interface gives. The only unsafe code of kmsd.

#![allow(
    unsafe_code,
    reason = "getsockopt(SO_PEERGROUPS, SO_PEERPIDFD, SO_PEERSEC) and taking the descriptors that systemd passes"
)]

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

/// Most supplementary groups a process can have (`NGROUPS_MAX`).
const MAX_GROUPS: usize = 65_536;

/// The supplementary groups of the peer of a connected Unix socket, as the kernel recorded them when
/// it connected (`SO_PEERGROUPS`, unix(7), Linux 4.13).
///
/// # Errors
/// The socket has no recorded peer.
pub(crate) fn peer_groups(socket: &impl AsRawFd) -> io::Result<Vec<u32>> {
    let mut groups = vec![0u32; 64];
    loop {
        let size = groups.len() * size_of::<u32>();
        let mut length = libc::socklen_t::try_from(size)
            .map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
        // SAFETY: `groups` has `length` writable bytes, the kernel writes at most that many and
        // stores the length it wants to write (or needs) in `length`.
        let result = unsafe {
            libc::getsockopt(
                socket.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_PEERGROUPS,
                groups.as_mut_ptr().cast(),
                &raw mut length,
            )
        };
        let count = length as usize / size_of::<u32>();
        if result == 0 {
            groups.truncate(count);
            return Ok(groups);
        }
        let error = io::Error::last_os_error();
        if error.raw_os_error() != Some(libc::ERANGE) || count > MAX_GROUPS {
            return Err(error);
        }
        groups.resize(count.max(groups.len() + 1), 0);
    }
}

/// A pidfd of the peer of a connected Unix socket.
#[derive(Debug)]
pub(crate) enum PeerPidfd {
    /// It stands for the process that connected, whatever becomes of its number.
    Held(OwnedFd),
    /// The process has ended already.
    Gone,
    /// The kernel has no such option (before Linux 6.5).
    Unsupported,
}

/// The pidfd of the process that connected (`SO_PEERPIDFD`, Linux 6.5).
///
/// # Errors
/// The socket has no recorded peer, or there are no descriptors left.
pub(crate) fn peer_pidfd(socket: &impl AsRawFd) -> io::Result<PeerPidfd> {
    let mut fd: RawFd = -1;
    let mut length = size_of::<RawFd>() as libc::socklen_t;
    // SAFETY: `fd` has `length` writable bytes, which is what the option writes.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERPIDFD,
            (&raw mut fd).cast(),
            &raw mut length,
        )
    };
    if result == 0 && fd >= 0 {
        // SAFETY: the kernel has just made this descriptor for us (close-on-exec), nothing else owns it.
        return Ok(PeerPidfd::Held(unsafe { OwnedFd::from_raw_fd(fd) }));
    }
    let error = io::Error::last_os_error();
    match error.raw_os_error() {
        Some(libc::ENOPROTOOPT) => Ok(PeerPidfd::Unsupported),
        Some(libc::ESRCH) => Ok(PeerPidfd::Gone),
        // A socket without a peer has no process either.
        Some(_) | None => Err(error),
    }
}

/// The label that the security module gave the peer (`SO_PEERSEC`); `None` without such a module.
pub(crate) fn peer_label(socket: &impl AsRawFd) -> Option<String> {
    let mut label = vec![0u8; 512];
    let mut length = libc::socklen_t::try_from(label.len()).ok()?;
    // SAFETY: `label` has `length` writable bytes, the kernel writes at most that many and stores the
    // length in `length`.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERSEC,
            label.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    if result != 0 {
        return None;
    }
    label.truncate(length as usize);
    let label = String::from_utf8(label).ok()?;
    let label = label.trim_end_matches(['\0', '\n']);
    (!label.is_empty()).then(|| label.to_owned())
}

/// Takes ownership of the descriptors that the service manager passed (`LISTEN_FDS`), once.
///
/// # Errors
/// The environment names descriptors that are not open.
pub(crate) fn take_listen_fds() -> io::Result<Vec<OwnedFd>> {
    use std::sync::atomic::{AtomicBool, Ordering};
    static TAKEN: AtomicBool = AtomicBool::new(false);
    if TAKEN.swap(true, Ordering::SeqCst) {
        return Ok(Vec::new());
    }
    let passed: Vec<RawFd> = sd_notify::listen_fds()?.collect();
    // SAFETY: `listen_fds` checked that they were passed to this very process and are open; nothing
    // else in the program owns descriptors by these numbers, and `TAKEN` lets this happen only once.
    Ok(passed
        .into_iter()
        .map(|fd| unsafe { OwnedFd::from_raw_fd(fd) })
        .collect())
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn peer_groups_are_those_of_this_process() {
        let (a, _b) = UnixStream::pair().unwrap();
        let mut seen = peer_groups(&a).unwrap();
        let mut own: Vec<u32> = rustix::process::getgroups()
            .unwrap()
            .into_iter()
            .map(|g| g.as_raw())
            .collect();
        seen.sort_unstable();
        own.sort_unstable();
        assert_eq!(seen, own);
    }

    #[test]
    fn the_pidfd_is_of_this_process() {
        let (a, _b) = UnixStream::pair().unwrap();
        match peer_pidfd(&a).unwrap() {
            PeerPidfd::Held(fd) => {
                let info = format!("/proc/self/fdinfo/{}", fd.as_raw_fd());
                let info = std::fs::read_to_string(info).unwrap();
                let pid = format!("Pid:\t{}\n", std::process::id());
                assert!(info.contains(&pid), "{info}");
            }
            PeerPidfd::Unsupported => println!("skipped: no SO_PEERPIDFD before Linux 6.5"),
            PeerPidfd::Gone => panic!("this process lives"),
        }
    }

    #[test]
    fn a_file_has_no_peer() {
        let file = std::fs::File::open("/dev/null").unwrap();
        assert!(peer_groups(&file).is_err());
        assert!(peer_pidfd(&file).is_err());
        assert_eq!(peer_label(&file), None);
    }
}
