//! The rows of the catalogue. Bodies are JSON so that a damaged store can be read by hand.

use std::collections::BTreeMap;

use data_encoding::{BASE64, HEXLOWER};
use kms_api::{KeySpec, KeyUsage};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::clock::{Due, Elapsed};
use crate::domain::Subject;
use crate::ids::{KeyId, MaterialId, Scope};
use crate::place::Place;

mod access_key;
mod policy;

pub use access_key::AccessKeyRow;
pub use policy::{OldGeneration, OnLoss, PolicyRow, PolicySettings, Revoke};

/// The version of the row encodings; a store of another version is refused.
pub const FORMAT: u32 = 1;

/// One table of the catalogue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Table {
    /// One row: [`MetaRow`].
    Meta,
    /// One row: the set-MAC over all others, with the generation. Not under itself.
    Mac,
    /// One row: the sealer's enrolment, opaque here.
    Enrollment,
    /// One row per domain key that is still held.
    Domain,
    /// One row per key, tombstones included.
    Key,
    /// One row per version of key material.
    Material,
    /// One row per alias.
    Alias,
    /// One row per volume.
    Volume,
    /// One row per policy of a volume.
    Policy,
    /// One row per grant on a key.
    Grant,
    /// One row per identity policy that the administrator put into the catalogue.
    IdentityPolicy,
    /// One row per guard rail.
    GuardRail,
    /// One row per service that holds a lease on authorisation answers.
    Lease,
    /// One row per request that waits for approvals.
    Approval,
    /// Audit records of committed changes that are not known to be in the log yet.
    Outbox,
    /// One row per policy whose extent was reported.
    PolicyUse,
    /// One row per access key.
    AccessKey,
}

impl Table {
    /// Every table, in a fixed order.
    pub const ALL: [Self; 17] = [
        Self::Meta,
        Self::Mac,
        Self::Enrollment,
        Self::Domain,
        Self::Key,
        Self::Material,
        Self::Alias,
        Self::Volume,
        Self::Policy,
        Self::Grant,
        Self::IdentityPolicy,
        Self::GuardRail,
        Self::Lease,
        Self::Approval,
        Self::Outbox,
        Self::PolicyUse,
        Self::AccessKey,
    ];

    /// The table's name in a database.
    pub fn name(self) -> &'static str {
        match self {
            Self::Meta => "meta",
            Self::Mac => "mac",
            Self::Enrollment => "enrollment",
            Self::Domain => "domain_keys",
            Self::Key => "keys",
            Self::Material => "key_materials",
            Self::Alias => "aliases",
            Self::Volume => "volumes",
            Self::Policy => "policies",
            Self::Grant => "grants",
            Self::IdentityPolicy => "identity_policies",
            Self::GuardRail => "guard_rails",
            Self::Lease => "leases",
            Self::Approval => "approvals",
            Self::Outbox => "audit_outbox",
            Self::PolicyUse => "policy_use",
            Self::AccessKey => "access_keys",
        }
    }
}

/// A row as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RawRow {
    /// Where it is.
    pub table: Table,
    /// Unique in its table.
    pub id: String,
    /// JSON, except for the sealer's enrolment and the MAC.
    pub body: Vec<u8>,
}

/// Bytes written as base64 in a row.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Bytes(pub Vec<u8>);

impl Serialize for Bytes {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&BASE64.encode(&self.0))
    }
}

impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        BASE64
            .decode(text.as_bytes())
            .map(Self)
            .map_err(serde::de::Error::custom)
    }
}

/// A secret wrapped under a domain key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wrapped {
    /// The domain key it is under.
    pub domain: u64,
    /// `kms_crypto::wrap` output.
    pub blob: Bytes,
}

/// What the whole store says about itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MetaRow {
    /// [`FORMAT`].
    pub format: u32,
    /// Random name of this store, 32 hex digits; part of every wrap's identity.
    pub store_id: String,
    /// Account and Region.
    pub scope: Scope,
    /// Wall clock at enrolment, milliseconds.
    pub created_ms: i64,
    /// Rises by one with every transaction.
    pub revision: u64,
    /// Compared with the sealer's counter at start; see the engine's rules.
    pub generation: u64,
    /// Transactions committed since `generation` last rose.
    pub unanchored: u64,
    /// Rises by one with every destruction of key material.
    pub deletion_epoch: u64,
    /// The domain key that new wraps use.
    pub domain: u64,
    /// Set while a deletion epoch is under way.
    pub epoch_change: Option<EpochPhase>,
    /// X25519 public key of the recovery recipient.
    pub recovery_public: Bytes,
    /// Persisted elapsed time.
    pub elapsed: Elapsed,
    /// Authorisation epoch: rises with every change that may change what somebody is allowed.
    #[serde(default)]
    pub authorization_epoch: u64,
    /// The audit log as of this transaction; its records up to here are under the set-MAC.
    #[serde(default)]
    pub audit_head: Option<AuditHead>,
    /// Grants that were revoked while somebody may still rely on them: revoking them again is no error.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub revoked: Vec<RevokedGrant>,
    /// Secrets were taken out of the rows that older copies of the store still hold: a deletion epoch has to follow.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub epoch_owed: bool,
}

