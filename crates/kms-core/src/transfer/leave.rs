//! What leaves a host.

use std::collections::BTreeSet;

use kms_crypto::RecoveryPublicKey;
use zeroize::Zeroizing;

use super::{Content, Head, KIND, Material, MovedKey, Older, Policy, Secret, TransferError};
use crate::clock::Now;
use crate::domain::{DomainError, DomainKeys, Subject};
use crate::ids::KeyId;
use crate::rows::{AliasRow, Bytes, KeyRow, PolicyRow, PolicyUseRow, State, VolumeRow, policy_id};
use crate::sealed::{self, SealedError};
use crate::snapshot::Snapshot;

/// Writes the keys of a volume for the holder of `recipient`.
///
/// # Errors
/// There is no such volume, one of its keys waits for its deletion, or a secret does not open.
pub fn export(
    snapshot: &Snapshot,
    domain: &DomainKeys,
    volume: &str,
    recipient: &RecoveryPublicKey,
    now: Now,
) -> Result<(Head, Vec<u8>), TransferError> {
    let row = snapshot.volumes.get(volume);
    let row = row.ok_or_else(|| TransferError::NoVolume(volume.to_owned()))?;
    let mut policies = Vec::new();
    let mut uses = Vec::new();
    let mut ids = BTreeSet::new();
    for row in snapshot.policies().filter(|row| row.volume == volume) {
        policies.push(leaving(row, domain)?);
        if row.secret.is_some() {
            ids.insert(row.key);
        }
        ids.extend(row.older.iter().map(|old| old.key));
        uses.extend(
            snapshot
                .policy_use
                .get(&policy_id(&row.volume, &row.id))
                .map(|row| PolicyUseRow::clone(row)),
        );
    }
    let mut keys = Vec::new();
    for id in &ids {
        keys.push(leaving_key(snapshot, domain, *id)?);
    }
    let meta = snapshot.meta();
    let head = Head {
        volume_id: volume.to_owned(),
        label: row.label.clone(),
        account: meta.scope.account.clone(),
        region: meta.scope.region.clone(),
        store_id: meta.store_id.clone(),
        created_ms: now.wall_ms,
        recipient: Bytes(recipient.as_bytes().to_vec()),
        keys: ids.into_iter().collect(),
        policies: policies.len() as u64,
    };
    let content = Content {
        volume: VolumeRow::clone(row),
        policies,
        keys,
        uses,
    };
    let unwritten = |_| SealedError::Damaged("it cannot be written");
    // Measured first: growing would leave copies of secrets behind.
    let mut size = Count(0);
    serde_json::to_writer(&mut size, &content).map_err(unwritten)?;
    let mut plain = Zeroizing::new(Vec::with_capacity(size.0));
    serde_json::to_writer(&mut *plain, &content).map_err(unwritten)?;
    let json = serde_json::to_vec(&head).map_err(unwritten)?;
    let file = sealed::seal(KIND, &json, &plain, recipient)?;
    Ok((head, file))
}

struct Count(usize);

impl std::io::Write for Count {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0 += bytes.len();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

pub(super) fn leaving(row: &PolicyRow, domain: &DomainKeys) -> Result<Policy, TransferError> {
    let open = |generation, wrapped| {
        let subject = Subject::PolicySecret(&row.volume, &row.id, generation);
        domain.unwrap(subject, wrapped).map(Secret)
    };
    let secret = row.secret.as_ref();
    let secret = secret
        .map(|wrapped| open(row.generation, wrapped))
        .transpose()?;
    let older = row.older.iter().map(|old| {
        Ok(Older {
            generation: old.generation,
            key: old.key,
            mode: old.mode,
            created_ms: old.created_ms,
            secret: open(old.generation, &old.secret)?,
        })
    });
    Ok(Policy {
        secret,
        older: older.collect::<Result<_, DomainError>>()?,
        row: PolicyRow {
            secret: None,
            older: Vec::new(),
            ..row.clone()
        },
    })
}

fn leaving_key(
    snapshot: &Snapshot,
    domain: &DomainKeys,
    id: KeyId,
) -> Result<MovedKey, TransferError> {
    let row = snapshot.keys.get(&id);
    let row = row.ok_or_else(|| TransferError::Destroyed(format!("key {id}")))?;
    if let State::PendingDeletion | State::PendingReplicaDeletion = row.state {
        return Err(TransferError::Pending(id));
    }
    let materials = snapshot.materials(id).map(|row| {
        let secret = domain.unwrap(row.subject(), &row.secret)?;
        Ok(Material {
            id: row.id,
            version: row.version,
            created_ms: row.created_ms,
            rotated: row.rotated,
            secret: Secret(secret),
            import: row.import.clone(),
        })
    });
    let names = snapshot.names.get(&id).into_iter().flatten();
    let aliases = names.filter_map(|name| snapshot.aliases.get(id.place(), name));
    Ok(MovedKey {
        materials: materials.collect::<Result<_, DomainError>>()?,
        aliases: aliases.map(|row| AliasRow::clone(row)).collect(),
        row: KeyRow::clone(row),
    })
}
