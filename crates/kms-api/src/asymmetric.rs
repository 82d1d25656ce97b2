//! Operations of asymmetric, HMAC and KEM keys: Sign, Verify, GetPublicKey, GenerateMac, VerifyMac, DeriveSharedSecret,
//! Encapsulate, Decapsulate and pairs of data keys.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::blob::Blob;
use crate::enums::*;
use crate::request::{Absent, KEY_ID, MAX_CIPHERTEXT, MAX_PLAINTEXT, requests};
use crate::response::responses;

/// Largest public key of another party, in bytes of DER.
pub const MAX_PUBLIC_KEY: usize = 8192;

impl Absent for SigningAlgorithm {}
impl Absent for MacAlgorithm {}
impl Absent for KeyAgreementAlgorithm {}
impl Absent for EncapsulationAlgorithm {}
impl Absent for DataKeyPairSpec {}

/// Stand in for what is reported as missing or unknown.
const SIGNING: SigningAlgorithm = SigningAlgorithm::RsassaPssSha256;
const MAC: MacAlgorithm = MacAlgorithm::HmacSha256;
const PAIR: DataKeyPairSpec = DataKeyPairSpec::Rsa2048;

requests! {
    /// Signs a message or its digest.
    SignRequest {
        /// Key id, key ARN, alias name or alias ARN.
        key_id: String = "KeyId" text(KEY_ID);
        /// 1 to 4096 bytes.
        message: Blob = "Message" blob(1, MAX_PLAINTEXT);
        /// What the message is, `RAW` by default.
        message_type: Option<MessageType> = "MessageType" opt_enum();
        /// Grant tokens.
        grant_tokens: Vec<String> = "GrantTokens" grant_tokens();
        /// One that the key has.
        signing_algorithm: SigningAlgorithm = "SigningAlgorithm" required_enum(SIGNING);
        /// Only check whether the call would succeed.
        dry_run: bool = "DryRun" flag();
    }

    /// Verifies a signature.
    VerifyRequest {
        /// Key id, key ARN, alias name or alias ARN.
        key_id: String = "KeyId" text(KEY_ID);
        /// 1 to 4096 bytes.
        message: Blob = "Message" blob(1, MAX_PLAINTEXT);
        /// What the message is, `RAW` by default.
        message_type: Option<MessageType> = "MessageType" opt_enum();
        /// 1 to 6144 bytes.
        signature: Blob = "Signature" blob(1, MAX_CIPHERTEXT);
        /// The one that signed.
        signing_algorithm: SigningAlgorithm = "SigningAlgorithm" required_enum(SIGNING);
        /// Grant tokens.
        grant_tokens: Vec<String> = "GrantTokens" grant_tokens();
        /// Only check whether the call would succeed.
        dry_run: bool = "DryRun" flag();
    }

    /// Asks for the public key of an asymmetric key.
    GetPublicKeyRequest {
        /// Key id, key ARN, alias name or alias ARN.
        key_id: String = "KeyId" text(KEY_ID);
        /// Grant tokens.
        grant_tokens: Vec<String> = "GrantTokens" grant_tokens();
    }

    /// Computes the HMAC of a message.
    GenerateMacRequest {
        /// 1 to 4096 bytes.
        message: Blob = "Message" blob(1, MAX_PLAINTEXT);
        /// Key id, key ARN, alias name or alias ARN.
        key_id: String = "KeyId" text(KEY_ID);
        /// The one that the key has.
        mac_algorithm: MacAlgorithm = "MacAlgorithm" required_enum(MAC);
        /// Grant tokens.
        grant_tokens: Vec<String> = "GrantTokens" grant_tokens();
        /// Only check whether the call would succeed.
        dry_run: bool = "DryRun" flag();
    }

    /// Verifies the HMAC of a message.
    VerifyMacRequest {
        /// 1 to 4096 bytes.
        message: Blob = "Message" blob(1, MAX_PLAINTEXT);
        /// Key id, key ARN, alias name or alias ARN.
        key_id: String = "KeyId" text(KEY_ID);
        /// The one that the key has.
        mac_algorithm: MacAlgorithm = "MacAlgorithm" required_enum(MAC);
        /// 1 to 6144 bytes.
        mac: Blob = "Mac" blob(1, MAX_CIPHERTEXT);
        /// Grant tokens.
        grant_tokens: Vec<String> = "GrantTokens" grant_tokens();
        /// Only check whether the call would succeed.
        dry_run: bool = "DryRun" flag();
    }

    /// Agrees on a secret with the owner of a public key.
    DeriveSharedSecretRequest {
        /// Key id, key ARN, alias name or alias ARN.
        key_id: String = "KeyId" text(KEY_ID);
        /// `ECDH`.
        key_agreement_algorithm: KeyAgreementAlgorithm
            = "KeyAgreementAlgorithm" required_enum(KeyAgreementAlgorithm::Ecdh);
        /// The other party's, SubjectPublicKeyInfo in DER, on the curve of the key.
        public_key: Blob = "PublicKey" blob(1, MAX_PUBLIC_KEY);
        /// Grant tokens.
        grant_tokens: Vec<String> = "GrantTokens" grant_tokens();
        /// Only check whether the call would succeed.
        dry_run: bool = "DryRun" flag();
    } [|_, members| members.no_recipient()]

    /// Makes a shared secret and encapsulates it to the public key of a key.
    EncapsulateRequest {
        /// Key id, key ARN, alias name or alias ARN.
        key_id: String = "KeyId" text(KEY_ID);
        /// `ML_KEM`.
        encapsulation_algorithm: EncapsulationAlgorithm
            = "EncapsulationAlgorithm" required_enum(EncapsulationAlgorithm::MlKem);
        /// Grant tokens.
        grant_tokens: Vec<String> = "GrantTokens" grant_tokens();
        /// Only check whether the call would succeed.
        dry_run: bool = "DryRun" flag();
    }

    /// Recovers a shared secret that was encapsulated to the public key of a key.
    DecapsulateRequest {
        /// Key id, key ARN, alias name or alias ARN.
        key_id: String = "KeyId" text(KEY_ID);
        /// 768, 1088 or 1568 bytes, as the key's parameter set has it.
        shared_secret_ciphertext_blob: Blob = "SharedSecretCiphertextBlob" blob(1, MAX_CIPHERTEXT);
        /// `ML_KEM`.
        encapsulation_algorithm: EncapsulationAlgorithm
            = "EncapsulationAlgorithm" required_enum(EncapsulationAlgorithm::MlKem);
        /// Grant tokens.
        grant_tokens: Vec<String> = "GrantTokens" grant_tokens();
        /// Only check whether the call would succeed.
        dry_run: bool = "DryRun" flag();
    }

    /// Makes a pair of data keys, the private one in the clear and encrypted.
    GenerateDataKeyPairRequest {
        /// Authenticated with the ciphertext, and needed to decrypt it.
        encryption_context: BTreeMap<String, String> = "EncryptionContext" context();
        /// Key id, key ARN, alias name or alias ARN.
        key_id: String = "KeyId" text(KEY_ID);
        /// Kind of the pair.
        key_pair_spec: DataKeyPairSpec = "KeyPairSpec" required_enum(PAIR);
        /// Grant tokens.
        grant_tokens: Vec<String> = "GrantTokens" grant_tokens();
        /// Only check whether the call would succeed.
        dry_run: bool = "DryRun" flag();
    } [|_, members| members.no_recipient()]

    /// Makes a pair of data keys, the private one encrypted only.
    GenerateDataKeyPairWithoutPlaintextRequest {
        /// Authenticated with the ciphertext, and needed to decrypt it.
        encryption_context: BTreeMap<String, String> = "EncryptionContext" context();
        /// Key id, key ARN, alias name or alias ARN.
        key_id: String = "KeyId" text(KEY_ID);
        /// Kind of the pair.
        key_pair_spec: DataKeyPairSpec = "KeyPairSpec" required_enum(PAIR);
        /// Grant tokens.
        grant_tokens: Vec<String> = "GrantTokens" grant_tokens();
        /// Only check whether the call would succeed.
        dry_run: bool = "DryRun" flag();
    }
}

