//! `kmsctl fs why-denied`: why a user does not get at a path of a mount, and what would let them.

mod kmsd;
mod permission;
mod person;
mod road;
mod walk;

use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use serde::Serialize;

use self::permission::Want;
use self::person::Person;
use self::road::Road;
use self::walk::Walk;
use crate::Context;
use crate::exit::{Exit, Failure};

/// Arguments of `kmsctl fs why-denied`.
#[derive(Debug, Args)]
pub struct WhyDeniedArgs {
    /// A file or directory in a mount.
    pub path: PathBuf,
    /// The user: name or number.
    #[arg(long, value_name = "USER")]
    pub user: String,
    /// What the user wants to do with it. Of a directory: to list it, to make or remove something in it, to go through it.
    #[arg(long, value_enum, default_value_t = Access::Read)]
    pub access: Access,
    /// A group of the user's process (name or number), may be given several times, the first one first; by default those that this
    /// host knows of.
    #[arg(long, value_name = "GROUP", value_parser = person::group)]
    pub group: Vec<u32>,
    /// The control socket of the mount, if it is not at its default place.
    #[arg(long, value_name = "PATH")]
    pub control: Option<PathBuf>,
}

/// What is to be done with a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Access {
    /// Read a file, list a directory.
    Read,
    /// Write to a file or make it, make or remove something in a directory.
    Write,
    /// Run a file, go through a directory.
    Execute,
}

impl Access {
    fn name(self) -> &'static str {
        match self {
            Access::Read => "read",
            Access::Write => "write",
            Access::Execute => "execute",
        }
    }

    /// What that takes of the object at the end of the path.
    fn wants(self) -> &'static [Want] {
        match self {
            Access::Read => &[Want::Read],
            Access::Write => &[Want::Write],
            Access::Execute => &[Want::Execute],
        }
    }
}

/// Something that denies it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(super) struct Reason {
    /// Which kind.
    reason: &'static str,
    /// Where.
    path: String,
    /// The error that the user gets there.
    error: String,
    /// In words.
    message: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    policy: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<String>,
    /// What decided in kmsd.
    #[serde(skip_serializing_if = "Option::is_none")]
    decided_by: Option<String>,
    /// A command, or what else would help.
    next_step: String,
}

/// The whole answer.
#[derive(Debug, Serialize)]
struct Report {
    path: PathBuf,
    user: String,
    uid: u32,
    gid: u32,
    groups: Vec<u32>,
    access: &'static str,
    allowed: bool,
    /// The one that decides is the first.
    reasons: Vec<Reason>,
    /// What does not deny it, but should be known.
    notes: Vec<String>,
}

pub(super) fn run(args: &WhyDeniedArgs, context: &Context) -> Result<Exit, Failure> {
    let person = Person::find(&args.user, &args.group)
        .map_err(|text| Failure::new(Exit::Local, text).next("Give a user's name or number."))?;
    let road =
        Road::follow(&args.path).map_err(|error| Failure::local(args.path.display(), &error))?;
    if road.missing && args.access != Access::Write {
        let error = rustix::io::Errno::NOENT.into();
        return Err(Failure::local(args.path.display(), &error));
    }
    let mut walk = Walk::new(&person, args.access, args.control.as_deref(), context);
    if !walk.is_mounted(&road.end)? {
        let what = format!("{} is not in a kmsfs mount", args.path.display());
        return Err(Failure::new(Exit::FileSystem, what)
            .next("Name a path below the mount point, not the encrypted one."));
    }
    for detour in &road.detours {
        walk.go(detour, &[Want::Execute])?;
    }
    match (road.missing, road.end.parent()) {
        // What is to be made is decided by the directory.
        (true, Some(parent)) => walk.go(parent, &[Want::Execute, Want::Write])?,
        _ => walk.go(&road.end, args.access.wants())?,
    }
    let (reasons, notes) = walk.found();
    let report = Report {
        path: road.end,
        user: person.name(),
        uid: person.uid,
        gid: person.gid,
        groups: person.groups.clone(),
        access: args.access.name(),
        allowed: reasons.is_empty(),
        reasons,
        notes,
    };
    context.output.print(human(&report), &report)?;
    Ok(match report.allowed {
        true => Exit::Success,
        false => Exit::WouldBeDenied,
    })
}

