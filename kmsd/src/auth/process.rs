//! Facts about a process, from /proc.
//!
//! Everything is read below one directory descriptor: once the directory of a process is open it never
//! becomes another's, whatever happens to the process id.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use kms_api::ProcessFacts;
use rustix::fs::{Mode, OFlags, open, openat, readlinkat};

use super::cgroup::Cgroup;
use super::exe;
use super::peer::{Peer, Pidfd};
use crate::service::Needs;

/// Most that is read of a file in /proc, in bytes.
const MAX_FILE: u64 = 64 * 1024;

/// Whether a process is in the user namespace of kmsd.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Namespace {
    Same,
    Other,
    /// The process has ended.
    Ended,
    /// The process cannot be seen: /proc is mounted with `hidepid=`, or is another namespace's.
    Hidden,
}

/// The directory of a process.
#[derive(Debug)]
pub(crate) struct Place(OwnedFd);

impl Place {
    pub(super) fn open(pid: u32) -> Option<Self> {
        if pid == 0 {
            return None;
        }
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = open(format!("/proc/{pid}"), flags, Mode::empty()).ok()?;
        Some(Self(directory))
    }

    fn read(&self, name: &str) -> io::Result<Vec<u8>> {
        let file = openat(
            &self.0,
            name,
            OFlags::RDONLY | OFlags::CLOEXEC,
            Mode::empty(),
        )?;
        let mut bytes = Vec::new();
        File::from(file).take(MAX_FILE).read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    fn link(&self, name: &str) -> io::Result<PathBuf> {
        let target = readlinkat(&self.0, name, Vec::new())?;
        Ok(PathBuf::from(std::ffi::OsStr::from_bytes(
            target.as_bytes(),
        )))
    }

    /// The path of the executable, if the file of that path is what runs: what a process in a mount
    /// namespace of its own calls `/usr/bin/nginx` need not be that.
    pub(super) fn exe(&self) -> Option<PathBuf> {
        let path = self.link("exe").ok()?;
        let running = rustix::fs::statat(&self.0, "exe", rustix::fs::AtFlags::empty()).ok()?;
        let named = path.metadata().ok()?;
        let same = (named.dev(), named.ino()) == (running.st_dev, running.st_ino);
        same.then_some(path)
    }

    /// The executable itself.
    pub(super) fn open_exe(&self) -> io::Result<File> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
        Ok(openat(&self.0, "exe", flags, Mode::empty())?.into())
    }

    /// Compares user namespaces: by their identity where kmsd may look, else by how they map users,
    /// which everybody may see. (A namespace that maps everything to itself is told apart by the first
    /// only; only root can make one.)
    fn namespace(&self) -> io::Result<Namespace> {
        let same = match self.link("ns/user") {
            Ok(theirs) => theirs == Path::new("/proc/self/ns/user").read_link()?,
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                let own = std::fs::read("/proc/self/uid_map")?;
                let own_groups = std::fs::read("/proc/self/gid_map")?;
                own == self.read("uid_map")? && own_groups == self.read("gid_map")?
            }
            Err(error) => return Err(error),
        };
        Ok(if same {
            Namespace::Same
        } else {
            Namespace::Other
        })
    }
}

/// The user namespace of the peer.
pub(super) fn namespace(peer: &Peer) -> Namespace {
    let process = &peer.process;
    let found = process.place.as_ref().map(Place::namespace);
    // What was read of a process that has ended meanwhile may be the emptiness it left.
    if !process.may_live() {
        return Namespace::Ended;
    }
    match found {
        Some(Ok(namespace)) => namespace,
        Some(Err(error)) => {
            tracing::debug!(pid = peer.pid, %error, "the user namespace of a caller is not known");
            Namespace::Hidden
        }
        None => match process.pidfd {
            Pidfd::Held(_) | Pidfd::Unsupported => Namespace::Hidden,
            Pidfd::Gone => Namespace::Ended,
        },
    }
}

/// What is known of the peer's process; `None` when it has ended, when nothing vouches for its number and
/// `trust_pid` is not set, or when it cannot be told which unit it is in, if any: "in no unit" is a fact
/// that spares a process what policies deny to its unit, so that it is never a guess.
pub(super) fn facts(peer: &Peer, needs: Needs, trust_pid: bool) -> Option<ProcessFacts> {
    let process = &peer.process;
    if !process.is_checked() && !trust_pid {
        return None;
    }
    let place = process.place.as_ref()?;
    let cgroup = Cgroup::parse(&place.read("cgroup").ok()?)?;
    let unit = cgroup.unit()?;
    let exe = place.exe();
    let exe_sha256 = match needs.exe_sha256 && exe.is_some() {
        true => exe::sha256(place),
        false => None,
    };
    let facts = ProcessFacts {
        invocation_id: unit.as_deref().and_then(invocation),
        unit,
        cgroup: cgroup.text(),
        exe: exe.and_then(|exe| exe.into_os_string().into_string().ok()),
        exe_sha256,
        security_label: peer.label.clone(),
        checked: process.is_checked(),
    };
    process.may_live().then_some(facts)
}

/// The invocation id of a unit, as systemd publishes it.
fn invocation(unit: &str) -> Option<String> {
    let link = Path::new("/run/systemd/units").join(format!("invocation:{unit}"));
    let id = link.read_link().ok()?.into_os_string().into_string().ok()?;
    let valid = id.len() == 32 && id.bytes().all(|b| b.is_ascii_hexdigit());
    valid.then_some(id)
}
