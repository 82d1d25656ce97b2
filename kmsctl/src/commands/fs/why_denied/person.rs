//! The user who is asked about, with all groups.

use nix::unistd::{Gid, Group, Uid, User, getgrouplist};

/// A user as the kernel sees a process of theirs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Person {
    pub(super) uid: u32,
    /// The first group.
    pub(super) gid: u32,
    /// All groups, the first among them.
    pub(super) groups: Vec<u32>,
    /// None for a number that this host has no name for.
    name: Option<String>,
}

impl Person {
    /// From a name or number, with the groups that this host knows, or with `groups` instead. A user without a name has the group of
    /// their number.
    pub(super) fn find(text: &str, groups: &[u32]) -> Result<Person, String> {
        let user = match text.parse::<u32>() {
            Ok(u32::MAX) => Err(format!("{text} is no user")),
            Ok(number) => Ok((User::from_uid(Uid::from_raw(number)), Some(number))),
            Err(_) => Ok((User::from_name(text), None)),
        }?;
        let (found, number) = user;
        let found = found.map_err(|error| format!("the name service: {error}"))?;
        let mut person = match (found, number) {
            (Some(user), _) => {
                let gid = user.gid;
                let all = std::ffi::CString::new(user.name.as_str())
                    .ok()
                    .and_then(|name| getgrouplist(&name, gid).ok());
                let all = all.unwrap_or_else(|| vec![gid]);
                Person {
                    uid: user.uid.as_raw(),
                    gid: gid.as_raw(),
                    groups: all.into_iter().map(Gid::as_raw).collect(),
                    name: Some(user.name),
                }
            }
            (None, Some(number)) => Person {
                uid: number,
                gid: number,
                groups: vec![number],
                name: None,
            },
            (None, None) => return Err(format!("there is no user {text} on this host")),
        };
        if let Some(first) = groups.first() {
            person.gid = *first;
            person.groups = groups.to_vec();
        }
        Ok(person)
    }

    /// The name, or the number.
    pub(super) fn name(&self) -> String {
        self.name.clone().unwrap_or_else(|| self.uid.to_string())
    }

    /// The principal that kmsd takes a process of theirs for, as kmsctl writes it.
    pub(super) fn principal(&self) -> String {
        match (&self.name, self.uid) {
            (_, 0) => "root".to_owned(),
            (Some(name), _) => format!("user:{name}"),
            (None, uid) => format!("user:uid-{uid}"),
        }
    }

    /// Names of the groups that have one.
    pub(super) fn group_names(&self) -> Vec<String> {
        let groups = self.groups.iter();
        groups
            .filter_map(|gid| Group::from_gid(Gid::from_raw(*gid)).ok().flatten())
            .map(|group| group.name)
            .collect()
    }
}

/// A group, by name or number.
pub(super) fn group(text: &str) -> Result<u32, String> {
    if let Ok(number) = text.parse() {
        return Ok(number);
    }
    match Group::from_name(text) {
        Ok(Some(group)) => Ok(group.gid.as_raw()),
        Ok(None) => Err("there is no such group".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

/// A user's name, or number.
pub(super) fn name_of(uid: u32) -> String {
    match User::from_uid(Uid::from_raw(uid)) {
        Ok(Some(user)) => user.name,
        _ => uid.to_string(),
    }
}

/// A group's name, or number.
pub(super) fn group_name(gid: u32) -> String {
    match Group::from_gid(Gid::from_raw(gid)) {
        Ok(Some(group)) => group.name,
        _ => gid.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_by_name_and_number_with_groups_of_the_host_or_of_the_command_line() {
        let root = Person::find("root", &[]).unwrap();
        assert_eq!((root.uid, root.gid), (0, 0));
        assert!(root.groups.contains(&0));
        assert_eq!(root.principal(), "root");
        assert_eq!(Person::find("0", &[]).unwrap(), root);
        let nobody = Person::find("3999001", &[]).unwrap();
        assert_eq!(nobody.groups, [3_999_001]);
        assert_eq!(nobody.principal(), "user:uid-3999001");
        let grouped = Person::find("3999001", &[5, 6]).unwrap();
        assert_eq!((grouped.gid, grouped.groups), (5, vec![5, 6]));
        assert!(Person::find("nobody-of-this-name", &[]).is_err());
        assert!(Person::find("4294967295", &[]).is_err());
        assert_eq!(group("root"), Ok(0));
        assert!(group("no-such-group-here").is_err());
    }
}
