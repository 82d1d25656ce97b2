//! A blocking client of kmsd over its Unix socket, or (with the feature `tls`) over the network.
//!
//! Connections are kept and re-used, one per concurrent caller. A connection that the server closed
//! while idle (a restart of kmsd) is replaced without the caller noticing, unless the request may have
//! been carried out already.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::{ApiError, LeaseReport, Operation, Reliance, Request, ResourceId, Response};

mod connection;
mod lease;
#[cfg(feature = "tls")]
mod remote;
#[cfg(test)]
mod tests;

use connection::{Connection, Failure};
pub use lease::{Answered, Kept, LeaseClient, News};
#[cfg(feature = "tls")]
pub use remote::{Remote, RemoteError};

/// Where kmsd listens unless configured otherwise.
pub const DEFAULT_SOCKET: &str = "/run/kmsd/kmsd.sock";

/// Idle connections kept for re-use.
const MAX_IDLE: usize = 8;

/// What can go wrong with a call.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// kmsd could not be reached, or did not answer in time ([`io::ErrorKind::TimedOut`]).
    #[error("kmsd cannot be reached on {}: {source}", socket.display())]
    Unreachable {
        /// The socket.
        socket: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// kmsd answered with an error.
    #[error("{0}")]
    Api(ApiError),
    /// What answered does not speak kmsd's protocol.
    #[error("the answer on the kmsd socket is not understood: {0}")]
    Protocol(String),
}

impl ClientError {
    /// The API error, if it is one.
    pub fn api(&self) -> Option<&ApiError> {
        match self {
            Self::Api(error) => Some(error),
            Self::Unreachable { .. } | Self::Protocol(_) => None,
        }
    }
}

/// A user on whose behalf a service asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct User {
    /// User id.
    pub uid: u32,
    /// Primary group id; the supplementary groups are those of the name service.
    pub gid: u32,
    /// Process id, for the record.
    pub pid: u32,
}

/// As what a service asks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Asking {
    /// For this user; for itself without one.
    pub user: Option<User>,
    /// Under this lease, if it wants to rely on the answer for a while.
    pub lease: Option<ResourceId>,
    /// Until when to wait for the answer, if that is earlier than the client's timeout.
    pub deadline: Option<Instant>,
}

/// An answer to a service, and how long it may be relied on.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer<T> {
    /// The answer.
    pub output: T,
    /// How long; `None`: not at all.
    pub reliance: Option<Reliance>,
}

/// The Region and account that requests are for; those of kmsd's configuration without them.
#[derive(Clone, Debug, Default)]
struct Place {
    region: Option<String>,
    account: Option<String>,
}

/// A client; cheap to share between threads.
pub struct Client {
    /// Of a kmsd of the network: its URL.
    socket: PathBuf,
    #[cfg(feature = "tls")]
    remote: Option<Remote>,
    timeout: Duration,
    place: Place,
    idle: Mutex<Vec<Connection>>,
    report: Mutex<Option<LeaseReport>>,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client")
            .field("socket", &self.socket)
            .finish_non_exhaustive()
    }
}

impl Client {
    /// A client of the kmsd at `socket`, with a timeout of 30 s per call. Does not connect yet.
    pub fn new(socket: impl Into<PathBuf>) -> Self {
        Self {
            socket: socket.into(),
            #[cfg(feature = "tls")]
            remote: None,
            timeout: Duration::from_secs(30),
            place: Place::default(),
            idle: Mutex::default(),
            report: Mutex::default(),
        }
    }

    /// A client of a kmsd of the network. Does not connect yet.
    #[cfg(feature = "tls")]
    pub fn of_remote(remote: Remote) -> Self {
        Self {
            remote: Some(remote),
            ..Self::new("")
        }
        .named()
    }

    #[cfg(feature = "tls")]
    fn named(mut self) -> Self {
        if let Some(remote) = &self.remote {
            self.socket = remote.url().into();
        }
        self
    }

    fn connect(&self, deadline: Instant) -> io::Result<Connection> {
        #[cfg(feature = "tls")]
        if let Some(remote) = &self.remote {
            return Ok(Connection::new(remote.open(deadline)?));
        }
        Connection::open(&self.socket, deadline)
    }

    /// The head of a request, without its last, empty line.
    fn head(&self, target: &str, asking: Asking, body: &[u8]) -> String {
        #[cfg(feature = "tls")]
        if let Some(remote) = &self.remote {
            return remote.head(target, body);
        }
        connection::head(target, (asking, &self.place), body)
    }

    /// The same with another timeout per call (connecting included).
    #[must_use]
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// The same, asking in another Region or account than those of kmsd's configuration. The names go into headers as they
    /// are: letters, digits and hyphens.
    #[must_use]
    pub fn in_place(mut self, region: Option<String>, account: Option<String>) -> Self {
        let plain = |text: &String| {
            text.bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
        };
        self.place = Place {
            region: region.filter(plain),
            account: account.filter(plain),
        };
        self
    }

