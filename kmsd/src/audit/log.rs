//! The log as the rest of kmsd sees it: hand over a record, wait until it is on disk, ask how it stands.

use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use kms_api::{ApiError, ErrorCode};
use kms_core::audit::tree::Edge;
use kms_core::audit::{KMS_SOURCE, LOCAL_SOURCE, Record};
use kms_core::rows::AuditHead;
use parking_lot::{Condvar, Mutex};
use tokio::sync::watch;
use uuid::Uuid;

use super::error::AuditError;
use super::files::Place;
use super::writer::Writer;
use super::{AuditConfig, Observer, OnFull, open, space};

/// Records that wait for the disk beyond which requests wait too.
const MAX_PENDING_BYTES: u64 = 16 << 20;
/// How long a request waits for a disk that does not take records.
const STALL: Duration = Duration::from_secs(10);

/// The place of a record in the order of all that were handed over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ticket(pub(super) u64);

impl Ticket {
    /// Of a record that the log no longer took: it is never on disk.
    pub(super) const NEVER: Self = Self(u64::MAX);

    /// Whether its record was not taken.
    pub(crate) fn is_never(self) -> bool {
        self == Self::NEVER
    }
}

/// Whether records can be written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Health {
    /// Yes.
    #[default]
    Good,
    /// The disk is full.
    Full,
    /// Writing fails otherwise; the text is the system's.
    Failed(String),
}

/// How the log stands.
#[derive(Clone, Debug, Default)]
pub struct AuditStatus {
    /// Records on disk.
    pub records: u64,
    /// Records that wait for the disk.
    pub pending: u64,
    /// Bytes of the current file.
    pub file_bytes: u64,
    /// Whether records can be written.
    pub health: Health,
    /// Requests that were answered without a record while they could not, since the last start.
    pub lost: u64,
    /// Requests that were refused because they could not be recorded.
    pub refused: u64,
    /// What the administrator should look at.
    pub warnings: Vec<String>,
}

/// What is on disk.
#[derive(Clone, Debug)]
pub struct Durable {
    /// Every record up to this ticket.
    pub ticket: Ticket,
    /// Where the log ends.
    pub head: AuditHead,
    pub(super) place: Place,
}

impl Durable {
    /// The right edge of the Merkle tree over the records that are on disk.
    pub fn edge(&self) -> &Edge {
        &self.place.edge
    }
}

/// A record on its way to the disk.
pub(super) struct Entry {
    /// Length of its canonical bytes.
    pub(super) length: usize,
    /// What it says, where an observer looks at it.
    pub(super) record: Option<Box<Record>>,
}

/// Records on their way to the disk, in the order of their tickets.
///
/// Their bytes are made and what they were made of is freed where the request is answered: memory that one thread allocates and
/// another one frees is what a request would pay for most.
#[derive(Default)]
pub(super) struct Entries {
    pub(super) list: Vec<Entry>,
    /// Their bytes, one after the other.
    pub(super) bytes: Vec<u8>,
}

impl Entries {
    /// Memory that is kept to be used again.
    const KEPT: usize = 4 << 20;

    pub(super) fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.list.len()
    }

    fn push(&mut self, bytes: &[u8], record: Option<Box<Record>>) {
        self.bytes.extend_from_slice(bytes);
        self.list.push(Entry {
            length: bytes.len(),
            record,
        });
    }

    /// The first `count`, with their bytes.
    pub(super) fn first(&self, count: usize) -> impl Iterator<Item = (&Entry, &[u8])> {
        let mut start = 0usize;
        self.list.iter().take(count).map(move |entry| {
            let end = start.saturating_add(entry.length);
            let bytes = self.bytes.get(start..end).unwrap_or_default();
            start = end;
            (entry, bytes)
        })
    }

    /// Appends those of `other`, which has none then.
    pub(super) fn append(&mut self, other: &mut Self) {
        if self.is_empty() {
            // Its memory is used again.
            std::mem::swap(self, other);
        } else {
            self.list.append(&mut other.list);
            self.bytes.append(&mut other.bytes);
        }
    }

    /// Removes the first `count`.
    pub(super) fn remove(&mut self, count: usize) {
        let removed = self.list.drain(..count.min(self.list.len()));
        let bytes: usize = removed.map(|entry| entry.length).sum();
        self.bytes.drain(..bytes.min(self.bytes.len()));
        if self.is_empty() && self.bytes.capacity() > Self::KEPT {
            *self = Self::default();
        }
    }
}

