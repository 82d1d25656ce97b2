//! The catalogue on disk: one SQLite file, one writer.
//!
//! Write-ahead log with a sync at every commit; checkpoints only from this one connection; deleted
//! content is overwritten. Rows are also under a keyed MAC (`kms_core::setmac`): SQLite's own
//! checks find damage, the MAC finds edits.

mod lock;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};

use kms_core::rows::{RawRow, Table};
use kms_core::storage::{RawChange, Storage, StorageError};
use rusqlite::{Connection, OpenFlags, OptionalExtension, params};

pub use lock::{LockError, StoreLock};

/// File name of the catalogue in the store's directory.
pub const CATALOGUE: &str = "catalogue.sqlite";

/// "KMSD": tells the file from other SQLite databases.
const APPLICATION_ID: i32 = 0x4b4d_5344;
/// Version of the tables; the row encodings have their own in the meta row.
const SCHEMA_VERSION: i32 = 4;

/// A catalogue in a SQLite file.
pub struct SqliteStorage {
    connection: Connection,
    path: PathBuf,
}

impl SqliteStorage {
    /// Makes a new, empty catalogue; the file must not exist.
    ///
    /// # Errors
    /// The file exists, or cannot be written.
    pub fn create(path: &Path) -> Result<Self, StorageError> {
        // SQLite makes its files readable for everybody whom the umask allows.
        use std::os::unix::fs::OpenOptionsExt as _;
        std::fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(path)
            .map_err(|e| StorageError::Io(format!("cannot create {}: {e}", path.display())))?;
        let storage = Self::connect(path)?;
        let schema = format!(
            "PRAGMA application_id = {APPLICATION_ID};
             PRAGMA user_version = {SCHEMA_VERSION};
             CREATE TABLE revision (one INTEGER PRIMARY KEY CHECK (one = 1), value INTEGER NOT NULL) STRICT;
             INSERT INTO revision VALUES (1, 0); {}",
            tables("")
        );
        storage
            .connection
            .execute_batch(&format!("BEGIN IMMEDIATE; {schema} COMMIT;"))
            .map_err(io_error)?;
        Ok(storage)
    }

    /// Opens a catalogue and runs SQLite's integrity check over all of it.
    ///
    /// # Errors
    /// It is not there, is no catalogue of this version, or is damaged.
    pub fn open(path: &Path) -> Result<Self, StorageError> {
        let storage = Self::connect(path)?;
        let number = |name: &str| {
            storage
                .connection
                .pragma_query_value(None, name, |row| row.get::<_, i32>(0))
                .map_err(damage)
        };
        if number("application_id")? != APPLICATION_ID {
            let text = format!("{} is not a catalogue of kmsd", path.display());
            return Err(StorageError::Foreign(text));
        }
        let version = number("user_version")?;
        if (1..SCHEMA_VERSION).contains(&version) {
            // Versions 2 to 4 added tables and changed none.
            let schema = tables("IF NOT EXISTS ");
            storage
                .connection
                .execute_batch(&format!(
                    "BEGIN IMMEDIATE; {schema} PRAGMA user_version = {SCHEMA_VERSION}; COMMIT;"
                ))
                .map_err(io_error)?;
        } else if version != SCHEMA_VERSION {
            return Err(StorageError::Foreign(format!(
                "{} has schema version {version}, this kmsd reads version {SCHEMA_VERSION}",
                path.display()
            )));
        }
        let verdict: String = storage
            .connection
            .pragma_query_value(None, "integrity_check", |row| row.get(0))
            .map_err(damage)?;
        if verdict != "ok" {
            return Err(StorageError::Damaged(format!(
                "{}: {verdict}",
                path.display()
            )));
        }
        Ok(storage)
    }

    /// Moves everything into the main file and closes it, so that the one file is the catalogue.
    ///
    /// # Errors
    /// Writing failed.
    pub fn close(self) -> Result<(), StorageError> {
        self.checkpoint()?;
        self.connection
            .close()
            .map_err(|(_, error)| io_error(error))
    }

    fn connect(path: &Path) -> Result<Self, StorageError> {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(path, flags).map_err(io_error)?;
        connection
            .execute_batch(
                "PRAGMA locking_mode = EXCLUSIVE;
                 PRAGMA journal_mode = WAL;
                 PRAGMA synchronous = FULL;
                 PRAGMA secure_delete = ON;
                 PRAGMA cell_size_check = ON;
                 PRAGMA trusted_schema = OFF;
                 PRAGMA foreign_keys = ON;
                 PRAGMA temp_store = MEMORY;",
            )
            .map_err(damage)?;
        Ok(Self {
            connection,
            path: path.to_owned(),
        })
    }

