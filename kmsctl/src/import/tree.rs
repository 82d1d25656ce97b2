//! One of the two trees: directories by their path below its root, and what is known of an entry.
//!
//! A path is never resolved from `/`, and no component of it may be a link: whoever may write in the tree
//! cannot lead an import by root out of it. Paths may be longer than `PATH_MAX`.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, AsRawFd as _, OwnedFd};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags, StatxFlags};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

/// Longest path given to the kernel in one call; `PATH_MAX` is 4096 with the final NUL.
const LONGEST: usize = 3800;

/// A directory tree.
#[derive(Debug)]
pub(crate) struct Tree {
    root: OwnedFd,
    path: PathBuf,
}

impl Tree {
    /// Opens the tree whose root is the directory `path`.
    pub(crate) fn open(path: &Path) -> io::Result<Tree> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::open(path, flags, Mode::empty())?;
        Ok(Tree {
            root,
            path: path.to_owned(),
        })
    }

    /// Its root.
    pub(crate) fn root(&self) -> &OwnedFd {
        &self.root
    }

    /// How a path below the root is shown.
    pub(crate) fn shown(&self, below: &Path) -> PathBuf {
        if below.as_os_str().is_empty() {
            self.path.clone()
        } else {
            self.path.join(below)
        }
    }

    /// Opens a directory below the root; the empty path is the root.
    pub(crate) fn directory(&self, below: &Path) -> io::Result<OwnedFd> {
        let mut at = open_directory(&self.root, Path::new("."))?;
        let mut part = PathBuf::new();
        for name in below {
            if part.as_os_str().len() + name.len() > LONGEST {
                at = open_directory(&at, &part)?;
                part.clear();
            }
            part.push(name);
        }
        if part.as_os_str().is_empty() {
            Ok(at)
        } else {
            open_directory(&at, &part)
        }
    }

    /// The directory that holds `below`, and its name there.
    pub(crate) fn parent<'a>(&self, below: &'a Path) -> io::Result<(OwnedFd, &'a OsStr)> {
        let name = below.file_name().ok_or(io::ErrorKind::InvalidInput)?;
        let parent = below.parent().unwrap_or_else(|| Path::new(""));
        Ok((self.directory(parent)?, name))
    }
}

fn open_directory(at: &OwnedFd, path: &Path) -> io::Result<OwnedFd> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    quietly(OFlags::RDONLY | OFlags::DIRECTORY, |flags| {
        rustix::fs::openat2(at, path, flags, Mode::empty(), resolve)
    })
}

/// Opens without moving the access time, if this user may do that.
fn quietly(
    flags: OFlags,
    open: impl Fn(OFlags) -> rustix::io::Result<OwnedFd>,
) -> io::Result<OwnedFd> {
    let flags = flags | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    match open(flags | OFlags::NOATIME) {
        Err(Errno::PERM) => Ok(open(flags)?),
        result => Ok(result?),
    }
}

/// Opens a regular file for reading; `extra` are more flags.
pub(crate) fn open_file(directory: &OwnedFd, name: &OsStr, extra: OFlags) -> io::Result<OwnedFd> {
    // NONBLOCK: were it replaced by a pipe, opening would wait for a writer.
    quietly(OFlags::RDONLY | OFlags::NONBLOCK | extra, |flags| {
        rustix::fs::openat(directory, name, flags, Mode::empty())
    })
}

/// The names in a directory, sorted, without `.` and `..`.
pub(crate) fn list(directory: &OwnedFd) -> io::Result<Vec<OsString>> {
    let mut names = Vec::new();
    for entry in rustix::fs::Dir::read_from(directory)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            names.push(OsString::from_vec(name.to_vec()));
        }
    }
    names.sort_unstable();
    Ok(names)
}

/// What an object is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Kind {
    File,
    Directory,
    Symlink,
    Fifo,
    CharacterDevice,
    BlockDevice,
    Socket,
}

/// Tells a file apart from all others: device and inode number.
pub(crate) type Identity = ((u32, u32), u64);

/// Seconds since 1970 and nanoseconds.
pub(crate) type Time = (i64, u32);

/// Attributes of an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Meta {
    pub(crate) kind: Kind,
    /// Device, to tell file systems apart.
    pub(crate) device: (u32, u32),
    pub(crate) ino: u64,
    pub(crate) links: u32,
    /// Permission bits with set-id and sticky bits.
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// What a device file stands for.
    pub(crate) rdev: (u32, u32),
    pub(crate) size: u64,
    /// Allocated, in units of 512 bytes.
    pub(crate) blocks: u64,
    pub(crate) atime: Time,
    pub(crate) mtime: Time,
    pub(crate) ctime: Time,
}

impl Meta {
    /// Which file it is, whatever its name.
    pub(crate) fn identity(&self) -> Identity {
        (self.device, self.ino)
    }

    /// Tells the state of an object apart from a later one.
    pub(crate) fn seen(&self) -> Seen {
        Seen {
            ino: self.ino,
            size: self.size,
            mtime: self.mtime,
            ctime: self.ctime,
        }
    }
}

/// The state of an object at a moment: as long as none of this moves, nobody changed it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Seen {
    pub(crate) ino: u64,
    pub(crate) size: u64,
    pub(crate) mtime: Time,
    pub(crate) ctime: Time,
}