/// A grant that is gone, until whoever revoked it has been told so; at most for [`RevokedGrant::KEPT_MS`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RevokedGrant {
    /// Id of its row.
    pub id: String,
    /// Elapsed time of the revocation, milliseconds.
    pub elapsed_ms: u64,
}

impl RevokedGrant {
    /// How long it is kept for a caller who was told nothing, for example because kmsd ended: ten minutes.
    pub const KEPT_MS: u64 = 600_000;
}

/// Where the audit log ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditHead {
    /// Number of records.
    pub size: u64,
    /// Chain value of the last of them; zeros for an empty log.
    pub chain: Hash,
}

/// 32 bytes of SHA-256, hexadecimal in rows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Hash(pub [u8; 32]);

impl Serialize for Hash {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&HEXLOWER.encode(&self.0))
    }
}

impl<'de> Deserialize<'de> for Hash {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        let bytes = HEXLOWER.decode(text.as_bytes()).ok();
        bytes
            .and_then(|bytes| bytes.try_into().ok())
            .map(Self)
            .ok_or_else(|| serde::de::Error::custom("not 64 lower-case hexadecimal digits"))
    }
}

/// How far a deletion epoch has come; every phase is durable before the next begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum EpochPhase {
    /// The doomed material is gone from the rows; survivors move to the new domain key.
    Rewrapping,
    /// Nothing is wrapped under older domain keys and they are dropped; old bytes may still be in
    /// the file, and the sealer still holds the old epoch secret.
    Scrubbing,
}

/// A key, or the tombstone of one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyRow {
    /// The key's id, never used again once the key is destroyed.
    pub id: KeyId,
    /// Wall clock, milliseconds.
    pub created_ms: i64,
    /// State.
    pub state: State,
    /// 0 to 8192 characters.
    pub description: String,
    /// Where the material came from.
    pub origin: Origin,
    /// Kind of material.
    #[serde(default = "symmetric", skip_serializing_if = "is_symmetric")]
    pub spec: KeySpec,
    /// What the key is for.
    #[serde(default = "encrypts", skip_serializing_if = "is_encrypting")]
    pub usage: KeyUsage,
    /// The key policy, JSON as given, or the default one.
    pub policy: String,
    /// Tag keys and values, in the order given.
    pub tags: Vec<(String, String)>,
    /// The version that encrypts; none while import is pending.
    pub current: Option<MaterialId>,
    /// Automatic rotation, when enabled.
    pub rotation: Option<Rotation>,
    /// On-demand rotations made so far.
    pub on_demand_rotations: u32,
    /// Who manages it.
    #[serde(default, skip_serializing_if = "Manager::is_customer")]
    pub manager: Manager,
    /// What a multi-Region key knows of the others of its id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub multi_region: Option<MultiRegion>,
    /// The waiting period, while pending deletion.
    pub deletion: Option<Deletion>,
    /// Imported material that waits for RotateKeyOnDemand.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pending: Option<MaterialId>,
    /// Imported materials of the key that were deleted or have expired.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub absent: Vec<AbsentMaterial>,
    /// Imported materials that were deleted or have expired before they were rotated to. The key does not need them; a store
    /// that is restored from a backup is not to bring them back.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub discarded: Vec<MaterialId>,
    /// Names the import token that counts, 32 hex digits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub import_token: Option<String>,
    /// Wall clock of the destruction, for a tombstone.
    pub destroyed_ms: Option<i64>,
}

/// Kind of the keys of rows that do not say; written without, so that the bytes of older rows stay the same.
fn symmetric() -> KeySpec {
    KeySpec::SymmetricDefault
}

fn is_symmetric(spec: &KeySpec) -> bool {
    *spec == KeySpec::SymmetricDefault
}

