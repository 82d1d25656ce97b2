//! A database on the mount while the power goes: what was committed is there, and the database is whole.

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use kms_tests::world::World;

use crate::check::Found;
use crate::lower::Kind;
use crate::power_cut::Rig;
use crate::raw::Cut;
use crate::rig::{self, Mode};

/// Commits one transaction after another, and says so after each. "Extra" syncs the folder when the rollback journal
/// is gone, which is what commits with that.
const WRITER: &str = "
import random, sqlite3, sys
path, journal, seed = sys.argv[1], sys.argv[2], int(sys.argv[3])
random.seed(seed)
database = sqlite3.connect(path, isolation_level=None)
database.execute(f'pragma journal_mode={journal}')
database.execute('pragma synchronous=extra')
database.execute('pragma wal_autocheckpoint=50')
database.execute('create table if not exists log (number integer primary key, content blob)')
number = database.execute('select coalesce(max(number), 0) from log').fetchone()[0]
while True:
    database.execute('begin immediate')
    for _ in range(random.randrange(1, 5)):
        number += 1
        content = random.randbytes(random.randrange(9000))
        database.execute('insert into log values (?, ?)', (number, content))
    if random.random() < 0.3:
        database.execute('delete from log where number % 7 = 3 and number < ?', (number - 20,))
        database.execute('update log set content = zeroblob(5000) where number = ?', (number - 5,))
    database.execute('commit')
    print(number, flush=True)
";

/// Prints the last number, after the integrity check.
const READER: &str = "
import sqlite3, sys
database = sqlite3.connect(sys.argv[1])
said = [row[0] for row in database.execute('pragma integrity_check')]
if said != ['ok']:
    sys.exit('integrity_check: ' + '; '.join(said))
print(database.execute('select coalesce(max(number), 0) from log').fetchone()[0])
";

/// One power cut under a writer; the number of the last row afterwards.
fn cut(rig: &mut Rig, journal: &str) -> u64 {
    let folder = rig.point.join("databases");
    fs::create_dir_all(&folder).unwrap();
    let path = folder.join(format!("{journal}.db"));
    let mut writer = Command::new("python3")
        .args(["-c", WRITER])
        .arg(&path)
        .arg(journal)
        .arg(rig.random.below(1 << 30).to_string())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let output = BufReader::new(writer.stdout.take().unwrap());
    let goal = 1 + rig.random.below(60) as usize;
    let lines: Vec<String> = output.lines().take(goal).map(Result::unwrap).collect();
    assert!(lines.len() == goal, "the writer ended by itself");
    let owed: u64 = lines[goal - 1].parse().unwrap();
    // It goes on writing; some moment of that.
    thread::sleep(Duration::from_micros(rig.random.below(5_000)));
    rig.lower.cut(Cut::Now);
    writer.kill().unwrap();
    writer.wait().unwrap();
    rig.restart();
    rig.check(&[])
        .unwrap_or_else(|wrong| panic!("{}", wrong.join("\n")));
    let mut reader = Command::new("python3");
    let said = kms_tests::require::output_of(reader.args(["-c", READER]).arg(&path));
    let found: u64 = said.trim().parse().unwrap();
    assert!(
        found >= owed,
        "{journal}: rows up to {owed} were committed, but the last one is {found}"
    );
    found
}

fn databases(kind: Kind, mode: Mode, points: u64) {
    if !crate::machine_can() {
        return;
    }
    let world = World::start();
    world.key("alias/crash");
    let images = rig::image_folder();
    let mut rig = Rig::new(&world, images.path(), kind, mode, crate::seed());
    let start = Instant::now();
    for point in 0..points {
        let journal = ["wal", "delete"][point as usize % 2];
        let rows = cut(&mut rig, journal);
        // The images are small.
        if rows > 2_000 {
            fs::remove_dir_all(rig.point.join("databases")).unwrap();
        }
    }
    rig::report(
        "power cut under SQLite",
        kind.name(),
        mode,
        points,
        Found::default(),
        start,
    );
}

#[test]
fn sqlite_on_ext4() {
    for mode in Mode::ALL {
        databases(Kind::Ext4, mode, crate::points(12, 110));
    }
}

#[test]
fn sqlite_on_xfs() {
    for mode in Mode::ALL {
        databases(Kind::Xfs, mode, crate::points(12, 110));
    }
}
