//! Whether an object may be where it was found, when it is known from elsewhere.
//!
//! A lower object is one node, and what is open of it serves all its names. So all of them have to be under one policy: else a
//! hard link made in the lower tree, or a directory moved there, would show what only the holders of another key may see.

use std::sync::Arc;

use super::{Fault, Fs, FsResult, Kind, content};
use crate::backing::Dir;
use crate::inode::{Node, Place};

impl Fs {
    /// The node for an object that was found at `place`, which it has got as a place just now: a node of its own if its other
    /// names turn out to be under another policy than the one it opens under.
    ///
    /// # Errors
    /// `EIO` with a line in the log: it belongs to the policy of its other names.
    pub(super) fn admit(&self, node: Arc<Node>, place: Place, dir: &Dir) -> FsResult<Arc<Node>> {
        match node.kind {
            Kind::Directory => {
                self.admit_directory(&node, &place.parent)?;
                Ok(node)
            }
            Kind::File | Kind::Symlink if node.places().len() > 1 => {
                self.admit_name(node, place, dir)
            }
            _ => Ok(node),
        }
    }

    /// A directory that was unlocked below another parent is unlocked anew below this one, if it may be.
    fn admit_directory(&self, node: &Node, parent: &Arc<Node>) -> FsResult<()> {
        let directory = node.directory()?;
        let Some(context) = directory.context.read().clone() else {
            return Ok(());
        };
        let above = self.context(parent)?;
        if context
            .header
            .check_below(&above.header, &above.keys)
            .is_err()
        {
            *directory.locked.lock() = Some(context.policy.policy());
            *directory.context.write() = None;
        }
        Ok(())
    }

    fn admit_name(&self, node: Arc<Node>, place: Place, dir: &Dir) -> FsResult<Arc<Node>> {
        let here = self.context(&place.parent)?;
        let elsewhere = |other: &Place| {
            let context = self.context(&other.parent);
            context.is_ok_and(|context| !context.same_policy(&here))
        };
        if !node.places().iter().any(elsewhere) {
            return Ok(node);
        }
        self.table.remove_place(&node, &place.parent, &place.name);
        let opens = match node.kind {
            Kind::Symlink => dir
                .read_link(&place.name)
                .map_err(Fault::from)
                .and_then(|stored| self.open_target(&here, &stored).map(drop)),
            _ => dir
                .open_file(&place.name, false)
                .map_err(Fault::from)
                .and_then(|file| {
                    // Only the header counts: the size may be changing.
                    content::load(
                        file,
                        false,
                        true,
                        &here.policy,
                        self.keys.as_ref(),
                        self.dirs.root(),
                    )
                    .map(drop)
                }),
        };
        self.table.forget(node.id, 1);
        match opens {
            Ok(()) => {
                // It is the other names that are wrong: they keep the old node, which does not open.
                self.table.unhash(&node);
                Ok(self.table.intern(node.lower, node.kind, place))
            }
            Err(Fault::Damage(error)) => Err(self.damaged(&place.parent, &place.name, &error)),
            Err(fault) => Err(self.fault(&node, fault)),
        }
    }
}
