//! What the engine tells about itself to whoever watches it.

use std::sync::atomic::Ordering;

use kms_core::kms::Counts;

use super::{Engine, EngineError};
use crate::audit::{AuditStatus, CheckpointStatus};
use crate::metrics::Metrics;

/// A look at the engine.
#[derive(Clone, Debug)]
pub(crate) struct Gauges {
    pub(crate) counts: Counts,
    pub(crate) started_ms: i64,
    pub(crate) revision: u64,
    pub(crate) authorization_epoch: u64,
    pub(crate) deletion_epoch: u64,
    /// Transactions that the rollback counter does not vouch for yet.
    pub(crate) unanchored: u64,
    /// Whether a tightening change waits for the counter.
    pub(crate) unproved: bool,
    pub(crate) cached_materials: u64,
    /// How the audit log stands; none where there is none.
    pub(crate) audit: Option<AuditStatus>,
    /// How its checkpoints stand; none where none are made.
    pub(crate) checkpoints: Option<CheckpointStatus>,
    pub(crate) sealer_kind: String,
    pub(crate) sealer_device: String,
}

impl Engine {
    /// Reads the gauges; waits for no disk and no TPM.
    pub(crate) fn gauges(&self) -> Gauges {
        let shared = &self.shared;
        let kms = shared.kms.read();
        let meta = kms.snapshot().meta();
        Gauges {
            counts: kms.counts(),
            started_ms: shared.host.started_ms,
            revision: meta.revision,
            authorization_epoch: meta.authorization_epoch,
            deletion_epoch: meta.deletion_epoch,
            unanchored: meta.unanchored,
            unproved: shared.unproved.load(Ordering::SeqCst),
            cached_materials: shared.provider.cached() as u64,
            audit: shared.audit_status(),
            checkpoints: shared.checkpoint_status(),
            sealer_kind: shared.host.sealer.kind.clone(),
            sealer_device: shared.host.sealer.device.clone(),
        }
    }

    /// What is counted of this engine.
    pub(crate) fn metrics(&self) -> &Metrics {
        &self.shared.metrics
    }

    /// The metrics as Prometheus reads them.
    pub(crate) fn scrape(&self) -> String {
        crate::metrics::scrape(self.metrics(), &self.gauges())
    }
}

/// A failure's name in the metrics, and whether it was the sealer's.
pub(super) fn failure(error: &EngineError) -> (&'static str, bool) {
    match error {
        EngineError::Seal(_) => ("sealer", true),
        EngineError::Storage(_) => ("storage", false),
        EngineError::Tampered(_) => ("tampered", false),
        EngineError::Io { .. } => ("io", false),
        EngineError::Refused(_) => ("refused", false),
        _ => ("other", false),
    }
}
