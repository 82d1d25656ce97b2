//! `kmsctl fs rewrap`, `kmsctl fs rekey`, `kmsctl fs reencrypt`, `kmsctl fs job`: long work on a mounted directory.

use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use kms_api::{DestroyPolicyGenerationsRequest, ResourceId};
use kmsfs::control::client::Conversation;
use kmsfs::control::protocol::{Answer, Command, JobRequest};
use kmsfs::jobs::{JobKind, JobReport, Progress, Rate};
use serde_json::json;

use super::Mode;
use super::freeze::other;
use super::mounted::{self, Mounted};
use super::protect::{components, unreachable_mount};
use crate::Context;
use crate::exit::{Exit, Failure};

/// The mount says something twice a second; the first word may take until kmsd has answered.
const TIMEOUT: Duration = Duration::from_secs(120);

/// How a job goes about its work.
#[derive(Debug, Args)]
pub struct JobArgs {
    /// How fast at most: objects a second (500), or bytes of content a second (10MB).
    #[arg(long, value_name = "RATE", value_parser = rate)]
    pub rate: Option<Rate>,
    /// When nothing hangs on older generations of the policy key any more, end them: backups of the encrypted directory
    /// from before open no more. Needs the right to destroy keys.
    #[arg(long)]
    pub destroy_old: bool,
    /// Make another generation of the policy key, although the last such job is unfinished or could not work on everything. Without
    /// this the command goes on with the generation that that job made.
    #[arg(long)]
    pub anew: bool,
    /// The control socket of the mount, if it is not at its default place.
    #[arg(long, value_name = "PATH")]
    pub control: Option<PathBuf>,
}

/// Arguments of `kmsctl fs rewrap`.
#[derive(Debug, Args)]
pub struct RewrapArgs {
    /// A directory in a mount; the whole tree that is under its policy is rewrapped.
    pub directory: PathBuf,
    /// How.
    #[command(flatten)]
    pub how: JobArgs,
}

/// Arguments of `kmsctl fs rekey`.
#[derive(Debug, Args)]
pub struct RekeyArgs {
    /// A directory in a mount; the whole tree that is under its policy gets the other key.
    pub directory: PathBuf,
    /// The other key: id, ARN or alias.
    #[arg(long)]
    pub key: String,
    /// How content is to be protected from now on. If that is another mode than now, every file is written anew, with a key of its
    /// own again, while it is in use; it takes the room of the largest file once more.
    #[arg(long, value_enum)]
    pub mode: Option<Mode>,
    /// How.
    #[command(flatten)]
    pub how: JobArgs,
}

/// Arguments of `kmsctl fs reencrypt`.
#[derive(Debug, Args)]
pub struct ReencryptArgs {
    /// A directory in a mount; the whole tree that is under its policy gets new keys.
    pub directory: PathBuf,
    /// In this content mode, as in `kmsctl fs rekey`.
    #[arg(long, value_enum)]
    pub mode: Option<Mode>,
    /// How.
    #[command(flatten)]
    pub how: JobArgs,
}

/// Arguments of `kmsctl fs job`.
#[derive(Debug, Args)]
pub struct WatchArgs {
    /// A path in the mount, or its encrypted directory.
    pub path: PathBuf,
    /// Stop the job; its command takes it up again where it was.
    #[arg(long)]
    pub stop: bool,
    /// The control socket of the mount, if it is not at its default place.
    #[arg(long, value_name = "PATH")]
    pub control: Option<PathBuf>,
}

pub(super) fn rewrap(args: &RewrapArgs, context: &Context) -> Result<(), Failure> {
    begin(
        &args.directory,
        JobKind::Rewrap,
        None,
        None,
        &args.how,
        context,
    )
}

pub(super) fn reencrypt(args: &ReencryptArgs, context: &Context) -> Result<(), Failure> {
    begin(
        &args.directory,
        JobKind::Reencrypt,
        None,
        args.mode,
        &args.how,
        context,
    )
}

pub(super) fn rekey(args: &RekeyArgs, context: &Context) -> Result<(), Failure> {
    let key = Some(args.key.clone());
    begin(
        &args.directory,
        JobKind::Rekey,
        key,
        args.mode,
        &args.how,
        context,
    )
}

