//! The attestation key under the endorsement key, and what it signs.
//!
//! The endorsement key is made anew from its seed for each use, so nothing persistent is taken. The attestation key lies
//! in the enrolment record as the blob that the chip gave; it is restricted, so it signs what the chip says of itself and
//! nothing that somebody hands it. In the endorsement hierarchy the chip shows its real reset counts.

use kms_crypto::sha256;
use tss_esapi::{
    abstraction::ek::create_ek_public_from_default_template,
    attributes::ObjectAttributesBuilder,
    interface_types::{
        algorithm::{AsymmetricAlgorithm, HashingAlgorithm, PublicAlgorithm},
        ecc::EccCurve,
    },
    structures::{
        EccPoint, EccScheme, HashScheme, KeyDerivationFunctionScheme, Public, PublicBuilder,
        PublicEccParametersBuilder, SymmetricDefinitionObject,
    },
    traits::Marshall,
};

use super::{
    Tpm, nv,
    raw::{
        Answer, Authorization, Command, RC_COMMAND_CODE, RH_ENDORSEMENT, RH_NULL, Refusal, Wire,
    },
    rc,
};
use crate::{
    SealError,
    attest::{Quoted, TpmAttestation},
    enrollment::TpmAttestor,
    hex::Hex,
};

const CC_CREATE_PRIMARY: u32 = 0x131;
const CC_POLICY_SECRET: u32 = 0x151;
const CC_CREATE: u32 = 0x153;
const CC_LOAD: u32 = 0x157;
const CC_QUOTE: u32 = 0x158;
const CC_FLUSH_CONTEXT: u32 = 0x165;
const CC_POLICY_COMMAND_CODE: u32 = 0x16c;
const CC_START_AUTH_SESSION: u32 = 0x176;
const CC_NV_CERTIFY: u32 = 0x184;
const ALG_SHA256: [u8; 2] = [0, 0x0b];
const ALG_NULL: [u8; 2] = [0, 0x10];
const ALG_ECDSA: u16 = 0x18;
const SE_POLICY: u8 = 1;
/// TPM2B_SENSITIVE_CREATE with an empty authorisation value and no data.
const NO_SENSITIVE: [u8; 6] = [0, 4, 0, 0, 0, 0];
/// Empty outside information and no PCRs at creation.
const NO_CREATION_DATA: [u8; 6] = [0; 6];

/// A key as the chip gave it, and the name of its parent.
pub(super) struct MadeKey {
    pub(super) public: Vec<u8>,
    pub(super) private: Vec<u8>,
    pub(super) endorsement_name: Vec<u8>,
}

/// Policy of the checkpoint counter for readers: TPM2_NV_Certify may read it without a password (TPM 2.0 part 3,
/// 23.11).
pub(super) fn certify_policy() -> [u8; 32] {
    sha256(&[
        &[0; 32],
        &CC_POLICY_COMMAND_CODE.to_be_bytes(),
        &CC_NV_CERTIFY.to_be_bytes(),
    ])
}

impl Tpm {
    /// Makes an attestation key.
    pub(super) fn make_attestation_key(&self) -> Result<MadeKey, SealError> {
        const STEP: &str = "to make the attestation key";
        let template = attestation_template()
            .and_then(|public| public.marshall())
            .map_err(rc::failed(STEP))?;
        self.under_endorsement(|wire, endorsement, name| {
            let session = endorsement_session(wire)?;
            let command = Command::new(CC_CREATE)
                .handle(endorsement)
                .authorized(Authorization::Policy(session))
                .bytes(&NO_SENSITIVE)
                .sized(&template)
                .bytes(&NO_CREATION_DATA);
            let answer = wire.run(&command).map_err(|error| error.during(STEP))?;
            let mut answer = Answer(&answer);
            let _size = answer.u32()?;
            let private = answer.sized()?.to_vec();
            Ok(MadeKey {
                private,
                public: answer.sized()?.to_vec(),
                endorsement_name: name.to_vec(),
            })
        })
    }

    /// Lets the chip sign `qualifying` with its clock and, where it can, with the counter's value.
    pub(super) fn attest_with(
        &self,
        attestor: &TpmAttestor,
        qualifying: &[u8; 32],
    ) -> Result<TpmAttestation, SealError> {
        let pcrs = self.config.pcrs.clone();
        self.under_endorsement(|wire, endorsement, _| {
            let session = endorsement_session(wire)?;
            let command = Command::new(CC_LOAD)
                .handle(endorsement)
                .authorized(Authorization::Policy(session))
                .sized(&attestor.private.0)
                .sized(&attestor.public.0);
            let answer = wire
                .run(&command)
                .map_err(|error| error.during("to load the attestation key"))?;
            let key = Answer(&answer).u32()?;
            let outcome = sign(wire, key, attestor, qualifying, &pcrs);
            let flushed = flush(wire, key);
            outcome.and_then(|signed| flushed.map(|()| signed))
        })
    }

