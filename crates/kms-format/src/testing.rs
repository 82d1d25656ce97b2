//! Fixed keys for the tests of this crate.

use kms_crypto::Key;

use crate::{ContentMode, PolicyId, UnlockedPolicy, VolumeId};

pub(crate) const VOLUME: VolumeId = VolumeId([7; 16]);

/// Policy number `number` at a generation.
pub(crate) fn policy_at(number: u8, generation: u32, mode: ContentMode) -> UnlockedPolicy {
    policy_of(VOLUME, number, generation, mode)
}

pub(crate) fn policy_of(
    volume: VolumeId,
    number: u8,
    generation: u32,
    mode: ContentMode,
) -> UnlockedPolicy {
    let byte = number
        .wrapping_mul(16)
        .wrapping_add(generation.to_le_bytes()[0]);
    UnlockedPolicy::derive(
        volume,
        PolicyId([number; 16]),
        generation,
        mode,
        &Key::from_slice(&[byte; 32]).unwrap(),
        &Key::from_slice(&[byte ^ 0xff; 32]).unwrap(),
    )
    .unwrap()
}

/// Policy 1, generation 1, mode xts.
pub(crate) fn policy() -> UnlockedPolicy {
    policy_at(1, 1, ContentMode::Xts)
}

/// Calls `check` with every single-bit change of `bytes`.
pub(crate) fn each_flip(bytes: &[u8], mut check: impl FnMut(usize, &[u8])) {
    let mut flipped = bytes.to_vec();
    for bit in 0..bytes.len() * 8 {
        flipped[bit / 8] ^= 1 << (bit % 8);
        check(bit / 8, &flipped);
        flipped[bit / 8] ^= 1 << (bit % 8);
    }
}
