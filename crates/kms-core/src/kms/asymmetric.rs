//! Sign, Verify, GetPublicKey, GenerateMac, VerifyMac, DeriveSharedSecret, Encapsulate, Decapsulate and the making of pairs
//! of data keys. The snapshot decides whether; [`KeyUse`] does it, outside of every lock.

mod uses;

use std::fmt::Display;

use kms_api::{
    ApiError, Blob, DataKeyPairSpec, DecapsulateRequest, DeriveSharedSecretRequest,
    EncapsulateRequest, ErrorCode, GenerateDataKeyPairRequest,
    GenerateDataKeyPairWithoutPlaintextRequest, GenerateMacRequest, GetPublicKeyRequest,
    GetPublicKeyResponse, KeySpec, KeyUsage, MacAlgorithm, MessageType, Response, SignRequest,
    SigningAlgorithm, VerifyMacRequest, VerifyRequest,
};
use kms_crypto::asymmetric::{Digest, PairSpec, PublicKey, SignatureScheme};
use kms_crypto::hmac::HmacHash;

use super::crypto::dry_run_refusal;
use super::{Kms, Outcome, World, crypto, internal, reply};
use crate::authz::Authorized;
use crate::rows::{KeyRow, MaterialRow};
use crate::specs;
use crate::states::Action;

pub(super) use uses::KeyUse;
use uses::{Signed, What};

impl Kms {
    pub(super) fn sign(
        &self,
        auth: &Authorized,
        request: &SignRequest,
    ) -> Result<Outcome, ApiError> {
        let key = self.key_or_alias(auth, &request.key_id)?;
        let signed = self.signed(
            auth,
            key,
            "Sign",
            request.signing_algorithm,
            request.message_type,
            &request.message,
        )?;
        if request.dry_run {
            return Err(dry_run_refusal());
        }
        self.usage(key, What::Sign(signed), false)
    }

    pub(super) fn verify(
        &self,
        auth: &Authorized,
        request: &VerifyRequest,
    ) -> Result<Outcome, ApiError> {
        let key = self.key_or_alias(auth, &request.key_id)?;
        let signed = self.signed(
            auth,
            key,
            "Verify",
            request.signing_algorithm,
            request.message_type,
            &request.message,
        )?;
        let signature = request.signature.clone();
        self.usage(key, What::Verify(signed, signature), request.dry_run)
    }

    /// A message that the key may sign with this algorithm.
    fn signed(
        &self,
        auth: &Authorized,
        key: &KeyRow,
        operation: &str,
        algorithm: SigningAlgorithm,
        message_type: Option<MessageType>,
        message: &Blob,
    ) -> Result<Signed, ApiError> {
        self.check_usage(key, KeyUsage::SignVerify, operation)?;
        let known = specs::signing_algorithms(key.spec, key.usage);
        self.check_one_of(key, &algorithm, known)?;
        self.allow(auth, Action::Cryptographic, key)?;
        let scheme = signature_scheme(algorithm);
        let message_type = message_type.unwrap_or(MessageType::Raw);
        check_message(algorithm, scheme, message_type, message.len())?;
        Ok(Signed {
            algorithm,
            scheme,
            message_type,
            message: message.clone(),
        })
    }

    pub(super) fn get_public_key(
        &self,
        auth: &Authorized,
        request: &GetPublicKeyRequest,
    ) -> Result<Outcome, ApiError> {
        let key = self.key_or_alias(auth, &request.key_id)?;
        if !specs::is_asymmetric(key.spec) {
            return Err(ApiError::bare(ErrorCode::UnsupportedOperation));
        }
        self.allow(auth, Action::Cryptographic, key)?;
        let public = self.current_material(key)?.public.as_ref();
        let public = public.ok_or_else(|| internal("A key has lost its public key."))?;
        Ok(reply(Response::GetPublicKey(GetPublicKeyResponse {
            key_id: self.arn(key.id),
            public_key: Blob::from(public.0.as_slice()),
            customer_master_key_spec: key.spec.customer_master_key_spec(),
            key_spec: key.spec,
            key_usage: key.usage,
            encryption_algorithms: specs::encryption_algorithms(key.spec, key.usage).to_vec(),
            signing_algorithms: specs::signing_algorithms(key.spec, key.usage).to_vec(),
            key_agreement_algorithms: specs::agreement_algorithms(key.usage).to_vec(),
            encapsulation_algorithms: specs::encapsulation_algorithms(key.usage).to_vec(),
        })))
    }

