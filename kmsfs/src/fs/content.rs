//! The content of one open file: what is in its header page, what is in units, and how it goes from one to the other.
//!
//! One [`OpenFile`] is shared by all handles of a node, under the lock of [`FileBody`]. It knows its size, so that no
//! operation asks the lower file system for it. Each step that changes the lower file keeps to the order of FORMAT.md section
//! 5.4.

mod holes;
mod load;
mod resize;
mod write;

use std::cell::RefCell;

use kms_format::file::{self, Layout};
use kms_format::{FileHeader, FileKeys, FormatError, UnlockedPolicy, size, xts};
use rustix::fs::{Timespec, Timestamps, UTIME_OMIT};
use std::sync::Arc;
use zeroize::Zeroizing;

use crate::backing::LowerFile;
use crate::errno::{Errno, FsResult};

/// Why an operation on content failed.
#[derive(Debug)]
pub(crate) enum Fault {
    /// The lower file system, or kmsd, said no.
    Errno(Errno),
    /// The lower bytes are not what they should be: to be logged with the path.
    Damage(FormatError),
}

impl From<Errno> for Fault {
    fn from(errno: Errno) -> Fault {
        Fault::Errno(errno)
    }
}

impl From<FormatError> for Fault {
    fn from(error: FormatError) -> Fault {
        Fault::Damage(error)
    }
}

impl From<kms_format::SizeError> for Fault {
    fn from(error: kms_format::SizeError) -> Fault {
        Fault::Damage(error.into())
    }
}

pub(crate) type Faulty<T> = Result<T, Fault>;

/// The part of a node that is guarded by its lock.
#[derive(Default)]
pub(crate) struct FileBody {
    /// Handles, and operations that need the file for a moment.
    pub(crate) users: usize,
    /// There as long as there are users.
    pub(crate) open: Option<OpenFile>,
}

impl FileBody {
    pub(crate) fn opened(&self) -> FsResult<&OpenFile> {
        self.open.as_ref().ok_or(Errno::BADF)
    }

    pub(crate) fn opened_mut(&mut self) -> FsResult<&mut OpenFile> {
        self.open.as_mut().ok_or(Errno::BADF)
    }
}

/// An open file.
pub(crate) struct OpenFile {
    pub(crate) lower: Arc<LowerFile>,
    writable: bool,
    policy: Arc<UnlockedPolicy>,
    /// Missing as long as nothing was ever written: then the lower file is empty.
    sealed: Option<(FileHeader, FileKeys)>,
    layout: Layout,
    /// The content, for layout inline.
    inline: Zeroizing<Vec<u8>>,
    /// The cipher, for layout units.
    cipher: Option<xts::Content>,
    size: u64,
    lower_size: u64,
    /// Something in it may have been synced.
    synced: bool,
}

