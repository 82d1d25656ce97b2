//! The state machine: one request against one snapshot.

mod access_keys;
mod aliases;
mod approvals;
mod asymmetric;
mod background;
mod break_glass;
mod counts;
mod crypto;
mod destruction;
mod expiry;
mod file_access;
mod generations;
mod grants;
mod guard_rails;
mod identities;
mod imports;
mod keys;
mod last_usage;
mod leases;
mod mapped;
mod material;
mod multi_region;
mod pages;
mod policies;
mod quotas;
mod registry;
mod rotation;
mod service_keys;
mod simulate;
mod status;
mod tags;
mod who_can;

#[cfg(test)]
mod tests;

use std::sync::Arc;

use kms_api::{
    ApiError, EmptyResponse, ErrorCode, GetCallerIdentityResponse, ReloadPoliciesResponse, Request,
    Response,
};

use kms_crypto::asymmetric::{KeyPair, PairSpec};

use crate::authz::{Authorized, FilePolicies, Handled, ask_for, hold_ms};
use crate::clock::Now;
use crate::domain::{DomainError, DomainKeys};
use crate::entropy::{Entropy, EntropyError};
use crate::ids::{KeyId, KeyReference};
use crate::import;
use crate::last_use::LastUse;
use crate::place::{At, Place, Served};
use crate::policy::ConditionKey;
use crate::rows::{Change, KeyRow, MaterialRow, State};
use crate::snapshot::Snapshot;
use crate::states::{self, Action};

pub use access_keys::AccessKeyUses;
pub(crate) use aliases::check_name as check_alias_name;
pub use approvals::ApprovalRules;
pub(crate) use asymmetric::pair_spec;
pub use background::DueKeys;
pub use break_glass::{Measure, Obstacle, Plan};
pub use counts::Counts;
pub use crypto::Use;
pub(crate) use crypto::{null_key_id, unknown_key};
pub use expiry::Expired;
pub(crate) use imports::{due_at, without};
pub(crate) use keys::wire_origin;
pub use kms_api::Caller;
pub use leases::{LeaseCall, lease_lost};
pub use mapped::{MappedRole, NameOrNumber, unit_matches};
pub(crate) use material::{material_id_of, material_name};
pub(crate) use multi_region::key_type;
pub(crate) use policies::default_policy;
pub use quotas::Quotas;
pub use service_keys::KMSFS_ALIAS;
pub use status::{HostStatus, Settings};

/// What a request may look at besides the snapshot.
pub struct World<'a> {
    /// The time.
    pub now: Now,
    /// Randomness.
    pub entropy: &'a dyn Entropy,
    /// Domain keys, for wrapping what is made and opening what the registry hands out.
    pub domain: &'a DomainKeys,
    /// What `GetStatus` says about the process.
    pub host: &'a HostStatus,
    /// What an outcome asked for that takes long, once it is done.
    pub made: Option<&'a Made>,
}

/// What is made outside before a request is evaluated again.
pub enum Made {
    /// The key pair that [`Outcome::MakePair`] asked for.
    Pair(KeyPair),
    /// What came out of the wrapping of [`Outcome::Unwrap`].
    Imported(import::Material),
}

impl World<'_> {
    /// The pair that was made for the request, if it is of this kind.
    fn pair_of(&self, spec: PairSpec) -> Option<&KeyPair> {
        match self.made {
            Some(Made::Pair(pair)) if pair.spec() == spec => Some(pair),
            _ => None,
        }
    }

    /// The key material that was unwrapped for the request.
    fn imported(&self) -> Option<&import::Material> {
        match self.made {
            Some(Made::Imported(material)) => Some(material),
            _ => None,
        }
    }
}

