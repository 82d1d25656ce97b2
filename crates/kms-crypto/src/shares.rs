//! Shares of the recovery key: any `threshold` of them give it back, fewer say nothing about it (Shamir 1979).
//!
//! Every byte of the key is the value at 0 of a polynomial of its own over GF(2^8), of degree `threshold - 1` with random
//! coefficients; share number `x` holds the values at `x`. The field is that of AES (reduction by x^8 + x^4 + x^3 + x + 1). Products
//! are computed without tables and without branches on secrets.

use zeroize::Zeroize;

use crate::error::TextError;
use crate::{
    CryptoError, Key, RecoveryPrivateKey, SecretBytes, constant_time_eq, random_array, sha256, text,
};

/// Most shares of one key.
pub const MAX_SHARES: u8 = 255;
/// More combinations of shares than this are not tried when one of them is not genuine.
const MAX_TRIES: usize = 20_000;

const SET: usize = 4;
const CHECK: usize = 8;
/// Threshold, number of shares, number of this one, set, check.
const HEADER: usize = 3 + SET + CHECK;
const PAYLOAD: usize = HEADER + 32;

/// What all shares of one splitting have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Common {
    threshold: u8,
    total: u8,
    /// Random: shares of two splittings of the same key are not mixed.
    set: [u8; SET],
    /// First bytes of a hash of the key: says whether what the shares give is the key. Of all its bits, not of the public key:
    /// X25519 ignores five bits of a private key (RFC 7748 section 5), and an altered share may change just those. Whoever has
    /// the hash and guesses at a key of 256 random bits learns nothing that the public key does not say.
    check: [u8; CHECK],
}

/// One share of a recovery key.
///
/// ```
/// use kms_crypto::{RecoveryPrivateKey, RecoveryShare, combine, split};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let key = RecoveryPrivateKey::generate()?;
/// let shares = split(&key, 2, 3)?;
/// let kept = shares[2].to_text(); // "KMSD-SHARE-1-...", for paper
/// let read = RecoveryShare::from_text(core::str::from_utf8(kept.expose())?)?;
/// assert!(combine(&[&read]).is_err());
/// let combined = combine(&[&shares[0], &read])?;
/// assert_eq!(combined.key.public_key()?, key.public_key()?);
/// # Ok(())
/// # }
/// ```
pub struct RecoveryShare {
    common: Common,
    number: u8,
    value: Key<32>,
}

/// What the shares gave.
pub struct Combined {
    /// The recovery key; it is the one that was split.
    pub key: RecoveryPrivateKey,
    /// Positions of shares that were not needed and are not genuine.
    pub altered: Vec<usize>,
}

/// Why shares cannot be made, or give no key. Positions count from 0 in what was given.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ShareError {
    /// At least two shares must be needed, and not more than there are.
    #[error(
        "{threshold} of {shares} shares: the threshold must be 2 or more, and not more than there are shares"
    )]
    Threshold {
        /// How many shares are to be needed.
        threshold: u8,
        /// How many there are to be.
        shares: u8,
    },
    /// Not enough shares.
    #[error("{needed} shares are needed, {got} were given")]
    Missing {
        /// How many it takes.
        needed: u8,
        /// How many were given.
        got: usize,
    },
    /// A share belongs to another key or to another splitting of it.
    #[error("the share is of another set than the others")]
    OtherSet {
        /// Which one.
        position: usize,
    },
    /// A share was given twice.
    #[error("share number {number} was given twice")]
    Repeated {
        /// Which one.
        position: usize,
        /// Its number.
        number: u8,
    },
    /// The shares give something else than the key that was split.
    #[error("the shares do not give the key that was split: at least one of them was altered")]
    Altered,
    /// A cryptographic operation failed.
    #[error(transparent)]
    Crypto(#[from] CryptoError),
}

