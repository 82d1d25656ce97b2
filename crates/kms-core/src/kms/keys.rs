//! CreateKey, DescribeKey, ListKeys, EnableKey, DisableKey and the two ends of a deletion.

use std::ops::Bound;

use kms_api::{
    ApiError, Caller, CancelKeyDeletionRequest, CancelKeyDeletionResponse, CreateKeyRequest,
    CreateKeyResponse, DescribeKeyRequest, DescribeKeyResponse, DisableKeyRequest,
    EnableKeyRequest, ErrorCode, KeyListEntry, KeyManager, KeyMetadata, KeySpec, KeyState,
    KeyUsage, ListKeysRequest, ListKeysResponse, ResourceOwner, Response,
    ScheduleKeyDeletionRequest, ScheduleKeyDeletionResponse, Timestamp,
    UpdateKeyDescriptionRequest,
};

use super::policies::{compile, default_policy};
use super::{EMPTY, Kms, Outcome, Quotas, World, asymmetric, no_entropy, pages, reply};
use crate::authz::Authorized;
use crate::clock::{DAY_MS, Due};
use crate::entropy;
use crate::ids::KeyId;
use crate::place::{At, Place};
use crate::policy::PolicyKind;
use crate::rows::{Change, Deletion, KeyRow, Manager, MultiRegion, Origin, Row, State};
use crate::specs;
use crate::states::Action;

impl Kms {
    /// How many keys more there may be in a place.
    pub fn keys_left(&self, quotas: &Quotas, place: Place) -> usize {
        quotas.keys.saturating_sub(self.snapshot.live_keys(place))
    }

    /// How many keys more there may be in every place.
    pub fn fewest_keys_left(&self, quotas: &Quotas) -> usize {
        quotas.keys.saturating_sub(self.snapshot.most_live_keys())
    }

    pub(super) fn create_key(
        &self,
        auth: &Authorized,
        request: &CreateKeyRequest,
        caller: &Caller,
        world: &World<'_>,
    ) -> Result<Outcome, ApiError> {
        let origin = check_kind(request)?;
        let quotas = &world.host.settings.quotas;
        super::tags::check(&request.tags, quotas)?;
        let At { scope, place, .. } = &auth.at;
        let policy = match &request.policy {
            Some(policy) => policy.clone(),
            None => default_policy(scope),
        };
        if self.keys_left(quotas, *place) == 0 {
            let most = quotas.keys;
            let text = format!("The limit of {most} keys per account and Region is reached.");
            return Err(ApiError::new(ErrorCode::LimitExceeded, text));
        }

        let mut key = KeyRow {
            id: self.new_key_id(*place, request.multi_region, world)?,
            created_ms: world.now.wall_ms,
            state: State::PendingImport,
            description: request.description.clone().unwrap_or_default(),
            origin,
            spec: request.spec(),
            usage: request.key_usage.unwrap_or(KeyUsage::EncryptDecrypt),
            policy,
            tags: request
                .tags
                .iter()
                .map(|tag| (tag.tag_key.clone(), tag.tag_value.clone()))
                .collect(),
            manager: Manager::Customer,
            multi_region: Self::new_multi_region(request.multi_region, scope),
            current: None,
            rotation: None,
            on_demand_rotations: 0,
            deletion: None,
            pending: None,
            absent: Vec::new(),
            discarded: Vec::new(),
            import_token: None,
            destroyed_ms: None,
        };
        if request.policy.is_some() {
            let document = compile(&key.policy, PolicyKind::Key)?;
            if !request.bypass_policy_lockout_safety_check {
                self.check_lockout(&key, &document, caller, world)?;
            }
        }
        let mut changes = Vec::new();
        if origin == Origin::AwsKms {
            let material = match (asymmetric::pair_spec(key.spec), key.spec) {
                (Some(spec), _) => match world.pair_of(spec) {
                    Some(pair) => self.pair_material(&key, pair, world)?,
                    None => return Ok(Outcome::MakePair(spec)),
                },
                (None, KeySpec::SymmetricDefault) => self.new_material(key.id, 1, None, world)?,
                (None, spec) => self.mac_material(key.id, spec, world)?,
            };
            key.state = State::Enabled;
            key.current = Some(material.id);
            changes.push(Change::Put(Row::Material(material)));
        }
        let response = CreateKeyResponse {
            key_metadata: self.metadata(&key),
        };
        changes.push(Change::Put(Row::Key(Box::new(key))));
        Ok(self.write(Response::CreateKey(response), changes).into())
    }

