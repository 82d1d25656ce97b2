//! The configuration file: TOML, every key optional, unknown keys refused.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use kms_core::Served;
use kms_core::ids::Scope;
use kms_seal::{SealError, SealerConfig, SealerKind};
use serde::Deserialize;

pub use audit::Audit;

mod approval;
mod audit;
mod events;
pub(crate) mod identity;
mod limits;
mod metrics;
mod network;
mod place;
#[cfg(test)]
mod tests;

pub use approval::{Approval, BreakGlass};
pub use events::Events;
pub use identity::{Identity, Rule, ServiceUser};
pub use limits::Limits;
pub use metrics::Metrics;
pub use network::{ClientCertificates, Http, Network, Tls};

/// Where kmsd looks for its configuration unless told otherwise.
pub const DEFAULT_PATH: &str = "/etc/kmsd/kmsd.toml";

/// The user id that the kernel shows for users of other user namespaces.
pub(crate) const OVERFLOW_UID: u32 = 65_534;

/// The whole configuration.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// The socket and who may use it.
    pub server: Server,
    /// What callers are besides their user ids.
    pub identity: Identity,
    /// The catalogue.
    pub store: Store,
    /// What the root key is sealed to.
    pub seal: Seal,
    /// Leases of services on answers.
    pub lease: Lease,
    /// Operations that several people must agree to.
    pub approval: Approval,
    /// What is logged, and how.
    pub log: Log,
    /// Who is told of what happens.
    pub events: Events,
    /// Where metrics are given out.
    pub metrics: Metrics,
    /// Where requests over TLS are taken.
    pub tls: Tls,
    /// Where requests over plain HTTP are taken.
    pub http: Http,
    /// Limits of connections of the network.
    pub network: Network,
    /// How much there may be, and how fast it may be asked for.
    pub limits: Limits,
    /// For tests only.
    pub testing: Testing,
    /// The audit log.
    pub audit: Audit,
}

/// `[server]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Server {
    /// Path of the Unix socket; not used when the service manager passes one.
    pub socket: PathBuf,
    /// Its mode, octal, as text.
    pub socket_mode: String,
    /// Its group (name or number); `admin_group` when absent.
    pub socket_group: Option<NameOrId>,
    /// Account of the ARNs, 12 digits.
    pub account: String,
    /// Region of the ARNs.
    pub region: String,
    /// Other accounts that are served.
    pub accounts: Vec<String>,
    /// Other Regions that are served.
    pub regions: Vec<String>,
    /// Every Region is served: `kmsd dev` only.
    #[serde(skip)]
    pub any_region: bool,
    /// Members of this group (name or number) may call.
    pub admin_group: Option<NameOrId>,
    /// Users (names or numbers) that may call as services.
    pub service_uids: Vec<ServiceUser>,
    /// Most connections at a time.
    pub max_connections: usize,
    /// Most connections of one user at a time.
    pub max_connections_per_user: usize,
    /// Bytes of a request's body.
    pub max_request_bytes: u64,
    /// Seconds within which the head of a request must have arrived, and a response be taken.
    pub header_timeout: u64,
    /// Seconds within which the body of a request must have arrived.
    pub body_timeout: u64,
    /// Seconds after which a connection without a request is closed.
    pub idle_timeout: u64,
    /// Seconds that requests in progress are given at shutdown.
    pub shutdown_timeout: u64,
}

impl Default for Server {
    fn default() -> Self {
        Self {
            socket: kms_default_socket(),
            socket_mode: "0660".into(),
            socket_group: None,
            account: "000000000000".into(),
            region: "local-host-1".into(),
            accounts: Vec::new(),
            regions: Vec::new(),
            any_region: false,
            admin_group: None,
            service_uids: Vec::new(),
            max_connections: 512,
            max_connections_per_user: 256,
            max_request_bytes: kms_api::MAX_BODY_BYTES as u64,
            header_timeout: 10,
            body_timeout: 10,
            idle_timeout: 60,
            shutdown_timeout: 10,
        }
    }
}

fn kms_default_socket() -> PathBuf {
    PathBuf::from("/run/kmsd/kmsd.sock")
}

