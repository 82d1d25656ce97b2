//! Extended attributes: `user.` ones are encrypted, the others pass through.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::sync::Arc;

use kms_format::xattr;

use super::attr::Reach;
use super::attributes::AttributeKeys;
use super::content;
use super::{Caller, Fault, Fs, FsResult, Kind, NodeId};
use crate::backing::xattr::Target;
use crate::errno::Errno;
use crate::inode::Node;

const TRUSTED: &[u8] = b"trusted.";
const ACL: &[u8] = b"system.posix_acl_";

/// Lower names of the encrypted attributes of an object.
pub(crate) fn encrypted(target: &Target<'_>) -> FsResult<Vec<Vec<u8>>> {
    let list = match target.list() {
        // None below, or a directory that we may only walk through.
        Err(Errno::OPNOTSUPP | Errno::BADF) => return Ok(Vec::new()),
        list => list?,
    };
    let names = list.split(|byte| *byte == 0);
    let ours = names.filter(|name| name.starts_with(xattr::PREFIX.as_bytes()));
    Ok(ours.map(<[u8]>::to_vec).collect())
}

/// Removes the encrypted attributes of an object whose header, and with it its key, never reached the disk: the lower file
/// system may have kept them, and no key opens them any more. Says whether there were any.
pub(crate) fn drop_unreadable(target: &Target<'_>) -> FsResult<bool> {
    let names = encrypted(target)?;
    names.iter().try_for_each(|name| target.remove(name))?;
    Ok(!names.is_empty())
}

impl Fs {
    /// The value of an attribute.
    ///
    /// # Errors
    /// `ENODATA`; `EIO` for a damaged value.
    pub fn getxattr(&self, _caller: &Caller, node: NodeId, name: &OsStr) -> FsResult<Vec<u8>> {
        let (node, name) = (self.table.get(node)?, name.as_bytes());
        if !xattr::is_encrypted(name) {
            return self.on_lower(&node, |target| target.get(name));
        }
        self.with_keys(&node, false, |keys, target| {
            keys.ok_or(Errno::NODATA)?.get(target, name)
        })
    }

    /// Sets an attribute; `flags` are XATTR_CREATE and XATTR_REPLACE.
    ///
    /// # Errors
    /// `EEXIST`, `ENODATA`; what the lower file system says.
    pub fn setxattr(
        &self,
        _caller: &Caller,
        node: NodeId,
        name: &OsStr,
        value: &[u8],
        flags: i32,
    ) -> FsResult<()> {
        let _writing = self.check_writable()?;
        let (node, name) = (self.table.get(node)?, name.as_bytes());
        if !xattr::is_encrypted(name) {
            self.on_lower(&node, |target| target.set(name, value, flags))?;
            self.acl_changed(&node, name);
            return Ok(());
        }
        self.with_keys(&node, true, |keys, target| {
            keys.ok_or(Errno::IO)?.set(target, name, value, flags)
        })
    }

    /// The names of all attributes, each with a NUL behind it. `trusted.` ones are for root.
    ///
    /// # Errors
    /// What the lower file system says.
    pub fn listxattr(&self, caller: &Caller, node: NodeId) -> FsResult<Vec<u8>> {
        let node = self.table.get(node)?;
        let lower = match self.on_lower(&node, |target| target.list()) {
            Err(Errno::OPNOTSUPP) => return Ok(Vec::new()),
            lower => lower?,
        };
        let names = || {
            lower
                .split(|byte| *byte == 0)
                .filter(|name| !name.is_empty())
        };
        let mut list = Vec::new();
        let mut add = |name: &[u8]| {
            list.extend_from_slice(name);
            list.push(0);
        };
        for name in names().filter(|name| !xattr::is_encrypted(name)) {
            if caller.uid == 0 || !name.starts_with(TRUSTED) {
                add(name);
            }
        }
        let ours = |name: &&[u8]| name.starts_with(xattr::PREFIX.as_bytes());
        // Where a stop left the content of a file in its copy, its attributes are there, too.
        let elsewhere = node.kind == Kind::File && node.content_mode().is_none();
        if elsewhere || names().any(|name| ours(&name)) {
            self.with_keys(&node, false, |keys, target| {
                let Some(keys) = keys else { return Ok(()) };
                // Once more: those whose key was lost in a crash go when the object gets a new one, perhaps just now.
                let lower = target.list()?;
                for name in lower.split(|byte| *byte == 0).filter(ours) {
                    match keys.name(name, || target.get(name)) {
                        Ok(_) if keys.is_stale(target, name)? => {}
                        Ok(plain) => add(&plain),
                        Err(Fault::Damage(error)) => {
                            self.damaged(&node, &String::from_utf8_lossy(name), &error);
                        }
                        Err(fault) => return Err(fault),
                    }
                }
                Ok(())
            })?;
        }
        Ok(list)
    }

    /// Removes an attribute.
    ///
    /// # Errors
    /// `ENODATA`; what the lower file system says.
    pub fn removexattr(&self, _caller: &Caller, node: NodeId, name: &OsStr) -> FsResult<()> {
        let _writing = self.check_writable()?;
        let (node, name) = (self.table.get(node)?, name.as_bytes());
        if !xattr::is_encrypted(name) {
            self.on_lower(&node, |target| target.remove(name))?;
            self.acl_changed(&node, name);
            return Ok(());
        }
        self.with_keys(&node, true, |keys, target| {
            keys.ok_or(Errno::NODATA)?.remove(target, name)
        })
    }

    fn acl_changed(&self, node: &Node, name: &[u8]) {
        if name.starts_with(ACL) {
            self.forget_default_acl(node);
        }
    }

    /// Runs `work` on the lower object.
    fn on_lower<T>(
        &self,
        node: &Arc<Node>,
        mut work: impl FnMut(&Target<'_>) -> FsResult<T>,
    ) -> FsResult<T> {
        self.reach(node, |reach| match reach {
            Reach::File(file) => work(&Target::File(file)),
            Reach::Dir(dir) => work(&Target::Dir(dir)),
            Reach::Nameless(nameless) => work(&Target::Pinned(&nameless.object)),
            Reach::Named(dir, place) => {
                // Descriptors work for every user; what cannot be opened harmlessly goes by name.
                if node.kind == Kind::File
                    && let Ok(file) = dir.open_file(&place.name, false)
                {
                    return work(&Target::File(&file));
                }
                work(&Target::Named(dir, &place.name))
            }
        })
    }

    /// Runs `work` with the object's keys, if it has any yet; to `write` a file gets them.
    fn with_keys<T>(
        &self,
        node: &Arc<Node>,
        write: bool,
        work: impl FnOnce(Option<&AttributeKeys>, &Target<'_>) -> Result<T, Fault>,
    ) -> FsResult<T> {
        match node.kind {
            Kind::File => self.with_file(node, write, |file| {
                if write {
                    content::keys(file)?;
                }
                let keys = AttributeKeys::of_file(file)?;
                work(keys.as_ref(), &Target::File(file.lower()))
            }),
            Kind::Directory => {
                self.context(node)?;
                let dir = self.dirs.get(node)?;
                let directory = node.directory()?;
                // The keys stay, and nobody brings attributes under other ones.
                let _stay = directory.entries.read();
                let context = directory.context.read().clone().ok_or(Errno::STALE)?;
                let keys = AttributeKeys::of_directory(&context.keys);
                let keys = keys.map_err(|error| Errno::from(&error))?;
                work(Some(&keys), &Target::Dir(&dir)).map_err(|fault| self.fault(node, fault))
            }
            _ if write => Err(Errno::PERM),
            _ => Err(Errno::NODATA),
        }
    }
}
