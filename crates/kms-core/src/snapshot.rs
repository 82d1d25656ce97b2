//! Every row of the catalogue in memory, indexed the way requests look things up.

mod aliases;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use kms_api::Scope;

pub(crate) use self::aliases::Aliases;
use crate::authz::{Attached, Document, Interned};
use crate::grants::Grants;
use crate::ids::{KeyId, MaterialId};
use crate::place::Place;
use crate::policy::PolicyKind;
use crate::rows::{
    AccessKeyRow, ApprovalRow, Change, DomainRow, FORMAT, GuardRailRow, IdentityPolicyRow, KeyRow,
    LeaseRow, MaterialRow, MetaRow, OutboxRow, PolicyRow, PolicyUseRow, RawRow, Row, RowError,
    State, Table, VolumeRow, domain_id, grant_id, identity_policy_id, policy_id,
};

/// The rows of one store.
#[derive(Clone, Debug)]
pub struct Snapshot {
    pub(crate) meta: MetaRow,
    home: Arc<Scope>,
    pub(crate) enrollment: Vec<u8>,
    pub(crate) mac: Vec<u8>,
    pub(crate) domains: BTreeMap<u64, DomainRow>,
    pub(crate) keys: BTreeMap<KeyId, Arc<KeyRow>>,
    /// Number of keys in each place that are no tombstones.
    live_keys: BTreeMap<Place, usize>,
    pub(crate) materials: BTreeMap<KeyId, BTreeMap<MaterialId, Arc<MaterialRow>>>,
    pub(crate) aliases: Aliases,
    pub(crate) names: BTreeMap<KeyId, BTreeSet<String>>,
    pub(crate) volumes: BTreeMap<String, Arc<VolumeRow>>,
    pub(crate) policies: BTreeMap<(String, String), Arc<PolicyRow>>,
    pub(crate) grants: Grants,
    pub(crate) identity_policies: BTreeMap<String, Arc<IdentityPolicyRow>>,
    pub(crate) guard_rails: BTreeMap<String, Arc<GuardRailRow>>,
    pub(crate) leases: BTreeMap<String, Arc<LeaseRow>>,
    pub(crate) approvals: BTreeMap<String, Arc<ApprovalRow>>,
    pub(crate) outbox: BTreeMap<String, Arc<OutboxRow>>,
    /// By volume and policy, as [`policy_id`] joins them.
    pub(crate) policy_use: BTreeMap<String, Arc<PolicyUseRow>>,
    pub(crate) access_keys: BTreeMap<String, Arc<AccessKeyRow>>,
    /// The policy of every key, compiled.
    pub(crate) key_policies: BTreeMap<KeyId, Arc<Document>>,
    pub(crate) interned: Interned,
    /// Identity policies and guard rails, compiled.
    pub(crate) attached: Attached,
}

/// Rows do not make a store.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// A row cannot be read.
    #[error(transparent)]
    Row(#[from] RowError),
    /// A row that every store has is not there.
    #[error("table {} is empty", .0.name())]
    Missing(Table),
    /// The store was written by another version.
    #[error("rows of format {0}; this program reads format {FORMAT}")]
    Format(u32),
}

impl Snapshot {
    /// A store that holds nothing yet.
    pub fn new(meta: MetaRow, enrollment: Vec<u8>) -> Self {
        Self {
            home: Arc::new(meta.scope.clone()),
            meta,
            enrollment,
            mac: Vec::new(),
            domains: BTreeMap::new(),
            keys: BTreeMap::new(),
            live_keys: BTreeMap::new(),
            materials: BTreeMap::new(),
            aliases: Aliases::default(),
            names: BTreeMap::new(),
            volumes: BTreeMap::new(),
            policies: BTreeMap::new(),
            grants: Grants::default(),
            identity_policies: BTreeMap::new(),
            guard_rails: BTreeMap::new(),
            leases: BTreeMap::new(),
            approvals: BTreeMap::new(),
            outbox: BTreeMap::new(),
            policy_use: BTreeMap::new(),
            access_keys: BTreeMap::new(),
            key_policies: BTreeMap::new(),
            interned: Interned::default(),
            attached: Attached::default(),
        }
    }

