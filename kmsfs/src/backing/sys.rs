//! The system calls themselves, one function for each: on a descriptor of the kernel's or, in tests, of a simulated
//! lower file system.
//!
//! What changes the lower tree takes a [`Site`]: whose call it is. Every change passes [`Site::change`] and every fsync
//! [`Site::sync`]; there the cargo feature `failpoints` stops the process or lets the call fail.

use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd as _, OwnedFd};
use std::path::Path;

use rustix::fs::{
    AtFlags, CWD, FallocateFlags, FileType, Gid, IFlags, Mode, OFlags, RawDir, RenameFlags,
    SeekFrom, Stat, StatVfs, StatxFlags, Timestamps, Uid, XattrFlags,
};
use rustix::io::{Errno, Result};

use super::LowerEntry;
#[cfg(test)]
use super::sim;

/// An open lower object.
#[derive(Debug)]
pub(super) enum Fd {
    /// The kernel's.
    Real(OwnedFd),
    /// Of a simulated lower file system.
    #[cfg(test)]
    Simulated(sim::Fd),
}

/// Whose call it is: where in kmsfs a change of the lower tree is asked for. Nothing, without the feature `failpoints`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Site {
    #[cfg(feature = "failpoints")]
    caller: &'static std::panic::Location<'static>,
}

impl Site {
    /// The caller of the caller, if that is marked `#[track_caller]`.
    #[track_caller]
    #[inline]
    pub(super) fn here() -> Site {
        Site {
            #[cfg(feature = "failpoints")]
            caller: std::panic::Location::caller(),
        }
    }

    /// A call that changes the lower tree.
    #[inline]
    fn change<T>(self, call: impl FnOnce() -> Result<T>) -> Result<T> {
        #[cfg(feature = "failpoints")]
        return super::failpoint::change(self.caller, call);
        #[cfg(not(feature = "failpoints"))]
        call()
    }

    /// A call that makes changes durable.
    #[inline]
    fn sync<T>(self, call: impl FnOnce() -> Result<T>) -> Result<T> {
        #[cfg(feature = "failpoints")]
        return super::failpoint::sync(self.caller, call);
        #[cfg(not(feature = "failpoints"))]
        call()
    }
}

/// The same call on either kind of descriptor.
macro_rules! on {
    ($fd:expr, $real:ident => $call:expr, $simulated:ident => $other:expr) => {
        match $fd {
            Fd::Real($real) => $call,
            #[cfg(test)]
            Fd::Simulated($simulated) => $other,
        }
    };
}

/// For calls with two descriptors; a real and a simulated one are on different devices.
macro_rules! on_both {
    ($a:expr, $b:expr, ($ra:ident, $rb:ident) => $call:expr, ($sa:ident, $sb:ident) => $other:expr) => {
        match ($a, $b) {
            (Fd::Real($ra), Fd::Real($rb)) => $call,
            #[cfg(test)]
            (Fd::Simulated($sa), Fd::Simulated($sb)) => $other,
            #[cfg(test)]
            _ => Err(Errno::XDEV),
        }
    };
}

pub(super) fn open(path: &Path, flags: OFlags) -> Result<Fd> {
    rustix::fs::open(path, flags, Mode::empty()).map(Fd::Real)
}

/// Opens what is there; `flags` must not make anything.
pub(super) fn openat(dir: &Fd, name: &str, flags: OFlags) -> Result<Fd> {
    on!(dir,
        dir => rustix::fs::openat(dir, name, flags, Mode::empty()).map(Fd::Real),
        dir => dir.openat(name, flags).map(Fd::Simulated))
}

/// The same without a trace in the access time, where that is allowed: to the owner and root.
pub(super) fn openat_quietly(dir: &Fd, name: &str, flags: OFlags) -> Result<Fd> {
    match openat(dir, name, flags | OFlags::NOATIME) {
        Err(Errno::PERM) => openat(dir, name, flags),
        result => result,
    }
}

/// Opens with flags that make or cut something.
pub(super) fn create(site: Site, dir: &Fd, name: &str, flags: OFlags, mode: Mode) -> Result<Fd> {
    site.change(|| {
        on!(dir,
            dir => rustix::fs::openat(dir, name, flags, mode).map(Fd::Real),
            dir => dir.create(name, flags, mode.as_raw_mode()).map(Fd::Simulated))
    })
}

