//! The ciphertext blob: a header that names the key and its version, and a sealed message.
//!
//! ```text
//!  0   4  "KMSB"
//!  4   1  format, 1
//!  5   1  flags: bit 0 = multi-Region key
//!  6  16  key id
//! 22  32  key material id
//! 54  12  account, decimal digits
//! 66   1  n, length of the Region name, 1 to 32
//! 67   n  Region
//!  +   8  first bytes of SHA-256 over everything above
//!  +  64  nonce 16, commitment 32, tag 16 around the ciphertext (kms_crypto::envelope)
//! ```
//!
//! The header and the encryption context are authenticated with the message. The digest in the
//! header keeps nothing secret: it tells a damaged header (`InvalidCiphertextException`) from a whole
//! one that names a key of another store (`AccessDeniedException`). The largest plaintext, 4096
//! bytes, gives at most 4267 bytes of 6144.

use std::collections::BTreeMap;

use kms_crypto::sha256;

use crate::ids::{KeyId, MaterialId, Scope};

const MAGIC: &[u8; 4] = b"KMSB";
const FORMAT: u8 = 1;
const MULTI_REGION: u8 = 1;
const DIGEST: usize = 8;

/// What a blob says about itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// Account and Region of the key.
    pub scope: Scope,
    /// The key.
    pub key: KeyId,
    /// The version of its material.
    pub material: MaterialId,
}

impl Header {
    /// The bytes that start the blob.
    pub fn encode(&self) -> Vec<u8> {
        let (multi_region, id) = self.key.to_parts();
        let region = self.scope.region.as_bytes();
        let mut out = Vec::with_capacity(67 + region.len() + DIGEST);
        out.extend_from_slice(MAGIC);
        out.push(FORMAT);
        out.push(if multi_region { MULTI_REGION } else { 0 });
        out.extend_from_slice(&id);
        out.extend_from_slice(&self.material.0);
        out.extend_from_slice(self.scope.account.as_bytes());
        out.push(u8::try_from(region.len()).unwrap_or(u8::MAX));
        out.extend_from_slice(region);
        let digest = sha256(&[&out]);
        out.extend(digest.iter().take(DIGEST));
        out
    }

    /// Splits a blob into what its header says, the header's bytes and the sealed message. `None`
    /// for anything that this format does not write.
    pub fn decode(blob: &[u8]) -> Option<(Self, &[u8], &[u8])> {
        let rest = blob.strip_prefix(MAGIC)?;
        let (&format, rest) = rest.split_first()?;
        let (&flags, rest) = rest.split_first()?;
        let (id, rest) = rest.split_first_chunk::<16>()?;
        let (material, rest) = rest.split_first_chunk::<32>()?;
        let (account, rest) = rest.split_first_chunk::<12>()?;
        let (&length, rest) = rest.split_first()?;
        let (region, rest) = rest.split_at_checked(usize::from(length))?;
        let (digest, sealed) = rest.split_first_chunk::<DIGEST>()?;
        if format != FORMAT || flags > MULTI_REGION {
            return None;
        }
        let (signed, _) = blob.split_at_checked(67 + region.len())?;
        if !sha256(&[signed]).starts_with(digest) {
            return None;
        }
        let text = |bytes| std::str::from_utf8(bytes).ok();
        let scope = Scope::new(text(account)?, text(region)?)?;
        let header = Self {
            scope,
            key: KeyId::from_parts(flags == MULTI_REGION, *id),
            material: MaterialId(*material),
        };
        let (header_bytes, _) = blob.split_at_checked(blob.len() - sealed.len())?;
        Some((header, header_bytes, sealed))
    }
}

/// What is authenticated with a message: the header's bytes, then the encryption context in an
/// encoding that does not depend on the order of its pairs and that no two contexts share (pairs in
/// order of their names, every text preceded by its length in eight bytes).
pub fn associated_data(header: &[u8], context: &BTreeMap<String, String>) -> Vec<u8> {
    let mut out = Vec::with_capacity(header.len() + 64);
    out.extend_from_slice(b"kmsd message 1\0");
    let mut field = |bytes: &[u8]| {
        out.extend_from_slice(&(bytes.len() as u64).to_be_bytes());
        out.extend_from_slice(bytes);
    };
    field(header);
    for (name, value) in context {
        field(name.as_bytes());
        field(value.as_bytes());
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn header(region: &str, multi_region: bool) -> Header {
        Header {
            scope: Scope::new("000000000000", region).unwrap(),
            key: KeyId::from_random([9; 16], multi_region),
            material: MaterialId([3; 32]),
        }
    }

    #[test]
    fn headers_read_back() {
        for h in [
            header("local-host-1", false),
            header("a", true),
            header(&"x".repeat(32), false),
        ] {
            let mut blob = h.encode();
            let length = blob.len();
            blob.extend_from_slice(b"sealed");
            let (read, bytes, sealed) = Header::decode(&blob).unwrap();
            assert_eq!((&read, bytes.len(), sealed), (&h, length, &b"sealed"[..]));
        }
    }

    #[test]
    fn the_largest_plaintext_fits() {
        assert!(header(&"x".repeat(32), false).encode().len() + 64 + 4096 <= 4267);
    }

    #[test]
    fn every_flipped_bit_of_the_header_and_every_cut_is_noticed() {
        let whole = header("local-host-1", false).encode();
        for bit in 0..whole.len() * 8 {
            let mut damaged = whole.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(Header::decode(&damaged).is_none(), "bit {bit}");
        }
        for length in 0..whole.len() {
            assert!(
                Header::decode(&whole[..length]).is_none(),
                "length {length}"
            );
        }
    }

    fn contexts() -> impl Strategy<Value = BTreeMap<String, String>> {
        // A tiny alphabet with separators in it, so that careless joins would collide.
        proptest::collection::btree_map("[ab\0:=,]{0,3}", "[ab\0:=,]{0,3}", 0..4)
    }

    proptest! {
        #[test]
        fn no_two_contexts_share_an_encoding(a in contexts(), b in contexts()) {
            let equal = associated_data(b"h", &a) == associated_data(b"h", &b);
            prop_assert_eq!(equal, a == b);
        }

        #[test]
        fn decoding_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Header::decode(&bytes);
            let mut prefixed = b"KMSB\x01\x00".to_vec();
            prefixed.extend_from_slice(&bytes);
            let _ = Header::decode(&prefixed);
        }
    }
}
