//! The system calls for which there is no safe wrapper.
#![allow(
    unsafe_code,
    reason = "the shutdown ioctl of ext4 and XFS, and a mount namespace of one's own"
)]

use std::fs::File;
use std::io;
use std::os::fd::AsFd;

use rustix::ioctl::{Setter, ioctl, opcode};
use rustix::mount::{MountPropagationFlags, mount_change};
use rustix::thread::{UnshareFlags, unshare_unsafe};

/// How the lower file system is cut off.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Cut {
    /// The journal is written out first: metadata is there, data may not be.
    FlushLog,
    /// Nothing is written any more, as when the power goes.
    Now,
}

/// `EXT4_IOC_SHUTDOWN`, `XFS_IOC_GOINGDOWN`: no write reaches the device any more.
pub(crate) fn shut_down(file_system: &File, cut: Cut) -> io::Result<()> {
    const SHUTDOWN: rustix::ioctl::Opcode = opcode::read::<u32>(b'X', 125);
    let flags: u32 = match cut {
        Cut::FlushLog => 1,
        Cut::Now => 2,
    };
    // SAFETY: the ioctl reads one u32 through the pointer that Setter hands it.
    unsafe { ioctl(file_system.as_fd(), Setter::<SHUTDOWN, u32>::new(flags)) }?;
    Ok(())
}

/// Gives this thread, and whatever it starts, mounts of its own. Somebody who copies the machine's namespace, as
/// services and containers do, would otherwise keep a file system in use that was unmounted here.
pub(crate) fn own_mounts() -> io::Result<()> {
    // SAFETY: descriptors stay shared.
    unsafe { unshare_unsafe(UnshareFlags::NEWNS) }?;
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    mount_change("/", private)?;
    Ok(())
}