/// What waits for the thread.
#[derive(Default)]
pub(super) struct Queue {
    pub(super) entries: Entries,
    pub(super) pushed: u64,
    pub(super) oldest: Option<Instant>,
    pub(super) urgent: bool,
    pub(super) closed: bool,
}

pub(super) struct Shared {
    pub(super) config: AuditConfig,
    pub(super) queue: Mutex<Queue>,
    /// The thread has something to do.
    pub(super) wake: Condvar,
    pub(super) durable: Mutex<Durable>,
    /// The same ticket, for those who wait.
    pub(super) done: watch::Sender<u64>,
    pub(super) pending_bytes: AtomicU64,
    /// There is room in the queue again.
    pub(super) room: Condvar,
    pub(super) health: Mutex<Health>,
    /// Whether `health` is not good.
    pub(super) ill: AtomicBool,
    pub(super) lost: AtomicU64,
    pub(super) refused: AtomicU64,
    pub(super) warnings: Mutex<Vec<String>>,
    pub(super) observers: Mutex<Vec<Box<dyn Observer>>>,
    /// Whether one of them looks at every record.
    pub(super) all_observed: AtomicBool,
    /// What the next start relies on: the number of records at the last place that was noted, and its file's first one.
    pub(super) saved: Mutex<(u64, u64)>,
}

/// The log. Clones are the same log.
#[derive(Clone)]
pub struct AuditLog {
    pub(super) shared: Arc<Shared>,
    thread: Arc<Thread>,
}

/// The thread, which ends with the last of those who can hand it something.
struct Thread {
    shared: Arc<Shared>,
    handle: Mutex<Option<JoinHandle<()>>>,
}

impl Thread {
    fn end(&self) {
        self.shared.queue.lock().closed = true;
        self.shared.wake.notify_one();
        let handle = self.handle.lock().take();
        if let Some(handle) = handle
            && handle.thread().id() != std::thread::current().id()
            && handle.join().is_err()
        {
            tracing::error!("the thread of the audit log ended with a panic");
        }
    }
}

impl Drop for Thread {
    fn drop(&mut self) {
        self.end();
    }
}

/// What opening found.
pub struct Start {
    /// The log.
    pub log: AuditLog,
    /// Ids of the events after the catalogue's head.
    pub events: std::collections::HashSet<String>,
}

#[cfg(test)]
impl AuditLog {
    /// How many can hand it something.
    pub(crate) fn holders(&self) -> usize {
        Arc::strong_count(&self.thread)
    }
}

