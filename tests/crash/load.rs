//! A worker that does everything to a folder of its own that programs do, and keeps a ledger of it.

mod files;
mod names;

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use crate::ledger::{Ledger, Object, Op};
use crate::mapped::Mapper;
use crate::random::Random;
use crate::tree::{Kind, Tree};

/// The xattr that files get.
pub(crate) const XATTR: &str = "user.crash-test";
/// How many entries a worker keeps.
const MOST: usize = 36;

/// What the workers of a run share.
pub(crate) struct Shared {
    /// Operations that have returned, of all workers.
    pub(crate) returned: AtomicU64,
    /// Set before the lower file system is cut off: errors are expected from then on.
    pub(crate) cut: AtomicBool,
    /// How many operations may return before the workers rest.
    pub(crate) allowance: AtomicU64,
    /// Set to end the workers.
    pub(crate) stop: AtomicBool,
    tags: AtomicU32,
}

impl Default for Shared {
    fn default() -> Shared {
        Shared {
            returned: AtomicU64::new(0),
            allowance: AtomicU64::new(u64::MAX),
            cut: AtomicBool::new(false),
            stop: AtomicBool::new(false),
            tags: AtomicU32::new(0),
        }
    }
}

/// One worker.
pub(crate) struct Worker<'a> {
    root: PathBuf,
    ledger: &'a Ledger,
    shared: &'a Shared,
    random: Random,
    tree: Tree,
    kinds: HashMap<Object, Kind>,
    sizes: HashMap<Object, usize>,
    made: Object,
    mapper: Option<Mapper>,
}

/// Runs until told to stop, or until an operation fails. An error before the cut is what it returns.
pub(crate) fn run(root: &Path, ledger: &Ledger, shared: &Shared, seed: u64) -> Result<(), String> {
    let mut worker = Worker {
        root: root.to_path_buf(),
        ledger,
        shared,
        random: Random::new(seed),
        tree: Tree::default(),
        kinds: HashMap::new(),
        sizes: HashMap::new(),
        made: 0,
        mapper: None,
    };
    while !shared.stop.load(Ordering::Acquire) {
        if shared.returned.load(Ordering::Relaxed) >= shared.allowance.load(Ordering::Relaxed) {
            std::thread::sleep(std::time::Duration::from_millis(1));
            continue;
        }
        if let Err(error) = worker.step() {
            if shared.cut.load(Ordering::Acquire) {
                return Ok(());
            }
            let last = ledger.up_to(ledger.reach().begun).pop();
            return Err(format!("{error} from {last:?}"));
        }
    }
    Ok(())
}

impl Worker<'_> {
    /// Enters an operation into the ledger around its execution.
    fn log(&mut self, op: Op, work: impl FnOnce() -> io::Result<u64>) -> io::Result<()> {
        self.ledger.begin(op.clone());
        let ino = work()?;
        self.ledger.returned(ino);
        self.shared.returned.fetch_add(1, Ordering::Relaxed);
        self.tree.apply(&op);
        Ok(())
    }

    fn at(&self, path: &str) -> PathBuf {
        self.root.join(path)
    }

    fn step(&mut self) -> io::Result<()> {
        let full = self.tree.entries.len() >= MOST;
        match self.random.below(100) {
            0..16 if !full => self.create().map(drop),
            16..22 if !full => self.make_dir(),
            22..27 if !full => self.symlink(),
            27..31 if !full => self.link(),
            31..37 if !full => self.save_atomically(),
            0..31 => self.remove(),
            31..42 => self.rename(),
            42..45 => self.exchange(),
            45..50 => self.remove(),
            50..54 => self.set_xattr(),
            54..62 => self.sync_dir(),
            62..66 => self.write_mapped(),
            _ => self.change(),
        }
    }

    fn some(&mut self, kind: Kind) -> Option<(String, Object)> {
        let all: Vec<(String, Object)> = self
            .tree
            .entries
            .iter()
            .filter(|(_, object)| self.kinds.get(object) == Some(&kind))
            .map(|(path, object)| (path.clone(), *object))
            .collect();
        self.random.pick(&all).cloned()
    }

    /// A folder, the worker's own among them.
    fn folder(&mut self) -> String {
        if self.random.percent(30) {
            return String::new();
        }
        self.some(Kind::Dir)
            .map(|(path, _)| path)
            .unwrap_or_default()
    }

    fn new_path(&mut self) -> String {
        let folder = self.folder();
        // Above 160 bytes a name has a record beside it.
        let length = if self.random.percent(20) { 200 } else { 0 };
        let name = format!("{:03}{}", self.random.below(1_000), "n".repeat(length));
        match folder.as_str() {
            "" => name,
            folder => format!("{folder}/{name}"),
        }
    }

    /// A path that nothing has, or None if chance chose one in use.
    fn free_path(&mut self) -> Option<String> {
        let path = self.new_path();
        let depth = path.matches('/').count();
        (depth < 5 && !self.tree.entries.contains_key(&path)).then_some(path)
    }

    fn object(&mut self, kind: Kind) -> Object {
        self.made += 1;
        self.kinds.insert(self.made, kind);
        self.made
    }
}
