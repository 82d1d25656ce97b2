//! Another content mode for a file (FORMAT.md section 6.6).
//!
//! The units of the two modes hold different numbers of bytes, so a file cannot be converted where it is. It gets a copy beside it:
//! a whole file of the same id, with a new key, in the other mode, which is written while the file is in use. Once the copy is
//! durable the file's header page becomes that of the copy, with a flag that says that the content is there; then it is put
//! in its place.

use std::ops::Range;
use std::sync::Arc;

use zeroize::Zeroizing;

use super::{Fault, Faulty, File, Lower, Units};
use crate::file::{self, Layout};
use crate::{ContentMode, FormatError, UnlockedPolicy, size};

/// More pieces than this are taken together.
const PIECES: usize = 1024;

/// Bytes that were changed.
#[derive(Debug, Default)]
pub(super) struct Changes(Vec<Range<u64>>);

impl Changes {
    fn add(&mut self, new: Range<u64>) {
        if new.is_empty() {
            return;
        }
        // Most writes go on where the last one ended.
        match self.0.last_mut() {
            Some(last) if new.start <= last.end && last.start <= new.end => {
                *last = last.start.min(new.start)..last.end.max(new.end);
            }
            _ => self.0.push(new),
        }
        if self.0.len() > PIECES {
            self.0 = merged(std::mem::take(&mut self.0));
            if self.0.len() > PIECES / 2
                && let (Some(first), Some(last)) = (self.0.first(), self.0.last())
            {
                let hull = first.start..last.end;
                self.0.clear();
                self.0.push(hull);
            }
        }
    }
}

/// In order, neither overlapping nor touching.
fn merged(mut ranges: Vec<Range<u64>>) -> Vec<Range<u64>> {
    ranges.sort_unstable_by_key(|range| range.start);
    let mut all: Vec<Range<u64>> = Vec::with_capacity(ranges.len());
    for range in ranges {
        match all.last_mut() {
            Some(last) if range.start <= last.end => last.end = last.end.max(range.end),
            _ => all.push(range),
        }
    }
    all
}

/// What came of [`File::become_copy`].
#[derive(Debug)]
pub enum Became<E> {
    /// The header page says durably that the content is in the copy.
    Copy,
    /// The lower file system refused, and everything is as it was.
    Itself(Fault<E>),
    /// The lower file system refused that, too: the header page may say the one or the other. Nothing may be written to the
    /// file before it was loaded anew.
    Doubtful(Fault<E>),
}

impl<L: Lower> File<L> {
    /// Remembers what is changed from now on.
    pub fn watch_changes(&mut self) {
        self.changes = Some(Changes::default());
    }

    /// What was changed since the last time, in order: bytes, which may lie behind the end. None if nobody watches.
    pub fn take_changes(&mut self) -> Option<Vec<Range<u64>>> {
        let changes = self.changes.as_mut().map(std::mem::take);
        changes.map(|changes| merged(changes.0))
    }

    /// Ends [`File::watch_changes`].
    pub fn forget_changes(&mut self) {
        self.changes = None;
    }

    /// Bytes from `start` to `end` are about to change.
    pub(super) fn note_change(&mut self, start: u64, end: u64) {
        if let Some(changes) = &mut self.changes {
            changes.add(start..end);
        }
    }

    /// The whole change of a file whose content is in its header page: one write. Only for a file that has no attributes
    /// under its old key. Says whether that was possible. `to` is another generation of the policy of the file.
    ///
    /// # Errors
    /// [`Fault::ReadOnly`], [`Fault::Damage`]; the lower file system's.
    pub fn convert_inline(&mut self, to: &Arc<UnlockedPolicy>) -> Faulty<bool, L::Error> {
        self.check_writable()?;
        if self.layout != Layout::Inline || self.sealed.is_none() || self.reencrypting() {
            return Ok(false);
        }
        let next = self.sealed()?.0.successor(to)?;
        let before = (self.sealed.replace(next), Arc::clone(&self.policy));
        let lower_size = self.lower_size;
        self.policy = Arc::clone(to);
        self.units = Units::None;
        let content = self.inline.clone();
        if let Err(fault) = self.store_inline(content) {
            // Either page may be there, and both are good; the old one, to go on with.
            (self.sealed, self.policy) = before;
            self.lower_size = lower_size;
            self.restore_inline(lower_size);
            return Err(fault);
        }
        self.synced = true;
        self.sync_lower()?;
        Ok(true)
    }

