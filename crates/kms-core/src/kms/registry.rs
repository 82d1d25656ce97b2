//! The registry of volumes and policies: which directory trees hang on which key.
//!
//! kmsfs takes a policy's key, mode and generation from here; what its lower tree says is a hint. The
//! policy secret goes into every policy key and exists nowhere else, so that destroying the row
//! destroys the tree, whatever copies of it there are.

use std::ops::Bound;
use std::sync::Arc;

use kms_api::{
    ApiError, Blob, ContentMode, CreatePolicyRequest, CreatePolicyResponse, CreateVolumeRequest,
    CreateVolumeResponse, DescribeVolumeRequest, DescribeVolumeResponse, GetPolicyRequest,
    GetPolicyResponse, ListVolumesRequest, ListVolumesResponse, PolicySummary, ResourceId,
    Response, Timestamp, VolumeListEntry,
};
use kms_crypto::Key;

use super::generations::wire_settings;
use super::keys::wire_state;
use super::{Kms, Outcome, World, internal, no_domain, no_entropy, no_memory, pages, reply};
use crate::authz::Authorized;
use crate::domain::Subject;
use crate::entropy;
use crate::place::At;
use crate::rows::{Change, Mode, PolicyRow, PolicySettings, Row, VolumeRow};
use crate::states::Action;

impl Kms {
    pub(super) fn create_volume(
        &self,
        _auth: &Authorized,
        request: &CreateVolumeRequest,
        world: &World<'_>,
    ) -> Result<Outcome, ApiError> {
        let volume_id = ResourceId(entropy::array(world.entropy).map_err(no_entropy)?);
        let row = VolumeRow {
            id: volume_id.to_string(),
            label: request.label.clone().unwrap_or_default(),
            created_ms: world.now.wall_ms,
        };
        let response = Response::CreateVolume(CreateVolumeResponse { volume_id });
        Ok(self
            .write(response, vec![Change::Put(Row::Volume(row))])
            .into())
    }

    pub(super) fn create_policy(
        &self,
        auth: &Authorized,
        request: &CreatePolicyRequest,
        world: &World<'_>,
    ) -> Result<Outcome, ApiError> {
        let volume = self.volume(request.volume_id)?;
        // Directories hang on keys of the home, whatever place the request is for.
        let at = At::home(&self.snapshot);
        let (key, mut changes) = if self.wants_service_key(&at, &request.key_id) {
            let (key, changes) = self.service_key(&at, world)?;
            (Arc::new(key), changes)
        } else {
            let key = self.key_or_alias(&at, &request.key_id)?;
            self.check_algorithm(key, "CreatePolicy", None)?;
            self.allow(auth, Action::Cryptographic, key)?;
            (Arc::clone(key), Vec::new())
        };

        let policy_id = ResourceId(entropy::array(world.entropy).map_err(no_entropy)?);
        let mut bytes = entropy::array::<32>(world.entropy).map_err(no_entropy)?;
        let secret = Key::take(&mut bytes).map_err(no_memory)?;
        let generation = 1;
        let id = policy_id.to_string();
        let subject = Subject::PolicySecret(&volume.id, &id, generation);
        let row = PolicyRow {
            secret: Some(world.domain.wrap(subject, &secret).map_err(no_domain)?),
            volume: volume.id.clone(),
            id,
            key: key.id,
            mode: stored_mode(request.content_mode),
            generation,
            created_ms: world.now.wall_ms,
            label: String::new(),
            settings: PolicySettings::default(),
            older: Vec::new(),
            rotated_ms: None,
            destroyed_ms: None,
        };
        let response = Response::CreatePolicy(CreatePolicyResponse {
            policy_id,
            key_arn: self.arn(key.id),
            content_mode: request.content_mode,
            generation,
            policy_secret: Blob::from(&secret.expose()[..]),
        });
        changes.push(Change::Put(Row::Policy(row)));
        Ok(self.write(response, changes).into())
    }

    pub(super) fn get_policy(
        &self,
        auth: &Authorized,
        request: &GetPolicyRequest,
        world: &World<'_>,
    ) -> Result<Outcome, ApiError> {
        let row = self.policy(request.volume_id, request.policy_id)?;
        let found = self.generation(row, request.generation)?;
        let key = self.key_by_id(found.key)?;
        self.allow(auth, Action::Cryptographic, key)?;
        let wrapped = found.secret;
        let wrapped = wrapped.ok_or_else(|| internal("A policy has lost its secret."))?;
        let subject = Subject::PolicySecret(&row.volume, &row.id, found.generation);
        let secret = world.domain.unwrap(subject, wrapped).map_err(no_domain)?;
        Ok(reply(Response::GetPolicy(GetPolicyResponse {
            policy_id: request.policy_id,
            key_arn: self.arn(key.id),
            content_mode: wire_mode(found.mode),
            generation: found.generation,
            current_generation: row.generation,
            older_generations: row.older.iter().map(|old| old.generation).collect(),
            policy_secret: Blob::from(&secret.expose()[..]),
            key_state: wire_state(key.state),
            settings: wire_settings(row),
        })))
    }

