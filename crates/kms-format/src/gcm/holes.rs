//! The authenticated list of holes of a file of mode gcm.

use std::ops::Range;

use crate::file::INLINE_MAX;
use crate::{FormatError, Record};

/// The most holes a header page holds; beyond that zeros are written as sealed pages.
pub const HOLES_MAX: usize = INLINE_MAX / ENTRY;

const ENTRY: usize = 16;

/// Ranges of units that are holes: ascending, apart from each other.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HoleList(Vec<Range<u64>>);

impl HoleList {
    /// Is this unit in a hole?
    #[must_use]
    pub fn contains(&self, unit: u64) -> bool {
        let after = self.0.partition_point(|hole| hole.start <= unit);
        after
            .checked_sub(1)
            .and_then(|at| self.0.get(at))
            .is_some_and(|hole| unit < hole.end)
    }

    /// The holes, ascending.
    #[must_use]
    pub fn holes(&self) -> &[Range<u64>] {
        &self.0
    }

    /// Adds units to the holes. Says false, and changes nothing, when the list would become too long.
    #[must_use = "false means that zeros have to be written"]
    pub fn insert(&mut self, units: Range<u64>) -> bool {
        self.replace(self.with(units))
    }

    /// Takes units out of the holes. Says false, and changes nothing, when the list would become too long.
    #[must_use = "false means that zeros have to be written"]
    pub fn remove(&mut self, units: Range<u64>) -> bool {
        self.replace(self.without(units))
    }

    fn replace(&mut self, holes: Self) -> bool {
        let fits = holes.fits();
        if fits {
            *self = holes;
        }
        fits
    }

    /// Whether a header page holds it.
    pub(crate) fn fits(&self) -> bool {
        self.0.len() <= HOLES_MAX
    }

    /// The list with these units as holes; perhaps too long.
    #[must_use]
    pub(crate) fn with(&self, units: Range<u64>) -> Self {
        if units.is_empty() {
            return self.clone();
        }
        let mut merged = units;
        let mut kept = Vec::with_capacity(self.0.len().saturating_add(1));
        for hole in &self.0 {
            if hole.end < merged.start || hole.start > merged.end {
                kept.push(hole.clone());
            } else {
                merged = merged.start.min(hole.start)..merged.end.max(hole.end);
            }
        }
        let at = kept.partition_point(|hole| hole.start < merged.start);
        kept.insert(at, merged);
        Self(kept)
    }

    /// The list without these units; perhaps too long.
    #[must_use]
    pub(crate) fn without(&self, units: Range<u64>) -> Self {
        if units.is_empty() || !self.overlaps(&units) {
            return self.clone();
        }
        let mut kept = Vec::with_capacity(self.0.len().saturating_add(1));
        for hole in &self.0 {
            for part in [
                hole.start..hole.end.min(units.start),
                hole.start.max(units.end)..hole.end,
            ] {
                if !part.is_empty() {
                    kept.push(part);
                }
            }
        }
        Self(kept)
    }

    /// Whether any of these units is in a hole.
    #[must_use]
    pub(crate) fn overlaps(&self, units: &Range<u64>) -> bool {
        let at = self.0.partition_point(|hole| hole.end <= units.start);
        !units.is_empty() && self.0.get(at).is_some_and(|hole| hole.start < units.end)
    }

    /// The first hole that ends behind `unit`.
    #[must_use]
    pub(crate) fn at_or_after(&self, unit: u64) -> Option<&Range<u64>> {
        let at = self.0.partition_point(|hole| hole.end <= unit);
        self.0.get(at)
    }

    /// The smallest hole.
    pub(crate) fn smallest(&self) -> Option<Range<u64>> {
        let length = |hole: &&Range<u64>| hole.end.saturating_sub(hole.start);
        self.0.iter().min_by_key(length).cloned()
    }

    /// The bytes for the header body: first unit and number of units, u64 each.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        self.0
            .iter()
            .flat_map(|hole| [hole.start, hole.end.saturating_sub(hole.start)])
            .flat_map(u64::to_le_bytes)
            .collect()
    }

    /// Parses a header body.
    ///
    /// # Errors
    /// [`FormatError::BadField`] for a list that is not ascending or not a whole number of entries.
    pub fn decode(bytes: &[u8]) -> Result<Self, FormatError> {
        const RECORD: Record = Record::HoleList;
        let (numbers, rest) = bytes.as_chunks::<8>();
        if !rest.is_empty() || !numbers.len().is_multiple_of(2) || bytes.len() > INLINE_MAX {
            let value = bytes.len() as u64;
            return Err(FormatError::BadField {
                record: RECORD,
                field: "length",
                value,
            });
        }
        let mut holes: Vec<Range<u64>> = Vec::with_capacity(numbers.len() / 2);
        let mut numbers = numbers.iter().map(|bytes| u64::from_le_bytes(*bytes));
        while let (Some(start), Some(count)) = (numbers.next(), numbers.next()) {
            let apart = holes.last().is_none_or(|last| last.end < start);
            match start.checked_add(count) {
                Some(end) if count > 0 && apart => holes.push(start..end),
                _ => {
                    let (field, value) = ("first unit", start);
                    return Err(FormatError::BadField {
                        record: RECORD,
                        field,
                        value,
                    });
                }
            }
        }
        Ok(Self(holes))
    }
}
