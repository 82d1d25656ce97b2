//! The whole chain, one file per promise: TPM (swtpm), kmsd, kmsfs, kmsctl, and a foreign client.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a failure in a helper is a failed test"
)]

mod asymmetric;
mod audit;
mod backup;
mod bad_input;
mod boto3;
mod break_glass;
mod content_mode;
mod crossing;
mod deletion_rollback;
mod events;
mod grants;
mod identity;
mod import;
mod imports;
mod kmsctl;
mod kmsd_crash;
mod kmsfs_crash;
mod last_use;
mod lint;
mod metrics;
mod network;
mod places;
mod real_input;
mod regions;
mod rescue;
mod rewrap;
mod rotation;
mod shares;
mod shred;
mod two_keys;

use kms_tests::require;

/// What nearly every test of this suite needs.
fn machine_can() -> bool {
    require::fuse() && require::tpm()
}
