//! `[approval]`: operations that several people must agree to.

use kms_api::{AWS_PREFIX, Request};
use kms_core::kms::ApprovalRules;
use serde::Deserialize;

use super::{ConfigError, require};

/// `[approval]`. Without `operations` nothing needs approvals.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Approval {
    /// Names of the operations, for example `ScheduleKeyDeletion`.
    pub operations: Vec<String>,
    /// Approvals needed, of others than the one who asks.
    pub required: u32,
    /// ARNs of the principals that may approve.
    pub approvers: Vec<String>,
    /// Hours that a request waits for its approvals.
    pub lifetime_hours: u32,
    /// What `kmsd break-glass` needs to change something.
    pub break_glass: BreakGlass,
}

/// What opens the store for `kmsd break-glass`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BreakGlass {
    /// The TPM, or the recovery key.
    #[default]
    Sealer,
    /// The recovery key, as a rule in shares of several keepers, whether or not the TPM opens the store.
    Shares,
}

impl Default for Approval {
    fn default() -> Self {
        Self {
            operations: Vec::new(),
            required: 2,
            approvers: Vec::new(),
            lifetime_hours: 24,
            break_glass: BreakGlass::Sealer,
        }
    }
}

impl Approval {
    /// What requests depend on.
    pub(crate) fn rules(&self) -> ApprovalRules {
        ApprovalRules {
            operations: self.operations.clone(),
            required: self.required,
            approvers: self.approvers.clone(),
            lifetime_ms: u64::from(self.lifetime_hours) * 60 * 60 * 1000,
        }
    }

    pub(super) fn check(&self) -> Result<(), ConfigError> {
        for operation in &self.operations {
            let known = Request::OPERATIONS
                .iter()
                .find(|(_, name)| name == operation);
            require(known.is_some(), "approval.operations", || {
                format!("there is no operation `{operation}`")
            })?;
            require(
                known.is_none_or(|known| changes(*known)),
                "approval.operations",
                || format!("`{operation}` changes nothing, or is part of approving"),
            )?;
        }
        require(self.required >= 1, "approval.required", || {
            "must be at least 1".into()
        })?;
        require(
            (1..=8760).contains(&self.lifetime_hours),
            "approval.lifetime_hours",
            || "must be 1 to 8760 hours".into(),
        )?;
        let needed = usize::try_from(self.required).unwrap_or(usize::MAX);
        let mut distinct = self.approvers.clone();
        distinct.sort();
        distinct.dedup();
        require(
            self.operations.is_empty() || distinct.len() >= needed,
            "approval.approvers",
            || format!("names {}, and {needed} must approve", distinct.len()),
        )?;
        for approver in &self.approvers {
            let arn =
                approver.starts_with("arn:aws:iam::") || approver.starts_with("arn:aws:sts::");
            require(arn, "approval.approvers", || {
                format!(
                    "`{approver}` is no principal, such as arn:aws:iam::000000000000:user/alice"
                )
            })?;
        }
        Ok(())
    }
}

/// Whether an operation makes a transaction that can wait. Those of leases cannot: a service would hang.
fn changes((prefix, name): (&str, &str)) -> bool {
    const READING: [&str; 6] = ["Describe", "List", "Get", "Simulate", "WaitFor", "Who"];
    const USES: [&str; 3] = ["Encrypt", "Decrypt", "ReEncrypt"];
    const OWN: [&str; 5] = [
        "ApproveRequest",
        "CancelApproval",
        "AcquireLease",
        "AcknowledgeEpoch",
        "ReleaseLease",
    ];
    let uses = prefix == AWS_PREFIX && (USES.contains(&name) || name.starts_with("Generate"));
    !uses && !OWN.contains(&name) && !READING.iter().any(|start| name.starts_with(start))
}
