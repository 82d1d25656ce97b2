//! The root key of a host: TPM 2.0 and software sealers behind one trait.
//!
//! A sealer keeps a 32-byte root secret, a monotonic counter and an epoch secret of which the older version
//! can be destroyed. From them and a credential it makes the host KEK that opens the store. It
//! knows nothing of the store, of recovery, or of keys below the host KEK, and nothing outside this
//! crate names a TPM type. Main type: [`RootSealer`].
//!
//! ```no_run
//! # fn main() -> Result<(), kms_seal::SealError> {
//! use kms_seal::{Credential, Profile, SealerConfig};
//! let mut sealer = kms_seal::open(&SealerConfig::default())?;
//! let credential = Credential::random()?;
//! let (record, kek) = sealer.enroll(Profile::Machine, &credential)?;
//! let again = sealer.unseal(&record, &credential)?;
//! assert_eq!(again.key().expose(), kek.key().expose());
//! # Ok(()) }
//! ```

mod attest;
mod config;
mod enrollment;
mod error;
mod generation;
mod hex;
mod keys;
mod sealer;
mod software;
mod status;
#[cfg(feature = "testing")]
pub mod testing;
#[cfg(test)]
mod tests;
mod tpm;

use std::collections::BTreeMap;

pub use attest::{Checkpointer, LogKeys, Quoted, TpmAttestation, TpmLogKeys, Vouched};
pub use config::{
    Credential, MACHINE_CREDENTIAL_LEN, MIN_PIN_LEN, Profile, SealerConfig, SealerKind,
};
pub use enrollment::{ENROLLMENT_VERSION, Enrollment};
pub use error::{
    MovedPcr, SealError,
    kind::{ErrorKind, kinds},
};
pub use generation::{GenerationCheck, check_generation};
pub use keys::HostKek;
pub use status::{Lockout, PcrValue, SealStatus};

/// Keeper of a host's root secret. Each call connects to the device, does its work, leaves no session or
/// object behind, and disconnects; it blocks, for up to seconds on a real chip.
pub trait RootSealer: Send {
    /// Reads the state of the device. Changes nothing, tries no credential.
    ///
    /// # Errors
    /// The device cannot be reached or does not answer.
    fn status(&mut self) -> Result<SealStatus, SealError>;

    /// Compares the record with the device as far as this goes without a credential: checksum, storage root key,
    /// measured state, lockout, presence of counter and epoch secret. `Ok` means an unseal with the right
    /// credential will work.
    ///
    /// # Errors
    /// What [`unseal`](Self::unseal) would fail with.
    fn check(&mut self, enrollment: &Enrollment) -> Result<(), SealError>;

    /// Draws a new root secret and epoch secret, makes the counter, and returns the record to keep with the host
    /// KEK. Other enrolments stay valid. On failure nothing is left on the device.
    ///
    /// # Errors
    /// [`SealError::WeakCredential`], [`SealError::NvFull`], [`SealError::OwnerAuth`], or the device's.
    fn enroll(
        &mut self,
        profile: Profile,
        credential: &Credential,
    ) -> Result<(Enrollment, HostKek), SealError>;

    /// Opens the root secret and the epoch secret of the record. The calls below work afterwards.
    ///
    /// # Errors
    /// One kind for each way to fail, see [`kinds`].
    fn unseal(
        &mut self,
        enrollment: &Enrollment,
        credential: &Credential,
    ) -> Result<HostKek, SealError>;

    /// The counter's value.
    ///
    /// # Errors
    /// [`SealError::NotUnsealed`], [`SealError::CounterMissing`], [`SealError::CounterReplaced`].
    fn counter(&mut self, enrollment: &Enrollment) -> Result<u64, SealError>;

    /// Adds one to the counter, durably, and returns the new value.
    ///
    /// # Errors
    /// As [`counter`](Self::counter).
    fn increment(&mut self, enrollment: &Enrollment) -> Result<u64, SealError>;

    /// Draws a new epoch secret into the free slot. The returned record names it as current and the old one as
    /// to be destroyed; until [`commit_epoch`](Self::commit_epoch) both records open. Store the new
    /// record durably before committing. A slot left over from an earlier attempt is used again.
    ///
    /// # Errors
    /// As [`unseal`](Self::unseal); [`SealError::DamagedRecord`] if the previous epoch was not committed yet.
    fn stage_epoch(
        &mut self,
        enrollment: &Enrollment,
        credential: &Credential,
    ) -> Result<(Enrollment, HostKek), SealError>;

    /// Destroys the previous epoch's secret and returns the record without it. After this no older record opens.
    /// Idempotent: a record without a retired epoch comes back as it is.
    ///
    /// # Errors
    /// [`SealError::NotUnsealed`], or the device's; then call again.
    fn commit_epoch(&mut self, enrollment: &Enrollment) -> Result<Enrollment, SealError>;

    /// Approves one more PCR state, now or (before an update) in advance. Needs a state that is approved today.
    /// Store the returned record; the older one stays valid for the older states.
    ///
    /// # Errors
    /// As [`unseal`](Self::unseal); [`SealError::InvalidConfig`] for the software sealer, which measures nothing.
    fn approve(
        &mut self,
        enrollment: &Enrollment,
        credential: &Credential,
        state: &PcrState,
    ) -> Result<Enrollment, SealError>;

    /// The record with what vouches for checkpoints of the audit log: an attestation key and a counter, made now if it
    /// has none. A record that has comes back as it is. Store the returned record; if it is lost, the counter is found
    /// again by the next call.
    ///
    /// # Errors
    /// [`SealError::NotUnsealed`], [`SealError::NvFull`], or the device's.
    fn prepare_checkpoints(&mut self, enrollment: &Enrollment) -> Result<Enrollment, SealError>;

    /// What signs the checkpoints of the record, for another thread.
    ///
    /// # Errors
    /// [`SealError::NotUnsealed`]; [`SealError::DamagedRecord`] before
    /// [`prepare_checkpoints`](Self::prepare_checkpoints).
    fn checkpointer(&self, enrollment: &Enrollment) -> Result<Box<dyn Checkpointer>, SealError>;

    /// Removes the record's counters and epoch secrets from the device: the record is dead afterwards. Absent ones
    /// are no error. The storage root key or key file stays, others may use it.
    ///
    /// # Errors
    /// [`SealError::OwnerAuth`], or the device's.
    fn remove(&mut self, enrollment: &Enrollment) -> Result<(), SealError>;
}

/// A measured state to approve.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PcrState {
    /// The values now, of the registers in the configuration.
    Current,
    /// These values (SHA-256 bank), for example computed ahead of an update.
    Values(BTreeMap<u32, [u8; 32]>),
}

/// Opens the sealer that `config` describes. The device itself is first touched by the first call.
///
/// # Errors
/// [`SealError::InvalidConfig`].
pub fn open(config: &SealerConfig) -> Result<Box<dyn RootSealer>, SealError> {
    config.validate()?;
    Ok(match config.kind {
        SealerKind::Tpm => Box::new(sealer::Sealer::new(tpm::Tpm::new(config))),
        SealerKind::Software => Box::new(sealer::Sealer::new(software::KeyFile::new(config))),
    })
}
