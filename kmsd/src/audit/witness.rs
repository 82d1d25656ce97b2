//! Witnesses: machines elsewhere that remember how long the log was and cosign its checkpoints
//! (c2sp.org/tlog-witness, `add-checkpoint`).
//!
//! Each witness has a thread of its own, so that one that is away holds nothing up. It submits the newest checkpoint with
//! the proof that the log only grew since the one that the witness cosigned last, verifies the cosignature, and keeps the note with it in the
//! file `cosigned`. What a witness knows is asked from it where kmsd does not know it (any more).

mod http;
mod leaves;

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use data_encoding::{BASE64, HEXLOWER};
use kms_core::audit::checkpoint::Checkpoint;
use kms_core::audit::note::{Note, Signature, VerifierKey, notes_of};
use kms_core::audit::tree::{Edge, Hash, consistency_proof, verify_consistency};
use parking_lot::{Condvar, Mutex};

use self::leaves::Leaves;
use super::AuditLog;
use super::checkpoint::append;
use super::log::service;
pub use http::Submission;

/// Checkpoints with the cosignatures of witnesses, one after the other.
pub const COSIGNED: &str = "cosigned";

/// The first wait after a failure; it doubles with each.
const FIRST_WAIT: Duration = Duration::from_secs(1);
/// The longest wait between two attempts.
const LONGEST_WAIT: Duration = Duration::from_secs(300);
/// How long a checkpoint may be without the cosignature of a witness before that is warned of.
const LAG: Duration = Duration::from_secs(600);
/// How often a witness may correct the size that it is asked from, in one attempt.
const CORRECTIONS: usize = 3;

/// A witness.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WitnessConfig {
    /// Where it takes checkpoints.
    pub submission: Submission,
    /// Its key, which cosigns.
    pub key: VerifierKey,
}

/// How a witness stands.
#[derive(Clone, Debug, Default)]
pub struct WitnessStatus {
    /// Name of its key.
    pub name: String,
    /// Number of records that it has cosigned.
    pub size: u64,
    /// Wall clock of its last cosignature, seconds since 1970; 0: there is none.
    pub time: u64,
    /// Why the last attempt failed.
    pub error: Option<String>,
    /// What the administrator should look at.
    pub warning: Option<String>,
}

/// A checkpoint to be cosigned.
#[derive(Clone, Debug)]
pub(super) struct Told {
    pub(super) note: Note,
    pub(super) checkpoint: Checkpoint,
    /// Edge of the tree under it; read from the log where it is not known.
    pub(super) edge: Option<Edge>,
}

/// Why a checkpoint is not cosigned.
#[derive(Debug, thiserror::Error)]
enum PushError {
    #[error("it cannot be reached: {0}")]
    Unreachable(#[from] io::Error),
    #[error("the log cannot be proved to it: {0}")]
    Proof(String),
    #[error("its answer makes no sense: {0}")]
    Answer(String),
    #[error(
        "it does not know this log: configure it there with the origin and the key in keys.json"
    )]
    UnknownLog,
    #[error("it does not trust the key of this log: give it the newest one in keys.json")]
    UnknownKey,
    #[error("it refuses the checkpoint with status {0}")]
    Refused(u16),
    #[error("its cosignature could not be kept: {0}")]
    Keep(io::Error),
    #[error(
        "it has cosigned {theirs} records of this log, here are {ours}: the log was put back or cut, or a copy of it ran elsewhere; \
         run `kmsctl audit verify`"
    )]
    Ahead { theirs: u64, ours: u64 },
    #[error(
        "what it has cosigned is not the beginning of this log: the log was rewritten, or a copy of it ran elsewhere; run `kmsctl audit verify`"
    )]
    Fork,
}

impl PushError {
    /// Whether it says that the log is not what it was.
    fn is_conflict(&self) -> bool {
        matches!(self, Self::Ahead { .. } | Self::Fork)
    }

    /// Whether trying again does not help before somebody has done something.
    fn is_lasting(&self) -> bool {
        self.is_conflict() || matches!(self, Self::UnknownLog | Self::UnknownKey)
    }
}

struct Wanted {
    newest: Option<Told>,
    closed: bool,
}

struct Shared {
    wanted: Mutex<Wanted>,
    wake: Condvar,
    status: Mutex<Status>,
}

