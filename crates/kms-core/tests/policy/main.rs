//! The policy evaluator: AWS's documented examples, properties, and a second, naive evaluator that
//! every random policy and request must agree with.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking; the whole crate is one"
)]

mod differential;
mod examples;
mod naive;
mod properties;
mod random;
mod request;
mod templates;
mod warnings;
