//! RFC 5297 (AES-SIV) from AWS-LC's AES-CMAC and AES-CTR.

use aws_lc_rs::cipher::{
    AES_256 as AES_256_CTR, EncryptingKey, EncryptionContext, UnboundCipherKey,
};
use aws_lc_rs::cmac::{AES_256 as AES_256_CMAC, Context, Key};
use aws_lc_rs::iv::FixedLength;
use zeroize::Zeroize;

use super::array;
use crate::CryptoError;
use crate::provider::Siv;

const FAILED: CryptoError = CryptoError::Provider("AES-SIV");

/// AEAD_AES_SIV_CMAC_512: the first half of the key is for S2V, the second for CTR.
pub(crate) struct AwsLcSiv {
    mac: Key,
    ctr: EncryptingKey,
    /// CMAC of the zero block, with which every S2V begins.
    start: [u8; 16],
}

impl Siv for AwsLcSiv {
    fn new(key: &[u8; 64]) -> Result<Self, CryptoError> {
        let (mac, ctr) = key.split_at(32);
        let mac = Key::new(AES_256_CMAC, mac).map_err(|_| FAILED)?;
        let ctr = UnboundCipherKey::new(&AES_256_CTR, ctr).map_err(|_| FAILED)?;
        let ctr = EncryptingKey::ctr(ctr).map_err(|_| FAILED)?;
        let start = cmac(&mac, &[&[0; 16]])?;
        Ok(Self { mac, ctr, start })
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
    /// RFC 5297 section 2.4.
    fn s2v(&self, headers: &[&[u8]], last: &[u8]) -> Result<[u8; 16], CryptoError> {
        let mut state = self.start;
        for header in headers {
            state = xor(double(state), cmac(&self.mac, &[header])?);
        }
        let result = match last
            .len()
            .checked_sub(16)
            .and_then(|at| last.split_at_checked(at))
        {
            Some((front, end)) => {
                // "xorend": the state is added to the last 16 bytes.
                let mut end = xor(array(end), state);
                let result = cmac(&self.mac, &[front, &end]);
                end.zeroize();
                result
            }
            None => {
                let mut padded = [0_u8; 16];
                for (to, from) in padded.iter_mut().zip(last.iter().chain(&[0x80])) {
                    *to = *from;
                }
                let result = cmac(&self.mac, &[&xor(double(state), padded)]);
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
        let context = EncryptionContext::Iv128(FixedLength::from(counter.to_be_bytes()));
        self.ctr
            .less_safe_encrypt(data, context)
            .map(|_| ())
            .map_err(|_| FAILED)
    }
}

fn cmac(key: &Key, parts: &[&[u8]]) -> Result<[u8; 16], CryptoError> {
    let mut context = Context::with_key(key);
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
