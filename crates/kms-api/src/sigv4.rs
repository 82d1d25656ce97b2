//! AWS Signature Version 4, header form: who sent a request, and that nobody changed it.
//!
//! Pure: neither a clock nor a store of keys is asked here. What is read ([`Signed`]), what is compared
//! ([`Signed::verify`]) and what a client makes ([`sign()`]) use the same [canonical form](canonical), so that they cannot
//! disagree. Presigned URLs, chunked uploads and SigV4A are refused: AWS KMS takes none of them.

use std::fmt;

use aws_lc_rs::{digest, hmac};
use data_encoding::HEXLOWER;
use zeroize::Zeroizing;

mod authorization;
pub mod canonical;
mod sign;
pub mod time;
mod verify;

#[cfg(test)]
mod tests;

pub use authorization::Signed;
pub use sign::{Credentials, Signature, sign};
pub use verify::{MAX_SKEW_MS, invalid_token, wrong_region};

/// The only algorithm.
pub const ALGORITHM: &str = "AWS4-HMAC-SHA256";
/// The service that credentials are scoped to.
pub const SERVICE: &str = "kms";
/// The last part of a credential scope.
pub const TERMINATOR: &str = "aws4_request";
/// Header with the time of the request.
pub const DATE_HEADER: &str = "x-amz-date";
/// Header with the token of a session.
pub const TOKEN_HEADER: &str = "x-amz-security-token";
/// Header with the SHA-256 of the body; a request may have it.
pub const CONTENT_HEADER: &str = "x-amz-content-sha256";

/// A request as it is signed.
#[derive(Clone, Copy, Debug)]
pub struct Signable<'a> {
    /// For example `POST`.
    pub method: &'a str,
    /// As it stands on the request line, without the query.
    pub path: &'a str,
    /// What follows the first `?` on the request line; empty without one.
    pub query: &'a str,
    /// Names and values in the order in which they came. Names in any case.
    pub headers: &'a [(&'a str, &'a [u8])],
    /// The whole body.
    pub body: &'a [u8],
}

impl<'a> Signable<'a> {
    /// The values of a header.
    fn values(&self, name: &str) -> impl Iterator<Item = &'a [u8]> {
        self.headers
            .iter()
            .filter(move |(known, _)| known.eq_ignore_ascii_case(name))
            .map(|(_, value)| *value)
    }
}

/// The key that signs the requests of one access key in one Region on one day. Wiped when dropped.
#[derive(Clone)]
pub struct SigningKey(Zeroizing<[u8; 32]>);

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SigningKey")
    }
}

impl SigningKey {
    /// Derives it from the secret of an access key; `date` is `YYYYMMDD`.
    pub fn derive(secret: &str, date: &str, region: &str, service: &str) -> Self {
        let first = Zeroizing::new(format!("AWS4{secret}"));
        let key = mac(first.as_bytes(), date.as_bytes());
        let key = mac(&*key, region.as_bytes());
        let key = mac(&*key, service.as_bytes());
        Self(mac(&*key, TERMINATOR.as_bytes()))
    }

    /// The signature of a string to sign, 64 lower-case hexadecimal digits.
    fn sign(&self, text: &str) -> String {
        HEXLOWER.encode(&*mac(&*self.0, text.as_bytes()))
    }

    /// Whether a signature is that of a string to sign; takes as long whatever the answer.
    fn is_signature(&self, text: &str, signature: &[u8; 32]) -> bool {
        let key = hmac::Key::new(hmac::HMAC_SHA256, &*self.0);
        hmac::verify(&key, text.as_bytes(), signature).is_ok()
    }
}

fn mac(key: &[u8], data: &[u8]) -> Zeroizing<[u8; 32]> {
    let key = hmac::Key::new(hmac::HMAC_SHA256, key);
    let tag = hmac::sign(&key, data);
    let mut out = Zeroizing::new([0; 32]);
    for (to, from) in out.iter_mut().zip(tag.as_ref()) {
        *to = *from;
    }
    out
}

/// SHA-256 in hexadecimal.
fn hash(data: &[u8]) -> String {
    HEXLOWER.encode(digest::digest(&digest::SHA256, data).as_ref())
}

/// The string to sign of a canonical request; `scope` is `DATE/REGION/SERVICE/aws4_request`.
fn string_to_sign(stamp: &str, scope: &str, canonical: &str) -> String {
    format!(
        "{ALGORITHM}\n{stamp}\n{scope}\n{}",
        hash(canonical.as_bytes())
    )
}
