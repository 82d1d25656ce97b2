//! The Unix socket: passed by the service manager, or made here.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, PermissionsExt, chown};
use std::os::unix::net::{UnixListener as StdListener, UnixStream as StdStream};
use std::path::{Path, PathBuf};

use crate::auth::group_id;
use crate::config::{ConfigError, Server};
use crate::sys;

pub(crate) mod connection;
pub(crate) mod deadline;
pub mod network;
pub(crate) mod places;
pub mod server;
pub(crate) mod source;
#[cfg(test)]
mod tests;
pub mod tls;
pub(crate) mod vouched;

/// Why there is no socket to serve.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ListenError {
    /// Another process answers there.
    #[error("another kmsd is listening on {}", .0.display())]
    InUse(PathBuf),
    /// Something else is in the way.
    #[error("{} exists and is not a socket", .0.display())]
    NotASocket(PathBuf),
    /// A system call failed.
    #[error("the socket {} cannot be made: {source}", path.display())]
    Io {
        /// The socket.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The service manager passed something that cannot be served.
    #[error("the descriptors passed by the service manager cannot be used: {0}")]
    Passed(String),
    /// The group of the socket does not exist.
    #[error(transparent)]
    Config(#[from] ConfigError),
}

impl ListenError {
    /// What the operator does next.
    pub fn next_step(&self) -> &'static str {
        match self {
            Self::InUse(_) => {
                "Stop the other one (`systemctl status kmsd`), or give this one its own `server.socket` and `store.directory`."
            }
            Self::NotASocket(_) => "Move that file away, or set another `server.socket`.",
            Self::Io { .. } => {
                "Make the directory of the socket and let the user of kmsd write there (`RuntimeDirectory=kmsd` in the unit)."
            }
            Self::Passed(_) => "Look at ListenStream= in kmsd.socket: one Unix stream socket.",
            Self::Config(error) => error.next_step(),
        }
    }
}

/// A socket that is ready to accept.
#[derive(Debug)]
pub struct Listener {
    listener: StdListener,
    /// To be removed at the end; `None` for a passed socket.
    path: Option<PathBuf>,
}

impl Listener {
    /// Takes the socket that the service manager passed, or makes the configured one.
    ///
    /// # Errors
    /// See [`ListenError`].
    pub fn open(server: &Server) -> Result<Self, ListenError> {
        let passed = sys::take_listen_fds().map_err(|e| ListenError::Passed(e.to_string()))?;
        match <[OwnedFd; 1]>::try_from(passed) {
            Ok([fd]) => Self::from_fd(fd),
            Err(fds) if fds.is_empty() => Self::bind(server),
            Err(fds) => Err(ListenError::Passed(format!("{} instead of one", fds.len()))),
        }
    }

    fn from_fd(fd: OwnedFd) -> Result<Self, ListenError> {
        let refused = |reason: String| ListenError::Passed(reason);
        let listening = rustix::net::sockopt::socket_acceptconn(&fd);
        if !listening.map_err(|e| refused(e.to_string()))? {
            return Err(refused("the socket does not listen".into()));
        }
        let listener = StdListener::from(fd);
        listener
            .local_addr()
            .map_err(|e| refused(format!("not a Unix socket: {e}")))?;
        vouched::ask_for_credentials(&listener).map_err(|e| refused(e.to_string()))?;
        Ok(Self {
            listener,
            path: None,
        })
    }

    /// Makes the socket under a temporary name, sets group and mode, and only then moves it into
    /// place: nobody can connect before, and a stale socket of an earlier run is replaced.
    pub(crate) fn bind(server: &Server) -> Result<Self, ListenError> {
        let path = &server.socket;
        let failed = |source| ListenError::Io {
            path: path.clone(),
            source,
        };
        check_place(path)?;
        let mode = server.mode()?;
        let group = match server.socket_group.as_ref() {
            Some(group) => Some(group_id(group, "server.socket_group")?),
            None => server
                .admin_group
                .as_ref()
                .map(|group| group_id(group, "server.admin_group"))
                .transpose()?,
        };
        let mut name = path.clone().into_os_string();
        name.push(format!(".{}", std::process::id()));
        let temporary = PathBuf::from(name);
        let _ = fs::remove_file(&temporary);
        let listener = StdListener::bind(&temporary).map_err(failed)?;
        let placed = vouched::ask_for_credentials(&listener)
            .and_then(|()| group.map_or(Ok(()), |gid| chown(&temporary, None, Some(gid))))
            .and_then(|()| fs::set_permissions(&temporary, fs::Permissions::from_mode(mode)))
            .and_then(|()| fs::rename(&temporary, path));
        if let Err(source) = placed {
            let _ = fs::remove_file(&temporary);
            return Err(failed(source));
        }
        Ok(Self {
            listener,
            path: Some(path.clone()),
        })
    }

    /// Whether the service manager passed it.
    pub fn is_passed(&self) -> bool {
        self.path.is_none()
    }

    /// The socket for the runtime, and the guard that removes its name.
    ///
    /// # Errors
    /// The socket cannot be made non-blocking.
    pub(crate) fn into_tokio(self) -> io::Result<(tokio::net::UnixListener, Cleanup)> {
        self.listener.set_nonblocking(true)?;
        let listener = tokio::net::UnixListener::from_std(self.listener)?;
        Ok((listener, Cleanup(self.path)))
    }
}

/// Removes the socket's name when dropped.
#[derive(Debug)]
pub(crate) struct Cleanup(Option<PathBuf>);

impl Drop for Cleanup {
    fn drop(&mut self) {
        if let Some(path) = &self.0 {
            let _ = fs::remove_file(path);
        }
    }
}

/// A place is free when nothing is there, or a socket on which nobody listens.
fn check_place(path: &Path) -> Result<(), ListenError> {
    let kind = match fs::symlink_metadata(path) {
        Ok(metadata) => metadata.file_type(),
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(source) => {
            return Err(ListenError::Io {
                path: path.to_owned(),
                source,
            });
        }
    };
    if !kind.is_socket() {
        return Err(ListenError::NotASocket(path.to_owned()));
    }
    match StdStream::connect(path) {
        Ok(_) => Err(ListenError::InUse(path.to_owned())),
        Err(_) => Ok(()),
    }
}
