//! What kmsd does besides serving: enrolment, recovery, rollbacks, the state of the TPM.

use kms_crypto::RecoveryPrivateKey;
use kms_seal::{Credential, Profile};
use serde_json::json;

use crate::cli::{EnrollArgs, ProfileName, RecoverArgs, RecoveryArgs};
use crate::config::Config;
use crate::engine::{self, EnrollReport};
use crate::exit::Failure;
use crate::{storage, terminal, world};

mod approve;
mod break_glass;
mod dev;
mod files;
mod offline;
mod recovery;
mod rotate;
mod shares;
mod store;
mod tls;
mod tpm_status;
mod unenroll;
mod volume;

pub(crate) use approve::{approve, parse_pcr};
pub(crate) use break_glass::break_glass;
pub(crate) use dev::dev;
use files::Ownership;
pub(crate) use offline::offline;
pub(crate) use rotate::rotate_recovery;
pub(crate) use shares::split;
pub(crate) use store::{restore, verify_backup};
pub(crate) use tls::tls;
pub(crate) use tpm_status::tpm_status;
pub(crate) use unenroll::unenroll;
pub(crate) use volume::{export, import};

/// `kmsd enroll`.
pub(crate) fn enroll(config: &Config, args: &EnrollArgs, json: bool) -> Result<(), Failure> {
    if let Some(path) = &args.recovery_out {
        crate::place::check_file("--recovery-out", path)?;
    }
    files::make_store_directory(&config.store.directory)?;
    let ownership = Ownership::of(config);
    let mut sealer = world::sealer(config)?;
    let clock = world::clock(config)?;
    let store = world::engine_config(config);
    // Before anyone is asked to write anything down.
    if store.directory.join(storage::CATALOGUE).exists() {
        return Err(engine::EngineError::AlreadyEnrolled(store.directory).into());
    }
    sealer.status()?;

    let kept = recovery::make(args.recovery_out.as_deref(), args.verify_from.as_deref())?;
    let (credential, made) = match new_credential(config, args.profile) {
        Ok(new) => new,
        Err(failure) => {
            kept.undo();
            return Err(failure);
        }
    };
    let result = engine::enroll(
        &store,
        sealer.as_mut(),
        args.profile.into(),
        &credential,
        kept.key(),
        clock.as_ref(),
    );
    let report = match result {
        Ok(report) => report,
        Err(error) => {
            made.undo();
            kept.undo();
            ownership.apply();
            return Err(error.into());
        }
    };
    ownership.apply();
    print_report(
        &report,
        json,
        "Enrolled. Start kmsd with `systemctl start kmsd`.",
    );
    if let Some(path) = &args.recovery_out
        && !json
    {
        println!(
            "The recovery key is in {}: move it off this host.",
            path.display()
        );
    }
    Ok(())
}

/// `kmsd recover`.
pub(crate) fn recover(config: &Config, args: &RecoverArgs, json: bool) -> Result<(), Failure> {
    let ownership = Ownership::of(config);
    let mut sealer = world::sealer(config)?;
    let clock = world::clock(config)?;
    let key = recovery_key(&args.recovery)?;
    let (credential, made) = new_credential(config, args.profile)?;
    let result = engine::recover(
        &world::engine_config(config),
        sealer.as_mut(),
        args.profile.into(),
        &credential,
        &key,
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
    print_report(
        &report,
        json,
        "Recovered: the store is sealed to this host. Start kmsd with `systemctl start kmsd`.",
    );
    Ok(())
}

/// `kmsd accept-rollback`.
pub(crate) fn accept_rollback(
    config: &Config,
    args: &RecoveryArgs,
    json: bool,
) -> Result<(), Failure> {
    let ownership = Ownership::of(config);
    let sealer = world::sealer(config)?;
    let credential = world::credential(config)?;
    let key = recovery_key(args)?;
    let clock = world::clock(config)?;
    let result = engine::accept_rollback(
        &world::engine_config(config),
        sealer,
        &credential,
        &key,
        clock,
    );
    ownership.apply();
    let report = result?;
    if json {
        let value = json!({
            "Found": report.found, "Counter": report.counter, "Accepted": report.accepted,
        });
        println!("{value}");
    } else {
        println!(
            "Accepted: the store of generation {} is now generation {}; the counter was at {}.\n\
             What was disabled, revoked or deleted since then is as it was before: check it.",
            report.found, report.accepted, report.counter
        );
    }
    Ok(())
}

fn recovery_key(args: &RecoveryArgs) -> Result<RecoveryPrivateKey, Failure> {
    match recovery::given(args)? {
        Some(key) => Ok(key),
        None => recovery::ask(),
    }
}

/// The credential for a new enrolment: a typed PIN, the file that is there, or a new file.
fn new_credential(
    config: &Config,
    profile: ProfileName,
) -> Result<(Credential, files::Made), Failure> {
    let path = config.credential();
    if path.exists() {
        let credential = world::read_credential(&path).map_err(|e| {
            let what = format!("the credential {}", path.display());
            Failure::local(what, &e, "Run it as a user who may read it.")
        })?;
        return Ok((credential, files::Made::Nothing));
    }
    match Profile::from(profile) {
        Profile::Machine => {
            let credential = Credential::random()?;
            let made = files::write_secret(&path, credential.expose(), "the credential")?;
            Ok((credential, made))
        }
        Profile::Pin => {
            if !terminal::is_interactive() {
                return Err(Failure::recovery(
                    "a PIN has to be typed, and nobody is at a terminal",
                    "Run it in a terminal, or put the PIN into the file of `seal.credential`.",
                ));
            }
            let pin = terminal::ask_secret("New PIN: ")?;
            let again = terminal::ask_secret("The PIN again: ")?;
            if pin != again {
                return Err(Failure::recovery(
                    "the two PINs differ; nothing was changed",
                    "Run it again.",
                ));
            }
            Ok((Credential::new(pin), files::Made::Nothing))
        }
    }
}

fn print_report(report: &EnrollReport, json: bool, text: &str) {
    if json {
        let value = json!({
            "StoreId": report.store_id,
            "RecoveryPublicKey": report.recovery_public.to_text(),
            "Generation": report.generation,
            "Keys": report.keys,
        });
        println!("{value}");
    } else {
        println!(
            "store               {}\nkeys                {}\nrecovery recipient  {}\n{text}",
            report.store_id,
            report.keys,
            report.recovery_public.to_text()
        );
    }
}