/// Makes a file without a name, open for reading and writing.
pub(super) fn tmpfile(site: Site, dir: &Fd, mode: Mode) -> Result<Fd> {
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOATIME;
    site.change(|| {
        on!(dir,
            dir => rustix::fs::openat(dir, ".", flags, mode).map(Fd::Real),
            dir => dir.unnamed(mode.as_raw_mode()).map(Fd::Simulated))
    })
}

/// Another descriptor of the same open file.
pub(super) fn duplicate(fd: &Fd) -> Result<Fd> {
    on!(fd,
        fd => rustix::io::fcntl_dupfd_cloexec(fd, 0).map(Fd::Real),
        fd => fd.duplicate().map(Fd::Simulated))
}

/// Opens once more what a descriptor stands for, whether it has a name or not.
pub(super) fn reopen(fd: &Fd, flags: OFlags) -> Result<Fd> {
    on!(fd,
        fd => rustix::fs::open(own_path(fd), flags, Mode::empty()).map(Fd::Real),
        fd => fd.duplicate().map(Fd::Simulated))
}

/// Reads one byte in a way that counts as an access, of a file opened with O_NOATIME.
pub(super) fn touch(fd: &Fd) -> Result<()> {
    on!(fd,
        fd => {
            rustix::fs::fcntl_setfl(fd, OFlags::empty())?;
            let read = rustix::io::pread(fd, &mut [0; 1], 0);
            // Refused where it was not possible at first either.
            let _ = rustix::fs::fcntl_setfl(fd, OFlags::NOATIME);
            read.map(drop)
        },
        _fd => Ok(()))
}

pub(super) fn fstat(fd: &Fd) -> Result<Stat> {
    on!(fd, fd => rustix::fs::fstat(fd), fd => fd.stat())
}

pub(super) fn statat(dir: &Fd, name: &str) -> Result<Stat> {
    on!(dir,
        dir => rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW),
        dir => dir.stat_at(name))
}

/// The time an object was made, if the lower file system keeps it; `name` may be empty for the object itself.
pub(super) fn birth(fd: &Fd, name: &str) -> Result<Option<(i64, u32)>> {
    let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::EMPTY_PATH;
    on!(fd,
        fd => {
            let found = rustix::fs::statx(fd, name, flags, StatxFlags::BTIME)?;
            let known = found.stx_mask & StatxFlags::BTIME.bits() != 0;
            Ok(known.then_some((found.stx_btime.tv_sec, found.stx_btime.tv_nsec)))
        },
        _fd => Ok(None))
}

/// The flags of `chattr(1)`, `FS_*_FL`.
pub(super) fn flags(fd: &Fd) -> Result<u32> {
    on!(fd,
        fd => rustix::fs::ioctl_getflags(fd).map(|flags| flags.bits()),
        _fd => Err(Errno::OPNOTSUPP))
}

pub(super) fn set_flags(site: Site, fd: &Fd, flags: u32) -> Result<()> {
    site.change(|| {
        on!(fd,
            fd => rustix::fs::ioctl_setflags(fd, IFlags::from_bits_retain(flags)),
            _fd => Err(Errno::OPNOTSUPP))
    })
}

pub(super) fn mkdirat(site: Site, dir: &Fd, name: &str, mode: Mode) -> Result<()> {
    site.change(|| {
        on!(dir,
            dir => rustix::fs::mkdirat(dir, name, mode),
            dir => dir.mkdir(name, mode.as_raw_mode()))
    })
}

pub(super) fn mknodat(
    site: Site,
    dir: &Fd,
    name: &str,
    kind: FileType,
    mode: Mode,
    device: u64,
) -> Result<()> {
    site.change(|| {
        on!(dir,
            dir => rustix::fs::mknodat(dir, name, kind, mode, device),
            dir => dir.mknod(name, kind.as_raw_mode() | mode.as_raw_mode(), device))
    })
}

pub(super) fn symlinkat(site: Site, target: &str, dir: &Fd, name: &str) -> Result<()> {
    site.change(|| {
        on!(dir,
            dir => rustix::fs::symlinkat(target, dir, name),
            dir => dir.symlink(target, name))
    })
}

