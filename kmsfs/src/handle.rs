//! Open files and directories.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use kms_format::PolicyId;
use parking_lot::{Mutex, RwLock};

use crate::errno::{Errno, FsResult};
use crate::fs::{Caller, FileHandle, NodeId, Reading};
use crate::inode::Node;

const SHARDS: usize = 64;

/// What a handle stands for.
pub(crate) struct Handle {
    pub(crate) node: Arc<Node>,
    /// For directories: how far reading is.
    pub(crate) listing: Mutex<Reading>,
    /// For files: how many failed fsyncs of the file it has been told of.
    pub(crate) failures_told: AtomicU64,
    /// When reads last counted as an access, in seconds since the start; [`NEVER`] if they do not count.
    accessed: AtomicU64,
    /// Who opened it, and so who is served through it, whoever holds the descriptor now.
    pub(crate) opener: Caller,
    /// The policy that it was opened under. The object may be under another one by now.
    pub(crate) policy: Option<PolicyId>,
    /// The number under which it was opened. The node may have got another since: then this handle is of no use.
    pub(crate) opened_as: NodeId,
    /// Content may be written through it.
    pub(crate) writable: bool,
    /// Its opener lost access while it was open. It stays so.
    revoked: AtomicBool,
}

/// How something is opened.
pub(crate) struct Opening {
    pub(crate) opener: Caller,
    pub(crate) policy: Option<PolicyId>,
    pub(crate) opened_as: NodeId,
    pub(crate) writable: bool,
    /// Reads through the handle count as accesses.
    pub(crate) reads: bool,
}

const NEVER: u64 = u64::MAX;

impl Handle {
    /// Whether a read counts as an access. Once a second is enough.
    pub(crate) fn counts(&self, second: u64) -> bool {
        let last = self.accessed.load(Ordering::Relaxed);
        last != NEVER && last != second && {
            self.accessed.store(second, Ordering::Relaxed);
            true
        }
    }

    /// Nobody is served through it any more.
    pub(crate) fn revoke(&self) {
        self.revoked.store(true, Ordering::Release);
    }

    pub(crate) fn is_revoked(&self) -> bool {
        self.revoked.load(Ordering::Acquire)
    }

    /// Whether the node got another number since.
    pub(crate) fn is_stale(&self) -> bool {
        self.opened_as != self.node.number()
    }
}

/// All handles. A number is never used twice within a mount.
pub(crate) struct Handles {
    shards: Vec<RwLock<HashMap<u64, Arc<Handle>>>>,
    next: AtomicU64,
}

impl Default for Handles {
    fn default() -> Handles {
        Handles {
            shards: (0..SHARDS).map(|_| RwLock::default()).collect(),
            next: AtomicU64::new(1),
        }
    }
}

impl Handles {
    pub(crate) fn insert(&self, node: Arc<Node>, opening: &Opening) -> FileHandle {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let failures = node.file().map_or(0, |body| body.read().failures.known());
        let handle = Handle {
            node,
            listing: Mutex::default(),
            accessed: AtomicU64::new(if opening.reads { 0 } else { NEVER }),
            failures_told: AtomicU64::new(failures),
            opener: opening.opener,
            policy: opening.policy,
            opened_as: opening.opened_as,
            writable: opening.writable,
            revoked: AtomicBool::new(false),
        };
        self.shard(number).write().insert(number, Arc::new(handle));
        FileHandle(number)
    }

    pub(crate) fn get(&self, handle: FileHandle) -> FsResult<Arc<Handle>> {
        let found = self.shard(handle.0).read().get(&handle.0).cloned();
        found.ok_or(Errno::BADF)
    }

    /// Those of one node.
    pub(crate) fn of(&self, node: &Arc<Node>) -> Vec<Arc<Handle>> {
        let of = |handle: &&Arc<Handle>| Arc::ptr_eq(&handle.node, node);
        let shards = self.shards.iter();
        shards
            .flat_map(|shard| {
                shard
                    .read()
                    .values()
                    .filter(of)
                    .cloned()
                    .collect::<Vec<_>>()
            })
            .collect()
    }

    pub(crate) fn remove(&self, handle: FileHandle) -> Option<Arc<Handle>> {
        self.shard(handle.0).write().remove(&handle.0)
    }

    /// All handles of this moment.
    pub(crate) fn all(&self) -> Vec<Arc<Handle>> {
        let shards = self.shards.iter();
        shards
            .flat_map(|shard| shard.read().values().cloned().collect::<Vec<_>>())
            .collect()
    }

    #[allow(
        clippy::indexing_slicing,
        reason = "the index is taken modulo the length"
    )]
    fn shard(&self, number: u64) -> &RwLock<HashMap<u64, Arc<Handle>>> {
        &self.shards[usize::try_from(number % SHARDS as u64).unwrap_or(0)]
    }
}
