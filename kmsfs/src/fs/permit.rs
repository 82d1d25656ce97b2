//! Whether a caller may use the policy that an object is under.
//!
//! Asked once for each request that says who asks, before the operation: what is about an open file is decided by who opened it.

use std::sync::Arc;

use kms_format::{PolicyId, VolumeId};

use super::context::read_header;
use super::{Caller, Fs, FsResult, Kind, NodeId};
use crate::errno::Errno;
use crate::inode::Node;

impl Fs {
    /// Whether `caller` may do anything with the object: for a directory its own policy counts, for everything else that of
    /// the directory it is in.
    ///
    /// # Errors
    /// As [`crate::access::Access::may_use`]; `EIO` if the object is where it cannot be.
    pub fn permit(&self, caller: &Caller, node: NodeId) -> FsResult<()> {
        if !self.access.per_user() {
            return Ok(());
        }
        let Ok(node) = self.table.get(node) else {
            // The operation says what that is about.
            return Ok(());
        };
        let (volume, policy) = self.policy_above(&node)?;
        self.access.may_use(caller, &volume, &policy)
    }

    /// How often decisions were forgotten: see [`crate::access::Access::decisions`].
    #[must_use]
    pub fn decisions(&self) -> u64 {
        self.access.decisions()
    }

    /// Whether users are told apart.
    #[must_use]
    pub fn per_user(&self) -> bool {
        self.access.per_user()
    }

    /// Whether every walk through the object has to be seen: the root of a policy, where users are told apart. When in
    /// doubt it is one.
    pub(super) fn divides(&self, node: &Arc<Node>) -> bool {
        if !self.access.per_user() || node.kind != Kind::Directory {
            return false;
        }
        match node.parent() {
            None => true,
            Some(parent) => match (self.policy_above(node), self.policy_above(&parent)) {
                (Ok(own), Ok(above)) => own != above,
                _ => true,
            },
        }
    }

    /// The policy that decides about an object. Needs no key: what a header claims is enough to ask the right question, and
    /// nothing is read below a directory before its header was authenticated.
    pub(super) fn policy_above(&self, node: &Arc<Node>) -> FsResult<(VolumeId, PolicyId)> {
        let mut node = Arc::clone(node);
        loop {
            if let Ok(directory) = node.directory() {
                if let Some(context) = directory.context.read().as_ref() {
                    return Ok((context.policy.volume(), context.policy.policy()));
                }
                if let Some(claimed) = *directory.claimed.lock() {
                    return Ok(claimed);
                }
                // A directory without a readable header is under its parent's policy, as far as anything can be done with it.
                if let Ok(Ok(header)) = self.dirs.get(&node).and_then(|dir| read_header(&dir)) {
                    let claimed = (header.volume(), header.policy());
                    *directory.claimed.lock() = Some(claimed);
                    return Ok(claimed);
                }
            }
            let above = match (node.parent(), node.nameless()) {
                (Some(parent), _) => parent,
                (None, Some(nameless)) => Arc::clone(&nameless.parent),
                (None, None) => return Err(Errno::STALE),
            };
            node = above;
        }
    }
}
