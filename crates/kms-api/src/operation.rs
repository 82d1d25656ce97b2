//! The list of operations: one variant each of [`Request`] and [`Response`].

use zeroize::Zeroizing;

use crate::access::*;
use crate::access_keys::*;
use crate::approval::*;
use crate::asymmetric::*;
use crate::audit::*;
use crate::backup::*;
use crate::destruction::*;
use crate::error::{ApiError, ErrorCode};
use crate::file_access::*;
use crate::generations::*;
use crate::grants::*;
use crate::identity::*;
use crate::import::*;
use crate::key_stores::*;
use crate::lease::*;
use crate::local::*;
use crate::members::{FromMembers, Members};
use crate::multi_region::*;
use crate::policies::*;
use crate::request::*;
use crate::response::*;
use crate::{AWS_PREFIX, LOCAL_PREFIX};

#[cfg(test)]
mod tests;

macro_rules! operations {
    ($( $prefix:ident { $( $name:ident ( $request:ident ) -> $response:ident ; )* } )*) => {
        /// A decoded request.
        #[derive(Clone, Debug, PartialEq)]
        #[allow(missing_docs, reason = "the variants are the operations")]
        pub enum Request { $( $( $name($request), )* )* }

        /// A response to the request of the same name.
        #[derive(Clone, Debug, PartialEq)]
        #[allow(missing_docs, reason = "the variants are the operations")]
        pub enum Response { $( $( $name($response), )* )* }

        impl Request {
            /// Every operation, as (target prefix, name).
            pub const OPERATIONS: &'static [(&'static str, &'static str)] =
                &[ $( $( ($prefix, stringify!($name)), )* )* ];

            /// Decodes the body of a request for `target` (`TrentService.Encrypt`).
            ///
            /// # Errors
            /// `UnknownOperationException` for a target that is none, `SerializationException` for a
            /// body that is not the operation's JSON, `ValidationException` for missing members and
            /// broken constraints.
            pub fn decode(target: &str, body: &[u8]) -> Result<Self, ApiError> {
                let unknown = || ApiError::bare(ErrorCode::UnknownOperation);
                match target.split_once('.').ok_or_else(unknown)? {
                    $( $( ($prefix, stringify!($name)) => Ok(Self::$name(read(body)?)), )* )*
                    _ => Err(unknown()),
                }
            }

            /// Name of the operation.
            pub fn operation(&self) -> &'static str {
                match self { $( $( Self::$name(_) => stringify!($name), )* )* }
            }

            /// Target prefix of the operation.
            pub fn prefix(&self) -> &'static str {
                match self { $( $( Self::$name(_) => $prefix, )* )* }
            }

            /// The members that the audit log keeps, by their names in CloudTrail: all except
            /// binary ones and grant tokens.
            pub fn recorded(&self) -> crate::recorded::Members {
                match self { $( $( Self::$name(request) => request.recorded(), )* )* }
            }

            /// The grant tokens of the request, empty for operations that take none.
            pub fn grant_tokens(&self) -> &[String] {
                match self { $( $( Self::$name(request) => request.grant_tokens(), )* )* }
            }

            /// The JSON body; wiped when dropped, since it may hold a plaintext.
            ///
            /// # Errors
            /// None in practice: every member has a JSON form.
            pub fn to_json(&self) -> Result<Zeroizing<Vec<u8>>, serde_json::Error> {
                match self { $( $( Self::$name(request) => write(request), )* )* }
            }
        }

        impl Response {
            /// Name of the operation.
            pub fn operation(&self) -> &'static str {
                match self { $( $( Self::$name(_) => stringify!($name), )* )* }
            }

            /// The JSON body (empty for operations without output); wiped when dropped.
            ///
            /// # Errors
            /// None in practice: every member has a JSON form.
            pub fn to_json(&self) -> Result<Zeroizing<Vec<u8>>, serde_json::Error> {
                let body = match self { $( $( Self::$name(response) => write(response), )* )* }?;
                Ok(if body.as_slice() == b"{}" { Zeroizing::default() } else { body })
            }

            /// Reads the response to `request`.
            ///
            /// # Errors
            /// The body is not that operation's response.
            pub fn from_json(request: &Request, body: &[u8]) -> Result<Self, serde_json::Error> {
                let body = if body.is_empty() { b"{}" } else { body };
                match request {
                    $( $( Request::$name(_) => serde_json::from_slice(body).map(Self::$name), )* )*
                }
            }
        }

        $( $(
            impl From<$request> for Request {
                fn from(request: $request) -> Self { Self::$name(request) }
            }

            impl Operation for $request {
                type Output = $response;
                fn output(response: Response) -> Option<$response> {
                    if let Response::$name(output) = response { Some(output) } else { None }
                }
            }
        )* )*
    };
}

