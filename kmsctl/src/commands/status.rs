//! `kmsctl status`.

use kms_api::{GetStatusRequest, GetStatusResponse};

use crate::Context;
use crate::exit::Failure;
use crate::output::time;

pub(super) fn run(context: &Context) -> Result<(), Failure> {
    let status = context.client.send(GetStatusRequest {})?;
    context.output.print(human(&status, context), &status)
}

fn human(status: &GetStatusResponse, context: &Context) -> String {
    let keys: Vec<String> = status
        .keys
        .iter()
        .map(|(state, count)| format!("{count} {state}"))
        .collect();
    let keys = if keys.is_empty() {
        "none".to_owned()
    } else {
        keys.join(", ")
    };
    let manufacturer = status
        .sealer
        .manufacturer
        .as_deref()
        .map(|m| format!(", {m}"))
        .unwrap_or_default();
    let module = status.cryptographic_module.as_ref().map(|module| {
        let fips = if module.fips {
            "FIPS 140-3 module, approved mode"
        } else {
            "not a FIPS module"
        };
        format!(
            "{} ({fips}), self-tests {}",
            module.version,
            module.self_tests.to_lowercase()
        )
    });
    let lines = [
        (
            "kmsd",
            format!(
                "{} on {}",
                status.version,
                context.client.socket().display()
            ),
        ),
        ("running since", time(status.start_date)),
        (
            "account, region",
            format!("{}, {}", status.account_id, status.region),
        ),
        (
            "root key",
            format!(
                "{} ({}{manufacturer})",
                status.sealer.kind, status.sealer.device
            ),
        ),
        (
            "store",
            format!(
                "revision {}, deletion epoch {}, authorisation epoch {}",
                status.store_revision, status.deletion_epoch, status.authorization_epoch
            ),
        ),
        (
            "recovery",
            status.recovery_public_key.clone().unwrap_or_default(),
        ),
        ("keys", keys),
        ("aliases", status.aliases.to_string()),
        (
            "volumes",
            format!("{} with {} policies", status.volumes, status.policies),
        ),
        (
            "key memory",
            format!(
                "{} bytes locked, {} bytes not locked",
                status.memory.locked_bytes, status.memory.unlocked_bytes
            ),
        ),
        (
            "cryptography",
            module.unwrap_or_else(|| "unknown".to_owned()),
        ),
    ];
    let mut text: String = lines
        .iter()
        .map(|(name, value)| format!("{name:15}  {value}\n"))
        .collect();
    for warning in status.sealer.warnings.iter().chain(&status.warnings) {
        text.push_str(&format!("warning: {warning}\n"));
    }
    text
}
