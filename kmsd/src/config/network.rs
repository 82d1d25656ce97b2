//! `[tls]`, `[http]` and `[network]`: requests that do not come over the socket.

use std::net::SocketAddr;
use std::path::PathBuf;

use serde::Deserialize;

use super::{ConfigError, require};
use crate::auth::Hosts;

/// `[tls]`. Nobody is listened to unless an address is named.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Tls {
    /// Addresses and ports.
    pub listen: Vec<SocketAddr>,
    /// File with the certificate and those between it and the authority's, PEM.
    pub certificate: Option<PathBuf>,
    /// File with its private key, PEM.
    pub key: Option<PathBuf>,
    /// File with the certificates of the authorities that sign clients' certificates, PEM.
    pub client_ca: Option<PathBuf>,
    /// Whether clients must show a certificate. Requests are signed all the same.
    pub client_certificates: ClientCertificates,
}

/// Whether clients show certificates.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ClientCertificates {
    /// Without one there is no connection.
    #[default]
    Required,
    /// One that is shown must be right.
    Optional,
}

/// `[http]`: without encryption, for programs of this host.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Http {
    /// Loopback addresses and ports.
    pub listen: Vec<SocketAddr>,
}

/// `[network]`: limits of both.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Network {
    /// Most connections at a time.
    pub max_connections: usize,
    /// Most connections from one address at a time.
    pub max_connections_per_address: usize,
    /// Seconds within which the TLS handshake must be done.
    pub handshake_timeout: u64,
    /// Names, with a port or without, that requests may be signed for; none: any.
    pub hosts: Vec<String>,
}

impl Default for Network {
    fn default() -> Self {
        Self {
            max_connections: 512,
            max_connections_per_address: 128,
            handshake_timeout: 10,
            hosts: Vec::new(),
        }
    }
}

impl Tls {
    pub(super) fn check(&self) -> Result<(), ConfigError> {
        let files = [
            ("tls.certificate", &self.certificate),
            ("tls.key", &self.key),
            ("tls.client_ca", &self.client_ca),
        ];
        for (key, file) in files {
            if let Some(path) = file {
                require(path.is_absolute(), key, || {
                    "must be an absolute path".into()
                })?;
            }
        }
        let named = self.certificate.is_some() && self.key.is_some();
        require(named || self.listen.is_empty(), "tls.listen", || {
            "needs `tls.certificate` and `tls.key`; `kmsd tls init --name HOST` makes first ones"
                .into()
        })
    }
}

impl Http {
    pub(super) fn check(&self) -> Result<(), ConfigError> {
        let far = self
            .listen
            .iter()
            .find(|address| !address.ip().is_loopback());
        require(far.is_none(), "http.listen", || {
            let address = far.map(SocketAddr::to_string).unwrap_or_default();
            format!("{address} is not a loopback address: over a network, plaintexts need `[tls]`")
        })
    }
}

impl Network {
    pub(super) fn check(&self) -> Result<(), ConfigError> {
        let numbers = [
            ("network.max_connections", self.max_connections as u64),
            (
                "network.max_connections_per_address",
                self.max_connections_per_address as u64,
            ),
            ("network.handshake_timeout", self.handshake_timeout),
        ];
        for (key, value) in numbers {
            require((1..=86_400).contains(&value), key, || {
                "must be 1 to 86400".into()
            })?;
        }
        let wrong = self.hosts.iter().find(|name| !Hosts::is_name(name));
        require(wrong.is_none(), "network.hosts", || {
            let name = wrong.cloned().unwrap_or_default();
            format!(
                "{name:?} is no host name or address (IPv6 in brackets), with a port or without"
            )
        })?;
        Ok(())
    }
}
