//! How far a job is, and what came of it.

use serde::{Deserialize, Serialize};

use super::JobKind;

/// Objects that are named in a report; more are only counted.
pub(super) const NAMED: usize = 20;

/// How far a job is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Progress {
    /// Which job.
    pub kind: JobKind,
    /// The policy it is about.
    pub policy: String,
    /// The generation of the policy key that everything is to hang on.
    pub generation: u32,
    /// Objects that were looked at, those before an interruption among them.
    pub done: u64,
    /// Objects that there are, as counted at the beginning; more and fewer may be found.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub total: Option<u64>,
    /// Objects that were changed.
    pub changed: u64,
    /// Bytes of content that were written anew.
    pub bytes: u64,
    /// Objects that could not be worked on.
    pub failed: u64,
    /// Directories with a policy of their own that is locked or destroyed. They were passed over, as what is below another policy always
    /// is: nothing in them hangs on this one.
    #[serde(default)]
    pub locked: u64,
    /// Seconds until the end, as it looks now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub eta_seconds: Option<u64>,
}

/// An object that could not be worked on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// Where it is in the lower tree.
    pub lower: String,
    /// The error.
    pub error: String,
}

/// What came of a job.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct JobReport {
    /// How far it came.
    pub progress: Progress,
    /// All was seen. Otherwise it was stopped, or [`JobReport::error`] says why it ended.
    pub finished: bool,
    /// Why it ended early, if nobody stopped it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// The first objects that could not be worked on.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub failures: Vec<Failure>,
    /// Generations of the policy key that were ended.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ended: Vec<u32>,
    /// Generations before this one were to be ended, nothing hangs on them any more, and they were not:
    /// [`JobReport::error`] says why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub older_kept: Option<u32>,
    /// Seconds since it began or went on.
    pub seconds: f64,
}