/// `[store]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Store {
    /// Directory of the catalogue.
    pub directory: PathBuf,
    /// Seconds after which a change that tightens nothing is anchored in the TPM's counter.
    pub anchor_interval: u64,
}

impl Default for Store {
    fn default() -> Self {
        Self {
            directory: PathBuf::from("/var/lib/kmsd"),
            anchor_interval: 5,
        }
    }
}

/// `[seal]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Seal {
    /// `tpm` or `software`.
    pub kind: SealerKind,
    /// `device:/dev/tpmrm0` or `swtpm:host=127.0.0.1,port=N`.
    pub device: String,
    /// Registers a new enrolment is bound to.
    pub pcrs: Vec<u32>,
    /// Key file of the software sealer; `seal.key` in the store's directory when absent.
    pub key_file: Option<PathBuf>,
    /// File with the credential; a file of the same name in `$CREDENTIALS_DIRECTORY` goes first.
    pub credential: Option<PathBuf>,
    /// Seconds to wait for an absent or busy device.
    pub wait: u64,
    /// File with the password of the TPM's owner hierarchy, where one is set.
    pub owner_auth: Option<PathBuf>,
}

impl Default for Seal {
    fn default() -> Self {
        let sealer = SealerConfig::default();
        Self {
            kind: sealer.kind,
            device: sealer.device,
            pcrs: sealer.pcrs,
            key_file: None,
            credential: None,
            wait: sealer.wait.as_secs(),
            owner_auth: None,
        }
    }
}

/// `[lease]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Lease {
    /// Seconds for which a service may rely on answers without asking again, where it asks for no
    /// other length.
    pub duration: u64,
}

impl Default for Lease {
    fn default() -> Self {
        Self {
            duration: kms_core::lease::DEFAULT_LEASE_MS / 1000,
        }
    }
}

/// `[log]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Log {
    /// `text` or `json`.
    pub format: LogFormat,
    /// `error`, `warn`, `info`, `debug` or `trace`, or a filter of tracing-subscriber.
    pub level: String,
}

impl Default for Log {
    fn default() -> Self {
        Self {
            format: LogFormat::Text,
            level: "info".into(),
        }
    }
}

/// Form of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// Lines for people.
    Text,
    /// One JSON object a line.
    Json,
}

/// `[testing]`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Testing {
    /// File with the time, instead of the system's clock. Refused with a real TPM.
    pub clock_file: Option<PathBuf>,
    /// No audit log at all, to measure what it costs. Refused with a real TPM.
    pub no_audit: bool,
}

/// A user or group by name or number.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
pub enum NameOrId {
    /// By number.
    Id(u32),
    /// By name.
    Name(String),
}

/// What is wrong with the configuration.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("the configuration {} cannot be read: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Not TOML, an unknown key or a value of the wrong type; the text names line and key.
    #[error("the configuration {} is wrong: {source}", path.display())]
    Parse {
        /// The file.
        path: PathBuf,
        /// Where and what.
        source: Box<toml::de::Error>,
    },
    /// A value that cannot be.
    #[error("the configuration is wrong: {key}: {reason}")]
    Value {
        /// Section and key.
        key: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// A value that cannot be, and where it stands.
    #[error("{}, line {line}: {source}", path.display())]
    Located {
        /// The file.
        path: PathBuf,
        /// The line of the key.
        line: usize,
        /// What is wrong.
        source: Box<ConfigError>,
    },
    /// The sealer's own check failed.
    #[error("the configuration is wrong: [seal] {0}")]
    Seal(SealError),
}

impl ConfigError {
    /// What the operator does next.
    pub fn next_step(&self) -> &'static str {
        match self {
            Self::Read { .. } => {
                "Name the file with --config, or create it: every key is optional, so it may be empty."
            }
            Self::Parse { .. } | Self::Value { .. } | Self::Located { .. } | Self::Seal(_) => {
                "Correct it and check with `kmsd --config FILE --check-config`; docs/OPERATIONS.md lists every key."
            }
        }
    }
}

