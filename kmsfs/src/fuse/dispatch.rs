//! One request in, one operation, one reply out.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::sync::Arc;
use std::time::Duration;

use super::abi::{self, OUT_HEADER, fattr, op};
use super::permit;
use super::reply::{AlignedBuffer, Body, header_bytes, put_header};
use super::request::{Arguments, Header, Truncated};
use crate::errno::{Errno, FsResult};
use crate::fs::flags;
use crate::fs::{Caller, FileHandle, Fs, NodeId, SetAttr, SetTime, Timestamp};
use crate::volume::WOULD_WAIT;

/// What became of a request.
pub(super) enum Outcome<'a> {
    /// Send this.
    Reply(&'a [u8]),
    /// The kernel expects nothing.
    Silent,
    /// It has to wait for a key: handle it again where waiting is allowed.
    Wait,
}

/// Buffers of one request thread, reused for every reply.
pub(super) struct Scratch {
    /// Replies that are built member by member.
    small: Vec<u8>,
    /// The reply of a READ: header, then page-aligned data.
    data: AlignedBuffer,
}

impl Scratch {
    pub(super) fn new(max_io: usize) -> Scratch {
        Scratch {
            small: Vec::with_capacity(4096),
            data: AlignedBuffer::new(OUT_HEADER + max_io, OUT_HEADER),
        }
    }
}

/// Turns requests into operations on one file system.
pub(super) struct Dispatcher {
    fs: Arc<Fs>,
    ttl: Duration,
    max_io: usize,
    /// Only what Linux 6.1 knows is answered.
    old_kernel: bool,
}

/// Why an operation has no reply body.
enum Failure {
    Errno(Errno),
    Malformed,
}

impl From<Errno> for Failure {
    fn from(errno: Errno) -> Failure {
        Failure::Errno(errno)
    }
}

impl From<Truncated> for Failure {
    fn from(Truncated: Truncated) -> Failure {
        Failure::Malformed
    }
}

type Done = Result<(), Failure>;

impl Dispatcher {
    pub(super) fn new(fs: Arc<Fs>, ttl: Duration, max_io: usize, old_kernel: bool) -> Dispatcher {
        Dispatcher {
            fs,
            ttl,
            max_io,
            old_kernel,
        }
    }