/// Splits a key into `shares` shares, any `threshold` of which give it back.
///
/// # Errors
/// [`ShareError::Threshold`] unless `2 <= threshold <= shares`; [`CryptoError::Random`], [`CryptoError::Memory`].
pub fn split(
    key: &RecoveryPrivateKey,
    threshold: u8,
    shares: u8,
) -> Result<Vec<RecoveryShare>, ShareError> {
    if threshold < 2 || threshold > shares {
        return Err(ShareError::Threshold { threshold, shares });
    }
    let common = Common {
        threshold,
        total: shares,
        set: random_array()?,
        check: check(key)?,
    };
    // All coefficients are uniform, the leading one too: it may be zero, or fewer shares would say something.
    let mut polynomial = vec![key.key().duplicate()?];
    for _ in 1..threshold {
        polynomial.push(Key::random()?);
    }
    (1..=shares)
        .map(|number| {
            Ok(RecoveryShare {
                common,
                number,
                value: evaluate(&polynomial, number)?,
            })
        })
        .collect()
}

/// Gives the key back. More shares than needed are welcome: then the key is found even if some were altered,
/// and those are named.
///
/// # Errors
/// See [`ShareError`].
pub fn combine(shares: &[&RecoveryShare]) -> Result<Combined, ShareError> {
    let common = majority(shares).ok_or(ShareError::Missing { needed: 2, got: 0 })?;
    for (position, share) in shares.iter().enumerate() {
        if share.common != common {
            return Err(ShareError::OtherSet { position });
        }
        let earlier = shares.iter().take(position);
        if earlier.clone().any(|other| other.number == share.number) {
            return Err(ShareError::Repeated {
                position,
                number: share.number,
            });
        }
    }
    let needed = usize::from(common.threshold);
    if shares.len() < needed {
        return Err(ShareError::Missing {
            needed: common.threshold,
            got: shares.len(),
        });
    }
    let mut chosen: Vec<usize> = (0..needed).collect();
    for _ in 0..MAX_TRIES {
        let some: Vec<&RecoveryShare> = chosen
            .iter()
            .filter_map(|at| shares.get(*at).copied())
            .collect();
        let key = RecoveryPrivateKey::from_key(interpolate(&some, 0)?);
        if constant_time_eq(&check(&key)?, &common.check) {
            return Ok(Combined {
                key,
                altered: altered(shares, &some)?,
            });
        }
        if !next_choice(&mut chosen, shares.len()) {
            break;
        }
    }
    Err(ShareError::Altered)
}

/// Positions of the shares that do not lie on the polynomial through the good ones.
fn altered(shares: &[&RecoveryShare], good: &[&RecoveryShare]) -> Result<Vec<usize>, CryptoError> {
    let mut positions = Vec::new();
    for (position, share) in shares.iter().enumerate() {
        let expected = interpolate(good, share.number)?;
        if !constant_time_eq(expected.expose(), share.value.expose()) {
            positions.push(position);
        }
    }
    Ok(positions)
}

/// The next combination of positions below `count`, in lexicographic order; false after the last one.
fn next_choice(chosen: &mut [usize], count: usize) -> bool {
    let size = chosen.len();
    for at in (0..size).rev() {
        let Some(value) = chosen.get(at).copied() else {
            return false;
        };
        if value + (size - at) < count {
            for (step, slot) in chosen.iter_mut().skip(at).enumerate() {
                *slot = value + 1 + step;
            }
            return true;
        }
    }
    false
}

/// The header that most shares have; of equals the first one's.
fn majority(shares: &[&RecoveryShare]) -> Option<Common> {
    let votes = |common: &Common| {
        shares
            .iter()
            .filter(|other| other.common == *common)
            .count()
    };
    let mut best: Option<(usize, Common)> = None;
    for share in shares {
        let count = votes(&share.common);
        if best.is_none_or(|(most, _)| count > most) {
            best = Some((count, share.common));
        }
    }
    best.map(|(_, common)| common)
}

impl RecoveryShare {
    /// Number of this share, from 1.
    pub fn number(&self) -> u8 {
        self.number
    }

    /// How many shares there are.
    pub fn total(&self) -> u8 {
        self.common.total
    }

    /// How many of them are needed.
    pub fn threshold(&self) -> u8 {
        self.common.threshold
    }

    /// Name of the splitting, 8 hex digits: the same for all shares that belong together.
    pub fn set(&self) -> String {
        format!("{:08x}", u32::from_be_bytes(self.common.set))
    }

