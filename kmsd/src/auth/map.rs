//! Rules that give roles (`[[identity.map]]`).

use std::sync::Arc;

use kms_api::ProcessFacts;
use kms_core::kms::{MappedRole, NameOrNumber, unit_matches};
use nix::unistd::{Gid, Group, Uid, User};

use crate::config::{NameOrId, Rule};

/// What a rule looks at.
pub(super) struct Subject<'a> {
    pub(super) uid: u32,
    /// The user's name as the name service has it.
    pub(super) login: Option<&'a str>,
    pub(super) groups: &'a [u32],
    pub(super) group_names: &'a [Arc<str>],
    pub(super) process: Option<&'a ProcessFacts>,
}

/// Roles, each once, in the order of the rules.
pub(super) struct Roles {
    /// Those that the subject has.
    pub(super) given: Vec<Arc<str>>,
    /// Those that it may have besides: it depends on facts that are not known.
    pub(super) possible: Vec<Arc<str>>,
}

/// Whether a condition is met.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Met {
    No,
    Perhaps,
    Yes,
}

impl From<bool> for Met {
    fn from(met: bool) -> Self {
        if met { Self::Yes } else { Self::No }
    }
}

/// The roles of a subject.
pub(super) fn roles(rules: &[Rule], subject: &Subject<'_>) -> Roles {
    let (mut given, mut possible) = (Vec::new(), Vec::new());
    for rule in rules {
        let list: &mut Vec<Arc<str>> = match holds(rule, subject) {
            Met::No => continue,
            Met::Perhaps => &mut possible,
            Met::Yes => &mut given,
        };
        if !list.iter().any(|role| **role == *rule.role) {
            list.push(rule.role.as_str().into());
        }
    }
    possible.retain(|role| !given.contains(role));
    Roles { given, possible }
}

/// Whether all conditions of a rule hold.
fn holds(rule: &Rule, subject: &Subject<'_>) -> Met {
    let user = |user: &NameOrId| match user {
        NameOrId::Id(uid) => *uid == subject.uid,
        NameOrId::Name(name) => subject.login == Some(name),
    };
    let group = |group: &NameOrId| match group {
        NameOrId::Id(gid) => subject.groups.contains(gid),
        NameOrId::Name(name) => subject.group_names.iter().any(|own| **own == **name),
    };
    // What nothing vouches for may give a role where the configuration says so, but spares nobody one.
    let of_process = |met: Option<bool>| match met {
        Some(true) => Met::Yes,
        Some(false) if subject.process.is_some_and(|facts| facts.checked) => Met::No,
        Some(false) | None => Met::Perhaps,
    };
    let unit = |pattern: &String| {
        let unit = subject.process.map(|process| process.unit.as_deref());
        of_process(unit.map(|unit| unit.is_some_and(|unit| unit_matches(pattern, unit))))
    };
    let exe = |path: &std::path::PathBuf| {
        let exe = subject.process.and_then(|process| process.exe.as_deref());
        of_process(exe.map(|exe| path.as_os_str() == exe))
    };
    let conditions = [
        rule.user.as_ref().map(|one| user(one).into()),
        rule.group.as_ref().map(|one| group(one).into()),
        rule.unit.as_ref().map(unit),
        rule.exe.as_ref().map(exe),
    ];
    // A rule without any holds for nobody.
    conditions.into_iter().flatten().min().unwrap_or(Met::No)
}