/// Ties a request to the type of its response.
pub trait Operation: Into<Request> {
    /// What the operation returns.
    type Output;

    /// The output, if `response` is this operation's.
    fn output(response: Response) -> Option<Self::Output>;
}

operations! {
    AWS_PREFIX {
        CreateKey(CreateKeyRequest) -> CreateKeyResponse;
        DescribeKey(DescribeKeyRequest) -> DescribeKeyResponse;
        ListKeys(ListKeysRequest) -> ListKeysResponse;
        CreateAlias(CreateAliasRequest) -> EmptyResponse;
        UpdateAlias(UpdateAliasRequest) -> EmptyResponse;
        DeleteAlias(DeleteAliasRequest) -> EmptyResponse;
        ListAliases(ListAliasesRequest) -> ListAliasesResponse;
        Encrypt(EncryptRequest) -> EncryptResponse;
        Decrypt(DecryptRequest) -> DecryptResponse;
        ReEncrypt(ReEncryptRequest) -> ReEncryptResponse;
        GenerateDataKey(GenerateDataKeyRequest) -> GenerateDataKeyResponse;
        GenerateDataKeyWithoutPlaintext(GenerateDataKeyWithoutPlaintextRequest)
            -> GenerateDataKeyWithoutPlaintextResponse;
        GenerateRandom(GenerateRandomRequest) -> GenerateRandomResponse;
        GetKeyLastUsage(GetKeyLastUsageRequest) -> GetKeyLastUsageResponse;
        UpdateKeyDescription(UpdateKeyDescriptionRequest) -> EmptyResponse;
        ReplicateKey(ReplicateKeyRequest) -> ReplicateKeyResponse;
        UpdatePrimaryRegion(UpdatePrimaryRegionRequest) -> EmptyResponse;
        EnableKey(EnableKeyRequest) -> EmptyResponse;
        DisableKey(DisableKeyRequest) -> EmptyResponse;
        ScheduleKeyDeletion(ScheduleKeyDeletionRequest) -> ScheduleKeyDeletionResponse;
        CancelKeyDeletion(CancelKeyDeletionRequest) -> CancelKeyDeletionResponse;
        RotateKeyOnDemand(RotateKeyOnDemandRequest) -> RotateKeyOnDemandResponse;
        ListKeyRotations(ListKeyRotationsRequest) -> ListKeyRotationsResponse;
        GetKeyRotationStatus(GetKeyRotationStatusRequest) -> GetKeyRotationStatusResponse;
        EnableKeyRotation(EnableKeyRotationRequest) -> EmptyResponse;
        DisableKeyRotation(DisableKeyRotationRequest) -> EmptyResponse;
        GetParametersForImport(GetParametersForImportRequest) -> GetParametersForImportResponse;
        ImportKeyMaterial(ImportKeyMaterialRequest) -> ImportKeyMaterialResponse;
        DeleteImportedKeyMaterial(DeleteImportedKeyMaterialRequest) -> DeleteImportedKeyMaterialResponse;
        CreateCustomKeyStore(CreateCustomKeyStoreRequest) -> CreateCustomKeyStoreResponse;
        ConnectCustomKeyStore(ConnectCustomKeyStoreRequest) -> EmptyResponse;
        DisconnectCustomKeyStore(DisconnectCustomKeyStoreRequest) -> EmptyResponse;
        DescribeCustomKeyStores(DescribeCustomKeyStoresRequest) -> DescribeCustomKeyStoresResponse;
        UpdateCustomKeyStore(UpdateCustomKeyStoreRequest) -> EmptyResponse;
        DeleteCustomKeyStore(DeleteCustomKeyStoreRequest) -> EmptyResponse;
        CreateGrant(CreateGrantRequest) -> CreateGrantResponse;
        ListGrants(ListGrantsRequest) -> ListGrantsResponse;
        ListRetirableGrants(ListRetirableGrantsRequest) -> ListGrantsResponse;
        RetireGrant(RetireGrantRequest) -> EmptyResponse;
        RevokeGrant(RevokeGrantRequest) -> EmptyResponse;
        PutKeyPolicy(PutKeyPolicyRequest) -> EmptyResponse;
        GetKeyPolicy(GetKeyPolicyRequest) -> GetKeyPolicyResponse;
        ListKeyPolicies(ListKeyPoliciesRequest) -> ListKeyPoliciesResponse;
        TagResource(TagResourceRequest) -> EmptyResponse;
        UntagResource(UntagResourceRequest) -> EmptyResponse;
        ListResourceTags(ListResourceTagsRequest) -> ListResourceTagsResponse;
        Sign(SignRequest) -> SignResponse;
        Verify(VerifyRequest) -> VerifyResponse;
        GetPublicKey(GetPublicKeyRequest) -> GetPublicKeyResponse;
        GenerateMac(GenerateMacRequest) -> GenerateMacResponse;
        VerifyMac(VerifyMacRequest) -> VerifyMacResponse;
        DeriveSharedSecret(DeriveSharedSecretRequest) -> DeriveSharedSecretResponse;
        Encapsulate(EncapsulateRequest) -> EncapsulateResponse;
        Decapsulate(DecapsulateRequest) -> DecapsulateResponse;
        GenerateDataKeyPair(GenerateDataKeyPairRequest) -> GenerateDataKeyPairResponse;
        GenerateDataKeyPairWithoutPlaintext(GenerateDataKeyPairWithoutPlaintextRequest)
            -> GenerateDataKeyPairWithoutPlaintextResponse;
    }
    LOCAL_PREFIX {
        CreateVolume(CreateVolumeRequest) -> CreateVolumeResponse;
        CreatePolicy(CreatePolicyRequest) -> CreatePolicyResponse;
        GetPolicy(GetPolicyRequest) -> GetPolicyResponse;
        UpdatePolicy(UpdatePolicyRequest) -> UpdatePolicyResponse;
        RotatePolicy(RotatePolicyRequest) -> RotatePolicyResponse;
        DescribeVolume(DescribeVolumeRequest) -> DescribeVolumeResponse;
        ListVolumes(ListVolumesRequest) -> ListVolumesResponse;
        ReportPolicyUse(ReportPolicyUseRequest) -> EmptyResponse;
        RecordFileAccess(RecordFileAccessRequest) -> EmptyResponse;
        DestroyPolicy(DestroyPolicyRequest) -> DestroyPolicyResponse;
        DestroyPolicyGenerations(DestroyPolicyGenerationsRequest) -> DestroyPolicyResponse;
        ListTombstones(ListTombstonesRequest) -> ListTombstonesResponse;
        BackupStore(BackupStoreRequest) -> BackupStoreResponse;
        GetStatus(GetStatusRequest) -> GetStatusResponse;
        GetAuditHead(GetAuditHeadRequest) -> GetAuditHeadResponse;
        CreateCheckpoint(CreateCheckpointRequest) -> CreateCheckpointResponse;
        LookupEvents(LookupEventsRequest) -> LookupEventsResponse;
        WaitForEvents(WaitForEventsRequest) -> WaitForEventsResponse;
        CreateTemporaryGrant(CreateTemporaryGrantRequest) -> CreateTemporaryGrantResponse;
        DescribeGrants(DescribeGrantsRequest) -> DescribeGrantsResponse;
        GetCallerIdentity(GetCallerIdentityRequest) -> GetCallerIdentityResponse;
        ReloadPolicies(ReloadPoliciesRequest) -> ReloadPoliciesResponse;
        AcquireLease(AcquireLeaseRequest) -> AcquireLeaseResponse;
        WaitForEpoch(WaitForEpochRequest) -> WaitForEpochResponse;
        AcknowledgeEpoch(AcknowledgeEpochRequest) -> AcknowledgeEpochResponse;
        ReleaseLease(ReleaseLeaseRequest) -> EmptyResponse;
        ListLeases(ListLeasesRequest) -> ListLeasesResponse;
        PutIdentityPolicy(PutIdentityPolicyRequest) -> PolicyWarningsResponse;
        GetIdentityPolicy(GetIdentityPolicyRequest) -> GetIdentityPolicyResponse;
        ListIdentityPolicies(ListIdentityPoliciesRequest) -> ListIdentityPoliciesResponse;
        DeleteIdentityPolicy(DeleteIdentityPolicyRequest) -> EmptyResponse;
        PutGuardRail(PutGuardRailRequest) -> PolicyWarningsResponse;
        GetGuardRail(GetGuardRailRequest) -> GetGuardRailResponse;
        ListGuardRails(ListGuardRailsRequest) -> ListGuardRailsResponse;
        DeleteGuardRail(DeleteGuardRailRequest) -> EmptyResponse;
        SimulatePrincipalPolicy(SimulatePrincipalPolicyRequest) -> SimulatePrincipalPolicyResponse;
        WhoCan(WhoCanRequest) -> WhoCanResponse;
        ListApprovals(ListApprovalsRequest) -> ListApprovalsResponse;
        DescribeApproval(DescribeApprovalRequest) -> DescribeApprovalResponse;
        ApproveRequest(ApproveRequestRequest) -> ApproveRequestResponse;
        CancelApproval(CancelApprovalRequest) -> EmptyResponse;
        CreateAccessKey(CreateAccessKeyRequest) -> CreateAccessKeyResponse;
        ListAccessKeys(ListAccessKeysRequest) -> ListAccessKeysResponse;
        UpdateAccessKey(UpdateAccessKeyRequest) -> EmptyResponse;
        DeleteAccessKey(DeleteAccessKeyRequest) -> EmptyResponse;
    }
}

