//! The enrolment record: what must be kept beside the store to open the root key again.
//!
//! It holds no secret. A checksum over everything finds damage before the TPM is asked; a MAC under
//! a key that comes from the root secret finds deliberate changes once it is open.

use std::collections::BTreeMap;

use kms_crypto::Key;
use serde::{Deserialize, Serialize};

use crate::{
    Profile, SealError, SealerKind,
    hex::{Hex, HexArray, hex},
    keys,
};

/// The record format that this code writes and reads.
pub const ENROLLMENT_VERSION: u32 = 0;

/// One enrolment of a host: profile, sealed blob, approved PCR states, NV indices with their names.
/// Keep it with the store; it is JSON by way of serde, public, and every field is authenticated.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Enrollment {
    pub(crate) version: u32,
    pub(crate) body: Body,
    /// HMAC-SHA-256 of version and body under a key from the root secret.
    pub(crate) mac: HexArray<32>,
    /// SHA-256 of version, body and MAC: found before anything is tried.
    pub(crate) checksum: HexArray<32>,
}

/// What the MAC covers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Body {
    pub(crate) id: HexArray<16>,
    /// Seconds since 1970 by the host's clock; informative.
    pub(crate) created: u64,
    pub(crate) profile: Profile,
    pub(crate) stretch: Stretch,
    /// The counter's value at enrolment; it can never be lower.
    pub(crate) counter_base: u64,
    /// Which epoch secret is current: counts up by one with every deletion epoch.
    pub(crate) epoch: u64,
    pub(crate) slot: Slot,
    /// The other slot holds the previous epoch's secret, which `commit_epoch` is to destroy.
    pub(crate) retired: bool,
    /// Key confirmation of the host KEK.
    pub(crate) kek_check: HexArray<32>,
    pub(crate) vault: Vault,
    /// What vouches for checkpoints of the audit log; records made before there were any have none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) attestor: Option<Attestor>,
}

/// How the credential becomes a key: PBKDF2-HMAC-SHA-256 (RFC 8018) for a PIN, no iterations for a
/// random credential.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Stretch {
    pub(crate) salt: HexArray<16>,
    pub(crate) iterations: u32,
}

/// Where an epoch secret lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Slot {
    A,
    B,
}

impl Slot {
    pub(crate) const fn other(self) -> Self {
        match self {
            Self::A => Self::B,
            Self::B => Self::A,
        }
    }
}

/// What one kind of sealer needs to find the root secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Vault {
    Tpm(Box<TpmVault>),
    Software(SoftwareVault),
}

/// A sealed object under a persistent storage root key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct TpmVault {
    pub(crate) srk_handle: u32,
    pub(crate) srk_name: Hex,
    /// TPMT_PUBLIC of the sealed object.
    pub(crate) public: Hex,
    /// Contents of its TPM2B_PRIVATE.
    pub(crate) private: Hex,
    /// The P-256 key that approves PCR states: x, then y.
    pub(crate) signer: HexArray<64>,
    /// Binds approvals to this use and to the counter.
    pub(crate) policy_ref: HexArray<32>,
    /// States under which the object opens; oldest first.
    pub(crate) approvals: Vec<Approval>,
    pub(crate) counter: NvPin,
    pub(crate) slot_a: NvPin,
    pub(crate) slot_b: NvPin,
}

impl TpmVault {
    pub(crate) const fn slot(&self, slot: Slot) -> &NvPin {
        match slot {
            Slot::A => &self.slot_a,
            Slot::B => &self.slot_b,
        }
    }
}

/// What vouches for checkpoints of the audit log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Attestor {
    Tpm(Box<TpmAttestor>),
    /// The Ed25519 key alone, with a counter beside the key file.
    Software,
}

/// An attestation key under the endorsement key, and the checkpoint counter.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct TpmAttestor {
    /// TPMT_PUBLIC of the attestation key.
    pub(crate) public: Hex,
    /// Contents of its TPM2B_PRIVATE.
    pub(crate) private: Hex,
    /// Name of the endorsement key.
    pub(crate) endorsement_name: Hex,
    pub(crate) counter: NvPin,
    /// TPMS_NV_PUBLIC of the counter, whose hash is its name.
    pub(crate) counter_public: Hex,
    /// Whether the chip has TPM2_NV_Certify.
    pub(crate) certifies: bool,
}

/// A signed statement: with these values the object may be opened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Approval {
    /// SHA-256 bank: register to value.
    pub(crate) pcrs: BTreeMap<u32, HexArray<32>>,
    /// ECDSA P-256 over the policy digest: r, then s.
    pub(crate) signature: HexArray<64>,
}

/// An NV index and the name it has once written: a hash of its attributes and policy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct NvPin {
    pub(crate) index: u32,
    pub(crate) name: Hex,
}

/// A blob under the key file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct SoftwareVault {
    /// Which key file.
    pub(crate) key_id: HexArray<16>,
    /// HMAC of the blob under the key file, so that damage and a wrong credential differ.
    pub(crate) tag: HexArray<32>,
    pub(crate) sealed: Hex,
}

