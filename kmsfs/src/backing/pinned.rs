//! Lower objects that are kept without a name.

use rustix::fs::{Mode, OFlags, Stat, Timestamps};

use super::sys::{self, Fd, Site};
use super::{Dir, LowerFile, again};
use crate::errno::{Errno, FsResult};

/// An object that stays reachable when it has no name, or none that is known; perhaps opened only to be looked at (O_PATH).
#[derive(Debug)]
pub(crate) struct Pinned {
    pub(super) fd: Fd,
}

impl Pinned {
    pub(super) fn new(fd: Fd) -> Pinned {
        Pinned { fd }
    }

    pub(crate) fn stat(&self) -> FsResult<Stat> {
        again(|| sys::fstat(&self.fd))
    }

    /// When it was made: seconds since 1970 and nanoseconds, if the lower file system knows.
    pub(crate) fn birth(&self) -> FsResult<Option<(i64, u32)>> {
        again(|| sys::birth(&self.fd, ""))
    }

    /// Opens it, if it is a file.
    pub(crate) fn open_file(&self, write: bool) -> FsResult<LowerFile> {
        let access = if write { OFlags::RDWR } else { OFlags::RDONLY };
        let flags = access | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
        match again(|| sys::reopen(&self.fd, flags | OFlags::NOATIME)) {
            Err(Errno::PERM) => again(|| sys::reopen(&self.fd, flags)),
            result => result,
        }
        .map(LowerFile::new)
    }

    pub(crate) fn read_link(&self) -> FsResult<Vec<u8>> {
        again(|| sys::readlinkat(&self.fd, ""))
    }

    /// Gives it a name; `ENOENT` if it had one and lost it.
    #[track_caller]
    #[cfg_attr(feature = "failpoints", deprecated)]
    pub(crate) fn link(&self, target: &Dir, new: &str) -> FsResult<()> {
        let site = Site::here();
        again(|| sys::link_open(site, &self.fd, &target.fd, new))
    }

    #[track_caller]
    #[cfg_attr(feature = "failpoints", deprecated)]
    pub(crate) fn set_owner(&self, uid: Option<u32>, gid: Option<u32>) -> FsResult<()> {
        let site = Site::here();
        again(|| sys::chown_pinned(site, &self.fd, uid, gid))
    }

    #[track_caller]
    #[cfg_attr(feature = "failpoints", deprecated)]
    pub(crate) fn set_mode(&self, mode: u32) -> FsResult<()> {
        let site = Site::here();
        again(|| sys::chmod_pinned(site, &self.fd, Mode::from_bits_truncate(mode & 0o7777)))
    }

    #[track_caller]
    #[cfg_attr(feature = "failpoints", deprecated)]
    pub(crate) fn set_times(&self, times: &Timestamps) -> FsResult<()> {
        let site = Site::here();
        again(|| sys::utimens_pinned(site, &self.fd, times))
    }
}
