//! Which changes may change what somebody is allowed: they raise the authorisation epoch.
//!
//! The changes themselves decide, not the request that made them, so that no operation can forget it.

use std::collections::BTreeSet;

use kms_api::Request;

use crate::ids::KeyId;
use crate::place::Place;
use crate::rows::{Change, KeyRow, PolicyRow, Row, State, Table};
use crate::snapshot::Snapshot;

/// What a transaction does to answers that were given before it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Relevance {
    /// Every answer stays right.
    None,
    /// Somebody may be allowed more: an older refusal may be wrong, an older allowance is not.
    Loosening(Reach),
    /// Somebody may be allowed less: nobody may rely on an older answer.
    Tightening(Reach),
}

/// Whose answers are concerned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reach {
    /// Those about these keys.
    Keys(BTreeSet<KeyId>),
    /// All of them.
    All,
}

impl Reach {
    /// One key.
    pub fn key(key: KeyId) -> Self {
        Self::Keys(BTreeSet::from([key]))
    }

    /// Both together.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::Keys(mut a), Self::Keys(b)) => {
                a.extend(b);
                Self::Keys(a)
            }
            _ => Self::All,
        }
    }
}

impl Relevance {
    /// Both together: what tightens anything tightens.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::None, other) | (other, Self::None) => other,
            (Self::Loosening(a), Self::Loosening(b)) => Self::Loosening(a.and(b)),
            (
                Self::Tightening(a) | Self::Loosening(a),
                Self::Tightening(b) | Self::Loosening(b),
            ) => Self::Tightening(a.and(b)),
        }
    }

    /// Whose answers are concerned, if any are.
    pub fn scope(&self) -> Option<&Reach> {
        match self {
            Self::None => None,
            Self::Loosening(scope) | Self::Tightening(scope) => Some(scope),
        }
    }

    /// Whether nobody may rely on an older answer.
    pub fn tightens(&self) -> bool {
        matches!(self, Self::Tightening(_))
    }
}

/// What `changes` do to the answers given under `before`.
pub fn relevant(before: &Snapshot, changes: &[Change]) -> Relevance {
    changes.iter().fold(Relevance::None, |sum, change| {
        sum.and(match change {
            Change::Put(row) => put(before, row),
            Change::Remove(table, id) => remove(before, *table, id),
        })
    })
}

/// Whether the request is one that takes something away from somebody. Who is told that this is done,
/// however often it was asked for, may take it that nobody relies on an older answer.
pub fn takes_away(request: &Request) -> bool {
    matches!(
        request.operation(),
        "DisableKey"
            | "ScheduleKeyDeletion"
            | "CreateAlias"
            | "UpdateAlias"
            | "DeleteAlias"
            | "PutKeyPolicy"
            | "RevokeGrant"
            | "RetireGrant"
            | "TagResource"
            | "UntagResource"
            | "DeleteImportedKeyMaterial"
            | "DestroyPolicy"
            | "DestroyPolicyGenerations"
            | "PutIdentityPolicy"
            | "DeleteIdentityPolicy"
            | "PutGuardRail"
            | "DeleteGuardRail"
            | "UpdatePolicy"
            | "UpdateAccessKey"
            | "DeleteAccessKey"
    )
}