fn begin(
    directory: &Path,
    kind: JobKind,
    key: Option<String>,
    mode: Option<Mode>,
    how: &JobArgs,
    context: &Context,
) -> Result<(), Failure> {
    let mount = mounted::require(directory, how.control.as_deref())?;
    let local = |error: std::io::Error| Failure::local(directory.display(), &error);
    let inside = directory.canonicalize().map_err(local)?;
    let path = if inside.starts_with(&mount.entry.mountpoint) {
        components(&mount.entry.root, &mount.entry.mountpoint, &inside)
    } else {
        // The encrypted directory was named: its root.
        Vec::new()
    };
    let request = JobRequest {
        kind,
        path,
        key,
        mode: mode.map(|mode| mode.name().to_owned()),
        rate: how.rate.unwrap_or_default(),
        destroy_old: how.destroy_old,
        anew: how.anew,
    };
    watch(&mount, &Command::Job(request), context)
}

pub(super) fn job(args: &WatchArgs, context: &Context) -> Result<(), Failure> {
    let mount = mounted::require(&args.path, args.control.as_deref())?;
    if !args.stop {
        return watch(&mount, &Command::JobWatch, context);
    }
    let socket = &mount.socket;
    let asked = Conversation::start(socket, TIMEOUT)
        .and_then(|mut talk| talk.ask(&Command::JobStop))
        .map_err(|error| unreachable_mount(socket, &error))?;
    match asked {
        Answer::JobStopped(was) => {
            let human = if was {
                "Stopped. Its command takes it up again where it was."
            } else {
                "No job runs in this mount."
            };
            context.output.print(human, &json!({ "stopped": was }))
        }
        answer => Err(other(answer)),
    }
}

fn watch(mount: &Mounted, command: &Command, context: &Context) -> Result<(), Failure> {
    let lost = |error: std::io::Error| unreachable_mount(&mount.socket, &error);
    let mut talk = Conversation::start(&mount.socket, TIMEOUT).map_err(lost)?;
    let bar = Bar::start();
    let mut said = talk.ask(command).map_err(lost)?;
    let report = loop {
        match said {
            Answer::JobProgress(progress) => {
                if context.output.is_json() {
                    let line = serde_json::to_string(&progress).unwrap_or_default();
                    context.output.write(format!("{line}\n").as_bytes())?;
                }
                bar.show(&progress);
            }
            Answer::JobDone(report) => break *report,
            answer => {
                bar.end();
                return Err(other(answer));
            }
        }
        said = talk.hear().map_err(lost)?;
    };
    bar.end();
    // Not for who only looks on.
    let report = match command {
        Command::Job(request) if request.destroy_old => end_older(mount, report, context),
        _ => report,
    };
    if context.output.is_json() {
        let line = serde_json::to_string(&report).unwrap_or_default();
        context.output.write(format!("{line}\n").as_bytes())?;
    } else {
        context.output.print(show(&report), &report)?;
    }
    outcome(&report)
}

/// The mount may not destroy keys, or not without approvals: then whoever gave the command does it.
fn end_older(mount: &Mounted, mut report: JobReport, context: &Context) -> JobReport {
    let Some(before) = report.older_kept else {
        return report;
    };
    let volume = kmsfs::volume::RecordFile::in_directory(&mount.entry.source)
        .and_then(|record| record.read())
        .map(|record| ResourceId(record.volume.0));
    let (Ok(volume_id), Ok(policy_id)) = (volume, report.progress.policy.parse()) else {
        return report;
    };
    let ended = context.client.send(DestroyPolicyGenerationsRequest {
        volume_id,
        policy_id,
        before: before.into(),
    });
    if let Err(error) = ended {
        report.error = Some(format!(
            "everything hangs on generation {before} now, but the older ones were not ended: {error}"
        ));
        return report;
    }
    let told = Conversation::start(&mount.socket, TIMEOUT).and_then(|mut talk| {
        talk.ask(&Command::OlderEnded {
            policy: report.progress.policy.clone(),
            before,
        })
    });
    if let Ok(Answer::OlderGone(gone)) = told {
        report.ended = gone;
    }
    report.error = None;
    report.older_kept = None;
    report
}

/// A job that runs, in one line.
pub(super) fn line(progress: &Progress) -> String {
    let total = progress
        .total
        .map_or_else(|| "?".to_owned(), |total| total.to_string());
    format!(
        "{} to generation {} of policy {}: {} of {total} objects, {} failed",
        progress.kind.as_str(),
        progress.generation,
        progress.policy,
        progress.done,
        progress.failed
    )
}