fn human(report: &Report) -> String {
    let (user, access, path) = (&report.user, report.access, report.path.display());
    let mut text = match report.reasons.first() {
        None => format!("allowed: nothing denies {user} to {access} {path}\n"),
        Some(first) => {
            let mut text = format!(
                "denied: {user} may not {access} {path}\n\n{}: {} ({})\n",
                first.path, first.message, first.error
            );
            text += &details(first);
            text
        }
    };
    if report.reasons.len() > 1 {
        text += "\nand, once that is mended:\n";
    }
    for reason in report.reasons.iter().skip(1) {
        text += &format!("{}: {} ({})\n", reason.path, reason.message, reason.error);
        text += &details(reason);
    }
    for note in &report.notes {
        text += &format!("\nnote: {note}\n");
    }
    if !report.reasons.is_empty() {
        text += "\nWhat would help:\n";
    }
    let mut said: Vec<&str> = Vec::new();
    for reason in &report.reasons {
        if !said.contains(&reason.next_step.as_str()) {
            said.push(&reason.next_step);
            text += &format!("  {}\n", reason.next_step);
        }
    }
    text
}

fn details(reason: &Reason) -> String {
    let mut text = String::new();
    let lines = [
        ("decided by", &reason.decided_by),
        ("key", &reason.key),
        ("policy", &reason.policy),
    ];
    for (name, value) in lines {
        if let Some(value) = value {
            text += &format!("  {name:<10}  {value}\n");
        }
    }
    text
}

/// A path as a shell takes it.
fn quoted(path: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+@:=,".contains(c);
    if !path.is_empty() && path.chars().all(plain) {
        return path.to_owned();
    }
    format!("'{}'", path.replace('\'', r"'\''"))
}

fn shown(path: &Path) -> String {
    path.display().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reason(path: &str, next: &str) -> Reason {
        Reason {
            reason: "permission",
            path: path.to_owned(),
            error: "EACCES".to_owned(),
            message: "bob may not go through it".to_owned(),
            next_step: next.to_owned(),
            ..Reason::default()
        }
    }

    fn report(reasons: Vec<Reason>) -> Report {
        Report {
            path: "/mnt/hr/file".into(),
            user: "bob".to_owned(),
            uid: 7,
            gid: 7,
            groups: vec![7],
            access: "read",
            allowed: reasons.is_empty(),
            reasons,
            notes: Vec::new(),
        }
    }

    #[test]
    fn the_first_reason_leads_and_each_command_is_said_once() {
        let text = human(&report(vec![
            reason("/mnt", "chmod o+x /mnt"),
            reason("/mnt/hr", "chmod o+x /mnt/hr"),
            reason("/mnt/hr/file", "chmod o+x /mnt/hr"),
        ]));
        let first =
            "denied: bob may not read /mnt/hr/file\n\n/mnt: bob may not go through it (EACCES)\n";
        assert!(text.starts_with(first), "{text}");
        assert!(text.contains("once that is mended:\n/mnt/hr: "), "{text}");
        let end = "What would help:\n  chmod o+x /mnt\n  chmod o+x /mnt/hr\n";
        assert!(text.ends_with(end), "{text}");
        let text = human(&report(Vec::new()));
        assert_eq!(text, "allowed: nothing denies bob to read /mnt/hr/file\n");
    }

    #[test]
    fn paths_survive_a_shell() {
        assert_eq!(quoted("/mnt/a-b.c"), "/mnt/a-b.c");
        assert_eq!(quoted("/mnt/it's $HOME"), r"'/mnt/it'\''s $HOME'");
    }
}
