//! Rotation: on demand, by schedule, and what is said about it.

use kms_api::{
    ApiError, DisableKeyRotationRequest, EnableKeyRotationRequest, ErrorCode, ExpirationModel,
    GetKeyRotationStatusRequest, GetKeyRotationStatusResponse, ImportState, IncludeKeyMaterial,
    KeyMaterialState, KeySpec, ListKeyRotationsRequest, ListKeyRotationsResponse, Response,
    RotateKeyOnDemandRequest, RotateKeyOnDemandResponse, RotationType, RotationsListEntry,
    Timestamp,
};

use super::{EMPTY, Kms, Outcome, World, Write, pages, reply};
use crate::authz::Authorized;
use crate::clock::{DAY_MS, Due};
use crate::ids::MaterialId;
use crate::rows::{
    AbsentMaterial, Change, Imported, KeyRow, MaterialRow, Origin, Rotation, RotationKind, Row,
    State,
};
use crate::states::Action;

/// On-demand rotations per key, ever.
const MAX_ON_DEMAND: u32 = 25;
/// An automatic rotation this near refuses one on demand.
const CONFLICT_MS: i64 = 20 * 60 * 1000;

impl Kms {
    pub(super) fn rotate_key_on_demand(
        &self,
        auth: &Authorized,
        request: &RotateKeyOnDemandRequest,
        world: &World<'_>,
    ) -> Result<Outcome, ApiError> {
        let key = self.key(auth, &request.key_id)?;
        only_symmetric(key)?;
        self.refuse_replica(key)?;
        self.allow(auth, Action::Rotate, key)?;
        let arn = self.arn(key.id);
        if key.on_demand_rotations >= MAX_ON_DEMAND {
            let text = format!(
                "The on-demand rotations limit has been reached for the given keyId. No more \
                 on-demand rotations can be performed for this key: {arn}"
            );
            return Err(ApiError::new(ErrorCode::LimitExceeded, text));
        }
        if let Some(rotation) = key.rotation
            && rotation.next.wall_ms.saturating_sub(world.now.wall_ms) <= CONFLICT_MS
        {
            let text = format!("An automatic rotation of {arn} is in progress or about to begin.");
            return Err(ApiError::new(ErrorCode::Conflict, text));
        }
        let row = KeyRow {
            on_demand_rotations: key.on_demand_rotations + 1,
            ..KeyRow::clone(key)
        };
        let write = match key.origin {
            Origin::AwsKms => {
                let response = RotateKeyOnDemandResponse { key_id: arn };
                let response = Response::RotateKeyOnDemand(response);
                self.rotate(row, RotationKind::OnDemand, response, world)?
            }
            Origin::External => self.promote(row, arn, world)?,
        };
        Ok(write.into())
    }

    /// Makes the imported material current that waits for it, in a key and its replicas.
    fn promote(&self, row: KeyRow, arn: String, world: &World<'_>) -> Result<Write, ApiError> {
        let refused = |more: String| {
            let text =
                format!("No available key material pending rotation for the key: {arn}.{more}");
            Err(ApiError::new(ErrorCode::InvalidState, text))
        };
        let Some(pending) = self.pending_of(&row) else {
            return refused(String::new());
        };
        let lacking = self.not_ready(&row, pending, world.now);
        if !lacking.is_empty() {
            let others = lacking.iter().filter(|id| **id != row.id);
            let others: Vec<_> = others.map(|id| self.arn(*id)).collect();
            return refused(match others.is_empty() {
                true => String::new(),
                false => format!(
                    " Key material {pending} has to be imported into {} first, where it is not or has expired.",
                    others.join(", ")
                ),
            });
        }
        let mut changes = Vec::new();
        for member in self.members(&row) {
            let mut materials = self.snapshot.materials(member.id);
            let material = materials.find(|one| one.id == pending);
            changes.extend(material.map(|material| {
                Change::Put(Row::Material(MaterialRow {
                    created_ms: world.now.wall_ms,
                    rotated: Some(RotationKind::OnDemand),
                    ..MaterialRow::clone(material)
                }))
            }));
            changes.push(Change::Put(Row::Key(Box::new(KeyRow {
                current: Some(pending),
                pending: None,
                ..member.clone()
            }))));
        }
        let response = RotateKeyOnDemandResponse { key_id: arn };
        Ok(self.write(Response::RotateKeyOnDemand(response), changes))
    }

