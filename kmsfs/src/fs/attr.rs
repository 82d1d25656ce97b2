//! Attributes: getattr, setattr, statfs.

use std::sync::Arc;
use std::time::Duration;

use rustix::fs::{Timespec, Timestamps, UTIME_NOW, UTIME_OMIT};

use super::{
    Attr, Caller, FileHandle, Fs, FsResult, Kind, NodeId, SetAttr, SetTime, StatFs, Timestamp,
};
use crate::backing::{Dir, LowerFile, LowerId};
use crate::errno::Errno;
use crate::inode::{Nameless, Node, Place};

/// How often an object that is being renamed is looked for.
const PURSUITS: usize = 8;
/// How long each rename is waited for.
const PATIENCE: Duration = Duration::from_millis(100);

/// How a lower object is reached.
pub(super) enum Reach {
    File(Arc<LowerFile>),
    Dir(Arc<Dir>),
    /// By name; the lock of the directory is to be held.
    Named(Arc<Dir>, Place),
    /// Without a name.
    Nameless(Arc<Nameless>),
}

impl Fs {
    /// The attributes of an object. Needs no key.
    ///
    /// # Errors
    /// `ESTALE` if it is gone.
    pub fn getattr(
        &self,
        _caller: &Caller,
        node: NodeId,
        _fh: Option<FileHandle>,
    ) -> FsResult<Attr> {
        self.attr_of(&self.table.get(node)?)
    }

    /// Changes attributes, in this order: size, owner, mode, times.
    ///
    /// # Errors
    /// What the lower file system says; `EIO` for the size of a damaged file.
    pub fn setattr(
        &self,
        caller: &Caller,
        node: NodeId,
        _fh: Option<FileHandle>,
        changes: &SetAttr,
    ) -> FsResult<Attr> {
        let _writing = self.check_writable()?;
        let node = self.table.get(node)?;
        if let Some(size) = changes.size {
            self.acquire(&node, true)?;
            let resized = self.truncate(caller, &node, size, changes.kill_suidgid);
            self.give_up(&node);
            resized?;
        }
        if changes.uid.is_some() || changes.gid.is_some() {
            let (uid, gid) = (changes.uid, changes.gid);
            self.reach(&node, |reach| match reach {
                Reach::File(file) => file.set_owner(uid, gid),
                Reach::Dir(dir) => dir.set_owner(uid, gid),
                Reach::Named(dir, place) => dir.set_owner_at(&place.name, uid, gid),
                Reach::Nameless(nameless) => nameless.object.set_owner(uid, gid),
            })?;
        }
        if let Some(mode) = changes.mode {
            self.set_mode(&node, mode)?;
        }
        if changes.atime.is_some() || changes.mtime.is_some() {
            let times = Timestamps {
                last_access: timespec(changes.atime),
                last_modification: timespec(changes.mtime),
            };
            self.reach(&node, |reach| match reach {
                Reach::File(file) => {
                    // A header that is being written would put the old time back over this one; so would a copy that is being
                    // put in place, under which others may read.
                    let _header_stays = node.file()?.upgradable_read();
                    file.set_times(&times)
                }
                Reach::Dir(dir) => dir.set_times(&times),
                Reach::Named(dir, place) => dir.set_times_at(&place.name, &times),
                Reach::Nameless(nameless) => nameless.object.set_times(&times),
            })?;
        }
        self.attr_of(&node)
    }

    /// The room on the lower file system.
    ///
    /// # Errors
    /// What the lower file system says.
    pub fn statfs(&self, _node: NodeId) -> FsResult<StatFs> {
        let room = self.dirs.root().room()?;
        let small = |number: u64| u32::try_from(number).unwrap_or(u32::MAX);
        Ok(StatFs {
            blocks: room.f_blocks,
            bfree: room.f_bfree,
            bavail: room.f_bavail,
            files: room.f_files,
            ffree: room.f_ffree,
            bsize: small(room.f_bsize),
            namelen: 255,
            frsize: small(room.f_frsize),
        })
    }

    pub(super) fn attr_of(&self, node: &Arc<Node>) -> FsResult<Attr> {
        let mut target = None;
        let stat = self.reach(node, |reach| match reach {
            Reach::File(file) => file.stat(),
            Reach::Dir(dir) => dir.stat(),
            Reach::Named(dir, place) => {
                let stat = dir.stat_at(&place.name)?;
                if node.kind == Kind::Symlink {
                    let read = || dir.read_link(&place.name);
                    target = Some(self.target_length(&stat, read)?);
                }
                Ok(stat)
            }
            Reach::Nameless(nameless) => {
                let stat = nameless.object.stat()?;
                if node.kind == Kind::Symlink {
                    let read = || nameless.object.read_link();
                    target = Some(self.target_length(&stat, read)?);
                }
                Ok(stat)
            }
        })?;
        let size = match target {
            Some(length) => length,
            None => self.plain_size(node, &stat)?,
        };
        Ok(self.attributes(node, &stat, size))
    }

    /// The attributes of an object, and when it was made, if the lower file system knows that.
    ///
    /// # Errors
    /// As [`Fs::getattr`].
    pub fn statx(&self, caller: &Caller, node: NodeId) -> FsResult<(Attr, Option<Timestamp>)> {
        let attr = self.getattr(caller, node, None)?;
        let birth = self.reach(&self.table.get(node)?, |reach| match reach {
            Reach::File(file) => file.birth(),
            Reach::Dir(dir) => dir.birth(),
            Reach::Named(dir, place) => dir.birth_at(&place.name),
            Reach::Nameless(nameless) => nameless.object.birth(),
        })?;
        Ok((attr, birth.map(|(secs, nanos)| Timestamp { secs, nanos })))
    }

