//! Copies of files that get another content mode, in a directory of the lower root, and how they are put in place (FORMAT.md
//! section 6.6).
//!
//! A copy that its file says it is in is all there is of that file's content: it goes when the content is in its place, durably.
//! Putting it there can be begun again as often as need be.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use kms_format::content::check_copy;
use kms_format::file::{PAGE, PEEK};
use kms_format::names::{self, LowerName};
use kms_format::{ContentMode, FileHeader, FileId, PolicyId, UnlockedPolicy};

use super::context::LOST;
use super::xattr::encrypted;
use super::{Fs, FsResult};
use crate::backing::xattr::Target;
use crate::backing::{Dir, LowerFile};
use crate::errno::Errno;
use crate::inode::Node;

/// Bytes that are copied at once.
const CHUNK: usize = 1 << 20;

/// Opens a copy; None if it is not there.
pub(crate) fn open(root: &Dir, id: FileId, number: u32) -> FsResult<Option<LowerFile>> {
    let opened = root
        .open_dir(names::COPIES)
        .and_then(|copies| copies.open_file(&names::copy(id, number), false));
    match opened {
        Ok(copy) => Ok(Some(copy)),
        Err(Errno::NOENT) => Ok(None),
        Err(errno) => Err(errno),
    }
}

/// Whether `copy` can be what the content of a file is in, whose header says so. Gives the header pages of both, and the lower size.
pub(crate) fn check(
    original: &LowerFile,
    copy: &LowerFile,
) -> FsResult<([u8; PAGE], [u8; PAGE], u64)> {
    let (mut page, mut head) = ([0; PAGE], [0; PAGE]);
    let size = copy.stat()?.st_size.cast_unsigned();
    if original.read_at(&mut page, 0)? != PAGE || copy.read_at(&mut head, 0)? != PAGE {
        return Err(Errno::IO);
    }
    check_copy(&page, &head, size).map_err(|error| Errno::from(&error))?;
    Ok((page, head, size))
}

/// Brings the content of a file, whose header says that it is in `copy`, to where it belongs, durably. The name of the copy
/// can go then.
pub(crate) fn put_in_place(original: &LowerFile, copy: &LowerFile) -> FsResult<()> {
    let (page, head, size) = check(original, copy)?;
    // Whoever wrote it may have heard that it is not on the disk, and the lower file system says that once.
    original.write_at(&page, 0)?;
    original.sync_data()?;
    original.truncate(PAGE as u64)?;
    let mut buffer = vec![0; CHUNK];
    let mut at = PAGE as u64;
    while let Some(data) = next_data(copy, at)?.filter(|data| *data < size) {
        let end = copy.seek_hole(data)?.min(size);
        at = data;
        while at < end {
            let want = usize::try_from(end - at).unwrap_or(CHUNK).min(CHUNK);
            let part = buffer.get_mut(..want).unwrap_or_default();
            if copy.read_at(part, at)? != want {
                return Err(Errno::IO);
            }
            original.write_at(part, at)?;
            at += want as u64;
        }
    }
    original.truncate(size)?;
    bring_attributes(&Target::File(original), &Target::File(copy))?;
    original.sync()?;
    original.write_at(&head, 0)?;
    original.sync_data()
}

fn next_data(file: &LowerFile, at: u64) -> FsResult<Option<u64>> {
    match file.seek_data(at) {
        Ok(data) => Ok(Some(data)),
        Err(Errno::NXIO) => Ok(None),
        Err(errno) => Err(errno),
    }
}

/// The encrypted attributes of the copy instead of those that are under the old key.
fn bring_attributes(original: &Target<'_>, copy: &Target<'_>) -> FsResult<()> {
    let new = encrypted(copy)?;
    for name in encrypted(original)? {
        if !new.contains(&name) {
            original.remove(&name)?;
        }
    }
    for name in &new {
        original.set(name, &copy.get(name)?, 0)?;
    }
    Ok(())
}

impl Fs {
    /// The directory of copies, made if need be.
    pub(super) fn copies_dir(&self) -> FsResult<Dir> {
        let root = self.dirs.root();
        self.copies.store(true, Ordering::Release);
        match root.open_dir(names::COPIES) {
            Err(Errno::NOENT) => {}
            opened => return opened,
        }
        root.make_dir(names::COPIES, 0o700)?;
        root.sync()?;
        root.open_dir(names::COPIES)
    }

