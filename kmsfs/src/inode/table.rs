//! All nodes, by their number and by the lower object they stand for.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::{Mutex, RwLock};

use super::forgotten::{Forgotten, Memory};
use super::{Node, Place};
use crate::backing::LowerId;
use crate::errno::{Errno, FsResult};
use crate::fs::{Kind, NodeId};

const SHARDS: usize = 64;

/// The nodes. A node is in it as long as the kernel, or a node below it, refers to it.
pub(crate) struct Table {
    root: Arc<Node>,
    by_id: Vec<RwLock<HashMap<NodeId, Arc<Node>>>>,
    /// Former numbers, which nothing is found under; only the kernel's references under them still count.
    retired: RwLock<HashMap<NodeId, Arc<Node>>>,
    by_lower: Vec<Mutex<HashMap<LowerId, Arc<Node>>>>,
    next: AtomicU64,
    forgotten: Forgotten,
}

impl Table {
    pub(crate) fn new(root: LowerId) -> Table {
        let root = Arc::new(Node::new(NodeId::ROOT, root, Kind::Directory));
        root.take_reference(); // never forgotten
        let table = Table {
            root: Arc::clone(&root),
            by_id: (0..SHARDS).map(|_| RwLock::default()).collect(),
            retired: RwLock::default(),
            by_lower: (0..SHARDS).map(|_| Mutex::default()).collect(),
            next: AtomicU64::new(NodeId::ROOT.0 + 1),
            forgotten: Forgotten::default(),
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

    /// The node of a lower object found at `place`, with one reference more for the kernel. An object that the kernel
    /// had forgotten gets its old number.
    pub(crate) fn intern(&self, lower: LowerId, kind: Kind, place: Place) -> Arc<Node> {
        let mut shard = self.lowers(lower).lock();
        let known = shard.get(&lower).filter(|node| node.kind == kind).cloned();
        let node = known.unwrap_or_else(|| {
            let old = self.forgotten.take(lower);
            let old = old.filter(|(_, memory)| memory.kind == kind);
            let id = old.as_ref().map_or_else(|| self.number(), |(id, _)| *id);
            let node = Arc::new(Node::new(id, lower, kind));
            let settled = old.is_some_and(|(_, memory)| memory.settled);
            node.settled.store(settled, Ordering::Release);
            self.insert(&mut shard, &node);
            node
        });
        node.take_reference();
        let moved = self.add(&node, place);
        drop(shard);
        self.release_places(moved);
        node
    }

    /// The node of a new lower object that has no name.
    pub(crate) fn intern_nameless(&self, lower: LowerId, kind: Kind) -> Arc<Node> {
        let mut shard = self.lowers(lower).lock();
        drop(self.forgotten.take(lower));
        let node = Arc::new(Node::new(self.number(), lower, kind));
        self.insert(&mut shard, &node);
        node.take_reference();
        node
    }

    fn number(&self) -> NodeId {
        NodeId(self.next.fetch_add(1, Ordering::Relaxed))
    }

    fn insert(&self, shard: &mut HashMap<LowerId, Arc<Node>>, node: &Arc<Node>) {
        shard.insert(node.lower, Arc::clone(node));
        self.ids(node.id).write().insert(node.id, Arc::clone(node));
    }

    /// One reference more to a node that the kernel may know; None if it is not here any more.
    pub(crate) fn again(&self, id: NodeId) -> Option<Arc<Node>> {
        let node = self.get(id).ok()?;
        // References come to nothing under this lock only.
        let _shard = self.lowers(node.lower).lock();
        if !self.ids(id).read().contains_key(&id) {
            return None;
        }
        node.take_reference();
        Some(node)
    }

    /// Where a node was that the kernel forgot.
    pub(crate) fn memory(&self, id: NodeId) -> Option<Memory> {
        self.forgotten.get(id)
    }

    /// One reference more to a node that has some, until [`Table::forget`].
    pub(crate) fn hold(&self, node: &Node) {
        node.take_reference();
    }

    /// The kernel drops references.
    pub(crate) fn forget(&self, id: NodeId, count: u64) {
        let node = self.get(id).ok();
        if let Some(node) = node.or_else(|| self.retired.read().get(&id).cloned()) {
            self.drop_references(node, count);
        }
    }

    /// Gives a node another number: under the present one the kernel gets `ESTALE` from now on. Returns the former one; None
    /// if the kernel has forgotten the node.
    pub(crate) fn renumber(&self, node: &Arc<Node>) -> Option<NodeId> {
        // References come to nothing under this lock only.
        let _shard = self.lowers(node.lower).lock();
        let old = node.number();
        let known = self
            .ids(old)
            .read()
            .get(&old)
            .is_some_and(|known| Arc::ptr_eq(known, node));
        if !known || node.id == NodeId::ROOT {
            return None;
        }
        let new = self.number();
        self.ids(new).write().insert(new, Arc::clone(node));
        // Found as one or the other at every moment.
        self.retired.write().insert(old, Arc::clone(node));
        node.number.store(new.0, Ordering::Release);
        self.ids(old).write().remove(&old);
        Some(old)
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
            let named = remove_if_same(&mut shard, &node);
            let number = node.number();
            self.ids(number).write().remove(&number);
            if number != node.id {
                self.retired
                    .write()
                    .retain(|_, retired| !Arc::ptr_eq(retired, &node));
            }
            let places = std::mem::take(&mut *node.places.lock());
            if named && let Some(place) = places.first() {
                let memory = Memory {
                    lower: node.lower,
                    kind: node.kind,
                    parent: place.parent.number(),
                    name: place.name.clone(),
                    settled: node.settled.load(Ordering::Acquire),
                };
                self.forgotten.add(number, memory);
            }
            drop(shard);
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

    /// The lower name of an object changed, and nothing else.
    pub(crate) fn renamed(&self, lower: LowerId, parent: &Arc<Node>, old: &str, new: &str) {
        let shard = self.lowers(lower).lock();
        match shard.get(&lower).cloned() {
            // One place for another of the same parent: its references stay as they are.
            Some(node) => {
                let mut places = node.places.lock();
                let old =
                    |place: &&mut Place| *place.name == *old && Arc::ptr_eq(&place.parent, parent);
                if let Some(place) = places.iter_mut().find(old) {
                    place.name = new.into();
                }
            }
            None => self.forgotten.renamed(lower, parent.id, old, new),
        }
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

    /// A lower object that has no node is about to lose its last name.
    pub(crate) fn gone(&self, lower: LowerId) {
        drop(self.forgotten.take(lower));
    }

    /// It did not after all.
    pub(crate) fn rehash(&self, node: &Arc<Node>) {
        self.lowers(node.lower)
            .lock()
            .entry(node.lower)
            .or_insert_with(|| Arc::clone(node));
    }

    /// All nodes of this moment.
    pub(crate) fn nodes(&self) -> Vec<Arc<Node>> {
        let shards = self.by_id.iter();
        shards
            .flat_map(|shard| shard.read().values().cloned().collect::<Vec<_>>())
            .collect()
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

impl Drop for Table {
    /// A node holds those above it: without this the last one of a deep tree would drop them by recursion.
    fn drop(&mut self) {
        let nodes: Vec<_> = self
            .by_id
            .iter_mut()
            .flat_map(|shard| std::mem::take(shard.get_mut()).into_values())
            .collect();
        self.retired.get_mut().clear();
        for node in &nodes {
            node.places.lock().clear();
            node.unpin();
        }
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

fn remove_if_same(shard: &mut HashMap<LowerId, Arc<Node>>, node: &Arc<Node>) -> bool {
    let same = shard
        .get(&node.lower)
        .is_some_and(|known| Arc::ptr_eq(known, node));
    if same {
        shard.remove(&node.lower);
    }
    same
}
