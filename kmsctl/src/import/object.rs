//! One object: made under a temporary name, verified, made durable, and only then given its name.

use std::ffi::OsStr;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

use rustix::fs::{AtFlags, FileType, Mode, OFlags, RenameFlags};
use rustix::io::Errno;

use super::Import;
use super::attributes::Attributed;
use super::content::{self, Failed};
use super::journal::{Done, lock};
use super::report::How;
use super::tree::{self, Held, Kind, Meta};
use super::trouble::Trouble;
use crate::exit::{Exit, Failure};

/// How often a file is copied again because it changed meanwhile.
const TRIES: usize = 3;

/// A directory of both trees that is being worked on.
pub(crate) struct Pair<'a> {
    /// Its path below the roots.
    pub(crate) below: &'a Path,
    pub(crate) source: OwnedFd,
    pub(crate) destination: OwnedFd,
}

/// A finished copy that has no name yet.
struct Made {
    attributed: Attributed,
    digest: Option<String>,
    held: Held,
}

impl Import<'_> {
    /// Imports anything but a directory or a socket.
    pub(crate) fn object(&self, at: &Pair<'_>, name: &OsStr, meta: &Meta) -> Result<(), Trouble> {
        let below = tree::join(at.below, name);
        let look = Trouble::destination("looking at the destination");
        let there = tree::stat_if_there(&at.destination, name).map_err(look)?;
        let first = self.first_link(meta);
        if let Some(there) = &there
            && let Some(done) = self.finished(&below, meta, there)
            // The other names of the file must lead to the same copy.
            && first.as_ref().is_none_or(|first| self.is_linked(first, there))
        {
            return self.finish(&below, done, meta, first.is_some(), How::Earlier);
        }
        if let Some(first) = &first
            && self.link(at, name, &below, meta, first, there.as_ref())?
        {
            return Ok(());
        }
        if let Some(there) = &there {
            if let Some(done) = self.same(at, name, meta, there)? {
                return self.finish(&below, done, meta, false, How::AlreadyThere);
            }
            self.may_replace(&below, there)?;
        }
        let temporary = self.temporary();
        let made = self
            .make(at, name, &temporary, meta, &below)
            .and_then(|made| {
                give_name(at, &temporary, name, there.is_some())?;
                Ok(made)
            });
        let made = made.inspect_err(|_| remove(&at.destination, &temporary))?;
        let copy = made
            .held
            .stat()
            .map_err(Trouble::destination("looking at the copy"))?;
        let done = Done {
            kind: meta.kind,
            source: made.attributed.meta.seen(),
            copy: copy.seen(),
            digest: made.digest,
            late_flags: made.attributed.late_flags().bits(),
        };
        self.finish(&below, done, meta, false, How::Made)
    }

    /// Records a finished object.
    fn finish(
        &self,
        below: &Path,
        done: Done,
        meta: &Meta,
        is_link: bool,
        how: How,
    ) -> Result<(), Trouble> {
        self.journal
            .finish(below, done)
            .map_err(Trouble::destination("recording what is finished"))?;
        if meta.links > 1 && !is_link {
            lock(&self.links).insert(meta.identity(), below.to_owned());
        }
        self.report.imported(meta.kind, meta.size, is_link, how);
        Ok(())
    }

    pub(super) fn temporary(&self) -> std::ffi::OsString {
        self.journal
            .temporary(self.next.fetch_add(1, Ordering::Relaxed))
    }

    /// What an earlier run recorded, if neither the object nor its copy changed since.
    fn finished(&self, below: &Path, meta: &Meta, there: &Meta) -> Option<Done> {
        let done = self.journal.earlier(below)?;
        let same = done.kind == meta.kind
            && done.kind == there.kind
            && done.source == meta.seen()
            && done.copy.same_content(&there.seen());
        same.then(|| done.clone())
    }

    /// Refuses to write over what this import did not make.
    pub(super) fn may_replace(&self, below: &Path, there: &Meta) -> Result<(), Trouble> {
        let own = self.journal.earlier(below);
        let own = own.is_some_and(|done| done.copy.same_content(&there.seen()));
        match there.kind {
            Kind::Directory => Err(Trouble::problem(
                "there is a directory of this name in the destination; move it away",
            )),
            _ if own || self.options.overwrite => Ok(()),
            _ => Err(Trouble::problem(
                "it is in the destination already and differs; move that away, or give --overwrite",
            )),
        }
    }

    /// Whether the object is in the destination already, in every respect.
    fn same(
        &self,
        at: &Pair<'_>,
        name: &OsStr,
        meta: &Meta,
        there: &Meta,
    ) -> Result<Option<Done>, Trouble> {
        if there.kind != meta.kind || (meta.kind == Kind::File && there.size != meta.size) {
            return Ok(None);
        }
        let own = Held::open(&at.source, name).map_err(Trouble::source("opening it"))?;
        let wanted = Attributed::read(&own).map_err(Trouble::source("reading its attributes"))?;
        let failed = Trouble::destination("comparing it with what is in the destination");
        let copy = Held::open(&at.destination, name).map_err(&failed)?;
        if !wanted.differences(&copy).map_err(&failed)?.is_empty() {
            return Ok(None);
        }
        let mut digest = None;
        match meta.kind {
            Kind::File => {
                let file = tree::open_file(&at.source, name, OFlags::empty())
                    .map_err(Trouble::source("opening it"))?;
                let own =
                    content::digest(&file, meta.size).map_err(Trouble::source("reading it"))?;
                // Whoever put it there may not have: and the source may be removed.
                content::make_durable(&at.destination, name).map_err(&failed)?;
                let direct = self.places.mount.is_some();
                if content::read_back(&at.destination, name, direct).map_err(&failed)? != own {
                    return Ok(None);
                }
                digest = Some(own.to_string());
            }
            Kind::Symlink => {
                let own = own.target().map_err(Trouble::source("reading the link"))?;
                if copy.target().map_err(&failed)? != own {
                    return Ok(None);
                }
            }
            _ => {}
        }
        Ok(Some(Done {
            kind: meta.kind,
            source: wanted.meta.seen(),
            copy: there.seen(),
            digest,
            late_flags: wanted.late_flags().bits(),
        }))
    }

    /// Makes a verified copy named `temporary`.
    fn make(
        &self,
        at: &Pair<'_>,
        name: &OsStr,
        temporary: &OsStr,
        meta: &Meta,
        below: &Path,
    ) -> Result<Made, Trouble> {
        let (made, notes) = match meta.kind {
            Kind::File => self.file(at, name, temporary)?,
            Kind::Symlink => symlink(at, name, temporary)?,
            _ => special(at, name, temporary, meta)?,
        };
        for note in notes {
            self.report.note(below, note);
        }
        for name in &made.attributed.left {
            let what = format!(
                "attribute {} has no meaning elsewhere, it was left out",
                name.display()
            );
            self.report.note(below, what);
        }
        // Reading back moved the access time.
        made.attributed.apply_times(&made.held)?;
        let compare = Trouble::destination("comparing the copy");
        let differences = made.attributed.differences(&made.held).map_err(compare)?;
        if differences.is_empty() {
            return Ok(made);
        }
        Err(Trouble::problem(format!(
            "the copy was dropped, because the destination did not take: {}",
            differences.join(", ")
        )))
    }

    fn file(
        &self,
        at: &Pair<'_>,
        name: &OsStr,
        temporary: &OsStr,
    ) -> Result<(Made, Vec<String>), Trouble> {
        for _ in 0..TRIES {
            match self.file_once(at, name, temporary)? {
                Some(made) => return Ok(made),
                None => remove(&at.destination, temporary),
            }
        }
        Err(Trouble::problem(
            "it changes while it is copied; stop what writes to it, then run the same command again",
        ))
    }

    /// Nothing if the file changed meanwhile.
    fn file_once(
        &self,
        at: &Pair<'_>,
        name: &OsStr,
        temporary: &OsStr,
    ) -> Result<Option<(Made, Vec<String>)>, Trouble> {
        let open = Trouble::source("opening it");
        let from = tree::open_file(&at.source, name, OFlags::empty()).map_err(&open)?;
        let before = tree::stat_open(&from).map_err(&open)?;
        if before.kind != Kind::File {
            return Ok(None);
        }
        let flags =
            OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let to = rustix::fs::openat(&at.destination, temporary, flags, Mode::RUSR | Mode::WUSR)
            .map_err(|error| Trouble::destination("making a file")(error.into()))?;
        let digest = content::copy(&from, &before, &to, |bytes| self.report.progress(bytes));
        let digest = digest.map_err(|failed| match failed {
            Failed::Reading(error) => Trouble::source("reading it")(error),
            Failed::Writing(error) => Trouble::destination("writing the copy")(error),
        })?;
        let own = Held::open(&at.source, name).map_err(&open)?;
        let attributed =
            Attributed::read(&own).map_err(Trouble::source("reading its attributes"))?;
        let made = tree::stat_open(&to).map_err(Trouble::destination("looking at the copy"))?;
        let held = hold_copy(&at.destination, temporary, |meta| {
            meta.identity() == made.identity()
        })?;
        let notes = attributed.apply(&held)?;
        rustix::fs::fsync(&to)
            .map_err(|error| Trouble::destination("making the copy durable")(error.into()))?;
        drop(to);
        let after = tree::stat_open(&from).map_err(&open)?;
        if after.seen() != before.seen() || attributed.meta.seen() != before.seen() {
            return Ok(None);
        }
        let back = content::read_back(&at.destination, temporary, self.places.mount.is_some())
            .map_err(Trouble::destination("reading the copy back"))?;
        if back != digest {
            return Err(Trouble::Stop(
                Failure::new(
                    Exit::Local,
                    format!(
                        "{}: what was read back is not what was written; the copy was dropped",
                        self.source.shown(&tree::join(at.below, name)).display()
                    ),
                )
                .next(
                    "Do not go on before the reason is found: look at the log of kmsfs, the kernel's log, the disk \
                     and the memory of this machine.",
                ),
            ));
        }
        let digest = Some(digest.to_string());
        Ok(Some((
            Made {
                attributed,
                digest,
                held,
            },
            notes,
        )))
    }

    /// The path of the first name of a file that was met, if this is a further one.
    fn first_link(&self, meta: &Meta) -> Option<PathBuf> {
        if meta.links < 2 {
            return None;
        }
        lock(&self.links).get(&meta.identity()).cloned()
    }

    fn is_linked(&self, first: &Path, there: &Meta) -> bool {
        let found = self
            .destination
            .parent(first)
            .and_then(|(parent, name)| tree::stat(&parent, name));
        found.is_ok_and(|first| first.identity() == there.identity())
    }

    /// Gives the copy of `first` another name. False if that cannot be: then it becomes a copy of its own.
    fn link(
        &self,
        at: &Pair<'_>,
        name: &OsStr,
        below: &Path,
        meta: &Meta,
        first: &Path,
        there: Option<&Meta>,
    ) -> Result<bool, Trouble> {
        let Some(done) = self.journal.done(first) else {
            return Ok(false);
        };
        if !done.source.same_content(&meta.seen()) {
            return Err(Trouble::problem(
                "it changed since its other name was imported; run the same command again",
            ));
        }
        if !there.is_some_and(|there| self.is_linked(first, there)) {
            if let Some(there) = there {
                self.may_replace(below, there)?;
            }
            let failed = Trouble::destination("linking it to its other name");
            let (parent, old) = self.destination.parent(first).map_err(&failed)?;
            let temporary = self.temporary();
            match rustix::fs::linkat(&parent, old, &at.destination, &temporary, AtFlags::empty()) {
                Ok(()) => {}
                Err(Errno::XDEV) => {
                    self.report.note(
                        below,
                        format!(
                            "hard link to {}, which is under another key: it became a copy",
                            first.display()
                        ),
                    );
                    return Ok(false);
                }
                Err(Errno::MLINK) => {
                    let what = format!(
                        "the destination allows no more links to {}: it became a copy",
                        first.display()
                    );
                    self.report.note(below, what);
                    return Ok(false);
                }
                Err(error) => return Err(failed(error.into())),
            }
            give_name(at, &temporary, name, there.is_some())
                .inspect_err(|_| remove(&at.destination, &temporary))?;
        }
        let copy = tree::stat(&at.destination, name)
            .map_err(Trouble::destination("looking at the new link"))?;
        let done = Done {
            source: meta.seen(),
            copy: copy.seen(),
            ..done
        };
        self.finish(below, done, meta, true, How::Made)?;
        Ok(true)
    }
}

