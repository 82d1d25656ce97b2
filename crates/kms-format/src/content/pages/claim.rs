//! What the header vouches for, and when it may vouch for more.

use super::super::{Fault, Faulty, File, Lower};
use super::{CONTENT, Claim, Moment, NO_PAGES};
use crate::file::{self, LengthState};
use crate::gcm::{self, HoleList};
use crate::{FormatError, size};

/// What was written when an fsync began.
#[derive(Debug)]
pub struct Ticket {
    size: u64,
    holes: HoleList,
    began: Moment,
}

/// How an fsync goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Synced {
    /// Everything is durable.
    Done,
    /// The header was written, by this or by another fsync: it has to be made durable, too.
    Header,
    /// Something was cut meanwhile: once more, without letting anyone else write.
    Again,
}

impl<L: Lower> File<L> {
    /// An fsync begins: then the caller makes the lower file durable, while others may write, and calls
    /// [`File::finish_sync`]. None if the lower file is all there is to it.
    ///
    /// # Errors
    /// [`Fault::Damage`]; the lower file system's.
    pub fn begin_sync(&mut self) -> Faulty<Option<Ticket>, L::Error> {
        // Before the call: when it fails, part of the content may be durable.
        self.synced = true;
        if !self.writable || self.pages().is_err() {
            return Ok(None);
        }
        self.settle_watermark()?;
        self.learn()?;
        let pages = self.pages()?.0;
        Ok(Some(Ticket {
            size: self.size,
            holes: pages.holes.clone(),
            began: Moment::now(),
        }))
    }

    /// What was there at the ticket is durable now: lets the header vouch for it.
    ///
    /// # Errors
    /// The lower file system's.
    pub fn finish_sync(&mut self, ticket: Ticket) -> Faulty<Synced, L::Error> {
        let Ok((pages, _)) = self.pages() else {
            // Emptied meanwhile, durably.
            return Ok(Synced::Done);
        };
        if ticket.began < pages.lost {
            return Ok(Synced::Again);
        }
        let state = if self.size == ticket.size {
            LengthState::Exact
        } else {
            LengthState::Growing
        };
        let claim = Claim {
            state,
            length: ticket.size,
            holes: ticket.holes,
        };
        // One that began later and ended earlier vouches for more.
        let vouched = pages.claim.as_ref() == Some(&claim) || ticket.began < pages.vouched;
        if vouched && !pages.unsure {
            // The other has written the header, but perhaps not yet made it durable.
            return Ok(if pages.written < ticket.began {
                Synced::Done
            } else {
                Synced::Header
            });
        }
        self.write_claim(claim.state, claim.length, claim.holes)?;
        self.pages_mut()?.vouched = ticket.began;
        Ok(Synced::Header)
    }

    /// A whole fsync: content, and the header that vouches for it.
    ///
    /// # Errors
    /// [`Fault::Damage`]; the lower file system's.
    pub fn sync(&mut self) -> Faulty<(), L::Error> {
        let ticket = self.begin_sync()?;
        self.sync_lower()?;
        if let Some(ticket) = ticket
            && self.finish_sync(ticket)? == Synced::Header
        {
            self.sync_lower()?;
        }
        Ok(())
    }

    /// What a header that says the same as the one in the lower file says of the content.
    pub(in super::super) fn claimed(&self) -> Result<(LengthState, u64, HoleList), FormatError> {
        let claim = self.pages()?.0.claim.clone().ok_or(NO_PAGES)?;
        Ok((claim.state, claim.length, claim.holes))
    }

    /// Writes the header page again as it is: with what else a header says.
    pub(in super::super) fn repeat_claim(&mut self) -> Faulty<(), L::Error> {
        let claim = self.pages()?.0.claim.clone().ok_or(NO_PAGES)?;
        self.write_claim(claim.state, claim.length, claim.holes)
    }

    /// Writes the header page.
    pub(in super::super) fn write_claim(
        &mut self,
        state: LengthState,
        length: u64,
        holes: HoleList,
    ) -> Faulty<(), L::Error> {
        let mut page = [0; file::PAGE];
        let (header, keys) = self.sealed.as_mut().ok_or(NO_PAGES)?;
        header.write_units_gcm(keys, length, state, &holes, &mut page)?;
        let written = self.lower.write_at(&page, 0);
        let pages = self.pages_mut()?;
        pages.written = Moment::now();
        let claim = Claim {
            state,
            length,
            holes,
        };
        match written {
            Ok(()) => {
                (pages.claim, pages.unsure) = (Some(claim), false);
                Ok(())
            }
            Err(error) => {
                // It may be there or not: from here on the weaker of the two counts, and is written before it matters.
                if let Some(old) = pages.claim.take() {
                    pages.claim = Some(old.weaker(claim));
                    pages.unsure = true;
                }
                Err(Fault::Lower(error))
            }
        }
    }

    /// A header page of another kind was written and the lower file system refused: it may be there or not.
    pub(in super::super) fn doubt_header(&mut self) {
        if let Ok(pages) = self.pages_mut() {
            pages.unsure = true;
        }
    }

    /// The header page leaves inline behind. `vouch`: what is there now is durable.
    pub(in super::super) fn first_claim(&mut self, vouch: bool) -> Faulty<(), L::Error> {
        if vouch {
            let holes = self.pages()?.0.holes.clone();
            return self.write_claim(LengthState::Exact, self.size, holes);
        }
        self.write_claim(LengthState::Growing, 0, HoleList::default())
    }

    /// How many bytes a file has that was stopped between a write and the size that goes with it: `most`, or less if
    /// the last page says so. Pages that do not open were never whole.
    pub(in super::super) fn look_at_end(&self, most: u64, least: u64) -> Faulty<u64, L::Error> {
        let mut size = most;
        while size > least {
            let unit = gcm::units(size) - 1;
            let start = unit * CONTENT;
            match self.unit(unit, size) {
                // A hole, or a whole unit.
                Ok((_, 0)) => break,
                Ok((_, sealed)) => return Ok(size.min(start + sealed as u64).max(least)),
                Err(Fault::Damage(FormatError::Unit { .. })) => size = start.max(least),
                Err(fault) => return Err(fault),
            }
        }
        size::gcm_lower_size(size)?;
        Ok(size)
    }
}

impl Claim {
    fn weaker(self, other: Self) -> Self {
        let mut holes = self.holes;
        for hole in other.holes.holes() {
            let both = holes.with(hole.clone());
            if both.fits() {
                holes = both;
            }
        }
        Self {
            state: LengthState::Growing,
            length: self.length.min(other.length),
            holes,
        }
    }
}
