//! A volume in a temporary directory, and keys that need no kmsd.

use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use kms_crypto::Key;
use kms_format::{ContentMode, DirHeader, PolicyId, UnlockedPolicy, VolumeId};
use parking_lot::Mutex;

use crate::backing::Dir;
use crate::backing::sim::{LowerFs, Model};
use crate::errno::{Errno, FsResult};
use crate::fs::{Caller, Entry, FileHandle, Fs, NodeId, SetAttr};
use crate::volume::Keys;

/// Who runs the tests.
pub(crate) fn me() -> Caller {
    Caller {
        uid: rustix::process::geteuid().as_raw(),
        gid: rustix::process::getegid().as_raw(),
        pid: 1,
    }
}

/// Keys that were made in this process.
#[derive(Default)]
pub(crate) struct FixedKeys {
    known: Mutex<HashMap<(PolicyId, u32), Arc<UnlockedPolicy>>>,
    destroyed: Mutex<HashSet<PolicyId>>,
}

impl FixedKeys {
    pub(crate) fn add(&self, volume: VolumeId) -> Arc<UnlockedPolicy> {
        self.add_mode(volume, ContentMode::Xts)
    }

    pub(crate) fn add_mode(&self, volume: VolumeId, mode: ContentMode) -> Arc<UnlockedPolicy> {
        let policy = PolicyId::random().unwrap();
        let (data, secret) = (Key::random().unwrap(), Key::random().unwrap());
        let unlocked = UnlockedPolicy::derive(volume, policy, 1, mode, &data, &secret).unwrap();
        let unlocked = Arc::new(unlocked);
        self.known.lock().insert((policy, 1), Arc::clone(&unlocked));
        unlocked
    }

    /// The next generation of a policy.
    pub(crate) fn rotate(&self, policy: &UnlockedPolicy) -> Arc<UnlockedPolicy> {
        self.rotate_to(policy, policy.mode())
    }

    /// The same in this content mode.
    pub(crate) fn rotate_to(
        &self,
        policy: &UnlockedPolicy,
        mode: ContentMode,
    ) -> Arc<UnlockedPolicy> {
        let (data, secret) = (Key::random().unwrap(), Key::random().unwrap());
        let (volume, id) = (policy.volume(), policy.policy());
        let generation = policy.generation() + 1;
        let next = UnlockedPolicy::derive(volume, id, generation, mode, &data, &secret).unwrap();
        let next = Arc::new(next);
        self.known
            .lock()
            .insert((id, generation), Arc::clone(&next));
        next
    }

    pub(crate) fn forget(&self, policy: &UnlockedPolicy) -> Arc<UnlockedPolicy> {
        self.known
            .lock()
            .remove(&(policy.policy(), policy.generation()))
            .unwrap()
    }

    /// Ends the generations before this one.
    pub(crate) fn forget_older(&self, policy: &UnlockedPolicy) {
        let (id, current) = (policy.policy(), policy.generation());
        self.known
            .lock()
            .retain(|(known, generation), _| *known != id || *generation >= current);
    }

    /// For good, and known to be so.
    pub(crate) fn destroy(&self, policy: &UnlockedPolicy) {
        self.forget(policy);
        self.destroyed.lock().insert(policy.policy());
    }

    pub(crate) fn put_back(&self, policy: Arc<UnlockedPolicy>) {
        self.known
            .lock()
            .insert((policy.policy(), policy.generation()), policy);
    }
}

impl Keys for FixedKeys {
    fn policy_key(
        &self,
        _volume: &VolumeId,
        policy: &PolicyId,
        generation: u32,
    ) -> Result<Arc<UnlockedPolicy>, Errno> {
        self.known
            .lock()
            .get(&(*policy, generation))
            .cloned()
            .ok_or(Errno::NOKEY)
    }

    fn of_other_mode(&self, policy: &UnlockedPolicy) -> Option<u32> {
        let known = self.known.lock();
        let mut kept = known.values();
        kept.find(|kept| kept.policy() == policy.policy() && kept.mode() != policy.mode())
            .map(|kept| kept.generation())
    }

