//! The content of one open file: [`kms_format::content`] on a lower file.
//!
//! One [`OpenFile`] is shared by all handles of a node, under the lock of [`FileBody`].

use std::sync::Arc;

use kms_format::content::{self, Lower};
use kms_format::{ContentMode, FileKeys, FormatError, UnlockedPolicy};
use rustix::fs::{Timespec, Timestamps, UTIME_OMIT};

use super::copies;
use crate::backing::{Dir, LowerFile};
use crate::errno::{Errno, FsResult};
use crate::volume::Keys;

/// An open file.
pub(crate) type OpenFile = content::File<Arc<LowerFile>>;
/// Why an operation on content failed.
pub(crate) type Fault = content::Fault<Errno>;
pub(crate) type Faulty<T> = Result<T, Fault>;

impl From<Errno> for Fault {
    fn from(errno: Errno) -> Fault {
        Fault::Lower(errno)
    }
}

/// The part of a node that is guarded by its lock.
#[derive(Default)]
pub(crate) struct FileBody {
    /// Handles, and operations that need the file for a moment.
    pub(crate) users: usize,
    /// There as long as there are users.
    pub(crate) open: Option<OpenFile>,
    pub(crate) failures: SyncFailures,
}

impl FileBody {
    /// What the lower file system says once, and may have said now of a sync: whoever has the file open is to hear of it.
    pub(crate) fn remember(&mut self, fault: &Fault) {
        if let Fault::Lower(errno) = fault {
            self.failures.remember(*errno);
        }
    }
}

/// Failed fsyncs of a file. The lower file system reports each once, and all handles here share one lower descriptor: so
/// each handle that was open then is told by us.
#[derive(Default)]
pub(crate) struct SyncFailures {
    pub(crate) count: u64,
    pub(crate) last: Option<Errno>,
    /// Nobody has been told of the last one: whoever opens the file next is.
    pub(crate) untold: bool,
}

impl SyncFailures {
    /// A sync failed that nobody asked for.
    pub(crate) const fn remember(&mut self, errno: Errno) {
        self.count += 1;
        self.last = Some(errno);
        self.untold = true;
    }

    /// How many a new handle need not be told of.
    pub(crate) fn known(&self) -> u64 {
        self.count.saturating_sub(self.untold.into())
    }
}

impl FileBody {
    pub(crate) fn opened(&self) -> FsResult<&OpenFile> {
        self.open.as_ref().ok_or(Errno::BADF)
    }

    pub(crate) fn opened_mut(&mut self) -> FsResult<&mut OpenFile> {
        self.open.as_mut().ok_or(Errno::BADF)
    }
}

/// Reads and authenticates the header of a file in a directory under `policy`. If its content is in its copy, below `root`, it
/// is open for reading only, there ([`LowerFile::is_elsewhere`]).
pub(crate) fn load(
    lower: LowerFile,
    writable: bool,
    unclean: bool,
    policy: &Arc<UnlockedPolicy>,
    keys: &dyn Keys,
    root: &Dir,
) -> Faulty<OpenFile> {
    let lower = Arc::new(lower);
    match load_shared(&lower, writable, unclean, policy, keys) {
        Err(Fault::Damage(FormatError::Elsewhere { id, number })) => {
            let Some(copy) = copies::open(root, id, number)? else {
                return Err(FormatError::Elsewhere { id, number }.into());
            };
            let lower = Arc::into_inner(lower).ok_or(Errno::IO)?;
            let lower = Arc::new(lower.with_copy(copy));
            load_shared(&lower, false, false, policy, keys)
        }
        loaded => loaded,
    }
}

/// The same with a lower file that others use, too; [`FormatError::Elsewhere`] is an error here.
pub(crate) fn load_shared(
    lower: &Arc<LowerFile>,
    writable: bool,
    unclean: bool,
    policy: &Arc<UnlockedPolicy>,
    keys: &dyn Keys,
) -> Faulty<OpenFile> {
    let lower = Arc::clone(lower);
    OpenFile::load(lower, writable, unclean, policy, |generation| {
        keys.policy_key(&policy.volume(), &policy.policy(), generation)
    })
}

