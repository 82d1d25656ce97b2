//! Operations of imported key material: GetParametersForImport, ImportKeyMaterial, DeleteImportedKeyMaterial.

use serde::{Deserialize, Serialize};

use crate::blob::Blob;
use crate::enums::wire_enum;
use crate::error::ApiError;
use crate::members::Text;
use crate::request::{Absent, KEY_ID, MAX_CIPHERTEXT, requests};
use crate::response::responses;
use crate::timestamp::Timestamp;

/// Length of a material id, in hexadecimal digits.
const ID_DIGITS: usize = 64;
/// Id of key material.
const MATERIAL_ID: Text =
    Text::len(ID_DIGITS, ID_DIGITS).matching("^[a-f0-9]+$", |c| matches!(c, 'a'..='f' | '0'..='9'));
/// Description of key material.
const MATERIAL_DESCRIPTION: Text = Text::len(0, 256).matching("^[a-zA-Z0-9:/_\\s.-]+$", |c| {
    c.is_ascii_alphanumeric() || c.is_whitespace() || ":/_.-".contains(c)
});

wire_enum! {
    /// How key material is wrapped for its import.
    WrappingAlgorithm {
        RsaesPkcs1V15 = "RSAES_PKCS1_V1_5", RsaesOaepSha1 = "RSAES_OAEP_SHA_1",
        RsaesOaepSha256 = "RSAES_OAEP_SHA_256", RsaAesKeyWrapSha1 = "RSA_AES_KEY_WRAP_SHA_1",
        RsaAesKeyWrapSha256 = "RSA_AES_KEY_WRAP_SHA_256", Sm2Pke = "SM2PKE",
    }
}

wire_enum! {
    /// Kind of the pair that key material is wrapped with for its import.
    WrappingKeySpec { Rsa2048 = "RSA_2048", Rsa3072 = "RSA_3072", Rsa4096 = "RSA_4096", Sm2 = "SM2", }
}

wire_enum! {
    /// Whether imported key material expires.
    ExpirationModel {
        Expires = "KEY_MATERIAL_EXPIRES", DoesNotExpire = "KEY_MATERIAL_DOES_NOT_EXPIRE",
    }
}

wire_enum! {
    /// Whether imported key material is new to the key.
    ImportType { New = "NEW_KEY_MATERIAL", Existing = "EXISTING_KEY_MATERIAL", }
}

wire_enum! {
    /// Whether imported key material is there.
    ImportState { Imported = "IMPORTED", PendingImport = "PENDING_IMPORT", }
}

impl Absent for WrappingAlgorithm {}
impl Absent for WrappingKeySpec {}

/// Stand in for what is reported as missing or unknown.
const ALGORITHM: WrappingAlgorithm = WrappingAlgorithm::RsaesOaepSha256;
const SPEC: WrappingKeySpec = WrappingKeySpec::Rsa4096;

requests! {
    /// Asks for a public key to wrap key material with, and for the token that goes with it.
    GetParametersForImportRequest {
        /// Key id or key ARN.
        key_id: String = "KeyId" text(KEY_ID);
        /// How the material will be wrapped.
        wrapping_algorithm: WrappingAlgorithm = "WrappingAlgorithm" required_enum(ALGORITHM);
        /// Kind of the public key.
        wrapping_key_spec: WrappingKeySpec = "WrappingKeySpec" required_enum(SPEC);
    }

    /// Imports key material.
    ImportKeyMaterialRequest {
        /// Key id or key ARN.
        key_id: String = "KeyId" text(KEY_ID);
        /// As GetParametersForImport gave it.
        import_token: Blob = "ImportToken" blob(1, MAX_CIPHERTEXT);
        /// The material, wrapped.
        encrypted_key_material: Blob = "EncryptedKeyMaterial" blob(1, MAX_CIPHERTEXT);
        /// When it expires.
        valid_to: Option<Timestamp> = "ValidTo" opt_timestamp();
        /// Whether it expires, which it does by default.
        expiration_model: Option<ExpirationModel> = "ExpirationModel" opt_enum();
        /// Whether it is new to the key; by default only the first is.
        import_type: Option<ImportType> = "ImportType" opt_enum();
        /// Free text, up to 256 characters; the former one by default.
        key_material_description: Option<String>
            = "KeyMaterialDescription" opt_text(MATERIAL_DESCRIPTION);
        /// Which of the key's materials it has to be.
        key_material_id: Option<String> = "KeyMaterialId" opt_text(MATERIAL_ID);
    } [|request, _| {
        let expires = request.expiration_model != Some(ExpirationModel::DoesNotExpire);
        match (expires, request.valid_to) {
            (true, None) => Err(ApiError::validation(
                "A validTo date must be set if the ExpirationModel is KEY_MATERIAL_EXPIRES",
            )),
            (false, Some(_)) => Err(ApiError::validation(
                "A validTo date cannot be set if the ExpirationModel is \
                 KEY_MATERIAL_DOES_NOT_EXPIRE",
            )),
            _ => Ok(()),
        }?;
        if request.import_type == Some(ImportType::New) && request.key_material_id.is_some() {
            return Err(ApiError::validation(
                "You cannot specify a KeyMaterialId with ImportType NEW_KEY_MATERIAL.",
            ));
        }
        Ok(())
    }]

    /// Deletes imported key material.
    DeleteImportedKeyMaterialRequest {
        /// Key id or key ARN.
        key_id: String = "KeyId" text(KEY_ID);
        /// Which; the current one by default.
        key_material_id: Option<String> = "KeyMaterialId" opt_text(MATERIAL_ID);
    }
}

responses! {
    /// What key material is wrapped with.
    GetParametersForImportResponse {
        /// Key ARN.
        key_id: String,
        /// Goes with the wrapped material.
        import_token: Blob,
        /// SubjectPublicKeyInfo in DER.
        public_key: Blob,
        /// Until when both can be used.
        parameters_valid_to: Timestamp,
    }

    /// The material that is there now.
    ImportKeyMaterialResponse {
        /// Key ARN.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        key_id: Option<String>,
        /// 64 hex digits; for symmetric keys.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        key_material_id: Option<String>,
    }

    /// The material that is gone.
    DeleteImportedKeyMaterialResponse {
        /// Key ARN.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        key_id: Option<String>,
        /// 64 hex digits; for symmetric keys.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        key_material_id: Option<String>,
    }
}
