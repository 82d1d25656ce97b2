//! The log on real files.

use std::path::Path;
use std::sync::mpsc;

use kms_api::ErrorCode;
use kms_core::audit::tree::{leaf_hash, root_of};
use kms_core::audit::{Chain, Failure, Kind, Line, compose};
use kms_core::rows::{AuditHead, Hash};

use super::*;

fn record(name: &str) -> Record {
    service(name)
}

/// Whatever room the disk of the tests has.
fn config(directory: impl Into<std::path::PathBuf>) -> AuditConfig {
    AuditConfig {
        warn_percent: [101, 101],
        min_free_bytes: 0,
        ..AuditConfig::new(directory)
    }
}

fn open(directory: &Path, head: Option<AuditHead>) -> Result<AuditLog, AuditError> {
    AuditLog::open(config(directory), head).map(|start| start.log)
}

fn append(log: &AuditLog, names: &[&str]) {
    for name in names {
        log.push(record(name), None, false);
    }
    let ticket = log.push(record("Last"), None, true);
    log.wait_blocking(ticket).unwrap();
}

/// Every line, with its place checked against the line before.
fn lines(directory: &Path) -> Vec<Line> {
    let mut chain: Option<Chain> = None;
    let mut all = Vec::new();
    for file in list(directory).unwrap() {
        let text = std::fs::read(&file.path).unwrap();
        assert!(text.is_empty() || text.ends_with(b"\n"));
        for (n, bytes) in text.split(|byte| *byte == b'\n').enumerate() {
            if bytes.is_empty() {
                continue;
            }
            let line = Line::parse(bytes).unwrap();
            let chain = chain.get_or_insert_with(|| Chain::at(line.seq, line.prev));
            assert_eq!((line.seq, line.prev), (chain.size(), chain.value()));
            assert!(n > 0 || line.seq == file.first);
            chain.advance(bytes);
            all.push(line);
        }
    }
    all
}

fn names(directory: &Path) -> Vec<String> {
    lines(directory)
        .into_iter()
        .map(|line| line.record.operation)
        .collect()
}

fn only_file(directory: &Path) -> std::path::PathBuf {
    let files = list(directory).unwrap();
    assert_eq!(files.len(), 1);
    files[0].path.clone()
}

fn edit(path: &Path, edit: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = std::fs::read(path).unwrap();
    edit(&mut bytes);
    std::fs::write(path, bytes).unwrap();
}

/// Changes a letter of the record at `seq`.
fn change(path: &Path, seq: usize) {
    edit(path, |bytes| {
        let start = bytes
            .split_inclusive(|byte| *byte == b'\n')
            .take(seq)
            .map(<[u8]>::len)
            .sum::<usize>();
        let at = start
            + bytes[start..]
                .windows(9)
                .position(|w| w == b"operation")
                .unwrap()
            + 12;
        bytes[at] ^= 1;
    });
}

#[test]
fn records_are_on_disk_in_order_and_the_log_goes_on_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path(), None).unwrap();
    append(&log, &["A", "B"]);
    let (_, head) = log.head();
    assert_eq!(head.size, 3);
    log.close();
    let log = open(dir.path(), Some(head)).unwrap();
    append(&log, &["C"]);
    assert_eq!(names(dir.path()), ["A", "B", "Last", "C", "Last"]);
    let durable = log.durable();
    assert_eq!(durable.edge().size(), 5);
    let leaves: Vec<_> = std::fs::read(only_file(dir.path()))
        .unwrap()
        .split(|byte| *byte == b'\n')
        .filter(|line| !line.is_empty())
        .map(kms_core::audit::tree::leaf_hash)
        .collect();
    assert_eq!(
        durable.edge().root(),
        kms_core::audit::tree::root_of(&leaves)
    );
    log.close();
}

#[test]
fn many_who_wait_are_answered_and_every_record_is_there_once() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path(), None).unwrap();
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let log = &log;
            scope.spawn(move || {
                for n in 0..50 {
                    let ticket = log.push(record(&format!("T{thread}-{n:02}")), None, n % 5 == 0);
                    log.wait_blocking(ticket).unwrap();
                }
            });
        }
    });
    let all = names(dir.path());
    assert_eq!(all.len(), 400);
    for thread in 0..8 {
        let own: Vec<_> = all
            .iter()
            .filter(|name| name.starts_with(&format!("T{thread}-")))
            .collect();
        assert!(own.is_sorted() && own.len() == 50, "{own:?}");
    }
    log.close();
}

