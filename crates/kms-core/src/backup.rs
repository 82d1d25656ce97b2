//! The backup of a store: its rows, sealed to the store's recovery key ([`crate::sealed`]).
//!
//! Each row is its table (1 byte of length, name), its id (4 bytes of length, text) and its body (4 bytes of length, bytes).
//! Rows that only mean something to the host are not in it: the sealer's enrolment, the wraps of domain keys for the host,
//! leases, requests that wait for approval, the outbox, and the set-MAC, which is made anew.

use std::sync::Arc;

use kms_crypto::{CryptoError, RecoveryPrivateKey, RecoveryPublicKey};
use serde::{Deserialize, Serialize};

use crate::domain::{DomainError, DomainKeys, Subject};
use crate::rows::{AccessKeyRow, Bytes, Change, RawRow, Recipient, Row, RowError, Table};
use crate::sealed::{self, CUT, Kind, SealedError, length, take};
use crate::snapshot::Snapshot;

const KIND: Kind = Kind {
    magic: b"KMSDBKP1",
    info: b"kmsd store backup 1",
    name: "a backup of a store",
};

/// What a backup says about itself to everybody.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Head {
    /// Name of the store.
    pub store_id: String,
    /// Twelve digits.
    pub account: String,
    /// Region.
    pub region: String,
    /// Wall clock of the backup, milliseconds.
    pub created_ms: i64,
    /// Revision of the store.
    pub revision: u64,
    /// Deletion epoch of the store.
    pub deletion_epoch: u64,
    /// Recovery key that opens it, public half.
    pub recovery_public: Bytes,
    /// Version of kmsd that made it.
    pub version: String,
}

/// A backup cannot be made or read.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// The file is none, or does not open.
    #[error(transparent)]
    Sealed(#[from] SealedError),
    /// A row cannot be read.
    #[error(transparent)]
    Row(#[from] RowError),
}

/// Makes a backup of `rows`, the whole store of `snapshot`.
///
/// # Errors
/// A row cannot be read, or cryptography failed.
pub fn seal(
    rows: &[RawRow],
    snapshot: &Snapshot,
    created_ms: i64,
    version: &str,
) -> Result<Vec<u8>, BackupError> {
    let meta = snapshot.meta();
    let head = Head {
        store_id: meta.store_id.clone(),
        account: meta.scope.account.clone(),
        region: meta.scope.region.clone(),
        created_ms,
        revision: meta.revision,
        deletion_epoch: meta.deletion_epoch,
        recovery_public: meta.recovery_public.clone(),
        version: version.to_owned(),
    };
    let public: [u8; 32] = (meta.recovery_public.0.as_slice())
        .try_into()
        .map_err(|_| SealedError::Crypto(CryptoError::PublicKey))?;
    let json = serde_json::to_vec(&head).map_err(|_| SealedError::Damaged("its head"))?;
    let public = RecoveryPublicKey::from_bytes(public);
    Ok(sealed::seal(KIND, &json, &frame(rows)?, &public)?)
}

/// Checks that a file is whole, without any key.
///
/// # Errors
/// It is no backup, or is damaged.
pub fn inspect(file: &[u8]) -> Result<Head, BackupError> {
    let json = sealed::head(KIND, file)?;
    let head = serde_json::from_slice(json);
    Ok(head.map_err(|_| SealedError::Damaged("its head cannot be read"))?)
}

/// Opens a backup: its rows, to which a host adds its own.
///
/// # Errors
/// It is no backup, is damaged, or is for another recovery key.
pub fn open(file: &[u8], key: &RecoveryPrivateKey) -> Result<(Head, Vec<RawRow>), BackupError> {
    let head = inspect(file)?;
    let plain = sealed::open(KIND, file, key)?;
    Ok((head, unframe(&plain)?))
}

/// Opens every secret of a store once; how many there are.
///
/// # Errors
/// One does not open.
pub fn check_secrets(snapshot: &Snapshot, domain: &DomainKeys) -> Result<u64, DomainError> {
    let mut count = 0;
    for row in snapshot.materials.values().flat_map(|rows| rows.values()) {
        domain.unwrap_bytes(row.subject(), &row.secret)?;
        count += 1;
    }
    for row in snapshot.policies() {
        let current = row.secret.iter().map(|secret| (row.generation, secret));
        let older = row.older.iter().map(|old| (old.generation, &old.secret));
        for (generation, secret) in current.chain(older) {
            let subject = Subject::PolicySecret(&row.volume, &row.id, generation);
            domain.unwrap(subject, secret)?;
            count += 1;
        }
    }
    for row in snapshot.access_keys.values() {
        domain.unwrap(Subject::AccessKey(&row.id, &row.principal), &row.secret)?;
        count += 1;
    }
    Ok(count)
}

/// An access key of a backup that is not known to stand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DoubtedAccessKey {
    /// As it was in the backup.
    pub row: Arc<AccessKeyRow>,
    /// It is known that it was deleted since; else nobody knows, or it was disabled.
    pub deleted: bool,
}

