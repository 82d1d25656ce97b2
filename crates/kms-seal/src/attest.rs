//! Vouching for the checkpoints of the audit log: a counter of its own, a signing key, and what a TPM adds.

use std::sync::Arc;

use kms_crypto::{ed25519_public, ed25519_sign};

use crate::{
    SealError,
    enrollment::{Attestor, Body},
    keys::RootKeys,
    sealer::{Keeper, Link},
};

/// The public keys that checkpoints of an enrolment are verified with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogKeys {
    /// Ed25519 key derived from the root secret.
    pub ed25519: [u8; 32],
    /// What the TPM attests with; `None` for the software sealer.
    pub tpm: Option<TpmLogKeys>,
}

/// Public parts of a TPM's attestation key and of the checkpoint counter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TpmLogKeys {
    /// TPMT_PUBLIC of the attestation key.
    pub attestation_key: Vec<u8>,
    /// Name of the endorsement key under which it lies.
    pub endorsement_name: Vec<u8>,
    /// TPMS_NV_PUBLIC of the checkpoint counter.
    pub counter: Vec<u8>,
    /// Whether the chip certifies the counter's value.
    pub certifies: bool,
}

/// What was signed for a checkpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Vouched {
    /// Ed25519 over the text.
    pub signature: [u8; 64],
    /// What the TPM says; `None` from the software sealer.
    pub tpm: Option<TpmAttestation>,
}

/// What a TPM says to a qualifying value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TpmAttestation {
    /// TPM2_Quote.
    pub quote: Quoted,
    /// TPM2_NV_Certify of the checkpoint counter; `None` from a chip without that command.
    pub certification: Option<Quoted>,
}

/// TPMS_ATTEST and the attestation key's ECDSA signature on it (r, then s).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Quoted {
    /// As the chip marshalled it.
    pub attest: Vec<u8>,
    /// Over its SHA-256.
    pub signature: [u8; 64],
}

/// Vouches for checkpoints of one enrolment, on a thread of its own beside the sealer. Each call connects to the device
/// and blocks, for up to seconds on a real chip.
///
/// The order that leaves no gap whatever fails: read [`counter`](Self::counter), [`vouch`](Self::vouch) for a text that
/// names this value, store it durably, [`advance`](Self::advance). After that nobody can have a text with this value
/// vouched for again.
pub trait Checkpointer: Send {
    /// The public keys.
    fn keys(&self) -> &LogKeys;

    /// The checkpoint counter's value.
    ///
    /// # Errors
    /// [`SealError::CounterMissing`], [`SealError::CounterReplaced`], or the device's.
    fn counter(&mut self) -> Result<u64, SealError>;

    /// Adds one to the checkpoint counter, durably, and returns the new value.
    ///
    /// # Errors
    /// As [`counter`](Self::counter).
    fn advance(&mut self) -> Result<u64, SealError>;

    /// Signs `text`, and lets a TPM sign `qualifying`.
    ///
    /// # Errors
    /// The device's.
    fn vouch(&mut self, text: &[u8], qualifying: &[u8; 32]) -> Result<Vouched, SealError>;
}

/// A [`Checkpointer`] over any keeper.
pub(crate) struct Desk<K> {
    keeper: K,
    body: Body,
    attestor: Attestor,
    root_keys: Arc<RootKeys>,
    public: LogKeys,
}

impl<K: Keeper> Desk<K> {
    pub(crate) fn new(keeper: K, body: Body, root_keys: Arc<RootKeys>) -> Result<Self, SealError> {
        let attestor = body.attestor.clone().ok_or(SealError::DamagedRecord {
            reason: "it has no attestation key yet",
        })?;
        let public = LogKeys {
            ed25519: ed25519_public(&root_keys.log)?,
            tpm: match &attestor {
                Attestor::Software => None,
                Attestor::Tpm(tpm) => Some(TpmLogKeys {
                    attestation_key: tpm.public.0.clone(),
                    endorsement_name: tpm.endorsement_name.0.clone(),
                    counter: tpm.counter_public.0.clone(),
                    certifies: tpm.certifies,
                }),
            },
        };
        Ok(Self {
            keeper,
            body,
            attestor,
            root_keys,
            public,
        })
    }
}

impl<K: Keeper> Checkpointer for Desk<K> {
    fn keys(&self) -> &LogKeys {
        &self.public
    }

    fn counter(&mut self) -> Result<u64, SealError> {
        let mut link = self.keeper.connect()?;
        link.checkpoint_counter(&self.body, &self.attestor, &self.root_keys)
    }

    fn advance(&mut self) -> Result<u64, SealError> {
        let mut link = self.keeper.connect()?;
        link.advance_checkpoint(&self.body, &self.attestor, &self.root_keys)
    }

    fn vouch(&mut self, text: &[u8], qualifying: &[u8; 32]) -> Result<Vouched, SealError> {
        Ok(Vouched {
            signature: ed25519_sign(&self.root_keys.log, text)?,
            tpm: self.keeper.attest(&self.attestor, qualifying)?,
        })
    }
}
