//! Lower files.

use std::io::IoSlice;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{FallocateFlags, Gid, Mode, SeekFrom, Stat, Timestamps, Uid};

use super::again;
use crate::errno::{Errno, FsResult};

/// A lower file, held open. All positions are explicit.
#[derive(Debug)]
pub(crate) struct LowerFile {
    fd: OwnedFd,
}

impl AsFd for LowerFile {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl LowerFile {
    pub(super) fn new(fd: OwnedFd) -> LowerFile {
        LowerFile { fd }
    }

    /// Reads until `out` is full or the file ends; returns how many bytes.
    pub(crate) fn read_at(&self, out: &mut [u8], offset: u64) -> FsResult<usize> {
        let mut done = 0;
        while let Some(rest) = out.get_mut(done..).filter(|rest| !rest.is_empty()) {
            match again(|| rustix::io::pread(&self.fd, &mut *rest, offset + done as u64))? {
                0 => break,
                count => done += count,
            }
        }
        Ok(done)
    }

    /// Writes everything.
    pub(crate) fn write_at(&self, bytes: &[u8], offset: u64) -> FsResult<()> {
        let mut done = 0;
        while let Some(rest) = bytes.get(done..).filter(|rest| !rest.is_empty()) {
            match again(|| rustix::io::pwrite(&self.fd, rest, offset + done as u64))? {
                0 => return Err(Errno::IO),
                count => done += count,
            }
        }
        Ok(())
    }

    /// Writes two pieces that follow each other, in one call if the kernel takes them whole.
    pub(crate) fn write_pair_at(&self, first: &[u8], second: &[u8], offset: u64) -> FsResult<()> {
        let pieces = [IoSlice::new(first), IoSlice::new(second)];
        let done = again(|| rustix::io::pwritev(&self.fd, &pieces, offset))?;
        if let Some(rest) = first.get(done..) {
            self.write_at(rest, offset + done as u64)?;
        }
        let done = done.saturating_sub(first.len());
        let rest = second.get(done..).unwrap_or_default();
        self.write_at(rest, offset + (first.len() + done) as u64)
    }

    pub(crate) fn truncate(&self, size: u64) -> FsResult<()> {
        again(|| rustix::fs::ftruncate(&self.fd, size))
    }

    pub(crate) fn sync(&self) -> FsResult<()> {
        again(|| rustix::fs::fsync(&self.fd))
    }

    pub(crate) fn sync_data(&self) -> FsResult<()> {
        again(|| rustix::fs::fdatasync(&self.fd))
    }

    pub(crate) fn stat(&self) -> FsResult<Stat> {
        again(|| rustix::fs::fstat(&self.fd))
    }

    /// Reserves space without changing the size.
    pub(crate) fn reserve(&self, offset: u64, length: u64) -> FsResult<()> {
        again(|| rustix::fs::fallocate(&self.fd, FallocateFlags::KEEP_SIZE, offset, length))
    }

    /// Gives space back; the range reads as zeros.
    pub(crate) fn punch(&self, offset: u64, length: u64) -> FsResult<()> {
        let how = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        again(|| rustix::fs::fallocate(&self.fd, how, offset, length))
    }

    /// Where data begins at or behind `offset`; `ENXIO` if nowhere.
    pub(crate) fn seek_data(&self, offset: u64) -> FsResult<u64> {
        again(|| rustix::fs::seek(&self.fd, SeekFrom::Data(offset)))
    }

    /// Where a hole, or the end, is at or behind `offset`.
    pub(crate) fn seek_hole(&self, offset: u64) -> FsResult<u64> {
        again(|| rustix::fs::seek(&self.fd, SeekFrom::Hole(offset)))
    }

    pub(crate) fn set_owner(&self, uid: Option<u32>, gid: Option<u32>) -> FsResult<()> {
        let (uid, gid) = (uid.map(Uid::from_raw), gid.map(Gid::from_raw));
        again(|| rustix::fs::fchown(&self.fd, uid, gid))
    }

    pub(crate) fn set_mode(&self, mode: u32) -> FsResult<()> {
        again(|| rustix::fs::fchmod(&self.fd, Mode::from_bits_truncate(mode & 0o7777)))
    }

    pub(crate) fn set_times(&self, times: &Timestamps) -> FsResult<()> {
        again(|| rustix::fs::futimens(&self.fd, times))
    }
}
