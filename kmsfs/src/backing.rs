//! The only place with system calls on the lower tree: `*at` calls on directory descriptors, never paths, never
//! following a symlink.
//!
//! Names given to these functions are lower names, which are ASCII. Results are what the kernel says, as [`Errno`].
//! No `unsafe`: rustix has every call needed.
//!
//! A method that changes the lower tree is `#[track_caller]`, and deprecated in builds with the feature `failpoints`: so
//! the compiler itself lists every place that changes the tree, and a test can tell whether it killed kmsfs at each.

mod dir;
#[cfg(feature = "failpoints")]
mod failpoint;
mod file;
mod pinned;
#[cfg(test)]
#[allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a failure in the simulation is a failed test"
)]
pub(crate) mod sim;
mod sys;
pub(crate) mod xattr;

pub use self::dir::Dir;
pub(crate) use self::dir::{Listing, LowerEntry, Small};
pub(crate) use self::file::LowerFile;
pub(crate) use self::pinned::Pinned;
pub(crate) use rustix::fs::Stat;

use crate::errno::{Errno, FsResult};

/// Identifies a lower object as long as something holds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct LowerId {
    dev: u64,
    ino: u64,
}

impl LowerId {
    pub(crate) fn of(stat: &Stat) -> LowerId {
        LowerId {
            dev: stat.st_dev,
            ino: stat.st_ino,
        }
    }

    #[cfg(test)]
    pub(crate) const fn new(dev: u64, ino: u64) -> LowerId {
        LowerId { dev, ino }
    }

    pub(crate) const fn ino(self) -> u64 {
        self.ino
    }

    /// Another object of the same lower file system.
    pub(crate) const fn beside(self, ino: u64) -> LowerId {
        LowerId { ino, ..self }
    }
}

/// Repeats a call that a signal interrupted.
fn again<T>(mut call: impl FnMut() -> rustix::io::Result<T>) -> FsResult<T> {
    loop {
        match call() {
            Err(rustix::io::Errno::INTR) => {}
            result => return result.map_err(Errno::from),
        }
    }
}

/// How many descriptors this process may open.
pub(crate) fn descriptor_limit() -> u64 {
    rustix::process::getrlimit(rustix::process::Resource::Nofile)
        .current
        .unwrap_or(1 << 20)
}
