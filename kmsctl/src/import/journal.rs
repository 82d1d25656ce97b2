//! The work directory of an import, in the destination: what is finished, so that an interrupted import goes on where it stopped.
//!
//! It lies in the destination itself, so that names of the source are written nowhere in plain. As long as it is there the
//! import is not finished. Lines are not synced one by one: after a power cut the last ones may be missing, and what they
//! were about is compared again.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use data_encoding::{BASE64, HEXLOWER};
use rustix::fs::{AtFlags, FlockOperation, Mode, OFlags};
use serde::{Deserialize, Serialize};

use super::tree::{Kind, Seen, Tree};

/// Name of the work directory. Also the beginning of the names of files that are being made.
pub(crate) const WORK: &str = ".kmsctl-import";
const JOURNAL: &str = "journal";
const VERSION: u32 = 1;

/// An object that is finished.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Done {
    pub(crate) kind: Kind,
    /// The object of the source, when it was copied.
    pub(crate) source: Seen,
    /// The copy.
    pub(crate) copy: Seen,
    /// Digest of the content of a file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) digest: Option<String>,
    /// Flags of `chattr` that forbid changes, to be set at the end.
    #[serde(default, skip_serializing_if = "no_flags")]
    pub(crate) late_flags: u32,
}

#[allow(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde calls it with a reference"
)]
fn no_flags(flags: &u32) -> bool {
    *flags == 0
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Line {
    Start {
        version: u32,
        id: String,
        source: String,
    },
    Done {
        path: String,
        #[serde(flatten)]
        done: Done,
    },
    /// Everything is verified and durable; the source is being removed.
    Removing,
}

/// The journal of one import, locked while this process works on it.
#[derive(Debug)]
pub(crate) struct Journal {
    file: Mutex<File>,
    /// Tells the temporary files of this import from anything else.
    id: String,
    /// What earlier runs finished.
    earlier: HashMap<PathBuf, Done>,
    /// What this run finished.
    now: Mutex<HashMap<PathBuf, Done>>,
    removing: bool,
}

/// Why there is no journal.
#[derive(Debug, thiserror::Error)]
pub(crate) enum JournalError {
    #[error("another import into this directory is running")]
    Busy,
    #[error("an import of {0} into this directory is unfinished")]
    Other(PathBuf),
    #[error("the record of the unfinished import is damaged in line {0}")]
    Damaged(usize),
    #[error("cannot use the work directory {WORK}: {0}")]
    Io(#[from] io::Error),
}

impl From<rustix::io::Errno> for JournalError {
    fn from(error: rustix::io::Errno) -> Self {
        JournalError::Io(error.into())
    }
}

impl Journal {
    /// Opens the journal of the import of `source` into `destination`, or starts one.
    pub(crate) fn open(destination: &Tree, source: &Path) -> Result<Journal, JournalError> {
        match rustix::fs::mkdirat(destination.root(), WORK, Mode::RWXU) {
            Ok(()) | Err(rustix::io::Errno::EXIST) => {}
            Err(error) => return Err(error.into()),
        }
        let folder = destination.directory(Path::new(WORK))?;
        let flags =
            OFlags::RDWR | OFlags::CREATE | OFlags::APPEND | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let file = rustix::fs::openat(&folder, JOURNAL, flags, Mode::RUSR | Mode::WUSR)?;
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Err(rustix::io::Errno::WOULDBLOCK) => return Err(JournalError::Busy),
            result => result?,
        }
        let mut file = File::from(file);
        let bytes = {
            let mut bytes = Vec::new();
            io::Read::read_to_end(&mut file, &mut bytes)?;
            bytes
        };
        let read = parse(&bytes)?;
        // What a crash cut off must not become the beginning of the next line.
        file.set_len(read.whole)?;
        let mut journal = Journal {
            file: Mutex::new(file),
            id: String::new(),
            earlier: read.done,
            now: Mutex::default(),
            removing: read.removing,
        };
        match read.start {
            Some((_, other)) if other != source => return Err(JournalError::Other(other)),
            Some((id, _)) => journal.id = id,
            None => {
                journal.id = new_id()?;
                journal.append(&Line::Start {
                    version: VERSION,
                    id: journal.id.clone(),
                    source: BASE64.encode(source.as_os_str().as_bytes()),
                })?;
                journal.sync()?;
                rustix::fs::fsync(&folder)?;
            }
        }
        Ok(journal)
    }

    /// Whether an earlier run finished something.
    pub(crate) fn is_resumed(&self) -> bool {
        !self.earlier.is_empty()
    }

    /// Whether everything was imported before, and the removal of the source has begun.
    pub(crate) fn is_removing(&self) -> bool {
        self.removing
    }

    /// The name of the `number`th temporary file of this run.
    pub(crate) fn temporary(&self, number: u64) -> OsString {
        OsString::from(format!("{WORK}.{}.{number}", self.id))
    }

    /// Whether a name is that of a temporary file of this import.
    pub(crate) fn is_temporary(&self, name: &OsStr) -> bool {
        let prefix = format!("{WORK}.{}.", self.id);
        name.as_bytes().starts_with(prefix.as_bytes())
    }

    /// What an earlier run recorded for a path.
    pub(crate) fn earlier(&self, path: &Path) -> Option<&Done> {
        self.earlier.get(path)
    }

    /// What any run recorded for a path.
    pub(crate) fn done(&self, path: &Path) -> Option<Done> {
        let now = lock(&self.now).get(path).cloned();
        now.or_else(|| self.earlier.get(path).cloned())
    }

    /// Objects whose flags forbid changes.
    pub(crate) fn late(&self) -> Vec<(PathBuf, Done)> {
        let now = lock(&self.now);
        let earlier = self
            .earlier
            .iter()
            .filter(|(path, _)| !now.contains_key(*path));
        let mut late: Vec<_> = now
            .iter()
            .chain(earlier)
            .filter(|(_, done)| done.late_flags != 0)
            .map(|(path, done)| (path.clone(), done.clone()))
            .collect();
        late.sort_unstable_by(|a, b| a.0.cmp(&b.0));
        late
    }

    /// Paths that an earlier run finished and this one did not.
    pub(crate) fn unfinished_now(&self) -> Vec<&Path> {
        let now = lock(&self.now);
        let mut gone: Vec<&Path> = self
            .earlier
            .keys()
            .filter(|path| !now.contains_key(*path))
            .map(PathBuf::as_path)
            .collect();
        gone.sort_unstable();
        gone
    }

    /// Records a finished object.
    pub(crate) fn finish(&self, path: &Path, done: Done) -> io::Result<()> {
        if self.earlier.get(path) != Some(&done) {
            self.append(&Line::Done {
                path: BASE64.encode(path.as_os_str().as_bytes()),
                done: done.clone(),
            })?;
        }
        lock(&self.now).insert(path.to_owned(), done);
        Ok(())
    }

    /// Records, durably, that everything is imported and the source may go.
    pub(crate) fn start_removing(&self) -> io::Result<()> {
        if !self.removing {
            self.append(&Line::Removing)?;
        }
        self.sync()
    }

    /// Removes the work directory: the import is finished.
    pub(crate) fn remove(&self, destination: &Tree) -> io::Result<()> {
        let folder = destination.directory(Path::new(WORK))?;
        rustix::fs::unlinkat(&folder, JOURNAL, AtFlags::empty())?;
        rustix::fs::unlinkat(destination.root(), WORK, AtFlags::REMOVEDIR)?;
        Ok(())
    }

    fn append(&self, line: &Line) -> io::Result<()> {
        let mut bytes = serde_json::to_vec(line)?;
        bytes.push(b'\n');
        lock(&self.file).write_all(&bytes)
    }

    fn sync(&self) -> io::Result<()> {
        lock(&self.file).sync_all()
    }
}

/// A poisoned lock is one whose owner panicked; the map behind it is whole.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}

#[derive(Default)]
struct Read {
    start: Option<(String, PathBuf)>,
    done: HashMap<PathBuf, Done>,
    removing: bool,
    /// Bytes of whole lines.
    whole: u64,
}

fn parse(bytes: &[u8]) -> Result<Read, JournalError> {
    let mut read = Read::default();
    for (number, line) in (1..).zip(bytes.split_inclusive(|byte| *byte == b'\n')) {
        let Some(line) = line.strip_suffix(b"\n") else {
            break;
        };
        let damaged = || JournalError::Damaged(number);
        let path = |text: &str| -> Result<PathBuf, JournalError> {
            let bytes = BASE64.decode(text.as_bytes()).map_err(|_| damaged())?;
            Ok(PathBuf::from(OsString::from_vec(bytes)))
        };
        match serde_json::from_slice(line).map_err(|_| damaged())? {
            Line::Start {
                version: VERSION,
                id,
                source,
            } if number == 1 => {
                read.start = Some((id, path(&source)?));
            }
            Line::Done { path: below, done } if number > 1 => {
                read.done.insert(path(&below)?, done);
            }
            Line::Removing if number > 1 => read.removing = true,
            _ => return Err(damaged()),
        }
        read.whole += line.len() as u64 + 1;
    }
    Ok(read)
}

fn new_id() -> io::Result<String> {
    let mut bytes = [0; 8];
    io::Read::read_exact(&mut File::open("/dev/urandom")?, &mut bytes)?;
    Ok(HEXLOWER.encode(&bytes))
}

/// Whether a directory holds an unfinished import.
pub(crate) fn is_unfinished(directory: &OwnedFd) -> io::Result<bool> {
    Ok(super::tree::stat_if_there(directory, OsStr::new(WORK))?.is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn done(ino: u64) -> Done {
        let seen = Seen {
            ino,
            size: 3,
            mtime: (-1, 2),
            ctime: (3, 4),
        };
        Done {
            kind: Kind::File,
            source: seen,
            copy: seen,
            digest: Some("ab".into()),
            late_flags: 0,
        }
    }

    #[test]
    fn what_was_finished_is_known_later_and_a_torn_line_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let tree = Tree::open(folder.path()).unwrap();
        let strange = Path::new(OsStr::from_bytes(b"a/\xff\n"));
        let journal = Journal::open(&tree, Path::new("/src")).unwrap();
        assert!(!journal.is_resumed());
        journal.finish(strange, done(1)).unwrap();
        journal.finish(Path::new("b"), done(2)).unwrap();
        let temporary = journal.temporary(7);
        drop(journal);
        let path = folder.path().join(WORK).join(JOURNAL);
        let whole = std::fs::read(&path).unwrap();
        std::fs::write(&path, &whole[..whole.len() - 5]).unwrap();

        let journal = Journal::open(&tree, Path::new("/src")).unwrap();
        assert_eq!(journal.earlier(strange), Some(&done(1)));
        assert_eq!(journal.earlier(Path::new("b")), None);
        assert!(journal.is_temporary(&temporary) && !journal.is_temporary(OsStr::new(WORK)));
        assert_eq!(journal.unfinished_now(), [strange]);
        journal.finish(strange, done(1)).unwrap();
        journal.finish(Path::new("b"), done(3)).unwrap();
        assert!(journal.unfinished_now().is_empty());
        drop(journal);

        let journal = Journal::open(&tree, Path::new("/src")).unwrap();
        assert_eq!(journal.earlier(Path::new("b")), Some(&done(3)));
        assert!(is_unfinished(tree.root()).unwrap());
        journal.remove(&tree).unwrap();
        assert!(!is_unfinished(tree.root()).unwrap());
    }

    #[test]
    fn another_import_is_not_mixed_up_with_this_one() {
        let folder = tempfile::tempdir().unwrap();
        let tree = Tree::open(folder.path()).unwrap();
        let journal = Journal::open(&tree, Path::new("/src")).unwrap();
        assert!(matches!(
            Journal::open(&tree, Path::new("/src")),
            Err(JournalError::Busy)
        ));
        drop(journal);
        let other = Journal::open(&tree, Path::new("/other"));
        assert!(matches!(other, Err(JournalError::Other(path)) if path == Path::new("/src")));
        let path = folder.path().join(WORK).join(JOURNAL);
        let mut bytes = std::fs::read(&path).unwrap();
        bytes.extend_from_slice(b"{}\n");
        std::fs::write(&path, bytes).unwrap();
        assert!(matches!(
            Journal::open(&tree, Path::new("/src")),
            Err(JournalError::Damaged(2))
        ));
    }
}
