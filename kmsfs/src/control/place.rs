//! Where control sockets are, and whether that place can be trusted.

use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use kms_format::VolumeId;

/// Where the control socket of a volume is unless chosen otherwise.
#[must_use]
pub fn default_path(volume: &VolumeId) -> PathBuf {
    directory().join(format!("{volume}.sock"))
}

/// Where control sockets are: `/run/kmsfs` for root, `$XDG_RUNTIME_DIR/kmsfs` for others, and `kmsfs-UID` in the
/// directory for temporary files without that variable.
#[must_use]
pub fn directory() -> PathBuf {
    place().0
}

/// Makes [`directory`] if it is not there, and refuses one that somebody else could have filled.
///
/// # Errors
/// It cannot be made, or is not a directory of this user that only they can change.
pub(crate) fn make() -> io::Result<()> {
    let (path, mode) = place();
    make_at(&path, mode)
}

/// Refuses [`directory`] if somebody else could answer in it.
///
/// # Errors
/// It is not a directory of this user that only they can change. That it is not there is no error.
pub(super) fn check() -> io::Result<()> {
    let (path, mode) = place();
    match check_at(&path, mode) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        checked => checked,
    }
}

/// The directory, and the mode it has. Where everybody can make directories nobody else may look in, either.
fn place() -> (PathBuf, u32) {
    let user = crate::service::mounter();
    if user.is_root() {
        return (PathBuf::from("/run/kmsfs"), 0o755);
    }
    std::env::var_os("XDG_RUNTIME_DIR").map_or_else(
        || {
            let name = format!("kmsfs-{}", user.as_raw());
            (std::env::temp_dir().join(name), 0o700)
        },
        |runtime| (PathBuf::from(runtime).join("kmsfs"), 0o755),
    )
}

fn make_at(path: &Path, mode: u32) -> io::Result<()> {
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent)?;
    }
    match std::fs::DirBuilder::new().mode(mode).create(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => check_at(path, mode),
    }
}

/// A link is refused, too: what it points to can be changed by its owner.
fn check_at(path: &Path, mode: u32) -> io::Result<()> {
    let found = std::fs::symlink_metadata(path)?;
    let user = crate::service::mounter().as_raw();
    let excess = found.permissions().mode() & 0o777 & !mode;
    if found.is_dir() && found.uid() == user && excess == 0 {
        return Ok(());
    }
    Err(io::Error::new(
        io::ErrorKind::PermissionDenied,
        format!(
            "{} is not a directory of user {user} with mode {mode:o}, so somebody else could answer there; remove it, \
             or set XDG_RUNTIME_DIR",
            path.display()
        ),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set_mode(path: &Path, mode: u32) {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn a_directory_is_made_for_its_user_alone_and_found_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("kmsfs");
        make_at(&path, 0o700).unwrap();
        assert_eq!(path.metadata().unwrap().mode() & 0o777, 0o700);
        make_at(&path, 0o700).unwrap();
        check_at(&path, 0o700).unwrap();
    }

    #[test]
    fn a_directory_that_others_can_use_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("kmsfs");
        make_at(&path, 0o700).unwrap();
        for mode in [0o701, 0o720, 0o755, 0o777] {
            set_mode(&path, mode);
            let error = make_at(&path, 0o700).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::PermissionDenied, "{mode:o}");
            assert!(check_at(&path, 0o700).is_err(), "{mode:o}");
        }
        set_mode(&path, 0o775);
        assert!(check_at(&path, 0o755).is_err());
    }

    #[test]
    fn links_files_and_directories_of_others_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let (path, link) = (folder.path().join("kmsfs"), folder.path().join("link"));
        make_at(&path, 0o700).unwrap();
        std::os::unix::fs::symlink(&path, &link).unwrap();
        assert!(make_at(&link, 0o700).is_err());
        let file = folder.path().join("file");
        std::fs::write(&file, "").unwrap();
        set_mode(&file, 0o700);
        assert!(make_at(&file, 0o700).is_err());
        if rustix::process::geteuid().is_root() {
            std::os::unix::fs::chown(&path, Some(65534), None).unwrap();
            assert!(make_at(&path, 0o700).is_err());
        }
    }
}
