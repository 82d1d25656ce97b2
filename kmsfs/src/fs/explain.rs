//! What an administrator is told of an object: which policy decides about it, whether it can be used at all, whose descriptors of
//! it fail.

use std::sync::Arc;

use kms_format::PolicyId;

use super::{Fs, FsResult, Kind};
use crate::inode::Node;

impl Fs {
    /// The root of the mount.
    pub(crate) fn root(&self) -> Arc<Node> {
        Arc::clone(self.table.root())
    }

    /// The policy that decides about an object, as headers say without a key.
    ///
    /// # Errors
    /// `ESTALE` if it is gone.
    pub(crate) fn claimed_policy(&self, node: &Arc<Node>) -> FsResult<PolicyId> {
        Ok(self.policy_above(node)?.1)
    }

    /// Opens what using an object begins with: the header of a directory or file, the target of a link.
    ///
    /// # Errors
    /// `EIO`: damaged. `ENOKEY`, `ETIMEDOUT`: no keys.
    pub(crate) fn examine(&self, node: &Arc<Node>) -> FsResult<()> {
        match node.kind {
            Kind::Directory => self.unlock_at(node),
            Kind::File => self.with_file(node, false, |_| Ok(())),
            Kind::Symlink => self.readlink(node.number()).map(drop),
            // They have nothing of ours but their name.
            Kind::Fifo | Kind::Socket | Kind::CharDevice | Kind::BlockDevice => Ok(()),
        }
    }

    /// Processes of a user that opened an object and whose descriptors fail: their access ended, or somebody else's did and the
    /// file got another number.
    pub(crate) fn cut_off(&self, node: &Arc<Node>, uid: u32) -> Vec<u32> {
        let mut processes: Vec<u32> = self
            .handles
            .of(node)
            .iter()
            .filter(|handle| handle.opener.uid == uid)
            .filter(|handle| handle.is_revoked() || handle.is_stale())
            .map(|handle| handle.opener.pid)
            .collect();
        processes.sort_unstable();
        processes.dedup();
        processes
    }
}
