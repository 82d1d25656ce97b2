//! From a lower file to a [`File`].

use std::sync::Arc;

use zeroize::Zeroizing;

use super::{Fault, Faulty, File, Former, Lower, Pages, Units};
use crate::file::{self, Layout, Settled};
use crate::{ContentMode, FileHeader, FormatError, Record, UnlockedPolicy, gcm, size};

impl<L: Lower> File<L> {
    /// A file that was made a moment ago and is empty.
    pub fn fresh(lower: L, policy: Arc<UnlockedPolicy>) -> Self {
        Self {
            lower,
            writable: true,
            policy,
            sealed: None,
            former: None,
            layout: Layout::Inline,
            inline: Zeroizing::default(),
            units: Units::None,
            size: 0,
            lower_size: 0,
            synced: false,
            changes: None,
            repair: None,
        }
    }

    /// Reads and authenticates the header of a file in a directory under `policy`. `older` is asked for the policy key of
    /// another generation, if the file key is wrapped under that.
    ///
    /// `unclean`: the file was not settled since an unclean stop, and its lower size may be what that left. The size is the
    /// right one then, too; [`File::settle`] puts the lower file right.
    ///
    /// # Errors
    /// [`Fault::Damage`], with [`FormatError::Elsewhere`] if the content is in the copy of the file; the lower file system's,
    /// and those of `older`.
    pub fn load(
        lower: L,
        writable: bool,
        unclean: bool,
        policy: &Arc<UnlockedPolicy>,
        older: impl Fn(u32) -> Result<Arc<UnlockedPolicy>, L::Error>,
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
            Err(FormatError::Blank { .. }) if unclean || policy.mode() == ContentMode::Xts => {
                let fresh = Self::fresh(lower, Arc::clone(policy));
                return Ok(Self {
                    writable,
                    lower_size,
                    ..fresh
                });
            }
            decoded => decoded?,
        };
        let current = policy;
        let policy_of = |wrap: Option<file::Wrap>| match wrap {
            Some(wrap) if wrap.generation != current.generation() => older(wrap.generation),
            // With none of this policy unlocking fails, and says whose it is.
            _ => Ok(Arc::clone(current)),
        };
        let wrap = header.wrap_in_use(current.policy());
        let policy = policy_of(wrap).map_err(Fault::Lower)?;
        let file_keys = header.unlock(&policy)?;
        let body = header.open_body(&file_keys, &page)?;
        if let Some(number) = header.copy() {
            // Authenticated now: whoever asked may believe it.
            let id = header.id();
            return Err(FormatError::Elsewhere { id, number }.into());
        }
        let layout = header.layout();
        let former = match header.former_wrap() {
            // There is none; or its slot is empty or torn, and it is needed no more.
            None if matches!(header.reencrypted(), None | Some(file::EVERYTHING)) => None,
            wrap => {
                let policy = policy_of(wrap).map_err(Fault::Lower)?;
                Former::open(&header, &policy, &file_keys, &body)?
            }
        };
        let units = match (layout, header.mode()) {
            (Layout::Inline, _) => Units::None,
            (Layout::Units, ContentMode::Xts) => Units::Cells(file_keys.xts()?),
            (Layout::Units, ContentMode::Gcm) => Units::Pages(Pages::open(&header, &body)?),
        };
        // The length of inline content is authenticated in any case.
        let settled = if unclean || layout == Layout::Inline {
            header.settle(lower_size)?
        } else {
            Settled::Clean(header.check_size(lower_size)?)
        };
        let (size, repair) = match settled {
            Settled::Clean(size) => (size, None),
            Settled::Repair { size, cut, lower } => (size, Some((cut, lower))),
            Settled::Look { size } => (size, None),
        };
        let least = header.length();
        let mut file = Self {
            lower,
            writable,
            policy,
            sealed: Some((header, file_keys)),
            former,
            layout,
            inline: if layout == Layout::Inline {
                body
            } else {
                Zeroizing::default()
            },
            units,
            size,
            lower_size,
            synced: true,
            changes: None,
            repair,
        };
        if let Settled::Look { size } = settled {
            file.size = file.look_at_end(size, least)?;
            if file.size != size {
                let cut = gcm::offset(gcm::units(file.size));
                file.repair = Some((cut, size::gcm_lower_size(file.size)?));
            }
        }
        Ok(file)
    }

    /// Whether the lower size of an inline file is another than its header asks for: the length in the header counts.
    pub fn size_is_wrong(&self) -> bool {
        self.layout == Layout::Inline
            && self.sealed.is_some()
            && size::lower_size(self.policy.mode(), self.size)
                .is_ok_and(|expected| expected != self.lower_size)
    }

    /// Whether there is no header yet: the creation of the file was cut short.
    pub const fn blank(&self) -> bool {
        self.sealed.is_none()
    }

    /// After an unclean stop: makes the lower file agree with the header, and the header with it, durably. The file must have
    /// been loaded as unclean, for writing.
    ///
    /// # Errors
    /// [`Fault::Damage`], [`Fault::ReadOnly`]; the lower file system's.
    pub fn settle(&mut self) -> Faulty<(), L::Error> {
        self.check_writable()?;
        if self.blank() {
            if self.lower_size != 0 {
                self.set_lower_size(0)?;
                self.lower_size = 0;
                if self.policy.mode() == ContentMode::Gcm {
                    // Its pages belong to keys that are lost: they must not come back under the next header.
                    self.sync_lower()?;
                }
            }
            if self.policy.mode() == ContentMode::Gcm {
                self.keys()?;
            }
            return Ok(());
        }
        if let Some((cut, lower)) = self.repair {
            self.set_lower_size(cut)?;
            self.set_lower_size(lower)?;
            self.lower_size = lower;
            self.repair = None;
            // What was cut must not come back.
            self.sync_lower()?;
        }
        if self.unfinished() {
            self.sync()?;
        }
        Ok(())
    }
}