    /// The store that `rows` make up. Nothing is verified yet: see [`crate::setmac::SetMac`].
    pub fn from_rows(rows: &[RawRow]) -> Result<Self, SnapshotError> {
        let single = |table| {
            rows.iter()
                .find(|row| row.table == table)
                .ok_or(SnapshotError::Missing(table))
        };
        let Row::Meta(meta) = Row::decode(single(Table::Meta)?)? else {
            return Err(SnapshotError::Missing(Table::Meta));
        };
        if meta.format != FORMAT {
            return Err(SnapshotError::Format(meta.format));
        }
        let mut snapshot = Self::new(*meta, single(Table::Enrollment)?.body.clone());
        for row in rows {
            snapshot.apply(&Change::Put(Row::decode(row)?));
        }
        Ok(snapshot)
    }

    /// Applies a committed change.
    pub fn apply(&mut self, change: &Change) {
        match change {
            Change::Put(row) => self.put(row.clone()),
            Change::Remove(table, id) => self.remove(*table, id),
        }
    }

    /// What the store says about itself.
    pub fn meta(&self) -> &MetaRow {
        &self.meta
    }

    /// The sealer's enrolment, opaque.
    pub fn enrollment(&self) -> &[u8] {
        &self.enrollment
    }

    /// The stored set-MAC.
    pub fn mac(&self) -> &[u8] {
        &self.mac
    }

    /// The domain keys that are held.
    pub fn domains(&self) -> impl Iterator<Item = &DomainRow> {
        self.domains.values()
    }

    /// The keys, tombstones included.
    pub fn keys(&self) -> impl Iterator<Item = &Arc<KeyRow>> {
        self.keys.values()
    }

    /// Number of keys in a place, without tombstones.
    pub fn live_keys(&self, place: Place) -> usize {
        self.live_keys.get(&place).copied().unwrap_or(0)
    }

    /// The same for the place that has most.
    pub fn most_live_keys(&self) -> usize {
        self.live_keys.values().copied().max().unwrap_or(0)
    }

    /// A key, or its tombstone.
    pub fn key(&self, id: KeyId) -> Option<&Arc<KeyRow>> {
        self.keys.get(&id)
    }

    /// The versions of a key's material, in no particular order.
    pub fn materials(&self, key: KeyId) -> impl Iterator<Item = &Arc<MaterialRow>> {
        self.materials
            .get(&key)
            .into_iter()
            .flat_map(BTreeMap::values)
    }

    /// The volumes.
    pub fn volumes(&self) -> impl Iterator<Item = &Arc<VolumeRow>> {
        self.volumes.values()
    }

    /// The policies of every volume.
    pub fn policies(&self) -> impl Iterator<Item = &Arc<PolicyRow>> {
        self.policies.values()
    }

    /// The grants.
    pub fn grants(&self) -> &Grants {
        &self.grants
    }

    /// Whether a grant was revoked so recently that somebody may still rely on it: whoever revokes it
    /// again, perhaps after a lost answer, waits like the first and is told that it is done.
    pub fn recently_revoked(&self, key: KeyId, grant: &str) -> bool {
        let id = grant_id(key, grant);
        self.meta.revoked.iter().any(|row| row.id == id)
    }

    /// Whoever revoked the grant is told that it is done: from now on it is simply gone.
    pub(crate) fn forget_revoked(&mut self, grant: &str) {
        self.meta
            .revoked
            .retain(|row| row.id.rsplit('/').next() != Some(grant));
    }

    /// A lease.
    pub fn lease(&self, id: &str) -> Option<&Arc<LeaseRow>> {
        self.leases.get(id)
    }

    /// The leases of services.
    pub fn leases(&self) -> impl Iterator<Item = &Arc<LeaseRow>> {
        self.leases.values()
    }

