//! Encrypt, Decrypt, ReEncrypt, GenerateDataKey and its sibling. The snapshot decides which version
//! of which key is used for what; the provider then uses it.

use std::collections::BTreeMap;
use std::sync::Arc;

use kms_api::{
    ApiError, Blob, DataKeySpec, DecryptRequest, DecryptResponse, DryRunModifier, EncryptRequest,
    EncryptResponse, EncryptionAlgorithm, ErrorCode, GenerateDataKeyRequest,
    GenerateDataKeyResponse, GenerateDataKeyWithoutPlaintextRequest,
    GenerateDataKeyWithoutPlaintextResponse, ReEncryptRequest, ReEncryptResponse, Response,
};

use super::{Kms, Outcome, World, internal, no_entropy};
use crate::authz::Authorized;
use crate::blob::{Header, associated_data};
use crate::ids::Scope;
use crate::place::At;
use crate::provider::{KeyProvider, ProviderError};
use crate::rows::{KeyRow, MaterialRow};
use crate::states::Action;

const SYMMETRIC: EncryptionAlgorithm = EncryptionAlgorithm::SymmetricDefault;

/// A use of key material that the snapshot has allowed.
pub struct Use {
    kind: Kind,
}

enum Kind {
    Encrypt {
        under: Sealing,
        plaintext: Blob,
    },
    Decrypt {
        from: Opening,
        dry_run: bool,
    },
    ReEncrypt {
        from: Opening,
        under: Sealing,
        dry_run: bool,
    },
    DataKey {
        under: Sealing,
        plaintext: Blob,
        reply_with_plaintext: bool,
    },
}

/// Material to seal with, and what goes around the message.
struct Sealing {
    material: Arc<MaterialRow>,
    header: Vec<u8>,
    associated: Vec<u8>,
    arn: String,
}

/// Material to open with, and the message.
struct Opening {
    material: Arc<MaterialRow>,
    sealed: Vec<u8>,
    associated: Vec<u8>,
    arn: String,
}

impl Use {
    /// Does it.
    ///
    /// # Errors
    /// The error to reply with.
    pub async fn run(self, provider: &dyn KeyProvider) -> Result<Response, ApiError> {
        match self.kind {
            Kind::Encrypt { under, plaintext } => Ok(Response::Encrypt(EncryptResponse {
                ciphertext_blob: under.seal(provider, plaintext.as_slice()).await?,
                key_id: under.arn,
                encryption_algorithm: SYMMETRIC,
            })),
            Kind::Decrypt { from, dry_run } => {
                let plaintext = from.open(provider).await?;
                if dry_run {
                    return Err(dry_run_refusal());
                }
                Ok(Response::Decrypt(DecryptResponse {
                    key_id: from.arn,
                    plaintext,
                    encryption_algorithm: SYMMETRIC,
                    key_material_id: Some(from.material.id.to_string()),
                }))
            }
            Kind::ReEncrypt {
                from,
                under,
                dry_run,
            } => {
                let plaintext = from.open(provider).await?;
                if dry_run {
                    return Err(dry_run_refusal());
                }
                Ok(Response::ReEncrypt(ReEncryptResponse {
                    ciphertext_blob: under.seal(provider, plaintext.as_slice()).await?,
                    source_key_id: from.arn,
                    key_id: under.arn,
                    source_encryption_algorithm: SYMMETRIC,
                    destination_encryption_algorithm: SYMMETRIC,
                    source_key_material_id: Some(from.material.id.to_string()),
                    destination_key_material_id: Some(under.material.id.to_string()),
                }))
            }
            Kind::DataKey {
                under,
                plaintext,
                reply_with_plaintext,
            } => {
                let ciphertext_blob = under.seal(provider, plaintext.as_slice()).await?;
                let key_material_id = Some(under.material.id.to_string());
                let key_id = under.arn;
                Ok(if reply_with_plaintext {
                    Response::GenerateDataKey(GenerateDataKeyResponse {
                        ciphertext_blob,
                        plaintext,
                        key_id,
                        key_material_id,
                    })
                } else {
                    Response::GenerateDataKeyWithoutPlaintext(
                        GenerateDataKeyWithoutPlaintextResponse {
                            ciphertext_blob,
                            key_id,
                            key_material_id,
                        },
                    )
                })
            }
        }
    }
}

impl Sealing {
    async fn seal(&self, provider: &dyn KeyProvider, plaintext: &[u8]) -> Result<Blob, ApiError> {
        let sealed = provider
            .seal(&self.material, &self.associated, plaintext)
            .wait()
            .await;
        let mut blob = self.header.clone();
        blob.extend_from_slice(&sealed.map_err(|error| self.refusal(&error))?);
        Ok(Blob::new(blob))
    }

    fn refusal(&self, error: &ProviderError) -> ApiError {
        provider_error(error, &self.arn)
    }
}

