//! Opening and closing files.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::content::{self, Faulty, OpenFile, Unchanged};
use super::copies;
use super::{Caller, Fault, FileHandle, Fs, FsResult, NodeId, Opened};
use crate::backing::{LowerFile, LowerId};
use crate::errno::Errno;
use crate::handle::Opening;
use crate::inode::{Context, Node};

impl Fs {
    /// Opens a file. `flags` are those of `open(2)`; of them O_TRUNC is carried out, and O_RDONLY decides whether a lower
    /// file that cannot be written will do. Offsets of O_APPEND writes come from the caller.
    ///
    /// # Errors
    /// `EIO` if the header is damaged or belongs elsewhere, `ENOKEY` if the file is locked, `ESTALE` if it is gone.
    pub fn open(
        &self,
        caller: &Caller,
        node: NodeId,
        flags: i32,
        kill_suidgid: bool,
    ) -> FsResult<Opened> {
        let opened_as = node;
        let node = self.table.get(node)?;
        let write = flags & libc::O_ACCMODE != libc::O_RDONLY || flags & libc::O_TRUNC != 0;
        let _writing = if write {
            Some(self.check_writable()?)
        } else {
            None
        };
        self.acquire(&node, write)?;
        if flags & libc::O_TRUNC != 0
            && let Err(errno) = self.truncate(caller, &node, 0, kill_suidgid)
        {
            self.give_up(&node);
            return Err(errno);
        }
        let reads = flags & libc::O_ACCMODE != libc::O_WRONLY && flags & libc::O_NOATIME == 0;
        if reads {
            let body = node.file()?.read();
            if let Some(open) = &body.open {
                self.accessed(&node, open.lower(), true);
            }
        }
        let opening = Opening {
            opener: *caller,
            policy: self.policy_of(&node),
            opened_as,
            writable: flags & libc::O_ACCMODE != libc::O_RDONLY,
            reads,
        };
        Ok(Opened {
            fh: self.handles.insert(node, &opening),
        })
    }

    /// Closes a file.
    pub fn release(&self, fh: FileHandle) {
        if let Some(handle) = self.handles.remove(fh) {
            self.give_up(&handle.node);
        }
    }

    /// Makes sure that the node's file is open, until [`Fs::give_up`].
    pub(super) fn acquire(&self, node: &Arc<Node>, write: bool) -> FsResult<()> {
        let mut body = node.file()?.write();
        if body
            .open
            .as_ref()
            .is_none_or(|open| write && !open.writable())
        {
            let (lower, writable, context) = self.open_lower(node, write)?;
            let keys = self.keys.as_ref();
            let unclean = self.unsettled(node) || self.may_be_blank(&lower, &context.policy)?;
            let root = self.dirs.root();
            let opened = content::load(lower, writable, unclean, &context.policy, keys, root);
            let mut opened = opened.map_err(|fault| self.fault(node, fault))?;
            if opened.lower().is_elsewhere() {
                opened = self.bring_back(node, opened, write)?;
            }
            self.correct_size(node, &mut opened);
            body.open = Some(opened);
        }
        body.users += 1;
        Ok(())
    }

    /// The length in the page of an inline file is authenticated, its lower size is not: a wrong one is put right, and
    /// the kernel, which may have seen it, asks again.
    fn correct_size(&self, node: &Node, open: &mut OpenFile) {
        if !open.size_is_wrong() {
            return;
        }
        tracing::warn!(
            lower = node.lower_path(),
            "the lower size of a small file was not what its header says: the header counts"
        );
        if open.writable()
            && let Some(_writing) = self.may_change()
        {
            // If that fails it is wrong still, and comes here again.
            let _ = open.settle();
        }
        if let Some(changed) = self.changed.get() {
            changed(node.number());
        }
    }

