//! The thread that writes the log.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use kms_core::audit::tree::Hash;
use kms_core::audit::{Record, compose};

use super::error::AuditError;
use super::files::{self, Place};
use super::log::{Durable, Entries, Health, Shared, Ticket, service};
use super::space::{self, Reserve, Room};
use super::witness::edge_before;
use super::{Appended, OnFull};

/// How often the disk and the file are looked at, and writing is tried again.
const HOUSEKEEPING: Duration = Duration::from_secs(1);
/// A batch is not longer, so that one `fdatasync` is not either.
const MAX_BATCH: usize = 4096;

/// The thread's own.
pub(super) struct Writer {
    shared: Arc<Shared>,
    /// What is on disk.
    place: Place,
    file: Option<Current>,
    /// Handed over, in the order of tickets, and not on disk.
    waiting: Entries,
    /// Ticket of the last record on disk.
    done: u64,
    /// Not from a request: has no ticket.
    notes: Vec<Record>,
    reserve: Reserve,
    step: u8,
    /// There are more files than are to be kept, because the next start needs them.
    surplus: bool,
    /// The file before the present one was disturbed: the noted place may be gone with it.
    note_due: bool,
    looked: Instant,
    /// What was lost and refused when writing last worked.
    counted: (u64, u64),
    buffer: Vec<u8>,
}

/// A line of the batch that is being written.
struct Composed {
    /// Where it ends in the buffer.
    end: usize,
    leaf: Hash,
}

struct Current {
    path: PathBuf,
    file: File,
    identity: (u64, u64),
    /// Wall clock of its first record.
    began_ms: i64,
}

impl Current {
    fn new(path: PathBuf, file: File, began_ms: i64) -> io::Result<Self> {
        let metadata = file.metadata()?;
        Ok(Self {
            path,
            file,
            identity: (metadata.dev(), metadata.ino()),
            began_ms,
        })
    }

    /// What has happened to the file behind our back.
    fn disturbed(&self, bytes: u64, path_too: bool) -> Option<&'static str> {
        let Ok(metadata) = self.file.metadata() else {
            return Some("it cannot be looked at");
        };
        if metadata.nlink() == 0 {
            return Some("it was deleted");
        }
        if metadata.len() < bytes {
            return Some("it was truncated");
        }
        if metadata.len() > bytes {
            return Some("something else wrote to it");
        }
        if !path_too {
            return None;
        }
        match std::fs::symlink_metadata(&self.path) {
            Ok(found) if (found.dev(), found.ino()) == self.identity => None,
            Ok(_) => Some("another file was put in its place"),
            Err(_) => Some("it was moved away"),
        }
    }
}

impl Writer {
    pub(super) fn new(
        shared: Arc<Shared>,
        place: Place,
        current: Option<(PathBuf, i64)>,
    ) -> Result<Self, AuditError> {
        let directory = &shared.config.directory;
        let file = match current {
            Some((path, began)) => {
                let open = || {
                    let file = File::options().read(true).write(true).open(&path)?;
                    Current::new(path.clone(), file, began)
                };
                Some(open().map_err(AuditError::io(&path))?)
            }
            None => None,
        };
        let mut reserve = Reserve::new(directory, shared.config.reserve_bytes);
        match reserve.take() {
            Ok(true) => {}
            Ok(false) => tracing::warn!("there is no room for the reserve of the audit log"),
            Err(error) => tracing::warn!(%error, "the reserve of the audit log cannot be made"),
        }
        Ok(Self {
            place,
            file,
            waiting: Entries::default(),
            done: 0,
            notes: Vec::new(),
            reserve,
            step: 0,
            surplus: false,
            note_due: false,
            looked: Instant::now()
                .checked_sub(HOUSEKEEPING)
                .unwrap_or_else(Instant::now),
            counted: (0, 0),
            buffer: Vec::new(),
            shared,
        })
    }

    pub(super) fn run(mut self) {
        loop {
            let closed = self.collect();
            let due = self.looked.elapsed() >= HOUSEKEEPING;
            if due {
                self.look();
            }
            if self.healthy() || due || closed {
                self.flush();
            }
            if closed {
                break;
            }
        }
        self.reserve.release();
    }

