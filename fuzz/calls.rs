//! The operations of kmsfs by plain path, as the kernel would call them: nothing else here knows their arguments.

use std::collections::{BTreeMap, HashMap};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use kmsfs::errno::{Errno, FsResult};
use kmsfs::fs::{Caller, Entry, Fs, Kind, NodeId, SetAttr};

use super::sample;

/// Who calls.
pub const ROOT: Caller = Caller {
    uid: 0,
    gid: 0,
    pid: 1,
};
/// Files that claim to be larger are not read whole.
const LARGE: u64 = 1 << 20;

/// A file system, called by path. What is said to work panics if it does not.
#[derive(Clone, Copy, Debug)]
pub struct Calls<'a>(pub &'a Fs);

/// Values by name.
pub type Attributes = BTreeMap<Vec<u8>, FsResult<Vec<u8>>>;

/// What can be seen of one object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// What it is.
    pub kind: Kind,
    /// `st_mode` and owner.
    pub plain: (u32, u32),
    /// The content of a file or the target of a symlink, as far as 1 MiB.
    pub content: Result<Vec<u8>, Errno>,
    /// `user.` attributes.
    pub xattrs: FsResult<Attributes>,
}

/// Everything by plain path; a directory that cannot be read is there with an error for its content.
pub type View = BTreeMap<String, Seen>;