    /// Makes a new version of the material current.
    pub(super) fn rotate(
        &self,
        mut row: KeyRow,
        kind: RotationKind,
        response: Response,
        world: &World<'_>,
    ) -> Result<Write, ApiError> {
        let last = self
            .snapshot
            .materials(row.id)
            .map(|m| m.version)
            .max()
            .unwrap_or(0);
        let material = self.new_material(row.id, last.saturating_add(1), Some(kind), world)?;
        row.current = Some(material.id);
        let mut changes = self.copies(&row, &material, world)?;
        changes.push(Change::Put(Row::Material(material)));
        changes.push(Change::Put(Row::Key(Box::new(row))));
        Ok(self.write(response, changes))
    }

    pub(super) fn list_key_rotations(
        &self,
        auth: &Authorized,
        request: &ListKeyRotationsRequest,
    ) -> Result<Outcome, ApiError> {
        let key = self.key(auth, &request.key_id)?;
        only_symmetric(key)?;
        self.allow(auth, Action::ListRotations, key)?;
        let all = request.include_key_material == Some(IncludeKeyMaterial::AllKeyMaterial);
        let list = format!("ListKeyRotations {} {all}", key.id);
        let after = match pages::start(&list, request.marker.as_deref())? {
            None => 0,
            Some(version) => version.parse::<u32>().map_err(|_| {
                ApiError::new(ErrorCode::InvalidMarker, "Could not deserialize marker")
            })?,
        };
        let here = self.snapshot.materials(key.id).map(|row| Version::of(row));
        let mut versions: Vec<Version<'_>> =
            here.chain(key.absent.iter().map(Version::gone)).collect();
        versions.sort_by_key(|one| one.version);
        let current = self.current_of(key);
        let pending = self.pending_state(key);
        let state_of = |id: MaterialId| match pending {
            _ if current == Some(id) => KeyMaterialState::Current,
            Some((pending, state)) if pending == id => state,
            _ => KeyMaterialState::NonCurrent,
        };
        let rest = versions
            .into_iter()
            .filter(|one| one.version > after && (all || one.rotated.is_some()))
            .map(|one| (one.version.to_string(), one.entry(key, state_of(one.id))));
        let page = pages::page(&list, request.limit.unwrap_or(100), rest);
        Ok(reply(Response::ListKeyRotations(
            ListKeyRotationsResponse {
                rotations: page.entries,
                next_marker: page.next_marker,
                truncated: page.truncated,
            },
        )))
    }

    pub(super) fn get_key_rotation_status(
        &self,
        auth: &Authorized,
        request: &GetKeyRotationStatusRequest,
    ) -> Result<Outcome, ApiError> {
        let key = self.key(auth, &request.key_id)?;
        only_symmetric(key)?;
        self.allow(auth, Action::RotationStatus, key)?;
        // A key that waits for its end is not rotated; cancelling brings the setting back.
        let waits = matches!(
            key.state,
            State::PendingDeletion | State::PendingReplicaDeletion
        );
        let rotation = self.rotates_with(key).rotation.filter(|_| !waits);
        Ok(reply(Response::GetKeyRotationStatus(
            GetKeyRotationStatusResponse {
                key_rotation_enabled: rotation.is_some(),
                key_id: self.arn(key.id),
                rotation_period_in_days: rotation.map(|r| r.period_days),
                next_rotation_date: rotation.map(|r| Timestamp::from_millis(r.next.wall_ms)),
                on_demand_rotation_start_date: None,
            },
        )))
    }

