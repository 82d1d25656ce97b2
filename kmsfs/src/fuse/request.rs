//! One request of the kernel: a header and the bytes behind it, read with checked bounds.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;

use super::abi::IN_HEADER;

/// `fuse_in_header`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Header {
    /// The operation, see [`super::abi::op`].
    pub(super) opcode: u32,
    /// Identifies the request in its reply.
    pub(super) unique: u64,
    /// The node the operation is about.
    pub(super) node: u64,
    /// Who asks.
    pub(super) uid: u32,
    /// Their group.
    pub(super) gid: u32,
    /// Their process.
    pub(super) pid: u32,
}

/// A request that ends before its members do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Truncated;

impl Header {
    /// Splits a message into header and arguments.
    pub(super) fn parse(message: &[u8]) -> Result<(Header, Arguments<'_>), Truncated> {
        let mut fields = Arguments(message);
        let length = fields.u32()?;
        let header = Header {
            opcode: fields.u32()?,
            unique: fields.u64()?,
            node: fields.u64()?,
            uid: fields.u32()?,
            gid: fields.u32()?,
            pid: fields.u32()?,
        };
        if usize::try_from(length) != Ok(message.len()) {
            return Err(Truncated);
        }
        let arguments = message.get(IN_HEADER..).ok_or(Truncated)?;
        Ok((header, Arguments(arguments)))
    }
}

/// The arguments of a request, consumed from the front.
#[derive(Clone, Copy, Debug)]
pub(super) struct Arguments<'a>(&'a [u8]);

impl<'a> Arguments<'a> {
    pub(super) fn u32(&mut self) -> Result<u32, Truncated> {
        let (head, rest) = self.0.split_first_chunk().ok_or(Truncated)?;
        self.0 = rest;
        Ok(u32::from_ne_bytes(*head))
    }

    pub(super) fn u64(&mut self) -> Result<u64, Truncated> {
        let (head, rest) = self.0.split_first_chunk().ok_or(Truncated)?;
        self.0 = rest;
        Ok(u64::from_ne_bytes(*head))
    }

    /// A signed second count, which the kernel declares unsigned.
    pub(super) fn i64(&mut self) -> Result<i64, Truncated> {
        self.u64().map(u64::cast_signed)
    }

    /// Steps over `count` bytes.
    pub(super) fn skip(&mut self, count: usize) -> Result<(), Truncated> {
        self.0 = self.0.get(count..).ok_or(Truncated)?;
        Ok(())
    }

    /// A name ended by a NUL.
    pub(super) fn name(&mut self) -> Result<&'a OsStr, Truncated> {
        let end = self.0.iter().position(|byte| *byte == 0).ok_or(Truncated)?;
        let (name, rest) = self.0.split_at_checked(end).ok_or(Truncated)?;
        self.0 = rest.get(1..).ok_or(Truncated)?;
        Ok(OsStr::from_bytes(name))
    }

    /// The next `count` bytes.
    pub(super) fn bytes(&mut self, count: usize) -> Result<&'a [u8], Truncated> {
        let (bytes, rest) = self.0.split_at_checked(count).ok_or(Truncated)?;
        self.0 = rest;
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(arguments: &[u8]) -> Vec<u8> {
        let length = u32::try_from(IN_HEADER + arguments.len()).unwrap();
        let mut message = length.to_ne_bytes().to_vec();
        message.extend(1_u32.to_ne_bytes());
        message.extend(77_u64.to_ne_bytes());
        message.extend(5_u64.to_ne_bytes());
        for field in [1000_u32, 100, 4242, 0] {
            message.extend(field.to_ne_bytes());
        }
        message.extend(arguments);
        message
    }

    #[test]
    fn header_and_names() {
        let message = message(b"one\0two\0");
        let (header, mut arguments) = Header::parse(&message).unwrap();
        assert_eq!((header.opcode, header.unique, header.node), (1, 77, 5));
        assert_eq!((header.uid, header.gid, header.pid), (1000, 100, 4242));
        assert_eq!(arguments.name().unwrap(), "one");
        assert_eq!(arguments.name().unwrap(), "two");
        assert_eq!(arguments.name(), Err(Truncated));
    }

    #[test]
    fn every_cut_is_an_error_and_never_a_panic() {
        let whole = message(b"name\0");
        for end in 0..whole.len() {
            assert!(Header::parse(whole.get(..end).unwrap()).is_err(), "{end}");
        }
        let (_, mut arguments) = Header::parse(&whole).unwrap();
        assert_eq!(arguments.u64(), Err(Truncated));
        assert_eq!(arguments.bytes(6), Err(Truncated));
        assert_eq!(arguments.skip(6), Err(Truncated));
        assert_eq!(arguments.name().unwrap(), "name");
    }
}
