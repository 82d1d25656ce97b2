//! What a file's size is after an unclean stop (FORMAT.md section 6.4).

use super::{FileHeader, Layout, LengthState};
use crate::size;
use crate::{ContentMode, FormatError};

/// The outcome of comparing a header with the lower size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Settled {
    /// Both agree on this size, in bytes.
    Clean(u64),
    /// The file has `size` bytes, but its lower size says otherwise: cut the lower file to `cut` bytes, then set its
    /// size to `lower`. (Cutting first drops units that an unfinished operation left behind.)
    Repair {
        /// The plain size.
        size: u64,
        /// First ftruncate to this.
        cut: u64,
        /// Then ftruncate to this.
        lower: u64,
    },
    /// A growing file of mode gcm whose lower size ends with a page: either it has `size` bytes, or it was stopped between a
    /// write and the size that goes with it. Then the length sealed in the last unit says how many bytes it has.
    Look {
        /// The most it can have.
        size: u64,
    },
}

impl FileHeader {
    /// Decides the size of a file whose header has been opened (authenticated) and whose lower size is `lower`.
    ///
    /// Needed at the first lookup of each file after an unclean stop. When it says [`Settled::Repair`] and the mount
    /// may not write, the size it names is still the right one to show.
    ///
    /// # Errors
    /// [`FormatError::Size`] if the lower file is shorter than what was synced (gcm), or its size means nothing (xts).
    pub fn settle(&self, lower: u64) -> Result<Settled, FormatError> {
        match (self.layout, self.mode) {
            (Layout::Inline, mode) => {
                let wanted = size::lower_size(mode, self.length)?;
                Ok(if wanted == lower {
                    Settled::Clean(self.length)
                } else {
                    Settled::Repair {
                        size: self.length,
                        cut: size::HEADER,
                        lower: wanted,
                    }
                })
            }
            (Layout::Units, ContentMode::Xts) => Ok(Settled::Clean(size::xts_plain_size(lower)?)),
            (Layout::Units, ContentMode::Gcm) => self.settle_gcm(lower),
        }
    }

    /// Whether the lower size is one that a clean stop leaves. Gives the plain size.
    ///
    /// # Errors
    /// [`FormatError::Size`] if the size means nothing, [`FormatError::Length`] if it contradicts what was synced (gcm).
    pub fn check_size(&self, lower: u64) -> Result<u64, FormatError> {
        if self.layout == Layout::Inline {
            return Ok(self.length);
        }
        let held = size::plain_size(self.mode, lower)?;
        let claimed = self.length;
        match (self.mode, self.state) {
            (ContentMode::Gcm, LengthState::Exact) if held != claimed => {}
            (ContentMode::Gcm, LengthState::Growing) if held < claimed => {}
            _ => return Ok(held),
        }
        Err(FormatError::Length { claimed, held })
    }

    fn settle_gcm(&self, lower: u64) -> Result<Settled, FormatError> {
        let wanted = size::gcm_lower_size(self.length)?;
        // Where the pages of the authenticated length end; the rest of the lower size is only code.
        let pages = wanted.saturating_sub(wanted % size::PAGE);
        let held = size::gcm_plain_size(lower);
        match held {
            Ok(held) if held == self.length => Ok(Settled::Clean(held)),
            Ok(held) if held > self.length && self.state == LengthState::Growing => {
                Ok(if lower.is_multiple_of(size::PAGE) {
                    Settled::Look { size: held }
                } else {
                    Settled::Clean(held)
                })
            }
            // More than what was claimed, or an unfinished size: cut. Less: it was synced, and is gone.
            _ if lower >= pages => Ok(Settled::Repair {
                size: self.length,
                cut: pages,
                lower: wanted,
            }),
            Ok(held) => Err(FormatError::Length {
                claimed: self.length,
                held,
            }),
            Err(error) => Err(error.into()),
        }
    }
}
