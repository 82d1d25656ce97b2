//! POSIX permissions and ACLs, decided as the kernel decides them.

use super::person::{Person, group_name, name_of};
use super::quoted;

/// What is wanted of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Want {
    Read = 4,
    Write = 2,
    /// Of a directory: to go through it. Of a file: to run it.
    Execute = 1,
}

/// What counts of an object.
#[derive(Clone, Debug)]
pub(super) struct Object {
    /// Type and permission bits.
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    /// The attribute `system.posix_acl_access`.
    pub(super) acl: Option<Vec<u8>>,
}

/// The entry that decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Class {
    Owner,
    Group,
    Other,
    /// Root, and nobody may run it.
    Nobody,
    /// An entry of the ACL for this user.
    AclUser,
    /// Entries of the ACL for groups of the user.
    AclGroup,
    /// The mask of the ACL.
    Mask,
}

const KIND: u32 = 0o170_000;
const DIRECTORY: u32 = 0o040_000;
const VERSION: [u8; 4] = [2, 0, 0, 0];
const USER: u16 = 2;
const GROUP_OBJ: u16 = 4;
const GROUP: u16 = 8;
const MASK: u16 = 0x10;
const OTHER: u16 = 0x20;

impl Object {
    pub(super) fn is_directory(&self) -> bool {
        self.mode & KIND == DIRECTORY
    }

    /// Which entry refuses it to a user; None if they may.
    pub(super) fn refuses(&self, person: &Person, want: Want) -> Option<Class> {
        let bit = want as u32;
        let allows = |shift: u32| self.mode >> shift & bit != 0;
        if person.uid == 0 {
            let runs = want != Want::Execute || self.is_directory() || self.mode & 0o111 != 0;
            return (!runs).then_some(Class::Nobody);
        }
        if person.uid == self.uid {
            return (!allows(6)).then_some(Class::Owner);
        }
        // With an ACL the bits of the group are its mask; with none of them it is not looked at.
        if self.mode & 0o070 != 0
            && let Some(entries) = self.acl.as_deref().and_then(entries)
        {
            return self.acl_refuses(&entries, person, bit);
        }
        if person.groups.contains(&self.gid) {
            return (!allows(3)).then_some(Class::Group);
        }
        (!allows(0)).then_some(Class::Other)
    }

    fn acl_refuses(&self, entries: &[Entry], person: &Person, bit: u32) -> Option<Class> {
        let allows = |entry: &Entry| u32::from(entry.permissions) & bit != 0;
        let mask = entries.iter().find(|entry| entry.tag == MASK);
        let masked = |class| match mask {
            Some(mask) if !allows(mask) => Some(Class::Mask),
            _ => class,
        };
        if let Some(own) = entries
            .iter()
            .find(|entry| entry.tag == USER && entry.id == person.uid)
        {
            return match allows(own) {
                true => masked(None),
                false => Some(Class::AclUser),
            };
        }
        let mut of_groups = entries.iter().filter(|entry| match entry.tag {
            GROUP_OBJ => person.groups.contains(&self.gid),
            GROUP => person.groups.contains(&entry.id),
            _ => false,
        });
        let is_member = of_groups.clone().next().is_some();
        if is_member {
            return match of_groups.any(allows) {
                true => masked(None),
                false => Some(Class::AclGroup),
            };
        }
        let other = entries.iter().find(|entry| entry.tag == OTHER);
        (!other.is_some_and(allows)).then_some(Class::Other)
    }

    /// The refusal in words, and a command that would end it.
    pub(super) fn explain(
        &self,
        class: Class,
        person: &Person,
        want: Want,
        path: &str,
    ) -> (String, String) {
        let who = person.name();
        let letter = match want {
            Want::Read => 'r',
            Want::Write => 'w',
            Want::Execute => 'x',
        };
        let doing = match (want, self.is_directory()) {
            (Want::Read, true) => "list",
            (Want::Write, true) => "make or remove anything in",
            (Want::Execute, true) => "go through",
            (Want::Read, false) => "read",
            (Want::Write, false) => "write to",
            (Want::Execute, false) => "run",
        };
        let (owner, group) = (name_of(self.uid), group_name(self.gid));
        let why = match class {
            Class::Owner => format!("is its owner, and the owner has no `{letter}`"),
            Class::Group => format!("is in its group {group}, which has no `{letter}`"),
            Class::Other => format!(
                "is neither its owner {owner} nor in its group {group}, and others have no `{letter}`"
            ),
            Class::Nobody => "is root, but nobody at all has an `x`".to_owned(),
            Class::AclUser => format!("has an entry of its own in the ACL, without `{letter}`"),
            Class::AclGroup => format!("is in groups that the ACL gives no `{letter}`"),
            Class::Mask => {
                format!("has `{letter}` by the ACL, but its mask takes it away")
            }
        };
        let permissions = self.mode & 0o7777;
        let acl = if self.acl.is_some() {
            " and an ACL"
        } else {
            ""
        };
        let text = format!(
            "{who} may not {doing} it: its mode is {permissions:04o}{acl}, and {who} {why}"
        );
        let path = quoted(path);
        let next = match class {
            Class::Owner | Class::Nobody => format!("chmod u+{letter} {path}"),
            Class::Group => format!("chmod g+{letter} {path}"),
            // For this one user and nobody else.
            _ => format!("setfacl -m u:{who}:{} {path}", self.wanted(person, want)),
        };
        (text, next)
    }

