//! Checkpoints (c2sp.org/tlog-checkpoint@v1): the head of the tree at a moment, as the text of a signed note.
//!
//! ```text
//! kmsd.local/000000000000/host-1/4f2a…      origin: which log
//! 1842                                      number of records
//! CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3…     root of the tree
//! number 17                                 this is checkpoint 17
//! counter 41                                value of the sealer's checkpoint counter that it uses up
//! chain 9f86d081884c7d659a2feaa0c55ad015…   chain value of the last record
//! previous 60303ae22b998861bce3b28f33ee…    SHA-256 of the text of checkpoint 16
//! time 1764104400123                        wall clock, milliseconds since 1970
//! store 29                                  generation of the catalogue
//! sealer tpm
//! ```
//!
//! What is below the root are extension lines; they are where they are because every signature has to cover them.

use std::str::FromStr;

use data_encoding::{BASE64, HEXLOWER};
use kms_crypto::sha256;

use crate::rows::Hash;

/// What a checkpoint says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    /// Which log.
    pub origin: String,
    /// Number of records.
    pub size: u64,
    /// Root of the tree over them.
    pub root: Hash,
    /// Which checkpoint of this log, from 1.
    pub number: u64,
    /// The value of the sealer's checkpoint counter that this checkpoint uses up.
    pub counter: u64,
    /// Chain value of the last record.
    pub chain: Hash,
    /// [`Checkpoint::hash`] of the checkpoint before, zeros for the first.
    pub previous: Hash,
    /// Wall clock, milliseconds since 1970-01-01 UTC.
    pub time_ms: i64,
    /// Generation of the catalogue.
    pub store: u64,
    /// What vouches for it.
    pub sealer: Sealer,
}

/// What vouches for a checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sealer {
    /// A TPM signed it, with a counter that cannot go back.
    Tpm,
    /// A key file: who can read it can write any log.
    Software,
}

impl Sealer {
    /// `tpm` or `software`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Tpm => "tpm",
            Self::Software => "software",
        }
    }
}

/// Why a text is no checkpoint.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("its line {line} is not what a checkpoint has there")]
pub struct CheckpointError {
    /// The line, from 1.
    pub line: usize,
}

impl Checkpoint {
    /// The text that is signed.
    #[must_use]
    pub fn text(&self) -> String {
        format!(
            "{}\n{}\n{}\nnumber {}\ncounter {}\nchain {}\nprevious {}\ntime {}\nstore {}\nsealer {}\n",
            self.origin,
            self.size,
            BASE64.encode(&self.root.0),
            self.number,
            self.counter,
            HEXLOWER.encode(&self.chain.0),
            HEXLOWER.encode(&self.previous.0),
            self.time_ms,
            self.store,
            self.sealer.as_str(),
        )
    }

    /// What the next checkpoint names as its previous one.
    #[must_use]
    pub fn hash(&self) -> Hash {
        Hash(sha256(&[self.text().as_bytes()]))
    }

    /// What a TPM signs for it: SHA-256 over the counter's value, 8 bytes big-endian, and the text.
    #[must_use]
    pub fn qualifying(&self) -> [u8; 32] {
        sha256(&[&self.counter.to_be_bytes(), self.text().as_bytes()])
    }

    /// Reads a text. Only the form that [`text`](Self::text) writes is accepted.
    ///
    /// # Errors
    /// [`CheckpointError`]
    pub fn parse(text: &str) -> Result<Self, CheckpointError> {
        let mut lines = Lines {
            lines: text.split('\n'),
            number: 0,
        };
        let origin = lines.next()?;
        if origin.is_empty() {
            return Err(lines.bad());
        }
        let checkpoint = Self {
            origin: origin.to_owned(),
            size: lines.number("")?,
            root: {
                let line = lines.next()?;
                let root = BASE64.decode(line.as_bytes()).ok();
                root.and_then(|root| root.try_into().ok())
                    .map(Hash)
                    .ok_or_else(|| lines.bad())?
            },
            number: lines.number("number ")?,
            counter: lines.number("counter ")?,
            chain: lines.hash("chain ")?,
            previous: lines.hash("previous ")?,
            time_ms: lines.number("time ")?,
            store: lines.number("store ")?,
            sealer: match lines.after("sealer ")? {
                "tpm" => Sealer::Tpm,
                "software" => Sealer::Software,
                _ => return Err(lines.bad()),
            },
        };
        // One text, one meaning: no second spelling of a number, nothing after the last line.
        if checkpoint.text() == text {
            Ok(checkpoint)
        } else {
            lines.number += 1;
            Err(lines.bad())
        }
    }
}

struct Lines<'a> {
    lines: std::str::Split<'a, char>,
    number: usize,
}

impl<'a> Lines<'a> {
    const fn bad(&self) -> CheckpointError {
        CheckpointError { line: self.number }
    }

    fn next(&mut self) -> Result<&'a str, CheckpointError> {
        self.number += 1;
        self.lines.next().ok_or_else(|| self.bad())
    }

    fn after(&mut self, name: &str) -> Result<&'a str, CheckpointError> {
        let line = self.next()?;
        line.strip_prefix(name).ok_or_else(|| self.bad())
    }

    fn number<T: FromStr + ToString>(&mut self, name: &str) -> Result<T, CheckpointError> {
        let digits = self.after(name)?;
        let value: T = digits.parse().map_err(|_| self.bad())?;
        if value.to_string() == digits {
            Ok(value)
        } else {
            Err(self.bad())
        }
    }

    fn hash(&mut self, name: &str) -> Result<Hash, CheckpointError> {
        let hex = self.after(name)?;
        let bytes = HEXLOWER.decode(hex.as_bytes()).ok();
        bytes
            .and_then(|bytes| bytes.try_into().ok())
            .map(Hash)
            .ok_or_else(|| self.bad())
    }
}

#[cfg(test)]
mod tests;
