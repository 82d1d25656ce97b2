//! What all operations share that make a new name: modes, owners, long names.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use kms_format::names::EncryptedName;

use super::lookup::Named;
use super::{Caller, Fs, FsResult};
use crate::backing::xattr::Target;
use crate::backing::{Dir, Small, Stat};
use crate::errno::Errno;
use crate::inode::Node;

const UNKNOWN: u8 = 0;
const NO: u8 = 1;
const YES: u8 = 2;

impl Fs {
    /// The mode of a new object: a default ACL of the directory takes the place of the umask.
    pub(super) fn new_mode(&self, parent: &Arc<Node>, dir: &Dir, mode: u32, umask: u32) -> u32 {
        if umask & mode & 0o777 == 0 || self.has_default_acl(parent, dir) {
            mode
        } else {
            mode & !(umask & 0o777)
        }
    }

    fn has_default_acl(&self, parent: &Arc<Node>, dir: &Dir) -> bool {
        let Ok(directory) = parent.directory() else {
            return false;
        };
        match directory.default_acl.load(Ordering::Acquire) {
            UNKNOWN => {
                let found = Target::Dir(dir).get(b"system.posix_acl_default").is_ok();
                directory
                    .default_acl
                    .store(if found { YES } else { NO }, Ordering::Release);
                found
            }
            known => known == YES,
        }
    }

    pub(super) fn forget_default_acl(&self, node: &Node) {
        if let Ok(directory) = node.directory() {
            directory.default_acl.store(UNKNOWN, Ordering::Release);
        }
    }

    /// Whom a new object, which has these attributes now, has to be given to. None if it is right already.
    pub(super) fn new_owner(
        &self,
        caller: &Caller,
        dir: &Dir,
        stat: &Stat,
    ) -> FsResult<Option<(Option<u32>, Option<u32>)>> {
        if !self.privileged {
            return Ok(None);
        }
        let uid = (stat.st_uid != caller.uid).then_some(caller.uid);
        let gid = if stat.st_gid == caller.gid || stat.st_gid != self.group {
            // As it should be, or the directory's.
            None
        } else {
            let inherits = dir.stat()?.st_mode & libc::S_ISGID != 0;
            (!inherits).then_some(caller.gid)
        };
        Ok((uid.is_some() || gid.is_some()).then_some((uid, gid)))
    }

    /// Writes the record of a long name, durably, before the entry. Says whether it is new.
    pub(super) fn put_sidecar(&self, named: &Named) -> FsResult<bool> {
        put_record(&named.dir, &named.name)
    }

    /// Removes the record of a long name when its entry is gone.
    pub(super) fn drop_sidecar(&self, named: &Named) {
        if let EncryptedName::Long { sidecar, .. } = &named.name {
            // Without an entry it is garbage, and harmless.
            let _ = named.dir.unlink(sidecar);
        }
    }

    /// Runs `make`, which makes the entry of `named`, with the record of a long name around it. The caller holds the
    /// directory's lock.
    pub(super) fn making<T>(
        &self,
        named: &Named,
        make: impl FnOnce(&Dir, &str) -> FsResult<T>,
    ) -> FsResult<T> {
        if named.parent.directory()?.dead.load(Ordering::Acquire) {
            return Err(Errno::NOENT);
        }
        named.check_current()?;
        if self.under_former_key(named)?.is_some() {
            return Err(Errno::EXIST);
        }
        let long = matches!(named.name, EncryptedName::Long { .. });
        if long && named.dir.stat_at(named.stored()).is_ok() {
            return Err(Errno::EXIST);
        }
        let recorded = self.put_sidecar(named)?;
        let made = make(&named.dir, named.stored());
        if made.is_err() && recorded {
            self.drop_sidecar(named);
        }
        made
    }
}

/// Writes the record of a long name, durably, before there is an entry of that name. Says whether it is new.
pub(super) fn put_record(dir: &Dir, name: &EncryptedName) -> FsResult<bool> {
    let EncryptedName::Long {
        sidecar, record, ..
    } = name
    else {
        return Ok(false);
    };
    match dir.read_small(sidecar, record.len() + 1)? {
        Small::Bytes(found) if found == *record => {
            dir.open_file(sidecar, false)?.sync()?;
            return Ok(false);
        }
        // Left from a crash.
        Small::Bytes(_) | Small::NotAFile => dir.unlink(sidecar)?,
        Small::Missing => {}
    }
    let written = dir.write_small(sidecar, record)?.sync();
    if written.is_err() {
        // It looks right, but a later fsync that succeeds would say nothing about it.
        let _ = dir.unlink(sidecar);
    }
    written.map(|()| true)
}
