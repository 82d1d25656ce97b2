//! Where rows are kept.

use std::collections::BTreeMap;

use crate::rows::{RawRow, Table};

/// A change as storage sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RawChange {
    /// Insert or replace.
    Put(RawRow),
    /// Remove; absent is fine.
    Remove(Table, String),
}

/// A durable set of rows with a revision.
///
/// All methods are called by one writer; readers are served from memory and never come here.
pub trait Storage: Send {
    /// Every row, and the revision. Damage is an error here, never a shorter answer.
    fn load(&mut self) -> Result<(u64, Vec<RawRow>), StorageError>;

    /// Makes all `changes` durable, or none, and raises the revision by one. On return they survive
    /// a power cut. [`StorageError::Conflict`] if the revision is not `expected`.
    fn commit(&mut self, expected: u64, changes: &[RawChange]) -> Result<(), StorageError>;

    /// Leaves no bytes of removed or replaced rows in anything that belongs to the store.
    fn scrub(&mut self) -> Result<(), StorageError>;
}

/// Why the storage could not do it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StorageError {
    /// Somebody else committed: load again and evaluate again.
    #[error("the store is at revision {found}, not {expected}")]
    Conflict {
        /// What the writer had read.
        expected: u64,
        /// What the store is at.
        found: u64,
    },
    /// The store's own checks found damage.
    #[error("the store is damaged: {0}")]
    Damaged(String),
    /// The file is a store of another version, or no store.
    #[error("{0}")]
    Foreign(String),
    /// Reading or writing failed.
    #[error("the store cannot be read or written: {0}")]
    Io(String),
}

/// Rows in memory, for tests and for kms-core's own use.
#[derive(Clone, Debug, Default)]
pub struct MemoryStorage {
    revision: u64,
    rows: BTreeMap<(Table, String), Vec<u8>>,
}

impl MemoryStorage {
    /// An empty store at revision 0.
    pub fn new() -> Self {
        Self::default()
    }
}

impl Storage for MemoryStorage {
    fn load(&mut self) -> Result<(u64, Vec<RawRow>), StorageError> {
        let rows = self.rows.iter().map(|((table, id), body)| RawRow {
            table: *table,
            id: id.clone(),
            body: body.clone(),
        });
        Ok((self.revision, rows.collect()))
    }

    fn commit(&mut self, expected: u64, changes: &[RawChange]) -> Result<(), StorageError> {
        if self.revision != expected {
            return Err(StorageError::Conflict {
                expected,
                found: self.revision,
            });
        }
        for change in changes {
            match change {
                RawChange::Put(row) => {
                    self.rows
                        .insert((row.table, row.id.clone()), row.body.clone());
                }
                RawChange::Remove(table, id) => {
                    self.rows.remove(&(*table, id.clone()));
                }
            }
        }
        self.revision += 1;
        Ok(())
    }

    fn scrub(&mut self) -> Result<(), StorageError> {
        Ok(())
    }
}
