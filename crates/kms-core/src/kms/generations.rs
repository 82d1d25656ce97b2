//! RotatePolicy, UpdatePolicy: what a directory tree hangs on, and what its administrator chose for it.

use kms_api::{
    ApiError, Blob, CreatePolicyResponse, ErrorCode, OldGenerationSummary, OnKmsdLoss,
    PolicySettings as WireSettings, Response, RevokeMode, RotatePolicyRequest, Timestamp,
    UpdatePolicyRequest, UpdatePolicyResponse,
};
use kms_crypto::Key;

use super::keys::wire_state;
use super::registry::{stored_mode, wire_mode};
use super::{Kms, Outcome, World, internal, no_domain, no_entropy, no_memory, reply};
use crate::authz::Authorized;
use crate::domain::Subject;
use crate::entropy;
use crate::events::seconds;
use crate::ids::KeyId;
use crate::place::At;
use crate::rows::{Change, Mode, OldGeneration, OnLoss, PolicyRow, Revoke, Row, Wrapped};
use crate::states::Action;

/// Generations of one policy that are kept beside the current one. Each is an entry of the volume record
/// and a question to kmsd at mount.
const MAX_OLDER: usize = 32;

/// One generation of a policy.
pub(crate) struct Generation<'a> {
    pub(crate) generation: u32,
    pub(crate) key: KeyId,
    pub(crate) mode: Mode,
    /// None once the key is destroyed.
    pub(crate) secret: Option<&'a Wrapped>,
}

