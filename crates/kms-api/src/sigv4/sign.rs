//! The signature of a client.

use std::fmt;

use zeroize::Zeroizing;

use super::{
    ALGORITHM, DATE_HEADER, SERVICE, Signable, SigningKey, TERMINATOR, TOKEN_HEADER, canonical,
    string_to_sign, time,
};

/// An access key with its secret.
#[derive(Clone)]
pub struct Credentials {
    /// Its id.
    pub access_key_id: String,
    /// Its secret; wiped when dropped.
    pub secret: Zeroizing<String>,
    /// The token of a session.
    pub session_token: Option<Zeroizing<String>>,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials")
            .field("access_key_id", &self.access_key_id)
            .finish_non_exhaustive()
    }
}

/// The headers that make a request a signed one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signature {
    /// Value of `X-Amz-Date`.
    pub date: String,
    /// Value of `Authorization`.
    pub authorization: String,
}

/// Signs a request with all its headers but those that change on the way; to be sent with the headers returned, and
/// with `X-Amz-Security-Token` where the credentials have a token.
pub fn sign(
    request: &Signable<'_>,
    credentials: &Credentials,
    region: &str,
    now_ms: i64,
) -> Signature {
    let stamp = time::format(now_ms);
    let date = stamp.get(..8).unwrap_or_default();
    let mut headers = request.headers.to_vec();
    headers.retain(|(name, _)| {
        let left_out = ["authorization", "connection", "expect", "user-agent"];
        !left_out
            .iter()
            .any(|known| name.eq_ignore_ascii_case(known))
    });
    headers.push((DATE_HEADER, stamp.as_bytes()));
    if let Some(token) = &credentials.session_token {
        headers.push((TOKEN_HEADER, token.as_bytes()));
    }
    let mut names: Vec<String> = headers
        .iter()
        .map(|(name, _)| name.to_ascii_lowercase())
        .collect();
    names.sort_unstable();
    names.dedup();
    let full = Signable {
        headers: &headers,
        ..*request
    };
    // Every name is that of a header that is there.
    let canonical = canonical::request(&full, &names).unwrap_or_default();
    let scope = format!("{date}/{region}/{SERVICE}/{TERMINATOR}");
    let key = SigningKey::derive(&credentials.secret, date, region, SERVICE);
    let signature = key.sign(&string_to_sign(&stamp, &scope, &canonical));
    let authorization = format!(
        "{ALGORITHM} Credential={}/{scope}, SignedHeaders={}, Signature={signature}",
        credentials.access_key_id,
        names.join(";")
    );
    Signature {
        date: stamp,
        authorization,
    }
}
