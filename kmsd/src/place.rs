//! What kmsd needs to start must not lie behind its own keys.
//!
//! A kmsfs mount opens only when kmsd runs. State, keys, configuration or log on one would be there as long as the mount is, and after the
//! next boot kmsd could not start, and so the mount could not either.

use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::OsStringExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use kms_seal::SealerKind;

use crate::config::Config;
use crate::exit::Failure;

/// File system type of kmsfs in the kernel's table of mounts.
const KMSFS: &[u8] = b"fuse.kmsfs";

/// Refuses a configuration with anything of kmsd's on a kmsfs mount. `file` is the configuration file.
pub(crate) fn check(config: &Config, file: Option<&Path>) -> Result<(), Failure> {
    let mounts = Mounts::read()?;
    let mut places = vec![
        ("store.directory", config.store.directory.clone()),
        ("audit.directory", config.audit_directory()),
        ("seal.credential", config.credential()),
        ("identity.policies", config.identity.policies.clone()),
        // Also where the default is: the unit finds it there.
        ("server.socket", config.server.socket.clone()),
    ];
    if config.seal.kind == SealerKind::Software {
        places.push(("seal.key_file", config.key_file()));
    }
    if let Some(path) = &config.metrics.socket {
        places.push(("metrics.socket", path.clone()));
    }
    if let Some(path) = &config.seal.owner_auth {
        places.push(("seal.owner_auth", path.clone()));
    }
    if let Some(path) = file {
        places.push(("the configuration", path.to_owned()));
    }
    for (what, path) in places {
        mounts.refuse(what, &path)?;
    }
    // The log goes to standard error, which a service manager or a shell may have made a file.
    for (what, stream) in [
        ("the log", "/proc/self/fd/2"),
        ("standard output", "/proc/self/fd/1"),
    ] {
        if let Ok(path) = std::fs::read_link(stream)
            && path.is_absolute()
        {
            mounts.refuse(what, &path)?;
        }
    }
    Ok(())
}

/// Refuses a file of the operator's that is worth nothing when the mount cannot be opened.
pub(crate) fn check_file(what: &'static str, path: &Path) -> Result<(), Failure> {
    Mounts::read()?.refuse(what, path)
}

/// A kmsfs mount.
#[derive(Debug, PartialEq, Eq)]
struct Mount {
    device: (u64, u64),
    point: PathBuf,
    is_kmsfs: bool,
}

/// The mounts that this process sees, in the kernel's order.
struct Mounts(Vec<Mount>);

impl Mounts {
    fn read() -> Result<Mounts, Failure> {
        let text = std::fs::read("/proc/self/mountinfo").map_err(|e| {
            Failure::local("/proc/self/mountinfo", &e, "Mount /proc where kmsd runs.")
        })?;
        let lines = text.split(|byte| *byte == b'\n');
        Ok(Mounts(lines.filter_map(parse).collect()))
    }

    fn refuse(&self, what: &str, path: &Path) -> Result<(), Failure> {
        let Some(point) = self.kmsfs_of(path) else {
            return Ok(());
        };
        Err(Failure {
            status: crate::exit::CONFIG,
            message: format!(
                "{what}: {} is in the kmsfs mount {}, which opens only when kmsd runs: after a restart kmsd could not start",
                path.display(),
                point.display()
            ),
            next_step: format!(
                "Move it to a file system that needs no key of kmsd's, outside of {}, and correct the configuration.",
                point.display()
            ),
        })
    }

    /// The kmsfs mount in which a path lies, or would lie if it were made.
    fn kmsfs_of(&self, path: &Path) -> Option<&Path> {
        if !self.0.iter().any(|mount| mount.is_kmsfs) {
            return None;
        }
        let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        // By name first: a mount whose server is gone, or waits for kmsd, answers nothing else.
        if let Some(point) = self.passed(&path) {
            return Some(point);
        }
        // Then where links and bind mounts lead, of the part that exists.
        let device = path.ancestors().find_map(|part| match part.metadata() {
            Ok(meta) => Some(meta.dev()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                // A dangling link: what would be made is where it points.
                let target = std::fs::read_link(part).ok()?;
                let target = part.parent()?.join(target);
                let parent = target.parent()?;
                Some(parent.metadata().ok()?.dev())
            }
            Err(_) => None,
        })?;
        let device = (
            rustix::fs::major(device).into(),
            rustix::fs::minor(device).into(),
        );
        let found = self
            .0
            .iter()
            .find(|mount| mount.is_kmsfs && mount.device == device);
        found.map(|mount| mount.point.as_path())
    }