    /// The socket.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// What the last call that took something away had to wait for, if it was not asked for before.
    pub fn take_lease_report(&self) -> Option<LeaseReport> {
        self.report.lock().take()
    }

    /// Calls an operation and returns its typed output.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn send<R: Operation>(&self, request: R) -> Result<R::Output, ClientError> {
        let response = self.call(&request.into())?;
        R::output(response).ok_or_else(|| ClientError::Protocol("another response".into()))
    }

    /// Calls an operation as a service, for a user or under a lease.
    ///
    /// # Errors
    /// See [`ClientError`]. `AccessDeniedException` also when the caller is not a service.
    pub fn send_as<R: Operation>(
        &self,
        request: R,
        asking: Asking,
    ) -> Result<Answer<R::Output>, ClientError> {
        let Answer { output, reliance } = self.ask(request, asking)?;
        let output = output.map_err(ClientError::Api)?;
        Ok(Answer { output, reliance })
    }

    /// The same for a service that keeps refusals, too: an error that kmsd answers with is an answer, and says for how
    /// long it may be relied on. So a dry run is a question with a yes (`DryRunOperationException`) and a no.
    ///
    /// # Errors
    /// kmsd was not reached, or not understood: never [`ClientError::Api`].
    pub fn ask<R: Operation>(
        &self,
        request: R,
        asking: Asking,
    ) -> Result<Answer<Result<R::Output, ApiError>>, ClientError> {
        let Answer { output, reliance } = self.request(&request.into(), asking)?;
        let output = match output {
            Ok(response) => Ok(R::output(response)
                .ok_or_else(|| ClientError::Protocol("another response".into()))?),
            Err(error) => Err(error),
        };
        Ok(Answer { output, reliance })
    }

    /// Calls an operation.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn call(&self, request: &Request) -> Result<Response, ClientError> {
        self.request(request, Asking::default())?
            .output
            .map_err(ClientError::Api)
    }

    fn request(
        &self,
        request: &Request,
        asking: Asking,
    ) -> Result<Answer<Result<Response, ApiError>>, ClientError> {
        let body = request
            .to_json()
            .map_err(|e| ClientError::Protocol(e.to_string()))?;
        let reply = self.exchange(&request.target(), asking, &body, request.is_repeatable())?;
        if reply.leases.is_some() {
            *self.report.lock() = reply.leases;
        }
        let output = if reply.status == 200 {
            let response = Response::from_json(request, &reply.body);
            Ok(response
                .map_err(|e| ClientError::Protocol(format!("{}: {e}", request.operation())))?)
        } else {
            let status = reply.status;
            Err(ApiError::from_json(&reply.body).ok_or_else(|| {
                ClientError::Protocol(format!("HTTP status {status} without a known error"))
            })?)
        };
        Ok(Answer {
            output,
            reliance: reply.reliance,
        })
    }

    /// Sends a raw request.
    fn exchange(
        &self,
        target: &str,
        asking: Asking,
        body: &[u8],
        repeatable: bool,
    ) -> Result<connection::Reply, ClientError> {
        let latest = Instant::now() + self.timeout;
        let deadline = asking.deadline.map_or(latest, |own| own.min(latest));
        loop {
            let reused = self.idle.lock().pop();
            let stale_possible = reused.is_some();
            let mut connection = match reused {
                Some(connection) => connection,
                None => self.connect(deadline).map_err(|e| self.lost(e))?,
            };
            let head = self.head(target, asking, body);
            match connection.exchange(&head, body, deadline) {
                Ok((reply, keep)) => {
                    if keep {
                        let mut idle = self.idle.lock();
                        if idle.len() < MAX_IDLE {
                            idle.push(connection);
                        }
                    }
                    return Ok(reply);
                }
                // The server had closed this idle connection; every other idle one may be as stale,
                // so the loop ends at the latest with a fresh one.
                Err(Failure::NotProcessed(_)) if stale_possible => {}
                Err(Failure::NoAnswer(_)) if stale_possible && repeatable => {}
                Err(Failure::NotProcessed(e) | Failure::NoAnswer(e) | Failure::Lost(e)) => {
                    return Err(self.lost(e));
                }
                Err(Failure::Protocol(text)) => return Err(ClientError::Protocol(text)),
            }
        }
    }

    fn lost(&self, source: io::Error) -> ClientError {
        ClientError::Unreachable {
            socket: self.socket.clone(),
            source,
        }
    }
}

impl Request {
    /// Whether carrying the request out twice leaves what carrying it out once leaves.
    pub fn is_repeatable(&self) -> bool {
        !matches!(
            self,
            Self::CreateKey(_)
                | Self::CreateAlias(_)
                | Self::DeleteAlias(_)
                | Self::ScheduleKeyDeletion(_)
                | Self::CancelKeyDeletion(_)
                | Self::RotateKeyOnDemand(_)
                | Self::CreateAccessKey(_)
                | Self::CreateVolume(_)
                | Self::CreatePolicy(_)
                | Self::RotatePolicy(_)
                | Self::AcquireLease(_)
        )
    }
}
