//! Reading the end of the log at start: where it stands, whether it is the catalogue's, what a crash left over.

use std::collections::HashSet;
use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _, Seek as _, SeekFrom};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use kms_core::audit::tree::{Edge, leaf_hash};
use kms_core::audit::{Chain, MAX_LINE, Record, split};
use kms_core::rows::{AuditHead, Hash};

use super::error::AuditError;
use super::files::{LogFile, Place, last_seq, list, load_edge};
use super::space::is_full;

/// A log that was read to its end.
#[derive(Debug)]
pub(super) struct Opened {
    /// Its end.
    pub(super) place: Place,
    /// The file that goes on, if any, and its first record's time.
    pub(super) current: Option<(PathBuf, i64)>,
    /// Ids of the events after the catalogue's head.
    pub(super) events: HashSet<String>,
    /// What a crash or a disturbance left over, and was set aside.
    pub(super) cut: Vec<Cut>,
    /// What was accepted although it is wrong.
    pub(super) gap: Option<String>,
    /// First records of files that are missing among those that were not read again.
    pub(super) missing: Vec<u64>,
    /// Number of records at the known place, and the first one of its file.
    pub(super) saved: (u64, u64),
}

/// Bytes at the end that are no record.
#[derive(Clone, Debug)]
pub(super) struct Cut {
    pub(super) bytes: u64,
    /// Where they are; nowhere if the disk had no room for them.
    pub(super) kept: Option<PathBuf>,
}

/// Reads the log in `directory` from the last known place to its end.
///
/// `head`: where the catalogue says that the log was at least. With `accept_gap` a log that does not contain it is gone
/// on with from where it is sound.
pub(super) fn open(
    directory: &Path,
    head: Option<AuditHead>,
    accept_gap: bool,
) -> Result<Opened, AuditError> {
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory)
        .map_err(AuditError::io(directory))?;
    let files = list(directory).map_err(AuditError::io(directory))?;
    let head = head.map_or_else(Chain::new, Chain::from);
    let known = Place::load(directory)
        // The record with the head's chain value must be seen: a place after it is too late.
        .filter(|place| place.chain.size() <= head.size());
    let saved = known
        .as_ref()
        .map_or((0, 0), |place| (place.chain.size(), place.file));
    let result = Scan::new(directory, head, known).run(&files);
    match result {
        Ok(opened) => Ok(Opened { saved, ..opened }),
        Err(error) if accept_gap && !matches!(error, AuditError::Io { .. }) => {
            accept(directory, head, &files, &error)
        }
        Err(error) => Err(error),
    }
}

/// Goes on from where the log is sound. What is not is set aside, never deleted.
fn accept(
    directory: &Path,
    head: Chain,
    files: &[LogFile],
    error: &AuditError,
) -> Result<Opened, AuditError> {
    let mut scan = Scan::new(directory, head, None);
    scan.tolerant = true;
    let mut opened = scan.run(files)?;
    opened.gap = Some(error.to_string());
    Ok(opened)
}

struct Scan<'a> {
    directory: &'a Path,
    head: Chain,
    place: Place,
    /// Stop at what is wrong instead of failing.
    tolerant: bool,
    /// Whether the head's chain value has been seen at its place.
    seen: bool,
    events: HashSet<String>,
    cut: Vec<Cut>,
}

enum Line {
    /// A record at its place.
    Good,
    /// Not one; whether it looks like what a crash leaves, and what is wrong.
    Bad { partial: bool, reason: &'static str },
}

impl<'a> Scan<'a> {
    fn new(directory: &'a Path, head: Chain, known: Option<Place>) -> Self {
        let place = known.unwrap_or_else(Place::start);
        Self {
            directory,
            head,
            seen: head.size() == 0 || place.chain == head,
            place,
            tolerant: false,
            events: HashSet::new(),
            cut: Vec::new(),
        }
    }