pub(super) fn readlinkat(dir: &Fd, name: &str) -> Result<Vec<u8>> {
    on!(dir,
        dir => rustix::fs::readlinkat(dir, name, Vec::new()).map(std::ffi::CString::into_bytes),
        dir => dir.read_link(name))
}

pub(super) fn linkat(site: Site, dir: &Fd, name: &str, to: &Fd, new: &str) -> Result<()> {
    site.change(|| {
        on_both!(dir, to,
            (dir, to) => rustix::fs::linkat(dir, name, to, new, AtFlags::empty()),
            (dir, to) => dir.link(name, to, new))
    })
}

/// Gives what a descriptor stands for a name.
pub(super) fn link_open(site: Site, fd: &Fd, to: &Fd, new: &str) -> Result<()> {
    site.change(|| {
        on_both!(fd, to,
            (fd, to) => rustix::fs::linkat(CWD, own_path(fd), to, new, AtFlags::SYMLINK_FOLLOW),
            (fd, to) => fd.link_open(to, new))
    })
}

pub(super) fn unlinkat(site: Site, dir: &Fd, name: &str, how: AtFlags) -> Result<()> {
    site.change(|| {
        on!(dir,
            dir => rustix::fs::unlinkat(dir, name, how),
            dir => dir.unlink(name, how.contains(AtFlags::REMOVEDIR)))
    })
}

pub(super) fn renameat(
    site: Site,
    dir: &Fd,
    name: &str,
    to: &Fd,
    new: &str,
    how: RenameFlags,
) -> Result<()> {
    site.change(|| {
        on_both!(dir, to,
            (dir, to) => rustix::fs::renameat_with(dir, name, to, new, how),
            (dir, to) => dir.rename(name, to, new, how))
    })
}

pub(super) fn fchown(site: Site, fd: &Fd, uid: Option<u32>, gid: Option<u32>) -> Result<()> {
    site.change(|| {
        on!(fd,
            fd => rustix::fs::fchown(fd, uid.map(Uid::from_raw), gid.map(Gid::from_raw)),
            fd => fd.chown(uid, gid))
    })
}

pub(super) fn chownat(
    site: Site,
    dir: &Fd,
    name: &str,
    uid: Option<u32>,
    gid: Option<u32>,
) -> Result<()> {
    let (user, group) = (uid.map(Uid::from_raw), gid.map(Gid::from_raw));
    site.change(|| {
        on!(dir,
            dir => rustix::fs::chownat(dir, name, user, group, AtFlags::SYMLINK_NOFOLLOW),
            dir => dir.at(name)?.chown(uid, gid))
    })
}

/// For descriptors that were opened only to be looked at.
pub(super) fn chown_pinned(site: Site, fd: &Fd, uid: Option<u32>, gid: Option<u32>) -> Result<()> {
    let (user, group) = (uid.map(Uid::from_raw), gid.map(Gid::from_raw));
    site.change(|| {
        on!(fd,
            fd => rustix::fs::chownat(fd, "", user, group, AtFlags::EMPTY_PATH),
            fd => fd.chown(uid, gid))
    })
}

pub(super) fn chmod_pinned(site: Site, fd: &Fd, mode: Mode) -> Result<()> {
    site.change(|| {
        on!(fd,
            fd => rustix::fs::chmod(own_path(fd), mode),
            fd => fd.chmod(mode.as_raw_mode()))
    })
}

pub(super) fn utimens_pinned(site: Site, fd: &Fd, times: &Timestamps) -> Result<()> {
    site.change(|| {
        on!(fd,
            fd => rustix::fs::utimensat(fd, "", times, AtFlags::EMPTY_PATH),
            fd => fd.set_times(times))
    })
}

pub(super) fn fchmod(site: Site, fd: &Fd, mode: Mode) -> Result<()> {
    site.change(|| on!(fd, fd => rustix::fs::fchmod(fd, mode), fd => fd.chmod(mode.as_raw_mode())))
}

/// Follows symlinks.
pub(super) fn chmodat(site: Site, dir: &Fd, name: &str, mode: Mode) -> Result<()> {
    site.change(|| {
        on!(dir,
            dir => chmod_nofollow(dir, name, mode),
            dir => dir.at(name)?.chmod(mode.as_raw_mode()))
    })
}

