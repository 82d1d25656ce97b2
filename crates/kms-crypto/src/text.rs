//! Keys as text for humans: a word that says what it is, then Crockford's base 32 in groups, with a checksum.

use zeroize::{Zeroize, Zeroizing};

use crate::error::TextError;
use crate::{CryptoError, SecretBytes, constant_time_eq, sha256};

pub(crate) const PRIVATE: &str = "KMSD-RECOVERY-1";
pub(crate) const PUBLIC: &str = "KMSD-RECIPIENT-1";
pub(crate) const SHARE: &str = "KMSD-SHARE-1";

/// No I, L, O (they look like digits) and no U (<https://www.crockford.com/base32.html>).
const ALPHABET: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";
const CHECKSUM: usize = 3;
const GROUP: usize = 8;

/// With the checksum `key` has a multiple of five bytes, so that it fills its characters: 32 bytes are 56 of them.
pub(crate) fn encode(word: &'static str, key: &[u8]) -> SecretBytes {
    let payload = with_checksum(word, key);
    let characters = characters(key.len());
    // The final length is reserved, so that growing leaves no copies on the heap.
    let mut text = Vec::with_capacity(word.len() + characters + characters / GROUP + 1);
    text.extend_from_slice(word.as_bytes());
    let mut written = 0;
    for five in payload.chunks(5) {
        let mut bits = five
            .iter()
            .fold(0_u64, |bits, byte| bits << 8 | u64::from(*byte));
        for shift in (0..8).rev() {
            if written % GROUP == 0 {
                text.push(b'-');
            }
            let digit = (bits >> (5 * shift)) & 31;
            text.extend(ALPHABET.get(usize::from(digit as u8)));
            written += 1;
        }
        bits.zeroize();
    }
    SecretBytes::from(text)
}

pub(crate) fn decode(word: &'static str, text: &str, key: &mut [u8]) -> Result<(), CryptoError> {
    let mut clean = Zeroizing::new(Vec::with_capacity(text.len()));
    clean.extend(
        text.bytes()
            .filter(|byte| !byte.is_ascii_whitespace() && *byte != b'-')
            .map(|byte| byte.to_ascii_uppercase()),
    );
    let bare: Vec<u8> = word.bytes().filter(|byte| *byte != b'-').collect();
    let digits = clean
        .strip_prefix(bare.as_slice())
        .ok_or(TextError::Prefix(word))?;

    let mut values = Zeroizing::new(Vec::with_capacity(digits.len()));
    for digit in digits {
        let digit = match digit {
            b'O' => b'0',
            b'I' | b'L' => b'1',
            other => *other,
        };
        let value = ALPHABET.iter().position(|known| *known == digit);
        let value = value.ok_or(TextError::Character(values.len()))?;
        values.push(value as u64);
    }
    if values.len() != characters(key.len()) {
        return Err(TextError::Length {
            expected: characters(key.len()),
            got: values.len(),
        }
        .into());
    }

    let mut payload = Zeroizing::new(vec![0_u8; key.len() + CHECKSUM]);
    for (five, eight) in payload.chunks_mut(5).zip(values.chunks(8)) {
        let bits = eight.iter().fold(0_u64, |bits, value| bits << 5 | value);
        let [_, _, _, bytes @ ..] = bits.to_be_bytes();
        for (to, from) in five.iter_mut().zip(bytes) {
            *to = from;
        }
    }
    for (to, from) in key.iter_mut().zip(payload.iter()) {
        *to = *from;
    }
    if constant_time_eq(with_checksum(word, key).as_slice(), payload.as_slice()) {
        Ok(())
    } else {
        key.zeroize();
        Err(TextError::Checksum.into())
    }
}

/// The key and 24 bits of SHA-256 over the word and the key, so that a key of one kind is not read as another.
fn with_checksum(word: &str, key: &[u8]) -> Zeroizing<Vec<u8>> {
    let sum = sha256(&[word.as_bytes(), key]);
    let mut payload = Zeroizing::new(vec![0; key.len() + CHECKSUM]);
    for (to, from) in payload.iter_mut().zip(key.iter().chain(&sum)) {
        *to = *from;
    }
    payload
}

