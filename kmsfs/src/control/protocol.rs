//! What goes over the control socket.

use serde::{Deserialize, Serialize};

use crate::status::MountStatus;

/// A line to the mount.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "snake_case", deny_unknown_fields)]
pub enum Command {
    /// What is unlocked, and why not.
    Status,
    /// Put an empty directory under a key of its own.
    Protect {
        /// The directory: its components below the mount's root, each in base64, since names are
        /// bytes.
        path: Vec<String>,
        /// Key id, ARN or alias.
        key: String,
        /// `XTS` or `GCM`.
        mode: String,
    },
}

/// A line from the mount.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// To [`Command::Status`].
    Status(MountStatus),
    /// To [`Command::Protect`].
    Protected(Protected),
    /// It did not work.
    Failed(Failed),
}

/// A directory that has a policy of its own now.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Protected {
    /// The policy.
    pub policy: String,
    /// Its key.
    pub key_arn: String,
    /// The key material its data key was made under.
    pub key_material_id: Option<String>,
}

/// What happened, and what to do.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Failed {
    /// What happened, to what.
    pub message: String,
    /// What to do next.
    pub next_step: String,
}