    /// Takes copies away that nothing is in: those that were not whole when a stop came, and, when no file of a policy can be in
    /// its copy any more, all of that one. Nobody else makes copies meanwhile.
    pub(crate) fn drop_copies(&self, all_of: Option<PolicyId>) -> FsResult<()> {
        let root = self.dirs.root();
        let copies = match root.open_dir(names::COPIES) {
            Err(Errno::NOENT) => return Ok(()),
            opened => opened?,
        };
        let _writing = self.check_writable()?;
        // No job looks at what was set aside, and a file there may be in its copy.
        let all_of = match root.open_dir(LOST) {
            Err(Errno::NOENT) => all_of,
            Ok(_) => None,
            Err(errno) => return Err(errno),
        };
        let mut listing = copies.list()?;
        while let Some(entry) = listing.peek()? {
            let name = String::from_utf8_lossy(&entry.name).into_owned();
            listing.advance();
            let unfinished = names::classify(name.as_bytes()) == LowerName::Temporary;
            let garbage = match all_of {
                Some(policy) if names::is_copy(&name) => wrapped_under(&copies, &name, policy)?,
                _ => false,
            };
            if unfinished || garbage {
                copies.unlink(&name)?;
            }
        }
        // Only if nothing is left in it.
        if root.remove_dir(names::COPIES).is_ok() {
            self.copies.store(false, Ordering::Release);
        }
        root.sync()
    }

    /// How a file is encrypted that was found under this name, in a directory of this policy: as the policy says, unless it keeps
    /// a generation of another mode. Then the header is asked.
    pub(super) fn learn_mode(
        &self,
        node: &Arc<Node>,
        dir: &Dir,
        name: &str,
        policy: &UnlockedPolicy,
    ) -> FsResult<()> {
        if self.unclean && self.read_only {
            // What a stop left between a header and the size that goes with it is not put right.
            match self.with_file(node, false, |file| Ok(file.size_is_wrong())) {
                Ok(true) => {
                    node.set_mode(None);
                    return Ok(());
                }
                Err(errno) if errno == crate::volume::WOULD_WAIT => return Err(errno),
                // What is damaged is for whoever opens it.
                Ok(false) | Err(_) => {}
            }
        }
        if self.keys.of_other_mode(policy).is_none() {
            node.set_mode(Some(policy.mode()));
            return Ok(());
        }
        // As long as this is held nobody gives it another.
        let body = node.file()?.read();
        let mode = match &body.open {
            Some(open) => Some(open.mode()),
            None => peek(dir, name, policy.mode())?,
        };
        node.set_mode(mode);
        Ok(())
    }

    /// Whether a file in a directory of this policy may have no header although nothing was stopped: it was made, and not
    /// written to, when the policy was of mode xts.
    pub(super) fn may_be_blank(
        &self,
        lower: &LowerFile,
        policy: &UnlockedPolicy,
    ) -> FsResult<bool> {
        if policy.mode() == ContentMode::Xts {
            return Ok(false);
        }
        let Some(generation) = self.keys.of_other_mode(policy) else {
            return Ok(false);
        };
        if lower.stat()?.st_size != 0 {
            return Ok(false);
        }
        // What the record says is not authentic; what the registry says is.
        let (volume, id) = (policy.volume(), policy.policy());
        let other = self.keys.policy_key(&volume, &id, generation)?;
        Ok(other.mode() == ContentMode::Xts)
    }
}

/// The mode that a header names, which is not authenticated here. None if only the copy of the file knows its size.
fn peek(dir: &Dir, name: &str, otherwise: ContentMode) -> FsResult<Option<ContentMode>> {
    let mut start = [0; PEEK];
    let file = match dir.open_file(name, false) {
        Ok(file) => file,
        // Whoever may not read it has no business with its header either; as most files are.
        Err(Errno::ACCES | Errno::PERM) => return Ok(Some(otherwise)),
        Err(errno) => return Err(errno),
    };
    let got = file.read_at(&mut start, 0)?;
    Ok(
        match FileHeader::peek(start.get(..got).unwrap_or_default()) {
            Some((_, true)) => None,
            Some((mode, false)) => Some(mode),
            None => Some(otherwise),
        },
    )
}

/// Whether a copy, or what is left of one, is of a file of this policy.
fn wrapped_under(copies: &Dir, name: &str, policy: PolicyId) -> FsResult<bool> {
    let mut page = [0; PAGE];
    let file = copies.open_file(name, false)?;
    let got = file.read_at(&mut page, 0)?;
    Ok(
        match FileHeader::decode(page.get(..got).unwrap_or_default()) {
            Ok(header) => header.wraps().any(|wrap| wrap.policy == policy),
            // It was never whole, so nothing is in it.
            Err(_) => true,
        },
    )
}
