//! A new key for a directory, while it is used (FORMAT.md section 6.5).
//!
//! For that time the directory has two keys. What is new is made under the new one. What was there is under either: names are
//! looked for under both, and brought under the new key one by one, each by one lower rename; then what else hangs on the
//! directory key. A stop anywhere leaves a directory with two keys, in use like any other, and the next call goes on.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use kms_format::names::{self, EncryptedName, LowerName};
use kms_format::{DirHeader, DirKeys, FormatError, Nesting, Record, UnlockedPolicy};
use rustix::fs::{RenameFlags, Timespec, Timestamps};

use super::attributes::AttributeKeys;
use super::context::read_header;
use super::dir::SIDECAR_MAX;
use super::make::put_record;
use super::{Fs, FsResult, Kind};
use crate::backing::xattr::Target;
use crate::backing::{Dir, LowerId};
use crate::errno::Errno;
use crate::inode::{Context, Node};

/// So many names are changed while the directory is locked.
const BATCH: usize = if cfg!(test) { 2 } else { 64 };
/// How often a directory is gone through for those with policies of their own.
const MAX_PASSES: u32 = 16;

impl Fs {
    /// Gives a directory a key made under `to`, which is of its policy, and brings everything that hangs on its key under
    /// that: names, attributes, the admission of policies below. Does nothing if it has one. `pause` is called between
    /// batches, without any lock, with the number of names that were changed; an error of it ends this for now.
    ///
    /// Says whether anything was done. Durable on return.
    ///
    /// # Errors
    /// `EBUSY` if a directory in it has a policy of its own whose key is refused: the directory keeps two keys until it is
    /// not. One that was destroyed holds nothing up. What the lower file system says.
    pub(crate) fn reencrypt_directory(
        &self,
        node: &Arc<Node>,
        to: &Arc<UnlockedPolicy>,
        pause: &mut dyn FnMut(u64) -> FsResult<()>,
    ) -> FsResult<bool> {
        let mut changed = false;
        loop {
            let context = self.context(node)?;
            if !context.header.reencrypting() {
                if context.header.lineage() == to.generation() {
                    return Ok(changed);
                }
                self.begin_reencryption(node, to)?;
            }
            // Perhaps one that began under an earlier generation: then there is another to do.
            changed = true;
            self.keep_listings(node)?;
            while self.bring_names(node, pause)? {}
            self.bring_attributes(node)?;
            let mut passes = 0;
            while self.admit_again(node)? {
                passes += 1;
                if passes == MAX_PASSES {
                    // Directories come and go all the time: both keys stay, and the next attempt goes on.
                    return Err(Errno::BUSY);
                }
            }
            self.end_reencryption(node)?;
        }
    }

    fn begin_reencryption(&self, node: &Arc<Node>, to: &Arc<UnlockedPolicy>) -> FsResult<()> {
        let _writing = self.check_writable()?;
        // The headers above have to be as durable as this one.
        self.headers.flush_above(node)?;
        self.change_header(node, |context| {
            let begun = context.header.begin_reencryption(to, &context.keys);
            begun.map(|(header, keys)| (header, keys, Arc::clone(to)))
        })
    }

    fn end_reencryption(&self, node: &Arc<Node>) -> FsResult<()> {
        let _writing = self.check_writable()?;
        // What depends on the former key must not come back.
        self.dirs.get(node)?.sync()?;
        self.change_header(node, |context| {
            let policy = Arc::clone(&context.policy);
            let ended = context.header.end_reencryption(&policy, &context.keys);
            ended.map(|(header, keys)| (header, keys, policy))
        })?;
        node.directory()?.renaming.store(false, Ordering::SeqCst);
        Ok(())
    }

    /// Replaces the header of a directory, durably.
    fn change_header(
        &self,
        node: &Arc<Node>,
        change: impl FnOnce(&Context) -> Result<(DirHeader, DirKeys, Arc<UnlockedPolicy>), FormatError>,
    ) -> FsResult<()> {
        let directory = node.directory()?;
        let dir = self.dirs.get(node)?;
        let _alone = directory.entries.write();
        if directory.dead.load(Ordering::Acquire) {
            return Err(Errno::NOENT);
        }
        let context = directory.context.read().clone().ok_or(Errno::STALE)?;
        let (header, keys, policy) = change(&context).map_err(|error| Errno::from(&error))?;
        let bytes = header.encode().map_err(|error| Errno::from(&error))?;
        let unmoved = Unmoved::note(&dir)?;
        let replaced = self.replace(&dir, names::DIR_HEADER, &bytes);
        unmoved.put_back(&dir);
        *directory.context.write() = match replaced {
            Ok(()) => Some(Arc::new(Context {
                header,
                keys,
                policy,
            })),
            // Whichever header is there now is read at the next use.
            Err(_) => None,
        };
        replaced
    }

