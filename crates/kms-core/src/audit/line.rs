//! A line of the log: a record with its place.

use std::cell::RefCell;

use data_encoding::HEXLOWER;
use kms_crypto::sha256;
use serde::{Deserialize, Serialize};

use super::chain::DOMAIN;
use super::{Chain, Record, tree};
use crate::rows::Hash;

/// Most bytes of a line without its newline, so that it fits an entry of a C2SP tile.
pub const MAX_LINE: usize = 65_535;

/// Bytes of a line around its record, at most.
pub(super) const ENVELOPE: usize = 128;

/// A line of the log.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Line {
    // In the order of the names: this is the canonical form.
    /// Chain value of the line before; zeros for the first.
    pub prev: Hash,
    /// What is recorded.
    pub record: Record,
    /// The line's number, from 0.
    pub seq: u64,
}

/// Why bytes are no line of a log.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LineError {
    /// Not the JSON of a line.
    #[error("not a record: {0}")]
    Json(String),
    /// The same content could be written in other bytes.
    #[error("not in canonical form")]
    NotCanonical,
    /// Longer than [`MAX_LINE`].
    #[error("longer than {MAX_LINE} bytes")]
    TooLong,
}

impl Line {
    /// Reads a line, without its newline. Only the canonical form is accepted, so that a line has one hash.
    ///
    /// # Errors
    /// [`LineError`]
    pub fn parse(bytes: &[u8]) -> Result<Self, LineError> {
        if bytes.len() > MAX_LINE {
            return Err(LineError::TooLong);
        }
        let line: Self =
            serde_json::from_slice(bytes).map_err(|error| LineError::Json(error.to_string()))?;
        match serde_json::to_vec(&line) {
            Ok(canonical) if canonical == bytes => Ok(line),
            Ok(_) | Err(_) => Err(LineError::NotCanonical),
        }
    }
}

/// Appends to `out` the line of a record's canonical bytes at the end of `chain`, without a newline, and advances
/// `chain`. Returns the line's leaf hash.
pub fn compose(chain: &mut Chain, record: &[u8], out: &mut Vec<u8>) -> tree::Hash {
    // Both hashes are taken over one piece of memory: the last byte of what the chain puts before a line is what the tree
    // puts before a leaf.
    const BEFORE: usize = DOMAIN.len();
    const { assert!(matches!(DOMAIN.last(), Some(0))) };
    thread_local! {
        static HASHED: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
    }
    HASHED.with_borrow_mut(|hashed| {
        hashed.clear();
        hashed.extend_from_slice(DOMAIN);
        hashed.extend_from_slice(b"{\"prev\":\"");
        let mut hex = [0; 64];
        HEXLOWER.encode_mut(&chain.value().0, &mut hex);
        hashed.extend_from_slice(&hex);
        hashed.extend_from_slice(b"\",\"record\":");
        hashed.extend_from_slice(record);
        hashed.extend_from_slice(b",\"seq\":");
        hashed.extend_from_slice(chain.size().to_string().as_bytes());
        hashed.push(b'}');
        out.extend_from_slice(hashed.get(BEFORE..).unwrap_or_default());
        chain.advance_to(Hash(sha256(&[hashed])));
        sha256(&[hashed.get(BEFORE - 1..).unwrap_or_default()])
    })
}

/// The place of a line and the bytes of its record, without reading the record: what a scan needs of each line.
pub fn split(line: &[u8]) -> Option<(Hash, &[u8], u64)> {
    let rest = line.strip_prefix(b"{\"prev\":\"")?;
    let (hex, rest) = rest.split_at_checked(64)?;
    let prev = Hash(HEXLOWER.decode(hex).ok()?.try_into().ok()?);
    let rest = rest.strip_prefix(b"\",\"record\":")?.strip_suffix(b"}")?;
    let digits = rest
        .iter()
        .rev()
        .take_while(|byte| byte.is_ascii_digit())
        .count();
    let (rest, number) = rest.split_at_checked(rest.len().checked_sub(digits)?)?;
    let record = rest.strip_suffix(b",\"seq\":")?;
    let number = std::str::from_utf8(number).ok()?;
    // No second spelling of a number.
    if number.len() > 1 && number.starts_with('0') {
        return None;
    }
    Some((prev, record, number.parse().ok()?))
}
