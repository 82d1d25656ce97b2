//! What can be seen of a tree, and whether it is one of two or something in between.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

/// An object as it is seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Seen {
    kind: char,
    mode: u32,
    owner: (u32, u32),
    links: u64,
    /// Bytes, or the target of a symlink.
    content: Vec<u8>,
    xattrs: BTreeMap<String, Vec<u8>>,
}

impl Seen {
    pub(super) fn is_file(&self) -> bool {
        self.kind == 'f'
    }

    /// How many bytes were compared.
    pub(super) fn length(&self) -> u64 {
        self.content.len() as u64
    }
}

pub(super) type Tree = BTreeMap<PathBuf, Seen>;

/// Everything below `root`. Whatever cannot be read is an error.
pub(super) fn tree(root: &Path) -> Tree {
    let mut tree = Tree::new();
    let mut open = vec![PathBuf::new()];
    while let Some(folder) = open.pop() {
        let listed = fs::read_dir(root.join(&folder));
        for entry in listed.unwrap_or_else(|error| panic!("{}: {error}", folder.display())) {
            let below = folder.join(entry.expect("an entry").file_name());
            let seen = look(&root.join(&below));
            if seen.kind == 'd' {
                open.push(below.clone());
            }
            tree.insert(below, seen);
        }
    }
    tree
}

fn look(path: &Path) -> Seen {
    let fail = |error: std::io::Error| -> ! { panic!("{}: {error}", path.display()) };
    let meta = path.symlink_metadata().unwrap_or_else(|error| fail(error));
    let kind = meta.file_type();
    let (kind, content) = if kind.is_dir() {
        ('d', Vec::new())
    } else if kind.is_symlink() {
        let target = fs::read_link(path).unwrap_or_else(|error| fail(error));
        ('l', target.as_os_str().as_bytes().to_vec())
    } else if kind.is_fifo() {
        ('p', Vec::new())
    } else {
        let content = fs::read(path).unwrap_or_else(|error| fail(error));
        assert_eq!(content.len() as u64, meta.len(), "{}", path.display());
        ('f', content)
    };
    Seen {
        kind,
        mode: meta.mode() & 0o7777,
        owner: (meta.uid(), meta.gid()),
        links: if kind == 'd' { 0 } else { meta.nlink() },
        content,
        xattrs: xattrs(path),
    }
}

fn xattrs(path: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut names = vec![0; 4096];
    let length = rustix::fs::llistxattr(path, &mut names[..]).unwrap_or(0);
    let names = String::from_utf8_lossy(&names[..length]).into_owned();
    names
        .split('\0')
        .filter(|name| name.starts_with("user.") || name.starts_with("trusted."))
        .map(|name| {
            let mut value = vec![0; 4096];
            let length = rustix::fs::lgetxattr(path, name, &mut value[..])
                .unwrap_or_else(|error| panic!("{name} of {}: {error}", path.display()));
            value.truncate(length);
            (name.to_owned(), value)
        })
        .collect()
}

/// Whether `found` is what a step that led from `before` to `after` leaves when it is stopped somewhere.
pub(super) fn between(before: &Tree, after: &Tree, found: &Tree) -> Result<(), String> {
    if found == before || found == after {
        return Ok(());
    }
    let names = |tree: &Tree| tree.keys().cloned().collect::<Vec<_>>();
    if names(found) != names(before) && names(found) != names(after) {
        return Err(format!(
            "the names are {:?}, before {:?}, after {:?}",
            names(found),
            names(before),
            names(after)
        ));
    }
    for (path, seen) in found {
        let sides = [before.get(path), after.get(path)];
        if sides.contains(&Some(seen)) {
            continue;
        }
        let sides: Vec<_> = sides.into_iter().flatten().collect();
        let same_kind = sides.iter().all(|side| side.kind == seen.kind);
        // A new object is given to its owner in further calls.
        if sides.len() == 1 && same_kind && seen.content.is_empty() {
            continue;
        }
        if !same_kind || !mixed(&sides, &seen.content) {
            return Err(format!(
                "{} is neither as before nor as after: {} bytes, mode {:o}",
                path.display(),
                seen.content.len(),
                seen.mode
            ));
        }
    }
    Ok(())
}

/// Each byte is as on one of the sides; the length is between theirs.
fn mixed(sides: &[&Seen], content: &[u8]) -> bool {
    let lengths = || sides.iter().map(|side| side.content.len());
    let fits = lengths().min() <= Some(content.len()) && Some(content.len()) <= lengths().max();
    fits && content
        .iter()
        .enumerate()
        .all(|(at, byte)| sides.iter().any(|side| side.content.get(at) == Some(byte)))
}
