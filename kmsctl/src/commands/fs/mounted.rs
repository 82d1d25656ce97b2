//! Finding the mount that a path belongs to.

use std::path::{Path, PathBuf};

use kmsfs::mount::table::{self, FS_TYPE, MountEntry};

use super::protect::socket;
use crate::exit::{Exit, Failure};

/// A mount and its control socket.
pub(super) struct Mounted {
    pub(super) entry: MountEntry,
    pub(super) socket: PathBuf,
}

/// The mount that `path` is in, or whose lower directory it is. None if it is not mounted.
pub(super) fn find(path: &Path, control: Option<&Path>) -> Result<Option<Mounted>, Failure> {
    let Some(entry) = entry(path)? else {
        return Ok(None);
    };
    let socket = socket(control, &entry)?;
    Ok(Some(Mounted { entry, socket }))
}

/// The same without its control socket.
pub(super) fn entry(path: &Path) -> Result<Option<MountEntry>, Failure> {
    let local = |error: std::io::Error| Failure::local(path.display(), &error);
    Ok(match table::kmsfs_mount_of(path).map_err(local)? {
        Some(entry) => Some(entry),
        None => of_lower(&path.canonicalize().map_err(local)?),
    })
}

/// The same for what works on mounts only.
pub(super) fn require(path: &Path, control: Option<&Path>) -> Result<Mounted, Failure> {
    find(path, control)?.ok_or_else(|| {
        let what = format!("{} is not in a kmsfs mount", path.display());
        Failure::new(Exit::FileSystem, what)
            .next("Name a directory below the mount point, or the encrypted directory of a mount.")
    })
}

/// The mount of a lower directory.
pub(super) fn of_lower(lower: &Path) -> Option<MountEntry> {
    let mounts = table::mounts().ok()?;
    mounts
        .into_iter()
        .find(|mount| mount.fs_type == FS_TYPE && mount.source == lower)
}

/// The volume of the mount that `path` is in, and the inode number of what is there.
pub(in crate::commands) fn object_of(path: &Path) -> Result<(String, u64), Failure> {
    use std::os::unix::fs::MetadataExt as _;
    let mount = require(path, None)?;
    let volume = super::status::ask(&mount.socket)?.volume;
    let found = path
        .symlink_metadata()
        .map_err(|error| Failure::local(path.display(), &error))?;
    Ok((volume, found.ino()))
}
