//! Unlocking directories: their header, keys and policy.

use std::sync::Arc;

use kms_format::names::{self, EncryptedName, LowerName};
use kms_format::{DirHeader, DirKeys, FormatError, dir};

use super::xattr::drop_unreadable;
use super::{Fs, FsResult};
use crate::backing::Dir;
use crate::backing::xattr::Target;
use crate::errno::Errno;
use crate::inode::{Context, Node};

/// Where entries go whose directory lost its header in a crash, in the root.
pub(super) const LOST: &str = ".kmsfs.lost";

impl Fs {
    /// Keys and policy of a directory. Checks its header at the first use, against its parent's.
    pub(super) fn context(&self, node: &Arc<Node>) -> FsResult<Arc<Context>> {
        if let Some(context) = node.directory()?.context.read().as_ref() {
            return Ok(Arc::clone(context));
        }
        // From above, one after the other: the tree may be deeper than the stack.
        let mut locked = Vec::new();
        let mut up = node.parent();
        while let Some(above) = up {
            if above.directory()?.context.read().is_some() {
                break;
            }
            up = above.parent();
            locked.push(above);
        }
        while let Some(above) = locked.pop() {
            self.unlock(&above)?;
        }
        self.unlock(node)
    }

    fn unlock(&self, node: &Arc<Node>) -> FsResult<Arc<Context>> {
        let directory = node.directory()?;
        if let Some(context) = directory.context.read().as_ref() {
            return Ok(Arc::clone(context));
        }
        // The parent first: a directory is what its parent admits.
        let parent = match node.parent() {
            Some(parent) => Some(self.context(&parent)?),
            None if node.id == super::NodeId::ROOT => None,
            None => return Err(Errno::STALE),
        };
        let damaged = |error: &FormatError| self.damaged(node, names::DIR_HEADER, error);
        let lower = self.dirs.get(node)?;
        let header = match read_header(&lower)? {
            Ok(header) => header,
            Err(error) => match &parent {
                Some(parent) if never_written(&error) => {
                    return self.repair(node, &lower, parent, &error);
                }
                _ => return Err(damaged(&error)),
            },
        };
        if parent.is_none() && !header.is_volume_root() {
            // A protected directory, taken out of its volume.
            let record = kms_format::Record::DirHeader;
            return Err(damaged(&FormatError::NotAdmitted { record }));
        }
        let (volume, policy) = (header.volume(), header.policy());
        if let Some(parent) = &parent
            && volume != parent.policy.volume()
        {
            let (found, expected) = (volume, parent.policy.volume());
            let record = kms_format::Record::DirHeader;
            return Err(damaged(&FormatError::ForeignVolume {
                record,
                found,
                expected,
            }));
        }
        let opened = self
            .marks
            .check(&policy)
            .and_then(|()| self.keys.policy_key(&volume, &policy, header.generation()));
        let policy = opened.inspect_err(|_| {
            // The node may be a new one for a directory that the kernel forgot: what it is under is known without its key.
            let admitted = parent
                .as_ref()
                .is_none_or(|parent| header.check_below(&parent.header, &parent.keys).is_ok());
            if admitted {
                *directory.locked.lock() = Some(policy);
            }
        })?;
        let keys = header.unlock(&policy).map_err(|error| damaged(&error))?;
        if let Some(parent) = &parent {
            header
                .check_below(&parent.header, &parent.keys)
                .map_err(|error| damaged(&error))?;
        }
        let mut slot = directory.context.write();
        // It may have been locked since; who wipes the keys takes this lock.
        self.marks.check(&policy.policy())?;
        let context = Context {
            header,
            keys,
            policy,
        };
        Ok(Arc::clone(slot.get_or_insert_with(|| Arc::new(context))))
    }

