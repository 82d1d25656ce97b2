//! Keys, states, rotation, deletion and the registry of volumes: a pure state machine.
//!
//! [`Kms`] holds every row of the catalogue in memory and turns a request into an [`Outcome`]: a
//! finished reply, a reply with a transaction that must be durable before it is sent, or a use of
//! key material that a [`KeyProvider`] carries out. It reads no clock, opens no file and touches no
//! disk: time, randomness and storage come in as [`Now`], [`Entropy`] and [`Storage`].
//!
//! The daemon's engine owns the loop: evaluate under a snapshot, commit with the expected revision,
//! apply, run the effects, reply. A conflict means evaluate again.
#![forbid(unsafe_code)]
#![cfg_attr(test, recursion_limit = "256")]
#![deny(clippy::indexing_slicing)]

pub mod audit;
pub mod authz;
pub mod backup;
pub mod blob;
pub mod clock;
pub mod domain;
pub mod entropy;
pub mod epoch;
pub mod events;
pub mod grants;
pub mod ids;
pub mod import;
pub mod kms;
pub mod last_use;
pub mod lease;
pub mod place;
pub mod policy;
pub mod provider;
pub mod relevance;
pub mod rows;
pub mod sealed;
pub mod setmac;
pub mod snapshot;
pub mod specs;
pub mod states;
pub mod storage;
pub mod tombstones;
pub mod transfer;
pub mod usage;

pub use authz::{Authorized, Basis, DenyBasis, Handled, Verdict};
pub use clock::{Clock, Now};
pub use domain::DomainKeys;
pub use entropy::{Entropy, SystemEntropy};
pub use ids::{KeyId, MaterialId, Scope};
pub use kms::{Caller, Effect, Kms, Outcome, Write};
pub use place::{Place, Served};
pub use provider::{KeyProvider, LocalProvider};
pub use rows::{Change, Row};
pub use snapshot::Snapshot;
pub use storage::{MemoryStorage, Storage, StorageError};
