//! The content engine on a lower file in memory: against a simple model, and in every state that a crash may leave.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    clippy::arithmetic_side_effects,
    reason = "tests"
)]

mod crash;
mod enumerate;
mod lower;
mod model;
mod ops;
mod random;
mod reencrypt;
mod tickets;
mod wraps;

use std::sync::Arc;

use kms_crypto::Key;
use kms_format::{ContentMode, PolicyId, UnlockedPolicy, VolumeId};

fn policy(mode: ContentMode) -> Arc<UnlockedPolicy> {
    policy_at(mode, 1)
}

fn policy_at(mode: ContentMode, generation: u32) -> Arc<UnlockedPolicy> {
    let key = |byte: u32| Key::from_slice(&[byte as u8; 32]).unwrap();
    let (volume, policy) = (VolumeId([7; 16]), PolicyId([1; 16]));
    let unlocked = UnlockedPolicy::derive(
        volume,
        policy,
        generation,
        mode,
        &key(generation),
        &key(generation ^ 200),
    );
    Arc::new(unlocked.unwrap())
}

/// A new file, as kmsfs makes them.
fn fresh(policy: &Arc<UnlockedPolicy>) -> kms_format::content::File<lower::Memory> {
    let mut file = kms_format::content::File::fresh(lower::Memory::default(), Arc::clone(policy));
    if policy.mode() == ContentMode::Gcm {
        file.keys().unwrap();
    }
    file
}
