//! From a lower file to a [`File`].

use std::sync::Arc;

use zeroize::Zeroizing;

use super::{Fault, Faulty, File, Lower};
use crate::file::{self, Layout, Settled};
use crate::{FileHeader, FormatError, Record, UnlockedPolicy, size};

impl<L: Lower> File<L> {
    /// A file that was made a moment ago and is empty.
    pub fn fresh(lower: L, policy: Arc<UnlockedPolicy>) -> Self {
        Self {
            lower,
            writable: true,
            policy,
            sealed: None,
            layout: Layout::Inline,
            inline: Zeroizing::default(),
            cipher: None,
            size: 0,
            lower_size: 0,
            synced: false,
        }
    }

    /// Reads and authenticates the header of a file in a directory under `policy`. `older` is asked for the policy key of
    /// another generation, if the file key is wrapped under that.
    ///
    /// # Errors
    /// [`Fault::Damage`]; the lower file system's, and those of `older`.
    pub fn load(
        lower: L,
        writable: bool,
        policy: &Arc<UnlockedPolicy>,
        older: impl FnOnce(u32) -> Result<Arc<UnlockedPolicy>, L::Error>,
    ) -> Faulty<Self, L::Error> {
        let lower_size = lower.size().map_err(Fault::Lower)?;
        let mut page = [0; file::PAGE];
        let got = if lower_size == 0 {
            0
        } else {
            lower.read_at(&mut page, 0).map_err(Fault::Lower)?
        };
        let decoded = match got {
            // Its creation, or its header, did not reach the disk: nothing in it was ever synced.
            0 => Err(FormatError::Blank {
                record: Record::FileHeader,
            }),
            file::PAGE => FileHeader::decode(&page),
            found => Err(FormatError::Truncated {
                record: Record::FileHeader,
                found,
                needed: file::PAGE,
            }),
        };
        let mut header = match decoded {
            Err(FormatError::Blank { .. }) => {
                let fresh = Self::fresh(lower, Arc::clone(policy));
                return Ok(Self {
                    writable,
                    lower_size,
                    ..fresh
                });
            }
            decoded => decoded?,
        };
        let mine = |wrap: &file::Wrap| wrap.policy == policy.policy();
        let policy = match header.wraps().find(mine) {
            Some(wrap) if wrap.generation != policy.generation() => {
                older(wrap.generation).map_err(Fault::Lower)?
            }
            // With none of this policy unlocking fails, and says whose it is.
            _ => Arc::clone(policy),
        };
        let file_keys = header.unlock(&policy)?;
        let body = header.open_body(&file_keys, &page)?;
        let (layout, size) = match header.layout() {
            Layout::Inline => (Layout::Inline, header.length()),
            Layout::Units => (Layout::Units, size::plain_size(header.mode(), lower_size)?),
        };
        let cipher = match layout {
            Layout::Units => Some(file_keys.xts()?),
            Layout::Inline => None,
        };
        Ok(Self {
            lower,
            writable,
            policy,
            sealed: Some((header, file_keys)),
            layout,
            inline: body,
            cipher,
            size,
            lower_size,
            synced: true,
        })
    }

    /// Whether the lower size of an inline file is another than its header asks for: the length in the header counts.
    pub fn size_is_wrong(&self) -> bool {
        self.layout == Layout::Inline
            && self.sealed.is_some()
            && size::lower_size(self.policy.mode(), self.size)
                .is_ok_and(|expected| expected != self.lower_size)
    }

    /// After an unclean stop: makes the lower size agree with the header. Gives the plain size.
    ///
    /// # Errors
    /// [`Fault::Damage`]; the lower file system's.
    pub fn settle(&mut self, repair: bool) -> Faulty<u64, L::Error> {
        let Some((header, _)) = &self.sealed else {
            if repair && self.lower_size != 0 {
                self.set_lower_size(0)?;
                self.lower_size = 0;
            }
            return Ok(0);
        };
        match header.settle(self.lower_size)? {
            Settled::Clean(size) => Ok(size),
            Settled::Repair { size, cut, lower } => {
                if repair {
                    self.set_lower_size(cut)?;
                    self.set_lower_size(lower)?;
                    self.lower_size = lower;
                }
                Ok(size)
            }
        }
    }
}
