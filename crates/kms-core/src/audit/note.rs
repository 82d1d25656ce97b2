//! Signed notes (c2sp.org/signed-note@v1): a text and the lines of those who signed it.

use data_encoding::{BASE64, HEXLOWER};
use kms_crypto::{CryptoError, ed25519_verify, sha256};

/// Ed25519 over the text.
pub const KIND_ED25519: u8 = 0x01;
/// Ed25519 by a witness, with a time (c2sp.org/tlog-cosignature).
pub const KIND_COSIGNATURE: u8 = 0x04;
/// A kind without a number of its own: an identifier follows.
pub const KIND_PRIVATE: u8 = 0xff;

/// Longest note that is read.
pub const MAX_NOTE: usize = 64 * 1024;
const MAX_SIGNATURES: usize = 64;
const MARK: &str = "\u{2014} ";

/// A text and its signatures, none of them verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    /// Ends in a newline.
    text: String,
    signatures: Vec<Signature>,
}

/// A signature line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signature {
    /// Name of the key.
    pub name: String,
    /// Says which of the keys of this name, and which algorithm.
    pub id: [u8; 4],
    /// What the algorithm made.
    pub bytes: Vec<u8>,
}

/// Why bytes are no note.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoteError {
    /// Longer than [`MAX_NOTE`], or with too many signatures.
    #[error("it is too long")]
    TooLong,
    /// A control character, or not UTF-8.
    #[error("it holds characters that no note has")]
    Characters,
    /// There is no empty line between text and signatures, or no text.
    #[error("it has no text followed by an empty line and signatures")]
    Form,
    /// A line after the text that is no signature.
    #[error("one of its signature lines is malformed")]
    SignatureLine,
    /// A verifier key that is none.
    #[error("it is not a verifier key (NAME+HASH+BASE64)")]
    VerifierKey,
}

impl Note {
    /// A text without signatures yet; a final newline is added if it is missing.
    #[must_use]
    pub fn new(text: impl Into<String>) -> Self {
        let mut text = text.into();
        if !text.ends_with('\n') {
            text.push('\n');
        }
        Self {
            text,
            signatures: Vec::new(),
        }
    }

    /// The text, with its final newline: what is signed.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The signatures.
    #[must_use]
    pub fn signatures(&self) -> &[Signature] {
        &self.signatures
    }

    /// Adds a signature.
    pub fn sign(&mut self, signature: Signature) {
        self.signatures.push(signature);
    }

    /// Reads a note.
    ///
    /// # Errors
    /// [`NoteError`]
    pub fn parse(bytes: &[u8]) -> Result<Self, NoteError> {
        if bytes.len() > MAX_NOTE {
            return Err(NoteError::TooLong);
        }
        let all = std::str::from_utf8(bytes).map_err(|_| NoteError::Characters)?;
        if all.chars().any(|c| c < ' ' && c != '\n') {
            return Err(NoteError::Characters);
        }
        let gap = all.rfind("\n\n").ok_or(NoteError::Form)?;
        let (text, rest) = all.split_at(gap.saturating_add(1));
        let lines = rest
            .strip_prefix('\n')
            .and_then(|lines| lines.strip_suffix('\n'))
            .ok_or(NoteError::Form)?;
        let signatures = lines
            .split('\n')
            .map(Signature::parse)
            .collect::<Result<Vec<_>, _>>()?;
        if signatures.len() > MAX_SIGNATURES {
            return Err(NoteError::TooLong);
        }
        if text.len() < 2 {
            return Err(NoteError::Form);
        }
        Ok(Self {
            text: text.to_owned(),
            signatures,
        })
    }

    /// The signature that the key of this name and id made.
    #[must_use]
    pub fn by(&self, name: &str, id: [u8; 4]) -> Option<&Signature> {
        self.signatures
            .iter()
            .find(|signature| signature.id == id && signature.name == name)
    }
}

impl std::fmt::Display for Note {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "{}", self.text)?;
        self.signatures
            .iter()
            .try_for_each(|signature| writeln!(f, "{signature}"))
    }
}

impl Signature {
    /// Reads a line, without its newline.
    ///
    /// # Errors
    /// [`NoteError::SignatureLine`]
    pub fn parse(line: &str) -> Result<Self, NoteError> {
        const BAD: NoteError = NoteError::SignatureLine;
        let (name, base64) = line
            .strip_prefix(MARK)
            .and_then(|rest| rest.split_once(' '))
            .ok_or(BAD)?;
        let bytes = base64_of(base64).ok_or(BAD)?;
        let (id, bytes) = bytes.split_first_chunk::<4>().ok_or(BAD)?;
        if !is_name(name) || bytes.is_empty() {
            return Err(BAD);
        }
        Ok(Self {
            name: name.to_owned(),
            id: *id,
            bytes: bytes.to_vec(),
        })
    }
}

impl std::fmt::Display for Signature {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let bytes = [self.id.as_slice(), &self.bytes].concat();
        write!(f, "{MARK}{} {}", self.name, BASE64.encode(&bytes))
    }
}

