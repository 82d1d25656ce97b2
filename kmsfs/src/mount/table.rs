//! The kernel's table of mounts, `/proc/self/mountinfo`.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};

/// File system type of our mounts, as `mount(8)` and `/proc` show it.
pub const FS_TYPE: &str = "fuse.kmsfs";

/// One mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountEntry {
    /// Device number, `major:minor`.
    pub device: String,
    /// Directory of the mounted file system that appears at `mountpoint`.
    pub root: PathBuf,
    /// Where it is mounted.
    pub mountpoint: PathBuf,
    /// File system type.
    pub fs_type: OsString,
    /// What is mounted: for kmsfs the lower directory.
    pub source: PathBuf,
    /// Options of this mount point and of the file system, separated by commas.
    pub options: String,
}

impl MountEntry {
    /// Whether it has an option, by its name.
    #[must_use]
    pub fn has(&self, option: &str) -> bool {
        self.options.split(',').any(|one| one == option)
    }

    /// Whose processes may use it if it lacks `allow_other`.
    #[must_use]
    pub fn user(&self) -> Option<u32> {
        let mut options = self.options.split(',');
        options.find_map(|one| one.strip_prefix("user_id=")?.parse().ok())
    }
}

/// All mounts this process sees, in order: a later one hides an earlier one at the same place.
///
/// # Errors
/// `/proc` is not there.
pub fn mounts() -> io::Result<Vec<MountEntry>> {
    let text = std::fs::read("/proc/self/mountinfo")?;
    Ok(text
        .split(|byte| *byte == b'\n')
        .filter_map(parse)
        .collect())
}

/// The kmsfs mount in which `path` lies.
///
/// # Errors
/// `path` cannot be resolved, or `/proc` is not there.
pub fn kmsfs_mount_of(path: &Path) -> io::Result<Option<MountEntry>> {
    let path = path.canonicalize()?;
    let covering = mounts()?
        .into_iter()
        .filter(|mount| path.starts_with(&mount.mountpoint))
        // The longest mount point covers the path; of equal ones the last is on top.
        .max_by_key(|mount| mount.mountpoint.components().count());
    Ok(covering.filter(|mount| mount.fs_type == FS_TYPE))
}

/// The mount on top at exactly this directory.
///
/// # Errors
/// `/proc` is not there.
pub fn mounted_at(mountpoint: &Path) -> io::Result<Option<MountEntry>> {
    Ok(mounts()?
        .into_iter()
        .rfind(|mount| mount.mountpoint == mountpoint))
}

/// Parses a line: `id parent major:minor root mountpoint options [tags] - type source options`.
fn parse(line: &[u8]) -> Option<MountEntry> {
    let mut fields = line.split(|byte| *byte == b' ');
    let device = fields.nth(2)?;
    let root = fields.next()?;
    let mountpoint = fields.next()?;
    let here = fields.next()?;
    let mut tail = fields.skip_while(|field| *field != b"-").skip(1);
    let fs_type = tail.next()?;
    let source = tail.next()?;
    let options = [here, tail.next()?].join(&b',');
    Some(MountEntry {
        device: String::from_utf8(device.to_vec()).ok()?,
        root: unescape(root),
        mountpoint: unescape(mountpoint),
        fs_type: OsStr::from_bytes(fs_type).to_owned(),
        source: unescape(source),
        options: String::from_utf8_lossy(&options).into_owned(),
    })
}

/// Undoes the kernel's octal escapes of blank, tab, newline and backslash.
fn unescape(field: &[u8]) -> PathBuf {
    let mut plain = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&byte, tail)) = rest.split_first() {
        rest = tail;
        if let (b'\\', Some((digits, after))) = (byte, tail.split_first_chunk::<3>())
            && let Some(code) = std::str::from_utf8(digits)
                .ok()
                .and_then(|digits| u8::from_str_radix(digits, 8).ok())
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
    use super::*;

    #[test]
    fn a_line_with_blanks_and_tags() {
        let line =
            b"36 35 0:45 / /mnt/a\\040b rw,noatime shared:1 master:2 - fuse.kmsfs /lo\\134w rw,user_id=7,allow_other";
        let mount = parse(line).unwrap();
        assert_eq!(mount.device, "0:45");
        assert_eq!(mount.mountpoint, Path::new("/mnt/a b"));
        assert_eq!(mount.source, Path::new("/lo\\w"));
        assert_eq!(mount.fs_type, FS_TYPE);
        assert!(mount.has("noatime") && mount.has("allow_other") && !mount.has("ro"));
        assert_eq!(mount.user(), Some(7));
        assert_eq!(parse(b"36 35 0:45 /"), None);
        assert_eq!(parse(b""), None);
    }

    #[test]
    fn this_machine_has_a_root() {
        assert!(mounted_at(Path::new("/")).unwrap().is_some());
        assert_eq!(kmsfs_mount_of(Path::new("/proc")).unwrap(), None);
    }
}