impl Config {
    /// Reads and checks a file.
    ///
    /// # Errors
    /// See [`ConfigError`].
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        Self::parse(&read(path)?, path)
    }

    /// Reads and checks a file, and looks up the users and groups that it names.
    ///
    /// # Errors
    /// See [`ConfigError`].
    pub fn load_with_names(path: &Path) -> Result<Self, ConfigError> {
        let text = read(path)?;
        let config = Self::parse(&text, path)?;
        config
            .check_names()
            .map_err(|error| place::located(error, &text, path))?;
        Ok(config)
    }

    /// Looks up the users and groups.
    ///
    /// # Errors
    /// One of them does not exist.
    pub fn check_names(&self) -> Result<(), ConfigError> {
        crate::auth::Auth::new(&self.server, &self.identity)?.check_names()?;
        if let Some(group) = &self.server.socket_group {
            crate::auth::group_id(group, "server.socket_group")?;
        }
        Ok(())
    }

    /// Checks the text of a file; `path` is for the error text.
    ///
    /// # Errors
    /// See [`ConfigError`].
    pub fn parse(text: &str, path: &Path) -> Result<Self, ConfigError> {
        let config: Self = toml::from_str(text).map_err(|source| ConfigError::Parse {
            path: path.to_owned(),
            source: Box::new(source),
        })?;
        config
            .check()
            .map_err(|error| place::located(error, text, path))?;
        Ok(config)
    }

    /// Checks values that depend on each other.
    ///
    /// # Errors
    /// See [`ConfigError`].
    pub(crate) fn check(&self) -> Result<(), ConfigError> {
        let server = &self.server;
        server.mode()?;
        let account_ok = Scope::is_account(&server.account);
        require(account_ok, "server.account", || "must be 12 digits".into())?;
        let region_ok = Scope::is_region(&server.region);
        require(region_ok, "server.region", || {
            "must be 1 to 32 lower-case letters, digits and hyphens".into()
        })?;
        for account in &server.accounts {
            require(Scope::is_account(account), "server.accounts", || {
                format!("`{account}` is not 12 digits")
            })?;
        }
        for region in &server.regions {
            require(Scope::is_region(region), "server.regions", || {
                format!("`{region}` is not 1 to 32 lower-case letters, digits and hyphens")
            })?;
        }
        require(server.socket.is_absolute(), "server.socket", || {
            "must be an absolute path".into()
        })?;
        // sun_path has 108 bytes with a final zero (unix(7)); a temporary name is tried first.
        let length = server.socket.as_os_str().len();
        require(length <= 90, "server.socket", || {
            format!("is {length} bytes long; the kernel has room for 90")
        })?;
        identity::check_services(&server.service_uids)?;
        self.identity.check()?;
        let none = NameOrId::Id(u32::MAX);
        let groups = [
            ("server.admin_group", &server.admin_group),
            ("server.socket_group", &server.socket_group),
        ];
        let mut ids = groups
            .iter()
            .flat_map(|(key, group)| group.iter().map(|group| (*key, group)));
        if let Some((key, _)) = ids.find(|(_, id)| **id == none) {
            require(false, key, || "4294967295 is nobody's number".into())?;
        }
        let numbers = [
            ("server.max_connections", server.max_connections as u64),
            (
                "server.max_connections_per_user",
                server.max_connections_per_user as u64,
            ),
            ("server.header_timeout", server.header_timeout),
            ("server.body_timeout", server.body_timeout),
            ("server.idle_timeout", server.idle_timeout),
            ("server.shutdown_timeout", server.shutdown_timeout),
        ];
        for (key, value) in numbers {
            require((1..=86_400).contains(&value), key, || {
                "must be 1 to 86400".into()
            })?;
        }
        // A key policy of 32 KiB may take several times that in JSON.
        let bytes = server.max_request_bytes;
        require(
            (131_072..=16_777_216).contains(&bytes),
            "server.max_request_bytes",
            || format!("is {bytes}; must be 131072 to 16777216"),
        )?;
        let lease = self.lease.duration;
        require((1..=60).contains(&lease), "lease.duration", || {
            format!("is {lease}; must be between 1 and 60 seconds")
        })?;
        self.approval.check()?;
        self.metrics.check()?;
        self.events.check()?;
        self.limits.check()?;
        self.tls.check()?;
        self.http.check()?;
        self.network.check()?;
        let anchor = self.store.anchor_interval;
        require(
            (1..=3600).contains(&anchor),
            "store.anchor_interval",
            || "must be 1 to 3600 seconds".into(),
        )?;
        let directory = &self.store.directory;
        require(directory.is_absolute(), "store.directory", || {
            "must be an absolute path".into()
        })?;
        crate::log::filter(&self.log.level).map_err(|reason| ConfigError::Value {
            key: "log.level",
            reason,
        })?;
        require(
            self.testing.clock_file.is_none() || self.is_for_tests(),
            "testing.clock_file",
            || {
                "is refused with a real TPM: whoever writes that file could destroy keys. It needs \
                 `seal.kind = \"software\"` or a `swtpm:` device"
                    .into()
            },
        )?;
        require(
            !self.testing.no_audit || self.is_for_tests(),
            "testing.no_audit",
            || {
                "is refused with a real TPM: requests would leave no record. It needs \
                 `seal.kind = \"software\"` or a `swtpm:` device"
                    .into()
            },
        )?;
        self.audit.check()?;
        self.sealer_config(None).validate().map_err(|error| {
            // Its text begins with the name of the option.
            let key = match &error {
                SealError::InvalidConfig { reason } => match reason.split(':').next() {
                    Some("device") => "seal.device",
                    Some("pcrs") => "seal.pcrs",
                    Some("key_file") => "seal.key_file",
                    Some(_) | None => return ConfigError::Seal(error),
                },
                _ => return ConfigError::Seal(error),
            };
            ConfigError::Value {
                key,
                reason: error.to_string(),
            }
        })
    }

    /// Whether the sealer is one that nobody trusts with real keys.
    fn is_for_tests(&self) -> bool {
        self.seal.kind == SealerKind::Software || self.seal.device.starts_with("swtpm:")
    }

    /// What to open the sealer with.
    pub fn sealer_config(&self, owner_auth: Option<kms_seal::Credential>) -> SealerConfig {
        SealerConfig {
            kind: self.seal.kind,
            device: self.seal.device.clone(),
            key_file: self.key_file(),
            pcrs: self.seal.pcrs.clone(),
            wait: Duration::from_secs(self.seal.wait),
            owner_auth,
        }
    }

    /// The file with the credential: as configured, or `/etc/kmsd/credential` for the store of the
    /// packaged unit (which delivers that file), or else `credential` in the store's directory.
    pub fn credential(&self) -> PathBuf {
        match &self.seal.credential {
            Some(path) => path.clone(),
            None if self.store.directory == Store::default().directory => {
                PathBuf::from("/etc/kmsd/credential")
            }
            None => self.store.directory.join("credential"),
        }
    }

    /// The key file of the software sealer.
    pub fn key_file(&self) -> PathBuf {
        let default = || self.store.directory.join("seal.key");
        self.seal.key_file.clone().unwrap_or_else(default)
    }
}

