//! Objects of the mount: what the file system knows of each lower object the kernel has heard of.
//!
//! A `Node` has a number of our own (`NodeId`); the lower inode number is only what `stat(2)` shows. The kernel knows it by that
//! number, until a revocation gives it another (see [`crate::revoke`]). Hard links are one node with several `Place`s. Lower objects are reached through a place: the descriptor of the parent and a lower name.
//!
//! Locks, in the order in which they are taken: `Directory::entries` (by node id), `Node::links`, a shard of the
//! `table`, `Node::places`, `Node::file`.

pub(crate) mod descriptors;
pub(crate) mod forgotten;
pub(crate) mod table;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};

use kms_format::{ContentMode, DirHeader, DirKeys, PolicyId, UnlockedPolicy, VolumeId};
use parking_lot::{Mutex, RwLock};

use crate::backing::{Dir, LowerId, Pinned};
use crate::errno::{Errno, FsResult};
use crate::fs::{FileBody, Kind, NodeId};

/// Where an object is: under a lower name in a directory.
#[derive(Clone)]
pub(crate) struct Place {
    pub(crate) parent: Arc<Node>,
    pub(crate) name: Box<str>,
}

/// An object that has no name, or none that is known.
pub(crate) struct Nameless {
    pub(crate) object: Pinned,
    /// Where it last was: it is under this directory's policy.
    pub(crate) parent: Arc<Node>,
}

/// An object.
pub(crate) struct Node {
    /// Its first number, which stays: for tables and the order of locks.
    pub(crate) id: NodeId,
    /// The number under which the kernel knows it now.
    number: AtomicU64,
    pub(crate) lower: LowerId,
    pub(crate) kind: Kind,
    /// The kernel's references, and one for each child's place.
    references: AtomicU64,
    places: Mutex<Vec<Place>>,
    /// Held while the number of names changes.
    pub(crate) links: Mutex<()>,
    /// Keeps an object without a name reachable.
    nameless: Mutex<Option<Arc<Nameless>>>,
    /// Its size was compared with its header since an unclean stop.
    pub(crate) settled: AtomicBool,
    /// How its content is encrypted: 0 not known, otherwise the byte of the mode.
    mode: AtomicU8,
    converted: AtomicBool,
    state: State,
}

enum State {
    Directory(Box<Directory>),
    File(Box<RwLock<FileBody>>),
    Other,
}

/// What only directories have.
#[derive(Default)]
pub(crate) struct Directory {
    /// Names are looked up under a shared lock and changed under an exclusive one.
    pub(crate) entries: RwLock<()>,
    /// Removed: nothing can be made in it.
    pub(crate) dead: AtomicBool,
    /// Header, keys and policy, once unlocked.
    pub(crate) context: RwLock<Option<Arc<Context>>>,
    /// The policy it was under when its keys were dropped.
    pub(crate) locked: Mutex<Option<kms_format::PolicyId>>,
    /// A revoked user stands in it: the kernel asks for its attributes each time, so that walks through it can be refused.
    pub(crate) watched: AtomicBool,
    /// Lower names change while plain ones stay: listings are of the moment they began.
    pub(crate) renaming: AtomicBool,
    /// What the header says without having been authenticated, where somebody asked.
    pub(crate) claimed: Mutex<Option<(VolumeId, PolicyId)>>,
    /// Held while a missing header is made.
    pub(crate) repair: Mutex<()>,
    /// Whether it has a default ACL: 0 unknown, 1 no, 2 yes.
    pub(crate) default_acl: AtomicU8,
    pub(in crate::inode) cached: Mutex<Option<Arc<Dir>>>,
    pub(in crate::inode) used: AtomicBool,
}

/// An unlocked directory.
pub(crate) struct Context {
    pub(crate) header: DirHeader,
    pub(crate) keys: DirKeys,
    pub(crate) policy: Arc<UnlockedPolicy>,
}

impl Context {
    /// Whether files may move between the two.
    pub(crate) fn same_policy(&self, other: &Context) -> bool {
        (self.policy.volume(), self.policy.policy())
            == (other.policy.volume(), other.policy.policy())
    }
}

