//! Lower directories.

use std::path::Path;

use kms_format::{FormatError, Record};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, RenameFlags, SeekFrom, Stat, Timestamps};

use super::sys::{self, Fd, Site};
use super::{LowerFile, Pinned, again};
use crate::errno::{Errno, FsResult};

const DIRECTORY: OFlags = OFlags::DIRECTORY
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);

/// A lower directory, held open.
#[derive(Debug)]
pub struct Dir {
    pub(super) fd: Fd,
}

/// What [`Dir::read_small`] finds.
#[derive(Debug)]
pub(crate) enum Small {
    /// Nothing of that name.
    Missing,
    /// Something else: a symlink, which is not followed, a directory, a pipe, a device.
    NotAFile,
    /// A file.
    Bytes(Vec<u8>),
}

impl Small {
    /// The bytes of a record, if there is one.
    ///
    /// # Errors
    /// [`FormatError::WrongMagic`]: something is there that is not a file.
    pub(crate) fn of(self, record: Record) -> Result<Option<Vec<u8>>, FormatError> {
        match self {
            Small::Missing => Ok(None),
            Small::NotAFile => Err(FormatError::WrongMagic { record }),
            Small::Bytes(bytes) => Ok(Some(bytes)),
        }
    }
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

impl Dir {
    /// Opens the root of a lower tree.
    ///
    /// # Errors
    /// It is not a directory or not ours to open.
    pub fn open_root(path: &Path) -> FsResult<Dir> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = again(|| sys::open(path, flags))?;
        Ok(Dir { fd })
    }

    #[cfg(test)]
    pub(super) fn simulated(fd: super::sim::Fd) -> Dir {
        Dir {
            fd: Fd::Simulated(fd),
        }
    }

    /// Opens a directory in this one; without read permission only for walking through.
    pub(crate) fn open_dir(&self, name: &str) -> FsResult<Dir> {
        let open = |flags| again(|| sys::openat(&self.fd, name, flags));
        let fd = match open(DIRECTORY | OFlags::RDONLY) {
            Err(Errno::ACCES) => open(DIRECTORY | OFlags::PATH)?,
            result => result?,
        };
        Ok(Dir { fd })
    }

