//! Lower files.

use rustix::fs::{FallocateFlags, Mode, SeekFrom, Stat, Timestamps};

use super::sys::{self, Fd, Site};
use super::{Pinned, again};
use crate::errno::{Errno, FsResult};

/// A lower file, held open. All positions are explicit.
#[derive(Debug)]
pub(crate) struct LowerFile {
    pub(super) fd: Fd,
    /// What holds its content and `user.` attributes, if that is not this one.
    pub(super) copy: Option<Box<LowerFile>>,
}

impl LowerFile {
    pub(super) fn new(fd: Fd) -> LowerFile {
        LowerFile { fd, copy: None }
    }

    /// Its content, and its `user.` attributes, are in `copy`.
    pub(crate) fn with_copy(self, copy: LowerFile) -> LowerFile {
        let copy = Some(Box::new(copy));
        LowerFile { copy, ..self }
    }

    /// What holds its content: itself, or its copy.
    pub(crate) fn content(&self) -> &LowerFile {
        self.copy.as_deref().unwrap_or(self)
    }

    /// Whether its content is in a copy.
    pub(crate) fn is_elsewhere(&self) -> bool {
        self.copy.is_some()
    }

    /// Reads until `out` is full or the file ends; returns how many bytes.
    pub(crate) fn read_at(&self, out: &mut [u8], offset: u64) -> FsResult<usize> {
        let mut done = 0;
        while let Some(rest) = out.get_mut(done..).filter(|rest| !rest.is_empty()) {
            match again(|| sys::pread(&self.fd, &mut *rest, offset + done as u64))? {
                0 => break,
                count => done += count,
            }
        }
        Ok(done)
    }

    /// Writes everything.
    #[track_caller]
    #[cfg_attr(feature = "failpoints", deprecated)]
    pub(crate) fn write_at(&self, bytes: &[u8], offset: u64) -> FsResult<()> {
        self.write_for(Site::here(), bytes, offset)
    }

    pub(super) fn write_for(&self, site: Site, bytes: &[u8], offset: u64) -> FsResult<()> {
        let mut done = 0;
        while let Some(rest) = bytes.get(done..).filter(|rest| !rest.is_empty()) {
            match again(|| sys::pwrite(site, &self.fd, rest, offset + done as u64))? {
                0 => return Err(Errno::IO),
                count => done += count,
            }
        }
        Ok(())
    }

    /// Writes two pieces that follow each other, in one call if the kernel takes them whole.
    #[track_caller]
    #[cfg_attr(feature = "failpoints", deprecated)]
    pub(crate) fn write_pair_at(&self, first: &[u8], second: &[u8], offset: u64) -> FsResult<()> {
        let site = Site::here();
        let done = again(|| sys::pwritev(site, &self.fd, first, second, offset))?;
        if let Some(rest) = first.get(done..) {
            self.write_for(site, rest, offset + done as u64)?;
        }
        let done = done.saturating_sub(first.len());
        let rest = second.get(done..).unwrap_or_default();
        self.write_for(site, rest, offset + (first.len() + done) as u64)
    }

    #[track_caller]
    #[cfg_attr(feature = "failpoints", deprecated)]
    pub(crate) fn truncate(&self, size: u64) -> FsResult<()> {
        let site = Site::here();
        again(|| sys::ftruncate(site, &self.fd, size))
    }

    #[track_caller]
    pub(crate) fn sync(&self) -> FsResult<()> {
        let site = Site::here();
        again(|| sys::fsync(site, &self.fd))
    }

    #[track_caller]
    pub(crate) fn sync_data(&self) -> FsResult<()> {
        let site = Site::here();
        again(|| sys::fdatasync(site, &self.fd))
    }

    pub(crate) fn stat(&self) -> FsResult<Stat> {
        again(|| sys::fstat(&self.fd))
    }

    /// Reserves space without changing the size.
    #[track_caller]
    #[cfg_attr(feature = "failpoints", deprecated)]
    pub(crate) fn reserve(&self, offset: u64, length: u64) -> FsResult<()> {
        let site = Site::here();
        again(|| sys::fallocate(site, &self.fd, FallocateFlags::KEEP_SIZE, offset, length))
    }

    /// Gives space back; the range reads as zeros.
    #[track_caller]
    #[cfg_attr(feature = "failpoints", deprecated)]
    pub(crate) fn punch(&self, offset: u64, length: u64) -> FsResult<()> {
        let site = Site::here();
        let how = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        again(|| sys::fallocate(site, &self.fd, how, offset, length))
    }

    /// Where data begins at or behind `offset`; `ENXIO` if nowhere.
    pub(crate) fn seek_data(&self, offset: u64) -> FsResult<u64> {
        again(|| sys::seek(&self.fd, SeekFrom::Data(offset)))
    }

    /// Where a hole, or the end, is at or behind `offset`.
    pub(crate) fn seek_hole(&self, offset: u64) -> FsResult<u64> {
        again(|| sys::seek(&self.fd, SeekFrom::Hole(offset)))
    }

    #[track_caller]
    #[cfg_attr(feature = "failpoints", deprecated)]
    pub(crate) fn set_owner(&self, uid: Option<u32>, gid: Option<u32>) -> FsResult<()> {
        let site = Site::here();
        again(|| sys::fchown(site, &self.fd, uid, gid))
    }

    #[track_caller]
    #[cfg_attr(feature = "failpoints", deprecated)]
    pub(crate) fn set_mode(&self, mode: u32) -> FsResult<()> {
        let site = Site::here();
        again(|| sys::fchmod(site, &self.fd, Mode::from_bits_truncate(mode & 0o7777)))
    }

    #[track_caller]
    #[cfg_attr(feature = "failpoints", deprecated)]
    pub(crate) fn set_times(&self, times: &Timestamps) -> FsResult<()> {
        let site = Site::here();
        again(|| sys::futimens(site, &self.fd, times))
    }

    /// Counts as an access: the access time moves by the rules of the lower mount.
    pub(crate) fn touch(&self) -> FsResult<()> {
        again(|| sys::touch(&self.fd))
    }

    /// The flags of `chattr(1)`, `FS_*_FL`.
    pub(crate) fn flags(&self) -> FsResult<u32> {
        again(|| sys::flags(&self.fd))
    }

    #[track_caller]
    #[cfg_attr(feature = "failpoints", deprecated)]
    pub(crate) fn set_flags(&self, flags: u32) -> FsResult<()> {
        let site = Site::here();
        again(|| sys::set_flags(site, &self.fd, flags))
    }

    /// When it was made: seconds since 1970 and nanoseconds, if the lower file system knows.
    pub(crate) fn birth(&self) -> FsResult<Option<(i64, u32)>> {
        again(|| sys::birth(&self.fd, ""))
    }

    /// Keeps it reachable after it is closed, with or without a name.
    pub(crate) fn pin(&self) -> FsResult<Pinned> {
        again(|| sys::duplicate(&self.fd)).map(Pinned::new)
    }
}