    /// Runs `body` with the endorsement key and its name; the key is flushed whatever happens.
    fn under_endorsement<T>(
        &self,
        body: impl FnOnce(&mut Wire, u32, &[u8]) -> Result<T, SealError>,
    ) -> Result<T, SealError> {
        const STEP: &str = "to make the endorsement key";
        let template = create_ek_public_from_default_template(AsymmetricAlgorithm::Ecc, None)
            .and_then(|public| public.marshall())
            .map_err(rc::failed(STEP))?;
        let mut wire = Wire::open(&self.config.device)?;
        let command = Command::new(CC_CREATE_PRIMARY)
            .handle(RH_ENDORSEMENT)
            .authorized(Authorization::Empty)
            .bytes(&NO_SENSITIVE)
            .sized(&template)
            .bytes(&NO_CREATION_DATA);
        let answer = wire.run(&command).map_err(endorsement_refused)?;
        let mut answer = Answer(&answer);
        let key = answer.u32()?;
        let outcome = answer
            .u32()
            .and_then(|_size| answer.sized())
            .map(|public| [ALG_SHA256.as_slice(), &sha256(&[public])].concat())
            .and_then(|name| body(&mut wire, key, &name));
        let flushed = flush(&mut wire, key);
        outcome.and_then(|value| flushed.map(|()| value))
    }
}

/// A policy session that the endorsement key's policy accepts: its hierarchy's password, which is empty.
fn endorsement_session(wire: &mut Wire) -> Result<u32, SealError> {
    let session = start_session(wire)?;
    let command = Command::new(CC_POLICY_SECRET)
        .handle(RH_ENDORSEMENT)
        .handle(session)
        .authorized(Authorization::Empty)
        // No nonce, no command, no reference, no expiry.
        .bytes(&[0; 10]);
    match wire.run(&command) {
        Ok(_) => Ok(session),
        Err(refusal) => {
            flush(wire, session)?;
            Err(endorsement_refused(refusal))
        }
    }
}

fn endorsement_refused(refusal: Refusal) -> SealError {
    const BAD_AUTH: u32 = 0x0a2;
    const AUTH_FAIL: u32 = 0x08e;
    match refusal {
        // Format one: without the number of the session.
        Refusal::Code(code) if [BAD_AUTH, AUTH_FAIL].contains(&(code & 0x0bf)) => SealError::Tpm {
            operation: "to use the endorsement hierarchy",
            reason: "it has a password; checkpoints need it to be empty".to_owned(),
        },
        other => other.during("to use the endorsement hierarchy"),
    }
}

fn start_session(wire: &mut Wire) -> Result<u32, SealError> {
    let nonce: [u8; 32] = kms_crypto::random_array()?;
    let command = Command::new(CC_START_AUTH_SESSION)
        .handle(RH_NULL)
        .handle(RH_NULL)
        .sized(&nonce)
        .sized(&[])
        .bytes(&[SE_POLICY])
        .bytes(&ALG_NULL)
        .bytes(&ALG_SHA256);
    let answer = wire
        .run(&command)
        .map_err(|error| error.during("to start a session"))?;
    Answer(&answer).u32()
}

fn flush(wire: &mut Wire, handle: u32) -> Result<(), SealError> {
    let command = Command::new(CC_FLUSH_CONTEXT).handle(handle);
    wire.run(&command)
        .map(drop)
        .map_err(|error| error.during("a flush"))
}

fn sign(
    wire: &mut Wire,
    key: u32,
    attestor: &TpmAttestor,
    qualifying: &[u8; 32],
    pcrs: &[u32],
) -> Result<TpmAttestation, SealError> {
    let mut selected = [0_u8; 3];
    for pcr in pcrs {
        let byte = usize::try_from(pcr / 8).ok();
        if let Some(byte) = byte.and_then(|byte| selected.get_mut(byte)) {
            *byte |= 1 << (pcr % 8);
        }
    }
    let command = Command::new(CC_QUOTE)
        .handle(key)
        .authorized(Authorization::Empty)
        .sized(qualifying)
        .bytes(&ALG_NULL)
        .bytes(&[0, 0, 0, 1])
        .bytes(&ALG_SHA256)
        .bytes(&[3])
        .bytes(&selected);
    let answer = wire
        .run(&command)
        .map_err(|error| error.during("to quote"))?;
    let quote = signed(&answer)?;
    let certification = match certify(wire, key, attestor, qualifying) {
        Ok(answer) => Some(signed(&answer)?),
        // Not a command that every chip has.
        Err(Refusal::Code(RC_COMMAND_CODE)) if !attestor.certifies => None,
        Err(refusal) => return Err(refusal.during("to certify the checkpoint counter")),
    };
    Ok(TpmAttestation {
        quote,
        certification,
    })
}