impl Request {
    /// The `X-Amz-Target` of the operation.
    pub fn target(&self) -> String {
        format!("{}.{}", self.prefix(), self.operation())
    }

    /// Whether the operation changes nothing. A use of a key counts as such, as in CloudTrail.
    pub fn is_read_only(&self) -> bool {
        crate::recorded::is_read_only(self.operation())
    }

    /// The key the request names, for the log.
    pub fn key(&self) -> Option<&str> {
        match self {
            Self::CreateKey(_)
            | Self::ListKeys(_)
            | Self::CreateCustomKeyStore(_)
            | Self::ConnectCustomKeyStore(_)
            | Self::DisconnectCustomKeyStore(_)
            | Self::DescribeCustomKeyStores(_)
            | Self::UpdateCustomKeyStore(_)
            | Self::DeleteCustomKeyStore(_)
            | Self::GenerateRandom(_)
            | Self::CreateVolume(_)
            | Self::GetPolicy(_)
            | Self::UpdatePolicy(_)
            | Self::DescribeVolume(_)
            | Self::ListVolumes(_)
            | Self::ReportPolicyUse(_)
            | Self::DestroyPolicy(_)
            | Self::DestroyPolicyGenerations(_)
            | Self::ListTombstones(_)
            | Self::BackupStore(_)
            | Self::ListRetirableGrants(_)
            | Self::GetStatus(_)
            | Self::GetAuditHead(_)
            | Self::CreateCheckpoint(_)
            | Self::LookupEvents(_)
            | Self::WaitForEvents(_)
            | Self::GetCallerIdentity(_)
            | Self::ReloadPolicies(_)
            | Self::AcquireLease(_)
            | Self::WaitForEpoch(_)
            | Self::AcknowledgeEpoch(_)
            | Self::ReleaseLease(_)
            | Self::ListLeases(_)
            | Self::PutIdentityPolicy(_)
            | Self::GetIdentityPolicy(_)
            | Self::ListIdentityPolicies(_)
            | Self::DeleteIdentityPolicy(_)
            | Self::PutGuardRail(_)
            | Self::GetGuardRail(_)
            | Self::ListGuardRails(_)
            | Self::DeleteGuardRail(_)
            | Self::ListApprovals(_)
            | Self::DescribeApproval(_)
            | Self::ApproveRequest(_)
            | Self::CancelApproval(_)
            | Self::CreateAccessKey(_)
            | Self::ListAccessKeys(_)
            | Self::UpdateAccessKey(_)
            | Self::DeleteAccessKey(_) => None,
            Self::PutKeyPolicy(r) => Some(&r.key_id),
            Self::GetKeyPolicy(r) => Some(&r.key_id),
            Self::ListKeyPolicies(r) => Some(&r.key_id),
            Self::TagResource(r) => Some(&r.key_id),
            Self::UntagResource(r) => Some(&r.key_id),
            Self::ListResourceTags(r) => Some(&r.key_id),
            Self::SimulatePrincipalPolicy(r) => r.key_id.as_deref(),
            Self::WhoCan(r) => Some(&r.key_id),
            Self::DescribeKey(r) => Some(&r.key_id),
            Self::CreateAlias(r) => Some(&r.target_key_id),
            Self::UpdateAlias(r) => Some(&r.target_key_id),
            Self::DeleteAlias(r) => Some(&r.alias_name),
            Self::ListAliases(r) => r.key_id.as_deref(),
            Self::Encrypt(r) => Some(&r.key_id),
            Self::Decrypt(r) => r.key_id.as_deref(),
            Self::ReEncrypt(r) => Some(&r.destination_key_id),
            Self::GenerateDataKey(r) => Some(&r.key_id),
            Self::GenerateDataKeyWithoutPlaintext(r) => Some(&r.key_id),
            Self::Sign(r) => Some(&r.key_id),
            Self::Verify(r) => Some(&r.key_id),
            Self::GetPublicKey(r) => Some(&r.key_id),
            Self::GenerateMac(r) => Some(&r.key_id),
            Self::VerifyMac(r) => Some(&r.key_id),
            Self::DeriveSharedSecret(r) => Some(&r.key_id),
            Self::Encapsulate(r) => Some(&r.key_id),
            Self::Decapsulate(r) => Some(&r.key_id),
            Self::GenerateDataKeyPair(r) => Some(&r.key_id),
            Self::GenerateDataKeyPairWithoutPlaintext(r) => Some(&r.key_id),
            Self::GetParametersForImport(r) => Some(&r.key_id),
            Self::ImportKeyMaterial(r) => Some(&r.key_id),
            Self::DeleteImportedKeyMaterial(r) => Some(&r.key_id),
            Self::GetKeyLastUsage(r) => Some(&r.key_id),
            Self::UpdateKeyDescription(r) => Some(&r.key_id),
            Self::ReplicateKey(r) => Some(&r.key_id),
            Self::UpdatePrimaryRegion(r) => Some(&r.key_id),
            Self::EnableKey(r) => Some(&r.key_id),
            Self::DisableKey(r) => Some(&r.key_id),
            Self::ScheduleKeyDeletion(r) => Some(&r.key_id),
            Self::CancelKeyDeletion(r) => Some(&r.key_id),
            Self::RotateKeyOnDemand(r) => Some(&r.key_id),
            Self::ListKeyRotations(r) => Some(&r.key_id),
            Self::GetKeyRotationStatus(r) => Some(&r.key_id),
            Self::EnableKeyRotation(r) => Some(&r.key_id),
            Self::DisableKeyRotation(r) => Some(&r.key_id),
            Self::RecordFileAccess(r) => r.key_id.as_deref(),
            Self::CreatePolicy(r) => Some(&r.key_id),
            Self::RotatePolicy(r) => r.key_id.as_deref(),
            Self::CreateGrant(r) => Some(&r.key_id),
            Self::CreateTemporaryGrant(r) => Some(&r.grant.key_id),
            Self::ListGrants(r) => Some(&r.key_id),
            Self::DescribeGrants(r) => Some(&r.key_id),
            Self::RetireGrant(r) => r.key_id.as_deref(),
            Self::RevokeGrant(r) => Some(&r.key_id),
        }
    }
}

impl Response {
    /// The key that was used or made, for the log of requests that do not name it.
    pub fn key(&self) -> Option<&str> {
        match self {
            Self::CreateKey(r) => Some(&r.key_metadata.arn),
            Self::Decrypt(r) => Some(&r.key_id),
            Self::GetPolicy(r) => Some(&r.key_arn),
            Self::RotatePolicy(r) => Some(&r.key_arn),
            _ => None,
        }
    }
}

fn read<T: FromMembers>(body: &[u8]) -> Result<T, ApiError> {
    let mut members = Members::parse(body)?;
    let request = T::from_members(&mut members)?;
    members.finish()?;
    Ok(request)
}

fn write<T: serde::Serialize>(value: &T) -> Result<Zeroizing<Vec<u8>>, serde_json::Error> {
    // Room for the largest blob in base64, so that growing does not leave copies behind.
    let mut body = Zeroizing::new(Vec::with_capacity(16 * 1024));
    serde_json::to_writer(&mut *body, value)?;
    Ok(body)
}
