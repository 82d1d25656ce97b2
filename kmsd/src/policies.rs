//! Policies in files: identity policies and guard rails below one directory that belongs to root.
//!
//! ```text
//! users/NAME/*.json   groups/NAME/*.json   units/UNIT/*.json   roles/NAME/*.json   guard-rails/*.json
//! ```
//!
//! The files are one set: all of them are in force, or, when one is wrong, those that were before. Whoever
//! could write one would have every permission, so each of them, and every directory on the way, must
//! belong to root and be writable by nobody else.

use std::fmt;
use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use kms_core::authz::FilePolicies;
use kms_core::rows::IdentityKind;
use parking_lot::Mutex;
use rustix::fs::{Dir, FileType, Mode, OFlags, fstat, open, openat};

use crate::config::identity::is_iam_name;

#[cfg(test)]
mod tests;

/// Largest file, in bytes; AWS takes far less.
const MAX_FILE: u64 = 64 * 1024;
/// Most files.
const MAX_FILES: usize = 10_000;

/// The directories of identities.
const KINDS: [(&str, IdentityKind); 4] = [
    ("users", IdentityKind::User),
    ("groups", IdentityKind::Group),
    ("units", IdentityKind::Unit),
    ("roles", IdentityKind::Role),
];
const GUARD_RAILS: &str = "guard-rails";

/// What is wrong with a file or directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The file or directory.
    pub path: PathBuf,
    /// What is wrong with it.
    pub reason: String,
}

/// Everything that is wrong with the policy files.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct PolicyFilesError(pub Vec<Fault>);

impl fmt::Display for PolicyFilesError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, fault) in self.0.iter().enumerate() {
            let separator = if index == 0 { "" } else { "; " };
            write!(f, "{separator}{}: {}", fault.path.display(), fault.reason)?;
        }
        Ok(())
    }
}

/// Tells versions of all files and directories apart, without reading them.
type Fingerprint = Vec<(PathBuf, [i64; 8])>;

/// The policy files, and what they were when they were last read.
#[derive(Debug)]
pub struct PolicyFiles {
    directory: PathBuf,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// As last read, well or not.
    read: Fingerprint,
    /// As last seen.
    seen: Fingerprint,
    /// Whether there was a directory that could be read.
    existed: bool,
}

impl PolicyFiles {
    /// The files below `directory`. A directory that was never there is an empty one.
    pub fn new(directory: impl Into<PathBuf>) -> Self {
        Self {
            directory: directory.into(),
            state: Mutex::default(),
        }
    }

    /// The directory.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Whether the files have changed since they were read, and have then been left alone from one call to
    /// the next. To be asked about once a second.
    pub fn have_changed(&self) -> bool {
        let now = fingerprint(&self.directory);
        let mut state = self.state.lock();
        let is_settled = state.seen == now;
        state.seen = now;
        is_settled && state.seen != state.read
    }

    /// Reads the whole set.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn read(&self) -> Result<FilePolicies, PolicyFilesError> {
        // Before: what changes while it is read is read again.
        let before = fingerprint(&self.directory);
        let mut state = self.state.lock();
        state.read = before;
        let mut reader = Reader::default();
        match reader.root(&self.directory) {
            Ok(true) => state.existed = true,
            Ok(false) if state.existed => reader.fault(
                &self.directory,
                "is gone; make it an empty directory if there are to be no policies",
            ),
            Ok(false) => {}
            Err(error) => reader.fault(&self.directory, error),
        }
        if reader.faults.is_empty() {
            Ok(reader.policies)
        } else {
            Err(PolicyFilesError(reader.faults))
        }
    }
}

/// An open directory.
struct Place {
    path: PathBuf,
    fd: OwnedFd,
}

#[derive(Default)]
struct Reader {
    policies: FilePolicies,
    files: usize,
    faults: Vec<Fault>,
}

impl Reader {
    fn fault(&mut self, path: &Path, reason: impl fmt::Display) {
        self.faults.push(Fault {
            path: path.to_owned(),
            reason: reason.to_string(),
        });
    }

