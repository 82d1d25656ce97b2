//! How much of everything there is, for metrics.

use std::collections::BTreeMap;

use super::Kms;
use super::keys::wire_state;
use crate::rows::State;

/// Numbers of rows, by kind.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Keys by state, as the API names it; tombstones are not counted.
    pub keys: BTreeMap<&'static str, u64>,
    /// When the next key is destroyed, wall clock in milliseconds.
    pub next_deletion_ms: Option<i64>,
    /// Aliases.
    pub aliases: u64,
    /// Volumes of kmsfs.
    pub volumes: u64,
    /// Policies of volumes.
    pub policies: u64,
    /// Grants.
    pub grants: u64,
    /// Identity policies of the catalogue.
    pub identity_policies: u64,
    /// Guard rails of the catalogue.
    pub guard_rails: u64,
    /// Services that hold a lease.
    pub leases: u64,
    /// Requests that wait for approvals.
    pub approvals: u64,
    /// Audit records that are not known to be in the log yet.
    pub outbox: u64,
}

impl Kms {
    /// Counts the rows.
    pub fn counts(&self) -> Counts {
        let snapshot = &self.snapshot;
        let mut counts = Counts {
            aliases: snapshot.aliases.len() as u64,
            volumes: snapshot.volumes.len() as u64,
            policies: snapshot.policies.len() as u64,
            grants: snapshot
                .keys
                .keys()
                .map(|key| snapshot.grants.count(*key) as u64)
                .sum(),
            identity_policies: snapshot.identity_policies.len() as u64,
            guard_rails: snapshot.guard_rails.len() as u64,
            leases: snapshot.leases.len() as u64,
            approvals: snapshot.approvals.len() as u64,
            outbox: snapshot.outbox.len() as u64,
            ..Counts::default()
        };
        for key in snapshot.keys.values() {
            if key.state == State::Destroyed {
                continue;
            }
            *counts
                .keys
                .entry(wire_state(key.state).as_str())
                .or_default() += 1;
            if let Some(deletion) = &key.deletion {
                let due = deletion.due.wall_ms;
                counts.next_deletion_ms =
                    Some(counts.next_deletion_ms.map_or(due, |next| next.min(due)));
            }
        }
        counts
    }
}
