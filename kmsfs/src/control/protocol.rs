//! What goes over the control socket.

use serde::{Deserialize, Serialize};

use super::way::{Asker, Way};
use crate::check::{Counts, Report};
use crate::jobs::{JobKind, JobReport, Progress, Rate};
use crate::revoke::processes::How;
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
    /// End access to a directory that has a policy of its own, until [`Command::Unlock`]. Answered when nobody concerned
    /// gets one more byte.
    Lock {
        /// The directory, as in [`Command::Protect`].
        path: Vec<String>,
        /// Only this user's.
        user: Option<u32>,
        /// Kill the processes that have something open.
        kill: bool,
    },
    /// Give access back.
    Unlock {
        /// The directory.
        path: Vec<String>,
        /// Only this user's.
        user: Option<u32>,
    },
    /// Who has something open in a directory.
    Who {
        /// The directory.
        path: Vec<String>,
    },
    /// What decides whether a user gets to a path.
    WhyDenied {
        /// The path, as in [`Command::Protect`].
        path: Vec<String>,
        /// The user.
        who: Asker,
    },
    /// Begin a job, or go on with it. Answered with [`Answer::JobProgress`] again and again, then with [`Answer::JobDone`]; it does not end
    /// with the connection.
    Job(JobRequest),
    /// Watch the job that runs, or hear of the last one. Answered as [`Command::Job`].
    JobWatch,
    /// Stop the job that runs. It can be taken up again with its command.
    JobStop,
    /// The generations of a policy key before one were ended: their lines of the volume record go.
    OlderEnded {
        /// The policy.
        policy: String,
        /// The first that is kept.
        before: u32,
    },
    /// Look for damage. Answered with [`Answer::Progress`] again and again, then with [`Answer::Checked`].
    Check {
        /// Read all content.
        content: bool,
    },
}

/// A job.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JobRequest {
    /// Which.
    pub kind: JobKind,
    /// A directory of the policy: as in [`Command::Protect`].
    pub path: Vec<String>,
    /// Onto another key: id, ARN or alias.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// In another mode: `XTS` or `GCM`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<String>,
    /// How fast at most.
    #[serde(default)]
    pub rate: Rate,
    /// End the older generations of the policy key once nothing hangs on them.
    #[serde(default)]
    pub destroy_old: bool,
    /// Make another generation, although the last job of this kind did not come to its end or could not work on everything.
    #[serde(default)]
    pub anew: bool,
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
    /// To [`Command::Lock`].
    Locked(Locked),
    /// To [`Command::Unlock`]: whether it was locked.
    Unlocked(bool),
    /// To [`Command::Who`].
    Holders(Vec<Holding>),
    /// To [`Command::WhyDenied`].
    Way(Box<Way>),
    /// How far a check is.
    Progress(Counts),
    /// What a check found.
    Checked(Box<Report>),
    /// How far a job is.
    JobProgress(Progress),
    /// What came of a job.
    JobDone(Box<JobReport>),
    /// To [`Command::OlderEnded`]: the generations that are gone.
    OlderGone(Vec<u32>),
    /// To [`Command::JobStop`]: whether there was one.
    JobStopped(bool),
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

/// Access that was ended.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Locked {
    /// The policy.
    pub policy: String,
    /// Files that were open.
    pub files: usize,
    /// Who had something open, and still has a descriptor or mapping that fails.
    pub holders: Vec<Holding>,
    /// Processes that were killed.
    pub killed: Vec<u32>,
    /// How long it took, in milliseconds.
    pub milliseconds: u64,
}

/// A process that has something open.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holding {
    /// The process. None for what no process shows: a descriptor on its way through a socket, or a process that this mount
    /// may not look into.
    pub pid: Option<u32>,
    /// Its user; without a process who opened it.
    pub uid: u32,
    /// Its program.
    pub program: String,
    /// How; None for a handle without a process, and for a process that could not be looked into.
    pub how: Option<How>,
    /// What, as the kernel names it.
    pub path: String,
}

/// What happened, and what to do.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Failed {
    /// What happened, to what.
    pub message: String,
    /// What to do next.
    pub next_step: String,
}