    pub(super) fn describe_key(
        &self,
        auth: &Authorized,
        request: &DescribeKeyRequest,
        world: &World<'_>,
    ) -> Result<Outcome, ApiError> {
        if self.wants_service_key(auth, &request.key_id) {
            let (key, changes) = self.service_key(&auth.at, world)?;
            let key_metadata = self.metadata(&key);
            let response = Response::DescribeKey(DescribeKeyResponse { key_metadata });
            return Ok(self.write(response, changes).into());
        }
        let key = self.key_or_alias(auth, &request.key_id)?;
        let mut key_metadata = self.metadata(key);
        if self.has_lapsed(key, auth.now) {
            key_metadata.key_state = KeyState::PendingImport;
            key_metadata.enabled = false;
        }
        let response = DescribeKeyResponse { key_metadata };
        Ok(reply(Response::DescribeKey(response)))
    }

    pub(super) fn list_keys(
        &self,
        auth: &Authorized,
        request: &ListKeysRequest,
    ) -> Result<Outcome, ApiError> {
        let owners = &request.resource_owners;
        let own = owners.is_empty() || owners.contains(&ResourceOwner::OwnedBySelf);
        let place = auth.at.place;
        let list = if own {
            "ListKeys SELF"
        } else {
            "ListKeys OTHER"
        };
        let after = match pages::start(list, request.marker.as_deref())? {
            None => Bound::Included(*KeyId::all_of(place).start()),
            Some(text) => {
                let last = text.parse::<KeyId>().map_err(|_| pages::bad_marker())?;
                Bound::Excluded(last.at(place))
            }
        };
        let end = Bound::Included(*KeyId::all_of(place).end());
        // No key is shared between accounts here, so the other list is empty.
        let rest = self
            .snapshot
            .keys
            .range::<KeyId, _>((after, end))
            .filter(|(_, key)| own && key.state != State::Destroyed)
            .map(|(id, _)| {
                (
                    id.to_string(),
                    KeyListEntry {
                        key_id: id.to_string(),
                        key_arn: self.arn(*id),
                    },
                )
            });
        let page = pages::page(list, request.limit.unwrap_or(100), rest);
        Ok(reply(Response::ListKeys(ListKeysResponse {
            keys: page.entries,
            next_marker: page.next_marker,
            truncated: page.truncated,
        })))
    }

    pub(super) fn enable_key(
        &self,
        auth: &Authorized,
        request: &EnableKeyRequest,
    ) -> Result<Outcome, ApiError> {
        let key = self.key(auth, &request.key_id)?;
        self.allow(auth, Action::Switch, key)?;
        if key.state == State::Enabled {
            return Ok(reply(Response::EnableKey(EMPTY)));
        }
        let row = KeyRow {
            state: State::Enabled,
            ..KeyRow::clone(key)
        };
        let changes = vec![Change::Put(Row::Key(Box::new(row)))];
        Ok(self.write(Response::EnableKey(EMPTY), changes).into())
    }

    pub(super) fn disable_key(
        &self,
        auth: &Authorized,
        request: &DisableKeyRequest,
    ) -> Result<Outcome, ApiError> {
        let key = self.key(auth, &request.key_id)?;
        self.allow(auth, Action::Switch, key)?;
        if key.state == State::Disabled {
            return Ok(reply(Response::DisableKey(EMPTY)));
        }
        let row = KeyRow {
            state: State::Disabled,
            ..KeyRow::clone(key)
        };
        let changes = vec![Change::Put(Row::Key(Box::new(row)))];
        let write = self.write(Response::DisableKey(EMPTY), changes);
        Ok(write.tightening().forgetting(key.id).into())
    }

