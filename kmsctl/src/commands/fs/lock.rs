//! `kmsctl fs lock`, `kmsctl fs unlock`, `kmsctl fs who`: access to what is open, ended and given back.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use kmsfs::control::client;
use kmsfs::control::protocol::{Answer, Command, Holding};
use kmsfs::mount::table::{self, FS_TYPE, MountEntry};
use kmsfs::revoke::processes::How;
use nix::unistd::{Uid, User};

use super::protect::{components, socket, unreachable_mount};
use crate::Context;
use crate::exit::{Exit, Failure};
use crate::output::Table;

/// Longer than a mount takes to end a revocation that cannot be finished.
const TIMEOUT: Duration = Duration::from_secs(3660);

/// Arguments of `kmsctl fs lock`.
#[derive(Debug, Args)]
pub struct LockArgs {
    /// The protected directory, in the mount.
    pub directory: PathBuf,
    /// End only the access of this user (name or number), and leave everybody else alone.
    #[arg(long, value_parser = user)]
    pub user: Option<u32>,
    /// Also kill the processes that have something open.
    #[arg(long)]
    pub force: bool,
    /// The control socket of the mount, if it is not at its default place.
    #[arg(long, value_name = "PATH")]
    pub control: Option<PathBuf>,
}

/// Arguments of `kmsctl fs unlock`.
#[derive(Debug, Args)]
pub struct UnlockArgs {
    /// The protected directory, in the mount.
    pub directory: PathBuf,
    /// The user whose access was ended.
    #[arg(long, value_parser = user)]
    pub user: Option<u32>,
    /// The control socket of the mount, if it is not at its default place.
    #[arg(long, value_name = "PATH")]
    pub control: Option<PathBuf>,
}

/// Arguments of `kmsctl fs who`.
#[derive(Debug, Args)]
pub struct WhoArgs {
    /// A directory in the mount.
    pub directory: PathBuf,
    /// The control socket of the mount, if it is not at its default place.
    #[arg(long, value_name = "PATH")]
    pub control: Option<PathBuf>,
}

