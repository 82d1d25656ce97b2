//! One suite over both storages, then what only a file can show.

use super::*;
use kms_core::storage::MemoryStorage;

fn row(table: Table, id: &str, body: &str) -> RawRow {
    RawRow {
        table,
        id: id.into(),
        body: body.into(),
    }
}

fn put(table: Table, id: &str, body: &str) -> RawChange {
    RawChange::Put(row(table, id, body))
}

fn suite(storage: &mut dyn Storage) {
    assert_eq!(storage.load().unwrap(), (0, vec![]));

    let first = [
        put(Table::Key, "b", "1"),
        put(Table::Alias, "a", "2"),
        put(Table::Key, "a", "3"),
    ];
    storage.commit(0, &first).unwrap();
    let rows = vec![
        row(Table::Key, "a", "3"),
        row(Table::Key, "b", "1"),
        row(Table::Alias, "a", "2"),
    ];
    assert_eq!(storage.load().unwrap(), (1, rows.clone()));

    // A writer with an old revision changes nothing.
    let late = storage
        .commit(0, &[RawChange::Remove(Table::Key, "a".into())])
        .unwrap_err();
    assert!(matches!(
        late,
        StorageError::Conflict {
            expected: 0,
            found: 1
        }
    ));
    assert_eq!(storage.load().unwrap(), (1, rows));

    let second = [
        put(Table::Key, "a", "replaced"),
        RawChange::Remove(Table::Key, "b".into()),
        RawChange::Remove(Table::Key, "never was".into()),
    ];
    storage.commit(1, &second).unwrap();
    let rows = vec![
        row(Table::Key, "a", "replaced"),
        row(Table::Alias, "a", "2"),
    ];
    assert_eq!(storage.load().unwrap(), (2, rows.clone()));

    storage.scrub().unwrap();
    storage.commit(2, &[]).unwrap();
    assert_eq!(storage.load().unwrap(), (3, rows));
}

#[test]
fn memory_does_what_a_storage_does() {
    suite(&mut MemoryStorage::new());
}

#[test]
fn sqlite_does_what_a_storage_does_and_keeps_it() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(CATALOGUE);
    let mut storage = SqliteStorage::create(&path).unwrap();
    suite(&mut storage);
    let rows = storage.load().unwrap();
    drop(storage);
    assert_eq!(SqliteStorage::open(&path).unwrap().load().unwrap(), rows);
}

#[test]
fn an_existing_file_is_never_made_anew() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(CATALOGUE);
    drop(SqliteStorage::create(&path).unwrap());
    assert!(matches!(
        SqliteStorage::create(&path),
        Err(StorageError::Io(_))
    ));
}

#[test]
fn other_databases_and_other_versions_are_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("other.sqlite");
    Connection::open(&path)
        .unwrap()
        .execute_batch("CREATE TABLE t (x)")
        .unwrap();
    let error = SqliteStorage::open(&path).err().unwrap();
    assert!(matches!(&error, StorageError::Foreign(text) if text.contains("not a catalogue")));

    let path = dir.path().join(CATALOGUE);
    SqliteStorage::create(&path).unwrap().close().unwrap();
    Connection::open(&path)
        .unwrap()
        .pragma_update(None, "user_version", 99)
        .unwrap();
    let error = SqliteStorage::open(&path).err().unwrap();
    assert!(matches!(&error, StorageError::Foreign(text) if text.contains("version 99")));
}

#[test]
fn damage_is_an_error_and_never_a_shorter_answer() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(CATALOGUE);
    let mut storage = SqliteStorage::create(&path).unwrap();
    let many: Vec<_> = (0..400)
        .map(|n| put(Table::Key, &format!("{n:04}"), &"x".repeat(200)))
        .collect();
    storage.commit(0, &many).unwrap();
    storage.close().unwrap();
    let sound = std::fs::read(&path).unwrap();

    let mut noticed = 0;
    for page in 0..sound.len() / 4096 {
        let mut damaged = sound.clone();
        damaged[page * 4096..][..200].fill(0xa5);
        std::fs::write(&path, &damaged).unwrap();
        match SqliteStorage::open(&path).and_then(|mut storage| storage.load()) {
            // Bytes inside a row are the MAC's business.
            Ok((_, rows)) => assert_eq!(rows.len(), 400),
            Err(_) => noticed += 1,
        }
    }
    assert!(noticed > sound.len() / 4096 / 2, "{noticed}");

    std::fs::write(&path, &sound[..sound.len() / 2]).unwrap();
    assert!(SqliteStorage::open(&path).is_err());
    std::fs::write(
        &path,
        b"not a database at all, but long enough to look like one",
    )
    .unwrap();
    assert!(SqliteStorage::open(&path).is_err());
}

#[test]
fn after_a_scrub_no_file_holds_removed_or_replaced_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let mut storage = SqliteStorage::create(&dir.path().join(CATALOGUE)).unwrap();
    let secret = |n: usize| format!("{n:04}-SECRET-OF-A-REMOVED-ROW-{}", "y".repeat(n % 3000));
    let rows: Vec<_> = (0..300)
        .map(|n| put(Table::Material, &n.to_string(), &secret(n)))
        .collect();
    storage.commit(0, &rows).unwrap();
    let gone: Vec<_> = (0..150)
        .map(|n| RawChange::Remove(Table::Material, n.to_string()))
        .chain((150..300).map(|n| put(Table::Material, &n.to_string(), "harmless")))
        .collect();
    storage.commit(1, &gone).unwrap();
    storage.scrub().unwrap();
    for entry in std::fs::read_dir(dir.path()).unwrap() {
        let path = entry.unwrap().path();
        let bytes = std::fs::read(&path).unwrap();
        let found = bytes.windows(13).filter(|w| w == b"SECRET-OF-A-R").count();
        assert_eq!(found, 0, "{}", path.display());
    }
    assert_eq!(storage.load().unwrap().1.len(), 150);
}

#[test]
fn a_second_holder_is_told_who_has_the_store() {
    let dir = tempfile::tempdir().unwrap();
    let held = StoreLock::acquire(dir.path()).unwrap();
    let text = StoreLock::acquire(dir.path()).unwrap_err().to_string();
    assert!(
        text.contains(&format!("in use by process {}", std::process::id())),
        "{text}"
    );
    drop(held);
    StoreLock::acquire(dir.path()).unwrap();
}

#[test]
fn a_catalogue_of_an_earlier_version_gains_the_tables_it_lacks() {
    let later = |first| Table::ALL.into_iter().skip_while(move |t| *t != first);
    let lacks: [(i32, Vec<Table>); 2] = [
        (1, later(Table::Grant).collect()),
        (3, vec![Table::AccessKey]),
    ];
    for (version, tables) in lacks {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(CATALOGUE);
        let mut storage = SqliteStorage::create(&path).unwrap();
        storage.commit(0, &[put(Table::Key, "a", "1")]).unwrap();
        for table in &tables {
            let drop = format!("DROP TABLE {}", table.name());
            storage.connection.execute_batch(&drop).unwrap();
        }
        storage
            .connection
            .pragma_update(None, "user_version", version)
            .unwrap();
        storage.close().unwrap();

        let mut storage = SqliteStorage::open(&path).unwrap();
        assert_eq!(
            storage.load().unwrap(),
            (1, vec![row(Table::Key, "a", "1")])
        );
        let new: Vec<_> = tables.iter().map(|table| put(*table, "g", "2")).collect();
        storage.commit(1, &new).unwrap();
        drop(storage);
        let mut storage = SqliteStorage::open(&path).unwrap();
        assert_eq!(storage.load().unwrap().0, 2);
    }
}
