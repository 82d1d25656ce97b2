//! Removing names: unlink, rmdir.

use std::ffi::OsStr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use kms_format::names::{self, LowerName};
use kms_format::{Record, symlink};

use super::lookup::Named;
use super::{Caller, Fault, Fs, FsResult, Kind, NodeId};
use crate::backing::{Dir, LowerId, Small, Stat};
use crate::errno::Errno;
use crate::inode::{Context, Node};

/// What has to be done after a name is gone, or undone if it stays.
#[derive(Default)]
pub(super) struct Parting {
    node: Option<Arc<Node>>,
    /// It was the last name.
    last: bool,
    /// The record of a long symlink target.
    record: Option<String>,
    /// The directory, and its header, to be put back.
    header: Option<(Arc<Dir>, Vec<u8>)>,
}

impl Fs {
    /// Removes a name of anything but a directory. What is open stays usable.
    ///
    /// # Errors
    /// `ENOENT`; `EISDIR` for a directory.
    pub fn unlink(&self, _caller: &Caller, parent: NodeId, name: &OsStr) -> FsResult<()> {
        let _writing = self.check_writable()?;
        let asked = self.named(parent, name)?;
        let _alone = asked.parent.directory()?.entries.write();
        let named = self.resolve(&asked)?;
        let stat = named.dir.stat_at(named.stored())?;
        if Kind::from_mode(stat.st_mode) == Some(Kind::Directory) {
            return Err(Errno::ISDIR);
        }
        let node = self.table.find(LowerId::of(&stat));
        let _links = node.as_ref().map(|node| node.links.lock());
        let parting = self.part(&named, &stat)?;
        match named.dir.unlink(named.stored()) {
            Ok(()) => {
                self.parted(parting, &named.parent, named.stored());
                self.drop_sidecar(&named);
                Ok(())
            }
            Err(errno) => {
                self.stay(parting);
                Err(errno)
            }
        }
    }

    /// Removes an empty directory.
    ///
    /// # Errors
    /// `ENOENT`, `ENOTDIR`, `ENOTEMPTY`.
    pub fn rmdir(&self, _caller: &Caller, parent: NodeId, name: &OsStr) -> FsResult<()> {
        let _writing = self.check_writable()?;
        let asked = self.named(parent, name)?;
        let _alone = asked.parent.directory()?.entries.write();
        let named = self.resolve(&asked)?;
        let stat = named.dir.stat_at(named.stored())?;
        if Kind::from_mode(stat.st_mode) != Some(Kind::Directory) {
            return Err(Errno::NOTDIR);
        }
        let node = self.table.find(LowerId::of(&stat));
        let directory = node.as_ref().map(|node| node.directory()).transpose()?;
        let _inside = directory.map(|directory| directory.entries.write());
        let parting = self.part(&named, &stat)?;
        match named.dir.remove_dir(named.stored()) {
            Ok(()) => {
                self.parted(parting, &named.parent, named.stored());
                self.drop_sidecar(&named);
                Ok(())
            }
            Err(errno) => {
                self.stay(parting);
                // Something in it that is not ours.
                Err(if errno == Errno::EXIST {
                    Errno::NOTEMPTY
                } else {
                    errno
                })
            }
        }
    }

    /// Prepares the removal of a name; the caller holds the locks.
    pub(super) fn part(&self, named: &Named, stat: &Stat) -> FsResult<Parting> {
        let mut parting = Parting {
            node: self.table.find(LowerId::of(stat)),
            ..Parting::default()
        };
        let kind = Kind::from_mode(stat.st_mode);
        if kind == Some(Kind::Directory) {
            parting.last = true;
            if let Some(node) = &parting.node {
                // Keeps it reachable for who has it open.
                self.dirs.get(node)?;
            }
            parting.header = Some(self.empty_out(&named.dir, named.stored())?);
        } else if stat.st_nlink == 1 {
            parting.last = true;
            if kind == Some(Kind::Symlink)
                && symlink::plain_length(stat.st_size.cast_unsigned()).is_none()
            {
                let stored = named.dir.read_link(named.stored())?;
                parting.record = self.record_of(&named.context, &stored)?;
            }
        }
        match &parting.node {
            // Keeps it reachable for whoever still holds it. If that fails (too many descriptors), who has it open
            // notices nothing, and others find it gone.
            Some(node)
                if node.kind != Kind::Directory
                    && node.is_only_at(&named.parent, named.stored()) =>
            {
                if let Ok(object) = named.dir.open_path(named.stored()) {
                    node.pin(object, &named.parent);
                }
            }
            Some(_) => {}
            None if parting.last => self.table.gone(LowerId::of(stat)),
            None => {}
        }
        if parting.last
            && let Some(node) = &parting.node
        {
            self.table.unhash(node);
            if let Ok(directory) = node.directory() {
                directory.dead.store(true, Ordering::Release);
            }
        }
        Ok(parting)
    }

