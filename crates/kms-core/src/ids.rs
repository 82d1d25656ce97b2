//! Names of things: the account and Region a store belongs to, key ids, material ids, ARNs.

use std::fmt;
use std::str::FromStr;

use data_encoding::HEXLOWER;
use serde::{Deserialize, Serialize};

/// The account and Region that every name in one store belongs to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scope {
    /// Twelve decimal digits.
    pub account: String,
    /// For example `local-host-1`.
    pub region: String,
}

impl Scope {
    /// The longest Region name a ciphertext blob can carry.
    pub const MAX_REGION: usize = 32;

    /// A scope, if `account` has twelve digits and `region` is 1 to 32 of `[a-z0-9-]`.
    pub fn new(account: &str, region: &str) -> Option<Self> {
        let account_ok = account.len() == 12 && account.bytes().all(|b| b.is_ascii_digit());
        let region_ok = (1..=Self::MAX_REGION).contains(&region.len())
            && region
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
        (account_ok && region_ok).then(|| Self {
            account: account.to_owned(),
            region: region.to_owned(),
        })
    }

    /// `arn:aws:kms:REGION:ACCOUNT:key/ID`.
    pub fn key_arn(&self, id: &KeyId) -> String {
        format!("arn:aws:kms:{}:{}:key/{id}", self.region, self.account)
    }

    /// `arn:aws:iam::ACCOUNT:root`.
    pub fn root_arn(&self) -> String {
        format!("arn:aws:iam::{}:root", self.account)
    }

    /// `arn:aws:kmsd:REGION:ACCOUNT:LAST`, the name of a thing of kmsd's own.
    pub fn local_arn(&self, last: &str) -> String {
        format!("arn:aws:kmsd:{}:{}:{last}", self.region, self.account)
    }

    /// `arn:aws:kms:REGION:ACCOUNT:alias/NAME`; `name` starts with `alias/`.
    pub fn alias_arn(&self, name: &str) -> String {
        format!("arn:aws:kms:{}:{}:{name}", self.region, self.account)
    }
}

/// A key id: a UUID, or `mrk-` and 32 hex digits for a multi-Region key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyId {
    multi_region: bool,
    bytes: [u8; 16],
}

impl KeyId {
    /// A version 4 UUID (or a `mrk-` id) from 16 random bytes.
    pub fn from_random(mut bytes: [u8; 16], multi_region: bool) -> Self {
        if !multi_region {
            let [.., ref mut version, _, ref mut variant, _, _, _, _, _, _, _] = bytes;
            *version = (*version & 0x0f) | 0x40;
            *variant = (*variant & 0x3f) | 0x80;
        }
        Self {
            multi_region,
            bytes,
        }
    }

    /// The 16 bytes of the id with the flag that tells the two spellings apart.
    pub fn to_parts(self) -> (bool, [u8; 16]) {
        (self.multi_region, self.bytes)
    }

    /// The inverse of [`Self::to_parts`].
    pub fn from_parts(multi_region: bool, bytes: [u8; 16]) -> Self {
        Self {
            multi_region,
            bytes,
        }
    }

    /// Whether the key is a multi-Region key (`mrk-`).
    pub fn is_multi_region(self) -> bool {
        self.multi_region
    }
}

/// A UUID's text.
pub fn uuid_text(bytes: [u8; 16]) -> String {
    KeyId::from_parts(false, bytes).to_string()
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.multi_region {
            return write!(f, "mrk-{}", HEXLOWER.encode(&self.bytes));
        }
        // In one piece: every request writes a few of these.
        let mut hex = [0; 32];
        HEXLOWER.encode_mut(&self.bytes, &mut hex);
        let mut text = [b'-'; 36];
        let parts = [
            (0..8, 0..8),
            (8..12, 9..13),
            (12..16, 14..18),
            (16..20, 19..23),
            (20..32, 24..36),
        ];
        for (from, to) in parts {
            if let (Some(from), Some(to)) = (hex.get(from), text.get_mut(to)) {
                to.copy_from_slice(from);
            }
        }
        f.write_str(std::str::from_utf8(&text).map_err(|_| fmt::Error)?)
    }
}

/// The text is not a key id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not an id of this kind")]
pub struct BadId;

impl FromStr for KeyId {
    type Err = BadId;

    fn from_str(text: &str) -> Result<Self, BadId> {
        if let Some(hex) = text.strip_prefix("mrk-") {
            return Ok(Self {
                multi_region: true,
                bytes: parse_hex(hex)?,
            });
        }
        let dashes = [8, 13, 18, 23];
        let shape = text.len() == 36
            && text
                .bytes()
                .enumerate()
                .all(|(at, b)| (b == b'-') == dashes.contains(&at));
        if !shape {
            return Err(BadId);
        }
        let hex: String = text.chars().filter(|c| *c != '-').collect();
        Ok(Self {
            multi_region: false,
            bytes: parse_hex(&hex)?,
        })
    }
}

/// The id of one version of key material: 64 lower-case hex digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MaterialId(pub [u8; 32]);

impl fmt::Display for MaterialId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&HEXLOWER.encode(&self.0))
    }
}

impl FromStr for MaterialId {
    type Err = BadId;