/// TPM2_NV_Certify of the whole counter.
fn certify(
    wire: &mut Wire,
    key: u32,
    attestor: &TpmAttestor,
    qualifying: &[u8; 32],
) -> Result<Vec<u8>, Refusal> {
    let session = start_session(wire)?;
    let restrict = Command::new(CC_POLICY_COMMAND_CODE)
        .handle(session)
        .bytes(&CC_NV_CERTIFY.to_be_bytes());
    let index = attestor.counter.index;
    let command = Command::new(CC_NV_CERTIFY)
        .handle(key)
        .handle(index)
        .handle(index)
        .authorized(Authorization::Empty)
        .authorized(Authorization::Policy(session))
        .sized(qualifying)
        .bytes(&ALG_NULL)
        .bytes(&nv::COUNTER_LEN.to_be_bytes())
        .bytes(&[0, 0]);
    let outcome = wire.run(&restrict).and_then(|_| wire.run(&command));
    if outcome.is_err() {
        // Only a successful use ends the session.
        flush(wire, session)?;
    }
    outcome
}

/// TPM2B_ATTEST and TPMT_SIGNATURE of an answer.
fn signed(answer: &[u8]) -> Result<Quoted, SealError> {
    let malformed = |reason: &str| SealError::Tpm {
        operation: "to read a signature",
        reason: reason.to_owned(),
    };
    let mut answer = Answer(answer);
    let _size = answer.u32()?;
    let attest = answer.sized()?.to_vec();
    if answer.u16()? != ALG_ECDSA || answer.take(2)? != ALG_SHA256 {
        return Err(malformed("it is not ECDSA with SHA-256"));
    }
    let mut signature = [0; 64];
    let (to_r, to_s) = signature.split_at_mut(32);
    for to in [to_r, to_s] {
        let number = answer.sized()?;
        let start = 32_usize.checked_sub(number.len());
        start
            .and_then(|start| to.get_mut(start..))
            .ok_or_else(|| malformed("a number has more than 32 bytes"))?
            .copy_from_slice(number);
    }
    Ok(Quoted { attest, signature })
}

/// A restricted ECDSA P-256 key that cannot leave the chip. Its failures are not counted, so that a locked chip goes on
/// attesting; it has no authorisation value that could be guessed.
fn attestation_template() -> tss_esapi::Result<Public> {
    let attributes = ObjectAttributesBuilder::new()
        .with_fixed_tpm(true)
        .with_fixed_parent(true)
        .with_sensitive_data_origin(true)
        .with_user_with_auth(true)
        .with_no_da(true)
        .with_restricted(true)
        .with_sign_encrypt(true)
        .build()?;
    PublicBuilder::new()
        .with_public_algorithm(PublicAlgorithm::Ecc)
        .with_name_hashing_algorithm(HashingAlgorithm::Sha256)
        .with_object_attributes(attributes)
        .with_ecc_parameters(
            PublicEccParametersBuilder::new()
                .with_symmetric(SymmetricDefinitionObject::Null)
                .with_ecc_scheme(EccScheme::EcDsa(HashScheme::new(HashingAlgorithm::Sha256)))
                .with_curve(EccCurve::NistP256)
                .with_key_derivation_function_scheme(KeyDerivationFunctionScheme::Null)
                .with_is_signing_key(true)
                .with_restricted(true)
                .build()?,
        )
        .with_ecc_unique_identifier(EccPoint::default())
        .build()
}

/// The record of a new attestation key with its counter.
pub(super) fn attestor(
    key: MadeKey,
    counter: crate::enrollment::NvPin,
    counter_public: Vec<u8>,
) -> TpmAttestor {
    TpmAttestor {
        public: Hex(key.public),
        private: Hex(key.private),
        endorsement_name: Hex(key.endorsement_name),
        counter,
        counter_public: Hex(counter_public),
        certifies: true,
    }
}