    fn run(mut self, files: &[LogFile]) -> Result<Opened, AuditError> {
        let mut current = None;
        // Files before the known place are not read; a first file that is not number 0 is what retention left.
        let start = files.iter().position(|file| file.first >= self.place.file);
        let (older, files) = files.split_at(start.unwrap_or(files.len()));
        let missing = missing(older, files.first());
        let mut rest = files.iter().peekable();
        while let Some(file) = rest.next() {
            if file.first != self.place.file {
                // What retention left begins with the edge that was kept for it.
                let edge = load_edge(self.directory, file.first);
                let late = self.tolerant || (edge.is_some() && current.is_none());
                if self.place.chain.size() == 0 && late {
                    self.begin_late(file, edge)?;
                } else if file.first != self.place.chain.size() {
                    if self.tolerant {
                        break;
                    }
                    return Err(AuditError::FileMissing {
                        directory: self.directory.to_owned(),
                        seq: self.place.chain.size(),
                    });
                }
                self.place.file = file.first;
                self.place.bytes = 0;
            }
            let sound = self.read(file, rest.peek().copied())?;
            current = Some(file.path.clone());
            if !sound {
                break;
            }
        }
        self.set_aside(rest)?;
        self.check_head()?;
        let current = match current {
            Some(path) => {
                let began = first_time(&path);
                Some((path, began))
            }
            None => None,
        };
        Ok(Opened {
            place: self.place,
            current,
            events: self.events,
            cut: self.cut,
            gap: None,
            missing,
            saved: (0, 0),
        })
    }

    /// Takes the chain value and number before a log whose beginning is gone from its first line. Without
    /// the tree's edge before that line the Merkle tree begins anew.
    fn begin_late(&mut self, file: &LogFile, edge: Option<Edge>) -> Result<(), AuditError> {
        let mut reader = self.reader(file, 0)?;
        let mut line = Vec::new();
        read_line(&mut reader, &mut line).map_err(AuditError::io(&file.path))?;
        let parts = split(line.strip_suffix(b"\n").unwrap_or(&line));
        match parts {
            Some((prev, _, seq)) if seq == file.first => {
                self.place.chain = Chain::at(seq, prev);
                self.place.edge = edge.unwrap_or_default();
                self.seen |= self.place.chain == self.head;
                Ok(())
            }
            _ => Err(AuditError::Damaged {
                path: file.path.clone(),
                offset: 0,
                seq: file.first,
                reason: "the file does not begin with the record that its name says",
            }),
        }
    }

    fn reader(&self, file: &LogFile, from: u64) -> Result<BufReader<File>, AuditError> {
        let open = || -> std::io::Result<_> {
            let mut handle = File::open(&file.path)?;
            handle.seek(SeekFrom::Start(from))?;
            Ok(BufReader::with_capacity(1 << 18, handle))
        };
        open().map_err(AuditError::io(&file.path))
    }

    /// Reads one file from the known place on. Says whether it is sound to its end.
    fn read(&mut self, file: &LogFile, next: Option<&LogFile>) -> Result<bool, AuditError> {
        let mut reader = self.reader(file, self.place.bytes)?;
        let mut line = Vec::with_capacity(2048);
        loop {
            line.clear();
            let length = read_line(&mut reader, &mut line).map_err(AuditError::io(&file.path))?;
            if length == 0 {
                return Ok(true);
            }
            let (partial, reason) = match self.take(&line) {
                Line::Good => {
                    self.place.bytes = self.place.bytes.saturating_add(length);
                    continue;
                }
                Line::Bad { partial, reason } => (partial, reason),
            };
            let damaged = AuditError::Damaged {
                path: file.path.clone(),
                offset: self.place.bytes,
                seq: self.place.chain.size(),
                reason,
            };
            // No record is lost where the next file goes on: something else wrote to this one while kmsd ran.
            if next.is_some_and(|next| self.goes_on_in(next)) {
                self.cut(file, true)?;
                return Ok(true);
            }
            // What was being written when the power went: after all that is known to have been made durable.
            let last = next.is_none();
            let residue = last && partial && self.place.chain.size() >= self.head.size();
            if !residue && !self.tolerant {
                return Err(damaged);
            }
            self.cut(file, residue)?;
            return Ok(false);
        }
    }

    /// Whether the first line of a file follows from the place.
    fn goes_on_in(&self, file: &LogFile) -> bool {
        let first = || -> Option<(Hash, u64)> {
            let mut line = Vec::new();
            read_line(&mut self.reader(file, 0).ok()?, &mut line).ok()?;
            let (prev, _, seq) = split(line.strip_suffix(b"\n")?)?;
            Some((prev, seq))
        };
        let place = (self.place.chain.value(), self.place.chain.size());
        file.first == place.1 && first() == Some(place)
    }