    /// Handles one message. The data of a WRITE is encrypted in place, so `message` is not what it
    /// was afterwards; every other request can be handled again.
    pub(super) fn handle<'a>(&self, message: &mut [u8], scratch: &'a mut Scratch) -> Outcome<'a> {
        let Ok((header, arguments)) = Header::parse(message) else {
            tracing::error!(
                length = message.len(),
                "the kernel sent a malformed request"
            );
            return Outcome::Silent;
        };
        match header.opcode {
            op::FORGET | op::BATCH_FORGET => {
                if self.forget(&header, arguments).is_err() {
                    tracing::error!("the kernel sent a malformed FORGET");
                }
                Outcome::Silent
            }
            op::INTERRUPT => Outcome::Silent,
            op::READ => self.read(&header, arguments, scratch),
            op::WRITE => {
                let written = self.write(&header, message);
                let mut body = Body::start(std::mem::take(&mut scratch.small));
                let done = written.map(|size| {
                    body.u32(size).u32(0);
                });
                finish(&header, done, body, scratch)
            }
            _ => {
                let mut body = Body::start(std::mem::take(&mut scratch.small));
                let done = self.operation(&header, arguments, &mut body);
                finish(&header, done, body, scratch)
            }
        }
    }

    fn forget(&self, header: &Header, mut arguments: Arguments<'_>) -> Result<(), Truncated> {
        if header.opcode == op::FORGET {
            self.fs.forget(NodeId(header.node), arguments.u64()?);
            return Ok(());
        }
        let count = arguments.u32()?;
        arguments.skip(4)?;
        for _ in 0..count {
            let node = NodeId(arguments.u64()?);
            self.fs.forget(node, arguments.u64()?);
        }
        Ok(())
    }

    fn read<'a>(
        &self,
        header: &Header,
        mut arguments: Arguments<'_>,
        scratch: &'a mut Scratch,
    ) -> Outcome<'a> {
        let result = (|| -> Result<usize, Failure> {
            let handle = FileHandle(arguments.u64()?);
            let offset = arguments.u64()?;
            let size = arguments.u32()?;
            let size = usize::try_from(size).unwrap_or(0).min(self.max_io);
            let out = scratch.data.as_mut().get_mut(OUT_HEADER..OUT_HEADER + size);
            Ok(self.fs.read(handle, offset, out.unwrap_or_default())?)
        })();
        match result {
            Ok(size) => {
                let end = OUT_HEADER + size;
                put_header(scratch.data.as_mut(), end, 0, header.unique);
                Outcome::Reply(scratch.data.as_ref().get(..end).unwrap_or_default())
            }
            Err(failure) => {
                let body = Body::start(std::mem::take(&mut scratch.small));
                finish(header, Err(failure), body, scratch)
            }
        }
    }

    fn write(&self, header: &Header, message: &mut [u8]) -> Result<u32, Failure> {
        let mut fields = Header::parse(message)?.1;
        let handle = FileHandle(fields.u64()?);
        let offset = fields.u64()?;
        let size = usize::try_from(fields.u32()?).map_err(|_| Failure::Malformed)?;
        let flags = fields.u32()?;
        let data = message
            .get_mut(abi::WRITE_DATA..)
            .and_then(|data| data.get_mut(..size))
            .ok_or(Failure::Malformed)?;
        let kill = flags & abi::WRITE_KILL_SUIDGID != 0;
        let written = self.fs.write(&caller(header), handle, offset, data, kill)?;
        u32::try_from(written).map_err(|_| Failure::Malformed)
    }

    /// Whether the caller of a request may use what it touches.
    pub(super) fn permitted(&self, header: &Header, a: Arguments<'_>) -> FsResult<()> {
        let touched = permit::touched(header, a).map_err(|Truncated| Errno::IO)?;
        self.permit(&caller(header), touched)
    }

    fn permit(&self, caller: &Caller, touched: [Option<NodeId>; 2]) -> FsResult<()> {
        let mut nodes = touched.into_iter().flatten();
        nodes.try_for_each(|node| self.fs.permit(caller, node))
    }

    /// Every operation whose reply is small.
    fn operation(&self, header: &Header, mut a: Arguments<'_>, out: &mut Body) -> Done {
        let fs = &self.fs;
        let node = NodeId(header.node);
        let caller = &caller(header);
        self.permit(caller, permit::touched(header, a)?)?;
        match header.opcode {
            op::LOOKUP => match fs.lookup(caller, node, a.name()?) {
                Err(Errno::NOENT) => {
                    out.negative_entry(self.ttl);
                }
                entry => {
                    out.entry(&entry?, self.ttl);
                }
            },
            op::GETATTR => {
                let flags = a.u32()?;
                a.skip(4)?;
                let handle = FileHandle(a.u64()?);
                let handle = (flags & abi::GETATTR_FH != 0).then_some(handle);
                out.attr(&fs.getattr(caller, node, handle)?, self.attribute_ttl(node));
            }
            op::SETATTR => {
                let (handle, changes) = set_attr(&mut a)?;
                let attr = fs.setattr(caller, node, handle, &changes)?;
                out.attr(&attr, self.attribute_ttl(node));
            }
            op::READLINK => {
                out.bytes(&fs.readlink(node)?);
            }
            op::SYMLINK => {
                let name = a.name()?;
                let target = a.name()?;
                out.entry(&fs.symlink(caller, node, name, target)?, self.ttl);
            }
            op::MKNOD => {
                let (mode, rdev, umask) = (a.u32()?, a.u32()?, a.u32()?);
                a.skip(4)?;
                let entry = fs.mknod(caller, node, a.name()?, mode, umask, rdev)?;
                out.entry(&entry, self.ttl);
            }
            op::MKDIR => {
                let (mode, umask) = (a.u32()?, a.u32()?);
                let entry = fs.mkdir(caller, node, a.name()?, mode, umask)?;
                out.entry(&entry, self.ttl);
            }
            op::UNLINK => fs.unlink(caller, node, a.name()?)?,
            op::RMDIR => fs.rmdir(caller, node, a.name()?)?,
            op::RENAME | op::RENAME2 => {
                let new_parent = NodeId(a.u64()?);
                let flags = if header.opcode == op::RENAME2 {
                    let flags = a.u32()?;
                    a.skip(4)?;
                    flags
                } else {
                    0
                };
                let name = a.name()?;
                fs.rename(caller, node, name, new_parent, a.name()?, flags)?;
            }
            op::LINK => {
                let existing = NodeId(a.u64()?);
                let entry = fs.link(caller, existing, node, a.name()?)?;
                out.entry(&entry, self.ttl);
            }
            op::OPEN => {
                let (flags, open_flags) = (a.u32()?, a.u32()?);
                let kill = open_flags & abi::OPEN_KILL_SUIDGID != 0;
                let opened = fs.open(caller, node, flags.cast_signed(), kill)?;
                out.u64(opened.fh.0).u32(abi::FOPEN_KEEP_CACHE).u32(0);
            }
            op::TMPFILE => {
                let (_flags, mode, umask) = (a.u32()?, a.u32()?, a.u32()?);
                let (entry, opened) = fs.tmpfile(caller, node, mode, umask)?;
                out.entry(&entry, self.ttl);
                out.u64(opened.fh.0).u32(abi::FOPEN_KEEP_CACHE).u32(0);
            }
            op::CREATE => {
                let (flags, mode, umask, open_flags) = (a.u32()?, a.u32()?, a.u32()?, a.u32()?);
                let kill = open_flags & abi::OPEN_KILL_SUIDGID != 0;
                let name = a.name()?;
                let (entry, opened) =
                    fs.create(caller, node, name, mode, umask, flags.cast_signed(), kill)?;
                out.entry(&entry, self.ttl);
                out.u64(opened.fh.0).u32(abi::FOPEN_KEEP_CACHE).u32(0);
            }
            op::RELEASE => fs.release(FileHandle(a.u64()?)),
            op::FSYNC => {
                let handle = FileHandle(a.u64()?);
                fs.fsync(handle, a.u32()? & abi::FSYNC_DATA != 0)?;
            }
            op::OPENDIR => {
                let opened = fs.opendir(caller, node)?;
                // A listing in the kernel's cache would be everybody's.
                let flags = if fs.per_user() {
                    0
                } else {
                    abi::FOPEN_KEEP_CACHE | abi::FOPEN_CACHE_DIR
                };
                out.u64(opened.0).u32(flags).u32(0);
            }
            op::READDIR | op::READDIRPLUS => self.read_directory(header, caller, &mut a, out)?,
            op::RELEASEDIR => fs.releasedir(FileHandle(a.u64()?)),
            op::FSYNCDIR => {
                let handle = FileHandle(a.u64()?);
                fs.fsyncdir(handle, a.u32()? & abi::FSYNC_DATA != 0)?;
            }
            op::STATFS => {
                let stat = fs.statfs(node)?;
                out.u64(stat.blocks).u64(stat.bfree).u64(stat.bavail);
                out.u64(stat.files).u64(stat.ffree);
                out.u32(stat.bsize).u32(stat.namelen).u32(stat.frsize);
                out.bytes(&[0; 28]);
            }
            op::GETXATTR => {
                let size = a.u32()?;
                a.skip(4)?;
                xattr_reply(out, size, &fs.getxattr(caller, node, a.name()?)?)?;
            }
            op::LISTXATTR => {
                let size = a.u32()?;
                xattr_reply(out, size, &fs.listxattr(caller, node)?)?;
            }
            op::SETXATTR => {
                let (size, flags) = (a.u32()?, a.u32()?);
                let name = a.name()?;
                let size = usize::try_from(size).map_err(|_| Failure::Malformed)?;
                fs.setxattr(caller, node, name, a.bytes(size)?, flags.cast_signed())?;
            }
            op::REMOVEXATTR => fs.removexattr(caller, node, a.name()?)?,
            op::FALLOCATE => {
                let handle = FileHandle(a.u64()?);
                let (offset, length, mode) = (a.u64()?, a.u64()?, a.u32()?);
                fs.fallocate(caller, handle, offset, length, mode.cast_signed())?;
            }
            op::LSEEK => {
                let handle = FileHandle(a.u64()?);
                let offset = a.u64()?;
                out.u64(fs.lseek(handle, offset, a.u32()?.cast_signed())?);
            }
            op::COPY_FILE_RANGE => {
                let (source, from) = (FileHandle(a.u64()?), a.u64()?);
                a.skip(8)?;
                let (target, to, length) = (FileHandle(a.u64()?), a.u64()?, a.u64()?);
                let copied = fs.copy_file_range(caller, source, from, target, to, length)?;
                out.u32(u32::try_from(copied).unwrap_or(u32::MAX)).u32(0);
            }
            op::COPY_FILE_RANGE_64 if !self.old_kernel => {
                let (source, from) = (FileHandle(a.u64()?), a.u64()?);
                a.skip(8)?;
                let (target, to, length) = (FileHandle(a.u64()?), a.u64()?, a.u64()?);
                out.u64(fs.copy_file_range(caller, source, from, target, to, length)?);
            }
            op::STATX if !self.old_kernel => {
                let (attr, birth) = fs.statx(caller, node)?;
                out.statx(&attr, birth, self.attribute_ttl(node));
            }
            op::IOCTL => ioctl(fs, caller, node, &mut a, out)?,
            op::SYNCFS => fs.sync_all()?,
            op::DESTROY => {}
            // FLUSH among them: write errors are reported by write and fsync, so close has nothing
            // to say, and the kernel does not ask again.
            _ => return Err(Failure::Errno(Errno::NOSYS)),
        }
        Ok(())
    }

    /// How long the kernel may answer for the attributes of a node.
    fn attribute_ttl(&self, node: NodeId) -> Duration {
        if self.fs.is_gate(node) {
            Duration::ZERO
        } else {
            self.ttl
        }
    }

    fn read_directory(
        &self,
        header: &Header,
        caller: &Caller,
        a: &mut Arguments<'_>,
        out: &mut Body,
    ) -> Done {
        let handle = FileHandle(a.u64()?);
        let offset = a.u64()?;
        let limit = usize::try_from(a.u32()?).map_err(|_| Failure::Malformed)?;
        let limit = limit.min(self.max_io);
        if header.opcode == op::READDIR {
            self.fs.readdir(handle, offset, &mut |item| {
                !out.dirent(
                    limit,
                    item.ino,
                    item.offset,
                    item.kind.dirent_type(),
                    item.name.as_bytes(),
                )
            })?;
        } else {
            self.fs
                .readdirplus(caller, handle, offset, &mut |item, entry| {
                    let name: &OsStr = item.name;
                    let record = (128 + 24 + name.len()).next_multiple_of(8);
                    if out.len() + record > limit {
                        return true;
                    }
                    match entry {
                        Some(entry) => out.entry(entry, self.ttl),
                        // Not looked up: the kernel takes the name and asks later.
                        None => out.bytes(&[0; 128]),
                    };
                    !out.dirent(
                        limit,
                        item.ino,
                        item.offset,
                        item.kind.dirent_type(),
                        name.as_bytes(),
                    )
                })?;
        }
        Ok(())
    }
}