impl Server {
    /// The accounts and Regions that are served besides the home's.
    pub fn served(&self) -> Served {
        Served {
            accounts: self.accounts.clone(),
            regions: self.regions.clone(),
            any_region: self.any_region,
        }
    }

    /// The mode of the socket.
    ///
    /// # Errors
    /// It is not an octal number up to 0777.
    pub fn mode(&self) -> Result<u32, ConfigError> {
        // A sign would be read too.
        let digits = self.socket_mode.bytes().all(|byte| byte.is_ascii_digit());
        match u32::from_str_radix(&self.socket_mode, 8) {
            Ok(mode) if mode <= 0o777 && digits => Ok(mode),
            Ok(_) | Err(_) => Err(ConfigError::Value {
                key: "server.socket_mode",
                reason: format!(
                    "`{}` is not an octal mode such as \"0660\"",
                    self.socket_mode
                ),
            }),
        }
    }
}

fn require(
    holds: bool,
    key: &'static str,
    reason: impl FnOnce() -> String,
) -> Result<(), ConfigError> {
    if holds {
        Ok(())
    } else {
        Err(ConfigError::Value {
            key,
            reason: reason(),
        })
    }
}

fn read(path: &Path) -> Result<String, ConfigError> {
    std::fs::read_to_string(path).map_err(|source| ConfigError::Read {
        path: path.to_owned(),
        source,
    })
}
