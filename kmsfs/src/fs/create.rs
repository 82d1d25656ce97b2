//! New objects: create, mknod, mkdir, symlink.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::sync::Arc;

use kms_format::symlink::{self, SealedTarget};
use kms_format::{ContentMode, DirHeader, names};

use super::content;
use super::lookup::{Named, decode_device};
use super::{Caller, Entry, Fs, FsResult, Kind, NodeId, Opened};
use crate::backing::{Dir, LowerFile, Stat};
use crate::errno::Errno;
use crate::handle::Opening;
use crate::inode::Context;

impl Fs {
    /// Makes a file and opens it; without O_EXCL in `flags` a file that is there is opened.
    ///
    /// Nothing is written to the lower file before the first write to the new one.
    ///
    /// # Errors
    /// `EEXIST` with O_EXCL; what the lower file system says.
    #[allow(
        clippy::too_many_arguments,
        reason = "an operation of the kernel's has what it has"
    )]
    pub fn create(
        &self,
        caller: &Caller,
        parent: NodeId,
        name: &OsStr,
        mode: u32,
        umask: u32,
        flags: i32,
        kill_suidgid: bool,
    ) -> FsResult<(Entry, Opened)> {
        let _writing = self.check_writable()?;
        let named = self.named(parent, name)?;
        match self.create_file(caller, &named, mode, umask, true) {
            Err(Errno::EXIST) if flags & libc::O_EXCL == 0 => {
                let entry = {
                    let _shared = named.parent.directory()?.entries.read();
                    let named = self.resolve(&named)?;
                    self.enter(&named.parent, &named.dir, named.stored())?
                };
                match self.open(caller, entry.node, flags, kill_suidgid) {
                    Ok(opened) => Ok((entry, opened)),
                    Err(errno) => {
                        self.forget(entry.node, 1);
                        Err(errno)
                    }
                }
            }
            made => {
                let entry = made?;
                let opening = Opening {
                    opener: *caller,
                    policy: Some(named.context.policy.policy()),
                    opened_as: entry.node,
                    writable: true,
                    reads: flags & libc::O_NOATIME == 0,
                };
                let fh = self.handles.insert(self.table.get(entry.node)?, &opening);
                Ok((entry, Opened { fh }))
            }
        }
    }

    /// Makes a file without a name and opens it; [`Fs::link`] may give it one. Without that it is gone once closed, and
    /// after a crash.
    ///
    /// # Errors
    /// `EOPNOTSUPP` where the lower file system has no such files.
    pub fn tmpfile(
        &self,
        caller: &Caller,
        parent: NodeId,
        mode: u32,
        umask: u32,
    ) -> FsResult<(Entry, Opened)> {
        let _writing = self.check_writable()?;
        let parent = self.table.get(parent)?;
        self.context(&parent)?;
        let dir = self.dirs.get(&parent)?;
        // As for what has a name: once the directory has another key, everything that was made under the one before is known. A
        // job looks at files without a name among what is open, after the directories.
        let _shared = parent.directory()?.entries.read();
        let context = self.context(&parent)?;
        let mode = self.new_mode(&parent, &dir, mode & 0o7777, umask);
        let file = dir.create_unnamed(mode)?;
        self.hand_over(caller, &dir, &file, mode)?;
        let object = file.pin()?;
        let file = content::create(file, &context.policy)?;
        let stat = file.lower().stat()?;
        let id = crate::backing::LowerId::of(&stat);
        let node = self.table.intern_nameless(id, Kind::File);
        node.settled
            .store(true, std::sync::atomic::Ordering::Release);
        node.set_mode(Some(context.policy.mode()));
        node.pin(object, &parent);
        {
            let mut body = node.file()?.write();
            body.open = Some(file);
            body.users += 1;
        }
        let entry = self.entry_of(&node, self.attributes(&node, &stat, 0));
        let opening = Opening {
            opener: *caller,
            policy: Some(context.policy.policy()),
            opened_as: entry.node,
            writable: true,
            reads: true,
        };
        let fh = self.handles.insert(node, &opening);
        Ok((entry, Opened { fh }))
    }

    /// Makes a file, named pipe, socket or device. Only the name is encrypted, but for files.
    ///
    /// # Errors
    /// `EEXIST`; `EPERM` for devices without the right to make them.
    pub fn mknod(
        &self,
        caller: &Caller,
        parent: NodeId,
        name: &OsStr,
        mode: u32,
        umask: u32,
        rdev: u32,
    ) -> FsResult<Entry> {
        let _writing = self.check_writable()?;
        let named = self.named(parent, name)?;
        match Kind::from_mode(mode) {
            Some(Kind::File) => self.create_file(caller, &named, mode, umask, false),
            None if mode & libc::S_IFMT == 0 => {
                self.create_file(caller, &named, mode, umask, false)
            }
            None | Some(Kind::Directory | Kind::Symlink) => Err(Errno::INVAL),
            Some(_) => {
                let _alone = named.parent.directory()?.entries.write();
                let permissions = self.new_mode(&named.parent, &named.dir, mode & 0o7777, umask);
                let mode = (mode & libc::S_IFMT) | permissions;
                let stat = self.making(&named, |dir, stored| {
                    dir.make_node(stored, mode, decode_device(rdev))?;
                    self.hand_over_at(caller, dir, stored)
                })?;
                Ok(self.entry(named.place(), &named.dir, stat)?.1)
            }
        }
    }

    /// Makes a directory under its parent's policy.
    ///
    /// # Errors
    /// `EEXIST`; what the lower file system says.
    pub fn mkdir(
        &self,
        caller: &Caller,
        parent: NodeId,
        name: &OsStr,
        mode: u32,
        umask: u32,
    ) -> FsResult<Entry> {
        let _writing = self.check_writable()?;
        let named = self.named(parent, name)?;
        let (header, keys) =
            DirHeader::create(&named.context.policy).map_err(|error| Errno::from(&error))?;
        let bytes = header.encode().map_err(|error| Errno::from(&error))?;
        let _alone = named.parent.directory()?.entries.write();
        let mode = self.new_mode(&named.parent, &named.dir, mode & 0o1777, umask);
        let (stat, made) = self.making(&named, |dir, stored| {
            // Who is not root needs the directory open to put the header into it.
            let first = if self.privileged { mode } else { mode | 0o700 };
            dir.make_dir(stored, first)?;
            let made = dir.open_dir(stored).and_then(|made| {
                made.write_small(names::DIR_HEADER, &bytes)?;
                let mut stat = made.stat()?;
                if let Some((uid, gid)) = self.new_owner(caller, dir, &stat)? {
                    made.set_owner(uid, gid)?;
                    stat = made.stat()?;
                }
                if first != mode {
                    made.set_mode((stat.st_mode & 0o7777) & !(first & !mode))?;
                    stat = made.stat()?;
                }
                Ok((stat, made))
            });
            if made.is_err() {
                self.unmake_dir(dir, stored);
            }
            made
        })?;
        let (node, entry) = self.entry(named.place(), &named.dir, stat)?;
        let policy = Arc::clone(&named.context.policy);
        let context = Context {
            header,
            keys,
            policy,
        };
        *node.directory()?.context.write() = Some(Arc::new(context));
        self.dirs.keep(&node, &Arc::new(made))?;
        self.headers.add(&node);
        Ok(entry)
    }

    /// Makes a symlink.
    ///
    /// # Errors
    /// `EEXIST`; `ENAMETOOLONG` for more than 4095 bytes of target.
    pub fn symlink(
        &self,
        caller: &Caller,
        parent: NodeId,
        name: &OsStr,
        target: &OsStr,
    ) -> FsResult<Entry> {
        let _writing = self.check_writable()?;
        let named = self.named(parent, name)?;
        let sealed = symlink::seal(&named.context.policy, target.as_bytes());
        let sealed = sealed.map_err(|error| Errno::from(&error))?;
        let _alone = named.parent.directory()?.entries.write();
        let stat = self.making(&named, |dir, stored| {
            let make = |target: &str| {
                dir.make_symlink(stored, target)?;
                self.hand_over_at(caller, dir, stored)
            };
            match &sealed {
                SealedTarget::Inline(target) => make(target),
                SealedTarget::Recorded {
                    stored: target,
                    name,
                    record,
                } => {
                    if dir.stat_at(stored).is_ok() {
                        return Err(Errno::EXIST);
                    }
                    let links = self.links_dir()?;
                    let made = links
                        .write_small(name, record)
                        .and_then(|file| file.sync())
                        .and_then(|()| links.sync())
                        .and_then(|()| make(target));
                    if made.is_err() {
                        let _ = links.unlink(name);
                    }
                    made
                }
            }
        })?;
        Ok(self.entry(named.place(), &named.dir, stat)?.1)
    }

    fn create_file(
        &self,
        caller: &Caller,
        named: &Named,
        mode: u32,
        umask: u32,
        open: bool,
    ) -> FsResult<Entry> {
        let _alone = named.parent.directory()?.entries.write();
        let mode = self.new_mode(&named.parent, &named.dir, mode & 0o7777, umask);
        let (file, stat) = self.making(named, |dir, stored| {
            let file = dir.create_file(stored, mode)?;
            let policy = &named.context.policy;
            let made = self.hand_over(caller, dir, &file, mode).and_then(|stat| {
                let file = content::create(file, policy)?;
                // Its header, if it has one already, takes room.
                let stat = match policy.mode() {
                    ContentMode::Gcm => file.lower().stat()?,
                    ContentMode::Xts => stat,
                };
                Ok((file, stat))
            });
            match made {
                Ok(made) => Ok(made),
                Err(errno) => {
                    let _ = dir.unlink(stored);
                    Err(errno)
                }
            }
        })?;
        let place = named.place();
        let kind = Kind::File;
        let node = self
            .table
            .intern(crate::backing::LowerId::of(&stat), kind, place);
        node.set_mode(Some(named.context.policy.mode()));
        node.settled
            .store(true, std::sync::atomic::Ordering::Release);
        if open {
            let mut body = node.file()?.write();
            body.open = Some(file);
            body.users += 1;
        }
        let attr = self.attributes(&node, &stat, 0);
        Ok(self.entry_of(&node, attr))
    }

    /// Gives a new file to the caller.
    fn hand_over(&self, caller: &Caller, dir: &Dir, file: &LowerFile, mode: u32) -> FsResult<Stat> {
        let stat = file.stat()?;
        let Some((uid, gid)) = self.new_owner(caller, dir, &stat)? else {
            return Ok(stat);
        };
        file.set_owner(uid, gid)?;
        if mode & 0o6000 != 0 {
            // Changing the owner takes them away.
            file.set_mode(stat.st_mode & 0o7777)?;
        }
        file.stat()
    }

    /// Gives a new object that cannot be opened to the caller.
    fn hand_over_at(&self, caller: &Caller, dir: &Dir, stored: &str) -> FsResult<Stat> {
        let given = dir.stat_at(stored).and_then(|stat| {
            let Some((uid, gid)) = self.new_owner(caller, dir, &stat)? else {
                return Ok(stat);
            };
            dir.set_owner_at(stored, uid, gid)?;
            let is_link = Kind::from_mode(stat.st_mode) == Some(Kind::Symlink);
            if stat.st_mode & 0o6000 != 0 && !is_link {
                dir.set_mode_at(stored, stat.st_mode & 0o7777)?;
            }
            dir.stat_at(stored)
        });
        if given.is_err() {
            let _ = dir.unlink(stored);
        }
        given
    }

    fn unmake_dir(&self, dir: &Dir, stored: &str) {
        if let Ok(made) = dir.open_dir(stored) {
            let _ = made.unlink(names::DIR_HEADER);
        }
        let _ = dir.remove_dir(stored);
    }
}
