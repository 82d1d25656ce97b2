//! The audit log: what a record says, its canonical bytes, and the chain over them.
//!
//! Pure: no file, no clock. The log is a sequence of lines. Line `n` (counted from 0) is the canonical JSON
//! `{"prev":CHAIN,"record":{...},"seq":n}` and a newline, where `CHAIN` is the chain value of line `n - 1`. Both
//! the chain and the leaf hashes of the Merkle tree are over the line without its newline.

pub mod attest;
mod chain;
pub mod checkpoint;
pub mod cloudtrail;
mod encode;
mod filter;
pub mod keys;
mod line;
pub mod note;
pub mod proof;
mod record;
mod request;
pub mod tree;
pub mod verify;

#[cfg(test)]
mod tests;

pub use chain::Chain;
pub use encode::Encoded;
pub use filter::Filter;
pub use line::{Line, LineError, MAX_LINE, compose, split};
pub use record::{
    Actor, ActorNetwork, ActorVia, Authorization, Effect, Failure, KMS_SOURCE, Kind, LOCAL_SOURCE,
    Record, Recorded,
};