    /// What an ACL entry for the user has to have, so that nothing is lost by it.
    fn wanted(&self, person: &Person, want: Want) -> String {
        let has = |one: Want| one == want || self.refuses(person, one).is_none();
        [(Want::Read, 'r'), (Want::Write, 'w'), (Want::Execute, 'x')]
            .iter()
            .map(|(one, letter)| if has(*one) { *letter } else { '-' })
            .collect()
    }
}

#[derive(Debug)]
struct Entry {
    tag: u16,
    permissions: u16,
    id: u32,
}

/// The entries of an ACL as the kernel stores it; None if it is something else.
fn entries(acl: &[u8]) -> Option<Vec<Entry>> {
    let rest = acl.strip_prefix(&VERSION)?;
    let (entries, tail) = rest.as_chunks::<8>();
    if !tail.is_empty() {
        return None;
    }
    let entries = entries.iter();
    let entries = entries.map(|[t0, t1, p0, p1, id @ ..]| Entry {
        tag: u16::from_le_bytes([*t0, *t1]),
        permissions: u16::from_le_bytes([*p0, *p1]),
        id: u32::from_le_bytes(*id),
    });
    Some(entries.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn person(uid: u32, groups: &[u32]) -> Person {
        Person::find(&uid.to_string(), groups).unwrap()
    }

    fn object(mode: u32) -> Object {
        Object {
            mode,
            uid: 7001,
            gid: 7100,
            acl: None,
        }
    }

    fn acl(entries: &[(u16, u16, u32)]) -> Option<Vec<u8>> {
        let mut bytes = VERSION.to_vec();
        for (tag, permissions, id) in entries {
            bytes.extend(tag.to_le_bytes());
            bytes.extend(permissions.to_le_bytes());
            bytes.extend(id.to_le_bytes());
        }
        Some(bytes)
    }

    #[test]
    fn the_first_class_that_fits_decides_and_no_later_one() {
        let (owner, member, other) = (
            person(7001, &[7100]),
            person(7002, &[7002, 7100]),
            person(7003, &[7003]),
        );
        let file = object(0o100_047);
        assert_eq!(file.refuses(&owner, Want::Read), Some(Class::Owner));
        assert_eq!(file.refuses(&member, Want::Read), None);
        assert_eq!(file.refuses(&member, Want::Write), Some(Class::Group));
        assert_eq!(file.refuses(&other, Want::Write), None);
        let file = object(0o100_640);
        assert_eq!(file.refuses(&other, Want::Read), Some(Class::Other));
    }

    #[test]
    fn root_may_everything_but_run_what_nobody_may_run() {
        let root = person(0, &[0]);
        for want in [Want::Read, Want::Write] {
            assert_eq!(object(0o100_000).refuses(&root, want), None);
        }
        assert_eq!(object(0o040_000).refuses(&root, Want::Execute), None);
        assert_eq!(object(0o100_001).refuses(&root, Want::Execute), None);
        let nobody = object(0o100_666).refuses(&root, Want::Execute);
        assert_eq!(nobody, Some(Class::Nobody));
    }

    #[test]
    fn an_acl_decides_for_whom_it_names_and_its_mask_limits_them() {
        let mut file = object(0o100_640);
        file.acl = acl(&[
            (1, 6, u32::MAX),
            (USER, 6, 7002),
            (USER, 0, 7004),
            (GROUP_OBJ, 0, u32::MAX),
            (GROUP, 4, 7200),
            (MASK, 4, u32::MAX),
            (OTHER, 0, u32::MAX),
        ]);
        let refuses = |uid, groups: &[u32], want| file.refuses(&person(uid, groups), want);
        assert_eq!(refuses(7002, &[7002], Want::Read), None);
        assert_eq!(refuses(7002, &[7002], Want::Write), Some(Class::Mask));
        // An entry for the user counts before any group.
        let user = refuses(7004, &[7200], Want::Read);
        assert_eq!(user, Some(Class::AclUser));
        assert_eq!(refuses(7005, &[7200], Want::Read), None);
        // One of several groups is enough.
        assert_eq!(refuses(7005, &[7100, 7200], Want::Read), None);
        let group = refuses(7005, &[7100], Want::Read);
        assert_eq!(group, Some(Class::AclGroup));
        let other = refuses(7006, &[7006], Want::Read);
        assert_eq!(other, Some(Class::Other));
        assert_eq!(refuses(7001, &[], Want::Write), None);
        // What is none is not looked at.
        file.acl = Some(vec![1, 2, 3]);
        let group = file.refuses(&person(7005, &[7100]), Want::Write);
        assert_eq!(group, Some(Class::Group));
    }

    #[test]
    fn the_words_name_the_bit_and_the_command_changes_it_for_nobody_else() {
        let bob = person(7003, &[7003]);
        let directory = object(0o040_750);
        let class = directory.refuses(&bob, Want::Execute).unwrap();
        let (text, next) = directory.explain(class, &bob, Want::Execute, "/mnt/a b");
        assert!(
            text.contains("0750") && text.contains("others have no `x`"),
            "{text}"
        );
        assert_eq!(next, "setfacl -m u:7003:--x '/mnt/a b'");
        let member = person(7003, &[7100]);
        let (text, next) = directory.explain(Class::Group, &member, Want::Write, "/mnt/a");
        assert!(text.contains("in its group 7100"), "{text}");
        assert_eq!(next, "chmod g+w /mnt/a");
    }
}