    /// A directory whose header never reached the disk gets a fresh one: it holds nothing that was ever synced.
    fn repair(
        &self,
        node: &Arc<Node>,
        lower: &Dir,
        parent: &Context,
        error: &FormatError,
    ) -> FsResult<Arc<Context>> {
        let directory = node.directory()?;
        let _one = directory.repair.lock();
        if let Some(context) = directory.context.read().as_ref() {
            return Ok(Arc::clone(context));
        }
        let writing = self.may_change();
        if writing.is_none() && !self.read_only {
            // Frozen, and who asks may hold locks that running changes wait for.
            return Err(Errno::from_raw(libc::EAGAIN));
        }
        let orphans = orphans(lower)?;
        if !orphans.is_empty() {
            if !self.unclean || self.read_only {
                // Nothing that kmsfs does leaves this behind without a crash.
                return Err(self.damaged(node, names::DIR_HEADER, error));
            }
            self.set_aside(node, lower, &orphans)?;
        }
        let (header, keys) = DirHeader::create(&parent.policy).map_err(|e| Errno::from(&e))?;
        if !self.read_only {
            let bytes = header.encode().map_err(|e| Errno::from(&e))?;
            drop_unreadable(&Target::Dir(lower))?;
            self.replace(lower, names::DIR_HEADER, &bytes)?;
        }
        tracing::info!(
            lower = node.lower_path(),
            "gave a new header to a directory whose creation a crash cut short"
        );
        let policy = Arc::clone(&parent.policy);
        let context = Arc::new(Context {
            header,
            keys,
            policy,
        });
        let mut slot = directory.context.write();
        self.marks.check(&context.policy.policy())?;
        *slot = Some(Arc::clone(&context));
        Ok(context)
    }

    /// Moves entries that no key opens any more out of the way, but does not destroy them.
    fn set_aside(&self, node: &Node, lower: &Dir, orphans: &[String]) -> FsResult<()> {
        let root = self.dirs.root();
        match root.make_dir(LOST, 0o700) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => return Err(errno),
        }
        let lost = root.open_dir(LOST)?;
        for name in orphans {
            let suffix = names::temporary().map_err(|e| Errno::from(&e))?;
            let new = suffix.trim_start_matches(names::RESERVED).to_owned();
            lower.rename(name, &lost, &new, rustix::fs::RenameFlags::NOREPLACE)?;
        }
        tracing::error!(
            lower = node.lower_path(),
            entries = orphans.len(),
            "the header of this directory did not survive the crash, and nothing in it was ever synced: its entries are in {LOST}"
        );
        Ok(())
    }

    /// Replaces a small file of ours durably: the old or the new one is there, whole.
    pub(super) fn replace(&self, dir: &Dir, name: &str, bytes: &[u8]) -> FsResult<()> {
        let temporary = names::temporary().map_err(|e| Errno::from(&e))?;
        self.temporaries.lock().push(temporary.clone());
        let replaced = dir.write_small(&temporary, bytes).and_then(|file| {
            file.sync()?;
            dir.rename(&temporary, dir, name, rustix::fs::RenameFlags::empty())
        });
        if replaced.is_err() {
            let _ = dir.unlink(&temporary);
        }
        self.temporaries.lock().retain(|used| *used != temporary);
        replaced?;
        dir.sync()
    }

    /// The lower name of a plain one.
    pub(super) fn encrypt_name(
        &self,
        keys: &DirKeys,
        name: &std::ffi::OsStr,
    ) -> FsResult<EncryptedName> {
        use std::os::unix::ffi::OsStrExt as _;
        names::encrypt(keys, name.as_bytes(), names::LOWER_MAX).map_err(|e| Errno::from(&e))
    }
}

/// Reads and parses a directory header.
pub(crate) fn read_header(lower: &Dir) -> FsResult<Result<DirHeader, FormatError>> {
    let record = kms_format::Record::DirHeader;
    let bytes = lower.read_small(names::DIR_HEADER, dir::LONGEST + 1)?;
    Ok(bytes.of(record).and_then(|bytes| match bytes.as_deref() {
        None | Some([]) => Err(FormatError::Blank { record }),
        Some(bytes) => DirHeader::decode(bytes),
    }))
}

/// What a power cut can leave of a header that was written but not synced.
pub(super) fn never_written(error: &FormatError) -> bool {
    matches!(
        error,
        FormatError::Blank { .. } | FormatError::Truncated { .. }
    )
}

/// Entries of a directory, ours apart.
fn orphans(lower: &Dir) -> FsResult<Vec<String>> {
    let mut listing = lower.list()?;
    let mut found = Vec::new();
    while let Some(entry) = listing.peek()? {
        if matches!(
            names::classify(&entry.name),
            LowerName::Short | LowerName::Long
        ) {
            found.push(String::from_utf8_lossy(&entry.name).into_owned());
        }
        listing.advance();
    }
    Ok(found)
}
