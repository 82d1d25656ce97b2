//! Keys for the fuzz targets. Run one with `cargo +nightly fuzz run file_header` in the repository's root.

use kms_crypto::Key;
use kms_format::{ContentMode, PolicyId, UnlockedPolicy, VolumeId};

/// A policy with fixed keys, so that a finding can be replayed.
pub fn policy() -> UnlockedPolicy {
    let key = |byte| Key::from_slice(&[byte; 32]).expect("32 bytes");
    UnlockedPolicy::derive(
        VolumeId([1; 16]),
        PolicyId([2; 16]),
        1,
        ContentMode::Xts,
        &key(3),
        &key(4),
    )
    .expect("keys can be derived")
}
