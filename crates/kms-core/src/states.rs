//! Which operation is allowed in which state, with AWS's texts: the Developer Guide's table.

use kms_api::{ApiError, ErrorCode};

use crate::rows::{Origin, State};

/// Operations that share a row of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// Encrypt, Decrypt, ReEncrypt, GenerateDataKey and its sibling, and the registry's uses.
    Cryptographic,
    /// CreateAlias, and UpdateAlias for the new target.
    Name,
    /// EnableKey, DisableKey.
    Switch,
    /// EnableKeyRotation, DisableKeyRotation.
    ScheduleRotation,
    /// GetKeyRotationStatus.
    RotationStatus,
    /// RotateKeyOnDemand.
    Rotate,
    /// ListKeyRotations.
    ListRotations,
    /// ScheduleKeyDeletion.
    ScheduleDeletion,
    /// CancelKeyDeletion.
    CancelDeletion,
    /// CreateGrant.
    Grant,
    /// ReplicateKey.
    Replicate,
    /// UpdatePrimaryRegion, for both keys.
    MovePrimary,
    /// GetParametersForImport.
    ImportParameters,
    /// ImportKeyMaterial.
    Import,
    /// DeleteImportedKeyMaterial.
    DeleteMaterial,
    /// DescribeKey, ListAliases, DeleteAlias, the other operations on grants: allowed in every state.
    Describe,
}

/// Refuses what the state of a key does not allow.
pub fn check(action: Action, state: State, origin: Origin, arn: &str) -> Result<(), ApiError> {
    use Action as A;
    use State as S;

    let invalid = |what: &str| {
        Err(ApiError::new(
            ErrorCode::InvalidState,
            format!("{arn} {what}"),
        ))
    };
    let disabled = || {
        Err(ApiError::new(
            ErrorCode::Disabled,
            format!("{arn} is disabled."),
        ))
    };
    let pending = || invalid("is pending deletion.");
    let pending_replicas = || invalid("is pending deletion (or pending replica deletion).");
    let wrong_origin = || {
        let text = format!("{arn} origin is EXTERNAL which is not valid for this operation.");
        Err(ApiError::new(ErrorCode::UnsupportedOperation, text))
    };
    let unsupported = || Err(ApiError::bare(ErrorCode::UnsupportedOperation));

    match (action, state) {
        (_, S::Destroyed) => Err(ApiError::not_found(format!("Key '{arn}' does not exist"))),
        (A::Describe, _) => Ok(()),

        (A::CancelDeletion, S::PendingDeletion | S::PendingReplicaDeletion) => Ok(()),
        (A::CancelDeletion, _) => invalid("is not pending deletion (or pending replica deletion)."),

        (A::ImportParameters | A::Import | A::DeleteMaterial, _) if origin == Origin::AwsKms => {
            let text = format!("{arn} origin is AWS_KMS which is not valid for this operation.");
            Err(ApiError::new(ErrorCode::UnsupportedOperation, text))
        }
        (A::ImportParameters | A::Import | A::DeleteMaterial, S::Unavailable) => unsupported(),
        (A::DeleteMaterial, S::PendingDeletion | S::PendingReplicaDeletion) => Ok(()),
        (A::ImportParameters | A::Import | A::DeleteMaterial, S::PendingImport) => Ok(()),
        (A::ImportParameters | A::DeleteMaterial, S::Updating) => invalid("is updating."),

        (A::ScheduleRotation | A::RotationStatus, _) if origin == Origin::External => {
            wrong_origin()
        }
        (A::RotationStatus | A::ListRotations, S::Unavailable) => unsupported(),
        (A::RotationStatus | A::ListRotations, _) => Ok(()),
        (A::ScheduleRotation | A::Rotate, S::Unavailable) => unsupported(),

        (A::Name | A::ScheduleDeletion, S::PendingDeletion) => pending(),
        (A::Name | A::ScheduleDeletion, S::PendingReplicaDeletion) => pending_replicas(),
        (A::Name, _) => Ok(()),
        (A::ScheduleDeletion, S::Updating) => invalid("is updating."),
        (A::ScheduleDeletion, _) => Ok(()),

        (
            A::Cryptographic
            | A::ScheduleRotation
            | A::Rotate
            | A::Grant
            | A::Replicate
            | A::MovePrimary,
            S::Disabled,
        ) => disabled(),
        (A::Replicate | A::MovePrimary, S::Unavailable) => unsupported(),
        (_, S::PendingDeletion) => pending(),
        (_, S::PendingReplicaDeletion) => pending_replicas(),
        (_, S::PendingImport) => invalid("is pending import."),
        (_, S::Creating) => invalid("is creating."),
        (A::Cryptographic, S::Unavailable) => invalid("is unavailable."),
        (A::Switch | A::Rotate | A::Replicate, S::Updating) => invalid("is updating."),
        (A::Cryptographic | A::ScheduleRotation, S::Enabled | S::Updating)
        | (A::Switch, S::Enabled | S::Disabled | S::Unavailable)
        | (A::Grant, S::Enabled | S::Unavailable | S::Updating)
        | (A::MovePrimary, S::Enabled | S::Updating)
        | (A::Rotate | A::Replicate, S::Enabled)
        | (A::ImportParameters | A::DeleteMaterial, S::Enabled | S::Disabled)
        | (A::Import, S::Enabled | S::Disabled | S::Updating) => Ok(()),
    }
}

#[cfg(test)]
mod tests;
