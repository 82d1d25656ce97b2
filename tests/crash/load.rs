//! A worker that does everything to a folder of its own that programs do, and keeps a ledger of it.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use rustix::fs::{CWD, FallocateFlags, RenameFlags, XattrFlags};

use crate::content;
use crate::ledger::{Ledger, Object, Op};
use crate::mapped::Mapper;
use crate::random::Random;
use crate::tree::{Kind, Tree, parent};

/// The xattr that files get.
pub(crate) const XATTR: &str = "user.crash-test";
/// How many entries a worker keeps.
const MOST: usize = 36;

/// What the workers of a run share.
#[derive(Default)]
pub(crate) struct Shared {
    /// Operations that have returned, of all workers.
    pub(crate) returned: AtomicU64,
    /// Set before the lower file system is cut off: errors are expected from then on.
    pub(crate) cut: AtomicBool,
    /// Set to end the workers.
    pub(crate) stop: AtomicBool,
    tags: AtomicU32,
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

/// Sizes around every border of the format, and some between.
fn size(random: &mut Random) -> usize {
    const BORDERS: [usize; 11] = [
        0, 16, 1_000, 3_712, 4_064, 4_096, 8_128, 8_192, 12_192, 20_000, 65_536,
    ];
    let border = *random.pick(&BORDERS).unwrap_or(&0);
    (border + random.below(40) as usize).saturating_sub(20)
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

    fn create_at(&mut self, path: String) -> io::Result<(File, Object)> {
        let object = self.object(Kind::File);
        self.sizes.insert(object, 0);
        let at = self.at(&path);
        let mut made = None;
        self.log(Op::Create { path, object }, || {
            let file = OpenOptions::new()
                .read(true)
                .write(true)
                .create_new(true)
                .open(at)?;
            let ino = file.metadata()?.ino();
            made = Some(file);
            Ok(ino)
        })?;
        let file = made.ok_or_else(|| io::Error::other("no file"))?;
        Ok((file, object))
    }

    fn create(&mut self) -> io::Result<()> {
        let Some(path) = self.free_path() else {
            return Ok(());
        };
        let (file, object) = self.create_at(path)?;
        if self.random.percent(90) {
            let length = size(&mut self.random);
            self.write(&file, object, 0, length)?;
        }
        if self.random.percent(30) {
            self.sync_file(&file, object)?;
        }
        Ok(())
    }

    fn write(
        &mut self,
        file: &File,
        object: Object,
        offset: usize,
        length: usize,
    ) -> io::Result<()> {
        let length = length.max(1);
        let tag = self.shared.tags.fetch_add(1, Ordering::Relaxed) + 1;
        let op = Op::Write {
            object,
            offset,
            length,
            tag,
        };
        let bytes = content::bytes(tag, offset, length);
        self.log(op, || file.write_all_at(&bytes, offset as u64).map(|()| 0))?;
        let end = self.sizes.entry(object).or_default();
        *end = (*end).max(offset + length);
        Ok(())
    }

    fn sync_file(&mut self, file: &File, object: Object) -> io::Result<()> {
        let data_only = self.random.percent(40);
        self.log(Op::SyncFile { object, data_only }, || {
            if data_only {
                file.sync_data()
            } else {
                file.sync_all()
            }
            .map(|()| 0)
        })
    }

    /// Opens a file and changes its content a few times.
    fn change(&mut self) -> io::Result<()> {
        let Some((path, object)) = self.some(Kind::File) else {
            return self.create();
        };
        let at = self.at(&path);
        let file = if self.random.percent(12) {
            // As editors and shells overwrite.
            let mut opened = None;
            self.log(Op::Resize { object, size: 0 }, || {
                let mut options = OpenOptions::new();
                opened = Some(options.read(true).write(true).truncate(true).open(at)?);
                Ok(0)
            })?;
            self.sizes.insert(object, 0);
            opened.ok_or_else(|| io::Error::other("no file"))?
        } else {
            OpenOptions::new().read(true).write(true).open(at)?
        };
        for _ in 0..=self.random.below(4) {
            let now = self.sizes.get(&object).copied().unwrap_or(0);
            let inside = self.random.below(now as u64 + 1) as usize;
            match self.random.below(10) {
                0..3 => {
                    let length = size(&mut self.random).min(now - inside);
                    self.write(&file, object, inside, length)?;
                }
                3..6 => {
                    let length = if self.random.percent(50) {
                        1 + self.random.below(200) as usize
                    } else {
                        size(&mut self.random)
                    };
                    if now + length < 300_000 {
                        self.write(&file, object, now, length)?;
                    }
                }
                6 => {
                    let length = size(&mut self.random);
                    self.write(&file, object, inside, length)?;
                }
                7 => {
                    let size = size(&mut self.random);
                    self.log(Op::Resize { object, size }, || {
                        file.set_len(size as u64).map(|()| 0)
                    })?;
                    self.sizes.insert(object, size);
                }
                8 => {
                    let length = 1 + size(&mut self.random);
                    let op = Op::Punch {
                        object,
                        offset: inside,
                        length,
                    };
                    let how = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
                    self.log(op, || {
                        rustix::fs::fallocate(&file, how, inside as u64, length as u64)?;
                        Ok(0)
                    })?;
                }
                _ => self.sync_file(&file, object)?,
            }
        }
        if self.random.percent(25) {
            self.sync_file(&file, object)?;
        }
        Ok(())
    }

    fn write_mapped(&mut self) -> io::Result<()> {
        let Some((path, object)) = self.some(Kind::File) else {
            return Ok(());
        };
        let now = self.sizes.get(&object).copied().unwrap_or(0);
        if now == 0 {
            return Ok(());
        }
        let offset = self.random.below(now as u64) as usize;
        let length = (1 + self.random.below(9_000) as usize).min(now - offset);
        let tag = self.shared.tags.fetch_add(1, Ordering::Relaxed) + 1;
        let bytes = content::bytes(tag, offset, length);
        let at = self.at(&path);
        let op = Op::Write {
            object,
            offset,
            length,
            tag,
        };
        let mut mapper = match self.mapper.take() {
            Some(mapper) => mapper,
            None => Mapper::start()?,
        };
        self.log(op, || mapper.write(&at, offset, &bytes).map(|()| 0))?;
        self.mapper = Some(mapper);
        // msync has made it durable.
        let data_only = true;
        self.log(Op::SyncFile { object, data_only }, || Ok(0))
    }

    fn make_dir(&mut self) -> io::Result<()> {
        let Some(path) = self.free_path() else {
            return Ok(());
        };
        let object = self.object(Kind::Dir);
        let at = self.at(&path);
        self.log(Op::MakeDir { path, object }, || {
            fs::create_dir(&at)?;
            Ok(fs::symlink_metadata(&at)?.ino())
        })
    }

    fn symlink(&mut self) -> io::Result<()> {
        let Some(path) = self.free_path() else {
            return Ok(());
        };
        let object = self.object(Kind::Symlink);
        // Above 713 bytes the target is in a record.
        let length = *self.random.pick(&[5, 60, 700, 2_000]).unwrap_or(&5);
        let target = format!("{object}-{}", "t".repeat(length));
        let at = self.at(&path);
        let op = Op::Symlink {
            path,
            object,
            target: target.clone(),
        };
        self.log(op, || {
            symlink(target, &at)?;
            Ok(fs::symlink_metadata(&at)?.ino())
        })
    }

    fn link(&mut self) -> io::Result<()> {
        let from = if self.random.percent(80) {
            self.some(Kind::File)
        } else {
            self.some(Kind::Symlink)
        };
        let (Some((from, _)), Some(to)) = (from, self.free_path()) else {
            return Ok(());
        };
        let (source, target) = (self.at(&from), self.at(&to));
        self.log(Op::Link { from, to }, || {
            fs::hard_link(source, target).map(|()| 0)
        })
    }

    fn is_empty(&self, path: &str) -> bool {
        !self.tree.entries.keys().any(|other| parent(other) == path)
    }

    fn rename(&mut self) -> io::Result<()> {
        let kind = match self.random.below(10) {
            0..6 => Kind::File,
            6..9 => Kind::Dir,
            _ => Kind::Symlink,
        };
        let Some((from, object)) = self.some(kind) else {
            return Ok(());
        };
        let over = if kind != Kind::Dir || self.random.percent(30) {
            self.some(kind)
        } else {
            None
        };
        let to = match over {
            Some((path, _)) if self.random.percent(50) => Some(path),
            _ => self.free_path(),
        };
        let Some(to) = to else { return Ok(()) };
        let replaced = self.tree.get(&to);
        let nested = to.starts_with(&format!("{from}/")) || from.starts_with(&format!("{to}/"));
        let same = to == from || (self.tree.entries.contains_key(&to) && replaced == object);
        let occupied = kind == Kind::Dir && !self.is_empty(&to);
        if nested || same || occupied {
            return Ok(());
        }
        let (source, target) = (self.at(&from), self.at(&to));
        self.log(Op::Rename { from, to }, || {
            fs::rename(source, target).map(|()| 0)
        })
    }

    fn exchange(&mut self) -> io::Result<()> {
        let kinds = [Kind::File, Kind::Dir];
        let kind = *self.random.pick(&kinds).unwrap_or(&Kind::File);
        let (Some((one, a)), Some((other, b))) = (self.some(kind), self.some(Kind::File)) else {
            return Ok(());
        };
        let below = |up: &str, down: &str| down.starts_with(&format!("{up}/"));
        if a == b || below(&one, &other) || below(&other, &one) {
            return Ok(());
        }
        let (first, second) = (self.at(&one), self.at(&other));
        self.log(Op::Exchange { one, other }, || {
            rustix::fs::renameat_with(CWD, first, CWD, second, RenameFlags::EXCHANGE)?;
            Ok(0)
        })
    }

    fn remove(&mut self) -> io::Result<()> {
        let all: Vec<String> = self.tree.entries.keys().cloned().collect();
        let Some(path) = self.random.pick(&all).cloned() else {
            return Ok(());
        };
        let is_dir = self.kinds.get(&self.tree.get(&path)) == Some(&Kind::Dir);
        if is_dir && !self.is_empty(&path) {
            return Ok(());
        }
        let at = self.at(&path);
        self.log(Op::Remove { path }, || {
            if is_dir {
                fs::remove_dir(at)
            } else {
                fs::remove_file(at)
            }
            .map(|()| 0)
        })
    }

    fn set_xattr(&mut self) -> io::Result<()> {
        let Some((path, object)) = self.some(Kind::File) else {
            return Ok(());
        };
        let value = self.shared.tags.fetch_add(1, Ordering::Relaxed) + 1;
        let at = self.at(&path);
        self.log(Op::SetXattr { object, value }, || {
            let bytes = value.to_le_bytes();
            rustix::fs::setxattr(at, XATTR, &bytes, XattrFlags::empty())?;
            Ok(0)
        })
    }

    fn sync_dir(&mut self) -> io::Result<()> {
        let path = self.folder();
        let at = self.at(&path);
        self.log(Op::SyncDir { path }, || {
            File::open(at)?.sync_all().map(|()| 0)
        })
    }

    /// The way editors and package managers replace a file.
    fn save_atomically(&mut self) -> io::Result<()> {
        let (Some((path, _)), Some(temporary)) = (self.some(Kind::File), self.free_path()) else {
            return Ok(());
        };
        let (file, object) = self.create_at(temporary.clone())?;
        let length = size(&mut self.random);
        self.write(&file, object, 0, length)?;
        self.sync_file(&file, object)?;
        let (source, target) = (self.at(&temporary), self.at(&path));
        let folder = parent(&path).to_owned();
        let op = Op::Rename {
            from: temporary,
            to: path,
        };
        self.log(op, || fs::rename(source, target).map(|()| 0))?;
        let at = self.at(&folder);
        self.log(Op::SyncDir { path: folder }, || {
            File::open(at)?.sync_all().map(|()| 0)
        })
    }
}
