//! The volume record, `.kmsfs.volume` in the lower root (FORMAT.md section 3).

use data_encoding::{BASE64, HEXLOWER};
use serde::{Deserialize, Serialize};

use crate::{ContentMode, FORMAT, FormatError, PolicyId, Record, VolumeId};

/// The largest record, in bytes.
pub const RECORD_MAX: usize = 1 << 20;
/// The most policies and generations in a record.
pub const POLICIES_MAX: usize = 1024;
/// The largest KMS ciphertext blob, in bytes.
pub const BLOB_MAX: usize = 6144;

const MAGIC: &str = "KMSFSVOL ";
const DIGEST: &str = " sha256=";

/// What the lower tree says about the volume and its policies.
///
/// Key, mode and generation in it are hints: kmsd's registry decides. The data-key blobs are the real thing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VolumeRecord {
    /// The volume.
    pub volume: VolumeId,
    /// What the administrator calls it; may be empty.
    #[serde(default)]
    pub label: String,
    /// One entry per policy and generation.
    pub policies: Vec<PolicyRecord>,
}

/// One policy at one generation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PolicyRecord {
    /// The policy.
    pub policy: PolicyId,
    /// The generation of its policy key, from 1.
    pub generation: u32,
    /// The ARN of the KMS key when the record was written: a hint.
    pub key_arn: String,
    /// The content mode when the record was written: a hint.
    pub content_mode: ContentMode,
    /// The CiphertextBlob of GenerateDataKey.
    #[serde(with = "base64")]
    pub data_key: Vec<u8>,
}

impl VolumeRecord {
    /// A record without policies.
    #[must_use]
    pub fn new(volume: VolumeId, label: impl Into<String>) -> Self {
        Self {
            volume,
            label: label.into(),
            policies: Vec::new(),
        }
    }

    /// The entry of a policy at a generation.
    #[must_use]
    pub fn policy(&self, policy: PolicyId, generation: u32) -> Option<&PolicyRecord> {
        self.policies
            .iter()
            .find(|entry| (entry.policy, entry.generation) == (policy, generation))
    }

    /// The bytes to write; the file is replaced as a whole.
    ///
    /// # Errors
    /// [`FormatError::BadField`] and [`FormatError::DoesNotFit`] for a record that [`VolumeRecord::decode`] would refuse.
    pub fn encode(&self) -> Result<Vec<u8>, FormatError> {
        self.check()?;
        let mut body = serde_json::to_vec_pretty(self).map_err(|error| syntax(&error))?;
        body.push(b'\n');
        let digest = HEXLOWER.encode(&kms_crypto::sha256(&[&body]));
        let record = [
            format!("{MAGIC}{FORMAT}{DIGEST}{digest}\n").into_bytes(),
            body,
        ]
        .concat();
        let (found, limit) = (record.len(), RECORD_MAX);
        if found > limit {
            return Err(FormatError::DoesNotFit {
                record: Record::Volume,
                found,
                limit,
            });
        }
        Ok(record)
    }

    /// Reads a record; the checksum finds accidents, not attackers.
    ///
    /// # Errors
    /// [`FormatError::Blank`], [`FormatError::WrongMagic`], [`FormatError::UnsupportedFormat`],
    /// [`FormatError::Checksum`], [`FormatError::Syntax`], and [`FormatError::BadField`] for an entry that occurs twice
    /// or is out of bounds.
    pub fn decode(bytes: &[u8]) -> Result<Self, FormatError> {
        const RECORD: Record = Record::Volume;
        if bytes.len() > RECORD_MAX {
            let (found, expected) = (bytes.len(), RECORD_MAX);
            return Err(FormatError::TooLong {
                record: RECORD,
                found,
                expected,
            });
        }
        if crate::bytes::is_zero(bytes) {
            return Err(FormatError::Blank { record: RECORD });
        }
        let rest = bytes
            .strip_prefix(MAGIC.as_bytes())
            .ok_or(FormatError::WrongMagic { record: RECORD })?;
        let line =
            rest.iter()
                .position(|byte| *byte == b'\n')
                .ok_or_else(|| FormatError::Truncated {
                    record: RECORD,
                    found: bytes.len(),
                    needed: bytes.len().saturating_add(1),
                })?;
        let (head, body) = rest.split_at_checked(line).unwrap_or_default();
        let body = body.strip_prefix(b"\n").unwrap_or_default();
        let head = std::str::from_utf8(head).unwrap_or_default();
        let (format, digest) = head
            .split_once(DIGEST)
            .ok_or(FormatError::WrongMagic { record: RECORD })?;
        match format.parse::<u16>() {
            Ok(FORMAT) if format == FORMAT.to_string() => {}
            Ok(found) if found != FORMAT => {
                return Err(FormatError::UnsupportedFormat {
                    record: RECORD,
                    found,
                });
            }
            _ => return Err(FormatError::WrongMagic { record: RECORD }),
        }
        if HEXLOWER.encode(&kms_crypto::sha256(&[body])) != digest {
            return Err(FormatError::Checksum { record: RECORD });
        }
        let record: Self = serde_json::from_slice(body).map_err(|error| syntax(&error))?;
        record.check()?;
        Ok(record)
    }

    fn check(&self) -> Result<(), FormatError> {
        let bad = |field, value: usize| FormatError::BadField {
            record: Record::Volume,
            field,
            value: value as u64,
        };
        if self.policies.len() > POLICIES_MAX {
            return Err(bad("number of policies", self.policies.len()));
        }
        let mut seen = std::collections::BTreeSet::new();
        for entry in &self.policies {
            if !(1..=BLOB_MAX).contains(&entry.data_key.len()) {
                return Err(bad("data_key length", entry.data_key.len()));
            }
            if entry.generation == 0 {
                return Err(bad("generation", 0));
            }
            if !seen.insert((entry.policy, entry.generation)) {
                return Err(FormatError::BadField {
                    record: Record::Volume,
                    field: "generation (one policy has it twice)",
                    value: entry.generation.into(),
                });
            }
        }
        Ok(())
    }
}

fn syntax(error: &serde_json::Error) -> FormatError {
    FormatError::Syntax {
        record: Record::Volume,
        reason: error.to_string(),
    }
}

mod base64 {
    use serde::{Deserialize, Deserializer, Serializer};

    use super::BASE64;

    pub(super) fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&BASE64.encode(bytes))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<u8>, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(from)?;
        BASE64
            .decode(text.as_bytes())
            .map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests;