impl Seen {
    /// Whether it is the same object with the same content. Links to it may have been made or removed, and its owner or
    /// mode changed.
    pub(crate) fn same_content(&self, other: &Seen) -> bool {
        (self.ino, self.size, self.mtime) == (other.ino, other.size, other.mtime)
    }
}

/// Attributes of an entry, links not followed.
pub(crate) fn stat(directory: &OwnedFd, name: &OsStr) -> io::Result<Meta> {
    statx(directory, name, AtFlags::SYMLINK_NOFOLLOW)
}

/// The same where the entry may be missing.
pub(crate) fn stat_if_there(directory: &OwnedFd, name: &OsStr) -> io::Result<Option<Meta>> {
    match stat(directory, name) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        result => result.map(Some),
    }
}

/// Attributes of what is open.
pub(crate) fn stat_open(file: &OwnedFd) -> io::Result<Meta> {
    statx(file, OsStr::new(""), AtFlags::EMPTY_PATH)
}

fn statx(at: &OwnedFd, name: &OsStr, flags: AtFlags) -> io::Result<Meta> {
    let found = rustix::fs::statx(at, name, flags, StatxFlags::BASIC_STATS)?;
    let kind = match FileType::from_raw_mode(found.stx_mode.into()) {
        FileType::RegularFile => Kind::File,
        FileType::Directory => Kind::Directory,
        FileType::Symlink => Kind::Symlink,
        FileType::Fifo => Kind::Fifo,
        FileType::CharacterDevice => Kind::CharacterDevice,
        FileType::BlockDevice => Kind::BlockDevice,
        FileType::Socket => Kind::Socket,
        FileType::Unknown => return Err(io::ErrorKind::Unsupported.into()),
    };
    let time = |at: rustix::fs::StatxTimestamp| (at.tv_sec, at.tv_nsec);
    Ok(Meta {
        kind,
        device: (found.stx_dev_major, found.stx_dev_minor),
        ino: found.stx_ino,
        links: found.stx_nlink,
        mode: u32::from(found.stx_mode) & 0o7777,
        uid: found.stx_uid,
        gid: found.stx_gid,
        rdev: (found.stx_rdev_major, found.stx_rdev_minor),
        size: found.stx_size,
        blocks: found.stx_blocks,
        atime: time(found.stx_atime),
        mtime: time(found.stx_mtime),
        ctime: time(found.stx_ctime),
    })
}

/// An object held by an `O_PATH` descriptor: whatever happens to its name, this is what is meant.
#[derive(Debug)]
pub(crate) struct Held {
    fd: OwnedFd,
    path: String,
}

impl Held {
    /// Holds an entry; a symlink itself, not what it leads to.
    pub(crate) fn open(directory: impl AsFd, name: &OsStr) -> io::Result<Held> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(directory, name, flags, Mode::empty())?;
        let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
        Ok(Held { fd, path })
    }

    /// The descriptor.
    pub(crate) fn fd(&self) -> &OwnedFd {
        &self.fd
    }

    /// A path that leads to exactly this object, for calls that take no `O_PATH` descriptor.
    pub(crate) fn path(&self) -> &str {
        &self.path
    }

    /// Its attributes.
    pub(crate) fn stat(&self) -> io::Result<Meta> {
        stat_open(&self.fd)
    }

    /// The target of a symlink.
    pub(crate) fn target(&self) -> io::Result<Vec<u8>> {
        Ok(rustix::fs::readlinkat(&self.fd, "", Vec::new())?.into_bytes())
    }
}

/// `below/name`, without a leading slash for the root.
pub(crate) fn join(below: &Path, name: &OsStr) -> PathBuf {
    let mut path = below.as_os_str().as_bytes().to_vec();
    if !path.is_empty() {
        path.push(b'/');
    }
    path.extend_from_slice(name.as_bytes());
    PathBuf::from(OsString::from_vec(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_does_not_lead_out_of_the_tree() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(folder.path().join("root/inner")).unwrap();
        std::fs::create_dir(folder.path().join("outside")).unwrap();
        std::os::unix::fs::symlink("../outside", folder.path().join("root/way")).unwrap();
        let tree = Tree::open(&folder.path().join("root")).unwrap();
        tree.directory(Path::new("inner")).unwrap();
        tree.directory(Path::new("")).unwrap();
        for path in ["way", "..", "inner/../../outside", "/"] {
            assert!(tree.directory(Path::new(path)).is_err(), "{path}");
        }
    }

    #[test]
    fn paths_longer_than_the_kernel_takes() {
        let folder = tempfile::tempdir().unwrap();
        let tree = Tree::open(folder.path()).unwrap();
        let name = "n".repeat(250);
        let mut below = PathBuf::new();
        for _ in 0..40 {
            let parent = tree.directory(&below).unwrap();
            rustix::fs::mkdirat(&parent, &name, Mode::RWXU).unwrap();
            below.push(&name);
        }
        assert!(below.as_os_str().len() > 10_000);
        let parent = tree.directory(&below).unwrap();
        assert_eq!(list(&parent).unwrap(), Vec::<OsString>::new());
        let (parent, last) = tree.parent(&below).unwrap();
        assert_eq!(stat(&parent, last).unwrap().kind, Kind::Directory);
    }
}
