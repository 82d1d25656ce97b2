//! Who is asking: the kernel's word on the other end of a Unix socket.
//!
//! uid, gid and supplementary groups are those the peer had when it connected (`SO_PEERCRED`,
//! `SO_PEERGROUPS`, unix(7)); its process is known by a pidfd (`SO_PEERPIDFD`) where the kernel has them. Every
//! byte that comes over the connection must be sent by that process (`listen::vouched`).

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use kms_api::{ApiError, Caller, CallerRole, ErrorCode, ProcessFacts};
use kms_core::kms::RoleNames;
use nix::unistd::{Gid, Group, Uid, User};

use crate::config::{
    ConfigError, Identity as IdentityConfig, NameOrId, OVERFLOW_UID, Rule, Server,
};
use crate::service::Needs;

mod behalf;
mod cgroup;
mod exe;
mod hosts;
mod map;
mod names;
mod network;
mod peer;
mod place;
mod process;
mod session;
#[cfg(test)]
mod tests;

pub(crate) use behalf::OnBehalfOf;
pub(crate) use hosts::Hosts;
use map::{Roles, Subject};
use names::{Names, NamesError, UserEntry};
pub(crate) use network::NetworkSession;
pub use network::Signer;
pub(crate) use peer::Peer;
pub(crate) use place::Asked;
use process::Namespace;
pub(crate) use session::{Session, check};

/// Says who callers are.
#[derive(Debug)]
pub struct Auth {
    account: String,
    region: String,
    served: kms_core::Served,
    admin_gid: Option<u32>,
    /// Name of the service by user id.
    services: HashMap<u32, Arc<str>>,
    names: Names,
    rules: Vec<Rule>,
    trust_pid: bool,
    namespaces: Vec<NameOrId>,
    /// The numbers of those, as far as they were known at the start.
    listed: Vec<u32>,
    /// Use pidfds where the kernel has them.
    pidfds: bool,
}

impl Auth {
    /// Looks up the configured group and users.
    ///
    /// # Errors
    /// One of them does not exist.
    pub fn new(server: &Server, identity: &IdentityConfig) -> Result<Self, ConfigError> {
        let admin_gid = server
            .admin_group
            .as_ref()
            .map(|group| group_id(group, "server.admin_group"))
            .transpose()?;
        let names = Names::new(Duration::from_secs(identity.names_lifetime));
        let listed = identity.allow_user_namespaces.iter();
        let listed = listed.filter_map(|user| user_id(user, "identity.allow_user_namespaces").ok());
        Ok(Self {
            listed: listed.collect(),
            account: server.account.clone(),
            region: server.region.clone(),
            served: server.served(),
            admin_gid,
            services: behalf::services(&server.service_uids, &names)?,
            names,
            rules: identity.map.clone(),
            trust_pid: identity.trust_pid,
            namespaces: identity.allow_user_namespaces.clone(),
            // For tests of what an older kernel gives.
            pidfds: std::env::var_os("KMSD_KERNEL").is_none_or(|kernel| kernel != "6.1"),
        })
    }

    /// Checks that the users and groups that rules and exceptions name exist.
    ///
    /// # Errors
    /// One of them does not.
    pub fn check_names(&self) -> Result<(), ConfigError> {
        for rule in &self.rules {
            if let Some(user) = &rule.user {
                user_id(user, "identity.map")?;
            }
            if let Some(group) = &rule.group {
                group_id(group, "identity.map")?;
            }
        }
        for user in &self.namespaces {
            user_id(user, "identity.allow_user_namespaces")?;
        }
        Ok(())
    }

    /// Names of the administrators' group and of the users that are services.
    pub(crate) fn role_names(&self) -> RoleNames {
        let group = self.admin_gid.map(Gid::from_raw);
        let group = group.and_then(|gid| Group::from_gid(gid).ok().flatten());
        let services = self.services.iter().filter_map(|(uid, service)| {
            let user = User::from_uid(Uid::from_raw(*uid)).ok().flatten()?;
            Some((user.name, service.to_string()))
        });
        RoleNames {
            admin_group: group.map(|group| group.name),
            services: services.collect(),
            mapped: self.rules.iter().map(map::described).collect(),
        }
    }

    /// Whether to use pidfds where the kernel has them.
    pub(crate) fn pidfds(&self) -> bool {
        self.pidfds
    }

    /// As if the name service had come to call a user by another name.
    #[cfg(test)]
    pub(crate) fn rename(&self, uid: u32, name: &str) {
        let entry = UserEntry {
            name: name.into(),
            login: Some(name.into()),
            groups: None,
        };
        self.names.pretend(uid, entry);
    }

