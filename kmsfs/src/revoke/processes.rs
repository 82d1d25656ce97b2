//! Who uses a mount: processes, what they have of it, and how.
//!
//! Nothing here asks the mount anything: a revocation that waits for requests must not send any. And nothing here takes longer than it
//! is given: what a process has is read by threads that may be left behind (see `scan`).

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{BufRead as _, BufReader};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use rustix::fs::{AtFlags, CWD, StatxFlags};
use rustix::process::{Pid, PidfdFlags, Signal};
use serde::{Deserialize, Serialize};

use super::scan::{Pulse, Scan, Stuck};

/// The processes that hold up who looks into them, for all scans.
static STUCK: LazyLock<Arc<Stuck>> = LazyLock::new(Arc::default);

/// How a process uses something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum How {
    /// A descriptor.
    Descriptor(u32),
    /// A mapping.
    Mapping,
    /// The program that runs.
    Program,
    /// The current directory.
    Directory,
    /// The root directory.
    Root,
}

/// A use of something in a mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Use {
    /// The process.
    pub pid: u32,
    /// When it began, in ticks since the boot: tells it from a later one with its number.
    pub began: u64,
    /// Its effective user.
    pub uid: u32,
    /// The name of its program.
    pub program: String,
    /// How.
    pub how: How,
    /// The inode number, as `stat(2)` shows it.
    pub ino: u64,
    /// The path, as the kernel knows it.
    pub path: PathBuf,
}

/// A process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Process {
    /// Its number.
    pub pid: u32,
    /// When it began, in ticks since the boot.
    pub began: u64,
    /// Its effective user.
    pub uid: u32,
    /// The name of its program.
    pub program: String,
}

/// Who was found to use a mount.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// What was seen.
    pub uses: Vec<Use>,
    /// Processes that could not be looked into to the end in the time there was: they may use anything.
    pub unseen: Vec<Process>,
}

/// The uses of the mount with this device number (`major:minor`), by the processes of one user or of all, as far as they are found
/// within `limit`.
///
/// Processes that may not be looked into are left out, as are descriptors on their way through a socket.
#[must_use]
pub fn uses(device: &str, uid: Option<u32>, limit: Duration) -> Found {
    let mut found = Found::default();
    let Some(device) = Device::parse(device) else {
        return found;
    };
    let Ok(processes) = fs::read_dir("/proc") else {
        return found;
    };
    let look = Arc::new(move |pid, pulse: &Pulse| uses_of(pid, device, pulse));
    let mut scan = Scan::begin(look, &STUCK, limit);
    let pids = processes
        .flatten()
        .filter_map(|process| process.file_name().to_str()?.parse().ok())
        .filter(|pid| *pid != std::process::id());
    for pid in pids {
        let Some((process, uids)) = identity(pid) else {
            continue;
        };
        if uid.is_some_and(|uid| !uids.contains(&uid)) {
            continue;
        }
        let looked = scan.process((pid, process.began));
        let seen = looked.found.into_iter();
        found.uses.extend(seen.map(|(how, ino, path)| Use {
            pid,
            began: process.began,
            uid: process.uid,
            program: process.program.clone(),
            how,
            ino,
            path,
        }));
        if !looked.whole {
            found.unseen.push(process);
        }
    }
    found
}

/// Kills the process with this number that began then, if it is of a certain user or any. Says whether it was.
pub(super) fn kill((pid, began): (u32, u64), uid: Option<u32>) -> bool {
    // The first process of the machine, and this one, stay.
    let number = i32::try_from(pid).ok().filter(|pid| *pid > 1);
    let Some(process) = number
        .and_then(Pid::from_raw)
        .filter(|_| pid != std::process::id())
    else {
        return false;
    };
    let Ok(handle) = rustix::process::pidfd_open(process, PidfdFlags::empty()) else {
        return false;
    };
    // It is the one that was found, not a later one with its number. What it has is not looked at again: that could take long.
    let same = identity(pid).is_some_and(|(process, uids)| {
        process.began == began && uid.is_none_or(|uid| uids.contains(&uid))
    });
    if !same {
        return false;
    }
    match rustix::process::pidfd_send_signal(&handle, Signal::KILL) {
        Ok(()) => {
            tracing::warn!(
                pid,
                uid,
                "killed a process whose user lost access to what it had open"
            );
            true
        }
        Err(error) => {
            tracing::warn!(pid, uid, %error, "cannot kill a process whose user lost access");
            false
        }
    }
}