fn encrypts() -> KeyUsage {
    KeyUsage::EncryptDecrypt
}

fn is_encrypting(usage: &KeyUsage) -> bool {
    *usage == KeyUsage::EncryptDecrypt
}

/// The states of AWS KMS keys, and the tombstone's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum State {
    /// Usable.
    Enabled,
    /// Every cryptographic use is refused.
    Disabled,
    /// Waits to be destroyed.
    PendingDeletion,
    /// A primary key whose waiting period begins when its last replica is destroyed.
    PendingReplicaDeletion,
    /// Made without material, which has not been imported yet.
    PendingImport,
    /// Its key store is not reachable.
    Unavailable,
    /// A replica being made.
    Creating,
    /// Its primary Region is changing.
    Updating,
    /// Tombstone: the material is destroyed, the id stays taken.
    Destroyed,
}

/// Who manages a key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Manager {
    /// Whoever its policy allows it.
    #[default]
    #[serde(rename = "CUSTOMER")]
    Customer,
    /// kmsd, for a service: its policy never changes.
    #[serde(rename = "AWS")]
    Service,
}

impl Manager {
    fn is_customer(&self) -> bool {
        *self == Self::Customer
    }
}

/// A multi-Region key: the primary one or a replica. All of an id and an account share their material, each with a wrap of
/// its own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MultiRegion {
    /// Region of the primary key.
    pub primary: String,
    /// 7 to 30, while pending replica deletion.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub window_days: Option<u32>,
}

/// Where key material comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Origin {
    /// Made here.
    #[serde(rename = "AWS_KMS")]
    AwsKms,
    /// Imported.
    #[serde(rename = "EXTERNAL")]
    External,
}

/// Automatic rotation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rotation {
    /// 90 to 2560.
    pub period_days: u32,
    /// When the next one is.
    pub next: Due,
}

/// A scheduled deletion.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deletion {
    /// 7 to 30.
    pub window_days: u32,
    /// When the material is destroyed.
    pub due: Due,
}

/// Imported material that is not there: the key cannot be used until it is imported again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AbsentMaterial {
    /// Its id, by which it is recognised.
    pub id: MaterialId,
    /// As in its [`MaterialRow`].
    pub version: u32,
    /// As in its [`MaterialRow`].
    pub created_ms: i64,
    /// As in its [`MaterialRow`].
    pub rotated: Option<RotationKind>,
    /// What whoever imported it said about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
}

/// What belongs to imported material only.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Imported {
    /// What whoever imported it said about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// When it is deleted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<Due>,
}

/// One version of a key's material.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MaterialRow {
    /// The key.
    pub key: KeyId,
    /// This version.
    pub id: MaterialId,
    /// 1 for the first, rising by one.
    pub version: u32,
    /// Wall clock, milliseconds: when it was made, or for imported material when it became current.
    pub created_ms: i64,
    /// How it came to be; none for the first.
    pub rotated: Option<RotationKind>,
    /// The key's, so that the row tells by itself what is wrapped.
    #[serde(default = "symmetric", skip_serializing_if = "is_symmetric")]
    pub spec: KeySpec,
    /// The public key of an asymmetric key, SubjectPublicKeyInfo in DER.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub public: Option<Bytes>,
    /// The material: 32 bytes, an HMAC key or the PKCS #8 of a private key.
    pub secret: Wrapped,
    /// For imported material.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub import: Option<Imported>,
}

impl MaterialRow {
    /// What is wrapped in the row.
    pub fn subject(&self) -> Subject<'static> {
        Subject::Material(self.key, self.id, self.spec)
    }
}

/// Why a version of key material was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RotationKind {
    /// By schedule.
    #[serde(rename = "AUTOMATIC")]
    Automatic,
    /// By `RotateKeyOnDemand`.
    #[serde(rename = "ON_DEMAND")]
    OnDemand,
}

/// An alias.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AliasRow {
    /// With the `alias/` prefix.
    pub name: String,
    /// The target.
    pub key: KeyId,
    /// Wall clock, milliseconds.
    pub created_ms: i64,
    /// Wall clock, milliseconds.
    pub updated_ms: i64,
}

/// A volume: one lower tree of kmsfs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeRow {
    /// 32 hex digits.
    pub id: String,
    /// Free text of the administrator.
    pub label: String,
    /// Wall clock, milliseconds.
    pub created_ms: i64,
}