    pub(super) fn enable_key_rotation(
        &self,
        auth: &Authorized,
        request: &EnableKeyRotationRequest,
        world: &World<'_>,
    ) -> Result<Outcome, ApiError> {
        let key = self.key(auth, &request.key_id)?;
        only_symmetric(key)?;
        self.refuse_replica(key)?;
        self.allow(auth, Action::ScheduleRotation, key)?;
        // Not the period until now: policies are asked with this one too.
        let period_days = request.rotation_period_in_days.unwrap_or(365);
        if key.rotation.is_some_and(|r| r.period_days == period_days) {
            return Ok(reply(Response::EnableKeyRotation(EMPTY)));
        }
        let next = Due::after(world.now, u64::from(period_days) * DAY_MS);
        let row = KeyRow {
            rotation: Some(Rotation { period_days, next }),
            ..KeyRow::clone(key)
        };
        let changes = vec![Change::Put(Row::Key(Box::new(row)))];
        Ok(self
            .write(Response::EnableKeyRotation(EMPTY), changes)
            .into())
    }

    pub(super) fn disable_key_rotation(
        &self,
        auth: &Authorized,
        request: &DisableKeyRotationRequest,
    ) -> Result<Outcome, ApiError> {
        let key = self.key(auth, &request.key_id)?;
        only_symmetric(key)?;
        self.refuse_replica(key)?;
        self.allow(auth, Action::ScheduleRotation, key)?;
        if key.rotation.is_none() {
            return Ok(reply(Response::DisableKeyRotation(EMPTY)));
        }
        let row = KeyRow {
            rotation: None,
            ..KeyRow::clone(key)
        };
        let changes = vec![Change::Put(Row::Key(Box::new(row)))];
        Ok(self
            .write(Response::DisableKeyRotation(EMPTY), changes)
            .into())
    }
}

/// Other keys have one version of their material for ever; AWS says no more than that.
fn only_symmetric(key: &KeyRow) -> Result<(), ApiError> {
    if key.spec == KeySpec::SymmetricDefault {
        return Ok(());
    }
    Err(ApiError::bare(ErrorCode::UnsupportedOperation))
}

/// A version of a key's material, whether it is there or not.
struct Version<'a> {
    id: MaterialId,
    version: u32,
    created_ms: i64,
    rotated: Option<RotationKind>,
    description: Option<&'a str>,
    /// For imported material that is there.
    import: Option<&'a Imported>,
}

impl<'a> Version<'a> {
    fn of(row: &'a MaterialRow) -> Self {
        let import = row.import.as_ref();
        Self {
            id: row.id,
            version: row.version,
            created_ms: row.created_ms,
            rotated: row.rotated,
            description: import.and_then(|import| import.description.as_deref()),
            import,
        }
    }

    fn gone(row: &'a AbsentMaterial) -> Self {
        Self {
            id: row.id,
            version: row.version,
            created_ms: row.created_ms,
            rotated: row.rotated,
            description: row.description.as_deref(),
            import: None,
        }
    }

    fn entry(&self, key: &KeyRow, state: KeyMaterialState) -> RotationsListEntry {
        let external = key.origin == Origin::External;
        let expires = self.import.map(|import| import.expires);
        RotationsListEntry {
            key_id: key.id.to_string(),
            key_material_id: Some(self.id.to_string()),
            key_material_state: Some(state),
            key_material_description: self.description.map(str::to_owned),
            import_state: external.then_some(match self.import {
                Some(_) => ImportState::Imported,
                None => ImportState::PendingImport,
            }),
            expiration_model: expires.map(|expires| match expires {
                Some(_) => ExpirationModel::Expires,
                None => ExpirationModel::DoesNotExpire,
            }),
            valid_to: expires
                .flatten()
                .map(|due| Timestamp::from_millis(due.wall_ms)),
            rotation_date: self
                .rotated
                .map(|_| Timestamp::from_millis(self.created_ms)),
            rotation_type: self.rotated.map(|kind| match kind {
                RotationKind::Automatic => RotationType::Automatic,
                RotationKind::OnDemand => RotationType::OnDemand,
            }),
        }
    }
}