impl AuditLog {
    /// Opens the log, which must contain `head`, and starts its thread.
    ///
    /// # Errors
    /// It does not, or its files cannot be used.
    pub fn open(config: AuditConfig, head: Option<AuditHead>) -> Result<Start, AuditError> {
        let opened = open::open(&config.directory, head, config.accept_gap)?;
        let mut notes = Vec::new();
        for cut in &opened.cut {
            let kept = cut.kept.as_ref().map_or_else(
                || "nowhere: the disk is full".to_owned(),
                |path| path.display().to_string(),
            );
            tracing::warn!(
                bytes = cut.bytes,
                kept,
                "a file of the audit log ended with bytes that are no whole record; they were cut"
            );
            notes.push(
                service("AuditTailCut")
                    .detail("bytes", cut.bytes)
                    .detail("kept", kept),
            );
        }
        if let Some(gap) = &opened.gap {
            tracing::error!("an audit log that lacks records is gone on with, as told: {gap}");
            let expected = head.map_or(0, |head| head.size);
            notes.push(
                service("AuditGapAccepted")
                    .detail("reason", gap.as_str())
                    .detail("expectedRecords", expected)
                    .detail("foundRecords", opened.place.chain.size()),
            );
        }
        let mut warnings = Vec::new();
        for seq in &opened.missing {
            let text =
                format!("the file of the audit log that begins with record {seq} is missing");
            tracing::error!("{text}");
            warnings.push(text);
            notes.push(service("AuditFileMissing").detail("firstRecord", *seq));
        }
        if opened.place.edge.size() != opened.place.chain.size() {
            // The roots of such a tree say nothing about the records before it.
            let text =
                "the Merkle tree of the audit log lacks its beginning: no checkpoints are made";
            tracing::warn!("{text}");
            warnings.push(text.to_owned());
        }
        let place = opened.place.clone();
        let shared = Arc::new(Shared {
            queue: Mutex::default(),
            wake: Condvar::new(),
            durable: Mutex::new(Durable {
                ticket: Ticket(0),
                head: place.chain.head(),
                place: place.clone(),
            }),
            done: watch::channel(0).0,
            pending_bytes: AtomicU64::new(0),
            room: Condvar::new(),
            health: Mutex::default(),
            ill: AtomicBool::new(false),
            lost: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            warnings: Mutex::new(warnings),
            observers: Mutex::default(),
            all_observed: AtomicBool::new(false),
            saved: Mutex::new(opened.saved),
            config,
        });
        if let Some(path) = &shared.config.journald {
            let journal = super::journald::Journal::new(path.clone());
            shared.observe(Box::new(journal));
        }
        let writer = Writer::new(Arc::clone(&shared), place, opened.current)?;
        let thread = std::thread::Builder::new()
            .name("audit".into())
            .spawn(move || writer.run())
            .map_err(AuditError::io(&shared.config.directory))?;
        let log = Self {
            thread: Arc::new(Thread {
                shared: Arc::clone(&shared),
                handle: Mutex::new(Some(thread)),
            }),
            shared,
        };
        for note in notes {
            log.push(note, None, true);
        }
        Ok(Start {
            log,
            events: opened.events,
        })
    }

    /// Whether a request may go on to be answered and recorded. Waits for a disk that has fallen behind, which blocks;
    /// [`Self::must_wait`] tells beforehand.
    ///
    /// # Errors
    /// The error to refuse it with.
    pub fn admit(&self, operation: &str, read_only: bool) -> Result<(), ApiError> {
        let shared = &self.shared;
        if self.must_wait() {
            let mut queue = shared.queue.lock();
            let until = Instant::now() + STALL;
            while self.must_wait() {
                if shared.room.wait_until(&mut queue, until).timed_out() {
                    break;
                }
            }
        }
        self.admit_now(operation, read_only)
    }

    /// The same without waiting.
    ///
    /// # Errors
    /// The error to refuse it with.
    pub fn admit_now(&self, operation: &str, read_only: bool) -> Result<(), ApiError> {
        let shared = &self.shared;
        let refused = |text: &str| {
            shared.refused.fetch_add(1, Ordering::Relaxed);
            Err(ApiError::new(ErrorCode::Internal, text))
        };
        if self.must_wait() && operation != "GetStatus" {
            return refused(
                "AuditLogUnavailable: the disk of the audit log does not keep up; see kmsd's log.",
            );
        }
        if !shared.ill.load(Ordering::SeqCst) || operation == "GetStatus" {
            return Ok(());
        }
        if read_only && shared.config.on_full == OnFull::ReadOnly {
            return Ok(());
        }
        refused(match *shared.health.lock() {
            Health::Full => {
                "AuditLogFull: the disk of the audit log is full; requests are refused until there is room again."
            }
            _ => "AuditLogUnavailable: the audit log cannot be written; see kmsd's log.",
        })
    }

