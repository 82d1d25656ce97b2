//! The two ends of encryption: the material that seals and the material that opens.

use std::collections::BTreeMap;
use std::sync::Arc;

use kms_api::{ApiError, Blob, EncryptionAlgorithm, ErrorCode, KeySpec, KeyUsage};
use kms_crypto::CryptoError;
use kms_crypto::asymmetric::EncryptionScheme;

use super::super::asymmetric::public_key;
use super::super::{Kms, internal};
use super::{null_key_id, provider_error};
use crate::authz::Authorized;
use crate::blob::{Header, associated_data};
use crate::ids::Scope;
use crate::provider::{KeyOperation, KeyProvider};
use crate::rows::{KeyRow, MaterialRow};
use crate::specs;
use crate::states::Action;

const SYMMETRIC: EncryptionAlgorithm = EncryptionAlgorithm::SymmetricDefault;

/// Material to seal with, and what goes around the message.
pub(in crate::kms) struct Sealing {
    material: Arc<MaterialRow>,
    with: SealWith,
    pub(super) arn: String,
}

enum SealWith {
    Symmetric {
        header: Vec<u8>,
        associated: Vec<u8>,
    },
    PublicKey {
        algorithm: EncryptionAlgorithm,
        scheme: EncryptionScheme,
    },
}

/// Material to open with, and the message.
pub(super) struct Opening {
    material: Arc<MaterialRow>,
    sealed: Vec<u8>,
    with: OpenWith,
    pub(super) arn: String,
}

enum OpenWith {
    Symmetric {
        associated: Vec<u8>,
    },
    PrivateKey {
        algorithm: EncryptionAlgorithm,
        scheme: EncryptionScheme,
    },
}

impl Sealing {
    pub(super) async fn seal(
        &self,
        provider: &dyn KeyProvider,
        plaintext: &[u8],
    ) -> Result<Blob, ApiError> {
        match &self.with {
            SealWith::Symmetric { header, associated } => {
                let sealed = provider
                    .seal(&self.material, associated, plaintext)
                    .wait()
                    .await;
                let mut blob = header.clone();
                let sealed = sealed.map_err(|error| provider_error(&error, &self.arn))?;
                blob.extend_from_slice(&sealed);
                Ok(Blob::new(blob))
            }
            SealWith::PublicKey { algorithm, scheme } => {
                match public_key(&self.material)?.encrypt(*scheme, plaintext) {
                    Ok(sealed) => Ok(Blob::new(sealed)),
                    // What ReEncrypt has opened may be more than the destination holds.
                    Err(CryptoError::Length { .. }) => {
                        Err(too_long(*algorithm, self.material.spec))
                    }
                    Err(_) => Err(internal("A cryptographic operation failed.")),
                }
            }
        }
    }

    pub(super) fn algorithm(&self) -> EncryptionAlgorithm {
        match &self.with {
            SealWith::Symmetric { .. } => SYMMETRIC,
            SealWith::PublicKey { algorithm, .. } => *algorithm,
        }
    }

    /// The id of the material, which only symmetric keys show.
    pub(super) fn material_id(&self) -> Option<String> {
        shown_id(&self.material)
    }

    pub(super) fn is_slow(&self) -> bool {
        matches!(self.with, SealWith::PublicKey { .. })
    }
}

impl Opening {
    pub(super) async fn open(&self, provider: &dyn KeyProvider) -> Result<Blob, ApiError> {
        let opened = match &self.with {
            OpenWith::Symmetric { associated } => {
                let opened = provider.open(&self.material, associated, &self.sealed);
                opened.wait().await
            }
            OpenWith::PrivateKey { scheme, .. } => {
                let operation = KeyOperation::Decrypt(*scheme, &self.sealed);
                provider.operate(&self.material, operation).wait().await
            }
        };
        match opened {
            Ok(plaintext) => Ok(Blob::from(plaintext.expose())),
            Err(error) => Err(provider_error(&error, &self.arn)),
        }
    }

    pub(super) fn algorithm(&self) -> EncryptionAlgorithm {
        match &self.with {
            OpenWith::Symmetric { .. } => SYMMETRIC,
            OpenWith::PrivateKey { algorithm, .. } => *algorithm,
        }
    }

    /// The id of the material, which only symmetric keys show.
    pub(super) fn material_id(&self) -> Option<String> {
        shown_id(&self.material)
    }

    pub(super) fn is_slow(&self) -> bool {
        matches!(self.with, OpenWith::PrivateKey { .. })
    }
}

fn shown_id(material: &MaterialRow) -> Option<String> {
    (material.spec == KeySpec::SymmetricDefault).then(|| material.id.to_string())
}

/// What a ciphertext is to be opened with.
pub(super) struct Asked<'a> {
    pub(super) operation: &'static str,
    pub(super) key: Option<&'a str>,
    pub(super) algorithm: Option<EncryptionAlgorithm>,
    pub(super) blob: Option<&'a Blob>,
    pub(super) context: &'a BTreeMap<String, String>,
    pub(super) ignore_blob: bool,
}

