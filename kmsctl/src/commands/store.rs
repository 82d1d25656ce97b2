//! `kmsctl store …`: backups of kmsd's store, and the list of what was destroyed in it.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use data_encoding::HEXLOWER;
use kms_api::{BackupStoreRequest, BackupStoreResponse, ListTombstonesRequest, Tombstone};
use kms_core::tombstones::Tombstones;
use kmsfs::mount::table;
use serde_json::json;
use sha2::{Digest as _, Sha256};

use super::tpm;
use crate::Context;
use crate::args::Passed;
use crate::exit::{Exit, Failure};

/// Arguments of `kmsctl store`.
#[derive(Debug, Args)]
pub struct StoreArgs {
    /// What to do.
    #[command(subcommand)]
    pub command: StoreCommand,
}

/// The commands of `kmsctl store`. `verify-backup` and `restore` pass their arguments to kmsd as they are (`kmsd restore --help`).
#[derive(Debug, Subcommand)]
pub enum StoreCommand {
    /// Write a backup of the whole store to a new file, while kmsd runs. Only the recovery key opens it.
    Backup {
        /// The file; it must not be there yet.
        file: PathBuf,
    },
    /// Look whether a backup is whole; with the recovery key, whether everything in it opens (runs the kmsd program).
    #[command(disable_help_flag = true)]
    VerifyBackup(Passed),
    /// Make the store of a backup, sealed to this host's TPM (runs the kmsd program).
    #[command(disable_help_flag = true)]
    Restore(Passed),
    /// List what was destroyed in the store, for a later `restore --tombstones`.
    Tombstones {
        /// Write it to this new file instead of standard output.
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
    },
}

pub(super) fn run(args: &StoreArgs, context: &Context) -> Result<(), Failure> {
    match &args.command {
        StoreCommand::Backup { file } => backup(file, context),
        StoreCommand::VerifyBackup(passed) => {
            tpm::pass("verify-backup", &passed.arguments, context)
        }
        StoreCommand::Restore(passed) => tpm::pass("restore", &passed.arguments, context),
        StoreCommand::Tombstones { out } => tombstones(out.as_deref(), context),
    }
}

fn backup(path: &Path, context: &Context) -> Result<(), Failure> {
    let mut file = create(path)?;
    let done = fetch(&mut file, context).and_then(|told| {
        let durable = file
            .sync_all()
            .and_then(|()| File::open(parent(path))?.sync_all());
        durable.map_err(|error| Failure::local(path.display(), &error))?;
        Ok(told)
    });
    let told = match done {
        Ok(told) => told,
        Err(failure) => {
            // Nothing that could pass for a backup stays.
            let _ = std::fs::remove_file(path);
            return Err(failure);
        }
    };
    let human = format!(
        "{}: {} bytes, the store {} as of revision {}\nrecovery recipient  {}\nSHA-256             {}\n\
         Keep the digest elsewhere: `kmsctl store restore --sha256` takes it. Prove the backup with the recovery key: \
         `kmsctl store verify-backup`.",
        path.display(),
        told.size,
        told.store_id,
        told.store_revision,
        told.recovery_public_key,
        told.sha256
    );
    let value = json!({
        "File": path, "Size": told.size, "Sha256": told.sha256, "StoreId": told.store_id,
        "StoreRevision": told.store_revision, "RecoveryPublicKey": told.recovery_public_key,
    });
    context.output.print(human, &value)
}

/// Fetches all parts; the digest over what was written is the one that kmsd told.
fn fetch(file: &mut File, context: &Context) -> Result<BackupStoreResponse, Failure> {
    let mut digest = Sha256::new();
    let mut written = 0_u64;
    let mut backup_id = None;
    loop {
        let offset = u32::try_from(written).map_err(|_| broken("more than it can have"))?;
        let part = context.client.send(BackupStoreRequest {
            backup_id: backup_id.take(),
            offset: Some(offset),
        })?;
        let bytes = part.part.as_slice();
        file.write_all(bytes)
            .map_err(|error| Failure::local("the backup", &error))?;
        digest.update(bytes);
        written += bytes.len() as u64;
        if written == part.size {
            let found = HEXLOWER.encode(&digest.finalize());
            return match found == part.sha256 {
                true => Ok(part),
                false => Err(broken("other bytes than it has")),
            };
        }
        if bytes.is_empty() || written > part.size {
            return Err(broken("an empty part"));
        }
        backup_id = Some(part.backup_id);
    }
}

fn broken(what: &str) -> Failure {
    Failure::new(Exit::Protocol, format!("kmsd gave {what} of the backup")).next("Run it again.")
}

fn tombstones(out: Option<&Path>, context: &Context) -> Result<(), Failure> {
    let list = all(context)?;
    let text = serde_json::to_string_pretty(&list)
        .map_err(|e| Failure::new(Exit::Local, format!("the list has no JSON form: {e}")))?;
    let text = format!("{text}\n");
    let Some(path) = out else {
        return context.output.write(text.as_bytes());
    };
    let mut file = create(path)?;
    file.write_all(text.as_bytes())
        .and_then(|()| file.sync_all())
        .map_err(|error| Failure::local(path.display(), &error))?;
    let count = list.tombstones.len();
    let human = format!("{}: {count} destroyed keys and policies.", path.display());
    context
        .output
        .print(human, &json!({ "File": path, "Tombstones": count }))
}

fn all(context: &Context) -> Result<Tombstones, Failure> {
    let mut tombstones: Vec<Tombstone> = Vec::new();
    let mut marker = None;
    loop {
        let mut page = context.client.send(ListTombstonesRequest {
            limit: None,
            marker,
        })?;
        tombstones.append(&mut page.tombstones);
        marker = page.next_marker;
        if marker.is_none() {
            return Ok(Tombstones {
                store_id: page.store_id,
                deletion_epoch: page.deletion_epoch,
                tombstones,
            });
        }
    }
}

/// Makes the file, on a file system that opens without this kmsd.
fn create(path: &Path) -> Result<File, Failure> {
    let above = parent(path);
    let mount = table::kmsfs_mount_of(above);
    if let Some(mount) = mount.map_err(|error| Failure::local(above.display(), &error))? {
        let text = format!(
            "{} is in the kmsfs mount {}, which opens only with the keys that this is to bring back",
            path.display(),
            mount.mountpoint.display()
        );
        return Err(Failure::new(Exit::Usage, text).next("Write it elsewhere."));
    }
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .map_err(|error| {
            let failure = Failure::local(path.display(), &error);
            match error.kind() {
                io::ErrorKind::AlreadyExists => {
                    failure.next("Name another file: one that is there is not overwritten.")
                }
                _ => failure,
            }
        })
}

fn parent(path: &Path) -> &Path {
    path.parent()
        .filter(|parent| !parent.as_os_str().is_empty())
        .unwrap_or_else(|| Path::new("."))
}
