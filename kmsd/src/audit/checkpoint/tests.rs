//! Checkpoints by a real swtpm and by a key file, and what whoever has the chip can still do.

use std::fs;
use std::sync::atomic::{AtomicUsize, Ordering};

use kms_core::audit::verify::{self, FindingKind, LogReport, LogVerifier};
use kms_core::audit::{LOCAL_SOURCE, Record};
use kms_seal::testing::Swtpm;
use kms_seal::{
    Credential, Enrollment, LogKeys, Profile, RootSealer, SealerConfig, SealerKind, Vouched,
};
use tempfile::TempDir;
use uuid::Uuid;

use super::*;
use crate::audit::AuditConfig;

const PATIENCE: Duration = Duration::from_secs(60);

struct Host {
    directory: TempDir,
    tpm: Option<Swtpm>,
    credential: Credential,
    enrollment: Option<Enrollment>,
}

impl Host {
    fn new(with_tpm: bool) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let tpm = with_tpm.then(|| Swtpm::start(directory.path().join("tpm")).unwrap());
        let mut host = Self {
            directory,
            tpm,
            credential: Credential::random().unwrap(),
            enrollment: None,
        };
        let mut sealer = host.sealer();
        let (old, _) = sealer.enroll(Profile::Machine, &host.credential).unwrap();
        host.enrollment = Some(sealer.prepare_checkpoints(&old).unwrap());
        host
    }

    fn sealer(&self) -> Box<dyn RootSealer> {
        let config = match &self.tpm {
            Some(tpm) => SealerConfig {
                device: tpm.device(),
                wait: Duration::from_secs(20),
                ..SealerConfig::default()
            },
            None => SealerConfig {
                kind: SealerKind::Software,
                key_file: self.directory.path().join("seal.key"),
                ..SealerConfig::default()
            },
        };
        kms_seal::open(&config).unwrap()
    }

    fn desk(&self) -> Box<dyn Checkpointer> {
        let enrollment = self.enrollment.as_ref().unwrap();
        let mut sealer = self.sealer();
        sealer.unseal(enrollment, &self.credential).unwrap();
        sealer.checkpointer(enrollment).unwrap()
    }

    fn audit(&self) -> PathBuf {
        self.directory.path().join("audit")
    }

    /// A run of kmsd that writes `count` records for each of `rounds` checkpoints.
    fn run(&self, desk: Box<dyn Checkpointer>, rounds: usize, count: usize) {
        let (log, checkpoints) = self.start(desk);
        for _ in 0..rounds {
            records(&log, count);
            assert!(checkpoints.make_now(PATIENCE));
        }
        log.close();
        checkpoints.close();
    }

    fn start(&self, desk: Box<dyn Checkpointer>) -> (AuditLog, Checkpoints) {
        let log = AuditLog::open(AuditConfig::new(self.audit()), None)
            .unwrap()
            .log;
        let config = CheckpointConfig {
            interval: Duration::from_secs(3600),
            copy: Some(self.directory.path().join("copy")),
            witnesses: Vec::new(),
            scope: "000000000000/test".to_owned(),
        };
        let checkpoints = Checkpoints::start(log.clone(), desk, config, || 7).unwrap();
        (log, checkpoints)
    }

    fn keys(&self) -> Keys {
        Keys::parse(&fs::read(self.audit().join(KEYS)).unwrap()).unwrap()
    }

    fn verify(&self) -> (verify::Checkpoints, LogReport) {
        self.verify_with(&self.keys())
    }

    fn verify_with(&self, keys: &Keys) -> (verify::Checkpoints, LogReport) {
        let notes = fs::read(self.audit().join(CHECKPOINTS)).unwrap();
        let checkpoints = verify::Checkpoints::verify(keys, CHECKPOINTS, &notes);
        let mut verifier = LogVerifier::new(checkpoints.marks());
        for file in crate::audit::list(&self.audit()).unwrap() {
            verifier.begin_file("log", file.first);
            for line in fs::read(&file.path)
                .unwrap()
                .split_inclusive(|byte| *byte == b'\n')
            {
                verifier.line(line.strip_suffix(b"\n").unwrap());
            }
        }
        (checkpoints, verifier.finish())
    }

    fn sound(&self, number: u64) {
        let (checkpoints, report) = self.verify();
        assert_eq!(
            (&checkpoints.findings, &report.findings),
            (&vec![], &vec![])
        );
        assert_eq!(report.covered_by, Some(number));
        assert_eq!(report.uncovered, 0);
        assert_eq!(checkpoints.all_of_a_tpm(), self.tpm.is_some());
    }
}

fn records(log: &AuditLog, count: usize) {
    for _ in 0..count {
        let record = Record::service(Uuid::new_v4().to_string(), 1, LOCAL_SOURCE, "Test");
        let ticket = log.push(record, None, true);
        log.wait_blocking(ticket).unwrap();
    }
}

/// Fails at the `left`-th call of one kind from now on, once.
struct Failing {
    desk: Box<dyn Checkpointer>,
    vouch: AtomicUsize,
    advance: AtomicUsize,
    /// Whether a failing advance happened all the same.
    happened: bool,
}

