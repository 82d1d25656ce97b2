//! The calls on an open simulated object.

use parking_lot::Mutex;
use rustix::fs::{
    FallocateFlags, FileType, OFlags, RenameFlags, SeekFrom, Stat, StatVfs, Timespec, Timestamps,
    UTIME_NOW, UTIME_OMIT, XattrFlags,
};
use rustix::io::{Errno, Result};

use super::super::LowerEntry;
use super::content::Content;
use super::names::Entries;
use super::{Body, Id, Inode, LowerFs, Meta, Model, Op, State};

/// An open object.
#[derive(Debug)]
pub(in crate::backing) struct Fd {
    fs: LowerFs,
    id: Id,
    writable: bool,
    position: Mutex<u64>,
}

impl Drop for Fd {
    fn drop(&mut self) {
        let mut state = self.fs.state.lock();
        if let Ok(inode) = state.inode(self.id) {
            inode.open -= 1;
        }
        state.reap(self.id);
    }
}

impl Fd {
    pub(super) fn open(fs: &LowerFs, id: Id, writable: bool) -> Fd {
        fs.state.lock().opened(id);
        Fd::of(fs, id, writable)
    }

    /// Of an object that counts as opened already.
    fn of(fs: &LowerFs, id: Id, writable: bool) -> Fd {
        Fd {
            fs: fs.clone(),
            id,
            writable,
            position: Mutex::default(),
        }
    }

    /// The same object, opened once more.
    pub(in crate::backing) fn duplicate(&self) -> Result<Fd> {
        Ok(Fd::open(&self.fs, self.id, true))
    }

    /// The state, if the call is not to fail.
    fn call<T>(&self, op: Op, work: impl FnOnce(&mut State) -> Result<T>) -> Result<T> {
        let mut state = self.fs.state.lock();
        state.enter(op)?;
        work(&mut state)
    }

    fn find(&self, state: &mut State, name: &str) -> Result<Id> {
        if name.is_empty() {
            return Ok(self.id);
        }
        let entries = state.entries(self.id)?;
        match name {
            "." => Ok(self.id),
            ".." => Ok(entries.parent),
            _ => entries.get(name).ok_or(Errno::NOENT),
        }
    }

    /// A named object, opened without an effect on it.
    pub(in crate::backing) fn at(&self, name: &str) -> Result<Fd> {
        let id = {
            let mut state = self.fs.state.lock();
            self.find(&mut state, name)?
        };
        Ok(Fd::open(&self.fs, id, false))
    }

    pub(in crate::backing) fn openat(&self, name: &str, flags: OFlags) -> Result<Fd> {
        let id = self.call(Op::Open, |state| {
            let id = self.find(state, name)?;
            match &state.inode(id)?.body {
                Body::Dir(_) => {}
                _ if flags.contains(OFlags::DIRECTORY) => return Err(Errno::NOTDIR),
                Body::Symlink(_) if !flags.contains(OFlags::PATH) => return Err(Errno::LOOP),
                _ => {}
            }
            // At once: it may be removed as soon as the lock is free.
            state.opened(id);
            Ok(id)
        })?;
        Ok(Fd::of(&self.fs, id, flags.contains(OFlags::RDWR)))
    }

    pub(in crate::backing) fn create(&self, name: &str, flags: OFlags, mode: u32) -> Result<Fd> {
        if !flags.contains(OFlags::EXCL) {
            return Err(Errno::OPNOTSUPP);
        }
        let body = Body::File(Content::default());
        let id = self.make(Op::Create, name, libc::S_IFREG | mode, body)?;
        Ok(Fd::open(&self.fs, id, true))
    }

    /// A file without a name.
    pub(in crate::backing) fn unnamed(&self, mode: u32) -> Result<Fd> {
        let id = self.call(Op::Create, |state| {
            let id = state.add(libc::S_IFREG | mode, Body::File(Content::default()));
            state.inode(id)?.unnamed = true;
            Ok(id)
        })?;
        Ok(Fd::open(&self.fs, id, true))
    }

