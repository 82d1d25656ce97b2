//! Why a policy is not unlocked, in words an operator can act on.

use std::fmt;
use std::io;
use std::path::PathBuf;

use kms_api::ErrorCode;
use kms_api::client::ClientError;
use kms_format::{PolicyId, VolumeId};

use crate::errno::Errno;

/// A policy that was not unlocked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The volume.
    pub volume: VolumeId,
    /// The policy.
    pub policy: PolicyId,
    /// Its key: kmsd's answer, or what the lower tree says if kmsd did not answer.
    pub key: String,
    /// What happened.
    pub reason: Reason,
}

/// What happened to an unlock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reason {
    /// kmsd could not be reached or asked us to come again.
    Unavailable(String),
    /// kmsd answered with an error.
    Refused {
        /// The error's code.
        code: ErrorCode,
        /// Code and message.
        text: String,
    },
    /// The registry has another generation than the directory.
    Generation {
        /// In the directory header.
        directory: u32,
        /// In the registry.
        registry: u32,
    },
    /// The volume record lacks the policy's data key.
    NoDataKey,
    /// The answer does not fit: a length, or a failure of the system.
    Unusable(String),
}

impl Refusal {
    /// What the caller in the kernel gets.
    #[must_use]
    pub fn errno(&self) -> Errno {
        match &self.reason {
            Reason::Unavailable(_) => Errno::from_raw(libc::ETIMEDOUT),
            Reason::Refused { .. }
            | Reason::Generation { .. }
            | Reason::NoDataKey
            | Reason::Unusable(_) => Errno::from_raw(libc::ENOKEY),
        }
    }

    /// What to do about it.
    #[must_use]
    pub fn next_step(&self) -> String {
        let key = &self.key;
        match &self.reason {
            Reason::Unavailable(_) => {
                "check that kmsd runs (kmsctl status); access recovers by itself".to_owned()
            }
            Reason::Refused { code, text } => match code {
                ErrorCode::Disabled => {
                    format!("enable the key with `kmsctl key enable {key}`")
                }
                ErrorCode::InvalidState if text.contains("pending deletion") => {
                    format!("keep the key with `kmsctl key cancel-deletion {key}`, then enable it")
                }
                ErrorCode::InvalidState => {
                    format!("look at the key's state with `kmsctl key describe {key}`")
                }
                ErrorCode::AccessDenied => {
                    "let the user that kmsfs runs as use kmsd: admin_group or service_uids in its \
                     configuration"
                        .to_owned()
                }
                ErrorCode::NotFound => {
                    "the policy or its key is not in this kmsd: is it another host's volume, or was \
                     the key deleted?"
                        .to_owned()
                }
                ErrorCode::InvalidCiphertext | ErrorCode::IncorrectKey => {
                    "the volume record does not belong to this volume: put .kmsfs.volume back from \
                     a backup"
                        .to_owned()
                }
                _ => "see the log of kmsd".to_owned(),
            },
            Reason::Generation {
                directory,
                registry,
            } if directory < registry => "it is from a backup that is older than the end of that generation, and nothing \
                 opens it any more: put it back from a newer one"
                .to_owned(),
            Reason::Generation { .. } => {
                "the store of kmsd is older than the directory: put its newest backup back, or the directory from \
                 a backup of the same time (docs/OPERATIONS.md, rollback)"
                    .to_owned()
            }
            Reason::NoDataKey => {
                "put .kmsfs.volume back from a backup of the lower directory".to_owned()
            }
            Reason::Unusable(_) => "see the log of kmsd; update kmsfs and kmsd together".to_owned(),
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Refusal {
            volume,
            policy,
            key,
            reason,
        } = self;
        write!(f, "policy {policy} of volume {volume} under key {key}: ")?;
        match reason {
            Reason::Unavailable(text) => write!(f, "kmsd does not answer: {text}")?,
            Reason::Refused { text, .. } => {
                write!(f, "kmsd refuses: {}", text.trim_end_matches('.'))?;
            }
            Reason::Generation {
                directory,
                registry,
            } if directory < registry => write!(
                f,
                "it hangs on generation {directory} of the policy key, which was ended; the registry is at {registry}"
            )?,
            Reason::Generation {
                directory,
                registry,
            } => write!(
                f,
                "it hangs on generation {directory} of the policy key, which the registry never had: it is at {registry}"
            )?,
            Reason::NoDataKey => write!(f, "the volume record has no data key for it")?,
            Reason::Unusable(text) => write!(f, "{text}")?,
        }
        write!(f, "; {}", self.next_step())
    }
}

impl std::error::Error for Refusal {}

impl Reason {
    /// Sorts a failed call: worth another try, or an answer.
    #[must_use]
    pub fn from_client(error: &ClientError) -> Reason {
        match error.api() {
            Some(api)
                if matches!(
                    api.code,
                    ErrorCode::Internal
                        | ErrorCode::DependencyTimeout
                        | ErrorCode::KeyUnavailable
                        | ErrorCode::ServiceUnavailable
                        | ErrorCode::Throttling
                ) =>
            {
                Reason::Unavailable(api.to_string())
            }
            Some(api) => Reason::Refused {
                code: api.code,
                text: api.to_string(),
            },
            None => Reason::Unavailable(error.to_string()),
        }
    }

    /// Whether asking again soon may help.
    #[must_use]
    pub fn is_passing(&self) -> bool {
        matches!(self, Reason::Unavailable(_))
    }
}

/// Why a volume cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum VolumeError {
    /// No volume record.
    #[error("{path} is not a kmsfs volume: it has no {name}; make one with `kmsctl fs init {path} --key alias/NAME`", path = path.display(), name = super::record::NAME)]
    NotAVolume {
        /// The lower directory.
        path: PathBuf,
    },
    /// The volume record cannot be read or written.
    #[error("{path}: {source}", path = path.display())]
    Io {
        /// The record.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The volume record is damaged or of another format.
    #[error("{path}: {source}; put it back from a backup of the lower directory", path = path.display())]
    Format {
        /// The record.
        path: PathBuf,
        /// What is wrong.
        source: kms_format::FormatError,
    },
    /// The root directory's key.
    #[error("the root directory cannot be unlocked: {0}")]
    Refused(#[from] Refusal),
    /// The root directory's header.
    #[error("the root directory's header {path} is missing or damaged: {what}; put it back from a backup", path = path.display())]
    Root {
        /// The header.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
}
