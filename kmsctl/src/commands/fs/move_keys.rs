//! `kmsctl fs export-keys` and `import-keys`: the keys of one volume on their way to another host. kmsd does it, stopped.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use clap::Args;
use kms_api::ResourceId;
use kmsfs::volume::RecordFile;

use crate::Context;
use crate::commands::tpm;
use crate::exit::{Exit, Failure};

/// `kmsctl fs export-keys`.
#[derive(Debug, Args)]
pub struct ExportKeysArgs {
    /// The encrypted directory, or the volume's id.
    pub volume: String,
    /// The other host's recovery recipient, as `kmsctl status` shows it there (KMSD-RECIPIENT-1-...).
    #[arg(long, value_name = "RECIPIENT")]
    pub to: String,
    /// The file to write.
    #[arg(long, value_name = "FILE")]
    pub out: PathBuf,
    /// The configuration of kmsd, if it is not at its default place.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
}

pub(super) fn export(args: &ExportKeysArgs, context: &Context) -> Result<(), Failure> {
    let volume = match args.volume.parse::<ResourceId>() {
        Ok(id) => id.to_string(),
        Err(_) => id_of(Path::new(&args.volume))?,
    };
    let mut arguments: Vec<OsString> = vec![
        volume.into(),
        "--to".into(),
        args.to.clone().into(),
        "--out".into(),
        args.out.clone().into(),
    ];
    if let Some(config) = &args.config {
        arguments.extend(["--config".into(), config.clone().into()]);
    }
    tpm::pass("export-volume", &arguments, context)
}

fn id_of(lower: &Path) -> Result<String, Failure> {
    let record = RecordFile::in_directory(lower).and_then(|record| record.read());
    let record = record.map_err(|error| {
        Failure::new(Exit::FileSystem, error.to_string())
            .next("Name the encrypted directory, not its mount, or the volume's id.")
    })?;
    Ok(record.volume.to_string())
}