    fn take(&mut self, line: &[u8]) -> Line {
        let bad = |partial, reason| Line::Bad { partial, reason };
        // Zeros are pages that had not reached the disk; canonical JSON has none, wherever in the line they are.
        if line.contains(&0) {
            return bad(true, "it has zeros in it");
        }
        let Some(line) = line.strip_suffix(b"\n") else {
            return bad(true, "it has no end");
        };
        let Some((prev, record, seq)) = split(line) else {
            return bad(false, "it is not a record");
        };
        if seq != self.place.chain.size() {
            return bad(false, "it has another number");
        }
        if prev != self.place.chain.value() {
            return bad(
                false,
                "it does not follow from the record before it, or that one was changed",
            );
        }
        if seq >= self.head.size() {
            match Record::from_bytes(record) {
                Ok(record) => {
                    self.events.insert(record.event_id);
                }
                Err(_) => return bad(false, "it is not a record"),
            }
        }
        self.place.chain.advance(line);
        self.place.edge.push(leaf_hash(line));
        self.seen |= self.place.chain == self.head;
        Line::Good
    }

    /// Cuts the file after its last sound record. What is cut is kept aside; what a crash left must not stop the start
    /// on a full disk, and is lost there.
    fn cut(&mut self, file: &LogFile, residue: bool) -> Result<(), AuditError> {
        let aside = aside(&file.path);
        let kept = match keep_from(&file.path, self.place.bytes, &aside) {
            Ok(()) => Some(aside),
            Err(error) => {
                // What was copied only takes room at the next attempt.
                let _ = std::fs::remove_file(&aside);
                if !residue || !is_full(&error) {
                    return Err(AuditError::io(&aside)(error));
                }
                None
            }
        };
        let cut = || -> std::io::Result<()> {
            let handle = File::options().write(true).open(&file.path)?;
            handle.set_len(self.place.bytes)?;
            handle.sync_all()?;
            super::files::sync_directory(self.directory)
        };
        cut().map_err(AuditError::io(&file.path))?;
        self.cut.push(Cut {
            bytes: file.bytes.saturating_sub(self.place.bytes),
            kept,
        });
        Ok(())
    }

    /// Renames the files after the one where a tolerant scan stopped.
    fn set_aside<'b>(&self, rest: impl Iterator<Item = &'b LogFile>) -> Result<(), AuditError> {
        for file in rest {
            std::fs::rename(&file.path, aside(&file.path)).map_err(AuditError::io(&file.path))?;
        }
        Ok(())
    }

    fn check_head(&self) -> Result<(), AuditError> {
        if self.tolerant || self.seen {
            return Ok(());
        }
        let directory = self.directory.to_owned();
        let (found, expected) = (self.place.chain.size(), self.head.size());
        Err(if found < expected {
            AuditError::Missing {
                directory,
                found,
                expected,
            }
        } else {
            AuditError::Different {
                directory,
                seq: expected.saturating_sub(1),
            }
        })
    }
}

/// Numbers at which a file should begin that is not there, by the last lines of the files before.
fn missing(older: &[LogFile], next: Option<&LogFile>) -> Vec<u64> {
    let after = older.iter().skip(1).chain(next);
    older
        .iter()
        .zip(after)
        .filter_map(|(file, after)| {
            let end = last_seq(&file.path).map_or(file.first, |seq| seq.saturating_add(1));
            (end != after.first).then_some(end)
        })
        .collect()
}

/// One line with its newline, at most a byte more than the longest.
fn read_line(reader: &mut BufReader<File>, line: &mut Vec<u8>) -> std::io::Result<u64> {
    let most = (MAX_LINE as u64).saturating_add(2);
    let length = reader.take(most).read_until(b'\n', line)?;
    Ok(length as u64)
}

/// Copies a file from byte `from` on.
fn keep_from(path: &Path, from: u64, to: &Path) -> std::io::Result<()> {
    let mut source = File::open(path)?;
    source.seek(SeekFrom::Start(from))?;
    let mut target = File::options()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(to)?;
    std::io::copy(&mut source, &mut target)?;
    target.sync_all()
}

/// A name beside `path` that is not taken, and that is no file of the log.
pub(super) fn aside(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    (0u32..)
        .map(|n| path.with_file_name(format!("damaged-{n}-{name}")))
        .find(|path| !path.exists())
        .unwrap_or_else(|| path.with_extension("damaged"))
}

/// When the first record of a file was made; now if there is none.
fn first_time(path: &Path) -> i64 {
    let read = || -> Option<i64> {
        let mut reader = BufReader::new(File::open(path).ok()?);
        let mut line = Vec::new();
        read_line(&mut reader, &mut line).ok()?;
        let (_, record, _) = split(line.strip_suffix(b"\n")?)?;
        Some(Record::from_bytes(record).ok()?.time)
    };
    read().unwrap_or_else(super::space::now_ms)
}
