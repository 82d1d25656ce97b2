//! Changing a file's size.

use kms_format::file::{self, INLINE_MAX, Layout};
use kms_format::{size, xts};
use zeroize::Zeroizing;

use super::{Faulty, OpenFile};
use crate::errno::Errno;

impl OpenFile {
    /// Cuts the file, or extends it with zeros. Times change even if the size does not.
    pub(crate) fn resize(&mut self, new: u64) -> Faulty<()> {
        if !self.writable {
            return Err(Errno::BADF.into());
        }
        size::xts_lower_size(new)?;
        match self.layout {
            Layout::Inline if new == self.size => {
                let lower_size = self.settled_size()?;
                Ok(self.lower.truncate(lower_size)?)
            }
            Layout::Inline if new <= INLINE_MAX as u64 => {
                let length = usize::try_from(new).map_err(|_| Errno::FBIG)?;
                let mut content = Zeroizing::new(self.inline.to_vec());
                content.resize(length, 0);
                self.store_inline(content)
            }
            Layout::Inline => self.spill(false, |this| this.resize_units(new)),
            Layout::Units if new == 0 => self.empty(),
            Layout::Units => self.resize_units(new),
        }
    }

    /// The lower size that the present inline content should have.
    fn settled_size(&mut self) -> Faulty<u64> {
        if self.sealed.is_some() {
            self.lower_size = size::xts_lower_size(self.size)?;
        } else {
            self.lower_size = 0;
        }
        Ok(self.lower_size)
    }

    fn resize_units(&mut self, new: u64) -> Faulty<()> {
        let plan = xts::plan_resize(self.size, new)?;
        if let Some(fix) = &plan.before {
            self.fix_tail(fix)?;
        }
        self.lower.truncate(plan.truncate)?;
        self.size = new;
        self.lower_size = plan.truncate;
        if let Some(fix) = &plan.after {
            self.fix_tail(fix)?;
        }
        Ok(())
    }

    /// From units to an empty inline file: the header first, see FORMAT.md section 5.4.
    fn empty(&mut self) -> Faulty<()> {
        let mut page = [0; file::PAGE];
        let (header, keys) = self.sealed()?;
        header.write_inline(keys, &[], &mut page)?;
        self.lower.write_at(&page, 0)?;
        // From here on the header says "empty", whatever the size says.
        self.layout = Layout::Inline;
        self.inline = Zeroizing::default();
        self.size = 0;
        self.lower.truncate(size::HEADER)?;
        self.lower_size = size::HEADER;
        Ok(())
    }
}
