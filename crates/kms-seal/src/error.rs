//! Everything that can go wrong with the root key, each with its own exit code and next step.

use std::path::PathBuf;

pub(crate) mod kind;

/// A PCR whose value differs from the one that was approved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MovedPcr {
    /// Number of the register, 0 to 23.
    pub index: u32,
    /// The approved value, 64 hex digits.
    pub sealed: String,
    /// The value now, 64 hex digits.
    pub current: String,
}

/// Failure of a [`RootSealer`](crate::RootSealer). The text says what happened and to what,
/// [`next_step`](Self::next_step) what the operator does now, [`exit_code`](Self::exit_code)
/// which status the programs end with.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SealError {
    /// The device is not there.
    #[error("no TPM at {device}: {reason}")]
    NoDevice {
        /// The configured device.
        device: String,
        /// What the system said.
        reason: String,
    },
    /// Another process holds the device, for longer than `wait`.
    #[error("the TPM at {device} is busy: no answer within {waited_seconds} s")]
    DeviceBusy {
        /// The configured device.
        device: String,
        /// How long was waited.
        waited_seconds: u64,
    },
    /// The device is there and this process may not open it.
    #[error("no permission to open the TPM at {device}")]
    DeviceForbidden {
        /// The configured device.
        device: String,
    },
    /// The TPM answered something that this code has no better name for.
    #[error("the TPM refused {operation}: {reason}")]
    Tpm {
        /// The step that failed.
        operation: &'static str,
        /// The response code in words.
        reason: String,
    },
    /// Measured state differs from every approved one.
    #[error("the measured state changed since it was approved: {}", list_moved(.moved))]
    PcrChanged {
        /// The registers that moved, against the closest approved state.
        moved: Vec<MovedPcr>,
    },
    /// The credential (random, not counted) does not fit this enrolment.
    #[error("the credential does not open this enrolment")]
    WrongCredential,
    /// The typed PIN is wrong; the TPM counted it.
    #[error("wrong PIN, {tries_left} tries left before the TPM locks")]
    WrongPin {
        /// Attempts that remain before kmsd stops trying.
        tries_left: u32,
    },
    /// Too many failures: no attempt was made.
    #[error("the TPM is locked against guessing: next try in at most {seconds} s")]
    LockedOut {
        /// Upper bound of the time until an attempt is free again.
        seconds: u64,
    },
    /// The storage root key is not the one of the enrolment.
    #[error(
        "this is another TPM, or this TPM was cleared: its storage root key is {found}, the enrolment names {expected}"
    )]
    OtherTpm {
        /// Name of the key in the enrolment, hex.
        expected: String,
        /// Name of the key found, hex, or `none`.
        found: String,
    },
    /// The sealed blob does not load under the right parent.
    #[error("the sealed blob in the enrolment record is damaged")]
    DamagedBlob,
    /// The enrolment record itself is damaged or was edited.
    #[error("the enrolment record is damaged or was edited: {reason}")]
    DamagedRecord {
        /// What did not fit.
        reason: &'static str,
    },
    /// The record was written by a newer program or for another kind of sealer.
    #[error("the enrolment record cannot be used here: {reason}")]
    UnsupportedRecord {
        /// What is not supported.
        reason: String,
    },
    /// The monotonic counter is gone.
    #[error("the rollback counter {counter} is missing")]
    CounterMissing {
        /// Its NV index or file.
        counter: String,
    },
    /// The counter is not the one that was enrolled, or ran backwards.
    #[error("the rollback counter {counter} was replaced or set back: {reason}")]
    CounterReplaced {
        /// Its NV index or file.
        counter: String,
        /// How this shows.
        reason: String,
    },
    /// The store is older (or much newer) than the counter allows.
    #[error(
        "the store is at generation {store}, the counter at {counter}: an older store was put back"
    )]
    RolledBack {
        /// Generation that the store carries.
        store: u64,
        /// Value of the counter.
        counter: u64,
    },
    /// The epoch secret that this record names has been destroyed.
    #[error(
        "the epoch secret of this record (slot {slot}) was destroyed: the record is from before a deletion"
    )]
    EpochDestroyed {
        /// Its NV index or file.
        slot: String,
    },
    /// The epoch secret is there and is not the one of this record.
    #[error("the epoch secret in slot {slot} was replaced: {reason}")]
    EpochReplaced {
        /// Its NV index or file.
        slot: String,
        /// How this shows.
        reason: &'static str,
    },
    /// No room for the NV indices or for a persistent key.
    #[error("the TPM has no room left for {what}")]
    NvFull {
        /// What was to be stored.
        what: &'static str,
    },
    /// The owner hierarchy has a password that was not given (or is wrong).
    #[error("the TPM's owner hierarchy has a password, and {reason}")]
    OwnerAuth {
        /// Whether it was missing or wrong.
        reason: &'static str,
    },
    /// The key file of the software sealer is not there.
    #[error("the key file {} does not exist", .path.display())]
    KeyFileMissing {
        /// The configured path.
        path: PathBuf,
    },
    /// The key file can be read by others.
    #[error("the key file {} has mode {mode:04o}: others can read it", .path.display())]
    KeyFileMode {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The key file or a file beside it is damaged.
    #[error("the key file {} is damaged: {reason}", .path.display())]
    KeyFileDamaged {
        /// The file.
        path: PathBuf,
        /// What did not fit.
        reason: &'static str,
    },
    /// The key file is not the one of the enrolment.
    #[error("the key file {} is not the one that this enrolment was made with", .path.display())]
    OtherKeyFile {
        /// The file.
        path: PathBuf,
    },
    /// The software sealer could not read or write one of its files.
    #[error("cannot access {}: {source}", .path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The credential is too short for the profile.
    #[error("the credential is too weak: {reason}")]
    WeakCredential {
        /// What is asked for.
        reason: &'static str,
    },
    /// An operation that needs the secrets of an enrolment came before `unseal` or `enroll`.
    #[error("this enrolment has not been unsealed yet")]
    NotUnsealed,
    /// The sealer's configuration makes no sense.
    #[error("seal configuration: {reason}")]
    InvalidConfig {
        /// What is wrong with it.
        reason: String,
    },
    /// A cryptographic primitive or the system's random generator failed.
    #[error("cryptography failed: {0}")]
    Crypto(String),
}

fn list_moved(moved: &[MovedPcr]) -> String {
    let list: Vec<String> = moved
        .iter()
        .map(|pcr| {
            format!(
                "PCR {} was {} and is {}",
                pcr.index, pcr.sealed, pcr.current
            )
        })
        .collect();
    list.join("; ")
}

impl From<kms_crypto::CryptoError> for SealError {
    fn from(error: kms_crypto::CryptoError) -> Self {
        Self::Crypto(error.to_string())
    }
}
