//! Keys of directories and files, and symlinks, onto the newest generation of their policy key.

use std::collections::HashMap;
use std::sync::Arc;

use kms_format::{PolicyId, UnlockedPolicy};

use super::{Pace, Step, Work};
use crate::backing::LowerId;
use crate::errno::Errno;
use crate::fs::rewrap::{Link, Renewed, Rewrapped};
use crate::fs::{Fs, FsResult, Kind};
use crate::inode::Node;

/// The job.
pub(crate) struct Rewrap {
    to: Arc<UnlockedPolicy>,
    /// Files with two wraps, the first of which goes once the second is on the disk.
    waiting: Vec<Rewrapped>,
    /// Symlinks with several names, by the old object.
    links: HashMap<LowerId, Renewed>,
    /// Records that go once the new symlinks are on the disk.
    garbage: Vec<String>,
    /// Something was written since the last flush.
    written: bool,
}

impl Rewrap {
    pub(crate) fn new(to: Arc<UnlockedPolicy>) -> Rewrap {
        Rewrap {
            to,
            waiting: Vec::new(),
            links: HashMap::new(),
            garbage: Vec::new(),
            written: false,
        }
    }

    /// Both slots of a file that is half done are in use: that is ended first.
    fn file(&self, fs: &Fs, node: &Arc<Node>, pace: Pace<'_>) -> FsResult<Option<Rewrapped>> {
        match fs.rewrap_file(node, &self.to) {
            Err(Errno::BUSY) => {
                fs.end_file_reencryption(node, pace)?;
                fs.rewrap_file(node, &self.to)
            }
            wrapped => wrapped,
        }
    }

    fn symlink(
        &mut self,
        fs: &Fs,
        dir: &Arc<Node>,
        name: &str,
        node: &Arc<Node>,
    ) -> FsResult<Step> {
        if fs.symlink_generation(dir, name)? == self.to.generation() {
            return Ok(Step::NOTHING);
        }
        let known = self.links.get(&node.lower);
        match fs.rewrap_symlink(dir, name, node, known, &self.to)? {
            Link::UpToDate => Ok(Step::NOTHING),
            Link::Renewed { new, garbage, more } => {
                if more {
                    self.links.entry(node.lower).or_insert(new);
                } else {
                    self.links.remove(&node.lower);
                }
                self.garbage.extend(garbage);
                self.written = true;
                Ok(Step::CHANGED)
            }
        }
    }
}

impl Work for Rewrap {
    fn directory(&mut self, fs: &Fs, dir: &Arc<Node>, _pace: Pace<'_>) -> FsResult<Step> {
        let changed = fs.rewrap_directory(dir, &self.to)?;
        self.written |= changed;
        Ok(Step { changed, bytes: 0 })
    }

    fn entry(
        &mut self,
        fs: &Fs,
        dir: &Arc<Node>,
        name: &str,
        node: &Arc<Node>,
        pace: Pace<'_>,
    ) -> FsResult<Step> {
        match node.kind {
            // Another name of one that waits.
            Kind::File if self.waiting.iter().any(|one| one.is(node)) => Ok(Step::NOTHING),
            // Of another mode than the newest generation: it cannot be wrapped under that as it is.
            Kind::File if fs.convert_file(node, &self.to, pace)? => Ok(Step::CHANGED),
            Kind::File => match self.file(fs, node, pace)? {
                None => Ok(Step::NOTHING),
                Some(wrapped) => {
                    self.waiting.push(wrapped);
                    self.written = true;
                    Ok(Step::CHANGED)
                }
            },
            // A symlink without a name stays as it is: nobody can give it one again.
            Kind::Symlink if !name.is_empty() => self.symlink(fs, dir, name, node),
            _ => Ok(Step::NOTHING),
        }
    }

    fn flush(&mut self, fs: &Fs) -> FsResult<()> {
        if !self.written {
            return Ok(());
        }
        let synced = fs.sync_lower();
        let mut result = synced;
        for wrapped in self.waiting.drain(..) {
            let retired = fs.retire_wrap(wrapped, synced.is_ok());
            result = result.and(retired);
        }
        if synced.is_ok() {
            let garbage = std::mem::take(&mut self.garbage);
            let dropped = fs.drop_link_records(&garbage);
            result = result.and(dropped);
            self.written = false;
        }
        result
    }

    fn policy(&self) -> PolicyId {
        self.to.policy()
    }
}