    /// Whether the names and groups of callers are others than before. To be asked about once a second; may
    /// block.
    pub fn refresh(&self) -> bool {
        self.names.refresh()
    }

    /// What a peer is, before any policy is asked. Does not block.
    pub(crate) fn role(&self, peer: &Peer) -> CallerRole {
        let is_admin = |gid| peer.gid == gid || peer.groups.contains(&gid);
        match peer.uid {
            0 => CallerRole::Root,
            uid if self.services.contains_key(&uid) => CallerRole::Service,
            OVERFLOW_UID => CallerRole::User,
            _ if self.admin_gid.is_some_and(is_admin) => CallerRole::Admin,
            _ => CallerRole::User,
        }
    }

    /// Whose places a peer's connection takes. Does not block.
    pub(crate) fn kind(&self, peer: &Peer) -> Kind {
        match self.role(peer) {
            // Users of other user namespaces, all of them in one.
            _ if peer.uid == OVERFLOW_UID => Kind::Stranger,
            // They will be refused, whoever they are.
            _ if self.is_elsewhere(peer) => Kind::Stranger,
            CallerRole::User => Kind::User,
            CallerRole::Root | CallerRole::Admin | CallerRole::Service | CallerRole::Internal => {
                Kind::Known
            }
        }
    }

    /// Whether a peer is in a user namespace from which nobody is let in.
    fn is_elsewhere(&self, peer: &Peer) -> bool {
        process::namespace(peer) != Namespace::Same && {
            // A user whose name is not known yet counts as what its number says.
            let entry = self.names.remembered_user(peer.uid);
            let login = entry.and_then(|entry| entry.login);
            let listed = self.listed.contains(&peer.uid);
            !listed && !self.may_be_in_any_namespace(peer.uid, login.as_deref())
        }
    }

    /// What identities are to be made of: what the policies ask for, and what the rules do.
    fn needs(&self, policies: Needs) -> Needs {
        Needs {
            exe: policies.exe || self.rules.iter().any(|rule| rule.exe.is_some()),
            ..policies
        }
    }

    /// Establishes who the peer is. May block on the name service, and on reading an executable.
    pub(crate) fn identify(&self, peer: &Peer, policies: Needs) -> Identity {
        let needs = self.needs(policies);
        let generation = self.names.generation();
        let arn = self.principal(peer.uid, &format!("uid-{}", peer.uid));
        let mut identity = Identity {
            arn,
            uid: peer.uid,
            gid: peer.gid,
            pid: peer.pid,
            generation,
            needs,
            callers: Err(Refusal::Overflow),
        };
        if peer.uid == OVERFLOW_UID {
            identity.arn = self.principal(peer.uid, "nobody");
            return identity;
        }
        identity.callers = self.names_of(peer).map_or_else(
            |error| Err(Refusal::Names(error)),
            |named| {
                identity.arn = self.principal(peer.uid, &named.user);
                self.callers(peer, &named, needs)
            },
        );
        identity
    }

    fn names_of(&self, peer: &Peer) -> Result<Named, NamesError> {
        let UserEntry { name, login, .. } = self.names.user(peer.uid)?;
        let mut groups = peer.groups.clone();
        groups.push(peer.gid);
        groups.sort_unstable();
        groups.dedup();
        let group_names = self.group_names(peer.uid, &groups)?;
        Ok(Named {
            user: name,
            login,
            groups,
            group_names,
        })
    }

    fn group_names(&self, uid: u32, groups: &[u32]) -> Result<Vec<Arc<str>>, NamesError> {
        let mut names = Vec::with_capacity(groups.len());
        for gid in groups {
            match self.names.group(*gid) {
                Ok(name) => names.extend(name),
                // Root is root also while the name service is down.
                Err(_) if uid == 0 => {}
                Err(error) => return Err(error),
            }
        }
        Ok(names)
    }

    fn callers(&self, peer: &Peer, named: &Named, needs: Needs) -> Result<Callers, Refusal> {
        match process::namespace(peer) {
            Namespace::Same => {}
            namespace if self.may_be_in_any_namespace(peer.uid, named.login.as_deref()) => {
                tracing::debug!(
                    uid = peer.uid,
                    ?namespace,
                    "let in by allow_user_namespaces"
                );
            }
            Namespace::Other => return Err(Refusal::Namespace),
            Namespace::Ended => return Err(Refusal::Ended),
            Namespace::Hidden => return Err(Refusal::Hidden),
        }
        let role = self.role(peer);
        let facts = process::facts(peer, needs, self.trust_pid);
        let bare = self.caller(role, peer, named, None);
        let full = facts.map(|facts| self.caller(role, peer, named, Some(facts)));
        Ok(Callers { bare, full })
    }