    /// Goes through a directory once and brings the names in it under the new key. Says whether there were any to bring.
    fn bring_names(
        &self,
        node: &Arc<Node>,
        pause: &mut dyn FnMut(u64) -> FsResult<()>,
    ) -> FsResult<bool> {
        let dir = self.dirs.get(node)?;
        let mut listing = dir.list()?;
        let mut found = false;
        loop {
            let context = self.context(node)?;
            let mut batch = Vec::new();
            while batch.len() < BATCH
                && let Some(entry) = listing.peek()?
            {
                let lower = String::from_utf8_lossy(&entry.name);
                if let Some(plain) = former_name(&context.keys, &dir, &lower)? {
                    batch.push((lower.into_owned(), plain));
                }
                listing.advance();
            }
            if batch.is_empty() {
                return Ok(found);
            }
            found = true;
            {
                let _writing = self.check_writable()?;
                let _alone = node.directory()?.entries.write();
                let unmoved = Unmoved::note(&dir)?;
                let brought = batch
                    .iter()
                    .try_for_each(|(lower, plain)| self.bring_name(node, &dir, lower, plain));
                // Nothing that users see has changed.
                unmoved.put_back(&dir);
                brought?;
            }
            pause(batch.len() as u64)?;
        }
    }

    /// One name; the caller holds the lock of the directory.
    fn bring_name(
        &self,
        node: &Arc<Node>,
        dir: &Arc<Dir>,
        old: &str,
        plain: &[u8],
    ) -> FsResult<()> {
        let context = node.directory()?.context.read().clone();
        let context = context.ok_or(Errno::STALE)?;
        let stat = match dir.stat_at(old) {
            // Removed or renamed since it was listed.
            Err(Errno::NOENT) => return Ok(()),
            stat => stat?,
        };
        if let Some(recheck) = &self.recheck {
            recheck.disturb();
        }
        let name = names::encrypt(&context.keys, plain, names::LOWER_MAX);
        let name = name.map_err(|error| Errno::from(&error))?;
        let recorded = put_record(dir, &name)?;
        let renamed = dir.rename(old, dir, name.stored(), RenameFlags::NOREPLACE);
        if let Err(errno) = renamed {
            if recorded {
                drop_record(dir, &name);
            }
            return Err(errno);
        }
        self.table
            .renamed(LowerId::of(&stat), node, old, name.stored());
        if let Some(record) = names::sidecar_name(old.as_bytes()) {
            // Without an entry it is garbage, and harmless.
            let _ = dir.unlink(&record);
        }
        Ok(())
    }

    fn bring_attributes(&self, node: &Arc<Node>) -> FsResult<()> {
        let _writing = self.check_writable()?;
        let context = self.context(node)?;
        let dir = self.dirs.get(node)?;
        let _alone = node.directory()?.entries.write();
        let keys = AttributeKeys::of_directory(&context.keys).map_err(|e| Errno::from(&e))?;
        keys.move_all(&Target::Dir(&dir), || dir.sync())
            .map_err(|fault| self.fault(node, fault))
    }

    /// Directories in this one that have a policy of their own are admitted with its new key. True if it has to be gone through once
    /// more: one was admitted, or was renamed away from where it was listed, perhaps to where the listing had been already.
    fn admit_again(&self, node: &Arc<Node>) -> FsResult<bool> {
        let mut again = false;
        let dir = self.dirs.get(node)?;
        let mut listing = dir.list()?;
        while let Some(entry) = listing.peek()? {
            let ours = matches!(
                names::classify(&entry.name),
                LowerName::Short | LowerName::Long
            );
            let kind = Kind::from_mode(entry.mode);
            if ours && matches!(kind, None | Some(Kind::Directory)) {
                let lower = String::from_utf8_lossy(&entry.name).into_owned();
                again |= self.admit_one(node, &dir, &lower)?;
            }
            listing.advance();
        }
        Ok(again)
    }

