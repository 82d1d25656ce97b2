//! Listings of a directory whose lower names change while the plain ones stay.
//!
//! A lower directory may move an entry whose name changes to anywhere in its order, so a listing that goes on there could
//! miss it or show it twice. A listing that is under way when that begins, or begins meanwhile, is therefore of one moment:
//! all entries, under the positions that the lower directory gave them.

use kms_format::names;

use super::dir::kind_of;
use super::{Fs, FsResult, Kind};
use crate::backing::{Dir, Listing};
use crate::errno::Errno;
use crate::inode::{Context, Node};

/// How far a handle of a directory is.
#[derive(Default)]
pub(crate) struct Reading {
    /// Opened at the first read.
    pub(super) lower: Option<Listing>,
    pub(super) taken: Option<Snapshot>,
}

/// All entries of a directory at one moment.
pub(super) struct Snapshot {
    entries: Vec<Taken>,
    next: usize,
}

/// An entry as it was.
#[derive(Clone)]
pub(super) struct Taken {
    pub(super) name: Vec<u8>,
    pub(super) ino: u64,
    pub(super) kind: Kind,
    /// Where to go on after it.
    pub(super) cookie: u64,
}

impl Snapshot {
    /// Goes to a position that an entry named, or to the beginning with 0.
    pub(super) fn seek(&mut self, cookie: u64) {
        let before = self.next.checked_sub(1).and_then(|at| self.entries.get(at));
        if cookie == before.map_or(0, |entry| entry.cookie) {
            return;
        }
        let found = self.entries.iter().position(|entry| entry.cookie == cookie);
        // Of another handle, perhaps, and gone: the nearest one.
        let found = found
            .or_else(|| self.entries.iter().rposition(|entry| entry.cookie < cookie))
            .map_or(0, |at| at + 1);
        self.next = if cookie == 0 { 0 } else { found };
    }

    pub(super) fn peek(&self) -> Option<Taken> {
        self.entries.get(self.next).cloned()
    }

    pub(super) const fn advance(&mut self) {
        self.next += 1;
    }
}

impl Fs {
    /// Takes down all entries of a directory. The caller holds its lock.
    pub(super) fn snapshot(
        &self,
        node: &Node,
        context: &Context,
        dir: &Dir,
        listing: &mut Listing,
    ) -> FsResult<Snapshot> {
        let mut entries = Vec::new();
        listing.seek(0)?;
        while let Some(entry) = listing.peek()? {
            let dots = matches!(&*entry.name, b"." | b"..");
            let name = if dots {
                Some(entry.name.clone())
            } else {
                self.plain_name(node, context, dir, entry)?
            };
            if let Some(name) = name {
                let kind = match Kind::from_mode(entry.mode) {
                    Some(kind) => Some(kind),
                    None if dots => Some(Kind::Directory),
                    None => match kind_of(dir, &String::from_utf8_lossy(&entry.name)) {
                        // Removed since it was read.
                        Err(Errno::NOENT) => None,
                        kind => Some(kind?),
                    },
                };
                let (ino, cookie) = (entry.ino, entry.cookie);
                entries.extend(kind.map(|kind| Taken {
                    name,
                    ino,
                    kind,
                    cookie,
                }));
            }
            listing.advance();
        }
        Ok(Snapshot { entries, next: 0 })
    }

    /// From here on listings of this directory are snapshots: those that are under way, and those that begin. The caller
    /// holds no lock.
    pub(super) fn keep_listings(&self, node: &std::sync::Arc<Node>) -> FsResult<()> {
        let directory = node.directory()?;
        directory
            .renaming
            .store(true, std::sync::atomic::Ordering::SeqCst);
        for handle in self.handles.of(node) {
            let mut reading = handle.listing.lock();
            let Reading {
                lower: Some(listing),
                taken: taken @ None,
            } = &mut *reading
            else {
                continue;
            };
            let context = self.context(node)?;
            let dir = self.dirs.get(node)?;
            let _shared = directory.entries.read();
            *taken = Some(self.snapshot(node, &context, &dir, listing)?);
        }
        Ok(())
    }

    /// The lower name under which an entry is now, if it is there.
    pub(super) fn lower_name(
        &self,
        context: &Context,
        dir: &Dir,
        plain: &[u8],
    ) -> FsResult<Option<String>> {
        for keys in [Some(&context.keys), context.keys.former()]
            .into_iter()
            .flatten()
        {
            let name = names::encrypt(keys, plain, names::LOWER_MAX)
                .map_err(|error| Errno::from(&error))?;
            match dir.stat_at(name.stored()) {
                Ok(_) => return Ok(Some(name.stored().to_owned())),
                Err(Errno::NOENT) => {}
                Err(errno) => return Err(errno),
            }
        }
        Ok(None)
    }
}