impl Opening {
    async fn open(&self, provider: &dyn KeyProvider) -> Result<Blob, ApiError> {
        let opened = provider
            .open(&self.material, &self.associated, &self.sealed)
            .wait()
            .await;
        match opened {
            Ok(plaintext) => Ok(Blob::from(plaintext.expose())),
            Err(error) => Err(provider_error(&error, &self.arn)),
        }
    }
}

fn provider_error(error: &ProviderError, arn: &str) -> ApiError {
    match error {
        ProviderError::DoesNotOpen => ApiError::bare(ErrorCode::InvalidCiphertext),
        ProviderError::Damaged(_) => internal("Key material is damaged in the store."),
        ProviderError::Unavailable(_) => {
            ApiError::new(ErrorCode::KeyUnavailable, format!("{arn} is unavailable."))
        }
    }
}

impl Kms {
    pub(super) fn encrypt(
        &self,
        auth: &Authorized,
        request: &EncryptRequest,
    ) -> Result<Outcome, ApiError> {
        let key = self.key_or_alias(auth, &request.key_id)?;
        check_algorithm(request.encryption_algorithm)?;
        let under = self.sealing(auth, key, &request.encryption_context)?;
        if request.dry_run {
            return Err(dry_run_refusal());
        }
        Ok(Use {
            kind: Kind::Encrypt {
                under,
                plaintext: request.plaintext.clone(),
            },
        }
        .into())
    }

    pub(super) fn decrypt(
        &self,
        auth: &Authorized,
        request: &DecryptRequest,
    ) -> Result<Outcome, ApiError> {
        let opening = self.opening(
            auth,
            request.key_id.as_deref(),
            request.encryption_algorithm,
            request.ciphertext_blob.as_ref(),
            &request.encryption_context,
            request.dry_run && ignores_ciphertext(&request.dry_run_modifiers),
        )?;
        match opening {
            Some(from) => Ok(Use {
                kind: Kind::Decrypt {
                    from,
                    dry_run: request.dry_run,
                },
            }
            .into()),
            None => Err(dry_run_refusal()),
        }
    }

    pub(super) fn re_encrypt(
        &self,
        auth: &Authorized,
        request: &ReEncryptRequest,
    ) -> Result<Outcome, ApiError> {
        let destination = self.key_or_alias(auth, &request.destination_key_id)?;
        check_algorithm(request.destination_encryption_algorithm)?;
        let from = self.opening(
            auth,
            request.source_key_id.as_deref(),
            request.source_encryption_algorithm,
            request.ciphertext_blob.as_ref(),
            &request.source_encryption_context,
            request.dry_run && ignores_ciphertext(&request.dry_run_modifiers),
        )?;
        let under = self.sealing(auth, destination, &request.destination_encryption_context)?;
        match from {
            Some(from) => Ok(Use {
                kind: Kind::ReEncrypt {
                    from,
                    under,
                    dry_run: request.dry_run,
                },
            }
            .into()),
            None => Err(dry_run_refusal()),
        }
    }

    pub(super) fn generate_data_key(
        &self,
        auth: &Authorized,
        request: &GenerateDataKeyRequest,
        world: &World<'_>,
    ) -> Result<Outcome, ApiError> {
        let key = self.key_or_alias(auth, &request.key_id)?;
        let under = self.sealing(auth, key, &request.encryption_context)?;
        if request.dry_run {
            return Err(dry_run_refusal());
        }
        let plaintext = random_blob(length(request.number_of_bytes, request.key_spec), world)?;
        Ok(Use {
            kind: Kind::DataKey {
                under,
                plaintext,
                reply_with_plaintext: true,
            },
        }
        .into())
    }

    pub(super) fn generate_data_key_without_plaintext(
        &self,
        auth: &Authorized,
        request: &GenerateDataKeyWithoutPlaintextRequest,
        world: &World<'_>,
    ) -> Result<Outcome, ApiError> {
        let key = self.key_or_alias(auth, &request.key_id)?;
        let under = self.sealing(auth, key, &request.encryption_context)?;
        if request.dry_run {
            return Err(dry_run_refusal());
        }
        let plaintext = random_blob(length(request.number_of_bytes, request.key_spec), world)?;
        Ok(Use {
            kind: Kind::DataKey {
                under,
                plaintext,
                reply_with_plaintext: false,
            },
        }
        .into())
    }

    /// The current material of a key that may encrypt.
    fn sealing(
        &self,
        auth: &Authorized,
        key: &KeyRow,
        context: &BTreeMap<String, String>,
    ) -> Result<Sealing, ApiError> {
        self.allow(auth, Action::Cryptographic, key)?;
        let current = key
            .current
            .and_then(|id| self.snapshot.materials.get(&key.id)?.get(&id));
        let material = current.ok_or_else(|| internal("A key has lost its material."))?;
        let scope = self.snapshot.scope_of(key.id.place());
        let header = Header {
            scope: Scope::clone(&scope),
            key: key.id,
            material: material.id,
        }
        .encode();
        let associated = associated_data(&header, context);
        Ok(Sealing {
            material: Arc::clone(material),
            header,
            associated,
            arn: self.arn(key.id),
        })
    }

