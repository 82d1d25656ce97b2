//! All nodes, by their number and by the lower object they stand for.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::{Mutex, RwLock};

use super::{Node, Place};
use crate::backing::LowerId;
use crate::errno::{Errno, FsResult};
use crate::fs::{Kind, NodeId};

const SHARDS: usize = 64;

/// The nodes. A node is in it as long as the kernel, or a node below it, refers to it.
pub(crate) struct Table {
    root: Arc<Node>,
    by_id: Vec<RwLock<HashMap<NodeId, Arc<Node>>>>,
    by_lower: Vec<Mutex<HashMap<LowerId, Arc<Node>>>>,
    next: AtomicU64,
}

impl Table {
    pub(crate) fn new(root: LowerId) -> Table {
        let root = Arc::new(Node::new(NodeId::ROOT, root, Kind::Directory));
        root.take_reference(); // never forgotten
        let table = Table {
            root: Arc::clone(&root),
            by_id: (0..SHARDS).map(|_| RwLock::default()).collect(),
            by_lower: (0..SHARDS).map(|_| Mutex::default()).collect(),
            next: AtomicU64::new(NodeId::ROOT.0 + 1),
        };
        table
            .ids(root.id)
            .write()
            .insert(root.id, Arc::clone(&root));
        table.lowers(root.lower).lock().insert(root.lower, root);
        table
    }

    pub(crate) fn root(&self) -> &Arc<Node> {
        &self.root
    }

    pub(crate) fn get(&self, id: NodeId) -> FsResult<Arc<Node>> {
        self.ids(id).read().get(&id).cloned().ok_or(Errno::STALE)
    }

    pub(crate) fn find(&self, lower: LowerId) -> Option<Arc<Node>> {
        self.lowers(lower).lock().get(&lower).cloned()
    }

    /// The node of a lower object found at `place`, with one reference more for the kernel.
    pub(crate) fn intern(&self, lower: LowerId, kind: Kind, place: Place) -> Arc<Node> {
        let mut shard = self.lowers(lower).lock();
        let known = shard.get(&lower).filter(|node| node.kind == kind).cloned();
        let node = known.unwrap_or_else(|| {
            let id = NodeId(self.next.fetch_add(1, Ordering::Relaxed));
            let node = Arc::new(Node::new(id, lower, kind));
            shard.insert(lower, Arc::clone(&node));
            self.ids(id).write().insert(id, Arc::clone(&node));
            node
        });
        node.take_reference();
        let moved = self.add(&node, place);
        drop(shard);
        self.release_places(moved);
        node
    }

    /// The kernel drops references.
    pub(crate) fn forget(&self, id: NodeId, count: u64) {
        if let Ok(node) = self.get(id) {
            self.drop_references(node, count);
        }
    }

    fn drop_references(&self, node: Arc<Node>, count: u64) {
        let mut work = vec![(node, count)];
        while let Some((node, count)) = work.pop() {
            if node.references.fetch_sub(count, Ordering::AcqRel) != count {
                continue;
            }
            let mut shard = self.lowers(node.lower).lock();
            if node.references.load(Ordering::Acquire) != 0 {
                continue;
            }
            remove_if_same(&mut shard, &node);
            drop(shard);
            self.ids(node.id).write().remove(&node.id);
            let places = std::mem::take(&mut *node.places.lock());
            work.extend(places.into_iter().map(|place| (place.parent, 1)));
        }
    }

    /// Records a further name of a node.
    pub(crate) fn add_place(&self, node: &Arc<Node>, place: Place) {
        let moved = self.add(node, place);
        self.release_places(moved);
    }

    /// A directory has one place only: gives back what it replaced.
    fn add(&self, node: &Arc<Node>, place: Place) -> Vec<Place> {
        let mut places = node.places.lock();
        if places.iter().any(|known| same(known, &place)) {
            return Vec::new();
        }
        place.parent.take_reference();
        let moved = if node.kind == Kind::Directory {
            std::mem::take(&mut *places)
        } else {
            Vec::new()
        };
        places.push(place);
        moved
    }

    /// A name of a node is gone.
    pub(crate) fn remove_place(&self, node: &Arc<Node>, parent: &Arc<Node>, name: &str) {
        let mut gone = Vec::new();
        node.places.lock().retain(|place| {
            let matches = *place.name == *name && Arc::ptr_eq(&place.parent, parent);
            if matches {
                gone.push(place.clone());
            }
            !matches
        });
        self.release_places(gone);
    }

    fn release_places(&self, places: Vec<Place>) {
        for place in places {
            self.drop_references(place.parent, 1);
        }
    }

    /// The lower object is about to lose its last name: its number may come back as another object.
    pub(crate) fn unhash(&self, node: &Arc<Node>) {
        remove_if_same(&mut self.lowers(node.lower).lock(), node);
    }

    /// It did not after all.
    pub(crate) fn rehash(&self, node: &Arc<Node>) {
        self.lowers(node.lower)
            .lock()
            .entry(node.lower)
            .or_insert_with(|| Arc::clone(node));
    }

    /// How many nodes there are.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.by_id.iter().map(|shard| shard.read().len()).sum()
    }

    fn ids(&self, id: NodeId) -> &RwLock<HashMap<NodeId, Arc<Node>>> {
        shard(&self.by_id, id.0)
    }

    fn lowers(&self, lower: LowerId) -> &Mutex<HashMap<LowerId, Arc<Node>>> {
        shard(&self.by_lower, lower.ino())
    }
}

#[allow(
    clippy::indexing_slicing,
    reason = "the index is taken modulo the length"
)]
fn shard<T>(shards: &[T], number: u64) -> &T {
    &shards[usize::try_from(number % SHARDS as u64).unwrap_or(0)]
}

fn same(a: &Place, b: &Place) -> bool {
    a.name == b.name && Arc::ptr_eq(&a.parent, &b.parent)
}

fn remove_if_same(shard: &mut HashMap<LowerId, Arc<Node>>, node: &Arc<Node>) {
    if shard
        .get(&node.lower)
        .is_some_and(|known| Arc::ptr_eq(known, node))
    {
        shard.remove(&node.lower);
    }
}
