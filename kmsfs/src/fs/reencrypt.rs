//! New file keys and new content, while the file is in use (FORMAT.md section 6.3).

use std::sync::Arc;

use kms_format::content::Progress;
use kms_format::{UnlockedPolicy, file};

use super::attributes::AttributeKeys;
use super::content::{Faulty, OpenFile, Unchanged};
use super::{Fault, Fs, FsResult, Kind};
use crate::backing::xattr::Target;
use crate::errno::Errno;
use crate::inode::Node;

/// A file that is getting a new key. It is open until this is dropped; what has been done by then stays done.
pub(crate) struct FileReencryption<'a> {
    fs: &'a Fs,
    node: Arc<Node>,
    /// Whose key the file gets.
    policy: Arc<UnlockedPolicy>,
    begun: bool,
}

/// How far one is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reencrypted {
    /// So many bytes were written anew in this step, and at most so many are left.
    More { bytes: u64, left: u64 },
    /// Nothing is under the old key any more, and nothing has it. So many bytes were written anew in this step.
    Done { bytes: u64 },
}

impl Fs {
    /// Gets ready to give a file a new key under `policy`: that of its directory, at its newest generation. None if it has a
    /// key that was made for that, or none yet.
    ///
    /// # Errors
    /// `EROFS`, `ENOKEY`; `EIO` if its header is damaged; what the lower file system says.
    pub(crate) fn reencrypt_file(
        &self,
        node: &Arc<Node>,
        policy: &Arc<UnlockedPolicy>,
    ) -> FsResult<Option<FileReencryption<'_>>> {
        let _writing = self.check_writable()?;
        if node.kind != Kind::File {
            return Ok(None);
        }
        self.acquire(node, true)?;
        let begun = FileReencryption {
            fs: self,
            node: Arc::clone(node),
            policy: Arc::clone(policy),
            begun: false,
        };
        let behind = node.file()?.read().opened()?.is_behind(policy);
        Ok(behind.then_some(begun))
    }
}

impl Fs {
    /// Ends a re-encryption of a file that was begun and left. Under which key it began does not matter.
    ///
    /// # Errors
    /// As [`FileReencryption::whole`].
    pub(crate) fn end_file_reencryption(
        &self,
        node: &Arc<Node>,
        pace: &mut dyn FnMut(u64) -> bool,
    ) -> FsResult<()> {
        self.acquire(node, true)?;
        let policy = node.file().and_then(|body| {
            let body = body.read();
            let open = body.opened()?;
            Ok(open.reencrypting().then(|| Arc::clone(open.policy())))
        });
        let Some(policy) = policy.inspect_err(|_| self.give_up(node))? else {
            self.give_up(node);
            return Ok(());
        };
        let work = FileReencryption {
            fs: self,
            node: Arc::clone(node),
            policy,
            begun: false,
        };
        work.whole(pace)
    }
}

impl FileReencryption<'_> {
    /// All that is left of it. `pace` is told of the bytes of each step, and says whether to go on.
    ///
    /// # Errors
    /// As [`FileReencryption::step`]; `EINTR` if it was told to stop: it goes on the next time.
    pub(crate) fn whole(mut self, pace: &mut dyn FnMut(u64) -> bool) -> FsResult<()> {
        loop {
            match self.step()? {
                Reencrypted::Done { bytes } => {
                    pace(bytes);
                    return Ok(());
                }
                Reencrypted::More { bytes, .. } if !pace(bytes) => return Err(Errno::INTR),
                Reencrypted::More { .. } => {}
            }
        }
    }

    /// Does a part of it, while others wait: about 1 MiB.
    ///
    /// # Errors
    /// `EIO` if something of the file is damaged: it stays as it is, with both keys. What the lower file system says; a step
    /// that failed can be tried again.
    pub(crate) fn step(&mut self) -> FsResult<Reencrypted> {
        let _writing = self.fs.check_writable()?;
        let node = Arc::clone(&self.node);
        let mut body = node.file()?.write();
        // Locked meanwhile; what was done is in the lower file.
        let open = body.open.as_mut().ok_or(Errno::NOKEY)?;
        let unchanged = Unchanged::note(open.lower())?;
        let done = self.part(open);
        unchanged.put_back(open.lower());
        if let Err(Fault::Lower(errno @ (Errno::IO | Errno::NOSPC | Errno::DQUOT))) = &done {
            // If it was a sync: the lower file system says it once, and has said it now.
            body.failures.remember(*errno);
        }
        drop(body);
        done.map_err(|fault| self.fs.fault(&self.node, fault))
    }

    fn part(&mut self, open: &mut OpenFile) -> Faulty<Reencrypted> {
        if !self.begun || !open.reencrypting() {
            if !open.reencrypting() && open.policy().policy() != self.policy.policy() {
                // Moved to another policy just now.
                return Ok(Reencrypted::Done { bytes: 0 });
            }
            let here = self.policy.policy();
            if open.spare_wrap().is_some_and(|wrap| wrap.policy != here) {
                // Left from a move between policies. A power cut may still undo that, and then it would be needed.
                self.fs.dirs.root().sync_file_system()?;
            }
            let lower = Arc::clone(open.lower());
            let target = Target::File(&lower);
            let attributes = super::xattr::encrypted(&target)?;
            if attributes.is_empty() && open.reencrypt_inline(&self.policy)? {
                return Ok(Reencrypted::Done { bytes: open.size() });
            }
            open.begin_reencryption(&self.policy)?;
            if !attributes.is_empty() {
                // From here on the header with the new key is durable.
                open.keys()?;
                let keys = AttributeKeys::of_file(open)?.ok_or(Fault::Lower(Errno::IO))?;
                keys.move_all(&target, || lower.sync())?;
            }
            self.begun = true;
        }
        let bytes = match open.reencrypt_step(file::WINDOW)? {
            Progress::More { bytes, left } => return Ok(Reencrypted::More { bytes, left }),
            Progress::Content { bytes } => bytes,
        };
        if !open.end_reencryption()? {
            let left = open.size();
            return Ok(Reencrypted::More { bytes, left });
        }
        if open.is_behind(&self.policy) {
            // That was the end of one that began under an older key.
            self.begun = false;
            let left = open.size();
            return Ok(Reencrypted::More { bytes, left });
        }
        Ok(Reencrypted::Done { bytes })
    }
}

impl Drop for FileReencryption<'_> {
    fn drop(&mut self) {
        self.fs.give_up(&self.node);
    }
}
