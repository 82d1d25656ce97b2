//! What a revocation needs of the file system: whose handle is what, whether a request may be answered, keys wiped and got again.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use kms_format::PolicyId;

use super::content::Unchanged;
use super::{Fault, FileHandle, Fs, FsResult, Kind, NodeId};
use crate::errno::Errno;
use crate::handle::Handle;
use crate::inode::Node;
use crate::revoke::marks::{Asked, Class, Marks, Verdict};

/// From this many files on, one call for the whole lower file system is cheaper than one for each.
const MANY: usize = 16;

impl Fs {
    /// What is revoked.
    pub(crate) fn marks(&self) -> &Arc<Marks> {
        &self.marks
    }

    /// Gets the keys of a directory, so that its policy is known.
    ///
    /// # Errors
    /// As [`Fs::opendir`].
    pub(crate) fn unlock_at(&self, directory: &Arc<Node>) -> FsResult<()> {
        self.context(directory).map(drop)
    }

    /// The policy that an object is under; None if its directory was never unlocked.
    pub(crate) fn policy_of(&self, node: &Arc<Node>) -> Option<PolicyId> {
        let mut here = match node.directory() {
            Ok(_) => Some(Arc::clone(node)),
            Err(_) => above(node),
        };
        while let Some(node) = here {
            if let Ok(directory) = node.directory() {
                if let Some(context) = directory.context.read().as_ref() {
                    return Some(context.policy.policy());
                }
                if let Some(policy) = *directory.locked.lock() {
                    return Some(policy);
                }
            }
            here = above(&node);
        }
        None
    }

    /// Whether a directory is the one that was put under this policy, the root of the mount included.
    pub(crate) fn is_policy_root(&self, node: &Arc<Node>, policy: &PolicyId) -> bool {
        node.kind == Kind::Directory
            && node
                .parent()
                .is_none_or(|parent| self.policy_of(&parent).as_ref() != Some(policy))
    }

    /// Whether a request may be carried out, or its reply be sent. To be asked before, and again when the reply is there.
    pub(crate) fn judge(&self, asked: &Asked) -> Verdict {
        if self.marks.is_quiet() || asked.class == Class::Exempt {
            return Verdict::Pass;
        }
        let mut found = false;
        for fh in asked.handles.into_iter().flatten() {
            if let Ok(handle) = self.handles.get(fh) {
                found = true;
                let verdict = self.judge_handle(&handle, asked);
                if verdict != Verdict::Pass {
                    return verdict;
                }
            }
        }
        if found {
            // The nodes are those of the handles.
            return Verdict::Pass;
        }
        for id in [Some(asked.node), asked.other].into_iter().flatten() {
            // What is not there answers ESTALE by itself, or is found by its handle.
            if let Ok(node) = self.table.get(id) {
                let verdict = self.judge_node(&node, asked);
                if verdict != Verdict::Pass {
                    return verdict;
                }
            }
        }
        Verdict::Pass
    }

    fn judge_handle(&self, handle: &Handle, asked: &Asked) -> Verdict {
        let writeback = asked.class == Class::Write { cached: true };
        if handle.is_revoked() && !writeback {
            return Verdict::Fail(Errno::from_raw(libc::EKEYREVOKED));
        }
        if handle.is_stale() {
            if matches!(asked.class, Class::Write { .. }) {
                self.marks.wrote_late(handle.opened_as);
            }
            return Verdict::Fail(Errno::STALE);
        }
        self.judge_node(&handle.node, asked)
    }

    fn judge_node(&self, node: &Arc<Node>, asked: &Asked) -> Verdict {
        if node.kind == Kind::File && self.marks.is_victim(node.id) {
            match asked.class {
                Class::Write { cached: true } => {}
                // Left unanswered they would hold up the invalidation.
                Class::Read | Class::Write { .. } | Class::SetAttr => {
                    return Verdict::Fail(Errno::STALE);
                }
                _ => return Verdict::Park,
            }
        }
        let Some(policy) = self.policy_of(node) else {
            return Verdict::Pass;
        };
        match self.marks.of_policy(&policy, asked) {
            // So that the administrator, and `df`, can still name what is locked.
            Verdict::Fail(Errno::NOKEY) | Verdict::Wait(_)
                if asked.class == Class::GetAttr && self.is_policy_root(node, &policy) =>
            {
                Verdict::Pass
            }
            verdict => verdict,
        }
    }

    /// Whether a reply may name a node. One whose pages are being taken away gets another number first.
    pub(crate) fn may_name(&self, number: NodeId) -> bool {
        self.table
            .get(number)
            .is_ok_and(|node| node.kind != Kind::File || !self.marks.is_victim(node.id))
    }

    /// Whether the kernel has to ask for the attributes of a node each time: a revoked user stands in it, or it is the root
    /// of a policy where users are told apart.
    pub(crate) fn gates(&self, node: &Arc<Node>) -> bool {
        let watched = || {
            node.directory()
                .is_ok_and(|directory| directory.watched.load(Ordering::Acquire))
        };
        !self.marks.is_quiet() && watched() || self.divides(node)
    }

    /// The same for a number.
    pub(crate) fn is_gate(&self, number: NodeId) -> bool {
        (self.per_user() || !self.marks.is_quiet())
            && self.table.get(number).is_ok_and(|node| self.gates(&node))
    }

