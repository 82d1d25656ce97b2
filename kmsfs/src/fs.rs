//! The operations on the mounted tree, whatever transport carries them.
//!
//! Every method of [`Fs`] that is named like a FUSE operation is that operation, and may be called from any number of threads at once.
//! What each does, and where it differs from a local file system, is in `docs/SEMANTICS.md`.
//!
//! An operation may answer [`crate::volume::WOULD_WAIT`]: it has changed nothing then and can be repeated where waiting
//! for a key is allowed.
//!
//! Reading order: [`types`](self) for what goes in and out, `context` for how a directory is unlocked, `lookup`, then one file for each family of operations;
//! `content` is what happens inside one file.

mod access;
mod admit;
mod attr;
pub(crate) mod attributes;
pub(crate) mod content;
mod context;
pub(crate) mod copies;
mod create;
mod crossing;
mod dir;
mod explain;
mod export;
pub(crate) mod flags;
mod freeze;
mod headers;
mod io;
mod lengths;
mod link;
mod lookup;
mod make;
mod mode;
mod open;
mod permit;
mod protect;
mod recheck;
pub(crate) mod reencrypt;
mod reencrypt_dir;
mod remove;
mod rename;
mod revoked;
pub(crate) mod rewrap;
mod snapshot;
pub(crate) mod tasks;
#[cfg(test)]
pub(crate) mod tests;
mod types;
pub(crate) mod walk;
pub(crate) mod xattr;

use std::collections::HashSet;
use std::hash::{BuildHasher as _, BuildHasherDefault, DefaultHasher};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, OnceLock};

use kms_format::{FormatError, names};
use parking_lot::{Mutex, RwLock};

pub use self::access::AccessTimes;
use self::content::Fault;
pub(crate) use self::content::FileBody;
pub(crate) use self::context::read_header;
use self::freeze::{Gate, Writing};
use self::headers::Headers;
use self::lengths::Lengths;
use self::recheck::Recheck;
pub(crate) use self::snapshot::Reading;
pub use self::types::{
    Attr, Caller, DirEntry, Entry, FileHandle, Kind, NodeId, Opened, SetAttr, SetTime, StatFs,
    Timestamp,
};
use crate::access::opens::Opens;
use crate::access::{Access, Everybody};
use crate::backing::{Dir, LowerId};
use crate::errno::Errno;
pub use crate::errno::FsResult;
use crate::handle::Handles;
use crate::inode::Node;
use crate::inode::descriptors::Descriptors;
use crate::inode::table::Table;
use crate::revoke::marks::Marks;
use crate::volume::Keys;

/// How much damage is remembered as reported.
const REPORTED: usize = 4096;

type Changed = dyn Fn(NodeId) + Send + Sync;

/// A volume, opened. Dropping it makes everything durable and takes the mark of use away.
pub struct Fs {
    lower: PathBuf,
    table: Arc<Table>,
    dirs: Arc<Descriptors>,
    handles: Handles,
    keys: Arc<dyn Keys>,
    access: Arc<dyn Access>,
    opens: Option<Arc<Opens>>,
    headers: Arc<Headers>,
    lengths: Arc<Lengths>,
    /// Damage that is in the log already.
    reported: Mutex<HashSet<u64>>,
    read_only: bool,
    /// The last stop was not clean: sizes are compared with headers.
    unclean: bool,
    /// Looks at all files after an unclean stop.
    recheck: Option<Recheck>,
    /// Has the capabilities by which objects can be given to their makers.
    privileged: bool,
    group: u32,
    /// The directory of long symlink targets, if there is one.
    links: RwLock<Option<Arc<Dir>>>,
    /// There is a directory of copies.
    copies: AtomicBool,
    /// Temporary files in use, not to be cleaned up.
    temporaries: Mutex<Vec<String>>,
    /// Told when attributes change that the kernel has no reason to ask for.
    changed: OnceLock<Box<Changed>>,
    /// Renames between directories, one at a time: the shape of the tree stays as it is under this lock.
    shape: Mutex<()>,
    /// Of this mount: with it the kernel tells file handles of an earlier one apart. Not 0.
    generation: u64,
    access_times: AccessTimes,
    started: std::time::Instant,
    /// Opened to the end: the mark of use is this mount's to take away.
    opened: bool,
    /// Where changes pass.
    gate: Gate,
    /// What is revoked.
    marks: Arc<Marks>,
    /// What was moved while a job runs.
    moves: tasks::Moves,
}

