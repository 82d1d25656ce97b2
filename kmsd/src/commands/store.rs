//! Backups of the store: looked through, and made into a store again.

use std::io::Write as _;
use std::path::Path;

use kms_core::backup::DoubtedAccessKey;
use kms_core::clock::DAY_MS;
use kms_core::events::seconds;
use kms_core::tombstones::Tombstones;
use kms_crypto::RecoveryPublicKey;
use serde_json::{Value, json};

use super::files::{self, Ownership};
use super::{new_credential, recovery, recovery_key};
use crate::cli::{RestoreArgs, VerifyBackupArgs};
use crate::config::Config;
use crate::engine::{self, Contents, EngineError, RestoreSource};
use crate::exit::{self, Failure};
use crate::world;

/// Largest backup that is read.
const MAX_BACKUP: u64 = 4 << 30;
/// Largest list of what was destroyed that is read.
const MAX_TOMBSTONES: u64 = 256 << 20;

/// `kmsd verify-backup`.
pub(crate) fn verify_backup(args: &VerifyBackupArgs, json: bool) -> Result<(), Failure> {
    let file = read(&args.file, MAX_BACKUP, "the backup")?;
    let key = recovery::given(&args.recovery)?;
    let report = engine::verify_backup(&file, key.as_ref())?;
    let head = &report.head;
    let recipient = <[u8; 32]>::try_from(head.recovery_public.0.as_slice())
        .map(|bytes| RecoveryPublicKey::from_bytes(bytes).to_text())
        .unwrap_or_default();
    if json {
        return print(&json!({
            "StoreId": head.store_id, "AccountId": head.account, "Region": head.region,
            "CreationDate": seconds(head.created_ms), "StoreRevision": head.revision,
            "DeletionEpoch": head.deletion_epoch, "RecoveryPublicKey": recipient,
            "Version": head.version, "Sha256": report.sha256,
            "Opened": report.opened.is_some(), "Contents": report.opened.map(contents),
        }));
    }
    let verdict = match report.opened {
        Some(held) => format!(
            "Good: {} keys and {} policies of {} volumes; all {} secrets open.",
            held.keys, held.policies, held.volumes, held.secrets
        ),
        None => "Whole: its digest fits. With the recovery key (--recovery-from, --recovery-share) its content is checked, too."
            .to_owned(),
    };
    println!(
        "store               {}\naccount and Region  {} {}\nmade                {} by kmsd {}\nrevision            {}\n\
         recovery recipient  {recipient}\nSHA-256             {}\n{verdict}",
        head.store_id,
        head.account,
        head.region,
        seconds(head.created_ms),
        head.version,
        head.revision,
        report.sha256
    );
    Ok(())
}

