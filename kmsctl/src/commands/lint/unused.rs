//! Keys that nobody used for a while, by the audit log.

use std::collections::BTreeSet;
use std::time::{SystemTime, UNIX_EPOCH};

use kms_api::*;
use serde::Deserialize;

use super::{Findings, UNUSED_KEY};
use crate::Context;
use crate::exit::Failure;

/// Operations that use the material of a key, the commonest first.
const USES: [&str; 8] = [
    "Decrypt",
    "GenerateDataKey",
    "Encrypt",
    "GetPolicy",
    "CreatePolicy",
    "RotatePolicy",
    "GenerateDataKeyWithoutPlaintext",
    "ReEncrypt",
];

const DAY: i64 = 86_400;

/// What is read of a record.
#[derive(Deserialize)]
struct Used {
    #[serde(default)]
    keys: Vec<String>,
}

pub(super) fn check(
    keys: &[KeyMetadata],
    days: u32,
    context: &Context,
    findings: &mut Findings,
) -> Result<(), Failure> {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .ok()
        .and_then(|time| i64::try_from(time.as_secs()).ok())
        .unwrap_or_default();
    let since = now - i64::from(days) * DAY;
    let mut unused = candidates(keys, since);
    for operation in USES {
        let mut marker = None;
        while !unused.is_empty() {
            let request = LookupEventsRequest {
                operation: Some(operation.to_owned()),
                outcome: Some("ok".to_owned()),
                start_time: Some(u32::try_from(since).unwrap_or_default()),
                limit: Some(1000),
                marker,
                ..LookupEventsRequest::default()
            };
            let page = context.client.send(request);
            let Some(page) = findings.asked("audit log", "The use of keys", page)? else {
                return Ok(());
            };
            for event in &page.events {
                strike(&mut unused, &event.line);
            }
            marker = page.next_marker;
            if marker.is_none() {
                break;
            }
        }
    }
    for arn in unused {
        findings.add(
            &UNUSED_KEY,
            arn,
            format!("Nobody used the key in {days} days, as far as the audit log goes back."),
            "See what would be lost with it (`kmsctl fs list`, `kmsctl audit search`); disable it before you delete it.",
        );
    }
    Ok(())
}

/// The keys that may have been unused since then: what is younger could not have been, and what is to be
/// deleted is found by KMS.3.
fn candidates(keys: &[KeyMetadata], since: i64) -> BTreeSet<&str> {
    keys.iter()
        .filter(|key| key.creation_date.secs() < since)
        .filter(|key| matches!(key.key_state, KeyState::Enabled | KeyState::Disabled))
        .map(|key| key.arn.as_str())
        .collect()
}

/// Leaves out the keys that a record of the log names.
fn strike(unused: &mut BTreeSet<&str>, line: &str) {
    if let Ok(record) = serde_json::from_str::<Used>(line) {
        for key in record.keys {
            unused.remove(key.as_str());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(arn: &str, created: i64, state: KeyState) -> KeyMetadata {
        KeyMetadata {
            aws_account_id: "000000000000".to_owned(),
            key_id: arn.to_owned(),
            arn: arn.to_owned(),
            creation_date: Timestamp::from_secs(created),
            enabled: state == KeyState::Enabled,
            description: String::new(),
            key_usage: KeyUsage::EncryptDecrypt,
            key_state: state,
            deletion_date: None,
            origin: Origin::AwsKms,
            key_manager: KeyManager::Customer,
            customer_master_key_spec: KeySpec::SymmetricDefault,
            key_spec: KeySpec::SymmetricDefault,
            encryption_algorithms: Vec::new(),
            signing_algorithms: Vec::new(),
            key_agreement_algorithms: Vec::new(),
            encapsulation_algorithms: Vec::new(),
            mac_algorithms: Vec::new(),
            multi_region: false,
            pending_deletion_window_in_days: None,
            current_key_material_id: None,
        }
    }

    #[test]
    fn unused_is_what_is_old_enough_and_not_in_the_log() {
        let keys = [
            key("arn:used", 100, KeyState::Enabled),
            key("arn:unused", 100, KeyState::Enabled),
            key("arn:disabled", 100, KeyState::Disabled),
            key("arn:leaving", 100, KeyState::PendingDeletion),
            key("arn:young", 200, KeyState::Enabled),
        ];
        let mut unused = candidates(&keys, 150);
        assert_eq!(
            unused,
            BTreeSet::from(["arn:used", "arn:unused", "arn:disabled"])
        );
        strike(
            &mut unused,
            r#"{"keys":["arn:used","arn:other"],"operation":"Decrypt"}"#,
        );
        strike(&mut unused, r#"{"operation":"GenerateRandom"}"#);
        strike(&mut unused, "not a record");
        assert_eq!(unused, BTreeSet::from(["arn:unused", "arn:disabled"]));
    }
}