    /// An access key by its id.
    pub fn access_key(&self, id: &str) -> Option<&Arc<AccessKeyRow>> {
        self.access_keys.get(id)
    }

    /// Requests that wait for approvals.
    pub fn approvals(&self) -> impl Iterator<Item = &ApprovalRow> {
        self.approvals.values().map(AsRef::as_ref)
    }

    /// The audit records that are not known to be in the log.
    pub fn outbox(&self) -> impl Iterator<Item = &Arc<OutboxRow>> {
        self.outbox.values()
    }

    /// The account and Region that the store was made for.
    pub fn home(&self) -> &Arc<Scope> {
        &self.home
    }

    /// The place with this account and Region.
    pub fn place(&self, scope: &Scope) -> Place {
        match *scope == *self.home {
            true => Place::HOME,
            false => Place::elsewhere(scope),
        }
    }

    /// The same, if it was ever named.
    pub(crate) fn known_place(&self, scope: &Scope) -> Option<Place> {
        match *scope == *self.home {
            true => Some(Place::HOME),
            false => Place::known(scope),
        }
    }

    /// Account and Region of a place.
    pub fn scope_of(&self, place: Place) -> Arc<Scope> {
        place.scope().unwrap_or_else(|| Arc::clone(&self.home))
    }

    /// The keys of this id in every Region of its account, without tombstones: a multi-Region key and its replicas.
    pub(crate) fn family(&self, id: KeyId) -> impl Iterator<Item = &Arc<KeyRow>> {
        let account = self.scope_of(id.place()).account.clone();
        let places = id.is_multi_region().then_some(&self.live_keys);
        places
            .into_iter()
            .flat_map(BTreeMap::keys)
            .filter(move |place| self.is_of(**place, &account))
            .filter_map(move |place| self.keys.get(&id.at(*place)))
            .filter(|key| key.state != State::Destroyed)
    }

    /// Whether a place belongs to an account.
    pub(crate) fn is_of(&self, place: Place, account: &str) -> bool {
        match place.scope() {
            None => self.home.account == account,
            Some(scope) => scope.account == account,
        }
    }

    /// The ARN of a key.
    pub fn arn(&self, key: KeyId) -> String {
        match key.place().scope() {
            None => self.home.key_arn(&key),
            Some(scope) => scope.key_arn(&key),
        }
    }

    fn remove_alias(&mut self, place: Place, name: &str) {
        if let Some(old) = self.aliases.remove(place, name)
            && let Some(names) = self.names.get_mut(&old.key)
        {
            names.remove(name);
            if names.is_empty() {
                self.names.remove(&old.key);
            }
        }
    }

