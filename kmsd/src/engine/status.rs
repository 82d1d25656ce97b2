//! What the daemon knows about itself.

use kms_api::{MemoryInfo, SealerInfo};
use kms_core::kms::{HostStatus, Settings};
use kms_seal::RootSealer;

use crate::audit::AuditStatus;

/// Asks the sealer once, at start: `GetStatus` never waits for a TPM.
pub(super) fn at_start(sealer: &mut dyn RootSealer, started_ms: i64) -> HostStatus {
    let sealer = match sealer.status() {
        Ok(status) => SealerInfo {
            kind: status.kind.to_owned(),
            device: status.device,
            manufacturer: status.manufacturer,
            warnings: status.warnings,
        },
        Err(error) => SealerInfo {
            kind: String::new(),
            device: String::new(),
            manufacturer: None,
            warnings: vec![error.to_string()],
        },
    };
    HostStatus {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        started_ms,
        sealer,
        memory: memory(),
        warnings: Vec::new(),
        settings: Settings::default(),
    }
}

/// The same with what changes while the daemon runs.
pub(super) fn live(host: &HostStatus, audit: Option<AuditStatus>) -> HostStatus {
    let memory = memory();
    let mut warnings = host.warnings.clone();
    warnings.extend(audit.into_iter().flat_map(|audit| audit.warnings));
    if memory.unlocked_bytes > 0 {
        warnings.push(format!(
            "{} bytes of keys are not locked in memory and may be swapped out; raise RLIMIT_MEMLOCK \
             (LimitMEMLOCK= in the unit)",
            memory.unlocked_bytes
        ));
    }
    HostStatus {
        memory,
        warnings,
        ..host.clone()
    }
}

fn memory() -> MemoryInfo {
    let status = kms_crypto::lock_status();
    MemoryInfo {
        locked_bytes: status.locked_bytes as u64,
        unlocked_bytes: status.unlocked_bytes as u64,
    }
}