    fn healthy(&self) -> bool {
        !self.shared.ill.load(Ordering::SeqCst)
    }

    /// Waits for records, at most until housekeeping is due. Says whether the log is to end.
    fn collect(&mut self) -> bool {
        let delay = self.shared.config.data_delay;
        let housekeeping = self.looked + HOUSEKEEPING;
        let mut queue = self.shared.queue.lock();
        loop {
            let writable = !self.shared.ill.load(Ordering::SeqCst);
            if queue.closed || (queue.urgent && writable) || queue.entries.len() >= MAX_BATCH {
                break;
            }
            let until = match queue.oldest {
                Some(oldest) if writable => (oldest + delay).min(housekeeping),
                _ => housekeeping,
            };
            if self.shared.wake.wait_until(&mut queue, until).timed_out() {
                break;
            }
        }
        queue.urgent = false;
        queue.oldest = None;
        self.waiting.append(&mut queue.entries);
        queue.closed
    }

    /// Writes everything that waits, in batches.
    fn flush(&mut self) {
        while !self.waiting.is_empty() || !self.notes.is_empty() {
            if let Err(error) = self.write_batch() {
                if space::is_full(&error) && self.reserve.release() {
                    self.fell_ill(Health::Full);
                    continue;
                }
                let health = if space::is_full(&error) {
                    Health::Full
                } else {
                    Health::Failed(error.to_string())
                };
                self.fell_ill(health);
                return;
            }
            if !self.healthy() && !self.recovered() {
                // What was written came from the reserve.
                if self.waiting.is_empty() && self.notes.is_empty() {
                    return;
                }
            }
        }
        if !self.healthy() {
            self.recovered();
        }
    }

    /// Writes one batch and makes it durable. Nothing has changed if this fails.
    fn write_batch(&mut self) -> io::Result<()> {
        self.check_file();
        let notes = self.notes.len();
        let take = self.waiting.len().min(MAX_BATCH);
        self.buffer.clear();
        let mut chain = self.place.chain;
        let mut lines = Vec::with_capacity(notes.saturating_add(take));
        let mut queued = 0u64;
        let mut compose = |record: &[u8]| {
            let leaf = compose(&mut chain, record, &mut self.buffer);
            let end = self.buffer.len();
            lines.push(Composed { end, leaf });
            self.buffer.push(b'\n');
        };
        for note in &self.notes {
            compose(&note.to_bytes());
        }
        for (_, bytes) in self.waiting.first(take) {
            queued = queued.saturating_add(bytes.len() as u64);
            compose(bytes);
        }
        self.rotate_if_due()?;
        self.begin_file()?;
        let Some(Current { file, .. }) = &self.file else {
            return Err(io::ErrorKind::NotFound.into());
        };
        let start = self.place.bytes;
        let written = file
            .write_all_at(&self.buffer, start)
            .and_then(|()| file.sync_data());
        if let Err(error) = written {
            // The same records are written again at the same place: pages of a failed sync do not count.
            let _ = file.set_len(start);
            return Err(error);
        }
        self.place.bytes = start.saturating_add(self.buffer.len() as u64);
        self.tell(&lines);
        self.place.chain = chain;
        self.notes.clear();
        self.waiting.remove(take);
        self.done = self.done.saturating_add(take as u64);
        *self.shared.durable.lock() = Durable {
            ticket: Ticket(self.done),
            head: chain.head(),
            place: self.place.clone(),
        };
        self.shared
            .pending_bytes
            .fetch_sub(queued, Ordering::Relaxed);
        self.shared.done.send_replace(self.done);
        if std::mem::take(&mut self.note_due) {
            // Held, so that one at a time is written. It stays as it is: the catalogue may not have this head yet.
            let _saved = self.shared.saved.lock();
            if let Err(error) = self.place.save(&self.shared.config.directory) {
                tracing::warn!(%error, "where the audit log goes on after a disturbance could not be noted");
            }
        }
        // Under the lock, so that nobody goes to sleep in between.
        let _queue = self.shared.queue.lock();
        self.shared.room.notify_all();
        Ok(())
    }

