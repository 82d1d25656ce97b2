//! The content of one file: what is in its header page, what is in units, and how it goes from one to the other.
//!
//! A [`File`] runs the operations of FORMAT.md section 5 on anything that is a [`Lower`] file, in the order that is argued
//! for there. It knows its size, so that no operation asks the lower file for it. It belongs to one writer: whoever
//! shares it puts a lock around it.

mod cells;
mod convert;
mod fault;
mod holes;
mod inline;
mod load;
mod lower;
mod mode;
mod pages;
mod reencrypt;
mod wraps;

use std::cell::RefCell;
use std::sync::Arc;

use zeroize::Zeroizing;

pub use self::fault::{Fault, Faulty};
pub use self::lower::Lower;
pub use self::mode::{Became, check_copy};
use self::pages::Pages;
pub use self::pages::{Synced, Ticket};
use self::reencrypt::Former;
pub use self::reencrypt::Progress;
use crate::file::{INLINE_MAX, Layout};
use crate::{ContentMode, FileHeader, FileKeys, FormatError, UnlockedPolicy, size, xts};

/// An open file.
pub struct File<L> {
    lower: L,
    writable: bool,
    policy: Arc<UnlockedPolicy>,
    /// Missing as long as nothing was ever written: then the lower file is empty.
    sealed: Option<(FileHeader, FileKeys)>,
    /// While it is being re-encrypted: what is under the old key.
    former: Option<Former>,
    layout: Layout,
    /// The content, for layout inline.
    inline: Zeroizing<Vec<u8>>,
    /// What layout units needs.
    units: Units,
    size: u64,
    lower_size: u64,
    /// Something in it may have been synced.
    synced: bool,
    /// What was changed since somebody wanted to know.
    changes: Option<mode::Changes>,
    /// What an unclean stop left to do: cut the lower file to the first size, then set the second.
    repair: Option<(u64, u64)>,
}

/// What is needed to work on units.
enum Units {
    /// The file is inline, and always was.
    None,
    /// Mode xts: the cipher.
    Cells(xts::Content),
    /// Mode gcm.
    Pages(Pages),
}