/// How many characters so many bytes and their checksum have.
fn characters(bytes: usize) -> usize {
    (bytes + CHECKSUM) * 8 / 5
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{RecoveryPrivateKey, RecoveryPublicKey};

    fn written(key: &[u8; 32]) -> String {
        String::from_utf8(encode(PRIVATE, key).expose().to_vec()).unwrap()
    }

    fn read(text: &str) -> Result<[u8; 32], CryptoError> {
        let mut key = [0; 32];
        decode(PRIVATE, text, &mut key).map(|()| key)
    }

    #[test]
    fn text_has_the_promised_shape_and_reads_back() {
        let key = std::array::from_fn(|at| (at * 37) as u8);
        let text = written(&key);
        let groups: Vec<&str> = text
            .strip_prefix("KMSD-RECOVERY-1-")
            .unwrap()
            .split('-')
            .collect();
        assert_eq!(groups.len(), 7);
        assert!(groups.iter().all(|group| group.len() == 8));
        assert_eq!(read(&text), Ok(key));
        for extreme in [[0; 32], [0xff; 32]] {
            assert_eq!(read(&written(&extreme)), Ok(extreme));
        }
    }

    #[test]
    fn people_may_type_it_their_way() {
        let key = [0; 32];
        let text = written(&key);
        assert_eq!(read(&text.to_lowercase()), Ok(key));
        assert_eq!(
            read(&format!("  {}\r\n", text.replace('-', " - "))),
            Ok(key)
        );
        let (word, rest) = text.split_at(PRIVATE.len());
        assert_eq!(read(&format!("{word}{}", rest.replace('0', "o"))), Ok(key));
        assert_eq!(
            read(&format!(
                "{word}{}",
                rest.replace('1', "l").replace('-', "")
            )),
            Ok(key)
        );
    }

    #[test]
    fn every_single_wrong_character_is_found() {
        let text = written(&[0x5a; 32]);
        for at in PRIVATE.len()..text.len() {
            for wrong in ALPHABET.iter().map(|byte| char::from(*byte)) {
                let mut changed = text.clone();
                if !changed[at..].starts_with(['-', wrong]) {
                    changed.replace_range(at..=at, &wrong.to_string());
                    assert_eq!(
                        read(&changed),
                        Err(TextError::Checksum.into()),
                        "{wrong} at {at}"
                    );
                }
            }
        }
    }

    #[test]
    fn what_is_wrong_is_said() {
        let text = written(&[7; 32]);
        assert_eq!(read(""), Err(TextError::Prefix(PRIVATE).into()));
        assert_eq!(read(&text[1..]), Err(TextError::Prefix(PRIVATE).into()));
        let short = TextError::Length {
            expected: 56,
            got: 55,
        };
        assert_eq!(read(&text[..text.len() - 1]), Err(short.into()));
        let long = TextError::Length {
            expected: 56,
            got: 57,
        };
        assert_eq!(read(&format!("{text}Z")), Err(long.into()));
        assert_eq!(
            read(&text.replace(&text[16..17], "ü")),
            Err(TextError::Character(0).into())
        );
        assert_eq!(
            read(&format!("{PRIVATE}-01u")),
            Err(TextError::Character(2).into())
        );
    }

    #[test]
    fn a_public_key_is_not_read_as_a_private_one() {
        let private = RecoveryPrivateKey::generate().unwrap();
        let public = private.public_key().unwrap();
        let text = public.to_text();
        assert_eq!(RecoveryPublicKey::from_text(&text), Ok(public));
        assert!(RecoveryPrivateKey::from_text(&text).is_err());
        let renamed = text.replace(PUBLIC, PRIVATE);
        assert_eq!(
            RecoveryPrivateKey::from_text(&renamed).err(),
            Some(TextError::Checksum.into())
        );
    }
}
