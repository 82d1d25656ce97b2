//! What `GetStatus` says.

use std::collections::BTreeMap;

use kms_api::{GetStatusResponse, MemoryInfo, ModuleInfo, SealerInfo, Timestamp};
use kms_crypto::RecoveryPublicKey;

use super::keys::wire_state;
use super::{ApprovalRules, Kms, Quotas, World};
use crate::authz::Authorized;
use crate::lease::DEFAULT_LEASE_MS;
use crate::rows::{Recipient, State};

/// What the daemon knows about itself and the catalogue does not.
#[derive(Clone, Debug)]
pub struct HostStatus {
    /// Version of kmsd.
    pub version: String,
    /// Wall clock at start, milliseconds.
    pub started_ms: i64,
    /// The sealer, as it was at start.
    pub sealer: SealerInfo,
    /// Memory for keys.
    pub memory: MemoryInfo,
    /// What an operator should look into.
    pub warnings: Vec<String>,
    /// What the configuration says about requests.
    pub settings: Settings,
}

/// The part of the configuration that requests depend on.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Length of a lease whose holder asks for none, in milliseconds.
    pub lease_ms: u64,
    /// Which operations need approvals.
    pub approval: ApprovalRules,
    /// How much of everything there may be.
    pub quotas: Quotas,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            lease_ms: DEFAULT_LEASE_MS,
            approval: ApprovalRules::default(),
            quotas: Quotas::default(),
        }
    }
}

impl Kms {
    pub(super) fn status(&self, _auth: &Authorized, world: &World<'_>) -> GetStatusResponse {
        let mut keys = BTreeMap::new();
        for key in self
            .snapshot
            .keys
            .values()
            .filter(|key| key.state != State::Destroyed)
        {
            *keys
                .entry(wire_state(key.state).as_str().to_owned())
                .or_default() += 1;
        }
        let mut warnings = world.host.warnings.clone();
        let waiting = self.deletions_due(world.now).clocks_disagree;
        if !waiting.is_empty() {
            warnings.push(format!(
                "{} scheduled deletion(s) wait because the wall clock and the time that is known \
                 to have passed disagree; check the system's clock",
                waiting.len()
            ));
        }
        let unreadable = self.unreadable_policies();
        if unreadable > 0 {
            warnings.push(format!(
                "{unreadable} stored policy document(s) cannot be read, so whom they are about is denied everything; \
                 as root, find and replace them: `kmsctl key policy put`, `kmsctl iam`, `kmsctl guard-rail`"
            ));
        }
        let meta = &self.snapshot.meta;
        let own = Recipient::Recovery(meta.recovery_public.clone());
        let former = |recipient: &Recipient| {
            matches!(recipient, Recipient::Recovery(_)) && *recipient != own
        };
        let wraps = self.snapshot.domains().flat_map(|row| &row.wraps);
        if wraps.map(|wrap| &wrap.recipient).any(former) {
            warnings.push(
                "the former recovery key opens this store until the next deletion epoch; `kmsctl recovery rotate --end-former` \
                 ends it"
                    .to_owned(),
            );
        }
        if meta.epoch_owed || meta.epoch_change.is_some() {
            warnings.push(
                "a deletion epoch is not finished: older copies of the store may still open what was destroyed; see kmsd's log"
                    .to_owned(),
            );
        }
        GetStatusResponse {
            version: world.host.version.clone(),
            account_id: meta.scope.account.clone(),
            region: meta.scope.region.clone(),
            start_date: Timestamp::from_millis(world.host.started_ms),
            current_date: Timestamp::from_millis(world.now.wall_ms),
            store_revision: meta.revision,
            deletion_epoch: meta.deletion_epoch,
            authorization_epoch: meta.authorization_epoch,
            leases: self.snapshot.leases.len() as u64,
            keys,
            aliases: self.snapshot.aliases.len() as u64,
            volumes: self.snapshot.volumes.len() as u64,
            policies: self.snapshot.policies.len() as u64,
            sealer: world.host.sealer.clone(),
            memory: world.host.memory.clone(),
            cryptographic_module: kms_crypto::fips::status().ok().map(|module| ModuleInfo {
                version: module.version.clone(),
                fips: module.approved,
                self_tests: "PASSED".to_owned(),
            }),
            recovery_public_key: <[u8; 32]>::try_from(meta.recovery_public.0.as_slice())
                .ok()
                .map(|bytes| RecoveryPublicKey::from_bytes(bytes).to_text()),
            warnings,
        }
    }
}