#[test]
fn records_without_hurry_are_written_within_the_delay_and_at_the_end() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path(), None).unwrap();
    let ticket = log.push(record("Data"), None, false);
    log.wait_blocking(ticket).unwrap();
    assert_eq!(names(dir.path()), ["Data"]);
    log.push(record("Data"), None, false);
    log.close();
    assert_eq!(names(dir.path()).len(), 2);
}

/// What is done to a file of the log.
type Damage = fn(&Path);

#[test]
fn a_log_that_is_not_the_catalogues_is_refused_and_the_fault_named() {
    type Expected = fn(&AuditError) -> bool;
    let cases: [(&str, Damage, Expected); 6] = [
        (
            "the tail is cut",
            |path| edit(path, |bytes| bytes.truncate(bytes.len() / 2)),
            |e| matches!(e, AuditError::Damaged { .. } | AuditError::Missing { .. }),
        ),
        (
            "the last record is cut",
            |path| {
                edit(path, |bytes| {
                    bytes.pop();
                    let end = bytes.iter().rposition(|byte| *byte == b'\n').unwrap();
                    bytes.truncate(end + 1);
                });
            },
            |e| {
                matches!(
                    e,
                    AuditError::Missing {
                        found: 3,
                        expected: 4,
                        ..
                    }
                )
            },
        ),
        (
            "the file is deleted",
            |path| std::fs::remove_file(path).unwrap(),
            |e| {
                matches!(
                    e,
                    AuditError::Missing {
                        found: 0,
                        expected: 4,
                        ..
                    }
                )
            },
        ),
        (
            "a record is edited",
            |path| change(path, 1),
            |e| matches!(e, AuditError::Damaged { seq: 2, .. }),
        ),
        (
            "the last record is edited",
            |path| change(path, 3),
            |e| matches!(e, AuditError::Different { seq: 3, .. }),
        ),
        (
            "a record is removed",
            |path| {
                edit(path, |bytes| {
                    let end = bytes.iter().position(|byte| *byte == b'\n').unwrap();
                    bytes.drain(..=end);
                });
            },
            |e| matches!(e, AuditError::Damaged { seq: 0, .. }),
        ),
    ];
    for (what, damage, is_named) in cases {
        let dir = tempfile::tempdir().unwrap();
        let log = open(dir.path(), None).unwrap();
        append(&log, &["A", "B", "C"]);
        let (_, head) = log.head();
        log.close();
        damage(&dir.path().join(files::name(0)));
        let error = open(dir.path(), Some(head))
            .err()
            .unwrap_or_else(|| panic!("{what}: opened"));
        assert!(is_named(&error), "{what}: {error:?}");
        assert!(error.next_step().contains("--accept-audit-gap"));

        // As told: what is sound is gone on with, nothing is deleted, and a record says so.
        let mut config = config(dir.path());
        config.accept_gap = true;
        let log = AuditLog::open(config, Some(head)).unwrap().log;
        append(&log, &[]);
        let lines = lines(dir.path());
        let gap = &lines
            .iter()
            .find(|l| l.record.operation == "AuditGapAccepted");
        let details = &gap.unwrap_or_else(|| panic!("{what}")).record.details;
        assert_eq!(details["expectedRecords"], 4);
        assert_eq!(details["reason"], error.to_string());
        log.close();
    }
}

#[test]
fn a_copy_that_was_put_back_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path(), None).unwrap();
    append(&log, &["A"]);
    let old = std::fs::read(only_file(dir.path())).unwrap();
    append(&log, &["B"]);
    let (_, head) = log.head();
    log.close();
    std::fs::write(only_file(dir.path()), old).unwrap();
    let error = open(dir.path(), Some(head)).err().unwrap();
    assert!(
        matches!(
            error,
            AuditError::Missing {
                found: 2,
                expected: 4,
                ..
            }
        ),
        "{error:?}"
    );
}

