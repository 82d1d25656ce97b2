//! What happens without a request: automatic rotation, and finding the keys whose time has come.

use kms_api::{ApiError, Response};

use super::{EMPTY, Kms, World, Write};
use crate::clock::{DAY_MS, Due, Dueness, Now};
use crate::ids::KeyId;
use crate::rows::{KeyRow, Rotation, RotationKind, State};

/// Keys that something is to be done about.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DueKeys {
    /// Both clocks say so.
    pub due: Vec<KeyId>,
    /// Only one of the clocks says so: nothing is done, and somebody should look at the clock.
    pub clocks_disagree: Vec<KeyId>,
}

impl Kms {
    /// Keys whose waiting period is over.
    pub fn deletions_due(&self, now: Now) -> DueKeys {
        self.due(now, |key| match key.state {
            State::PendingDeletion => key.deletion.map(|deletion| deletion.due),
            _ => None,
        })
    }

    /// Keys that automatic rotation has come to.
    pub fn rotations_due(&self, now: Now) -> DueKeys {
        self.due(now, |key| match key.state {
            State::Enabled => key.rotation.map(|rotation| rotation.next),
            _ => None,
        })
    }

    /// Rotates a key that [`Self::rotations_due`] named.
    ///
    /// # Errors
    /// The key is gone, or no new material can be made.
    pub fn rotate_automatically(&self, id: KeyId, world: &World<'_>) -> Result<Write, ApiError> {
        let key = self.key_by_id(id)?;
        let rotation = key.rotation.map(|rotation| Rotation {
            next: Due::after(world.now, u64::from(rotation.period_days) * DAY_MS),
            ..rotation
        });
        let row = KeyRow {
            rotation,
            ..KeyRow::clone(key)
        };
        self.rotate(
            row,
            RotationKind::Automatic,
            Response::EnableKeyRotation(EMPTY),
            world,
        )
    }

    fn due(&self, now: Now, when: impl Fn(&KeyRow) -> Option<Due>) -> DueKeys {
        let mut found = DueKeys::default();
        for key in self.snapshot.keys.values() {
            match when(key).map(|due| due.at(now)) {
                Some(Dueness::Due) => found.due.push(key.id),
                Some(Dueness::ClocksDisagree) => found.clocks_disagree.push(key.id),
                Some(Dueness::NotYet) | None => {}
            }
        }
        found
    }
}
