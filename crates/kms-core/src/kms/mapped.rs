//! The mapping rules of the configuration, for questions about callers that are not there. (Who really calls has been given
//! its roles before it comes here.)

use std::sync::Arc;

/// A rule that gives a role. What it asks for must all hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MappedRole {
    /// The role.
    pub role: String,
    /// A user.
    pub user: Option<NameOrNumber>,
    /// A group.
    pub group: Option<NameOrNumber>,
    /// A systemd unit; `*` stands for any characters.
    pub unit: Option<String>,
    /// The path of an executable.
    pub exe: Option<String>,
}

/// A user or a group: the name and the number, as far as the name service knew the one for the other.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NameOrNumber {
    /// The name.
    pub name: Option<String>,
    /// The number.
    pub number: Option<u32>,
}

impl NameOrNumber {
    /// Whether a name is this one's; `uid-N` and `gid-N` are numbers.
    fn is(&self, name: &str) -> bool {
        let number = name
            .strip_prefix("uid-")
            .or_else(|| name.strip_prefix("gid-"));
        let number = number.and_then(|number| number.parse().ok());
        self.name.as_deref() == Some(name) || (number.is_some() && self.number == number)
    }
}

/// A described caller.
pub(super) struct Described<'a> {
    pub(super) user: Option<&'a str>,
    pub(super) groups: &'a [Arc<str>],
    /// Unit and executable; `None` when nothing is known of the process.
    pub(super) process: Option<(Option<&'a str>, Option<&'a str>)>,
}

/// Whether a rule holds: `None` when that is not known.
fn holds(rule: &MappedRole, who: &Described<'_>) -> Option<bool> {
    let user = |user: &NameOrNumber| Some(who.user.is_some_and(|name| user.is(name)));
    let group = |group: &NameOrNumber| Some(who.groups.iter().any(|name| group.is(name)));
    let unit = |pattern: &String| {
        let (unit, _) = who.process?;
        Some(unit.is_some_and(|unit| unit_matches(pattern, unit)))
    };
    let exe = |path: &String| {
        let (_, exe) = who.process?;
        Some(exe? == path)
    };
    let conditions = [
        rule.user.as_ref().map(user),
        rule.group.as_ref().map(group),
        rule.unit.as_ref().map(unit),
        rule.exe.as_ref().map(exe),
    ];
    let conditions: Vec<Option<bool>> = conditions.into_iter().flatten().collect();
    // A rule without any holds for nobody.
    if conditions.is_empty() || conditions.contains(&Some(false)) {
        Some(false)
    } else if conditions.contains(&None) {
        None
    } else {
        Some(true)
    }
}

/// The roles that a described caller has, and those that it may have besides.
pub(super) fn roles(rules: &[MappedRole], who: &Described<'_>) -> (Vec<Arc<str>>, Vec<Arc<str>>) {
    let having = |wanted: Option<bool>| -> Vec<Arc<str>> {
        let rules = rules.iter().filter(|rule| holds(rule, who) == wanted);
        rules.map(|rule| Arc::from(rule.role.as_str())).collect()
    };
    let mut given = having(Some(true));
    given.dedup();
    let mut possible = having(None);
    possible.retain(|role| !given.contains(role));
    (given, possible)
}

/// Whether the name of a unit is what a pattern says, `*` standing for any characters.
pub fn unit_matches(pattern: &str, unit: &str) -> bool {
    let mut parts = pattern.split('*');
    let Some(mut rest) = parts.next().and_then(|first| unit.strip_prefix(first)) else {
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
