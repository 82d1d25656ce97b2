//! The keys of one volume on their way to another host: sealed to that host's recovery key ([`crate::sealed`]).
//!
//! In it are the volume, its policies with every generation of their secrets, and the keys that these hang on with every
//! version of their material, key policy, tags and names. Grants stay behind: the users of the other host are others.
//!
//! Ids stay, and so do account and Region, which are part of every ciphertext and wrap: both hosts must have the same.

use std::collections::BTreeSet;

use data_encoding::BASE64;
use kms_api::KeySpec;
use kms_crypto::{Key, RecoveryPrivateKey, RecoveryPublicKey, constant_time_eq};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::clock::{DAY_MS, Due, Now};
use crate::domain::{DomainError, DomainKeys, Subject};
use crate::ids::{KeyId, MaterialId};
use crate::kms::{KMSFS_ALIAS, default_policy, due_at, material_id_of, material_name};
use crate::rows::{
    AliasRow, Bytes, Change, Imported as ImportedRow, KeyRow, Manager, MaterialRow, OldGeneration,
    PolicyRow, PolicyUseRow, Rotation, RotationKind, Row, State, VolumeRow, policy_id,
};
use crate::sealed::{self, Kind, SealedError};
use crate::snapshot::Snapshot;

const KIND: Kind = Kind {
    magic: b"KMSDVOL1",
    info: b"kmsd volume transfer 1",
    name: "a file with the keys of a volume",
};

/// What the file says about itself to everybody.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Head {
    /// The volume.
    pub volume_id: String,
    /// Its label.
    pub label: String,
    /// Twelve digits.
    pub account: String,
    /// Region.
    pub region: String,
    /// Name of the store that it is from.
    pub store_id: String,
    /// Wall clock, milliseconds.
    pub created_ms: i64,
    /// Recovery key that opens it, public half.
    pub recipient: Bytes,
    /// Ids of the keys in it.
    pub keys: Vec<KeyId>,
    /// Policies in it.
    pub policies: u64,
}

/// What an import did.
#[derive(Clone, Debug)]
pub struct Imported {
    /// What the file says about itself.
    pub head: Head,
    /// Keys that were not there.
    pub keys: u64,
    /// Policies that were not there.
    pub policies: u64,
    /// Names that another key has here.
    pub aliases_taken: Vec<String>,
    /// Keys that kmsd managed there for kmsfs and that are the administrator's here, because kmsfs has a key of its own here.
    pub now_customer_managed: Vec<KeyId>,
}

/// Keys cannot be moved.
#[derive(Debug, thiserror::Error)]
pub enum TransferError {
    /// The file is none, or does not open.
    #[error(transparent)]
    Sealed(#[from] SealedError),
    /// A secret of this store does not open.
    #[error(transparent)]
    Domain(#[from] DomainError),
    /// There is no such volume.
    #[error("there is no volume {0} in this store")]
    NoVolume(String),
    /// A key waits for its deletion.
    #[error("key {0} waits for its deletion")]
    Pending(KeyId),
    /// Account or Region differ.
    #[error(
        "the volume is of account {account} in Region {region}; both are part of its ciphertexts"
    )]
    OtherScope {
        /// Account of the other host.
        account: String,
        /// Region of the other host.
        region: String,
    },
    /// It was destroyed here.
    #[error("{0} was destroyed in this store, and stays destroyed")]
    Destroyed(String),
    /// It is here, and is something else.
    #[error("{0} is in this store and differs")]
    Differs(String),
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Content {
    volume: VolumeRow,
    policies: Vec<Policy>,
    keys: Vec<MovedKey>,
    uses: Vec<PolicyUseRow>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Policy {
    /// Without its secrets.
    row: PolicyRow,
    /// That of the current generation.
    secret: Option<Secret>,
    older: Vec<Older>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Older {
    generation: u32,
    key: KeyId,
    mode: crate::rows::Mode,
    created_ms: i64,
    secret: Secret,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct MovedKey {
    row: KeyRow,
    materials: Vec<Material>,
    aliases: Vec<AliasRow>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Material {
    id: MaterialId,
    version: u32,
    created_ms: i64,
    rotated: Option<RotationKind>,
    secret: Secret,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    import: Option<ImportedRow>,
}

/// 32 bytes, base64 in the file.
struct Secret(Key<32>);

impl Serialize for Secret {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let text = Zeroizing::new(BASE64.encode(self.0.expose()));
        to.serialize_str(&text)
    }
}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = Zeroizing::new(String::deserialize(from)?);
        let bytes = BASE64.decode(text.as_bytes()).map(Zeroizing::new).ok();
        bytes
            .and_then(|bytes| Key::from_slice(&bytes).ok())
            .map(Self)
            .ok_or_else(|| serde::de::Error::custom("not 32 bytes in base64"))
    }
}

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

fn leaving(row: &PolicyRow, domain: &DomainKeys) -> Result<Policy, TransferError> {
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

/// Reads what a file says about itself, and whether it is whole.
///
/// # Errors
/// It is none, or damaged.
pub fn inspect(file: &[u8]) -> Result<Head, TransferError> {
    let json = sealed::head(KIND, file)?;
    let head = serde_json::from_slice(json);
    Ok(head.map_err(|_| SealedError::Damaged("its head cannot be read"))?)
}

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
    let mut row = key.row;
    if row.manager == Manager::Service {
        let taken = snapshot.aliases.get(id.place(), KMSFS_ALIAS).is_some() || changes.iter().any(
            |change| matches!(change, Change::Put(Row::Alias(alias)) if alias.name == KMSFS_ALIAS),
        );
        let named = key
            .aliases
            .iter()
            .position(|alias| alias.name == KMSFS_ALIAS);
        match (taken, named) {
            // kmsfs has a key of its own here: nobody could change the policy of a second one, nor rename or delete it.
            (true, named) => {
                named.map(|at| key.aliases.remove(at));
                row.manager = Manager::Customer;
                row.policy = default_policy(&snapshot.scope_of(id.place()));
                imported.now_customer_managed.push(id);
            }
            (false, None) => changes.push(Change::Put(Row::Alias(AliasRow {
                name: KMSFS_ALIAS.to_owned(),
                key: id,
                created_ms: now.wall_ms,
                updated_ms: now.wall_ms,
            }))),
            (false, Some(_)) => {}
        }
    }
    for alias in key.aliases {
        if snapshot.aliases.get(id.place(), &alias.name).is_some() {
            imported.aliases_taken.push(alias.name);
        } else {
            changes.push(Change::Put(Row::Alias(alias)));
        }
    }
    // The elapsed time of the other host means nothing here.
    let rotation = row.rotation.map(|rotation| Rotation {
        next: Due::after(now, u64::from(rotation.period_days) * DAY_MS),
        ..rotation
    });
    changes.push(Change::Put(Row::Key(Box::new(KeyRow { rotation, ..row }))));
    imported.keys += 1;
    Ok(())
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
