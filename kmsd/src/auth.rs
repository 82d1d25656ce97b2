//! Who is asking: the kernel's word on the other end of a Unix socket, and who is let in.
//!
//! uid, gid and supplementary groups are those the peer had when it connected (`SO_PEERCRED`,
//! `SO_PEERGROUPS`, unix(7)). The process id is only logged: it may have been re-used.

use std::collections::{HashMap, HashSet};
use std::io;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use kms_api::{ApiError, Caller, CallerRole, ErrorCode};
use nix::unistd::{Group, Uid, User};
use parking_lot::Mutex;
use tokio::net::UnixStream;

use crate::config::{ConfigError, NameOrId, OVERFLOW_UID, Server};
use crate::sys;

/// How long the name of a user is remembered.
const NAME_LIFETIME: Duration = Duration::from_secs(300);

/// What the kernel says about a peer.
#[derive(Clone, Debug)]
pub(crate) struct Peer {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) pid: u32,
    pub(crate) groups: Vec<u32>,
}

impl Peer {
    pub(crate) fn of(stream: &UnixStream) -> io::Result<Self> {
        Self::of_fd(stream.peer_cred()?, stream)
    }

    fn of_fd(credentials: tokio::net::unix::UCred, stream: &impl AsRawFd) -> io::Result<Self> {
        Ok(Self {
            uid: credentials.uid(),
            gid: credentials.gid(),
            pid: credentials
                .pid()
                .and_then(|pid| u32::try_from(pid).ok())
                .unwrap_or(0),
            groups: sys::peer_groups(stream)?,
        })
    }
}

/// Decides who may call.
#[derive(Debug)]
pub struct Auth {
    account: String,
    admin_gid: Option<u32>,
    service_uids: HashSet<u32>,
    names: Mutex<HashMap<u32, (Arc<str>, Instant)>>,
}

impl Auth {
    /// Looks up the configured group and users.
    ///
    /// # Errors
    /// One of them does not exist.
    pub fn new(server: &Server) -> Result<Self, ConfigError> {
        let admin_gid = server
            .admin_group
            .as_ref()
            .map(|group| group_id(group, "server.admin_group"))
            .transpose()?;
        let service_uids = server
            .service_uids
            .iter()
            .map(user_id)
            .collect::<Result<_, _>>()?;
        Ok(Self {
            account: server.account.clone(),
            admin_gid,
            service_uids,
            names: Mutex::default(),
        })
    }

    /// Why `peer` may call, or `None`.
    fn role(&self, peer: &Peer) -> Option<CallerRole> {
        let admin = self.admin_gid;
        match peer.uid {
            // Users of other user namespaces, all of them in one.
            OVERFLOW_UID => None,
            0 => Some(CallerRole::Root),
            uid if self.service_uids.contains(&uid) => Some(CallerRole::Service),
            _ if admin.is_some_and(|gid| peer.gid == gid || peer.groups.contains(&gid)) => {
                Some(CallerRole::Admin)
            }
            _ => None,
        }
    }

    /// Whether `peer` may call. Does not block.
    pub(crate) fn admits(&self, peer: &Peer) -> bool {
        self.role(peer).is_some()
    }

    /// Names the peer, and lets it in or not. May block on the name service.
    pub(crate) fn identify(&self, peer: &Peer) -> Identity {
        let arn: Arc<str> =
            format!("arn:aws:iam::{}:user/{}", self.account, self.name(peer.uid)).into();
        let caller = self.role(peer).map(|role| Caller {
            gid: peer.gid,
            pid: peer.pid,
            groups: peer.groups.clone().into(),
            ..Caller::new(role, peer.uid, Arc::clone(&arn))
        });
        Identity {
            arn,
            uid: peer.uid,
            gid: peer.gid,
            pid: peer.pid,
            caller,
        }
    }

