//! When each key was last used with success: in memory, kept by the requests themselves, and filled after a start from the
//! audit log.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};

use parking_lot::{Mutex, RwLock};

use crate::clock::DAY_MS;
use crate::ids::KeyId;

#[cfg(test)]
mod tests;

/// A successful use of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Used {
    /// The operation of AWS KMS, or the one that an operation of kmsd's own comes down to: see [`use_of`].
    pub operation: &'static str,
    /// Wall clock, milliseconds since 1970.
    pub time_ms: i64,
    /// UUID of the record in the audit log.
    pub event_id: [u8; 16],
    /// UUID of the request.
    pub request_id: [u8; 16],
}

/// The last use of every key that is known to have been used.
#[derive(Debug)]
pub struct LastUse {
    keys: RwLock<HashMap<KeyId, Mutex<Used>>>,
    /// Since when uses are known, for every key; wall clock, milliseconds.
    since_ms: AtomicI64,
    /// Everything that the log says has been taken over.
    complete: AtomicBool,
}

impl Default for LastUse {
    fn default() -> Self {
        Self {
            keys: RwLock::default(),
            since_ms: AtomicI64::new(i64::MAX),
            complete: AtomicBool::new(false),
        }
    }
}

impl LastUse {
    /// A use that has just been made.
    pub fn note(&self, key: KeyId, used: Used) {
        if let Some(slot) = self.keys.read().get(&key) {
            // Whoever holds it notes a use of this very moment, which is as good a last one: nobody waits here.
            if let Some(mut slot) = slot.try_lock() {
                *slot = used;
            }
            return;
        }
        self.keys.write().insert(key, Mutex::new(used));
    }

    /// A use that the audit log tells of. What was noted since the start is later than that.
    pub fn found(&self, key: KeyId, used: Used) {
        let mut keys = self.keys.write();
        keys.entry(key).or_insert_with(|| Mutex::new(used));
    }

    /// Uses are known since this time, as far as has been looked.
    pub fn reaches_back_to(&self, wall_ms: i64) {
        self.since_ms.fetch_min(wall_ms, Ordering::SeqCst);
    }

    /// The log says no more about any key.
    pub fn complete(&self) {
        self.complete.store(true, Ordering::SeqCst);
    }

    /// Whether [`Self::complete`] was said.
    pub fn is_complete(&self) -> bool {
        self.complete.load(Ordering::SeqCst)
    }

    /// The last use of a key, if one is known.
    pub fn of(&self, key: KeyId) -> Option<Used> {
        self.keys.read().get(&key).map(|slot| *slot.lock())
    }

    /// Since when the uses of a key made at `created_ms` are known; `now_ms` while nothing is.
    pub fn tracked_since(&self, created_ms: i64, now_ms: i64) -> i64 {
        let since = self.since_ms.load(Ordering::SeqCst).min(now_ms);
        created_ms.max(since)
    }

    /// Whole days since the last use, or since uses are known where none is. `None` while the log is still being read and
    /// may tell of one.
    pub fn days_without(&self, key: KeyId, created_ms: i64, now_ms: i64) -> Option<i64> {
        let since = match self.of(key) {
            Some(used) => used.time_ms,
            None if self.is_complete() => self.tracked_since(created_ms, now_ms),
            None => return None,
        };
        let day = i64::try_from(DAY_MS).unwrap_or(i64::MAX);
        Some(now_ms.saturating_sub(since).max(0).div_euclid(day))
    }
}

/// The operation of AWS KMS that an operation makes of the key that its record names first (`place` 0) or second. `None`
/// where it uses no key material. What kmsd does of its own with the data key of a directory counts as what it is.
pub fn use_of(operation: &str, place: usize) -> Option<&'static str> {
    Some(match operation {
        "Decrypt" => "Decrypt",
        "Encrypt" => "Encrypt",
        "ReEncrypt" => "ReEncrypt",
        "GenerateDataKey" => "GenerateDataKey",
        "GenerateDataKeyWithoutPlaintext" => "GenerateDataKeyWithoutPlaintext",
        "GenerateDataKeyPair" => "GenerateDataKeyPair",
        "GenerateDataKeyPairWithoutPlaintext" => "GenerateDataKeyPairWithoutPlaintext",
        "Sign" => "Sign",
        "Verify" => "Verify",
        "GenerateMac" => "GenerateMac",
        "VerifyMac" => "VerifyMac",
        "DeriveSharedSecret" => "DeriveSharedSecret",
        "Encapsulate" => "Encapsulate",
        "Decapsulate" => "Decapsulate",
        "GetPolicy" => "Decrypt",
        "CreatePolicy" => "GenerateDataKey",
        "RotatePolicy" if place == 0 => "GenerateDataKey",
        "RotatePolicy" => "Decrypt",
        _ => return None,
    })
}
