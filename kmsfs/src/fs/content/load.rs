//! From a lower file to an [`OpenFile`].

use std::sync::Arc;

use kms_format::file::{self, Layout, Settled};
use kms_format::{FileHeader, FormatError, Record, UnlockedPolicy, size};
use zeroize::Zeroizing;

use super::{Faulty, OpenFile};
use crate::backing::LowerFile;
use crate::errno::Errno;
use crate::volume::Keys;

impl OpenFile {
    /// A file that was made a moment ago and is empty.
    pub(crate) fn fresh(lower: LowerFile, policy: Arc<UnlockedPolicy>) -> OpenFile {
        OpenFile {
            lower: Arc::new(lower),
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

    /// Reads and authenticates the header of a file in a directory under `policy`.
    pub(crate) fn load(
        lower: LowerFile,
        writable: bool,
        policy: &Arc<UnlockedPolicy>,
        keys: &dyn Keys,
    ) -> Faulty<OpenFile> {
        let lower_size = lower.stat()?.st_size.cast_unsigned();
        let mut page = [0; file::PAGE];
        let got = if lower_size == 0 {
            0
        } else {
            lower.read_at(&mut page, 0)?
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
                let fresh = OpenFile::fresh(lower, Arc::clone(policy));
                return Ok(OpenFile {
                    writable,
                    lower_size,
                    ..fresh
                });
            }
            decoded => decoded?,
        };
        let policy = key_of(&header, policy, keys)?;
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
        Ok(OpenFile {
            lower: Arc::new(lower),
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

    /// After an unclean stop: makes the lower size agree with the header. Gives the plain size.
    pub(crate) fn settle(&mut self, repair: bool) -> Faulty<u64> {
        let Some((header, _)) = &self.sealed else {
            if repair && self.lower_size != 0 {
                self.lower.truncate(0)?;
                self.lower_size = 0;
            }
            return Ok(0);
        };
        match header.settle(self.lower_size)? {
            Settled::Clean(size) => Ok(size),
            Settled::Repair { size, cut, lower } => {
                if repair {
                    self.lower.truncate(cut)?;
                    self.lower.truncate(lower)?;
                    self.lower_size = lower;
                }
                Ok(size)
            }
        }
    }
}

/// The policy key under which the file key is wrapped: of this directory's policy, perhaps of an older generation.
fn key_of(
    header: &FileHeader,
    policy: &Arc<UnlockedPolicy>,
    keys: &dyn Keys,
) -> Result<Arc<UnlockedPolicy>, Errno> {
    let mine = |wrap: &file::Wrap| wrap.policy == policy.policy();
    match header.wraps().find(mine) {
        Some(wrap) if wrap.generation != policy.generation() => {
            keys.policy_key(&policy.volume(), &policy.policy(), wrap.generation)
        }
        // With none of this policy unlocking fails, and says whose it is.
        _ => Ok(Arc::clone(policy)),
    }
}
