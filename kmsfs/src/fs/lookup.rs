//! From names to nodes, and what nodes look like.

use std::borrow::Cow;
use std::ffi::{OsStr, OsString};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use kms_format::names::EncryptedName;
use kms_format::{ContentMode, Record, SizeError, names, size, symlink};

use super::xattr::drop_unreadable;
use super::{Attr, Caller, Entry, Fault, Fs, FsResult, Kind, NodeId, Timestamp};
use crate::backing::xattr::Target;
use crate::backing::{Dir, LowerId, Stat};
use crate::errno::Errno;
use crate::inode::{Context, Node, Place};

/// A name in an unlocked directory.
#[derive(Clone)]
pub(super) struct Named {
    pub(super) parent: Arc<Node>,
    pub(super) context: Arc<Context>,
    pub(super) dir: Arc<Dir>,
    pub(super) name: EncryptedName,
    plain: OsString,
}

impl Named {
    /// The directory may have got another header, and with it other keys, since the name was encrypted: nothing of that
    /// name may be made then. The caller holds the directory's lock. The kernel repeats what is `ESTALE`.
    pub(super) fn check_current(&self) -> FsResult<()> {
        let context = self.parent.directory()?.context.read();
        if context
            .as_ref()
            .is_some_and(|now| Arc::ptr_eq(now, &self.context))
        {
            Ok(())
        } else {
            Err(Errno::STALE)
        }
    }

    pub(super) fn stored(&self) -> &str {
        self.name.stored()
    }

    pub(super) fn place(&self) -> Place {
        Place {
            parent: Arc::clone(&self.parent),
            name: self.stored().into(),
        }
    }
}

impl Fs {
    /// Finds a name. Negative answers (`ENOENT`) may be cached: nobody else writes to the lower tree.
    ///
    /// # Errors
    /// `ENOENT`; `ENOKEY` if the directory is locked.
    pub fn lookup(&self, _caller: &Caller, parent: NodeId, name: &OsStr) -> FsResult<Entry> {
        if let Some(found) = self.lookup_dots(parent, name) {
            return found;
        }
        let asked = self.named(parent, name)?;
        let _shared = asked.parent.directory()?.entries.read();
        let named = self.resolve(&asked)?;
        self.enter(&named.parent, &named.dir, named.stored())
    }

    /// The kernel drops `count` references to a node.
    pub fn forget(&self, node: NodeId, count: u64) {
        if node != NodeId::ROOT {
            self.table.forget(node, count);
        }
    }

    /// Unlocks a directory and encrypts a name for it.
    pub(super) fn named(&self, parent: NodeId, name: &OsStr) -> FsResult<Named> {
        let parent = self.table.get(parent)?;
        let gone = |errno| match parent.directory() {
            Ok(directory) if errno == Errno::STALE && directory.dead.load(Ordering::Acquire) => {
                Errno::NOENT
            }
            _ => errno,
        };
        let context = self.context(&parent).map_err(gone)?;
        let plain = name.to_owned();
        let name = self.encrypt_name(&context.keys, name)?;
        let dir = self.dirs.get(&parent).map_err(gone)?;
        Ok(Named {
            parent,
            context,
            dir,
            name,
            plain,
        })
    }

