//! Changing a mount that is there: `mount -o remount,...`, which `mount(8)` hands to the mount helper.

use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{Mode, OFlags, StatVfsMountFlags};
use rustix::mount::MountFlags;

use super::table::{self, FS_TYPE};

/// Why a mount could not be changed.
#[derive(Debug, thiserror::Error)]
pub enum RemountError {
    /// No such mount.
    #[error("no kmsfs is mounted on {path}; `findmnt -t {FS_TYPE}` lists the mounts", path = path.display())]
    NotMounted {
        /// The mount point.
        path: PathBuf,
    },
    /// It was begun with `ro`.
    #[error("{path} was mounted with `ro`, and kmsfs writes nothing to its lower directory: unmount it and mount it with `rw`", path = path.display())]
    BegunReadOnly {
        /// The mount point.
        path: PathBuf,
    },
    /// The kernel said no.
    #[error("cannot change the mount on {path}: {source}; for `ro` nothing may be open for writing (see `fuser -vm`)", path = path.display())]
    Kernel {
        /// The mount point.
        path: PathBuf,
        /// What it said.
        source: io::Error,
    },
}

/// What each option means to the kernel, and whether it sets or clears it.
const OPTIONS: [(&str, MountFlags, bool); 19] = [
    ("ro", MountFlags::RDONLY, true),
    ("rw", MountFlags::RDONLY, false),
    ("nosuid", MountFlags::NOSUID, true),
    ("suid", MountFlags::NOSUID, false),
    ("nodev", MountFlags::NODEV, true),
    ("dev", MountFlags::NODEV, false),
    ("noexec", MountFlags::NOEXEC, true),
    ("exec", MountFlags::NOEXEC, false),
    ("noatime", MountFlags::NOATIME, true),
    ("atime", MountFlags::NOATIME, false),
    ("relatime", MountFlags::RELATIME, true),
    ("norelatime", MountFlags::RELATIME, false),
    ("strictatime", MountFlags::STRICTATIME, true),
    ("nostrictatime", MountFlags::STRICTATIME, false),
    ("nodiratime", MountFlags::NODIRATIME, true),
    ("diratime", MountFlags::NODIRATIME, false),
    ("sync", MountFlags::SYNCHRONOUS, true),
    ("async", MountFlags::SYNCHRONOUS, false),
    ("dirsync", MountFlags::DIRSYNC, true),
];

/// How long a mount that is busy is tried again.
const PATIENCE: Duration = Duration::from_secs(2);

const ACCESS_TIMES: MountFlags = MountFlags::NOATIME
    .union(MountFlags::RELATIME)
    .union(MountFlags::STRICTATIME);

/// Changes the flags of the mount on `mountpoint`; what `options` (words and lists of words, later ones win) do not name
/// stays as it is, or with `all` is off, but for access times. Options that are kmsfs's own keep the value they were mounted with.
///
/// # Errors
/// See [`RemountError`].
pub fn remount(mountpoint: &Path, options: &[String], all: bool) -> Result<(), RemountError> {
    let path = mountpoint.to_owned();
    let kernel = |source: io::Error| RemountError::Kernel {
        path: path.clone(),
        source,
    };
    let full = mountpoint.canonicalize().map_err(kernel)?;
    let mounted = table::mounted_at(&full).map_err(kernel)?;
    if mounted.is_none_or(|mount| mount.fs_type != FS_TYPE) {
        return Err(RemountError::NotMounted { path });
    }
    let before = present(&full).map_err(kernel)?;
    let words = options.iter().flat_map(|list| list.split(','));
    let kept = if all { before & ACCESS_TIMES } else { before };
    let flags = changed(kept, words);
    let set = |flags| {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match rustix::mount::mount_remount(&full, flags, "") {
                // A file that was removed and closed a moment ago is in use until kmsfs has closed it, too.
                Err(rustix::io::Errno::BUSY) if Instant::now() < deadline => {
                    std::thread::sleep(Duration::from_millis(20));
                }
                result => return result.map_err(|error| kernel(error.into())),
            }
        }
    };
    set(flags)?;
    if before.contains(MountFlags::RDONLY) && !flags.contains(MountFlags::RDONLY) {
        // Whether kmsfs would write: a file that never gets a name.
        let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
        let tried = rustix::fs::open(&full, flags, Mode::from_raw_mode(0o600));
        if tried.err() == Some(rustix::io::Errno::ROFS) {
            set(before)?;
            return Err(RemountError::BegunReadOnly { path });
        }
    }
    Ok(())
}

/// The flags that the mount has.
fn present(mountpoint: &Path) -> io::Result<MountFlags> {
    let flags = rustix::fs::statvfs(mountpoint)?.f_flag;
    let known = [
        (StatVfsMountFlags::RDONLY, MountFlags::RDONLY),
        (StatVfsMountFlags::NOSUID, MountFlags::NOSUID),
        (StatVfsMountFlags::NODEV, MountFlags::NODEV),
        (StatVfsMountFlags::NOEXEC, MountFlags::NOEXEC),
        (StatVfsMountFlags::NOATIME, MountFlags::NOATIME),
        (StatVfsMountFlags::NODIRATIME, MountFlags::NODIRATIME),
        (StatVfsMountFlags::RELATIME, MountFlags::RELATIME),
        (StatVfsMountFlags::SYNCHRONOUS, MountFlags::SYNCHRONOUS),
    ];
    let set = known.iter().filter(|(shown, _)| flags.contains(*shown));
    let mut present = set.fold(MountFlags::empty(), |all, (_, flag)| all | *flag);
    if !present.intersects(MountFlags::NOATIME | MountFlags::RELATIME) {
        // Without it the kernel would take its default, relatime.
        present |= MountFlags::STRICTATIME;
    }
    Ok(present)
}

fn changed<'a>(before: MountFlags, words: impl Iterator<Item = &'a str>) -> MountFlags {
    let mut flags = before;
    for word in words {
        for (name, flag, set) in OPTIONS {
            if word == name {
                if set && ACCESS_TIMES.contains(flag) {
                    flags -= ACCESS_TIMES;
                }
                flags.set(flag, set);
            }
        }
    }
    flags
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_named_stays() {
        let before = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::RELATIME;
        let change = |list: &str| changed(before, list.split(','));
        assert_eq!(change("remount,ro"), before | MountFlags::RDONLY);
        assert_eq!(change("ro,rw,threads=3"), before);
        assert_eq!(
            change("suid,noatime"),
            MountFlags::NODEV | MountFlags::NOATIME
        );
    }
}
