//! `kmsctl fs status`.

use std::path::{Path, PathBuf};
use std::time::Duration;

use kmsfs::control::client;
use kmsfs::control::protocol::{Answer, Command};
use kmsfs::mount::table::{self, FS_TYPE};
use kmsfs::status::{MountStatus, PolicyStatus, VolumeStatus, collect};

use super::mounted::of_lower;
use super::protect::{socket, unreachable_mount};
use crate::Context;
use crate::exit::{Exit, Failure};
use crate::output::Table;

const TIMEOUT: Duration = Duration::from_secs(10);

pub(super) fn run(
    path: Option<&Path>,
    count: bool,
    control: Option<&Path>,
    context: &Context,
) -> Result<(), Failure> {
    let mut volumes = match path {
        Some(path) => vec![one(path, control, context)?],
        None => all(context)?,
    };
    if count {
        volumes.iter_mut().for_each(add_counts);
    }
    let human: Vec<String> = volumes.iter().map(show).collect();
    let human = if human.is_empty() {
        "No kmsfs mounts. Name an encrypted directory to see its policies.".to_owned()
    } else {
        human.join("\n")
    };
    context.output.print(human, &volumes)
}

fn add_counts(volume: &mut VolumeStatus) {
    let mut counts = kmsfs::status::count::count(&volume.lower);
    for policy in &mut volume.policies {
        let id = policy.policy.parse().ok();
        policy.counted = id.map(|id| counts.remove(&id).unwrap_or_default());
    }
}

/// What a count says, a line.
fn counted(policy: &PolicyStatus) -> Option<String> {
    let counted = policy.counted.as_ref()?;
    let by = |what: &str, counts: &std::collections::BTreeMap<u32, u64>| {
        let parts: Vec<_> = counts
            .iter()
            .map(|(generation, count)| format!("{count} at {generation}"))
            .collect();
        format!(
            "{what} {}",
            if parts.is_empty() {
                "none".to_owned()
            } else {
                parts.join(", ")
            }
        )
    };
    let lineage: Vec<_> = counted
        .lineage
        .iter()
        .map(|(generation, count)| format!("{count} of {generation}"))
        .collect();
    let modes: Vec<_> = counted
        .modes
        .iter()
        .map(|(mode, count)| format!("{count} {}", mode.to_lowercase()))
        .collect();
    let mut said = vec![
        by("directories", &counted.directories),
        by("files", &counted.files),
        format!(
            "files by mode {}",
            if modes.is_empty() {
                "none".to_owned()
            } else {
                modes.join(", ")
            }
        ),
        by("symlinks", &counted.symlinks),
        format!(
            "file keys made under {}",
            if lineage.is_empty() {
                "none".to_owned()
            } else {
                lineage.join(", ")
            }
        ),
        format!(
            "left to rewrap {} objects, to re-encrypt {}",
            counted.behind(policy.generation),
            indicatif::HumanBytes(counted.bytes_behind(policy.generation))
        ),
    ];
    if counted.unreadable > 0 {
        said.push(format!(
            "{} headers cannot be read: kmsctl fs check",
            counted.unreadable
        ));
    }
    Some(format!("{}: {}\n", directory(policy), said.join("; ")))
}

fn all(context: &Context) -> Result<Vec<VolumeStatus>, Failure> {
    // A mount that does not answer is shown as far as its lower directory tells.
    let seen = each(context)?.into_iter();
    seen.map(|(_, seen)| seen.map(|(known, _)| known)).collect()
}

/// A mountpoint, and its volume, or that it cannot be said which; with why the mount itself does not answer, if it does not.
pub(super) type Seen = (PathBuf, Result<(VolumeStatus, Option<Failure>), Failure>);

/// Every mount of this host.
pub(super) fn each(context: &Context) -> Result<Vec<Seen>, Failure> {
    let mounts = table::mounts().map_err(|error| Failure::local("/proc", &error))?;
    let ours = mounts.iter().filter(|mount| mount.fs_type == FS_TYPE);
    let seen = ours.map(|mount| {
        let answer = socket(None, mount).and_then(|socket| ask(&socket));
        let known = status(&mount.source, answer.as_ref().ok(), context);
        (
            mount.mountpoint.clone(),
            known.map(|known| (known, answer.err())),
        )
    });
    Ok(seen.collect())
}

/// `path` is in a mount, or the lower directory of one, or a lower directory that is not mounted.
pub(super) fn one(
    path: &Path,
    control: Option<&Path>,
    context: &Context,
) -> Result<VolumeStatus, Failure> {
    let local = |error: std::io::Error| Failure::local(path.display(), &error);
    if let Some(mount) = table::kmsfs_mount_of(path).map_err(local)? {
        let answer = ask(&socket(control, &mount)?)?;
        return status(&mount.source, Some(&answer), context);
    }
    let lower = path.canonicalize().map_err(local)?;
    let answer = control
        .map(Path::to_path_buf)
        .or_else(|| of_lower(&lower).and_then(|mount| socket(None, &mount).ok()))
        .and_then(|socket| ask(&socket).ok());
    status(&lower, answer.as_ref(), context)
}