    fn put(&mut self, row: Row) {
        match row {
            Row::Meta(row) => {
                if *self.home != row.scope {
                    self.home = Arc::new(row.scope.clone());
                }
                self.meta = *row;
            }
            Row::Mac(bytes) => self.mac = bytes,
            Row::Enrollment(bytes) => self.enrollment = bytes,
            Row::Domain(row) => {
                self.domains.insert(row.id, row);
            }
            Row::Key(row) => {
                let old = self.keys.get(&row.id).map(|old| old.policy.as_str());
                if old != Some(row.policy.as_str()) {
                    if let Some(old) = old {
                        self.interned.release(old);
                    }
                    let document = self.interned.take(&row.policy);
                    self.key_policies.insert(row.id, document);
                }
                let is_live = |row: &KeyRow| usize::from(row.state != State::Destroyed);
                let live = self.live_keys.entry(row.id.place()).or_default();
                *live += is_live(&row);
                if let Some(old) = self.keys.insert(row.id, Arc::from(row)) {
                    *live -= is_live(&old);
                }
            }
            Row::Material(row) => {
                self.materials
                    .entry(row.key)
                    .or_default()
                    .insert(row.id, Arc::new(row));
            }
            Row::Alias(row) => {
                self.remove_alias(row.key.place(), &row.name);
                self.names
                    .entry(row.key)
                    .or_default()
                    .insert(row.name.clone());
                self.aliases.put(row);
            }
            Row::Volume(row) => {
                self.volumes.insert(row.id.clone(), Arc::new(row));
            }
            Row::Policy(row) => {
                self.policies
                    .insert((row.volume.clone(), row.id.clone()), Arc::new(row));
            }
            Row::Grant(row) => self.grants.put(Arc::from(row)),
            Row::IdentityPolicy(row) => {
                let id = identity_policy_id(row.kind, &row.identity, &row.name);
                let document = Document::compile(&row.document, PolicyKind::Identity);
                self.attached
                    .put_identity(row.kind, &row.identity, &row.name, document);
                self.identity_policies.insert(id, Arc::new(row));
            }
            Row::GuardRail(row) => {
                let document = Document::compile(&row.document, PolicyKind::GuardRail);
                self.attached.put_guard_rail(&row.name, document);
                self.guard_rails.insert(row.name.clone(), Arc::new(row));
            }
            Row::Lease(row) => {
                self.leases.insert(row.id.clone(), Arc::new(row));
            }
            Row::Approval(row) => {
                self.approvals.insert(row.id.clone(), Arc::new(row));
            }
            Row::Outbox(row) => {
                self.outbox.insert(row.id.clone(), Arc::new(row));
            }
            Row::PolicyUse(row) => {
                let id = policy_id(&row.volume, &row.id);
                self.policy_use.insert(id, Arc::new(row));
            }
            Row::AccessKey(row) => {
                self.access_keys.insert(row.id.clone(), Arc::from(row));
            }
        }
    }

    fn remove(&mut self, table: Table, id: &str) {
        match table {
            // These are never removed.
            Table::Meta | Table::Mac | Table::Enrollment => {}
            Table::Domain => self.domains.retain(|key, _| domain_id(*key) != id),
            Table::Key => {
                if let Ok(key) = KeyId::from_row_id(id) {
                    if let Some(row) = self.keys.remove(&key) {
                        self.interned.release(&row.policy);
                        if let Some(live) = self.live_keys.get_mut(&key.place()) {
                            *live -= usize::from(row.state != State::Destroyed);
                        }
                    }
                    self.key_policies.remove(&key);
                }
            }
            Table::Material => {
                let Some((key, version)) = id.split_once('/') else {
                    return;
                };
                let (Ok(key), Ok(version)) = (KeyId::from_row_id(key), version.parse()) else {
                    return;
                };
                if let Some(versions) = self.materials.get_mut(&key) {
                    versions.remove(&version);
                    if versions.is_empty() {
                        self.materials.remove(&key);
                    }
                }
            }
            Table::Alias => {
                if let Ok((place, name)) = Place::of_row_name(id) {
                    self.remove_alias(place, name);
                }
            }
            Table::Volume => {
                self.volumes.remove(id);
            }
            Table::Policy => {
                self.policies
                    .retain(|(volume, policy), _| policy_id(volume, policy) != id);
            }
            Table::Grant => {
                let Some((key, grant)) = id.split_once('/') else {
                    return;
                };
                if let Ok(key) = KeyId::from_row_id(key) {
                    self.grants.remove(key, grant);
                }
            }
            Table::IdentityPolicy => {
                if let Some(row) = self.identity_policies.remove(id) {
                    self.attached
                        .remove_identity(row.kind, &row.identity, &row.name);
                }
            }
            Table::GuardRail => {
                self.guard_rails.remove(id);
                self.attached.remove_guard_rail(id);
            }
            Table::Lease => {
                self.leases.remove(id);
            }
            Table::Approval => {
                self.approvals.remove(id);
            }
            Table::Outbox => {
                self.outbox.remove(id);
            }
            Table::PolicyUse => {
                self.policy_use.remove(id);
            }
            Table::AccessKey => {
                self.access_keys.remove(id);
            }
        }
    }
}