/// What is to be done about a request.
pub enum Outcome {
    /// Nothing more: this is the reply.
    Reply(Box<Response>),
    /// Reply once the transaction is durable.
    Write(Box<Write>),
    /// Reply with what the key provider makes of it.
    Use(Box<Use>),
    /// Make a key pair of this kind, which may take seconds, and evaluate the request again with it
    /// ([`World::made`]). The request is authorised.
    MakePair(PairSpec),
    /// Unwrap imported key material, which takes a private key some milliseconds, and evaluate the request again with it
    /// ([`World::made`]). The request is authorised.
    Unwrap(Box<import::Wrapped>),
    /// Reply with what the engine's leases say.
    Lease(Box<LeaseCall>),
    /// Reply with what only the daemon knows: the audit log, for example. The request is authorised.
    Host,
}

/// A transaction and the reply that it allows.
#[derive(Debug)]
pub struct Write {
    /// Sent after the commit.
    pub response: Response,
    /// The revision it was evaluated against; at another one it must be evaluated again.
    pub expected: u64,
    /// All or none.
    pub changes: Vec<Change>,
    /// Whether it takes something away from somebody: then the rollback counter advances before
    /// the reply.
    pub tightening: bool,
    /// To be done after the commit and before the reply.
    pub effects: Vec<Effect>,
    /// The error to reply with instead of the response: all that is done is that the request waits.
    pub refusal: Option<ApiError>,
}

/// Something outside the catalogue that follows from a committed transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Wipe cached material of this key.
    Forget(KeyId),
    /// Go through the deletion epoch that the transaction owes.
    DeletionEpoch,
}

/// The state machine over its snapshot.
pub struct Kms {
    snapshot: Snapshot,
    pub(crate) file_policies: Arc<FilePolicies>,
    pub(crate) boot_id: Option<Arc<str>>,
    pub(crate) roles: RoleNames,
    pub(crate) last_use: Arc<LastUse>,
    pub(crate) served: Served,
    access_key_uses: Arc<AccessKeyUses>,
}

/// Who has the policies that come with kmsd; for questions about callers that are not there.
#[derive(Clone, Debug, Default)]
pub struct RoleNames {
    /// Name of the administrators' group.
    pub admin_group: Option<String>,
    /// Users that are services, and what those are called.
    pub services: Vec<(String, String)>,
    /// The rules that give roles.
    pub mapped: Vec<MappedRole>,
}

impl RoleNames {
    /// Whether one of these groups is the administrators'.
    fn admits(&self, groups: &[String]) -> bool {
        let admin = self.admin_group.as_ref();
        admin.is_some_and(|admin| groups.contains(admin))
    }
}

impl Kms {
    /// Starts from the rows of a store.
    pub fn new(snapshot: Snapshot) -> Self {
        Self {
            snapshot,
            file_policies: Arc::default(),
            boot_id: None,
            roles: RoleNames::default(),
            last_use: Arc::default(),
            served: Served::default(),
            access_key_uses: Arc::default(),
        }
    }

    /// Tells who has the policies that come with kmsd.
    pub fn set_role_names(&mut self, roles: RoleNames) {
        self.roles = roles;
    }

    /// Tells which accounts and Regions are served besides the home's.
    pub fn set_served(&mut self, served: Served) {
        self.served = served;
    }

    /// The accounts and Regions that are served.
    pub fn served(&self) -> &Served {
        &self.served
    }

    /// Goes on with other rows of the same store; what did not come from them stays.
    pub fn replace(&mut self, snapshot: Snapshot) {
        self.snapshot = snapshot;
    }

    /// Puts the policies of files in force, in the place of those that were.
    pub fn set_file_policies(&mut self, policies: Arc<FilePolicies>) {
        self.file_policies = policies;
    }

    /// The policies of files that are in force.
    pub fn file_policies(&self) -> &Arc<FilePolicies> {
        &self.file_policies
    }

    /// When keys were last used; whoever carries out uses notes them there.
    pub fn last_use(&self) -> &Arc<LastUse> {
        &self.last_use
    }

    /// Tells which boot of the host this is (`kmsd:BootId`).
    pub fn set_boot_id(&mut self, id: Option<Arc<str>>) {
        self.boot_id = id;
    }

    /// Whether any policy in force asks for this fact about a caller: some take time to find out, and are known only
    /// then.
    pub fn asks_for(&self, key: ConditionKey<'_>) -> bool {
        ask_for(
            key,
            &self.snapshot.interned,
            &self.snapshot.attached,
            &self.file_policies,
        )
    }