    /// Takes the set-user-id and set-group-id bits away.
    pub(super) fn kill_suidgid(
        &self,
        caller: &Caller,
        node: &Arc<Node>,
        file: &LowerFile,
    ) -> FsResult<()> {
        let stat = file.stat()?;
        let mode = stat.st_mode;
        let mut kept = mode & !libc::S_ISUID;
        // Without group execution the bit runs nothing, and stays for members of the group.
        if mode & libc::S_ISGID != 0
            && (mode & libc::S_IXGRP != 0 || !is_member(caller, stat.st_gid))
        {
            kept &= !libc::S_ISGID;
        }
        if kept != mode {
            tracing::trace!(node = node.id.0, "set-id bits removed");
            file.set_mode(kept)?;
            if let Some(changed) = self.changed.get() {
                changed(node.number());
            }
        }
        Ok(())
    }

    /// Sets the size of a file that is open.
    pub(super) fn truncate(
        &self,
        caller: &Caller,
        node: &Arc<Node>,
        size: u64,
        kill: bool,
    ) -> FsResult<()> {
        let mut body = node.file()?.write();
        let open = body.opened_mut()?;
        open.resize(size).map_err(|fault| self.fault(node, fault))?;
        if kill {
            let lower = Arc::clone(open.lower());
            drop(body);
            self.kill_suidgid(caller, node, &lower)?;
        }
        Ok(())
    }

    fn set_mode(&self, node: &Arc<Node>, mode: u32) -> FsResult<()> {
        self.reach(node, |reach| match reach {
            Reach::File(file) => file.set_mode(mode),
            Reach::Dir(dir) => dir.set_mode(mode),
            Reach::Named(..) | Reach::Nameless(_) if node.kind == Kind::Symlink => {
                Err(Errno::OPNOTSUPP)
            }
            Reach::Named(dir, place) if node.kind == Kind::File => {
                // By descriptor, so that nothing that takes the name can be hit.
                match dir.open_file(&place.name, false) {
                    Ok(file) if LowerId::of(&file.stat()?) == node.lower => file.set_mode(mode),
                    Ok(_) => Err(Errno::STALE),
                    Err(Errno::ACCES) => dir.set_mode_at(&place.name, mode),
                    Err(errno) => Err(errno),
                }
            }
            Reach::Named(dir, place) => dir.set_mode_at(&place.name, mode),
            Reach::Nameless(nameless) => nameless.object.set_mode(mode),
        })
    }

    /// Runs `work` on the lower object, reached in the best way there is.
    pub(super) fn reach<T>(
        &self,
        node: &Arc<Node>,
        mut work: impl FnMut(&Reach) -> FsResult<T>,
    ) -> FsResult<T> {
        if node.kind == Kind::Directory {
            return work(&Reach::Dir(self.dirs.get(node)?));
        }
        if node.kind == Kind::File {
            let open = node
                .file()?
                .read()
                .open
                .as_ref()
                .map(|open| Arc::clone(open.lower()));
            if let Some(file) = open {
                return work(&Reach::File(file));
            }
        }
        let named = self.somewhere(node, |place| {
            let dir = match self.dirs.get(&place.parent) {
                Err(Errno::STALE) => return Ok(None),
                dir => dir?,
            };
            let parent = Arc::clone(&place.parent);
            let _names_stay = parent.directory()?.entries.read();
            match dir.stat_at(&place.name) {
                Ok(stat) if LowerId::of(&stat) == node.lower => {
                    work(&Reach::Named(dir, place)).map(Some)
                }
                Ok(_) | Err(Errno::NOENT) => Ok(None),
                Err(errno) => Err(errno),
            }
        });
        match named {
            Err(Errno::STALE) => match node.nameless() {
                Some(nameless) => work(&Reach::Nameless(nameless)),
                None => Err(Errno::STALE),
            },
            named => named,
        }
    }

    /// Runs `work` on the places of an object until it finds it in one. A rename may move it on meanwhile; it is
    /// followed, within limits.
    ///
    /// # Errors
    /// `ESTALE` if the object is in none of its places.
    pub(super) fn somewhere<T>(
        &self,
        node: &Node,
        mut work: impl FnMut(Place) -> FsResult<Option<T>>,
    ) -> FsResult<T> {
        for _ in 0..PURSUITS {
            let places = node.places();
            for place in &places {
                if let Some(found) = work(place.clone())? {
                    return Ok(found);
                }
            }
            if places.is_empty() {
                break;
            }
            // Who renames holds the lock until the new place is known. The caller may hold it, too: then nobody else
            // renames there.
            for place in &places {
                drop(place.parent.directory()?.entries.try_read_for(PATIENCE));
            }
        }
        Err(Errno::STALE)
    }
}

/// Whether the caller is in a group; not, if that cannot be found out.
fn is_member(caller: &Caller, group: u32) -> bool {
    if caller.gid == group {
        return true;
    }
    let status = std::fs::read_to_string(format!("/proc/{}/status", caller.pid));
    status.is_ok_and(|status| {
        let groups = status.lines().find_map(|line| line.strip_prefix("Groups:"));
        let mut groups = groups.unwrap_or_default().split_ascii_whitespace();
        groups.any(|number| number.parse() == Ok(group))
    })
}

fn timespec(time: Option<SetTime>) -> Timespec {
    let special = |tv_nsec| Timespec { tv_sec: 0, tv_nsec };
    match time {
        None => special(UTIME_OMIT),
        Some(SetTime::Now) => special(UTIME_NOW),
        Some(SetTime::At(time)) => Timespec {
            tv_sec: time.secs,
            tv_nsec: time.nanos.into(),
        },
    }
}
