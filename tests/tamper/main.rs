//! What an attacker, or a broken disk, may have done to the lower tree.
//!
//! [`table`] holds the table in docs/THREAT-MODEL.md against what happens; [`seeds`] mounts and uses trees that were changed at random, and gives random bytes to every parser.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a failure in a helper is a failed test"
)]

mod case;
#[allow(
    unreachable_pub,
    dead_code,
    reason = "it is a library to the fuzz targets, each of which uses a part"
)]
#[path = "../../fuzz/lib.rs"]
mod fuzz;
mod mounts;
mod rows;
mod seeds;
mod table;
