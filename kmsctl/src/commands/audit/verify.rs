//! `kmsctl audit verify`.

use std::fmt::Write as _;
use std::path::PathBuf;

use clap::Args;
use data_encoding::HEXLOWER;
use kms_api::GetAuditHeadRequest;
use kms_core::audit::note::VerifierKey;
use kms_core::audit::tree::Edge;
use kms_core::audit::verify::{
    Checkpoints, Finding, FindingKind, Known, LogReport, LogVerifier, Mark, Place, Source,
};
use kms_core::rows::Hash;
use serde_json::json;

use super::DEFAULT_DIRECTORY;
use super::files::{self, CHECKPOINTS, COSIGNED, Line};
use crate::Context;
use crate::exit::{Exit, Failure};
use crate::output::time;

/// Findings that are printed.
const SHOWN: usize = 20;

/// `kmsctl audit verify`.
#[derive(Debug, Args)]
pub struct VerifyArgs {
    /// Directory of the log.
    #[arg(long, value_name = "DIR", default_value = DEFAULT_DIRECTORY)]
    pub directory: PathBuf,
    /// The public keys: a copy of keys.json that was made when the host was trusted. Without it the one in the
    /// directory is used, which root of that host may have replaced.
    #[arg(long, value_name = "FILE")]
    pub keys: Option<PathBuf>,
    /// Checkpoints that were kept elsewhere (`audit.checkpoint_copy`, a witness); may be given more than once.
    #[arg(long, value_name = "FILE")]
    pub checkpoint: Vec<PathBuf>,
    /// Public key of a witness (NAME+HASH+KEY): the last of the checkpoints it cosigned is named, of those in the directory
    /// (file `cosigned`) and of copies. May be given more than
    /// once.
    #[arg(long, value_name = "KEY")]
    pub witness_key: Vec<String>,
    /// Older files were removed on purpose (`audit.keep_files`): begin with the first that is here. What it says of the
    /// records before it is then taken from the directory.
    #[arg(long)]
    pub retention: bool,
    /// Also compare with what the catalogue of the running kmsd knows: the records after the last checkpoint.
    #[arg(long)]
    pub head: bool,
}

pub(super) fn run(args: &VerifyArgs, context: &Context) -> Result<Exit, Failure> {
    let witnesses = args
        .witness_key
        .iter()
        .map(|key| {
            VerifierKey::parse(key)
                .map_err(|error| Failure::new(Exit::Usage, format!("--witness-key {key}: {error}")))
        })
        .collect::<Result<Vec<_>, _>>()?;
    let keys = files::keys(args.keys.as_deref(), &args.directory)?;
    // Before the files: a log that is being written is then at least as long.
    let head = if args.head {
        Some(head(context)?)
    } else {
        None
    };
    let path = args.directory.join(CHECKPOINTS);
    let notes = if path.exists() {
        files::read(&path)?
    } else {
        Vec::new()
    };
    let mut checkpoints = Checkpoints::verify(&keys, CHECKPOINTS, &notes);
    let mut marks = checkpoints.marks();
    let mut cosigned = cosigned(&witnesses, &checkpoints.known, &mut checkpoints.findings);
    // What kmsd keeps of its witnesses' answers is a copy like others.
    let kept = Some(args.directory.join(COSIGNED)).filter(|path| path.exists());
    for path in args.checkpoint.iter().chain(&kept) {
        let name = path.display().to_string();
        let copies = Checkpoints::verify(&keys, &name, &files::read(path)?);
        // A copy may have holes; what counts is whether each one is signed.
        let bad = copies.findings.into_iter().find(|finding| {
            finding.kind == FindingKind::CheckpointAltered && copies.known.is_empty()
        });
        if let Some(finding) = bad {
            return Err(Failure::new(
                Exit::Local,
                format!("{name} holds no checkpoint of this log: {}", finding.text),
            ));
        }
        cosigned.extend(self::cosigned(
            &witnesses,
            &copies.known,
            &mut checkpoints.findings,
        ));
        marks.append(&mut checkpoints.compare(&copies.known));
    }
    marks.extend(head);
    let (report, mut notes) = read_log(args, marks)?;
    notes.extend(checkpoints.none_at_all(&keys, CHECKPOINTS, &report, args.head));
    print(args, context, &checkpoints, &report, &notes, &cosigned)
}

/// The last checkpoint that each witness has cosigned.
fn cosigned(
    witnesses: &[VerifierKey],
    known: &[Known],
    findings: &mut Vec<Finding>,
) -> Vec<(String, u64, Option<u64>)> {
    let mut last = Vec::new();
    for witness in witnesses {
        let mut newest = None;
        for one in known {
            let number = one.checkpoint.number;
            match witness.verify(&one.note) {
                None => {}
                Some(Ok(time)) => newest = Some((witness.name.clone(), number, time)),
                Some(Err(_)) => findings.push(Finding {
                    kind: FindingKind::CheckpointAltered,
                    place: Place {
                        checkpoint: Some(number),
                        ..Place::default()
                    },
                    text: format!(
                        "the signature of {} on checkpoint {number} does not fit",
                        witness.name
                    ),
                }),
            }
        }
        last.extend(newest);
    }
    last
}

