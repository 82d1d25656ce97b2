//! The operations on the mounted tree, whatever transport carries them.
//!
//! Every method is one operation of the kernel's and may be called from any number of threads at once. What is missing
//! here is in `docs/SEMANTICS.md`. Main type: [`Fs`].
//!
//! An operation may answer [`crate::volume::WOULD_WAIT`]: it has changed nothing then and can be repeated where waiting
//! for a key is allowed.

mod types;

use std::ffi::OsStr;
use std::path::Path;
use std::sync::Arc;

use kms_format::UnlockedPolicy;

pub use self::types::{
    Attr, Caller, DirEntry, Entry, FileHandle, Kind, NodeId, Opened, SetAttr, SetTime, StatFs,
    Timestamp,
};
use crate::errno::Errno;
pub use crate::errno::FsResult;
use crate::volume::Keys;

/// A volume, opened.
pub struct Fs {
    _root: (),
}

macro_rules! skeleton {
    ($($name:ident ( $($arg:ident : $ty:ty),* ) -> $ret:ty;)*) => {
        #[allow(unused_variables, missing_docs, clippy::too_many_arguments, reason = "skeleton of the seam")]
        impl Fs {
            $(pub fn $name(&self, $($arg: $ty),*) -> FsResult<$ret> { Err(Errno::NOSYS) })*
        }
    };
}

skeleton! {
    lookup(caller: &Caller, parent: NodeId, name: &OsStr) -> Entry;
    getattr(caller: &Caller, node: NodeId, fh: Option<FileHandle>) -> Attr;
    setattr(caller: &Caller, node: NodeId, fh: Option<FileHandle>, changes: &SetAttr) -> Attr;
    readlink(node: NodeId) -> Vec<u8>;
    mknod(caller: &Caller, parent: NodeId, name: &OsStr, mode: u32, umask: u32, rdev: u32) -> Entry;
    mkdir(caller: &Caller, parent: NodeId, name: &OsStr, mode: u32, umask: u32) -> Entry;
    symlink(caller: &Caller, parent: NodeId, name: &OsStr, target: &OsStr) -> Entry;
    link(caller: &Caller, node: NodeId, new_parent: NodeId, new_name: &OsStr) -> Entry;
    unlink(caller: &Caller, parent: NodeId, name: &OsStr) -> ();
    rmdir(caller: &Caller, parent: NodeId, name: &OsStr) -> ();
    rename(caller: &Caller, parent: NodeId, name: &OsStr, new_parent: NodeId, new_name: &OsStr, flags: u32) -> ();
    open(caller: &Caller, node: NodeId, flags: i32, kill_suidgid: bool) -> Opened;
    create(caller: &Caller, parent: NodeId, name: &OsStr, mode: u32, umask: u32, flags: i32, kill_suidgid: bool) -> (Entry, Opened);
    read(fh: FileHandle, offset: u64, out: &mut [u8]) -> usize;
    write(caller: &Caller, fh: FileHandle, offset: u64, data: &mut [u8], kill_suidgid: bool) -> usize;
    fsync(fh: FileHandle, datasync: bool) -> ();
    opendir(caller: &Caller, node: NodeId) -> FileHandle;
    readdir(fh: FileHandle, offset: u64, take: &mut dyn FnMut(DirEntry<'_>) -> bool) -> ();
    readdirplus(caller: &Caller, fh: FileHandle, offset: u64, take: &mut dyn FnMut(DirEntry<'_>, Option<&Entry>) -> bool) -> ();
    fsyncdir(fh: FileHandle, datasync: bool) -> ();
    statfs(node: NodeId) -> StatFs;
    getxattr(caller: &Caller, node: NodeId, name: &OsStr) -> Vec<u8>;
    setxattr(caller: &Caller, node: NodeId, name: &OsStr, value: &[u8], flags: i32) -> ();
    listxattr(caller: &Caller, node: NodeId) -> Vec<u8>;
    removexattr(caller: &Caller, node: NodeId, name: &OsStr) -> ();
    fallocate(caller: &Caller, fh: FileHandle, offset: u64, length: u64, mode: i32) -> ();
    lseek(fh: FileHandle, offset: u64, whence: i32) -> u64;
    copy_file_range(caller: &Caller, source: FileHandle, from: u64, target: FileHandle, to: u64, length: u64) -> u64;
    protect(node: NodeId, policy: &Arc<UnlockedPolicy>) -> ();
    sync_all() -> ();
}

impl Fs {
    /// Opens the volume whose lower tree is at `lower`. `read_only` writes nothing to it, not even repairs.
    ///
    /// # Errors
    /// The root directory's key is refused, or its header is damaged.
    pub fn new(lower: &Path, keys: Arc<dyn Keys>, read_only: bool) -> FsResult<Fs> {
        let _ = (lower, keys, read_only);
        Err(Errno::NOSYS)
    }

    /// The kernel drops `count` references to a node.
    pub fn forget(&self, node: NodeId, count: u64) {
        let _ = (node, count);
    }

    /// Closes a file.
    pub fn release(&self, fh: FileHandle) {
        let _ = fh;
    }

    /// Closes a directory.
    pub fn releasedir(&self, fh: FileHandle) {
        let _ = fh;
    }
}
