//! A volume with one of everything, made once for each content mode, and its lower tree in memory.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::{Arc, LazyLock};

use kms_format::{ContentMode, DirHeader, UnlockedPolicy, VolumeId};
use kmsfs::fs::{Fs, NodeId};
use kmsfs::volume::Keys;
use rustix::fs::XattrFlags;
use tempfile::TempDir;

use super::calls::{self, Calls};
use super::input::from_seed;
use super::keys::{FixedKeys, policy_of};
use super::tree::Tree;

/// In every plain name, content, target and attribute value below `foreign`, whose key is refused.
pub const MARK: &[u8] = b"PLAINTEXT-UNDER-A-REFUSED-KEY";
/// The content modes that mount.
pub const MODES: &[ContentMode] = &[ContentMode::Xts, ContentMode::Gcm];
/// The name of the file at `long_name()` has this many bytes.
pub const LONG: usize = 250;

/// The lower tree of a volume, and the keys to it.
pub struct Sample {
    /// The mode of all its policies.
    pub mode: ContentMode,
    /// The keys: of policy 2 (the root), of policy 3 (`nested`), not of policy 4 (`foreign`).
    pub keys: Arc<FixedKeys>,
    /// The policy of the root.
    pub policy: Arc<UnlockedPolicy>,
    /// Everything as it is.
    pub tree: Tree,
    /// The same objects before their last change.
    pub older: Tree,
    /// Where each plain path is in the lower tree.
    pub lower: HashMap<String, String>,
    /// Another volume, with a file and a directory of the same plain names.
    pub other: Tree,
    /// Where the plain paths of the other volume are.
    pub other_lower: HashMap<String, String>,
    /// Whether the lower file system has `user.` attributes.
    pub xattrs: bool,
}

/// The sample of a mode, made at the first use.
pub fn sample(mode: ContentMode) -> &'static Sample {
    static XTS: LazyLock<Sample> = LazyLock::new(|| Sample::make(ContentMode::Xts));
    static GCM: LazyLock<Sample> = LazyLock::new(|| Sample::make(ContentMode::Gcm));
    match mode {
        ContentMode::Xts => &XTS,
        ContentMode::Gcm => &GCM,
    }
}

/// A plain name that is stored as a hash, with a record beside it.
pub fn long_name() -> String {
    "n".repeat(LONG)
}

/// A target that is stored in a record.
pub fn long_target() -> String {
    "t/".repeat(1500)
}

/// The content of `folder/large`, and of `older`, its content before.
pub fn large(older: bool) -> Vec<u8> {
    from_seed(if older { 11 } else { 12 }, 5 * 4096 + 77)
}

/// A folder for a lower tree: in memory, if files there can have attributes.
pub fn lower_folder() -> TempDir {
    let shared = PathBuf::from("/dev/shm");
    if let Ok(folder) = tempfile::Builder::new().prefix("kms-").tempdir_in(shared)
        && has_xattrs(folder.path())
    {
        return folder;
    }
    tempfile::tempdir().expect("a folder")
}

fn has_xattrs(path: &std::path::Path) -> bool {
    rustix::fs::setxattr(path, "user.kmsfs.probe", b"x", XattrFlags::empty()).is_ok()
        && rustix::fs::removexattr(path, "user.kmsfs.probe").is_ok()
}

impl Sample {
    fn make(mode: ContentMode) -> Sample {
        let keys = Arc::new(FixedKeys::default());
        let [root, nested, foreign] =
            [2, 3, 4].map(|number| keys.add(policy_of(1, number, 1, mode)));
        let folder = lower_folder();
        let (header, _) = DirHeader::create_root(&root).expect("a header");
        let header = header.encode().expect("a header");
        std::fs::write(folder.path().join(".kmsfs"), header).expect("write the header");
        let xattrs = has_xattrs(folder.path());
        let open = || {
            Fs::new(folder.path(), Arc::clone(&keys) as Arc<dyn Keys>, false)
                .expect("the sample mounts")
        };
        let fs = open();
        let calls = Calls(&fs);
        for name in [
            "folder",
            "folder/inner",
            "other",
            "nested",
            "foreign",
            "bare",
        ] {
            calls.mkdir(name);
        }
        fs.protect(calls.node("nested"), &nested).expect("protect");
        fs.protect(calls.node("foreign"), &foreign)
            .expect("protect");
        calls.mkdir("nested/sub");
        for (path, content) in contents(true) {
            calls.put(&path, &content);
        }
        if xattrs {
            calls.set_attributes("an older value");
        }
        calls.symlink("link", b"old target");
        drop(fs);
        let older = Tree::read(folder.path());
        let fs = open();
        let calls = Calls(&fs);
        for (path, content) in contents(false) {
            calls.put(&path, &content);
        }
        if xattrs {
            calls.set_attributes("a value");
        }
        for (path, target) in targets() {
            calls.symlink(path, target.as_bytes());
        }
        calls.put_holes("folder/sparse");
        calls.put("folder/twice", b"a file with two names");
        calls.hard_link("folder/twice", "folder/twice too");
        calls.fifo("folder/fifo");
        let mark = String::from_utf8_lossy(MARK);
        calls.put(&format!("foreign/{mark}"), &MARK.repeat(10));
        calls.put(&format!("foreign/large {mark}"), &MARK.repeat(1000));
        calls.symlink("foreign/link", MARK);
        if xattrs {
            calls.set("foreign/link and file", MARK);
        }
        let mut lower = HashMap::new();
        drop(fs);
        let fs = open();
        let inodes = calls::inodes(folder.path());
        Calls(&fs).each(NodeId::ROOT, "", &mut |plain, entry| {
            lower.insert(
                plain.to_owned(),
                inodes[&(entry.attr.ino, plain.matches('/').count())].clone(),
            );
        });
        drop(fs);
        lower.insert(String::new(), String::new());
        let tree = Tree::read(folder.path());
        keys.refuse(foreign.policy());
        let (other, other_lower) = another(mode);
        Sample {
            mode,
            keys,
            policy: root,
            tree,
            older,
            lower,
            other,
            other_lower,
            xattrs,
        }
    }

