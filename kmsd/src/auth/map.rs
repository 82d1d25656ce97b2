//! Rules that give roles (`[[identity.map]]`).

use std::sync::Arc;

use kms_api::ProcessFacts;

use crate::config::{NameOrId, Rule};

/// What a rule looks at.
pub(super) struct Subject<'a> {
    pub(super) uid: u32,
    pub(super) user_name: &'a str,
    pub(super) groups: &'a [u32],
    pub(super) group_names: &'a [Arc<str>],
    pub(super) process: Option<&'a ProcessFacts>,
}

/// The roles of a subject, each once, in the order of the rules.
pub(super) fn roles(rules: &[Rule], subject: &Subject<'_>) -> Vec<Arc<str>> {
    let mut roles: Vec<Arc<str>> = Vec::new();
    for rule in rules.iter().filter(|rule| holds(rule, subject)) {
        if !roles.iter().any(|role| **role == *rule.role) {
            roles.push(rule.role.as_str().into());
        }
    }
    roles
}

/// Whether all conditions of a rule hold; a fact that is not known meets none.
fn holds(rule: &Rule, subject: &Subject<'_>) -> bool {
    let user = |user: &NameOrId| match user {
        NameOrId::Id(uid) => *uid == subject.uid,
        NameOrId::Name(name) => name == subject.user_name,
    };
    let group = |group: &NameOrId| match group {
        NameOrId::Id(gid) => subject.groups.contains(gid),
        NameOrId::Name(name) => subject.group_names.iter().any(|own| **own == **name),
    };
    let unit = |pattern: &String| {
        let unit = subject.process.and_then(|process| process.unit.as_deref());
        unit.is_some_and(|unit| matches(pattern, unit))
    };
    let exe = |path: &std::path::PathBuf| {
        let exe = subject.process.and_then(|process| process.exe.as_deref());
        exe.is_some_and(|exe| path.as_os_str() == exe)
    };
    let conditions =
        rule.user.is_some() || rule.group.is_some() || rule.unit.is_some() || rule.exe.is_some();
    conditions
        && rule.user.as_ref().is_none_or(user)
        && rule.group.as_ref().is_none_or(group)
        && rule.unit.as_ref().is_none_or(unit)
        && rule.exe.as_ref().is_none_or(exe)
}

/// Whether `text` is what `pattern` says, `*` standing for any characters.
fn matches(pattern: &str, text: &str) -> bool {
    let mut parts = pattern.split('*');
    let Some(mut rest) = parts.next().and_then(|first| text.strip_prefix(first)) else {
        return false;
    };
    let mut parts: Vec<&str> = parts.collect();
    let Some(last) = parts.pop() else {
        return rest.is_empty();
    };
    for part in parts {
        match rest.split_once(part) {
            Some((_, after)) => rest = after,
            None => return false,
        }
    }
    rest.ends_with(last)
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
            user_name: "alice",
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
        let texts = |subject: &Subject<'_>| {
            let roles = super::roles(&rules, subject);
            roles
                .iter()
                .map(|role| role.to_string())
                .collect::<Vec<_>>()
        };
        let always = ["by-user", "by-uid", "by-group", "by-gid"];
        assert_eq!(texts(&subject(None, &names)), always);
        let process = ProcessFacts {
            unit: Some("backup@home.service".into()),
            exe: Some("/usr/bin/restic".into()),
            ..ProcessFacts::default()
        };
        let all = [&always[..], &["by-unit", "both"]].concat();
        assert_eq!(texts(&subject(Some(&process), &names)), all);
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
            assert_eq!(matches(pattern, text), expected, "{pattern} {text}");
        }
    }
}
