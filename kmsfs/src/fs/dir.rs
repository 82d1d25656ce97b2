//! Reading directories.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use kms_format::Record;
use kms_format::names::{self, LowerName};
use rustix::fs::{Timespec, Timestamps};

use super::snapshot::{Reading, Snapshot};
use super::{AccessTimes, Caller, DirEntry, Entry, FileHandle, Fs, FsResult, Kind, NodeId};
use crate::backing::{Dir, Listing, LowerEntry};
use crate::errno::Errno;
use crate::handle::Opening;
use crate::inode::{Context, Node};

/// Gets the directory, the lower name of all entries but `.` and `..`, and the entry; says whether it was too much.
type Take<'a> = dyn FnMut(&Arc<Node>, Option<&str>, DirEntry<'_>) -> FsResult<bool> + 'a;

/// The same for one directory.
type Taking<'a> = dyn FnMut(Option<&str>, DirEntry<'_>) -> FsResult<bool> + 'a;

/// The longest record of a long name.
pub(super) const SIDECAR_MAX: usize = 512;

impl Fs {
    /// Opens a directory for reading.
    ///
    /// # Errors
    /// `ENOTDIR`; `ENOKEY` if it is locked; `EIO` if its header is damaged.
    pub fn opendir(&self, caller: &Caller, node: NodeId) -> FsResult<FileHandle> {
        let opened_as = node;
        let node = self.table.get(node)?;
        let context = self.context(&node)?;
        let opening = Opening {
            opener: *caller,
            policy: Some(context.policy.policy()),
            opened_as,
            writable: false,
            reads: false,
        };
        Ok(self.handles.insert(node, &opening))
    }

    /// Closes a directory.
    pub fn releasedir(&self, fh: FileHandle) {
        drop(self.handles.remove(fh));
    }