    /// For how many milliseconds a decision about these keys stays right by itself: conditions on the time begin and cease
    /// to hold, and imported material expires, without a change. `None`: until something changes.
    pub fn holds_ms(&self, keys: impl Iterator<Item = KeyId>, now: Now) -> Option<u64> {
        let keys: Vec<KeyId> = keys.collect();
        let materials = keys.iter().filter_map(|key| self.expires_in_ms(*key, now));
        let materials: Vec<u64> = materials.collect();
        let policies = keys
            .into_iter()
            .filter_map(|key| self.snapshot.key_policies.get(&key));
        let policies = hold_ms(
            policies,
            &self.snapshot.attached,
            &self.file_policies,
            now.wall_ms,
        );
        policies.into_iter().chain(materials).min()
    }

    /// The rows as they are now.
    pub fn snapshot(&self) -> &Snapshot {
        &self.snapshot
    }

    /// Applies a committed transaction.
    pub fn apply(&mut self, changes: &[Change]) {
        for change in changes {
            self.snapshot.apply(change);
        }
    }

    /// Whoever revoked a grant is told so: see [`Snapshot::recently_revoked`].
    pub fn forget_revoked(&mut self, grant: &str) {
        self.snapshot.forget_revoked(grant);
    }

    /// Evaluates a request: whether it is allowed, then what it does. Nothing changes by this: the outcome says what is
    /// to happen.
    pub fn handle(&self, request: &Request, caller: &Caller, world: &World<'_>) -> Handled {
        match self.authorize(request, caller, world.now) {
            Ok(auth) => {
                let outcome = self
                    .perform(&auth, request, caller, world)
                    .and_then(|outcome| self.approved(&auth, request, caller, outcome, world));
                auth.handled(outcome)
            }
            Err(refused) => *refused,
        }
    }

