//! Another content mode for files, while they are in use (FORMAT.md section 6.6).
//!
//! A file is copied under a new key in the new mode, chunk by chunk, while others read and write it; what they change meanwhile is
//! copied again. At the end, while they wait: what is left, then the file becomes its copy, by one page, and the copy is put in
//! its place. The inode stays, and with it names, descriptors and mappings.

use std::ops::Range;
use std::sync::Arc;

use kms_format::content::Became;
use kms_format::{FormatError, UnlockedPolicy, names};
use parking_lot::{RwLockUpgradableReadGuard, RwLockWriteGuard};
use rustix::fs::RenameFlags;
use zeroize::Zeroizing;

use super::attributes::AttributeKeys;
use super::content::{self, FileBody, OpenFile, Unchanged};
use super::xattr::encrypted;
use super::{Fault, Fs, FsResult, Kind, copies};
use crate::backing::Dir;
use crate::backing::xattr::Target;
use crate::errno::Errno;
use crate::inode::Node;

/// Bytes of content that are copied at once.
const CHUNK: usize = if cfg!(test) { 64 << 10 } else { 1 << 20 };
/// How often what was changed meanwhile is copied while others go on changing.
const PASSES: usize = 6;

/// Somebody locked the file, or wrote to it first: the next attempt will do.
const LATER: Errno = Errno::from_raw(libc::EAGAIN);

/// What a file needs to get to a mode.
enum Todo {
    Nothing,
    /// It has no header yet.
    Header,
    /// A re-encryption was begun.
    End,
    Convert,
}

impl Fs {
    /// Brings a file into the content mode of `to`, which is of its policy, with a new key. False if there was nothing to do.
    /// Durable on return. `pace` is told of bytes that were written anew, without any lock, and says whether to go on.
    ///
    /// # Errors
    /// `EINTR` if it was told to stop: nothing has changed. `EAGAIN` if the file was locked meanwhile. `EIO` if it is damaged.
    /// What the lower file system says.
    pub(crate) fn convert_file(
        &self,
        node: &Arc<Node>,
        to: &Arc<UnlockedPolicy>,
        pace: &mut dyn FnMut(u64) -> bool,
    ) -> FsResult<bool> {
        if node.kind != Kind::File || self.keys.of_other_mode(to).is_none() {
            return Ok(false);
        }
        self.acquire(node, true)?;
        let done = self.convert(node, to, pace);
        self.give_up(node);
        done
    }

    fn convert(
        &self,
        node: &Arc<Node>,
        to: &Arc<UnlockedPolicy>,
        pace: &mut dyn FnMut(u64) -> bool,
    ) -> FsResult<bool> {
        loop {
            let todo = todo(&node.file()?.read(), to)?;
            match todo {
                Todo::Nothing => return Ok(false),
                Todo::Header => return self.give_header(node, to),
                Todo::End => self.end_file_reencryption(node, pace)?,
                Todo::Convert => break,
            }
        }
        if self.convert_inline(node, to)? {
            return Ok(true);
        }
        let copies = self.copies_dir()?;
        let number = u32::from_le_bytes(kms_crypto::random_array().map_err(|_| Errno::IO)?).max(1);
        let mut open = node.file()?.write();
        let id = open.opened()?.existing_keys().ok_or(LATER)?.id();
        let name = names::copy(id, number);
        let unfinished = names::temporary().map_err(|error| Errno::from(&error))?;
        let made = copies.create_file(&unfinished, 0o600)?;
        let begun = (|| {
            let open = open.opened_mut()?;
            open.watch_changes();
            Ok(open.begin_copy(Arc::new(made), to)?)
        })();
        drop(open);
        let done = begun.and_then(|mut copy| {
            let left = self.bring_all(node, &mut copy, pace)?;
            self.become_copy(node, &mut copy, left, (&copies, &unfinished, number), to)
        });
        if let Ok(mut body) = node.file().map(parking_lot::RwLock::write)
            && let Some(open) = &mut body.open
        {
            open.forget_changes();
        }
        if !matches!(done, Err(Stopped::Behind(_))) {
            for name in [&unfinished, &name] {
                // If it stays, it is nobody's: it goes with the job.
                let _ = copies.unlink(name);
            }
        }
        match done {
            Ok(done) => {
                pace(CHUNK as u64);
                Ok(done)
            }
            Err(Stopped::Before(fault)) => Err(self.fault(node, fault)),
            Err(Stopped::Behind(fault)) => {
                let errno = self.fault(node, fault);
                tracing::error!(
                    lower = node.lower_path(),
                    %errno,
                    copy = %format!("{}/{name}", names::COPIES),
                    "the content of this file is in its copy, and could not be brought back from there: it can be read, and is \
                     tried again when somebody opens it for writing; do not remove the copy"
                );
                Err(errno)
            }
        }
    }

