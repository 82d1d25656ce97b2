//! `kmsd export-volume` and `kmsd import-volume`.

use kms_core::kms::KMSFS_ALIAS;
use kms_crypto::RecoveryPublicKey;
use serde_json::json;

use super::files::{self, Ownership};
use super::{recovery_key, store};
use crate::cli::{ExportVolumeArgs, ImportVolumeArgs};
use crate::config::Config;
use crate::engine::{self, EngineError, Opening};
use crate::exit::{self, Failure};
use crate::world;

/// Largest file that is read.
const MAX_FILE: u64 = 1 << 30;

/// `kmsd export-volume`.
pub(crate) fn export(config: &Config, args: &ExportVolumeArgs, json: bool) -> Result<(), Failure> {
    let recipient = RecoveryPublicKey::from_text(&args.to).map_err(|error| Failure {
        status: exit::USAGE,
        message: format!("--to is not a recovery recipient: {error}"),
        next_step: "Copy it from `kmsctl status` on the other host: KMSD-RECIPIENT-1-..."
            .to_owned(),
    })?;
    let ownership = Ownership::of(config);
    let opening = opening(config)?;
    let done = engine::export_volume(
        &world::engine_config(config),
        opening,
        &args.volume,
        &recipient,
        |file| {
            files::write_secret(&args.out, file, "the file with the keys")
                .map(|_| ())
                .map_err(Unwritten::File)
        },
    );
    ownership.apply();
    let head = done.map_err(Unwritten::into_failure)?;
    if json {
        return store::print(&json!({
            "VolumeId": head.volume_id, "Keys": head.keys, "Policies": head.policies, "File": args.out,
        }));
    }
    println!(
        "{}: {} keys and {} policies of volume {} {}, for {}.\n\
         Only that host's recovery key opens it. There: `kmsctl fs import-keys FILE`. Here nothing has changed: the volume still \
         opens on this host until its keys are deleted (`kmsctl key schedule-deletion`) or it is shredded (`kmsctl fs shred`).",
        args.out.display(),
        head.keys.len(),
        head.policies,
        head.volume_id,
        head.label,
        recipient.to_text()
    );
    Ok(())
}

/// `kmsd import-volume`.
pub(crate) fn import(config: &Config, args: &ImportVolumeArgs, json: bool) -> Result<(), Failure> {
    let file = store::read(&args.file, MAX_FILE, "the file with the keys")?;
    let ownership = Ownership::of(config);
    let opening = opening(config)?;
    let key = recovery_key(&args.recovery)?;
    let done = engine::import_volume(&world::engine_config(config), opening, &file, &key);
    ownership.apply();
    let done = done?;
    if json {
        return store::print(&json!({
            "VolumeId": done.head.volume_id, "KeysAdded": done.keys, "PoliciesAdded": done.policies,
            "AliasesTaken": done.aliases_taken, "NowCustomerManaged": done.now_customer_managed,
        }));
    }
    println!(
        "Volume {} {}: {} keys and {} policies added; what was here already is the same.",
        done.head.volume_id, done.head.label, done.keys, done.policies
    );
    if !done.aliases_taken.is_empty() {
        println!(
            "Other keys have these names here: {}. Give new ones with `kmsctl alias create`.",
            done.aliases_taken.join(", ")
        );
    }
    for key in &done.now_customer_managed {
        println!(
            "Key {key} was the other host's {KMSFS_ALIAS}. This host has one of its own, so {key} is a customer managed key here,\n\
             with the policy that keys are made with: give it a name with `kmsctl alias create`, and who may use it a policy."
        );
    }
    println!(
        "Grants were not moved, and key policies name users and groups of the other host: check them (`kmsctl who-can`).\n\
         Start kmsd with `systemctl start kmsd`, then mount the encrypted directory."
    );
    Ok(())
}

fn opening(config: &Config) -> Result<Opening, Failure> {
    Ok(Opening {
        sealer: world::sealer(config)?,
        credential: world::credential(config)?,
        clock: world::clock(config)?,
    })
}

/// Why there is no file.
enum Unwritten {
    File(Failure),
    Engine(EngineError),
}

impl From<EngineError> for Unwritten {
    fn from(error: EngineError) -> Self {
        Self::Engine(error)
    }
}

impl Unwritten {
    fn into_failure(self) -> Failure {
        match self {
            Self::File(failure) => failure,
            Self::Engine(error) => error.into(),
        }
    }
}