    fn make(&self, op: Op, name: &str, mode: u32, body: Body) -> Result<Id> {
        self.call(op, |state| {
            if state.inode(self.id)?.links == 0 {
                return Err(Errno::NOENT);
            }
            if state.entries(self.id)?.get(name).is_some() {
                return Err(Errno::EXIST);
            }
            let links = if matches!(body, Body::Dir(_)) { 2 } else { 1 };
            let id = state.add(mode, body);
            state.inode(id)?.links = links;
            self.change(state, &[(self.id, name, Some(id))])?;
            Ok(id)
        })
    }

    /// Changes entries, all at once; the caller has checked.
    fn change(&self, state: &mut State, changes: &[(Id, &str, Option<Id>)]) -> Result<()> {
        let now = state.now();
        let mut event = Vec::new();
        for (dir, name, id) in changes {
            state.entries(*dir)?.set(name, *id);
            touch(state.inode(*dir)?, now);
            event.push((*dir, (*name).to_owned(), *id));
        }
        state.names.happened(event);
        Ok(())
    }

    pub(in crate::backing) fn mkdir(&self, name: &str, mode: u32) -> Result<()> {
        let body = Body::Dir(Entries::below(self.id));
        self.make(Op::Mkdir, name, libc::S_IFDIR | mode, body)?;
        self.fs.state.lock().inode(self.id)?.links += 1;
        Ok(())
    }

    pub(in crate::backing) fn mknod(&self, name: &str, mode: u32, device: u64) -> Result<()> {
        let body = match mode & libc::S_IFMT {
            libc::S_IFREG => Body::File(Content::default()),
            _ => Body::Other(device),
        };
        self.make(Op::Mknod, name, mode, body).map(drop)
    }

    pub(in crate::backing) fn symlink(&self, target: &str, name: &str) -> Result<()> {
        let body = Body::Symlink(target.as_bytes().to_vec());
        self.make(Op::Symlink, name, libc::S_IFLNK | 0o777, body)
            .map(drop)
    }

    pub(in crate::backing) fn read_link(&self, name: &str) -> Result<Vec<u8>> {
        self.call(Op::Read, |state| {
            let id = self.find(state, name)?;
            match &state.inode(id)?.body {
                Body::Symlink(target) => Ok(target.clone()),
                _ => Err(Errno::INVAL),
            }
        })
    }

    pub(in crate::backing) fn link(&self, name: &str, to: &Fd, new: &str) -> Result<()> {
        self.call(Op::Link, |state| {
            let id = self.find(state, name)?;
            if matches!(state.inode(id)?.body, Body::Dir(_)) {
                return Err(Errno::PERM);
            }
            if state.inode(to.id)?.links == 0 {
                return Err(Errno::NOENT);
            }
            if state.entries(to.id)?.get(new).is_some() {
                return Err(Errno::EXIST);
            }
            let now = state.now();
            let inode = state.inode(id)?;
            inode.links += 1;
            inode.meta.changed = now;
            self.change(state, &[(to.id, new, Some(id))])
        })
    }

    /// Gives an open object a name.
    pub(in crate::backing) fn link_open(&self, to: &Fd, new: &str) -> Result<()> {
        let inode = self.fs.state.lock().inode(self.id)?.clone();
        if inode.links == 0 && !inode.unnamed {
            return Err(Errno::NOENT);
        }
        self.link("", to, new)
    }

    pub(in crate::backing) fn unlink(&self, name: &str, directory: bool) -> Result<()> {
        self.call(Op::Unlink, |state| {
            let id = state.entries(self.id)?.get(name).ok_or(Errno::NOENT)?;
            match (&state.inode(id)?.body, directory) {
                (Body::Dir(_), false) => return Err(Errno::ISDIR),
                (Body::Dir(entries), true) if !entries.is_empty() => return Err(Errno::NOTEMPTY),
                (Body::Dir(_), true) | (_, false) => {}
                (_, true) => return Err(Errno::NOTDIR),
            }
            self.change(state, &[(self.id, name, None)])?;
            self.lose_name(state, self.id, id)
        })
    }