fn finish<'a>(header: &Header, done: Done, body: Body, scratch: &'a mut Scratch) -> Outcome<'a> {
    scratch.small = body.into_buffer();
    let error = match done {
        Ok(()) => {
            let length = scratch.small.len();
            put_header(&mut scratch.small, length, 0, header.unique);
            return Outcome::Reply(&scratch.small);
        }
        Err(Failure::Errno(WOULD_WAIT)) => return Outcome::Wait,
        Err(Failure::Errno(errno)) => errno.raw(),
        Err(Failure::Malformed) => {
            tracing::error!(
                opcode = header.opcode,
                "the kernel sent a malformed request"
            );
            Errno::INVAL.raw()
        }
    };
    let length = u32::try_from(OUT_HEADER).unwrap_or(0);
    scratch.small.clear();
    scratch
        .small
        .extend(header_bytes(length, -error, header.unique));
    Outcome::Reply(&scratch.small)
}

fn caller(header: &Header) -> Caller {
    Caller {
        uid: header.uid,
        gid: header.gid,
        pid: header.pid,
    }
}

/// `fuse_setattr_in`.
fn set_attr(a: &mut Arguments<'_>) -> Result<(Option<FileHandle>, SetAttr), Truncated> {
    let valid = a.u32()?;
    a.skip(4)?;
    let handle = FileHandle(a.u64()?);
    let size = a.u64()?;
    a.skip(8)?;
    let (atime, mtime) = (a.i64()?, a.i64()?);
    a.skip(8)?; // ctime: the lower file system's
    let (atime_nanos, mtime_nanos) = (a.u32()?, a.u32()?);
    a.skip(4)?;
    let mode = a.u32()?;
    a.skip(4)?;
    let (uid, gid) = (a.u32()?, a.u32()?);
    let has = |bit: u32| valid & bit != 0;
    let time = |set: u32, now: u32, secs: i64, nanos: u32| match (has(set), has(now)) {
        (_, true) => Some(SetTime::Now),
        (true, false) => Some(SetTime::At(Timestamp { secs, nanos })),
        (false, false) => None,
    };
    let changes = SetAttr {
        mode: has(fattr::MODE).then_some(mode),
        uid: has(fattr::UID).then_some(uid),
        gid: has(fattr::GID).then_some(gid),
        size: has(fattr::SIZE).then_some(size),
        atime: time(fattr::ATIME, fattr::ATIME_NOW, atime, atime_nanos),
        mtime: time(fattr::MTIME, fattr::MTIME_NOW, mtime, mtime_nanos),
        kill_suidgid: has(fattr::KILL_SUIDGID),
    };
    Ok((has(fattr::FH).then_some(handle), changes))
}

