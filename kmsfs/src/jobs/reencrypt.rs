//! New keys, contents and names for everything under a policy.
//!
//! What hangs on the policy key itself (wrapped keys, symlink targets) goes to its newest generation on the way, as in a
//! rewrap: the one walk does both.

use std::sync::Arc;

use kms_format::{PolicyId, UnlockedPolicy};

use super::rewrap::Rewrap;
use super::{Pace, Step, Work};
use crate::errno::Errno;
use crate::fs::{Fs, FsResult, Kind};
use crate::inode::Node;

/// The job.
pub(crate) struct Reencrypt {
    to: Arc<UnlockedPolicy>,
    rewrap: Rewrap,
}

impl Reencrypt {
    pub(crate) fn new(to: Arc<UnlockedPolicy>) -> Reencrypt {
        Reencrypt {
            rewrap: Rewrap::new(Arc::clone(&to)),
            to,
        }
    }

    /// A file, chunk by chunk: each is durable when it is done, and so is the end.
    fn file(&self, fs: &Fs, node: &Arc<Node>, pace: Pace<'_>) -> FsResult<Step> {
        // With that it has a new key, and new content.
        if fs.convert_file(node, &self.to, pace)? {
            return Ok(Step::CHANGED);
        }
        match fs.reencrypt_file(node, &self.to)? {
            None => Ok(Step::NOTHING),
            Some(work) => work.whole(pace).map(|()| Step::CHANGED),
        }
    }
}

impl Work for Reencrypt {
    fn directory(&mut self, fs: &Fs, dir: &Arc<Node>, pace: Pace<'_>) -> FsResult<Step> {
        let wrapped = self.rewrap.directory(fs, dir, pace)?;
        let mut pause = |_| {
            if pace(0) {
                Ok(())
            } else {
                // It goes on here the next time.
                Err(Errno::INTR)
            }
        };
        let changed = fs.reencrypt_directory(dir, &self.to, &mut pause)?;
        Ok(Step {
            changed: changed || wrapped.changed,
            bytes: 0,
        })
    }

    fn entry(
        &mut self,
        fs: &Fs,
        dir: &Arc<Node>,
        name: &str,
        node: &Arc<Node>,
        pace: Pace<'_>,
    ) -> FsResult<Step> {
        if node.kind == Kind::File {
            let step = self.file(fs, node, pace)?;
            if step.changed {
                return Ok(step);
            }
        }
        // Also a file whose key is of the newest generation already: it may be wrapped under an older one (moved here and back while
        // this goes on), or have no header yet and be held open by somebody, who makes it with the policy key of then.
        self.rewrap.entry(fs, dir, name, node, pace)
    }

    fn flush(&mut self, fs: &Fs) -> FsResult<()> {
        self.rewrap.flush(fs)
    }

    fn policy(&self) -> PolicyId {
        self.to.policy()
    }
}
