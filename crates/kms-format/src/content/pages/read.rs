//! Reading units.

use std::ops::Range;

use zeroize::Zeroizing;

use super::super::reencrypt::Keyring;
use super::super::{Fault, Faulty, File, Lower, SCRATCH};
use super::{CONTENT, Pages};
use crate::FormatError;
use crate::gcm::{self, Unit};

/// The content of one unit.
pub(super) type Content = [u8; gcm::CONTENT];

impl<L: Lower> File<L> {
    pub(in super::super) fn read_pages(
        &self,
        offset: u64,
        out: &mut [u8],
    ) -> Faulty<usize, L::Error> {
        let end = offset.saturating_add(out.len() as u64).min(self.size);
        if offset >= end {
            return Ok(0);
        }
        let (pages, keys) = self.pages()?;
        let (first, last) = (offset / CONTENT, (end - 1) / CONTENT);
        SCRATCH.with_borrow_mut(|scratch| {
            let buffer = room(scratch, last - first + 1);
            self.fetch(first, buffer)?;
            let mut rest = out;
            for (unit, page) in (first..).zip(buffer.as_chunks_mut().0) {
                let from = small(offset.saturating_sub(unit * CONTENT));
                let to = small((end - unit * CONTENT).min(CONTENT));
                let (part, later) = rest.split_at_mut(rest.len().min(to - from));
                rest = later;
                let valid = pages.open_page(keys, unit, page)?.clamp(from, to) - from;
                let (data, zeros) = part.split_at_mut(valid.min(part.len()));
                data.copy_from_slice(
                    gcm::content(page)
                        .get(from..from + data.len())
                        .unwrap_or_default(),
                );
                zeros.fill(0);
            }
            Ok(small(end - offset))
        })
    }

    /// Reads lower pages; zeros behind the end of the lower file.
    pub(in super::super) fn fetch(&self, first: u64, buffer: &mut [u8]) -> Faulty<(), L::Error> {
        let got = self.lower.read_at(buffer, gcm::offset(first));
        let got = got.map_err(Fault::Lower)?;
        if let Some(missing) = buffer.get_mut(got..) {
            missing.fill(0);
        }
        Ok(())
    }

    /// The content of a unit as far as it is below `size`, zeros behind it; and how many bytes are sealed in its page.
    pub(super) fn unit(
        &self,
        unit: u64,
        size: u64,
    ) -> Faulty<(Zeroizing<Content>, usize), L::Error> {
        let (pages, keys) = self.pages()?;
        let mut page = Zeroizing::new([0; gcm::PAGE]);
        self.fetch(unit, &mut *page)?;
        let sealed = pages.open_page(keys, unit, &mut page)?;
        let valid = sealed.min(small(size.saturating_sub(unit * CONTENT)));
        let mut content = Zeroizing::new([0; gcm::CONTENT]);
        if let (Some(to), Some(from)) = (content.get_mut(..valid), gcm::content(&page).get(..valid))
        {
            to.copy_from_slice(from);
        }
        Ok((content, sealed))
    }
}

impl Pages {
    /// Decrypts a page where it is and says how many bytes of content it has; none in a hole.
    pub(in super::super) fn open_page(
        &self,
        keys: Keyring<'_>,
        unit: u64,
        page: &mut [u8; gcm::PAGE],
    ) -> Result<usize, FormatError> {
        let damaged = |what| FormatError::Unit { unit, what };
        match keys.open(&self.ranges, unit, page) {
            Ok(Unit::Data(length)) => Ok(length),
            Ok(Unit::Zero) if self.may_be_zero(unit) => Ok(0),
            Ok(Unit::Zero) => Err(damaged(
                "is missing: it was synced, and holds only zeros now",
            )),
            Err(FormatError::TagMismatch { .. }) => Err(damaged(
                "fails authentication: it was altered, or it belongs elsewhere",
            )),
            Err(FormatError::BadField { .. }) => {
                Err(damaged("is not a sealed unit: it was altered"))
            }
            Err(error) => Err(error),
        }
    }
}

/// The first `units` pages of a buffer that is kept between calls.
pub(super) fn room(scratch: &mut Vec<u8>, units: u64) -> &mut [u8] {
    let needed = small(units).saturating_mul(gcm::PAGE);
    if scratch.len() < needed {
        scratch.resize(needed, 0);
    }
    scratch.get_mut(..needed).unwrap_or_default()
}

/// Lengths of one call, which fit a `usize` because its buffer does.
pub(super) fn small(length: u64) -> usize {
    usize::try_from(length).unwrap_or(usize::MAX)
}

/// The units that hold some of these bytes.
pub(super) const fn touched(offset: u64, end: u64) -> Range<u64> {
    offset / CONTENT..gcm::units(end)
}