    /// The record of a long target, if it is this symlink's: it opens under the directory's policy. One that was put
    /// here from elsewhere does not take another's record with it.
    fn record_of(&self, context: &Context, stored: &[u8]) -> FsResult<Option<String>> {
        let target = symlink::StoredTarget::parse(stored);
        let Some(name) = target.ok().and_then(|target| target.record_name()) else {
            return Ok(None);
        };
        match self.open_target(context, stored) {
            Ok(_) => Ok(Some(name)),
            Err(Fault::Lower(errno)) if errno == crate::volume::WOULD_WAIT => Err(errno),
            Err(_) => Ok(None),
        }
    }

    /// The name is gone.
    pub(super) fn parted(&self, parting: Parting, parent: &Arc<Node>, name: &str) {
        if let Some(node) = &parting.node {
            self.headers.remove(node);
            if parting.last {
                self.lengths.remove(node);
            }
            self.table.remove_place(node, parent, name);
        }
        if let (Some(record), Some(links)) = (&parting.record, self.links.read().as_ref()) {
            // Without a symlink it is garbage, and harmless; without it the symlink would be damaged. So the symlink
            // goes first, durably.
            let gone = self.dirs.get(parent).and_then(|dir| dir.sync());
            let _ = gone.and_then(|()| links.unlink(record));
        }
    }

    /// The name stays: the removal failed.
    pub(super) fn stay(&self, parting: Parting) {
        if let Some(node) = &parting.node {
            node.unpin();
        }
        if let Some(node) = &parting.node
            && parting.last
        {
            self.table.rehash(node);
            if let Ok(directory) = node.directory() {
                directory.dead.store(false, Ordering::Release);
            }
        }
        if let Some((dir, header)) = parting.header
            && !header.is_empty()
            && let Err(errno) = self.replace(&dir, names::DIR_HEADER, &header)
        {
            let lower = parting.node.as_ref().map(|node| node.lower_path());
            tracing::error!(lower, %errno, "cannot put a directory header back");
        }
    }

    /// Removes what is ours from a directory that holds nothing else. Gives the header, to be put back if need be.
    fn empty_out(&self, parent: &Dir, name: &str) -> FsResult<(Arc<Dir>, Vec<u8>)> {
        let dir = parent.open_dir(name)?;
        let mut listing = dir.list()?;
        let mut ours = Vec::new();
        while let Some(entry) = listing.peek()? {
            match names::classify(&entry.name) {
                LowerName::Sidecar | LowerName::Temporary => {
                    ours.push(String::from_utf8_lossy(&entry.name).into_owned());
                }
                LowerName::DirHeader => {}
                _ if entry.name == b"." || entry.name == b".." => {}
                _ => return Err(Errno::NOTEMPTY),
            }
            listing.advance();
        }
        let header = dir.read_small(names::DIR_HEADER, kms_format::dir::LONGEST + 1)?;
        for name in ours {
            dir.unlink(&name)?;
        }
        let header = match header {
            Small::Missing => Vec::new(),
            header => {
                dir.unlink(names::DIR_HEADER)?;
                // What is not a file is not a header, and is not put back.
                header
                    .of(Record::DirHeader)
                    .ok()
                    .flatten()
                    .unwrap_or_default()
            }
        };
        Ok((Arc::new(dir), header))
    }
}
