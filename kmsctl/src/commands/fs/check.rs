//! `kmsctl fs check`.

use std::io::IsTerminal as _;
use std::path::Path;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use kms_api::client::{Client, ClientError};
use kmsfs::check::{self, Counts, Finding, KEPT, Options, Outcome, Report, Severity};
use kmsfs::mount::lock::LowerLock;
use kmsfs::volume::kmsd::KmsdKeys;
use kmsfs::volume::{Keys, RecordFile, VolumeError};

use crate::Context;
use crate::exit::{Exit, Failure};

/// How long kmsd may take for one key.
const KEY_WAIT: Duration = Duration::from_secs(5);

pub(super) fn run(
    path: &Path,
    options: Options,
    with_keys: bool,
    file: Option<&Path>,
    context: &Context,
) -> Result<Exit, Failure> {
    let shown = path.display();
    let lower = path
        .canonicalize()
        .map_err(|error| Failure::local(&shown, &error))?;
    let _lock = LowerLock::take_after_unmount(&lower)
        .map_err(|error| Failure::new(Exit::FileSystem, error.to_string()))?;
    let keys = if with_keys {
        keys(&lower, context)?
    } else {
        None
    };
    let progress = Progress::start();
    let report = check::check(
        &lower,
        keys.as_ref().map(|keys| keys as &dyn Keys),
        options,
        &mut |counts| progress.show(counts),
    );
    progress.end();
    let report = report.map_err(|errno| {
        Failure::new(Exit::FileSystem, format!("{shown}: {errno}"))
            .next("Name an encrypted directory that you may read.")
    })?;
    if let Some(file) = file {
        write(file, &report)?;
    }
    context.output.print(human(&report), &report)?;
    Ok(exit(&report))
}

/// The volume's keys, asked for at first use. None if the record that they need is damaged: that is a finding.
fn keys(lower: &Path, context: &Context) -> Result<Option<KmsdKeys>, Failure> {
    match RecordFile::in_directory(lower).and_then(|record| record.read()) {
        Ok(record) => {
            // Says at once what is wrong if kmsd does not answer at all.
            if let Err(error @ ClientError::Unreachable { .. }) =
                context.client.send(kms_api::GetStatusRequest {})
            {
                return Err(Failure::from(error)
                    .next("Start kmsd, or check only the structure with --no-keys."));
            }
            Ok(Some(KmsdKeys::new(
                Client::new(context.client.socket()),
                record,
                KEY_WAIT,
            )))
        }
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

fn write(file: &Path, report: &Report) -> Result<(), Failure> {
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

/// A line on the terminal that shows how far it is.
struct Progress(ProgressBar);

impl Progress {
    fn start() -> Progress {
        if !std::io::stderr().is_terminal() {
            return Progress(ProgressBar::hidden());
        }
        let bar = ProgressBar::new_spinner();
        if let Ok(style) = ProgressStyle::with_template("{spinner} [{elapsed_precise}] {msg}") {
            bar.set_style(style);
        }
        Progress(bar)
    }

    fn show(&self, counts: &Counts) {
        if self.0.is_hidden() {
            return;
        }
        let objects = counts.directories + counts.files + counts.symlinks + counts.others;
        self.0.set_message(format!(
            "{objects} objects, {} read, damage: {}",
            indicatif::HumanBytes(counts.bytes),
            counts.damage
        ));
        self.0.tick();
    }

    fn end(&self) {
        self.0.finish_and_clear();
    }
}
