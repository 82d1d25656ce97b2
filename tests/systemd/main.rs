//! The units on a host booted by a real systemd.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a failure in a helper is a failed test"
)]

mod boot;
