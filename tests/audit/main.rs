//! The log that proves itself: a real kmsd writes it with a real swtpm, it is damaged in every way, and `kmsctl audit
//! verify` has to name the place.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a failure in a helper is a failed test"
)]

mod damage;
mod log;
mod proof;
mod root;
mod witness;
