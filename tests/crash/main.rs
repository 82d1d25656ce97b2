//! Crash tests on real file systems: the lower ext4 or XFS loses its power under load, or is copied
//! while it is being written, and is mounted again. What was synced must be there, what was not must be
//! something that was written, and nothing may be damaged.
//!
//! `KMS_CRASH_SEED` repeats a run as far as threads allow, `KMS_CRASH_POINTS` sets how many crash points
//! each test takes.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a failure in a helper is a failed test"
)]

mod check;
mod content;
mod kill_points;
mod ledger;
mod load;
mod lower;
mod mapped;
mod meta;
mod old_keys;
mod power_cut;
mod random;
mod raw;
mod reencrypt;
mod rig;
mod snapshots;
mod sqlite;
mod tree;

use std::sync::Once;
use std::time::{SystemTime, UNIX_EPOCH};

use kms_tests::require;

/// What every test of this suite needs: a mount, a TPM for the daemon behind it, and root with loop
/// devices, to make file systems that can be cut off. The test's thread gets mounts of its own.
fn machine_can() -> bool {
    let can = require::fuse() && require::tpm() && require::as_root() && require::loop_devices();
    if can {
        raw::own_mounts().expect("a mount namespace");
    }
    can
}

/// The seed of this run, printed once.
fn seed() -> u64 {
    static PRINTED: Once = Once::new();
    let chosen = std::env::var("KMS_CRASH_SEED")
        .ok()
        .map(|seed| seed.parse().expect("KMS_CRASH_SEED is a number"));
    let seed = chosen.unwrap_or_else(|| {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        // The same for every test of the run: a day has enough of them.
        now.as_secs() / 86_400 * 1_000_000 + u64::from(std::process::id())
    });
    PRINTED.call_once(|| rig::say(&format!("crash tests: KMS_CRASH_SEED={seed}")));
    seed
}

/// How many crash points a test takes with each content mode, of `normal` ones for all of them, or `full` in a full run.
fn points(normal: u64, full: u64) -> u64 {
    let all = match std::env::var("KMS_CRASH_POINTS") {
        Ok(points) => points.parse().expect("KMS_CRASH_POINTS is a number"),
        Err(_) if require::full() => full,
        Err(_) => normal,
    };
    all.div_ceil(rig::Mode::ALL.len() as u64)
}
