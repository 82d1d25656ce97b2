//! Accepts connections, within limits, until told to stop.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::places::{Holder, Places, Slot};
use super::source::Source;
use super::vouched::Vouched;
use super::{Listener, connection};
use crate::api;
use crate::auth::{Auth, Kind, Peer, Session};
use crate::config::Server as ServerConfig;
use crate::service::Service;

/// What all connections share.
#[derive(Debug)]
pub(crate) struct Shared<S> {
    pub(crate) service: Arc<S>,
    pub(crate) limits: Limits,
}

/// Limits of connections and requests.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub(crate) connections: usize,
    pub(crate) per_user: usize,
    /// Bytes of a request's body.
    pub(crate) request: usize,
    pub(crate) head: Duration,
    pub(crate) body: Duration,
    pub(crate) idle: Duration,
    pub(crate) shutdown: Duration,
}

impl From<&ServerConfig> for Limits {
    fn from(config: &ServerConfig) -> Self {
        Self {
            connections: config.max_connections,
            per_user: config.max_connections_per_user,
            request: usize::try_from(config.max_request_bytes).unwrap_or(usize::MAX),
            head: Duration::from_secs(config.header_timeout),
            body: Duration::from_secs(config.body_timeout),
            idle: Duration::from_secs(config.idle_timeout),
            shutdown: Duration::from_secs(config.shutdown_timeout),
        }
    }
}

/// The server.
#[derive(Debug)]
pub struct Server<S> {
    shared: Arc<Shared<S>>,
    auth: Arc<Auth>,
    places: Arc<Places>,
}

impl<S: Service> Server<S> {
    /// A server that answers with `service`.
    pub fn new(config: &ServerConfig, auth: Arc<Auth>, service: Arc<S>) -> Self {
        Self::with_limits(config.into(), auth, service)
    }

    pub(crate) fn with_limits(limits: Limits, auth: Arc<Auth>, service: Arc<S>) -> Self {
        let shared = Arc::new(Shared { service, limits });
        Self {
            shared,
            auth,
            places: Arc::default(),
        }
    }

    /// Serves until `stopping` becomes true, then lets requests in progress end.
    ///
    /// # Errors
    /// The socket cannot be used at all. What goes wrong with one connection ends that one only.
    pub async fn run(&self, listener: Listener, stopping: watch::Receiver<bool>) -> io::Result<()> {
        let (listener, cleanup) = listener.into_tokio()?;
        let mut connections = JoinSet::new();
        let mut end = stopping.clone();
        loop {
            tokio::select! {
                stream = accept(&listener) => {
                    connections.spawn(self.connection(stream, stopping.clone()));
                }
                Some(_) = connections.join_next() => {}
                () = stopped(&mut end) => break,
            }
        }
        drop((listener, cleanup));
        let drain = async { while connections.join_next().await.is_some() {} };
        if timeout(self.shared.limits.shutdown, drain).await.is_err() {
            tracing::warn!(
                connections = connections.len(),
                "requests were cut off: they did not end within server.shutdown_timeout"
            );
        }
        Ok(())
    }

    /// Names the peer, checks the limits, serves.
    fn connection(
        &self,
        stream: UnixStream,
        stopping: watch::Receiver<bool>,
    ) -> impl Future<Output = ()> + Send + use<S> {
        let (shared, auth) = (Arc::clone(&self.shared), Arc::clone(&self.auth));
        let slot = Peer::of(&stream, auth.pidfds()).map(|peer| {
            let kind = auth.kind(&peer);
            let slot = Slot::take(&self.places, &shared.limits, kind, Holder::Uid(peer.uid));
            (peer, kind, slot)
        });
        async move {
            let (peer, kind, slot) = match slot {
                Ok(found) => found,
                Err(error) => {
                    tracing::warn!(%error, "a connection without credentials was closed");
                    return;
                }
            };
            let limits = shared.limits;
            let Some(slot) = slot else {
                tracing::warn!(
                    uid = peer.uid,
                    pid = peer.pid,
                    "a connection over the limit was refused"
                );
                api::refuse_connection(stream, limits.head).await;
                return;
            };
            let opening = Session::open(auth, peer, shared.service.needs());
            let Some(session) = opening.await else {
                return;
            };
            // A stranger is given the time for one request, which is refused.
            let idle = if kind == Kind::Stranger {
                limits.idle.min(limits.head)
            } else {
                limits.idle
            };
            let (uid, pid) = session.peer_ids();
            match Vouched::new(stream, uid, pid) {
                Ok((stream, origin)) => {
                    let source = Source::Socket(Arc::new(session), origin);
                    connection::serve(shared, stream, source, slot, idle, stopping).await;
                }
                Err(error) => {
                    tracing::warn!(uid, pid, %error, "a connection was closed: the kernel does not vouch for it");
                }
            }
        }
    }
}

/// Waits until the server is to stop (or nobody is left who could say so).
pub(crate) async fn stopped(stopping: &mut watch::Receiver<bool>) {
    let _ = stopping.wait_for(|stop| *stop).await;
}

/// Accepts the next connection. Out of descriptors or memory, it waits instead of ending.
async fn accept(listener: &UnixListener) -> UnixStream {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => return stream,
            Err(error) => {
                tracing::warn!(%error, "no connection can be accepted at the moment");
                sleep(Duration::from_millis(100)).await;
            }
        }
    }
}
