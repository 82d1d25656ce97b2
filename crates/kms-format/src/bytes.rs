//! Reading and writing fixed fields without a chance to panic.

use crate::{FORMAT, FormatError, Record};

/// A record's bytes together with what they are, so that every failure names it.
#[derive(Clone, Copy)]
pub(crate) struct Fields<'a> {
    record: Record,
    bytes: &'a [u8],
}

impl<'a> Fields<'a> {
    /// Takes exactly `len` bytes.
    pub(crate) fn exact(record: Record, bytes: &'a [u8], len: usize) -> Result<Self, FormatError> {
        if bytes.len() < len {
            return Err(FormatError::Truncated {
                record,
                found: bytes.len(),
                needed: len,
            });
        }
        if bytes.len() > len {
            return Err(FormatError::TooLong {
                record,
                found: bytes.len(),
                expected: len,
            });
        }
        Ok(Self { record, bytes })
    }

    /// Takes at least `len` bytes.
    pub(crate) fn at_least(
        record: Record,
        bytes: &'a [u8],
        len: usize,
    ) -> Result<Self, FormatError> {
        if bytes.len() < len {
            return Err(FormatError::Truncated {
                record,
                found: bytes.len(),
                needed: len,
            });
        }
        Ok(Self { record, bytes })
    }

    /// The bytes `offset .. offset + len`.
    pub(crate) fn slice(self, offset: usize, len: usize) -> Result<&'a [u8], FormatError> {
        let needed = offset.saturating_add(len);
        self.bytes
            .get(offset..needed)
            .ok_or(FormatError::Truncated {
                record: self.record,
                found: self.bytes.len(),
                needed,
            })
    }

    /// Everything from `offset` on.
    pub(crate) fn rest(self, offset: usize) -> Result<&'a [u8], FormatError> {
        self.bytes.get(offset..).ok_or(FormatError::Truncated {
            record: self.record,
            found: self.bytes.len(),
            needed: offset,
        })
    }

    pub(crate) fn array<const N: usize>(self, offset: usize) -> Result<[u8; N], FormatError> {
        let mut out = [0; N];
        out.copy_from_slice(self.slice(offset, N)?);
        Ok(out)
    }

    pub(crate) fn u8(self, offset: usize) -> Result<u8, FormatError> {
        Ok(u8::from_le_bytes(self.array(offset)?))
    }

    pub(crate) fn u16(self, offset: usize) -> Result<u16, FormatError> {
        Ok(u16::from_le_bytes(self.array(offset)?))
    }

    pub(crate) fn u32(self, offset: usize) -> Result<u32, FormatError> {
        Ok(u32::from_le_bytes(self.array(offset)?))
    }

    pub(crate) fn u64(self, offset: usize) -> Result<u64, FormatError> {
        Ok(u64::from_le_bytes(self.array(offset)?))
    }

    /// Checks magic (8 bytes at 0) and format number (2 bytes at 8); a record of zeros is told apart.
    pub(crate) fn identify(self, magic: &[u8; 8]) -> Result<(), FormatError> {
        if self.array::<8>(0)? != *magic {
            let record = self.record;
            return Err(if is_zero(self.bytes) {
                FormatError::Blank { record }
            } else {
                FormatError::WrongMagic { record }
            });
        }
        match self.u16(8)? {
            FORMAT => Ok(()),
            found => Err(FormatError::UnsupportedFormat {
                record: self.record,
                found,
            }),
        }
    }

    /// Refuses a reserved field that is not zero.
    pub(crate) fn reserved(self, offset: usize, len: usize) -> Result<(), FormatError> {
        if is_zero(self.slice(offset, len)?) {
            Ok(())
        } else {
            Err(FormatError::Reserved {
                record: self.record,
                offset,
            })
        }
    }

    pub(crate) fn bad(self, field: &'static str, value: impl Into<u64>) -> FormatError {
        FormatError::BadField {
            record: self.record,
            field,
            value: value.into(),
        }
    }
}

/// Writes `value` at `offset`.
pub(crate) fn put(out: &mut [u8], offset: usize, value: &[u8]) -> Result<(), FormatError> {
    out.get_mut(offset..offset.saturating_add(value.len()))
        .ok_or(FormatError::Misuse("a field does not fit its record"))?
        .copy_from_slice(value);
    Ok(())
}

/// True if every byte is zero.
pub(crate) fn is_zero(bytes: &[u8]) -> bool {
    let (words, rest) = bytes.as_chunks::<16>();
    rest.iter().all(|byte| *byte == 0) && words.iter().all(|word| u128::from_ne_bytes(*word) == 0)
}