    /// Grows the tree and tells the observers.
    fn tell(&mut self, lines: &[Composed]) {
        let mut observers = self.shared.observers.lock();
        let waiting = self.waiting.list.iter();
        let records = self
            .notes
            .iter()
            .map(Some)
            .chain(waiting.map(|entry| entry.record.as_deref()));
        let mut start = 0;
        let mut seq = self.place.chain.size();
        let mut appended = Vec::new();
        for (Composed { end, leaf }, record) in lines.iter().zip(records) {
            self.place.edge.push(*leaf);
            if let Some(record) = record {
                let line = self.buffer.get(start..*end).unwrap_or_default();
                appended.push(Appended { seq, line, record });
            }
            seq = seq.saturating_add(1);
            start = end.saturating_add(1);
        }
        for observer in observers.iter_mut() {
            observer.appended(&appended, seq);
        }
    }

    /// Makes a file, if there is none to go on with.
    fn begin_file(&mut self) -> io::Result<()> {
        if self.file.is_some() {
            return Ok(());
        }
        let first = self.place.chain.size();
        let directory = &self.shared.config.directory;
        // Before the file: where there is no room, the place must not be left behind in another file.
        if config_keeps_few(&self.shared) && self.place.edge.size() == first {
            files::save_edge(directory, &self.place.edge)?;
        }
        let (path, file) = match files::create(directory, first) {
            // One without a record, which an earlier attempt left.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                let path = directory.join(files::name(first));
                let file = File::options().read(true).write(true).open(&path)?;
                file.set_len(0)?;
                (path, file)
            }
            made => made?,
        };
        self.file = Some(Current::new(path, file, space::now_ms())?);
        self.place.file = first;
        self.place.bytes = 0;
        Ok(())
    }

    fn rotate_if_due(&mut self) -> io::Result<()> {
        let config = &self.shared.config;
        let Some(current) = &self.file else {
            return Ok(());
        };
        let length = self.place.bytes.saturating_add(self.buffer.len() as u64);
        let too_long = self.place.bytes > 0 && length > config.rotate_bytes;
        let age = space::now_ms().saturating_sub(current.began_ms);
        let too_old = config.rotate_age.is_some_and(|most| {
            self.place.bytes > 0 && u128::try_from(age).is_ok_and(|age| age > most.as_millis())
        });
        if !too_long && !too_old {
            return Ok(());
        }
        self.file = None;
        self.begin_file()?;
        self.shared
            .observers
            .lock()
            .iter_mut()
            .for_each(|observer| observer.rotated());
        self.remove_old_files();
        Ok(())
    }

    /// Removes the oldest files, if not all are to be kept.
    fn remove_old_files(&mut self) {
        let Some(keep) = self.shared.config.keep_files else {
            return;
        };
        let Ok(files) = files::list(&self.shared.config.directory) else {
            return;
        };
        let surplus = files.len().saturating_sub(keep.max(1));
        // The next start reads from the noted place on, which is not after the catalogue's head.
        let (_, needed) = *self.shared.saved.lock();
        self.surplus = files.iter().take(surplus).any(|file| file.first >= needed);
        let removable = files.iter().take(surplus);
        let nexts = files
            .iter()
            .skip(1)
            .map(|file| Some(file.first))
            .chain([None]);
        for (file, next) in removable.take_while(|file| file.first < needed).zip(nexts) {
            if let Some(next) = next {
                keep_edge(&self.shared.config.directory, next);
            }
            if let Err(error) = std::fs::remove_file(&file.path) {
                tracing::warn!(%error, file = %file.path.display(), "an old file of the audit log cannot be removed");
                continue;
            }
            // Of no use without it; one that stays does no harm.
            let _ = std::fs::remove_file(
                self.shared
                    .config
                    .directory
                    .join(files::edge_name(file.first)),
            );
            let name = files::name(file.first);
            tracing::info!(file = name, "removed an old file of the audit log");
            // With the next batch: the present one has its place already.
            self.shared
                .queue_note(service("AuditFileRemoved").detail("file", name));
        }
    }

    /// Begins a new file when something happened to the present one.
    fn check_file(&mut self) {
        let what = self
            .file
            .as_ref()
            .and_then(|current| current.disturbed(self.place.bytes, false));
        if let Some(what) = what {
            self.disturbed(what);
        }
    }

    fn disturbed(&mut self, what: &str) {
        let Some(current) = self.file.take() else {
            return;
        };
        let file = current.path.display().to_string();
        let text = format!("the file of the audit log {file} was disturbed: {what}");
        tracing::error!("{text}; a new one is begun");
        self.note_due = true;
        self.shared.warnings.lock().push(text);
        self.notes.push(
            service("AuditLogDisturbed")
                .detail("file", file)
                .detail("reason", what)
                .detail("records", self.place.chain.size()),
        );
    }

    /// Looks at the file and the disk.
    fn look(&mut self) {
        self.looked = Instant::now();
        let what = self
            .file
            .as_ref()
            .and_then(|current| current.disturbed(self.place.bytes, true));
        if let Some(what) = what {
            self.disturbed(what);
        }
        if self.surplus {
            self.remove_old_files();
        }
        let Ok(room) = Room::of(&self.shared.config.directory) else {
            return;
        };
        let config = &self.shared.config;
        let step = room.step(config.warn_percent, config.min_free_bytes);
        if step > self.step {
            tracing::warn!(
                free_bytes = room.free,
                used_percent = room.used_percent,
                "the disk of the audit log is filling up"
            );
            if self.healthy() {
                self.notes.push(
                    service("AuditDiskWarning")
                        .detail("freeBytes", room.free)
                        .detail("usedPercent", room.used_percent),
                );
            }
        }
        self.step = step;
        let mut warnings = self.shared.warnings.lock();
        warnings.retain(|text| !text.starts_with("the disk of the audit log"));
        if step > 0 {
            warnings.push(format!(
                "the disk of the audit log is {} % full, {} MiB are free",
                room.used_percent,
                room.free >> 20
            ));
        }
    }

    fn fell_ill(&mut self, health: Health) {
        if *self.shared.health.lock() == health {
            return;
        }
        let next = match self.shared.config.on_full {
            OnFull::Refuse => "requests are refused until records can be written again",
            OnFull::ReadOnly => {
                "changes are refused, and what is not recorded is counted, until records can be written again"
            }
        };
        tracing::error!(?health, "the audit log cannot be written: {next}");
        if self.healthy() {
            self.counted = (
                self.shared.lost.load(Ordering::Relaxed),
                self.shared.refused.load(Ordering::Relaxed),
            );
            let event = match &health {
                Health::Failed(why) => service("AuditLogFailed").detail("reason", why.as_str()),
                Health::Full | Health::Good => service("AuditDiskFull"),
            };
            self.notes.push(event);
        }
        *self.shared.health.lock() = health;
        self.shared.ill.store(true, Ordering::SeqCst);
        let _queue = self.shared.queue.lock();
        self.shared.room.notify_all();
    }

    /// Goes back to normal once there is a reserve again. What was lost in the meantime is recorded first.
    fn recovered(&mut self) -> bool {
        if !matches!(self.reserve.take(), Ok(true)) {
            return false;
        }
        let (lost, refused) = (
            self.shared.lost.load(Ordering::Relaxed),
            self.shared.refused.load(Ordering::Relaxed),
        );
        self.notes.push(
            service("AuditResumed")
                .detail("lost", lost.saturating_sub(self.counted.0))
                .detail("refused", refused.saturating_sub(self.counted.1)),
        );
        if let Err(error) = self.write_batch() {
            self.notes.pop();
            self.reserve.release();
            tracing::debug!(%error, "the audit log still cannot be written");
            return false;
        }
        *self.shared.health.lock() = Health::Good;
        self.shared.ill.store(false, Ordering::SeqCst);
        tracing::info!("the audit log can be written again");
        true
    }
}

/// Keeps the tree's edge before a file that is about to be the first, if that was not done when it was begun: older files were
/// to be kept then.
fn keep_edge(directory: &Path, first: u64) {
    if files::load_edge(directory, first).is_some() {
        return;
    }
    let kept = edge_before(directory, first)
        .and_then(|edge| files::save_edge(directory, &edge).map_err(|error| error.to_string()));
    if let Err(error) = kept {
        tracing::warn!(
            error,
            record = first,
            "the tree's edge before the first file that is left could not be kept: `audit verify --retention` cannot begin there"
        );
    }
}

/// Whether older files are removed one day.
fn config_keeps_few(shared: &Shared) -> bool {
    shared.config.keep_files.is_some()
}
