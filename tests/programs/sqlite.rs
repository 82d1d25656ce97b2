//! SQLite: writers and kmsfs killed in the middle of transactions; every committed row is there, and nothing else.

use std::fs;
use std::path::Path;
use std::process::Command;

use kms_tests::process::Process;
use kms_tests::require::{self, output_of};
use kms_tests::wait;

use crate::{MODES, Volume, machine_can};

/// Writes transactions until it is killed, and says outside of the mount what was committed.
const WRITER: &str = r#"
import hashlib, os, random, sqlite3, sys, time
database, journal, ledger, name = sys.argv[1:]
connection = sqlite3.connect(database, timeout=60, isolation_level=None)
connection.execute("PRAGMA busy_timeout = 60000")
# Whoever changes the journal of a new database while another one does is told at once that it is locked: no timeout is waited for.
for more in range(600, -1, -1):
    try:
        connection.execute("PRAGMA journal_mode = " + journal).fetchone()
        break
    except sqlite3.OperationalError:
        if more == 0: raise
        time.sleep(0.1)
connection.execute("PRAGMA synchronous = FULL")
connection.execute("CREATE TABLE IF NOT EXISTS rows (writer TEXT, number INTEGER, part INTEGER, body BLOB, hash TEXT, PRIMARY KEY (writer, number, part))")
number = connection.execute("SELECT coalesce(max(number), 0) FROM rows WHERE writer = ?", (name,)).fetchone()[0]
ledger = open(ledger, "a")
random.seed(name + str(number))
while True:
    number += 1
    connection.execute("BEGIN IMMEDIATE")
    for part in range(3):
        body = os.urandom(random.choice([10, 900, 5000, 40000]))
        connection.execute("INSERT INTO rows VALUES (?, ?, ?, ?, ?)", (name, number, part, body, hashlib.sha256(body).hexdigest()))
    if number % 5 == 0:
        connection.execute("DELETE FROM rows WHERE writer = ? AND number = ?", (name, number - 3))
    connection.execute("COMMIT")
    ledger.write("%d\n" % number)
    ledger.flush()
"#;

/// Prints what is wrong with the database, given what was committed.
const CHECKER: &str = r#"
import hashlib, os, sqlite3, sys
database = sys.argv[1]
connection = sqlite3.connect(database, timeout=60)
for row in connection.execute("PRAGMA integrity_check"):
    if row[0] != "ok": print("integrity:", row[0])
found = {}
for writer, number, part, body, hash in connection.execute("SELECT * FROM rows"):
    found.setdefault((writer, number), set()).add(part)
    if hashlib.sha256(body).hexdigest() != hash: print("content of", writer, number, part)
for key, parts in found.items():
    if parts != {0, 1, 2}: print("half a transaction:", key, parts)
for ledger in sys.argv[2:]:
    name, path = ledger.split("=", 1)
    # A line that the kill cut off was not promised.
    # One that never got its turn has no ledger.
    lines = open(path).read().split("\n")[:-1] if os.path.exists(path) else []
    committed = [int(line) for line in lines]
    last = max(committed, default=0)
    for number in committed:
        # The transaction after the last one that was told may have been committed too, and have removed one.
        removed = (number + 3) % 5 == 0 and number + 3 <= last + 1
        if ((name, number) in found) == removed and not (removed and number + 3 == last + 1):
            print("row", name, number, "removed" if removed else "missing")
"#;

/// A database and its writers.
struct Rig {
    volume: Volume,
    journal: &'static str,
}

const WRITERS: [&str; 2] = ["one", "two"];

impl Rig {
    fn ledger(&self, writer: &str) -> std::path::PathBuf {
        self.volume.world.path(format!("ledger.{writer}"))
    }

    fn committed(&self) -> usize {
        WRITERS
            .iter()
            .map(|writer| fs::read_to_string(self.ledger(writer)).unwrap_or_default())
            .map(|ledger| ledger.lines().count())
            .sum()
    }