    pub(super) fn update_key_description(
        &self,
        auth: &Authorized,
        request: &UpdateKeyDescriptionRequest,
    ) -> Result<Outcome, ApiError> {
        let key = self.key(auth, &request.key_id)?;
        self.allow(auth, Action::Name, key)?;
        if key.description == request.description {
            return Ok(reply(Response::UpdateKeyDescription(EMPTY)));
        }
        let row = KeyRow {
            description: request.description.clone(),
            ..KeyRow::clone(key)
        };
        let changes = vec![Change::Put(Row::Key(Box::new(row)))];
        Ok(self
            .write(Response::UpdateKeyDescription(EMPTY), changes)
            .into())
    }

    pub(super) fn schedule_key_deletion(
        &self,
        auth: &Authorized,
        request: &ScheduleKeyDeletionRequest,
        world: &World<'_>,
    ) -> Result<Outcome, ApiError> {
        let key = self.key(auth, &request.key_id)?;
        let window_days = request.pending_window_in_days.unwrap_or(30);
        let limit = match window_days {
            0..7 => Some("greater than or equal to 7"),
            7..=30 => None,
            _ => Some("less than or equal to 30"),
        };
        if let Some(limit) = limit {
            return Err(ApiError::validation(format!(
                "1 validation error detected: Value '{window_days}' at 'pendingWindowInDays' \
                 failed to satisfy constraint: Member must have value {limit}"
            )));
        }
        self.allow(auth, Action::ScheduleDeletion, key)?;
        let mut row = KeyRow::clone(key);
        // The waiting period of a primary key begins when its last replica is gone.
        if self.replicas(key).next().is_some() {
            row.state = State::PendingReplicaDeletion;
            if let Some(multi_region) = &mut row.multi_region {
                multi_region.window_days = Some(window_days);
            }
        } else {
            let due = Due::after(world.now, u64::from(window_days) * DAY_MS);
            row.state = State::PendingDeletion;
            row.deletion = Some(Deletion { window_days, due });
        }
        let ends = row.deletion.map(|deletion| deletion.due.wall_ms);
        let response = ScheduleKeyDeletionResponse {
            key_id: self.arn(key.id),
            deletion_date: ends.map(Timestamp::from_millis),
            key_state: wire_state(row.state),
            pending_window_in_days: Some(window_days),
        };
        let changes = vec![Change::Put(Row::Key(Box::new(row)))];
        let write = self.write(Response::ScheduleKeyDeletion(response), changes);
        Ok(write.tightening().forgetting(key.id).into())
    }

    pub(super) fn cancel_key_deletion(
        &self,
        auth: &Authorized,
        request: &CancelKeyDeletionRequest,
    ) -> Result<Outcome, ApiError> {
        let key = self.key(auth, &request.key_id)?;
        self.allow(auth, Action::CancelDeletion, key)?;
        // A key that lacks material goes back to waiting for it.
        let state = match key.current {
            Some(_) if key.absent.is_empty() => State::Disabled,
            _ => State::PendingImport,
        };
        let row = KeyRow {
            state,
            deletion: None,
            multi_region: key.multi_region.clone().map(|multi_region| MultiRegion {
                window_days: None,
                ..multi_region
            }),
            ..KeyRow::clone(key)
        };
        let response = CancelKeyDeletionResponse {
            key_id: self.arn(key.id),
        };
        let changes = vec![Change::Put(Row::Key(Box::new(row)))];
        Ok(self
            .write(Response::CancelKeyDeletion(response), changes)
            .into())
    }