    /// A file without a header, as somebody holds it who made it under a generation of another mode.
    fn give_header(&self, node: &Arc<Node>, to: &Arc<UnlockedPolicy>) -> FsResult<bool> {
        let _writing = self.check_writable()?;
        let mut body = node.file()?.write();
        let open = body.opened_mut()?;
        if !open.blank() || open.policy().policy() != to.policy() {
            // It got its first header, or another policy, just now.
            return Err(LATER);
        }
        let made = open.adopt(to).and_then(|()| content::keys(open).map(drop));
        node.set_mode(Some(to.mode()));
        made.map_err(|fault| self.fault(node, fault))?;
        Ok(true)
    }

    /// A file whose content is in its header page: in one write, if it has no attributes.
    fn convert_inline(&self, node: &Arc<Node>, to: &Arc<UnlockedPolicy>) -> FsResult<bool> {
        let _writing = self.check_writable()?;
        let mut body = node.file()?.write();
        let open = body.opened_mut()?;
        if open.policy().policy() != to.policy() || open.mode() == to.mode() {
            // Moved to another policy, or written anew, just now.
            return Err(LATER);
        }
        if !encrypted(&Target::File(open.lower()))?.is_empty() {
            return Ok(false);
        }
        node.sizes_differ();
        self.drop_foreign_wrap(open, to)?;
        let unchanged = Unchanged::note(open.lower())?;
        let converted = open.convert_inline(to);
        unchanged.put_back(open.lower());
        node.set_mode(Some(open.mode()));
        if let Err(fault) = &converted {
            body.remember(fault);
        }
        converted.map_err(|fault| self.fault(node, fault))
    }

    /// A wrap that is left from a move between policies goes with the header: a power cut must not undo that move any more.
    fn drop_foreign_wrap(&self, open: &OpenFile, to: &UnlockedPolicy) -> FsResult<()> {
        match open.spare_wrap() {
            Some(wrap) if wrap.policy != to.policy() => self.dirs.root().sync_file_system(),
            _ => Ok(()),
        }
    }

    /// Copies everything, and again what is changed meanwhile, until little is left to do. Gives that.
    fn bring_all(
        &self,
        node: &Arc<Node>,
        copy: &mut OpenFile,
        pace: &mut dyn FnMut(u64) -> bool,
    ) -> Result<Vec<Range<u64>>, Stopped> {
        let everything = 0..node.file()?.read().opened()?.size();
        let mut left = vec![everything];
        for _ in 0..PASSES {
            for range in &left {
                let mut at = range.start;
                while at < range.end {
                    let moved = {
                        let _writing = self.check_writable()?;
                        let body = node.file()?.read();
                        bring(body.opened()?, copy, at..range.end)?
                    };
                    if !pace(moved.bytes) {
                        return Err(Errno::INTR.into());
                    }
                    at = moved.end;
                }
            }
            let changed = node.file()?.write().opened_mut()?.take_changes();
            // Locked, and opened anew: nobody has watched since.
            left = changed.ok_or(LATER)?;
            let bytes: u64 = left.iter().map(|range| range.end - range.start).sum();
            if bytes <= CHUNK as u64 {
                break;
            }
        }
        // Most of it is on its way to the disk before anybody waits for the rest.
        copy.lower().sync_data()?;
        Ok(left)
    }

    /// The end, while nobody else uses the file.
    fn become_copy(
        &self,
        node: &Arc<Node>,
        copy: &mut OpenFile,
        mut left: Vec<Range<u64>>,
        (copies, unfinished, number): (&Dir, &str, u32),
        to: &Arc<UnlockedPolicy>,
    ) -> Result<bool, Stopped> {
        let _writing = self.check_writable()?;
        let mut body = node.file()?.write();
        let open = body.opened_mut()?;
        if open.policy().policy() != to.policy() {
            // Moved to another policy just now.
            return Ok(false);
        }
        left.extend(open.take_changes().ok_or(LATER)?);
        for range in left {
            let mut at = range.start;
            while at < range.end {
                at = bring(open, copy, at..range.end)?.end;
            }
        }
        copy.resize(open.size())?;
        copy_attributes(open, copy)?;
        copy.sync()?;
        copy.lower().sync()?;
        let id = open.existing_keys().ok_or(LATER)?.id();
        let how = RenameFlags::NOREPLACE;
        copies.rename(unfinished, copies, &names::copy(id, number), how)?;
        copies.sync()?;
        self.drop_foreign_wrap(open, to)?;
        let unchanged = Unchanged::note(open.lower())?;
        node.sizes_differ();
        let lower = Arc::clone(open.lower());
        match open.become_copy(copy, number) {
            Became::Copy => {}
            Became::Itself(fault) => {
                unchanged.put_back(&lower);
                body.remember(&fault);
                return Err(Stopped::Before(fault));
            }
            Became::Doubtful(fault) => {
                body.remember(&fault);
                body.open = None;
                return Err(Stopped::Behind(fault));
            }
        }
        let keys = self.keys.as_ref();
        node.set_mode(None);
        let placed;
        match self.read_from_copy(node, to) {
            Ok(reading) => {
                body.open = Some(reading);
                // It takes as long as it takes: who has the file open can read it meanwhile, in its copy.
                let shared = RwLockWriteGuard::downgrade_to_upgradable(body);
                placed = copies::put_in_place(&lower, copy.lower());
                body = RwLockUpgradableReadGuard::upgrade(shared);
            }
            // Nobody may read what is being written over.
            Err(_) => placed = copies::put_in_place(&lower, copy.lower()),
        }
        unchanged.put_back(&lower);
        let loaded = placed
            .map_err(Fault::from)
            .and_then(|()| content::load_shared(&lower, true, false, to, keys));
        match loaded {
            Ok(open) => {
                node.set_mode(Some(open.mode()));
                body.open = Some(open);
                Ok(true)
            }
            Err(fault) => {
                body.remember(&fault);
                if !body
                    .open
                    .as_ref()
                    .is_some_and(|open| open.lower().is_elsewhere())
                {
                    // The next one to open it tries again.
                    body.open = None;
                }
                Err(Stopped::Behind(fault))
            }
        }
    }

