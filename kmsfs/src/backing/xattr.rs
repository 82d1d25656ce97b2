//! Extended attributes of lower objects.
//!
//! Files and directories are used through their descriptors; other objects, which cannot be opened without side
//! effects, by name.

use rustix::fs::XattrFlags;

use super::sys::{self, Site};
use super::{Dir, LowerFile, Pinned, again};
use crate::errno::{Errno, FsResult};

/// How to reach an object.
pub(crate) enum Target<'a> {
    /// A file, by its descriptor.
    File(&'a LowerFile),
    /// A directory, by its descriptor.
    Dir(&'a Dir),
    /// Without a name.
    Pinned(&'a Pinned),
    /// By its lower name.
    Named(&'a Dir, &'a str),
}

const GUESS: usize = 256;
/// What Linux allows.
const MAX: usize = 64 * 1024;

impl Target<'_> {
    pub(crate) fn get(&self, name: &[u8]) -> FsResult<Vec<u8>> {
        grow(|buffer| match self {
            Target::File(file) if is_encrypted(name) => {
                sys::fgetxattr(&file.content().fd, name, buffer)
            }
            Target::File(file) => sys::fgetxattr(&file.fd, name, buffer),
            Target::Dir(dir) => sys::fgetxattr(&dir.fd, name, buffer),
            Target::Pinned(object) => sys::getxattr_pinned(&object.fd, name, buffer),
            Target::Named(dir, object) => sys::getxattrat(&dir.fd, object, name, buffer),
        })
    }

    pub(crate) fn list(&self) -> FsResult<Vec<u8>> {
        if let Target::File(file) = self
            && file.is_elsewhere()
        {
            let own = grow(|buffer| sys::flistxattr(&file.fd, buffer))?;
            let copy = grow(|buffer| sys::flistxattr(&file.content().fd, buffer))?;
            let own = own.split_inclusive(|byte| *byte == 0);
            let copy = copy.split_inclusive(|byte| *byte == 0);
            let own = own.filter(|name| !is_encrypted(name));
            let all: Vec<_> = own.chain(copy.filter(|name| is_encrypted(name))).collect();
            return Ok(all.concat());
        }
        grow(|buffer| match self {
            Target::File(file) => sys::flistxattr(&file.fd, buffer),
            Target::Dir(dir) => sys::flistxattr(&dir.fd, buffer),
            Target::Pinned(object) => sys::listxattr_pinned(&object.fd, buffer),
            Target::Named(dir, object) => sys::listxattrat(&dir.fd, object, buffer),
        })
    }

    #[track_caller]
    #[cfg_attr(feature = "failpoints", deprecated)]
    pub(crate) fn set(&self, name: &[u8], value: &[u8], flags: i32) -> FsResult<()> {
        let site = Site::here();
        let flags = XattrFlags::from_bits(flags.cast_unsigned()).ok_or(Errno::INVAL)?;
        again(|| match self {
            Target::File(file) => sys::fsetxattr(site, &file.fd, name, value, flags),
            Target::Dir(dir) => sys::fsetxattr(site, &dir.fd, name, value, flags),
            Target::Pinned(object) => sys::setxattr_pinned(site, &object.fd, name, value, flags),
            Target::Named(dir, object) => {
                sys::setxattrat(site, &dir.fd, object, name, value, flags)
            }
        })
    }

    #[track_caller]
    #[cfg_attr(feature = "failpoints", deprecated)]
    pub(crate) fn remove(&self, name: &[u8]) -> FsResult<()> {
        let site = Site::here();
        again(|| match self {
            Target::File(file) => sys::fremovexattr(site, &file.fd, name),
            Target::Dir(dir) => sys::fremovexattr(site, &dir.fd, name),
            Target::Pinned(object) => sys::removexattr_pinned(site, &object.fd, name),
            Target::Named(dir, object) => sys::removexattrat(site, &dir.fd, object, name),
        })
    }
}

/// Those that are under the keys of a file, and with its content.
fn is_encrypted(name: &[u8]) -> bool {
    name.starts_with(kms_format::xattr::PREFIX.as_bytes())
}

/// Calls with a larger buffer when the first is too small.
fn grow(call: impl Fn(&mut [u8]) -> rustix::io::Result<usize>) -> FsResult<Vec<u8>> {
    let mut buffer = vec![0; GUESS];
    loop {
        match again(|| call(&mut buffer)) {
            Err(Errno::RANGE) if buffer.len() < MAX => buffer.resize(MAX, 0),
            result => {
                buffer.truncate(result?);
                return Ok(buffer);
            }
        }
    }
}
