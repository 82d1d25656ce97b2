//! What was destroyed, as a list: so that a store that is restored from an older backup does not bring it back.

use kms_api::{ResourceId, Timestamp, Tombstone};
use serde::{Deserialize, Serialize};

use crate::epoch;
use crate::ids::KeyId;
use crate::kms;
use crate::rows::{Change, PolicyRow, Row, State};
use crate::snapshot::Snapshot;

/// Everything that was destroyed in a store.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
pub struct Tombstones {
    /// Name of the store.
    pub store_id: String,
    /// Its deletion epoch.
    pub deletion_epoch: u64,
    /// What was destroyed.
    pub tombstones: Vec<Tombstone>,
}

/// What was destroyed in the store of `snapshot`.
pub fn list(snapshot: &Snapshot) -> Tombstones {
    Tombstones {
        store_id: snapshot.meta.store_id.clone(),
        deletion_epoch: snapshot.meta.deletion_epoch,
        tombstones: each(snapshot).map(|(_, tombstone)| tombstone).collect(),
    }
}

/// The same one by one, in the order of their places, which come with them.
pub(crate) fn each(snapshot: &Snapshot) -> impl Iterator<Item = (String, Tombstone)> {
    let keys = snapshot.keys.values().filter_map(|key| {
        let date = (key.state == State::Destroyed).then_some(key.destroyed_ms)?;
        let tombstone = Tombstone {
            key_id: Some(key.id.row_id()),
            date: date.map(Timestamp::from_millis),
            ..Tombstone::default()
        };
        Some((format!("key/{}", key.id.row_id()), tombstone))
    });
    let materials = snapshot.keys.values().filter_map(|key| {
        let absent = key.absent.iter().map(|one| one.id);
        let ids: Vec<_> = absent.chain(key.discarded.iter().copied()).collect();
        if ids.is_empty() {
            return None;
        }
        let tombstone = Tombstone {
            key_id: Some(key.id.row_id()),
            key_material_ids: ids.into_iter().map(|id| id.to_string()).collect(),
            ..Tombstone::default()
        };
        Some((format!("material/{}", key.id.row_id()), tombstone))
    });
    let policies = snapshot.policies.values().filter_map(|row| {
        let generations = match row.secret {
            // All of them.
            None if row.older.is_empty() => Vec::new(),
            _ => lost(row),
        };
        if row.secret.is_some() && generations.is_empty() {
            return None;
        }
        let tombstone = Tombstone {
            volume_id: row.volume.parse::<ResourceId>().ok(),
            policy_id: row.id.parse::<ResourceId>().ok(),
            generations,
            date: row.destroyed_ms.map(Timestamp::from_millis),
            ..Tombstone::default()
        };
        Some((format!("policy/{}/{}", row.volume, row.id), tombstone))
    });
    keys.chain(materials).chain(policies)
}

/// The generations whose secrets are gone.
fn lost(row: &PolicyRow) -> Vec<u32> {
    let kept = |generation: &u32| {
        (*generation == row.generation && row.secret.is_some())
            || row.older.iter().any(|old| old.generation == *generation)
    };
    (1..=row.generation)
        .filter(|generation| !kept(generation))
        .collect()
}

/// Takes out of a store what a list says was destroyed: how many keys and policies still had secrets, and the changes.
pub fn bury(snapshot: &Snapshot, list: &Tombstones, wall_ms: i64) -> (u64, Vec<Change>) {
    let mut changes = Vec::new();
    let mut count = 0;
    let doomed: Vec<KeyId> = list
        .tombstones
        .iter()
        .filter(|one| one.key_material_ids.is_empty())
        .filter_map(|one| KeyId::from_row_id(one.key_id.as_ref()?).ok())
        .filter(|id| {
            let key = snapshot.keys.get(id);
            key.is_some_and(|key| key.state != State::Destroyed)
        })
        .collect();
    count += doomed.len() as u64;
    changes.extend(epoch::bury(snapshot, &doomed, wall_ms));
    for one in &list.tombstones {
        let key = one
            .key_id
            .as_ref()
            .and_then(|id| KeyId::from_row_id(id).ok());
        let Some(key) = key.filter(|id| !doomed.contains(id)) else {
            continue;
        };
        let ids = one.key_material_ids.iter();
        let ids: Vec<_> = ids.filter_map(|id| id.parse().ok()).collect();
        let key = snapshot.keys.get(&key).filter(|_| !ids.is_empty());
        let gone = key.map(|key| kms::without(snapshot, key, &ids));
        let gone = gone.unwrap_or_default();
        count += u64::from(!gone.is_empty());
        changes.extend(gone);
    }
    for one in &list.tombstones {
        let (Some(volume), Some(policy)) = (one.volume_id, one.policy_id) else {
            continue;
        };
        let place = (volume.to_string(), policy.to_string());
        let Some(row) = snapshot.policies.get(&place) else {
            continue;
        };
        let gone =
            |generation: u32| one.generations.is_empty() || one.generations.contains(&generation);
        let mut new = PolicyRow::clone(row);
        new.older
            .retain(|old| !gone(old.generation) && !doomed.contains(&old.key));
        if gone(row.generation) || doomed.contains(&row.key) {
            new.secret = None;
        }
        // Without a date it went with its key.
        if one.generations.is_empty() {
            new.destroyed_ms = one.date.map(Timestamp::millis).or(new.destroyed_ms);
        }
        if new != **row {
            count += 1;
            // After those of `epoch::bury`, which know less.
            changes.push(Change::Put(Row::Policy(new)));
        }
    }
    (count, changes)
}
