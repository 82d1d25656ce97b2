//! Leases: for how long a service may rely on an answer that it was given earlier.
//!
//! A service that keeps answers holds a lease. It says which authorisation epoch it has *applied*
//! (it has dropped every kept answer that the changes up to there may have made wrong), and by saying
//! so renews its lease. A call that takes something away makes a new epoch and may only return when
//! every holder has applied it, or can no longer rely on anything because its lease has run out.
//!
//! The rule that makes this hold: **hearing of a newer epoch renews nothing until kmsd knows that it is
//! applied.** Otherwise a holder that never applies but always asks would keep its old answers for ever.
//! A renewal counts from the moment at which it was asked for, once the holder has said that it applied
//! what was the newest epoch at that moment. The holder is told what is left of its lease and counts that
//! from the moment at which it *sent* its question, which is earlier: what the holder believes to be
//! its time never ends after ours.
//!
//! Time is in milliseconds of a clock that counts suspend and is never set.

use std::collections::{BTreeMap, BTreeSet};

/// Shortest lease, in milliseconds.
pub const MIN_LEASE_MS: u64 = 1_000;
/// Longest lease, in milliseconds.
pub const MAX_LEASE_MS: u64 = 60_000;
/// A lease unless configured or asked for otherwise, in milliseconds.
pub const DEFAULT_LEASE_MS: u64 = 10_000;
/// Most leases at a time, and of one user.
pub const MAX_LEASES: usize = 256;

/// How many leases that ran out are remembered by name.
const REMEMBERED: usize = 1024;

/// The leases of a running daemon.
#[derive(Clone, Debug, Default)]
pub struct Leases {
    held: BTreeMap<String, Lease>,
    /// Ids of those that ran out, for calls that still wait to say so.
    ran_out: BTreeSet<String>,
    /// The latest time seen: it never goes back here, in whichever order callers read their clocks.
    now_ms: u64,
}

/// One lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    /// User id of the holder.
    pub uid: u32,
    /// Its length.
    pub duration_ms: u64,
    /// The newest epoch that the holder has applied.
    pub applied: u64,
    /// From when the lease counts.
    renewed_ms: u64,
    /// A renewal that counts once this epoch is applied.
    offered: Option<(u64, u64)>,
}

/// Where a lease stands towards an epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// The holder has applied it, or has given its lease back.
    Applied,
    /// The holder may rely on older answers for so many milliseconds.
    Relies(u64),
    /// The lease has run out.
    RanOut,
}

/// The lease is not held (any more): its holder must drop every answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lost;

impl Leases {
    /// Takes a new lease; its holder knows of no answer from before `epoch`.
    pub fn acquire(&mut self, id: &str, uid: u32, duration_ms: u64, epoch: u64, now_ms: u64) {
        self.add(id, uid, duration_ms, epoch, now_ms);
    }

    /// Takes over a lease that was held before a restart: it counts from now, whatever was left of it,
    /// and which epoch its holder had applied is not known.
    pub fn adopt(&mut self, id: &str, uid: u32, duration_ms: u64, now_ms: u64) {
        self.add(id, uid, duration_ms, 0, now_ms);
    }

    fn add(&mut self, id: &str, uid: u32, duration_ms: u64, applied: u64, now_ms: u64) {
        let now = self.at(now_ms);
        let lease = Lease {
            uid,
            // What a damaged or older row says is no reason to wait for ever.
            duration_ms: duration_ms.clamp(MIN_LEASE_MS, MAX_LEASE_MS),
            applied,
            renewed_ms: now,
            offered: None,
        };
        self.held.insert(id.to_owned(), lease);
    }

    /// Forgets a lease: given back, or its row removed after it ran out.
    pub fn remove(&mut self, id: &str, now_ms: u64) {
        let now = self.at(now_ms);
        if let Some(lease) = self.held.remove(id)
            && lease.left(now).is_none()
        {
            if self.ran_out.len() >= REMEMBERED {
                self.ran_out.clear();
            }
            self.ran_out.insert(id.to_owned());
        }
    }

    /// The holder says that it has applied `epoch`, while `current` is the newest one. What is left of its
    /// lease, in milliseconds.
    ///
    /// # Errors
    /// The lease is not held, or has run out.
    pub fn applied(
        &mut self,
        id: &str,
        epoch: u64,
        current: u64,
        now_ms: u64,
    ) -> Result<u64, Lost> {
        let now = self.at(now_ms);
        let lease = self.held.get_mut(id).ok_or(Lost)?;
        lease.left(now).ok_or(Lost)?;
        // An epoch that has not been yet is one of another store: nothing is known to be applied.
        let epoch = if epoch > current { 0 } else { epoch };
        lease.applied = lease.applied.max(epoch);
        if let Some((needed, at)) = lease.offered
            && lease.applied >= needed
        {
            lease.renewed_ms = lease.renewed_ms.max(at);
            lease.offered = None;
        }
        if lease.applied >= current {
            lease.renewed_ms = now;
            lease.offered = None;
        } else if lease.offered.is_none() {
            lease.offered = Some((current, now));
        }
        lease.left(now).ok_or(Lost)
    }

    /// A lease that is held and has not run out.
    pub fn get(&mut self, id: &str, now_ms: u64) -> Option<&Lease> {
        let now = self.at(now_ms);
        self.held.get(id).filter(|lease| lease.left(now).is_some())
    }

    /// For how long the holder may still rely on an answer that it is given now, in milliseconds.
    pub fn left(&mut self, id: &str, now_ms: u64) -> Option<u64> {
        let now = self.at(now_ms);
        self.held.get(id)?.left(now)
    }

    /// Where a lease stands towards `epoch`.
    pub fn standing(&mut self, id: &str, epoch: u64, now_ms: u64) -> Standing {
        let now = self.at(now_ms);
        match self.held.get(id) {
            None if self.ran_out.contains(id) => Standing::RanOut,
            None => Standing::Applied,
            Some(lease) if lease.applied >= epoch => Standing::Applied,
            Some(lease) => lease.left(now).map_or(Standing::RanOut, Standing::Relies),
        }
    }

    /// Ids of the leases that are held and have not run out.
    pub fn live(&mut self, now_ms: u64) -> Vec<String> {
        self.split(now_ms, true)
    }

    /// Ids of the leases that have run out and are not removed yet.
    pub fn run_out(&mut self, now_ms: u64) -> Vec<String> {
        self.split(now_ms, false)
    }

    fn split(&mut self, now_ms: u64, live: bool) -> Vec<String> {
        let now = self.at(now_ms);
        self.held
            .iter()
            .filter(|(_, lease)| lease.left(now).is_some() == live)
            .map(|(id, _)| id.clone())
            .collect()
    }

    fn at(&mut self, now_ms: u64) -> u64 {
        self.now_ms = self.now_ms.max(now_ms);
        self.now_ms
    }
}

impl Lease {
    /// Milliseconds until it runs out; none when it has.
    fn left(&self, now_ms: u64) -> Option<u64> {
        let end = self.renewed_ms.saturating_add(self.duration_ms);
        end.checked_sub(now_ms).filter(|left| *left > 0)
    }
}

#[cfg(test)]
mod tests;