    /// The content of the file is in its copy, where a stop has left it: brings it back, if something may be changed now.
    /// Otherwise it can be read where it is.
    fn bring_back(&self, node: &Arc<Node>, found: OpenFile, write: bool) -> FsResult<OpenFile> {
        let brought = (|| {
            let _writing = self.may_change().ok_or(Errno::ROFS)?;
            let (lower, writable, context) = self.open_lower(node, true)?;
            if !writable {
                return Err(Errno::ROFS);
            }
            let unchanged = Unchanged::note(&lower)?;
            let copy = found.lower().content();
            let placed = copies::put_in_place(&lower, copy);
            unchanged.put_back(&lower);
            placed?;
            let (policy, keys) = (&context.policy, self.keys.as_ref());
            let loaded = content::load_shared(&Arc::new(lower), true, false, policy, keys);
            loaded.map_err(|fault| self.fault(node, fault))
        })();
        match brought {
            Ok(open) => {
                tracing::info!(
                    lower = node.lower_path(),
                    "the content of this file was brought back from its copy, where the last stop left it"
                );
                node.set_mode(Some(open.mode()));
                Ok(open)
            }
            Err(errno) if write => Err(errno),
            Err(_) => Ok(found),
        }
    }

    pub(super) fn give_up(&self, node: &Arc<Node>) {
        if let Ok(body) = node.file() {
            let mut body = body.write();
            body.users = body.users.saturating_sub(1);
            if body.users > 0 {
                return;
            }
            let unfinished = body.open.as_ref().is_some_and(|open| {
                // What has no name any more is gone with this.
                open.writable() && open.unfinished() && node.place().is_some()
            });
            if !unfinished {
                body.open = None;
            } else if self.lengths.add(node) {
                drop(body);
                self.lengths.settle();
            }
        }
    }

    /// Whether an unclean stop may have left a lower size that contradicts the header.
    fn unsettled(&self, node: &Node) -> bool {
        self.unclean && (self.read_only || !node.settled.load(Ordering::Acquire))
    }

    /// Runs `work` on the open file, which is opened for it if need be.
    pub(super) fn with_file<T>(
        &self,
        node: &Arc<Node>,
        write: bool,
        work: impl FnOnce(&mut OpenFile) -> Faulty<T>,
    ) -> FsResult<T> {
        self.acquire(node, write)?;
        let result = match node.file()?.write().opened_mut() {
            Ok(open) => work(open),
            Err(errno) => Err(Fault::Lower(errno)),
        };
        self.give_up(node);
        result.map_err(|fault| self.fault(node, fault))
    }

    /// Opens the lower file, for writing if at all possible.
    pub(super) fn open_lower(
        &self,
        node: &Arc<Node>,
        write: bool,
    ) -> FsResult<(LowerFile, bool, Arc<Context>)> {
        let named = self.somewhere(node, |place| {
            let context = self.context(&place.parent)?;
            let dir = self.dirs.get(&place.parent)?;
            let opened = self.open_as_can(write, |write| dir.open_file(&place.name, write));
            match opened {
                Ok((file, writable)) if LowerId::of(&file.stat()?) == node.lower => {
                    Ok(Some((file, writable, context)))
                }
                // Something else has the name now.
                Ok(_) | Err(Errno::NOENT) => Ok(None),
                Err(errno) => Err(errno),
            }
        });
        match (named, node.nameless()) {
            (Err(Errno::STALE), Some(nameless)) => {
                let context = self.context(&nameless.parent)?;
                let opened = self.open_as_can(write, |write| nameless.object.open_file(write));
                opened.map(|(file, writable)| (file, writable, context))
            }
            (named, _) => named,
        }
    }

    /// Opens for writing if at all possible; says whether it was.
    fn open_as_can(
        &self,
        write: bool,
        open: impl Fn(bool) -> FsResult<LowerFile>,
    ) -> FsResult<(LowerFile, bool)> {
        if self.read_only {
            return open(false).map(|file| (file, false));
        }
        match open(true) {
            Err(Errno::ACCES | Errno::PERM | Errno::ROFS | Errno::TXTBSY) if !write => {
                open(false).map(|file| (file, false))
            }
            result => result.map(|file| (file, true)),
        }
    }
}
