//! Lower directories.

use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{
    AtFlags, FileType, Gid, Mode, OFlags, RawDir, RenameFlags, Stat, Timestamps, Uid,
};
use rustix::io::Errno as Raw;

use super::{LowerFile, again};
use crate::errno::{Errno, FsResult};

const DIRECTORY: OFlags = OFlags::DIRECTORY
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);

/// A lower directory, held open.
#[derive(Debug)]
pub struct Dir {
    fd: OwnedFd,
}

/// One entry as the lower directory has it.
#[derive(Clone, Debug)]
pub(crate) struct LowerEntry {
    pub(crate) name: Vec<u8>,
    pub(crate) ino: u64,
    /// Where to go on after this entry.
    pub(crate) cookie: u64,
    /// Type bits of `st_mode`; 0 if the lower file system does not say.
    pub(crate) mode: u32,
}

impl AsFd for Dir {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Dir {
    /// Opens the root of a lower tree.
    ///
    /// # Errors
    /// It is not a directory or not ours to open.
    pub fn open_root(path: &Path) -> FsResult<Dir> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = again(|| rustix::fs::open(path, flags, Mode::empty()))?;
        Ok(Dir { fd })
    }

    /// Opens a directory in this one; without read permission only for walking through.
    pub(crate) fn open_dir(&self, name: &str) -> FsResult<Dir> {
        let open = |flags| again(|| rustix::fs::openat(&self.fd, name, flags, Mode::empty()));
        let fd = match open(DIRECTORY | OFlags::RDONLY) {
            Err(Errno::ACCES) => open(DIRECTORY | OFlags::PATH)?,
            result => result?,
        };
        Ok(Dir { fd })
    }

    /// Opens anything in this directory without any effect on it, only to look at its attributes later.
    pub(crate) fn open_path(&self, name: &str) -> FsResult<OwnedFd> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        again(|| rustix::fs::openat(&self.fd, name, flags, Mode::empty()))
    }

    pub(crate) fn open_file(&self, name: &str, write: bool) -> FsResult<LowerFile> {
        let access = if write { OFlags::RDWR } else { OFlags::RDONLY };
        let flags = access | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
        again(|| rustix::fs::openat(&self.fd, name, flags, Mode::empty())).map(LowerFile::new)
    }

    /// Makes a file that must not be there yet, open for reading and writing.
    pub(crate) fn create_file(&self, name: &str, mode: u32) -> FsResult<LowerFile> {
        let flags =
            OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        again(|| rustix::fs::openat(&self.fd, name, flags, permissions(mode))).map(LowerFile::new)
    }

    pub(crate) fn stat(&self) -> FsResult<Stat> {
        again(|| rustix::fs::fstat(&self.fd))
    }

    pub(crate) fn stat_at(&self, name: &str) -> FsResult<Stat> {
        again(|| rustix::fs::statat(&self.fd, name, AtFlags::SYMLINK_NOFOLLOW))
    }

    pub(crate) fn make_dir(&self, name: &str, mode: u32) -> FsResult<()> {
        again(|| rustix::fs::mkdirat(&self.fd, name, permissions(mode)))
    }

    pub(crate) fn make_node(&self, name: &str, mode: u32, device: u64) -> FsResult<()> {
        let kind = FileType::from_raw_mode(mode);
        again(|| rustix::fs::mknodat(&self.fd, name, kind, permissions(mode), device))
    }

    pub(crate) fn make_symlink(&self, name: &str, target: &str) -> FsResult<()> {
        again(|| rustix::fs::symlinkat(target, &self.fd, name))
    }

    pub(crate) fn read_link(&self, name: &str) -> FsResult<Vec<u8>> {
        let target = again(|| rustix::fs::readlinkat(&self.fd, name, Vec::new()))?;
        Ok(target.into_bytes())
    }

    pub(crate) fn link(&self, name: &str, target: &Dir, new: &str) -> FsResult<()> {
        again(|| rustix::fs::linkat(&self.fd, name, &target.fd, new, AtFlags::empty()))
    }

    pub(crate) fn unlink(&self, name: &str) -> FsResult<()> {
        again(|| rustix::fs::unlinkat(&self.fd, name, AtFlags::empty()))
    }

    pub(crate) fn remove_dir(&self, name: &str) -> FsResult<()> {
        again(|| rustix::fs::unlinkat(&self.fd, name, AtFlags::REMOVEDIR))
    }

    pub(crate) fn rename(&self, name: &str, to: &Dir, new: &str, how: RenameFlags) -> FsResult<()> {
        again(|| rustix::fs::renameat_with(&self.fd, name, &to.fd, new, how))
    }

    pub(crate) fn set_owner(&self, uid: Option<u32>, gid: Option<u32>) -> FsResult<()> {
        let (uid, gid) = (uid.map(Uid::from_raw), gid.map(Gid::from_raw));
        again(|| rustix::fs::fchown(&self.fd, uid, gid))
    }

    pub(crate) fn set_owner_at(
        &self,
        name: &str,
        uid: Option<u32>,
        gid: Option<u32>,
    ) -> FsResult<()> {
        let (uid, gid) = (uid.map(Uid::from_raw), gid.map(Gid::from_raw));
        again(|| rustix::fs::chownat(&self.fd, name, uid, gid, AtFlags::SYMLINK_NOFOLLOW))
    }

    pub(crate) fn set_mode(&self, mode: u32) -> FsResult<()> {
        match again(|| rustix::fs::fchmod(&self.fd, permissions(mode))) {
            // Opened only for walking through.
            Err(Errno::BADF) => {
                again(|| rustix::fs::chmodat(&self.fd, ".", permissions(mode), AtFlags::empty()))
            }
            result => result,
        }
    }

    /// Follows symlinks: only for what is known not to be one.
    pub(crate) fn set_mode_at(&self, name: &str, mode: u32) -> FsResult<()> {
        again(|| rustix::fs::chmodat(&self.fd, name, permissions(mode), AtFlags::empty()))
    }

    pub(crate) fn set_times(&self, times: &Timestamps) -> FsResult<()> {
        match again(|| rustix::fs::futimens(&self.fd, times)) {
            Err(Errno::BADF) => self.set_times_at(".", times),
            result => result,
        }
    }

    pub(crate) fn set_times_at(&self, name: &str, times: &Timestamps) -> FsResult<()> {
        again(|| rustix::fs::utimensat(&self.fd, name, times, AtFlags::SYMLINK_NOFOLLOW))
    }

    /// Makes the entries durable.
    pub(crate) fn sync(&self) -> FsResult<()> {
        match again(|| rustix::fs::fsync(&self.fd)) {
            Err(Errno::BADF) => self
                .open_dir(".")
                .and_then(|dir| again(|| rustix::fs::fsync(&dir.fd))),
            result => result,
        }
    }

    /// Makes everything on the lower file system durable.
    pub(crate) fn sync_file_system(&self) -> FsResult<()> {
        again(|| rustix::fs::syncfs(&self.fd))
    }

    pub(crate) fn room(&self) -> FsResult<rustix::fs::StatVfs> {
        again(|| rustix::fs::fstatvfs(&self.fd))
    }

    /// The content of a small file, at most `limit` bytes of it; `None` if there is no such file.
    pub(crate) fn read_small(&self, name: &str, limit: usize) -> FsResult<Option<Vec<u8>>> {
        let file = match self.open_file(name, false) {
            Err(Errno::NOENT) => return Ok(None),
            file => file?,
        };
        let mut bytes = vec![0; limit];
        let length = file.read_at(&mut bytes, 0)?;
        bytes.truncate(length);
        Ok(Some(bytes))
    }

    /// Makes a small file of our own, not synced. `EEXIST` if it is there.
    pub(crate) fn write_small(&self, name: &str, bytes: &[u8]) -> FsResult<LowerFile> {
        let file = self.create_file(name, 0o600)?;
        match file.write_at(bytes, 0) {
            Ok(()) => Ok(file),
            Err(error) => {
                let _ = self.unlink(name);
                Err(error)
            }
        }
    }

    /// Reads the entries with a position of its own, from the beginning.
    pub(crate) fn list(&self) -> FsResult<Listing> {
        let flags = DIRECTORY | OFlags::RDONLY;
        let fd = again(|| rustix::fs::openat(&self.fd, ".", flags, Mode::empty()))?;
        Ok(Listing {
            fd,
            entries: Vec::new(),
            next: 0,
            cookie: 0,
            end: false,
        })
    }
}

