//! Replies to the kernel, built in one buffer and sent with one `write(2)`.

use std::time::Duration;

use super::abi::{OUT_HEADER, STATX_BASIC, STATX_BTIME};
use crate::fs::{Attr, Entry, Timestamp};

/// A page: alignment of the data in read and write buffers, and the unit of the disk format.
const PAGE: usize = 4096;
/// Size of `fuse_entry_out`.
pub(super) const ENTRY: usize = 128;

/// A buffer in which one chosen offset lies on a page boundary, so that bulk data is encrypted,
/// decrypted and handed to the lower file without crossing pages needlessly.
pub(super) struct AlignedBuffer {
    bytes: Vec<u8>,
    start: usize,
    length: usize,
}

impl AlignedBuffer {
    /// `length` bytes, offset `aligned` of which is page aligned. The memory is not touched before
    /// it is used.
    pub(super) fn new(length: usize, aligned: usize) -> AlignedBuffer {
        let bytes = vec![0; length + 2 * PAGE];
        let boundary = bytes.as_ptr().align_offset(PAGE);
        // Step to the boundary that leaves room for the bytes before `aligned`.
        let start = boundary + aligned.next_multiple_of(PAGE) - aligned;
        AlignedBuffer {
            bytes,
            start,
            length,
        }
    }

    pub(super) fn as_mut(&mut self) -> &mut [u8] {
        self.bytes
            .get_mut(self.start..)
            .and_then(|bytes| bytes.get_mut(..self.length))
            .unwrap_or_default()
    }

    pub(super) fn as_ref(&self) -> &[u8] {
        self.bytes
            .get(self.start..)
            .and_then(|bytes| bytes.get(..self.length))
            .unwrap_or_default()
    }
}

/// Writes `fuse_out_header` at the start of a message of `length` bytes.
pub(super) fn put_header(message: &mut [u8], length: usize, error: i32, unique: u64) {
    if let Some(header) = message.first_chunk_mut::<OUT_HEADER>() {
        let length = u32::try_from(length).unwrap_or(u32::MAX);
        *header = header_bytes(length, error, unique);
    }
}

/// `fuse_out_header`.
pub(super) fn header_bytes(length: u32, error: i32, unique: u64) -> [u8; OUT_HEADER] {
    let mut header = [0; OUT_HEADER];
    header[..4].copy_from_slice(&length.to_ne_bytes());
    header[4..8].copy_from_slice(&error.to_ne_bytes());
    header[8..].copy_from_slice(&unique.to_ne_bytes());
    header
}

/// A growing reply body.
#[derive(Debug, Default)]
pub(super) struct Body(Vec<u8>);

impl Body {
    /// An empty body that begins with room for the header.
    pub(super) fn start(mut buffer: Vec<u8>) -> Body {
        buffer.clear();
        buffer.resize(OUT_HEADER, 0);
        Body(buffer)
    }

    pub(super) fn u32(&mut self, value: u32) -> &mut Body {
        self.0.extend_from_slice(&value.to_ne_bytes());
        self
    }

    pub(super) fn u64(&mut self, value: u64) -> &mut Body {
        self.0.extend_from_slice(&value.to_ne_bytes());
        self
    }

    pub(super) fn bytes(&mut self, value: &[u8]) -> &mut Body {
        self.0.extend_from_slice(value);
        self
    }

    /// Bytes behind the header so far.
    pub(super) fn len(&self) -> usize {
        self.0.len().saturating_sub(OUT_HEADER)
    }

    /// `fuse_entry_out`. The node id and the inode number are two different things here: the
    /// first is the kernel's handle for us, the second what `stat(2)` shows.
    pub(super) fn entry(&mut self, entry: &Entry, ttl: Duration) -> &mut Body {
        let of_attributes = if entry.gate { Duration::ZERO } else { ttl };
        self.u64(entry.node.0)
            .u64(entry.generation)
            .u64(ttl.as_secs())
            .u64(of_attributes.as_secs())
            .u32(ttl.subsec_nanos())
            .u32(of_attributes.subsec_nanos())
            .attributes(&entry.attr)
    }

