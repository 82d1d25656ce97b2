//! What jobs need of the tree: its objects as nodes, without a kernel that asks for them, and what is moved meanwhile.

use std::collections::{BinaryHeap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use kms_format::Nesting;
use kms_format::names::{self, LowerName};
use parking_lot::Mutex;

use super::context::read_header;
use super::{Fs, FsResult, Kind, NodeId};
use crate::errno::Errno;
use crate::inode::{Context, Node, Place};

/// Something in a directory, as the lower tree lists it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Child {
    /// The order of a walk: it survives new names, and is that of the disk.
    pub(crate) ino: u64,
    /// The lower name.
    pub(crate) name: Box<str>,
    pub(crate) is_dir: bool,
}

/// Objects that were given another place while somebody walks over the tree.
#[derive(Default)]
pub(super) struct Moves {
    watched: AtomicBool,
    nodes: Mutex<HashMap<NodeId, Arc<Node>>>,
}

impl Fs {
    /// The node of this number, kept until [`Fs::leave`].
    pub(crate) fn visit(&self, id: NodeId) -> FsResult<Arc<Node>> {
        self.table.again(id).ok_or(Errno::STALE)
    }

    /// A node that was visited may be forgotten.
    pub(crate) fn leave(&self, node: &Node) {
        if node.id != NodeId::ROOT {
            self.table.forget(node.id, 1);
        }
    }

    /// The directory that carries the policy of this one, kept until [`Fs::leave`].
    pub(crate) fn policy_root(&self, id: NodeId) -> FsResult<Arc<Node>> {
        let mut here = self.table.get(id)?;
        if here.kind != Kind::Directory {
            here = here.parent().ok_or(Errno::STALE)?;
        }
        loop {
            if self.context(&here)?.header.nesting() == Nesting::Root {
                return self.visit(here.id);
            }
            here = here.parent().ok_or(Errno::STALE)?;
        }
    }

    /// The directory that carries this policy, looked for from the root; kept until [`Fs::leave`]. Only directories that can be unlocked are
    /// seen.
    pub(crate) fn find_policy_root(
        &self,
        policy: kms_format::PolicyId,
    ) -> FsResult<Option<Arc<Node>>> {
        let mut open = vec![self.visit(NodeId::ROOT)?];
        let mut found = None;
        while let Some(dir) = open.pop() {
            if found.is_none() {
                match self.context(&dir) {
                    Ok(context) if context.policy.policy() == policy => {
                        found = Some(Arc::clone(&dir));
                        continue;
                    }
                    Ok(_) => self.add_directories(&dir, &mut open),
                    Err(_) => {}
                }
            }
            self.leave(&dir);
        }
        Ok(found)
    }

    fn add_directories(&self, dir: &Arc<Node>, open: &mut Vec<Arc<Node>>) {
        let (mut after, mut more) = (0, true);
        while more {
            let Ok((piece, rest)) = self.children(dir, after, false, 4096) else {
                return;
            };
            after = piece.last().map_or(u64::MAX, |child| child.ino);
            more = rest;
            for child in piece.iter().filter(|child| child.is_dir) {
                open.extend(self.enter_child(dir, &child.name));
            }
        }
    }

    /// Keys and policy of a directory.
    pub(crate) fn context_of(&self, node: &Arc<Node>) -> FsResult<Arc<Context>> {
        self.context(node)
    }

    /// Whether a directory whose keys are not to be had has another policy than the one above it, which admitted that: the key
    /// of the directory above vouches for it.
    pub(crate) fn has_own_policy(&self, node: &Arc<Node>) -> bool {
        let admitted = || -> FsResult<bool> {
            let parent = node.parent().ok_or(Errno::STALE)?;
            let above = self.context(&parent)?;
            let Ok(header) = read_header(&*self.dirs.get(node)?)? else {
                return Ok(false);
            };
            if header.nesting() != Nesting::Root || header.policy() == above.policy.policy() {
                return Ok(false);
            }
            Ok(header.check_below(&above.header, &above.keys).is_ok())
        };
        // When in doubt it is the caller's to work on.
        admitted().unwrap_or(false)
    }