    pub(super) fn generate_mac(
        &self,
        auth: &Authorized,
        request: &GenerateMacRequest,
    ) -> Result<Outcome, ApiError> {
        let key = self.key_or_alias(auth, &request.key_id)?;
        let (algorithm, message) = (request.mac_algorithm, request.message.clone());
        self.check_mac(auth, key, "GenerateMac", algorithm)?;
        if request.dry_run {
            return Err(dry_run_refusal());
        }
        self.usage(key, What::Mac(algorithm, message), false)
    }

    pub(super) fn verify_mac(
        &self,
        auth: &Authorized,
        request: &VerifyMacRequest,
    ) -> Result<Outcome, ApiError> {
        let key = self.key_or_alias(auth, &request.key_id)?;
        let (algorithm, message) = (request.mac_algorithm, request.message.clone());
        self.check_mac(auth, key, "VerifyMac", algorithm)?;
        let mac = request.mac.clone();
        self.usage(
            key,
            What::VerifyMac(algorithm, message, mac),
            request.dry_run,
        )
    }

    fn check_mac(
        &self,
        auth: &Authorized,
        key: &KeyRow,
        operation: &str,
        algorithm: MacAlgorithm,
    ) -> Result<(), ApiError> {
        self.check_usage(key, KeyUsage::GenerateVerifyMac, operation)?;
        self.check_one_of(key, &algorithm, specs::mac_algorithms(key.spec))?;
        self.allow(auth, Action::Cryptographic, key)
    }

    pub(super) fn derive_shared_secret(
        &self,
        auth: &Authorized,
        request: &DeriveSharedSecretRequest,
    ) -> Result<Outcome, ApiError> {
        let key = self.key_or_alias(auth, &request.key_id)?;
        self.check_usage(key, KeyUsage::KeyAgreement, "DeriveSharedSecret")?;
        self.allow(auth, Action::Cryptographic, key)?;
        let algorithm = request.key_agreement_algorithm;
        let what = What::Agree {
            algorithm,
            peer: request.public_key.clone(),
            origin: super::keys::wire_origin(key.origin),
        };
        self.usage(key, what, request.dry_run)
    }

    pub(super) fn encapsulate(
        &self,
        auth: &Authorized,
        request: &EncapsulateRequest,
    ) -> Result<Outcome, ApiError> {
        let key = self.key_or_alias(auth, &request.key_id)?;
        self.check_usage(key, KeyUsage::EncapsulateDecapsulate, "Encapsulate")?;
        self.allow(auth, Action::Cryptographic, key)?;
        if request.dry_run {
            return Err(dry_run_refusal());
        }
        self.usage(
            key,
            What::Encapsulate(request.encapsulation_algorithm),
            false,
        )
    }

    pub(super) fn decapsulate(
        &self,
        auth: &Authorized,
        request: &DecapsulateRequest,
    ) -> Result<Outcome, ApiError> {
        let key = self.key_or_alias(auth, &request.key_id)?;
        self.check_usage(key, KeyUsage::EncapsulateDecapsulate, "Decapsulate")?;
        self.allow(auth, Action::Cryptographic, key)?;
        let ciphertext = request.shared_secret_ciphertext_blob.clone();
        let what = What::Decapsulate(request.encapsulation_algorithm, ciphertext);
        self.usage(key, what, request.dry_run)
    }

    pub(super) fn generate_data_key_pair(
        &self,
        auth: &Authorized,
        request: &GenerateDataKeyPairRequest,
        world: &World<'_>,
    ) -> Result<Outcome, ApiError> {
        let GenerateDataKeyPairRequest {
            encryption_context,
            key_id,
            key_pair_spec,
            dry_run,
            ..
        } = request;
        let key = self.key_or_alias(auth, key_id)?;
        let operation = "GenerateDataKeyPair";
        let under = self.sealing(auth, key, operation, None, encryption_context)?;
        pair_under(under, *key_pair_spec, *dry_run, true, world)
    }

    pub(super) fn generate_data_key_pair_without_plaintext(
        &self,
        auth: &Authorized,
        request: &GenerateDataKeyPairWithoutPlaintextRequest,
        world: &World<'_>,
    ) -> Result<Outcome, ApiError> {
        let GenerateDataKeyPairWithoutPlaintextRequest {
            encryption_context,
            key_id,
            key_pair_spec,
            dry_run,
            ..
        } = request;
        let key = self.key_or_alias(auth, key_id)?;
        let operation = "GenerateDataKeyPairWithoutPlaintext";
        let under = self.sealing(auth, key, operation, None, encryption_context)?;
        pair_under(under, *key_pair_spec, *dry_run, false, world)
    }

