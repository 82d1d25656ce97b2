//! `kmsctl fs check`.

use std::path::Path;

use kmsfs::check::{self, Finding, KEPT, Options, Outcome, Report, Severity};
use kmsfs::control::client::Conversation;
use kmsfs::control::protocol::{Answer, Command};
use kmsfs::mount::lock::LowerLock;
use kmsfs::volume::{Keys, RecordFile, VolumeError};

use super::freeze::other;
use super::mounted::{self, Mounted};
use super::offline::{KeySource, Source};
use super::progress::Progress;
use super::protect::unreachable_mount;
use crate::Context;
use crate::exit::{Exit, Failure};

/// How long the mount may be silent: it reads one file, or waits for changes to end.
const SILENCE: std::time::Duration = std::time::Duration::from_secs(120);

pub(super) fn run(
    path: &Path,
    options: Options,
    source: Option<&KeySource>,
    control: Option<&Path>,
    file: Option<&Path>,
    context: &Context,
) -> Result<Exit, Failure> {
    let report = match mounted::find(path, control)? {
        Some(mount) => online(&mount, options, source)?,
        None => offline(path, options, source, context)?,
    };
    if let Some(file) = file {
        write(file, &report)?;
    }
    context.output.print(human(&report), &report)?;
    Ok(exit(&report))
}

/// By the mount, which goes on meanwhile.
fn online(
    mount: &Mounted,
    options: Options,
    source: Option<&KeySource>,
) -> Result<Report, Failure> {
    let with_its_keys = source.is_some_and(|source| source.store.is_none());
    if options.repair || !with_its_keys {
        let what = format!("{} is mounted", mount.entry.source.display());
        return Err(Failure::new(Exit::FileSystem, what).next(
            "Unmount it for --repair, --no-keys and --store; without them it is checked while it is mounted.",
        ));
    }
    let failed = |error: std::io::Error| unreachable_mount(&mount.socket, &error);
    let content = options.content;
    let progress = Progress::start();
    let mut talk = Conversation::start(&mount.socket, SILENCE).map_err(failed)?;
    let mut answer = talk.ask(&Command::Check { content });
    while let Ok(Answer::Progress(counts)) = &answer {
        progress.show(counts);
        answer = talk.hear();
    }
    progress.end();
    match answer.map_err(failed)? {
        Answer::Checked(report) => Ok(*report),
        answer => Err(other(answer)),
    }
}

fn offline(
    path: &Path,
    options: Options,
    source: Option<&KeySource>,
    context: &Context,
) -> Result<Report, Failure> {
    let shown = path.display();
    let lower = path
        .canonicalize()
        .map_err(|error| Failure::local(&shown, &error))?;
    let _lock = LowerLock::take_after_unmount(&lower)
        .map_err(|error| Failure::new(Exit::FileSystem, error.to_string()))?;
    let keys = match source {
        Some(source) => keys(&lower, source, context)?,
        None => None,
    };
    let progress = Progress::start();
    let report = check::check(
        &lower,
        keys.as_ref().map(|source| &source.keys as &dyn Keys),
        options,
        &mut |counts| progress.show(counts),
    );
    progress.end();
    report.map_err(|errno| {
        Failure::new(Exit::FileSystem, format!("{shown}: {errno}"))
            .next("Name an encrypted directory that you may read.")
    })
}

/// The volume's keys, asked for at first use. None if the record that they need is damaged: that is a finding.
fn keys(lower: &Path, source: &KeySource, context: &Context) -> Result<Option<Source>, Failure> {
    match RecordFile::in_directory(lower).and_then(|record| record.read()) {
        Ok(record) => Ok(Some(source.open(record, context)?)),
        Err(VolumeError::Format { .. }) => Ok(None),
        Err(error) => Err(Failure::new(Exit::FileSystem, error.to_string())),
    }
}

fn exit(report: &Report) -> Exit {
    if report.damage > 0 {
        Exit::Damaged
    } else if report.repaired > 0 {
        Exit::Repaired
    } else if report.unchecked > 0 {
        Exit::Unchecked
    } else {
        Exit::Success
    }
}

pub(super) fn write(file: &Path, report: &impl serde::Serialize) -> Result<(), Failure> {
    let text = serde_json::to_vec_pretty(report).map_err(|error| {
        Failure::new(Exit::Local, format!("the report has no JSON form: {error}"))
    })?;
    std::fs::write(file, text).map_err(|error| Failure::local(file.display(), &error))
}

fn human(report: &Report) -> String {
    let mut text = String::new();
    for finding in &report.findings {
        text.push_str(&show(finding, report.repair));
    }
    let found = report.damage + report.repaired + report.unchecked + report.notes;
    if found > KEPT as u64 {
        text.push_str(&format!("... and {} more\n", found - KEPT as u64));
    }
    let counts = &report.counts;
    text.push_str(&format!(
        "{}: {} directories, {} files, {} links, {} others",
        report.lower.display(),
        counts.directories,
        counts.files,
        counts.symlinks,
        counts.others
    ));
    if report.content {
        text.push_str(&format!(", {} bytes of content", counts.bytes));
    }
    text.push_str(match report.keys {
        true => "\n",
        false => " (structure only, without keys)\n",
    });
    text.push_str(&match exit(report) {
        Exit::Damaged if report.repair => format!(
            "{} kinds of damage are left, {} were repaired. See `docs/OPERATIONS.md`, \"fs check\".",
            report.damage, report.repaired
        ),
        Exit::Damaged => format!(
            "{} findings of damage. Make a copy of the encrypted directory, then repair it with --repair.",
            report.damage
        ),
        Exit::Repaired => format!("{} findings of damage, all repaired.", report.repaired),
        Exit::Unchecked => "No damage found, but not everything could be checked.".to_owned(),
        _ => "Clean.".to_owned(),
    });
    text
}

fn show(finding: &Finding, repair: bool) -> String {
    let severity = match finding.severity {
        Severity::Note => "note",
        Severity::Unchecked => "unchecked",
        Severity::Damage => "DAMAGE",
    };
    let mut text = format!(
        "{severity} {}: {}\n    lower    {}\n    what     {}; {}\n",
        finding.code,
        finding.plain_path,
        finding.lower_path,
        finding.code.meaning(),
        finding.detail
    );
    text.push_str(&match finding.outcome {
        Outcome::Repaired => "    done     repaired\n".to_owned(),
        Outcome::Quarantined => "    done     moved into .kmsfs.lost\n".to_owned(),
        Outcome::Failed => "    done     the repair failed\n".to_owned(),
        Outcome::Left if repair => format!("    repair   {}\n", finding.code.remedy()),
        Outcome::Left => format!("    --repair {}\n", finding.code.remedy()),
    });
    text
}