    /// The next `limit` objects of a directory behind `after` in the order of inode numbers, all names of one inode together, and
    /// whether there are more. `after` itself is among them if `with` says so.
    pub(crate) fn children(
        &self,
        dir: &Arc<Node>,
        after: u64,
        with: bool,
        limit: usize,
    ) -> FsResult<(Vec<Child>, bool)> {
        let lower = self.dirs.get(dir)?;
        let mut listing = lower.list()?;
        let mut nearest: BinaryHeap<Child> = BinaryHeap::new();
        let mut more = false;
        while let Some(entry) = listing.peek()? {
            let ours = matches!(
                names::classify(&entry.name),
                LowerName::Short | LowerName::Long
            );
            if ours && (entry.ino > after || with && entry.ino == after) {
                let name = String::from_utf8_lossy(&entry.name);
                let kind = match Kind::from_mode(entry.mode) {
                    Some(kind) => Some(kind),
                    None => lower
                        .stat_at(&name)
                        .ok()
                        .and_then(|stat| Kind::from_mode(stat.st_mode)),
                };
                nearest.push(Child {
                    ino: entry.ino,
                    name: name.into(),
                    is_dir: kind == Some(Kind::Directory),
                });
                if nearest.len() > limit {
                    more = true;
                    // All names of the last inode, unless there is nothing else.
                    let last = nearest.peek().map(|child| child.ino);
                    if nearest.iter().any(|child| Some(child.ino) != last) {
                        while nearest.peek().is_some_and(|child| Some(child.ino) == last) {
                            nearest.pop();
                        }
                    }
                }
            }
            listing.advance();
        }
        Ok((nearest.into_sorted_vec(), more))
    }

    /// The node of an object in `dir`, kept until [`Fs::leave`].
    pub(crate) fn enter_child(&self, dir: &Arc<Node>, name: &str) -> FsResult<Arc<Node>> {
        let lower = self.dirs.get(dir)?;
        let _shared = dir.directory()?.entries.read();
        let stat = lower.stat_at(name)?;
        let place = Place {
            parent: Arc::clone(dir),
            name: name.into(),
        };
        Ok(self.entry(place, &lower, stat)?.0)
    }

    /// Replaces a file of ours in the lower root durably.
    pub(crate) fn put_root_file(&self, name: &str, bytes: &[u8]) -> FsResult<()> {
        let _writing = self.check_writable()?;
        self.replace(self.dirs.root(), name, bytes)
    }

    /// Removes a file of ours from the lower root durably.
    pub(crate) fn drop_root_file(&self, name: &str) -> FsResult<()> {
        let _writing = self.check_writable()?;
        let root = self.dirs.root();
        match root.unlink(name) {
            Ok(()) => root.sync(),
            Err(Errno::NOENT) => Ok(()),
            Err(errno) => Err(errno),
        }
    }

    /// The root of the lower tree.
    pub(crate) fn lower_root(&self) -> &Arc<crate::backing::Dir> {
        self.dirs.root()
    }

    /// The lower directory of a node.
    pub(crate) fn lower_dir(&self, node: &Arc<Node>) -> FsResult<Arc<crate::backing::Dir>> {
        self.dirs.get(node)
    }

    /// Makes everything on the lower file system durable that was written so far.
    pub(crate) fn sync_lower(&self) -> FsResult<()> {
        self.dirs.root().sync_file_system()
    }

    /// Whether nothing may be changed at all.
    pub(crate) const fn is_read_only(&self) -> bool {
        self.read_only
    }

    /// From now on, until [`Fs::moves_over`], what gets another place is remembered.
    pub(crate) fn watch_moves(&self) {
        self.moves.watched.store(true, Ordering::SeqCst);
    }

    /// Some of what got another place since; each was visited for the caller, who leaves it.
    pub(crate) fn take_moves(&self) -> Vec<Arc<Node>> {
        let mut nodes = self.moves.nodes.lock();
        nodes.drain().map(|(_, node)| node).collect()
    }

    /// Nothing is remembered any more. False if there is something that was not taken yet.
    pub(crate) fn moves_over(&self) -> bool {
        let nodes = self.moves.nodes.lock();
        if nodes.is_empty() {
            self.moves.watched.store(false, Ordering::SeqCst);
        }
        nodes.is_empty()
    }

    /// To be called before `node` gets another place: a walk that comes to the new one too late, and to the old one not at all,
    /// would miss it.
    pub(super) fn note_move(&self, node: &Arc<Node>) {
        if !self.moves.watched.load(Ordering::SeqCst) {
            return;
        }
        let mut nodes = self.moves.nodes.lock();
        // It may have ended just now; then everything has been seen where it still is.
        if self.moves.watched.load(Ordering::SeqCst) && !nodes.contains_key(&node.id) {
            self.table.hold(node);
            nodes.insert(node.id, Arc::clone(node));
        }
    }

    /// The files that are open, those without a name among them, each visited for the caller.
    pub(crate) fn open_files(&self) -> Vec<Arc<Node>> {
        let open = |node: &Arc<Node>| {
            node.file()
                .is_ok_and(|body| body.read().open.as_ref().is_some())
        };
        let nodes = self.table.nodes().into_iter();
        nodes
            .filter(open)
            .filter_map(|node| self.visit(node.id).ok())
            .collect()
    }
}