    fn from_str(text: &str) -> Result<Self, BadId> {
        parse_hex(text).map(Self)
    }
}

fn parse_hex<const N: usize>(text: &str) -> Result<[u8; N], BadId> {
    let bytes = HEXLOWER.decode(text.as_bytes()).map_err(|_| BadId)?;
    <[u8; N]>::try_from(bytes.as_slice()).map_err(|_| BadId)
}

macro_rules! serde_as_text {
    ($($id:ty),*) => {$(
        impl Serialize for $id {
            fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
                to.collect_str(self)
            }
        }
        impl<'de> Deserialize<'de> for $id {
            fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
                let text = <std::borrow::Cow<'de, str>>::deserialize(from)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    )*};
}
serde_as_text!(KeyId, MaterialId);

/// What a caller wrote where a key is expected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeyReference {
    /// A key of this store's account and Region.
    Key(KeyId),
    /// An alias of this store, with its `alias/` prefix.
    Alias(String),
}

/// Why a key reference names nothing in this store; both texts are AWS's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadReference {
    /// Neither a key id, nor an ARN, nor an alias.
    #[error("Invalid keyId '{0}'")]
    Malformed(String),
    /// An ARN of another Region.
    #[error("Invalid arn {0}")]
    OtherRegion(String),
    /// A key or alias ARN of another account.
    #[error("Key '{0}' does not exist")]
    OtherAccount(String),
}

impl KeyReference {
    /// Reads a key id, key ARN, alias name or alias ARN.
    pub fn parse(text: &str, scope: &Scope) -> Result<Self, BadReference> {
        let malformed = || BadReference::Malformed(text.to_owned());
        let Some(arn) = text.strip_prefix("arn:") else {
            if text.starts_with("alias/") {
                return Ok(Self::Alias(text.to_owned()));
            }
            return text.parse().map(Self::Key).map_err(|_| malformed());
        };
        let mut parts = arn.splitn(5, ':');
        let mut next = || parts.next().ok_or_else(malformed);
        let (_partition, service, region, account, resource) =
            (next()?, next()?, next()?, next()?, next()?);
        if service != "kms" {
            return Err(malformed());
        }
        if region != scope.region {
            return Err(BadReference::OtherRegion(region.to_owned()));
        }
        if account != scope.account {
            return Err(BadReference::OtherAccount(text.to_owned()));
        }
        match resource.strip_prefix("key/") {
            Some(id) => id.parse().map(Self::Key).map_err(|_| malformed()),
            None if resource.starts_with("alias/") => Ok(Self::Alias(resource.to_owned())),
            None => Err(malformed()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const UUID: &str = "1234abcd-12ab-34cd-56ef-1234567890ab";

    fn scope() -> Scope {
        Scope::new("000000000000", "local-host-1").unwrap()
    }

    #[test]
    fn key_ids_read_back_what_they_print() {
        for text in [UUID, "mrk-1234abcd12ab34cd56ef1234567890ab"] {
            assert_eq!(text.parse::<KeyId>().unwrap().to_string(), text);
        }
        let random = KeyId::from_random([0xff; 16], false).to_string();
        assert_eq!(random, "ffffffff-ffff-4fff-bfff-ffffffffffff");
        assert!(
            KeyId::from_random([7; 16], true)
                .to_string()
                .starts_with("mrk-0707")
        );
    }

    #[test]
    fn what_is_no_key_id_is_refused() {
        for text in [
            "",
            "x",
            "1234abcd12ab34cd56ef1234567890ab",
            "1234ABCD-12ab-34cd-56ef-1234567890ab",
            "1234abcd-12ab-34cd-56ef-1234567890a",
            "1234abcd-12ab-34cd-56ef-1234567890ag",
            "-234abcd-12ab-34cd-56ef-1234567890ab",
            "mrk-",
            "mrk-1234",
        ] {
            assert_eq!(text.parse::<KeyId>(), Err(BadId), "{text}");
        }
    }

    #[test]
    fn references_have_the_recorded_refusals() {
        let s = scope();
        let key = KeyReference::Key(UUID.parse().unwrap());
        assert_eq!(KeyReference::parse(UUID, &s), Ok(key.clone()));
        let arn = s.key_arn(&UUID.parse().unwrap());
        assert_eq!(KeyReference::parse(&arn, &s), Ok(key));
        assert_eq!(
            KeyReference::parse(&s.alias_arn("alias/x"), &s),
            Ok(KeyReference::Alias("alias/x".into()))
        );
        let text = |t: &str| KeyReference::parse(t, &s).unwrap_err().to_string();
        assert_eq!(text("nonsense"), "Invalid keyId 'nonsense'");
        assert_eq!(
            text(&arn.replace("local-host-1", "eu-west-1")),
            "Invalid arn eu-west-1"
        );
        let foreign = arn.replace("000000000000", "111111111111");
        assert_eq!(text(&foreign), format!("Key '{foreign}' does not exist"));
        assert_eq!(text("arn:aws:kms"), "Invalid keyId 'arn:aws:kms'");
        assert_eq!(
            text("arn:aws:s3:local-host-1:000000000000:key/x").find("Invalid keyId"),
            Some(0)
        );
    }
}
