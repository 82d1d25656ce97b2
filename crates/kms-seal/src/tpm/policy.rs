//! The policy of the sealed object and of the epoch secrets: a signed PCR state and the auth value.
//!
//! ```text
//! PolicyPCR(state) → PolicyAuthorize(signer, policy ref) → PolicyAuthValue
//! ```
//!
//! The signer is a P-256 key derived from the root secret itself. So the root secret is drawn first, its signer's
//! public key makes the policy, and the object is sealed under that: there is no circle. Who can
//! open the object can approve another state, nobody else can. The policy reference binds approvals to
//! this enrolment's counter, so that one made for another purpose cannot serve here. Canonical's
//! secboot does the same; its step against older approvals (PolicyNV) is missing from tss-esapi 7.7, so an older record
//! with an older approval keeps working in that older state until the epoch moves on.

use aws_lc_rs::{
    agreement,
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair},
};
use kms_crypto::{Key, sha256};
use tss_esapi::{
    Context,
    attributes::ObjectAttributesBuilder,
    constants::response_code::Tss2ResponseCodeKind,
    handles::KeyHandle,
    interface_types::{
        algorithm::{HashingAlgorithm, PublicAlgorithm},
        ecc::EccCurve,
        resource_handles::Hierarchy,
        session_handles::{AuthSession, PolicySession},
    },
    structures::{
        Digest, EccParameter, EccPoint, EccScheme, EccSignature, HashScheme, Name, Nonce, Public,
        PublicBuilder, PublicEccParametersBuilder, Signature, VerifiedTicket,
    },
    tss2_esys::TPMT_TK_VERIFIED,
};

use super::{pcr, rc, session};
use crate::{
    SealError,
    enrollment::{Approval, TpmVault},
    hex::HexArray,
    keys,
};

const BAD_APPROVAL: SealError = SealError::DamagedRecord {
    reason: "an approval does not fit",
};

/// The key that approves states. Lives only while a root secret is open.
pub(super) struct Signer {
    pair: EcdsaKeyPair,
    /// x, then y.
    pub(super) public: [u8; 64],
}

impl Signer {
    /// The signer of this root secret, always the same one.
    pub(super) fn derive(root: &Key<32>) -> Result<Self, SealError> {
        // A candidate is out of range once in 2^32.
        for attempt in 0..4_u8 {
            let scalar = keys::derive(root, b"pcr approval signer", &[attempt])?;
            let Ok(private) =
                agreement::PrivateKey::from_private_key(&agreement::ECDH_P256, scalar.expose())
            else {
                continue;
            };
            let failed = |_| SealError::Crypto("the approval signer".to_owned());
            let point = private.compute_public_key().map_err(failed)?;
            let pair = EcdsaKeyPair::from_private_key_and_public_key(
                &ECDSA_P256_SHA256_FIXED_SIGNING,
                scalar.expose(),
                point.as_ref(),
            )
            .map_err(|_| SealError::Crypto("the approval signer".to_owned()))?;
            // SEC 1 uncompressed form: 4, x, y.
            let public = point
                .as_ref()
                .strip_prefix(&[4])
                .and_then(|xy| <[u8; 64]>::try_from(xy).ok())
                .ok_or_else(|| SealError::Crypto("the approval signer".to_owned()))?;
            return Ok(Self { pair, public });
        }
        Err(SealError::Crypto(
            "no approval signer in four attempts".to_owned(),
        ))
    }

    /// Signs the statement that `values` may open the object.
    pub(super) fn approve(
        &self,
        values: pcr::Values,
        policy_ref: &[u8; 32],
    ) -> Result<Approval, SealError> {
        let mut statement = pcr::policy_digest(&values).to_vec();
        statement.extend_from_slice(policy_ref);
        let failed = || SealError::Crypto("to sign an approval".to_owned());
        let signature = self
            .pair
            .sign(&SystemRandom::new(), &statement)
            .map_err(|_| failed())?;
        let signature = <[u8; 64]>::try_from(signature.as_ref()).map_err(|_| failed())?;
        Ok(Approval {
            pcrs: values,
            signature: HexArray(signature),
        })
    }
}

/// What approvals of this enrolment refer to.
pub(super) fn reference(id: &[u8; 16], counter_name: &[u8]) -> [u8; 32] {
    sha256(&[b"kms-seal v0 unseal approval", id, counter_name])
}

/// Digest of the whole policy (TPM 2.0 part 3, 23.16 and 23.17), for a signer with the given name.
pub(super) fn digest(signer_name: &[u8], policy_ref: &[u8; 32]) -> [u8; 32] {
    const CC_POLICY_AUTHORIZE: [u8; 4] = [0, 0, 0x01, 0x6a];
    const CC_POLICY_AUTH_VALUE: [u8; 4] = [0, 0, 0x01, 0x6b];
    let authorized = sha256(&[&[0; 32], &CC_POLICY_AUTHORIZE, signer_name]);
    let referenced = sha256(&[&authorized, policy_ref]);
    sha256(&[&referenced, &CC_POLICY_AUTH_VALUE])
}

/// Name of the signer's public key, as the TPM computes it.
pub(super) fn signer_name(
    context: &mut Context,
    signer: &HexArray<64>,
) -> Result<Vec<u8>, SealError> {
    with_verifier(context, signer, |_, _, name| Ok(name.value().to_vec()))
}

