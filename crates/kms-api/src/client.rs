//! A blocking client of kmsd over its Unix socket.
//!
//! Connections are kept and re-used, one per concurrent caller. A connection that the server closed
//! while idle (a restart of kmsd) is replaced without the caller noticing, unless the request may have
//! been carried out already.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::{ApiError, Operation, Request, Response};

mod connection;
#[cfg(test)]
mod tests;

use connection::{Connection, Failure};

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

/// A client; cheap to share between threads.
pub struct Client {
    socket: PathBuf,
    timeout: Duration,
    idle: Mutex<Vec<Connection>>,
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
            timeout: Duration::from_secs(30),
            idle: Mutex::default(),
        }
    }

    /// The same with another timeout per call (connecting included).
    #[must_use]
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// The socket.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Calls an operation and returns its typed output.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn send<R: Operation>(&self, request: R) -> Result<R::Output, ClientError> {
        let response = self.call(&request.into())?;
        R::output(response).ok_or_else(|| ClientError::Protocol("another response".into()))
    }

    /// Calls an operation.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn call(&self, request: &Request) -> Result<Response, ClientError> {
        let body = request
            .to_json()
            .map_err(|e| ClientError::Protocol(e.to_string()))?;
        let (status, body) = self.exchange(&request.target(), &body, request.is_repeatable())?;
        if status == 200 {
            return Response::from_json(request, &body)
                .map_err(|e| ClientError::Protocol(format!("{}: {e}", request.operation())));
        }
        Err(match ApiError::from_json(&body) {
            Some(error) => ClientError::Api(error),
            None => ClientError::Protocol(format!("HTTP status {status} without a known error")),
        })
    }

    /// Sends a raw request and returns HTTP status and body.
    fn exchange(
        &self,
        target: &str,
        body: &[u8],
        repeatable: bool,
    ) -> Result<connection::Answer, ClientError> {
        let deadline = Instant::now() + self.timeout;
        loop {
            let reused = self.idle.lock().pop();
            let stale_possible = reused.is_some();
            let mut connection = match reused {
                Some(connection) => connection,
                None => Connection::open(&self.socket, deadline).map_err(|e| self.lost(e))?,
            };
            match connection.exchange(target, body, deadline) {
                Ok((answer, keep)) => {
                    if keep {
                        let mut idle = self.idle.lock();
                        if idle.len() < MAX_IDLE {
                            idle.push(connection);
                        }
                    }
                    return Ok(answer);
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
                | Self::CreateVolume(_)
                | Self::CreatePolicy(_)
                | Self::AcquireLease(_)
        )
    }
}