/// A rule for those who ask what it would give, with names and numbers as the name service has them now.
pub(super) fn described(rule: &Rule) -> MappedRole {
    let user = |user: &NameOrId| match user {
        NameOrId::Id(uid) => NameOrNumber {
            name: User::from_uid(Uid::from_raw(*uid))
                .ok()
                .flatten()
                .map(|user| user.name),
            number: Some(*uid),
        },
        NameOrId::Name(name) => NameOrNumber {
            name: Some(name.clone()),
            number: User::from_name(name)
                .ok()
                .flatten()
                .map(|user| user.uid.as_raw()),
        },
    };
    let group = |group: &NameOrId| match group {
        NameOrId::Id(gid) => NameOrNumber {
            name: Group::from_gid(Gid::from_raw(*gid))
                .ok()
                .flatten()
                .map(|group| group.name),
            number: Some(*gid),
        },
        NameOrId::Name(name) => NameOrNumber {
            name: Some(name.clone()),
            number: Group::from_name(name)
                .ok()
                .flatten()
                .map(|group| group.gid.as_raw()),
        },
    };
    MappedRole {
        role: rule.role.clone(),
        user: rule.user.as_ref().map(user),
        group: rule.group.as_ref().map(group),
        unit: rule.unit.clone(),
        exe: rule
            .exe
            .as_ref()
            .map(|exe| exe.to_string_lossy().into_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(text: &str) -> Vec<Rule> {
        let text = format!("[server]\n{text}");
        let config = crate::config::Config::parse(&text, std::path::Path::new("x"));
        config.unwrap().identity.map
    }

    fn subject<'a>(process: Option<&'a ProcessFacts>, names: &'a [Arc<str>]) -> Subject<'a> {
        Subject {
            uid: 1000,
            login: Some("alice"),
            groups: &[1000, 27],
            group_names: names,
            process,
        }
    }

    #[test]
    fn all_conditions_of_a_rule_must_hold() {
        let rules = rules(
            r#"
            [[identity.map]]
            role = "by-user"
            user = "alice"
            [[identity.map]]
            role = "by-uid"
            user = 1000
            [[identity.map]]
            role = "by-group"
            group = "sudo"
            [[identity.map]]
            role = "by-gid"
            group = 27
            [[identity.map]]
            role = "by-unit"
            unit = "backup@*.service"
            [[identity.map]]
            role = "both"
            user = "alice"
            exe = "/usr/bin/restic"
            [[identity.map]]
            role = "by-user"
            group = 27
            [[identity.map]]
            role = "never"
            user = "bob"
            group = 27
            "#,
        );
        let names: [Arc<str>; 1] = ["sudo".into()];
        let texts = |roles: &[Arc<str>]| roles.iter().map(|role| role.to_string()).collect();
        let roles = |subject: &Subject<'_>| -> (Vec<String>, Vec<String>) {
            let roles = super::roles(&rules, subject);
            (texts(&roles.given), texts(&roles.possible))
        };
        let strings = |list: &[&str]| list.iter().map(|text| (*text).to_owned()).collect();
        let both = |given: &[&str], possible: &[&str]| -> (Vec<String>, Vec<String>) {
            (strings(given), strings(possible))
        };
        let always = ["by-user", "by-uid", "by-group", "by-gid"];
        assert_eq!(
            roles(&subject(None, &names)),
            both(&always, &["by-unit", "both"]),
            "what is not known may be so"
        );
        let mut process = ProcessFacts {
            unit: Some("backup@home.service".into()),
            exe: Some("/usr/bin/restic".into()),
            checked: true,
            ..ProcessFacts::default()
        };
        let all = [&always[..], &["by-unit", "both"]].concat();
        assert_eq!(roles(&subject(Some(&process), &names)), both(&all, &[]));
        process.exe = None;
        let units = [&always[..], &["by-unit"]].concat();
        assert_eq!(
            roles(&subject(Some(&process), &names)),
            both(&units, &["both"])
        );
        process.unit = None;
        process.exe = Some("/usr/bin/other".into());
        assert_eq!(roles(&subject(Some(&process), &names)), both(&always, &[]));
        process.checked = false;
        assert_eq!(
            roles(&subject(Some(&process), &names)),
            both(&always, &["by-unit", "both"]),
            "nothing vouches for it"
        );
    }

    #[test]
    fn names_are_those_of_the_name_service() {
        let rules = rules(
            r#"
            [[identity.map]]
            role = "eve"
            user = "CORP\\eve"
            [[identity.map]]
            role = "staff"
            group = "Domain Users"
            [[identity.map]]
            role = "numbered"
            user = "uid-1000"
            "#,
        );
        let names: [Arc<str>; 1] = ["Domain Users".into()];
        let eve = Subject {
            login: Some("CORP\\eve"),
            ..subject(None, &names)
        };
        let roles = super::roles(&rules, &eve).given;
        assert_eq!(roles, ["eve".into(), "staff".into()] as [Arc<str>; 2]);
    }

    #[test]
    fn a_star_stands_for_any_characters() {
        for (pattern, text, expected) in [
            ("nginx.service", "nginx.service", true),
            ("nginx.service", "nginx.service2", false),
            ("a@*.service", "a@x.service", true),
            ("a@*.service", "a@.service", true),
            ("a@*.service", "b@x.service", false),
            ("*", "anything", true),
            ("a*b*c", "a1b2c", true),
            ("a*b*c", "a1c", false),
            ("a*a", "a", false),
            ("a**b", "ab", true),
        ] {
            assert_eq!(unit_matches(pattern, text), expected, "{pattern} {text}");
        }
    }
}