/// Whether processes that were killed have let go of everything.
pub(super) fn all_gone(pids: &[u32]) -> bool {
    // What is left of an ended process until its parent asks for it has no memory and no descriptors.
    pids.iter().all(|pid| {
        let status = fs::read_to_string(format!("/proc/{pid}/status"));
        status.map_or(true, |status| {
            let state = field(&status, "State:");
            state.is_none_or(|state| state.starts_with(['Z', 'X']))
        })
    })
}

/// A device number.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Device {
    major: u32,
    minor: u32,
}

impl Device {
    fn parse(text: &str) -> Option<Device> {
        let (major, minor) = text.split_once(':')?;
        Some(Device {
            major: major.parse().ok()?,
            minor: minor.parse().ok()?,
        })
    }

    /// As in `/proc/*/maps`.
    fn parse_hex(text: &str) -> Option<Device> {
        let (major, minor) = text.split_once(':')?;
        Some(Device {
            major: u32::from_str_radix(major, 16).ok()?,
            minor: u32::from_str_radix(minor, 16).ok()?,
        })
    }
}

/// What a process has of a mount.
fn uses_of(pid: u32, device: Device, pulse: &Pulse) -> Vec<(How, u64, PathBuf)> {
    let process = PathBuf::from(format!("/proc/{pid}"));
    let mut uses = Vec::new();
    for (name, how) in [
        ("cwd", How::Directory),
        ("root", How::Root),
        ("exe", How::Program),
    ] {
        let link = process.join(name);
        if let Some(ino) = on_device(&link, device) {
            uses.push((how, ino, target(&link)));
        }
    }
    for item in fs::read_dir(process.join("fd"))
        .into_iter()
        .flatten()
        .flatten()
    {
        if !pulse.beat() {
            return uses;
        }
        let number = item.file_name().to_str().and_then(|name| name.parse().ok());
        if let Some(number) = number
            && let Some(ino) = on_device(&item.path(), device)
        {
            uses.push((How::Descriptor(number), ino, target(&item.path())));
        }
    }
    let Ok(maps) = File::open(process.join("maps")) else {
        return uses;
    };
    let (mut maps, mut line, mut last) = (BufReader::new(maps), Vec::new(), None);
    while maps.read_until(b'\n', &mut line).is_ok_and(|read| read > 0) {
        if !pulse.beat() {
            return uses;
        }
        let found = mapping(line.strip_suffix(b"\n").unwrap_or(&line), device);
        if let Some((ino, path)) = found {
            if last != Some(ino) {
                uses.push((How::Mapping, ino, path));
            }
            last = Some(ino);
        }
        line.clear();
    }
    uses
}

/// A process, and its users: real, effective, saved, of the file system. The kernel answers this without asking the process or
/// what it waits for.
fn identity(pid: u32) -> Option<(Process, Vec<u32>)> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let uids = field(&status, "Uid:")?;
    let uids = uids.split_ascii_whitespace();
    let uids: Vec<u32> = uids.filter_map(|uid| uid.parse().ok()).collect();
    let process = Process {
        pid,
        began: began(&fs::read(format!("/proc/{pid}/stat")).ok()?)?,
        uid: uids.get(1).copied().unwrap_or_default(),
        program: field(&status, "Name:")?.to_owned(),
    };
    Some((process, uids))
}

/// The 22nd field of `/proc/PID/stat`; the second is the name of the program in brackets, whatever that contains.
fn began(stat: &[u8]) -> Option<u64> {
    let behind = stat.iter().rposition(|byte| *byte == b')')?;
    let rest = std::str::from_utf8(stat.get(behind + 1..)?).ok()?;
    rest.split_ascii_whitespace().nth(19)?.parse().ok()
}

fn field<'a>(status: &'a str, name: &str) -> Option<&'a str> {
    let line = status.lines().find_map(|line| line.strip_prefix(name))?;
    Some(line.trim())
}

/// The inode that a link of `/proc` leads to, if it is on the device. What the kernel knows by itself is enough.
fn on_device(link: &Path, device: Device) -> Option<u64> {
    let flags = AtFlags::STATX_DONT_SYNC;
    let stat = rustix::fs::statx(CWD, link, flags, StatxFlags::INO).ok()?;
    let found = Device {
        major: stat.stx_dev_major,
        minor: stat.stx_dev_minor,
    };
    (found == device).then_some(stat.stx_ino)
}