fn read_log(args: &VerifyArgs, marks: Vec<Mark>) -> Result<(LogReport, Vec<String>), Failure> {
    let mut verifier = LogVerifier::new(marks);
    let mut notes = Vec::new();
    let files = files::list(&args.directory)?;
    if let Some(first) = files
        .first()
        .filter(|file| args.retention && file.first > 0)
    {
        let path = first.path.with_extension("edge");
        let text = String::from_utf8_lossy(&files::read(&path)?).into_owned();
        let edge = Edge::parse(&text).filter(|edge| edge.size() == first.first);
        verifier.begin_at(edge.ok_or_else(|| {
            Failure::new(
                Exit::Local,
                format!("{} is not what kmsd keeps there", path.display()),
            )
            .next("Put back a file from before, with its .edge, from a backup of the log.")
        })?);
        notes.push(format!(
            "the records before {} are not here and were not verified",
            first.first
        ));
    }
    for file in files {
        verifier.begin_file(&file.name, file.first);
        files::lines(&file.path, |line| match line {
            Line::Whole(line) => verifier.line(line),
            Line::Partial(bytes) => notes.push(verifier.partial(bytes)),
        })?;
    }
    Ok((verifier.finish(), notes))
}

/// What the running kmsd has on disk.
fn head(context: &Context) -> Result<Mark, Failure> {
    let head = context.client.send(GetAuditHeadRequest {})?;
    let hash = |hex: &str| {
        HEXLOWER
            .decode(hex.as_bytes())
            .ok()
            .and_then(|bytes| bytes.try_into().ok())
            .map(Hash)
            .ok_or_else(|| Failure::new(Exit::Protocol, "kmsd's answer has a malformed hash"))
    };
    Ok(Mark {
        size: head.size,
        chain: hash(&head.chain)?,
        root: Some(hash(&head.root)?),
        source: Source::Head,
    })
}

fn print(
    args: &VerifyArgs,
    context: &Context,
    checkpoints: &Checkpoints,
    report: &LogReport,
    notes: &[String],
    cosigned: &[(String, u64, Option<u64>)],
) -> Result<Exit, Failure> {
    let findings: Vec<&Finding> = report
        .findings
        .iter()
        .chain(&checkpoints.findings)
        .collect();
    let last = checkpoints.last().map(|known| &known.checkpoint);
    let sound = findings.is_empty();
    let value = json!({
        "sound": sound,
        "records": report.size,
        "checkpoints": checkpoints.known.len(),
        "coveredBy": report.covered_by,
        "uncovered": report.uncovered,
        "comparedWithHead": args.head,
        "tpm": checkpoints.all_of_a_tpm(),
        "notes": notes,
        "cosigned": cosigned.iter().map(|(name, number, time)| json!({
            "witness": name, "checkpoint": number, "time": time,
        })).collect::<Vec<_>>(),
        "findings": findings,
    });
    let mut text = String::new();
    for (n, finding) in findings.iter().take(SHOWN).enumerate() {
        let first = if n == 0 { "first wrong place" } else { "then" };
        let _ = writeln!(text, "{first}: {}: {}", finding.kind.as_str(), finding.text);
        let _ = writeln!(text, "    {}", where_(&finding.place));
    }
    if findings.len() > SHOWN {
        let _ = writeln!(text, "and {} more", findings.len() - SHOWN);
    }
    for note in notes {
        let _ = writeln!(text, "note: {note}");
    }
    let verdict = if sound {
        "The log is sound"
    } else {
        "The log is NOT sound"
    };
    let _ = writeln!(
        text,
        "{verdict}: {} records, {} checkpoints.",
        report.size,
        checkpoints.known.len()
    );
    if let Some(last) = last {
        let by = if checkpoints.all_of_a_tpm() {
            "attested by the TPM"
        } else {
            "signed by a software key, which whoever has the key file can do as well"
        };
        let _ = writeln!(
            text,
            "The last checkpoint, {} of {}, is {by}.",
            last.number,
            time(kms_api::Timestamp::from_millis(last.time_ms)),
        );
    }
    for (name, number, _) in cosigned {
        let _ = writeln!(text, "{name} has cosigned up to checkpoint {number}.");
    }
    if report.uncovered > 0 {
        let by = if args.head {
            "the running kmsd knows them too, as far as it had come when it was asked"
        } else {
            "only kmsd's catalogue vouches for them (--head asks a running kmsd)"
        };
        let _ = writeln!(
            text,
            "{} records come after the last good checkpoint; {by}.",
            report.uncovered
        );
    }
    if args.keys.is_none() {
        let _ = writeln!(
            text,
            "The keys are those beside the log: give a copy from elsewhere with --keys to rule out that root replaced them."
        );
    }
    context.output.print(text, &value)?;
    Ok(if sound { Exit::Success } else { Exit::Tampered })
}

fn where_(place: &Place) -> String {
    let mut parts = Vec::new();
    if let Some(file) = &place.file {
        parts.push(match place.line {
            Some(line) => format!("{file} line {line}"),
            None => file.clone(),
        });
    }
    match (place.record, place.last_record) {
        (Some(from), Some(to)) if from != to => parts.push(format!("records {from} to {to}")),
        (Some(record), _) => parts.push(format!("record {record}")),
        (None, _) => {}
    }
    if let Some(event) = &place.event {
        parts.push(format!("event {event}"));
    }
    if let Some(number) = place.checkpoint {
        parts.push(format!("checkpoint {number}"));
    }
    parts.join(", ")
}
