//! The steps of a deletion epoch, as transactions.
//!
//! Order, each step durable before the next:
//!
//! 1. [`begin`]: the doomed keys become tombstones, their material, aliases, grants and policy
//!    secrets go, a new domain key is current;
//! 2. [`rewrap`], repeated: survivors move from older domain keys to the current one. What is still
//!    to do is read off the rows, so an interruption needs no cursor of its own;
//! 3. [`drop_old`]: the older domain keys go, with every wrap of them;
//! 4. the sealer stages a new epoch secret (the old one still opens the store);
//! 5. [`reseal`]: the domain key that is left is wrapped under the staged KEK. No older domain key ever
//!    is: a copy of the store from the middle of an epoch must not revive with an older backup
//!    what is deleted;
//! 6. the storage scrubs old bytes out of its files;
//! 7. the sealer destroys the old epoch secret: from here no older copy of the store opens;
//! 8. [`finish`].
//!
//! Secrets other than of keys go before: the change that takes them out of the rows sets
//! [`MetaRow::epoch_owed`] in the same transaction, and an epoch that dooms nothing more follows.

use std::sync::Arc;

use crate::clock::Now;
use crate::domain::{DomainError, DomainKeys, Subject};
use crate::ids::KeyId;
use crate::rows::{
    AccessKeyRow, Change, DomainRow, EpochPhase, KeyRow, MaterialRow, MetaRow, PolicyRow, Row,
    State, Table, Wrapped, alias_id, domain_id, grant_id, material_id,
};
use crate::snapshot::Snapshot;

/// Rows moved to the new domain key in one transaction.
pub const BATCH: usize = 256;

/// Step 1. `domain` is the row of the new domain key, wrapped to the KEK of the present epoch.
pub fn begin(snapshot: &Snapshot, doomed: &[KeyId], domain: DomainRow, now: Now) -> Vec<Change> {
    let meta = MetaRow {
        domain: domain.id,
        deletion_epoch: snapshot.meta.deletion_epoch.saturating_add(1),
        epoch_change: Some(EpochPhase::Rewrapping),
        epoch_owed: false,
        ..snapshot.meta.clone()
    };
    let mut changes = vec![
        Change::Put(Row::Meta(Box::new(meta))),
        Change::Put(Row::Domain(domain)),
    ];
    changes.extend(bury(snapshot, doomed, now.wall_ms));
    changes
}

/// Takes keys out of the rows with all that hangs on them; tombstones stay.
pub(crate) fn bury(snapshot: &Snapshot, doomed: &[KeyId], wall_ms: i64) -> Vec<Change> {
    let mut changes = Vec::new();
    for key in doomed.iter().filter_map(|id| snapshot.keys.get(id)) {
        changes.push(Change::Put(Row::Key(Box::new(tombstone(key, wall_ms)))));
        for row in snapshot.materials(key.id) {
            changes.push(Change::Remove(
                Table::Material,
                material_id(row.key, row.id),
            ));
        }
        for name in snapshot.names.get(&key.id).into_iter().flatten() {
            let id = alias_id(key.id.place(), name);
            changes.push(Change::Remove(Table::Alias, id));
        }
        for row in snapshot.grants.of_key(key.id, None) {
            changes.push(Change::Remove(Table::Grant, grant_id(row.key, &row.id)));
        }
    }
    let gone = |key: KeyId| doomed.contains(&key);
    // The row stays, without its secret: it answers which trees were lost with the key.
    for row in snapshot.policies().filter(|row| row.keys().any(gone)) {
        let mut row = PolicyRow::clone(row);
        if gone(row.key) {
            row.secret = None;
        }
        row.older.retain(|old| !gone(old.key));
        changes.push(Change::Put(Row::Policy(row)));
    }
    changes
}

