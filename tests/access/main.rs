//! Who may do what, against a real kmsd with real users: one file per promise.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a failure in a helper is a failed test"
)]

mod grants;
mod people;
mod policies;

use kms_tests::require;

/// What every test of this suite needs.
fn machine_can() -> bool {
    require::tpm() && require::as_root()
}
