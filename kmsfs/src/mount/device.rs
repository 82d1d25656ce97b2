//! Making and unmaking a FUSE mount: `mount(2)` for root and services, `fusermount3` for everyone else.

use std::fs::File;
use std::io;
use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::fs::{Mode, OFlags};
use rustix::mount::{MountFlags, UnmountFlags};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags};

use super::table::{self, FS_TYPE};
use crate::fs::AccessTimes;
use crate::options::MountOptions;
use crate::service;

/// Why a mount did not come about.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// No FUSE.
    #[error(
        "cannot open /dev/fuse: {0}; load the fuse module, and in a container allow the device"
    )]
    NoFuse(#[source] io::Error),
    /// The directory to mount on.
    #[error("cannot mount on {path}: {source}; the mount point must be an existing directory of yours", path = path.display())]
    Mount {
        /// The mount point.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The set-user-id helper for users other than root.
    #[error(
        "fusermount3 could not mount: {0}; install the package fuse3, and for allow_other put user_allow_other into /etc/fuse.conf"
    )]
    Helper(String),
}

/// A mount in the tree. Not undone on drop: see [`Mounted::unmount`].
#[derive(Debug)]
pub struct Mounted {
    mountpoint: PathBuf,
    device: Option<String>,
}

/// How an attempt to unmount went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unmounted {
    /// It is gone from the tree.
    Gone,
    /// Somebody uses it.
    Busy,
}

impl Mounted {
    /// Mounts a new FUSE connection on `mountpoint` (an absolute path without links), showing
    /// `lower` as its source. Returns the connection; the kernel's first request waits in it.
    ///
    /// # Errors
    /// See [`DeviceError`].
    pub fn mount(
        lower: &Path,
        mountpoint: &Path,
        options: &MountOptions,
    ) -> Result<(OwnedFd, Mounted), DeviceError> {
        let connection = if service::can_mount() {
            mount_ourselves(lower, mountpoint, options)?
        } else {
            mount_with_helper(lower, mountpoint, options)?
        };
        let device = table::mounted_at(mountpoint)
            .ok()
            .flatten()
            .filter(|mount| mount.fs_type == FS_TYPE)
            .map(|mount| mount.device);
        let mountpoint = mountpoint.to_owned();
        Ok((connection, Mounted { mountpoint, device }))
    }

    /// Where it is.
    #[must_use]
    pub fn mountpoint(&self) -> &Path {
        &self.mountpoint
    }

    /// Its device number, `major:minor`, if the kernel's table showed it.
    #[must_use]
    pub fn device(&self) -> Option<&str> {
        self.device.as_deref()
    }

    /// Sets how far the kernel reads ahead. Possible only for root, and only after the mount: INIT
    /// can lower the value but not raise it above 128 KiB.
    ///
    /// # Errors
    /// sysfs is not there or not writable.
    pub fn set_readahead(&self, kib: u32) -> io::Result<()> {
        let device = self.device.as_deref().unwrap_or_default();
        std::fs::write(
            format!("/sys/class/bdi/{device}/read_ahead_kb"),
            kib.to_string(),
        )
    }

    /// Takes the mount out of the tree. What somebody mounted over it or after it at the same
    /// place is not touched. With `lazy` also if it is in use: the users keep it until they close.
    ///
    /// # Errors
    /// The kernel or `fusermount3` refuses for another reason than use.
    pub fn unmount(&self, lazy: bool) -> io::Result<Unmounted> {
        let ours = table::mounted_at(&self.mountpoint)?
            .is_some_and(|mount| mount.fs_type == FS_TYPE && Some(mount.device) == self.device);
        if !ours {
            return Ok(Unmounted::Gone);
        }
        if service::can_mount() {
            let flags = if lazy {
                UnmountFlags::DETACH
            } else {
                UnmountFlags::empty()
            };
            return match rustix::mount::unmount(&self.mountpoint, flags) {
                Ok(()) => Ok(Unmounted::Gone),
                Err(rustix::io::Errno::BUSY) => Ok(Unmounted::Busy),
                Err(error) => Err(error.into()),
            };
        }
        let output = Command::new("fusermount3")
            .arg(if lazy { "-uz" } else { "-u" })
            .arg("--")
            .arg(&self.mountpoint)
            .output()?;
        let message = String::from_utf8_lossy(&output.stderr);
        if output.status.success() {
            Ok(Unmounted::Gone)
        } else if message.contains("busy") {
            Ok(Unmounted::Busy)
        } else {
            Err(io::Error::other(message.trim().to_owned()))
        }
    }

    /// Processes that have a file or directory of the mount open, as text for an operator.
    #[must_use]
    pub fn users(&self) -> Vec<String> {
        let Ok(processes) = std::fs::read_dir("/proc") else {
            return Vec::new();
        };
        processes
            .filter_map(|process| {
                let path = process.ok()?.path();
                let pid: u32 = path.file_name()?.to_str()?.parse().ok()?;
                if !self.is_used_by(&path) {
                    return None;
                }
                let name = std::fs::read_to_string(path.join("comm")).unwrap_or_default();
                Some(format!("{pid} ({})", name.trim()))
            })
            .collect()
    }