    fn lose_name(&self, state: &mut State, parent: Id, id: Id) -> Result<()> {
        let now = state.now();
        let inode = state.inode(id)?;
        inode.meta.changed = now;
        if matches!(inode.body, Body::Dir(_)) {
            inode.links = 0;
            state.inode(parent)?.links -= 1;
        } else {
            inode.links -= 1;
        }
        state.reap(id);
        Ok(())
    }

    pub(in crate::backing) fn rename(
        &self,
        name: &str,
        to: &Fd,
        new: &str,
        how: RenameFlags,
    ) -> Result<()> {
        self.call(Op::Rename, |state| {
            let source = state.entries(self.id)?.get(name).ok_or(Errno::NOENT)?;
            if state.inode(to.id)?.links == 0 {
                return Err(Errno::NOENT);
            }
            let target = state.entries(to.id)?.get(new);
            if how.contains(RenameFlags::NOREPLACE) && target.is_some() {
                return Err(Errno::EXIST);
            }
            if target == Some(source) && !how.contains(RenameFlags::EXCHANGE) {
                return Ok(());
            }
            let is_dir = |state: &mut State, id| -> Result<bool> {
                Ok(matches!(state.inode(id)?.body, Body::Dir(_)))
            };
            let mut ends = vec![(source, to.id)];
            if how.contains(RenameFlags::EXCHANGE) {
                ends.push((target.ok_or(Errno::NOENT)?, self.id));
            } else if let Some(target) = target {
                match (is_dir(state, source)?, is_dir(state, target)?) {
                    (true, false) => return Err(Errno::NOTDIR),
                    (false, true) => return Err(Errno::ISDIR),
                    (true, true) if !state.entries(target)?.is_empty() => {
                        return Err(Errno::NOTEMPTY);
                    }
                    _ => {}
                }
            }
            for (id, parent) in &ends {
                let mut above = *parent;
                while above != super::ROOT {
                    if above == *id {
                        return Err(Errno::INVAL);
                    }
                    above = state.entries(above)?.parent;
                }
            }
            let left = (ends.len() == 2).then(|| target.unwrap_or(source));
            self.change(state, &[(self.id, name, left), (to.id, new, Some(source))])?;
            if let Some(target) = target.filter(|_| left.is_none()) {
                self.lose_name(state, to.id, target)?;
            }
            for (id, parent) in ends {
                if is_dir(state, id)? {
                    let old = std::mem::replace(&mut state.entries(id)?.parent, parent);
                    state.inode(old)?.links -= 1;
                    state.inode(parent)?.links += 1;
                }
                let now = state.now();
                state.inode(id)?.meta.changed = now;
            }
            Ok(())
        })
    }

    pub(in crate::backing) fn stat(&self) -> Result<Stat> {
        self.call(Op::Stat, |state| {
            Ok(state.inode(self.id)?.stat(&self.fs.template))
        })
    }

    pub(in crate::backing) fn stat_at(&self, name: &str) -> Result<Stat> {
        self.call(Op::Stat, |state| {
            let id = self.find(state, name)?;
            Ok(state.inode(id)?.stat(&self.fs.template))
        })
    }

    fn set_meta(&self, op: Op, work: impl FnOnce(&mut Meta, Timespec) -> Result<()>) -> Result<()> {
        self.call(op, |state| {
            let now = state.now();
            let meta = &mut state.inode(self.id)?.meta;
            work(meta, now)?;
            meta.changed = now;
            Ok(())
        })
    }

    pub(in crate::backing) fn chown(&self, uid: Option<u32>, gid: Option<u32>) -> Result<()> {
        self.set_meta(Op::Attributes, |meta, _| {
            meta.uid = uid.unwrap_or(meta.uid);
            meta.gid = gid.unwrap_or(meta.gid);
            if FileType::from_raw_mode(meta.mode) == FileType::RegularFile {
                meta.mode &= !0o6000;
            }
            Ok(())
        })
    }

