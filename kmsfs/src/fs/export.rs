//! Objects found by their number instead of a name: lookups of `.` and `..`, which the kernel sends for file handles
//! (`open_by_handle_at`, NFS).

use std::ffi::OsStr;
use std::sync::Arc;

use super::{Entry, Fs, FsResult, Kind, NodeId};
use crate::errno::Errno;
use crate::inode::{Node, Place};

impl Fs {
    /// The entry of a node for `.`, of its parent for `..`; None for a name.
    pub(super) fn lookup_dots(&self, node: NodeId, name: &OsStr) -> Option<FsResult<Entry>> {
        match name.as_encoded_bytes() {
            b"." => Some(self.revive(node).and_then(|node| self.present(node))),
            b".." => Some((|| {
                let node = self.revive(node)?;
                let parent = match node.parent() {
                    Some(parent) => self.table.again(parent.number()).ok_or(Errno::STALE),
                    None if node.id == NodeId::ROOT => self.revive(node.id),
                    None => Err(Errno::STALE),
                };
                self.forget(node.id, 1);
                self.present(parent?)
            })()),
            _ => None,
        }
    }

    /// The entry of a node, one reference of which is the kernel's.
    fn present(&self, node: Arc<Node>) -> FsResult<Entry> {
        match self.attr_of(&node) {
            Ok(attr) => Ok(self.entry_of(&node, attr)),
            Err(errno) => {
                self.forget(node.id, 1);
                Err(errno)
            }
        }
    }

    /// The node of a number, with one reference more. One that the kernel has forgotten is looked for where it was.
    fn revive(&self, id: NodeId) -> FsResult<Arc<Node>> {
        // From there up to a directory that is known, then down again.
        let mut below = Vec::new();
        let mut up = id;
        let mut node = loop {
            if let Some(node) = self.table.again(up) {
                break node;
            }
            let memory = self.table.memory(up).ok_or(Errno::STALE)?;
            let parent = memory.parent;
            below.push((up, memory));
            up = parent;
        };
        while let Some((id, memory)) = below.pop() {
            let found = self.find_again(&node, &memory.name, memory.kind);
            self.forget(node.id, 1);
            node = found?;
            if node.number() != id {
                self.forget(node.id, 1);
                return Err(Errno::STALE);
            }
        }
        Ok(node)
    }

    fn find_again(&self, parent: &Arc<Node>, name: &str, kind: Kind) -> FsResult<Arc<Node>> {
        let dir = self.dirs.get(parent)?;
        let _shared = parent.directory()?.entries.read();
        let stat = match dir.stat_at(name) {
            Err(Errno::NOENT) => return Err(Errno::STALE),
            stat => stat?,
        };
        let place = Place {
            parent: Arc::clone(parent),
            name: name.into(),
        };
        let (node, _) = self.entry(place, &dir, stat)?;
        if node.kind != kind {
            self.forget(node.id, 1);
            return Err(Errno::STALE);
        }
        Ok(node)
    }
}