#[derive(Default)]
struct Status {
    size: u64,
    time: u64,
    error: Option<(String, bool)>,
    /// Since when there is a checkpoint without a cosignature.
    behind: Option<Instant>,
}

/// The thread of a witness.
pub(super) struct Witness {
    name: String,
    shared: Arc<Shared>,
    ended: Mutex<Receiver<()>>,
}

impl Witness {
    /// Starts the thread. `files`: held while the file of the cosignatures is written.
    pub(super) fn start(
        config: WitnessConfig,
        log: AuditLog,
        files: Arc<Mutex<()>>,
    ) -> io::Result<Self> {
        let name = config.key.name.clone();
        let known = {
            let _files = files.lock();
            last_cosigned(&log.directory().join(COSIGNED), &config.key)?
        };
        let shared = Arc::new(Shared {
            wanted: Mutex::new(Wanted {
                newest: None,
                closed: false,
            }),
            wake: Condvar::new(),
            status: Mutex::new(Status {
                size: known.as_ref().map_or(0, |(checkpoint, _)| checkpoint.size),
                time: known.as_ref().map_or(0, |(_, time)| *time),
                ..Status::default()
            }),
        });
        let pusher = Pusher {
            known: known.map(|(checkpoint, _)| checkpoint),
            edge: load_edge(log.directory(), &config.key),
            leaves: Leaves::default(),
            told: None,
            config,
            log,
            files,
            shared: Arc::clone(&shared),
        };
        let (running, ended) = mpsc::channel::<()>();
        std::thread::Builder::new()
            .name("witness".into())
            .spawn(move || {
                let _running = running;
                pusher.run();
            })?;
        Ok(Self {
            name,
            shared,
            ended: Mutex::new(ended),
        })
    }

    /// Hands over a checkpoint; an older one that has not been submitted yet is left out. Never waits.
    pub(super) fn tell(&self, told: Told) {
        let mut wanted = self.shared.wanted.lock();
        if told.checkpoint.size > self.shared.status.lock().size {
            self.shared
                .status
                .lock()
                .behind
                .get_or_insert_with(Instant::now);
        }
        wanted.newest = Some(told);
        self.shared.wake.notify_all();
    }

    pub(super) fn status(&self) -> WitnessStatus {
        let status = self.shared.status.lock();
        let lags = status.behind.is_some_and(|since| since.elapsed() >= LAG);
        let warning = match &status.error {
            Some((text, lasting)) if *lasting || lags => Some(format!(
                "the witness {} cosigns no checkpoints: {text}",
                self.name
            )),
            None if lags => Some(format!("the witness {} lags behind", self.name)),
            _ => None,
        };
        WitnessStatus {
            name: self.name.clone(),
            size: status.size,
            time: status.time,
            error: status.error.as_ref().map(|(text, _)| text.clone()),
            warning,
        }
    }

    /// Submits what is left and ends the thread, waiting at most `patience`.
    pub(super) fn close(&self, patience: Duration) {
        self.shared.wanted.lock().closed = true;
        self.shared.wake.notify_all();
        let ended = self.ended.lock().recv_timeout(patience);
        if ended == Err(RecvTimeoutError::Timeout) {
            tracing::warn!(
                witness = self.name,
                "the last checkpoint is not cosigned; it is submitted after the next start"
            );
        }
    }
}

/// What the thread has.
struct Pusher {
    config: WitnessConfig,
    log: AuditLog,
    files: Arc<Mutex<()>>,
    shared: Arc<Shared>,
    /// The last checkpoint that the witness has cosigned, as far as it is known here.
    known: Option<Checkpoint>,
    /// An edge of the tree, from which others are computed.
    edge: Option<Edge>,
    leaves: Leaves,
    /// The failure that was logged last.
    told: Option<String>,
}

impl Pusher {
    fn run(mut self) {
        let mut wait = FIRST_WAIT;
        let mut again: Option<Instant> = None;
        loop {
            let (told, closed) = {
                let mut wanted = self.shared.wanted.lock();
                loop {
                    let due = again.is_none_or(|at| Instant::now() >= at);
                    let has_new = wanted.newest.as_ref().is_some_and(|told| self.is_new(told));
                    if wanted.closed || (has_new && due) {
                        break;
                    }
                    match again.filter(|_| has_new) {
                        Some(at) => {
                            self.shared.wake.wait_until(&mut wanted, at);
                        }
                        None => self.shared.wake.wait(&mut wanted),
                    }
                }
                (wanted.newest.clone(), wanted.closed)
            };
            if let Some(told) = told.filter(|told| self.is_new(told)) {
                match self.push(&told) {
                    Ok(time) => {
                        self.succeeded(&told.checkpoint, time);
                        (wait, again) = (FIRST_WAIT, None);
                    }
                    Err(error) => {
                        self.failed(&error);
                        let longer = if error.is_lasting() {
                            LONGEST_WAIT
                        } else {
                            wait
                        };
                        again = Some(Instant::now() + longer);
                        wait = (wait * 2).min(LONGEST_WAIT);
                    }
                }
            }
            if closed {
                return;
            }
        }
    }