    fn perform(
        &self,
        auth: &Authorized,
        request: &Request,
        caller: &Caller,
        world: &World<'_>,
    ) -> Result<Outcome, ApiError> {
        match request {
            Request::CreateKey(r) => self.create_key(auth, r, caller, world),
            Request::DescribeKey(r) => self.describe_key(auth, r, world),
            Request::ListKeys(r) => self.list_keys(auth, r),
            Request::GetParametersForImport(r) => self.get_parameters_for_import(auth, r, world),
            Request::ImportKeyMaterial(r) => self.import_key_material(auth, r, world),
            Request::DeleteImportedKeyMaterial(r) => self.delete_imported_key_material(auth, r),
            Request::CreateCustomKeyStore(_)
            | Request::ConnectCustomKeyStore(_)
            | Request::DisconnectCustomKeyStore(_)
            | Request::DescribeCustomKeyStores(_)
            | Request::UpdateCustomKeyStore(_)
            | Request::DeleteCustomKeyStore(_) => Err(no_key_stores()),
            Request::GetKeyLastUsage(r) => self.get_key_last_usage(auth, r, world),
            Request::UpdateKeyDescription(r) => self.update_key_description(auth, r),
            Request::ReplicateKey(r) => self.replicate_key(auth, r, caller, world),
            Request::UpdatePrimaryRegion(r) => self.update_primary_region(auth, r),
            Request::EnableKey(r) => self.enable_key(auth, r),
            Request::DisableKey(r) => self.disable_key(auth, r),
            Request::ScheduleKeyDeletion(r) => self.schedule_key_deletion(auth, r, world),
            Request::CancelKeyDeletion(r) => self.cancel_key_deletion(auth, r),
            Request::CreateAlias(r) => self.create_alias(auth, r, world),
            Request::UpdateAlias(r) => self.update_alias(auth, r, world),
            Request::DeleteAlias(r) => self.delete_alias(auth, r),
            Request::ListAliases(r) => self.list_aliases(auth, r),
            Request::Encrypt(r) => self.encrypt(auth, r),
            Request::Decrypt(r) => self.decrypt(auth, r),
            Request::ReEncrypt(r) => self.re_encrypt(auth, r),
            Request::GenerateDataKey(r) => self.generate_data_key(auth, r, world),
            Request::GenerateDataKeyWithoutPlaintext(r) => {
                self.generate_data_key_without_plaintext(auth, r, world)
            }
            Request::Sign(r) => self.sign(auth, r),
            Request::Verify(r) => self.verify(auth, r),
            Request::GetPublicKey(r) => self.get_public_key(auth, r),
            Request::GenerateMac(r) => self.generate_mac(auth, r),
            Request::VerifyMac(r) => self.verify_mac(auth, r),
            Request::DeriveSharedSecret(r) => self.derive_shared_secret(auth, r),
            Request::Encapsulate(r) => self.encapsulate(auth, r),
            Request::Decapsulate(r) => self.decapsulate(auth, r),
            Request::GenerateDataKeyPair(r) => self.generate_data_key_pair(auth, r, world),
            Request::GenerateDataKeyPairWithoutPlaintext(r) => {
                self.generate_data_key_pair_without_plaintext(auth, r, world)
            }
            Request::GenerateRandom(r) => generate_random(auth, r, world),
            Request::RotateKeyOnDemand(r) => self.rotate_key_on_demand(auth, r, world),
            Request::ListKeyRotations(r) => self.list_key_rotations(auth, r),
            Request::GetKeyRotationStatus(r) => self.get_key_rotation_status(auth, r),
            Request::EnableKeyRotation(r) => self.enable_key_rotation(auth, r, world),
            Request::DisableKeyRotation(r) => self.disable_key_rotation(auth, r),
            Request::CreateGrant(r) => self.create_grant(auth, r, world),
            Request::CreateTemporaryGrant(r) => self.create_temporary_grant(auth, r, world),
            Request::ListGrants(r) => self.list_grants(auth, r, world),
            Request::DescribeGrants(r) => self.describe_grants(auth, r, world),
            Request::ListRetirableGrants(r) => self.list_retirable_grants(auth, r, world),
            Request::RetireGrant(r) => self.retire_grant(auth, r, world),
            Request::RevokeGrant(r) => self.revoke_grant(auth, r, world),
            Request::CreateVolume(r) => self.create_volume(auth, r, world),
            Request::CreatePolicy(r) => self.create_policy(auth, r, world),
            Request::GetPolicy(r) => self.get_policy(auth, r, world),
            Request::UpdatePolicy(r) => self.update_policy(auth, r),
            Request::RotatePolicy(r) => self.rotate_policy(auth, r, world),
            Request::DescribeVolume(r) => self.describe_volume(auth, r),
            Request::ListVolumes(r) => self.list_volumes(auth, r),
            Request::DestroyPolicy(r) => self.destroy_policy(auth, r, world),
            Request::DestroyPolicyGenerations(r) => self.destroy_generations(auth, r),
            Request::ListTombstones(r) => self.list_tombstones(auth, r),
            Request::ReportPolicyUse(r) => self.report_policy_use(auth, r, world),
            Request::RecordFileAccess(r) => self.record_file_access(auth, r),
            Request::GetAuditHead(_)
            | Request::CreateCheckpoint(_)
            | Request::LookupEvents(_)
            | Request::WaitForEvents(_)
            | Request::BackupStore(_) => Ok(Outcome::Host),
            Request::GetStatus(_) => Ok(reply(Response::GetStatus(self.status(auth, world)))),
            Request::PutKeyPolicy(r) => self.put_key_policy(auth, r, caller, world),
            Request::GetKeyPolicy(r) => self.get_key_policy(auth, r),
            Request::ListKeyPolicies(r) => self.list_key_policies(auth, r),
            Request::TagResource(r) => self.tag_resource(auth, r, world),
            Request::UntagResource(r) => self.untag_resource(auth, r),
            Request::ListResourceTags(r) => self.list_resource_tags(auth, r),
            Request::PutIdentityPolicy(r) => self.put_identity_policy(auth, r, world),
            Request::GetIdentityPolicy(r) => self.get_identity_policy(auth, r),
            Request::ListIdentityPolicies(r) => self.list_identity_policies(auth, r),
            Request::DeleteIdentityPolicy(r) => self.delete_identity_policy(auth, r),
            Request::PutGuardRail(r) => self.put_guard_rail(auth, r, caller, world),
            Request::GetGuardRail(r) => self.get_guard_rail(auth, r),
            Request::ListGuardRails(r) => self.list_guard_rails(auth, r),
            Request::DeleteGuardRail(r) => self.delete_guard_rail(auth, r),
            Request::SimulatePrincipalPolicy(r) => self.simulate(auth, r, world),
            Request::WhoCan(r) => self.who_can(auth, r, world),
            // The policies of files are the program's affair: it reads them once this is allowed.
            Request::ReloadPolicies(_) => {
                let (identity_policies, guard_rails) = self.file_policies.count();
                Ok(reply(Response::ReloadPolicies(ReloadPoliciesResponse {
                    changed: false,
                    identity_policies: identity_policies as u64,
                    guard_rails: guard_rails as u64,
                })))
            }
            Request::GetCallerIdentity(_) => {
                let identity = GetCallerIdentityResponse::of(caller, &auth.at.scope.account);
                Ok(reply(Response::GetCallerIdentity(identity)))
            }
            Request::AcquireLease(r) => self.acquire_lease(r, caller, world),
            Request::ReleaseLease(r) => self.release_lease(r.lease_id, caller),
            Request::WaitForEpoch(r) => Ok(Outcome::Lease(Box::new(LeaseCall::Wait {
                id: self.own_lease(r.lease_id, caller)?,
                epoch: r.epoch,
                timeout_ms: r.timeout_ms,
            }))),
            Request::AcknowledgeEpoch(r) => Ok(Outcome::Lease(Box::new(LeaseCall::Acknowledge {
                id: self.own_lease(r.lease_id, caller)?,
                epoch: r.epoch,
            }))),
            Request::ListLeases(_) => Ok(Outcome::Lease(Box::new(LeaseCall::List))),
            Request::ListApprovals(_) => Ok(self.list_approvals(caller, world)),
            Request::DescribeApproval(r) => self.describe_approval(r.approval_id, caller, world),
            Request::ApproveRequest(r) => self.approve_request(r.approval_id, caller, world),
            Request::CancelApproval(r) => self.cancel_approval(r.approval_id, caller, world),
            Request::CreateAccessKey(r) => self.create_access_key(auth, r, caller, world),
            Request::ListAccessKeys(r) => self.list_access_keys(auth, r),
            Request::UpdateAccessKey(r) => self.update_access_key(auth, r),
            Request::DeleteAccessKey(r) => self.delete_access_key(auth, &r.access_key_id),
        }
    }