/// Step 2. Moves up to [`BATCH`] secrets to the current domain key; nothing left gives no changes.
///
/// # Errors
/// A secret does not open: the store is damaged, nothing may be dropped.
pub fn rewrap(snapshot: &Snapshot, domain: &DomainKeys) -> Result<Vec<Change>, DomainError> {
    let current = domain.current();
    let materials = snapshot
        .materials
        .values()
        .flat_map(|versions| versions.values())
        .filter(|row| row.secret.domain != current)
        .map(Old::Material);
    let policies = snapshot
        .policies()
        .filter(|row| {
            let older = row.older.iter().map(|old| &old.secret);
            let mut secrets = row.secret.iter().chain(older);
            secrets.any(|secret| secret.domain != current)
        })
        .map(Old::Policy);
    let access_keys = snapshot.access_keys.values();
    let access_keys = access_keys
        .filter(|row| row.secret.domain != current)
        .map(Old::AccessKey);
    materials
        .chain(policies)
        .chain(access_keys)
        .take(BATCH)
        .map(|row| row.moved(domain))
        .collect()
}

/// Step 3. Drops every domain key but the current one.
pub fn drop_old(snapshot: &Snapshot) -> Vec<Change> {
    let meta = MetaRow {
        epoch_change: Some(EpochPhase::Scrubbing),
        ..snapshot.meta.clone()
    };
    let mut changes = vec![Change::Put(Row::Meta(Box::new(meta)))];
    for id in snapshot
        .domains
        .keys()
        .filter(|id| **id != snapshot.meta.domain)
    {
        changes.push(Change::Remove(Table::Domain, domain_id(*id)));
    }
    changes
}

/// Step 5. `domains` are the rows of the domain keys that are left, wrapped to the staged KEK;
/// `enrollment` is the staged one.
pub fn reseal(domains: Vec<DomainRow>, enrollment: Vec<u8>) -> Vec<Change> {
    let mut changes = vec![Change::Put(Row::Enrollment(enrollment))];
    changes.extend(domains.into_iter().map(|row| Change::Put(Row::Domain(row))));
    changes
}

/// Step 8. The epoch is over; `enrollment` no longer names the old secret.
pub fn finish(snapshot: &Snapshot, enrollment: Vec<u8>) -> Vec<Change> {
    let meta = MetaRow {
        epoch_change: None,
        ..snapshot.meta.clone()
    };
    vec![
        Change::Put(Row::Meta(Box::new(meta))),
        Change::Put(Row::Enrollment(enrollment)),
    ]
}

/// What remains of a destroyed key: enough to keep its id taken and to say when it went.
fn tombstone(key: &KeyRow, wall_ms: i64) -> KeyRow {
    KeyRow {
        state: State::Destroyed,
        description: String::new(),
        policy: String::new(),
        tags: Vec::new(),
        current: None,
        rotation: None,
        deletion: None,
        pending: None,
        absent: Vec::new(),
        discarded: Vec::new(),
        import_token: None,
        destroyed_ms: Some(wall_ms),
        ..key.clone()
    }
}

enum Old<'a> {
    Material(&'a Arc<MaterialRow>),
    Policy(&'a Arc<PolicyRow>),
    AccessKey(&'a Arc<AccessKeyRow>),
}

impl Old<'_> {
    fn moved(self, domain: &DomainKeys) -> Result<Change, DomainError> {
        match self {
            Self::Material(row) => {
                let secret = domain.rewrap(row)?;
                Ok(Change::Put(Row::Material(MaterialRow {
                    secret,
                    ..MaterialRow::clone(row)
                })))
            }
            Self::Policy(row) => {
                let moved = |generation, wrapped: &Wrapped| {
                    let subject = Subject::PolicySecret(&row.volume, &row.id, generation);
                    domain.wrap(subject, &domain.unwrap(subject, wrapped)?)
                };
                let secret = row.secret.as_ref();
                let secret = secret.map(|old| moved(row.generation, old)).transpose()?;
                let mut row = PolicyRow {
                    secret,
                    ..PolicyRow::clone(row)
                };
                for old in &mut row.older {
                    old.secret = moved(old.generation, &old.secret)?;
                }
                Ok(Change::Put(Row::Policy(row)))
            }
            Self::AccessKey(row) => {
                let subject = Subject::AccessKey(&row.id, &row.principal);
                let secret = domain.unwrap(subject, &row.secret)?;
                let secret = domain.wrap(subject, &secret)?;
                Ok(Change::Put(Row::AccessKey(Box::new(AccessKeyRow {
                    secret,
                    ..AccessKeyRow::clone(row)
                }))))
            }
        }
    }
}
