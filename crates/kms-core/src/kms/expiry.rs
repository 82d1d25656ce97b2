//! The end of imported material that expires.

use std::collections::BTreeMap;

use kms_api::{ExpirationModel, KeyMetadata, Response, Timestamp};

use super::{EMPTY, Kms, Outcome, reply};
use crate::clock::{Due, Dueness, Now};
use crate::ids::{KeyId, MaterialId};
use crate::rows::{KeyRow, Origin, State};

/// Imported material whose time is over.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Expired {
    /// Both clocks say so.
    pub due: Vec<(KeyId, MaterialId)>,
    /// Only one of the clocks says so: the keys cannot be used, nothing is destroyed, and somebody should look at the clock.
    pub clocks_disagree: Vec<KeyId>,
}

impl Kms {
    /// Materials that expired.
    pub fn materials_expired(&self, now: Now) -> Expired {
        let mut found = Expired::default();
        let external = self.snapshot.keys.values();
        let external =
            external.filter(|key| key.origin == Origin::External && key.state != State::Destroyed);
        for key in external {
            for row in self.snapshot.materials(key.id) {
                let expires = row.import.as_ref().and_then(|import| import.expires);
                match expires.map(|due| due.at(now)) {
                    Some(Dueness::Due) => found.due.push((key.id, row.id)),
                    Some(Dueness::ClocksDisagree) => found.clocks_disagree.push(key.id),
                    Some(Dueness::NotYet) | None => {}
                }
            }
        }
        found
    }

    /// Whether a key that could be used otherwise has material that has expired by one of the clocks: destroying it takes
    /// both, but nobody uses it any more. What waits for RotateKeyOnDemand is not needed yet.
    pub(super) fn has_lapsed(&self, key: &KeyRow, now: Now) -> bool {
        let usable = matches!(key.state, State::Enabled | State::Updating);
        if key.origin != Origin::External || !usable {
            return false;
        }
        let mut ends = self.ends_of_material(key);
        ends.any(|due| due.at(now) != Dueness::NotYet)
    }

    /// Milliseconds until the first of a key's materials expires by the first of the clocks; those that have are not counted.
    pub(super) fn expires_in_ms(&self, key: KeyId, now: Now) -> Option<u64> {
        let key = self.live_key(key)?;
        let ends = self.ends_of_material(key);
        let ends = ends.filter(|due| due.at(now) == Dueness::NotYet);
        ends.map(|due| due.left_ms(now)).min()
    }

    fn ends_of_material(&self, key: &KeyRow) -> impl Iterator<Item = Due> {
        let pending = key.pending;
        let rows = self.snapshot.materials(key.id);
        let lasting = rows.filter(move |row| pending != Some(row.id));
        lasting.filter_map(|row| row.import.as_ref()?.expires)
    }

    /// Deletes all materials that have expired by both clocks, in one transaction; nothing where there are none.
    pub fn expire(&self, now: Now) -> Outcome {
        let mut expired: BTreeMap<KeyId, Vec<MaterialId>> = BTreeMap::new();
        for (key, material) in self.materials_expired(now).due {
            expired.entry(key).or_default().push(material);
        }
        let response = Response::EnableKey(EMPTY);
        match expired.is_empty() {
            true => reply(response),
            false => self.destroying_material(response, expired).into(),
        }
    }

    /// What DescribeKey says of imported material.
    pub(super) fn expiration(&self, key: &KeyRow, metadata: &mut KeyMetadata) {
        if key.origin != Origin::External {
            return;
        }
        let rows = self.snapshot.materials(key.id);
        let mut lasting = rows.filter(|row| key.pending != Some(row.id)).peekable();
        if lasting.peek().is_none() {
            return;
        }
        let ends = lasting.filter_map(|row| row.import.as_ref()?.expires);
        let first = ends.map(|due| due.wall_ms).min();
        metadata.valid_to = first.map(Timestamp::from_millis);
        metadata.expiration_model = Some(match first {
            Some(_) => ExpirationModel::Expires,
            None => ExpirationModel::DoesNotExpire,
        });
    }
}
