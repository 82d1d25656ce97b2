//! Content in the header page (FORMAT.md section 5.4, "Inline").

use zeroize::Zeroizing;

use super::{Fault, Faulty, File, Lower, Units};
use crate::file::{self, Layout};
use crate::size;

impl<L: Lower> File<L> {
    pub(super) fn read_inline(&self, offset: u64, out: &mut [u8]) -> usize {
        let start = usize::try_from(offset)
            .unwrap_or(usize::MAX)
            .min(self.inline.len());
        let found = self.inline.get(start..).unwrap_or_default();
        let count = found.len().min(out.len());
        if let (Some(to), Some(from)) = (out.get_mut(..count), found.get(..count)) {
            to.copy_from_slice(from);
        }
        count
    }

    pub(super) fn write_inline(&mut self, offset: u64, data: &[u8]) -> Faulty<(), L::Error> {
        let start = usize::try_from(offset).map_err(|_| Fault::TooLarge)?;
        let end = start.saturating_add(data.len());
        let mut content = Zeroizing::new(Vec::with_capacity(self.inline.len().max(end)));
        content.extend_from_slice(&self.inline);
        if content.len() < end {
            content.resize(end, 0);
        }
        if let Some(place) = content.get_mut(start..end) {
            place.copy_from_slice(data);
        }
        self.store_inline(content)
    }

    pub(super) fn resize_inline(&mut self, new: u64) -> Faulty<(), L::Error> {
        if new == self.size {
            // Only the time changes, and what an unclean stop left behind goes.
            let lower_size = match self.sealed {
                Some(_) => size::lower_size(self.policy.mode(), new)?,
                None => 0,
            };
            self.set_lower_size(lower_size)?;
            self.lower_size = lower_size;
            return Ok(());
        }
        let length = usize::try_from(new).map_err(|_| Fault::TooLarge)?;
        let mut content = Zeroizing::new(self.inline.to_vec());
        content.resize(length, 0);
        self.store_inline(content)
    }

    /// Turns a range into zeros.
    pub(super) fn clear_inline(&mut self, offset: u64, length: u64) -> Faulty<(), L::Error> {
        let limit = self.inline.len();
        let at = |position: u64| usize::try_from(position).unwrap_or(limit).min(limit);
        let range = at(offset)..at(offset.saturating_add(length));
        if range.is_empty() {
            return Ok(());
        }
        let mut content = Zeroizing::new(self.inline.to_vec());
        content.get_mut(range).unwrap_or_default().fill(0);
        self.store_inline(content)
    }

    /// Writes an inline header page, and sets the lower size that goes with it.
    pub(super) fn store_inline(&mut self, content: Zeroizing<Vec<u8>>) -> Faulty<(), L::Error> {
        let length = content.len() as u64;
        let lower_size = size::lower_size(self.policy.mode(), length)?;
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
                self.lower.set_size(lower_size)
            }
        });
        if let Err(error) = written {
            // The page may be new and the size old: put the old page back as well as it goes.
            self.restore_inline(before);
            if new_file {
                (self.sealed, self.units) = (None, Units::None);
            }
            return Err(Fault::Lower(error));
        }
        self.layout = Layout::Inline;
        self.inline = content;
        self.size = length;
        self.lower_size = lower_size;
        Ok(())
    }

    pub(super) fn restore_inline(&mut self, lower_size: u64) {
        let mut page = [0; file::PAGE];
        if lower_size > 0
            && self.layout == Layout::Inline
            && let Some((header, keys)) = self.sealed.as_mut()
            && header.write_inline(keys, &self.inline, &mut page).is_ok()
        {
            let _ = self.lower.write_at(&page, 0);
        }
        if self.layout == Layout::Inline {
            let _ = self.lower.set_size(lower_size);
        }
    }
}