    pub(in crate::backing) fn chmod(&self, mode: u32) -> Result<()> {
        self.set_meta(Op::Attributes, |meta, _| {
            meta.mode = (meta.mode & libc::S_IFMT) | (mode & 0o7777);
            Ok(())
        })
    }

    pub(in crate::backing) fn set_times(&self, times: &Timestamps) -> Result<()> {
        self.set_meta(Op::Attributes, |meta, now| {
            let set = |old: &mut Timespec, new: Timespec| match new.tv_nsec {
                UTIME_OMIT => {}
                UTIME_NOW => *old = now,
                _ => *old = new,
            };
            set(&mut meta.accessed, times.last_access);
            set(&mut meta.modified, times.last_modification);
            Ok(())
        })
    }

    pub(in crate::backing) fn sync(&self) -> Result<()> {
        let mut state = self.fs.state.lock();
        let failed = state.enter(Op::Sync).err();
        if state.ignores(self.id) {
            return Ok(());
        }
        let model = state.model;
        let inode = state.inode(self.id)?;
        if let Some(errno) = failed {
            if let Body::File(content) = &mut inode.body {
                content.give_up();
            }
            return Err(errno);
        }
        inode.settle_on_disk();
        match model {
            Model::Posix => state.names.sync(self.id),
            Model::Kill | Model::Journal => {
                state.names.sync_all();
                state.removed.clear();
            }
        }
        Ok(())
    }

    pub(in crate::backing) fn sync_all(&self) -> Result<()> {
        let mut state = self.fs.state.lock();
        let failed = state.enter(Op::Sync).err();
        for inode in state.inodes.values_mut() {
            match (&mut inode.body, failed) {
                (Body::File(content), Some(_)) => content.give_up(),
                (_, Some(_)) => {}
                (_, None) => inode.settle_on_disk(),
            }
        }
        match failed {
            Some(errno) => Err(errno),
            None => {
                state.names.sync_all();
                state.removed.clear();
                Ok(())
            }
        }
    }

    pub(in crate::backing) fn room(&self) -> Result<StatVfs> {
        rustix::fs::statvfs("/")
    }