/// A user's number, from their name or number.
fn user(text: &str) -> Result<u32, String> {
    if let Ok(number) = text.parse() {
        return Ok(number);
    }
    match User::from_name(text) {
        Ok(Some(user)) => Ok(user.uid.as_raw()),
        Ok(None) => Err("there is no such user".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

/// A user's name, or number if there is no name.
fn name_of(uid: u32) -> String {
    match User::from_uid(Uid::from_raw(uid)) {
        Ok(Some(user)) => user.name,
        _ => uid.to_string(),
    }
}

/// A directory in a mount, and how its mount is reached.
pub(super) struct Place {
    pub(super) path: Vec<String>,
    socket: PathBuf,
}

impl Place {
    pub(super) fn of(directory: &Path, control: Option<&Path>) -> Result<Place, Failure> {
        let shown = directory.display();
        let local = |error: std::io::Error| Failure::local(&shown, &error);
        // What is locked cannot be resolved by the kernel.
        let whole = match directory.canonicalize() {
            Ok(path) => path,
            Err(error) if is_refusal(&error) => std::path::absolute(directory).map_err(local)?,
            Err(error) => return Err(local(error)),
        };
        let mount = covering(&whole).map_err(local)?.ok_or_else(|| {
            Failure::new(Exit::FileSystem, format!("{shown} is not in a kmsfs mount"))
                .next("Name a directory below the mount point, not the encrypted one.")
        })?;
        Ok(Place {
            path: components(&mount.root, &mount.mountpoint, &whole),
            socket: socket(control, &mount)?,
        })
    }

    /// Sends a command, and gives what failed in the mount as a failure.
    pub(super) fn ask(&self, command: &Command) -> Result<Answer, Failure> {
        match client::ask(&self.socket, command, TIMEOUT) {
            Ok(Answer::Failed(failed)) => {
                Err(Failure::new(Exit::FileSystem, failed.message).next(failed.next_step))
            }
            Ok(answer) => Ok(answer),
            Err(error) => Err(unreachable_mount(&self.socket, &error)),
        }
    }
}

/// The errors of what is locked.
fn is_refusal(error: &std::io::Error) -> bool {
    use rustix::io::Errno;
    [Errno::NOKEY, Errno::KEYREVOKED, Errno::ACCESS]
        .iter()
        .any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}

fn covering(path: &Path) -> std::io::Result<Option<MountEntry>> {
    let covering = table::mounts()?
        .into_iter()
        .filter(|mount| path.starts_with(&mount.mountpoint))
        // The longest mount point covers the path; of equal ones the last is on top.
        .max_by_key(|mount| mount.mountpoint.components().count());
    Ok(covering.filter(|mount| mount.fs_type == FS_TYPE))
}

pub(super) fn lock(args: &LockArgs, context: &Context) -> Result<(), Failure> {
    let place = Place::of(&args.directory, args.control.as_deref())?;
    let command = Command::Lock {
        path: place.path.clone(),
        user: args.user,
        kill: args.force,
    };
    let Answer::Locked(locked) = place.ask(&command)? else {
        return Err(other());
    };
    let shown = args.directory.display();
    let whose = match args.user {
        Some(user) => format!("{} has no access to {shown} any more", name_of(user)),
        None => format!("{shown} is locked: nobody has access, and its keys are wiped"),
    };
    let mut human = format!("{whose} ({} ms).\n", locked.milliseconds);
    let option = match args.user {
        Some(user) => format!(" --user {}", name_of(user)),
        None => String::new(),
    };
    human += &format!("It stays so until `kmsctl fs unlock{option} {shown}` or an unmount.\n");
    if !locked.killed.is_empty() {
        let killed: Vec<_> = locked.killed.iter().map(u32::to_string).collect();
        human += &format!("Killed: {}\n", killed.join(", "));
    }
    if !locked.holders.is_empty() {
        human += "Still open, but of no use now:\n";
        human += &table(&locked.holders).to_string();
    }
    context.output.print(human, &locked)
}

pub(super) fn unlock(args: &UnlockArgs, context: &Context) -> Result<(), Failure> {
    let place = Place::of(&args.directory, args.control.as_deref())?;
    let command = Command::Unlock {
        path: place.path.clone(),
        user: args.user,
    };
    let Answer::Unlocked(was) = place.ask(&command)? else {
        return Err(other());
    };
    let shown = args.directory.display();
    let human = match (was, args.user) {
        (false, _) => format!("{shown} was not locked."),
        (true, None) => format!("{shown} is not locked any more. What was open works again."),
        (true, Some(user)) => format!(
            "{} may use {shown} again, as far as their grants allow. What they had open has to be opened again.",
            name_of(user)
        ),
    };
    context
        .output
        .print(human, &serde_json::json!({ "was_locked": was }))
}

pub(super) fn who(args: &WhoArgs, context: &Context) -> Result<(), Failure> {
    let place = Place::of(&args.directory, args.control.as_deref())?;
    let command = Command::Who {
        path: place.path.clone(),
    };
    let Answer::Holders(holders) = place.ask(&command)? else {
        return Err(other());
    };
    let human = if holders.is_empty() {
        format!("Nobody has anything open in {}.", args.directory.display())
    } else {
        table(&holders).to_string()
    };
    context.output.print(human, &holders)
}

fn table(holders: &[Holding]) -> Table {
    let mut names: HashMap<u32, String> = HashMap::new();
    let mut table = Table::new(&["PID", "USER", "PROGRAM", "HOW", "PATH"]);
    for holding in holders {
        let name = names
            .entry(holding.uid)
            .or_insert_with(|| name_of(holding.uid));
        table.row(vec![
            holding
                .pid
                .map_or_else(|| "-".to_owned(), |pid| pid.to_string()),
            name.clone(),
            holding.program.clone(),
            match holding.pid {
                Some(_) if holding.how.is_none() => "unknown".to_owned(),
                _ => how(holding.how),
            },
            holding.path.clone(),
        ]);
    }
    table
}

fn how(how: Option<How>) -> String {
    match how {
        Some(How::Descriptor(number)) => format!("fd {number}"),
        Some(How::Mapping) => "mapping".to_owned(),
        Some(How::Program) => "program".to_owned(),
        Some(How::Directory) => "cwd".to_owned(),
        Some(How::Root) => "root".to_owned(),
        None => "no process".to_owned(),
    }
}

fn other() -> Failure {
    Failure::new(
        Exit::Protocol,
        "the mount gave another answer than asked for",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_by_name_and_number() {
        assert_eq!(user("root"), Ok(0));
        assert_eq!(user("4321"), Ok(4321));
        assert!(user("nobody-of-this-name").is_err());
        assert_eq!(name_of(0), "root");
        assert_eq!(name_of(3_999_999_999), "3999999999");
    }
}