    /// Opens the file of a handle again, whose keys were wiped while it was locked.
    ///
    /// # Errors
    /// As [`Fs::open`].
    pub(crate) fn reopen(&self, fh: FileHandle) -> FsResult<()> {
        let Ok(handle) = self.handles.get(fh) else {
            return Ok(());
        };
        let node = &handle.node;
        let Ok(body) = node.file() else { return Ok(()) };
        if body.read().open.is_none() {
            self.acquire(node, false)?;
            self.give_up(node);
        }
        Ok(())
    }

    /// All handles of objects that are under a policy.
    pub(crate) fn handles_under(&self, policy: &PolicyId) -> Vec<Arc<Handle>> {
        let mut handles = self.handles.all();
        handles.retain(|handle| self.policy_of(&handle.node).as_ref() == Some(policy));
        handles
    }

    /// All handles that need the right to a policy: they were opened by it, or what they are of has been moved under it since.
    pub(crate) fn handles_by(&self, policy: &PolicyId) -> Vec<Arc<Handle>> {
        let mut handles = self.handles.all();
        handles.retain(|handle| {
            handle.policy.as_ref() == Some(policy)
                || self.policy_of(&handle.node).as_ref() == Some(policy)
        });
        handles
    }

    /// All handles.
    pub(crate) fn all_handles(&self) -> Vec<Arc<Handle>> {
        self.handles.all()
    }

    /// All objects under a policy that the kernel knows.
    pub(crate) fn nodes_under(&self, policy: &PolicyId) -> Vec<Arc<Node>> {
        let mut nodes = self.table.nodes();
        nodes.retain(|node| self.policy_of(node).as_ref() == Some(policy));
        nodes
    }

    /// Gives a node another number; see [`crate::inode::table::Table::renumber`].
    pub(crate) fn renumber(&self, node: &Arc<Node>) -> Option<NodeId> {
        self.table.renumber(node)
    }

    /// The node of a lower object that the kernel knows, by its inode number as `stat(2)` shows it.
    pub(crate) fn node_of_inode(&self, ino: u64) -> Option<Arc<Node>> {
        self.table.find(self.table.root().lower.beside(ino))
    }

    /// The node of a number that the kernel knows.
    pub(crate) fn node(&self, number: NodeId) -> FsResult<Arc<Node>> {
        self.table.get(number)
    }

    /// The kernel may keep the attributes of a policy's directories again: nobody is shut out any more.
    pub(crate) fn unwatch(&self, policy: &PolicyId) {
        for node in self.nodes_under(policy) {
            if let Ok(directory) = node.directory() {
                directory.watched.store(false, Ordering::Release);
            }
        }
    }

    /// The keys of a policy may be asked for again.
    pub(crate) fn allow_keys(&self, policy: &PolicyId) {
        self.keys.allow(policy);
    }

    /// Drops the keys of everything under a locked policy. What is open stays open, without keys, until [`Fs::reopen`].
    pub(crate) fn wipe(&self, policy: &PolicyId) {
        let nodes = self.nodes_under(policy);
        // Directories first: without them no file gets keys again.
        for node in &nodes {
            if let Ok(directory) = node.directory() {
                let mut context = directory.context.write();
                if context.take().is_some() {
                    *directory.locked.lock() = Some(*policy);
                }
            }
        }
        self.finish_lengths(&nodes);
        for node in &nodes {
            if let Ok(body) = node.file() {
                body.write().open = None;
            }
        }
        self.keys.bar(policy);
    }

    /// Lets the headers of open files say how long they are, which needs their keys. What fails is authenticated all the
    /// same, but for its length.
    fn finish_lengths(&self, nodes: &[Arc<Node>]) {
        let Some(_writing) = self.may_change() else {
            return;
        };
        let mut begun = Vec::new();
        for node in nodes {
            if let Ok(body) = node.file()
                && let Some(open) = &mut body.write().open
                && open.writable()
                && open.unfinished()
                && let Ok(Some(ticket)) = open.begin_sync()
            {
                begun.push((node, Arc::clone(open.lower()), ticket));
            }
        }
        // One call for the whole lower file system is cheaper than many.
        let together = begun.len() >= MANY;
        let all = if together {
            self.dirs.root().sync_file_system()
        } else {
            Ok(())
        };
        for (node, lower, ticket) in begun {
            let synced = if together { all } else { lower.sync_data() };
            let finished = synced.map_err(Fault::Lower).and_then(|()| {
                if let Some(open) = &mut node.file()?.write().open {
                    let unchanged = Unchanged::note(&lower)?;
                    open.finish_sync(ticket)?;
                    unchanged.put_back(&lower);
                }
                Ok(())
            });
            if let Err(fault) = finished {
                let errno = self.fault(node, fault);
                tracing::warn!(lower = node.lower_path(), %errno, "locked before the header of this file could say how long it is");
            }
        }
    }
}

/// The directory that an object is in, or was in last.
fn above(node: &Arc<Node>) -> Option<Arc<Node>> {
    let parent = node.parent();
    parent.or_else(|| node.nameless().map(|nameless| Arc::clone(&nameless.parent)))
}
