//! Imported material of multi-Region keys: every key imports it for itself, the primary key first, and rotates with it.

use std::collections::BTreeMap;

use kms_api::KeyMaterialState;

use super::super::Kms;
use super::super::imports::absent;
use crate::clock::{Dueness, Now};
use crate::ids::{KeyId, MaterialId};
use crate::rows::{AbsentMaterial, KeyRow};

impl Kms {
    /// A key and the others of its id; of a single-Region key only itself.
    pub(in crate::kms) fn members<'k>(
        &'k self,
        key: &'k KeyRow,
    ) -> impl Iterator<Item = &'k KeyRow> + 'k {
        let others = self.snapshot.family(key.id).map(AsRef::as_ref);
        std::iter::once(key).chain(others.filter(|other| other.id != key.id))
    }

    /// What encrypts, or is to encrypt once the key has imported it.
    pub(in crate::kms) fn current_of(&self, key: &KeyRow) -> Option<MaterialId> {
        key.current.or_else(|| self.rotates_with(key).current)
    }

    /// What waits for its rotation in any of the keys: there is one at a time.
    pub(in crate::kms) fn pending_of(&self, key: &KeyRow) -> Option<MaterialId> {
        self.members(key).find_map(|member| member.pending)
    }

    /// The same, and how it is said.
    pub(in crate::kms) fn pending_state(
        &self,
        key: &KeyRow,
    ) -> Option<(MaterialId, KeyMaterialState)> {
        let pending = self.pending_of(key)?;
        let mut members = self.members(key);
        let everywhere = members.all(|member| member.pending == Some(pending));
        let state = match everywhere {
            true => KeyMaterialState::PendingRotation,
            false => KeyMaterialState::PendingMultiRegionImportAndRotation,
        };
        Some((pending, state))
    }

    /// The keys that cannot be rotated to what waits: they have not imported it, or it has expired by one of the clocks.
    pub(in crate::kms) fn not_ready(
        &self,
        key: &KeyRow,
        pending: MaterialId,
        now: Now,
    ) -> Vec<KeyId> {
        let is_ready = |member: &&KeyRow| {
            let mut rows = self.snapshot.materials(member.id);
            let row = rows.find(|row| row.id == pending && member.pending == Some(pending));
            row.is_some_and(|row| {
                let expires = row.import.as_ref().and_then(|import| import.expires);
                expires.is_none_or(|due| due.at(now) == Dueness::NotYet)
            })
        };
        let members = self.members(key);
        members
            .filter(|member| !is_ready(member))
            .map(|member| member.id)
            .collect()
    }

    /// What a replica of a key has to get for itself.
    pub(in crate::kms) fn to_be_imported(&self, key: &KeyRow) -> Vec<AbsentMaterial> {
        let here = self.snapshot.materials(key.id);
        let lasting = here.filter(|row| key.pending != Some(row.id));
        let mut all: Vec<_> = lasting.map(|row| absent(row)).collect();
        all.extend(key.absent.iter().cloned());
        all
    }

    /// Adds to materials that are to go what goes with them: what waits in a primary key is taken from its replicas too.
    pub(in crate::kms) fn doom_waiting(&self, doomed: &mut BTreeMap<KeyId, Vec<MaterialId>>) {
        let named = doomed.iter();
        let waiting = named.filter_map(|(key, materials)| {
            let key = self.live_key(*key)?;
            let pending = key.pending.filter(|id| materials.contains(id))?;
            Some((key, pending))
        });
        let more: Vec<_> = waiting
            .flat_map(|(key, pending)| {
                let replicas = self.replicas(key);
                let having = replicas.filter(move |replica| replica.pending == Some(pending));
                having.map(move |replica| (replica.id, pending))
            })
            .collect();
        for (key, pending) in more {
            let materials = doomed.entry(key).or_default();
            if !materials.contains(&pending) {
                materials.push(pending);
            }
        }
    }
}
