//! Hard links.

use std::ffi::OsStr;

use super::{Caller, Entry, Fs, FsResult, Kind, NodeId};
use crate::backing::LowerId;
use crate::errno::Errno;
use crate::inode::Place;

impl Fs {
    /// Gives an object another name, or one made by [`Fs::tmpfile`] its first.
    ///
    /// # Errors
    /// `EPERM` for a directory, `EXDEV` into a directory of another policy, `ENOENT` if it has no name any more, `ESTALE` if it is a
    /// symlink: it may be another object by now.
    pub fn link(
        &self,
        _caller: &Caller,
        node: NodeId,
        new_parent: NodeId,
        new_name: &OsStr,
    ) -> FsResult<Entry> {
        let _writing = self.check_writable()?;
        let node = self.table.get(node)?;
        if node.kind == Kind::Directory {
            return Err(Errno::PERM);
        }
        let named = self.named(new_parent, new_name)?;
        for place in node.places() {
            if !self.context(&place.parent)?.same_policy(&named.context) {
                return Err(Errno::XDEV);
            }
        }
        self.note_move(&node);
        let _alone = named.parent.directory()?.entries.write();
        let _links = node.links.lock();
        let nameless = node.nameless();
        if let Some(nameless) = &nameless {
            if !self.context(&nameless.parent)?.same_policy(&named.context) {
                return Err(Errno::XDEV);
            }
            // The directory that it was made in may have got a policy of its own since.
            let here = named.context.policy.policy();
            if let Ok(body) = node.file()
                && let Some(open) = body.read().open.as_ref()
                && open.policy().policy() != here
            {
                return Err(Errno::XDEV);
            }
            self.headers.flush_above(&named.parent)?;
        }
        for place in node.places() {
            // The other name may be removed next.
            self.headers.flush_for_move(&place.parent, &named.parent)?;
        }
        let stat = self.making(&named, |dir, stored| {
            // The lower name changes while the directory gets a new key.
            let attempt = |place: Place| {
                let from = self.dirs.get(&place.parent)?;
                match from.link(&place.name, dir, stored) {
                    Ok(()) => {}
                    Err(Errno::NOENT) => return Ok(None),
                    Err(errno) => return Err(errno),
                }
                let stat = dir.stat_at(stored)?;
                if LowerId::of(&stat) == node.lower {
                    return Ok(Some(stat));
                }
                // A rename gave the name to something else just then.
                dir.unlink(stored)?;
                Ok(None)
            };
            // What the lower file system says is not to be taken for a file without a name.
            match self.somewhere(&node, |place| Ok(attempt(place).transpose())) {
                Ok(linked) => return linked,
                Err(Errno::STALE) => {}
                Err(errno) => return Err(errno),
            }
            // Made without a name. A symlink that lost its names may have been made anew under them: the kernel looks it up again.
            let gone = match node.kind {
                Kind::Symlink => Errno::STALE,
                _ => Errno::NOENT,
            };
            let nameless = nameless.as_ref().ok_or(gone)?;
            nameless.object.link(dir, stored)?;
            dir.stat_at(stored)
        })?;
        let entry = self.entry(named.place(), &named.dir, stat)?.1;
        node.unpin();
        Ok(entry)
    }
}