impl Fs {
    /// Opens the volume whose lower tree is at `lower`. `read_only` writes nothing to it, not even repairs.
    ///
    /// # Errors
    /// The root directory's key is refused, or its header is damaged (`EIO`, with a line in the log).
    pub fn new(lower: &Path, keys: Arc<dyn Keys>, read_only: bool) -> FsResult<Fs> {
        Fs::over(Dir::open_root(lower)?, lower, keys, read_only)
    }

    /// The same with the root of the lower tree open; `lower` is for the log.
    fn over(root: Dir, lower: &Path, keys: Arc<dyn Keys>, read_only: bool) -> FsResult<Fs> {
        let id = LowerId::of(&root.stat()?);
        let unclean = match root.stat_at(names::UNCLEAN) {
            Ok(_) => true,
            Err(Errno::NOENT) => false,
            Err(errno) => return Err(errno),
        };
        let links = match root.open_dir(names::LINKS) {
            Ok(dir) => Some(Arc::new(dir)),
            Err(Errno::NOENT) => None,
            Err(errno) => return Err(errno),
        };
        let copies = root.stat_at(names::COPIES).is_ok();
        let dirs = Arc::new(Descriptors::new(root));
        let table = Arc::new(Table::new(id));
        let mut fs = Fs {
            lower: lower.to_owned(),
            headers: Headers::start(Arc::clone(&dirs), Arc::clone(&table))?,
            lengths: Lengths::start(Arc::clone(&table), Arc::clone(&dirs))?,
            reported: Mutex::default(),
            table,
            dirs,
            handles: Handles::default(),
            keys,
            access: Arc::new(Everybody),
            opens: None,
            read_only,
            unclean,
            recheck: None,
            privileged: crate::service::can_give_away(),
            group: rustix::process::getegid().as_raw(),
            links: RwLock::new(links),
            copies: AtomicBool::new(copies),
            temporaries: Mutex::default(),
            changed: OnceLock::new(),
            shape: Mutex::default(),
            generation: generation()?,
            access_times: AccessTimes::default(),
            started: std::time::Instant::now(),
            opened: false,
            gate: Gate::default(),
            marks: Arc::default(),
            moves: tasks::Moves::default(),
        };
        fs.context(fs.table.root())?;
        fs.warn_of_small_blocks()?;
        if unclean {
            tracing::warn!(lower = %lower.display(), "the last stop was not clean: sizes are checked at first use");
            if !read_only {
                // Nobody remembers any more which headers were waiting to be made durable.
                fs.dirs.root().sync_file_system()?;
                fs.recheck = Some(Recheck::start(fs.dirs.root())?);
            }
        } else if !read_only {
            let root = fs.dirs.root();
            root.write_small(names::UNCLEAN, &[])?.sync()?;
            root.sync()?;
        }
        fs.opened = true;
        Ok(fs)
    }

    /// Sets who may use which policy; without that everybody may.
    #[must_use]
    pub fn with_access(mut self, access: Arc<dyn Access>) -> Fs {
        self.access = access;
        self
    }

    /// Has accesses recorded, of policies that want that.
    #[must_use]
    pub fn with_opens(mut self, opens: Arc<Opens>) -> Fs {
        self.opens = Some(opens);
        self
    }

    /// Who is to be told of accesses.
    pub(crate) fn opens(&self) -> Option<&Arc<Opens>> {
        self.opens.as_ref()
    }

    /// FORMAT.md assumes that a power cut leaves a page of 4096 bytes old or new. With smaller blocks it may tear one.
    fn warn_of_small_blocks(&self) -> FsResult<()> {
        let block = self.dirs.root().room()?.f_bsize;
        if block < kms_format::file::PAGE as u64 && !self.read_only {
            tracing::warn!(
                lower = %self.lower.display(),
                block,
                "the lower file system has blocks of less than 4096 bytes: a power cut may damage what is being written. \
                 Move the lower directory to one with blocks of 4096 bytes (mkfs.ext4 -b 4096)"
            );
        }
        Ok(())
    }