/// The entries of a directory, in the lower file system's order, a buffer at a time.
#[derive(Debug)]
pub(crate) struct Listing {
    fd: OwnedFd,
    entries: Vec<LowerEntry>,
    next: usize,
    /// Where the entry `next` begins.
    cookie: u64,
    end: bool,
}

const BUFFER: usize = 32 * 1024;

impl Listing {
    /// Goes to a position that an entry named, or to the beginning with 0.
    pub(crate) fn seek(&mut self, cookie: u64) -> FsResult<()> {
        if cookie == self.cookie && cookie != 0 {
            return Ok(());
        }
        again(|| rustix::fs::seek(&self.fd, rustix::fs::SeekFrom::Start(cookie)))?;
        self.entries.clear();
        (self.next, self.cookie, self.end) = (0, cookie, false);
        Ok(())
    }

    /// The next entry, `.` and `..` among them; it stays the next until [`Listing::advance`].
    pub(crate) fn peek(&mut self) -> FsResult<Option<&LowerEntry>> {
        if self.next >= self.entries.len() && !self.end {
            self.fill()?;
        }
        Ok(self.entries.get(self.next))
    }

    pub(crate) fn advance(&mut self) {
        if let Some(entry) = self.entries.get(self.next) {
            self.cookie = entry.cookie;
            self.next += 1;
        }
    }

    fn fill(&mut self) -> FsResult<()> {
        self.entries.clear();
        self.next = 0;
        let mut buffer = [const { MaybeUninit::uninit() }; BUFFER];
        let mut raw = RawDir::new(&self.fd, &mut buffer);
        loop {
            match raw.next() {
                None => {
                    self.end = true;
                    return Ok(());
                }
                Some(Err(Raw::INTR)) => continue,
                Some(Err(error)) => return Err(error.into()),
                Some(Ok(entry)) => self.entries.push(LowerEntry {
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
}

fn permissions(mode: u32) -> Mode {
    Mode::from_bits_truncate(mode & 0o7777)
}
