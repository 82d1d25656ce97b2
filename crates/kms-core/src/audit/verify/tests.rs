//! Every way to damage a log, and the place that is named.

use proptest::prelude::*;

use super::*;
use crate::audit::checkpoint::{Checkpoint, Sealer};
use crate::audit::keys::{Keys, LogKey};
use crate::audit::note::{KIND_ED25519, Note, Signature, VerifierKey};
use crate::audit::tree::{Edge, leaf_hash};
use crate::audit::{Chain, LOCAL_SOURCE, Record, compose};

const ORIGIN: &str = "kmsd.local/test";
/// Records before each checkpoint of the sample.
const SIZES: [u64; 4] = [4, 9, 10, 16];
const RECORDS: u64 = 20;

#[derive(Clone)]
struct Log {
    /// First record and lines of each file.
    files: Vec<(u64, Vec<Vec<u8>>)>,
    notes: Vec<Note>,
}

fn seed(byte: u8) -> kms_crypto::Key<32> {
    kms_crypto::Key::take(&mut [byte; 32]).unwrap()
}

fn keys() -> Keys {
    let mut keys = Keys::new(ORIGIN.to_owned());
    assert!(keys.add(LogKey {
        since: 1,
        verifier: verifier(1),
        tpm: None,
    }));
    Keys::parse(keys.to_json().as_bytes()).unwrap()
}

fn verifier(byte: u8) -> VerifierKey {
    VerifierKey {
        name: ORIGIN.to_owned(),
        kind: KIND_ED25519,
        public: kms_crypto::ed25519_public(&seed(byte)).unwrap(),
    }
}

fn signed(checkpoint: &Checkpoint, key: u8) -> Note {
    let mut note = Note::new(checkpoint.text());
    let bytes = kms_crypto::ed25519_sign(&seed(key), note.text().as_bytes()).unwrap();
    note.sign(Signature {
        name: ORIGIN.to_owned(),
        id: verifier(key).id(),
        bytes: bytes.to_vec(),
    });
    note
}

fn event(n: u64) -> String {
    format!("00000000-0000-4000-8000-{n:012}")
}

fn record(n: u64) -> Vec<u8> {
    Record::service(event(n), 1_700_000_000_000, LOCAL_SOURCE, "Test").to_bytes()
}

/// Lines of these records, one after the other.
fn lines(records: impl IntoIterator<Item = Vec<u8>>) -> Vec<Vec<u8>> {
    let mut chain = Chain::new();
    records
        .into_iter()
        .map(|record| {
            let mut line = Vec::new();
            compose(&mut chain, &record, &mut line);
            line
        })
        .collect()
}

fn checkpoint(lines: &[Vec<u8>], number: u64, counter: u64, previous: Hash) -> Checkpoint {
    let (mut edge, mut chain) = (Edge::new(), Chain::new());
    for line in lines {
        edge.push(leaf_hash(line));
        chain.advance(line);
    }
    Checkpoint {
        origin: ORIGIN.to_owned(),
        size: chain.size(),
        root: Hash(edge.root()),
        number,
        counter,
        chain: chain.value(),
        previous,
        time_ms: 1_700_000_000_000,
        store: 1,
        sealer: Sealer::Software,
    }
}

fn notes(lines: &[Vec<u8>]) -> Vec<Note> {
    let mut previous = Hash::default();
    (1..)
        .zip(SIZES)
        .map(|(number, size)| {
            let one = checkpoint(&lines[..size as usize], number, 6 + number, previous);
            previous = one.hash();
            signed(&one, 1)
        })
        .collect()
}

impl Log {
    fn sample() -> Self {
        let all = lines((0..RECORDS).map(record));
        Self {
            notes: notes(&all),
            files: vec![
                (0, all[..7].to_vec()),
                (7, all[7..14].to_vec()),
                (14, all[14..].to_vec()),
            ],
        }
    }

    fn lines(&mut self) -> &mut Vec<Vec<u8>> {
        if self.files.len() > 1 {
            let all = self.files.drain(..).flat_map(|(_, lines)| lines).collect();
            self.files.push((0, all));
        }
        &mut self.files[0].1
    }