#[test]
fn what_a_crash_left_after_the_head_is_cut_and_said() {
    // A page that did not reach the disk in the middle of a record, and a record after it.
    let mut torn = Vec::new();
    let mut chain = Chain::at(2, Hash([1; 32]));
    for name in ["torn", "whole"] {
        compose(&mut chain, &record(name).to_bytes(), &mut torn);
        torn.push(b'\n');
    }
    torn[150..180].fill(0);
    let residue: [&[u8]; 4] = [b"{\"prev\":\"00", &[0; 300], b"\0\0\0\n\0\0", &torn];
    for residue in residue {
        let dir = tempfile::tempdir().unwrap();
        let log = open(dir.path(), None).unwrap();
        append(&log, &["A"]);
        let (_, head) = log.head();
        log.close();
        let path = only_file(dir.path());
        edit(&path, |bytes| bytes.extend_from_slice(residue));
        let log = open(dir.path(), Some(head)).unwrap();
        append(&log, &[]);
        let lines = lines(dir.path());
        let cut = &lines
            .iter()
            .find(|l| l.record.operation == "AuditTailCut")
            .unwrap()
            .record;
        assert_eq!(cut.details["bytes"], residue.len());
        let kept = std::fs::read(cut.details["kept"].as_str().unwrap()).unwrap();
        assert_eq!(kept, residue);
        log.close();
    }
}

#[test]
fn a_record_edited_after_the_head_is_no_crash() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path(), None).unwrap();
    append(&log, &["A"]);
    let (_, head) = log.head();
    append(&log, &["B", "C", "D"]);
    log.close();
    change(&only_file(dir.path()), 3);
    let error = open(dir.path(), Some(head)).err().unwrap();
    assert!(
        matches!(error, AuditError::Damaged { seq: 4, .. }),
        "{error:?}"
    );
}

#[test]
fn a_restart_reads_only_what_came_after_the_note() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path(), None).unwrap();
    append(&log, &["A", "B"]);
    let durable = log.durable();
    log.save(&durable);
    append(&log, &["C"]);
    let root = log.durable().edge().root();
    log.close();
    // Nobody reads this any more at start; `kmsctl audit verify` does.
    change(&only_file(dir.path()), 0);
    let log = open(dir.path(), Some(durable.head)).unwrap();
    assert_eq!(log.durable().edge().root(), root);
    log.close();
    // A wrong edge would give every later root: it is no use, and everything is read again.
    let state = dir.path().join("state.json");
    let sound = std::fs::read(&state).unwrap();
    edit(&state, |bytes| {
        let at = bytes.windows(6).position(|w| w == b"\"edge\"").unwrap() + 12;
        bytes[at] = if bytes[at] == b'0' { b'1' } else { b'0' };
    });
    let error = open(dir.path(), Some(durable.head)).err().unwrap();
    assert!(
        matches!(error, AuditError::Damaged { seq: 1, .. }),
        "{error:?}"
    );
    std::fs::write(&state, sound).unwrap();
    // A note about another log is no use.
    edit(&dir.path().join("state.json"), |bytes| {
        let at = bytes.windows(7).position(|w| w == b"\"chain\"").unwrap() + 10;
        bytes[at] = if bytes[at] == b'0' { b'1' } else { b'0' };
    });
    let error = open(dir.path(), Some(durable.head)).err().unwrap();
    assert!(
        matches!(error, AuditError::Damaged { seq: 1, .. }),
        "{error:?}"
    );
}