    /// The lower path of a plain one.
    pub fn lower(&self, plain: &str) -> String {
        self.lower
            .get(plain)
            .unwrap_or_else(|| panic!("no {plain} in the sample"))
            .clone()
    }

    /// The lower path of a directory's header.
    pub fn header(&self, plain: &str) -> String {
        self.inside(plain, ".kmsfs")
    }

    /// The lower path of a lower name in a plain directory.
    pub fn inside(&self, plain: &str, name: &str) -> String {
        match self.lower(plain).as_str() {
            "" => name.to_owned(),
            folder => format!("{folder}/{name}"),
        }
    }

    /// Writes a tree out and opens it.
    pub fn open(&self, tree: &Tree, read_only: bool) -> Result<(TempDir, Fs), kmsfs::errno::Errno> {
        let folder = lower_folder();
        tree.write(folder.path());
        let fs = Fs::new(
            folder.path(),
            Arc::clone(&self.keys) as Arc<dyn Keys>,
            read_only,
        )?;
        Ok((folder, fs))
    }
}

fn another(mode: ContentMode) -> (Tree, HashMap<String, String>) {
    let keys = Arc::new(FixedKeys::default());
    let policy = keys.add(policy_of(9, 2, 1, mode));
    assert_eq!(policy.volume(), VolumeId([9; 16]));
    let folder = lower_folder();
    let (header, _) = DirHeader::create_root(&policy).expect("a header");
    std::fs::write(
        folder.path().join(".kmsfs"),
        header.encode().expect("a header"),
    )
    .expect("write");
    let fs = Fs::new(folder.path(), keys, false).expect("the other volume mounts");
    let calls = Calls(&fs);
    calls.mkdir("folder");
    calls.put("folder/small", MARK);
    calls.put("folder/large", &MARK.repeat(1000));
    calls.symlink("folder/link", MARK);
    let inodes = calls::inodes(folder.path());
    let mut lower = HashMap::new();
    calls.each(NodeId::ROOT, "", &mut |plain, entry| {
        lower.insert(
            plain.to_owned(),
            inodes[&(entry.attr.ino, plain.matches('/').count())].clone(),
        );
    });
    drop(fs);
    (Tree::read(folder.path()), lower)
}

/// The symlinks.
pub fn targets() -> [(&'static str, String); 5] {
    [
        ("nested/link", "below".to_owned()),
        ("folder/link", "a target".to_owned()),
        ("folder/link too", "its sister".to_owned()),
        ("folder/long link", long_target()),
        ("other/long link", long_target().replace('t', "u")),
    ]
}

/// The files that have an older version, with their content.
pub fn contents(older: bool) -> BTreeMap<String, Vec<u8>> {
    let tag = if older { "an older " } else { "the present " };
    [
        (
            "folder/small".to_owned(),
            format!("{tag}small file").into_bytes(),
        ),
        ("folder/large".to_owned(), large(older)),
        ("folder/other large".to_owned(), from_seed(21, 3 * 4096)),
        ("folder/empty".to_owned(), Vec::new()),
        (
            "folder/inner/file".to_owned(),
            format!("{tag}inner file").into_bytes(),
        ),
        (
            format!("folder/{}", long_name()),
            b"under a long name".to_vec(),
        ),
        (
            "nested/file".to_owned(),
            b"under a policy of its own".to_vec(),
        ),
        ("nested/large".to_owned(), from_seed(31, 9000)),
        ("other/witness".to_owned(), b"unharmed".to_vec()),
        ("other/small".to_owned(), b"elsewhere".to_vec()),
    ]
    .into()
}

/// What a mount shows whose kmsd gives out all keys.
pub fn with_all_keys(sample: &Sample) -> super::calls::View {
    let keys = Arc::new(FixedKeys::default());
    for number in [2, 3, 4] {
        keys.add(policy_of(1, number, 1, sample.mode));
    }
    let folder = lower_folder();
    sample.tree.write(folder.path());
    let fs = Fs::new(folder.path(), keys, false).expect("the sample mounts");
    Calls(&fs).view()
}