    fn with(edit: impl FnOnce(&mut Vec<Vec<u8>>)) -> Self {
        let mut log = Self::sample();
        edit(log.lines());
        log
    }

    fn checkpoints(&self) -> Checkpoints {
        let file: String = self.notes.iter().map(Note::to_string).collect();
        Checkpoints::verify(&keys(), "checkpoints", file.as_bytes())
    }

    fn read(&self, marks: Vec<Mark>) -> LogReport {
        let mut verifier = LogVerifier::new(marks);
        for (first, lines) in &self.files {
            verifier.begin_file(&format!("log-{first:012}.jsonl"), *first);
            lines.iter().for_each(|line| verifier.line(line));
        }
        verifier.finish()
    }

    fn report(&self) -> LogReport {
        self.read(self.checkpoints().marks())
    }

    /// Kind and record of the first finding.
    fn first(&self) -> (FindingKind, u64) {
        let report = self.report();
        let first = report.findings.first().expect("nothing was found");
        (first.kind, first.place.record.unwrap())
    }
}

#[test]
fn a_sound_log_has_no_findings() {
    for files in [1, 3] {
        let mut log = Log::sample();
        if files == 1 {
            log.lines();
        }
        let checkpoints = log.checkpoints();
        assert_eq!(checkpoints.findings, []);
        assert_eq!(checkpoints.known.len(), SIZES.len());
        let report = log.report();
        assert_eq!(report.findings, []);
        assert_eq!(
            (report.size, report.covered_by, report.uncovered),
            (RECORDS, Some(4), 4)
        );
    }
}

#[test]
fn an_altered_byte_names_its_record() {
    let sample = Log::with(|_| ());
    for (n, line) in (0..RECORDS).zip(&sample.files[0].1) {
        for at in 0..line.len() {
            let log = Log::with(|lines| lines[n as usize][at] ^= 1);
            let report = log.report();
            let Some(first) = report.findings.first() else {
                // Nothing vouches for the very last line but the catalogue.
                assert_eq!(n, RECORDS - 1, "byte {at}");
                continue;
            };
            // In the number of a line it looks like other records.
            let number = at >= line.len() - n.to_string().len() - 1;
            // The last two tell nothing of each other, if what links them is altered.
            let link = n == RECORDS - 1 && first.place.last_record == Some(n);
            if link {
                assert_eq!(first.kind, FindingKind::Edited, "byte {at}");
                assert!(at < 75, "byte {at}");
            } else if !number {
                assert_eq!(
                    first.kind,
                    FindingKind::Edited,
                    "record {n} byte {at}: {}",
                    first.text
                );
                assert_eq!(first.place.record, Some(n), "byte {at}: {}", first.text);
                assert_eq!(first.place.line, Some(n + 1), "byte {at}");
            } else {
                assert_eq!(first.place.line, Some(n + 1), "byte {at}: {}", first.text);
            }
        }
    }
}

#[test]
fn the_event_of_an_altered_record_is_named() {
    let log = Log::with(|lines| {
        let text = String::from_utf8(lines[6].clone()).unwrap();
        lines[6] = text.replace("\"Test\"", "\"Tost\"").into_bytes();
    });
    let report = log.report();
    assert_eq!(report.findings[0].place.event, Some(event(6)));
}

#[test]
fn the_last_record_is_under_the_catalogues_head() {
    let last = RECORDS as usize - 1;
    let sound = Log::sample().report();
    let log = Log::with(|lines| {
        let text = String::from_utf8(lines[last].clone()).unwrap();
        lines[last] = text.replace("\"Test\"", "\"Tost\"").into_bytes();
    });
    assert_eq!(log.report().findings, []);
    let mut marks = log.checkpoints().marks();
    marks.push(Mark {
        size: sound.size,
        chain: sound.chain,
        root: None,
        source: Source::Head,
    });
    let found = &log.read(marks).findings[0];
    assert_eq!(found.kind, FindingKind::Rechained);
    assert_eq!(
        (found.place.record, found.place.last_record),
        (Some(16), Some(19))
    );
}