#[test]
fn files_are_rotated_and_kept() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = config(dir.path());
    config.rotate_bytes = 1000;
    let log = AuditLog::open(config.clone(), None).unwrap().log;
    for _ in 0..10 {
        append(&log, &["Filler"]);
    }
    let (_, head) = log.head();
    log.close();
    let files = list(dir.path()).unwrap();
    assert!(files.len() >= 5, "{files:?}");
    assert!(files.iter().all(|file| file.bytes <= 1000), "{files:?}");
    assert_eq!(lines(dir.path()).len(), 20);
    // One that is missing among the older ones is noticed, with or without a note of the place.
    let log = AuditLog::open(config.clone(), Some(head)).unwrap().log;
    log.save(&log.durable());
    log.close();
    std::fs::rename(&files[1].path, dir.path().join("gone")).unwrap();
    let log = AuditLog::open(config.clone(), Some(head)).unwrap().log;
    append(&log, &[]);
    assert!(
        log.status()
            .warnings
            .iter()
            .any(|w| w.contains(&format!("record {} is missing", files[1].first))),
        "{:?}",
        log.status().warnings
    );
    log.close();
    std::fs::rename(dir.path().join("gone"), &files[1].path).unwrap();
    assert!(names(dir.path()).contains(&"AuditFileMissing".to_owned()));

    // With retention the oldest go, which is recorded, and the chain of the rest holds.
    config.keep_files = Some(2);
    let log = AuditLog::open(config.clone(), Some(head)).unwrap().log;
    for _ in 0..5 {
        append(&log, &["Filler"]);
    }
    // Not one that the next start needs, and it needs all after the last note.
    assert!(list(dir.path()).unwrap().len() > 5);
    for _ in 0..5 {
        log.save(&log.durable());
        append(&log, &["Filler"]);
    }
    // The removals are recorded, which takes files as well.
    wait_for("not removed", || {
        log.save(&log.durable());
        list(dir.path()).unwrap().len() == 2 && log.status().pending == 0
    });
    // The removals are recorded too.
    wait_for("not written", || log.status().pending == 0);
    let durable = log.durable();
    log.save(&durable);
    log.close();
    let kept = list(dir.path()).unwrap();
    assert!(kept.len() <= 3 && kept[0].first > 0, "{kept:?}");
    lines(dir.path());
    let log = AuditLog::open(config.clone(), Some(durable.head))
        .unwrap()
        .log;
    assert_eq!(log.durable().edge().root(), durable.edge().root());
    log.close();
    // Without the note the first file's edge is begun with.
    std::fs::remove_file(dir.path().join("state.json")).unwrap();
    let log = AuditLog::open(config, Some(durable.head)).unwrap().log;
    assert_eq!(log.durable().edge().root(), durable.edge().root());
    log.close();
}

#[test]
fn a_log_without_its_beginning_opens_again_after_the_gap_was_accepted() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = config(dir.path());
    config.rotate_bytes = 1000;
    let log = AuditLog::open(config.clone(), None).unwrap().log;
    append(&log, &["A", "B", "C", "D", "E"]);
    append(&log, &["F"]);
    let (_, head) = log.head();
    log.close();
    std::fs::remove_file(dir.path().join(files::name(0))).unwrap();
    assert!(AuditLog::open(config.clone(), Some(head)).is_err());
    config.accept_gap = true;
    let log = AuditLog::open(config.clone(), Some(head)).unwrap().log;
    append(&log, &[]);
    let durable = log.durable();
    log.save(&durable);
    log.close();
    config.accept_gap = false;
    let log = AuditLog::open(config, Some(durable.head)).unwrap().log;
    assert_eq!(log.durable().edge().root(), durable.edge().root());
    let warnings = log.status().warnings;
    assert!(
        warnings.iter().any(|w| w.contains("no checkpoints")),
        "{warnings:?}"
    );
    log.close();
}

#[test]
fn a_file_that_is_disturbed_while_running_is_noticed() {
    let cases: [(&str, Damage); 4] = [
        ("it was deleted", |path| std::fs::remove_file(path).unwrap()),
        ("it was truncated", |path| {
            std::fs::File::options()
                .write(true)
                .open(path)
                .unwrap()
                .set_len(10)
                .unwrap()
        }),
        ("something else wrote to it", |path| {
            edit(path, |bytes| bytes.extend_from_slice(b"x"))
        }),
        ("another file was put in its place", |path| {
            let copy = path.with_file_name("copy");
            std::fs::copy(path, &copy).unwrap();
            std::fs::remove_file(path).unwrap();
            std::fs::hard_link(&copy, path).unwrap();
        }),
    ];
    for (what, disturb) in cases {
        let dir = tempfile::tempdir().unwrap();
        let log = open(dir.path(), None).unwrap();
        append(&log, &["A"]);
        let path = only_file(dir.path());
        // Keeps the inode alive in the case of the swap, so that the number is not used again.
        let _held = std::fs::File::open(&path).unwrap();
        let _second = std::fs::hard_link(&path, dir.path().join("second"));
        if what == "it was deleted" {
            std::fs::remove_file(dir.path().join("second")).unwrap();
        }
        disturb(&path);
        // Noticed by the look at the path once a second, or when something is written.
        let mut tries = 0;
        while log.status().warnings.is_empty() {
            std::thread::sleep(Duration::from_millis(50));
            tries += 1;
            assert!(tries < 200, "{what}: not noticed");
        }
        append(&log, &["B"]);
        let file = log.current_file();
        log.close();
        assert_ne!(file, path);
        let text = std::fs::read_to_string(&file).unwrap();
        let first = Line::parse(text.lines().next().unwrap().as_bytes()).unwrap();
        assert_eq!(first.record.operation, "AuditLogDisturbed", "{what}");
        assert_eq!(first.record.details["reason"], what);
        assert_eq!(first.seq, 2, "the chain goes on");
        // The next start needs nothing of the disturbed file.
        let head = log.head().1;
        let log = open(dir.path(), Some(head)).unwrap_or_else(|e| panic!("{what}: {e}"));
        log.close();
        // A stray byte loses nothing, also where everything is read again.
        if what == "something else wrote to it" {
            std::fs::remove_file(dir.path().join("state.json")).unwrap();
            let log = open(dir.path(), Some(head)).unwrap();
            append(&log, &[]);
            log.close();
            assert!(names(dir.path()).contains(&"AuditTailCut".to_owned()));
        }
    }
}