/// An approval that the TPM has verified, for any number of policy sessions.
pub(super) struct Verified {
    approval: Approval,
    policy_ref: [u8; 32],
    digest: [u8; 32],
    signer: Name,
    /// The wrapper's own type is used up by one command.
    ticket: TPMT_TK_VERIFIED,
}

impl Verified {
    /// Finds the approval for the state now and lets the TPM check its signature.
    pub(super) fn find(context: &mut Context, vault: &TpmVault) -> Result<Self, SealError> {
        let approval = pcr::find_approval(context, &vault.approvals)?.clone();
        let digest = pcr::policy_digest(&approval.pcrs);
        let policy_ref = vault.policy_ref.0;
        let statement = Digest::try_from(sha256(&[&digest, &policy_ref]).to_vec())
            .map_err(rc::failed("an approval"))?;
        let signature = to_signature(&approval.signature).map_err(|_| BAD_APPROVAL)?;
        with_verifier(context, &vault.signer, |context, key, signer| {
            let ticket = context
                .execute_without_session(|context| {
                    context.verify_signature(key, statement, signature)
                })
                .map_err(|error| match rc::kind(&error) {
                    Some(Tss2ResponseCodeKind::Signature | Tss2ResponseCodeKind::EccPoint) => {
                        BAD_APPROVAL
                    }
                    _ => rc::failed("to verify an approval")(error),
                })?
                .try_into()
                .map_err(rc::failed("an approval"))?;
            Ok(Self {
                approval,
                policy_ref,
                digest,
                signer,
                ticket,
            })
        })
    }

    /// Satisfies the policy in `session`, all but the auth value, which the command proves. To be done anew for each
    /// command: its success resets the session.
    pub(super) fn satisfy(
        &self,
        context: &mut Context,
        session: AuthSession,
    ) -> Result<(), SealError> {
        let failed = rc::failed("the policy");
        let policy = PolicySession::try_from(session).map_err(&failed)?;
        let approved = Digest::try_from(self.digest.to_vec()).map_err(&failed)?;
        let reference = Nonce::try_from(self.policy_ref.to_vec()).map_err(&failed)?;
        let ticket = VerifiedTicket::try_from(self.ticket).map_err(&failed)?;
        let selection = pcr::selection(self.approval.pcrs.keys().copied())?;
        context.execute_without_session(|context| {
            if !self.approval.pcrs.is_empty() {
                context
                    .policy_pcr(policy, Digest::default(), selection)
                    .map_err(&failed)?;
            }
            context
                .policy_authorize(policy, approved, reference, &self.signer, ticket)
                .map_err(|error| match rc::kind(&error) {
                    // The state is not the approved one: it moved between our reading and now.
                    Some(Tss2ResponseCodeKind::Value) => SealError::Tpm {
                        operation: "the policy",
                        reason: "a PCR changed at this moment".to_owned(),
                    },
                    _ => failed(error),
                })?;
            context.policy_auth_value(policy).map_err(&failed)
        })
    }
}

/// Runs `body` with the signer's public key loaded. Under the null hierarchy the TPM would give a null ticket, which
/// PolicyAuthorize refuses outside trial sessions; so it is the owner's.
fn with_verifier<T>(
    context: &mut Context,
    signer: &HexArray<64>,
    body: impl FnOnce(&mut Context, KeyHandle, Name) -> Result<T, SealError>,
) -> Result<T, SealError> {
    let public = verifier(signer).map_err(rc::failed("to describe the approval signer"))?;
    let key = context
        .execute_without_session(|context| context.load_external_public(public, Hierarchy::Owner))
        .map_err(|error| match rc::kind(&error) {
            Some(Tss2ResponseCodeKind::EccPoint | Tss2ResponseCodeKind::Key) => {
                SealError::DamagedRecord {
                    reason: "its approval signer is not a P-256 key",
                }
            }
            _ => rc::failed("to load the approval signer")(error),
        })?;
    session::with_object(context, key, |context, key| {
        let name = context
            .tr_get_name(key.into())
            .map_err(rc::failed("to name the approval signer"))?;
        body(context, key, name)
    })
}

fn verifier(signer: &HexArray<64>) -> tss_esapi::Result<Public> {
    let (x, y) = signer.0.split_at(32);
    let attributes = ObjectAttributesBuilder::new()
        .with_user_with_auth(true)
        .with_sign_encrypt(true)
        .build()?;
    PublicBuilder::new()
        .with_public_algorithm(PublicAlgorithm::Ecc)
        .with_name_hashing_algorithm(HashingAlgorithm::Sha256)
        .with_object_attributes(attributes)
        .with_ecc_parameters(
            PublicEccParametersBuilder::new_unrestricted_signing_key(
                EccScheme::EcDsa(HashScheme::new(HashingAlgorithm::Sha256)),
                EccCurve::NistP256,
            )
            .build()?,
        )
        .with_ecc_unique_identifier(EccPoint::new(
            EccParameter::try_from(x.to_vec())?,
            EccParameter::try_from(y.to_vec())?,
        ))
        .build()
}

fn to_signature(signature: &HexArray<64>) -> tss_esapi::Result<Signature> {
    let (r, s) = signature.0.split_at(32);
    Ok(Signature::EcDsa(EccSignature::create(
        HashingAlgorithm::Sha256,
        EccParameter::try_from(r.to_vec())?,
        EccParameter::try_from(s.to_vec())?,
    )?))
}
