//! The directory that is written to, with a bounded number of descriptors however deep it is.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;

use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Timespec, Timestamps, Uid, XattrFlags};

use crate::backing::Stat;
use crate::errno::{Errno, FsResult};

/// Directories on the way down that stay open.
const OPEN: usize = 48;
const DIRECTORY: OFlags = OFlags::DIRECTORY
    .union(OFlags::RDONLY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);

/// Where things go.
pub(super) struct Target {
    root: Arc<Own>,
    /// The directories down to the present one.
    way: Vec<(Vec<u8>, Option<Arc<Own>>)>,
}

impl Target {
    pub(super) fn open(path: &Path) -> std::io::Result<Target> {
        let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
        let fd = rustix::fs::open(path, flags, Mode::empty())?;
        Ok(Target {
            root: Arc::new(Own { fd }),
            way: Vec::new(),
        })
    }

    /// Makes a directory, if it is not there, and goes into it.
    pub(super) fn enter(&mut self, name: &[u8]) -> FsResult<()> {
        let own = self.here()?;
        match rustix::fs::mkdirat(&own.fd, name, Mode::from(0o700)) {
            Ok(()) | Err(rustix::io::Errno::EXIST) => {}
            Err(error) => return Err(error.into()),
        }
        let below = Arc::new(own.open_dir(name)?);
        self.way.push((name.to_vec(), Some(below)));
        if let Some(far) = self.way.len().checked_sub(OPEN)
            && let Some((_, open)) = self.way.get_mut(far)
        {
            *open = None;
        }
        Ok(())
    }

    pub(super) fn leave(&mut self) {
        self.way.pop();
    }

    /// The present directory.
    pub(super) fn here(&mut self) -> FsResult<Arc<Own>> {
        let at = self.way.iter().rposition(|(_, open)| open.is_some());
        let mut dir = at
            .and_then(|at| self.way.get(at)?.1.clone())
            .unwrap_or_else(|| Arc::clone(&self.root));
        let keep = self.way.len().saturating_sub(OPEN);
        let from = at.map_or(0, |at| at + 1);
        for (at, (name, open)) in self.way.iter_mut().enumerate().skip(from) {
            dir = Arc::new(dir.open_dir(name)?);
            if at > keep {
                *open = Some(Arc::clone(&dir));
            }
        }
        Ok(dir)
    }

    /// The names from the root down to `name` in the present directory.
    pub(super) fn path_of(&self, name: &[u8]) -> Vec<Vec<u8>> {
        let way = self.way.iter().map(|(name, _)| name.clone());
        way.chain([name.to_vec()]).collect()
    }

    /// Gives what is at `path` the name `name` in the present directory.
    pub(super) fn link(&mut self, path: &[Vec<u8>], name: &[u8]) -> FsResult<()> {
        let (last, way) = path.split_last().ok_or(Errno::NOENT)?;
        let mut from = Arc::clone(&self.root);
        for step in way {
            from = Arc::new(from.open_dir(step)?);
        }
        let here = self.here()?;
        let ino = |own: &Own, name: &[u8]| own.stat(name).map(|stat| (stat.st_dev, stat.st_ino));
        if let Ok(there) = ino(&here, name)
            && there == ino(&from, last)?
        {
            return Ok(());
        }
        here.clear(name)?;
        rustix::fs::linkat(&from.fd, last.as_slice(), &here.fd, name, AtFlags::empty())?;
        Ok(())
    }
}

/// A directory, or a file, of the destination.
pub(super) struct Own {
    fd: OwnedFd,
}

impl AsFd for Own {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Own {
    fn open_dir(&self, name: &[u8]) -> FsResult<Own> {
        let fd = rustix::fs::openat(&self.fd, name, DIRECTORY, Mode::empty())?;
        Ok(Own { fd })
    }

    pub(super) fn stat(&self, name: &[u8]) -> FsResult<Stat> {
        Ok(rustix::fs::statat(
            &self.fd,
            name,
            AtFlags::SYMLINK_NOFOLLOW,
        )?)
    }

    /// Opens a file that is to have `links` names, for reading and writing; makes it if it is not there. Says whether it was
    /// made. A file of an earlier run that has another number of names is replaced: it may be somebody else's, too.
    pub(super) fn file(&self, name: &[u8], links: u64) -> FsResult<(Own, bool)> {
        let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let open = |flags| rustix::fs::openat(&self.fd, name, flags, Mode::from(0o600));
        if let Ok(stat) = self.stat(name) {
            if FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile
                && stat.st_nlink == links
            {
                let fd = match open(flags) {
                    Err(rustix::io::Errno::ACCESS) => {
                        rustix::fs::chmodat(&self.fd, name, Mode::from(0o600), AtFlags::empty())?;
                        open(flags)?
                    }
                    opened => opened?,
                };
                return Ok((Own { fd }, false));
            }
            self.clear(name)?;
        }
        let fd = open(flags | OFlags::CREATE | OFlags::EXCL)?;
        Ok((Own { fd }, true))
    }

