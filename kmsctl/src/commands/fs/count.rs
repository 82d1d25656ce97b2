//! `kmsctl fs count`: what each protected directory of a volume holds, kept by kmsd for the day when something is destroyed.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use clap::Args;
use kmsfs::extent::{self, Extent};
use kmsfs::volume::RecordFile;
use serde_json::json;

use super::mounted;
use crate::Context;
use crate::exit::{Exit, Failure};
use crate::output::Table;

/// `kmsctl fs count`.
#[derive(Debug, Args)]
pub struct CountArgs {
    /// The encrypted directory, or a path in its mount.
    pub path: PathBuf,
}

pub(super) fn run(args: &CountArgs, context: &Context) -> Result<(), Failure> {
    let mount = mounted::entry(&args.path)?;
    let (lower, point) = match &mount {
        Some(entry) => (entry.source.clone(), Some(entry.mountpoint.as_path())),
        None => (args.path.clone(), None),
    };
    let counted = count(&lower, point, context)?;
    let mut table = Table::new(&["POLICY", "FILES", "DIRECTORIES", "BYTES"]);
    for (policy, extent) in &counted.policies {
        table.row(vec![
            policy.clone(),
            extent.files.to_string(),
            extent.directories.to_string(),
            extent.bytes.to_string(),
        ]);
    }
    let mut human = format!("volume {}\n{table}", counted.volume);
    for line in &counted.untold {
        human.push_str(&format!("not told to kmsd: {line}\n"));
    }
    context.output.print(
        human,
        &json!({ "Volume": counted.volume, "Policies": counted.policies, "NotTold": counted.untold }),
    )
}

/// What the policies of a volume hold, by their ids.
pub(super) struct Counted {
    pub(super) volume: String,
    pub(super) policies: BTreeMap<String, Extent>,
    /// What kmsd did not take, and why.
    pub(super) untold: Vec<String>,
}

/// Counts, and tells kmsd.
pub(super) fn count(
    lower: &Path,
    mountpoint: Option<&Path>,
    context: &Context,
) -> Result<Counted, Failure> {
    let record = RecordFile::in_directory(lower).and_then(|record| record.read());
    let record = record.map_err(|error| Failure::new(Exit::FileSystem, error.to_string()))?;
    let found =
        extent::count(lower, &record).map_err(|error| Failure::local(lower.display(), &error))?;
    let mut counted = Counted {
        volume: record.volume.to_string(),
        policies: BTreeMap::new(),
        untold: Vec::new(),
    };
    for (policy, extent) in found {
        if let Err(error) = extent::report(&context.client, &record, policy, extent, mountpoint) {
            counted.untold.push(format!("{policy}: {error}"));
        }
        counted.policies.insert(policy.to_string(), extent);
    }
    Ok(counted)
}
