//! Objects that the kernel has forgotten but somebody may still hold a file handle of (`open_by_handle_at`, NFS).
//!
//! A handle contains the node id, so an object gets its old number back when it is found again. What is kept of each is
//! small, and how many are kept is bounded: the oldest go first, and handles of them are `ESTALE`.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;

use crate::backing::LowerId;
use crate::fs::{Kind, NodeId};

/// How many are remembered: about 11 MB.
const LIMIT: usize = 65_536;

/// Where an object was, when the kernel forgot it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Memory {
    pub(crate) lower: LowerId,
    pub(crate) kind: Kind,
    pub(crate) parent: NodeId,
    pub(crate) name: Box<str>,
    /// Its size was compared with its header.
    pub(crate) settled: bool,
}

/// All of them.
#[derive(Default)]
pub(super) struct Forgotten {
    count: AtomicUsize,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    by_id: HashMap<NodeId, (u64, Memory)>,
    by_lower: HashMap<LowerId, NodeId>,
    /// In the order in which they were forgotten.
    order: BTreeMap<u64, NodeId>,
    next: u64,
}

impl Inner {
    fn remove(&mut self, id: NodeId) -> Option<Memory> {
        let (order, memory) = self.by_id.remove(&id)?;
        self.order.remove(&order);
        self.by_lower.remove(&memory.lower);
        Some(memory)
    }
}

impl Forgotten {
    pub(super) fn add(&self, id: NodeId, memory: Memory) {
        let mut inner = self.inner.lock();
        if let Some(other) = inner.by_lower.get(&memory.lower).copied() {
            inner.remove(other);
        }
        let order = inner.next;
        inner.next += 1;
        inner.by_lower.insert(memory.lower, id);
        inner.by_id.insert(id, (order, memory));
        inner.order.insert(order, id);
        if inner.by_id.len() > LIMIT
            && let Some((_, oldest)) = inner.order.pop_first()
        {
            inner.remove(oldest);
        }
        self.count.store(inner.by_id.len(), Ordering::Release);
    }

    /// What is known of a node.
    pub(super) fn get(&self, id: NodeId) -> Option<Memory> {
        let inner = self.inner.lock();
        inner.by_id.get(&id).map(|(_, memory)| memory.clone())
    }

    /// The lower name of an object changed.
    pub(super) fn renamed(&self, lower: LowerId, parent: NodeId, old: &str, new: &str) {
        let mut inner = self.inner.lock();
        let Some(id) = inner.by_lower.get(&lower).copied() else {
            return;
        };
        if let Some((_, memory)) = inner.by_id.get_mut(&id)
            && memory.parent == parent
            && *memory.name == *old
        {
            memory.name = new.into();
        }
    }

    /// The node that a lower object had, to be used again.
    pub(super) fn take(&self, lower: LowerId) -> Option<(NodeId, Memory)> {
        if self.count.load(Ordering::Acquire) == 0 {
            return None;
        }
        let mut inner = self.inner.lock();
        let id = inner.by_lower.get(&lower).copied()?;
        let memory = inner.remove(id)?;
        self.count.store(inner.by_id.len(), Ordering::Release);
        Some((id, memory))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn memory(ino: u64) -> Memory {
        Memory {
            lower: LowerId::new(1, ino),
            kind: Kind::File,
            parent: NodeId::ROOT,
            name: "name".into(),
            settled: true,
        }
    }

    #[test]
    fn the_oldest_go_first() {
        let forgotten = Forgotten::default();
        for number in 2..u64::try_from(LIMIT).unwrap() + 12 {
            forgotten.add(NodeId(number), memory(number));
        }
        assert_eq!(forgotten.get(NodeId(11)), None);
        assert_eq!(forgotten.take(LowerId::new(1, 11)), None);
        assert_eq!(forgotten.get(NodeId(12)), Some(memory(12)));
        assert_eq!(forgotten.inner.lock().by_id.len(), LIMIT);
        assert_eq!(forgotten.inner.lock().by_lower.len(), LIMIT);
    }

    #[test]
    fn what_comes_and_goes_leaves_nothing_behind() {
        let forgotten = Forgotten::default();
        for _ in 0..1000 {
            forgotten.add(NodeId(5), memory(7));
            assert_eq!(
                forgotten.take(LowerId::new(1, 7)),
                Some((NodeId(5), memory(7)))
            );
        }
        assert!(forgotten.inner.lock().order.is_empty());
        // Another object at a number that is used again.
        forgotten.add(NodeId(5), memory(7));
        forgotten.add(NodeId(6), memory(7));
        assert_eq!(forgotten.get(NodeId(5)), None);
    }
}