    /// A key by id, ARN, alias or alias ARN, as cryptographic operations and DescribeKey take it.
    pub(crate) fn key_or_alias(
        &self,
        at: &impl AsRef<At>,
        text: &str,
    ) -> Result<&Arc<KeyRow>, ApiError> {
        match self.reference(at, text)? {
            KeyReference::Key(id) => self.key_by_id(id),
            KeyReference::Alias(place, name) => match self.snapshot.aliases.get(place, &name) {
                Some(alias) => self.key_by_id(alias.key),
                None => Err(self.no_alias(place, &name)),
            },
        }
    }

    /// A key by id or ARN, as management operations take it.
    pub(crate) fn key(&self, at: &impl AsRef<At>, text: &str) -> Result<&Arc<KeyRow>, ApiError> {
        match self.reference(at, text)? {
            KeyReference::Key(id) => self.key_by_id(id),
            KeyReference::Alias(..) => Err(ApiError::not_found(format!("Invalid keyId '{text}'"))),
        }
    }

    pub(crate) fn key_by_id(&self, id: KeyId) -> Result<&Arc<KeyRow>, ApiError> {
        self.live_key(id)
            .ok_or_else(|| ApiError::not_found(format!("Key '{}' does not exist", self.arn(id))))
    }

    /// Whether material may be kept open in memory: it is there, and its key can be used.
    pub fn keeps_open(&self, material: &MaterialRow) -> bool {
        let key = self.live_key(material.key);
        let usable = key.is_some_and(|key| matches!(key.state, State::Enabled | State::Updating));
        let mut rows = self.snapshot.materials(material.key);
        usable && rows.any(|row| row.id == material.id)
    }

