//! Renaming, in all its flags but RENAME_WHITEOUT.

use std::ffi::OsStr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use kms_format::Nesting;
use parking_lot::RwLockWriteGuard;
use rustix::fs::RenameFlags;

use super::context::read_header;
use super::crossing::Crossing;
use super::lookup::Named;
use super::{Caller, Fs, FsResult, Kind, NodeId};
use crate::backing::{LowerId, Stat};
use crate::errno::Errno;
use crate::inode::{Node, Place};

/// How often a rename is tried when keys change under it.
const TRIES: usize = 4;

impl Fs {
    /// Renames, replaces or exchanges. `flags` are those of `renameat2(2)`.
    ///
    /// # Errors
    /// `EXDEV` between directories of different policies for all but files with one name, and where these encrypt content
    /// differently; `EXDEV` for a directory with a policy of its own that would get another parent; `EINVAL` for
    /// RENAME_WHITEOUT; otherwise as `rename(2)`.
    pub fn rename(
        &self,
        caller: &Caller,
        parent: NodeId,
        name: &OsStr,
        new_parent: NodeId,
        new_name: &OsStr,
        flags: u32,
    ) -> FsResult<()> {
        let _writing = self.check_writable()?;
        let flags = RenameFlags::from_bits_retain(flags);
        if flags != RenameFlags::EXCHANGE && !(RenameFlags::NOREPLACE).contains(flags) {
            return Err(Errno::INVAL);
        }
        for _ in 1..TRIES {
            match self.rename_once(caller, (parent, name), (new_parent, new_name), flags) {
                Err(Errno::STALE) => {}
                done => return done,
            }
        }
        self.rename_once(caller, (parent, name), (new_parent, new_name), flags)
    }

    fn rename_once(
        &self,
        caller: &Caller,
        (parent, name): (NodeId, &OsStr),
        (new_parent, new_name): (NodeId, &OsStr),
        flags: RenameFlags,
    ) -> FsResult<()> {
        let exchange = flags == RenameFlags::EXCHANGE;
        let (from, to) = (self.named(parent, name)?, self.named(new_parent, new_name)?);
        if from.context.same_policy(&to.context) {
            return self.rename_named(&from, &to, flags, None);
        }
        if exchange {
            return Err(Errno::XDEV);
        }
        let (here, there) = (&from.context.policy, &to.context.policy);
        self.access
            .may_use(caller, &here.volume(), &here.policy())?;
        self.access
            .may_bring(caller, &there.volume(), &there.policy())?;
        let crossing = self.prepare_crossing(&from, &to)?;
        let renamed = self.rename_named(&from, &to, flags, Some(&crossing));
        if renamed.is_err() {
            crossing.abandon();
        }
        renamed
    }

    fn rename_named(
        &self,
        from: &Named,
        to: &Named,
        flags: RenameFlags,
        crossing: Option<&Crossing<'_>>,
    ) -> FsResult<()> {
        let exchange = flags == RenameFlags::EXCHANGE;
        let _shape = self.shape.lock();
        let _alone = lock_both(&from.parent, &to.parent)?;
        // No other name may be made of what crosses.
        let _one_name = crossing.map(|crossing| crossing.node().links.lock());
        if to.parent.directory()?.dead.load(Ordering::Acquire) {
            return Err(Errno::NOENT);
        }
        let (from, to) = (self.resolve(from)?, self.resolve(to)?);
        let (from, to) = (&*from, &*to);
        let source = from.dir.stat_at(from.stored())?;
        let target = match to.dir.stat_at(to.stored()) {
            Err(Errno::NOENT) => None,
            stat => Some(stat?),
        };
        match &target {
            Some(_) if flags == RenameFlags::NOREPLACE => return Err(Errno::EXIST),
            None if exchange => return Err(Errno::NOENT),
            // Two names of one object: nothing happens, says POSIX.
            Some(target) if LowerId::of(target) == LowerId::of(&source) => return Ok(()),
            _ => {}
        }
        for stat in [Some(&source), target.as_ref()].into_iter().flatten() {
            if let Some(node) = self.table.find(LowerId::of(stat)) {
                self.note_move(&node);
            }
        }
        if !Arc::ptr_eq(&from.parent, &to.parent) {
            match crossing {
                Some(crossing) => crossing.check(&source)?,
                None => self.check_movable(from, &source)?,
            }
            if let Some(target) = target.as_ref().filter(|_| exchange) {
                self.check_movable(to, target)?;
                self.headers.flush_for_move(&to.parent, &from.parent)?;
            }
            self.headers.flush_for_move(&from.parent, &to.parent)?;
        }
        if let Some(recheck) = &self.recheck
            && [Some(&source), target.as_ref()]
                .into_iter()
                .flatten()
                .any(|stat| Kind::from_mode(stat.st_mode) == Some(Kind::Directory))
        {
            recheck.disturb();
        }
        let rename = || match crossing {
            Some(crossing) => crossing.rename(from, to, flags),
            None => from.dir.rename(from.stored(), &to.dir, to.stored(), flags),
        };
        match target {
            Some(target) if exchange => self.exchange(from, &source, to, &target),
            Some(target) => self.replace_by_rename(from, &source, to, &target, rename),
            None => {
                let recorded = self.put_sidecar(to)?;
                let moved = rename();
                if moved.is_err() && recorded {
                    self.drop_sidecar(to);
                }
                moved?;
                self.moved(from, &source, to);
                Ok(())
            }
        }
    }

