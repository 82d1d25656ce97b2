//! `kmsd tpm-status`.

use std::fmt::Write;

use kms_seal::SealStatus;

use crate::config::Config;
use crate::exit::Failure;
use crate::world;

/// Shows the TPM, or the software sealer. Tries no credential and changes nothing.
pub(crate) fn tpm_status(config: &Config, json: bool) -> Result<(), Failure> {
    let status = world::sealer(config)?.status()?;
    if json {
        println!("{}", serde_json::to_value(&status).unwrap_or_default());
    } else {
        print!("{}", human(&status));
    }
    Ok(())
}

fn human(status: &SealStatus) -> String {
    let mut text = String::new();
    let mut line = |name: &str, value: &str| {
        // Writing to a string does not fail.
        let _ = writeln!(text, "{name:18}  {value}");
    };
    line("kind", status.kind);
    line("device", &status.device);
    if let Some(manufacturer) = &status.manufacturer {
        line("manufacturer", manufacturer);
    }
    if let Some(firmware) = &status.firmware {
        line("firmware", firmware);
    }
    if status.kind == "tpm" {
        line(
            "storage root key",
            status.srk_handle.as_deref().unwrap_or("none yet"),
        );
    }
    if let Some(name) = &status.srk_name {
        line("its name", name);
    }
    if let Some(lockout) = &status.lockout {
        let state = if lockout.wait_seconds > 0 {
            format!("locked, next try in at most {} s", lockout.wait_seconds)
        } else {
            format!(
                "{} of {} failures counted, {} tries left, one forgiven every {} s",
                lockout.failures,
                lockout.max_failures,
                lockout.tries_left,
                lockout.interval_seconds
            )
        };
        line("against guessing", &state);
    }
    if let Some(measured) = status.measured {
        line("boot measured", if measured { "yes" } else { "no" });
    }
    if let Some(set) = status.owner_auth_set {
        line("owner password", if set { "set" } else { "not set" });
    }
    for pcr in &status.pcrs {
        line(&format!("PCR {}", pcr.index), &pcr.value);
    }
    for warning in &status.warnings {
        line("warning", warning);
    }
    text
}