    /// Whether there is such a directory.
    fn root(&mut self, directory: &Path) -> io::Result<bool> {
        let real = match directory.canonicalize() {
            Ok(real) => real,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(error),
        };
        for parent in real.ancestors().skip(1) {
            let meta = parent.metadata()?;
            // In a sticky directory nobody can replace what is root's.
            let is_open = meta.mode() & 0o022 != 0 && meta.mode() & 0o1000 == 0;
            if !is_trusted(meta.uid()) || is_open {
                self.fault(parent, NOT_ROOTS);
            }
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let place = Place {
            fd: open(&real, flags, Mode::empty())?,
            path: real,
        };
        if !self.check(&place.path, &place.fd)? {
            return Ok(true);
        }
        for (name, kind) in self.entries(&place)? {
            if kind != FileType::Directory && !name.ends_with(".json") {
                continue;
            }
            let found = KINDS.iter().find(|(known, _)| *known == name);
            if let Some((_, kind)) = found {
                self.identities(&place, &name, *kind);
            } else if name == GUARD_RAILS {
                self.documents(&place, &name, None);
            } else {
                self.fault(
                    &place.path.join(&name),
                    "is none of users, groups, units, roles and guard-rails",
                );
            }
        }
        Ok(true)
    }

    /// A directory with one for each identity.
    fn identities(&mut self, parent: &Place, name: &str, kind: IdentityKind) {
        let Some((place, entries)) = self.directory(parent, name) else {
            return;
        };
        for (identity, what) in entries {
            let path = place.path.join(&identity);
            if what != FileType::Directory {
                if identity.ends_with(".json") {
                    self.fault(
                        &path,
                        "belongs into a directory with the name of whom it is for",
                    );
                }
                continue;
            }
            let is_name = match kind {
                IdentityKind::Unit => crate::auth::is_unit_name(&identity),
                IdentityKind::User | IdentityKind::Group | IdentityKind::Role => {
                    is_iam_name(&identity)
                }
            };
            if is_name {
                self.documents(&place, &identity, Some(kind));
            } else {
                self.fault(&path, "is not a name that an identity can have");
            }
        }
    }

    /// A directory with documents: of the identity that it is named after, or guard rails.
    fn documents(&mut self, parent: &Place, identity: &str, kind: Option<IdentityKind>) {
        let Some((place, entries)) = self.directory(parent, identity) else {
            return;
        };
        for (file, what) in entries {
            let Some(name) = file.strip_suffix(".json") else {
                if what == FileType::Directory {
                    self.fault(&place.path.join(&file), "a directory is not expected here");
                }
                continue;
            };
            let path = place.path.join(&file);
            if !is_iam_name(name) {
                self.fault(&path, "is not a name that a policy can have");
                continue;
            }
            match self.document(&place, &file) {
                Ok(Some(text)) => {
                    let added = match kind {
                        Some(kind) => self
                            .policies
                            .add_identity_policy(kind, identity, name, &text),
                        None => self.policies.add_guard_rail(name, &text),
                    };
                    if let Err(error) = added {
                        self.fault(&path, error);
                    }
                }
                Ok(None) => {}
                Err(error) => self.fault(&path, error),
            }
        }
    }

    fn document(&mut self, place: &Place, file: &str) -> io::Result<Option<String>> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
        let path = place.path.join(file);
        let fd = openat(&place.fd, file, flags, Mode::empty()).map_err(|errno| match errno {
            rustix::io::Errno::LOOP => io::Error::other("must be a file, not a symbolic link"),
            errno => errno.into(),
        })?;
        if FileType::from_raw_mode(fstat(&fd)?.st_mode) != FileType::RegularFile {
            return Err(io::Error::other("must be a regular file"));
        }
        if !self.check(&path, &fd)? {
            return Ok(None);
        }
        self.files += 1;
        if self.files > MAX_FILES {
            return Err(io::Error::other(format!(
                "is one more than {MAX_FILES} files"
            )));
        }
        let mut text = String::new();
        File::from(fd)
            .take(MAX_FILE + 1)
            .read_to_string(&mut text)?;
        if text.len() as u64 > MAX_FILE {
            return Err(io::Error::other(format!("is longer than {MAX_FILE} bytes")));
        }
        Ok(Some(text))
    }