    fn name(&self, uid: u32) -> Arc<str> {
        let now = Instant::now();
        if let Some((name, at)) = self.names.lock().get(&uid)
            && now.duration_since(*at) < NAME_LIFETIME
        {
            return Arc::clone(name);
        }
        let found = User::from_uid(Uid::from_raw(uid))
            .ok()
            .flatten()
            .map(|user| user.name);
        // The characters IAM allows in user names; anything else could make one ARN look like another.
        let valid = |name: &String| {
            (1..=64).contains(&name.len())
                && name
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b"+=,.@_-".contains(&b))
        };
        let name: Arc<str> = found
            .filter(valid)
            .unwrap_or_else(|| format!("uid-{uid}"))
            .into();
        self.names.lock().insert(uid, (Arc::clone(&name), now));
        name
    }
}

/// A named peer.
#[derive(Clone, Debug)]
pub(crate) struct Identity {
    pub(crate) arn: Arc<str>,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) pid: u32,
    caller: Option<Caller>,
}

impl Identity {
    /// The caller, or the error for one that is not let in.
    pub(crate) fn admit(&self, operation: &str) -> Result<Caller, ApiError> {
        self.caller.clone().ok_or_else(|| {
            ApiError::new(
                ErrorCode::AccessDenied,
                format!(
                    "User: {} is not authorized to perform: kms:{operation} because only root, the \
                     members of admin_group and the users in service_uids may call kmsd",
                    self.arn
                ),
            )
        })
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

fn user_id(user: &NameOrId) -> Result<u32, ConfigError> {
    let key = "server.service_uids";
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

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(uid: u32, gid: u32, groups: &[u32]) -> Peer {
        Peer {
            uid,
            gid,
            pid: 1,
            groups: groups.to_vec(),
        }
    }

    fn auth() -> Auth {
        Auth::new(&Server {
            admin_group: Some(NameOrId::Id(500)),
            service_uids: vec![NameOrId::Id(990)],
            ..Server::default()
        })
        .unwrap()
    }

    #[test]
    fn only_root_administrators_and_services_are_let_in() {
        let auth = auth();
        let role = |uid, gid, groups: &[u32]| auth.role(&peer(uid, gid, groups));
        assert_eq!(role(0, 0, &[]), Some(CallerRole::Root));
        assert_eq!(role(990, 990, &[]), Some(CallerRole::Service));
        assert_eq!(role(1000, 500, &[]), Some(CallerRole::Admin));
        assert_eq!(role(1000, 1000, &[27, 500]), Some(CallerRole::Admin));
        assert_eq!(role(1000, 1000, &[27]), None);
        assert_eq!(
            role(1000, 990, &[990]),
            None,
            "service uids are not group ids"
        );
        assert_eq!(
            role(OVERFLOW_UID, 500, &[500]),
            None,
            "other user namespaces"
        );
    }

    #[test]
    fn identities_have_arns() {
        let auth = auth();
        assert_eq!(
            &*auth.identify(&peer(0, 0, &[])).arn,
            "arn:aws:iam::000000000000:user/root"
        );
        let stranger = auth.identify(&peer(3_999_999, 1, &[]));
        assert_eq!(&*stranger.arn, "arn:aws:iam::000000000000:user/uid-3999999");
        let error = stranger.admit("Encrypt").unwrap_err();
        assert_eq!(error.code, ErrorCode::AccessDenied);
        let text = error.message.unwrap();
        assert!(
            text.contains("uid-3999999 is not authorized to perform: kms:Encrypt"),
            "{text}"
        );
    }

    #[test]
    fn unknown_names_are_configuration_errors() {
        let name = NameOrId::Name("no-such-name-here".into());
        let server = Server {
            admin_group: Some(name.clone()),
            ..Server::default()
        };
        let text = Auth::new(&server).unwrap_err().to_string();
        assert!(
            text.contains("server.admin_group") && text.contains("no-such-name-here"),
            "{text}"
        );
        let server = Server {
            service_uids: vec![name],
            ..Server::default()
        };
        assert!(Auth::new(&server).is_err());
    }
}