fn show(report: &JobReport) -> String {
    let progress = &report.progress;
    let kind = progress.kind.as_str();
    let state = match (report.finished, &report.error) {
        (true, None) => "finished",
        (true, Some(_)) => "finished, but",
        (false, Some(_)) => "ended early",
        (false, None) => "stopped",
    };
    let mut text = format!(
        "{kind} {state}: {} objects, {} changed, {} failed, {:.1} s; policy {} is at generation {}",
        progress.done,
        progress.changed,
        progress.failed,
        report.seconds,
        progress.policy,
        progress.generation
    );
    if progress.locked > 0 {
        text.push_str(&format!(
            "\npassed over: {} locked director{} with a policy of their own, which this does not concern",
            progress.locked,
            if progress.locked == 1 { "y" } else { "ies" }
        ));
    }
    for failure in &report.failures {
        text.push_str(&format!("\n{}: {}", failure.lower, failure.error));
    }
    let unnamed = progress.failed.saturating_sub(report.failures.len() as u64);
    if unnamed > 0 {
        text.push_str(&format!("\nand {unnamed} more: see the log of the mount"));
    }
    if !report.ended.is_empty() {
        let ended: Vec<_> = report.ended.iter().map(u32::to_string).collect();
        text.push_str(&format!("\nended generations: {}", ended.join(", ")));
    }
    text
}

fn outcome(report: &JobReport) -> Result<(), Failure> {
    let kind = report.progress.kind.as_str();
    if let Some(error) = &report.error {
        return Err(Failure::new(Exit::FileSystem, format!("{kind}: {error}")));
    }
    if !report.finished {
        let what = format!("the {kind} was stopped");
        return Err(Failure::new(Exit::FileSystem, what)
            .next("Give the same command again: it goes on where it was."));
    }
    match report.progress.failed {
        0 => Ok(()),
        failed => Err(Failure::new(
            Exit::FileSystem,
            format!("{failed} objects could not be worked on and hang on the former keys"),
        )
        .next(
            "Look at them with `kmsctl fs check` and restore or remove what is damaged, then give the same command again: it looks at \
             everything once more. To make another generation although they stay behind, give it with --anew.",
        )),
    }
}

/// A line on the terminal.
struct Bar(ProgressBar);

impl Bar {
    fn start() -> Bar {
        if !std::io::stderr().is_terminal() {
            return Bar(ProgressBar::hidden());
        }
        let bar = ProgressBar::new(0);
        if let Ok(style) =
            ProgressStyle::with_template("{bar:30} {percent}% [{elapsed_precise}] {msg}")
        {
            bar.set_style(style);
        }
        Bar(bar)
    }

    fn show(&self, progress: &Progress) {
        if self.0.is_hidden() {
            return;
        }
        let total = progress.total.unwrap_or(0).max(progress.done);
        self.0.set_length(total);
        self.0.set_position(progress.done);
        let left = progress.eta_seconds.map_or_else(String::new, |seconds| {
            format!(
                ", {} left",
                indicatif::HumanDuration(Duration::from_secs(seconds))
            )
        });
        self.0.set_message(format!(
            "{} of {total} objects, {} changed{left}; Ctrl-C ends the watching, not the job",
            progress.done, progress.changed
        ));
    }

    fn end(&self) {
        self.0.finish_and_clear();
    }
}

/// `500` objects or `10MB` a second.
fn rate(text: &str) -> Result<Rate, String> {
    let wrong = || "expected objects a second (500) or bytes a second (64KB, 10MB, 1GB)".to_owned();
    let text = text.strip_suffix("/s").unwrap_or(text);
    let units = [("KB", 1_000), ("MB", 1_000_000), ("GB", 1_000_000_000)];
    for (unit, factor) in units {
        if let Some(number) = text.strip_suffix(unit) {
            let number: u64 = number.trim().parse().map_err(|_| wrong())?;
            let bytes = number.checked_mul(factor).filter(|bytes| *bytes > 0);
            return Ok(Rate {
                objects: None,
                bytes: Some(bytes.ok_or_else(wrong)?),
            });
        }
    }
    match text.parse() {
        Ok(0) | Err(_) => Err(wrong()),
        Ok(objects) => Ok(Rate {
            objects: Some(objects),
            bytes: None,
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_objects_or_bytes() {
        let objects = rate("500").unwrap();
        assert_eq!((objects.objects, objects.bytes), (Some(500), None));
        let bytes = rate("10MB/s").unwrap();
        assert_eq!((bytes.objects, bytes.bytes), (None, Some(10_000_000)));
        for wrong in ["", "0", "0MB", "10M", "-1", "fast"] {
            assert!(rate(wrong).is_err(), "{wrong}");
        }
    }
}