    pub(super) fn describe_volume(
        &self,
        _auth: &Authorized,
        request: &DescribeVolumeRequest,
    ) -> Result<Outcome, ApiError> {
        let volume = self.volume(request.volume_id)?;
        Ok(reply(Response::DescribeVolume(DescribeVolumeResponse {
            volume_id: request.volume_id,
            label: volume.label.clone(),
            creation_date: Timestamp::from_millis(volume.created_ms),
            policies: self
                .policies_of(&volume.id)
                .filter_map(|row| self.summary(row))
                .collect(),
        })))
    }

    pub(super) fn list_volumes(
        &self,
        _auth: &Authorized,
        request: &ListVolumesRequest,
    ) -> Result<Outcome, ApiError> {
        let after = match pages::start("ListVolumes", request.marker.as_deref())? {
            None => Bound::Unbounded,
            Some(id) => Bound::Excluded(id),
        };
        let range = self
            .snapshot
            .volumes
            .range::<String, _>((after, Bound::Unbounded));
        let rest = range.filter_map(|(id, row)| {
            let entry = VolumeListEntry {
                volume_id: id.parse().ok()?,
                label: row.label.clone(),
                creation_date: Timestamp::from_millis(row.created_ms),
                policy_count: self.policies_of(id).count() as u64,
            };
            Some((id.clone(), entry))
        });
        let page = pages::page("ListVolumes", request.limit.unwrap_or(100), rest);
        Ok(reply(Response::ListVolumes(ListVolumesResponse {
            volumes: page.entries,
            next_marker: page.next_marker,
            truncated: page.truncated,
        })))
    }

    /// A policy of a volume.
    pub(crate) fn policy(
        &self,
        volume: ResourceId,
        id: ResourceId,
    ) -> Result<&PolicyRow, ApiError> {
        let place = (self.volume(volume)?.id.clone(), id.to_string());
        let found = self.snapshot.policies.get(&place).map(AsRef::as_ref);
        found.ok_or_else(|| {
            let text = format!("Policy '{id}' of volume '{volume}' does not exist");
            ApiError::not_found(text)
        })
    }

    /// A volume.
    pub(crate) fn volume(&self, id: ResourceId) -> Result<&VolumeRow, ApiError> {
        self.snapshot
            .volumes
            .get(&id.to_string())
            .map(AsRef::as_ref)
            .ok_or_else(|| ApiError::not_found(format!("Volume '{id}' does not exist")))
    }

    fn policies_of(&self, volume: &str) -> impl Iterator<Item = &PolicyRow> {
        let first = (volume.to_owned(), String::new());
        self.snapshot
            .policies
            .range(first..)
            .take_while(move |((owner, _), _)| owner == volume)
            .map(|(_, row)| row.as_ref())
    }

    fn summary(&self, row: &PolicyRow) -> Option<PolicySummary> {
        let key = self.live_key(row.key);
        Some(PolicySummary {
            policy_id: row.id.parse().ok()?,
            key_arn: self.arn(row.key),
            content_mode: wire_mode(row.mode),
            generation: row.generation,
            key_state: key.map(|key| wire_state(key.state)),
            current_key_material_id: key.and_then(|key| key.current).map(|id| id.to_string()),
            usage: self.policy_use(row),
            destroyed_date: row.destroyed_ms.map(Timestamp::from_millis),
            creation_date: Timestamp::from_millis(row.generation_created_ms()),
            older_generations: row.older.iter().map(|old| self.old_summary(old)).collect(),
            settings: wire_settings(row),
        })
    }
}

pub(super) fn wire_mode(mode: Mode) -> ContentMode {
    match mode {
        Mode::Xts => ContentMode::Xts,
        Mode::Gcm => ContentMode::Gcm,
    }
}

pub(super) fn stored_mode(mode: ContentMode) -> Mode {
    match mode {
        ContentMode::Xts => Mode::Xts,
        ContentMode::Gcm => Mode::Gcm,
    }
}