    /// Removes what an earlier run left under this name, but no directory.
    pub(super) fn clear(&self, name: &[u8]) -> FsResult<()> {
        match rustix::fs::unlinkat(&self.fd, name, AtFlags::empty()) {
            Ok(()) | Err(rustix::io::Errno::NOENT) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    pub(super) fn symlink(&self, name: &[u8], target: &[u8]) -> FsResult<()> {
        if let Ok(found) = rustix::fs::readlinkat(&self.fd, name, Vec::new())
            && found.as_bytes() == target
        {
            return Ok(());
        }
        self.clear(name)?;
        Ok(rustix::fs::symlinkat(target, &self.fd, name)?)
    }

    pub(super) fn node(&self, name: &[u8], mode: u32, device: u64) -> FsResult<()> {
        let kind = FileType::from_raw_mode(mode);
        if let Ok(stat) = self.stat(name)
            && FileType::from_raw_mode(stat.st_mode) == kind
            && stat.st_rdev == device
        {
            return Ok(());
        }
        self.clear(name)?;
        let mode = Mode::from_bits_truncate(mode & 0o7777);
        Ok(rustix::fs::mknodat(&self.fd, name, kind, mode, device)?)
    }

    pub(super) fn read_at(&self, out: &mut [u8], offset: u64) -> FsResult<usize> {
        let mut done = 0;
        while let Some(rest) = out.get_mut(done..).filter(|rest| !rest.is_empty()) {
            match rustix::io::pread(&self.fd, &mut *rest, offset + done as u64) {
                Ok(0) => break,
                Ok(count) => done += count,
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(done)
    }

    pub(super) fn write_at(&self, bytes: &[u8], offset: u64) -> FsResult<()> {
        let mut done = 0;
        while let Some(rest) = bytes.get(done..).filter(|rest| !rest.is_empty()) {
            match rustix::io::pwrite(&self.fd, rest, offset + done as u64) {
                Ok(0) => return Err(Errno::IO),
                Ok(count) => done += count,
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    pub(super) fn size(&self) -> FsResult<u64> {
        Ok(rustix::fs::fstat(&self.fd)?.st_size.cast_unsigned())
    }

    pub(super) fn set_size(&self, size: u64) -> FsResult<()> {
        Ok(rustix::fs::ftruncate(&self.fd, size)?)
    }

    /// Where data begins at or behind `offset`, if anywhere.
    pub(super) fn data(&self, offset: u64) -> FsResult<Option<u64>> {
        match rustix::fs::seek(&self.fd, rustix::fs::SeekFrom::Data(offset)) {
            Ok(at) => Ok(Some(at)),
            Err(rustix::io::Errno::NXIO) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    pub(super) fn set_owner(&self, stat: &Stat) -> FsResult<()> {
        let (uid, gid) = owner(stat);
        Ok(rustix::fs::fchown(&self.fd, uid, gid)?)
    }

    pub(super) fn set_mode(&self, stat: &Stat) -> FsResult<()> {
        Ok(rustix::fs::fchmod(&self.fd, mode(stat))?)
    }

    pub(super) fn set_times(&self, stat: &Stat) -> FsResult<()> {
        Ok(rustix::fs::futimens(&self.fd, &times(stat))?)
    }

    pub(super) fn set_owner_at(&self, name: &[u8], stat: &Stat) -> FsResult<()> {
        let (uid, gid) = owner(stat);
        let how = AtFlags::SYMLINK_NOFOLLOW;
        Ok(rustix::fs::chownat(&self.fd, name, uid, gid, how)?)
    }

    /// Not for symbolic links.
    pub(super) fn set_mode_at(&self, name: &[u8], stat: &Stat) -> FsResult<()> {
        let how = AtFlags::empty();
        Ok(rustix::fs::chmodat(&self.fd, name, mode(stat), how)?)
    }

    pub(super) fn set_times_at(&self, name: &[u8], stat: &Stat) -> FsResult<()> {
        let how = AtFlags::SYMLINK_NOFOLLOW;
        Ok(rustix::fs::utimensat(&self.fd, name, &times(stat), how)?)
    }

    pub(super) fn set_xattr(&self, name: &[u8], value: &[u8]) -> FsResult<()> {
        let how = XattrFlags::empty();
        Ok(rustix::fs::fsetxattr(&self.fd, name, value, how)?)
    }
}

fn owner(stat: &Stat) -> (Option<Uid>, Option<Gid>) {
    (
        Some(Uid::from_raw(stat.st_uid)),
        Some(Gid::from_raw(stat.st_gid)),
    )
}

fn mode(stat: &Stat) -> Mode {
    Mode::from_bits_truncate(stat.st_mode & 0o7777)
}

fn times(stat: &Stat) -> Timestamps {
    let time = |tv_sec, nanos: u64| Timespec {
        tv_sec,
        tv_nsec: i64::try_from(nanos).unwrap_or(0),
    };
    Timestamps {
        last_access: time(stat.st_atime, stat.st_atime_nsec),
        last_modification: time(stat.st_mtime, stat.st_mtime_nsec),
    }
}