impl Calls<'_> {
    /// Finds a path of components.
    pub fn find(&self, path: &str) -> FsResult<Entry> {
        let mut found = None;
        for name in path.split('/') {
            let parent = found.map_or(NodeId::ROOT, |entry: Entry| entry.node);
            found = Some(self.0.lookup(&ROOT, parent, OsStr::new(name))?);
        }
        found.ok_or(Errno::NOENT)
    }

    /// The node at a path that is there.
    pub fn node(&self, path: &str) -> NodeId {
        self.find(path)
            .unwrap_or_else(|errno| panic!("{path}: {errno}"))
            .node
    }

    fn parent<'p>(&self, path: &'p str) -> (NodeId, &'p OsStr) {
        match path.rsplit_once('/') {
            Some((parent, name)) => (self.node(parent), OsStr::new(name)),
            None => (NodeId::ROOT, OsStr::new(path)),
        }
    }

    /// Makes a directory.
    pub fn mkdir(&self, path: &str) {
        let (parent, name) = self.parent(path);
        self.0.mkdir(&ROOT, parent, name, 0o755, 0).expect("mkdir");
    }

    /// Makes a file, or replaces the content of one.
    pub fn put(&self, path: &str, content: &[u8]) {
        let (parent, name) = self.parent(path);
        let (entry, opened) = self
            .0
            .create(&ROOT, parent, name, 0o644, 0, libc::O_RDWR, false)
            .expect("create");
        let shorter = SetAttr {
            size: Some(content.len() as u64),
            ..SetAttr::default()
        };
        self.0
            .setattr(&ROOT, entry.node, None, &shorter)
            .expect("truncate");
        self.0
            .write(&ROOT, opened.fh, 0, &mut content.to_vec(), false)
            .expect("write");
        self.0.fsync(opened.fh, false).expect("fsync");
        self.0.release(opened.fh);
    }

    /// Makes a file of 40 KiB with content at both ends and, in between, a hole.
    pub fn put_holes(&self, path: &str) {
        let (parent, name) = self.parent(path);
        let (_, opened) = self
            .0
            .create(&ROOT, parent, name, 0o644, 0, libc::O_RDWR, false)
            .expect("create");
        for offset in [0, 36 * 1024] {
            self.0
                .write(
                    &ROOT,
                    opened.fh,
                    offset,
                    &mut sample::large(true)[..4096].to_vec(),
                    false,
                )
                .expect("write");
        }
        self.0.fsync(opened.fh, false).expect("fsync");
        self.0.release(opened.fh);
    }

    /// Makes a symlink.
    pub fn symlink(&self, path: &str, target: &[u8]) {
        let (parent, name) = self.parent(path);
        self.0
            .symlink(&ROOT, parent, name, OsStr::from_bytes(target))
            .expect("symlink");
    }

    /// Makes a hard link.
    pub fn hard_link(&self, old: &str, new: &str) {
        let (parent, name) = self.parent(new);
        self.0
            .link(&ROOT, self.node(old), parent, name)
            .expect("link");
    }

    /// Makes a named pipe.
    pub fn fifo(&self, path: &str) {
        let (parent, name) = self.parent(path);
        self.0
            .mknod(&ROOT, parent, name, libc::S_IFIFO | 0o644, 0, 0)
            .expect("mknod");
    }

    /// Sets an attribute of a file that is made for it.
    pub fn set(&self, path: &str, value: &[u8]) {
        self.put(path, b"");
        let name = OsStr::new("user.attribute");
        self.0
            .setxattr(&ROOT, self.node(path), name, value, 0)
            .expect("setxattr");
    }

    /// Sets the attributes of the sample, `user.first` to this value.
    pub fn set_attributes(&self, first: &str) {
        for path in ["folder/small", "folder/large", "folder"] {
            for (name, value) in [("user.first", first), ("user.second", "its sister")] {
                let node = self.node(path);
                self.0
                    .setxattr(&ROOT, node, OsStr::new(name), value.as_bytes(), 0)
                    .expect("setxattr");
            }
            let long = format!("user.{}", "x".repeat(200));
            let node = self.node(path);
            self.0
                .setxattr(&ROOT, node, OsStr::new(&long), b"long name", 0)
                .expect("setxattr");
        }
    }

    /// The names in a directory, `.` and `..` not among them.
    pub fn names(&self, node: NodeId) -> FsResult<Vec<Vec<u8>>> {
        let fh = self.0.opendir(&ROOT, node)?;
        let mut names = Vec::new();
        let read = self.0.readdir(fh, 0, &mut |item| {
            if item.name != "." && item.name != ".." {
                names.push(item.name.as_bytes().to_vec());
            }
            false
        });
        self.0.releasedir(fh);
        read.map(|()| names)
    }

    /// Calls `found` with every object below a directory that can be looked up.
    pub fn each(&self, node: NodeId, prefix: &str, found: &mut dyn FnMut(&str, &Entry)) {
        for name in self.names(node).unwrap_or_default() {
            let Ok(entry) = self.0.lookup(&ROOT, node, OsStr::from_bytes(&name)) else {
                continue;
            };
            let name = String::from_utf8_lossy(&name).into_owned();
            let path = if prefix.is_empty() {
                name
            } else {
                format!("{prefix}/{name}")
            };
            found(&path, &entry);
            if entry.attr.kind == Kind::Directory {
                self.each(entry.node, &path, found);
            }
        }
    }

    /// The content of a file, as far as 1 MiB.
    pub fn content(&self, node: NodeId) -> FsResult<Vec<u8>> {
        let fh = self.0.open(&ROOT, node, libc::O_RDONLY, false)?.fh;
        // As the kernel: opening may have put the size right.
        let size = self.0.getattr(&ROOT, node, None)?.size;
        let mut content = vec![0xee; usize::try_from(size.min(LARGE)).unwrap_or(0)];
        let got = self.0.read(fh, 0, &mut content);
        self.0.release(fh);
        content.truncate(got?);
        Ok(content)
    }

    /// Everything that can be seen.
    pub fn view(&self) -> View {
        let mut view = View::new();
        self.each(NodeId::ROOT, "", &mut |path, entry| {
            let content = match entry.attr.kind {
                Kind::File => self.content(entry.node),
                Kind::Symlink => self.0.readlink(entry.node),
                Kind::Directory => self.names(entry.node).map(|_| Vec::new()),
                _ => Ok(Vec::new()),
            };
            let seen = Seen {
                kind: entry.attr.kind,
                plain: (entry.attr.mode(), entry.attr.uid),
                content,
                xattrs: self.attributes(entry.node),
            };
            view.insert(path.to_owned(), seen);
        });
        view
    }

    fn attributes(&self, node: NodeId) -> FsResult<Attributes> {
        let list = self.0.listxattr(&ROOT, node)?;
        let names = list
            .split(|byte| *byte == 0)
            .filter(|name| name.starts_with(b"user."));
        Ok(names
            .map(|name| {
                (
                    name.to_vec(),
                    self.0.getxattr(&ROOT, node, OsStr::from_bytes(name)),
                )
            })
            .collect())
    }
}

/// The lower path by inode number and depth: hard links of the sample share the depth, so any of them will do.
pub fn inodes(root: &Path) -> HashMap<(u64, usize), String> {
    let mut found = HashMap::new();
    let mut open = vec![root.to_owned()];
    while let Some(folder) = open.pop() {
        for entry in std::fs::read_dir(folder).expect("read a lower directory") {
            let path = entry.expect("an entry").path();
            let meta = path.symlink_metadata().expect("attributes");
            let below = path
                .strip_prefix(root)
                .expect("below the root")
                .to_str()
                .expect("ASCII")
                .to_owned();
            if meta.is_dir() {
                open.push(path);
            }
            found.insert((meta.ino(), below.matches('/').count()), below);
        }
    }
    found
}