#[test]
fn what_is_left_can_be_verified_also_where_older_files_were_to_be_kept_at_first() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = config(dir.path());
    config.rotate_bytes = 1000;
    let log = AuditLog::open(config.clone(), None).unwrap().log;
    for _ in 0..12 {
        append(&log, &["Filler"]);
    }
    let durable = log.durable();
    log.save(&durable);
    log.close();
    let before = list(dir.path()).unwrap();
    assert!(before.len() > 5, "{before:?}");
    assert!(files::load_edge(dir.path(), before[1].first).is_none());
    let all = lines(dir.path());
    let leaves: Vec<_> = all
        .iter()
        .map(|line| leaf_hash(&serde_json::to_vec(line).unwrap()))
        .collect();

    config.keep_files = Some(before.len() - 2);
    let log = AuditLog::open(config, Some(durable.head)).unwrap().log;
    wait_for("nothing removed", || {
        append(&log, &["Filler"]);
        log.save(&log.durable());
        list(dir.path()).unwrap()[0].first > 0
    });
    log.close();
    let first = list(dir.path()).unwrap()[0].first;
    assert!(first < durable.head.size, "one from before is the first");
    let edge = files::load_edge(dir.path(), first).expect("its edge");
    let from_all = root_of(&leaves[..usize::try_from(first).unwrap()]);
    assert_eq!(edge.root(), from_all);
}

/// Tells what it sees, and with an empty line where it was told the log to end.
struct Watch {
    to: mpsc::Sender<(u64, Vec<u8>, String)>,
    uses: bool,
}

impl Observer for Watch {
    fn looks_at_uses(&self) -> bool {
        self.uses
    }

    fn appended(&mut self, records: &[Appended<'_>], end: u64) {
        for one in records {
            let seen = (one.seq, one.line.to_vec(), one.record.operation.clone());
            self.to.send(seen).unwrap();
        }
        self.to.send((end, Vec::new(), "end".to_owned())).unwrap();
    }
}

#[test]
fn who_does_not_look_at_uses_sees_all_other_records_and_where_the_log_ends() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path(), None).unwrap();
    let (to, from) = mpsc::channel();
    log.observe(Box::new(Watch { to, uses: false }));
    let api = |name: &str| Record {
        kind: Kind::Api,
        read_only: true,
        ..record(name)
    };
    log.push(api("Decrypt"), None, false);
    let mut refused = api("Encrypt");
    refused.error = Some(Failure {
        code: "AccessDeniedException".to_owned(),
        message: None,
    });
    log.push(refused, None, false);
    let change = Record {
        read_only: false,
        ..api("CreateKey")
    };
    log.push(change, None, false);
    log.push(record("Service"), None, false);
    log.push(api("Sign"), None, false);
    log.close();
    let seen: Vec<_> = from.try_iter().collect();
    let names: Vec<&str> = seen
        .iter()
        .filter(|(_, line, _)| !line.is_empty())
        .map(|(_, _, name)| name.as_str())
        .collect();
    assert_eq!(names, ["Encrypt", "CreateKey", "Service"]);
    let on_disk = lines(dir.path());
    assert_eq!(on_disk.len(), 5, "the log has all of them");
    assert_eq!(seen.last().unwrap().0, 5);
}