fn symlink(at: &Pair<'_>, name: &OsStr, temporary: &OsStr) -> Result<(Made, Vec<String>), Trouble> {
    let read = Trouble::source("reading the link");
    let own = Held::open(&at.source, name).map_err(&read)?;
    let target = own.target().map_err(&read)?;
    rustix::fs::symlinkat(target.as_slice(), &at.destination, temporary)
        .map_err(|error| Trouble::destination("making a symlink")(error.into()))?;
    let (made, notes) = attributed(at, temporary, &own)?;
    let back = made
        .held
        .target()
        .map_err(Trouble::destination("reading the copy back"))?;
    if back != target {
        return Err(Trouble::problem(
            "the copy was dropped, because it leads to another target",
        ));
    }
    Ok((made, notes))
}

fn special(
    at: &Pair<'_>,
    name: &OsStr,
    temporary: &OsStr,
    meta: &Meta,
) -> Result<(Made, Vec<String>), Trouble> {
    let own = Held::open(&at.source, name).map_err(Trouble::source("opening it"))?;
    let kind = match meta.kind {
        Kind::CharacterDevice => FileType::CharacterDevice,
        Kind::BlockDevice => FileType::BlockDevice,
        _ => FileType::Fifo,
    };
    let device = rustix::fs::makedev(meta.rdev.0, meta.rdev.1);
    rustix::fs::mknodat(
        &at.destination,
        temporary,
        kind,
        Mode::RUSR | Mode::WUSR,
        device,
    )
    .map_err(|error| Trouble::destination("making a pipe or device")(error.into()))?;
    attributed(at, temporary, &own)
}