impl Node {
    fn new(id: NodeId, lower: LowerId, kind: Kind) -> Node {
        Node {
            id,
            number: AtomicU64::new(id.0),
            lower,
            kind,
            references: AtomicU64::new(0),
            places: Mutex::default(),
            links: Mutex::default(),
            nameless: Mutex::default(),
            settled: AtomicBool::new(false),
            mode: AtomicU8::new(0),
            converted: AtomicBool::new(false),
            state: match kind {
                Kind::Directory => State::Directory(Box::default()),
                Kind::File => State::File(Box::default()),
                _ => State::Other,
            },
        }
    }

    /// The number under which the kernel knows it now.
    pub(crate) fn number(&self) -> NodeId {
        NodeId(self.number.load(Ordering::Acquire))
    }

    /// How its content is encrypted; only files have any. None if only its header can tell.
    pub(crate) fn content_mode(&self) -> Option<ContentMode> {
        ContentMode::from_byte(self.mode.load(Ordering::Relaxed))
    }

    /// Its content is encrypted so.
    pub(crate) fn set_mode(&self, mode: Option<ContentMode>) {
        let byte = mode.map_or(0, ContentMode::byte);
        self.mode.store(byte, Ordering::Relaxed);
    }

    /// It gets another content mode: a lower size may be of before, and only the header tells which is meant.
    pub(crate) fn sizes_differ(&self) {
        self.converted.store(true, Ordering::Release);
    }

    /// Whether its lower size does not tell how long it is.
    pub(crate) fn do_sizes_differ(&self) -> bool {
        self.converted.load(Ordering::Acquire)
    }

    pub(crate) fn directory(&self) -> FsResult<&Directory> {
        match &self.state {
            State::Directory(directory) => Ok(directory),
            _ => Err(Errno::NOTDIR),
        }
    }

    /// What is known of an open file.
    pub(crate) fn file(&self) -> FsResult<&RwLock<FileBody>> {
        match &self.state {
            State::File(body) => Ok(body),
            State::Directory(_) => Err(Errno::ISDIR),
            State::Other => Err(Errno::INVAL),
        }
    }

    /// The names under which it is known, any of which may be gone.
    pub(crate) fn places(&self) -> Vec<Place> {
        self.places.lock().clone()
    }

    /// One of them.
    pub(crate) fn place(&self) -> Option<Place> {
        self.places.lock().first().cloned()
    }

    pub(crate) fn parent(&self) -> Option<Arc<Node>> {
        self.places
            .lock()
            .first()
            .map(|place| Arc::clone(&place.parent))
    }

    /// Keeps it reachable without a name.
    pub(crate) fn pin(&self, object: Pinned, parent: &Arc<Node>) {
        let parent = Arc::clone(parent);
        *self.nameless.lock() = Some(Arc::new(Nameless { object, parent }));
    }

    /// It has a name (again).
    pub(crate) fn unpin(&self) {
        *self.nameless.lock() = None;
    }

    pub(crate) fn nameless(&self) -> Option<Arc<Nameless>> {
        self.nameless.lock().clone()
    }

    /// Whether this is the only name that is known of it.
    pub(crate) fn is_only_at(&self, parent: &Arc<Node>, name: &str) -> bool {
        let places = self.places.lock();
        places
            .iter()
            .all(|place| *place.name == *name && Arc::ptr_eq(&place.parent, parent))
    }

    /// Whether it is this directory or lies below it.
    pub(crate) fn is_below(self: &Arc<Node>, above: &Arc<Node>) -> bool {
        let mut here = Arc::clone(self);
        loop {
            if Arc::ptr_eq(&here, above) {
                return true;
            }
            match here.parent() {
                Some(parent) => here = parent,
                None => return false,
            }
        }
    }

    /// Where it is in the lower tree, for the log.
    pub(crate) fn lower_path(&self) -> String {
        let mut names = Vec::new();
        let mut place = self.place();
        while let Some(here) = place {
            place = here.parent.place();
            names.push(here.name);
        }
        if names.is_empty() {
            return ".".to_owned();
        }
        names.reverse();
        names.join("/")
    }

    pub(crate) fn take_reference(&self) {
        self.references.fetch_add(1, Ordering::AcqRel);
    }
}
