//! A simulated lower file system, for tests: a directory tree in memory behind the same [`super::Dir`] and
//! [`super::LowerFile`], which can lose what was not synced, and fail.
//!
//! What it knows of durability:
//!
//! * **Content**: each 4 KiB page is, after a power cut, what it was at the last fsync of its file or any later state of
//!   it, independently of all others; the size is any that the file had since. Whatever the model.
//! * **Attributes and xattrs** of an object: those of the last fsync, or the present ones.
//! * **Names**: see [`Model`].
//! * **An fsync that fails** makes nothing durable, and neither does the next one: pages that were dirty stay in the cache,
//!   where they can be read, and reach the disk only when they are written again. So do ext4 and XFS.
//! * Inode numbers of removed objects are given to new ones at once.

mod content;
mod crash;
mod faults;
mod fd;
mod names;
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;
use rustix::fs::{Stat, Timespec};
use rustix::io::{Errno, Result};

use self::content::Content;
pub(crate) use self::crash::Every;
use self::faults::Faults;
pub(crate) use self::faults::{Failure, Op};
pub(super) use self::fd::Fd;
use self::names::{Entries, Names};

/// Which names a power cut leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Model {
    /// kill -9: everything is there.
    Kill,
    /// One journal, as in ext4 and XFS: changes of names survive up to some point in time, and every fsync, of whatever,
    /// takes all earlier changes of names along.
    Journal,
    /// What POSIX promises: each directory keeps the changes up to some point of its own, a rename is there in both
    /// directories or in none, and only an fsync of the directory makes its names durable.
    Posix,
}

/// The number by which an object is known inside; never used twice.
type Id = u64;

const ROOT: Id = 1;

/// A simulated lower file system. Clones are the same one.
#[derive(Clone)]
pub(crate) struct LowerFs {
    state: Arc<Mutex<State>>,
    /// Gives values to the fields of `Stat` that nobody looks at.
    template: Stat,
}

struct State {
    model: Model,
    /// What it was before each call that changed or synced something, if somebody wants to know.
    before: Option<Vec<State>>,
    /// Objects with such names are not synced when they should be: a lower file system that lies.
    ignored: Option<fn(&str) -> bool>,
    inodes: BTreeMap<Id, Inode>,
    /// Removed, but perhaps not on the disk.
    removed: BTreeMap<Id, Inode>,
    names: Names,
    faults: Faults,
    next: Id,
    /// Inode numbers of removed objects.
    free: Vec<u64>,
    clock: i64,
}

#[derive(Clone)]
struct Inode {
    number: u64,
    meta: Meta,
    /// As of the last fsync.
    durable: Meta,
    links: u32,
    open: usize,
    /// Made without a name, and may get one.
    unnamed: bool,
    body: Body,
}

#[derive(Clone)]
struct Meta {
    mode: u32,
    uid: u32,
    gid: u32,
    accessed: Timespec,
    modified: Timespec,
    changed: Timespec,
    xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
}

#[derive(Clone)]
enum Body {
    File(Content),
    Dir(Entries),
    Symlink(Vec<u8>),
    Other(u64),
}

impl LowerFs {
    /// An empty tree that will lose names as `model` says.
    pub(crate) fn new(model: Model) -> LowerFs {
        let mut state = State {
            model,
            before: None,
            ignored: None,
            inodes: BTreeMap::new(),
            removed: BTreeMap::new(),
            names: Names::default(),
            faults: Faults::default(),
            next: ROOT,
            free: Vec::new(),
            clock: 1_700_000_000,
        };
        let root = state.add(libc::S_IFDIR | 0o755, Body::Dir(Entries::below(ROOT)));
        if let Some(inode) = state.inodes.get_mut(&root) {
            inode.links = 2;
        }
        state.names.forget_history(&state.inodes);
        LowerFs {
            state: Arc::new(Mutex::new(state)),
            template: rustix::fs::stat("/").unwrap(),
        }
    }

    /// Its root, opened.
    pub(crate) fn root(&self) -> super::Dir {
        super::Dir::simulated(Fd::open(self, ROOT, true))
    }

    /// From now on `plan` decides about every call: it gets what is called and how many calls that change or sync
    /// something there were since now.
    pub(crate) fn fail(&self, plan: impl FnMut(Op, u64) -> Option<Failure> + Send + 'static) {
        self.state.lock().faults.plan(Box::new(plan));
    }

    /// No faults any more. Says how many calls changed or synced something since the plan was made.
    pub(crate) fn mend(&self) -> u64 {
        self.state.lock().faults.end()
    }
}

impl std::fmt::Debug for LowerFs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("LowerFs")
    }
}