    /// The kmsfs mount that the way to `path` passes, whatever is mounted in it again.
    fn passed(&self, path: &Path) -> Option<&Path> {
        path.ancestors().find_map(|part| {
            // Of several at the same place the last is seen.
            let mount = self.0.iter().rfind(|mount| mount.point == part)?;
            mount.is_kmsfs.then_some(mount.point.as_path())
        })
    }
}

/// Parses a line: `id parent major:minor root mountpoint options [tags] - type source options`.
fn parse(line: &[u8]) -> Option<Mount> {
    let mut fields = line.split(|byte| *byte == b' ');
    let device = std::str::from_utf8(fields.nth(2)?).ok()?;
    let (major, minor) = device.split_once(':')?;
    let point = fields.nth(1)?;
    let kind = fields.skip_while(|field| *field != b"-").nth(1)?;
    Some(Mount {
        device: (major.parse().ok()?, minor.parse().ok()?),
        point: unescape(point),
        is_kmsfs: kind == KMSFS,
    })
}

/// Undoes the kernel's octal escapes of blank, tab, newline and backslash.
fn unescape(field: &[u8]) -> PathBuf {
    let mut plain = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&byte, tail)) = rest.split_first() {
        rest = tail;
        if let (b'\\', Some((digits, after))) = (byte, tail.split_first_chunk::<3>())
            && let Ok(digits) = std::str::from_utf8(digits)
            && let Ok(code) = u8::from_str_radix(digits, 8)
        {
            plain.push(code);
            rest = after;
        } else {
            plain.push(byte);
        }
    }
    PathBuf::from(OsString::from_vec(plain))
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStrExt as _;

    use super::*;

    fn mounts(folder: &Path) -> Mounts {
        let device = folder.metadata().unwrap().dev();
        let device = (
            rustix::fs::major(device).into(),
            rustix::fs::minor(device).into(),
        );
        let mount = |point: &str, device, is_kmsfs| Mount {
            device,
            point: point.into(),
            is_kmsfs,
        };
        Mounts(vec![
            mount("/", (1, 1), false),
            mount("/private", (0, 999), true),
            mount("/private/inner", (1, 2), false),
            mount("/elsewhere", device, true),
        ])
    }

    #[test]
    fn a_mount_is_found_by_name_also_when_nothing_answers_there() {
        let folder = tempfile::tempdir().unwrap();
        let mut mounts = mounts(folder.path());
        // It has the device of this machine's root, which is where paths that do not exist end.
        mounts.0.pop();
        let point = |path: &str| mounts.kmsfs_of(Path::new(path));
        assert_eq!(point("/private/kmsd/store"), Some(Path::new("/private")));
        assert_eq!(point("/private"), Some(Path::new("/private")));
        assert_eq!(point("/private-too/store"), None);
        assert_eq!(point("/private/inner/store"), Some(Path::new("/private")));
        assert_eq!(point("/proc/store"), None);
    }

    #[test]
    fn a_mount_is_found_behind_links_and_before_the_file_is_made() {
        let folder = tempfile::tempdir().unwrap();
        let mounts = mounts(folder.path());
        let elsewhere = Some(Path::new("/elsewhere"));
        assert_eq!(
            mounts.kmsfs_of(&folder.path().join("not/yet/there")),
            elsewhere
        );
        // /dev/shm or /proc: anything on another device.
        let other = Path::new("/proc");
        std::os::unix::fs::symlink(other, folder.path().join("out")).unwrap();
        assert_eq!(mounts.kmsfs_of(&folder.path().join("out/store")), None);
    }

    #[test]
    fn lines_of_the_kernel() {
        let line = b"36 35 0:45 / /mnt/a\\040b rw,noatime shared:1 - fuse.kmsfs /lower rw";
        let mount = parse(line).unwrap();
        assert_eq!((mount.device, mount.is_kmsfs), ((0, 45), true));
        assert_eq!(mount.point.as_os_str().as_bytes(), b"/mnt/a b");
        assert!(
            !parse(b"36 35 8:1 / / rw - ext4 /dev/a rw")
                .unwrap()
                .is_kmsfs
        );
        assert_eq!(parse(b"36 35"), None);
    }
}
