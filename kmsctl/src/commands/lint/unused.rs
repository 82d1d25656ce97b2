//! Keys that nobody used for a while.

use std::time::{SystemTime, UNIX_EPOCH};

use kms_api::*;

use super::{Findings, UNUSED_KEY};
use crate::Context;
use crate::exit::Failure;
use crate::output::time;

const DAY: i64 = 86_400;

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
    for key in candidates(keys, since) {
        let asked = context.client.send(GetKeyLastUsageRequest {
            key_id: key.to_owned(),
        });
        let Some(last) = findings.asked(key, "The last use of the key", asked)? else {
            continue;
        };
        let Some(text) = unused(&last, since, days) else {
            continue;
        };
        findings.add(
            &UNUSED_KEY,
            key,
            text,
            "See what would be lost with it (`kmsctl key preview-deletion`); disable it before you delete it.",
        );
    }
    Ok(())
}

/// What there is to say of a key that nobody used since then.
fn unused(last: &GetKeyLastUsageResponse, since: i64, days: u32) -> Option<String> {
    match last.key_last_usage.timestamp {
        Some(used) if used.secs() >= since => None,
        None if last.tracking_start_date.secs() > since => Some(format!(
            "Nobody used the key since {}: the audit log goes no further back.",
            time(last.tracking_start_date)
        )),
        _ => Some(format!("Nobody used the key in {days} days.")),
    }
}

/// The keys that may have been unused since then: what is younger could not have been, and what is to be
/// deleted is found by KMS.3.
fn candidates(keys: &[KeyMetadata], since: i64) -> Vec<&str> {
    keys.iter()
        .filter(|key| key.creation_date.secs() < since)
        .filter(|key| matches!(key.key_state, KeyState::Enabled | KeyState::Disabled))
        .map(|key| key.arn.as_str())
        .collect()
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
            expiration_model: None,
            valid_to: None,
            origin: Origin::AwsKms,
            key_manager: KeyManager::Customer,
            customer_master_key_spec: Some(KeySpec::SymmetricDefault),
            key_spec: KeySpec::SymmetricDefault,
            encryption_algorithms: Vec::new(),
            signing_algorithms: Vec::new(),
            key_agreement_algorithms: Vec::new(),
            encapsulation_algorithms: Vec::new(),
            mac_algorithms: Vec::new(),
            multi_region: false,
            multi_region_configuration: None,
            pending_deletion_window_in_days: None,
            current_key_material_id: None,
        }
    }

    #[test]
    fn unused_is_what_is_old_enough_and_was_not_used_since() {
        let keys = [
            key("arn:used", 100, KeyState::Enabled),
            key("arn:unused", 100, KeyState::Enabled),
            key("arn:disabled", 100, KeyState::Disabled),
            key("arn:leaving", 100, KeyState::PendingDeletion),
            key("arn:young", 200, KeyState::Enabled),
        ];
        assert_eq!(
            candidates(&keys, 150),
            ["arn:used", "arn:unused", "arn:disabled"]
        );
        let last = |used: Option<i64>, tracked| GetKeyLastUsageResponse {
            key_id: "arn:used".to_owned(),
            key_last_usage: KeyLastUsageData {
                timestamp: used.map(Timestamp::from_secs),
                ..KeyLastUsageData::default()
            },
            tracking_start_date: Timestamp::from_secs(tracked),
            key_creation_date: Timestamp::from_secs(100),
        };
        let never = "Nobody used the key in 7 days.";
        for (answer, text) in [
            (last(Some(150), 100), None),
            (last(Some(149), 100), Some(never)),
            (last(None, 100), Some(never)),
            (
                last(None, 151),
                Some(
                    "Nobody used the key since 1970-01-01 00:02:31 UTC: the audit log goes no further back.",
                ),
            ),
        ] {
            assert_eq!(unused(&answer, 150, 7).as_deref(), text);
        }
    }
}
