//! Moving a file from one policy into another of the same content mode (FORMAT.md section 6.2).
//!
//! The file keeps its key, and with it every byte it has. Its header has room for two wraps of that key: the one for the
//! destination is made durable first, then the lower rename happens, and the source's goes once that is durable, too. So at
//! every moment the file opens in whichever of the two directories it is found.

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use kms_format::file::Wrap;
use rustix::fs::RenameFlags;

use super::content::{OpenFile, Unchanged};
use super::lookup::Named;
use super::{Fault, Fs, FsResult, Kind};
use crate::backing::{LowerId, Stat};
use crate::errno::Errno;
use crate::inode::Node;

/// A file that opens under the policies of both directories, and is held open.
pub(super) struct Crossing<'a> {
    fs: &'a Fs,
    node: Arc<Node>,
    /// The wrap beside the one in use, which is to go in the end: for the destination until the lower rename is tried, for
    /// the source once it is done.
    spare: Cell<Option<Wrap>>,
}

impl Fs {
    /// Gets a file ready to be moved from under one policy to under another. The caller holds no locks.
    ///
    /// # Errors
    /// `EXDEV` for what cannot be moved like that, and has to be copied; what the lower file system says.
    pub(super) fn prepare_crossing(&self, from: &Named, to: &Named) -> FsResult<Crossing<'_>> {
        let (here, there) = (&from.context.policy, &to.context.policy);
        if here.volume() != there.volume() || here.mode() != there.mode() {
            return Err(Errno::XDEV);
        }
        // Before anything is made for a name that cannot be had.
        if to.parent.directory()?.dead.load(Ordering::Acquire) {
            return Err(Errno::NOENT);
        }
        let entry = {
            let _shared = from.parent.directory()?.entries.read();
            let from = self.resolve(from)?;
            may_cross(&from.dir.stat_at(from.stored())?)?;
            self.enter(&from.parent, &from.dir, from.stored())?
        };
        let node = self.table.get(entry.node);
        let acquired = node.and_then(|node| self.acquire(&node, true).map(|()| node));
        let node = match acquired {
            Ok(node) => node,
            Err(errno) => {
                self.forget(entry.node, 1);
                return Err(match errno {
                    // A user's own file that its mode keeps it from writing: it can be read, and copied.
                    Errno::ACCES | Errno::PERM | Errno::TXTBSY => Errno::XDEV,
                    errno => errno,
                });
            }
        };
        let crossing = Crossing {
            fs: self,
            node,
            spare: Cell::default(),
        };
        crossing.wrap(from, to)?;
        Ok(crossing)
    }
}

impl Crossing<'_> {
    /// Makes the file open under both policies, durably.
    fn wrap(&self, from: &Named, to: &Named) -> FsResult<()> {
        let node = &self.node;
        let foreign = {
            let body = node.file()?.read();
            let open = body.opened()?;
            // Both slots are in use; or the policy is on its way to another mode, and the file is not there yet.
            if open.reencrypting() || open.mode() != to.context.policy.mode() {
                return Err(Errno::XDEV);
            }
            open.spare_wrap()
                .is_some_and(|wrap| wrap.policy != from.context.policy.policy())
        };
        if foreign {
            // Left from an earlier move. A power cut may still undo that, and then it would be needed.
            self.fs.dirs.root().sync_file_system()?;
        }
        let lower = {
            let mut body = node.file()?.write();
            let open = body.opened_mut()?;
            let unchanged = Unchanged::note(open.lower())?;
            let added = if open.reencrypting() || open.mode() != to.context.policy.mode() {
                Err(Errno::XDEV.into())
            } else {
                open.add_wrap(&to.context.policy)
            };
            unchanged.put_back(open.lower());
            added.map_err(|fault| self.fs.fault(node, fault))?;
            self.spare.set(open.spare_wrap());
            // Part of the content becomes durable with the page.
            open.mark_synced();
            Arc::clone(open.lower())
        };
        lower.sync_data().inspect_err(|errno| {
            // Whoever has the file open would not hear of it otherwise.
            if let Ok(body) = node.file() {
                body.write().failures.remember(*errno);
            }
        })
    }

    /// The lower rename, durably, and the end of the wrap for the source. The caller holds the locks of both directories, and
    /// that of the file's links. Nobody else changes the slots of the file until the rename cannot be undone by a power cut.
    pub(super) fn rename(&self, from: &Named, to: &Named, flags: RenameFlags) -> FsResult<()> {
        let mut body = self.node.file()?.write();
        let open = body.opened_mut()?;
        let policy = &to.context.policy;
        if open.reencrypting() || !open.opens_under(policy) {
            // It got its first header, or yet another wrap, in between: once more.
            return Err(Errno::STALE);
        }
        // From here on both are needed: an error need not mean that nothing happened.
        self.spare.set(None);
        from.dir
            .rename(from.stored(), &to.dir, to.stored(), flags)?;
        let done = match open.adopt(policy) {
            Ok(()) => {
                self.spare.set(open.spare_wrap());
                let durable = from.dir.sync().and_then(|()| to.dir.sync());
                durable
                    .map_err(Fault::from)
                    .and_then(|()| self.drop_spare(open))
            }
            // This process made the wrap a moment ago. What is open goes on; whoever opens it next gets the error.
            Err(fault) => Err(fault),
        };
        self.complain(done);
        Ok(())
    }

    /// Nothing was moved: takes the wrap for the destination away again.
    pub(super) fn abandon(self) {
        let done = self.node.file().map_err(Fault::from).and_then(|body| {
            let mut body = body.write();
            self.drop_spare(body.opened_mut()?)
        });
        self.complain(done);
    }

    fn drop_spare(&self, open: &mut OpenFile) -> Result<(), Fault> {
        // Otherwise somebody else has wrapped it anew.
        if self.spare.get().is_none() || open.spare_wrap() != self.spare.get() {
            return Ok(());
        }
        let unchanged = Unchanged::note(open.lower())?;
        let dropped = open.drop_spare_wrap();
        unchanged.put_back(open.lower());
        dropped
    }

    /// A wrap too many is harmless.
    fn complain(&self, done: Result<(), Fault>) {
        if let Err(fault) = done {
            tracing::warn!(
                lower = self.node.lower_path(),
                why = %fault,
                "the key of a file that was moved between two policies stays wrapped under both; the other wrap goes when \
                 the file is moved again or rewrapped"
            );
        }
    }

    /// Whether this is the object that was found under the name, and may still be moved.
    pub(super) fn check(&self, source: &Stat) -> FsResult<()> {
        if LowerId::of(source) != self.node.lower {
            return Err(Errno::STALE);
        }
        may_cross(source)
    }

    pub(super) const fn node(&self) -> &Arc<Node> {
        &self.node
    }
}

impl Drop for Crossing<'_> {
    fn drop(&mut self) {
        self.fs.give_up(&self.node);
        self.fs.forget(self.node.id, 1);
    }
}

/// Files with one name. A symlink's target is encrypted under its policy, another name would stay behind, and a directory
/// is full of both.
fn may_cross(stat: &Stat) -> FsResult<()> {
    let file = Kind::from_mode(stat.st_mode) == Some(Kind::File);
    if file && stat.st_nlink == 1 {
        Ok(())
    } else {
        Err(Errno::XDEV)
    }
}
