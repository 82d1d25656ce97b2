//! What arrives at a host.

use kms_api::KeySpec;
use kms_crypto::{RecoveryPrivateKey, constant_time_eq};

use super::leave::leaving;
use super::{Content, Imported, KIND, Material, MovedKey, Policy, Secret, TransferError, inspect};
use crate::clock::{DAY_MS, Due, Now};
use crate::domain::{DomainError, DomainKeys, Subject};
use crate::kms::{KMSFS_ALIAS, default_policy, due_at, material_id_of, material_name};
use crate::rows::{
    AliasRow, Change, Imported as ImportedRow, KeyRow, Manager, MaterialRow, OldGeneration,
    PolicyRow, Rotation, Row, State, policy_id,
};
use crate::sealed::{self, SealedError};
use crate::snapshot::Snapshot;

/// The changes that take the keys of a file into a store.
///
/// # Errors
/// It does not open with `key`, or is of another account or Region; something in it was destroyed here, or is here and
/// differs. Then nothing is to be changed.
pub fn import(
    snapshot: &Snapshot,
    domain: &DomainKeys,
    file: &[u8],
    key: &RecoveryPrivateKey,
    now: Now,
) -> Result<(Imported, Vec<Change>), TransferError> {
    let head = inspect(file)?;
    let scope = &snapshot.meta().scope;
    if head.account != scope.account || head.region != scope.region {
        return Err(TransferError::OtherScope {
            account: head.account,
            region: head.region,
        });
    }
    let plain = sealed::open(KIND, file, key)?;
    let content: Content = serde_json::from_slice(&plain)
        .map_err(|_| SealedError::Damaged("its content cannot be read"))?;
    drop(plain);
    let mut imported = Imported {
        head,
        keys: 0,
        policies: 0,
        aliases_taken: Vec::new(),
        now_customer_managed: Vec::new(),
    };
    let mut changes = Vec::new();
    if !snapshot.volumes.contains_key(&content.volume.id) {
        changes.push(Change::Put(Row::Volume(content.volume)));
    }
    for key in content.keys {
        arriving_key(snapshot, domain, key, now, &mut imported, &mut changes)?;
    }
    for policy in content.policies {
        arriving(snapshot, domain, policy, &mut imported, &mut changes)?;
    }
    for row in content.uses {
        let id = policy_id(&row.volume, &row.id);
        if !snapshot.policy_use.contains_key(&id) {
            changes.push(Change::Put(Row::PolicyUse(row)));
        }
    }
    Ok((imported, changes))
}

fn arriving_key(
    snapshot: &Snapshot,
    domain: &DomainKeys,
    mut key: MovedKey,
    now: Now,
    imported: &mut Imported,
    changes: &mut Vec<Change>,
) -> Result<(), TransferError> {
    let id = key.row.id;
    let name = material_name(snapshot, id);
    let genuine = |one: &Material| material_id_of(&name, one.secret.0.expose()) == one.id;
    if !key.materials.iter().all(genuine) {
        return Err(SealedError::Damaged("key material and its id do not fit").into());
    }
    if let Some(own) = snapshot.keys.get(&id) {
        if own.state == State::Destroyed {
            return Err(TransferError::Destroyed(format!("key {id}")));
        }
        // The id is made of the material: the same id is the same material.
        let here = |one: &Material| snapshot.materials(id).any(|row| row.id == one.id);
        return match key.materials.iter().all(here) {
            true => Ok(()),
            false => Err(TransferError::Differs(format!("key {id}"))),
        };
    }
    name_service_key(snapshot, now, &mut key, imported, changes);
    for one in key.materials {
        let spec = KeySpec::SymmetricDefault;
        let subject = Subject::Material(id, one.id, spec);
        changes.push(Change::Put(Row::Material(MaterialRow {
            key: id,
            id: one.id,
            version: one.version,
            created_ms: one.created_ms,
            rotated: one.rotated,
            spec,
            public: None,
            secret: domain.wrap(subject, &one.secret.0)?,
            // The elapsed time of the other host means nothing here.
            import: one.import.map(|import| ImportedRow {
                expires: import.expires.map(|due| due_at(due.wall_ms, now)),
                ..import
            }),
        })));
    }
    for alias in key.aliases {
        if snapshot.aliases.get(id.place(), &alias.name).is_some() {
            imported.aliases_taken.push(alias.name);
        } else {
            changes.push(Change::Put(Row::Alias(alias)));
        }
    }
    // The elapsed time of the other host means nothing here.
    let rotation = key.row.rotation.map(|rotation| Rotation {
        next: Due::after(now, u64::from(rotation.period_days) * DAY_MS),
        ..rotation
    });
    changes.push(Change::Put(Row::Key(Box::new(KeyRow {
        rotation,
        ..key.row
    }))));
    imported.keys += 1;
    Ok(())
}