/// A grant: an allowance on one key for one principal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GrantRow {
    /// The key.
    pub key: KeyId,
    /// 64 hex digits.
    pub id: String,
    /// Makes a repeated CreateGrant find this one.
    pub name: Option<String>,
    /// ARN of the principal that may use it, or a service principal (`kmsfs.amazonaws.com`).
    pub grantee: String,
    /// ARN of the principal (or service principal) that may retire it.
    pub retiring: Option<String>,
    /// Names of the granted operations, as in the request.
    pub operations: Vec<String>,
    /// The request's encryption context must be exactly this.
    pub context_equals: Option<BTreeMap<String, String>>,
    /// The request's encryption context must contain this.
    pub context_subset: Option<BTreeMap<String, String>>,
    /// `aws:SourceArn` of the request must match this.
    pub source_arn: Option<String>,
    /// Wall clock, milliseconds.
    pub created_ms: i64,
    /// ARN of the account that issued it (`arn:aws:iam::ACCOUNT:root`).
    pub issuer: String,
    /// The grant whose CreateGrant permission made this one.
    pub parent: Option<String>,
    /// When it retires itself.
    pub ends: Option<Due>,
    /// 16 random bytes that its grant tokens are made under. They authenticate tokens and open nothing.
    pub token_key: Bytes,
}

/// Whom an identity policy is attached to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum IdentityKind {
    /// A user, by name.
    User,
    /// A group of the name service, by name.
    Group,
    /// A systemd unit, by its full name.
    Unit,
    /// A role that the mapping rules of the configuration give.
    Role,
}

impl IdentityKind {
    /// The word in rows, paths and commands.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::Group => "group",
            Self::Unit => "unit",
            Self::Role => "role",
        }
    }
}

/// An identity policy of the catalogue.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdentityPolicyRow {
    /// Kind of identity.
    pub kind: IdentityKind,
    /// Its name.
    pub identity: String,
    /// Name of the policy.
    pub name: String,
    /// JSON as given.
    pub document: String,
    /// Wall clock, milliseconds.
    pub updated_ms: i64,
}

/// A guard rail: a policy document that limits everyone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuardRailRow {
    /// Its name.
    pub name: String,
    /// JSON as given.
    pub document: String,
    /// Wall clock, milliseconds.
    pub updated_ms: i64,
}

/// A service that may rely on answers for some time. Renewals are not written: after a restart
/// every row counts as renewed at the moment the store was opened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseRow {
    /// 32 hex digits.
    pub id: String,
    /// ARN of the service's principal.
    pub holder: String,
    /// uid of the service.
    pub uid: u32,
    /// Free text that names the holder to people, for example a mount point.
    pub label: String,
    /// Milliseconds for which an answer may be relied on without a renewal.
    pub duration_ms: u64,
    /// Wall clock, milliseconds.
    pub created_ms: i64,
}

/// A request that waits for approvals.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApprovalRow {
    /// 32 hex digits.
    pub id: String,
    /// Name of the operation.
    pub operation: String,
    /// Its members, as JSON: an approval is for exactly this.
    pub parameters: String,
    /// ARNs of the keys that they name, and for these.
    pub keys: Vec<String>,
    /// ARN of the principal that asked.
    pub requester: String,
    /// Those who approved.
    pub approvers: Vec<Approver>,
    /// Approvals needed when it was asked for.
    pub required: u32,
    /// ARNs of the principals that could approve when it was asked for.
    pub eligible: Vec<String>,
    /// Wall clock, milliseconds.
    pub created_ms: i64,
    /// When it lapses.
    pub ends: Due,
}

/// Somebody who approved a request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Approver {
    /// ARN of the principal that the record names.
    pub arn: String,
    /// The principal of theirs that was listed.
    pub principal: String,
}

/// The audit record of a committed change, until the log is known to have it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutboxRow {
    /// Event id, a UUID.
    pub id: String,
    /// The record's canonical bytes, without its place in the log.
    pub record: Bytes,
}

/// What a policy protected when that was last counted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyUseRow {
    /// 32 hex digits.
    pub volume: String,
    /// 32 hex digits.
    pub id: String,
    /// Number of files.
    pub files: u64,
    /// Number of directories.
    pub directories: u64,
    /// Sizes of the files together.
    pub bytes: u64,
    /// Where it was mounted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mountpoint: Option<String>,
    /// Wall clock, milliseconds.
    pub reported_ms: i64,
}

