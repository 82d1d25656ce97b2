//! Who is asking, as the transport established it.

use std::sync::Arc;

use crate::Scope;

/// What a caller is to the daemon, before any policy is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CallerRole {
    /// uid 0: the account's root principal.
    Root,
    /// A member of the configured admin group.
    Admin,
    /// A configured service uid: it may ask on behalf of users.
    Service,
    /// Everybody else.
    User,
    /// The daemon itself (background work).
    Internal,
}

/// An authenticated caller. Policies see the principals and the facts below; a request made by a
/// service on behalf of a user has the *user* here, and the service as [`Caller::via`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// User id, from the kernel (or named by the service in `via`).
    pub uid: u32,
    /// Primary group id.
    pub gid: u32,
    /// Process id at connect; for the log only, since it may have been re-used.
    pub pid: u32,
    /// All groups by number, the primary one included.
    pub groups: Arc<[u32]>,
    /// The names of those groups that have one; identity policies are attached to names.
    pub group_names: Arc<[Arc<str>]>,
    /// What the caller is to the daemon.
    pub role: CallerRole,
    /// The principal that records and errors name; the first of `principals`.
    pub arn: Arc<str>,
    /// Every principal ARN of the caller: the user (or the account's root), the session of its
    /// systemd unit, the roles that the mapping rules give. A statement that names any of them applies.
    pub principals: Arc<[Arc<str>]>,
    /// Name of the user, `uid-N` where it has none.
    pub user_name: Arc<str>,
    /// Name of the user as the name service has it, whatever its characters (`CORP\\eve`); none where there is none, or
    /// where another user has it, too.
    pub login: Option<Arc<str>>,
    /// Roles of the mapping rules.
    pub roles: Arc<[Arc<str>]>,
    /// Roles that the caller may have besides: rules give them by unit or executable, which are not known. They allow it
    /// nothing, and what is denied to them is denied to it.
    pub possible_roles: Arc<[Arc<str>]>,
    /// Every principal ARN that comes with those.
    pub possible_principals: Arc<[Arc<str>]>,
    /// What is known of the process; none where it could not be established, and then a policy that
    /// needs it does not allow.
    pub process: Option<Arc<ProcessFacts>>,
    /// The service that asks on this user's behalf.
    pub via: Option<Arc<Via>>,
    /// The lease that a service named (`X-Kmsd-Lease`): it wants to rely on the answer for a while.
    pub lease: Option<Arc<str>>,
    /// The account and Region that the request is for; none: those that the store was made for. The account is the caller's own.
    pub scope: Option<Arc<Scope>>,
}

/// Facts about a calling process, read while its pidfd (where the kernel has them) said that it is alive.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProcessFacts {
    /// The systemd unit of its cgroup, for example `nginx.service`.
    pub unit: Option<String>,
    /// Path of its cgroup.
    pub cgroup: Option<String>,
    /// The unit's invocation id, 32 hex digits.
    pub invocation_id: Option<String>,
    /// Path of its executable.
    pub exe: Option<String>,
    /// SHA-256 of the executable, 64 hex digits; read only when a policy in force asks for it.
    pub exe_sha256: Option<String>,
    /// Label of the security module (`SO_PEERSEC`).
    pub security_label: Option<String>,
    /// Whether a pidfd of the peer vouched for all this; without one (before Linux 6.5) the process
    /// id may have been re-used between connect and reading.
    pub checked: bool,
}

/// A service that asks on behalf of a user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Via {
    /// `kms:ViaService`, for example `kmsfs.local-host-1.amazonaws.com`.
    pub service: Arc<str>,
    /// The service's own principal.
    pub arn: Arc<str>,
    /// Its user id.
    pub uid: u32,
    /// Its process id at connect.
    pub pid: u32,
}

impl Caller {
    /// A caller of whom no more is known than its principal.
    pub fn new(role: CallerRole, uid: u32, arn: impl Into<Arc<str>>) -> Self {
        let arn = arn.into();
        let user_name = arn.rsplit('/').next().unwrap_or_default().into();
        Self {
            uid,
            gid: uid,
            pid: 0,
            groups: Arc::new([uid]),
            group_names: Arc::new([]),
            role,
            principals: Arc::new([Arc::clone(&arn)]),
            arn,
            user_name,
            login: None,
            roles: Arc::new([]),
            possible_roles: Arc::new([]),
            possible_principals: Arc::new([]),
            process: None,
            via: None,
            lease: None,
            scope: None,
        }
    }

    /// The daemon itself, for background work.
    pub fn internal(account: &str) -> Self {
        Self {
            pid: std::process::id(),
            ..Self::new(
                CallerRole::Internal,
                0,
                format!("arn:aws:iam::{account}:user/kmsd"),
            )
        }
    }
}
