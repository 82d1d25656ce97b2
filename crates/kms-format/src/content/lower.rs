//! What the content engine needs of a lower file.

use std::sync::Arc;

/// A lower file, open. All positions are explicit; nothing has a place of its own.
///
/// The engine relies on no order between what it asks for, except that [`Lower::sync_data`] makes everything before it durable.
pub trait Lower {
    /// What the lower file system answers when it refuses.
    type Error;

    /// Reads until `out` is full or the file ends; returns how many bytes.
    ///
    /// # Errors
    /// The lower file system's.
    fn read_at(&self, out: &mut [u8], offset: u64) -> Result<usize, Self::Error>;

    /// Writes everything. After an error any part of it may be there.
    ///
    /// # Errors
    /// The lower file system's.
    #[track_caller]
    #[cfg_attr(feature = "call-sites", deprecated)]
    fn write_at(&self, bytes: &[u8], offset: u64) -> Result<(), Self::Error>;

    /// Writes two pieces that follow each other, in one call if possible.
    ///
    /// # Errors
    /// The lower file system's.
    #[track_caller]
    #[cfg_attr(feature = "call-sites", deprecated)]
    fn write_pair_at(&self, first: &[u8], second: &[u8], offset: u64) -> Result<(), Self::Error>;

    /// The size, in bytes.
    ///
    /// # Errors
    /// The lower file system's.
    fn size(&self) -> Result<u64, Self::Error>;

    /// Sets the size, in bytes; what is added reads as zeros.
    ///
    /// # Errors
    /// The lower file system's.
    #[track_caller]
    #[cfg_attr(feature = "call-sites", deprecated)]
    fn set_size(&self, size: u64) -> Result<(), Self::Error>;

    /// Makes content and size durable.
    ///
    /// # Errors
    /// The lower file system's.
    #[track_caller]
    fn sync_data(&self) -> Result<(), Self::Error>;

    /// Reserves space without changing the size. False if the lower file system cannot do that.
    ///
    /// # Errors
    /// The lower file system's.
    #[track_caller]
    #[cfg_attr(feature = "call-sites", deprecated)]
    fn reserve(&self, offset: u64, length: u64) -> Result<bool, Self::Error>;

    /// Gives space back; the range reads as zeros, the size stays. False if the lower file system cannot do that.
    ///
    /// # Errors
    /// The lower file system's.
    #[track_caller]
    #[cfg_attr(feature = "call-sites", deprecated)]
    fn punch(&self, offset: u64, length: u64) -> Result<bool, Self::Error>;

    /// Where data begins at or behind `offset`; None if nowhere.
    ///
    /// # Errors
    /// The lower file system's.
    fn seek_data(&self, offset: u64) -> Result<Option<u64>, Self::Error>;

    /// Where a hole, or the end, is at or behind `offset`; None behind the end.
    ///
    /// # Errors
    /// The lower file system's.
    fn seek_hole(&self, offset: u64) -> Result<Option<u64>, Self::Error>;
}

#[allow(deprecated, reason = "the caller is the site, see Cargo.toml")]
impl<L: Lower> Lower for Arc<L> {
    type Error = L::Error;

    fn read_at(&self, out: &mut [u8], offset: u64) -> Result<usize, L::Error> {
        (**self).read_at(out, offset)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> Result<(), L::Error> {
        (**self).write_at(bytes, offset)
    }

    fn write_pair_at(&self, first: &[u8], second: &[u8], offset: u64) -> Result<(), L::Error> {
        (**self).write_pair_at(first, second, offset)
    }

    fn size(&self) -> Result<u64, L::Error> {
        (**self).size()
    }

    fn set_size(&self, size: u64) -> Result<(), L::Error> {
        (**self).set_size(size)
    }

    fn sync_data(&self) -> Result<(), L::Error> {
        (**self).sync_data()
    }

    fn reserve(&self, offset: u64, length: u64) -> Result<bool, L::Error> {
        (**self).reserve(offset, length)
    }

    fn punch(&self, offset: u64, length: u64) -> Result<bool, L::Error> {
        (**self).punch(offset, length)
    }

    fn seek_data(&self, offset: u64) -> Result<Option<u64>, L::Error> {
        (**self).seek_data(offset)
    }

    fn seek_hole(&self, offset: u64) -> Result<Option<u64>, L::Error> {
        (**self).seek_hole(offset)
    }
}