/// kmsfs's own key keeps its name where that is free. Where kmsfs has a key of its own already, nobody could change the policy of a
/// second one, rename or delete it: it is the administrator's.
fn name_service_key(
    snapshot: &Snapshot,
    now: Now,
    key: &mut MovedKey,
    imported: &mut Imported,
    changes: &mut Vec<Change>,
) {
    if key.row.manager != Manager::Service {
        return;
    }
    let id = key.row.id;
    let comes = |change: &Change| matches!(change, Change::Put(Row::Alias(alias)) if alias.name == KMSFS_ALIAS);
    let there = snapshot.aliases.get(id.place(), KMSFS_ALIAS).is_some();
    if there || changes.iter().any(comes) {
        key.aliases.retain(|alias| alias.name != KMSFS_ALIAS);
        key.row.manager = Manager::Customer;
        key.row.policy = default_policy(&snapshot.scope_of(id.place()));
        imported.now_customer_managed.push(id);
    } else if !key.aliases.iter().any(|alias| alias.name == KMSFS_ALIAS) {
        changes.push(Change::Put(Row::Alias(AliasRow {
            name: KMSFS_ALIAS.to_owned(),
            key: id,
            created_ms: now.wall_ms,
            updated_ms: now.wall_ms,
        })));
    }
}

fn arriving(
    snapshot: &Snapshot,
    domain: &DomainKeys,
    policy: Policy,
    imported: &mut Imported,
    changes: &mut Vec<Change>,
) -> Result<(), TransferError> {
    let row = policy.row;
    let what = format!("policy {} of volume {}", row.id, row.volume);
    let place = (row.volume.clone(), row.id.clone());
    if let Some(own) = snapshot.policies.get(&place) {
        let here = leaving(own, domain)?;
        if own.destroyed_ms.is_some() || (own.secret.is_none() && policy.secret.is_some()) {
            return Err(TransferError::Destroyed(what));
        }
        let same = |a: &Secret, b: &Secret| constant_time_eq(a.0.expose(), b.0.expose());
        let current = match (&here.secret, &policy.secret) {
            (Some(a), Some(b)) => own.generation == row.generation && same(a, b),
            (a, b) => a.is_none() && b.is_none(),
        };
        let older = policy.older.iter().all(|one| {
            let mut own = here.older.iter();
            own.any(|two| two.generation == one.generation && same(&two.secret, &one.secret))
        });
        return match current && older {
            true => Ok(()),
            false => Err(TransferError::Differs(what)),
        };
    }
    let close = |generation, secret: &Secret| {
        let subject = Subject::PolicySecret(&row.volume, &row.id, generation);
        domain.wrap(subject, &secret.0)
    };
    let secret = policy.secret.as_ref();
    let secret = secret
        .map(|secret| close(row.generation, secret))
        .transpose()?;
    let older = policy.older.iter().map(|old| {
        Ok(OldGeneration {
            generation: old.generation,
            key: old.key,
            mode: old.mode,
            secret: close(old.generation, &old.secret)?,
            created_ms: old.created_ms,
        })
    });
    let older = older.collect::<Result<_, DomainError>>()?;
    changes.push(Change::Put(Row::Policy(PolicyRow {
        secret,
        older,
        ..row
    })));
    imported.policies += 1;
    Ok(())
}
