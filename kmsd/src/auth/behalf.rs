//! Services that ask on behalf of users (`kms:ViaService`).
//!
//! A service is a user id of its own, listed in the configuration; a process that is merely root is
//! none. It names the user, whose groups come from the name service. It may do so for what its users do with
//! keys and directories, not for the administration of keys: who takes a service over does not become
//! an administrator by it.

use std::collections::HashMap;
use std::sync::Arc;

use kms_api::{Caller, CallerRole, Request, Via};

use super::map::{Roles, Subject};
use super::names::{Names, NamesError, UserEntry};
use super::{Auth, Named, Refusal, map, user_id};
use crate::config::{ConfigError, NameOrId, OVERFLOW_UID, ServiceUser};

/// The user that a service names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct OnBehalfOf {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) pid: u32,
}

impl OnBehalfOf {
    /// Reads `uid=1000;gid=1000;pid=4711`: each once, in any order.
    pub(crate) fn parse(text: &str) -> Result<Self, Refusal> {
        let wrong = || {
            Refusal::Header(format!(
                "The header {} must have the form uid=1000;gid=1000;pid=4711.",
                kms_api::ON_BEHALF_OF
            ))
        };
        let mut found: [Option<u32>; 3] = [None; 3];
        for part in text.split(';') {
            let (name, value) = part.split_once('=').ok_or_else(wrong)?;
            let place = ["uid", "gid", "pid"]
                .iter()
                .position(|known| *known == name.trim())
                .and_then(|place| found.get_mut(place))
                .ok_or_else(wrong)?;
            let value = value.trim();
            // A sign would be read too.
            let digits = value.bytes().all(|b| b.is_ascii_digit());
            let value = value.parse().ok().filter(|_| digits).ok_or_else(wrong)?;
            if place.replace(value).is_some() {
                return Err(wrong());
            }
        }
        match found {
            [Some(uid), Some(gid), Some(pid)] if uid != u32::MAX && gid != u32::MAX => {
                Ok(Self { uid, gid, pid })
            }
            _ => Err(wrong()),
        }
    }
}

/// Whether services may ask for this on behalf of users.
pub(crate) fn is_for_users(request: &Request) -> bool {
    matches!(
        request,
        Request::Encrypt(_)
            | Request::Decrypt(_)
            | Request::ReEncrypt(_)
            | Request::GenerateDataKey(_)
            | Request::GenerateDataKeyWithoutPlaintext(_)
            | Request::GenerateRandom(_)
            | Request::DescribeKey(_)
            | Request::CreateVolume(_)
            | Request::CreatePolicy(_)
            | Request::GetPolicy(_)
            | Request::RotatePolicy(_)
            | Request::DescribeVolume(_)
            | Request::RecordFileAccess(_)
            | Request::GetCallerIdentity(_)
    )
}

/// The configured services, by user id.
pub(super) fn services(
    configured: &[ServiceUser],
    names: &Names,
) -> Result<HashMap<u32, Arc<str>>, ConfigError> {
    let key = "server.service_uids";
    let mut services = HashMap::new();
    for service in configured {
        let uid = user_id(service.user(), key)?;
        let name = match service {
            ServiceUser::Named { service, .. } => service.as_str().into(),
            ServiceUser::User(NameOrId::Name(name)) => name.as_str().into(),
            ServiceUser::User(NameOrId::Id(_)) => match names.user(uid) {
                Ok(entry) => entry.name,
                Err(error) => {
                    let reason = error.to_string();
                    return Err(ConfigError::Value { key, reason });
                }
            },
        };
        services.insert(uid, name);
    }
    Ok(services)
}

impl Auth {
    /// The user that a service names, if that needs no question to the name service.
    pub(super) fn remembered(&self, user: OnBehalfOf) -> Option<UserEntry> {
        self.names.remembered_user(user.uid)
    }

    /// The user as a caller; `service` is the one that names it. May block on the name service.
    pub(super) fn on_behalf(&self, service: &Caller, user: OnBehalfOf) -> Result<Caller, Refusal> {
        let Some(service_name) = self.services.get(&service.uid) else {
            return Err(Refusal::NotAService);
        };
        if service.role != CallerRole::Service {
            return Err(Refusal::NotAService);
        }
        if user.uid == OVERFLOW_UID {
            return Err(Refusal::Overflow);
        }
        let named = self.groups_of(user).map_err(Refusal::Names)?;
        let subject = Subject {
            uid: user.uid,
            login: named.login.as_deref(),
            groups: &named.groups,
            group_names: &named.group_names,
            // Nobody vouches for the process id that a service names.
            process: None,
        };
        let Roles { given, possible } = map::roles(&self.rules, &subject);
        let role = match user.uid {
            0 => CallerRole::Root,
            _ if self
                .admin_gid
                .is_some_and(|gid| named.groups.contains(&gid)) =>
            {
                CallerRole::Admin
            }
            _ => CallerRole::User,
        };
        let via = Via {
            service: format!("{service_name}.{}.amazonaws.com", self.region).into(),
            arn: Arc::clone(&service.arn),
            uid: service.uid,
            pid: service.pid,
        };
        let mut principals = self.principals(user.uid, &named.user, None);
        principals.extend(self.role_principals(&named.user, &given));
        Ok(Caller {
            gid: user.gid,
            pid: user.pid,
            groups: named.groups.into(),
            group_names: named.group_names.into(),
            principals: principals.into(),
            user_name: Arc::clone(&named.user),
            login: named.login.clone(),
            possible_principals: self.role_principals(&named.user, &possible).collect(),
            roles: given.into(),
            possible_roles: possible.into(),
            via: Some(Arc::new(via)),
            ..Caller::new(role, user.uid, self.principal(user.uid, &named.user))
        })
    }

    fn groups_of(&self, user: OnBehalfOf) -> Result<Named, NamesError> {
        let entry = self.names.user(user.uid)?;
        let mut groups = entry.groups.as_deref().unwrap_or_default().to_vec();
        groups.push(user.gid);
        groups.sort_unstable();
        groups.dedup();
        let group_names = self.group_names(user.uid, &groups)?;
        Ok(Named {
            user: entry.name,
            login: entry.login,
            groups,
            group_names,
        })
    }
}
