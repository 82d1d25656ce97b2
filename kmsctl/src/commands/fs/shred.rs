//! `kmsctl fs shred`: destroys what one directory tree hangs on, and with it every copy of the tree.

use std::path::{Path, PathBuf};

use clap::Args;
use kms_api::{DescribeVolumeRequest, DestroyPolicyRequest, PolicySummary, ResourceId};
use kmsfs::control::protocol::Command;
use serde_json::json;

use super::lock::Place;
use super::{count, status};
use crate::Context;
use crate::commands::confirm::confirm;
use crate::exit::{Exit, Failure};
use crate::output::time;

/// `kmsctl fs shred`.
#[derive(Debug, Args)]
pub struct ShredArgs {
    /// The protected directory: in the mount, or the encrypted directory of a volume for its root.
    #[arg(required_unless_present = "policy", conflicts_with_all = ["volume", "policy"])]
    pub directory: Option<PathBuf>,
    /// The volume's id, where the directory is not at hand.
    #[arg(long, value_name = "ID", requires = "policy")]
    pub volume: Option<ResourceId>,
    /// The policy's id (`kmsctl fs status --json`).
    #[arg(long, value_name = "ID", requires = "volume")]
    pub policy: Option<ResourceId>,
    /// Do it without asking at the terminal.
    #[arg(long)]
    pub yes: bool,
    /// The control socket of the mount, if it is not at its default place.
    #[arg(long, value_name = "PATH")]
    pub control: Option<PathBuf>,
}

pub(super) fn run(args: &ShredArgs, context: &Context) -> Result<(), Failure> {
    let (volume_id, policy_id) = match (&args.directory, args.volume, args.policy) {
        (Some(directory), ..) => find(directory, args.control.as_deref(), context)?,
        (None, Some(volume), Some(policy)) => (volume, policy),
        (None, ..) => return Err(Failure::new(Exit::Usage, "no directory is named")),
    };
    let volume = context.client.send(DescribeVolumeRequest { volume_id })?;
    let policy = volume.policies.iter().find(|p| p.policy_id == policy_id);
    let policy = policy.ok_or_else(|| {
        let text = format!("the volume {volume_id} has no policy {policy_id}");
        Failure::new(Exit::NotFound, text).next("`kmsctl fs status` shows those it has.")
    })?;
    if let Some(date) = policy.destroyed_date {
        let text = format!("policy {policy_id} was destroyed {} already", time(date));
        return context.output.print(
            text,
            &json!({ "PolicyId": policy_id, "DestroyedGenerations": 0 }),
        );
    }
    if !context.output.is_json() {
        eprint!(
            "{}",
            what(args.directory.as_deref(), &volume.label, volume_id, policy)
        );
    }
    confirm(
        "All of it is lost for ever, in every copy and backup of the directory. Destroy it?",
        args.yes,
    )?;
    let mounts = Mounts::lock(args, volume_id, policy_id, context);
    let done = context.client.send(DestroyPolicyRequest {
        volume_id,
        policy_id,
    });
    let done = match done {
        Ok(done) => done,
        Err(error) => {
            mounts.unlock();
            return Err(error.into());
        }
    };
    let human = format!(
        "Destroyed: policy {policy_id}, {} generations. No copy of kmsd's store from before opens under this TPM (deletion epoch {}), \
         and no copy of the directory can be read.\n\
         Out of reach are: files that were moved out of the directory with their keys (`kmsctl fs status --count` counts such files where they are \
         now, by lineage; `kmsctl fs reencrypt` gives them new keys), plain copies, and what the recovery key opens in older backups \
         of the store: destroy those, and make a new one (`kmsctl store backup`).\n\
         The encrypted files are still there and take room: remove them.",
        done.destroyed_generations, done.deletion_epoch
    );
    context.output.print(human, &done)?;
    if mounts.failures.is_empty() {
        return Ok(());
    }
    let said = mounts.failures.join("; ");
    Err(
        Failure::new(Exit::FileSystem, format!("it is destroyed, but {said}")).next(
            "Unmount the directory wherever it is mounted: until then a mount may still have the keys in memory.",
        ),
    )
}

/// The mounts on this host that show the directory.
#[derive(Default)]
struct Mounts {
    locked: Vec<Place>,
    /// What keeps keys in memory, perhaps.
    failures: Vec<String>,
}