/// Content mode of a policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Mode {
    /// AES-256-XTS, not authenticated.
    #[serde(rename = "XTS")]
    Xts,
    /// AES-256-GCM, authenticated.
    #[serde(rename = "GCM")]
    Gcm,
}

/// A domain key, wrapped once for each recipient.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DomainRow {
    /// Rises by one with every deletion epoch.
    pub id: u64,
    /// Wall clock, milliseconds.
    pub created_ms: i64,
    /// The same key for each recipient.
    pub wraps: Vec<DomainWrap>,
}

/// A domain key for one recipient.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DomainWrap {
    /// Who can open it.
    pub recipient: Recipient,
    /// The wrap.
    pub blob: Bytes,
}

/// Who can open a domain key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Recipient {
    /// The KEK of this host, from its sealer.
    Host,
    /// The recovery key pair, by its public key.
    Recovery(Bytes),
}

/// A decoded row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Row {
    /// See [`MetaRow`].
    Meta(Box<MetaRow>),
    /// 32 bytes.
    Mac(Vec<u8>),
    /// Opaque.
    Enrollment(Vec<u8>),
    /// See [`DomainRow`].
    Domain(DomainRow),
    /// See [`KeyRow`].
    Key(Box<KeyRow>),
    /// See [`MaterialRow`].
    Material(MaterialRow),
    /// See [`AliasRow`].
    Alias(AliasRow),
    /// See [`VolumeRow`].
    Volume(VolumeRow),
    /// See [`PolicyRow`].
    Policy(PolicyRow),
    /// See [`GrantRow`].
    Grant(Box<GrantRow>),
    /// See [`IdentityPolicyRow`].
    IdentityPolicy(IdentityPolicyRow),
    /// See [`GuardRailRow`].
    GuardRail(GuardRailRow),
    /// See [`LeaseRow`].
    Lease(LeaseRow),
    /// See [`ApprovalRow`].
    Approval(ApprovalRow),
    /// See [`OutboxRow`].
    Outbox(OutboxRow),
    /// See [`PolicyUseRow`].
    PolicyUse(PolicyUseRow),
    /// See [`AccessKeyRow`].
    AccessKey(Box<AccessKeyRow>),
}

/// A row cannot be read or written.
#[derive(Debug, thiserror::Error)]
#[error("row {id} of table {} is damaged: {reason}", table.name())]
pub struct RowError {
    /// The table.
    pub table: Table,
    /// The row.
    pub id: String,
    /// What is wrong with it.
    pub reason: String,
}

impl Row {
    /// The table the row belongs to.
    pub fn table(&self) -> Table {
        match self {
            Self::Meta(_) => Table::Meta,
            Self::Mac(_) => Table::Mac,
            Self::Enrollment(_) => Table::Enrollment,
            Self::Domain(_) => Table::Domain,
            Self::Key(_) => Table::Key,
            Self::Material(_) => Table::Material,
            Self::Alias(_) => Table::Alias,
            Self::Volume(_) => Table::Volume,
            Self::Policy(_) => Table::Policy,
            Self::Grant(_) => Table::Grant,
            Self::IdentityPolicy(_) => Table::IdentityPolicy,
            Self::GuardRail(_) => Table::GuardRail,
            Self::Lease(_) => Table::Lease,
            Self::Approval(_) => Table::Approval,
            Self::Outbox(_) => Table::Outbox,
            Self::PolicyUse(_) => Table::PolicyUse,
            Self::AccessKey(_) => Table::AccessKey,
        }
    }

    /// The row's id, which its content determines.
    pub fn id(&self) -> String {
        match self {
            Self::Meta(_) | Self::Mac(_) | Self::Enrollment(_) => "store".to_owned(),
            Self::Domain(row) => domain_id(row.id),
            Self::Key(row) => row.id.row_id(),
            Self::Material(row) => material_id(row.key, row.id),
            Self::Alias(row) => alias_id(row.key.place(), &row.name),
            Self::Volume(row) => row.id.clone(),
            Self::Policy(row) => policy_id(&row.volume, &row.id),
            Self::Grant(row) => grant_id(row.key, &row.id),
            Self::IdentityPolicy(row) => identity_policy_id(row.kind, &row.identity, &row.name),
            Self::GuardRail(row) => row.name.clone(),
            Self::Lease(row) => row.id.clone(),
            Self::Approval(row) => row.id.clone(),
            Self::Outbox(row) => row.id.clone(),
            Self::PolicyUse(row) => policy_id(&row.volume, &row.id),
            Self::AccessKey(row) => row.id.clone(),
        }
    }

