//! A lower tree in memory: read from a directory, changed at will, written into another.

use std::collections::{BTreeMap, HashMap};
use std::ffi::OsStr;
use std::fs::{self, File, Permissions};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::fs::{FileExt as _, MetadataExt as _, PermissionsExt as _, symlink};
use std::path::Path;

use rustix::fs::{CWD, FileType, Mode, XattrFlags};

/// What one lower object is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Body {
    /// A directory.
    Directory,
    /// A file: its bytes, and its size, which may be larger: the rest is a hole.
    File(Vec<u8>, u64),
    /// A symlink and its target.
    Symlink(Vec<u8>),
    /// A named pipe.
    Fifo,
    /// `/dev/null` under another name.
    Device,
    /// Another name of the file at this path.
    HardLink(String),
}

/// One lower object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Object {
    /// What it is.
    pub body: Body,
    /// Permission bits.
    pub mode: u32,
    /// Its extended attributes.
    pub xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
}

impl Object {
    /// An object with the usual bits and no attributes.
    pub fn new(body: Body) -> Object {
        let mode = if body == Body::Directory {
            0o755
        } else {
            0o644
        };
        Object {
            body,
            mode,
            xattrs: BTreeMap::new(),
        }
    }

    /// The bytes of a file, to be changed; None for anything else.
    pub fn bytes(&mut self) -> Option<&mut Vec<u8>> {
        match &mut self.body {
            Body::File(bytes, _) => Some(bytes),
            _ => None,
        }
    }
}

/// The objects by their path below the root, which itself is not among them; a directory comes before what is in it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tree(pub BTreeMap<String, Object>);

impl Tree {
    /// Reads a tree whose names are ASCII.
    pub fn read(root: &Path) -> Tree {
        let mut tree = Tree::default();
        let mut seen = HashMap::new();
        tree.read_below(root, "", &mut seen);
        tree
    }

    fn read_below(&mut self, folder: &Path, prefix: &str, seen: &mut HashMap<u64, String>) {
        let mut entries: Vec<_> = fs::read_dir(folder)
            .expect("read a lower directory")
            .map(|entry| entry.expect("an entry").file_name())
            .collect();
        entries.sort();
        for name in entries {
            let path = folder.join(&name);
            let name = name.to_str().expect("lower names are ASCII");
            let place = if prefix.is_empty() {
                name.to_owned()
            } else {
                format!("{prefix}/{name}")
            };
            let meta = path.symlink_metadata().expect("attributes");
            let first = seen.entry(meta.ino()).or_insert_with(|| place.clone());
            let body = match FileType::from_raw_mode(meta.mode()) {
                FileType::Directory => Body::Directory,
                FileType::Symlink => Body::Symlink(
                    fs::read_link(&path)
                        .expect("a target")
                        .into_os_string()
                        .into_vec(),
                ),
                FileType::Fifo => Body::Fifo,
                FileType::RegularFile if *first != place => Body::HardLink(first.clone()),
                FileType::RegularFile => {
                    Body::File(fs::read(&path).expect("read a lower file"), meta.len())
                }
                _ => Body::Device,
            };
            let is_dir = body == Body::Directory;
            let has_xattrs = matches!(body, Body::Directory | Body::File(..));
            let xattrs = if has_xattrs {
                read_xattrs(&path)
            } else {
                BTreeMap::new()
            };
            self.0.insert(
                place.clone(),
                Object {
                    body,
                    mode: meta.mode() & 0o7777,
                    xattrs,
                },
            );
            if is_dir {
                self.read_below(&path, &place, seen);
            }
        }
    }

    /// Writes the tree into an empty directory, as far as it can be: what a change made impossible (two things at one path, a name that
    /// is too long) is left out.
    pub fn write(&self, root: &Path) {
        let is_link = |object: &Object| matches!(object.body, Body::HardLink(_));
        let (links, objects): (Vec<_>, Vec<_>) =
            self.0.iter().partition(|(_, object)| is_link(object));
        for (place, object) in objects.into_iter().chain(links) {
            let path = root.join(place);
            if write_object(root, &path, object).is_err() {
                continue;
            }
            for (name, value) in &object.xattrs {
                let name = OsStr::from_bytes(name);
                let _ = rustix::fs::lsetxattr(&path, name, value, XattrFlags::empty());
            }
            if !matches!(object.body, Body::Symlink(_) | Body::HardLink(_)) {
                let _ = fs::set_permissions(&path, Permissions::from_mode(object.mode));
            }
        }
    }