impl Kms {
    /// A kept generation of the policy; the current one if none is named.
    pub(crate) fn generation<'a>(
        &self,
        row: &'a PolicyRow,
        wanted: Option<u32>,
    ) -> Result<Generation<'a>, ApiError> {
        if let Some(date) = row.destroyed_ms {
            let (policy, volume, date) = (&row.id, &row.volume, seconds(date));
            return Err(ApiError::not_found(format!(
                "Policy '{policy}' of volume '{volume}' was destroyed on {date}: nothing opens what it protected"
            )));
        }
        let current = Generation {
            generation: row.generation,
            key: row.key,
            mode: row.mode,
            secret: row.secret.as_ref(),
        };
        let Some(wanted) = wanted.filter(|wanted| *wanted != row.generation) else {
            return Ok(current);
        };
        let found = row.older.iter().find(|old| old.generation == wanted);
        let found = found.map(|old| Generation {
            generation: old.generation,
            key: old.key,
            mode: old.mode,
            secret: Some(&old.secret),
        });
        found.ok_or_else(|| {
            let (policy, volume, current) = (&row.id, &row.volume, row.generation);
            let end = if wanted < current {
                "was destroyed"
            } else {
                "never was"
            };
            let kept: Vec<_> = row.older.iter().map(|o| o.generation.to_string()).collect();
            let kept = match kept.as_slice() {
                [] => String::new(),
                kept => format!(", kept are also {}", kept.join(", ")),
            };
            ApiError::not_found(format!(
                "Generation {wanted} of policy '{policy}' of volume '{volume}' {end}: the current one is \
                 {current}{kept}"
            ))
        })
    }

    pub(super) fn rotate_policy(
        &self,
        auth: &Authorized,
        request: &RotatePolicyRequest,
        world: &World<'_>,
    ) -> Result<Outcome, ApiError> {
        let row = self.policy(request.volume_id, request.policy_id)?;
        let from = self.key_by_id(row.key)?;
        let to = match &request.key_id {
            Some(name) => self.key_or_alias(&At::home(&self.snapshot), name)?,
            None => from,
        };
        self.generation(row, None)?;
        self.check_algorithm(to, "RotatePolicy", None)?;
        self.allow(auth, Action::Cryptographic, from)?;
        self.allow(auth, Action::Cryptographic, to)?;
        let next = row.generation.checked_add(1);
        let next = next.ok_or_else(|| internal("A policy has no generations left."))?;
        if let Some(wanted) = request.generation.filter(|wanted| *wanted != next) {
            let current = row.generation;
            return Err(ApiError::validation(format!(
                "Generation {wanted} is not the next one: the current generation of policy '{}' is {current}.",
                row.id
            )));
        }
        if row.older.len() >= MAX_OLDER {
            let text = format!(
                "Policy '{}' keeps {MAX_OLDER} older generations already. Rewrap what still hangs on them and end \
                 them: kmsctl fs rewrap DIR --destroy-old.",
                row.id
            );
            return Err(ApiError::new(ErrorCode::LimitExceeded, text));
        }
        let former = row.secret.clone();
        let former = former.ok_or_else(|| internal("A policy has lost its secret."))?;

        let mut bytes = entropy::array::<32>(world.entropy).map_err(no_entropy)?;
        let secret = Key::take(&mut bytes).map_err(no_memory)?;
        let subject = Subject::PolicySecret(&row.volume, &row.id, next);
        let mut new = PolicyRow {
            key: to.id,
            mode: request.content_mode.map_or(row.mode, stored_mode),
            generation: next,
            secret: Some(world.domain.wrap(subject, &secret).map_err(no_domain)?),
            rotated_ms: Some(world.now.wall_ms),
            ..PolicyRow::clone(row)
        };
        new.older.push(OldGeneration {
            generation: row.generation,
            key: row.key,
            mode: row.mode,
            secret: former,
            created_ms: row.generation_created_ms(),
        });
        let response = Response::RotatePolicy(CreatePolicyResponse {
            policy_id: request.policy_id,
            key_arn: self.arn(to.id),
            content_mode: wire_mode(new.mode),
            generation: next,
            policy_secret: Blob::from(&secret.expose()[..]),
        });
        let changes = vec![Change::Put(Row::Policy(new))];
        Ok(self.write(response, changes).into())
    }

    pub(super) fn update_policy(
        &self,
        _auth: &Authorized,
        request: &UpdatePolicyRequest,
    ) -> Result<Outcome, ApiError> {
        let old = self.policy(request.volume_id, request.policy_id)?;
        let mut row = PolicyRow::clone(old);
        if let Some(label) = &request.label {
            row.label.clone_from(label);
        }
        let settings = &mut row.settings;
        if let Some(mode) = request.revoke_mode {
            settings.revoke = match mode {
                RevokeMode::Stale => Revoke::Stale,
                RevokeMode::Kill => Revoke::Kill,
            };
        }
        if let Some(seconds) = request.lock_after_seconds {
            settings.on_kmsd_loss = OnLoss::LockAfter(seconds);
        }
        if request.on_kmsd_loss == Some(OnKmsdLoss::KeepOpen) {
            settings.on_kmsd_loss = OnLoss::KeepOpen;
        }
        if let Some(on) = request.record_opens {
            settings.record_opens = on;
        }
        if let Some(on) = request.rewrap_after_rotation {
            settings.rewrap_after_rotation = on;
        }
        let response = Response::UpdatePolicy(UpdatePolicyResponse {
            policy_id: request.policy_id,
            settings: wire_settings(&row),
        });
        if row == *old {
            return Ok(reply(response));
        }
        let changes = vec![Change::Put(Row::Policy(row))];
        Ok(self.write(response, changes).into())
    }

    /// An older generation as DescribeVolume lists it.
    pub(super) fn old_summary(&self, old: &OldGeneration) -> OldGenerationSummary {
        OldGenerationSummary {
            generation: old.generation,
            key_arn: self.arn(old.key),
            content_mode: wire_mode(old.mode),
            creation_date: Timestamp::from_millis(old.created_ms),
            key_state: self.live_key(old.key).map(|key| wire_state(key.state)),
        }
    }
}

pub(super) fn wire_settings(row: &PolicyRow) -> WireSettings {
    let settings = &row.settings;
    WireSettings {
        label: row.label.clone(),
        revoke_mode: match settings.revoke {
            Revoke::Stale => RevokeMode::Stale,
            Revoke::Kill => RevokeMode::Kill,
        },
        lock_after_seconds: match settings.on_kmsd_loss {
            OnLoss::LockAfter(seconds) => Some(seconds),
            OnLoss::KeepOpen => None,
        },
        record_opens: settings.record_opens,
        rewrap_after_rotation: settings.rewrap_after_rotation,
    }
}