    /// The bytes to store.
    pub fn encode(&self) -> Result<RawRow, RowError> {
        let json = |row: Result<Vec<u8>, serde_json::Error>| {
            row.map_err(|e| RowError {
                table: self.table(),
                id: self.id(),
                reason: e.to_string(),
            })
        };
        let body = match self {
            Self::Meta(row) => json(serde_json::to_vec(row))?,
            Self::Mac(bytes) | Self::Enrollment(bytes) => bytes.clone(),
            Self::Domain(row) => json(serde_json::to_vec(row))?,
            Self::Key(row) => json(serde_json::to_vec(row))?,
            Self::Material(row) => json(serde_json::to_vec(row))?,
            Self::Alias(row) => json(serde_json::to_vec(row))?,
            Self::Volume(row) => json(serde_json::to_vec(row))?,
            Self::Policy(row) => json(serde_json::to_vec(row))?,
            Self::Grant(row) => json(serde_json::to_vec(row))?,
            Self::IdentityPolicy(row) => json(serde_json::to_vec(row))?,
            Self::GuardRail(row) => json(serde_json::to_vec(row))?,
            Self::Lease(row) => json(serde_json::to_vec(row))?,
            Self::Approval(row) => json(serde_json::to_vec(row))?,
            Self::Outbox(row) => json(serde_json::to_vec(row))?,
            Self::PolicyUse(row) => json(serde_json::to_vec(row))?,
            Self::AccessKey(row) => json(serde_json::to_vec(row))?,
        };
        Ok(RawRow {
            table: self.table(),
            id: self.id(),
            body,
        })
    }

    /// Reads a stored row; its id must be the one its content has.
    pub fn decode(raw: &RawRow) -> Result<Self, RowError> {
        let damaged = |reason: String| RowError {
            table: raw.table,
            id: raw.id.clone(),
            reason,
        };
        fn json<T: DeserializeOwned>(raw: &RawRow) -> Result<T, RowError> {
            serde_json::from_slice(&raw.body).map_err(|e| RowError {
                table: raw.table,
                id: raw.id.clone(),
                reason: e.to_string(),
            })
        }
        let row = match raw.table {
            Table::Meta => Self::Meta(Box::new(json(raw)?)),
            Table::Mac => Self::Mac(raw.body.clone()),
            Table::Enrollment => Self::Enrollment(raw.body.clone()),
            Table::Domain => Self::Domain(json(raw)?),
            Table::Key => Self::Key(Box::new(json(raw)?)),
            Table::Material => Self::Material(json(raw)?),
            Table::Alias => Self::Alias(json(raw)?),
            Table::Volume => Self::Volume(json(raw)?),
            Table::Policy => Self::Policy(json(raw)?),
            Table::Grant => Self::Grant(Box::new(json(raw)?)),
            Table::IdentityPolicy => Self::IdentityPolicy(json(raw)?),
            Table::GuardRail => Self::GuardRail(json(raw)?),
            Table::Lease => Self::Lease(json(raw)?),
            Table::Approval => Self::Approval(json(raw)?),
            Table::Outbox => Self::Outbox(json(raw)?),
            Table::PolicyUse => Self::PolicyUse(json(raw)?),
            Table::AccessKey => Self::AccessKey(Box::new(json(raw)?)),
        };
        if row.id() != raw.id {
            return Err(damaged(format!("its content belongs to row {}", row.id())));
        }
        Ok(row)
    }
}

/// Id of a domain key's row.
pub fn domain_id(id: u64) -> String {
    format!("{id:016}")
}

/// Id of a material row.
pub fn material_id(key: KeyId, id: MaterialId) -> String {
    format!("{}/{id}", key.row_id())
}

/// Id of an alias's row.
pub fn alias_id(place: Place, name: &str) -> String {
    place.row_name(&name)
}

/// Id of a policy row.
pub fn policy_id(volume: &str, policy: &str) -> String {
    format!("{volume}/{policy}")
}

/// Id of a grant's row.
pub fn grant_id(key: KeyId, grant: &str) -> String {
    format!("{}/{grant}", key.row_id())
}

/// Id of an identity policy's row.
pub fn identity_policy_id(kind: IdentityKind, identity: &str, name: &str) -> String {
    format!("{}/{identity}/{name}", kind.as_str())
}

/// One change of a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Insert or replace.
    Put(Row),
    /// Remove; absent is fine.
    Remove(Table, String),
}