    /// The lower name that a name has now; the caller holds the lock of the directory. Its keys may have changed since the name
    /// was encrypted, and what is there may be under the former one.
    pub(super) fn resolve<'a>(&self, named: &'a Named) -> FsResult<Cow<'a, Named>> {
        let now = named.parent.directory()?.context.read().clone();
        let now = now.ok_or(Errno::STALE)?;
        let mut named = Cow::Borrowed(named);
        if !Arc::ptr_eq(&now, &named.context) {
            if !now.same_policy(&named.context) {
                return Err(Errno::STALE);
            }
            let name = self.encrypt_name(&now.keys, &named.plain)?;
            let named = named.to_mut();
            (named.name, named.context) = (name, now);
        }
        if let Some(name) = self.under_former_key(&named)? {
            named.to_mut().name = name;
        }
        Ok(named)
    }

    /// The lower name of what is there under the former key of a directory that is being re-encrypted.
    pub(super) fn under_former_key(&self, named: &Named) -> FsResult<Option<EncryptedName>> {
        let Some(former) = named.context.keys.former() else {
            return Ok(None);
        };
        let name = self.encrypt_name(former, &named.plain)?;
        match named.dir.stat_at(name.stored()) {
            Ok(_) => Ok(Some(name)),
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(errno),
        }
    }

    /// The entry of a lower name; the caller holds the lock of the directory.
    pub(super) fn enter(&self, parent: &Arc<Node>, dir: &Dir, name: &str) -> FsResult<Entry> {
        let stat = dir.stat_at(name)?;
        let place = Place {
            parent: Arc::clone(parent),
            name: name.into(),
        };
        Ok(self.entry(place, dir, stat)?.1)
    }

    /// The entry of a lower object with these attributes, found at `place`.
    pub(super) fn entry(
        &self,
        place: Place,
        dir: &Dir,
        mut stat: Stat,
    ) -> FsResult<(Arc<Node>, Entry)> {
        let kind = Kind::from_mode(stat.st_mode).ok_or(Errno::IO)?;
        let name = place.name.clone();
        let parent = Arc::clone(&place.parent);
        let node = self.admit(
            self.table.intern(LowerId::of(&stat), kind, place.clone()),
            place,
            dir,
        )?;
        let attr = (|| {
            if kind == Kind::File {
                self.learn_mode(&node, dir, &name, &self.context(&parent)?.policy)?;
            }
            if self.unclean && kind == Kind::File && !node.settled.load(Ordering::Acquire) {
                self.settle(&node)?;
                stat = dir.stat_at(&name)?;
            }
            let size = match kind {
                Kind::Symlink => self.target_length(&stat, || dir.read_link(&name))?,
                _ => self.plain_size(&node, &stat)?,
            };
            Ok(self.attributes(&node, &stat, size))
        })();
        match attr {
            Ok(attr) => {
                let entry = self.entry_of(&node, attr);
                Ok((node, entry))
            }
            Err(errno) => {
                self.table.forget(node.id, 1);
                Err(errno)
            }
        }
    }

    pub(super) fn entry_of(&self, node: &Arc<Node>, attr: Attr) -> Entry {
        Entry {
            node: node.number(),
            // The kernel wants none for the root.
            generation: if node.id == NodeId::ROOT {
                0
            } else {
                self.generation
            },
            attr,
            gate: self.gates(node),
        }
    }

    /// After an unclean stop: makes the lower size of a file and its header agree, once.
    fn settle(&self, node: &Arc<Node>) -> FsResult<()> {
        let writing = self.may_change();
        let settled = self.with_file(node, false, |file| {
            if file.blank() && file.mode() == ContentMode::Gcm {
                tracing::warn!(lower = %self.lower.join(node.lower_path()).display(), "this file has no header: it was made shortly before the last, unclean, stop and is empty now; if it is older than that, it was cut");
            }
            if writing.is_none() || !file.writable() {
                return Ok(self.read_only);
            }
            if file.blank() && drop_unreadable(&Target::File(file.lower())).map_err(Fault::Lower)? {
                // Before there is a header again, with another key.
                file.lower().sync().map_err(Fault::Lower)?;
            }
            file.settle().map(|()| true)
        });
        match settled {
            Err(errno) if errno == crate::volume::WOULD_WAIT => return Err(errno),
            Ok(true) => node.settled.store(true, Ordering::Release),
            // Damage is reported when the file is opened, too; it can still be seen and removed. Tried again next time.
            Ok(false) | Err(_) => {}
        }
        Ok(())
    }

    /// The size of anything but a symlink.
    pub(super) fn plain_size(&self, node: &Arc<Node>, stat: &Stat) -> FsResult<u64> {
        let lower = stat.st_size.cast_unsigned();
        if node.kind != Kind::File {
            return Ok(lower);
        }
        if let Some(open) = &node.file()?.read().open {
            return Ok(open.size());
        }
        // `stat` may be from before the file got another mode, and the kernel keeps sizes.
        if node.do_sizes_differ() {
            return match self.with_file(node, false, |file| Ok(file.size())) {
                Err(Errno::IO) => Ok(0),
                size => size,
            };
        }
        let mode = node.content_mode();
        match mode.map(|mode| size::plain_size(mode, lower)) {
            Some(Ok(size)) => Ok(size),
            Some(Err(SizeError::Headerless)) if mode == Some(ContentMode::Xts) => Ok(0),
            // The header of an inline file knows better, and puts the size right.
            Some(Err(_)) | None => match self.with_file(node, false, |file| Ok(file.size())) {
                Err(errno) if errno == crate::volume::WOULD_WAIT => Err(errno),
                // What is damaged is in the log now; seeing and removing it works.
                size => Ok(size.unwrap_or(0)),
            },
        }
    }

    /// The length of a symlink's target, read only if its lower size does not tell.
    pub(super) fn target_length(
        &self,
        stat: &Stat,
        read: impl FnOnce() -> FsResult<Vec<u8>>,
    ) -> FsResult<u64> {
        if let Some(length) = symlink::plain_length(stat.st_size.cast_unsigned()) {
            return Ok(length);
        }
        let stored = read()?;
        // What is damaged has some length, too: reading it gives the error.
        Ok(symlink::StoredTarget::parse(&stored).map_or(0, |target| target.length() as u64))
    }

    pub(super) fn attributes(&self, node: &Node, stat: &Stat, size: u64) -> Attr {
        // Directories of ours, which are not shown, count as others do.
        let hidden = if node.id == NodeId::ROOT {
            u32::from(self.links.read().is_some()) + u32::from(self.copies.load(Ordering::Acquire))
        } else {
            0
        };
        Attr {
            ino: stat.st_ino,
            size,
            blocks: stat.st_blocks.cast_unsigned(),
            atime: time(stat.st_atime, stat.st_atime_nsec),
            mtime: time(stat.st_mtime, stat.st_mtime_nsec),
            ctime: time(stat.st_ctime, stat.st_ctime_nsec),
            kind: node.kind,
            perm: stat.st_mode & 0o7777,
            nlink: u32::try_from(stat.st_nlink)
                .unwrap_or(u32::MAX)
                .saturating_sub(hidden),
            uid: stat.st_uid,
            gid: stat.st_gid,
            rdev: encode_device(stat.st_rdev),
            blksize: 4096,
        }
    }

    /// The target of a symlink.
    ///
    /// # Errors
    /// `EINVAL` for anything else, `EIO` if it is damaged.
    pub fn readlink(&self, node: NodeId) -> FsResult<Vec<u8>> {
        let node = self.table.get(node)?;
        if node.kind != Kind::Symlink {
            return Err(Errno::INVAL);
        }
        let (context, stored) = self.stored_target(&node)?;
        self.open_target(&context, &stored)
            .map_err(|fault| self.fault(&node, fault))
    }

    /// The target that a lower symlink holds, in a directory of this policy.
    pub(super) fn open_target(
        &self,
        context: &Context,
        stored: &[u8],
    ) -> Result<Vec<u8>, super::Fault> {
        let target = symlink::StoredTarget::parse(stored)?;
        let policy = if target.generation() == context.policy.generation() {
            Arc::clone(&context.policy)
        } else {
            let (volume, policy) = (context.policy.volume(), context.policy.policy());
            self.keys
                .policy_key(&volume, &policy, target.generation())?
        };
        let record = match (target.record_name(), self.links.read().as_ref()) {
            (Some(name), Some(links)) => links
                .read_small(&name, symlink::TARGET_MAX + 128)?
                .of(Record::SymlinkRecord)?,
            _ => None,
        };
        Ok(target.open(&policy, record.as_deref())?)
    }

    fn stored_target(&self, node: &Arc<Node>) -> FsResult<(Arc<Context>, Vec<u8>)> {
        let named = self.somewhere(node, |place| {
            let dir = self.dirs.get(&place.parent)?;
            let _names_stay = place.parent.directory()?.entries.read();
            match dir.stat_at(&place.name) {
                Ok(stat) if LowerId::of(&stat) == node.lower => {
                    let stored = dir.read_link(&place.name)?;
                    Ok(Some((self.context(&place.parent)?, stored)))
                }
                Ok(_) | Err(Errno::NOENT) => Ok(None),
                Err(errno) => Err(errno),
            }
        });
        match (named, node.nameless()) {
            (Err(Errno::STALE), Some(nameless)) => {
                let stored = nameless.object.read_link()?;
                // The record of a long target went with the last name.
                match symlink::StoredTarget::parse(&stored) {
                    Ok(target) if target.record_name().is_some() => Err(Errno::STALE),
                    _ => Ok((self.context(&nameless.parent)?, stored)),
                }
            }
            (named, _) => named,
        }
    }

    /// The directory of long symlink targets, made if need be.
    pub(super) fn links_dir(&self) -> FsResult<Arc<Dir>> {
        if let Some(links) = self.links.read().as_ref() {
            return Ok(Arc::clone(links));
        }
        let mut slot = self.links.write();
        if let Some(links) = slot.as_ref() {
            return Ok(Arc::clone(links));
        }
        let root = self.dirs.root();
        match root.make_dir(names::LINKS, 0o700) {
            // Made by an attempt that did not come further.
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => return Err(errno),
        }
        let links = Arc::new(root.open_dir(names::LINKS)?);
        root.sync()?;
        *slot = Some(Arc::clone(&links));
        Ok(links)
    }
}

#[allow(
    clippy::unnecessary_cast,
    reason = "the fields have other types on other architectures"
)]
fn time(secs: i64, nanos: u64) -> Timestamp {
    Timestamp {
        secs,
        nanos: u32::try_from(nanos).unwrap_or(0),
    }
}

/// The kernel's 32-bit form of a device number.
fn encode_device(device: u64) -> u32 {
    let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
    (minor & 0xff) | (major << 8) | ((minor & !0xff) << 12)
}

/// And back.
pub(super) fn decode_device(device: u32) -> u64 {
    let major = (device & 0xf_ff00) >> 8;
    let minor = (device & 0xff) | ((device >> 12) & 0xf_ff00);
    rustix::fs::makedev(major, minor)
}
