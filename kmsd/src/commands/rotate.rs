//! `kmsd rotate-recovery`.

use serde_json::json;

use super::files::Ownership;
use super::{recovery, store};
use crate::cli::RotateRecoveryArgs;
use crate::config::Config;
use crate::exit::Failure;
use crate::{engine, place, world};

/// Makes a new recovery key and gives it to the store.
pub(crate) fn rotate_recovery(
    config: &Config,
    args: &RotateRecoveryArgs,
    json: bool,
) -> Result<(), Failure> {
    if let Some(path) = &args.recovery_out {
        place::check_file("--recovery-out", path)?;
    }
    let ownership = Ownership::of(config);
    let sealer = world::sealer(config)?;
    let credential = world::credential(config)?;
    let clock = world::clock(config)?;
    let kept = recovery::make(args.recovery_out.as_deref(), args.verify_from.as_deref())?;
    let result = engine::rotate_recovery(
        &world::engine_config(config),
        sealer,
        &credential,
        kept.key(),
        args.end_former,
        clock,
    );
    ownership.apply();
    // A file with the new key stays where that failed: it may count already.
    let report = result?;
    if json {
        return store::print(&json!({
            "FormerRecoveryPublicKey": report.former.to_text(),
            "RecoveryPublicKey": report.recovery_public.to_text(),
            "FormerEnded": report.ended,
        }));
    }
    let former = match report.ended {
        true => {
            "The former recovery key opens neither this store nor copies of it that are made from now on."
        }
        false => {
            "The former recovery key opens the store until the next deletion epoch (a key or directory that is destroyed, or this \
             command with --end-former)."
        }
    };
    println!(
        "recovery recipient  {}\n{former}\nIt still opens backups from before: make a new one (`kmsctl store backup`) and destroy \
         those, or keep it with them.\nShares of the former key are worth nothing for the new one: `kmsctl recovery split` makes new ones.",
        report.recovery_public.to_text()
    );
    Ok(())
}
