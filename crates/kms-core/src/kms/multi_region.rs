//! Multi-Region keys: ReplicateKey, UpdatePrimaryRegion, and what the keys of one id share.
//!
//! The keys of an id in the Regions of an account are rows of their own, each with its own state, policy, grants, aliases, tags
//! and description. Material is the same and has the same ids, but every key has its own wrap of it: a replica that is destroyed
//! takes nothing from the others, and a replica on another host would be no different. Rotation is the primary key's and reaches
//! all of them in its transaction (to imported material once each has imported it), so that a key is never seen while it is being made or is changing its primary Region.

mod imports;

use std::sync::Arc;

use kms_api::{
    ApiError, Caller, ErrorCode, MultiRegionConfiguration, MultiRegionKey, MultiRegionKeyType,
    ReplicateKeyRequest, ReplicateKeyResponse, Response, Tag, UpdatePrimaryRegionRequest,
};

use super::policies::{compile, default_policy};
use super::{EMPTY, Kms, Outcome, World, Write, no_domain, reply};
use crate::authz::Authorized;
use crate::clock::{DAY_MS, Due};
use crate::ids::{KeyId, Scope};
use crate::place::Place;
use crate::policy::PolicyKind;
use crate::rows::{Change, Deletion, KeyRow, MaterialRow, MultiRegion, Origin, Row, State};
use crate::states::Action;

impl Kms {
    pub(super) fn replicate_key(
        &self,
        auth: &Authorized,
        request: &ReplicateKeyRequest,
        caller: &Caller,
        world: &World<'_>,
    ) -> Result<Outcome, ApiError> {
        let key = self.key(auth, &request.key_id)?;
        self.require_primary(key)?;
        self.allow(auth, Action::Replicate, key)?;
        let quotas = &world.host.settings.quotas;
        super::tags::check(&request.tags, quotas)?;
        let place = self.replica_place(key, &request.replica_region)?;
        let id = key.id.at(place);
        if self.live_key(id).is_some() {
            let text = format!("Key {} already exists", self.arn(id));
            return Err(ApiError::new(ErrorCode::AlreadyExists, text));
        }
        if self.keys_left(quotas, place) == 0 {
            let most = quotas.keys;
            let text = format!("The limit of {most} keys per account and Region is reached.");
            return Err(ApiError::new(ErrorCode::LimitExceeded, text));
        }
        let tags = request.tags.iter();
        let mut row = KeyRow {
            id,
            created_ms: world.now.wall_ms,
            state: State::Enabled,
            description: request.description.clone().unwrap_or_default(),
            policy: match &request.policy {
                Some(policy) => policy.clone(),
                None => default_policy(&self.snapshot.scope_of(place)),
            },
            tags: tags
                .map(|tag| (tag.tag_key.clone(), tag.tag_value.clone()))
                .collect(),
            rotation: None,
            on_demand_rotations: 0,
            pending: None,
            discarded: Vec::new(),
            import_token: None,
            ..KeyRow::clone(key)
        };
        if request.policy.is_some() {
            let document = compile(&row.policy, PolicyKind::Key)?;
            if !request.bypass_policy_lockout_safety_check {
                self.check_lockout(&row, &document, caller, world)?;
            }
        }
        let mut changes = Vec::new();
        match key.origin {
            Origin::AwsKms => {
                for material in self.snapshot.materials(key.id) {
                    let copy = world.domain.copy(material, id).map_err(no_domain)?;
                    changes.push(Change::Put(Row::Material(copy)));
                }
            }
            // What was imported in one Region is imported in each.
            Origin::External => {
                row.state = State::PendingImport;
                row.current = None;
                row.absent = self.to_be_imported(key);
            }
        }
        let response = ReplicateKeyResponse {
            replica_key_metadata: self.metadata(&row),
            replica_policy: row.policy.clone(),
            replica_tags: row
                .tags
                .iter()
                .map(|(key, value)| Tag {
                    tag_key: key.clone(),
                    tag_value: value.clone(),
                })
                .collect(),
        };
        changes.push(Change::Put(Row::Key(Box::new(row))));
        Ok(self.write(Response::ReplicateKey(response), changes).into())
    }