    /// What DescribeKey says.
    pub(super) fn metadata(&self, key: &KeyRow) -> KeyMetadata {
        let mut metadata = KeyMetadata {
            aws_account_id: self.snapshot.scope_of(key.id.place()).account.clone(),
            key_id: key.id.to_string(),
            arn: self.arn(key.id),
            creation_date: Timestamp::from_millis(key.created_ms),
            enabled: key.state == State::Enabled,
            description: key.description.clone(),
            key_usage: key.usage,
            key_state: wire_state(key.state),
            deletion_date: key.deletion.map(|d| Timestamp::from_millis(d.due.wall_ms)),
            origin: wire_origin(key.origin),
            key_manager: match key.manager {
                Manager::Customer => KeyManager::Customer,
                Manager::Service => KeyManager::Aws,
            },
            customer_master_key_spec: key.spec.customer_master_key_spec(),
            key_spec: key.spec,
            encryption_algorithms: specs::encryption_algorithms(key.spec, key.usage).to_vec(),
            signing_algorithms: specs::signing_algorithms(key.spec, key.usage).to_vec(),
            key_agreement_algorithms: specs::agreement_algorithms(key.usage).to_vec(),
            encapsulation_algorithms: specs::encapsulation_algorithms(key.usage).to_vec(),
            mac_algorithms: specs::mac_algorithms(key.spec).to_vec(),
            multi_region: key.id.is_multi_region(),
            multi_region_configuration: self.multi_region_configuration(key),
            pending_deletion_window_in_days: key
                .multi_region
                .as_ref()
                .and_then(|multi_region| multi_region.window_days),
            current_key_material_id: (key.spec == KeySpec::SymmetricDefault)
                .then(|| key.current.map(|id| id.to_string()))
                .flatten(),
            expiration_model: None,
            valid_to: None,
        };
        self.expiration(key, &mut metadata);
        metadata
    }

    pub(super) fn new_key_id(
        &self,
        place: Place,
        multi_region: bool,
        world: &World<'_>,
    ) -> Result<KeyId, ApiError> {
        // Tombstones keep their ids, so an id is never used twice; a collision is drawn again.
        loop {
            let bytes = entropy::array(world.entropy).map_err(no_entropy)?;
            let id = KeyId::from_random(bytes, multi_region).at(place);
            if !self.snapshot.keys.contains_key(&id) {
                return Ok(id);
            }
        }
    }
}

/// The origin as clients see it.
pub(crate) fn wire_origin(origin: Origin) -> kms_api::Origin {
    match origin {
        Origin::AwsKms => kms_api::Origin::AwsKms,
        Origin::External => kms_api::Origin::External,
    }
}

/// The state as clients see it.
pub(super) fn wire_state(state: State) -> KeyState {
    match state {
        State::Enabled => KeyState::Enabled,
        State::Disabled => KeyState::Disabled,
        // A tombstone is never shown; every lookup ends before it gets here.
        State::PendingDeletion | State::Destroyed => KeyState::PendingDeletion,
        State::PendingReplicaDeletion => KeyState::PendingReplicaDeletion,
        State::PendingImport => KeyState::PendingImport,
        State::Unavailable => KeyState::Unavailable,
        State::Creating => KeyState::Creating,
        State::Updating => KeyState::Updating,
    }
}

fn check_kind(request: &CreateKeyRequest) -> Result<Origin, ApiError> {
    let spec = request.spec();
    let usage = match (spec, request.key_usage) {
        (KeySpec::SymmetricDefault, usage) => usage.unwrap_or(KeyUsage::EncryptDecrypt),
        (_, Some(usage)) => usage,
        (_, None) => {
            return Err(ApiError::validation(
                "You must specify a KeyUsage value for all KMS keys except for symmetric \
                 encryption keys.",
            ));
        }
    };
    if !specs::usages(spec).contains(&usage) {
        return Err(ApiError::validation(format!(
            "KeyUsage {usage} is not compatible with KeySpec {spec}"
        )));
    }
    if let Some(pair) = asymmetric::pair_spec(spec) {
        asymmetric::available(pair, "KeySpec", spec.as_str())?;
    }
    if request.custom_key_store_id.is_some() {
        return Err(super::no_key_stores());
    }
    match request.origin {
        None | Some(kms_api::Origin::AwsKms) if request.xks_key_id.is_none() => Ok(Origin::AwsKms),
        Some(kms_api::Origin::External) if request.xks_key_id.is_none() => Ok(Origin::External),
        _ => Err(super::no_key_stores()),
    }
}
