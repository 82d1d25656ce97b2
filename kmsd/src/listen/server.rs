//! Accepts connections, within limits, until told to stop.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

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
    open: Arc<Pools>,
}

/// Connections by kind and user. Each kind has places of its own: users, however many there are, take none
/// of those who administer kmsd or serve others.
type Pools = Mutex<HashMap<Kind, HashMap<u32, usize>>>;

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
            open: Arc::default(),
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
            let slot = Slot::take(&self.open, &shared.limits, kind, peer.uid);
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
            let Some(_slot) = slot else {
                tracing::warn!(
                    uid = peer.uid,
                    pid = peer.pid,
                    "a connection over the limit was refused"
                );
                api::refuse_connection(stream, limits.head).await;
                return;
            };
            let Some(session) = Session::open(auth, peer, shared.service.needs()).await else {
                return;
            };
            // A stranger is given the time for one request, which is refused.
            let idle = if kind == Kind::Stranger {
                limits.idle.min(limits.head)
            } else {
                limits.idle
            };
            connection::serve(shared, stream, session, idle, stopping).await;
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

/// A place among the connections of a user.
struct Slot {
    open: Arc<Pools>,
    kind: Kind,
    uid: u32,
}

impl Slot {
    fn take(open: &Arc<Pools>, limits: &Limits, kind: Kind, uid: u32) -> Option<Self> {
        let mut pools = open.lock();
        let users = pools.entry(kind).or_default();
        let total: usize = users.values().sum();
        let own = users.get(&uid).copied().unwrap_or(0);
        let (all, each) = match (kind, uid) {
            (Kind::Known, 0) => (limits.connections, limits.per_user),
            // The last eighth is root's, so that an administrator gets in when a service runs wild.
            (Kind::Known, _) => (limits.connections - limits.connections / 8, limits.per_user),
            (Kind::User, _) => (
                (limits.connections / 2).max(1),
                (limits.per_user / 4).max(1),
            ),
            // Enough to tell each that it is refused.
            (Kind::Stranger, _) => ((limits.connections / 16).max(1), limits.per_user),
        };
        if total >= all || own >= each {
            return None;
        }
        users.insert(uid, own + 1);
        Some(Self {
            open: Arc::clone(open),
            kind,
            uid,
        })
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut pools = self.open.lock();
        let Some(users) = pools.get_mut(&self.kind) else {
            return;
        };
        if let Some(count) = users.get_mut(&self.uid) {
            *count -= 1;
            if *count == 0 {
                users.remove(&self.uid);
            }
        }
    }
}
