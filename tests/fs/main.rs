//! What a mounted kmsfs owes POSIX.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a failure in a helper is a failed test"
)]

mod fsx;
mod pjdfstest;
mod posix;

use kms_tests::require;

/// What every test of this suite needs: a mount, a TPM for the daemon behind it, and root, because files
/// of several users are made.
fn machine_can() -> bool {
    require::fuse() && require::tpm() && require::as_root()
}