impl Enrollment {
    /// Completes a body with MAC and checksum.
    pub(crate) fn new(body: Body, mac_key: &Key<32>) -> Result<Self, SealError> {
        let mut record = Self {
            version: ENROLLMENT_VERSION,
            body,
            mac: HexArray([0; 32]),
            checksum: HexArray([0; 32]),
        };
        record.mac = HexArray(keys::mac(mac_key, &record.canonical()?)?);
        record.checksum = HexArray(record.sum()?);
        Ok(record)
    }

    /// A random identifier, 32 hex digits: names this enrolment in logs and file names.
    #[must_use]
    pub fn id(&self) -> String {
        hex(&self.body.id.0)
    }

    /// TPM or software.
    #[must_use]
    pub const fn kind(&self) -> SealerKind {
        match self.body.vault {
            Vault::Tpm(_) => SealerKind::Tpm,
            Vault::Software(_) => SealerKind::Software,
        }
    }

    /// The profile that it was made with.
    #[must_use]
    pub const fn profile(&self) -> Profile {
        self.body.profile
    }

    /// When it was made: seconds since 1970 by the host's clock then.
    #[must_use]
    pub const fn created(&self) -> u64 {
        self.body.created
    }

    /// Number of the deletion epoch whose secret it names, from 0.
    #[must_use]
    pub const fn epoch(&self) -> u64 {
        self.body.epoch
    }

    /// Whether the previous epoch's secret still waits for
    /// [`commit_epoch`](crate::RootSealer::commit_epoch).
    #[must_use]
    pub const fn has_retired_epoch(&self) -> bool {
        self.body.retired
    }

    /// Name of the pinned storage root key in hex; `None` for the software sealer.
    #[must_use]
    pub fn srk_name(&self) -> Option<String> {
        match &self.body.vault {
            Vault::Tpm(vault) => Some(hex(&vault.srk_name.0)),
            Vault::Software(_) => None,
        }
    }

    /// Whether checkpoints of the audit log can be vouched for, see
    /// [`prepare_checkpoints`](crate::RootSealer::prepare_checkpoints).
    #[must_use]
    pub const fn has_checkpoints(&self) -> bool {
        self.body.attestor.is_some()
    }

    /// Registers of the newest approved state; empty when nothing is measured.
    #[must_use]
    pub fn pcrs(&self) -> Vec<u32> {
        match &self.body.vault {
            Vault::Tpm(vault) => vault
                .approvals
                .last()
                .map(|newest| newest.pcrs.keys().copied().collect()),
            Vault::Software(_) => None,
        }
        .unwrap_or_default()
    }

    /// The compact JSON form.
    ///
    /// # Errors
    /// None in practice; serialisation is fallible by type.
    pub fn to_json(&self) -> Result<Vec<u8>, SealError> {
        serde_json::to_vec(self).map_err(|error| SealError::Crypto(error.to_string()))
    }

    /// Reads a record and checks version and checksum.
    ///
    /// # Errors
    /// [`SealError::UnsupportedRecord`] for another version, [`SealError::DamagedRecord`] for
    /// anything that does not parse or does not fit its checksum.
    pub fn from_json(json: &[u8]) -> Result<Self, SealError> {
        /// Only the version: the rest may look different in another one.
        #[derive(Deserialize)]
        struct Versioned {
            version: u32,
        }
        let damaged = |_| SealError::DamagedRecord {
            reason: "it is not a valid record",
        };
        check_version(
            serde_json::from_slice::<Versioned>(json)
                .map_err(damaged)?
                .version,
        )?;
        let record: Self = serde_json::from_slice(json).map_err(damaged)?;
        record.check_sum()?;
        Ok(record)
    }

    /// What can be checked without any key.
    pub(crate) fn check_sum(&self) -> Result<(), SealError> {
        check_version(self.version)?;
        if self.sum()? == self.checksum.0 {
            Ok(())
        } else {
            Err(SealError::DamagedRecord {
                reason: "its checksum does not fit",
            })
        }
    }

    /// What only the holder of the root secret can check.
    pub(crate) fn check_mac(&self, mac_key: &Key<32>) -> Result<(), SealError> {
        let mac = keys::mac(mac_key, &self.canonical()?)?;
        if kms_crypto::constant_time_eq(&mac, &self.mac.0) {
            Ok(())
        } else {
            Err(SealError::DamagedRecord {
                reason: "its authentication does not fit",
            })
        }
    }

    /// serde writes struct fields in the order of declaration and maps in key order, so equal
    /// records give equal bytes.
    fn canonical(&self) -> Result<Vec<u8>, SealError> {
        serde_json::to_vec(&(self.version, &self.body))
            .map_err(|error| SealError::Crypto(error.to_string()))
    }

    /// Makes the checksum fit an edited record.
    #[cfg(test)]
    pub(crate) fn resum(&mut self) {
        self.checksum = HexArray(self.sum().unwrap());
    }

    fn sum(&self) -> Result<[u8; 32], SealError> {
        Ok(kms_crypto::sha256(&[&self.canonical()?, &self.mac.0]))
    }
}

fn check_version(version: u32) -> Result<(), SealError> {
    if version == ENROLLMENT_VERSION {
        return Ok(());
    }
    Err(SealError::UnsupportedRecord {
        reason: format!(
            "it has version {version}, this program reads version {ENROLLMENT_VERSION}"
        ),
    })
}
