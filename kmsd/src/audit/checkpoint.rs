//! Checkpoints of the audit log: a thread of its own has the log's head signed, by the TPM where there is one, and keeps
//! the notes.
//!
//! A checkpoint uses up a value of the sealer's checkpoint counter: the value goes into the text, the text is signed and
//! made durable, then the counter goes on. Whatever is interrupted, the next attempt finds which of the two it was, so
//! that an undisturbed log has no gap; and a value that has passed cannot be signed for again.

use std::fs::File;
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, SyncSender, TrySendError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use data_encoding::{BASE64, HEXLOWER};
use kms_core::audit::attest::{Attestation, Signed, TpmKeys};
use kms_core::audit::checkpoint::{Checkpoint, Sealer};
use kms_core::audit::keys::{Keys, LogKey};
use kms_core::audit::note::{KIND_ED25519, Note, Signature, VerifierKey, notes_of};
use kms_core::rows::Hash;
use kms_seal::{Checkpointer, Quoted, SealError, TpmAttestation};
use parking_lot::{Condvar, Mutex};

use super::log::service;
use super::open::aside;
use super::witness::{Told, Witness, WitnessConfig, WitnessStatus};
use super::{Appended, AuditLog, Observer, space};

/// The notes, one after the other.
pub const CHECKPOINTS: &str = "checkpoints";
/// The public keys that they are verified with.
pub const KEYS: &str = "keys.json";

/// A failure that stays is reported at most this often.
const REPORT_INTERVAL: Duration = Duration::from_secs(60);

/// Checkpoints that wait to be copied; more are dropped, which is said.
const COPIES: usize = 16;
/// How long the end waits for the last copies.
const COPY_PATIENCE: Duration = Duration::from_secs(5);

/// When checkpoints are made and where copies go.
#[derive(Clone, Debug)]
pub struct CheckpointConfig {
    /// At the latest after this time there is a checkpoint over a new record.
    pub interval: Duration,
    /// Each checkpoint is also appended to this file, which should lie on another machine.
    pub copy: Option<PathBuf>,
    /// Who is to cosign the checkpoints.
    pub witnesses: Vec<WitnessConfig>,
    /// Account and region, for the name of a new log.
    pub scope: String,
}

/// How the checkpoints stand.
#[derive(Clone, Debug, Default)]
pub struct CheckpointStatus {
    /// Number of the last one; 0: there is none.
    pub number: u64,
    /// Records that it covers.
    pub size: u64,
    /// Wall clock of the last one, milliseconds since 1970.
    pub time_ms: i64,
    /// How the witnesses stand.
    pub witnesses: Vec<WitnessStatus>,
}