    /// Whether [`Self::admit`] would block.
    pub fn must_wait(&self) -> bool {
        self.shared.pending_bytes.load(Ordering::Relaxed) > MAX_PENDING_BYTES
            && !self.shared.ill.load(Ordering::Relaxed)
    }

    /// Hands over a record; `bytes` are its canonical bytes if the caller has them. An `urgent` one is written at once,
    /// others within the configured delay.
    pub fn push(&self, record: Record, bytes: Option<&[u8]>, urgent: bool) -> Ticket {
        thread_local! {
            static BYTES: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
        }
        if self.drops(&record, bytes.is_some(), urgent) {
            return Ticket(0);
        }
        if let Some(bytes) = bytes {
            return self.shared.queue(record, bytes, urgent);
        }
        BYTES.with_borrow_mut(|bytes| {
            bytes.clear();
            record.write_to(bytes);
            self.shared.queue(record, bytes, urgent)
        })
    }

    /// Whether a record is not taken, for want of room. Counts it then.
    fn drops(&self, record: &Record, has_bytes: bool, urgent: bool) -> bool {
        let shared = &self.shared;
        // Bytes that are not in the catalogue's outbox are lost with the space. What [`Self::admit`] lets through without
        // room is answered without a record, and must not wait for one either.
        let admitted = record.operation == "GetStatus"
            || (record.read_only && shared.config.on_full == OnFull::ReadOnly);
        let droppable = !has_bytes && (!urgent || admitted);
        let drops = droppable && shared.ill.load(Ordering::SeqCst);
        if drops {
            shared.lost.fetch_add(1, Ordering::Relaxed);
        }
        drops
    }

    /// Waits until a record is on disk.
    ///
    /// # Errors
    /// It is not after a time that no healthy disk takes, or the log was closed before.
    pub async fn wait(&self, ticket: Ticket) -> Result<(), ApiError> {
        if ticket.is_never() {
            return Err(ended());
        }
        let mut done = self.shared.done.subscribe();
        let waited = tokio::time::timeout(STALL, done.wait_for(|done| *done >= ticket.0)).await;
        match waited {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) | Err(_) => Err(late()),
        }
    }

    /// The same, on the calling thread.
    ///
    /// # Errors
    /// See [`Self::wait`].
    pub fn wait_blocking(&self, ticket: Ticket) -> Result<(), ApiError> {
        if ticket.is_never() {
            return Err(ended());
        }
        let until = Instant::now() + STALL;
        let mut queue = self.shared.queue.lock();
        while *self.shared.done.borrow() < ticket.0 {
            if self.shared.room.wait_until(&mut queue, until).timed_out() {
                return Err(late());
            }
        }
        Ok(())
    }

    /// Writes everything that was handed over so far, without the delay, and waits until it is on disk. Blocks.
    ///
    /// # Errors
    /// See [`Self::wait`].
    pub fn flush(&self) -> Result<(), ApiError> {
        let ticket = {
            let mut queue = self.shared.queue.lock();
            queue.urgent |= !queue.entries.is_empty();
            Ticket(queue.pushed)
        };
        self.shared.wake.notify_one();
        self.wait_blocking(ticket)
    }

    /// What is on disk.
    pub fn durable(&self) -> Durable {
        self.shared.durable.lock().clone()
    }

    /// Ticket and head of what is on disk, together.
    pub fn head(&self) -> (Ticket, AuditHead) {
        let durable = self.shared.durable.lock();
        (durable.ticket, durable.head)
    }

    /// Notes where the log stands, so that the next start needs to read only what comes after. To be called once the
    /// catalogue has that head.
    pub fn save(&self, durable: &Durable) {
        let mut saved = self.shared.saved.lock();
        // A place without a line before it in its file cannot be checked by the next start.
        if durable.head.size == saved.0 || durable.place.bytes == 0 {
            return;
        }
        match durable.place.save(&self.shared.config.directory) {
            Ok(()) => *saved = (durable.head.size, durable.place.file),
            Err(error) => {
                tracing::warn!(%error, "where the audit log stands could not be noted; the next start reads more of it");
            }
        }
    }

    /// How the log stands.
    pub fn status(&self) -> AuditStatus {
        let shared = &self.shared;
        let (records, file_bytes, done) = {
            let durable = shared.durable.lock();
            (durable.head.size, durable.place.bytes, durable.ticket.0)
        };
        let health = shared.health.lock().clone();
        let mut warnings = shared.warnings.lock().clone();
        match &health {
            Health::Good => {}
            Health::Full => warnings.push("the disk of the audit log is full".into()),
            Health::Failed(why) => warnings.push(format!("the audit log cannot be written: {why}")),
        }
        AuditStatus {
            records,
            pending: shared.queue.lock().pushed.saturating_sub(done),
            file_bytes,
            health,
            lost: shared.lost.load(Ordering::Relaxed),
            refused: shared.refused.load(Ordering::Relaxed),
            warnings,
        }
    }

    /// Lets `observer` see every record from now on.
    pub fn observe(&self, observer: Box<dyn Observer>) {
        self.shared.observe(observer);
    }

    /// How the log is kept.
    pub fn config(&self) -> &AuditConfig {
        &self.shared.config
    }

    /// Its directory.
    pub fn directory(&self) -> &Path {
        &self.shared.config.directory
    }

    /// Writes what waits and ends the thread.
    pub fn close(&self) {
        self.thread.end();
    }

    /// The file that is being written.
    pub fn current_file(&self) -> PathBuf {
        let file = self.shared.durable.lock().place.file;
        self.directory().join(super::files::name(file))
    }
}