    fn database(&self) -> std::path::PathBuf {
        self.volume.point().join("database")
    }

    /// Runs the writers until so many more transactions are committed.
    fn write(&self, more: usize) -> Vec<Process> {
        let goal = self.committed() + more;
        let mut writers: Vec<Process> = WRITERS
            .iter()
            .map(|writer| {
                let mut command = Command::new("python3");
                command
                    .args(["-c", WRITER])
                    .arg(self.database())
                    .arg(self.journal)
                    .arg(self.ledger(writer))
                    .arg(writer);
                let log = self.volume.world.path(format!("writer.{writer}"));
                Process::start("writer", &mut command, &log)
            })
            .collect();
        wait::until_true("transactions", wait::PATIENCE * 2, || {
            writers.iter_mut().for_each(Process::assert_running);
            self.committed() >= goal
        });
        writers
    }

    #[track_caller]
    fn check(&self, when: &str) {
        let mut command = Command::new("python3");
        command.args(["-c", CHECKER]).arg(self.database());
        for writer in WRITERS {
            command.arg(format!("{writer}={}", self.ledger(writer).display()));
        }
        let wrong = output_of(&mut command);
        assert!(
            wrong.is_empty(),
            "{} {} {when}:\n{wrong}",
            self.volume.mode,
            self.journal
        );
    }
}

fn exercise(journal: &'static str) {
    if !machine_can() {
        return;
    }
    let rounds = if require::full() { 20 } else { 2 };
    for mode in MODES {
        let mut rig = Rig {
            volume: Volume::new(mode),
            journal,
        };
        for round in 0..rounds {
            let mut writers = rig.write(15 + 7 * round);
            writers.iter_mut().for_each(Process::kill);
            rig.check("after its writers were killed");

            let mut writers = rig.write(15 + 11 * round);
            rig.volume.kill();
            // They find themselves without a file system.
            writers.iter_mut().for_each(Process::kill);
            rig.volume.mount();
            rig.check("after kmsfs was killed");
        }
        rig.volume.remount();
        rig.check("at the end");
        rig.volume.end();
    }
}

#[test]
fn a_rollback_journal() {
    exercise("DELETE");
}

#[test]
fn a_write_ahead_log() {
    exercise("WAL");
}

/// The checker finds what is missing: without this, the tests above might not be able to fail.
#[test]
fn the_checker_finds_lost_rows_and_changed_ones() {
    let folder = tempfile::tempdir().unwrap();
    let (database, ledger) = (folder.path().join("d"), folder.path().join("l"));
    let python = |script: &str, arguments: &[&Path]| {
        output_of(Command::new("python3").args(["-c", script]).args(arguments))
    };
    python(
        r#"
import sqlite3, sys, hashlib
c = sqlite3.connect(sys.argv[1])
c.execute("CREATE TABLE rows (writer TEXT, number INTEGER, part INTEGER, body BLOB, hash TEXT)")
for number in (1, 3):
    for part in range(3):
        c.execute("INSERT INTO rows VALUES ('one', ?, ?, 'x', ?)", (number, part, hashlib.sha256(b'x').hexdigest()))
c.execute("UPDATE rows SET body = X'79', hash = 'other' WHERE number = 3 AND part = 1")
c.execute("UPDATE rows SET body = X'78' WHERE number != 3 OR part != 1")
c.execute("DELETE FROM rows WHERE number = 1 AND part = 2")
c.commit()
"#,
        &[&database],
    );
    fs::write(&ledger, "1\n3\n4\n5").unwrap();
    let ledger = format!("one={}", ledger.display());
    let wrong = python(CHECKER, &[&database, Path::new(&ledger)]);
    for part in [
        "content of one 3 1",
        "half a transaction: ('one', 1)",
        "row one 4 missing",
    ] {
        assert!(wrong.contains(part), "{part} in:\n{wrong}");
    }
    assert!(!wrong.contains("one 5"), "{wrong}");
}