#[test]
fn observers_see_every_durable_record_once() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path(), None).unwrap();
    let (to, from) = mpsc::channel();
    log.observe(Box::new(Watch { to, uses: true }));
    append(&log, &["A", "B"]);
    log.close();
    let seen: Vec<_> = from
        .try_iter()
        .filter(|(_, bytes, _)| !bytes.is_empty())
        .collect();
    let on_disk = lines(dir.path());
    assert_eq!(seen.len(), 3);
    for ((seq, bytes, name), line) in seen.iter().zip(&on_disk) {
        assert_eq!((*seq, name), (line.seq, &line.record.operation));
        assert_eq!(&Line::parse(bytes).unwrap(), line);
    }
}

#[test]
fn the_journal_gets_a_datagram_for_each_record_and_is_never_waited_for() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("journal");
    let socket = std::os::unix::net::UnixDatagram::bind(&path).unwrap();
    let mut config = config(dir.path().join("audit"));
    config.journald = Some(path.clone());
    let log = AuditLog::open(config, None).unwrap().log;
    append(&log, &["A"]);
    let mut buffer = vec![0; 1 << 16];
    let length = socket.recv(&mut buffer).unwrap();
    let text = String::from_utf8_lossy(&buffer[..length]).into_owned();
    assert!(
        text.contains("MESSAGE") && text.contains("A by kmsd: ok"),
        "{text}"
    );
    assert!(text.contains("KMSD_RECORD"), "{text}");
    // Nobody reads, then nobody is there: the log goes on.
    for _ in 0..50 {
        append(&log, &["B"]);
    }
    drop(socket);
    std::fs::remove_file(path).unwrap();
    append(&log, &["C"]);
    assert_eq!(names(&dir.path().join("audit")).len(), 104);
    log.close();
}

/// A file system of 3 MiB.
struct Small(tempfile::TempDir);

impl Small {
    fn mount() -> Self {
        let dir = tempfile::tempdir().unwrap();
        rustix::mount::mount(
            "tmpfs",
            dir.path(),
            "tmpfs",
            rustix::mount::MountFlags::empty(),
            Some(c"size=3m"),
        )
        .expect("this test needs root");
        Self(dir)
    }

    fn fill(&self) -> std::path::PathBuf {
        let path = self.0.path().join("filler");
        let _ = std::fs::write(&path, vec![1; 8 << 20]);
        path
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = rustix::mount::unmount(self.0.path(), rustix::mount::UnmountFlags::DETACH);
    }
}

fn small_config(small: &Small, on_full: OnFull) -> AuditConfig {
    AuditConfig {
        on_full,
        reserve_bytes: 64 << 10,
        ..config(small.0.path().join("audit"))
    }
}

fn wait_for(what: &str, mut holds: impl FnMut() -> bool) {
    let mut tries = 0;
    while !holds() {
        std::thread::sleep(Duration::from_millis(50));
        tries += 1;
        assert!(tries < 400, "{what}");
    }
}

#[test]
fn a_full_disk_refuses_requests_keeps_every_record_and_recovers() {
    let small = Small::mount();
    let log = AuditLog::open(small_config(&small, OnFull::Refuse), None)
        .unwrap()
        .log;
    append(&log, &["A"]);
    let filler = small.fill();
    // Written from the reserve, if not from the rest of a page.
    let mut sent = 2;
    wait_for("not full", || {
        if log.status().health == Health::Good {
            log.push(record("B"), None, true);
            sent += 1;
        }
        log.status().health == Health::Full
    });
    let error = log.admit("Decrypt", true).unwrap_err();
    assert!(error.message.unwrap().starts_with("AuditLogFull"));
    assert!(log.admit("DisableKey", false).is_err());
    log.admit("GetStatus", true).unwrap();
    log.push(record("GetStatus"), None, false);
    // One that was committed before is not lost, whatever room there is.
    let bytes = record("Committed").to_bytes();
    let ticket = log.push(record("Committed"), Some(&bytes), true);
    assert!(log.status().warnings.iter().any(|w| w.contains("full")));
    std::fs::remove_file(filler).unwrap();
    log.wait_blocking(ticket).unwrap();
    wait_for("not recovered", || log.status().health == Health::Good);
    log.admit("Decrypt", true).unwrap();
    log.close();
    let lines = lines(&small.0.path().join("audit"));
    let count = |name: &str| lines.iter().filter(|l| l.record.operation == name).count();
    assert_eq!(count("AuditDiskFull"), 1);
    assert_eq!(count("Committed"), 1);
    assert_eq!(count("A") + count("Last") + count("B"), sent);
    let resumed = &lines
        .iter()
        .find(|l| l.record.operation == "AuditResumed")
        .unwrap()
        .record;
    assert_eq!(resumed.details["lost"], 1);
    assert_eq!(resumed.details["refused"], 2);
}