    fn checkpoint(&self) -> Result<(), StorageError> {
        let busy: i64 = self
            .connection
            .query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get(0))
            .map_err(io_error)?;
        if busy != 0 {
            let text = format!("{}: somebody else reads it", self.path.display());
            return Err(StorageError::Io(text));
        }
        Ok(())
    }
}

impl Storage for SqliteStorage {
    fn load(&mut self) -> Result<(u64, Vec<RawRow>), StorageError> {
        let transaction = self.connection.transaction().map_err(io_error)?;
        let revision: i64 = transaction
            .query_row("SELECT value FROM revision", [], |row| row.get(0))
            .map_err(damage)?;
        let mut rows = Vec::new();
        for table in Table::ALL {
            let mut query = transaction
                .prepare(&format!(
                    "SELECT id, body FROM {} ORDER BY id",
                    table.name()
                ))
                .map_err(damage)?;
            let found = query
                .query_map([], |row| {
                    Ok(RawRow {
                        table,
                        id: row.get(0)?,
                        body: row.get(1)?,
                    })
                })
                .map_err(damage)?;
            for row in found {
                rows.push(row.map_err(damage)?);
            }
        }
        let revision = u64::try_from(revision)
            .map_err(|_| StorageError::Damaged("the revision is negative".to_owned()))?;
        Ok((revision, rows))
    }

    fn commit(&mut self, expected: u64, changes: &[RawChange]) -> Result<(), StorageError> {
        let transaction = self
            .connection
            .transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)
            .map_err(io_error)?;
        let found: Option<i64> = transaction
            .query_row("SELECT value FROM revision", [], |row| row.get(0))
            .optional()
            .map_err(io_error)?;
        let found = found
            .and_then(|value| u64::try_from(value).ok())
            .unwrap_or(0);
        if found != expected {
            return Err(StorageError::Conflict { expected, found });
        }
        for change in changes {
            let done = match change {
                RawChange::Put(row) => transaction
                    .prepare_cached(&format!(
                        "INSERT INTO {} (id, body) VALUES (?1, ?2)
                         ON CONFLICT (id) DO UPDATE SET body = excluded.body",
                        row.table.name()
                    ))
                    .and_then(|mut put| put.execute(params![row.id, row.body])),
                RawChange::Remove(table, id) => transaction
                    .prepare_cached(&format!("DELETE FROM {} WHERE id = ?1", table.name()))
                    .and_then(|mut remove| remove.execute(params![id])),
            };
            done.map_err(io_error)?;
        }
        transaction
            .execute("UPDATE revision SET value = value + 1", [])
            .map_err(io_error)?;
        transaction.commit().map_err(io_error)
    }

    fn scrub(&mut self) -> Result<(), StorageError> {
        // Everything into the main file; the main file written anew without free pages; that into
        // the main file as well. The log ends empty each time.
        self.checkpoint()?;
        self.connection.execute_batch("VACUUM").map_err(io_error)?;
        self.checkpoint()
    }
}

/// The statements that make the tables.
fn tables(guard: &str) -> String {
    let table = |table: Table| {
        format!(
            "CREATE TABLE {guard}{} (id TEXT PRIMARY KEY, body BLOB NOT NULL) STRICT, WITHOUT ROWID;",
            table.name()
        )
    };
    Table::ALL.into_iter().map(table).collect()
}

fn io_error(error: rusqlite::Error) -> StorageError {
    use rusqlite::ErrorCode as E;
    match error.sqlite_error_code() {
        Some(E::DatabaseCorrupt | E::NotADatabase) => StorageError::Damaged(error.to_string()),
        _ => StorageError::Io(error.to_string()),
    }
}

/// For statements that fail on a sound file only if the file is unreadable.
fn damage(error: rusqlite::Error) -> StorageError {
    use rusqlite::ErrorCode as E;
    match error.sqlite_error_code() {
        Some(E::SystemIoFailure | E::CannotOpen | E::PermissionDenied | E::DatabaseBusy) => {
            StorageError::Io(error.to_string())
        }
        _ => StorageError::Damaged(error.to_string()),
    }
}