    /// Gives entries, from `offset` (0, or what an entry said) on, until `take` returns true: that entry was not taken.
    /// Positions and order are those of the lower directory.
    ///
    /// # Errors
    /// `EBADF`; what the lower file system says.
    pub fn readdir(
        &self,
        fh: FileHandle,
        offset: u64,
        take: &mut dyn FnMut(DirEntry<'_>) -> bool,
    ) -> FsResult<()> {
        self.each(fh, offset, &mut |_, _, entry| Ok(take(entry)))
    }

    /// Like [`Fs::readdir`], with a lookup of each entry but `.` and `..`. If the entry is not taken, the kernel gets no
    /// reference. `None` stands for an entry that could not be looked up.
    ///
    /// # Errors
    /// As [`Fs::readdir`].
    pub fn readdirplus(
        &self,
        _caller: &Caller,
        fh: FileHandle,
        offset: u64,
        take: &mut dyn FnMut(DirEntry<'_>, Option<&Entry>) -> bool,
    ) -> FsResult<()> {
        let handle = self.handles.get(fh)?;
        let dir = self.dirs.get(&handle.node)?;
        self.each(fh, offset, &mut |node, lower, item| {
            let Some(lower) = lower else {
                return Ok(take(item, None));
            };
            match self.enter(node, &dir, lower) {
                Ok(entry) => {
                    let full = take(item, Some(&entry));
                    if full {
                        self.forget(entry.node, 1);
                    }
                    Ok(full)
                }
                // Removed since it was read.
                Err(Errno::NOENT) => Ok(false),
                Err(errno) if errno == crate::volume::WOULD_WAIT => Err(errno),
                Err(_) => Ok(take(item, None)),
            }
        })
    }

    fn list_for_user(&self, dir: &Dir) -> FsResult<Listing> {
        if self.access_times == AccessTimes::Never || self.may_change().is_none() {
            dir.list()
        } else {
            dir.list_for_user()
        }
    }

    /// Calls `take` with each entry and, for all but `.` and `..`, its lower name.
    fn each(&self, fh: FileHandle, offset: u64, take: &mut Take<'_>) -> FsResult<()> {
        let handle = self.handles.get(fh)?;
        let node = &handle.node;
        self.context(node)?;
        let dir = self.dirs.get(node)?;
        let mut reading = handle.listing.lock();
        let Reading {
            lower,
            taken: snapshot,
        } = &mut *reading;
        let listing = match lower.as_mut() {
            Some(listing) => listing,
            None => lower.insert(self.list_for_user(&dir)?),
        };
        let directory = node.directory()?;
        let _shared = directory.entries.read();
        // The keys may have changed while this waited for the lock.
        let context = directory.context.read().clone().ok_or(Errno::STALE)?;
        if offset == 0 {
            *snapshot = None;
        }
        if snapshot.is_none() && directory.renaming.load(Ordering::SeqCst) {
            *snapshot = Some(self.snapshot(node, &context, &dir, listing)?);
        }
        let mut taken = false;
        let take: &mut Taking<'_> = &mut |lower, entry| {
            let full = take(node, lower, entry)?;
            taken |= !full;
            Ok(full)
        };
        let result = match snapshot {
            Some(snapshot) => self.walk_snapshot(node, &context, &dir, snapshot, offset, take),
            None => self.walk(node, &context, &dir, listing, offset, take),
        };
        match result {
            // What was given already has to arrive; the error comes again.
            Err(_) if taken => Ok(()),
            result => result,
        }
    }

    fn walk(
        &self,
        node: &Arc<Node>,
        context: &Context,
        dir: &Dir,
        listing: &mut Listing,
        offset: u64,
        take: &mut Taking<'_>,
    ) -> FsResult<()> {
        listing.seek(offset)?;
        while let Some(entry) = listing.peek()? {
            let full = match &*entry.name {
                b"." | b".." => take(None, dots(node, &entry.name, entry.cookie))?,
                _ => match self.plain_name(node, context, dir, entry)? {
                    None => false,
                    Some(name) => {
                        let lower = String::from_utf8_lossy(&entry.name);
                        let kind = match Kind::from_mode(entry.mode) {
                            Some(kind) => kind,
                            None => kind_of(dir, &lower)?,
                        };
                        let item = DirEntry {
                            ino: entry.ino,
                            offset: entry.cookie,
                            kind,
                            name: OsStr::from_bytes(&name),
                        };
                        take(Some(&lower), item)?
                    }
                },
            };
            if full {
                break;
            }
            listing.advance();
        }
        Ok(())
    }

    fn walk_snapshot(
        &self,
        node: &Arc<Node>,
        context: &Context,
        dir: &Dir,
        snapshot: &mut Snapshot,
        offset: u64,
        take: &mut Taking<'_>,
    ) -> FsResult<()> {
        snapshot.seek(offset);
        while let Some(entry) = snapshot.peek() {
            let full = match &*entry.name {
                b"." | b".." => take(None, dots(node, &entry.name, entry.cookie))?,
                name => match self.lower_name(context, dir, name)? {
                    // Removed since.
                    None => false,
                    Some(lower) => {
                        let item = DirEntry {
                            ino: entry.ino,
                            offset: entry.cookie,
                            kind: entry.kind,
                            name: OsStr::from_bytes(name),
                        };
                        take(Some(&lower), item)?
                    }
                },
            };
            if full {
                break;
            }
            snapshot.advance();
        }
        Ok(())
    }

    /// The plain name of an entry; `None` for what is not shown.
    pub(super) fn plain_name(
        &self,
        node: &Node,
        context: &Context,
        dir: &Dir,
        entry: &LowerEntry,
    ) -> FsResult<Option<Vec<u8>>> {
        let lower = String::from_utf8_lossy(&entry.name);
        let record = match names::classify(&entry.name) {
            LowerName::Short => Ok(None),
            LowerName::Long => match names::sidecar_name(&entry.name) {
                Some(sidecar) => dir.read_small(&sidecar, SIDECAR_MAX)?.of(Record::Sidecar),
                None => Ok(None),
            },
            LowerName::Temporary => {
                self.clean_up(dir, &lower);
                return Ok(None);
            }
            LowerName::DirHeader
            | LowerName::Sidecar
            | LowerName::Reserved
            | LowerName::Foreign => {
                return Ok(None);
            }
        };
        let name =
            record.and_then(|record| names::decrypt(&context.keys, &entry.name, record.as_deref()));
        match name {
            Ok(name) => Ok(Some(name)),
            Err(error) => {
                self.damaged(node, &lower, &error);
                Ok(None)
            }
        }
    }

    /// Removes what an unfinished operation left, without a trace in the directory's times.
    fn clean_up(&self, dir: &Dir, name: &str) {
        let Some(_writing) = self.may_change() else {
            return;
        };
        if self.temporaries.lock().iter().any(|used| used == name) {
            return;
        }
        let before = dir.stat();
        if dir.unlink(name).is_ok()
            && let Ok(stat) = before
        {
            let time = |tv_sec, nanos| Timespec {
                tv_sec,
                tv_nsec: i64::try_from(nanos).unwrap_or(0),
            };
            let times = Timestamps {
                last_access: time(stat.st_atime, stat.st_atime_nsec),
                last_modification: time(stat.st_mtime, stat.st_mtime_nsec),
            };
            // If that fails the directory only looks changed.
            let _ = dir.set_times(&times);
        }
    }
}

/// The entry `.` or `..`.
fn dots<'a>(node: &Arc<Node>, name: &'a [u8], offset: u64) -> DirEntry<'a> {
    let above = if name.len() == 1 { None } else { node.parent() };
    DirEntry {
        ino: above.as_ref().unwrap_or(node).lower.ino(),
        offset,
        kind: Kind::Directory,
        name: OsStr::from_bytes(name),
    }
}

pub(super) fn kind_of(dir: &Dir, name: &str) -> FsResult<Kind> {
    Kind::from_mode(dir.stat_at(name)?.st_mode).ok_or(Errno::IO)
}
