//! Files that enrolment makes, and who owns them.
//!
//! `kmsctl tpm enroll` is usually run by root while the daemon runs as its own user: every file made
//! on the way is given to the owner of the directory it is in.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, chown, lchown};
use std::path::{Path, PathBuf};

use nix::unistd::User;

use crate::config::{Config, Store};
use crate::exit::Failure;

/// The user of the unit kmsd.service.
const SERVICE_USER: &str = "kmsd";

/// A file made by this run, for taking it back.
#[derive(Debug)]
pub(super) enum Made {
    Nothing,
    File(PathBuf),
}

impl Made {
    pub(super) fn undo(self) {
        if let Self::File(path) = self {
            let _ = fs::remove_file(path);
        }
    }
}

/// Makes the store's directory, mode 0700. The default one belongs to the service's user.
pub(super) fn make_store_directory(directory: &Path) -> Result<(), Failure> {
    if directory.is_dir() {
        return Ok(());
    }
    let failed = |e: &io::Error| {
        let what = format!("the directory {}", directory.display());
        Failure::local(
            what,
            e,
            "Make it, owned by the user kmsd runs as, or run this as root.",
        )
    };
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory)
        .map_err(|e| failed(&e))?;
    if directory == Store::default().directory
        && rustix::process::geteuid().is_root()
        && let Ok(Some(user)) = User::from_name(SERVICE_USER)
    {
        chown(directory, Some(user.uid.as_raw()), Some(user.gid.as_raw()))
            .map_err(|e| failed(&e))?;
    }
    Ok(())
}

/// Writes a secret to a new file, mode 0600, durably. A file that is there is never overwritten.
pub(super) fn write_secret(path: &Path, bytes: &[u8], what: &str) -> Result<Made, Failure> {
    let failed = |e: &io::Error| {
        let next = match e.kind() {
            io::ErrorKind::AlreadyExists => "Move that file away, or name another one.",
            _ => "Make its directory, or run this as a user who may write there.",
        };
        Failure::local(format_args!("{what} {}", path.display()), e, next)
    };
    if let Some(parent) = path.parent()
        && !parent.as_os_str().is_empty()
        && !parent.exists()
    {
        DirBuilder::new()
            .recursive(true)
            .mode(0o755)
            .create(parent)
            .map_err(|e| failed(&e))?;
    }
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .map_err(|e| failed(&e))?;
    let made = Made::File(path.to_owned());
    let written = file
        .write_all(bytes)
        .and_then(|()| file.sync_all())
        .and_then(|()| {
            let parent = path
                .parent()
                .filter(|parent| !parent.as_os_str().is_empty());
            File::open(parent.unwrap_or_else(|| Path::new(".")))?.sync_all()
        });
    match written {
        Ok(()) => Ok(made),
        Err(e) => {
            made.undo();
            Err(failed(&e))
        }
    }
}

/// Whose the files made by root become.
#[derive(Debug)]
pub(super) struct Ownership {
    directories: Vec<PathBuf>,
    files: Vec<PathBuf>,
}

impl Ownership {
    /// The store's directory with all in it, and the files of the software sealer.
    pub(super) fn of(config: &Config) -> Self {
        let key_file = config.key_file();
        let mut files = Vec::new();
        if let (Some(parent), Some(name)) = (key_file.parent(), key_file.file_name())
            && parent != config.store.directory
        {
            // Its counter and epoch files lie beside it, with longer names.
            let beside = fs::read_dir(parent).into_iter().flatten().flatten();
            let name = name.as_encoded_bytes();
            files.extend(
                beside
                    .filter(|e| e.file_name().as_encoded_bytes().starts_with(name))
                    .map(|e| e.path()),
            );
            files.push(key_file);
        }
        let mut directories = vec![config.store.directory.clone()];
        let credential = config.credential();
        if credential.parent() == Some(&config.store.directory) {
            directories.dedup();
        } else {
            files.push(credential);
        }
        Self { directories, files }
    }

    /// Gives what root owns there to the owner of the directory it is in. Failures are logged: the
    /// daemon will name the file that it cannot open.
    pub(super) fn apply(&self) {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        for directory in &self.directories {
            for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
                give(&entry.path());
            }
        }
        for file in &self.files {
            give(file);
        }
    }
}

/// Gives a regular file of root's to the owner of its directory. Whoever owns the directory could
/// have put a link there, so neither symbolic nor hard links are followed.
fn give(path: &Path) {
    let Some(parent) = path.parent() else { return };
    let (Ok(file), Ok(directory)) = (fs::symlink_metadata(path), fs::metadata(parent)) else {
        return;
    };
    if !file.is_file() || file.uid() != 0 || file.nlink() != 1 || directory.uid() == 0 {
        return;
    }
    if let Err(error) = lchown(path, Some(directory.uid()), Some(directory.gid())) {
        tracing::warn!(file = %path.display(), %error, "the owner of a file cannot be set");
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn secrets_are_private_and_never_overwritten() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("new/secret");
        let made = write_secret(&path, b"s", "the secret").unwrap();
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600
        );
        let failure = write_secret(&path, b"t", "the secret").unwrap_err();
        assert!(
            failure.next_step.contains("Move that file away"),
            "{failure:?}"
        );
        assert_eq!(fs::read(&path).unwrap(), b"s");
        made.undo();
        assert!(!path.exists());
    }

    #[test]
    fn what_root_makes_goes_to_the_owner_of_the_directory() {
        if !rustix::process::geteuid().is_root() {
            println!("skipped: not root");
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        chown(dir.path(), Some(4321), Some(4322)).unwrap();
        let own = dir.path().join("store.db");
        fs::write(&own, "x").unwrap();
        let outside = tempfile::NamedTempFile::new().unwrap();
        let symlink = dir.path().join("symlink");
        std::os::unix::fs::symlink(outside.path(), &symlink).unwrap();
        let hard = tempfile::NamedTempFile::new_in("/tmp").unwrap();
        let hard_link = dir.path().join("hard");
        fs::hard_link(hard.path(), &hard_link).unwrap();
        let mut config = Config::default();
        config.store.directory = dir.path().to_owned();
        Ownership::of(&config).apply();
        let owner = |path: &Path| fs::metadata(path).unwrap().uid();
        assert_eq!(owner(&own), 4321);
        assert_eq!(fs::metadata(&own).unwrap().gid(), 4322);
        assert_eq!(owner(outside.path()), 0, "symbolic links are not followed");
        assert_eq!(owner(hard.path()), 0, "nor hard links");
    }
}
