//! The row of a policy: what a protected directory tree hangs on, and what its administrator chose for it.

use serde::{Deserialize, Serialize};

use super::{Mode, Wrapped};
use crate::ids::KeyId;

/// A policy: one protected directory tree of a volume.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyRow {
    /// 32 hex digits.
    pub volume: String,
    /// 32 hex digits.
    pub id: String,
    /// The KMS key.
    pub key: KeyId,
    /// How file contents are encrypted.
    pub mode: Mode,
    /// 1 for the first, rises with every rewrap.
    pub generation: u32,
    /// Wall clock, milliseconds: when the policy was made.
    pub created_ms: i64,
    /// The policy secret of the generation; none once the key is destroyed.
    pub secret: Option<Wrapped>,
    /// Free text of the administrator.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub label: String,
    /// What the administrator chose for the tree.
    #[serde(default, skip_serializing_if = "PolicySettings::is_default")]
    pub settings: PolicySettings,
    /// Generations before the current one that still open what hangs on them, oldest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub older: Vec<OldGeneration>,
    /// Wall clock, milliseconds: when the current generation was made, if it is not the first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rotated_ms: Option<i64>,
    /// Wall clock, milliseconds: when every secret of it was destroyed, if that was asked for of this policy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub destroyed_ms: Option<i64>,
}

/// A generation of a policy key that is no longer the current one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OldGeneration {
    /// Its number.
    pub generation: u32,
    /// The KMS key it hangs on.
    pub key: KeyId,
    /// How file contents were encrypted.
    pub mode: Mode,
    /// Its policy secret.
    pub secret: Wrapped,
    /// Wall clock, milliseconds: when it was made.
    pub created_ms: i64,
}

/// What the administrator chose for a tree.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PolicySettings {
    /// What a user who loses access keeps of open files.
    pub revoke: Revoke,
    /// What happens while kmsd cannot be asked.
    pub on_kmsd_loss: OnLoss,
    /// Whether opens are recorded in the audit log.
    pub record_opens: bool,
    /// Whether new key material (automatic or on demand) starts a rewrap.
    pub rewrap_after_rotation: bool,
}

impl PolicySettings {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// How access is taken from a user who has files open.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Revoke {
    /// The user's descriptors and mappings fail; others reopen the file.
    #[default]
    Stale,
    /// The user's processes that hold files are killed.
    Kill,
}

/// What a mount does with a tree while kmsd cannot be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnLoss {
    /// The tree is locked this many seconds after the last answer has run out.
    LockAfter(u32),
    /// It stays as it is.
    KeepOpen,
}

impl Default for OnLoss {
    fn default() -> Self {
        Self::LockAfter(0)
    }
}

impl PolicyRow {
    /// When the current generation was made: wall clock, milliseconds.
    pub fn generation_created_ms(&self) -> i64 {
        self.rotated_ms.unwrap_or(self.created_ms)
    }

    /// Every key that the tree, or what is left of older generations in it, hangs on.
    pub fn keys(&self) -> impl Iterator<Item = KeyId> {
        std::iter::once(self.key).chain(self.older.iter().map(|old| old.key))
    }
}