    /// Opens anything in this directory without any effect on it, only to look at its attributes later.
    pub(crate) fn open_path(&self, name: &str) -> FsResult<Pinned> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        again(|| sys::openat(&self.fd, name, flags)).map(Pinned::new)
    }

    pub(crate) fn open_file(&self, name: &str, write: bool) -> FsResult<LowerFile> {
        let access = if write { OFlags::RDWR } else { OFlags::RDONLY };
        let flags = access | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
        again(|| sys::openat_quietly(&self.fd, name, flags)).map(LowerFile::new)
    }

    /// Makes a file that must not be there yet, open for reading and writing.
    #[track_caller]
    #[cfg_attr(feature = "failpoints", deprecated)]
    pub(crate) fn create_file(&self, name: &str, mode: u32) -> FsResult<LowerFile> {
        self.create_for(Site::here(), name, mode)
    }

    fn create_for(&self, site: Site, name: &str, mode: u32) -> FsResult<LowerFile> {
        let flags = OFlags::RDWR
            | OFlags::CREATE
            | OFlags::EXCL
            | OFlags::NOFOLLOW
            | OFlags::CLOEXEC
            | OFlags::NOATIME;
        again(|| sys::create(site, &self.fd, name, flags, permissions(mode))).map(LowerFile::new)
    }

    /// Makes a file without a name, open for reading and writing; `EOPNOTSUPP` where the lower file system cannot.
    #[track_caller]
    #[cfg_attr(feature = "failpoints", deprecated)]
    pub(crate) fn create_unnamed(&self, mode: u32) -> FsResult<LowerFile> {
        let site = Site::here();
        again(|| sys::tmpfile(site, &self.fd, permissions(mode))).map(LowerFile::new)
    }

    pub(crate) fn stat(&self) -> FsResult<Stat> {
        again(|| sys::fstat(&self.fd))
    }

    pub(crate) fn stat_at(&self, name: &str) -> FsResult<Stat> {
        again(|| sys::statat(&self.fd, name))
    }

    /// When it was made: seconds since 1970 and nanoseconds, if the lower file system knows.
    pub(crate) fn birth(&self) -> FsResult<Option<(i64, u32)>> {
        again(|| sys::birth(&self.fd, ""))
    }

    pub(crate) fn birth_at(&self, name: &str) -> FsResult<Option<(i64, u32)>> {
        again(|| sys::birth(&self.fd, name))
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

    #[track_caller]
    #[cfg_attr(feature = "failpoints", deprecated)]
    pub(crate) fn make_dir(&self, name: &str, mode: u32) -> FsResult<()> {
        let site = Site::here();
        again(|| sys::mkdirat(site, &self.fd, name, permissions(mode)))
    }

    #[track_caller]
    #[cfg_attr(feature = "failpoints", deprecated)]
    pub(crate) fn make_node(&self, name: &str, mode: u32, device: u64) -> FsResult<()> {
        let site = Site::here();
        let kind = FileType::from_raw_mode(mode);
        again(|| sys::mknodat(site, &self.fd, name, kind, permissions(mode), device))
    }

    #[track_caller]
    #[cfg_attr(feature = "failpoints", deprecated)]
    pub(crate) fn make_symlink(&self, name: &str, target: &str) -> FsResult<()> {
        let site = Site::here();
        again(|| sys::symlinkat(site, target, &self.fd, name))
    }

    pub(crate) fn read_link(&self, name: &str) -> FsResult<Vec<u8>> {
        again(|| sys::readlinkat(&self.fd, name))
    }

    #[track_caller]
    #[cfg_attr(feature = "failpoints", deprecated)]
    pub(crate) fn link(&self, name: &str, target: &Dir, new: &str) -> FsResult<()> {
        let site = Site::here();
        again(|| sys::linkat(site, &self.fd, name, &target.fd, new))
    }

    #[track_caller]
    #[cfg_attr(feature = "failpoints", deprecated)]
    pub(crate) fn unlink(&self, name: &str) -> FsResult<()> {
        let site = Site::here();
        again(|| sys::unlinkat(site, &self.fd, name, AtFlags::empty()))
    }

    #[track_caller]
    #[cfg_attr(feature = "failpoints", deprecated)]
    pub(crate) fn remove_dir(&self, name: &str) -> FsResult<()> {
        let site = Site::here();
        again(|| sys::unlinkat(site, &self.fd, name, AtFlags::REMOVEDIR))
    }

    #[track_caller]
    #[cfg_attr(feature = "failpoints", deprecated)]
    pub(crate) fn rename(&self, name: &str, to: &Dir, new: &str, how: RenameFlags) -> FsResult<()> {
        let site = Site::here();
        again(|| sys::renameat(site, &self.fd, name, &to.fd, new, how))
    }

    #[track_caller]
    #[cfg_attr(feature = "failpoints", deprecated)]
    pub(crate) fn set_owner(&self, uid: Option<u32>, gid: Option<u32>) -> FsResult<()> {
        let site = Site::here();
        again(|| sys::fchown(site, &self.fd, uid, gid))
    }

    #[track_caller]
    #[cfg_attr(feature = "failpoints", deprecated)]
    pub(crate) fn set_owner_at(
        &self,
        name: &str,
        uid: Option<u32>,
        gid: Option<u32>,
    ) -> FsResult<()> {
        let site = Site::here();
        again(|| sys::chownat(site, &self.fd, name, uid, gid))
    }

    #[track_caller]
    #[cfg_attr(feature = "failpoints", deprecated)]
    pub(crate) fn set_mode(&self, mode: u32) -> FsResult<()> {
        let site = Site::here();
        match again(|| sys::fchmod(site, &self.fd, permissions(mode))) {
            // Opened only for walking through.
            Err(Errno::BADF) => again(|| sys::chmodat(site, &self.fd, ".", permissions(mode))),
            result => result,
        }
    }

    /// Anything but a symlink.
    #[track_caller]
    #[cfg_attr(feature = "failpoints", deprecated)]
    pub(crate) fn set_mode_at(&self, name: &str, mode: u32) -> FsResult<()> {
        let site = Site::here();
        again(|| sys::chmodat(site, &self.fd, name, permissions(mode)))
    }

    #[track_caller]
    #[cfg_attr(feature = "failpoints", deprecated)]
    pub(crate) fn set_times(&self, times: &Timestamps) -> FsResult<()> {
        let site = Site::here();
        match again(|| sys::futimens(site, &self.fd, times)) {
            Err(Errno::BADF) => again(|| sys::utimensat(site, &self.fd, ".", times)),
            result => result,
        }
    }

    #[track_caller]
    #[cfg_attr(feature = "failpoints", deprecated)]
    pub(crate) fn set_times_at(&self, name: &str, times: &Timestamps) -> FsResult<()> {
        let site = Site::here();
        again(|| sys::utimensat(site, &self.fd, name, times))
    }

    /// Makes the entries durable.
    #[track_caller]
    pub(crate) fn sync(&self) -> FsResult<()> {
        let site = Site::here();
        match again(|| sys::fsync(site, &self.fd)) {
            Err(Errno::BADF) => self
                .open_dir(".")
                .and_then(|dir| again(|| sys::fsync(site, &dir.fd))),
            result => result,
        }
    }

    /// Makes everything on the lower file system durable.
    #[track_caller]
    pub(crate) fn sync_file_system(&self) -> FsResult<()> {
        let site = Site::here();
        again(|| sys::syncfs(site, &self.fd))
    }

    pub(crate) fn room(&self) -> FsResult<rustix::fs::StatVfs> {
        again(|| sys::fstatvfs(&self.fd))
    }

    /// The content of a small file, at most `limit` bytes of it.
    pub(crate) fn read_small(&self, name: &str, limit: usize) -> FsResult<Small> {
        // Looked at first: opening a device may have effects.
        match self.stat_at(name) {
            Err(Errno::NOENT) => return Ok(Small::Missing),
            stat if FileType::from_raw_mode(stat?.st_mode) != FileType::RegularFile => {
                return Ok(Small::NotAFile);
            }
            _ => {}
        }
        let file = match self.open_file(name, false) {
            Err(Errno::NOENT) => return Ok(Small::Missing),
            // A symlink since.
            Err(Errno::LOOP) => return Ok(Small::NotAFile),
            file => file?,
        };
        let mut bytes = vec![0; limit];
        let length = file.read_at(&mut bytes, 0)?;
        bytes.truncate(length);
        Ok(Small::Bytes(bytes))
    }

    /// Makes a small file of our own, not synced. `EEXIST` if it is there.
    #[track_caller]
    #[cfg_attr(feature = "failpoints", deprecated)]
    pub(crate) fn write_small(&self, name: &str, bytes: &[u8]) -> FsResult<LowerFile> {
        let site = Site::here();
        let file = self.create_for(site, name, 0o600)?;
        match file.write_for(site, bytes, 0) {
            Ok(()) => Ok(file),
            Err(error) => {
                let _ = again(|| sys::unlinkat(site, &self.fd, name, AtFlags::empty()));
                Err(error)
            }
        }
    }

    /// Reads the entries with a position of its own, from the beginning, without a trace in the access time.
    pub(crate) fn list(&self) -> FsResult<Listing> {
        let flags = DIRECTORY | OFlags::RDONLY;
        again(|| sys::openat_quietly(&self.fd, ".", flags)).map(Listing::new)
    }

    /// The same as an access by a user.
    pub(crate) fn list_for_user(&self) -> FsResult<Listing> {
        let flags = DIRECTORY | OFlags::RDONLY;
        again(|| sys::openat(&self.fd, ".", flags)).map(Listing::new)
    }
}

/// The entries of a directory, in the lower file system's order, a buffer at a time.
#[derive(Debug)]
pub(crate) struct Listing {
    fd: Fd,
    entries: Vec<LowerEntry>,
    next: usize,
    /// Where the entry `next` begins.
    cookie: u64,
    end: bool,
}

impl Listing {
    fn new(fd: Fd) -> Listing {
        Listing {
            fd,
            entries: Vec::new(),
            next: 0,
            cookie: 0,
            end: false,
        }
    }

    /// Goes to a position that an entry named, or to the beginning with 0.
    pub(crate) fn seek(&mut self, cookie: u64) -> FsResult<()> {
        if cookie == self.cookie && cookie != 0 {
            return Ok(());
        }
        again(|| sys::seek(&self.fd, SeekFrom::Start(cookie)))?;
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
        again(|| sys::getdents(&self.fd, &mut self.entries))?;
        self.end = self.entries.is_empty();
        Ok(())
    }
}

fn permissions(mode: u32) -> Mode {
    Mode::from_bits_truncate(mode & 0o7777)
}
