//! Policy keys that are the same in every run, and a giver of keys that can refuse.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex};

use kms_crypto::Key;
use kms_format::{ContentMode, PolicyId, UnlockedPolicy, VolumeId};
use kmsfs::errno::Errno;

/// Policy number `number` of volume number `volume`, at a generation. Policies of different numbers have different keys.
pub fn policy_of(volume: u8, number: u8, generation: u32, mode: ContentMode) -> UnlockedPolicy {
    policy_in(VolumeId([volume; 16]), number, generation, mode)
}

/// The same in any volume.
pub fn policy_in(
    volume: VolumeId,
    number: u8,
    generation: u32,
    mode: ContentMode,
) -> UnlockedPolicy {
    let key = |salt: u8| {
        let mut bytes = [salt; 32];
        bytes[0] = volume.0[0];
        bytes[1] = number;
        bytes[2] = generation.to_le_bytes()[0];
        Key::from_slice(&bytes).expect("32 bytes")
    };
    let policy = PolicyId([number; 16]);
    UnlockedPolicy::derive(volume, policy, generation, mode, &key(3), &key(4))
        .expect("keys can be derived")
}

/// Policy 2 of volume 1, mode xts.
pub fn policy() -> UnlockedPolicy {
    policy_of(1, 2, 1, ContentMode::Xts)
}

/// Gives out the keys it was given, but for those of refused policies.
#[derive(Debug, Default)]
pub struct FixedKeys {
    known: Mutex<HashMap<(PolicyId, u32), Arc<UnlockedPolicy>>>,
    refused: Mutex<HashSet<PolicyId>>,
}

impl FixedKeys {
    /// Makes a key known.
    pub fn add(&self, policy: UnlockedPolicy) -> Arc<UnlockedPolicy> {
        let policy = Arc::new(policy);
        let place = (policy.policy(), policy.generation());
        self.known
            .lock()
            .expect("keys")
            .insert(place, Arc::clone(&policy));
        policy
    }

    /// Answers `ENOKEY` for this policy from now on.
    pub fn refuse(&self, policy: PolicyId) {
        self.refused.lock().expect("keys").insert(policy);
    }
}

impl kmsfs::volume::Keys for FixedKeys {
    fn policy_key(
        &self,
        volume: &VolumeId,
        policy: &PolicyId,
        generation: u32,
    ) -> Result<Arc<UnlockedPolicy>, Errno> {
        if self.refused.lock().expect("keys").contains(policy) {
            return Err(Errno::NOKEY);
        }
        let known = self.known.lock().expect("keys");
        let found = known.get(&(*policy, generation)).ok_or(Errno::NOKEY)?;
        // As kmsd, which knows a policy only in its volume.
        if found.volume() == *volume {
            Ok(Arc::clone(found))
        } else {
            Err(Errno::NOKEY)
        }
    }
}