    /// A key that is not a tombstone.
    pub(crate) fn live_key(&self, id: KeyId) -> Option<&Arc<KeyRow>> {
        self.snapshot
            .keys
            .get(&id)
            .filter(|key| key.state != State::Destroyed)
    }

    fn reference(&self, at: &impl AsRef<At>, text: &str) -> Result<KeyReference, ApiError> {
        KeyReference::parse(text, at.as_ref(), |scope| self.snapshot.known_place(scope))
            .map_err(|error| ApiError::not_found(error.to_string()))
    }

    fn no_alias(&self, place: Place, name: &str) -> ApiError {
        let arn = self.snapshot.scope_of(place).alias_arn(name);
        ApiError::not_found(format!("Alias {arn} is not found."))
    }

    fn arn(&self, id: KeyId) -> String {
        self.snapshot.arn(id)
    }

    /// Refuses what the key's state does not allow, and a key that nobody asked the permissions for.
    fn allow(&self, auth: &Authorized, action: Action, key: &KeyRow) -> Result<(), ApiError> {
        if !auth.covers(key.id) {
            return Err(internal(
                "The request reached a key that it was not authorised for.",
            ));
        }
        let mut state = key.state;
        if action == Action::Cryptographic && self.has_lapsed(key, auth.now) {
            state = State::PendingImport;
        }
        states::check(action, state, key.origin, &self.arn(key.id))
    }

    fn write(&self, response: Response, changes: Vec<Change>) -> Write {
        Write {
            response,
            expected: self.snapshot.meta.revision,
            changes,
            tightening: false,
            effects: Vec::new(),
            refusal: None,
        }
    }
}

impl Write {
    fn tightening(mut self) -> Self {
        self.tightening = true;
        self
    }

    fn forgetting(mut self, key: KeyId) -> Self {
        self.effects.push(Effect::Forget(key));
        self
    }
}

impl From<Write> for Outcome {
    fn from(write: Write) -> Self {
        Self::Write(Box::new(write))
    }
}

impl From<Use> for Outcome {
    fn from(usage: Use) -> Self {
        Self::Use(Box::new(usage))
    }
}

fn reply(response: Response) -> Outcome {
    Outcome::Reply(Box::new(response))
}

/// The body of operations without output.
const EMPTY: EmptyResponse = EmptyResponse {};

fn generate_random(
    _auth: &Authorized,
    request: &kms_api::GenerateRandomRequest,
    world: &World<'_>,
) -> Result<Outcome, ApiError> {
    if request.custom_key_store_id.is_some() {
        return Err(no_key_stores());
    }
    let plaintext = crypto::random_blob(request.number_of_bytes.unwrap_or(0), world)?;
    Ok(reply(Response::GenerateRandom(
        kms_api::GenerateRandomResponse { plaintext },
    )))
}

/// Every key is in kmsd's own store.
fn no_key_stores() -> ApiError {
    ApiError::new(
        ErrorCode::UnsupportedOperation,
        "Custom key stores are not supported by this kmsd: it keeps every key in its own store.",
    )
}

/// Failures that are nobody's fault who called; details go to the log, not to the caller.
fn internal(what: &str) -> ApiError {
    ApiError::new(ErrorCode::Internal, what)
}

fn no_entropy(_: EntropyError) -> ApiError {
    internal("The random generator failed.")
}

fn no_domain(_: DomainError) -> ApiError {
    internal("A stored secret could not be wrapped or opened; see kmsd's log.")
}

fn no_memory(_: kms_crypto::CryptoError) -> ApiError {
    internal("A cryptographic operation failed.")
}
