//! `kmsctl fs policy set`: what the administrator chooses for a directory tree.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand, ValueEnum};
use kms_api::{OnKmsdLoss, PolicySettings, ResourceId, RevokeMode, UpdatePolicyRequest};
use kmsfs::status::{PolicyStatus, VolumeStatus};

use crate::Context;
use crate::exit::{Exit, Failure};

/// Arguments of `kmsctl fs policy`.
#[derive(Debug, Args)]
pub struct PolicyArgs {
    /// What to do.
    #[command(subcommand)]
    pub command: PolicyCommand,
}

/// The commands of `kmsctl fs policy`.
#[derive(Debug, Subcommand)]
pub enum PolicyCommand {
    /// Change what is chosen for a tree; what is not named stays. `kmsctl fs status` shows it.
    Set(SetArgs),
}

/// Arguments of `kmsctl fs policy set`.
#[derive(Debug, Args)]
pub struct SetArgs {
    /// The directory that has the policy: the mount point, or one that was put under a key of its own.
    pub directory: PathBuf,
    /// What a user who loses access keeps of open files: nothing (others reopen them), or not even the process.
    #[arg(long, value_enum)]
    pub revoke: Option<Revoke>,
    /// While kmsd cannot be asked: `lock-after=SECONDS` or `keep-open`.
    #[arg(long, value_name = "WHAT", value_parser = on_loss)]
    pub on_kmsd_loss: Option<OnLoss>,
    /// Whether opens of files and directories, and refused accesses, are recorded in the audit log: who, which file by its
    /// inode number, allowed or denied (`kmsctl audit search --file PATH`).
    #[arg(long, value_enum)]
    pub record_opens: Option<Switch>,
    /// Whether new key material of the KMS key starts a rewrap in the mount.
    #[arg(long, value_enum)]
    pub rewrap_after_rotation: Option<Switch>,
    /// Free text.
    #[arg(long)]
    pub label: Option<String>,
    /// The control socket of the mount, if it is not at its default place.
    #[arg(long, value_name = "PATH")]
    pub control: Option<PathBuf>,
}

/// How access is taken from open files.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Revoke {
    /// Descriptors and mappings of the user fail.
    Stale,
    /// The user's processes that hold files are killed.
    Kill,
}

/// On or off.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Switch {
    /// On.
    On,
    /// Off.
    Off,
}

/// What happens while kmsd cannot be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnLoss {
    /// Seconds.
    LockAfter(u32),
    /// Nothing.
    KeepOpen,
}

pub(super) fn run(args: &PolicyArgs, context: &Context) -> Result<(), Failure> {
    let PolicyCommand::Set(set) = &args.command;
    let shown = set.directory.display();
    let volume = super::status::one(&set.directory, set.control.as_deref(), context)?;
    let policy = policy_of(&volume, &set.directory)?;
    let id = |text: &str| {
        text.parse::<ResourceId>()
            .map_err(|_| Failure::new(Exit::Protocol, format!("{text} is no id")))
    };
    let on = |switch: Option<Switch>| switch.map(|switch| switch == Switch::On);
    let request = UpdatePolicyRequest {
        volume_id: id(&volume.volume)?,
        policy_id: id(&policy.policy)?,
        label: set.label.clone(),
        revoke_mode: set.revoke.map(|revoke| match revoke {
            Revoke::Stale => RevokeMode::Stale,
            Revoke::Kill => RevokeMode::Kill,
        }),
        on_kmsd_loss: set.on_kmsd_loss.map(|loss| match loss {
            OnLoss::LockAfter(_) => OnKmsdLoss::LockAfter,
            OnLoss::KeepOpen => OnKmsdLoss::KeepOpen,
        }),
        lock_after_seconds: match set.on_kmsd_loss {
            Some(OnLoss::LockAfter(seconds)) => Some(seconds),
            _ => None,
        },
        record_opens: on(set.record_opens),
        rewrap_after_rotation: on(set.rewrap_after_rotation),
    };
    let answer = context.client.send(request)?;
    let human = format!("{shown}\n{}", show(&answer.settings));
    context.output.print(human, &answer)
}

/// The policy whose directory this is.
fn policy_of<'a>(volume: &'a VolumeStatus, directory: &Path) -> Result<&'a PolicyStatus, Failure> {
    let named = directory.canonicalize().ok();
    let roots = || {
        volume
            .policies
            .iter()
            .filter_map(|policy| Some((policy, policy.directory.as_ref()?)))
    };
    let same = |path: &PathBuf| named.is_some() && path.canonicalize().ok() == named;
    if let Some((policy, _)) = roots().find(|(_, path)| same(path)) {
        return Ok(policy);
    }
    let known: Vec<_> = roots()
        .map(|(_, path)| path.display().to_string())
        .collect();
    let what = format!("{} has no policy of its own", directory.display());
    Err(Failure::new(Exit::FileSystem, what).next(format!("These have: {}.", known.join(", "))))
}

fn show(settings: &PolicySettings) -> String {
    let on = |value: bool| if value { "on" } else { "off" };
    let loss = match settings.lock_after_seconds {
        Some(seconds) => format!("lock-after={seconds}"),
        None => "keep-open".to_owned(),
    };
    format!(
        "label                  {}\nrevoke                 {}\non-kmsd-loss           {loss}\n\
         record-opens           {}\nrewrap-after-rotation  {}",
        settings.label,
        settings.revoke_mode.as_str().to_lowercase(),
        on(settings.record_opens),
        on(settings.rewrap_after_rotation)
    )
}

/// `lock-after=60` or `keep-open`.
fn on_loss(text: &str) -> Result<OnLoss, String> {
    if text == "keep-open" {
        return Ok(OnLoss::KeepOpen);
    }
    let seconds = text.strip_prefix("lock-after=");
    let seconds = seconds.map(|text| text.strip_suffix('s').unwrap_or(text));
    match seconds.map(str::parse) {
        Some(Ok(seconds)) if seconds <= kms_api::MAX_LOCK_AFTER_SECONDS => {
            Ok(OnLoss::LockAfter(seconds))
        }
        _ => Err(format!(
            "expected keep-open or lock-after=SECONDS, at most {}",
            kms_api::MAX_LOCK_AFTER_SECONDS
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loss_of_kmsd_has_two_answers() {
        assert_eq!(on_loss("keep-open"), Ok(OnLoss::KeepOpen));
        assert_eq!(on_loss("lock-after=0"), Ok(OnLoss::LockAfter(0)));
        assert_eq!(on_loss("lock-after=90s"), Ok(OnLoss::LockAfter(90)));
        for wrong in [
            "",
            "lock",
            "lock-after=",
            "lock-after=604801",
            "lock-after=-1",
        ] {
            assert!(on_loss(wrong).is_err(), "{wrong}");
        }
    }
}