impl State {
    /// A call: it may be watched, and fail. Says whether a write is to be cut short.
    fn enter(&mut self, op: Op) -> Result<bool> {
        if op.counts() && self.before.is_some() {
            let now = self.copy();
            self.before.get_or_insert_default().push(now);
        }
        self.faults.check(op)
    }

    fn now(&mut self) -> Timespec {
        self.clock += 1;
        Timespec {
            tv_sec: self.clock,
            tv_nsec: 0,
        }
    }

    fn add(&mut self, mode: u32, body: Body) -> Id {
        let id = self.next;
        self.next += 1;
        let now = self.now();
        let meta = Meta {
            mode,
            uid: rustix::process::geteuid().as_raw(),
            gid: rustix::process::getegid().as_raw(),
            accessed: now,
            modified: now,
            changed: now,
            xattrs: BTreeMap::new(),
        };
        let inode = Inode {
            number: self.free.pop().unwrap_or(id + 100),
            durable: meta.clone(),
            meta,
            links: 0,
            open: 0,
            unnamed: false,
            body,
        };
        self.inodes.insert(id, inode);
        id
    }

    fn inode(&mut self, id: Id) -> Result<&mut Inode> {
        self.inodes.get_mut(&id).ok_or(Errno::STALE)
    }

    fn entries(&mut self, id: Id) -> Result<&mut Entries> {
        match &mut self.inode(id)?.body {
            Body::Dir(entries) => Ok(entries),
            _ => Err(Errno::NOTDIR),
        }
    }

    fn opened(&mut self, id: Id) {
        if let Ok(inode) = self.inode(id) {
            inode.open += 1;
        }
    }

    /// The object goes when nothing holds it any more.
    fn reap(&mut self, id: Id) {
        if let Some(inode) = self.inodes.get(&id)
            && inode.links == 0
            && inode.open == 0
        {
            self.free.push(inode.number);
            if let Some(inode) = self.inodes.remove(&id) {
                self.removed.insert(id, inode);
            }
        }
    }

    /// After a crash: link counts and parents follow from the names, and what has none is gone.
    fn count_links(&mut self) {
        let mut links = BTreeMap::from([(ROOT, 2_u32)]);
        let mut open = vec![ROOT];
        while let Some(dir) = open.pop() {
            let children: Vec<_> = match self.inodes.get(&dir).map(|inode| &inode.body) {
                Some(Body::Dir(entries)) => entries.children().collect(),
                _ => continue,
            };
            for child in children {
                *links.entry(child).or_default() += 1;
                if let Ok(entries) = self.entries(child) {
                    entries.parent = dir;
                    *links.entry(child).or_default() += 1;
                    *links.entry(dir).or_default() += 1;
                    open.push(child);
                }
            }
        }
        self.inodes.retain(|id, inode| {
            inode.links = links.get(id).copied().unwrap_or_default();
            inode.links > 0
        });
    }
}

impl Inode {
    fn settle_on_disk(&mut self) {
        self.durable = self.meta.clone();
        if let Body::File(content) = &mut self.body {
            content.sync();
        }
    }

    fn stat(&self, template: &Stat) -> Stat {
        let mut stat = *template;
        stat.st_dev = 77;
        stat.st_ino = self.number;
        stat.st_mode = self.meta.mode;
        stat.st_nlink = self.links.into();
        stat.st_uid = self.meta.uid;
        stat.st_gid = self.meta.gid;
        stat.st_rdev = 0;
        stat.st_blksize = 4096;
        (stat.st_size, stat.st_blocks) = match &self.body {
            Body::File(content) => (content.size().cast_signed(), content.blocks()),
            Body::Dir(_) => (4096, 8),
            Body::Symlink(target) => (target.len() as i64, 0),
            Body::Other(device) => {
                stat.st_rdev = *device;
                (0, 0)
            }
        };
        let nanos = |time: Timespec| time.tv_nsec.cast_unsigned();
        (stat.st_atime, stat.st_atime_nsec) =
            (self.meta.accessed.tv_sec, nanos(self.meta.accessed));
        (stat.st_mtime, stat.st_mtime_nsec) =
            (self.meta.modified.tv_sec, nanos(self.meta.modified));
        (stat.st_ctime, stat.st_ctime_nsec) = (self.meta.changed.tv_sec, nanos(self.meta.changed));
        stat
    }
}

/// Numbers that follow from a seed.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Random {
        Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x1234_5678_9abc_def1)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub(crate) fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit.max(1) as u64) as usize
    }

    pub(crate) fn coin(&mut self) -> bool {
        self.next() & 1 == 1
    }
}