/// Why checkpoints cannot be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CheckpointError {
    /// A file.
    #[error("{}: {source}", path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file is not what kmsd wrote.
    #[error("{}: {reason}", path.display())]
    Damaged {
        /// Which.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// The sealer failed.
    #[error(transparent)]
    Seal(#[from] SealError),
    /// The log begins later than with its first record, and the tree over it is not known.
    #[error("the beginning of the log is gone, so its tree cannot be continued")]
    NoTree,
}

#[derive(Default)]
struct Wanted {
    now: bool,
    closed: bool,
    /// Attempts that ended.
    rounds: u64,
}

struct Shared {
    wanted: Mutex<Wanted>,
    wake: Condvar,
    ended: Condvar,
    /// Number, size and time of the last checkpoint.
    last: Mutex<(u64, u64, i64)>,
}

/// The thread that makes checkpoints. Clones are the same one; it ends with the last of them, since it holds the log: who
/// opens that anew must not find it still being written.
#[derive(Clone)]
pub struct Checkpoints {
    running: Arc<Running>,
    witnesses: Arc<Vec<Witness>>,
}

struct Running {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Running {
    fn close(&self) {
        self.shared.wanted.lock().closed = true;
        self.shared.wake.notify_all();
        if let Some(thread) = self.thread.lock().take()
            && thread.join().is_err()
        {
            tracing::error!("the thread that makes checkpoints ended with a panic");
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.close();
    }
}

/// Wakes the thread when a file is complete.
struct Rotation(Arc<Shared>);

impl Observer for Rotation {
    fn looks_at_uses(&self) -> bool {
        false
    }

    fn appended(&mut self, _: &[Appended<'_>], _: u64) {}

    fn rotated(&mut self) {
        self.0.wanted.lock().now = true;
        self.0.wake.notify_all();
    }
}

impl Checkpoints {
    /// Writes the public keys and starts the thread. `generation` gives that of the catalogue.
    ///
    /// # Errors
    /// The notes or keys that are there cannot be used.
    pub fn start(
        log: AuditLog,
        desk: Box<dyn Checkpointer>,
        config: CheckpointConfig,
        generation: impl Fn() -> u64 + Send + 'static,
    ) -> Result<Self, CheckpointError> {
        let maker = Maker::new(log.clone(), desk, config, Box::new(generation))?;
        let witnesses = Arc::clone(&maker.witnesses);
        let shared = Arc::new(Shared {
            wanted: Mutex::default(),
            wake: Condvar::new(),
            ended: Condvar::new(),
            last: Mutex::new(maker.summary()),
        });
        log.observe(Box::new(Rotation(Arc::clone(&shared))));
        let directory = log.directory().to_owned();
        let thread = {
            let shared = Arc::clone(&shared);
            std::thread::Builder::new()
                .name("checkpoints".into())
                .spawn(move || maker.run(&shared))
                .map_err(|source| CheckpointError::Io {
                    path: directory,
                    source,
                })?
        };
        let thread = Mutex::new(Some(thread));
        Ok(Self {
            witnesses,
            running: Arc::new(Running { shared, thread }),
        })
    }

    /// Makes a checkpoint now, if there are records without one, and waits for the attempt to end, at most `patience`.
    /// Says whether it ended.
    pub fn make_now(&self, patience: Duration) -> bool {
        let until = Instant::now() + patience;
        let shared = &self.running.shared;
        let mut wanted = shared.wanted.lock();
        // One that is under way may have begun before the newest record.
        let enough = wanted.rounds.saturating_add(2);
        while wanted.rounds < enough && !wanted.closed {
            wanted.now = true;
            shared.wake.notify_all();
            if shared.ended.wait_until(&mut wanted, until).timed_out() {
                return false;
            }
        }
        true
    }

    /// How the checkpoints stand, and the witnesses that cosign them.
    pub fn status(&self) -> CheckpointStatus {
        let (number, size, time_ms) = *self.running.shared.last.lock();
        CheckpointStatus {
            number,
            size,
            time_ms,
            witnesses: self.witnesses.iter().map(Witness::status).collect(),
        }
    }

    /// Makes a last checkpoint and ends the thread.
    pub fn close(&self) {
        self.running.close();
    }
}

/// A thread that appends checkpoints to the copy: a file on another machine can hang for as long as that is away.
struct Copier {
    queue: SyncSender<String>,
    /// Ends when the thread does.
    ended: Receiver<()>,
    path: PathBuf,
}

impl Copier {
    fn start(path: &Path) -> io::Result<Self> {
        let (queue, notes) = mpsc::sync_channel::<String>(COPIES);
        let (running, ended) = mpsc::channel::<()>();
        let copy = path.to_owned();
        std::thread::Builder::new()
            .name("checkpoint-copy".into())
            .spawn(move || {
                let _running = running;
                for note in notes {
                    if let Err(error) = append(&copy, &note) {
                        tracing::warn!(%error, file = %copy.display(), "a checkpoint could not be copied");
                    }
                }
            })?;
        Ok(Self {
            queue,
            ended,
            path: path.to_owned(),
        })
    }

    /// Hands over a note; never waits.
    fn copy(&self, note: &str) {
        let reason = match self.queue.try_send(note.to_owned()) {
            Ok(()) => return,
            Err(TrySendError::Full(_)) => "the file takes nothing",
            Err(TrySendError::Disconnected(_)) => "the thread that copies has ended",
        };
        tracing::warn!(
            reason,
            file = %self.path.display(),
            "a checkpoint is not copied; it is in the log's directory"
        );
    }

    /// Waits for the copies under way, at most `patience`; the thread is left to itself then.
    fn close(self, patience: Duration) {
        drop(self.queue);
        if self.ended.recv_timeout(patience) == Err(RecvTimeoutError::Timeout) {
            tracing::warn!(
                file = %self.path.display(),
                "the last checkpoints are not copied: the file takes nothing"
            );
        }
    }
}

struct Maker {
    log: AuditLog,
    desk: Box<dyn Checkpointer>,
    config: CheckpointConfig,
    generation: Box<dyn Fn() -> u64 + Send>,
    keys: Keys,
    verifier: VerifierKey,
    tpm: Option<TpmKeys>,
    last: Option<Checkpoint>,
    /// Whether the present key signed the last one, so that the counters are of one row.
    same_key: bool,
    /// The counter has gone on since the last one.
    closed_last: bool,
    reported: Option<(String, Instant)>,
    copier: Option<Copier>,
    witnesses: Arc<Vec<Witness>>,
}

impl Maker {
    fn new(
        log: AuditLog,
        desk: Box<dyn Checkpointer>,
        config: CheckpointConfig,
        generation: Box<dyn Fn() -> u64 + Send>,
    ) -> Result<Self, CheckpointError> {
        let directory = log.directory();
        let last = last_note(&directory.join(CHECKPOINTS))?;
        let last_checkpoint =
            match &last {
                None => None,
                Some(note) => Some(Checkpoint::parse(note.text()).map_err(|error| {
                    CheckpointError::Damaged {
                        path: directory.join(CHECKPOINTS),
                        reason: format!("its last checkpoint cannot be read: {error}"),
                    }
                })?),
            };
        let path = directory.join(KEYS);
        let mut keys = match std::fs::read(&path) {
            Ok(json) => Keys::parse(&json).map_err(|error| CheckpointError::Damaged {
                path: path.clone(),
                reason: error.to_string(),
            })?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Keys::new(match &last_checkpoint {
                    Some(last) => last.origin.clone(),
                    None => new_origin(&config.scope)?,
                })
            }
            Err(source) => return Err(CheckpointError::Io { path, source }),
        };
        let public = desk.keys();
        let verifier = VerifierKey {
            name: keys.origin.clone(),
            kind: KIND_ED25519,
            public: public.ed25519,
        };
        let tpm = public.tpm.as_ref().map(|tpm| TpmKeys {
            attestation_key: tpm.attestation_key.clone(),
            endorsement_name: tpm.endorsement_name.clone(),
            counter: tpm.counter.clone(),
            certifies: tpm.certifies,
        });
        let added = keys.add(LogKey {
            since: last_checkpoint
                .as_ref()
                .map_or(1, |last| last.number.saturating_add(1)),
            verifier: verifier.clone(),
            tpm: tpm.clone(),
        });
        if added {
            replace(&path, keys.to_json().as_bytes()).map_err(|source| CheckpointError::Io {
                path: path.clone(),
                source,
            })?;
            tracing::warn!(
                file = %path.display(),
                "checkpoints of the audit log are signed by a new key: copy this file to another machine, \
                 `kmsctl audit verify --keys` needs it there"
            );
            log.push(
                service("AuditCheckpointKey").detail("verifier", verifier.to_string()),
                None,
                false,
            );
        }
        let copier = match &config.copy {
            None => None,
            Some(path) => Some(Copier::start(path).map_err(|source| CheckpointError::Io {
                path: path.clone(),
                source,
            })?),
        };
        let mut witnesses = Vec::new();
        let cosigned = Arc::default();
        for witness in &config.witnesses {
            let started = Witness::start(witness.clone(), log.clone(), Arc::clone(&cosigned));
            witnesses.push(started.map_err(|source| CheckpointError::Io {
                path: log.directory().join(super::COSIGNED),
                source,
            })?);
        }
        if let (Some(note), Some(checkpoint)) = (&last, &last_checkpoint) {
            // They may not have it yet.
            for witness in &witnesses {
                witness.tell(Told {
                    note: note.clone(),
                    checkpoint: checkpoint.clone(),
                    edge: None,
                });
            }
        }
        let same_key = last
            .as_ref()
            .is_some_and(|note| note.by(&verifier.name, verifier.id()).is_some());
        Ok(Self {
            log,
            desk,
            config,
            generation,
            keys,
            verifier,
            tpm,
            last: last_checkpoint,
            same_key,
            closed_last: false,
            reported: None,
            copier,
            witnesses: Arc::new(witnesses),
        })
    }

    fn run(mut self, shared: &Shared) {
        loop {
            let closed = {
                let mut wanted = shared.wanted.lock();
                let until = Instant::now() + self.config.interval;
                while !wanted.now && !wanted.closed {
                    if shared.wake.wait_until(&mut wanted, until).timed_out() {
                        break;
                    }
                }
                wanted.now = false;
                wanted.closed
            };
            if let Err(error) = self.make() {
                self.report(&error);
            } else if self.reported.take().is_some() {
                tracing::info!("checkpoints of the audit log can be made again");
            }
            *shared.last.lock() = self.summary();
            {
                let mut wanted = shared.wanted.lock();
                wanted.rounds = wanted.rounds.saturating_add(1);
                shared.ended.notify_all();
            }
            if closed {
                if let Some(copier) = self.copier.take() {
                    copier.close(COPY_PATIENCE);
                }
                let until = Instant::now() + COPY_PATIENCE;
                for witness in self.witnesses.iter() {
                    witness.close(until.saturating_duration_since(Instant::now()));
                }
                return;
            }
        }
    }

    /// Number, size and time of the last checkpoint.
    fn summary(&self) -> (u64, u64, i64) {
        let last = self.last.as_ref();
        last.map_or((0, 0, 0), |last| (last.number, last.size, last.time_ms))
    }

    fn report(&mut self, error: &CheckpointError) {
        let text = error.to_string();
        let known = self
            .reported
            .as_ref()
            .is_some_and(|(said, at)| *said == text && at.elapsed() < REPORT_INTERVAL);
        if !known {
            tracing::warn!(
                error = text,
                "no checkpoint of the audit log could be made; the log goes on, and it is tried again"
            );
            self.reported = Some((text, Instant::now()));
        }
    }

    /// Makes a checkpoint, if there are records that have none.
    fn make(&mut self) -> Result<(), CheckpointError> {
        let durable = self.log.durable();
        let covered = self.last.as_ref().map_or(0, |last| last.size);
        // Fewer records than before: a gap was accepted. That is seen from then on, and what comes after is vouched for.
        let nothing_new = durable.head.size == covered;
        if nothing_new && (self.closed_last || self.last.is_none()) {
            return Ok(());
        }
        let counter = self.counter()?;
        if nothing_new {
            return Ok(());
        }
        let edge = durable.edge();
        if edge.size() != durable.head.size {
            return Err(CheckpointError::NoTree);
        }
        let checkpoint = Checkpoint {
            origin: self.keys.origin.clone(),
            size: durable.head.size,
            root: Hash(edge.root()),
            number: self
                .last
                .as_ref()
                .map_or(1, |last| last.number.saturating_add(1)),
            counter,
            chain: durable.head.chain,
            previous: self.last.as_ref().map(Checkpoint::hash).unwrap_or_default(),
            time_ms: space::now_ms(),
            store: (self.generation)(),
            sealer: if self.tpm.is_some() {
                Sealer::Tpm
            } else {
                Sealer::Software
            },
        };
        let note = self.sign(&checkpoint)?;
        let path = self.log.directory().join(CHECKPOINTS);
        append(&path, &note.to_string()).map_err(|source| CheckpointError::Io { path, source })?;
        let told = Told {
            note,
            checkpoint: checkpoint.clone(),
            edge: Some(edge.clone()),
        };
        self.last = Some(checkpoint);
        self.same_key = true;
        self.closed_last = false;
        // First what keeps another note from getting this value; a copy needs it no sooner.
        let advanced = self.desk.advance();
        self.spread(told);
        advanced?;
        self.closed_last = true;
        Ok(())
    }

    /// The counter's value for the next checkpoint; the one of the last checkpoint is used up first, if it is not yet.
    fn counter(&mut self) -> Result<u64, CheckpointError> {
        let mut counter = self.desk.counter()?;
        let Some(last) = self.last.as_ref().filter(|_| self.same_key) else {
            return Ok(counter);
        };
        if counter == last.counter {
            counter = self.desk.advance()?;
        }
        let expected = last.counter.saturating_add(1);
        if counter != expected && !self.closed_last {
            // Told once: the next checkpoint goes on from here, and shows the gap to whoever verifies.
            tracing::error!(
                last = last.number,
                expected,
                counter,
                "the checkpoint counter does not follow the last checkpoint: checkpoints were removed or replaced, or \
                 something else used the counter; run `kmsctl audit verify`"
            );
            self.log.push(
                service("AuditCheckpointGap")
                    .detail("checkpoint", last.number)
                    .detail("expectedCounter", expected)
                    .detail("counter", counter),
                None,
                false,
            );
        }
        self.closed_last = true;
        Ok(counter)
    }

    fn sign(&mut self, checkpoint: &Checkpoint) -> Result<Note, CheckpointError> {
        let mut note = Note::new(checkpoint.text());
        let qualifying = checkpoint.qualifying();
        let vouched = self.desk.vouch(note.text().as_bytes(), &qualifying)?;
        let name = &self.verifier.name;
        note.sign(Signature {
            name: name.clone(),
            id: self.verifier.id(),
            bytes: vouched.signature.to_vec(),
        });
        if let (Some(keys), Some(attestation)) = (&self.tpm, vouched.tpm) {
            let attestation = attestation_of(attestation);
            let damaged = |error: &dyn std::fmt::Display| CheckpointError::Damaged {
                path: self.log.directory().join(CHECKPOINTS),
                reason: format!("the TPM's attestation does not verify: {error}"),
            };
            // Kept only if it will verify: somebody may have moved the counter meanwhile.
            keys.verify(&attestation, &qualifying, checkpoint.counter)
                .map_err(|error| damaged(&error))?;
            note.sign(Signature {
                name: name.clone(),
                id: keys.key_id(name).map_err(|error| damaged(&error))?,
                bytes: attestation.to_bytes(),
            });
        }
        Ok(note)
    }

    /// Copies a checkpoint to where it is out of reach. What fails or hangs is told, and holds nothing up.
    fn spread(&self, told: Told) {
        let note = told.note.to_string();
        let last = self.last.as_ref();
        tracing::info!(
            number = last.map(|last| last.number),
            records = last.map(|last| last.size),
            note = BASE64.encode(note.as_bytes()),
            "checkpoint of the audit log"
        );
        if let Some(copier) = &self.copier {
            copier.copy(&note);
        }
        for witness in self.witnesses.iter() {
            witness.tell(told.clone());
        }
    }
}

fn attestation_of(attestation: TpmAttestation) -> Attestation {
    let signed = |Quoted { attest, signature }| Signed { attest, signature };
    Attestation {
        quote: signed(attestation.quote),
        certification: attestation.certification.map(signed),
    }
}

fn new_origin(scope: &str) -> Result<String, CheckpointError> {
    let random: [u8; 8] = kms_crypto::random_array().map_err(SealError::from)?;
    Ok(format!("kmsd.local/{scope}/{}", HEXLOWER.encode(&random)))
}

/// The last note of the file. What a crash left of one that was being written is cut, and the file as it was is kept.
fn last_note(path: &Path) -> Result<Option<Note>, CheckpointError> {
    let io = |source| CheckpointError::Io {
        path: path.to_owned(),
        source,
    };
    let bytes = match std::fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(io(source)),
    };
    let mut end = 0;
    let mut last = None;
    for (_, note) in notes_of(&bytes) {
        // A malformed one in the middle is for `audit verify` to find; what matters here is where to go on.
        if let Ok(note) = note {
            end += note.to_string().len();
            last = Some(note);
        } else {
            break;
        }
    }
    let rest = bytes.get(end..).unwrap_or_default();
    if !rest.is_empty() {
        if rest.windows(2).filter(|pair| *pair == b"\n\n").count() > 1 {
            return Err(CheckpointError::Damaged {
                path: path.to_owned(),
                reason: "a checkpoint in it is malformed; run `kmsctl audit verify`, then move the file away"
                    .to_owned(),
            });
        }
        // It may also have been written whole and altered since: what it was stays to be looked at.
        let kept = aside(path);
        tracing::warn!(
            file = %path.display(),
            bytes = rest.len(),
            kept = %kept.display(),
            "the last checkpoint is malformed or was not written to its end; it was cut"
        );
        let cut = || -> io::Result<()> {
            std::fs::copy(path, &kept)?;
            File::open(&kept)?.sync_all()?;
            if let Some(directory) = path.parent() {
                File::open(directory)?.sync_all()?;
            }
            let file = File::options().write(true).open(path)?;
            file.set_len(end as u64)?;
            file.sync_all()
        };
        cut().map_err(io)?;
    }
    Ok(last)
}

/// Appends a note and makes it durable: all of it, or nothing.
pub(super) fn append(path: &Path, text: &str) -> io::Result<()> {
    append_with(path, |file| {
        file.write_all(text.as_bytes())?;
        file.sync_data()
    })
}

/// The same with what `write` writes.
fn append_with(path: &Path, write: impl FnOnce(&mut File) -> io::Result<()>) -> io::Result<()> {
    let mut file = File::options()
        .append(true)
        .create(true)
        .mode(0o600)
        .open(path)?;
    let before = file.metadata()?.len();
    let written = write(&mut file).and_then(|()| match path.parent() {
        Some(directory) if before == 0 => File::open(directory)?.sync_all(),
        _ => Ok(()),
    });
    if written.is_err() {
        // Part of a note in the middle of the file would be taken for a checkpoint that was altered, for ever. One that may
        // be durable must not stay either: the next one would have the same number.
        if let Err(error) = file.set_len(before).and_then(|()| file.sync_all()) {
            tracing::error!(
                %error,
                file = %path.display(),
                "what was written of a checkpoint could not be taken back"
            );
        }
    }
    written
}

fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    let new = path.with_extension("new");
    let mut file = File::options()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o644)
        .open(&new)?;
    file.write_all(content)?;
    file.sync_all()?;
    std::fs::rename(&new, path)?;
    match path.parent() {
        Some(directory) => File::open(directory)?.sync_all(),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests;