#[test]
fn a_full_disk_may_leave_the_data_path_open_and_counts_what_is_lost() {
    let small = Small::mount();
    let log = AuditLog::open(small_config(&small, OnFull::ReadOnly), None)
        .unwrap()
        .log;
    append(&log, &["A"]);
    let filler = small.fill();
    wait_for("not full", || {
        log.push(record("B"), None, true);
        log.status().health == Health::Full
    });
    let lost = log.status().lost;
    for _ in 0..5 {
        log.admit("Decrypt", true).unwrap();
        log.push(record("Decrypt"), None, false);
    }
    // With `audit.data_delay_ms = 0` a use waits for its record, but not for one that cannot be written.
    let mut read = record("Decrypt");
    read.read_only = true;
    let begin = std::time::Instant::now();
    log.wait_blocking(log.push(read, None, true)).unwrap();
    assert!(begin.elapsed() < Duration::from_secs(5));
    assert!(log.admit("CreateKey", false).is_err());
    assert_eq!(log.status().lost - lost, 6);
    std::fs::remove_file(filler).unwrap();
    wait_for("not recovered", || log.status().health == Health::Good);
    log.admit("CreateKey", false).unwrap();
    log.close();
    let lines = lines(&small.0.path().join("audit"));
    let resumed = &lines
        .iter()
        .find(|l| l.record.operation == "AuditResumed")
        .unwrap()
        .record;
    assert_eq!(resumed.details["lost"], 6);
    assert_eq!(resumed.details["refused"], 1);
}

#[test]
fn a_full_disk_does_not_stop_the_start_after_a_crash() {
    let small = Small::mount();
    let config = small_config(&small, OnFull::Refuse);
    let log = AuditLog::open(config.clone(), None).unwrap().log;
    append(&log, &["A"]);
    let (_, head) = log.head();
    log.close();
    edit(&only_file(&config.directory), |bytes| {
        bytes.extend_from_slice(&[b'x'; 9000]);
    });
    let filler = small.fill();
    let log = AuditLog::open(config.clone(), Some(head)).unwrap().log;
    std::fs::remove_file(filler).unwrap();
    append(&log, &[]);
    log.close();
    let lines = lines(&config.directory);
    let cut = lines.iter().find(|l| l.record.operation == "AuditTailCut");
    let details = &cut.unwrap().record.details;
    assert_eq!(details["kept"], "nowhere: the disk is full");
    let left = std::fs::read_dir(&config.directory).unwrap();
    assert!(
        left.flatten()
            .all(|entry| { !entry.file_name().to_string_lossy().starts_with("damaged-") })
    );
}

#[test]
fn little_room_is_said_before_it_is_too_late() {
    let small = Small::mount();
    let mut config = small_config(&small, OnFull::Refuse);
    config.min_free_bytes = 1 << 20;
    std::fs::write(small.0.path().join("some"), vec![1; 2 << 20]).unwrap();
    let log = AuditLog::open(config, None).unwrap().log;
    wait_for("no warning", || !log.status().warnings.is_empty());
    append(&log, &[]);
    log.close();
    let lines = lines(&small.0.path().join("audit"));
    let warning = &lines
        .iter()
        .find(|l| l.record.operation == "AuditDiskWarning")
        .unwrap()
        .record;
    assert!(warning.details["freeBytes"].as_u64().unwrap() < 1 << 20);
}

#[test]
fn a_head_that_no_log_has_is_not_opened() {
    let dir = tempfile::tempdir().unwrap();
    let head = AuditHead {
        size: 1,
        chain: Hash([7; 32]),
    };
    let error = open(dir.path(), Some(head)).err().unwrap();
    assert!(matches!(error, AuditError::Missing { .. }));
    let mut line = Vec::new();
    compose(&mut Chain::new(), &record("X").to_bytes(), &mut line);
    line.push(b'\n');
    std::fs::write(dir.path().join(files::name(0)), line).unwrap();
    let error = open(dir.path(), Some(head)).err().unwrap();
    assert!(
        matches!(error, AuditError::Different { seq: 0, .. }),
        "{error:?}"
    );
}