fn due(left: &AtomicUsize) -> bool {
    left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| {
        left.checked_sub(1)
    }) == Ok(1)
}

fn lost<T>() -> Result<T, SealError> {
    Err(SealError::NoDevice {
        device: "injected".into(),
        reason: "injected".into(),
    })
}

impl Checkpointer for Failing {
    fn keys(&self) -> &LogKeys {
        self.desk.keys()
    }

    fn counter(&mut self) -> Result<u64, SealError> {
        self.desk.counter()
    }

    fn advance(&mut self) -> Result<u64, SealError> {
        if due(&self.advance) {
            if self.happened {
                self.desk.advance()?;
            }
            return lost();
        }
        self.desk.advance()
    }

    fn vouch(&mut self, text: &[u8], qualifying: &[u8; 32]) -> Result<Vouched, SealError> {
        if due(&self.vouch) {
            return lost();
        }
        self.desk.vouch(text, qualifying)
    }
}

#[test]
fn a_log_with_checkpoints_verifies_over_restarts() {
    for with_tpm in [false, true] {
        let host = Host::new(with_tpm);
        host.run(host.desk(), 3, 4);
        // The record of the new key has come to the first, and the end of the run needed none.
        host.sound(3);
        host.run(host.desk(), 2, 3);
        host.sound(5);
        let copy = fs::read(host.directory.path().join("copy")).unwrap();
        assert_eq!(copy, fs::read(host.audit().join(CHECKPOINTS)).unwrap());
        assert_eq!(host.keys().keys().len(), 1);
    }
}

#[test]
fn nothing_new_needs_no_checkpoint() {
    let host = Host::new(false);
    let (log, checkpoints) = host.start(host.desk());
    records(&log, 2);
    for _ in 0..3 {
        assert!(checkpoints.make_now(PATIENCE));
    }
    log.close();
    checkpoints.close();
    host.sound(1);
}

#[test]
fn whatever_fails_leaves_no_gap() {
    for with_tpm in [false, true] {
        for (vouch, advance, happened) in
            [(1, 0, false), (2, 0, false), (0, 1, false), (0, 2, true)]
        {
            let host = Host::new(with_tpm);
            let desk = Failing {
                desk: host.desk(),
                vouch: AtomicUsize::new(vouch),
                advance: AtomicUsize::new(advance),
                happened,
            };
            host.run(Box::new(desk), 3, 2);
            let (checkpoints, report) = host.verify();
            assert_eq!(
                (&checkpoints.findings, &report.findings),
                (&vec![], &vec![])
            );
            assert_eq!(report.uncovered, 0, "{vouch} {advance} {happened}");
        }
        // The same with the end of kmsd in between.
        for happened in [false, true] {
            let host = Host::new(with_tpm);
            let desk = Failing {
                desk: host.desk(),
                vouch: AtomicUsize::new(0),
                advance: AtomicUsize::new(2),
                happened,
            };
            host.run(Box::new(desk), 2, 2);
            host.run(host.desk(), 2, 2);
            let (checkpoints, report) = host.verify();
            assert_eq!(
                (&checkpoints.findings, &report.findings),
                (&vec![], &vec![])
            );
            assert_eq!(report.uncovered, 0);
        }
    }
}

#[test]
fn a_checkpoint_cut_short_by_a_crash_is_made_again() {
    let host = Host::new(true);
    host.run(host.desk(), 2, 2);
    let path = host.audit().join(CHECKPOINTS);
    let notes = fs::read(&path).unwrap();
    // As before its counter was used up: the chip of a crashed host is one value behind.
    let (log, _) = (host.audit(), ());
    for (n, cut) in [1, 300, notes.len() / 2 - 1].into_iter().enumerate() {
        let torn = &notes[..notes.len() - cut];
        fs::write(&path, torn).unwrap();
        assert_eq!(
            last_note(&path)
                .unwrap()
                .map(|note| note.signatures().len()),
            Some(2)
        );
        assert_eq!(
            fs::read(&path).unwrap().len() % (notes.len() / 2),
            0,
            "{}",
            log.display()
        );
        // It may not have been a crash.
        let kept = log.join(format!("damaged-{n}-checkpoints"));
        assert_eq!(fs::read(kept).unwrap(), torn);
    }
}

#[test]
fn a_log_signed_again_by_the_same_chip_shows_a_gap() {
    for with_tpm in [false, true] {
        let host = Host::new(with_tpm);
        host.run(host.desk(), 4, 3);
        // Root keeps the first checkpoint, writes other records after it, and lets the chip sign them.
        let notes = fs::read(host.audit().join(CHECKPOINTS)).unwrap();
        let first = notes_of(&notes).next().unwrap().1.unwrap();
        let kept = Checkpoint::parse(first.text()).unwrap().size;
        let file = crate::audit::list(&host.audit()).unwrap().remove(0).path;
        let lines: Vec<_> = fs::read_to_string(&file)
            .unwrap()
            .lines()
            .take(kept as usize)
            .map(|line| format!("{line}\n"))
            .collect();
        fs::write(&file, lines.concat()).unwrap();
        fs::write(host.audit().join(CHECKPOINTS), first.to_string()).unwrap();
        let keys = host.keys();
        host.run(host.desk(), 3, 5);
        let (checkpoints, report) = host.verify_with(&keys);
        assert_eq!(report.findings, [], "by itself the new log is in order");
        assert_eq!(checkpoints.findings[0].kind, FindingKind::CounterGap);
        assert_eq!(checkpoints.findings[0].place.checkpoint, Some(2));
        // kmsd itself has said so in the log.
        let log = fs::read_to_string(&file).unwrap();
        assert!(log.contains("AuditCheckpointGap"));
    }
}

