//! Rotation: on demand, by schedule, and what is said about it.

use kms_api::{
    ApiError, DisableKeyRotationRequest, EnableKeyRotationRequest, ErrorCode,
    GetKeyRotationStatusRequest, GetKeyRotationStatusResponse, IncludeKeyMaterial,
    KeyMaterialState, KeySpec, ListKeyRotationsRequest, ListKeyRotationsResponse, Response,
    RotateKeyOnDemandRequest, RotateKeyOnDemandResponse, RotationType, RotationsListEntry,
    Timestamp,
};

use super::{EMPTY, Kms, Outcome, World, Write, pages, reply};
use crate::authz::Authorized;
use crate::clock::{DAY_MS, Due};
use crate::rows::{Change, KeyRow, MaterialRow, Rotation, RotationKind, Row, State};
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
        let response = Response::RotateKeyOnDemand(RotateKeyOnDemandResponse { key_id: arn });
        self.rotate(row, RotationKind::OnDemand, response, world)
            .map(Outcome::from)
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
        let mut versions: Vec<&MaterialRow> =
            self.snapshot.materials(key.id).map(AsRef::as_ref).collect();
        versions.sort_by_key(|row| row.version);
        let rest = versions
            .into_iter()
            .filter(|row| row.version > after && (all || row.rotated.is_some()))
            .map(|row| (row.version.to_string(), rotation_entry(key, row, all)));
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
        let asked = request.rotation_period_in_days;
        let period_days = asked
            .or_else(|| key.rotation.map(|r| r.period_days))
            .unwrap_or(365);
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

fn rotation_entry(key: &KeyRow, row: &MaterialRow, all: bool) -> RotationsListEntry {
    let current = key.current == Some(row.id);
    RotationsListEntry {
        key_id: key.id.to_string(),
        key_material_id: Some(row.id.to_string()),
        key_material_state: all.then_some(if current {
            KeyMaterialState::Current
        } else {
            KeyMaterialState::NonCurrent
        }),
        rotation_date: row.rotated.map(|_| Timestamp::from_millis(row.created_ms)),
        rotation_type: row.rotated.map(|kind| match kind {
            RotationKind::Automatic => RotationType::Automatic,
            RotationKind::OnDemand => RotationType::OnDemand,
        }),
    }
}
