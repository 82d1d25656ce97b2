//! `[metrics]`: where metrics are given out.

use std::net::SocketAddr;
use std::path::PathBuf;

use serde::Deserialize;

use super::{ConfigError, NameOrId, Server, require};

/// `[metrics]`. Nothing is given out unless a place is named.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Metrics {
    /// Path of a Unix socket.
    pub socket: Option<PathBuf>,
    /// Its mode, octal, as text.
    pub socket_mode: String,
    /// Its group.
    pub socket_group: Option<NameOrId>,
    /// Loopback address and port.
    pub listen: Option<SocketAddr>,
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            socket: None,
            socket_mode: "0660".into(),
            socket_group: None,
            listen: None,
        }
    }
}

impl Metrics {
    pub(super) fn check(&self) -> Result<(), ConfigError> {
        if let Some(path) = &self.socket {
            require(path.is_absolute(), "metrics.socket", || {
                "must be an absolute path".into()
            })?;
            let length = path.as_os_str().len();
            require(length <= 90, "metrics.socket", || {
                format!("is {length} bytes long; the kernel has room for 90")
            })?;
        }
        let mode = Server {
            socket_mode: self.socket_mode.clone(),
            ..Server::default()
        };
        mode.mode().map_err(|error| match error {
            ConfigError::Value { reason, .. } => ConfigError::Value {
                key: "metrics.socket_mode",
                reason,
            },
            other => other,
        })?;
        if let Some(address) = self.listen {
            require(address.ip().is_loopback(), "metrics.listen", || {
                format!(
                    "{address} is not a loopback address; metrics are for this host, let a collector on it pass them on"
                )
            })?;
        }
        Ok(())
    }
}
