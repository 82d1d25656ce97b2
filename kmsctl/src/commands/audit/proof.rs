//! `kmsctl audit prove` and `audit check-proof`.

use std::path::PathBuf;

use clap::Args;
use kms_core::audit::proof::Proof;
use kms_core::audit::tree::{Edge, leaf_hash};
use kms_core::audit::verify::Checkpoints;
use kms_core::audit::{Record, split};
use serde_json::json;

use super::DEFAULT_DIRECTORY;
use super::files::{self, CHECKPOINTS, Line};
use crate::Context;
use crate::exit::{Exit, Failure};
use crate::output::time;

/// `kmsctl audit prove`.
#[derive(Debug, Args)]
pub struct ProveArgs {
    /// Id of the event.
    pub event: String,
    /// Directory of the log.
    #[arg(long, value_name = "DIR", default_value = DEFAULT_DIRECTORY)]
    pub directory: PathBuf,
}

/// `kmsctl audit check-proof`.
#[derive(Debug, Args)]
pub struct CheckProofArgs {
    /// The proof.
    pub file: PathBuf,
    /// The public keys of the log (keys.json).
    #[arg(long, value_name = "FILE")]
    pub keys: PathBuf,
}

pub(super) fn prove(args: &ProveArgs, context: &Context) -> Result<(), Failure> {
    let keys = files::keys(None, &args.directory)?;
    let notes = files::read(&args.directory.join(CHECKPOINTS))?;
    let checkpoints = Checkpoints::verify(&keys, CHECKPOINTS, &notes);
    let mut leaves = Vec::new();
    let mut found = None;
    for file in files::list(&args.directory)? {
        files::lines(&file.path, |line| {
            let Line::Whole(line) = line else { return };
            leaves.push(leaf_hash(line));
            // The id is looked for as text first: most lines need no more.
            let named = line
                .windows(args.event.len().max(1))
                .any(|window| window == args.event.as_bytes());
            if named
                && let Some((_, record, seq)) = split(line)
                && Record::from_bytes(record).is_ok_and(|record| record.event_id == args.event)
            {
                found = Some((seq, line.to_vec()));
            }
        })?;
    }
    let Some((index, line)) = found else {
        return Err(Failure::new(
            Exit::NotFound,
            format!("no event {} in {}", args.event, args.directory.display()),
        )
        .next("Event ids are in the records and in `kmsctl audit search`."));
    };
    // The first checkpoint that has it, so that a proof stays the same.
    let known = checkpoints
        .known
        .iter()
        .find(|known| known.checkpoint.size > index)
        .ok_or_else(|| {
            Failure::new(
                Exit::NotFound,
                format!("there is no checkpoint yet after record {index}"),
            )
            .next("kmsd makes one within `audit.checkpoint_interval`; try again then.")
        })?;
    let size = usize::try_from(known.checkpoint.size).unwrap_or(usize::MAX);
    let covered = leaves.get(..size).unwrap_or_default();
    let mut edge = Edge::new();
    covered.iter().for_each(|leaf| edge.push(*leaf));
    if edge.root() != known.checkpoint.root.0 {
        return Err(Failure::new(
            Exit::Tampered,
            format!(
                "the records are not those of checkpoint {}: nothing can be proved",
                known.checkpoint.number
            ),
        )
        .next("Find what was altered with `kmsctl audit verify`."));
    }
    let proof = Proof::make(line, index, covered, known.note.clone())
        .ok_or_else(|| Failure::new(Exit::Local, format!("record {index} is not in the tree")))?;
    context
        .output
        .print(&proof, &json!({ "proof": proof.to_string() }))
}

pub(super) fn check(args: &CheckProofArgs, context: &Context) -> Result<(), Failure> {
    let keys = files::keys(Some(&args.keys), &args.keys)?;
    let text = String::from_utf8_lossy(&files::read(&args.file)?).into_owned();
    let proved = Proof::parse(&text)
        .and_then(|proof| proof.verify(&keys))
        .map_err(|reason| {
            Failure::new(
                Exit::Tampered,
                format!("{} proves nothing: {reason}", args.file.display()),
            )
        })?;
    let checkpoint = &proved.known.checkpoint;
    let record = serde_json::to_value(&proved.line.record)
        .map_err(|error| Failure::new(Exit::Local, error.to_string()))?;
    let human = format!(
        "Proved: this is record {} of {}, under checkpoint {} of {} ({}).\n{record:#}",
        proved.line.seq,
        checkpoint.origin,
        checkpoint.number,
        time(kms_api::Timestamp::from_millis(checkpoint.time_ms)),
        checkpoint.sealer.as_str(),
    );
    context.output.print(
        human,
        &json!({
            "origin": checkpoint.origin,
            "checkpoint": checkpoint.number,
            "sealer": checkpoint.sealer.as_str(),
            "sequence": proved.line.seq,
            "record": record,
        }),
    )
}