/// A file that was made a moment ago. In mode gcm its header is written: without one it would look like a file that was cut.
pub(crate) fn create(lower: LowerFile, policy: &Arc<UnlockedPolicy>) -> FsResult<OpenFile> {
    let mut file = OpenFile::fresh(Arc::new(lower), Arc::clone(policy));
    if policy.mode() == ContentMode::Gcm
        && let Err(fault) = file.keys()
    {
        return Err(match fault {
            Fault::Lower(errno) => errno,
            _ => Errno::IO,
        });
    }
    Ok(file)
}

/// The modification time of a lower file, to be put back after a header was written: it says more about content that has not
/// changed. Nobody may write the file or set its times meanwhile: the caller has its lock for writing.
pub(crate) struct Unchanged(Timestamps);

impl Unchanged {
    pub(crate) fn note(lower: &LowerFile) -> FsResult<Unchanged> {
        let before = lower.stat()?;
        Ok(Unchanged(Timestamps {
            last_access: Timespec {
                tv_sec: 0,
                tv_nsec: UTIME_OMIT,
            },
            last_modification: Timespec {
                tv_sec: before.st_mtime,
                tv_nsec: i64::try_from(before.st_mtime_nsec).unwrap_or(0),
            },
        }))
    }

    /// If that fails the content only looks changed.
    pub(crate) fn put_back(&self, lower: &LowerFile) {
        let _ = lower.set_times(&self.0);
    }
}

/// The keys of a file; makes them, and writes the first header, if there are none yet.
pub(crate) fn keys(file: &mut OpenFile) -> Faulty<&FileKeys> {
    if file.existing_keys().is_none() {
        let unchanged = Unchanged::note(file.lower())?;
        file.keys()?;
        unchanged.put_back(file.lower());
    }
    file.keys()
}

#[allow(deprecated, reason = "the caller is the site, see backing.rs")]
impl Lower for LowerFile {
    type Error = Errno;

    fn read_at(&self, out: &mut [u8], offset: u64) -> FsResult<usize> {
        LowerFile::read_at(self.content(), out, offset)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> FsResult<()> {
        LowerFile::write_at(self, bytes, offset)
    }

    fn write_pair_at(&self, first: &[u8], second: &[u8], offset: u64) -> FsResult<()> {
        LowerFile::write_pair_at(self, first, second, offset)
    }

    fn size(&self) -> FsResult<u64> {
        Ok(self.content().stat()?.st_size.cast_unsigned())
    }

    fn set_size(&self, size: u64) -> FsResult<()> {
        self.truncate(size)
    }

    fn sync_data(&self) -> FsResult<()> {
        LowerFile::sync_data(self)
    }

    fn reserve(&self, offset: u64, length: u64) -> FsResult<bool> {
        supported(LowerFile::reserve(self, offset, length))
    }

    fn punch(&self, offset: u64, length: u64) -> FsResult<bool> {
        supported(LowerFile::punch(self, offset, length))
    }

    fn seek_data(&self, offset: u64) -> FsResult<Option<u64>> {
        found(LowerFile::seek_data(self.content(), offset))
    }

    fn seek_hole(&self, offset: u64) -> FsResult<Option<u64>> {
        found(LowerFile::seek_hole(self.content(), offset))
    }
}

fn supported(done: FsResult<()>) -> FsResult<bool> {
    match done {
        Ok(()) => Ok(true),
        Err(Errno::OPNOTSUPP) => Ok(false),
        Err(errno) => Err(errno),
    }
}

fn found(offset: FsResult<u64>) -> FsResult<Option<u64>> {
    match offset {
        Err(Errno::NXIO) => Ok(None),
        offset => offset.map(Some),
    }
}