pub(super) fn ask(socket: &Path) -> Result<MountStatus, Failure> {
    match client::ask(socket, &Command::Status, TIMEOUT) {
        Ok(Answer::Status(status)) => Ok(status),
        Ok(Answer::Failed(failed)) => {
            Err(Failure::new(Exit::FileSystem, failed.message).next(failed.next_step))
        }
        Ok(_) => Err(Failure::new(
            Exit::Protocol,
            "the mount gave another answer than asked for",
        )),
        Err(error) => Err(unreachable_mount(socket, &error)),
    }
}

fn status(
    lower: &Path,
    mount: Option<&MountStatus>,
    context: &Context,
) -> Result<VolumeStatus, Failure> {
    collect(&context.client, lower, mount)
        .map_err(|error| Failure::new(Exit::FileSystem, error.to_string()))
}

fn show(volume: &VolumeStatus) -> String {
    let mounted = volume.mountpoint.as_ref().map_or_else(
        || "not mounted".to_owned(),
        |at| format!("mounted at {}", at.display()),
    );
    let mut text = format!(
        "volume {} {}\n{} {mounted}\n",
        volume.volume,
        volume.label,
        volume.lower.display()
    );
    if let Some(seconds) = volume.frozen {
        text.push_str(&format!("frozen for {seconds} s more: changes wait\n"));
    }
    if let Some(error) = &volume.kmsd_error {
        text.push_str(&format!("kmsd: {error}\n"));
    }
    if let Some(job) = &volume.job {
        text.push_str(&super::jobs::line(job));
        text.push('\n');
    }
    let mut table = Table::new(&[
        "DIRECTORY",
        "KEY",
        "KEY STATE",
        "MODE",
        "GEN",
        "DATA KEY FROM",
        "CURRENT",
        "STATE",
    ]);
    for policy in &volume.policies {
        table.row(row(policy, volume.mountpoint.is_some()));
    }
    text.push_str(&table.to_string());
    for policy in &volume.policies {
        text.push_str(&more(policy));
        text.push_str(&counted(policy).unwrap_or_default());
    }
    for policy in volume
        .policies
        .iter()
        .filter(|policy| policy.reason.is_some())
    {
        let directory = directory(policy);
        text.push_str(&format!(
            "{directory}: {}\n",
            policy.reason.as_deref().unwrap_or_default()
        ));
    }
    text
}

/// What is not as in a new policy, a line each.
fn more(policy: &PolicyStatus) -> String {
    let mut said = Vec::new();
    if !policy.label.is_empty() {
        said.push(format!("label {}", policy.label));
    }
    if let Some(settings) = &policy.settings {
        said.push(format!("revoke {}", settings.revoke.to_lowercase()));
        said.push(match settings.lock_after_seconds {
            Some(seconds) => format!("on-kmsd-loss lock-after={seconds}"),
            None => "on-kmsd-loss keep-open".to_owned(),
        });
        if settings.record_opens {
            said.push("opens recorded".to_owned());
        }
        if settings.rewrap_after_rotation {
            said.push("rewrap-after-rotation".to_owned());
        }
    }
    for old in &policy.older {
        let usable = if old.usable {
            ""
        } else {
            ", its data key is missing"
        };
        said.push(format!(
            "generation {} is kept ({}{usable})",
            old.generation, old.key_arn
        ));
    }
    match said.is_empty() {
        true => String::new(),
        false => format!("{}: {}\n", directory(policy), said.join(", ")),
    }
}

fn row(policy: &PolicyStatus, mounted: bool) -> Vec<String> {
    // Enough of a material id to tell two apart.
    let short = |id: &Option<String>| {
        id.as_deref()
            .map_or("?", |id| id.get(..12).unwrap_or(id))
            .to_owned()
    };
    let state = match (policy.unlocked, mounted, &policy.reason) {
        (true, ..) => "unlocked",
        (false, _, Some(_)) => "refused",
        (false, true, None) => "not used yet",
        (false, false, None) => "locked",
    };
    let mode = if policy.mode == "XTS" {
        "xts (not authenticated)".to_owned()
    } else {
        format!("{} (authenticated)", policy.mode.to_lowercase())
    };
    let current = if policy.current_material.is_some()
        && policy.current_material == policy.data_key_material
    {
        "same".to_owned()
    } else {
        short(&policy.current_material)
    };
    vec![
        directory(policy),
        policy.key_arn.clone(),
        policy.key_state.clone().unwrap_or_else(|| "?".to_owned()),
        mode,
        policy.generation.to_string(),
        short(&policy.data_key_material),
        current,
        state.to_owned(),
    ]
}

fn directory(policy: &PolicyStatus) -> String {
    policy
        .directory
        .as_ref()
        .map_or_else(|| "(none)".to_owned(), |path| path.display().to_string())
}
