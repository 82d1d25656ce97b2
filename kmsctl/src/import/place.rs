//! Where an import may take from and put to.

use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use kmsfs::mount::table::{self, MountEntry};

use crate::exit::{Exit, Failure};

/// Both ends of an import, absolute and without links.
#[derive(Debug)]
pub(crate) struct Places {
    pub(crate) source: PathBuf,
    pub(crate) destination: PathBuf,
    /// The mount of kmsfs that the destination is in.
    pub(crate) mount: Option<MountEntry>,
}

impl Places {
    /// Resolves and checks both directories. `any` allows a destination that is not in a kmsfs mount.
    pub(crate) fn check(source: &Path, destination: &Path, any: bool) -> Result<Places, Failure> {
        let (source, destination) = (directory(source)?, directory(destination)?);
        let mount = table::kmsfs_mount_of(&destination)
            .map_err(|error| Failure::local(destination.display(), &error))?;
        let refuse =
            |what: String, next: &str| Err(Failure::new(Exit::FileSystem, what).next(next));
        let (from, to) = (source.display(), destination.display());
        if mount.is_none() && !any {
            return refuse(
                format!("{to} is not in a kmsfs mount: what is put there is not encrypted"),
                "Name a directory below the mount point, or give --any-destination.",
            );
        }
        if within(&destination, &source)? || within(&source, &destination)? {
            return refuse(
                format!("{from} and {to} lie in each other"),
                "Import into a directory outside of the source.",
            );
        }
        if let Some(lower) = mount.as_ref().map(|mount| &mount.source)
            && lower.is_dir()
            && (within(&source, lower)? || within(lower, &source)?)
        {
            return refuse(
                format!(
                    "{from} holds or is in {}, the encrypted directory behind {to}",
                    lower.display()
                ),
                "Name the directory with the plain files as the source.",
            );
        }
        Ok(Places {
            source,
            destination,
            mount,
        })
    }
}

fn directory(path: &Path) -> Result<PathBuf, Failure> {
    let failed = |error: io::Error| Failure::local(path.display(), &error);
    let full = path.canonicalize().map_err(failed)?;
    if full.metadata().map_err(failed)?.is_dir() {
        Ok(full)
    } else {
        Err(failed(io::ErrorKind::NotADirectory.into()))
    }
}

/// Whether `path` is `outer` or below it, by another name of either too (a bind mount).
fn within(path: &Path, outer: &Path) -> Result<bool, Failure> {
    let identity = |path: &Path| {
        let found = path.metadata();
        found.map(|meta| (meta.dev(), meta.ino()))
    };
    let wanted = identity(outer).map_err(|error| Failure::local(outer.display(), &error))?;
    // An ancestor that cannot be looked at is not one that was opened.
    Ok(path.starts_with(outer) || path.ancestors().any(|at| identity(at).ok() == Some(wanted)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trees_in_each_other_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let (outer, inner) = (folder.path().join("a"), folder.path().join("a/b"));
        let beside = folder.path().join("a-beside");
        std::fs::create_dir_all(&inner).unwrap();
        std::fs::create_dir(&beside).unwrap();
        let link = folder.path().join("link");
        std::os::unix::fs::symlink(&inner, &link).unwrap();
        for (from, to) in [
            (&outer, &inner),
            (&inner, &outer),
            (&outer, &outer),
            (&outer, &link),
        ] {
            let failure = Places::check(from, to, true).unwrap_err();
            assert_eq!(failure.exit, Exit::FileSystem);
            assert!(failure.message.contains("in each other"), "{failure:?}");
        }
        Places::check(&outer, &beside, true).unwrap();
        Places::check(&beside, &link, true).unwrap();
    }

    #[test]
    fn an_unencrypted_destination_has_to_be_meant() {
        let folder = tempfile::tempdir().unwrap();
        let (from, to) = (folder.path().join("a"), folder.path().join("b"));
        std::fs::create_dir(&from).unwrap();
        std::fs::create_dir(&to).unwrap();
        let failure = Places::check(&from, &to, false).unwrap_err();
        assert!(failure.message.contains("not encrypted"), "{failure:?}");
        std::fs::write(folder.path().join("file"), "").unwrap();
        Places::check(&folder.path().join("file"), &to, true).unwrap_err();
        Places::check(&folder.path().join("none"), &to, true).unwrap_err();
    }
}
