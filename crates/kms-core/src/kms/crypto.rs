//! Encrypt, Decrypt, ReEncrypt, GenerateDataKey and its sibling. The snapshot decides which version
//! of which key is used for what; the provider then uses it.

mod ends;

use std::sync::Arc;

use kms_api::{
    ApiError, Blob, DataKeyPairSpec, DataKeySpec, DecryptRequest, DecryptResponse, DryRunModifier,
    EncryptRequest, EncryptResponse, ErrorCode, GenerateDataKeyPairResponse,
    GenerateDataKeyPairWithoutPlaintextResponse, GenerateDataKeyRequest, GenerateDataKeyResponse,
    GenerateDataKeyWithoutPlaintextRequest, GenerateDataKeyWithoutPlaintextResponse,
    ReEncryptRequest, ReEncryptResponse, Response,
};
use kms_crypto::asymmetric::KeyPair;

use super::asymmetric::KeyUse;
use super::{Kms, Outcome, World, internal, no_entropy, no_memory};
use crate::authz::Authorized;
use crate::blob::Header;
use crate::ids::Scope;
use crate::place::At;
use crate::provider::{KeyProvider, ProviderError};
use crate::rows::KeyRow;
pub(super) use ends::Sealing;
use ends::{Asked, Opening};

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
    DataKeyPair {
        under: Sealing,
        private: Blob,
        public: Blob,
        spec: DataKeyPairSpec,
        reply_with_plaintext: bool,
    },
    Key(KeyUse),
}

impl Use {
    /// Whether it takes more than some microseconds of CPU time, as most that is done with asymmetric keys: then it is not
    /// for a thread that answers requests.
    pub fn is_slow(&self) -> bool {
        match &self.kind {
            Kind::Encrypt { under, .. } => under.is_slow(),
            Kind::Decrypt { from, .. } => from.is_slow(),
            Kind::ReEncrypt { from, under, .. } => from.is_slow() || under.is_slow(),
            Kind::DataKey { .. } | Kind::DataKeyPair { .. } => false,
            Kind::Key(usage) => usage.is_slow(),
        }
    }

    /// Does it.
    ///
    /// # Errors
    /// The error to reply with.
    pub async fn run(self, provider: &dyn KeyProvider) -> Result<Response, ApiError> {
        match self.kind {
            Kind::Encrypt { under, plaintext } => Ok(Response::Encrypt(EncryptResponse {
                ciphertext_blob: under.seal(provider, plaintext.as_slice()).await?,
                encryption_algorithm: under.algorithm(),
                key_id: under.arn,
            })),
            Kind::Decrypt { from, dry_run } => {
                let plaintext = from.open(provider).await?;
                if dry_run {
                    return Err(dry_run_refusal());
                }
                Ok(Response::Decrypt(DecryptResponse {
                    plaintext,
                    encryption_algorithm: from.algorithm(),
                    key_material_id: from.material_id(),
                    key_id: from.arn,
                }))
            }
            Kind::ReEncrypt {
                from,
                under,
                dry_run,
            } => {
                let plaintext = from.open(provider).await?;
                let ciphertext_blob = under.seal(provider, plaintext.as_slice()).await?;
                if dry_run {
                    return Err(dry_run_refusal());
                }
                Ok(Response::ReEncrypt(ReEncryptResponse {
                    ciphertext_blob,
                    source_encryption_algorithm: from.algorithm(),
                    destination_encryption_algorithm: under.algorithm(),
                    source_key_material_id: from.material_id(),
                    destination_key_material_id: under.material_id(),
                    source_key_id: from.arn,
                    key_id: under.arn,
                }))
            }
            Kind::DataKey {
                under,
                plaintext,
                reply_with_plaintext,
            } => {
                let ciphertext_blob = under.seal(provider, plaintext.as_slice()).await?;
                let key_material_id = under.material_id();
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
            Kind::DataKeyPair {
                under,
                private,
                public,
                spec,
                reply_with_plaintext,
            } => {
                let sealed = under.seal(provider, private.as_slice()).await?;
                let key_material_id = under.material_id();
                let key_id = under.arn;
                Ok(if reply_with_plaintext {
                    Response::GenerateDataKeyPair(GenerateDataKeyPairResponse {
                        private_key_ciphertext_blob: sealed,
                        private_key_plaintext: private,
                        public_key: public,
                        key_id,
                        key_pair_spec: spec,
                        key_material_id,
                    })
                } else {
                    Response::GenerateDataKeyPairWithoutPlaintext(
                        GenerateDataKeyPairWithoutPlaintextResponse {
                            private_key_ciphertext_blob: sealed,
                            public_key: public,
                            key_id,
                            key_pair_spec: spec,
                            key_material_id,
                        },
                    )
                })
            }
            Kind::Key(usage) => usage.run(provider).await,
        }
    }
}

/// The use of one asymmetric or HMAC key.
pub(super) fn key_use(usage: KeyUse) -> Outcome {
    Use {
        kind: Kind::Key(usage),
    }
    .into()
}

/// The answer with a pair of data keys.
pub(super) fn data_key_pair(
    under: Sealing,
    pair: &KeyPair,
    spec: DataKeyPairSpec,
    reply_with_plaintext: bool,
) -> Result<Outcome, ApiError> {
    let private = pair.to_pkcs8().map_err(no_memory)?;
    Ok(Use {
        kind: Kind::DataKeyPair {
            under,
            private: Blob::from(private.expose()),
            public: Blob::from(pair.public_spki()),
            spec,
            reply_with_plaintext,
        },
    }
    .into())
}

pub(super) fn provider_error(error: &ProviderError, arn: &str) -> ApiError {
    match error {
        ProviderError::DoesNotOpen | ProviderError::Unfit(_) => {
            ApiError::bare(ErrorCode::InvalidCiphertext)
        }
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
        let under = self.sealing(
            auth,
            key,
            "Encrypt",
            request.encryption_algorithm,
            &request.encryption_context,
        )?;
        ends::check_length(under.algorithm(), key.spec, &request.plaintext)?;
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
        let asked = Asked {
            operation: "Decrypt",
            key: request.key_id.as_deref(),
            algorithm: request.encryption_algorithm,
            blob: request.ciphertext_blob.as_ref(),
            context: &request.encryption_context,
            ignore_blob: request.dry_run && ignores_ciphertext(&request.dry_run_modifiers),
        };
        let opening = self.opening(auth, &asked)?;
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
        let asked = Asked {
            operation: "ReEncrypt",
            key: request.source_key_id.as_deref(),
            algorithm: request.source_encryption_algorithm,
            blob: request.ciphertext_blob.as_ref(),
            context: &request.source_encryption_context,
            ignore_blob: request.dry_run && ignores_ciphertext(&request.dry_run_modifiers),
        };
        let from = self.opening(auth, &asked)?;
        let under = self.sealing(
            auth,
            destination,
            "ReEncrypt",
            request.destination_encryption_algorithm,
            &request.destination_encryption_context,
        )?;
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
        let operation = "GenerateDataKey";
        let under = self.sealing(auth, key, operation, None, &request.encryption_context)?;
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
        let operation = "GenerateDataKeyWithoutPlaintext";
        let under = self.sealing(auth, key, operation, None, &request.encryption_context)?;
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

pub(crate) fn null_key_id() -> ApiError {
    ApiError::validation(
        "1 validation error detected: Value null at 'keyId' failed to satisfy constraint: Member \
         must not be null",
    )
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
