//! What goes over the control socket.

use serde::{Deserialize, Serialize};

use crate::check::{Counts, Report};
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
    /// Hold all changes.
    Freeze {
        /// For how long at most.
        seconds: u64,
        /// Only as long as this connection lasts.
        hold: bool,
    },
    /// Let changes go on.
    Thaw,
    /// Look for damage. Answered with [`Answer::Progress`] again and again, then with [`Answer::Checked`].
    Check {
        /// Read all content.
        content: bool,
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
    /// To [`Command::Freeze`]: from now on nothing changes.
    Frozen,
    /// To [`Command::Thaw`]: whether it was frozen.
    Thawed(bool),
    /// How far a check is.
    Progress(Counts),
    /// What a check found.
    Checked(Box<Report>),
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
