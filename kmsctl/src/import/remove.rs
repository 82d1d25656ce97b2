//! Removing the source, after everything in it was verified and made durable.
//!
//! A name is removed only if the record of this import has it, the object is as it was when it was copied, and the copy
//! is as it was made. Everything else stays and is named. The root of the source stays, empty.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, OFlags};
use rustix::io::Errno;

use super::Import;
use super::tree::{self, Held, Identity, Kind, Seen};

enum Step {
    Enter(PathBuf),
    Leave(PathBuf),
}

/// The state of files with several names: removing one moves the ctime that the others are compared by.
type Links = HashMap<Identity, Seen>;

impl Import<'_> {
    /// Makes everything durable that fsync of single objects may have left out.
    pub(super) fn make_durable(&self) -> std::io::Result<()> {
        rustix::fs::syncfs(self.destination.root())?;
        if let Some(mount) = &self.places.mount {
            // What kmsfs wrote is in the cache of the lower file system. Each object was fsynced through the mount already; a user
            // who may not open the lower directory relies on that.
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
            if let Ok(lower) = rustix::fs::open(&mount.source, flags, rustix::fs::Mode::empty()) {
                rustix::fs::syncfs(&lower)?;
            }
        }
        Ok(())
    }

    /// Removes what was imported from the source; what stays is a problem, or was named before.
    pub(super) fn remove_source(&self) {
        let mut links = Links::new();
        let mut steps = vec![Step::Enter(PathBuf::new())];
        while let Some(step) = steps.pop() {
            match step {
                Step::Enter(below) => {
                    let inner = self.remove_in(&below, &mut links);
                    if !below.as_os_str().is_empty() {
                        steps.push(Step::Leave(below));
                    }
                    steps.extend(inner.into_iter().rev().map(Step::Enter));
                }
                Step::Leave(below) => self.remove_directory(&below),
            }
        }
    }

    /// Removes the files of a directory, and gives the directories in it.
    fn remove_in(&self, below: &Path, links: &mut Links) -> Vec<PathBuf> {
        let listed = self
            .source
            .directory(below)
            .and_then(|directory| Ok((tree::list(&directory)?, directory)));
        let (names, directory) = match listed {
            Ok(listed) => listed,
            Err(error) => {
                self.report
                    .problem(below, format!("it stays in the source: {error}"));
                return Vec::new();
            }
        };
        let mut inner = Vec::new();
        for name in names {
            let path = tree::join(below, &name);
            if self.selection.excludes.matches(&path) {
                continue;
            }
            match self.remove_one(&directory, &name, &path, links) {
                Ok(None) => {}
                Ok(Some(directory)) => inner.push(directory),
                Err(why) => self
                    .report
                    .problem(&path, format!("it stays in the source: {why}")),
            }
        }
        inner
    }

    /// Removes one name; a directory is returned instead.
    fn remove_one(
        &self,
        directory: &OwnedFd,
        name: &OsStr,
        path: &Path,
        links: &mut Links,
    ) -> Result<Option<PathBuf>, String> {
        let held = Held::open(directory, name).map_err(|error| error.to_string())?;
        let meta = held.stat().map_err(|error| error.to_string())?;
        match meta.kind {
            // Named when it was left out.
            Kind::Socket => return Ok(None),
            Kind::Directory => return Ok(self.selection.enters(&meta).then(|| path.to_owned())),
            _ => {}
        }
        let Some(done) = self.journal.done(path) else {
            return Err("it came after the import".to_owned());
        };
        let key = meta.identity();
        let unchanged = match links.get(&key) {
            Some(seen) => *seen == meta.seen() && done.source.same_content(seen),
            None => done.source == meta.seen(),
        };
        if done.kind != meta.kind || !unchanged {
            return Err("it changed since it was imported".to_owned());
        }
        let copy = self
            .destination
            .parent(path)
            .and_then(|(parent, name)| tree::stat(&parent, name))
            .map_err(|error| format!("its copy: {error}"))?;
        if copy.kind != done.kind || !done.copy.same_content(&copy.seen()) {
            return Err("its copy changed since it was imported".to_owned());
        }
        rustix::fs::unlinkat(directory, name, AtFlags::empty())
            .map_err(|error| error.to_string())?;
        self.report.count(|sums| sums.removed += 1);
        if meta.links > 1
            && let Ok(now) = held.stat()
        {
            links.insert(key, now.seen());
        }
        Ok(None)
    }

    fn remove_directory(&self, below: &Path) {
        // Recorded only if it was imported whole.
        if self.journal.done(below).is_none() {
            return;
        }
        let removed = self.source.parent(below).and_then(|(parent, name)| {
            Ok(rustix::fs::unlinkat(&parent, name, AtFlags::REMOVEDIR)?)
        });
        match removed {
            Ok(()) => self.report.count(|sums| sums.removed += 1),
            // What keeps it was named, excluded or left out.
            Err(error) if error.raw_os_error() == Some(Errno::NOTEMPTY.raw_os_error()) => {}
            Err(error) => self
                .report
                .problem(below, format!("it stays in the source: {error}")),
        }
    }
}