impl Kms {
    /// The current material of a key that may encrypt with this algorithm, by default the symmetric one.
    pub(in crate::kms) fn sealing(
        &self,
        auth: &Authorized,
        key: &KeyRow,
        operation: &str,
        algorithm: Option<EncryptionAlgorithm>,
        context: &BTreeMap<String, String>,
    ) -> Result<Sealing, ApiError> {
        let algorithm = self.check_algorithm(key, operation, algorithm)?;
        self.allow(auth, Action::Cryptographic, key)?;
        let material = Arc::clone(self.current_material(key)?);
        let with = match scheme(algorithm) {
            Some(scheme) => {
                no_context(context, algorithm)?;
                SealWith::PublicKey { algorithm, scheme }
            }
            None => {
                let header = Header {
                    scope: Scope::clone(&self.snapshot.scope_of(key.id.place())),
                    key: key.id,
                    material: material.id,
                }
                .encode();
                let associated = associated_data(&header, context);
                SealWith::Symmetric { header, associated }
            }
        };
        Ok(Sealing {
            material,
            with,
            arn: self.arn(key.id),
        })
    }

    /// The material that a blob names, or that of the named asymmetric key, if the key may decrypt; nothing when the blob
    /// is not to be looked at.
    pub(super) fn opening(
        &self,
        auth: &Authorized,
        asked: &Asked<'_>,
    ) -> Result<Option<Opening>, ApiError> {
        let named = asked
            .key
            .map(|text| self.key_or_alias(auth, text))
            .transpose()?;
        let damaged = || ApiError::bare(ErrorCode::InvalidCiphertext);
        let bytes = asked.blob.map_or(&[][..], Blob::as_slice);
        if let Some(key) = named {
            let algorithm = self.check_algorithm(key, asked.operation, asked.algorithm)?;
            self.allow(auth, Action::Cryptographic, key)?;
            if let Some(scheme) = scheme(algorithm) {
                no_context(asked.context, algorithm)?;
                if asked.ignore_blob {
                    return Ok(None);
                }
                return Ok(Some(Opening {
                    material: Arc::clone(self.current_material(key)?),
                    sealed: bytes.to_vec(),
                    with: OpenWith::PrivateKey { algorithm, scheme },
                    arn: self.arn(key.id),
                }));
            }
            if asked.ignore_blob {
                return Ok(None);
            }
        } else if asked.ignore_blob {
            return Err(null_key_id());
        }
        let (header, header_bytes, sealed) = Header::decode(bytes).ok_or_else(damaged)?;
        let found = self.key_of_header(auth, &header)?;
        if named.is_some_and(|key| key.id != found.id) {
            let text = "The key ID in the request does not identify a CMK that can perform this operation.";
            return Err(ApiError::new(ErrorCode::IncorrectKey, text));
        }
        if named.is_none() {
            self.check_algorithm(found, asked.operation, asked.algorithm)?;
            self.allow(auth, Action::Cryptographic, found)?;
        }
        let versions = self.snapshot.materials.get(&found.id);
        let material = versions
            .and_then(|v| v.get(&header.material))
            .ok_or_else(damaged)?;
        Ok(Some(Opening {
            material: Arc::clone(material),
            sealed: sealed.to_vec(),
            with: OpenWith::Symmetric {
                associated: associated_data(header_bytes, asked.context),
            },
            arn: self.arn(found.id),
        }))
    }

    /// The version of a key's material that is in use.
    pub(in crate::kms) fn current_material(
        &self,
        key: &KeyRow,
    ) -> Result<&Arc<MaterialRow>, ApiError> {
        key.current
            .and_then(|id| self.snapshot.materials.get(&key.id)?.get(&id))
            .ok_or_else(|| internal("A key has lost its material."))
    }

    /// Refuses a key that does not encrypt, and an algorithm that it has not; the algorithm, also where it is the default.
    pub(in crate::kms) fn check_algorithm(
        &self,
        key: &KeyRow,
        operation: &str,
        algorithm: Option<EncryptionAlgorithm>,
    ) -> Result<EncryptionAlgorithm, ApiError> {
        self.check_usage(key, KeyUsage::EncryptDecrypt, operation)?;
        let algorithm = algorithm.unwrap_or(SYMMETRIC);
        self.check_one_of(
            key,
            &algorithm,
            specs::encryption_algorithms(key.spec, key.usage),
        )?;
        Ok(algorithm)
    }
}

fn scheme(algorithm: EncryptionAlgorithm) -> Option<EncryptionScheme> {
    match algorithm {
        EncryptionAlgorithm::SymmetricDefault => None,
        EncryptionAlgorithm::RsaesOaepSha1 => Some(EncryptionScheme::RsaOaepSha1),
        EncryptionAlgorithm::RsaesOaepSha256 => Some(EncryptionScheme::RsaOaepSha256),
        EncryptionAlgorithm::Sm2Pke => Some(EncryptionScheme::Sm2),
    }
}

/// Only the symmetric algorithm authenticates a context; to take one and do nothing with it would deceive.
fn no_context(
    context: &BTreeMap<String, String>,
    algorithm: EncryptionAlgorithm,
) -> Result<(), ApiError> {
    if context.is_empty() {
        return Ok(());
    }
    Err(ApiError::validation(format!(
        "EncryptionContext is not supported for algorithm {algorithm}."
    )))
}

/// Refuses more than the algorithm holds.
pub(super) fn check_length(
    algorithm: EncryptionAlgorithm,
    spec: KeySpec,
    plaintext: &Blob,
) -> Result<(), ApiError> {
    match specs::max_plaintext(spec, algorithm) {
        Some(most) if plaintext.len() > most => Err(too_long(algorithm, spec)),
        _ => Ok(()),
    }
}

fn too_long(algorithm: EncryptionAlgorithm, spec: KeySpec) -> ApiError {
    let most = specs::max_plaintext(spec, algorithm).unwrap_or(kms_api::MAX_PLAINTEXT);
    ApiError::validation(format!(
        "Algorithm {algorithm} and key spec {spec} cannot encrypt data larger than {most} bytes."
    ))
}