/// `kmsd restore`.
pub(crate) fn restore(config: &Config, args: &RestoreArgs, json: bool) -> Result<(), Failure> {
    let file = read(&args.file, MAX_BACKUP, "the backup")?;
    let verified = engine::verify_backup(&file, None)?;
    if let Some(expected) = &args.sha256
        && !expected.trim().eq_ignore_ascii_case(&verified.sha256)
    {
        return Err(Failure {
            status: exit::LOCAL,
            message: format!(
                "{} is not the backup with that SHA-256: its own is {}",
                args.file.display(),
                verified.sha256
            ),
            next_step: "Find the right file. Nothing was changed.".to_owned(),
        });
    }
    let tombstones = match &args.tombstones {
        Some(path) => Some(tombstones(path)?),
        None => None,
    };
    let store = world::engine_config(config);
    if store.directory.join(crate::storage::CATALOGUE).exists() && !args.replace {
        return Err(EngineError::StoreInTheWay(store.directory).into());
    }
    files::make_store_directory(&config.store.directory)?;
    let ownership = Ownership::of(config);
    let mut sealer = world::sealer(config)?;
    sealer.status()?;
    let clock = world::clock(config)?;
    let key = recovery_key(&args.recovery)?;
    let (credential, made) = new_credential(config, args.profile)?;
    let source = RestoreSource {
        file: &file,
        recovery: &key,
        tombstones: tombstones.as_ref(),
        replace: args.replace,
    };
    let result = engine::restore(
        &store,
        sealer.as_mut(),
        args.profile.into(),
        &credential,
        &source,
        clock.as_ref(),
    );
    let report = match result {
        Ok(report) => report,
        Err(error) => {
            made.undo();
            ownership.apply();
            return Err(error.into());
        }
    };
    ownership.apply();
    if json {
        return print(&json!({
            "StoreId": report.head.store_id, "StoreRevision": report.head.revision,
            "CreationDate": seconds(report.head.created_ms), "Contents": contents(report.contents),
            "Buried": report.buried, "Generation": report.generation, "Replaced": report.replaced,
            "AccessKeys": report.access_keys.iter().map(access_key).collect::<Vec<_>>(),
        }));
    }
    let held = report.contents;
    println!(
        "Restored as of {}: {} keys and {} policies of {} volumes. {} that were destroyed since stay destroyed.",
        seconds(report.head.created_ms),
        held.keys,
        held.policies,
        held.volumes,
        report.buried
    );
    if let Some(path) = &report.replaced {
        println!("The store that was here is kept as {}.", path.display());
    }
    let age = clock.read().wall_ms.saturating_sub(report.head.created_ms);
    let days = age / i64::try_from(DAY_MS).unwrap_or(i64::MAX);
    println!(
        "What was changed since the backup ({days} days) is as it was: grants that were revoked and keys that were disabled since are\n\
         in force again, and keys and policy generations made since are not there. Check it, then start kmsd with `systemctl start kmsd`."
    );
    print_access_keys(&report.access_keys);
    if args.tombstones.is_none() && report.replaced.is_none() {
        println!(
            "No list of what was destroyed was given (--tombstones): what was destroyed since the backup is back."
        );
    }
    Ok(())
}

/// Says which access keys are not accepted, and what to do about it.
fn print_access_keys(doubted: &[DoubtedAccessKey]) {
    let (deleted, disabled): (Vec<_>, Vec<_>) = doubted.iter().partition(|one| one.deleted);
    if !deleted.is_empty() {
        println!(
            "{} access keys that were deleted since stay deleted.",
            deleted.len()
        );
    }
    if disabled.is_empty() {
        return;
    }
    println!(
        "These access keys are disabled, because they may have been disabled or deleted since the backup. Once kmsd runs, take back\n\
         those that are still to be accepted, on this host: `kmsctl access-key enable ID`."
    );
    for DoubtedAccessKey { row, .. } in disabled {
        let description = row.description.as_deref().unwrap_or_default();
        println!("  {}  {}  {description}", row.id, row.principal);
    }
}

fn access_key(doubted: &DoubtedAccessKey) -> Value {
    let DoubtedAccessKey { row, deleted } = doubted;
    json!({
        "AccessKeyId": row.id, "PrincipalArn": row.principal, "Description": row.description, "Deleted": deleted,
    })
}

fn contents(held: Contents) -> Value {
    json!({
        "Keys": held.keys, "Volumes": held.volumes, "Policies": held.policies, "Secrets": held.secrets,
    })
}

fn tombstones(path: &Path) -> Result<Tombstones, Failure> {
    let bytes = read(path, MAX_TOMBSTONES, "the list of what was destroyed")?;
    serde_json::from_slice(&bytes).map_err(|error| Failure {
        status: exit::LOCAL,
        message: format!(
            "{} is no list of `kmsctl store tombstones`: {error}",
            path.display()
        ),
        next_step: "Name the file that `kmsctl store tombstones` wrote.".to_owned(),
    })
}

/// Reads a whole file that is not longer than `most`.
pub(super) fn read(path: &Path, most: u64, what: &str) -> Result<Vec<u8>, Failure> {
    let failed = |error: &std::io::Error| {
        Failure::local(
            format_args!("{what} {}", path.display()),
            error,
            "Name a file that is there and may be read.",
        )
    };
    let length = std::fs::metadata(path).map_err(|e| failed(&e))?.len();
    if length > most {
        return Err(failed(&std::io::Error::from(
            std::io::ErrorKind::FileTooLarge,
        )));
    }
    std::fs::read(path).map_err(|e| failed(&e))
}

pub(super) fn print(value: &Value) -> Result<(), Failure> {
    writeln!(std::io::stdout().lock(), "{value}")
        .map_err(|e| Failure::local("standard output", &e, "Run it again."))
}
