//! What hangs on the former material of a key that was rotated.

use kms_api::{DescribeVolumeRequest, ListVolumesRequest, PolicySummary};

use crate::Context;
use crate::exit::Failure;

/// The policies under a key, in words, with what to do. Empty if there are none, or the caller may not see volumes: the rotation is
/// done whether or not this can be said.
pub(super) fn hint(key_arn: &str, context: &Context) -> String {
    let lines = policies(key_arn, context).unwrap_or_default();
    if lines.is_empty() {
        return String::new();
    }
    format!(
        "\nThese directory trees still hang on the former material, and open as before; `kmsctl fs rewrap DIR` in their mount \
         takes them to the new one:\n{}",
        lines.join("\n")
    )
}

fn policies(key_arn: &str, context: &Context) -> Result<Vec<String>, Failure> {
    let mut lines = Vec::new();
    let mut marker = None;
    loop {
        let page = context.client.send(ListVolumesRequest {
            limit: Some(1000),
            marker,
        })?;
        for entry in page.volumes {
            let volume_id = entry.volume_id;
            let volume = context.client.send(DescribeVolumeRequest { volume_id })?;
            let hanging = |policy: &&PolicySummary| policy.key_arn == key_arn;
            for policy in volume.policies.iter().filter(hanging) {
                let at = policy
                    .usage
                    .as_ref()
                    .and_then(|usage| usage.mountpoint.clone());
                let at = at.map_or_else(String::new, |at| format!(", last mounted at {at}"));
                let automatic = if policy.settings.rewrap_after_rotation {
                    ", which its mount does by itself"
                } else {
                    ""
                };
                lines.push(format!(
                    "  volume {volume_id} {}, policy {} {}{at}{automatic}",
                    volume.label, policy.policy_id, policy.settings.label
                ));
            }
        }
        match page.next_marker {
            Some(next) => marker = Some(next),
            None => return Ok(lines),
        }
    }
}
