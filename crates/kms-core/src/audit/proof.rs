//! Proofs that a record is in the log (c2sp.org/tlog-proof@v1), which anybody can check without it.
//!
//! The extra data is the line itself: what it says is proved, because its hash is the leaf.

use std::fmt::Write as _;

use data_encoding::BASE64;

use super::keys::Keys;
use super::note::{Note, base64_of};
use super::tree::{Hash, inclusion_proof, leaf_hash, verify_inclusion};
use super::verify::{Known, verify_note};
use super::{Line, MAX_LINE};

const HEADER: &str = "c2sp.org/tlog-proof@v1";
/// A tree has no more levels.
const MAX_HASHES: usize = 64;

/// A record with the way from it to a checkpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proof {
    /// The line, without its newline.
    pub line: Vec<u8>,
    /// Number of the record.
    pub index: u64,
    /// From the leaf's sibling up.
    pub hashes: Vec<Hash>,
    /// The checkpoint, with its signatures.
    pub checkpoint: Note,
}

/// What a proof shows.
#[derive(Clone, Debug)]
pub struct Proved {
    /// The record with its place.
    pub line: Line,
    /// The checkpoint that vouches for it.
    pub known: Known,
}

impl Proof {
    /// The proof of record `index` in the tree over `leaves`, which must be those of the checkpoint. `None` if there
    /// is no such record.
    #[must_use]
    pub fn make(line: Vec<u8>, index: u64, leaves: &[Hash], checkpoint: Note) -> Option<Self> {
        Some(Self {
            hashes: inclusion_proof(leaves, usize::try_from(index).ok()?)?,
            line,
            index,
            checkpoint,
        })
    }

    /// Reads the text form.
    ///
    /// # Errors
    /// The text says which part is malformed.
    pub fn parse(text: &str) -> Result<Self, String> {
        let bad = |what: &str| format!("it is not a proof: {what}");
        let (head, note) = text
            .split_once("\n\n")
            .ok_or_else(|| bad("there is no checkpoint in it"))?;
        let mut lines = head.split('\n');
        if lines.next() != Some(HEADER) {
            return Err(bad("its first line is another"));
        }
        let line = lines
            .next()
            .and_then(|line| line.strip_prefix("extra "))
            .and_then(base64_of)
            .filter(|line| line.len() <= MAX_LINE)
            .ok_or_else(|| bad("the record is not in it"))?;
        let digits = lines.next().and_then(|line| line.strip_prefix("index "));
        let index = digits
            .and_then(|digits| digits.parse().ok())
            .filter(|index: &u64| Some(index.to_string().as_str()) == digits)
            .ok_or_else(|| bad("the number of the record is not in it"))?;
        let hashes = lines
            .map(|line| base64_of(line).and_then(|hash| Hash::try_from(hash).ok()))
            .collect::<Option<Vec<_>>>()
            .filter(|hashes| hashes.len() <= MAX_HASHES)
            .ok_or_else(|| bad("one of its hashes is malformed"))?;
        let checkpoint = Note::parse(note.as_bytes()).map_err(|error| {
            let reason = error.to_string();
            bad(&format!("its checkpoint: {reason}"))
        })?;
        Ok(Self {
            line,
            index,
            hashes,
            checkpoint,
        })
    }

    /// Verifies it with the public keys of the log.
    ///
    /// # Errors
    /// The text says why it proves nothing.
    pub fn verify(&self, keys: &Keys) -> Result<Proved, String> {
        let known = verify_note(keys, &self.checkpoint)
            .map_err(|reason| format!("its checkpoint does not verify: {reason}"))?;
        let (size, root) = (known.checkpoint.size, known.checkpoint.root.0);
        let leaf = leaf_hash(&self.line);
        if !verify_inclusion(&leaf, self.index, size, &self.hashes, &root) {
            return Err("the record is not in the tree of the checkpoint".to_owned());
        }
        let line = Line::parse(&self.line).map_err(|error| error.to_string())?;
        Ok(Proved { line, known })
    }
}

impl std::fmt::Display for Proof {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut text = format!(
            "{HEADER}\nextra {}\nindex {}\n",
            BASE64.encode(&self.line),
            self.index
        );
        for hash in &self.hashes {
            writeln!(text, "{}", BASE64.encode(hash))?;
        }
        write!(f, "{text}\n{}", self.checkpoint)
    }
}
