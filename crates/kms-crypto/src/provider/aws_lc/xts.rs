//! AES-256-XTS over `EVP_aes_256_xts`.

use super::context::{Cipher, Pool};
use crate::CryptoError;
use crate::provider::{Direction, Xts};

/// Both directions of one key. AES has different round keys for each.
pub(crate) struct AwsLcXts {
    encrypt: Pool,
    decrypt: Pool,
}

impl Xts for AwsLcXts {
    fn new(key: &[u8; 64]) -> Result<Self, CryptoError> {
        Ok(Self {
            encrypt: Pool::new(Cipher::Aes256Xts, key, Direction::Encrypt)?,
            decrypt: Pool::new(Cipher::Aes256Xts, key, Direction::Decrypt)?,
        })
    }

    fn in_place(
        &self,
        way: Direction,
        first: u128,
        unit: usize,
        data: &mut [u8],
    ) -> Result<(), CryptoError> {
        self.pool(way).with(|context| {
            for (tweak, chunk) in (first..).zip(data.chunks_mut(unit)) {
                context.in_place(&tweak.to_le_bytes(), chunk)?;
            }
            Ok(())
        })
    }

    fn copy(
        &self,
        way: Direction,
        first: u128,
        unit: usize,
        from: &[u8],
        to: &mut [u8],
    ) -> Result<(), CryptoError> {
        self.pool(way).with(|context| {
            let chunks = from.chunks(unit).zip(to.chunks_mut(unit));
            for (tweak, (from, to)) in (first..).zip(chunks) {
                context.copy(&tweak.to_le_bytes(), from, to)?;
            }
            Ok(())
        })
    }
}

impl AwsLcXts {
    fn pool(&self, way: Direction) -> &Pool {
        match way {
            Direction::Encrypt => &self.encrypt,
            Direction::Decrypt => &self.decrypt,
        }
    }
}
