//! How kmsd ends: one table of exit codes, and the error that carries what to do next.

use std::fmt;
use std::process::ExitCode;

use kms_seal::SealError;

use crate::config::ConfigError;
use crate::engine::EngineError;
use crate::listen::ListenError;
use crate::listen::network::NetworkError;
use crate::policies::PolicyFilesError;

/// The table of exit codes for the help text.
pub const TABLE: &str = "\
Exit codes:
      0  ended as it was told to
      1  a file, the terminal or the system failed
      2  the command line is wrong
      3  the configuration is wrong
      4  the socket cannot be made
      5  the recovery key was not proved
      6  what destroys something was not confirmed
  20-47  the TPM or the root key, one for each failure: see docs/OPERATIONS.md
  64-77  the store, one for each failure: see docs/OPERATIONS.md";

/// A file, the terminal or the system failed.
pub(crate) const LOCAL: u8 = 1;
/// The command line is wrong.
pub(crate) const USAGE: u8 = 2;
/// The configuration is wrong.
pub(crate) const CONFIG: u8 = 3;
const LISTEN: u8 = 4;
const RECOVERY: u8 = 5;
const UNCONFIRMED: u8 = 6;

/// Why kmsd ends.
#[derive(Debug)]
pub struct Failure {
    /// Exit status.
    pub status: u8,
    /// What happened, to what.
    pub message: String,
    /// What the operator does next.
    pub next_step: String,
}

impl Failure {
    /// Something local failed.
    pub(crate) fn local(what: impl fmt::Display, error: &impl fmt::Display, next: &str) -> Self {
        Self {
            status: LOCAL,
            message: format!("{what}: {error}"),
            next_step: next.to_owned(),
        }
    }

    /// A socket cannot be made.
    pub(crate) fn listen(message: String, next: &str) -> Self {
        Self {
            status: LISTEN,
            message,
            next_step: next.to_owned(),
        }
    }

    /// The recovery key was not proved.
    pub(crate) fn recovery(message: impl Into<String>, next: &str) -> Self {
        Self {
            status: RECOVERY,
            message: message.into(),
            next_step: next.to_owned(),
        }
    }

    /// Nobody confirmed what destroys something.
    pub(crate) fn unconfirmed(message: &str) -> Self {
        Self {
            status: UNCONFIRMED,
            message: message.to_owned(),
            next_step:
                "Run it in a terminal and type the name of the store, or give --yes-destroy.".into(),
        }
    }

    /// Nobody confirmed a change past the policies.
    pub(crate) fn unbroken(message: impl Into<String>) -> Self {
        Self {
            status: UNCONFIRMED,
            message: message.into(),
            next_step: "Run it in a terminal and type yes, or give --yes.".into(),
        }
    }

    /// Prints it on standard error.
    pub(crate) fn report(&self, json: bool) -> ExitCode {
        if json {
            let value = serde_json::json!({ "error": {
                "exit": self.status, "message": self.message, "next_step": self.next_step,
            }});
            eprintln!("{value}");
        } else {
            eprintln!("kmsd: {}", self.message);
            eprintln!("      {}", self.next_step);
        }
        ExitCode::from(self.status)
    }
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        Self {
            status: CONFIG,
            message: error.to_string(),
            next_step: error.next_step().to_owned(),
        }
    }
}

impl From<PolicyFilesError> for Failure {
    fn from(error: PolicyFilesError) -> Self {
        Self {
            status: CONFIG,
            message: format!("the policy files are wrong: {error}"),
            next_step: "Correct them and check with `kmsd --check-config`; docs/OPERATIONS.md has their form."
                .to_owned(),
        }
    }
}

impl From<ListenError> for Failure {
    fn from(error: ListenError) -> Self {
        let status = if matches!(error, ListenError::Config(_)) {
            CONFIG
        } else {
            LISTEN
        };
        Self {
            status,
            message: error.to_string(),
            next_step: error.next_step().to_owned(),
        }
    }
}

impl From<NetworkError> for Failure {
    fn from(error: NetworkError) -> Self {
        let status = match error {
            NetworkError::Tls(_) => CONFIG,
            NetworkError::Bind { .. } => LISTEN,
        };
        Self {
            status,
            message: error.to_string(),
            next_step: error.next_step().to_owned(),
        }
    }
}

impl From<SealError> for Failure {
    fn from(error: SealError) -> Self {
        Self {
            status: error.exit_code(),
            message: error.to_string(),
            next_step: error.next_step(),
        }
    }
}

impl From<EngineError> for Failure {
    fn from(error: EngineError) -> Self {
        Self {
            status: error.exit_code(),
            message: error.to_string(),
            next_step: error.next_step(),
        }
    }
}
