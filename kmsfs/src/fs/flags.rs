//! The flags of `chattr(1)`: they are those of the lower file or directory.

use super::attr::Reach;
use super::{Caller, Fs, FsResult, NodeId};
use crate::errno::Errno;

const SYNC: u32 = 0x8;
const IMMUTABLE: u32 = 0x10;
const APPEND: u32 = 0x20;
const NODUMP: u32 = 0x40;
const NOATIME: u32 = 0x80;
const JOURNAL_DATA: u32 = 0x4000;
const DIRSYNC: u32 = 0x1_0000;
const TOPDIR: u32 = 0x2_0000;
const NOCOW: u32 = 0x80_0000;

/// What may be changed. Not among them: what would change what a lower name or byte means (casefold, compression of
/// ciphertext, verity), and APPEND, because the last cell of a file and its header are written again as it grows.
const SETTABLE: u32 = SYNC | IMMUTABLE | NODUMP | NOATIME | JOURNAL_DATA | DIRSYNC | TOPDIR | NOCOW;

/// The counterparts in `struct fsxattr`.
const EXTENDED: [(u32, u32); 5] = [
    (SYNC, 0x20),
    (IMMUTABLE, 0x8),
    (APPEND, 0x10),
    (NODUMP, 0x80),
    (NOATIME, 0x40),
];

impl Fs {
    /// The flags of a file or directory, `FS_*_FL` of `linux/fs.h`.
    ///
    /// # Errors
    /// `ENOTTY` or `EOPNOTSUPP` where the lower file system has none.
    pub fn flags(&self, node: NodeId) -> FsResult<u32> {
        let node = self.table.get(node)?;
        self.reach(&node, |reach| match reach {
            Reach::File(file) => file.flags(),
            Reach::Dir(dir) => dir.flags(),
            Reach::Named(..) | Reach::Nameless(_) => Err(Errno::NOTTY),
        })
    }

    /// Sets all flags. Whether the caller may is the kernel's to decide.
    ///
    /// # Errors
    /// `EOPNOTSUPP` for a change of one that is not the caller's to change; what the lower file system says.
    pub fn set_flags(&self, _caller: &Caller, node: NodeId, flags: u32) -> FsResult<()> {
        let _writing = self.check_writable()?;
        let now = self.flags(node)?;
        if (now ^ flags) & !SETTABLE != 0 {
            return Err(Errno::OPNOTSUPP);
        }
        let node = self.table.get(node)?;
        let freezes = flags & IMMUTABLE != 0 && now & IMMUTABLE == 0;
        if freezes {
            // What cannot be changed cannot be repaired after a crash either.
            let above = node.parent().filter(|_| node.directory().is_err());
            self.headers.flush_above(above.as_ref().unwrap_or(&node))?;
        }
        self.reach(&node, |reach| match reach {
            Reach::File(file) => {
                if freezes {
                    file.sync()?;
                }
                file.set_flags(flags)
            }
            Reach::Dir(dir) => dir.set_flags(flags),
            Reach::Named(..) | Reach::Nameless(_) => Err(Errno::NOTTY),
        })
    }
}

/// `fsx_xflags` for flags.
pub(crate) fn extended(flags: u32) -> u32 {
    let chosen = EXTENDED.iter().filter(|(flag, _)| flags & flag != 0);
    chosen.fold(0, |all, (_, extended)| all | extended)
}

/// And back, over the flags that have no counterpart; None if there is one that is not known.
pub(crate) fn from_extended(extended: u32, now: u32) -> Option<u32> {
    let (mut flags, mut rest) = (now, extended);
    for (flag, counterpart) in EXTENDED {
        flags &= !flag;
        if extended & counterpart != 0 {
            flags |= flag;
        }
        rest &= !counterpart;
    }
    // FS_XFLAG_HASATTR is for reading only.
    (rest & !0x8000_0000 == 0).then_some(flags)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extended_flags_and_back() {
        let flags = IMMUTABLE | NODUMP | DIRSYNC | 0x8_0000;
        assert_eq!(extended(flags), 0x88);
        assert_eq!(from_extended(0x88, flags), Some(flags));
        assert_eq!(
            from_extended(0x40, flags),
            Some(NOATIME | DIRSYNC | 0x8_0000)
        );
        // An extent size hint.
        assert_eq!(from_extended(0x800, flags), None);
    }
}