    pub(super) fn update_primary_region(
        &self,
        auth: &Authorized,
        request: &UpdatePrimaryRegionRequest,
    ) -> Result<Outcome, ApiError> {
        let key = self.key(auth, &request.key_id)?;
        self.require_primary(key)?;
        let next = self.next_primary(key, &request.primary_region)?;
        self.allow(auth, Action::MovePrimary, key)?;
        self.allow(auth, Action::MovePrimary, next)?;
        if next.id == key.id {
            return Ok(reply(Response::UpdatePrimaryRegion(EMPTY)));
        }
        let changes = self.snapshot.family(key.id).map(|member| {
            let is_next = member.id == next.id;
            let row = KeyRow {
                multi_region: Some(MultiRegion {
                    primary: request.primary_region.clone(),
                    window_days: None,
                }),
                // They are the primary key's.
                rotation: key.rotation.filter(|_| is_next),
                on_demand_rotations: match is_next {
                    true => key.on_demand_rotations,
                    false => 0,
                },
                ..KeyRow::clone(member)
            };
            Change::Put(Row::Key(Box::new(row)))
        });
        let changes = changes.collect();
        Ok(self
            .write(Response::UpdatePrimaryRegion(EMPTY), changes)
            .into())
    }

    /// What a new key is to know of others of its id.
    pub(super) fn new_multi_region(multi_region: bool, scope: &Scope) -> Option<MultiRegion> {
        multi_region.then(|| MultiRegion {
            primary: scope.region.clone(),
            window_days: None,
        })
    }

    /// Refuses a key that is no multi-Region primary key.
    fn require_primary(&self, key: &KeyRow) -> Result<(), ApiError> {
        match key.multi_region.is_some() && self.is_primary(key) {
            true => Ok(()),
            false => Err(self.not_primary(key)),
        }
    }

    /// Refuses a replica: what is asked for is the primary key's.
    pub(super) fn refuse_replica(&self, key: &KeyRow) -> Result<(), ApiError> {
        match self.is_primary(key) {
            true => Ok(()),
            false => Err(self.not_primary(key)),
        }
    }

    fn not_primary(&self, key: &KeyRow) -> ApiError {
        let text = format!("{} is not a multi-region primary key.", self.arn(key.id));
        ApiError::new(ErrorCode::UnsupportedOperation, text)
    }

    /// Whether a key is not a replica.
    pub(crate) fn is_primary(&self, key: &KeyRow) -> bool {
        is_primary(&self.snapshot.scope_of(key.id.place()), key)
    }

    /// The key whose rotation is this one's: the primary key of a replica, else itself.
    pub(super) fn rotates_with<'k>(&'k self, key: &'k KeyRow) -> &'k KeyRow {
        let mut family = self.snapshot.family(key.id);
        match family.find(|member| self.is_primary(member)) {
            Some(primary) => primary,
            None => key,
        }
    }