impl Mounts {
    /// Ends all access, what is open included. A mount that cannot do it keeps nothing from being destroyed.
    fn lock(args: &ShredArgs, volume: ResourceId, policy: ResourceId, context: &Context) -> Mounts {
        let mut mounts = Mounts::default();
        let found = match (&args.directory, &args.control) {
            (Some(directory), Some(control)) => {
                let one = status::one(directory, Some(control), context);
                Ok(vec![(directory.clone(), one.map(|one| (one, None)))])
            }
            _ => status::each(context),
        };
        let found = found.unwrap_or_else(|failure| {
            let said = format!(
                "the mounts of this host could not be listed: {}",
                failure.message
            );
            mounts.failures.push(said);
            Vec::new()
        });
        let (volume, policy) = (volume.to_string(), policy.to_string());
        for (mountpoint, seen) in found {
            let failed = |failure: &Failure| {
                format!(
                    "the mount at {} could not lock it: {}",
                    mountpoint.display(),
                    failure.message
                )
            };
            match seen {
                // Perhaps it shows another volume; nothing says so.
                Err(failure) => mounts.failures.push(failed(&failure)),
                Ok((one, _)) if one.volume != volume => {}
                Ok((_, Some(failure))) => mounts.failures.push(failed(&failure)),
                Ok((one, None)) => {
                    let directories = one.policies.into_iter();
                    let directories = directories
                        .filter(|one| one.policy == policy)
                        .filter_map(|one| one.directory);
                    for directory in directories {
                        match lock(&directory, args.control.as_deref()) {
                            Ok(place) => mounts.locked.push(place),
                            Err(failure) => mounts.failures.push(failed(&failure)),
                        }
                    }
                }
            }
        }
        mounts
    }

    /// Nothing was destroyed after all.
    fn unlock(self) {
        for place in self.locked {
            let path = place.path.clone();
            if let Err(failure) = place.ask(&Command::Unlock { path, user: None }) {
                eprintln!("kmsctl: a mount stays locked: {}", failure.message);
            }
        }
    }
}

fn lock(directory: &Path, control: Option<&Path>) -> Result<Place, Failure> {
    let place = Place::of(directory, control)?;
    let command = Command::Lock {
        path: place.path.clone(),
        user: None,
        kill: false,
    };
    place.ask(&command).map(|_| place)
}

/// The policy whose directory this is.
fn find(
    directory: &Path,
    control: Option<&Path>,
    context: &Context,
) -> Result<(ResourceId, ResourceId), Failure> {
    let shown = directory.display();
    let whole = directory
        .canonicalize()
        .map_err(|error| Failure::local(&shown, &error))?;
    let volume = status::one(directory, control, context)?;
    let root = volume.lower == whole;
    let found = volume.policies.iter().enumerate().find(|(number, policy)| {
        policy.directory.as_ref() == Some(&whole) || (root && *number == 0)
    });
    // So that what is shown is not of long ago. It is destroyed without this, too.
    if let Err(failure) = count::count(&volume.lower, volume.mountpoint.as_deref(), context) {
        eprintln!("kmsctl: it cannot be counted: {}", failure.message);
    }
    let Some((_, policy)) = found else {
        return Err(Failure::new(
            Exit::FileSystem,
            format!("{shown} has no policy of its own: only what `kmsctl fs init` or `fs protect` made can be shredded"),
        )
        .next("`kmsctl fs status` shows the directories that have one. To get rid of a part of one, remove the files."));
    };
    let id = |text: &str| {
        text.parse::<ResourceId>()
            .map_err(|error| Failure::new(Exit::Protocol, format!("{text}: {error}")))
    };
    Ok((id(&volume.volume)?, id(&policy.policy)?))
}

fn what(
    directory: Option<&Path>,
    volume_label: &str,
    volume: ResourceId,
    policy: &PolicySummary,
) -> String {
    let mut lines = Vec::new();
    if let Some(directory) = directory {
        lines.push(("directory", directory.display().to_string()));
    }
    lines.push(("volume", format!("{volume} {volume_label}")));
    lines.push((
        "policy",
        format!("{} {}", policy.policy_id, policy.settings.label),
    ));
    lines.push(("key", policy.key_arn.clone()));
    let generations = policy.older_generations.len().saturating_add(1);
    lines.push(("generations", generations.to_string()));
    let held = match &policy.usage {
        Some(held) => format!(
            "{} files, {} directories, {} bytes, counted {}{}",
            held.files,
            held.directories,
            held.bytes,
            time(held.date),
            held.mountpoint
                .as_ref()
                .map_or_else(String::new, |at| format!(" at {at}"))
        ),
        None => "never counted".to_owned(),
    };
    lines.push(("holds", held));
    lines
        .iter()
        .map(|(name, value)| format!("{name:12}  {}\n", value.trim_end()))
        .collect()
}