    fn replace_by_rename(
        &self,
        from: &Named,
        source: &Stat,
        to: &Named,
        target: &Stat,
        rename: impl FnOnce() -> FsResult<()>,
    ) -> FsResult<()> {
        let is_dir = |stat: &Stat| Kind::from_mode(stat.st_mode) == Some(Kind::Directory);
        match (is_dir(source), is_dir(target)) {
            (true, false) => return Err(Errno::NOTDIR),
            (false, true) => return Err(Errno::ISDIR),
            _ => {}
        }
        let moving = self.table.find(LowerId::of(source));
        if let Some(moving) = moving.filter(|_| is_dir(source))
            && to.parent.is_below(&moving)
        {
            return Err(Errno::INVAL);
        }
        let node = self.table.find(LowerId::of(target));
        let directory = node.as_ref().and_then(|node| node.directory().ok());
        // A target above the source is not empty, and its lock may be held.
        if is_dir(target) && node.as_ref().is_some_and(|node| from.parent.is_below(node)) {
            return Err(Errno::NOTEMPTY);
        }
        let _inside = directory.map(|directory| directory.entries.write());
        let _links = node.as_ref().map(|node| node.links.lock());
        self.put_sidecar(to)?;
        let parting = self.part(to, target)?;
        if let Err(errno) = rename() {
            self.stay(parting);
            return Err(errno);
        }
        self.parted(parting, &to.parent, to.stored());
        self.moved(from, source, to);
        Ok(())
    }

    fn exchange(&self, from: &Named, source: &Stat, to: &Named, target: &Stat) -> FsResult<()> {
        from.dir
            .rename(from.stored(), &to.dir, to.stored(), RenameFlags::EXCHANGE)?;
        let nodes = [source, target].map(|stat| self.table.find(LowerId::of(stat)));
        let ways = [(from, to), (to, from)];
        for (node, (old, _)) in nodes.iter().zip(&ways) {
            if let Some(node) = node.as_ref().filter(|node| node.kind != Kind::Directory) {
                self.table.remove_place(node, &old.parent, old.stored());
            }
        }
        for (node, (_, new)) in nodes.iter().zip(&ways) {
            if let Some(node) = node {
                self.table.add_place(node, new.place());
            }
        }
        Ok(())
    }

    /// The lower rename is done.
    fn moved(&self, from: &Named, source: &Stat, to: &Named) {
        if let Some(node) = self.table.find(LowerId::of(source)) {
            // A directory has one place, which the new one replaces.
            self.table.add_place(&node, to.place());
            let old: Place = from.place();
            self.table.remove_place(&node, &old.parent, &old.name);
        }
        self.drop_sidecar(from);
    }

    /// The root of a nested policy is sealed to its parent.
    fn check_movable(&self, named: &Named, stat: &Stat) -> FsResult<()> {
        if Kind::from_mode(stat.st_mode) != Some(Kind::Directory) {
            return Ok(());
        }
        let known = self.table.find(LowerId::of(stat)).and_then(|node| {
            let context = node.directory().ok()?.context.read();
            context.as_ref().map(|context| context.header.nesting())
        });
        let nesting = match known {
            Some(nesting) => nesting,
            None => match read_header(&named.dir.open_dir(named.stored())?)? {
                Ok(header) => header.nesting(),
                // It will be repaired or refused when it is used.
                Err(_) => Nesting::Inherits,
            },
        };
        match nesting {
            Nesting::Root => Err(Errno::XDEV),
            Nesting::Inherits => Ok(()),
        }
    }
}

/// Locks two directories, the upper one first.
fn lock_both<'a>(
    a: &'a Arc<Node>,
    b: &'a Arc<Node>,
) -> FsResult<(RwLockWriteGuard<'a, ()>, Option<RwLockWriteGuard<'a, ()>>)> {
    if Arc::ptr_eq(a, b) {
        return Ok((a.directory()?.entries.write(), None));
    }
    let a_first = if b.is_below(a) {
        true
    } else if a.is_below(b) {
        false
    } else {
        a.id < b.id
    };
    let (first, second) = if a_first { (a, b) } else { (b, a) };
    let guard = first.directory()?.entries.write();
    Ok((guard, Some(second.directory()?.entries.write())))
}