    fn is_destroyed(&self, policy: &PolicyId) -> bool {
        self.destroyed.lock().contains(policy)
    }
}

/// The mode of volumes for which none is asked: `KMS_TESTS_MODE=gcm` runs all tests in the other one.
fn default_mode() -> ContentMode {
    match std::env::var("KMS_TESTS_MODE").as_deref() {
        Ok("gcm") => ContentMode::Gcm,
        _ => ContentMode::Xts,
    }
}

/// What is below.
enum Lower {
    Folder(tempfile::TempDir),
    Simulated(LowerFs),
}

/// A volume, mounted or not.
pub(crate) struct World {
    below: Lower,
    pub(crate) keys: Arc<FixedKeys>,
    pub(crate) volume: VolumeId,
    fs: Option<Fs>,
}

impl World {
    /// On a real file system.
    pub(crate) fn new() -> World {
        World::with(default_mode())
    }

    /// On a real file system, with a root in this mode.
    pub(crate) fn with(mode: ContentMode) -> World {
        World::over(Lower::Folder(tempfile::tempdir().unwrap()), mode)
    }

    /// On a simulated one, which loses names in a power cut as `model` says.
    pub(crate) fn simulated(model: Model) -> World {
        World::simulated_with(model, default_mode())
    }

    pub(crate) fn simulated_with(model: Model, mode: ContentMode) -> World {
        World::over(Lower::Simulated(LowerFs::new(model)), mode)
    }

    fn over(below: Lower, mode: ContentMode) -> World {
        rustix::process::umask(rustix::fs::Mode::empty());
        let keys = Arc::new(FixedKeys::default());
        let volume = VolumeId::random().unwrap();
        let (header, _) = DirHeader::create_root(&keys.add_mode(volume, mode)).unwrap();
        let mut world = World {
            below,
            keys,
            volume,
            fs: None,
        };
        let root = world.root();
        root.write_small(".kmsfs", &header.encode().unwrap())
            .and_then(|file| file.sync())
            .unwrap();
        root.sync().unwrap();
        world.remount();
        world
    }

    pub(crate) fn lower(&self) -> &Path {
        match &self.below {
            Lower::Folder(folder) => folder.path(),
            Lower::Simulated(_) => Path::new("simulated"),
        }
    }

    /// The simulated lower file system.
    pub(crate) fn below(&self) -> &LowerFs {
        match &self.below {
            Lower::Folder(_) => panic!("not simulated"),
            Lower::Simulated(fs) => fs,
        }
    }

    /// The root of the lower tree, to look at and change it behind the mount's back.
    pub(crate) fn root(&self) -> Dir {
        match &self.below {
            Lower::Folder(folder) => Dir::open_root(folder.path()).unwrap(),
            Lower::Simulated(fs) => fs.root(),
        }
    }

    pub(crate) fn fs(&self) -> &Fs {
        self.fs.as_ref().unwrap()
    }

    pub(crate) fn open(&self) -> FsResult<Fs> {
        let keys = Arc::clone(&self.keys) as Arc<dyn Keys>;
        Fs::over(self.root(), self.lower(), keys, false)
    }

    /// A clean unmount and a mount.
    pub(crate) fn remount(&mut self) {
        self.unmount();
        self.fs = Some(self.open().unwrap());
    }

    pub(crate) fn unmount(&mut self) {
        self.fs = None;
    }

    /// As after kill -9: the lower tree as it is this moment, opened by another process.
    pub(crate) fn crash(&mut self) {
        let left = match &self.below {
            Lower::Folder(_) => {
                let copy = tempfile::tempdir().unwrap();
                let status = std::process::Command::new("cp")
                    .args(["-a", "--sparse=always"])
                    .arg(format!("{}/.", self.lower().display()))
                    .arg(copy.path())
                    .status();
                assert!(status.unwrap().success());
                Lower::Folder(copy)
            }
            Lower::Simulated(fs) => Lower::Simulated(fs.crash(Model::Kill, 0)),
        };
        self.unmount();
        self.below = left;
        self.fs = Some(self.open().unwrap());
    }

