//! Units of mode gcm.

use super::super::pages::Ranges;
use super::{Fault, Faulty, File, Lower};
use crate::bytes::is_zero;
use crate::gcm::{self, Unit};
use crate::{FileKeys, FormatError};

impl<L: Lower> File<L> {
    /// Does the next units that are not holes. Gives the bytes written.
    pub(super) fn step_pages(&mut self, units: u64) -> Faulty<u64, L::Error> {
        let from = self.reencrypted()?;
        let end = gcm::units(self.size);
        let data = self.lower.seek_data(gcm::offset(from));
        let data = data.map_err(Fault::Lower)?;
        let data = data.map_or(end, |at| (at / gcm::PAGE as u64).saturating_sub(1));
        let data = data.clamp(from, end.max(from));
        let last = end.min(data + units);
        let mut pages =
            vec![0; usize::try_from(last.saturating_sub(data)).unwrap_or(0) * gcm::PAGE];
        self.fetch(data, &mut pages)?;
        let mut bytes = 0;
        for (unit, page) in (data..).zip(pages.as_chunks_mut().0) {
            bytes += self.seal_anew(unit, page)?;
        }
        self.write_pages_anew(data, &pages)?;
        // Before the header says that they are under the new key.
        self.sync_lower()?;
        self.sealed()?.0.set_reencrypted(last.max(from))?;
        // If that fails, it may be there or not, and both are right: pages from an older watermark on may be under either key.
        self.repeat_claim()?;
        Ok(bytes)
    }

    fn seal_anew(&self, unit: u64, page: &mut [u8; gcm::PAGE]) -> Faulty<u64, L::Error> {
        let (pages, keys) = self.pages()?;
        let length = pages.open_page(keys, unit, page)?;
        if length == 0 {
            return Ok(0);
        }
        let content = zeroize::Zeroizing::new(*page);
        let content = gcm::content(&content).get(..length).unwrap_or_default();
        pages
            .ranges
            .get(keys.now, unit)?
            .seal(unit, content, page)?;
        Ok(length as u64)
    }

    /// Writes pages where there are any; holes stay.
    fn write_pages_anew(&self, first: u64, pages: &[u8]) -> Faulty<(), L::Error> {
        let mut unit = first;
        let each: Vec<_> = pages.chunks(gcm::PAGE).collect();
        for run in each.chunk_by(|a, b| is_zero(a) == is_zero(b)) {
            if run.first().is_some_and(|page| !is_zero(page)) {
                let start = usize::try_from(unit - first).unwrap_or(0) * gcm::PAGE;
                let bytes = pages.get(start..start + run.len() * gcm::PAGE);
                self.write_lower(bytes.unwrap_or_default(), gcm::offset(unit))?;
            }
            unit += run.len() as u64;
        }
        Ok(())
    }
}

/// The keys that units are under.
#[derive(Clone, Copy)]
pub(in super::super) struct Keyring<'a> {
    pub(in super::super) now: &'a FileKeys,
    /// From this unit on the old ones, with the ranges that were derived from them.
    pub(in super::super) former: Option<(u64, &'a FileKeys, &'a Ranges)>,
}

impl Keyring<'_> {
    /// Opens a page where it is. During a re-encryption one that should be under the old key may be under the new one already.
    pub(in super::super) fn open(
        self,
        ranges: &Ranges,
        unit: u64,
        page: &mut [u8; gcm::PAGE],
    ) -> Result<Unit, FormatError> {
        match self.former {
            Some((border, keys, former)) if unit >= border && !is_zero(page) => {
                let sealed = *page;
                match former.get(keys, unit)?.open(unit, page) {
                    Err(FormatError::TagMismatch { .. }) => {
                        *page = sealed;
                        ranges.get(self.now, unit)?.open(unit, page)
                    }
                    opened => opened,
                }
            }
            _ => ranges.get(self.now, unit)?.open(unit, page),
        }
    }
}