    fn content<'a>(&self, state: &'a mut State) -> Result<&'a mut Content> {
        match &mut state.inode(self.id)?.body {
            Body::File(content) => Ok(content),
            Body::Dir(_) => Err(Errno::ISDIR),
            _ => Err(Errno::INVAL),
        }
    }

    pub(in crate::backing) fn read(&self, out: &mut [u8], offset: u64) -> Result<usize> {
        self.call(Op::Read, |state| Ok(self.content(state)?.read(out, offset)))
    }

    /// A change of the content.
    fn edit<T>(&self, op: Op, work: impl FnOnce(&mut Content) -> T) -> Result<T> {
        self.call(op, |state| {
            if !self.writable {
                return Err(Errno::BADF);
            }
            let now = state.now();
            let done = work(self.content(state)?);
            touch(state.inode(self.id)?, now);
            Ok(done)
        })
    }

    pub(in crate::backing) fn write(&self, pieces: &[&[u8]], offset: u64) -> Result<usize> {
        let mut bytes = pieces.concat();
        let mut state = self.fs.state.lock();
        if state.enter(Op::Write)? && bytes.len() > 1 {
            bytes.truncate(bytes.len() / 2);
        }
        drop(state);
        if !self.writable {
            return Err(Errno::BADF);
        }
        let mut state = self.fs.state.lock();
        let now = state.now();
        self.content(&mut state)?.write(&bytes, offset);
        touch(state.inode(self.id)?, now);
        Ok(bytes.len())
    }

    pub(in crate::backing) fn truncate(&self, size: u64) -> Result<()> {
        self.edit(Op::Truncate, |content| content.truncate(size))
    }

    pub(in crate::backing) fn allocate(
        &self,
        how: FallocateFlags,
        offset: u64,
        length: u64,
    ) -> Result<()> {
        if !how.contains(FallocateFlags::KEEP_SIZE) {
            return Err(Errno::OPNOTSUPP);
        }
        self.edit(Op::Allocate, |content| {
            if how.contains(FallocateFlags::PUNCH_HOLE) {
                content.punch(offset, length);
            } else {
                content.reserve(offset, length);
            }
        })
    }

    pub(in crate::backing) fn seek(&self, to: SeekFrom) -> Result<u64> {
        self.call(Op::Read, |state| match to {
            SeekFrom::Start(position) => {
                *self.position.lock() = position;
                Ok(position)
            }
            SeekFrom::Data(offset) => self.content(state)?.seek_data(offset).ok_or(Errno::NXIO),
            SeekFrom::Hole(offset) => self.content(state)?.seek_hole(offset).ok_or(Errno::NXIO),
            _ => Err(Errno::INVAL),
        })
    }

    pub(in crate::backing) fn get_xattr(&self, name: &[u8], out: &mut [u8]) -> Result<usize> {
        self.call(Op::Read, |state| {
            let value = state.inode(self.id)?.meta.xattrs.get(name);
            fill(out, value.ok_or(Errno::NODATA)?)
        })
    }

    pub(in crate::backing) fn list_xattrs(&self, out: &mut [u8]) -> Result<usize> {
        self.call(Op::Read, |state| {
            let mut list = Vec::new();
            for name in state.inode(self.id)?.meta.xattrs.keys() {
                list.extend_from_slice(name);
                list.push(0);
            }
            fill(out, &list)
        })
    }

    pub(in crate::backing) fn set_xattr(
        &self,
        name: &[u8],
        value: &[u8],
        flags: XattrFlags,
    ) -> Result<()> {
        self.set_meta(Op::Xattr, |meta, _| {
            let known = meta.xattrs.contains_key(name);
            if flags.contains(XattrFlags::CREATE) && known {
                return Err(Errno::EXIST);
            }
            if flags.contains(XattrFlags::REPLACE) && !known {
                return Err(Errno::NODATA);
            }
            meta.xattrs.insert(name.to_vec(), value.to_vec());
            Ok(())
        })
    }

    pub(in crate::backing) fn remove_xattr(&self, name: &[u8]) -> Result<()> {
        self.set_meta(Op::Xattr, |meta, _| {
            meta.xattrs.remove(name).map(drop).ok_or(Errno::NODATA)
        })
    }

    pub(in crate::backing) fn entries(&self, out: &mut Vec<LowerEntry>) -> Result<()> {
        /// In small pieces, so that listings are resumed.
        const MOST: usize = 16;
        self.call(Op::List, |state| {
            let mut position = self.position.lock();
            let entries = state.entries(self.id)?.clone();
            let dots = [(1, ".", self.id), (2, "..", entries.parent)];
            let dots = dots.into_iter().filter(|(at, ..)| at > &*position);
            let mut last = *position;
            for (at, name, id) in dots.chain(entries.from((*position).max(2))).take(MOST) {
                let inode = state.inode(id)?;
                out.push(LowerEntry {
                    name: name.as_bytes().to_vec(),
                    ino: inode.number,
                    cookie: at,
                    mode: inode.meta.mode & libc::S_IFMT,
                });
                last = at;
            }
            *position = last;
            Ok(())
        })
    }
}

fn touch(inode: &mut Inode, now: Timespec) {
    (inode.meta.modified, inode.meta.changed) = (now, now);
}

fn fill(out: &mut [u8], value: &[u8]) -> Result<usize> {
    if out.is_empty() {
        return Ok(value.len());
    }
    out.get_mut(..value.len())
        .ok_or(Errno::RANGE)?
        .copy_from_slice(value);
    Ok(value.len())
}
