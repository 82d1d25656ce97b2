//! What a header says while its file gets another content mode (FORMAT.md section 6.6).

use kms_crypto::Key;

use super::{FileHeader, Layout, LengthState, MAGIC, Slot};
use crate::bytes::Fields;
use crate::{ContentMode, FileKeys, FormatError, Record, UnlockedPolicy};

/// The flag of a file whose content is in its copy.
pub(super) const ELSEWHERE: u32 = 1;
/// Bytes that [`FileHeader::peek`] needs.
pub const PEEK: usize = 16;

impl FileHeader {
    /// The header of the same file under a new key, in the content mode of `to`, which is another generation of its policy:
    /// inline and empty. Nothing is sealed until the first `write_`.
    ///
    /// # Errors
    /// [`FormatError::Misuse`] for a file that is being re-encrypted, or whose content is elsewhere; [`FormatError::Crypto`]
    /// if there are no random bytes.
    pub fn successor(&self, to: &UnlockedPolicy) -> Result<(Self, FileKeys), FormatError> {
        if self.watermark != 0 || self.copy != 0 {
            return Err(FormatError::Misuse("a file that is not whole"));
        }
        let keys = FileKeys::new(self.id, Key::random()?)?;
        let sequence = self.next_sequence()?;
        let header = Self {
            mode: to.mode(),
            layout: Layout::Inline,
            id: self.id,
            lineage: (to.policy(), to.generation()),
            state: LengthState::Exact,
            length: 0,
            watermark: 0,
            body: 0,
            copy: 0,
            slots: [
                Slot::wrap(to, self.id, to.mode(), (sequence, false), &keys)?,
                Slot::Empty,
            ],
            active: 0,
        };
        Ok((header, keys))
    }

    /// The number of the copy of the file that the content is in, if it is not here ([`crate::names::copy`]); this page is
    /// the header of the copy but for that.
    #[must_use]
    pub const fn copy(&self) -> Option<u32> {
        match self.copy {
            0 => None,
            number => Some(number),
        }
    }

    /// Says in the pages written from here on which copy the content is in; 0 if it is here.
    pub(crate) const fn set_copy(&mut self, number: u32) {
        self.copy = number;
    }

    /// Content mode and, if the content is in the copy of the file, true: out of the first bytes of a header page
    /// ([`PEEK`] will do), which need not be authentic. None if they are not such a page's.
    #[must_use]
    pub fn peek(start: &[u8]) -> Option<(ContentMode, bool)> {
        let fields = Fields::at_least(Record::FileHeader, start, PEEK).ok()?;
        fields.identify(MAGIC).ok()?;
        let mode = ContentMode::from_byte(fields.u8(10).ok()?)?;
        Some((mode, fields.u32(12).ok()? == ELSEWHERE))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::file::{EVERYTHING, PAGE};
    use crate::testing::{each_flip, policy, policy_at};

    /// The header page of a file of mode xts under generation 1, that of its copy in mode gcm under generation 2, and the one
    /// that says that the content is there.
    fn pages(to: &UnlockedPolicy) -> [[u8; PAGE]; 3] {
        let mut pages = [[0; PAGE]; 3];
        let (mut header, keys) = FileHeader::create(&policy()).unwrap();
        header
            .write_inline(&keys, b"content", &mut pages[0])
            .unwrap();
        let (mut next, keys) = header.successor(to).unwrap();
        next.write_inline(&keys, b"content", &mut pages[1]).unwrap();
        next.set_copy(0x1234_5678);
        next.write_inline(&keys, b"content", &mut pages[2]).unwrap();
        pages
    }

    #[test]
    fn the_successor_has_the_id_and_nothing_else_of_the_file() {
        let to = policy_at(1, 2, ContentMode::Gcm);
        let [old, new, _] = pages(&to);
        let (before, after) = (
            FileHeader::open(&old, &policy()).unwrap(),
            FileHeader::open(&new, &to).unwrap(),
        );
        assert_eq!(before.header.id(), after.header.id());
        assert_eq!(after.header.mode(), ContentMode::Gcm);
        assert_eq!(after.header.lineage(), (to.policy(), 2));
        assert!(!before.keys.same_as(&after.keys));
        assert!(FileHeader::open(&new, &policy()).is_err());
        assert!(FileHeader::open(&old, &to).is_err());
        // A generation says how the files that it wraps are encrypted: this one is of another mode.
        assert!(FileHeader::open(&new, &policy_at(1, 2, ContentMode::Xts)).is_err());
    }

    #[test]
    fn where_the_content_is_is_authenticated() {
        let to = policy_at(1, 2, ContentMode::Gcm);
        let [_, here, there] = pages(&to);
        let number = |page: &[u8]| FileHeader::open(page, &to).map(|opened| opened.header.copy());
        assert_eq!(number(&here).unwrap(), None);
        assert_eq!(number(&there).unwrap(), Some(0x1234_5678));
        assert_eq!(FileHeader::peek(&here), Some((ContentMode::Gcm, false)));
        assert_eq!(
            FileHeader::peek(&there[..PEEK]),
            Some((ContentMode::Gcm, true))
        );
        assert_eq!(FileHeader::peek(&there[..PEEK - 1]), None);
        assert_eq!(FileHeader::peek(&[0; PAGE]), None);
        for page in [here, there] {
            each_flip(&page[..80], |_, flipped| {
                let mut whole = page;
                whole[..80].copy_from_slice(flipped);
                assert!(number(&whole).is_err());
            });
        }
    }

    #[test]
    fn what_is_not_whole_gets_no_other_mode() {
        let to = policy_at(1, 2, ContentMode::Gcm);
        let [_, _, there] = pages(&to);
        let mut opened = FileHeader::open(&there, &to).unwrap();
        assert!(
            opened
                .header
                .successor(&policy_at(1, 3, ContentMode::Xts))
                .is_err()
        );
        assert!(opened.header.begin_reencryption(&to).is_err());
        assert!(opened.header.rewrap(&to, &opened.keys).is_err());
        let (mut half, _) = FileHeader::create(&policy()).unwrap();
        half.begin_reencryption(&policy()).unwrap();
        half.set_reencrypted(EVERYTHING).unwrap();
        assert!(half.successor(&to).is_err());
    }
}
