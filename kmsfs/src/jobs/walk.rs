//! A walk over the objects of one policy in a mounted tree, in an order in which it can go on later.
//!
//! Depth first, each directory in the order of the lower inode numbers. What is moved under the walk is remembered by the file system
//! ([`Fs::note_move`]); what is made under it is made under the policy key of its directory, which has been visited before it.

use std::collections::VecDeque;
use std::sync::Arc;

use kms_format::PolicyId;

use super::{Step, Work};
use crate::errno::Errno;
use crate::fs::tasks::Child;
use crate::fs::{Fs, FsResult};
use crate::inode::Node;

/// How much of a directory is in memory at a time.
const PIECE: usize = 65_536;

/// Told of every object, and asked whether to go on.
pub(crate) trait Control {
    /// An object was done. `lower` is its path for people; `position` comes after it.
    ///
    /// # Errors
    /// Ends the walk.
    fn done(
        &mut self,
        work: &mut dyn Work,
        result: FsResult<Step>,
        at: &dyn Fn() -> Position,
    ) -> FsResult<()>;

    /// So many bytes were written anew in the middle of an object. Says whether to go on.
    fn part(&mut self, bytes: u64) -> bool;

    /// Something could not be worked on.
    fn failed(&mut self, lower: String, errno: Errno);

    /// A directory below has a policy of its own that is locked or destroyed: it is passed over, like any other policy.
    fn locked(&mut self, lower: String, errno: Errno);

    /// Whether to stop here.
    fn stopped(&self) -> bool;
}

/// Inode numbers from the root of the policy down. All before is done; so is the last of them, with all below it.
pub(crate) type Position = Vec<u64>;

/// Errors after which nothing else would work either.
pub(crate) fn ends_all(errno: Errno) -> bool {
    matches!(
        errno.raw(),
        libc::ENOSPC
            | libc::EDQUOT
            | libc::EROFS
            | libc::ENOKEY
            | libc::EKEYREVOKED
            | libc::ETIMEDOUT
            | libc::EMFILE
            | libc::ENFILE
            | libc::ENOMEM
            | libc::ESHUTDOWN
    )
}

/// It is not there any more.
pub(crate) fn is_gone(errno: Errno) -> bool {
    matches!(errno, Errno::NOENT | Errno::STALE)
}

struct Level {
    node: Arc<Node>,
    ino: u64,
    waiting: VecDeque<Child>,
    /// Where the next piece begins, and whether there is one.
    after: u64,
    more: bool,
}

/// Walks over a directory and everything below it that is under its policy. `from` is where an earlier walk was; empty for all of it.
/// Gives whether it came to the end.
///
/// # Errors
/// What ends all.
pub(crate) fn walk(
    fs: &Fs,
    root: &Arc<Node>,
    from: &[u64],
    work: &mut dyn Work,
    control: &mut dyn Control,
) -> FsResult<bool> {
    let mut walk = Walk {
        fs,
        levels: Vec::new(),
        policy: work.policy(),
    };
    let result = walk.run(root, from, work, control);
    for level in walk.levels.drain(..).skip(1) {
        fs.leave(&level.node);
    }
    result
}

struct Walk<'a> {
    fs: &'a Fs,
    levels: Vec<Level>,
    policy: PolicyId,
}