    /// `fuse_entry_out` that says "there is no such name, and you may remember it".
    pub(super) fn negative_entry(&mut self, ttl: Duration) -> &mut Body {
        self.u64(0).u64(0).u64(ttl.as_secs()).u64(0).u64(0);
        self.bytes(&[0; 88])
    }

    /// `fuse_attr_out`.
    pub(super) fn attr(&mut self, attr: &Attr, ttl: Duration) -> &mut Body {
        self.u64(ttl.as_secs())
            .u32(ttl.subsec_nanos())
            .u32(0)
            .attributes(attr)
    }

    /// `fuse_statx_out`.
    pub(super) fn statx(
        &mut self,
        attr: &Attr,
        birth: Option<Timestamp>,
        ttl: Duration,
    ) -> &mut Body {
        let mut mask = STATX_BASIC;
        if birth.is_some() {
            mask |= STATX_BTIME;
        }
        self.u64(ttl.as_secs()).u32(ttl.subsec_nanos()).u32(0);
        self.bytes(&[0; 16]);
        self.u32(mask).u32(attr.blksize).u64(0);
        self.u32(attr.nlink).u32(attr.uid).u32(attr.gid);
        // A mode of 16 bits and two bytes of padding.
        self.bytes(&u16::try_from(attr.mode()).unwrap_or(0).to_ne_bytes());
        self.bytes(&[0; 2]);
        self.u64(attr.ino).u64(attr.size).u64(attr.blocks).u64(0);
        for time in [
            attr.atime,
            birth.unwrap_or_default(),
            attr.ctime,
            attr.mtime,
        ] {
            self.u64(time.secs.cast_unsigned()).u32(time.nanos).u32(0);
        }
        // The device number in two; the file system's own is the kernel's.
        let (major, minor) = (
            (attr.rdev >> 8) & 0xfff,
            (attr.rdev & 0xff) | ((attr.rdev >> 12) & 0xf_ff00),
        );
        self.u32(major).u32(minor).u64(0);
        self.bytes(&[0; 112])
    }

    /// `fuse_attr`.
    fn attributes(&mut self, attr: &Attr) -> &mut Body {
        self.u64(attr.ino)
            .u64(attr.size)
            .u64(attr.blocks)
            .u64(attr.atime.secs.cast_unsigned())
            .u64(attr.mtime.secs.cast_unsigned())
            .u64(attr.ctime.secs.cast_unsigned())
            .u32(attr.atime.nanos)
            .u32(attr.mtime.nanos)
            .u32(attr.ctime.nanos)
            .u32(attr.mode())
            .u32(attr.nlink)
            .u32(attr.uid)
            .u32(attr.gid)
            .u32(attr.rdev)
            .u32(attr.blksize)
            .u32(0)
    }

    /// `fuse_dirent`, padded. Returns false, leaving the body as it was, if it would exceed `limit`.
    pub(super) fn dirent(
        &mut self,
        limit: usize,
        ino: u64,
        offset: u64,
        kind: u32,
        name: &[u8],
    ) -> bool {
        let end = (self.len() + 24 + name.len()).next_multiple_of(8);
        if end > limit {
            return false;
        }
        let length = u32::try_from(name.len()).unwrap_or(0);
        self.u64(ino).u64(offset).u32(length).u32(kind).bytes(name);
        self.0.resize(OUT_HEADER + end, 0);
        true
    }

    /// Gives the buffer back for the next reply.
    pub(super) fn into_buffer(self) -> Vec<u8> {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_chosen_offset_is_aligned() {
        for aligned in [0, 16, 80, 4096, 5000] {
            let mut buffer = AlignedBuffer::new(8192, aligned);
            assert_eq!(buffer.as_ref().len(), 8192);
            let position = buffer.as_mut().get(aligned..).unwrap().as_ptr();
            assert_eq!(position.align_offset(PAGE), 0, "{aligned}");
        }
    }

    #[test]
    fn directory_entries_stop_at_the_limit() {
        let mut body = Body::start(Vec::new());
        assert!(body.dirent(64, 1, 1, 4, b"12345678"));
        assert_eq!(body.len(), 32);
        assert!(body.dirent(64, 1, 2, 4, b"1"));
        assert_eq!(body.len(), 64);
        assert!(!body.dirent(64, 1, 3, 4, b""));
        assert_eq!(body.into_buffer().len(), OUT_HEADER + 64);
    }
}
