//! What kmsd counts and measures, for Prometheus.
//!
//! Requests are counted with atomics in tables that are made at start, so counting allocates nothing and waits for nobody. All
//! else is read when somebody asks ([`mod@scrape`]). Names and meanings are in docs/OPERATIONS.md; `docs/grafana/kmsd.json` draws them.

mod requests;
mod scrape;
pub(crate) mod serve;
mod text;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;

pub(crate) use requests::Requests;
pub(crate) use scrape::scrape;

/// The counters of one engine.
#[derive(Debug, Default)]
pub(crate) struct Metrics {
    pub(crate) requests: Requests,
    /// The rollback counter as last seen.
    counter: AtomicU64,
    /// How often it was advanced by this process.
    advances: AtomicU64,
    /// Leases that ran out before their holder acknowledged a change.
    leases_ran_out: AtomicU64,
    /// Failures of background work and of changes, by name.
    failures: Mutex<BTreeMap<&'static str, u64>>,
    /// Unix time in seconds of the last failure of the sealer, 0 for none.
    sealer_failed: AtomicI64,
}

impl Metrics {
    /// The rollback counter's value.
    pub(crate) fn counter_is(&self, value: u64) {
        self.counter.store(value, Ordering::Relaxed);
    }

    /// The rollback counter was advanced to `value`.
    pub(crate) fn counter_advanced(&self, value: u64) {
        self.counter_is(value);
        self.advances.fetch_add(1, Ordering::Relaxed);
    }

    /// So many leases ran out before their holders acknowledged a change.
    pub(crate) fn leases_ran_out(&self, count: u64) {
        self.leases_ran_out.fetch_add(count, Ordering::Relaxed);
    }

    /// Something failed: `kind` names the failure, `sealer` says whether it was the TPM's (or the key file's).
    pub(crate) fn failed(&self, kind: &'static str, sealer: bool) {
        *self.failures.lock().entry(kind).or_default() += 1;
        if sealer {
            self.sealer_failed.store(unix_now(), Ordering::Relaxed);
        }
    }
}

/// Seconds since 1970 by the system's clock, which is the one that a monitoring system compares with.
fn unix_now() -> i64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |time| i64::try_from(time.as_secs()).unwrap_or(i64::MAX))
}