fn put(before: &Snapshot, row: &Row) -> Relevance {
    match row {
        Row::Key(row) => before
            .keys
            .get(&row.id)
            // Nobody can have asked about a key that was not there.
            .map_or(Relevance::None, |old| key(old, row)),
        // A condition on `kms:ResourceAliases` may deny by a name as well as allow by it.
        Row::Alias(row) => {
            let scope = Reach::key(row.key);
            Relevance::Tightening(match before.aliases.get(row.key.place(), &row.name) {
                Some(old) => scope.and(Reach::key(old.key)),
                None => scope,
            })
        }
        Row::Grant(row) => {
            let old = before.grants.get(row.key, &row.id);
            match old {
                None => Relevance::Loosening(Reach::key(row.key)),
                Some(old) if **old == **row => Relevance::None,
                Some(_) => Relevance::Tightening(Reach::key(row.key)),
            }
        }
        Row::Policy(row) => {
            let place = (row.volume.clone(), row.id.clone());
            let old = before.policies.get(&place);
            old.map_or(Relevance::None, |old| policy(old, row))
        }
        Row::IdentityPolicy(_) | Row::GuardRail(_) => Relevance::Tightening(Reach::All),
        // Another key of a principal, or one that is accepted again, makes no older answer wrong.
        Row::AccessKey(row) => match before.access_keys.get(&row.id) {
            Some(old) if old.enabled && !row.enabled => Relevance::Tightening(Reach::All),
            Some(_) | None => Relevance::None,
        },
        // New material, and material under another wrap, opens what it opened before.
        Row::Material(_)
        | Row::Meta(_)
        | Row::Mac(_)
        | Row::Enrollment(_)
        | Row::Domain(_)
        | Row::Volume(_)
        | Row::Lease(_)
        | Row::Approval(_)
        | Row::Outbox(_)
        | Row::PolicyUse(_) => Relevance::None,
    }
}

fn key(old: &KeyRow, new: &KeyRow) -> Relevance {
    if old.policy == new.policy && old.tags == new.tags {
        if old.state == new.state {
            return Relevance::None;
        }
        // Enabled again, or out of its waiting period: nothing that was allowed is denied now.
        let more = match (old.state, new.state) {
            (State::Destroyed, _) | (_, State::Destroyed) => false,
            (_, State::Enabled)
            | (State::PendingDeletion | State::PendingReplicaDeletion, State::Disabled)
            | (State::PendingReplicaDeletion, State::PendingDeletion) => true,
            _ => false,
        };
        if more {
            return Relevance::Loosening(Reach::key(new.id));
        }
    }
    Relevance::Tightening(Reach::key(new.id))
}

/// A directory tree hangs on something else than before, or is to be treated in another way.
fn policy(old: &PolicyRow, new: &PolicyRow) -> Relevance {
    let reach = Reach::Keys(old.keys().chain(new.keys()).collect());
    let of = |row: &PolicyRow| -> BTreeSet<u32> {
        let current = row.secret.iter().map(|_| row.generation);
        current
            .chain(row.older.iter().map(|old| old.generation))
            .collect()
    };
    let (had, has) = (of(old), of(new));
    let same = old.key == new.key && old.mode == new.mode && old.settings == new.settings;
    if !same || !had.is_subset(&has) {
        return Relevance::Tightening(reach);
    }
    // Another generation beside those that there were: what was allowed stays so.
    if old.generation != new.generation || had != has || old.label != new.label {
        return Relevance::Loosening(reach);
    }
    Relevance::None
}

fn remove(before: &Snapshot, table: Table, id: &str) -> Relevance {
    let owner = || {
        let key = id
            .split_once('/')
            .and_then(|(key, _)| KeyId::from_row_id(key).ok());
        key.map_or(Reach::All, Reach::key)
    };
    Relevance::Tightening(match table {
        Table::Key => KeyId::from_row_id(id).map_or(Reach::All, Reach::key),
        Table::Material | Table::Grant => owner(),
        Table::Alias => match Place::of_row_name(id)
            .ok()
            .and_then(|(place, name)| before.aliases.get(place, name))
        {
            Some(old) => Reach::key(old.key),
            None => return Relevance::None,
        },
        Table::Policy | Table::IdentityPolicy | Table::GuardRail | Table::AccessKey => Reach::All,
        Table::Meta
        | Table::Mac
        | Table::Enrollment
        | Table::Domain
        | Table::Volume
        | Table::Lease
        | Table::Approval
        | Table::Outbox
        | Table::PolicyUse => return Relevance::None,
    })
}

#[cfg(test)]
mod tests;