thread_local! {
    /// Room for what cannot be encrypted or decrypted where it is.
    static SCRATCH: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

impl OpenFile {
    pub(crate) fn size(&self) -> u64 {
        self.size
    }

    pub(crate) fn writable(&self) -> bool {
        self.writable
    }

    /// The file's keys; makes them, and writes the first header, if there are none yet.
    pub(crate) fn keys(&mut self) -> Faulty<&FileKeys> {
        if self.sealed.is_none() {
            let before = self.lower.stat()?;
            self.store_inline(Zeroizing::default())?;
            // The content has not changed: neither has its time. If that fails it only looks changed.
            let _ = self.lower.set_times(&Timestamps {
                last_access: Timespec {
                    tv_sec: 0,
                    tv_nsec: UTIME_OMIT,
                },
                last_modification: Timespec {
                    tv_sec: before.st_mtime,
                    tv_nsec: i64::try_from(before.st_mtime_nsec).unwrap_or(0),
                },
            });
        }
        self.existing_keys().ok_or(Fault::Errno(Errno::IO))
    }

    /// The file's keys, if it has any yet.
    pub(crate) fn existing_keys(&self) -> Option<&FileKeys> {
        self.sealed.as_ref().map(|(_, keys)| keys)
    }

    /// Reads plain bytes; fewer than asked for only at the end of the file.
    pub(crate) fn read(&self, offset: u64, out: &mut [u8]) -> Faulty<usize> {
        if self.layout == Layout::Inline {
            let start = usize::try_from(offset)
                .unwrap_or(usize::MAX)
                .min(self.inline.len());
            let found = self.inline.get(start..).unwrap_or_default();
            let count = found.len().min(out.len());
            if let (Some(to), Some(from)) = (out.get_mut(..count), found.get(..count)) {
                to.copy_from_slice(from);
            }
            return Ok(count);
        }
        let plan = xts::plan_read(self.size, offset, out.len());
        if plan.lower_len == 0 {
            return Ok(0);
        }
        let cipher = self.cipher.as_ref().ok_or(Errno::IO)?;
        if plan.skip == 0 && plan.lower_len <= out.len() {
            let buffer = out.get_mut(..plan.lower_len).unwrap_or_default();
            let got = self.lower.read_at(buffer, plan.lower_offset)?;
            cipher.open_read(&plan, buffer, got)?;
            return Ok(plan.take);
        }
        SCRATCH.with_borrow_mut(|scratch| {
            if scratch.len() < plan.lower_len {
                scratch.resize(plan.lower_len, 0);
            }
            let buffer = scratch.get_mut(..plan.lower_len).unwrap_or_default();
            let got = self.lower.read_at(buffer, plan.lower_offset)?;
            let range = cipher.open_read(&plan, buffer, got)?;
            let plain = buffer.get(range).unwrap_or_default();
            if let Some(out) = out.get_mut(..plain.len()) {
                out.copy_from_slice(plain);
            }
            Ok(plain.len())
        })
    }

    /// An fsync begins. Before the call: when it fails, part of the content may be durable.
    pub(crate) fn mark_synced(&mut self) {
        self.synced = true;
    }

    /// Writes an inline header page, and sets the lower size that goes with it.
    fn store_inline(&mut self, content: Zeroizing<Vec<u8>>) -> Faulty<()> {
        let length = content.len() as u64;
        let lower_size = size::xts_lower_size(length)?;
        let mut page = [0; file::PAGE];
        let (header, keys) = self.sealed()?;
        header.write_inline(keys, &content, &mut page)?;
        let before = self.lower_size;
        let new_file = self.inline.is_empty() && before == 0;
        let written = self.lower.write_at(&page, 0).and_then(|()| {
            // The write alone leaves a file that was empty at 4096.
            let now = before.max(size::HEADER);
            if now == lower_size {
                Ok(())
            } else {
                self.lower.truncate(lower_size)
            }
        });
        if let Err(errno) = written {
            // The page may be new and the size old: put the old page back as well as it goes.
            self.restore_inline(before);
            if new_file {
                (self.sealed, self.cipher) = (None, None);
            }
            return Err(errno.into());
        }
        self.layout = Layout::Inline;
        self.inline = content;
        self.size = length;
        self.lower_size = lower_size;
        Ok(())
    }

    fn restore_inline(&mut self, lower_size: u64) {
        let mut page = [0; file::PAGE];
        if lower_size > 0
            && self.layout == Layout::Inline
            && let Some((header, keys)) = self.sealed.as_mut()
            && header.write_inline(keys, &self.inline, &mut page).is_ok()
        {
            let _ = self.lower.write_at(&page, 0);
        }
        if self.layout == Layout::Inline {
            let _ = self.lower.truncate(lower_size);
        }
    }

    /// Header and keys, made now if there are none.
    fn sealed(&mut self) -> Faulty<(&mut FileHeader, &FileKeys)> {
        let made = match self.sealed.take() {
            Some(sealed) => sealed,
            None => FileHeader::create(&self.policy)?,
        };
        let (header, keys) = self.sealed.insert(made);
        Ok((header, keys))
    }

    fn cipher(&mut self) -> Faulty<&xts::Content> {
        let cipher = match self.cipher.take() {
            Some(cipher) => cipher,
            None => self.sealed()?.1.xts()?,
        };
        Ok(self.cipher.insert(cipher))
    }
}