    fn may_be_in_any_namespace(&self, uid: u32, login: Option<&str>) -> bool {
        self.namespaces.iter().any(|user| match user {
            NameOrId::Id(id) => *id == uid,
            NameOrId::Name(known) => login == Some(known),
        })
    }

    fn caller(
        &self,
        role: CallerRole,
        peer: &Peer,
        named: &Named,
        facts: Option<ProcessFacts>,
    ) -> Caller {
        let subject = Subject {
            uid: peer.uid,
            login: named.login.as_deref(),
            groups: &named.groups,
            group_names: &named.group_names,
            process: facts.as_ref(),
        };
        let Roles { given, possible } = map::roles(&self.rules, &subject);
        let unit = facts.as_ref().and_then(|facts| facts.unit.as_deref());
        let mut principals = self.principals(peer.uid, &named.user, unit);
        principals.extend(self.role_principals(&named.user, &given));
        if role == CallerRole::Service
            && let Some(service) = self.services.get(&peer.uid)
        {
            principals.push(format!("{service}.amazonaws.com").into());
            principals.push(format!("{service}.{}.amazonaws.com", self.region).into());
        }
        Caller {
            gid: peer.gid,
            pid: peer.pid,
            groups: named.groups.as_slice().into(),
            group_names: named.group_names.as_slice().into(),
            principals: principals.into(),
            user_name: Arc::clone(&named.user),
            login: named.login.clone(),
            possible_principals: self.role_principals(&named.user, &possible).collect(),
            roles: given.into(),
            possible_roles: possible.into(),
            process: facts.map(Arc::new),
            ..Caller::new(role, peer.uid, self.principal(peer.uid, &named.user))
        }
    }

    /// Every ARN that a policy may name for a caller, roles aside, the one of records and errors first.
    fn principals(&self, uid: u32, user: &str, unit: Option<&str>) -> Vec<Arc<str>> {
        let account = &self.account;
        let mut principals = vec![self.principal(uid, user)];
        if let Some(unit) = unit.filter(|unit| is_unit_name(unit)) {
            principals.push(format!("arn:aws:sts::{account}:assumed-role/unit/{unit}").into());
            principals.push(format!("arn:aws:iam::{account}:role/unit/{unit}").into());
        }
        principals
    }

    /// The ARNs of roles of mapping rules.
    fn role_principals<'a>(
        &'a self,
        user: &'a str,
        roles: &'a [Arc<str>],
    ) -> impl Iterator<Item = Arc<str>> + 'a {
        let account = &self.account;
        roles.iter().flat_map(move |role| {
            [
                format!("arn:aws:sts::{account}:assumed-role/{role}/{user}").into(),
                format!("arn:aws:iam::{account}:role/{role}").into(),
            ]
        })
    }

    /// The first ARN of a user: uid 0 acts as the account's root principal.
    fn principal(&self, uid: u32, user: &str) -> Arc<str> {
        match uid {
            0 => format!("arn:aws:iam::{}:root", self.account).into(),
            _ => format!("arn:aws:iam::{}:user/{user}", self.account).into(),
        }
    }
}

/// What a peer is to the limits of connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Kind {
    /// Root, administrators, services.
    Known,
    /// Everybody else: policies decide what they may do.
    User,
    /// Nobody who can be let in.
    Stranger,
    /// Whoever comes over the network.
    Network,
}

/// The characters that systemd allows in names of units.
pub(crate) fn is_unit_name(unit: &str) -> bool {
    unit.bytes()
        .all(|b| b.is_ascii_alphanumeric() || b":_.\\@-".contains(&b))
}

/// What the name service says about a peer.
struct Named {
    user: Arc<str>,
    login: Option<Arc<str>>,
    groups: Vec<u32>,
    group_names: Vec<Arc<str>>,
}

/// A peer whose identity is established, or for whom it was found that there is none.
#[derive(Debug)]
pub(crate) struct Identity {
    /// The principal, also of one that is refused.
    pub(crate) arn: Arc<str>,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) pid: u32,
    /// Under which state of the name service.
    generation: u64,
    /// With which facts.
    needs: Needs,
    callers: Result<Callers, Refusal>,
}