    /// The material that a blob names, if its key may decrypt; nothing when the blob is not to be
    /// looked at.
    fn opening(
        &self,
        auth: &Authorized,
        key_text: Option<&str>,
        algorithm: Option<EncryptionAlgorithm>,
        blob: Option<&Blob>,
        context: &BTreeMap<String, String>,
        ignore_blob: bool,
    ) -> Result<Option<Opening>, ApiError> {
        let named = key_text
            .map(|text| self.key_or_alias(auth, text))
            .transpose()?;
        check_algorithm(algorithm)?;
        if let Some(key) = named {
            self.allow(auth, Action::Cryptographic, key)?;
            if ignore_blob {
                return Ok(None);
            }
        } else if ignore_blob {
            return Err(ApiError::validation(
                "1 validation error detected: Value null at 'keyId' failed to satisfy \
                 constraint: Member must not be null",
            ));
        }
        let damaged = || ApiError::bare(ErrorCode::InvalidCiphertext);
        let bytes = blob.map_or(&[][..], Blob::as_slice);
        let (header, header_bytes, sealed) = Header::decode(bytes).ok_or_else(damaged)?;
        let found = self.key_of_header(auth, &header)?;
        if named.is_some_and(|key| key.id != found.id) {
            let text = "The key ID in the request does not identify a CMK that can perform this operation.";
            return Err(ApiError::new(ErrorCode::IncorrectKey, text));
        }
        if named.is_none() {
            self.allow(auth, Action::Cryptographic, found)?;
        }
        let versions = self.snapshot.materials.get(&found.id);
        let material = versions
            .and_then(|v| v.get(&header.material))
            .ok_or_else(damaged)?;
        Ok(Some(Opening {
            material: Arc::clone(material),
            sealed: sealed.to_vec(),
            associated: associated_data(header_bytes, context),
            arn: self.arn(found.id),
        }))
    }
}

impl Kms {
    /// The key that a ciphertext names, of the caller's Region. A ciphertext of a multi-Region key is opened in any Region
    /// where that key is. One answer for keys of other stores and Regions, keys that never were and keys that are destroyed.
    pub(crate) fn key_of_header(
        &self,
        at: &impl AsRef<At>,
        header: &Header,
    ) -> Result<&Arc<KeyRow>, ApiError> {
        let At { scope, place, .. } = at.as_ref();
        let place = if header.scope == **scope {
            Some(*place)
        } else if header.scope.region == scope.region || header.key.is_multi_region() {
            let there = Scope {
                account: header.scope.account.clone(),
                region: scope.region.clone(),
            };
            self.snapshot.known_place(&there)
        } else {
            None
        };
        place
            .and_then(|place| self.live_key(header.key.at(place)))
            .ok_or_else(unknown_key)
    }
}

/// Random bytes for a reply.
pub(super) fn random_blob(length: u32, world: &World<'_>) -> Result<Blob, ApiError> {
    let length = usize::try_from(length).unwrap_or(usize::MAX).min(1024);
    let mut bytes = vec![0; length];
    world.entropy.fill(&mut bytes).map_err(no_entropy)?;
    Ok(Blob::new(bytes))
}

fn length(bytes: Option<u32>, spec: Option<DataKeySpec>) -> u32 {
    match spec {
        Some(DataKeySpec::Aes128) => 16,
        Some(DataKeySpec::Aes256) => 32,
        // The decoder takes exactly one of the two.
        None => bytes.unwrap_or(32),
    }
}

fn ignores_ciphertext(modifiers: &[DryRunModifier]) -> bool {
    modifiers.contains(&DryRunModifier::IgnoreCiphertext)
}

fn check_algorithm(algorithm: Option<EncryptionAlgorithm>) -> Result<(), ApiError> {
    match algorithm {
        None | Some(SYMMETRIC) => Ok(()),
        Some(other) => {
            let text =
                format!("Algorithm {other} is incompatible with key spec SYMMETRIC_DEFAULT.");
            Err(ApiError::new(ErrorCode::InvalidKeyUsage, text))
        }
    }
}

pub(super) fn dry_run_refusal() -> ApiError {
    let text = "The request would have succeeded, but the DryRun option is set.";
    ApiError::new(ErrorCode::DryRunOperation, text)
}

pub(crate) fn unknown_key() -> ApiError {
    ApiError::new(
        ErrorCode::AccessDenied,
        "The ciphertext refers to a customer master key that does not exist, does not exist in \
         this region, or you are not allowed to access.",
    )
}