#[test]
fn removed_duplicated_and_reordered_records_are_named() {
    for n in 0..RECORDS - 1 {
        let at = n as usize;
        let removed = Log::with(|lines| drop(lines.remove(at)));
        assert_eq!(removed.first(), (FindingKind::Removed, n));
        let twice = Log::with(|lines| lines.insert(at + 1, lines[at].clone()));
        assert_eq!(twice.first(), (FindingKind::Duplicated, n));
        let swapped = Log::with(|lines| lines.swap(at, at + 1));
        assert_eq!(swapped.first(), (FindingKind::Reordered, n));
    }
    let moved = Log::with(|lines| {
        let line = lines.remove(3);
        lines.insert(12, line);
    });
    assert_eq!(moved.first(), (FindingKind::Reordered, 3));
    let run = Log::with(|lines| drop(lines.drain(5..8)));
    let report = run.report();
    assert_eq!(report.findings[0].place.last_record, Some(7));
    assert_eq!(report.findings.len(), 1, "one cause, one finding");
}

#[test]
fn a_missing_or_swapped_file_is_named() {
    let mut log = Log::sample();
    log.files.remove(1);
    assert_eq!(log.first(), (FindingKind::Removed, 7));
    assert!(log.report().findings[0].text.contains("a file was removed"));
    let mut log = Log::sample();
    log.files.remove(0);
    assert_eq!(log.first(), (FindingKind::Removed, 0));
    let mut log = Log::sample();
    log.files[2].0 = 15;
    assert_eq!(log.first(), (FindingKind::FileMisplaced, 14));
    let mut log = Log::sample();
    let (one, two) = (log.files[0].1.clone(), log.files[1].1.clone());
    (log.files[0].1, log.files[1].1) = (two, one);
    let report = log.report();
    assert_eq!(
        report.findings[0].place.file.as_deref(),
        Some("log-000000000000.jsonl")
    );
}

#[test]
fn files_removed_on_purpose_are_begun_after() {
    let mut log = Log::sample();
    let all = Log::with(|_| ()).lines().clone();
    log.files.remove(0);
    let read = |edge: Edge, log: &Log| {
        let mut verifier = LogVerifier::new(log.checkpoints().marks());
        verifier.begin_at(edge);
        for (first, lines) in &log.files {
            verifier.begin_file("log", *first);
            lines.iter().for_each(|line| verifier.line(line));
        }
        verifier.finish()
    };
    let edge_of = |lines: &[Vec<u8>]| {
        let mut edge = Edge::new();
        lines.iter().for_each(|line| edge.push(leaf_hash(line)));
        edge
    };
    let report = read(edge_of(&all[..7]), &log);
    assert_eq!((report.findings, report.covered_by), (vec![], Some(4)));
    // Another beginning does not fit the next checkpoint.
    let mut other = all[..7].to_vec();
    other[3][20] ^= 1;
    let found = &read(edge_of(&other), &log).findings[0];
    assert_eq!(
        (found.kind, found.place.record),
        (FindingKind::Rechained, Some(7))
    );
    // Nor does an altered first line.
    let text = String::from_utf8(log.files[0].1[0].clone()).unwrap();
    log.files[0].1[0] = text.replace("Test", "Tost").into_bytes();
    let found = &read(edge_of(&all[..7]), &log).findings[0];
    assert_eq!(
        (found.kind, found.place.record),
        (FindingKind::Edited, Some(7))
    );
}

#[test]
fn a_cut_tail_is_found_down_to_the_last_checkpoint() {
    for keep in 0..16 {
        let log = Log::with(|lines| lines.truncate(keep as usize));
        assert_eq!(log.first(), (FindingKind::Truncated, keep));
    }
    // After it, only the catalogue knows.
    let log = Log::with(|lines| lines.truncate(16));
    assert_eq!(log.report().findings, []);
    let sound = Log::sample().report();
    let head = Mark {
        size: sound.size,
        chain: sound.chain,
        root: None,
        source: Source::Head,
    };
    let found = &log.read(vec![head]).findings[0];
    assert_eq!(
        (found.kind, found.place.record),
        (FindingKind::RolledBack, Some(16))
    );
}

