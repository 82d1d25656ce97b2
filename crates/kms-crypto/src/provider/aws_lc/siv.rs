//! RFC 5297 (AES-SIV) from AWS-LC's AES-CMAC and AES-CTR.

use aws_lc_rs::cmac::{self, AES_256, Key};
use zeroize::Zeroize;

use super::array;
use super::context::{Cipher, Pool};
use crate::CryptoError;
use crate::provider::{Direction, Siv};

const FAILED: CryptoError = CryptoError::Provider("AES-SIV");

/// AEAD_AES_SIV_CMAC_512: the first half of the key is for S2V, the second for CTR.
pub(crate) struct AwsLcSiv {
    mac: Key,
    ctr: Pool,
    /// CMAC of the zero block, with which every S2V begins.
    start: [u8; 16],
}

impl Siv for AwsLcSiv {
    fn new(key: &[u8; 64]) -> Result<Self, CryptoError> {
        Self::with(AES_256, Cipher::Aes256Ctr, key)
    }

    fn seal(&self, headers: &[&[u8]], data: &mut [u8]) -> Result<[u8; 16], CryptoError> {
        let iv = self.s2v(headers, data)?;
        self.apply_keystream(&iv, data)?;
        Ok(iv)
    }

    fn open(&self, headers: &[&[u8]], data: &mut [u8], iv: &[u8; 16]) -> Result<(), CryptoError> {
        self.apply_keystream(iv, data)?;
        if crate::constant_time_eq(&self.s2v(headers, data)?, iv) {
            Ok(())
        } else {
            Err(CryptoError::Authentication)
        }
    }
}

impl AwsLcSiv {
    /// `mac` and `ctr` both take half the key.
    fn with(mac: cmac::Algorithm, ctr: Cipher, key: &[u8]) -> Result<Self, CryptoError> {
        let (mac_key, ctr_key) = key.split_at(key.len() / 2);
        let mac = Key::new(mac, mac_key).map_err(|_| FAILED)?;
        let ctr = Pool::new(ctr, ctr_key, Direction::Encrypt)?;
        let start = mac_of(&mac, &[&[0; 16]])?;
        Ok(Self { mac, ctr, start })
    }

    /// RFC 5297 section 2.4.
    fn s2v(&self, headers: &[&[u8]], last: &[u8]) -> Result<[u8; 16], CryptoError> {
        let mut state = self.start;
        for header in headers {
            state = xor(double(state), mac_of(&self.mac, &[header])?);
        }
        let result = match last
            .len()
            .checked_sub(16)
            .and_then(|at| last.split_at_checked(at))
        {
            Some((front, end)) => {
                // "xorend": the state is added to the last 16 bytes.
                let mut end = xor(array(end), state);
                let result = mac_of(&self.mac, &[front, &end]);
                end.zeroize();
                result
            }
            None => {
                let mut padded = [0_u8; 16];
                for (to, from) in padded.iter_mut().zip(last.iter().chain(&[0x80])) {
                    *to = *from;
                }
                let result = mac_of(&self.mac, &[&xor(double(state), padded)]);
                padded.zeroize();
                result
            }
        };
        state.zeroize();
        result
    }

    /// RFC 5297 section 2.6: the counter starts at the IV with two bits cleared.
    fn apply_keystream(&self, iv: &[u8; 16], data: &mut [u8]) -> Result<(), CryptoError> {
        if data.is_empty() {
            return Ok(());
        }
        let counter = u128::from_be_bytes(*iv) & !((1 << 63) | (1 << 31));
        self.ctr
            .with(|context| context.in_place(&counter.to_be_bytes(), data))
    }
}

fn mac_of(key: &Key, parts: &[&[u8]]) -> Result<[u8; 16], CryptoError> {
    let mut context = cmac::Context::with_key(key);
    for part in parts {
        context.update(part).map_err(|_| FAILED)?;
    }
    let tag = context.sign().map_err(|_| FAILED)?;
    Ok(array(tag.as_ref()))
}

/// Multiplication by x in GF(2^128), RFC 5297 section 2.3, without a branch on the secret bit.
fn double(block: [u8; 16]) -> [u8; 16] {
    let block = u128::from_be_bytes(block);
    ((block << 1) ^ (0x87 * (block >> 127))).to_be_bytes()
}

fn xor(a: [u8; 16], b: [u8; 16]) -> [u8; 16] {
    (u128::from_ne_bytes(a) ^ u128::from_ne_bytes(b)).to_ne_bytes()
}

#[cfg(test)]
mod tests {
    use data_encoding::HEXLOWER_PERMISSIVE as HEX;

    use super::*;

    fn hex(text: &str) -> Vec<u8> {
        HEX.decode(text.replace([' ', '\n'], "").as_bytes())
            .unwrap()
    }

    /// RFC 5297 has examples for AES-128 only; the code differs in nothing but the size of the key.
    fn check(key: &str, headers: &[&str], plaintext: &str, iv: &str, ciphertext: &str) {
        let siv = AwsLcSiv::with(cmac::AES_128, Cipher::Aes128Ctr, &hex(key)).unwrap();
        let headers: Vec<Vec<u8>> = headers.iter().map(|text| hex(text)).collect();
        let headers: Vec<&[u8]> = headers.iter().map(Vec::as_slice).collect();
        let mut data = hex(plaintext);
        assert_eq!(siv.seal(&headers, &mut data).unwrap().to_vec(), hex(iv));
        assert_eq!(data, hex(ciphertext));
        siv.open(&headers, &mut data, &array(&hex(iv))).unwrap();
        assert_eq!(data, hex(plaintext));
    }

    #[test]
    fn rfc_5297_a1_deterministic_example() {
        check(
            "fffefdfc fbfaf9f8 f7f6f5f4 f3f2f1f0 f0f1f2f3 f4f5f6f7 f8f9fafb fcfdfeff",
            &["10111213 14151617 18191a1b 1c1d1e1f 20212223 24252627"],
            "11223344 55667788 99aabbcc ddee",
            "85632d07 c6e8f37f 950acd32 0a2ecc93",
            "40c02b96 90c4dc04 daef7f6a fe5c",
        );
    }

    #[test]
    fn rfc_5297_a2_nonce_based_example() {
        check(
            "7f7e7d7c 7b7a7978 77767574 73727170 40414243 44454647 48494a4b 4c4d4e4f",
            &[
                "00112233 44556677 8899aabb ccddeeff deaddada deaddada ffeeddcc bbaa9988 77665544 33221100",
                "10203040 50607080 90a0",
                "09f91102 9d74e35b d84156c5 635688c0",
            ],
            "74686973 20697320 736f6d65 20706c61 696e7465 78742074 6f20656e 63727970 74207573 696e6720 5349562d 414553",
            "7bdb6e3b 432667eb 06f4d14b ff2fbd0f",
            "cb900f2f ddbe4043 26601965 c889bf17 dba77ceb 094fa663 b7a3f748 ba8af829 ea64ad54 4a272e9c 485b62a3 fd5c0d",
        );
    }
}