    /// The replicas of a primary key; of others none.
    pub(super) fn replicas<'k>(
        &'k self,
        key: &'k KeyRow,
    ) -> impl Iterator<Item = &'k Arc<KeyRow>> + 'k {
        let family = self.snapshot.family(key.id);
        family.filter(|member| member.id != key.id && self.is_primary(key))
    }

    /// New material of a primary key as its replicas get it.
    pub(super) fn copies(
        &self,
        key: &KeyRow,
        material: &MaterialRow,
        world: &World<'_>,
    ) -> Result<Vec<Change>, ApiError> {
        let mut changes = Vec::new();
        for replica in self.replicas(key) {
            let copy = world.domain.copy(material, replica.id).map_err(no_domain)?;
            changes.push(Change::Put(Row::Material(copy)));
            changes.push(Change::Put(Row::Key(Box::new(KeyRow {
                current: Some(material.id),
                ..KeyRow::clone(replica)
            }))));
        }
        Ok(changes)
    }

    /// What DescribeKey says about the keys of the same id.
    pub(super) fn multi_region_configuration(
        &self,
        key: &KeyRow,
    ) -> Option<MultiRegionConfiguration> {
        let multi_region = key.multi_region.as_ref()?;
        let scope = self.snapshot.scope_of(key.id.place());
        let named = |region: &str| MultiRegionKey {
            arn: Scope {
                account: scope.account.clone(),
                region: region.to_owned(),
            }
            .key_arn(&key.id),
            region: region.to_owned(),
        };
        // It may be about to be made.
        let family = self.snapshot.family(key.id).map(|member| member.id);
        let others = family.filter(|id| *id != key.id);
        let all = others.chain(std::iter::once(key.id));
        let mut replicas: Vec<_> = all
            .map(|id| self.snapshot.scope_of(id.place()))
            .filter(|scope| scope.region != multi_region.primary)
            .map(|scope| named(&scope.region))
            .collect();
        replicas.sort_by(|a, b| a.region.cmp(&b.region));
        Some(MultiRegionConfiguration {
            multi_region_key_type: key_type(&scope, key)?,
            primary_key: named(&multi_region.primary),
            replica_keys: replicas,
        })
    }

    /// Where a replica in `region` would be.
    fn replica_place(&self, key: &KeyRow, region: &str) -> Result<Place, ApiError> {
        let home = self.snapshot.home();
        if !self.served.has_region(home, region) {
            return Err(ApiError::validation(format!(
                "Region '{region}' is not served by this kmsd: it serves {}.",
                self.served.all_regions(home).join(", ")
            )));
        }
        let scope = self.snapshot.scope_of(key.id.place());
        Ok(self.snapshot.place(&Scope {
            account: scope.account.clone(),
            region: region.to_owned(),
        }))
    }

    /// The key that is to be the primary one.
    pub(crate) fn next_primary(
        &self,
        key: &KeyRow,
        region: &str,
    ) -> Result<&Arc<KeyRow>, ApiError> {
        let place = self.replica_place(key, region)?;
        self.key_by_id(key.id.at(place))
    }

    /// Primary keys whose replicas are all destroyed: their waiting periods begin.
    pub fn waits_to_begin(&self) -> Vec<KeyId> {
        let keys = self.snapshot.keys.values();
        keys.filter(|key| key.state == State::PendingReplicaDeletion)
            .filter(|key| self.replicas(key).next().is_none())
            .map(|key| key.id)
            .collect()
    }

    /// Begins the waiting period of a key that [`Self::waits_to_begin`] named.
    ///
    /// # Errors
    /// The key is gone.
    pub fn begin_wait(&self, id: KeyId, world: &World<'_>) -> Result<Write, ApiError> {
        let key = self.key_by_id(id)?;
        let mut row = KeyRow::clone(key);
        if let Some(multi_region) = &mut row.multi_region
            && let Some(window_days) = multi_region.window_days.take()
        {
            let due = Due::after(world.now, u64::from(window_days) * DAY_MS);
            row.state = State::PendingDeletion;
            row.deletion = Some(Deletion { window_days, due });
        }
        let changes = vec![Change::Put(Row::Key(Box::new(row)))];
        Ok(self.write(Response::EnableKey(EMPTY), changes))
    }
}

/// Whether a key of that place is not a replica.
fn is_primary(scope: &Scope, key: &KeyRow) -> bool {
    let multi_region = key.multi_region.as_ref();
    multi_region.is_none_or(|multi_region| multi_region.primary == scope.region)
}

/// What a multi-Region key is; nothing for others.
pub(crate) fn key_type(scope: &Scope, key: &KeyRow) -> Option<MultiRegionKeyType> {
    key.multi_region.as_ref()?;
    Some(match is_primary(scope, key) {
        true => MultiRegionKeyType::Primary,
        false => MultiRegionKeyType::Replica,
    })
}