    /// Calls `changed`, before the operation is answered, for a node whose set-user-id bits an operation took away that
    /// is not about attributes: the kernel would go on to honour them. Only the first call counts.
    pub fn on_change(&self, changed: impl Fn(NodeId) + Send + Sync + 'static) {
        let _ = self.changed.set(Box::new(changed));
    }

    /// Makes durable what an fsync of the root would, and every directory header.
    ///
    /// # Errors
    /// The lower file system refuses.
    pub fn sync_all(&self) -> FsResult<()> {
        if self.read_only {
            return Ok(());
        }
        // What is in open files now is owed from now on: a conversion may not rely on the opposite.
        for node in self.table.nodes() {
            if let Ok(body) = node.file()
                && let Some(open) = &mut body.write().open
            {
                open.mark_synced();
            }
        }
        self.lengths.settle();
        self.headers.flush_all()?;
        self.dirs.root().sync_file_system()
    }

    /// To be held by every operation that changes something. Waits while it is frozen.
    fn check_writable(&self) -> FsResult<Writing<'_>> {
        if self.read_only {
            Err(Errno::ROFS)
        } else {
            self.gate.pass()
        }
    }

    /// To be held by what is changed on the occasion of reading. None if that is not to be: read-only, or frozen.
    fn may_change(&self) -> Option<Writing<'_>> {
        if self.read_only {
            None
        } else {
            self.gate.try_pass()
        }
    }

    /// Logs what is wrong with a lower object, and says which error that is.
    fn damaged(&self, node: &Node, what: &str, error: &FormatError) -> Errno {
        let path = self.lower.join(node.lower_path()).join(what);
        let errno = Errno::from(error);
        // Once: a reader may come back for the same bytes for ever.
        let hasher = BuildHasherDefault::<DefaultHasher>::default();
        let seen = hasher.hash_one((node.id, what, error.to_string()));
        let mut reported = self.reported.lock();
        if reported.len() >= REPORTED {
            reported.clear();
        }
        if reported.insert(seen) {
            drop(reported);
            tracing::error!(lower = %path.display(), %errno, "{error}");
        }
        errno
    }

    fn fault(&self, node: &Node, fault: Fault) -> Errno {
        match fault {
            Fault::Lower(errno) => errno,
            Fault::Damage(error) => self.damaged(node, "", &error),
            Fault::ReadOnly => Errno::BADF,
            Fault::TooLarge => Errno::FBIG,
            Fault::Holes => {
                tracing::warn!(lower = %self.lower.join(node.lower_path()).display(), "{fault}");
                Errno::FBIG
            }
            Fault::NoData => Errno::NXIO,
            Fault::Unsupported => Errno::OPNOTSUPP,
        }
    }
}

/// A random number that fits into the kernel's 32 bits.
fn generation() -> FsResult<u64> {
    let random = kms_crypto::random_array().map_err(|_| Errno::IO)?;
    Ok(u64::from(u32::from_le_bytes(random)).max(1))
}

impl Drop for Fs {
    fn drop(&mut self) {
        // Perhaps it is frozen.
        self.lengths.hold(false);
        self.headers.stop();
        self.lengths.stop();
        if self.read_only || !self.opened {
            // Opening that failed has looked at no sizes: the mark of an unclean stop stays.
            return;
        }
        let settled = self.all_settled() && !self.headers.failed();
        if let Err(errno) = self.sync_all() {
            tracing::error!(lower = %self.lower.display(), %errno, "not everything could be made durable; the next mount checks sizes");
            return;
        }
        if !settled {
            tracing::info!(lower = %self.lower.display(), "not all sizes have been checked since the last unclean stop; the next mount goes on");
            return;
        }
        let root = self.dirs.root();
        let removed = match root.unlink(names::UNCLEAN) {
            // Away already, while it is frozen.
            Ok(()) | Err(Errno::NOENT) => root.sync(),
            Err(errno) => Err(errno),
        };
        if let Err(errno) = removed {
            tracing::warn!(lower = %self.lower.display(), %errno, "cannot remove the mark of use; the next mount checks sizes");
        }
    }
}

impl std::fmt::Debug for Fs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Fs")
            .field("lower", &self.lower)
            .finish_non_exhaustive()
    }
}
