//! A file that leaves the host: sealed to a recovery key, readable by its head only.
//!
//! ```text
//! 0    8  what it is, for example "KMSDBKP1"
//! 8    4  h, length of the head, big-endian
//! 12   h  head: JSON, readable without any key
//! +   80  a fresh key, sealed to the recovery key (HPKE); the bytes above are authenticated with it
//! +       parts: 4 bytes n, big-endian, the highest bit set for the last part; n bytes of ciphertext; tag 16
//! +   32  SHA-256 of everything above
//! ```
//!
//! The parts are AES-256-GCM under the fresh key, the nonce is the part's number, and whether it is the last one is
//! authenticated.
//!
//! The digest finds damage without any key. It proves nothing about who made the file: whoever knows the public half of a
//! recovery key can seal something to it.

use kms_crypto::{CryptoError, GcmKey, Key, RecoveryPrivateKey, RecoveryPublicKey, sha256};
use zeroize::Zeroizing;

#[cfg(test)]
mod tests;

const SEALED: usize = 80;
const DIGEST: usize = 32;
const TAG: usize = 16;
/// Plaintext of a part.
const PART: usize = 1 << 20;
const LAST: u32 = 1 << 31;
/// Longest head that is read.
const MAX_HEAD: usize = 64 * 1024;

/// A kind of file.
#[derive(Clone, Copy, Debug)]
pub struct Kind {
    /// Its first 8 bytes.
    pub magic: &'static [u8; 8],
    /// What the sealed key is for.
    pub info: &'static [u8],
    /// What to call it.
    pub name: &'static str,
}

/// A file is not of its kind, or does not open.
#[derive(Debug, thiserror::Error)]
pub enum SealedError {
    /// It does not begin like one.
    #[error("this is not {0}")]
    Foreign(&'static str),
    /// It was cut or altered.
    #[error("the file is damaged: {0}")]
    Damaged(&'static str),
    /// It is for another recovery key.
    #[error("the file is sealed to another recovery key")]
    OtherRecoveryKey,
    /// Cryptography failed.
    #[error(transparent)]
    Crypto(#[from] CryptoError),
}

pub(crate) const CUT: SealedError = SealedError::Damaged("it ends too early");

/// Makes a file of `plain` for the holder of a recovery key.
///
/// # Errors
/// Cryptography failed.
pub fn seal(
    kind: Kind,
    head: &[u8],
    plain: &[u8],
    recipient: &RecoveryPublicKey,
) -> Result<Vec<u8>, SealedError> {
    if head.len() > MAX_HEAD {
        return Err(SealedError::Damaged("its head is too long"));
    }
    let mut file = kind.magic.to_vec();
    file.extend_from_slice(&length(head.len()).to_be_bytes());
    file.extend_from_slice(head);
    let key = Key::<32>::random()?;
    let sealed = recipient.seal(kind.info, &file, key.expose())?;
    file.extend_from_slice(&sealed);

    let cipher = GcmKey::new(key.expose())?;
    let last = plain.len().div_ceil(PART).max(1) - 1;
    for number in 0..=last {
        let from = number * PART;
        let part = plain.get(from..plain.len().min(from + PART));
        let mut part = part.unwrap_or_default().to_vec();
        let frame = length(part.len()) | if number == last { LAST } else { 0 };
        let tag = cipher.seal_in_place(&nonce(number), &frame.to_be_bytes(), &mut part)?;
        file.extend_from_slice(&frame.to_be_bytes());
        file.extend_from_slice(&part);
        file.extend_from_slice(&tag);
    }
    let digest = sha256(&[&file]);
    file.extend_from_slice(&digest);
    Ok(file)
}

/// Checks that a file is whole, without any key, and gives its head.
///
/// # Errors
/// It is of another kind, or damaged.
pub fn head(kind: Kind, file: &[u8]) -> Result<&[u8], SealedError> {
    split(kind, file).map(|parts| parts.head)
}

/// Opens a file.
///
/// # Errors
/// It is of another kind, damaged, or for another recovery key.
pub fn open(
    kind: Kind,
    file: &[u8],
    key: &RecoveryPrivateKey,
) -> Result<Zeroizing<Vec<u8>>, SealedError> {
    let parts = split(kind, file)?;
    let secret = key
        .open(kind.info, parts.opening, parts.sealed)
        .map_err(|_| SealedError::OtherRecoveryKey)?;
    let secret = Key::<32>::from_slice(secret.expose())?;
    let cipher = GcmKey::new(secret.expose())?;
    // All the room it can need at once: growing would leave copies behind.
    let mut plain = Zeroizing::new(Vec::with_capacity(parts.body.len()));
    let mut rest = parts.body;
    let mut number = 0;
    loop {
        let (frame, after) = take::<4>(rest)?;
        let value = u32::from_be_bytes(*frame);
        let size = usize::try_from(value & !LAST).unwrap_or(usize::MAX);
        let (part, after) = after.split_at_checked(size).ok_or(CUT)?;
        let (tag, after) = take::<TAG>(after)?;
        let mut part = Zeroizing::new(part.to_vec());
        cipher
            .open_in_place(&nonce(number), frame, &mut part, tag)
            .map_err(|_| SealedError::Damaged("a part of it was altered"))?;
        plain.extend_from_slice(&part);
        rest = after;
        number += 1;
        if value & LAST != 0 {
            break;
        }
    }
    if !rest.is_empty() {
        return Err(SealedError::Damaged("there is more after its last part"));
    }
    Ok(plain)
}

struct Parts<'a> {
    head: &'a [u8],
    /// What the sealed key is bound to.
    opening: &'a [u8],
    sealed: &'a [u8],
    body: &'a [u8],
}

fn split(kind: Kind, file: &[u8]) -> Result<Parts<'_>, SealedError> {
    if !file.starts_with(kind.magic) {
        return Err(SealedError::Foreign(kind.name));
    }
    let (signed, digest) = file
        .len()
        .checked_sub(DIGEST)
        .and_then(|at| file.split_at_checked(at))
        .ok_or(CUT)?;
    if sha256(&[signed]) != *digest {
        return Err(SealedError::Damaged("its digest does not fit its content"));
    }
    let (_, rest) = take::<8>(signed)?;
    let (size, rest) = take::<4>(rest)?;
    let size = usize::try_from(u32::from_be_bytes(*size)).unwrap_or(usize::MAX);
    if size > MAX_HEAD {
        return Err(SealedError::Damaged("its head is too long"));
    }
    let (head, rest) = rest.split_at_checked(size).ok_or(CUT)?;
    let (sealed, body) = rest.split_at_checked(SEALED).ok_or(CUT)?;
    let opening = signed.get(..12 + size).ok_or(CUT)?;
    Ok(Parts {
        head,
        opening,
        sealed,
        body,
    })
}

pub(crate) fn take<const N: usize>(bytes: &[u8]) -> Result<(&[u8; N], &[u8]), SealedError> {
    bytes.split_first_chunk::<N>().ok_or(CUT)
}

pub(crate) fn length(size: usize) -> u32 {
    u32::try_from(size).unwrap_or(u32::MAX)
}

fn nonce(number: usize) -> [u8; 12] {
    let mut nonce = [0; 12];
    let bytes = (number as u64).to_be_bytes();
    for (to, from) in nonce.iter_mut().skip(4).zip(bytes) {
        *to = from;
    }
    nonce
}
