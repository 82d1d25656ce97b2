//! Extended attributes of lower objects.
//!
//! The kernel has no `*at` form of these calls before 6.13. Files and directories are used through their
//! descriptors; other objects, which cannot be opened without side effects, through `/proc/self/fd/DIR/NAME`, whose
//! last component is not followed.

use std::os::fd::{AsFd, AsRawFd as _};

use rustix::fs::XattrFlags;

use super::{Dir, again};
use crate::errno::{Errno, FsResult};

/// How to reach an object.
pub(crate) enum Target<'a> {
    /// By a descriptor of its own.
    Open(&'a dyn AsFd),
    /// By its lower name.
    Named(&'a Dir, &'a str),
}

const GUESS: usize = 256;
/// What Linux allows.
const MAX: usize = 64 * 1024;

impl Target<'_> {
    fn path(directory: &Dir, name: &str) -> String {
        format!("/proc/self/fd/{}/{name}", directory.as_fd().as_raw_fd())
    }

    pub(crate) fn get(&self, name: &[u8]) -> FsResult<Vec<u8>> {
        grow(|buffer| match self {
            Target::Open(fd) => rustix::fs::fgetxattr(fd.as_fd(), name, buffer),
            Target::Named(dir, object) => {
                rustix::fs::lgetxattr(Self::path(dir, object), name, buffer)
            }
        })
    }

    pub(crate) fn list(&self) -> FsResult<Vec<u8>> {
        grow(|buffer| match self {
            Target::Open(fd) => rustix::fs::flistxattr(fd.as_fd(), buffer),
            Target::Named(dir, object) => rustix::fs::llistxattr(Self::path(dir, object), buffer),
        })
    }

    pub(crate) fn set(&self, name: &[u8], value: &[u8], flags: i32) -> FsResult<()> {
        let flags = XattrFlags::from_bits(flags.cast_unsigned()).ok_or(Errno::INVAL)?;
        again(|| match self {
            Target::Open(fd) => rustix::fs::fsetxattr(fd.as_fd(), name, value, flags),
            Target::Named(dir, object) => {
                rustix::fs::lsetxattr(Self::path(dir, object), name, value, flags)
            }
        })
    }

    pub(crate) fn remove(&self, name: &[u8]) -> FsResult<()> {
        again(|| match self {
            Target::Open(fd) => rustix::fs::fremovexattr(fd.as_fd(), name),
            Target::Named(dir, object) => rustix::fs::lremovexattr(Self::path(dir, object), name),
        })
    }
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