#[test]
fn a_chain_that_was_made_to_fit_breaks_at_the_next_checkpoint() {
    for n in 0..16 {
        let mut log = Log::sample();
        let altered = |at| if at == n { record(99) } else { record(at) };
        *log.lines() = lines((0..RECORDS).map(altered));
        let report = log.report();
        let found = &report.findings[0];
        let at = SIZES.iter().position(|size| n < *size).unwrap();
        let from = if at == 0 { 0 } else { SIZES[at - 1] };
        assert_eq!(found.place.checkpoint, Some(at as u64 + 1), "{n}");
        assert_eq!(found.place.record, Some(from), "{n}");
        if from + 1 == SIZES[at] {
            assert_eq!(found.kind, FindingKind::Edited);
        } else {
            assert_eq!(found.kind, FindingKind::Rechained);
            assert_eq!(found.place.last_record, Some(SIZES[at] - 1));
        }
        assert_eq!(report.covered_by, (at > 0).then_some(at as u64));
    }
}

#[test]
fn altered_checkpoints_are_named() {
    let sample = Log::sample();
    for n in 0..SIZES.len() {
        let text = sample.notes[n].to_string();
        // Any byte, in the text or in the signature.
        for at in 0..text.len() {
            let mut bytes = text.clone().into_bytes();
            bytes[at] ^= 1;
            let file: Vec<u8> = sample
                .notes
                .iter()
                .enumerate()
                .flat_map(|(i, note)| {
                    if i == n {
                        bytes.clone()
                    } else {
                        note.to_string().into_bytes()
                    }
                })
                .collect();
            let checkpoints = Checkpoints::verify(&keys(), "checkpoints", &file);
            let first = checkpoints.findings.first().expect("nothing was found");
            assert_eq!(
                first.place.checkpoint,
                Some(n as u64 + 1),
                "byte {at}: {}",
                first.text
            );
        }
        let mut log = sample.clone();
        log.notes.remove(n);
        let findings = log.checkpoints().findings;
        if n == SIZES.len() - 1 {
            assert_eq!(
                findings,
                [],
                "only a copy or the counter knows of a last one"
            );
        } else {
            assert!(
                findings
                    .iter()
                    .any(|found| found.kind == FindingKind::CheckpointMissing
                        && found.place.checkpoint == Some(n as u64 + 1))
                    || findings
                        .iter()
                        .any(|found| found.kind == FindingKind::CounterGap
                            && found.place.checkpoint == Some(n as u64 + 2)),
                "{findings:?}"
            );
        }
    }
}

#[test]
fn a_log_that_was_signed_again_leaves_a_gap_in_the_counter() {
    // Rewritten from record 5 on. Values up to 10 are used up, so the rest is signed with 11 and up.
    let mut log = Log::sample();
    *log.lines() = lines((0..RECORDS).map(|n| record(if n == 5 { 99 } else { n })));
    let all = log.lines().clone();
    log.notes.truncate(1);
    let mut previous = Hash::default();
    for (number, size) in (1..).zip(SIZES) {
        let counter = if number == 1 { 7 } else { 9 + number };
        let one = checkpoint(&all[..size as usize], number, counter, previous);
        previous = one.hash();
        if number > 1 {
            log.notes.push(signed(&one, 1));
        }
    }
    assert_eq!(
        log.report().findings,
        [],
        "the lines fit the new checkpoints"
    );
    let findings = log.checkpoints().findings;
    assert_eq!(findings.len(), 1, "{findings:?}");
    assert_eq!(findings[0].kind, FindingKind::CounterGap);
    assert_eq!(findings[0].place.checkpoint, Some(2));
}

#[test]
fn a_foreign_key_is_not_taken() {
    let mut log = Log::sample();
    let text = log.notes[2].text().to_owned();
    log.notes[2] = signed(&Checkpoint::parse(&text).unwrap(), 2);
    let findings = log.checkpoints().findings;
    assert_eq!(findings[0].kind, FindingKind::CheckpointAltered);
    assert_eq!(findings[0].place.checkpoint, Some(3));
}

