//! Listeners of the network: TLS, and plain HTTP on the loopback interface. What they serve is what the socket serves;
//! who calls is said by the signature of each request.

use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener as StdListener};
use std::sync::Arc;
use std::time::Duration;

use data_encoding::HEXLOWER;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;

use super::connection;
use super::places::{Holder, Places, Slot};
use super::server::{Limits, Shared, stopped};
use super::source::Source;
use super::tls::{Certificates, TlsError};
use crate::audit::network_of;
use crate::auth::{Hosts, Kind, NetworkSession};
use crate::config::Config;
use crate::service::Service;

/// Why an address cannot be listened on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NetworkError {
    /// The address cannot be had.
    #[error("kmsd cannot listen on {address}: {source}")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// There is no certificate to serve with.
    #[error(transparent)]
    Tls(#[from] TlsError),
}

impl NetworkError {
    /// What the operator does next.
    pub fn next_step(&self) -> &'static str {
        match self {
            Self::Bind { .. } => {
                "Choose another address or port in [tls] or [http], or end the program that has it; a port below 1024 needs CAP_NET_BIND_SERVICE."
            }
            Self::Tls(error) => error.next_step(),
        }
    }
}

/// Addresses that are listened on, not yet served.
#[derive(Debug)]
pub struct Network {
    listeners: Vec<(StdListener, Option<Arc<Certificates>>)>,
    certificates: Option<Arc<Certificates>>,
}

impl Network {
    /// Listens on what is configured.
    ///
    /// # Errors
    /// See [`NetworkError`].
    pub fn open(config: &Config) -> Result<Self, NetworkError> {
        let bind = |address: &SocketAddr| {
            StdListener::bind(address)
                .and_then(|listener| {
                    listener.set_nonblocking(true)?;
                    Ok(listener)
                })
                .map_err(|source| NetworkError::Bind {
                    address: *address,
                    source,
                })
        };
        let certificates = match config.tls.listen.is_empty() {
            true => None,
            false => Some(Arc::new(Certificates::load(&config.tls)?)),
        };
        let mut listeners = Vec::new();
        for address in &config.tls.listen {
            listeners.push((bind(address)?, certificates.clone()));
        }
        for address in &config.http.listen {
            listeners.push((bind(address)?, None));
        }
        Ok(Self {
            listeners,
            certificates,
        })
    }

    /// The certificates that are read again when they change.
    pub(crate) fn certificates(&self) -> Option<Arc<Certificates>> {
        self.certificates.clone()
    }

    /// The addresses, as URLs.
    pub fn urls(&self) -> Vec<String> {
        let url = |(listener, tls): &(StdListener, Option<_>)| {
            let scheme = if tls.is_some() { "https" } else { "http" };
            let address = listener.local_addr().ok()?;
            Some(format!("{scheme}://{address}"))
        };
        self.listeners.iter().filter_map(url).collect()
    }

    /// Serves until `stopping` becomes true, then lets requests in progress end.
    ///
    /// # Errors
    /// A listener cannot be used at all.
    pub(crate) async fn serve<S: Service>(
        self,
        config: &Config,
        service: Arc<S>,
        stopping: watch::Receiver<bool>,
    ) -> io::Result<()> {
        let limits = Limits {
            connections: config.network.max_connections,
            per_user: config.network.max_connections_per_address,
            ..Limits::from(&config.server)
        };
        let door = Arc::new(Door {
            shared: Arc::new(Shared { service, limits }),
            places: Arc::default(),
            handshake: Duration::from_secs(config.network.handshake_timeout),
            hosts: Arc::new(Hosts::new(&config.network.hosts)),
        });
        let mut running = JoinSet::new();
        for (listener, tls) in self.listeners {
            let listener = TcpListener::from_std(listener)?;
            running.spawn(accept(Arc::clone(&door), listener, tls, stopping.clone()));
        }
        while running.join_next().await.is_some() {}
        Ok(())
    }
}

/// What all connections of the network share.
struct Door<S> {
    shared: Arc<Shared<S>>,
    places: Arc<Places>,
    handshake: Duration,
    hosts: Arc<Hosts>,
}

async fn accept<S: Service>(
    door: Arc<Door<S>>,
    listener: TcpListener,
    tls: Option<Arc<Certificates>>,
    stopping: watch::Receiver<bool>,
) {
    let mut connections = JoinSet::new();
    let mut end = stopping.clone();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, peer)) => {
                    let slot = door.slot(peer.ip());
                    let Some(slot) = slot else {
                        tracing::warn!(address = %peer.ip(), "a connection over the limit was refused");
                        continue;
                    };
                    let (door, tls) = (Arc::clone(&door), tls.clone());
                    connections.spawn(door.connection(stream, peer.ip(), slot, tls, stopping.clone()));
                }
                Err(error) => {
                    tracing::warn!(%error, "no connection can be accepted at the moment");
                    sleep(Duration::from_millis(100)).await;
                }
            },
            Some(_) = connections.join_next() => {}
            () = stopped(&mut end) => break,
        }
    }
    drop(listener);
    let drain = async { while connections.join_next().await.is_some() {} };
    if timeout(door.shared.limits.shutdown, drain).await.is_err() {
        tracing::warn!(
            connections = connections.len(),
            "requests were cut off: they did not end within server.shutdown_timeout"
        );
    }
}

impl<S: Service> Door<S> {
    fn slot(&self, address: IpAddr) -> Option<Slot> {
        let holder = Holder::Address(network_of(address));
        Slot::take(&self.places, &self.shared.limits, Kind::Network, holder)
    }

    fn source(&self, address: IpAddr, tls: bool, certificate: Option<Arc<str>>) -> Source {
        let hosts = Arc::clone(&self.hosts);
        Source::Network(Arc::new(NetworkSession::new(
            address,
            tls,
            certificate,
            hosts,
        )))
    }

    async fn connection(
        self: Arc<Self>,
        stream: TcpStream,
        address: IpAddr,
        slot: Slot,
        tls: Option<Arc<Certificates>>,
        stopping: watch::Receiver<bool>,
    ) {
        // Answers are small, and nothing follows them.
        let _ = stream.set_nodelay(true);
        let address = address.to_canonical();
        let shared = Arc::clone(&self.shared);
        let idle = shared.limits.idle;
        let Some(tls) = tls else {
            let source = self.source(address, false, None);
            connection::serve(shared, stream, source, slot, idle, stopping).await;
            return;
        };
        let handshake = TlsAcceptor::from(tls.current()).accept(stream);
        let stream = tokio::select! {
            done = timeout(self.handshake, handshake) => match done {
                Ok(Ok(stream)) => stream,
                Ok(Err(error)) => {
                    tracing::debug!(%address, %error, "a TLS handshake failed");
                    return;
                }
                Err(_) => {
                    tracing::debug!(%address, "a TLS handshake took too long");
                    return;
                }
            },
            () = slot.given_up() => return,
        };
        let certificate = stream
            .get_ref()
            .1
            .peer_certificates()
            .and_then(|chain| chain.first())
            .map(|leaf| {
                HEXLOWER
                    .encode(&kms_crypto::sha256(&[leaf.as_ref()]))
                    .into()
            });
        let source = self.source(address, true, certificate);
        connection::serve(shared, stream, source, slot, idle, stopping).await;
    }
}