/// The access keys of a backup that are enabled in it and not known to stand, and the changes with which they are not accepted any
/// more. What a store says that the backup was made of, and that is still at hand, is known.
pub fn doubted_access_keys(
    backup: &Snapshot,
    live: Option<&Snapshot>,
) -> (Vec<DoubtedAccessKey>, Vec<Change>) {
    let mut doubted = Vec::new();
    let mut changes = Vec::new();
    for row in backup.access_keys.values() {
        let known = live.map(|live| live.access_keys.get(&row.id));
        let deleted = matches!(known, Some(None));
        let stands = matches!(known, Some(Some(known)) if known.enabled);
        if stands || !(row.enabled || deleted) {
            continue;
        }
        changes.push(match deleted {
            true => Change::Remove(Table::AccessKey, row.id.clone()),
            false => Change::Put(Row::AccessKey(Box::new(AccessKeyRow {
                enabled: false,
                ..AccessKeyRow::clone(row)
            }))),
        });
        let row = Arc::clone(row);
        doubted.push(DoubtedAccessKey { row, deleted });
    }
    (doubted, changes)
}

/// The rows that go into a backup, one after the other.
fn frame(rows: &[RawRow]) -> Result<Vec<u8>, BackupError> {
    let mut out = Vec::new();
    for row in rows {
        let body = match row.table {
            Table::Enrollment | Table::Mac | Table::Lease | Table::Approval | Table::Outbox => {
                continue;
            }
            Table::Domain => without_host(row)?,
            _ => row.body.clone(),
        };
        let name = row.table.name().as_bytes();
        out.push(u8::try_from(name.len()).unwrap_or(u8::MAX));
        out.extend_from_slice(name);
        out.extend_from_slice(&length(row.id.len()).to_be_bytes());
        out.extend_from_slice(row.id.as_bytes());
        out.extend_from_slice(&length(body.len()).to_be_bytes());
        out.extend_from_slice(&body);
    }
    Ok(out)
}

/// A domain key's row with the wraps for recovery keys only.
fn without_host(row: &RawRow) -> Result<Vec<u8>, BackupError> {
    match Row::decode(row)? {
        Row::Domain(mut domain) => {
            domain
                .wraps
                .retain(|wrap| matches!(wrap.recipient, Recipient::Recovery(_)));
            Ok(Row::Domain(domain).encode()?.body)
        }
        _ => Ok(row.body.clone()),
    }
}

fn unframe(mut plain: &[u8]) -> Result<Vec<RawRow>, BackupError> {
    let mut rows = Vec::new();
    while let Some((&size, rest)) = plain.split_first() {
        let (name, rest) = rest.split_at_checked(usize::from(size)).ok_or(CUT)?;
        let table = Table::ALL
            .into_iter()
            .find(|table| table.name().as_bytes() == name)
            .ok_or(SealedError::Damaged(
                "it has a table that this kmsd does not know; a newer kmsd made it",
            ))?;
        let (id, rest) = field(rest)?;
        let (body, rest) = field(rest)?;
        let id = String::from_utf8(id.to_vec())
            .map_err(|_| SealedError::Damaged("the id of a row is no text"))?;
        rows.push(RawRow {
            table,
            id,
            body: body.to_vec(),
        });
        plain = rest;
    }
    Ok(rows)
}

fn field(bytes: &[u8]) -> Result<(&[u8], &[u8]), SealedError> {
    let (size, rest) = take::<4>(bytes)?;
    let size = usize::try_from(u32::from_be_bytes(*size)).unwrap_or(usize::MAX);
    rest.split_at_checked(size).ok_or(CUT)
}