thread_local! {
    /// Room for what cannot be encrypted or decrypted where it is.
    static SCRATCH: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

impl<L: Lower> File<L> {
    /// The lower file.
    pub const fn lower(&self) -> &L {
        &self.lower
    }

    /// The size, in bytes.
    pub const fn size(&self) -> u64 {
        self.size
    }

    /// The policy key that the file is used under.
    pub const fn policy(&self) -> &Arc<UnlockedPolicy> {
        &self.policy
    }

    /// Whether the lower file was opened for writing.
    pub const fn writable(&self) -> bool {
        self.writable
    }

    /// The file's keys, if it has any yet.
    pub fn existing_keys(&self) -> Option<&FileKeys> {
        self.sealed.as_ref().map(|(_, keys)| keys)
    }

    /// The file's keys; makes them, and writes the first header, if there are none yet. They are durable if something durable
    /// is under those of before.
    ///
    /// # Errors
    /// The lower file system's.
    pub fn keys(&mut self) -> Faulty<&FileKeys, L::Error> {
        if self.sealed.is_none() {
            self.store_inline(Zeroizing::default())?;
        }
        self.publish()?;
        Ok(self.sealed()?.1)
    }

    /// Reads plain bytes; fewer than asked for only at the end of the file. `out` may be used as room to decrypt in:
    /// bytes behind what is returned are undefined.
    ///
    /// # Errors
    /// [`Fault::Damage`]; the lower file system's.
    pub fn read(&self, offset: u64, out: &mut [u8]) -> Faulty<usize, L::Error> {
        match self.layout {
            Layout::Inline => Ok(self.read_inline(offset, out)),
            Layout::Units => match self.policy.mode() {
                ContentMode::Xts => self.read_cells(offset, out),
                ContentMode::Gcm => self.read_pages(offset, out),
            },
        }
    }

    /// Writes all of `data`, which may be encrypted where it is. If it fails, the size is as before.
    ///
    /// # Errors
    /// [`Fault::ReadOnly`], [`Fault::TooLarge`], [`Fault::Damage`]; the lower file system's.
    pub fn write(&mut self, offset: u64, data: &mut [u8]) -> Faulty<(), L::Error> {
        self.check_writable()?;
        if data.is_empty() {
            return Ok(());
        }
        self.settle_watermark()?;
        let end = offset.checked_add(data.len() as u64);
        let end = end.ok_or(Fault::TooLarge)?;
        size::lower_size(self.policy.mode(), end)?;
        self.note_change(offset.min(self.size), end);
        self.have_header()?;
        if self.layout == Layout::Units {
            return self.write_units(offset, data);
        }
        if end <= INLINE_MAX as u64 {
            return self.write_inline(offset, data);
        }
        if offset == 0 && self.inline.is_empty() && !self.synced {
            match self.policy.mode() {
                ContentMode::Gcm => return self.write_first_pages(data),
                ContentMode::Xts if self.lower_size == 0 => return self.write_first(data),
                ContentMode::Xts => {}
            }
        }
        let covered = offset == 0 && end >= self.size;
        self.spill(covered, |this| this.write_units(offset, data))
    }

    /// Cuts the file, or extends it with zeros. Times change even if the size does not.
    ///
    /// # Errors
    /// As [`File::write`].
    pub fn resize(&mut self, new: u64) -> Faulty<(), L::Error> {
        self.check_writable()?;
        size::lower_size(self.policy.mode(), new)?;
        self.settle_watermark()?;
        self.note_change(new.min(self.size), new.max(self.size));
        self.have_header()?;
        match self.layout {
            Layout::Inline if new <= INLINE_MAX as u64 => self.resize_inline(new),
            Layout::Inline => self.spill(false, |this| this.resize_units(new)),
            Layout::Units if new == 0 => self.empty(),
            Layout::Units => self.resize_units(new),
        }
    }

    /// The whole lower file system is being synced: from now on what is in the file is owed.
    pub const fn mark_synced(&mut self) {
        self.synced = true;
    }

    const fn check_writable(&self) -> Faulty<(), L::Error> {
        if self.writable {
            Ok(())
        } else {
            Err(Fault::ReadOnly)
        }
    }

    /// A file of mode gcm has a header before anything else: one that was made under a generation of mode xts may have none.
    fn have_header(&mut self) -> Faulty<(), L::Error> {
        if self.sealed.is_none() && self.policy.mode() == ContentMode::Gcm {
            self.store_inline(Zeroizing::default())?;
        }
        Ok(())
    }

    fn write_units(&mut self, offset: u64, data: &mut [u8]) -> Faulty<(), L::Error> {
        match self.policy.mode() {
            ContentMode::Xts => self.write_cells(offset, data),
            ContentMode::Gcm => self.write_pages(offset, data),
        }
    }

    fn resize_units(&mut self, new: u64) -> Faulty<(), L::Error> {
        match self.policy.mode() {
            ContentMode::Xts => self.resize_cells(new),
            ContentMode::Gcm => self.resize_pages(new),
        }
    }

    /// Header and keys, made now if there are none.
    fn sealed(&mut self) -> Result<(&mut FileHeader, &FileKeys), FormatError> {
        let made = match self.sealed.take() {
            Some(sealed) => sealed,
            None => FileHeader::create(&self.policy)?,
        };
        let (header, keys) = self.sealed.insert(made);
        Ok((header, keys))
    }

    /// Gets ready to write the first units.
    fn start_units(&mut self) -> Result<(), FormatError> {
        self.units = match self.policy.mode() {
            ContentMode::Xts => Units::Cells(self.sealed()?.1.xts()?),
            ContentMode::Gcm => Units::Pages(Pages::new()),
        };
        Ok(())
    }

    fn set_lower_size(&self, size: u64) -> Faulty<(), L::Error> {
        self.lower.set_size(size).map_err(Fault::Lower)
    }

    fn write_lower(&self, bytes: &[u8], offset: u64) -> Faulty<(), L::Error> {
        self.lower.write_at(bytes, offset).map_err(Fault::Lower)
    }

    fn sync_lower(&self) -> Faulty<(), L::Error> {
        self.lower.sync_data().map_err(Fault::Lower)
    }
}

impl<L> std::fmt::Debug for File<L> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("File")
            .field("layout", &self.layout)
            .field("size", &self.size)
            .field("lower_size", &self.lower_size)
            .field("synced", &self.synced)
            .finish_non_exhaustive()
    }
}