    /// Compares names only: asking for more would be a request to ourselves.
    fn is_used_by(&self, process: &Path) -> bool {
        let inside = |link: &Path| {
            std::fs::read_link(link).is_ok_and(|target| target.starts_with(&self.mountpoint))
        };
        inside(&process.join("cwd"))
            || inside(&process.join("root"))
            || inside(&process.join("exe"))
            || ["fd", "map_files"].iter().any(|list| {
                std::fs::read_dir(process.join(list))
                    .is_ok_and(|links| links.flatten().any(|link| inside(&link.path())))
            })
    }
}

fn mount_ourselves(
    lower: &Path,
    mountpoint: &Path,
    options: &MountOptions,
) -> Result<OwnedFd, DeviceError> {
    let flags = OFlags::RDWR | OFlags::CLOEXEC;
    let connection = rustix::fs::open("/dev/fuse", flags, Mode::empty())
        .map_err(|error| DeviceError::NoFuse(error.into()))?;
    let mut data = format!(
        "fd={},rootmode=40000,user_id=0,group_id=0,default_permissions",
        connection.as_raw_fd()
    );
    if options.allow_other {
        data.push_str(",allow_other");
    }
    let data =
        std::ffi::CString::new(data).map_err(|error| DeviceError::Helper(error.to_string()))?;
    rustix::mount::mount(
        lower,
        mountpoint,
        FS_TYPE,
        mount_flags(options),
        data.as_c_str(),
    )
    .map_err(|error| DeviceError::Mount {
        path: mountpoint.to_owned(),
        source: error.into(),
    })?;
    Ok(connection)
}

fn mount_flags(options: &MountOptions) -> MountFlags {
    let choices = [
        (options.read_only, MountFlags::RDONLY),
        (!options.suid, MountFlags::NOSUID),
        (!options.dev, MountFlags::NODEV),
        (!options.exec, MountFlags::NOEXEC),
        (
            options.access_times == AccessTimes::Never,
            MountFlags::NOATIME,
        ),
        (
            options.access_times == AccessTimes::Always,
            MountFlags::STRICTATIME,
        ),
        (options.sync, MountFlags::SYNCHRONOUS),
        (options.dirsync, MountFlags::DIRSYNC),
    ];
    choices
        .into_iter()
        .filter(|(chosen, _)| *chosen)
        .fold(MountFlags::empty(), |flags, (_, flag)| flags | flag)
}

/// `fusermount3` mounts and passes the connection over the socket named in `_FUSE_COMMFD`; the
/// socket is its standard input, so that no descriptor has to be inherited by number.
fn mount_with_helper(
    lower: &Path,
    mountpoint: &Path,
    options: &MountOptions,
) -> Result<OwnedFd, DeviceError> {
    let helper = |error: io::Error| DeviceError::Helper(error.to_string());
    let (ours, theirs) = UnixStream::pair().map_err(helper)?;
    let child = Command::new("fusermount3")
        .arg("-o")
        .arg(helper_options(lower, options))
        .arg("--")
        .arg(mountpoint)
        .env("_FUSE_COMMFD", "0")
        .stdin(Stdio::from(OwnedFd::from(theirs)))
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(helper)?;
    let received = receive_descriptor(&ours);
    let output = child.wait_with_output().map_err(helper)?;
    if !output.status.success() {
        let message = String::from_utf8_lossy(&output.stderr);
        return Err(DeviceError::Helper(message.trim().to_owned()));
    }
    received.map_err(helper)
}

fn helper_options(lower: &Path, options: &MountOptions) -> std::ffi::OsString {
    let mut list = std::ffi::OsString::from("subtype=kmsfs,default_permissions,fsname=");
    // The helper splits at commas and unescapes backslashes.
    let source = lower.to_string_lossy();
    list.push(source.replace('\\', "\\\\").replace(',', "\\,"));
    let choices = [
        (options.allow_other, ",allow_other"),
        (options.read_only, ",ro"),
        (!options.suid, ",nosuid"),
        (!options.dev, ",nodev"),
        (!options.exec, ",noexec"),
        (options.access_times == AccessTimes::Never, ",noatime"),
        (options.sync, ",sync"),
        (options.dirsync, ",dirsync"),
    ];
    for (_, option) in choices.iter().filter(|(chosen, _)| *chosen) {
        list.push(option);
    }
    list
}

fn receive_descriptor(socket: &UnixStream) -> io::Result<OwnedFd> {
    let mut byte = [0];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    rustix::net::recvmsg(
        socket,
        &mut [IoSliceMut::new(&mut byte)],
        &mut control,
        RecvFlags::CMSG_CLOEXEC,
    )?;
    control
        .drain()
        .find_map(|message| match message {
            RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
            _ => None,
        })
        .ok_or_else(|| io::Error::other("it sent no descriptor"))
}

/// Opens `/dev/null`, for the standard streams of a daemon.
pub(super) fn dev_null() -> io::Result<File> {
    File::options().read(true).write(true).open("/dev/null")
}