/// `fuse_ioctl_in` and the argument behind it.
fn ioctl(fs: &Fs, caller: &Caller, node: NodeId, a: &mut Arguments<'_>, out: &mut Body) -> Done {
    a.skip(12)?;
    let request = a.u32()?;
    a.skip(16)?;
    // `fuse_ioctl_out`: the call succeeded.
    let done = [0; 16];
    match request {
        abi::ioctl::GETFLAGS => {
            out.bytes(&done).u32(fs.flags(node)?);
        }
        abi::ioctl::SETFLAGS => {
            fs.set_flags(caller, node, a.u32()?)?;
            out.bytes(&done);
        }
        abi::ioctl::FSGETXATTR => {
            out.bytes(&done).u32(flags::extended(fs.flags(node)?));
            out.bytes(&[0; 24]);
        }
        abi::ioctl::FSSETXATTR => {
            let (extended, extent_size) = (a.u32()?, a.u32()?);
            a.skip(4)?;
            let (project, cow_extent_size) = (a.u32()?, a.u32()?);
            let flags = flags::from_extended(extended, fs.flags(node)?);
            match flags.filter(|_| extent_size == 0 && project == 0 && cow_extent_size == 0) {
                Some(flags) => fs.set_flags(caller, node, flags)?,
                None => return Err(Failure::Errno(Errno::OPNOTSUPP)),
            }
            out.bytes(&done);
        }
        _ => return Err(Failure::Errno(Errno::NOTTY)),
    }
    Ok(())
}

/// A value, or only its size if the caller asked for no bytes.
fn xattr_reply(out: &mut Body, room: u32, value: &[u8]) -> Done {
    let size = u32::try_from(value.len()).map_err(|_| Failure::Errno(Errno::RANGE))?;
    if room == 0 {
        out.u32(size).u32(0);
    } else if size > room {
        return Err(Failure::Errno(Errno::RANGE));
    } else {
        out.bytes(value);
    }
    Ok(())
}
