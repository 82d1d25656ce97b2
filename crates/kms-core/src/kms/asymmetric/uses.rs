//! What is done with the material of asymmetric and HMAC keys, once the snapshot has allowed it.

use std::sync::Arc;

use kms_api::{
    ApiError, Blob, DecapsulateResponse, DeriveSharedSecretResponse, EncapsulateResponse,
    EncapsulationAlgorithm, ErrorCode, GenerateMacResponse, KeyAgreementAlgorithm, MacAlgorithm,
    MessageType, Response, SignResponse, SigningAlgorithm, VerifyMacResponse, VerifyResponse,
};
use kms_crypto::asymmetric::{SignatureScheme, SignedMessage};
use kms_crypto::{CryptoError, SecretBytes, constant_time_eq};

use super::super::crypto::{dry_run_refusal, provider_error};
use super::super::internal;
use super::{hmac_hash, public_key};
use crate::provider::{KeyOperation, KeyProvider, ProviderError};
use crate::rows::MaterialRow;

/// One use of one key.
pub(in crate::kms) struct KeyUse {
    pub(super) material: Arc<MaterialRow>,
    pub(super) arn: String,
    pub(super) what: What,
    /// Do it, and then only say that it would have succeeded.
    pub(super) dry_run: bool,
}

pub(super) enum What {
    Sign(Signed),
    Verify(Signed, Blob),
    Mac(MacAlgorithm, Blob),
    VerifyMac(MacAlgorithm, Blob, Blob),
    Agree {
        algorithm: KeyAgreementAlgorithm,
        peer: Blob,
        origin: kms_api::Origin,
    },
    Encapsulate(EncapsulationAlgorithm),
    Decapsulate(EncapsulationAlgorithm, Blob),
}

/// A message, and how it is signed.
pub(super) struct Signed {
    pub(super) algorithm: SigningAlgorithm,
    pub(super) scheme: SignatureScheme,
    pub(super) message_type: MessageType,
    pub(super) message: Blob,
}

impl Signed {
    fn message(&self) -> SignedMessage<'_> {
        let bytes = self.message.as_slice();
        match self.message_type {
            MessageType::Raw => SignedMessage::Raw(bytes),
            // AWS hashes once more what it is given: the digest is the message of Ed25519ph.
            MessageType::Digest if self.scheme == SignatureScheme::Ed25519Ph => {
                SignedMessage::Raw(bytes)
            }
            MessageType::Digest => SignedMessage::Digest(bytes),
            MessageType::ExternalMu => SignedMessage::ExternalMu(bytes),
        }
    }
}

impl KeyUse {
    /// Whether it takes more than some microseconds.
    pub(in crate::kms) fn is_slow(&self) -> bool {
        !matches!(self.what, What::Mac(..) | What::VerifyMac(..))
    }

    pub(in crate::kms) async fn run(
        self,
        provider: &dyn KeyProvider,
    ) -> Result<Response, ApiError> {
        let key_id = self.arn.clone();
        let response = match &self.what {
            What::Sign(signed) => {
                let operation = KeyOperation::Sign(signed.scheme, signed.message());
                Response::Sign(SignResponse {
                    key_id,
                    signature: blob(&self.operate(provider, operation).await?),
                    signing_algorithm: signed.algorithm,
                })
            }
            What::Verify(signed, signature) => {
                let key = public_key(&self.material)?;
                match key.verify(signed.scheme, signed.message(), signature.as_slice()) {
                    Ok(()) => {}
                    Err(CryptoError::Authentication) => {
                        return Err(ApiError::bare(ErrorCode::InvalidSignature));
                    }
                    Err(_) => return Err(internal("A cryptographic operation failed.")),
                }
                Response::Verify(VerifyResponse {
                    key_id,
                    signature_valid: true,
                    signing_algorithm: signed.algorithm,
                })
            }
            What::Mac(algorithm, message) => {
                let mac = self.mac(provider, *algorithm, message).await?;
                Response::GenerateMac(GenerateMacResponse {
                    mac: blob(&mac),
                    mac_algorithm: *algorithm,
                    key_id,
                })
            }
            What::VerifyMac(algorithm, message, mac) => {
                let right = self.mac(provider, *algorithm, message).await?;
                if !constant_time_eq(right.expose(), mac.as_slice()) {
                    return Err(ApiError::bare(ErrorCode::InvalidMac));
                }
                Response::VerifyMac(VerifyMacResponse {
                    key_id,
                    mac_valid: true,
                    mac_algorithm: *algorithm,
                })
            }
            What::Agree {
                algorithm,
                peer,
                origin,
            } => {
                let operation = KeyOperation::Agree(peer.as_slice());
                let secret = self.operate(provider, operation).await?;
                Response::DeriveSharedSecret(DeriveSharedSecretResponse {
                    key_id,
                    shared_secret: blob(&secret),
                    key_agreement_algorithm: *algorithm,
                    key_origin: *origin,
                })
            }
            What::Encapsulate(algorithm) => {
                let made = public_key(&self.material)?.encapsulate();
                let (secret, ciphertext) =
                    made.map_err(|_| internal("A cryptographic operation failed."))?;
                Response::Encapsulate(EncapsulateResponse {
                    key_id,
                    shared_secret: blob(&secret),
                    shared_secret_ciphertext_blob: Blob::new(ciphertext),
                    encapsulation_algorithm: *algorithm,
                })
            }
            What::Decapsulate(algorithm, ciphertext) => {
                let operation = KeyOperation::Decapsulate(ciphertext.as_slice());
                Response::Decapsulate(DecapsulateResponse {
                    key_id,
                    shared_secret: blob(&self.operate(provider, operation).await?),
                    encapsulation_algorithm: *algorithm,
                })
            }
        };
        if self.dry_run {
            return Err(dry_run_refusal());
        }
        Ok(response)
    }

    async fn mac(
        &self,
        provider: &dyn KeyProvider,
        algorithm: MacAlgorithm,
        message: &Blob,
    ) -> Result<SecretBytes, ApiError> {
        let operation = KeyOperation::Mac(hmac_hash(algorithm), message.as_slice());
        self.operate(provider, operation).await
    }

    async fn operate(
        &self,
        provider: &dyn KeyProvider,
        operation: KeyOperation<'_>,
    ) -> Result<SecretBytes, ApiError> {
        let made = provider.operate(&self.material, operation).wait().await;
        made.map_err(|error| match error {
            ProviderError::Unfit(_) if matches!(self.what, What::Agree { .. }) => {
                ApiError::validation(format!(
                    "PublicKey is not a valid public key of key spec {} (SubjectPublicKeyInfo in DER).",
                    self.material.spec
                ))
            }
            error => provider_error(&error, &self.arn),
        })
    }
}

fn blob(bytes: &SecretBytes) -> Blob {
    Blob::from(bytes.expose())
}
