//! Access that ends while files are open: `kmsctl fs lock`, users who lose their access, and who notices.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a failure in a helper is a failed test"
)]

mod away;
mod ends;
mod hung;
mod lock;
mod loss;
mod matrix;
mod opens;
mod people;
mod restored;
mod shared;
mod trials;
mod user;
mod users;
mod why_denied;

use kms_tests::require;

/// A mount that several users share.
fn machine_can() -> bool {
    require::fuse() && require::tpm() && require::as_root() && require::program("setpriv")
}