#[test]
fn a_search_goes_through_every_file_in_pages_both_ways() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = config(dir.path());
    config.rotate_bytes = 1000;
    let log = AuditLog::open(config, None).unwrap().log;
    for _ in 0..10 {
        append(&log, &["Wanted"]);
    }
    assert!(list(dir.path()).unwrap().len() > 4);
    let all = |oldest_first: bool, end: u64, limit: u32| {
        let mut found = Vec::new();
        let mut marker = None;
        loop {
            let request = kms_api::LookupEventsRequest {
                operation: Some("Wanted".into()),
                oldest_first,
                limit: Some(limit),
                marker: marker.take(),
                ..Default::default()
            };
            let page = search::search(dir.path(), end, &request).unwrap();
            assert!(page.events.len() <= limit as usize);
            found.extend(page.events.iter().map(|event| event.sequence));
            match page.next_marker {
                Some(next) => marker = Some(next),
                None => break found,
            }
        }
    };
    let expected: Vec<u64> = (0..10).map(|n| n * 2).collect();
    let reversed: Vec<u64> = expected.iter().rev().copied().collect();
    for limit in [1, 3, 1000] {
        assert_eq!(all(true, 20, limit), expected);
        assert_eq!(all(false, 20, limit), reversed);
        // What is not durable yet is not shown.
        assert_eq!(all(true, 5, limit), [0, 2, 4]);
        assert_eq!(all(false, 5, limit), [4, 2, 0]);
    }
    let wrong = kms_api::LookupEventsRequest {
        marker: Some("20".into()),
        ..Default::default()
    };
    assert!(search::search(dir.path(), 20, &wrong).is_err());
    log.close();
}

/// Files of several windows: pages are found by bisection, and backwards.
#[test]
fn a_search_finds_its_page_in_a_long_file() {
    let dir = tempfile::tempdir().unwrap();
    let mut chain = Chain::new();
    let mut text = Vec::new();
    let mut ids = Vec::new();
    while text.len() < 5 << 20 {
        let long = "x".repeat(usize::try_from(chain.size() % 7 * 500).unwrap());
        let record = record("Filler").detail("long", long);
        ids.push(record.event_id.clone());
        compose(&mut chain, &record.to_bytes(), &mut text);
        text.push(b'\n');
    }
    std::fs::write(dir.path().join(files::name(0)), &text).unwrap();
    let size = chain.size();
    for oldest_first in [true, false] {
        for from in [0, 1, size / 3, size / 2, size - 2, size - 1] {
            let request = kms_api::LookupEventsRequest {
                oldest_first,
                limit: Some(3),
                marker: Some(from.to_string()),
                ..Default::default()
            };
            let page = search::search(dir.path(), size, &request).unwrap();
            let found: Vec<u64> = page.events.iter().map(|event| event.sequence).collect();
            let expected: Vec<u64> = if oldest_first {
                (from..size.min(from + 3)).collect()
            } else {
                (from.saturating_sub(2)..=from).rev().collect()
            };
            assert_eq!(found, expected, "from {from}, oldest first: {oldest_first}");
        }
        // One in the middle, looking through everything.
        let wanted = &ids[ids.len() / 2];
        let request = kms_api::LookupEventsRequest {
            oldest_first,
            event_id: Some(wanted.clone()),
            ..Default::default()
        };
        let page = search::search(dir.path(), size, &request).unwrap();
        assert_eq!(page.events.len(), 1);
        assert!(page.events[0].line.contains(wanted.as_str()) && !page.truncated);
    }
}

#[tokio::test]
async fn a_record_that_comes_after_the_end_is_not_taken_for_written() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path(), None).unwrap();
    append(&log, &["A"]);
    log.close();
    for urgent in [false, true] {
        let ticket = log.push(record("Late"), None, urgent);
        assert!(ticket.is_never());
        let error = log.wait(ticket).await.unwrap_err();
        assert_eq!(error.code, ErrorCode::ServiceUnavailable);
        assert_eq!(log.wait_blocking(ticket).unwrap_err().code, error.code);
    }
    assert_eq!(log.status().pending, 0);
    assert_eq!(names(dir.path()), ["A", "Last"]);
}
