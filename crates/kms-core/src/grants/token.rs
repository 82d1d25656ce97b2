//! Grant tokens: opaque names of grants that only this store makes.
//!
//! On AWS a token makes a grant usable before the whole service knows of it. Here every grant is usable at once, so
//! that a token opens nothing; it is checked all the same, so that a wrong one is told instead of ignored. Tokens are
//! made under a key of their own for each grant: they outlive every change of the store's keys and die with the grant.

use data_encoding::{BASE64URL_NOPAD, HEXLOWER};
use kms_crypto::{constant_time_eq, hmac_sha256};

use crate::entropy::{self, Entropy, EntropyError};
use crate::ids::KeyId;
use crate::rows::GrantRow;
use crate::snapshot::Snapshot;

const VERSION: u8 = 1;
const DOMAIN: &[u8] = b"kmsd grant token 1\0";
/// Version, kind of key id, key id, grant id, nonce.
const HEAD: usize = 1 + 1 + 16 + 32 + 16;
const LENGTH: usize = HEAD + 32;

/// Makes a token of a grant; every call makes another one.
///
/// # Errors
/// The random generator failed.
pub fn make(row: &GrantRow, entropy: &dyn Entropy) -> Result<String, EntropyError> {
    let (multi_region, key) = row.key.to_parts();
    let mut token = Vec::with_capacity(LENGTH);
    token.push(VERSION);
    token.push(u8::from(multi_region));
    token.extend_from_slice(&key);
    token.extend_from_slice(&id_bytes(&row.id).unwrap_or_default());
    token.extend_from_slice(&entropy::array::<16>(entropy)?);
    let tag = tag(row, &token);
    token.extend_from_slice(&tag);
    Ok(BASE64URL_NOPAD.encode(&token))
}

/// The grant that the token was made of, if it is still there.
pub fn open<'a>(snapshot: &'a Snapshot, token: &str) -> Option<&'a GrantRow> {
    let bytes = BASE64URL_NOPAD.decode(token.as_bytes()).ok()?;
    if bytes.len() != LENGTH {
        return None;
    }
    let (head, given) = bytes.split_at_checked(HEAD)?;
    let (&version, rest) = head.split_first()?;
    let (&kind, rest) = rest.split_first()?;
    let (key, rest) = rest.split_first_chunk::<16>()?;
    let (grant, _nonce) = rest.split_first_chunk::<32>()?;
    if version != VERSION || kind > 1 {
        return None;
    }
    let key = KeyId::from_parts(kind == 1, *key);
    let row = snapshot.grants.get(key, &HEXLOWER.encode(grant))?;
    constant_time_eq(&tag(row, head), given).then_some(row.as_ref())
}

fn tag(row: &GrantRow, head: &[u8]) -> [u8; 32] {
    hmac_sha256(&row.token_key.0, &[DOMAIN, head])
}

fn id_bytes(id: &str) -> Option<[u8; 32]> {
    HEXLOWER.decode(id.as_bytes()).ok()?.try_into().ok()
}