    /// A power cut on the simulated file system; what survives it follows from `seed`. Not mounted again.
    pub(crate) fn power_cut(&mut self, model: Model, seed: u64) {
        let left = self.below().crash(model, seed);
        self.unmount();
        self.below = Lower::Simulated(left);
    }

    /// The node at a path of components.
    pub(crate) fn at(&self, path: &[&str]) -> FsResult<Entry> {
        let mut parent = NodeId::ROOT;
        let mut found = None;
        for name in path {
            let entry = self.fs().lookup(&me(), parent, OsStr::new(name))?;
            parent = entry.node;
            found = Some(entry);
        }
        Ok(found.unwrap())
    }

    pub(crate) fn mkdir(&self, parent: NodeId, name: &str) -> NodeId {
        self.fs()
            .mkdir(&me(), parent, OsStr::new(name), 0o755, 0)
            .unwrap()
            .node
    }

    pub(crate) fn create(&self, parent: NodeId, name: impl AsRef<[u8]>) -> (Entry, FileHandle) {
        let name = OsStr::from_bytes(name.as_ref());
        let flags = libc::O_RDWR | libc::O_EXCL;
        let (entry, opened) = self
            .fs()
            .create(&me(), parent, name, 0o644, 0, flags, false)
            .unwrap();
        (entry, opened.fh)
    }

    /// Makes a file with this content.
    pub(crate) fn put(&self, parent: NodeId, name: &str, content: &[u8]) -> NodeId {
        let (entry, fh) = self.create(parent, name);
        self.write(fh, 0, content);
        self.fs().release(fh);
        entry.node
    }

    pub(crate) fn write(&self, fh: FileHandle, offset: u64, data: &[u8]) {
        let mut data = data.to_vec();
        let length = data.len();
        assert_eq!(
            self.fs().write(&me(), fh, offset, &mut data, false),
            Ok(length)
        );
    }

    pub(crate) fn resize(&self, node: NodeId, size: u64) {
        let changes = SetAttr {
            size: Some(size),
            ..SetAttr::default()
        };
        assert_eq!(
            self.fs().setattr(&me(), node, None, &changes).unwrap().size,
            size
        );
    }

    pub(crate) fn size(&self, node: NodeId) -> u64 {
        self.fs().getattr(&me(), node, None).unwrap().size
    }

    /// The whole content, in pieces of different sizes.
    pub(crate) fn get(&self, node: NodeId) -> FsResult<Vec<u8>> {
        let fh = self.fs().open(&me(), node, libc::O_RDONLY, false)?.fh;
        let mut content = Vec::new();
        let mut step = 4096;
        loop {
            let mut piece = vec![0xee; step];
            let got = self.fs().read(fh, content.len() as u64, &mut piece)?;
            content.extend_from_slice(&piece[..got]);
            if got < step {
                break;
            }
            step = step * 3 + 17;
        }
        self.fs().release(fh);
        Ok(content)
    }

    pub(crate) fn names(&self, node: NodeId) -> Vec<Vec<u8>> {
        let fh = self.fs().opendir(&me(), node).unwrap();
        let mut names = Vec::new();
        self.fs()
            .readdir(fh, 0, &mut |item| {
                if item.name != "." && item.name != ".." {
                    names.push(item.name.as_bytes().to_vec());
                }
                false
            })
            .unwrap();
        self.fs().releasedir(fh);
        names.sort();
        names
    }

    /// The lower path of a node.
    pub(crate) fn lower_of(&self, entry: &Entry) -> PathBuf {
        use std::os::unix::fs::MetadataExt as _;
        let mut open = vec![self.lower().to_owned()];
        while let Some(folder) = open.pop() {
            for item in std::fs::read_dir(folder).unwrap() {
                let path = item.unwrap().path();
                let meta = path.symlink_metadata().unwrap();
                if meta.ino() == entry.attr.ino {
                    return path;
                }
                if meta.is_dir() {
                    open.push(path);
                }
            }
        }
        panic!("no lower object has the inode of {:?}", entry.node);
    }
}

/// Bytes that are not compressible and depend on the seed.
pub(crate) fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}