    fn is_new(&self, told: &Told) -> bool {
        self.known
            .as_ref()
            .is_none_or(|known| known.number < told.checkpoint.number)
    }

    fn succeeded(&mut self, checkpoint: &Checkpoint, time: u64) {
        if self.told.take().is_some() {
            tracing::info!(
                witness = self.config.key.name,
                "the witness cosigns checkpoints again"
            );
        }
        let wanted = self.shared.wanted.lock();
        let newer = wanted
            .newest
            .as_ref()
            .is_some_and(|told| told.checkpoint.number > checkpoint.number);
        let mut status = self.shared.status.lock();
        status.size = checkpoint.size;
        status.time = time;
        status.error = None;
        status.behind = newer.then(Instant::now);
    }

    fn failed(&mut self, error: &PushError) {
        let text = error.to_string();
        if self.told.as_ref() != Some(&text) {
            let (witness, url) = (&self.config.key.name, &self.config.submission);
            if error.is_conflict() {
                tracing::error!(witness, %url, "a witness contradicts the audit log: {text}");
                let event = service("AuditWitnessConflict")
                    .detail("witness", witness.as_str())
                    .detail("reason", text.as_str());
                self.log.push(event, None, false);
            } else {
                tracing::warn!(witness, %url, "a checkpoint is not cosigned, it is tried again: {text}");
            }
        }
        self.shared.status.lock().error = Some((text.clone(), error.is_lasting()));
        self.told = Some(text);
    }

    /// Has a checkpoint cosigned; the time of the cosignature.
    fn push(&mut self, told: &Told) -> Result<u64, PushError> {
        let checkpoint = &told.checkpoint;
        let mut old = self.known.as_ref().map_or(0, |known| known.size);
        for _ in 0..CORRECTIONS {
            if old > checkpoint.size {
                return Err(PushError::Ahead {
                    theirs: old,
                    ours: checkpoint.size,
                });
            }
            let proof = self.proof(old, told)?;
            let answer = self
                .config
                .submission
                .post(&body(old, &proof, &told.note))?;
            match answer.status {
                200 => return self.keep(told, &answer.body),
                403 => return Err(PushError::UnknownKey),
                404 => return Err(PushError::UnknownLog),
                409 => {
                    let theirs = size_of(&answer)?;
                    if theirs == old {
                        return Err(PushError::Fork);
                    }
                    old = theirs;
                }
                // The proof fits this log, as was checked: what does not fit is what the witness knows.
                422 => return Err(PushError::Fork),
                status => return Err(PushError::Refused(status)),
            }
        }
        Err(PushError::Answer(
            "it changes the size that it knows with every answer".into(),
        ))
    }

    /// The proof that the log only grew since it had `old` records.
    fn proof(&mut self, old: u64, told: &Told) -> Result<Vec<Hash>, PushError> {
        let checkpoint = &told.checkpoint;
        let directory = self.log.directory().to_owned();
        if old == 0 || old == checkpoint.size {
            return Ok(Vec::new());
        }
        let mut added = Vec::new();
        self.leaves
            .read(&directory, old, checkpoint.size, |leaf| added.push(leaf))
            .map_err(PushError::Proof)?;
        loop {
            let known = self.edge.take();
            let edge = self
                .leaves
                .edge(&directory, known.as_ref(), old)
                .map_err(PushError::Proof)?;
            let proof = consistency_proof(&edge, &added);
            let new = (checkpoint.size, &checkpoint.root.0);
            if verify_consistency((old, &edge.root()), new, &proof) {
                self.edge = Some(edge);
                return Ok(proof);
            }
            // What is on disk must be what was signed, or the witness would be blamed for what is wrong here. Once more
            // without what was kept: that can be wrong, too.
            if known.is_none() {
                return Err(PushError::Proof(
                    "its files are not what the checkpoint says; run `kmsctl audit verify`".into(),
                ));
            }
        }
    }