impl Shared {
    fn observe(&self, observer: Box<dyn Observer>) {
        if observer.looks_at_uses() {
            self.all_observed.store(true, Ordering::SeqCst);
        }
        self.observers.lock().push(observer);
    }

    /// Queues a record that is to be written.
    fn queue(&self, record: Record, bytes: &[u8], urgent: bool) -> Ticket {
        let observed = !record.is_plain_use() || self.all_observed.load(Ordering::Relaxed);
        let record = observed.then(|| Box::new(record));
        let mut queue = self.queue.lock();
        if queue.closed {
            // kmsd ends: whoever waits for the record is refused.
            return Ticket::NEVER;
        }
        self.pending_bytes
            .fetch_add(bytes.len() as u64, Ordering::Relaxed);
        queue.pushed = queue.pushed.saturating_add(1);
        let ticket = Ticket(queue.pushed);
        let first = queue.entries.is_empty();
        let hurry = urgent && !queue.urgent;
        if first {
            queue.oldest = Some(Instant::now());
        }
        queue.urgent |= urgent;
        queue.entries.push(bytes, record);
        drop(queue);
        if first || hurry {
            self.wake.notify_one();
        }
        ticket
    }

    /// Queues an event of the log itself; what does the writing does not have to be woken for it.
    pub(super) fn queue_note(&self, record: Record) {
        let bytes = record.to_bytes();
        let mut queue = self.queue.lock();
        queue.pushed = queue.pushed.saturating_add(1);
        self.pending_bytes
            .fetch_add(bytes.len() as u64, Ordering::Relaxed);
        queue.entries.push(&bytes, Some(Box::new(record)));
    }
}

fn late() -> ApiError {
    ApiError::new(
        ErrorCode::DependencyTimeout,
        "The request was carried out, but its audit record is not on disk yet; see kmsd's log.",
    )
}

fn ended() -> ApiError {
    ApiError::new(
        ErrorCode::ServiceUnavailable,
        "kmsd is shutting down: the audit log took no record of the request any more.",
    )
}

/// A service event of kmsd's own.
pub(crate) fn service(event: &str) -> Record {
    Record::service(
        Uuid::new_v4().to_string(),
        space::now_ms(),
        LOCAL_SOURCE,
        event,
    )
}

/// A service event that AWS KMS has too.
pub(crate) fn kms_service(event: &str) -> Record {
    Record {
        source: KMS_SOURCE.to_owned(),
        ..service(event)
    }
}
