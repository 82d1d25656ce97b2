//! Who is asking, as the transport established it.

use std::net::IpAddr;
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
    /// User id, from the kernel (or named by the service in `via`); [`Caller::NOBODY`] for one that comes over the network,
    /// as the other numbers are.
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
    /// Where the request came from, for one that came over the network; none on the socket of this host.
    pub network: Option<Arc<Network>>,
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

/// A caller that came over the network: what the signature of the request and the connection say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Network {
    /// Address of the client.
    pub address: IpAddr,
    /// Id of the access key that signed the request.
    pub access_key_id: Arc<str>,
    /// SHA-256 of the certificate of the client, in hexadecimal, where it showed one that the configured authority signed.
    pub certificate: Option<Arc<str>>,
    /// What the client calls itself (`User-Agent`).
    pub user_agent: Option<Arc<str>>,
    /// Whether the connection is encrypted; plain HTTP is served on the loopback interface only.
    pub tls: bool,
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
            network: None,
            via: None,
            lease: None,
            scope: None,
        }
    }

    /// The numbers of a caller that has none on this host: no user, group or process has it.
    pub const NOBODY: u32 = u32::MAX;

    /// A caller over the network that acts as `principal`: `arn:aws:iam::ACCOUNT:root`, `…:user/NAME` or `…:role/NAME`. A
    /// role is acted as in a session that is named after the access key.
    pub fn remote(principal: &str, network: Network) -> Self {
        let (account, last) = principal
            .strip_prefix("arn:aws:iam::")
            .and_then(|rest| rest.split_once(':'))
            .unwrap_or_default();
        let role = last.strip_prefix("role/");
        let arn: Arc<str> = match role {
            Some(role) => {
                let session = &network.access_key_id;
                format!("arn:aws:sts::{account}:assumed-role/{role}/{session}").into()
            }
            None => principal.into(),
        };
        let kind = match last {
            "root" => CallerRole::Root,
            _ => CallerRole::User,
        };
        let mut caller = Self::new(kind, Self::NOBODY, Arc::clone(&arn));
        caller.groups = Arc::new([]);
        caller.pid = Self::NOBODY;
        if kind == CallerRole::Root {
            caller.user_name = "root".into();
        }
        if let Some(role) = role {
            caller.roles = Arc::new([role.into()]);
            caller.principals = Arc::new([arn, principal.into()]);
        }
        caller.network = Some(Arc::new(network));
        caller
    }

    /// User, primary group and process id, for a caller that has any.
    pub fn local_ids(&self) -> Option<(u32, u32, u32)> {
        (self.network.is_none()).then_some((self.uid, self.gid, self.pid))
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
