//! Units of mode gcm: sealed pages, under a header that says how many there are and which are holes (FORMAT.md section
//! 5.5).
//!
//! What the header page in the lower file says is the [`Claim`]. At any moment every page that the claim vouches for is in
//! the lower file and durable: so nothing a crash leaves looks like tampering.
#![allow(
    clippy::arithmetic_side_effects,
    reason = "offsets are at most those of the largest file: checked where they come in"
)]

mod claim;
mod holes;
mod read;
mod resize;
mod write;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

pub use self::claim::{Synced, Ticket};
use super::reencrypt::Keyring;
use super::{Faulty, File, Lower};
use crate::file::LengthState;
use crate::gcm::{self, HoleList};
use crate::{FileHeader, FileKeys, FormatError};

/// Keys of ranges that are kept: 16 MiB of content each.
const RANGES: usize = 16;
/// Bytes of content in a unit.
const CONTENT: u64 = gcm::CONTENT as u64;

/// What is known of the units of an open file.
pub(super) struct Pages {
    pub(super) ranges: Ranges,
    /// The units that are holes. Units in it may have content that is zero.
    holes: HoleList,
    /// From this unit on there may be more holes: the file was found growing.
    unknown: Option<u64>,
    /// What the header page says; None as long as it says inline.
    claim: Option<Claim>,
    /// A header was written and the lower file system refused: it may say what the claim says, or more.
    unsure: bool,
    /// Nothing lies hidden behind the end of the file, neither in its last page nor behind that.
    checked: bool,
    /// When units went away last, or the file was opened or left its header page: tickets from before are void.
    lost: Moment,
    /// When the fsync began whose content the claim vouches for.
    vouched: Moment,
    /// When the header page was written last.
    written: Moment,
}

/// An order of what happens, over all open files: a file that is opened again does not take a ticket of before for its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Moment(u64);

impl Moment {
    /// Later than all others.
    fn now() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Self(NEXT.fetch_add(1, Ordering::Relaxed))
    }
}

/// What the header page vouches for.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Claim {
    state: LengthState,
    length: u64,
    holes: HoleList,
}

impl Pages {
    /// Of a file whose header page still says inline.
    pub(super) fn new() -> Self {
        let now = Moment::now();
        Self {
            ranges: Ranges::default(),
            holes: HoleList::default(),
            unknown: None,
            claim: None,
            unsure: false,
            checked: true,
            lost: now,
            vouched: now,
            written: now,
        }
    }

    /// Of a file with this header.
    pub(super) fn open(header: &FileHeader, body: &[u8]) -> Result<Self, FormatError> {
        let holes = HoleList::decode(body)?;
        let growing = header.state() == LengthState::Growing;
        Ok(Self {
            holes: holes.clone(),
            checked: false,
            unknown: growing.then_some(gcm::units(header.length())),
            claim: Some(Claim {
                state: header.state(),
                length: header.length(),
                holes,
            }),
            ..Self::new()
        })
    }

    /// The key that a unit is sealed under.
    fn range(&self, keys: Keyring<'_>, unit: u64) -> Result<Arc<gcm::Range>, FormatError> {
        match keys.former {
            Some((border, keys, ranges)) if unit >= border => ranges.get(keys, unit),
            _ => self.ranges.get(keys.now, unit),
        }
    }

    /// Whether a unit may be zeros in the lower file.
    fn may_be_zero(&self, unit: u64) -> bool {
        self.unknown.is_some_and(|from| unit >= from) || self.holes.contains(unit)
    }
}

/// Keys of ranges that were used last.
#[derive(Default)]
pub(super) struct Ranges(Mutex<Vec<Arc<gcm::Range>>>);

impl Ranges {
    /// The key of the range of a unit.
    pub(super) fn get(&self, keys: &FileKeys, unit: u64) -> Result<Arc<gcm::Range>, FormatError> {
        let wanted = gcm::range_of(unit);
        // A poisoned lock guards nothing but whole entries.
        let mut ranges = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(range) = ranges.iter().find(|range| range.range() == wanted) {
            return Ok(Arc::clone(range));
        }
        let range = Arc::new(keys.gcm(unit)?);
        if ranges.len() >= RANGES {
            ranges.remove(0);
        }
        ranges.push(Arc::clone(&range));
        Ok(range)
    }
}

impl<L: Lower> File<L> {
    pub(super) fn pages(&self) -> Result<(&Pages, Keyring<'_>), FormatError> {
        match (&self.units, &self.sealed) {
            (super::Units::Pages(pages), Some((_, now))) => {
                let former = self.border();
                let former = former.map(|(border, old)| (border, &old.keys, &old.ranges));
                Ok((pages, Keyring { now, former }))
            }
            _ => Err(NO_PAGES),
        }
    }

    fn pages_mut(&mut self) -> Result<&mut Pages, FormatError> {
        match &mut self.units {
            super::Units::Pages(pages) => Ok(pages),
            _ => Err(NO_PAGES),
        }
    }

    fn set_holes(&mut self, holes: HoleList) -> Faulty<(), L::Error> {
        self.pages_mut()?.holes = holes;
        Ok(())
    }
}

const NO_PAGES: FormatError = FormatError::Misuse("a file in units has keys for them");