    /// The file whose header page says that its content is in its copy, open for reading only. The caller holds its lock.
    fn read_from_copy(
        &self,
        node: &Arc<Node>,
        to: &Arc<UnlockedPolicy>,
    ) -> Result<OpenFile, Fault> {
        let (lower, ..) = self.open_lower(node, true)?;
        let root = self.dirs.root();
        content::load(lower, false, false, to, self.keys.as_ref(), root)
    }
}

/// Where it failed.
enum Stopped {
    /// The file is as it was.
    Before(Fault),
    /// The content of the file is in its copy, or may be.
    Behind(Fault),
}

impl<T: Into<Fault>> From<T> for Stopped {
    fn from(fault: T) -> Stopped {
        Stopped::Before(fault.into())
    }
}

fn todo(body: &FileBody, to: &UnlockedPolicy) -> FsResult<Todo> {
    let open = body.opened()?;
    Ok(if open.policy().policy() != to.policy() {
        // Moved to another policy just now.
        Todo::Nothing
    } else if open.blank() {
        Todo::Header
    } else if open.mode() == to.mode() {
        Todo::Nothing
    } else if open.reencrypting() {
        Todo::End
    } else {
        Todo::Convert
    })
}

/// What one step copied.
struct Moved {
    bytes: u64,
    /// Everything up to here is as in the file.
    end: u64,
}

/// Copies the first piece of a range that has data, and what is a hole before that.
fn bring(open: &OpenFile, copy: &mut OpenFile, range: Range<u64>) -> Result<Moved, Fault> {
    let end = range.end.min(open.size());
    if range.start >= end {
        // Cut since: the size is set at the end.
        return Ok(Moved {
            bytes: 0,
            end: range.end,
        });
    }
    let data = match open.seek_data(range.start) {
        Ok(data) => data.min(end),
        Err(Fault::NoData | Fault::Lower(Errno::NXIO)) => end,
        Err(fault) => return Err(fault),
    };
    let gap = data.min(copy.size());
    if range.start < gap {
        copy.punch(range.start, gap - range.start)?;
    }
    if data >= end {
        return Ok(Moved { bytes: 0, end });
    }
    let hole = open.seek_hole(data)?.clamp(data + 1, end);
    let want = usize::try_from(hole - data).unwrap_or(CHUNK).min(CHUNK);
    let mut buffer = Zeroizing::new(vec![0; want]);
    let got = open.read(data, &mut buffer)?;
    if got == 0 {
        return Err(Errno::IO.into());
    }
    copy.write(data, buffer.get_mut(..got).unwrap_or_default())?;
    Ok(Moved {
        bytes: got as u64,
        end: data + got as u64,
    })
}

/// The attributes of the file under the keys of its copy, on that. What the keys of the file do not open is lost already.
fn copy_attributes(open: &OpenFile, copy: &OpenFile) -> Result<(), Fault> {
    let from = Target::File(open.lower());
    let names = encrypted(&from)?;
    if names.is_empty() {
        return Ok(());
    }
    let (Some(old), Some(new)) = (AttributeKeys::of_file(open)?, AttributeKeys::of_file(copy)?)
    else {
        return Err(Errno::IO.into());
    };
    for lower in names {
        let value = from.get(&lower)?;
        if let Some((name, value)) = FormatError::opened(old.open(&lower, &value))? {
            new.set(&Target::File(copy.lower()), &name, &value, 0)?;
        }
    }
    Ok(())
}