/// The caller with and without its process: a process that has ended, or runs another program now, is
/// nobody to whom facts belong.
#[derive(Debug)]
struct Callers {
    bare: Caller,
    full: Option<Caller>,
}

/// Why a request is refused before any policy is asked.
#[derive(Clone, Debug)]
pub(crate) enum Refusal {
    /// uid 65534.
    Overflow,
    /// Another user namespace.
    Namespace,
    /// The process had ended before its user namespace was known.
    Ended,
    /// The process is not visible in /proc.
    Hidden,
    /// The name service failed.
    Names(NamesError),
    /// What it says changed each time it was asked.
    Unsettled,
    /// The bytes came from another process than the one that connected.
    Foreign {
        /// Its user id.
        uid: u32,
        /// Its process id.
        pid: i32,
    },
    /// Asked on behalf of a user without being a service.
    NotAService,
    /// An operation that services do not ask for on behalf of users.
    NotOnBehalf,
    /// Asked in another account without being root or an administrator.
    OtherAccount,
    /// The header that names the user is wrong.
    Header(String),
}

impl Refusal {
    /// The error to reply with.
    pub(crate) fn error(&self, arn: &str, operation: &str) -> ApiError {
        let reason: String = match self {
            Self::Overflow => "uid 65534 stands for every user that a user namespace does not map".into(),
            Self::Namespace => "it runs in another user namespace, and its user is not listed in \
                 identity.allow_user_namespaces of kmsd's configuration"
                .into(),
            Self::Ended => "the process that connected ended before kmsd could tell in which user \
                 namespace it is"
                .into(),
            Self::Hidden => "kmsd cannot see in /proc in which user namespace the process is: a mount \
                 option hidepid= (put kmsd into its gid= group) or ProtectProc= in kmsd.service hides it"
                .into(),
            Self::Foreign { uid, pid } => format!(
                "the request was sent by another process (uid {uid}, pid {pid}) than the one that \
                 connected: each process needs a connection of its own"
            ),
            Self::NotAService => "only a user in service_uids of kmsd's configuration may ask on behalf \
                 of others, and never uid 0"
                .into(),
            Self::NotOnBehalf => "services do not ask for it on behalf of users".into(),
            Self::OtherAccount => "only root and administrators may ask in another account over the socket"
                .into(),
            Self::Names(error) => {
                return ApiError::new(ErrorCode::DependencyTimeout, error.to_string());
            }
            Self::Unsettled => {
                let text = "users and groups are changing all the time; try again";
                return ApiError::new(ErrorCode::DependencyTimeout, text);
            }
            Self::Header(text) => return ApiError::new(ErrorCode::Validation, text.clone()),
        };
        ApiError::new(
            ErrorCode::AccessDenied,
            format!("User: {arn} is not authorized to perform: kms:{operation} because {reason}"),
        )
    }

    /// Whether the connection is of no use any more.
    pub(crate) fn closes(&self) -> bool {
        match self {
            Self::Overflow
            | Self::Namespace
            | Self::Ended
            | Self::Hidden
            | Self::Foreign { .. } => true,
            Self::NotAService
            | Self::NotOnBehalf
            | Self::OtherAccount
            | Self::Header(_)
            | Self::Names(_)
            | Self::Unsettled => false,
        }
    }
}

/// The number of a group.
pub(crate) fn group_id(group: &NameOrId, key: &'static str) -> Result<u32, ConfigError> {
    match group {
        NameOrId::Id(gid) => Ok(*gid),
        NameOrId::Name(name) => match Group::from_name(name) {
            Ok(Some(group)) => Ok(group.gid.as_raw()),
            Ok(None) => Err(ConfigError::Value {
                key,
                reason: format!("there is no group `{name}`: create it, or run systemd-sysusers"),
            }),
            Err(error) => Err(ConfigError::Value {
                key,
                reason: format!("group `{name}`: {error}"),
            }),
        },
    }
}

fn user_id(user: &NameOrId, key: &'static str) -> Result<u32, ConfigError> {
    match user {
        NameOrId::Id(uid) => Ok(*uid),
        NameOrId::Name(name) => match User::from_name(name) {
            Ok(Some(user)) => Ok(user.uid.as_raw()),
            Ok(None) => Err(ConfigError::Value {
                key,
                reason: format!("there is no user `{name}`: create it, or run systemd-sysusers"),
            }),
            Err(error) => Err(ConfigError::Value {
                key,
                reason: format!("user `{name}`: {error}"),
            }),
        },
    }
}
