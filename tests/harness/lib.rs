//! What the whole-system suites are made of: a software TPM, a running kmsd, a mounted kmsfs, a host
//! booted by systemd. Everything is started in a folder of its own, and everything is stopped and
//! unmounted when the value that stands for it is dropped, also when a test fails half-way.
//!
//! The programs under test are the built ones, found beside the test executable ([`programs`]). What
//! the machine lacks makes a suite skip with one line ([`require`]), unless `KMS_TESTS_REQUIRE` says that
//! it must be there.

#![forbid(unsafe_code)]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a helper that cannot do its work is a failed test, and should say so where it happens"
)]

pub mod cli;
pub mod daemon;
pub mod fsx;
pub mod host;
pub mod http;
pub mod mount;
pub mod network;
pub mod process;
pub mod programs;
pub mod require;
pub mod swtpm;
pub mod tools;
pub mod tree;
pub mod wait;
pub mod world;