    /// The object at a path.
    pub fn at(&mut self, path: &str) -> &mut Object {
        self.0
            .get_mut(path)
            .unwrap_or_else(|| panic!("nothing at {path}"))
    }

    /// The paths of everything at or below a path.
    pub fn below(&self, path: &str) -> Vec<String> {
        let inside = format!("{path}/");
        self.0
            .keys()
            .filter(|key| *key == path || key.starts_with(&inside))
            .cloned()
            .collect()
    }

    /// Takes what is at a path, with everything below it, out.
    pub fn take(&mut self, path: &str) -> Vec<(String, Object)> {
        let paths = self.below(path);
        paths
            .into_iter()
            .map(|key| {
                let object = self.0.remove(&key).expect("it was listed");
                (key[path.len()..].to_owned(), object)
            })
            .collect()
    }

    /// Puts what [`Tree::take`] gave at a path.
    pub fn put(&mut self, path: &str, objects: Vec<(String, Object)>) {
        self.0.extend(
            objects
                .into_iter()
                .map(|(rest, object)| (format!("{path}{rest}"), object)),
        );
    }

    /// A copy of what is at a path and below it.
    pub fn copy(&self, path: &str) -> Vec<(String, Object)> {
        let paths = self.below(path);
        paths
            .iter()
            .map(|key| (key[path.len()..].to_owned(), self.0[key].clone()))
            .collect()
    }

    /// Exchanges two objects with everything below them.
    pub fn swap(&mut self, a: &str, b: &str) {
        let (from_a, from_b) = (self.take(a), self.take(b));
        self.put(a, from_b);
        self.put(b, from_a);
    }
}

fn write_object(root: &Path, path: &Path, object: &Object) -> std::io::Result<()> {
    match &object.body {
        Body::Directory => fs::create_dir(path),
        Body::File(bytes, size) => {
            let file = File::options().write(true).create_new(true).open(path)?;
            for (number, page) in bytes.chunks(4096).enumerate() {
                if page.iter().any(|byte| *byte != 0) {
                    file.write_all_at(page, number as u64 * 4096)?;
                }
            }
            // A size that the lower file system cannot hold stays as near as it was.
            file.set_len(*size)
                .or_else(|_| file.set_len(bytes.len() as u64))
        }
        Body::Symlink(target) => symlink(OsStr::from_bytes(target), path),
        Body::Fifo => Ok(rustix::fs::mknodat(
            CWD,
            path,
            FileType::Fifo,
            Mode::from_bits_truncate(0o644),
            0,
        )?),
        Body::Device => {
            let null = rustix::fs::makedev(1, 3);
            let mode = Mode::from_bits_truncate(0o666);
            // Without the right to make devices a pipe has to do.
            Ok(
                rustix::fs::mknodat(CWD, path, FileType::CharacterDevice, mode, null)
                    .or_else(|_| rustix::fs::mknodat(CWD, path, FileType::Fifo, mode, 0))?,
            )
        }
        Body::HardLink(first) => fs::hard_link(root.join(first), path),
    }
}

fn read_xattrs(path: &Path) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let mut list = vec![0; 64 * 1024];
    let length = rustix::fs::llistxattr(path, &mut list).unwrap_or(0);
    list[..length]
        .split(|byte| *byte == 0)
        .filter(|name| name.starts_with(b"user."))
        .map(|name| {
            let mut value = vec![0; 64 * 1024];
            let length =
                rustix::fs::lgetxattr(path, OsStr::from_bytes(name), &mut value).expect("a value");
            value.truncate(length);
            (name.to_vec(), value)
        })
        .collect()
}