    fn usage(&self, key: &KeyRow, what: What, dry_run: bool) -> Result<Outcome, ApiError> {
        let material = self.current_material(key)?.clone();
        Ok(crypto::key_use(KeyUse {
            material,
            arn: self.arn(key.id),
            what,
            dry_run,
        }))
    }

    /// Refuses a key that is for something else, or of a kind that this build has not.
    pub(super) fn check_usage(
        &self,
        key: &KeyRow,
        usage: KeyUsage,
        operation: &str,
    ) -> Result<(), ApiError> {
        if key.usage == usage {
            // The store may be from another build.
            return match pair_spec(key.spec) {
                Some(pair) => available(pair, "KeySpec", key.spec.as_str()),
                None => Ok(()),
            };
        }
        let text = format!(
            "{} key usage is {} which is not valid for {operation}.",
            self.arn(key.id),
            key.usage
        );
        Err(ApiError::new(ErrorCode::InvalidKeyUsage, text))
    }

    /// Refuses an algorithm that keys of this kind do not have.
    pub(super) fn check_one_of<T: PartialEq + Display>(
        &self,
        key: &KeyRow,
        algorithm: &T,
        known: &[T],
    ) -> Result<(), ApiError> {
        if known.contains(algorithm) {
            return Ok(());
        }
        let spec = key.spec;
        let text = format!("Algorithm {algorithm} is incompatible with key spec {spec}.");
        Err(ApiError::new(ErrorCode::InvalidKeyUsage, text))
    }
}

/// The public key of a version of material.
pub(super) fn public_key(material: &MaterialRow) -> Result<PublicKey, ApiError> {
    let spec = pair_spec(material.spec);
    let public = material.public.as_ref();
    spec.zip(public)
        .and_then(|(spec, public)| PublicKey::from_spki(spec, &public.0).ok())
        .ok_or_else(|| internal("A key's public key is damaged in the store."))
}

/// How pairs of this kind are made; `None` for keys that are not asymmetric.
pub(crate) fn pair_spec(spec: KeySpec) -> Option<PairSpec> {
    Some(match spec {
        KeySpec::Rsa2048 => PairSpec::Rsa2048,
        KeySpec::Rsa3072 => PairSpec::Rsa3072,
        KeySpec::Rsa4096 => PairSpec::Rsa4096,
        KeySpec::EccNistP256 => PairSpec::P256,
        KeySpec::EccNistP384 => PairSpec::P384,
        KeySpec::EccNistP521 => PairSpec::P521,
        KeySpec::EccSecgP256k1 => PairSpec::Secp256k1,
        KeySpec::EccNistEdwards25519 => PairSpec::Ed25519,
        KeySpec::MlDsa44 => PairSpec::MlDsa44,
        KeySpec::MlDsa65 => PairSpec::MlDsa65,
        KeySpec::MlDsa87 => PairSpec::MlDsa87,
        KeySpec::MlKem512 => PairSpec::MlKem512,
        KeySpec::MlKem768 => PairSpec::MlKem768,
        KeySpec::MlKem1024 => PairSpec::MlKem1024,
        KeySpec::Sm2 => PairSpec::Sm2,
        KeySpec::SymmetricDefault
        | KeySpec::Hmac224
        | KeySpec::Hmac256
        | KeySpec::Hmac384
        | KeySpec::Hmac512 => return None,
    })
}

/// A pair of data keys, its private part sealed: to be made first, or made.
fn pair_under(
    under: crypto::Sealing,
    pair_spec: DataKeyPairSpec,
    dry_run: bool,
    reply_with_plaintext: bool,
    world: &World<'_>,
) -> Result<Outcome, ApiError> {
    let spec = data_pair(pair_spec)?;
    if dry_run {
        return Err(dry_run_refusal());
    }
    match world.pair_of(spec) {
        None => Ok(Outcome::MakePair(spec)),
        Some(pair) => crypto::data_key_pair(under, pair, pair_spec, reply_with_plaintext),
    }
}