impl Walk<'_> {
    fn run(
        &mut self,
        root: &Arc<Node>,
        from: &[u64],
        work: &mut dyn Work,
        control: &mut dyn Control,
    ) -> FsResult<bool> {
        if from.is_empty() {
            let done = work.directory(self.fs, root, &mut |bytes| control.part(bytes));
            self.report(work, control, done, root, "", &[0])?;
        }
        self.push(Arc::clone(root), 0, from)?;
        // The way down to where it was, without doing anything again.
        let mut from = from;
        while let Some((ino, rest)) = from.split_first() {
            if rest.is_empty() || !self.descend(*ino, rest)? {
                break;
            }
            from = rest;
        }
        loop {
            if control.stopped() {
                return Ok(false);
            }
            let Some(level) = self.levels.last_mut() else {
                return Ok(true);
            };
            let Some(child) = level.waiting.pop_front() else {
                if level.more {
                    let (node, after) = (Arc::clone(&level.node), level.after);
                    match self.fs.children(&node, after, false, PIECE) {
                        Ok((piece, more)) => self.refill(piece, more),
                        Err(errno) if is_gone(errno) => self.refill(Vec::new(), false),
                        Err(errno) if ends_all(errno) => return Err(errno),
                        Err(errno) => {
                            control.failed(node.lower_path(), errno);
                            self.refill(Vec::new(), false);
                        }
                    }
                    continue;
                }
                if let Some(level) = self.levels.pop()
                    && !self.levels.is_empty()
                {
                    self.fs.leave(&level.node);
                }
                continue;
            };
            let dir = Arc::clone(&level.node);
            self.child(&dir, &child, work, control)?;
        }
    }

    fn child(
        &mut self,
        dir: &Arc<Node>,
        child: &Child,
        work: &mut dyn Work,
        control: &mut dyn Control,
    ) -> FsResult<()> {
        let node = match self.fs.enter_child(dir, &child.name) {
            Ok(node) => node,
            Err(errno) if is_gone(errno) => return Ok(()),
            Err(errno) if ends_all(errno) => return Err(errno),
            Err(errno) => {
                control.failed(path(dir, &child.name), errno);
                return Ok(());
            }
        };
        if !child.is_dir || node.directory().is_err() {
            let mut pace = |bytes| control.part(bytes);
            let done = work.entry(self.fs, dir, &child.name, &node, &mut pace);
            let reported = self.report(work, control, done, dir, &child.name, &[child.ino]);
            self.fs.leave(&node);
            return reported;
        }
        let below = match self.fs.context_of(&node) {
            Ok(context) if context.policy.policy() != self.policy => {
                self.fs.leave(&node);
                return Ok(());
            }
            Ok(_) => work.directory(self.fs, &node, &mut |bytes| control.part(bytes)),
            Err(errno) if self.fs.has_own_policy(&node) => {
                self.fs.leave(&node);
                control.locked(path(dir, &child.name), errno);
                return Ok(());
            }
            Err(errno) => Err(errno),
        };
        let inside = below.is_ok();
        let reported = self.report(work, control, below, dir, &child.name, &[child.ino, 0]);
        if reported.is_err() || !inside {
            self.fs.leave(&node);
            return reported;
        }
        self.push(node, child.ino, &[])
    }

    /// Says what became of an object. `last` is its place below `self.levels`.
    fn report(
        &self,
        work: &mut dyn Work,
        control: &mut dyn Control,
        done: FsResult<Step>,
        dir: &Arc<Node>,
        name: &str,
        last: &[u64],
    ) -> FsResult<()> {
        let result = match done {
            Err(errno) if is_gone(errno) => return Ok(()),
            // Half done: the walk ends before it.
            Err(Errno::INTR) if control.stopped() => return Ok(()),
            Err(errno) if ends_all(errno) => return Err(errno),
            Err(errno) => {
                control.failed(path(dir, name), errno);
                Ok(Step::NOTHING)
            }
            done => done,
        };
        control.done(work, result, &|| {
            let above = self.levels.iter().skip(1).map(|level| level.ino);
            above.chain(last.iter().copied()).collect()
        })
    }

    fn push(&mut self, node: Arc<Node>, ino: u64, from: &[u64]) -> FsResult<()> {
        let after = from.first().copied().unwrap_or(0);
        // What is deeper than this is in a directory that is not done yet.
        let with = from.len() > 1;
        let (piece, more) = match self.fs.children(&node, after, with, PIECE) {
            Ok(found) => found,
            Err(errno) if is_gone(errno) => (Vec::new(), false),
            Err(errno) => {
                if !self.levels.is_empty() {
                    self.fs.leave(&node);
                }
                return Err(errno);
            }
        };
        self.levels.push(Level {
            node,
            ino,
            waiting: VecDeque::new(),
            after,
            more: false,
        });
        self.refill(piece, more);
        Ok(())
    }

    fn refill(&mut self, piece: Vec<Child>, more: bool) {
        if let Some(level) = self.levels.last_mut() {
            if let Some(last) = piece.last() {
                level.after = last.ino;
            }
            level.waiting = piece.into();
            level.more = more;
        }
    }

    /// Into the directory where the walk was, if it is there still.
    fn descend(&mut self, ino: u64, rest: &[u64]) -> FsResult<bool> {
        let Some(level) = self.levels.last_mut() else {
            return Ok(false);
        };
        let Some(child) = level.waiting.front().filter(|child| child.ino == ino) else {
            return Ok(false);
        };
        if !child.is_dir {
            return Ok(false);
        }
        let (dir, child) = (Arc::clone(&level.node), child.clone());
        let node = match self.fs.enter_child(&dir, &child.name) {
            Ok(node) => node,
            Err(errno) if ends_all(errno) => return Err(errno),
            // Left where it is: the walk comes to it next, and says so.
            Err(_) => return Ok(false),
        };
        let same = match self.fs.context_of(&node) {
            Ok(context) => context.policy.policy() == self.policy,
            Err(errno) if ends_all(errno) && !self.fs.has_own_policy(&node) => {
                self.fs.leave(&node);
                return Err(errno);
            }
            // Left where it is, as above.
            Err(_) => false,
        };
        if !same {
            self.fs.leave(&node);
            return Ok(false);
        }
        if let Some(level) = self.levels.last_mut() {
            level.waiting.pop_front();
        }
        self.push(node, ino, rest)?;
        Ok(true)
    }
}

fn path(dir: &Arc<Node>, name: &str) -> String {
    match (dir.lower_path().as_str(), name) {
        (above, "") => above.to_owned(),
        (".", name) => name.to_owned(),
        (above, name) => format!("{above}/{name}"),
    }
}