    /// The copy of the file under a new key in the content mode of `to`, another generation of its policy: empty, in a lower file that is.
    /// Once it has all of the content, [`File::sync`] makes it durable.
    ///
    /// # Errors
    /// [`Fault::Damage`] for a file that is being re-encrypted, or has no header yet; the lower file system's.
    pub fn begin_copy(&self, lower: L, to: &Arc<UnlockedPolicy>) -> Faulty<Self, L::Error> {
        let header = self.sealed.as_ref().map(|(header, _)| header);
        let header = header.ok_or(FormatError::Misuse("a file without a header"))?;
        let mut copy = Self {
            sealed: Some(header.successor(to)?),
            ..Self::fresh(lower, Arc::clone(to))
        };
        copy.store_inline(Zeroizing::default())?;
        Ok(copy)
    }

    /// From here on the file is `copy`, which has its content and is durable, with its name: the header page says that the content
    /// is there. The caller puts it in its place, and loads the file anew. `number` is not 0, and part of the name of the copy.
    pub fn become_copy(&mut self, copy: &mut Self, number: u32) -> Became<L::Error> {
        let page = match copy.marked_page(number) {
            Ok(page) => page,
            Err(error) => return Became::Itself(error.into()),
        };
        let written = self.write_lower(&page, 0).and_then(|()| self.sync_lower());
        let Err(fault) = written else {
            return Became::Copy;
        };
        match self.write_header().and_then(|()| self.sync_lower()) {
            Ok(()) => Became::Itself(fault),
            Err(_) => Became::Doubtful(fault),
        }
    }

    /// The header page, with the flag that says that the content is in the copy.
    fn marked_page(&mut self, number: u32) -> Result<[u8; file::PAGE], FormatError> {
        let mut page = [0; file::PAGE];
        let how = (self.layout, self.policy.mode());
        let claim = match how {
            (Layout::Units, ContentMode::Gcm) => Some(self.claimed()?),
            _ => None,
        };
        let (header, keys) = self.sealed.as_mut().ok_or(NOT_WHOLE)?;
        header.set_copy(number);
        let written = match (how, claim) {
            ((Layout::Inline, _), _) => header.write_inline(keys, &self.inline, &mut page),
            (_, Some((state, length, holes))) => {
                header.write_units_gcm(keys, length, state, &holes, &mut page)
            }
            (_, None) => header.write_units(keys, &mut page),
        };
        header.set_copy(0);
        written.map(|()| page)
    }
}

const NOT_WHOLE: FormatError = FormatError::Misuse("a file without a header");

/// Checks that a lower file is the copy of the file with this header page, which says that its content is there.
///
/// # Errors
/// [`FormatError`]: it is not.
pub fn check_copy(original: &[u8], copy: &[u8], copy_size: u64) -> Result<(), FormatError> {
    let wanted = crate::FileHeader::decode(original)?;
    let found = crate::FileHeader::decode(copy)?;
    let same = found.id() == wanted.id()
        && found.mode() == wanted.mode()
        && found.layout() == wanted.layout()
        && found.length() == wanted.length()
        && found.copy().is_none();
    if wanted.copy().is_none() || !same {
        return Err(FormatError::TagMismatch {
            record: crate::Record::FileHeader,
        });
    }
    size::plain_size(found.mode(), copy_size)?;
    Ok(())
}