fn attributed(
    at: &Pair<'_>,
    temporary: &OsStr,
    own: &Held,
) -> Result<(Made, Vec<String>), Trouble> {
    let attributed = Attributed::read(own).map_err(Trouble::source("reading its attributes"))?;
    // A link or special file is not open while it is made; it belongs to who made it, or to its owner already.
    let user = rustix::process::geteuid().as_raw();
    let held = hold_copy(&at.destination, temporary, |meta| {
        meta.kind == attributed.meta.kind
            && meta.rdev == attributed.meta.rdev
            && meta.links == 1
            && [user, attributed.meta.uid].contains(&meta.uid)
    })?;
    let notes = attributed.apply(&held)?;
    let digest = None;
    Ok((
        Made {
            attributed,
            digest,
            held,
        },
        notes,
    ))
}

/// Holds what was made a moment ago. Whoever may write in the directory can have put something else in its place, which would
/// be given owner and mode of the copy.
fn hold_copy(
    directory: &OwnedFd,
    temporary: &OsStr,
    is_ours: impl FnOnce(&Meta) -> bool,
) -> Result<Held, Trouble> {
    let failed = Trouble::destination("opening the copy");
    let held = Held::open(directory, temporary).map_err(&failed)?;
    if is_ours(&held.stat().map_err(&failed)?) {
        return Ok(held);
    }
    Err(Trouble::problem(
        "somebody put something else in the place of the copy while it was made; see who may write in the destination",
    ))
}