    /// A directory and what is in it, in order.
    fn directory(
        &mut self,
        parent: &Place,
        name: &str,
    ) -> Option<(Place, Vec<(String, FileType)>)> {
        let path = parent.path.join(name);
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let opened = openat(&parent.fd, name, flags, Mode::empty()).map_err(io::Error::from);
        let found = opened.and_then(|fd| {
            let place = Place {
                path: path.clone(),
                fd,
            };
            match self.check(&path, &place.fd)? {
                true => self.entries(&place).map(|entries| Some((place, entries))),
                false => Ok(None),
            }
        });
        found.unwrap_or_else(|error| {
            self.fault(&path, error);
            None
        })
    }

    /// Names and kinds; hidden ones (editors' temporary files) are passed over.
    fn entries(&mut self, place: &Place) -> io::Result<Vec<(String, FileType)>> {
        let mut entries = Vec::new();
        for entry in Dir::read_from(&place.fd)? {
            let entry = entry?;
            let Ok(name) = entry.file_name().to_str() else {
                let name = entry.file_name().to_string_lossy().into_owned();
                self.fault(&place.path.join(name), "the name is not UTF-8");
                continue;
            };
            if name.starts_with('.') {
                continue;
            }
            let kind = match entry.file_type() {
                FileType::Unknown => {
                    let flags = rustix::fs::AtFlags::SYMLINK_NOFOLLOW;
                    let meta = rustix::fs::statat(&place.fd, name, flags)?;
                    FileType::from_raw_mode(meta.st_mode)
                }
                known => known,
            };
            entries.push((name.to_owned(), kind));
        }
        entries.sort_by(|a, b| a.0.cmp(&b.0));
        Ok(entries)
    }

    /// Whether an open file or directory belongs to root and is writable by nobody else.
    fn check(&mut self, path: &Path, fd: &OwnedFd) -> io::Result<bool> {
        let meta = fstat(fd)?;
        let good = is_trusted(meta.st_uid) && meta.st_mode & 0o022 == 0;
        if !good {
            self.fault(path, NOT_ROOTS);
        }
        Ok(good)
    }
}

const NOT_ROOTS: &str =
    "must belong to root and be writable by nobody else: chown root and chmod go-w";

/// Root, or whoever kmsd runs as, who has all keys anyway.
fn is_trusted(uid: u32) -> bool {
    uid == 0 || uid == rustix::process::geteuid().as_raw()
}

fn fingerprint(directory: &Path) -> Fingerprint {
    let mut all = Vec::new();
    let mut waiting = vec![(directory.to_owned(), 0)];
    while let Some((path, depth)) = waiting.pop() {
        // The directory itself may be a link.
        let meta = match depth {
            0 => path.metadata(),
            _ => path.symlink_metadata(),
        };
        let Ok(meta) = meta else { continue };
        if meta.is_dir() && depth < 3 && all.len() <= MAX_FILES {
            let entries = std::fs::read_dir(&path).into_iter().flatten().flatten();
            waiting.extend(entries.map(|entry| (entry.path(), depth + 1)));
        }
        let version = [
            i64::try_from(meta.dev()).unwrap_or(0),
            i64::try_from(meta.ino()).unwrap_or(0),
            i64::try_from(meta.size()).unwrap_or(0),
            meta.mtime(),
            meta.mtime_nsec(),
            meta.ctime(),
            meta.ctime_nsec(),
            i64::from(meta.mode()) << 32 | i64::from(meta.uid()),
        ];
        all.push((path, version));
    }
    all.sort();
    all
}
