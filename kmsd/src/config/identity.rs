//! `[identity]`: what callers are besides their user ids.

use std::path::PathBuf;

use serde::Deserialize;

use super::{ConfigError, NameOrId, OVERFLOW_UID, require};

/// `[identity]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Identity {
    /// Seconds for which names and groups of users are remembered, 1 to 3600.
    pub names_lifetime: u64,
    /// Believe what /proc says about a process id without a pidfd (before Linux 6.5).
    pub trust_pid: bool,
    /// Users (names or numbers) whose processes may be in other user namespaces.
    pub allow_user_namespaces: Vec<NameOrId>,
    /// Directory of the policy files.
    pub policies: PathBuf,
    /// Rules that give roles.
    pub map: Vec<Rule>,
}

impl Default for Identity {
    fn default() -> Self {
        Self {
            names_lifetime: 60,
            trust_pid: false,
            allow_user_namespaces: Vec::new(),
            policies: PathBuf::from("/etc/kmsd/policies"),
            map: Vec::new(),
        }
    }
}

/// `[[identity.map]]`: whoever meets all the conditions that are given has the role.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// The role.
    pub role: String,
    /// A user, name or number.
    pub user: Option<NameOrId>,
    /// A group, name or number.
    pub group: Option<NameOrId>,
    /// A systemd unit, for example `nginx.service`; `*` stands for any characters.
    pub unit: Option<String>,
    /// The path of the executable.
    pub exe: Option<PathBuf>,
}

/// A user that may call as a service.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
pub enum ServiceUser {
    /// The service is called as the user.
    User(NameOrId),
    /// The service has a name of its own.
    Named {
        /// Name or number.
        user: NameOrId,
        /// The first part of `kms:ViaService`.
        service: String,
    },
}

impl ServiceUser {
    /// The user.
    pub fn user(&self) -> &NameOrId {
        match self {
            Self::User(user) | Self::Named { user, .. } => user,
        }
    }
}

impl From<NameOrId> for ServiceUser {
    fn from(user: NameOrId) -> Self {
        Self::User(user)
    }
}

impl Identity {
    pub(super) fn check(&self) -> Result<(), ConfigError> {
        let key = "identity.names_lifetime";
        require((1..=3600).contains(&self.names_lifetime), key, || {
            "must be 1 to 3600 seconds".into()
        })?;
        let overflow = NameOrId::Id(OVERFLOW_UID);
        let key = "identity.allow_user_namespaces";
        require(!self.allow_user_namespaces.contains(&overflow), key, || {
            "65534 stands for every user that a namespace does not map, and can never be let in"
                .into()
        })?;
        require(self.policies.is_absolute(), "identity.policies", || {
            "must be an absolute path".into()
        })?;
        for rule in &self.map {
            rule.check()?;
        }
        Ok(())
    }
}

impl Rule {
    fn check(&self) -> Result<(), ConfigError> {
        let key = "identity.map";
        let role = &self.role;
        require(is_iam_name(role), key, || {
            format!(
                "the role `{role}` must be 1 to 64 letters, digits and characters of +=,.@_- (the \
                 names that IAM allows)"
            )
        })?;
        // Its sessions would be called as the roles of units are: `assumed-role/unit/NAME`.
        require(role != "unit", key, || {
            "the role `unit` is the one of systemd units: choose another name".into()
        })?;
        let any = self.user.is_some()
            || self.group.is_some()
            || self.unit.is_some()
            || self.exe.is_some();
        require(any, key, || {
            format!(
                "the rule for the role `{role}` has no condition: give user, group, unit or exe"
            )
        })?;
        require(
            self.exe.as_ref().is_none_or(|exe| exe.is_absolute()),
            key,
            || format!("the exe of the rule for the role `{role}` must be an absolute path"),
        )?;
        let unit = |unit: &String| !unit.is_empty() && !unit.contains('/');
        require(self.unit.as_ref().is_none_or(unit), key, || {
            format!("the unit of the rule for the role `{role}` must be the name of a unit")
        })
    }
}

pub(super) fn check_services(services: &[ServiceUser]) -> Result<(), ConfigError> {
    let key = "server.service_uids";
    for service in services {
        require(*service.user() != NameOrId::Id(OVERFLOW_UID), key, || {
            "65534 stands for users of other user namespaces and can never be let in".into()
        })?;
        require(*service.user() != NameOrId::Id(u32::MAX), key, || {
            "4294967295 is nobody's number".into()
        })?;
        if let ServiceUser::Named { service, .. } = service {
            let valid = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
            require(
                (1..=64).contains(&service.len()) && service.bytes().all(valid),
                key,
                || {
                    format!(
                        "the service `{service}` must be lower-case letters, digits and hyphens"
                    )
                },
            )?;
        }
    }
    Ok(())
}

/// Whether a name has only the characters that IAM allows in names of users and roles; anything else
/// could make one ARN look like another.
pub(crate) fn is_iam_name(name: &str) -> bool {
    (1..=64).contains(&name.len())
        && name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"+=,.@_-".contains(&b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_rule_gives_the_role_of_units() {
        let rule = |role: &str| Rule {
            role: role.into(),
            user: Some(NameOrId::Id(1000)),
            ..Rule::default()
        };
        assert!(rule("unit").check().is_err());
        rule("units").check().unwrap();
    }
}