/// Gives a finished object its name; over an existing one only if that was found to be replaceable.
fn give_name(at: &Pair<'_>, temporary: &OsStr, name: &OsStr, replace: bool) -> Result<(), Trouble> {
    let flags = if replace {
        RenameFlags::empty()
    } else {
        RenameFlags::NOREPLACE
    };
    let (from, to) = (&at.destination, &at.destination);
    match rustix::fs::renameat_with(from, temporary, to, name, flags) {
        Err(Errno::EXIST) => Err(Trouble::problem(
            "something of this name appeared in the destination meanwhile",
        )),
        // A file system that cannot refuse to replace; nothing was there a moment ago.
        Err(Errno::INVAL) if !replace => rustix::fs::renameat(from, temporary, to, name)
            .map_err(|error| Trouble::destination("naming the copy")(error.into())),
        result => result.map_err(|error| Trouble::destination("naming the copy")(error.into())),
    }
}

/// Removes a temporary file. What stays is removed by the next run.
pub(super) fn remove(directory: &OwnedFd, temporary: &OsStr) {
    let gone: io::Result<()> =
        rustix::fs::unlinkat(directory, temporary, AtFlags::empty()).map_err(Into::into);
    drop(gone);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_took_the_place_of_a_copy_is_not_given_its_attributes() {
        let folder = tempfile::tempdir().unwrap();
        let directory: OwnedFd = std::fs::File::open(folder.path()).unwrap().into();
        let path = folder.path().join("copy");
        let made: OwnedFd = std::fs::File::create(&path).unwrap().into();
        let made = tree::stat_open(&made).unwrap();
        let hold = || {
            hold_copy(&directory, OsStr::new("copy"), |meta| {
                meta.identity() == made.identity()
            })
        };
        hold().unwrap();
        std::fs::rename(&path, folder.path().join("aside")).unwrap();
        std::fs::write(&path, "of somebody else").unwrap();
        assert!(matches!(hold(), Err(Trouble::Problem(_))));
        std::fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink("aside", &path).unwrap();
        assert!(matches!(hold(), Err(Trouble::Problem(_))));
    }
}
