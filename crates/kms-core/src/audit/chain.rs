//! The hashes over the lines of the log.

use kms_crypto::sha256;

use crate::rows::{AuditHead, Hash};

/// Goes before a line in its chain value. No input of the Merkle tree is mistaken for it: a leaf begins with 0, a
/// node is 65 bytes and this with a line is longer.
pub(super) const DOMAIN: &[u8] = b"\x01kmsd-audit-chain-v1\0";

/// Where a log ends: the number of its records and the chain value of the last.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Chain {
    size: u64,
    value: Hash,
}

impl Chain {
    /// The end of an empty log.
    pub fn new() -> Self {
        Self::default()
    }

    /// The end of a log that has `size` records, the last of them with the chain value `value`.
    pub fn at(size: u64, value: Hash) -> Self {
        Self { size, value }
    }

    /// Number of records, and so the sequence number of the next one.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The chain value of the last record, zeros for an empty log.
    pub fn value(&self) -> Hash {
        self.value
    }

    /// Goes on by one line, given without its newline.
    pub fn advance(&mut self, line: &[u8]) {
        self.advance_to(Hash(sha256(&[DOMAIN, line])));
    }

    /// Goes on by one line, of which the chain value is known.
    pub(super) fn advance_to(&mut self, value: Hash) {
        self.value = value;
        self.size = self.size.saturating_add(1);
    }

    /// The same, as the catalogue stores it.
    pub fn head(&self) -> AuditHead {
        AuditHead {
            size: self.size,
            chain: self.value,
        }
    }
}

impl From<AuditHead> for Chain {
    fn from(head: AuditHead) -> Self {
        Self::at(head.size, head.chain)
    }
}
