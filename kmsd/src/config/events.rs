//! `[events]`: who is told of what happens.

use std::path::PathBuf;

use serde::Deserialize;

use super::{ConfigError, require};

/// `[events]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Events {
    /// Program that is run for each event, with the event on standard input.
    pub exec: Option<PathBuf>,
    /// Seconds that one run may take.
    pub exec_timeout: u64,
    /// Denials of one principal within a minute that are an event; 0: none are.
    pub denial_burst: u32,
}

impl Default for Events {
    fn default() -> Self {
        Self {
            exec: None,
            exec_timeout: 30,
            denial_burst: 20,
        }
    }
}

impl Events {
    pub(super) fn check(&self) -> Result<(), ConfigError> {
        require(
            (1..=3600).contains(&self.exec_timeout),
            "events.exec_timeout",
            || "must be 1 to 3600 seconds".into(),
        )?;
        let Some(program) = &self.exec else {
            return Ok(());
        };
        crate::events::check_hook(program).map_err(|error| ConfigError::Value {
            key: "events.exec",
            reason: format!("{error}; what kmsd runs is root's to decide"),
        })
    }
}
