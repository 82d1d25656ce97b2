//! Setting a policy on an empty directory.

use std::sync::Arc;

use kms_format::names::{self, LowerName};
use kms_format::{DirHeader, UnlockedPolicy};

use super::{Fs, FsResult, NodeId};
use crate::errno::Errno;
use crate::inode::Context;

impl Fs {
    /// Puts an empty directory under a policy of its own; what is made in it inherits it. Durable on return.
    ///
    /// # Errors
    /// `EBUSY` for the root, `ENOTEMPTY`.
    pub fn protect(&self, node: NodeId, policy: &Arc<UnlockedPolicy>) -> FsResult<()> {
        let _writing = self.check_writable()?;
        let node = self.table.get(node)?;
        let directory = node.directory()?;
        let parent = node.parent().ok_or(Errno::BUSY)?;
        // Nobody gives the parent another key meanwhile: this directory is admitted with the one it has.
        let _above = parent.directory()?.entries.read();
        let above = self.context(&parent)?;
        if above.policy.volume() != policy.volume() {
            return Err(Errno::INVAL);
        }
        // The old header first, so that a damaged one is not covered up.
        self.context(&node)?;
        let _alone = directory.entries.write();
        let dir = self.dirs.get(&node)?;
        let mut listing = dir.list()?;
        while let Some(entry) = listing.peek()? {
            let ours = matches!(
                names::classify(&entry.name),
                LowerName::DirHeader | LowerName::Sidecar | LowerName::Temporary
            );
            if !ours && entry.name != b"." && entry.name != b".." {
                return Err(Errno::NOTEMPTY);
            }
            listing.advance();
        }
        let made = DirHeader::create_nested(policy, &above.keys);
        let (header, keys) = made.map_err(|error| Errno::from(&error))?;
        let bytes = header.encode().map_err(|error| Errno::from(&error))?;
        // The headers above have to be as durable as this one.
        self.headers.flush_above(&node)?;
        if let Err(errno) = self.replace(&dir, names::DIR_HEADER, &bytes) {
            // Whichever header is there now is read at the next use.
            *directory.context.write() = None;
            *directory.claimed.lock() = None;
            return Err(errno);
        }
        let policy = Arc::clone(policy);
        *directory.claimed.lock() = None;
        *directory.context.write() = Some(Arc::new(Context {
            header,
            keys,
            policy,
        }));
        // Where users are told apart, walks through it have to be seen from now on.
        if let Some(changed) = self.changed.get() {
            changed(node.id);
        }
        Ok(())
    }
}