/// How a pair of data keys is made, if this build can.
fn data_pair(spec: DataKeyPairSpec) -> Result<PairSpec, ApiError> {
    let pair = match spec {
        DataKeyPairSpec::Rsa2048 => PairSpec::Rsa2048,
        DataKeyPairSpec::Rsa3072 => PairSpec::Rsa3072,
        DataKeyPairSpec::Rsa4096 => PairSpec::Rsa4096,
        DataKeyPairSpec::EccNistP256 => PairSpec::P256,
        DataKeyPairSpec::EccNistP384 => PairSpec::P384,
        DataKeyPairSpec::EccNistP521 => PairSpec::P521,
        DataKeyPairSpec::EccSecgP256k1 => PairSpec::Secp256k1,
        DataKeyPairSpec::Sm2 => PairSpec::Sm2,
        DataKeyPairSpec::EccNistEdwards25519 => PairSpec::Ed25519,
        DataKeyPairSpec::MlKem512 => PairSpec::MlKem512,
        DataKeyPairSpec::MlKem768 => PairSpec::MlKem768,
        DataKeyPairSpec::MlKem1024 => PairSpec::MlKem1024,
    };
    available(pair, "KeyPairSpec", spec.as_str())?;
    Ok(pair)
}

/// Refuses a kind of pair that this build cannot make.
pub(super) fn available(pair: PairSpec, member: &str, value: &str) -> Result<(), ApiError> {
    pair.available().map_err(|error| {
        let text = format!("{member} {value} is not supported: {error}.");
        ApiError::new(ErrorCode::UnsupportedOperation, text)
    })
}

fn signature_scheme(algorithm: SigningAlgorithm) -> SignatureScheme {
    use SigningAlgorithm as A;
    match algorithm {
        A::RsassaPssSha256 => SignatureScheme::RsaPss(Digest::Sha256),
        A::RsassaPssSha384 => SignatureScheme::RsaPss(Digest::Sha384),
        A::RsassaPssSha512 => SignatureScheme::RsaPss(Digest::Sha512),
        A::RsassaPkcs1Sha256 => SignatureScheme::RsaPkcs1(Digest::Sha256),
        A::RsassaPkcs1Sha384 => SignatureScheme::RsaPkcs1(Digest::Sha384),
        A::RsassaPkcs1Sha512 => SignatureScheme::RsaPkcs1(Digest::Sha512),
        A::EcdsaSha256 => SignatureScheme::Ecdsa(Digest::Sha256),
        A::EcdsaSha384 => SignatureScheme::Ecdsa(Digest::Sha384),
        A::EcdsaSha512 => SignatureScheme::Ecdsa(Digest::Sha512),
        A::Sm2Dsa => SignatureScheme::Sm2,
        A::MlDsaShake256 => SignatureScheme::MlDsa,
        A::Ed25519Sha512 => SignatureScheme::Ed25519,
        A::Ed25519PhSha512 => SignatureScheme::Ed25519Ph,
    }
}

fn hmac_hash(algorithm: MacAlgorithm) -> HmacHash {
    match algorithm {
        MacAlgorithm::HmacSha224 => HmacHash::Sha224,
        MacAlgorithm::HmacSha256 => HmacHash::Sha256,
        MacAlgorithm::HmacSha384 => HmacHash::Sha384,
        MacAlgorithm::HmacSha512 => HmacHash::Sha512,
    }
}

/// Refuses a kind of message that the algorithm does not take, and digests of a wrong length.
fn check_message(
    algorithm: SigningAlgorithm,
    scheme: SignatureScheme,
    message_type: MessageType,
    len: usize,
) -> Result<(), ApiError> {
    use MessageType as M;
    let types: &[M] = match scheme {
        SignatureScheme::Ed25519 => &[M::Raw],
        SignatureScheme::Ed25519Ph => &[M::Digest],
        SignatureScheme::MlDsa => &[M::Raw, M::ExternalMu],
        SignatureScheme::RsaPss(_)
        | SignatureScheme::RsaPkcs1(_)
        | SignatureScheme::Ecdsa(_)
        | SignatureScheme::Sm2 => &[M::Raw, M::Digest],
    };
    if !types.contains(&message_type) {
        return Err(ApiError::validation(format!(
            "MessageType {message_type} is not valid for algorithm {algorithm}."
        )));
    }
    let wanted = match message_type {
        M::Raw => None,
        M::Digest => scheme.digest_len(),
        M::ExternalMu => Some(64),
    };
    if wanted.is_some_and(|wanted| wanted != len) {
        return Err(ApiError::validation(format!(
            "Digest is invalid length for algorithm {algorithm}."
        )));
    }
    Ok(())
}