    /// The share for a human to keep: `KMSD-SHARE-1-` and 10 groups of 8 characters (ASCII), a checksum among them.
    pub fn to_text(&self) -> SecretBytes {
        let common = &self.common;
        let header = [common.threshold, common.total, self.number];
        let mut payload = zeroize::Zeroizing::new([0; PAYLOAD]);
        let from = header
            .iter()
            .chain(&common.set)
            .chain(&common.check)
            .chain(self.value.expose());
        payload
            .iter_mut()
            .zip(from)
            .for_each(|(to, byte)| *to = *byte);
        text::encode(text::SHARE, payload.as_slice())
    }

    /// Reads what [`RecoveryShare::to_text`] wrote, as leniently as [`RecoveryPrivateKey::from_text`].
    ///
    /// # Errors
    /// [`CryptoError::Text`] says what is wrong with the text.
    pub fn from_text(text: &str) -> Result<Self, CryptoError> {
        let mut payload = zeroize::Zeroizing::new([0; PAYLOAD]);
        text::decode(text::SHARE, text, payload.as_mut_slice())?;
        let wrong = || CryptoError::from(TextError::Contradiction);
        let ([threshold, total, number], rest) =
            payload.split_first_chunk::<3>().ok_or_else(wrong)?;
        let (set, rest) = rest.split_first_chunk::<SET>().ok_or_else(wrong)?;
        let (check, value) = rest.split_first_chunk::<CHECK>().ok_or_else(wrong)?;
        if *threshold < 2 || threshold > total || *number < 1 || number > total {
            return Err(wrong());
        }
        Ok(Self {
            common: Common {
                threshold: *threshold,
                total: *total,
                set: *set,
                check: *check,
            },
            number: *number,
            value: Key::from_slice(value)?,
        })
    }
}

fn check(key: &RecoveryPrivateKey) -> Result<[u8; CHECK], CryptoError> {
    let hash = sha256(&[b"kmsd recovery share check 1", key.key().expose()]);
    let mut check = [0; CHECK];
    check.iter_mut().zip(hash).for_each(|(to, byte)| *to = byte);
    Ok(check)
}

/// The polynomial's values at `x`; the constant coefficient is the first.
fn evaluate(polynomial: &[Key<32>], x: u8) -> Result<Key<32>, CryptoError> {
    Key::try_init(|value| {
        for coefficient in polynomial.iter().rev() {
            for (byte, add) in value.iter_mut().zip(coefficient.expose()) {
                *byte = multiply(*byte, x) ^ add;
            }
        }
        Ok(())
    })
}

/// The value at `x` of the polynomial of least degree through all of `shares` (Lagrange).
fn interpolate(shares: &[&RecoveryShare], x: u8) -> Result<Key<32>, CryptoError> {
    Key::try_init(|value| {
        for share in shares {
            let mut factor = 1;
            for other in shares.iter().filter(|other| other.number != share.number) {
                let above = x ^ other.number;
                let below = share.number ^ other.number;
                factor = multiply(factor, multiply(above, invert(below)));
            }
            for (byte, part) in value.iter_mut().zip(share.value.expose()) {
                *byte ^= multiply(*part, factor);
            }
            factor.zeroize();
        }
        Ok(())
    })
}

/// Product in GF(2^8): the same instructions for all operands.
fn multiply(a: u8, b: u8) -> u8 {
    let (mut a, mut product) = (a, 0);
    for bit in 0..8 {
        product ^= a & mask(b >> bit & 1);
        a = a << 1 ^ (0x1b & mask(a >> 7));
    }
    product
}

/// All ones for 1, zero for 0.
fn mask(bit: u8) -> u8 {
    0u8.wrapping_sub(bit)
}

/// a^254, which is the inverse of a, and 0 for 0.
fn invert(a: u8) -> u8 {
    let mut result = 1;
    let mut power = a;
    // 254 = 2 + 4 + 8 + 16 + 32 + 64 + 128.
    for _ in 1..8 {
        power = multiply(power, power);
        result = multiply(result, power);
    }
    result
}

#[cfg(test)]
mod tests;
