//! Who is asking, as the transport established it.

use std::sync::Arc;

/// What entitles a caller to call at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CallerRole {
    /// uid 0.
    Root,
    /// A member of the configured admin group.
    Admin,
    /// A configured service uid.
    Service,
    /// The daemon itself (background work).
    Internal,
}

/// An authenticated caller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// User id, from the kernel.
    pub uid: u32,
    /// Primary group id, from the kernel.
    pub gid: u32,
    /// Process id at connect; for the log only, since it may have been re-used.
    pub pid: u32,
    /// Why the caller was let in.
    pub role: CallerRole,
    /// `arn:aws:iam::<account>:user/<name>`.
    pub arn: Arc<str>,
}

impl Caller {
    /// The daemon itself, for background work.
    pub fn internal(account: &str) -> Self {
        Self {
            uid: 0,
            gid: 0,
            pid: std::process::id(),
            role: CallerRole::Internal,
            arn: format!("arn:aws:iam::{account}:user/kmsd").into(),
        }
    }
}