fn target(link: &Path) -> PathBuf {
    fs::read_link(link).unwrap_or_default()
}

/// A line of `/proc/*/maps`: `address permissions offset device inode path`.
fn mapping(line: &[u8], device: Device) -> Option<(u64, PathBuf)> {
    let mut rest = line;
    let mut fields = [&[][..]; 5];
    for field in &mut fields {
        let begin = rest.iter().position(|byte| *byte != b' ')?;
        rest = rest.get(begin..)?;
        let end = rest
            .iter()
            .position(|byte| *byte == b' ')
            .unwrap_or(rest.len());
        (*field, rest) = rest.split_at_checked(end)?;
    }
    let found = Device::parse_hex(std::str::from_utf8(fields.get(3)?).ok()?)?;
    let ino = std::str::from_utf8(fields.get(4)?).ok()?.parse().ok()?;
    let path = PathBuf::from(OsStr::from_bytes(rest.trim_ascii_start()));
    (found == device).then_some((ino, path))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt as _;

    use super::*;

    #[test]
    fn lines_of_maps() {
        let line =
            b"7f00-7f01 r--s 00000000 00:2f 1234                       /mnt/a file (deleted)";
        let device = Device::parse("0:47").unwrap();
        let found = mapping(line, device).unwrap();
        assert_eq!(found, (1234, PathBuf::from("/mnt/a file (deleted)")));
        assert_eq!(mapping(line, Device::parse("0:48").unwrap()), None);
        assert_eq!(mapping(b"7f00-7f01 rw-p 00000000 00:00 0", device), None);
        assert_eq!(mapping(b"", device), None);
    }

    #[test]
    fn when_a_process_began() {
        let numbers = (3..=50).map(|number| number.to_string());
        let rest = numbers.collect::<Vec<_>>().join(" ");
        let stat = format!("17 (a ) b (c)) {rest}\n");
        assert_eq!(began(stat.as_bytes()), Some(22));
        assert_eq!(began(b"17 (short) S 1"), None);
        let here = identity(std::process::id()).unwrap().0;
        assert!(here.began > 0);
    }

    #[test]
    fn a_process_is_found_by_what_it_has() {
        let folder = tempfile::tempdir().unwrap();
        let stat = folder.path().metadata().unwrap();
        let device = format!(
            "{}:{}",
            rustix::fs::major(stat.dev()),
            rustix::fs::minor(stat.dev())
        );
        let file = fs::File::create(folder.path().join("open")).unwrap();
        let mut sleeper = std::process::Command::new("sleep")
            .arg("1000")
            .current_dir(folder.path())
            .stdin(file)
            .spawn()
            .unwrap();
        let inside = |found: &Use| found.path.starts_with(folder.path());
        let limit = Duration::from_secs(60);
        let all = uses(&device, None, limit);
        let hers: Vec<_> = all
            .uses
            .iter()
            .filter(|found| found.pid == sleeper.id() && inside(found))
            .collect();
        let how: Vec<_> = hers.iter().map(|found| found.how).collect();
        assert_eq!(how, [How::Directory, How::Descriptor(0)]);
        assert_eq!(hers[0].ino, stat.ino());
        let nobody = uses(&device, Some(54321), limit);
        assert!(!nobody.uses.iter().any(|found| found.pid == sleeper.id()));
        assert!(!nobody.unseen.iter().any(|one| one.pid == sleeper.id()));
        // Without time nothing is seen, and said so.
        let blind = uses(&device, None, Duration::ZERO);
        assert!(blind.uses.is_empty());
        assert!(blind.unseen.iter().any(|one| one.pid == sleeper.id()));
        // Not of that user, or not that process: not killed.
        let (began, uid) = (hers[0].began, hers[0].uid);
        assert!(!kill((sleeper.id(), began), Some(54321)));
        assert!(!kill((sleeper.id(), began + 1), Some(uid)));
        assert!(kill((sleeper.id(), began), Some(uid)));
        assert!(!sleeper.wait().unwrap().success());
        assert!(all_gone(&[sleeper.id()]));
    }
}
