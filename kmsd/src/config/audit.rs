//! `[audit]`: how the audit log is kept.

use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;

use kms_core::audit::note::{KIND_COSIGNATURE, VerifierKey};

use super::{Config, ConfigError, require};
use crate::audit::{AuditConfig, OnFull, Submission, WitnessConfig};

/// `[audit]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Audit {
    /// Directory of the log; `audit` in the store's directory when absent.
    pub directory: Option<PathBuf>,
    /// Milliseconds that the record of a use of a key may wait for the disk; 0: the reply waits for it.
    pub data_delay_ms: u64,
    /// A file is not continued beyond this size, in MiB.
    pub rotate_mib: u64,
    /// Nor beyond this age, in days; 0: whatever its age.
    pub rotate_days: u64,
    /// How many files are kept; 0: all.
    pub keep_files: usize,
    /// `refuse` or `read-only`: what happens to requests when the disk is full.
    pub on_full: OnFull,
    /// MiB that are set aside for the last records.
    pub reserve_mib: u64,
    /// A warning is recorded when fewer MiB are free.
    pub min_free_mib: u64,
    /// Whether records go to the journal of systemd too.
    pub journald: bool,
    /// Seconds after which there is a checkpoint over a new record at the latest; each wears the TPM's memory a little.
    pub checkpoint_interval: u64,
    /// File to which each checkpoint is appended as well; it belongs on another machine.
    pub checkpoint_copy: Option<PathBuf>,
    /// Witnesses that are to cosign the checkpoints.
    pub witness: Vec<Witness>,
    /// Records of requests that nobody allowed, which one user can have written at once; 0: any number.
    pub refused_burst: u32,
    /// And afterwards in a minute.
    pub refused_per_minute: u32,
}

impl Default for Audit {
    fn default() -> Self {
        Self {
            directory: None,
            data_delay_ms: 20,
            rotate_mib: 64,
            rotate_days: 0,
            keep_files: 0,
            on_full: OnFull::Refuse,
            reserve_mib: 4,
            min_free_mib: 64,
            journald: false,
            checkpoint_interval: 60,
            checkpoint_copy: None,
            witness: Vec::new(),
            refused_burst: 1000,
            refused_per_minute: 60,
        }
    }
}

/// `[[audit.witness]]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Witness {
    /// `http://HOST[:PORT][/PREFIX]` or `unix:/SOCKET[:/PREFIX]`: the submission prefix of c2sp.org/tlog-witness.
    pub url: String,
    /// Its public key, `NAME+HASH+KEY`.
    pub key: String,
}

impl Witness {
    fn parsed(&self) -> Result<WitnessConfig, ConfigError> {
        let submission = Submission::parse(&self.url).map_err(|error| ConfigError::Value {
            key: "audit.witness.url",
            reason: error,
        })?;
        let bad_key = |reason: String| ConfigError::Value {
            key: "audit.witness.key",
            reason,
        };
        let key = VerifierKey::parse(&self.key).map_err(|error| bad_key(error.to_string()))?;
        if key.kind != KIND_COSIGNATURE {
            return Err(bad_key(
                "must be a key that cosigns (its part KEY begins with B)".to_owned(),
            ));
        }
        Ok(WitnessConfig { submission, key })
    }
}

impl Audit {
    pub(super) fn check(&self) -> Result<(), ConfigError> {
        let mut names = Vec::new();
        for witness in &self.witness {
            let parsed = witness.parsed()?;
            require(!names.contains(&parsed.key), "audit.witness.key", || {
                format!("{} is there twice", witness.key)
            })?;
            names.push(parsed.key);
        }
        require(names.len() <= 16, "audit.witness", || {
            "at most 16 witnesses".into()
        })?;
        if let Some(directory) = &self.directory {
            require(directory.is_absolute(), "audit.directory", || {
                "must be an absolute path".into()
            })?;
        }
        require(self.data_delay_ms <= 10_000, "audit.data_delay_ms", || {
            "must be 0 to 10000 milliseconds".into()
        })?;
        require(
            (1..=4096).contains(&self.rotate_mib),
            "audit.rotate_mib",
            || "must be 1 to 4096".into(),
        )?;
        require(self.rotate_days <= 3650, "audit.rotate_days", || {
            "must be 0 to 3650".into()
        })?;
        require(
            (1..=86_400).contains(&self.checkpoint_interval),
            "audit.checkpoint_interval",
            || "must be 1 to 86400 seconds".into(),
        )?;
        if let Some(copy) = &self.checkpoint_copy {
            require(copy.is_absolute(), "audit.checkpoint_copy", || {
                "must be an absolute path".into()
            })?;
        }
        require(
            self.refused_burst <= 1_000_000,
            "audit.refused_burst",
            || "must be 0 to 1000000".into(),
        )?;
        require(
            (1..=1_000_000).contains(&self.refused_per_minute),
            "audit.refused_per_minute",
            || "must be 1 to 1000000; audit.refused_burst = 0 lifts the limit".into(),
        )?;
        require(self.reserve_mib <= 1024, "audit.reserve_mib", || {
            "must be 0 to 1024".into()
        })?;
        require(self.min_free_mib <= 1 << 20, "audit.min_free_mib", || {
            "must be 0 to 1048576".into()
        })
    }
}

impl Config {
    /// How the audit log is kept; `None` where it is switched off for measuring.
    pub fn audit(&self) -> Option<AuditConfig> {
        if self.testing.no_audit {
            return None;
        }
        let audit = &self.audit;
        Some(AuditConfig {
            data_delay: Duration::from_millis(audit.data_delay_ms),
            rotate_bytes: audit.rotate_mib << 20,
            rotate_age: (audit.rotate_days > 0)
                .then(|| Duration::from_secs(audit.rotate_days.saturating_mul(86_400))),
            keep_files: (audit.keep_files > 0).then_some(audit.keep_files),
            on_full: audit.on_full,
            reserve_bytes: audit.reserve_mib << 20,
            min_free_bytes: audit.min_free_mib << 20,
            journald: audit.journald.then(|| AuditConfig::JOURNAL.into()),
            checkpoint_interval: Duration::from_secs(audit.checkpoint_interval),
            checkpoint_copy: audit.checkpoint_copy.clone(),
            // Checked when the configuration was read.
            witnesses: audit
                .witness
                .iter()
                .filter_map(|witness| witness.parsed().ok())
                .collect(),
            refused_burst: audit.refused_burst,
            refused_per_minute: audit.refused_per_minute,
            ..AuditConfig::new(self.audit_directory())
        })
    }

    /// Directory of the audit log.
    pub fn audit_directory(&self) -> PathBuf {
        let default = || self.store.directory.join("audit");
        self.audit.directory.clone().unwrap_or_else(default)
    }
}
