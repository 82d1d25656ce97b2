//! Everything about an object that is not content: carried over, and compared.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};

use rustix::fs::{AtFlags, Gid, IFlags, Mode, OFlags, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;

use super::tree::{Held, Kind, Meta, Time};
use super::trouble::{Trouble, errno};

/// Extended attributes by name.
type Attributes = BTreeMap<OsString, Vec<u8>>;

/// Flags of `chattr` that are carried, but for those that forbid changes ([`LATE_FLAGS`]).
const FLAGS: IFlags = IFlags::NODUMP
    .union(IFlags::NOATIME)
    .union(IFlags::SYNC)
    .union(IFlags::DIRSYNC);
/// Flags that come last: nothing can be done with the object afterwards.
const LATE_FLAGS: IFlags = IFlags::IMMUTABLE.union(IFlags::APPEND);

/// What is known of an object of the source.
#[derive(Debug)]
pub(crate) struct Attributed {
    pub(crate) meta: Meta,
    xattrs: Attributes,
    /// Names of attributes that have no meaning elsewhere.
    pub(crate) left: Vec<OsString>,
    flags: IFlags,
}

impl Attributed {
    /// Reads everything of an object.
    pub(crate) fn read(held: &Held) -> io::Result<Attributed> {
        let meta = held.stat()?;
        let mut xattrs = xattrs(held)?;
        let left: Vec<OsString> = xattrs
            .keys()
            .filter(|name| !carried(name))
            .cloned()
            .collect();
        xattrs.retain(|name, _| carried(name));
        Ok(Attributed {
            flags: flags(held, meta.kind).unwrap_or(IFlags::empty()),
            meta,
            xattrs,
            left,
        })
    }

    /// Flags that forbid changes, to be set when all else is done.
    pub(crate) fn late_flags(&self) -> IFlags {
        self.flags.intersection(LATE_FLAGS)
    }

    /// Gives them to an object of the destination. Returns what could not be carried and need not be.
    pub(crate) fn apply(&self, to: &Held) -> Result<Vec<String>, Trouble> {
        let failed = |what: String| Trouble::destination(what);
        let now = to.stat().map_err(failed("looking at the copy".into()))?;
        let mut notes = Vec::new();
        // The owner first: changing it clears set-id bits and capabilities.
        if (now.uid, now.gid) != (self.meta.uid, self.meta.gid) {
            let (uid, gid) = (Uid::from_raw(self.meta.uid), Gid::from_raw(self.meta.gid));
            rustix::fs::chownat(to.fd(), "", Some(uid), Some(gid), AtFlags::EMPTY_PATH).map_err(
                |error| {
                    failed(format!("setting owner {}:{}", self.meta.uid, self.meta.gid))(
                        error.into(),
                    )
                },
            )?;
        }
        let (acls, others): (Vec<_>, Vec<_>) =
            self.xattrs.iter().partition(|(name, _)| is_acl(name));
        self.remove_foreign(to)?;
        for (name, value) in others {
            set(to, name, value)?;
        }
        if self.meta.kind != Kind::Symlink {
            rustix::fs::chmod(to.path(), Mode::from_raw_mode(self.meta.mode))
                .map_err(|error| failed("setting the mode".into())(error.into()))?;
        }
        for (name, value) in acls {
            set(to, name, value)?;
        }
        let wanted = self.flags.intersection(FLAGS);
        if !wanted.is_empty() && set_flags(to, self.meta.kind, wanted).is_err() {
            notes.push(format!(
                "file flags {wanted:?} are not supported by the destination"
            ));
        }
        self.apply_times(to)?;
        Ok(notes)
    }

    /// Sets access and modification time.
    pub(crate) fn apply_times(&self, to: &Held) -> Result<(), Trouble> {
        set_times(to, self.meta.atime, self.meta.mtime)
            .map_err(Trouble::destination("setting times"))
    }

    /// A default ACL of the directory gave the copy one of its own, or an older object has more.
    fn remove_foreign(&self, to: &Held) -> Result<(), Trouble> {
        let there = names(to).map_err(Trouble::destination("listing attributes of the copy"))?;
        for name in there {
            // What security modules put there is theirs.
            let ours = !name.as_bytes().starts_with(b"security.");
            if ours && carried(&name) && !self.xattrs.contains_key(&name) {
                rustix::fs::removexattr(to.path(), &*name).map_err(|error| {
                    Trouble::destination(format!("removing attribute {}", name.display()))(
                        error.into(),
                    )
                })?;
            }
        }
        Ok(())
    }

    /// How the copy differs; nothing if it is a good one. Access times are not compared: reading moves
    /// them.
    pub(crate) fn differences(&self, copy: &Held) -> io::Result<Vec<String>> {
        let (own, found) = (&self.meta, copy.stat()?);
        let mut differences = Vec::new();
        let mut differ = |same: bool, what: &str| {
            if !same {
                differences.push(what.to_owned());
            }
        };
        differ(own.kind == found.kind, "type");
        differ(own.kind == Kind::Symlink || own.mode == found.mode, "mode");
        differ(own.uid == found.uid, "owner");
        differ(own.gid == found.gid, "group");
        differ(same_time(own.mtime, found.mtime), "modification time");
        let device = matches!(own.kind, Kind::CharacterDevice | Kind::BlockDevice);
        differ(!device || own.rdev == found.rdev, "device number");
        differ(own.kind != Kind::File || own.size == found.size, "size");
        let mut xattrs = xattrs(copy)?;
        xattrs.retain(|name, _| {
            carried(name)
                && (self.xattrs.contains_key(name) || !name.as_bytes().starts_with(b"security."))
        });
        for name in xattrs.keys().chain(self.xattrs.keys()) {
            if xattrs.get(name) != self.xattrs.get(name) {
                let what = format!("attribute {}", name.display());
                if !differences.contains(&what) {
                    differences.push(what);
                }
            }
        }
        Ok(differences)
    }
}

/// Sets access and modification time.
pub(crate) fn set_times(to: &Held, access: Time, modification: Time) -> io::Result<()> {
    let time = |(seconds, nanoseconds): Time| Timespec {
        tv_sec: seconds,
        tv_nsec: nanoseconds.into(),
    };
    let times = Timestamps {
        last_access: time(access),
        last_modification: time(modification),
    };
    Ok(rustix::fs::utimensat(
        rustix::fs::CWD,
        to.path(),
        &times,
        AtFlags::empty(),
    )?)
}

/// Equal, or cut to the seconds that the destination's lower file system holds.
fn same_time(own: Time, found: Time) -> bool {
    own.0 == found.0 && (own.1 == found.1 || found.1 == 0)
}

/// Whether an attribute means the same elsewhere. IMA and EVM sign the very inode.
fn carried(name: &OsStr) -> bool {
    let name = name.as_bytes();
    let prefix = |prefix: &[u8]| name.starts_with(prefix);
    match name {
        b"security.ima" | b"security.evm" => false,
        _ => {
            prefix(b"user.")
                || prefix(b"trusted.")
                || prefix(b"security.")
                || is_acl(OsStr::from_bytes(name))
        }
    }
}

fn is_acl(name: &OsStr) -> bool {
    name.as_bytes().starts_with(b"system.posix_acl_")
}

fn set(to: &Held, name: &OsStr, value: &[u8]) -> Result<(), Trouble> {
    rustix::fs::setxattr(to.path(), name, value, XattrFlags::empty()).map_err(|error| {
        let what = format!(
            "setting attribute {} ({} bytes)",
            name.display(),
            value.len()
        );
        // ext4 says ENOSPC when the attributes of one file do not fit into its block.
        if error == Errno::NOSPC && has_room(to) {
            return Trouble::problem(format!(
                "{what}: it does not fit into what the destination has for attributes of a file"
            ));
        }
        Trouble::destination(what)(error.into())
    })
}

/// Whether a few blocks are free.
fn has_room(at: &Held) -> bool {
    rustix::fs::statvfs(at.path()).is_ok_and(|fs| fs.f_bavail.saturating_mul(fs.f_frsize) > 1 << 20)
}

fn names(held: &Held) -> io::Result<Vec<OsString>> {
    let list = sized(|space| rustix::fs::listxattr(held.path(), space));
    let list = match list {
        Err(error) if errno(&error) == Some(Errno::OPNOTSUPP) => return Ok(Vec::new()),
        list => list?,
    };
    Ok(list
        .split(|byte| *byte == 0)
        .filter(|name| !name.is_empty())
        .map(|name| OsString::from_vec(name.to_vec()))
        .collect())
}

fn xattrs(held: &Held) -> io::Result<Attributes> {
    let mut found = Attributes::new();
    for name in names(held)? {
        let value = if carried(&name) {
            match sized(|space| rustix::fs::getxattr(held.path(), &*name, space)) {
                // Removed since it was listed.
                Err(error) if errno(&error) == Some(Errno::NODATA) => continue,
                value => value?,
            }
        } else {
            Vec::new()
        };
        found.insert(name, value);
    }
    Ok(found)
}

/// Reads a list or value; more than 64 KiB the kernel does not give (`XATTR_SIZE_MAX`, `XATTR_LIST_MAX`).
fn sized(get: impl Fn(&mut [u8]) -> rustix::io::Result<usize>) -> io::Result<Vec<u8>> {
    let mut space = vec![0; 1024];
    loop {
        match get(&mut space) {
            Ok(got) => {
                space.truncate(got);
                return Ok(space);
            }
            Err(Errno::RANGE) if space.len() < 1 << 20 => {
                let larger = space.len() * 64;
                space.resize(larger, 0);
            }
            Err(error) => return Err(error.into()),
        }
    }
}

/// Opens a file or directory for `ioctl`; nothing else has flags.
fn for_flags(held: &Held, kind: Kind) -> io::Result<std::os::fd::OwnedFd> {
    if !matches!(kind, Kind::File | Kind::Directory) {
        return Err(io::ErrorKind::Unsupported.into());
    }
    let open = |flags| rustix::fs::open(held.path(), flags, Mode::empty());
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    Ok(open(flags | OFlags::NOATIME).or_else(|_| open(flags))?)
}

fn flags(held: &Held, kind: Kind) -> io::Result<IFlags> {
    Ok(rustix::fs::ioctl_getflags(for_flags(held, kind)?)?)
}

/// Adds flags.
pub(crate) fn set_flags(held: &Held, kind: Kind, add: IFlags) -> io::Result<()> {
    let file = for_flags(held, kind)?;
    let now = rustix::fs::ioctl_getflags(&file)?;
    Ok(rustix::fs::ioctl_setflags(&file, now | add)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_carried() {
        let carried = |name: &str| carried(OsStr::new(name));
        assert!(carried("user.x") && carried("trusted.x") && carried("security.capability"));
        assert!(carried("system.posix_acl_default"));
        assert!(!carried("security.ima") && !carried("system.nfs4_acl") && !carried("btrfs.x"));
    }

    #[test]
    fn times_may_lose_their_fraction_but_nothing_else() {
        assert!(same_time((5, 7), (5, 7)) && same_time((-5, 7), (-5, 0)));
        assert!(!same_time((5, 7), (5, 8)) && !same_time((5, 7), (6, 7)));
    }

    #[test]
    fn attributes_reach_the_copy_and_every_difference_shows() {
        let folder = tempfile::tempdir().unwrap();
        let directory: std::os::fd::OwnedFd = std::fs::File::open(folder.path()).unwrap().into();
        for name in ["from", "to"] {
            std::fs::write(folder.path().join(name), name.get(..1).unwrap()).unwrap();
        }
        let held = |name: &str| Held::open(&directory, OsStr::new(name)).unwrap();
        let (from, to) = (held("from"), held("to"));
        if rustix::fs::setxattr(from.path(), "user.a", b"1", XattrFlags::empty()).is_err() {
            println!("skipped: no user attributes here");
            return;
        }
        rustix::fs::setxattr(to.path(), "user.b", b"2", XattrFlags::empty()).unwrap();
        rustix::fs::chmod(from.path(), Mode::from_raw_mode(0o641)).unwrap();
        let old = Timestamps {
            last_access: Timespec {
                tv_sec: -7,
                tv_nsec: 1,
            },
            last_modification: Timespec {
                tv_sec: -9,
                tv_nsec: 123_456_789,
            },
        };
        rustix::fs::utimensat(rustix::fs::CWD, from.path(), &old, AtFlags::empty()).unwrap();
        let wanted = Attributed::read(&from).unwrap();
        let before = wanted.differences(&to).unwrap();
        assert_eq!(
            before,
            [
                "mode",
                "modification time",
                "attribute user.b",
                "attribute user.a"
            ]
        );
        wanted.apply(&to).unwrap();
        assert_eq!(wanted.differences(&to).unwrap(), Vec::<String>::new());
        assert_eq!(to.stat().unwrap().mtime, (-9, 123_456_789));
    }

    #[test]
    fn symlinks_have_times_and_owners_of_their_own() {
        let folder = tempfile::tempdir().unwrap();
        let directory: std::os::fd::OwnedFd = std::fs::File::open(folder.path()).unwrap().into();
        std::fs::write(folder.path().join("target"), "x").unwrap();
        for name in ["from", "to"] {
            std::os::unix::fs::symlink("target", folder.path().join(name)).unwrap();
        }
        let from = Held::open(&directory, OsStr::new("from")).unwrap();
        let to = Held::open(&directory, OsStr::new("to")).unwrap();
        assert_eq!(from.target().unwrap(), b"target");
        let mut wanted = Attributed::read(&from).unwrap();
        wanted.meta.mtime = (1_000, 5);
        wanted.apply(&to).unwrap();
        assert_eq!(wanted.differences(&to).unwrap(), Vec::<String>::new());
        let target = Held::open(&directory, OsStr::new("target")).unwrap();
        assert_ne!(target.stat().unwrap().mtime, (1_000, 5));
    }
}