/// Linux can do without following since 6.6 only; so the object is taken hold of first.
fn chmod_nofollow(dir: impl AsFd, name: &str, mode: Mode) -> Result<()> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let object = rustix::fs::openat(dir, name, flags, Mode::empty())?;
    let stat = rustix::fs::fstat(&object)?;
    if FileType::from_raw_mode(stat.st_mode) == FileType::Symlink {
        return Err(Errno::LOOP);
    }
    let path = format!("/proc/self/fd/{}", object.as_raw_fd());
    rustix::fs::chmodat(CWD, path, mode, AtFlags::empty())
}

pub(super) fn futimens(site: Site, fd: &Fd, times: &Timestamps) -> Result<()> {
    site.change(|| on!(fd, fd => rustix::fs::futimens(fd, times), fd => fd.set_times(times)))
}

pub(super) fn utimensat(site: Site, dir: &Fd, name: &str, times: &Timestamps) -> Result<()> {
    site.change(|| {
        on!(dir,
            dir => rustix::fs::utimensat(dir, name, times, AtFlags::SYMLINK_NOFOLLOW),
            dir => dir.at(name)?.set_times(times))
    })
}

pub(super) fn fsync(site: Site, fd: &Fd) -> Result<()> {
    site.sync(|| on!(fd, fd => rustix::fs::fsync(fd), fd => fd.sync()))
}

pub(super) fn fdatasync(site: Site, fd: &Fd) -> Result<()> {
    site.sync(|| on!(fd, fd => rustix::fs::fdatasync(fd), fd => fd.sync()))
}

pub(super) fn syncfs(site: Site, fd: &Fd) -> Result<()> {
    site.sync(|| on!(fd, fd => rustix::fs::syncfs(fd), fd => fd.sync_all()))
}

pub(super) fn fstatvfs(fd: &Fd) -> Result<StatVfs> {
    on!(fd, fd => rustix::fs::fstatvfs(fd), fd => fd.room())
}

pub(super) fn pread(fd: &Fd, out: &mut [u8], offset: u64) -> Result<usize> {
    on!(fd, fd => rustix::io::pread(fd, out, offset), fd => fd.read(out, offset))
}

pub(super) fn pwrite(site: Site, fd: &Fd, bytes: &[u8], offset: u64) -> Result<usize> {
    site.change(
        || on!(fd, fd => rustix::io::pwrite(fd, bytes, offset), fd => fd.write(&[bytes], offset)),
    )
}

/// Two pieces that follow each other.
pub(super) fn pwritev(
    site: Site,
    fd: &Fd,
    first: &[u8],
    second: &[u8],
    offset: u64,
) -> Result<usize> {
    let pieces = [first, second].map(std::io::IoSlice::new);
    site.change(|| {
        on!(fd,
            fd => rustix::io::pwritev(fd, &pieces, offset),
            fd => fd.write(&[first, second], offset))
    })
}

pub(super) fn ftruncate(site: Site, fd: &Fd, size: u64) -> Result<()> {
    site.change(|| on!(fd, fd => rustix::fs::ftruncate(fd, size), fd => fd.truncate(size)))
}

pub(super) fn fallocate(
    site: Site,
    fd: &Fd,
    how: FallocateFlags,
    offset: u64,
    length: u64,
) -> Result<()> {
    site.change(|| {
        on!(fd,
            fd => rustix::fs::fallocate(fd, how, offset, length),
            fd => fd.allocate(how, offset, length))
    })
}

pub(super) fn seek(fd: &Fd, to: SeekFrom) -> Result<u64> {
    on!(fd, fd => rustix::fs::seek(fd, to), fd => fd.seek(to))
}

pub(super) fn fgetxattr(fd: &Fd, name: &[u8], out: &mut [u8]) -> Result<usize> {
    on!(fd, fd => rustix::fs::fgetxattr(fd, name, out), fd => fd.get_xattr(name, out))
}

pub(super) fn flistxattr(fd: &Fd, out: &mut [u8]) -> Result<usize> {
    on!(fd, fd => rustix::fs::flistxattr(fd, out), fd => fd.list_xattrs(out))
}

pub(super) fn fsetxattr(
    site: Site,
    fd: &Fd,
    name: &[u8],
    value: &[u8],
    flags: XattrFlags,
) -> Result<()> {
    site.change(|| {
        on!(fd,
            fd => rustix::fs::fsetxattr(fd, name, value, flags),
            fd => fd.set_xattr(name, value, flags))
    })
}