    /// Verifies the witness's answer and keeps the cosigned note.
    fn keep(&mut self, told: &Told, lines: &[u8]) -> Result<u64, PushError> {
        let key = &self.config.key;
        let (signature, time) = cosignature(&told.note, key, lines).map_err(PushError::Answer)?;
        let mut note = told.note.clone();
        note.sign(signature);
        let directory = self.log.directory().to_owned();
        {
            let _files = self.files.lock();
            append(&directory.join(COSIGNED), &note.to_string()).map_err(PushError::Keep)?;
        }
        self.known = Some(told.checkpoint.clone());
        if let Some(edge) = &told.edge {
            self.edge = Some(edge.clone());
            if let Err(error) = std::fs::write(edge_path(&directory, key), edge.to_text()) {
                // The next start reads more of the log.
                tracing::debug!(%error, "the tree's edge at a cosigned checkpoint could not be kept");
            }
        }
        Ok(time)
    }
}

/// The right edge of the tree before record `size`, read from the log's files.
///
/// # Errors
/// They do not go back that far.
pub(super) fn edge_before(directory: &Path, size: u64) -> Result<Edge, String> {
    Leaves::default().edge(directory, None, size)
}

/// The body of a request: the size that the witness knows, the proof from there, the note.
fn body(old: u64, proof: &[Hash], note: &Note) -> String {
    let mut body = format!("old {old}\n");
    for hash in proof {
        body.push_str(&BASE64.encode(hash));
        body.push('\n');
    }
    body.push('\n');
    body.push_str(&note.to_string());
    body
}

/// The size in the answer of a witness that knows another one.
fn size_of(answer: &http::Answer) -> Result<u64, PushError> {
    let text = std::str::from_utf8(&answer.body).ok();
    let size = text
        .filter(|_| answer.content_type.starts_with("text/x.tlog.size"))
        .and_then(|text| text.strip_suffix('\n'))
        .and_then(|text| text.parse().ok());
    // Without a size it is the other conflict: a checkpoint of the same size with another root.
    size.ok_or(PushError::Fork)
}

/// The signature of `key` in the lines of an answer, and its time.
fn cosignature(note: &Note, key: &VerifierKey, lines: &[u8]) -> Result<(Signature, u64), String> {
    let lines = std::str::from_utf8(lines).map_err(|_| "it is not text".to_owned())?;
    for line in lines.lines() {
        let signature = Signature::parse(line).map_err(|error| error.to_string())?;
        if signature.name != key.name || signature.id != key.id() {
            continue;
        }
        let mut alone = Note::new(note.text());
        alone.sign(signature.clone());
        return match key.verify(&alone) {
            Some(Ok(Some(time))) => Ok((signature, time)),
            _ => Err("its cosignature does not fit the checkpoint".to_owned()),
        };
    }
    Err(format!(
        "there is no cosignature by the key of {}",
        key.name
    ))
}

/// The last checkpoint in the file that `key` has cosigned, and when. What a crash left of a note that was being written
/// is cut: the witness gives it again.
fn last_cosigned(path: &Path, key: &VerifierKey) -> io::Result<Option<(Checkpoint, u64)>> {
    let bytes = match std::fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let (mut end, mut last) = (0, None);
    for (_, note) in notes_of(&bytes) {
        let Ok(note) = note else { break };
        end += note.to_string().len();
        if let Some(Ok(Some(time))) = key.verify(&note)
            && let Ok(checkpoint) = Checkpoint::parse(note.text())
        {
            last = Some((checkpoint, time));
        }
    }
    if end < bytes.len() {
        tracing::warn!(
            file = %path.display(),
            bytes = bytes.len() - end,
            "what follows the last whole note of the cosigned checkpoints was cut"
        );
        let file = File::options().write(true).open(path)?;
        file.set_len(end as u64)?;
        file.sync_all()?;
    }
    Ok(last)
}

fn edge_path(directory: &Path, key: &VerifierKey) -> PathBuf {
    directory.join(format!("witness-{}.edge", HEXLOWER.encode(&key.id())))
}

fn load_edge(directory: &Path, key: &VerifierKey) -> Option<Edge> {
    Edge::parse(&std::fs::read_to_string(edge_path(directory, key)).ok()?)
}