responses! {
    /// A signature.
    SignResponse {
        /// Key ARN.
        key_id: String,
        /// ECDSA and SM2: DER; otherwise as the algorithm's standard has it.
        signature: Blob,
        /// The algorithm used.
        signing_algorithm: SigningAlgorithm,
    }

    /// The signature is right; a wrong one is an error.
    VerifyResponse {
        /// Key ARN.
        key_id: String,
        /// True.
        signature_valid: bool,
        /// The algorithm used.
        signing_algorithm: SigningAlgorithm,
    }

    /// A public key.
    GetPublicKeyResponse {
        /// Key ARN.
        key_id: String,
        /// SubjectPublicKeyInfo in DER.
        public_key: Blob,
        /// Deprecated name of `KeySpec`; absent for the newer kinds of keys.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        customer_master_key_spec: Option<KeySpec>,
        /// Kind of key.
        key_spec: KeySpec,
        /// What it is for.
        key_usage: KeyUsage,
        /// Algorithms, for keys that encrypt.
        #[serde(skip_serializing_if = "Vec::is_empty", default)]
        encryption_algorithms: Vec<EncryptionAlgorithm>,
        /// Algorithms, for keys that sign.
        #[serde(skip_serializing_if = "Vec::is_empty", default)]
        signing_algorithms: Vec<SigningAlgorithm>,
        /// Algorithms, for keys that agree on secrets.
        #[serde(skip_serializing_if = "Vec::is_empty", default)]
        key_agreement_algorithms: Vec<KeyAgreementAlgorithm>,
        /// Algorithms, for keys that encapsulate secrets.
        #[serde(skip_serializing_if = "Vec::is_empty", default)]
        encapsulation_algorithms: Vec<EncapsulationAlgorithm>,
    }

    /// An HMAC.
    GenerateMacResponse {
        /// 28, 32, 48 or 64 bytes.
        mac: Blob,
        /// The algorithm used.
        mac_algorithm: MacAlgorithm,
        /// Key ARN.
        key_id: String,
    }

    /// The HMAC is right; a wrong one is an error.
    VerifyMacResponse {
        /// Key ARN.
        key_id: String,
        /// True.
        mac_valid: bool,
        /// The algorithm used.
        mac_algorithm: MacAlgorithm,
    }

    /// A secret that the owner of the other private key arrives at, too.
    DeriveSharedSecretResponse {
        /// Key ARN.
        key_id: String,
        /// The x coordinate of the shared point, as long as the curve's field.
        shared_secret: Blob,
        /// The algorithm used.
        key_agreement_algorithm: KeyAgreementAlgorithm,
        /// Where the key's material comes from.
        key_origin: Origin,
    }

    /// A new shared secret.
    EncapsulateResponse {
        /// Key ARN.
        key_id: String,
        /// 32 bytes.
        shared_secret: Blob,
        /// What Decapsulate takes.
        shared_secret_ciphertext_blob: Blob,
        /// The algorithm used.
        encapsulation_algorithm: EncapsulationAlgorithm,
    }

    /// A shared secret.
    DecapsulateResponse {
        /// Key ARN.
        key_id: String,
        /// 32 bytes.
        shared_secret: Blob,
        /// The algorithm used.
        encapsulation_algorithm: EncapsulationAlgorithm,
    }

    /// A pair of data keys.
    GenerateDataKeyPairResponse {
        /// The private key, encrypted.
        private_key_ciphertext_blob: Blob,
        /// The private key, PKCS #8 in DER.
        private_key_plaintext: Blob,
        /// The public key, SubjectPublicKeyInfo in DER.
        public_key: Blob,
        /// Key ARN.
        key_id: String,
        /// Kind of the pair.
        key_pair_spec: DataKeyPairSpec,
        /// The key material that the private key is under.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        key_material_id: Option<String>,
    }

    /// A pair of data keys, the private one encrypted only.
    GenerateDataKeyPairWithoutPlaintextResponse {
        /// The private key, encrypted.
        private_key_ciphertext_blob: Blob,
        /// The public key, SubjectPublicKeyInfo in DER.
        public_key: Blob,
        /// Key ARN.
        key_id: String,
        /// Kind of the pair.
        key_pair_spec: DataKeyPairSpec,
        /// The key material that the private key is under.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        key_material_id: Option<String>,
    }
}