pub(super) fn fremovexattr(site: Site, fd: &Fd, name: &[u8]) -> Result<()> {
    site.change(|| on!(fd, fd => rustix::fs::fremovexattr(fd, name), fd => fd.remove_xattr(name)))
}

/// The kernel has no `*at` form of the calls for extended attributes before 6.13; the last component of this path is
/// not followed.
fn path(dir: &OwnedFd, name: &str) -> String {
    format!("/proc/self/fd/{}/{name}", dir.as_raw_fd())
}

/// What a descriptor stands for; a link at its end is not followed further.
fn own_path(fd: &OwnedFd) -> String {
    format!("/proc/self/fd/{}", fd.as_raw_fd())
}

pub(super) fn getxattr_pinned(fd: &Fd, name: &[u8], out: &mut [u8]) -> Result<usize> {
    on!(fd,
        fd => rustix::fs::getxattr(own_path(fd), name, out),
        fd => fd.get_xattr(name, out))
}

pub(super) fn listxattr_pinned(fd: &Fd, out: &mut [u8]) -> Result<usize> {
    on!(fd,
        fd => rustix::fs::listxattr(own_path(fd), out),
        fd => fd.list_xattrs(out))
}

pub(super) fn setxattr_pinned(
    site: Site,
    fd: &Fd,
    name: &[u8],
    value: &[u8],
    flags: XattrFlags,
) -> Result<()> {
    site.change(|| {
        on!(fd,
            fd => rustix::fs::setxattr(own_path(fd), name, value, flags),
            fd => fd.set_xattr(name, value, flags))
    })
}

pub(super) fn removexattr_pinned(site: Site, fd: &Fd, name: &[u8]) -> Result<()> {
    site.change(|| {
        on!(fd,
            fd => rustix::fs::removexattr(own_path(fd), name),
            fd => fd.remove_xattr(name))
    })
}

pub(super) fn getxattrat(dir: &Fd, object: &str, name: &[u8], out: &mut [u8]) -> Result<usize> {
    on!(dir,
        dir => rustix::fs::lgetxattr(path(dir, object), name, out),
        dir => dir.at(object)?.get_xattr(name, out))
}

pub(super) fn listxattrat(dir: &Fd, object: &str, out: &mut [u8]) -> Result<usize> {
    on!(dir,
        dir => rustix::fs::llistxattr(path(dir, object), out),
        dir => dir.at(object)?.list_xattrs(out))
}

pub(super) fn setxattrat(
    site: Site,
    dir: &Fd,
    object: &str,
    name: &[u8],
    value: &[u8],
    flags: XattrFlags,
) -> Result<()> {
    site.change(|| {
        on!(dir,
            dir => rustix::fs::lsetxattr(path(dir, object), name, value, flags),
            dir => dir.at(object)?.set_xattr(name, value, flags))
    })
}

pub(super) fn removexattrat(site: Site, dir: &Fd, object: &str, name: &[u8]) -> Result<()> {
    site.change(|| {
        on!(dir,
            dir => rustix::fs::lremovexattr(path(dir, object), name),
            dir => dir.at(object)?.remove_xattr(name))
    })
}

const BUFFER: usize = 32 * 1024;

/// Appends the next entries of a directory, a buffer of them; none at the end.
pub(super) fn getdents(fd: &Fd, entries: &mut Vec<LowerEntry>) -> Result<()> {
    on!(fd, fd => read_entries(fd, entries), fd => fd.entries(entries))
}

fn read_entries(fd: &OwnedFd, entries: &mut Vec<LowerEntry>) -> Result<()> {
    let mut buffer = [const { MaybeUninit::uninit() }; BUFFER];
    let mut raw = RawDir::new(fd, &mut buffer);
    loop {
        match raw.next() {
            None => return Ok(()),
            Some(Err(Errno::INTR)) => continue,
            Some(Err(error)) => return Err(error),
            Some(Ok(entry)) => entries.push(LowerEntry {
                name: entry.file_name().to_bytes().to_vec(),
                ino: entry.ino(),
                cookie: entry.next_entry_cookie(),
                mode: match entry.file_type() {
                    FileType::Unknown => 0,
                    known => known.as_raw_mode(),
                },
            }),
        }
        if raw.is_buffer_empty() {
            return Ok(());
        }
    }
}
