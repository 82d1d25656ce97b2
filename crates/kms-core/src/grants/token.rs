//! Grant tokens: opaque names of grants that only this store makes.
//!
//! On AWS a token makes a grant usable before the whole service knows of it. Here every grant is usable at once, so
//! that a token opens nothing; it is checked all the same, so that a wrong one is told instead of ignored. Tokens are
//! made under a key of their own for each grant: they outlive every change of the store's keys and die with the grant.

use data_encoding::{BASE64URL_NOPAD, HEXLOWER};
use kms_crypto::{constant_time_eq, hmac_sha256};

use crate::entropy::{self, Entropy, EntropyError};
use crate::ids::{KeyId, Scope};
use crate::place::Place;
use crate::rows::GrantRow;
use crate::snapshot::Snapshot;

const VERSION: u8 = 1;
const DOMAIN: &[u8] = b"kmsd grant token 1\0";
/// Version, kind of key id, key id, grant id, nonce; then the place (`ACCOUNT:REGION`) of a key that is not in the home place.
const HEAD: usize = 1 + 1 + 16 + 32 + 16;
const TAG: usize = 32;
/// In the kind: the key has an id of a multi-Region key; it is not in the home place.
const MULTI_REGION: u8 = 1;
const ELSEWHERE: u8 = 2;

/// Makes a token of a grant; every call makes another one.
///
/// # Errors
/// The random generator failed.
pub fn make(row: &GrantRow, entropy: &dyn Entropy) -> Result<String, EntropyError> {
    let (multi_region, key) = row.key.to_parts();
    let place = row.key.place();
    let mut kind = if multi_region { MULTI_REGION } else { 0 };
    if !place.is_home() {
        kind |= ELSEWHERE;
    }
    let mut token = Vec::with_capacity(HEAD + TAG);
    token.push(VERSION);
    token.push(kind);
    token.extend_from_slice(&key);
    token.extend_from_slice(&id_bytes(&row.id).unwrap_or_default());
    token.extend_from_slice(&entropy::array::<16>(entropy)?);
    token.extend_from_slice(place.to_string().as_bytes());
    let tag = tag(row, &token);
    token.extend_from_slice(&tag);
    Ok(BASE64URL_NOPAD.encode(&token))
}

/// The grant that the token was made of, if it is still there.
pub fn open<'a>(snapshot: &'a Snapshot, token: &str) -> Option<&'a GrantRow> {
    let bytes = BASE64URL_NOPAD.decode(token.as_bytes()).ok()?;
    let (head, given) = bytes.split_at_checked(bytes.len().checked_sub(TAG)?)?;
    let (&version, rest) = head.split_first()?;
    let (&kind, rest) = rest.split_first()?;
    let (key, rest) = rest.split_first_chunk::<16>()?;
    let (grant, rest) = rest.split_first_chunk::<32>()?;
    let (_nonce, place) = rest.split_first_chunk::<16>()?;
    if version != VERSION || kind > MULTI_REGION | ELSEWHERE {
        return None;
    }
    let place = match (kind & ELSEWHERE != 0, place) {
        (false, []) => Place::HOME,
        (false, _) => return None,
        // Only a place that keys are in: a token names none that was not there before.
        (true, name) => {
            let (account, region) = std::str::from_utf8(name).ok()?.split_once(':')?;
            snapshot.known_place(&Scope::new(account, region)?)?
        }
    };
    let key = KeyId::from_parts(kind & MULTI_REGION != 0, *key).at(place);
    let row = snapshot.grants.get(key, &HEXLOWER.encode(grant))?;
    constant_time_eq(&tag(row, head), given).then_some(row.as_ref())
}

fn tag(row: &GrantRow, head: &[u8]) -> [u8; 32] {
    hmac_sha256(&row.token_key.0, &[DOMAIN, head])
}

fn id_bytes(id: &str) -> Option<[u8; 32]> {
    HEXLOWER.decode(id.as_bytes()).ok()?.try_into().ok()
}