    fn admit_one(&self, node: &Arc<Node>, dir: &Arc<Dir>, lower: &str) -> FsResult<bool> {
        let header = match dir.open_dir(lower) {
            Err(Errno::NOENT) => return Ok(true),
            // Something else.
            Err(Errno::NOTDIR | Errno::LOOP) => return Ok(false),
            inside => read_header(&inside?)?,
        };
        let above = self.context(node)?;
        let header = match &header {
            Ok(header) if header.nesting() == Nesting::Root => header,
            // One without a header, or with a damaged one, is not admitted now either.
            _ => return Ok(false),
        };
        let sealed = header.is_sealed_by(&above.keys);
        if sealed.map_err(|error| Errno::from(&error))? {
            return Ok(false);
        }
        let entered = {
            let _shared = node.directory()?.entries.read();
            self.enter(node, dir, lower)
        };
        let entry = match entered {
            Err(Errno::NOENT) => return Ok(true),
            entry => entry?,
        };
        let child = self.table.get(entry.node);
        let admitted = child.and_then(|child| {
            let _writing = self.check_writable()?;
            let context = match self.context(&child) {
                Err(errno) if is_refused(errno) && self.keys.is_destroyed(&header.policy()) => {
                    return self.admit_destroyed(&child, &above);
                }
                context => context?,
            };
            let seals = context.header.check_below(&above.header, &above.keys);
            if FormatError::opened(seals)?.is_none() {
                // Not admitted by the former key either.
                return Ok(false);
            }
            self.change_header(&child, |context| {
                let mut header = context.header.clone();
                let policy = Arc::clone(&context.policy);
                header.seal_again(&policy, &context.keys, &above.keys)?;
                // The keys themselves stay.
                let keys = header.unlock(&policy)?;
                Ok((header, keys, policy))
            })
            .map(|()| true)
        });
        if let Err(errno) = &admitted {
            tracing::warn!(
                lower = %self.lower.join(node.lower_path()).join(lower).display(),
                %errno,
                "this directory has a policy of its own, whose key is needed to give the directory above it a new key: that keeps \
                 its old key beside the new one until it is re-encrypted again"
            );
        }
        self.forget(entry.node, 1);
        match admitted {
            // Of another policy than the one that is being worked on.
            Err(errno) if is_refused(errno) => Err(Errno::BUSY),
            admitted => admitted,
        }
    }

    /// A directory whose policy was destroyed: nothing opens it again, but where it is it is admitted, as before.
    fn admit_destroyed(&self, child: &Arc<Node>, above: &Context) -> FsResult<bool> {
        let directory = child.directory()?;
        let dir = self.dirs.get(child)?;
        let _alone = directory.entries.write();
        if directory.dead.load(Ordering::Acquire) {
            return Err(Errno::NOENT);
        }
        // Replaced by something else meanwhile: the next look finds out.
        let Ok(mut header) = read_header(&dir)? else {
            return Ok(false);
        };
        if FormatError::opened(header.check_below(&above.header, &above.keys))?.is_none() {
            return Ok(false);
        }
        let sealed = header.seal_destroyed(&above.keys);
        let bytes = sealed.and_then(|()| header.encode());
        let bytes = bytes.map_err(|error| Errno::from(&error))?;
        let unmoved = Unmoved::note(&dir)?;
        let replaced = self.replace(&dir, names::DIR_HEADER, &bytes);
        unmoved.put_back(&dir);
        replaced.map(|()| true)
    }
}

/// Whether a policy's keys are not to be had.
fn is_refused(errno: Errno) -> bool {
    matches!(errno.raw(), libc::ENOKEY | libc::EKEYREVOKED)
}

/// The plain name of an entry that is under the former key.
fn former_name(keys: &DirKeys, dir: &Dir, lower: &str) -> FsResult<Option<Vec<u8>>> {
    let Some(former) = keys.former() else {
        return Ok(None);
    };
    let record = match names::classify(lower.as_bytes()) {
        LowerName::Short => None,
        LowerName::Long => match names::sidecar_name(lower.as_bytes()) {
            Some(name) => match dir.read_small(&name, SIDECAR_MAX)?.of(Record::Sidecar) {
                Ok(record) => record,
                // Damaged: it stays as it is.
                Err(_) => return Ok(None),
            },
            None => return Ok(None),
        },
        _ => return Ok(None),
    };
    let opened = names::decrypt(former, lower.as_bytes(), record.as_deref());
    // Only what does not open counts as being under the new key: what could not be looked at would lose its key.
    Ok(FormatError::opened(opened)?)
}

fn drop_record(dir: &Dir, name: &EncryptedName) {
    if let EncryptedName::Long { sidecar, .. } = name {
        let _ = dir.unlink(sidecar);
    }
}

/// When a directory was changed, for users: what happens to lower names is not for them to see.
struct Unmoved(Timestamps);

impl Unmoved {
    fn note(dir: &Dir) -> FsResult<Unmoved> {
        let stat = dir.stat()?;
        let time = |tv_sec, nanos| Timespec {
            tv_sec,
            tv_nsec: i64::try_from(nanos).unwrap_or(0),
        };
        Ok(Unmoved(Timestamps {
            last_access: time(stat.st_atime, stat.st_atime_nsec),
            last_modification: time(stat.st_mtime, stat.st_mtime_nsec),
        }))
    }

    /// If that fails the directory only looks changed.
    fn put_back(&self, dir: &Dir) {
        let _ = dir.set_times(&self.0);
    }
}
