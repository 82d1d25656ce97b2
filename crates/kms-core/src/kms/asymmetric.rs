//! Sign, Verify, GetPublicKey, GenerateMac, VerifyMac, DeriveSharedSecret, Encapsulate, Decapsulate and pairs of data keys.

use kms_api::{ApiError, DataKeyPairSpec, ErrorCode, KeyUsage};

use super::{Kms, Outcome, internal};
use crate::authz::Authorized;
use crate::rows::KeyRow;
use crate::specs;

impl Kms {
    /// Refuses a key that is for something else.
    pub(super) fn check_usage(
        &self,
        key: &KeyRow,
        usage: KeyUsage,
        operation: &str,
    ) -> Result<(), ApiError> {
        if key.usage == usage {
            return Ok(());
        }
        let text = format!(
            "{} key usage is {} which is not valid for {operation}.",
            self.arn(key.id),
            key.usage
        );
        Err(ApiError::new(ErrorCode::InvalidKeyUsage, text))
    }

    /// The use of a key of which no kind can be made here yet.
    pub(super) fn other_use(
        &self,
        auth: &Authorized,
        key: &str,
        usage: KeyUsage,
        operation: &str,
    ) -> Result<Outcome, ApiError> {
        self.check_usage(self.key_or_alias(auth, key)?, usage, operation)?;
        Err(internal("The key cannot be used by this kmsd."))
    }

    pub(super) fn get_public_key(&self, auth: &Authorized, key: &str) -> Result<Outcome, ApiError> {
        if !specs::is_asymmetric(self.key_or_alias(auth, key)?.spec) {
            return Err(ApiError::bare(ErrorCode::UnsupportedOperation));
        }
        Err(internal("The key cannot be used by this kmsd."))
    }

    pub(super) fn generate_data_key_pair(
        &self,
        auth: &Authorized,
        key: &str,
        spec: DataKeyPairSpec,
    ) -> Result<Outcome, ApiError> {
        self.key_or_alias(auth, key)?;
        let text = format!("KeyPairSpec {spec} is not supported by this kmsd.");
        Err(ApiError::new(ErrorCode::UnsupportedOperation, text))
    }
}
