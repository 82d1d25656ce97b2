//! The source before anything is copied: how much it is, and for `--dry-run` what would not work.

use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;

use super::report::Report;
use super::select::Excludes;
use super::tree::{self, Kind, Meta, Tree};

/// Sums over the source.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Totals {
    /// Sizes of all files, each once for every name it has.
    pub(crate) bytes: u64,
    /// What they occupy.
    pub(crate) occupied: u64,
}

/// Which entries of a directory are wanted.
pub(crate) struct Selection<'a> {
    pub(crate) excludes: &'a Excludes,
    /// Device of the root, unless other file systems are entered too.
    pub(crate) device: Option<(u32, u32)>,
}

impl Selection<'_> {
    /// Whether what is in a directory is wanted: it may be the mount point of another file system.
    pub(crate) fn enters(&self, directory: &Meta) -> bool {
        self.device.is_none_or(|device| device == directory.device)
    }
}

/// Adds up the source. What cannot be read is passed over here, and named when it is copied.
pub(crate) fn totals(source: &Tree, selection: &Selection<'_>) -> Totals {
    let mut totals = Totals::default();
    walk(
        source,
        selection,
        |_, _, meta| {
            if meta.kind == Kind::File {
                totals.bytes += meta.size;
                totals.occupied +=
                    meta.blocks.saturating_mul(512).min(meta.size) / u64::from(meta.links.max(1));
            }
        },
        |_, _| {},
    );
    totals
}

/// Reports what an import would do, as far as that can be known without copying.
pub(crate) fn dry_run(
    source: &Tree,
    destination: &Tree,
    selection: &Selection<'_>,
    overwrite: bool,
    report: &Report,
) {
    walk(
        source,
        selection,
        |parent, below, meta| match meta.kind {
            Kind::Socket => report.note(below, SOCKET),
            Kind::Directory if !selection.enters(meta) => {
                report.note(below, OTHER_FILE_SYSTEM);
                report.imported(meta.kind, 0, false, super::report::How::Made);
            }
            kind => {
                if let Err(problem) = would(parent, destination, below, meta, overwrite) {
                    report.problem(below, problem);
                } else {
                    report.imported(kind, meta.size, false, super::report::How::Made);
                }
            }
        },
        |below, error| report.problem(below, format!("it cannot be read: {error}")),
    );
    // Excluded ones are not visited.
}

pub(crate) const SOCKET: &str =
    "a socket: it means something only to the program that made it, and was left out";
pub(crate) const OTHER_FILE_SYSTEM: &str = "another file system is mounted here: only the empty directory is imported (--cross-file-systems imports all)";

fn would(
    parent: &std::os::fd::OwnedFd,
    destination: &Tree,
    below: &Path,
    meta: &Meta,
    overwrite: bool,
) -> Result<(), String> {
    let name = below.file_name().unwrap_or_default();
    if meta.kind == Kind::File {
        tree::open_file(parent, name, OFlags::empty())
            .map_err(|error| format!("it cannot be read: {error}"))?;
    }
    let there = match destination
        .parent(below)
        .and_then(|(parent, name)| tree::stat_if_there(&parent, name))
    {
        Ok(Some(there)) => there,
        Ok(None) => return Ok(()),
        // Its directory does not exist yet.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(format!("the destination cannot be looked at: {error}")),
    };
    let both = (meta.kind == Kind::Directory, there.kind == Kind::Directory);
    let same = there.kind == meta.kind && there.mtime == meta.mtime && there.size == meta.size;
    match both {
        (true, true) => Ok(()),
        (false, false) if overwrite || same => Ok(()),
        (false, false) => Err(
            "it is in the destination already and differs; move that away, or give --overwrite"
                .into(),
        ),
        (true, false) | (false, true) => {
            Err("something of another type has this name in the destination; move it away".into())
        }
    }
}

/// Visits every wanted entry below the root, directories before what is in them.
fn walk(
    source: &Tree,
    selection: &Selection<'_>,
    mut visit: impl FnMut(&std::os::fd::OwnedFd, &Path, &Meta),
    mut unreadable: impl FnMut(&Path, io::Error),
) {
    let mut open = vec![PathBuf::new()];
    while let Some(below) = open.pop() {
        let listed = source
            .directory(&below)
            .and_then(|directory| Ok((tree::list(&directory)?, directory)));
        let (names, directory) = match listed {
            Ok(listed) => listed,
            Err(error) => {
                unreadable(&below, error);
                continue;
            }
        };
        for name in names {
            let path = tree::join(&below, &name);
            if selection.excludes.matches(&path) {
                continue;
            }
            match tree::stat(&directory, &name) {
                Ok(meta) => {
                    visit(&directory, &path, &meta);
                    if meta.kind == Kind::Directory && selection.enters(&meta) {
                        open.push(path);
                    }
                }
                Err(error) => unreadable(&path, error),
            }
        }
    }
}