#[test]
fn a_copy_kept_elsewhere_shows_a_rollback_and_a_fork() {
    let whole = Log::sample().checkpoints().known;
    let mut old = Log::sample();
    old.notes.truncate(2);
    old.lines().truncate(9);
    let mut checkpoints = old.checkpoints();
    assert_eq!(
        (&checkpoints.findings, &old.report().findings),
        (&vec![], &vec![])
    );
    let mut marks = checkpoints.marks();
    marks.append(&mut checkpoints.compare(&whole[3..]));
    assert_eq!(checkpoints.findings[0].kind, FindingKind::RolledBack);
    assert_eq!(checkpoints.findings[0].place.checkpoint, Some(4));
    assert_eq!(old.read(marks).findings[0].kind, FindingKind::RolledBack);

    let mut fork = Log::sample();
    *fork.lines() = lines((0..RECORDS).map(|n| record(if n == 12 { 99 } else { n })));
    fork.notes = notes(&fork.lines().clone());
    let mut checkpoints = fork.checkpoints();
    assert_eq!(
        (&checkpoints.findings, &fork.report().findings),
        (&vec![], &vec![])
    );
    let marks = checkpoints.compare(&whole[3..]);
    assert_eq!(checkpoints.findings[0].kind, FindingKind::CheckpointAltered);
    assert_eq!(fork.read(marks).findings[0].kind, FindingKind::Rechained);
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(lines in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..200), 0..20)) {
        let mut verifier = LogVerifier::new(Log::sample().checkpoints().marks());
        verifier.begin_file("log-000000000000.jsonl", 0);
        lines.iter().for_each(|line| verifier.line(line));
        prop_assert!(!verifier.finish().findings.is_empty());
    }

    #[test]
    fn whatever_is_done_to_the_lines_is_found(
        edits in prop::collection::vec((0..4_u8, any::<prop::sample::Index>(), any::<prop::sample::Index>()), 1..4)
    ) {
        let log = Log::with(|lines| for (what, a, b) in edits {
            let (a, b) = (a.index(lines.len()), b.index(lines.len()));
            match what {
                0 => lines.swap(a, b),
                1 => { lines.remove(a); }
                2 => { let line = lines[a].clone(); lines.insert(b, line); }
                _ => { let at = b % lines[a].len(); lines[a][at] ^= 4; }
            }
        });
        let covered = log.clone().lines()[..log.files[0].1.len().min(16)].to_vec();
        let sound = Log::with(|_| ()).lines()[..16].to_vec();
        prop_assert_eq!(log.report().findings.is_empty() , covered == sound && log.clone().lines()[16..] == lines((0..log.files[0].1.len() as u64).map(record))[16..]);
    }
}

#[test]
fn a_log_without_a_checkpoint_is_sound_only_as_the_running_kmsd_knows_it() {
    let lines = lines((0..3).map(record));
    let end = checkpoint(&lines, 1, 1, Hash::default());
    let read = |chain: Hash| {
        let head = Mark {
            size: end.size,
            chain,
            root: Some(end.root),
            source: Source::Head,
        };
        let mut verifier = LogVerifier::new(vec![head]);
        verifier.begin_file("log", 0);
        for line in &lines {
            verifier.line(line);
        }
        verifier.finish()
    };
    let agrees = read(end.chain);
    assert_eq!(agrees.findings, []);
    let none = |keys: &Keys, report: &LogReport, head: bool| {
        let mut none = Checkpoints::verify(keys, "checkpoints", b"");
        let note = none.none_at_all(keys, "checkpoints", report, head);
        assert_eq!(note.is_some(), none.findings.is_empty());
        note.is_some()
    };
    assert!(none(&keys(), &agrees, true));
    assert!(!none(&keys(), &agrees, false));
    // Another head, or a key that came after other checkpoints.
    assert!(!none(&keys(), &read(Hash::default()), true));
    let mut later = keys();
    assert!(later.add(LogKey {
        since: 3,
        verifier: verifier(2),
        tpm: None,
    }));
    assert!(!none(&later, &agrees, true));
}