/// Bytes in base64, of which there is one spelling: the decoder alone would take padding in the middle.
pub(super) fn base64_of(text: &str) -> Option<Vec<u8>> {
    let bytes = BASE64.decode(text.as_bytes()).ok()?;
    (BASE64.encode(&bytes) == text).then_some(bytes)
}

/// Whether a key may have this name.
#[must_use]
pub fn is_name(name: &str) -> bool {
    !name.is_empty()
        && !name
            .chars()
            .any(|c| c.is_whitespace() || c == '+' || c < ' ')
}

/// The id of a key: the first bytes of SHA-256 over name, kind and public key.
#[must_use]
pub fn key_id(name: &str, kind: u8, public: &[u8]) -> [u8; 4] {
    let [a, b, c, d, ..] = sha256(&[name.as_bytes(), b"\n", &[kind], public]);
    [a, b, c, d]
}

/// A public key as text, `NAME+HASH+BASE64`: an Ed25519 key that signs notes or, as a witness, cosigns them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifierKey {
    /// Name of the key.
    pub name: String,
    /// [`KIND_ED25519`] or [`KIND_COSIGNATURE`].
    pub kind: u8,
    /// The key.
    pub public: [u8; 32],
}

impl VerifierKey {
    /// Reads the text form.
    ///
    /// # Errors
    /// [`NoteError::VerifierKey`]
    pub fn parse(text: &str) -> Result<Self, NoteError> {
        const BAD: NoteError = NoteError::VerifierKey;
        let (name, rest) = text.split_once('+').ok_or(BAD)?;
        let (hash, key) = rest.split_once('+').ok_or(BAD)?;
        let hash = HEXLOWER.decode(hash.as_bytes()).map_err(|_| BAD)?;
        let key = base64_of(key).ok_or(BAD)?;
        let (kind, public) = key.split_first().ok_or(BAD)?;
        let key = Self {
            name: name.to_owned(),
            kind: *kind,
            public: public.try_into().map_err(|_| BAD)?,
        };
        let kind_known = [KIND_ED25519, KIND_COSIGNATURE].contains(kind);
        if !is_name(name) || !kind_known || hash != key.id() {
            return Err(BAD);
        }
        Ok(key)
    }

    /// The id that its signature lines carry.
    #[must_use]
    pub fn id(&self) -> [u8; 4] {
        key_id(&self.name, self.kind, &self.public)
    }

    /// Verifies this key's signature on the note. `None` if it has not signed; of a cosignature the time, in
    /// seconds since 1970.
    ///
    /// # Errors
    /// [`CryptoError::Authentication`] for a signature that does not verify.
    pub fn verify(&self, note: &Note) -> Option<Result<Option<u64>, CryptoError>> {
        let signature = note.by(&self.name, self.id())?;
        Some(match self.kind {
            KIND_COSIGNATURE => self.verify_cosignature(note, &signature.bytes).map(Some),
            _ => <&[u8; 64]>::try_from(signature.bytes.as_slice())
                .map_err(|_| CryptoError::Authentication)
                .and_then(|bytes| ed25519_verify(&self.public, note.text().as_bytes(), bytes))
                .map(|()| None),
        })
    }

    fn verify_cosignature(&self, note: &Note, bytes: &[u8]) -> Result<u64, CryptoError> {
        const BAD: CryptoError = CryptoError::Authentication;
        let (time, signature) = bytes.split_first_chunk::<8>().ok_or(BAD)?;
        let time = u64::from_be_bytes(*time);
        let signature = <&[u8; 64]>::try_from(signature).map_err(|_| BAD)?;
        let message = format!("cosignature/v1\ntime {time}\n{}", note.text());
        ed25519_verify(&self.public, message.as_bytes(), signature)?;
        Ok(time)
    }
}

impl std::fmt::Display for VerifierKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let key = [[self.kind].as_slice(), &self.public].concat();
        let (hash, key) = (HEXLOWER.encode(&self.id()), BASE64.encode(&key));
        write!(f, "{}+{hash}+{key}", self.name)
    }
}

/// The notes of a file in which they follow each other: a new one begins after each run of signature lines. Gives each
/// with the number of its first line, from 1.
pub fn notes_of(bytes: &[u8]) -> impl Iterator<Item = (usize, Result<Note, NoteError>)> + '_ {
    let mut rest = bytes;
    let mut line_number = 1;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let first = line_number;
        let mut end = 0;
        let mut signed = false;
        for line in rest.split_inclusive(|byte| *byte == b'\n') {
            let is_signature = line.starts_with(MARK.as_bytes());
            if signed && !is_signature {
                break;
            }
            signed |= is_signature;
            end += line.len();
            line_number += 1;
        }
        let (note, after) = rest.split_at_checked(end)?;
        rest = after;
        Some((first, Note::parse(note)))
    })
}

#[cfg(test)]
mod tests;