#[test]
fn values_that_have_passed_cannot_be_signed_for_again() {
    let host = Host::new(true);
    host.run(host.desk(), 3, 2);
    let notes = fs::read(host.audit().join(CHECKPOINTS)).unwrap();
    let all: Vec<_> = notes_of(&notes).map(|(_, note)| note.unwrap()).collect();
    // The last one, with another root: what root of the host would have to do to rewrite its records.
    let mut forged = Checkpoint::parse(all[2].text()).unwrap();
    forged.root = Hash([9; 32]);
    let mut desk = host.desk();
    let vouched = desk
        .vouch(forged.text().as_bytes(), &forged.qualifying())
        .unwrap();
    let keys = host.keys();
    let key = &keys.keys()[0];
    let mut note = Note::new(forged.text());
    note.sign(Signature {
        name: keys.origin.clone(),
        id: key.verifier.id(),
        bytes: vouched.signature.to_vec(),
    });
    note.sign(Signature {
        name: keys.origin.clone(),
        id: key.tpm.as_ref().unwrap().key_id(&keys.origin).unwrap(),
        bytes: attestation_of(vouched.tpm.unwrap()).to_bytes(),
    });
    let refused = verify::verify_note(&keys, &note).unwrap_err();
    assert!(
        refused.contains("counter has another value in the TPM"),
        "{refused}"
    );
    // And without the TPM the signature alone is not enough.
    let mut note = Note::new(all[2].text());
    note.sign(all[2].signatures()[0].clone());
    let refused = verify::verify_note(&keys, &note).unwrap_err();
    assert!(refused.contains("TPM has not attested"), "{refused}");
}

#[test]
fn a_new_enrolment_signs_on_with_a_new_key() {
    let mut host = Host::new(true);
    host.run(host.desk(), 2, 2);
    let before = host.keys();
    let mut sealer = host.sealer();
    let (old, _) = sealer.enroll(Profile::Machine, &host.credential).unwrap();
    host.enrollment = Some(sealer.prepare_checkpoints(&old).unwrap());
    host.run(host.desk(), 2, 2);
    host.sound(4);
    assert_eq!(host.keys().keys()[1].since, 3);
    // Who has the keys of before is told that they do not know the new one.
    let (checkpoints, _) = host.verify_with(&before);
    assert_eq!(checkpoints.findings[0].place.checkpoint, Some(3));
    assert!(checkpoints.findings[0].text.contains("enrolled anew"));
}

#[test]
fn a_note_that_cannot_be_written_to_its_end_leaves_nothing() {
    let host = Host::new(false);
    host.run(host.desk(), 1, 2);
    let path = host.audit().join(CHECKPOINTS);
    let before = fs::read(&path).unwrap();
    // The disk is full half way, or fails when all is written.
    for full in [false, true] {
        append_with(&path, |file| {
            let part = if full { 40 } else { before.len() };
            file.write_all(&before[..part])?;
            Err(io::ErrorKind::StorageFull.into())
        })
        .unwrap_err();
        assert_eq!(fs::read(&path).unwrap(), before);
    }
    host.run(host.desk(), 1, 2);
    host.sound(2);
}

#[test]
fn a_copy_that_hangs_holds_up_neither_the_counter_nor_the_end() {
    let host = Host::new(false);
    let copy = host.directory.path().join("copy");
    // To open a FIFO that nobody reads from does not return.
    let fifo = std::process::Command::new("mkfifo")
        .arg(&copy)
        .status()
        .unwrap();
    assert!(fifo.success());
    let (log, checkpoints) = host.start(host.desk());
    for _ in 0..2 {
        records(&log, 1);
        assert!(checkpoints.make_now(PATIENCE));
    }
    host.sound(2);
    let last = host.verify().0.known.last().unwrap().checkpoint.counter;
    assert_eq!(host.desk().counter().unwrap(), last + 1);
    log.close();
    let (ended, end) = std::sync::mpsc::channel();
    let closing = std::thread::spawn(move || {
        checkpoints.close();
        let _ = ended.send(());
    });
    end.recv_timeout(PATIENCE).unwrap();
    closing.join().unwrap();
}

#[test]
fn the_thread_ends_with_those_who_hold_it() {
    let host = Host::new(false);
    let (log, checkpoints) = host.start(host.desk());
    records(&log, 1);
    assert_eq!(log.holders(), 2);
    drop(checkpoints.clone());
    assert_eq!(log.holders(), 2);
    drop(checkpoints);
    assert_eq!(
        log.holders(),
        1,
        "nobody but this test writes the log any more"
    );
}
