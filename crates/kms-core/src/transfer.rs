//! The keys of one volume on their way to another host: sealed to that host's recovery key ([`crate::sealed`]).
//!
//! In it are the volume, its policies with every generation of their secrets, and the keys that these hang on with every
//! version of their material, key policy, tags and names. Grants stay behind: the users of the other host are others.
//!
//! Ids stay, and so do account and Region, which are part of every ciphertext and wrap: both hosts must have the same.

mod arrive;
mod leave;

use data_encoding::BASE64;
use kms_crypto::Key;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::domain::DomainError;
use crate::ids::{KeyId, MaterialId};
use crate::rows::{
    AliasRow, Bytes, Imported as ImportedRow, KeyRow, PolicyRow, PolicyUseRow, RotationKind,
    VolumeRow,
};
use crate::sealed::{self, Kind, SealedError};

pub use arrive::import;
pub use leave::export;

const KIND: Kind = Kind {
    magic: b"KMSDVOL1",
    info: b"kmsd volume transfer 1",
    name: "a file with the keys of a volume",
};

/// What the file says about itself to everybody.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Head {
    /// The volume.
    pub volume_id: String,
    /// Its label.
    pub label: String,
    /// Twelve digits.
    pub account: String,
    /// Region.
    pub region: String,
    /// Name of the store that it is from.
    pub store_id: String,
    /// Wall clock, milliseconds.
    pub created_ms: i64,
    /// Recovery key that opens it, public half.
    pub recipient: Bytes,
    /// Ids of the keys in it.
    pub keys: Vec<KeyId>,
    /// Policies in it.
    pub policies: u64,
}

/// What an import did.
#[derive(Clone, Debug)]
pub struct Imported {
    /// What the file says about itself.
    pub head: Head,
    /// Keys that were not there.
    pub keys: u64,
    /// Policies that were not there.
    pub policies: u64,
    /// Names that another key has here.
    pub aliases_taken: Vec<String>,
    /// Keys that kmsd managed there for kmsfs and that are the administrator's here, because kmsfs has a key of its own here.
    pub now_customer_managed: Vec<KeyId>,
}

/// Keys cannot be moved.
#[derive(Debug, thiserror::Error)]
pub enum TransferError {
    /// The file is none, or does not open.
    #[error(transparent)]
    Sealed(#[from] SealedError),
    /// A secret of this store does not open.
    #[error(transparent)]
    Domain(#[from] DomainError),
    /// There is no such volume.
    #[error("there is no volume {0} in this store")]
    NoVolume(String),
    /// A key waits for its deletion.
    #[error("key {0} waits for its deletion")]
    Pending(KeyId),
    /// Account or Region differ.
    #[error(
        "the volume is of account {account} in Region {region}; both are part of its ciphertexts"
    )]
    OtherScope {
        /// Account of the other host.
        account: String,
        /// Region of the other host.
        region: String,
    },
    /// It was destroyed here.
    #[error("{0} was destroyed in this store, and stays destroyed")]
    Destroyed(String),
    /// It is here, and is something else.
    #[error("{0} is in this store and differs")]
    Differs(String),
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Content {
    volume: VolumeRow,
    policies: Vec<Policy>,
    keys: Vec<MovedKey>,
    uses: Vec<PolicyUseRow>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Policy {
    /// Without its secrets.
    row: PolicyRow,
    /// That of the current generation.
    secret: Option<Secret>,
    older: Vec<Older>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Older {
    generation: u32,
    key: KeyId,
    mode: crate::rows::Mode,
    created_ms: i64,
    secret: Secret,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct MovedKey {
    row: KeyRow,
    materials: Vec<Material>,
    aliases: Vec<AliasRow>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Material {
    id: MaterialId,
    version: u32,
    created_ms: i64,
    rotated: Option<RotationKind>,
    secret: Secret,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    import: Option<ImportedRow>,
}

/// 32 bytes, base64 in the file.
struct Secret(Key<32>);

impl Serialize for Secret {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let text = Zeroizing::new(BASE64.encode(self.0.expose()));
        to.serialize_str(&text)
    }
}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = Zeroizing::new(String::deserialize(from)?);
        let bytes = BASE64.decode(text.as_bytes()).map(Zeroizing::new).ok();
        bytes
            .and_then(|bytes| Key::from_slice(&bytes).ok())
            .map(Self)
            .ok_or_else(|| serde::de::Error::custom("not 32 bytes in base64"))
    }
}

/// Reads what a file says about itself, and whether it is whole.
///
/// # Errors
/// It is none, or damaged.
pub fn inspect(file: &[u8]) -> Result<Head, TransferError> {
    let json = sealed::head(KIND, file)?;
    let head = serde_json::from_slice(json);
    Ok(head.map_err(|_| SealedError::Damaged("its head cannot be read"))?)
}
