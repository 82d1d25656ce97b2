//! Names of things: key ids, material ids, ARNs.

use std::fmt;
use std::str::FromStr;

use data_encoding::HEXLOWER;
pub use kms_api::Scope;
use serde::{Deserialize, Serialize};

use crate::place::{At, Place};

/// A key of a store: its id (a UUID, or `mrk-` and 32 hex digits for a multi-Region key), and the place where it is. Keys that
/// are each other's replicas have the same id in different places.
///
/// [`fmt::Display`] writes the id alone, as AWS's members have it; [`Self::row_id`] names the place, too.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyId {
    place: Place,
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
            place: Place::HOME,
            multi_region,
            bytes,
        }
    }

    /// The 16 bytes of the id with the flag that tells the two spellings apart.
    pub fn to_parts(self) -> (bool, [u8; 16]) {
        (self.multi_region, self.bytes)
    }

    /// The inverse of [`Self::to_parts`], in the home place.
    pub fn from_parts(multi_region: bool, bytes: [u8; 16]) -> Self {
        Self {
            place: Place::HOME,
            multi_region,
            bytes,
        }
    }

    /// The key that an ARN names, in a store whose home is `home`.
    pub fn from_arn(arn: &str, home: &Scope) -> Option<Self> {
        let scope = Scope::of_arn(arn)?;
        let (_, id) = arn.rsplit_once(":key/")?;
        let place = match scope == *home {
            true => Place::HOME,
            false => Place::elsewhere(&scope),
        };
        Some(id.parse::<Self>().ok()?.at(place))
    }

    /// The key of the same id in another place.
    pub fn at(self, place: Place) -> Self {
        Self { place, ..self }
    }

    /// Where the key is.
    pub fn place(self) -> Place {
        self.place
    }

    /// All ids that there can be in a place.
    pub fn all_of(place: Place) -> std::ops::RangeInclusive<Self> {
        Self::from_parts(false, [0; 16]).at(place)..=Self::from_parts(true, [0xff; 16]).at(place)
    }

    /// The id and the place, as rows name the key.
    pub fn row_id(self) -> String {
        self.place.row_name(&self)
    }

    /// The inverse of [`Self::row_id`].
    ///
    /// # Errors
    /// It is no such name.
    pub fn from_row_id(text: &str) -> Result<Self, BadId> {
        let (place, id) = Place::of_row_name(text)?;
        Ok(id.parse::<Self>()?.at(place))
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
            return Ok(Self::from_parts(true, parse_hex(hex)?));
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
        Ok(Self::from_parts(false, parse_hex(&hex)?))
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
serde_as_text!(MaterialId);

/// In rows, a key is named with its place.
impl Serialize for KeyId {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        match self.place {
            Place::HOME => to.collect_str(self),
            _ => to.serialize_str(&self.row_id()),
        }
    }
}

impl<'de> Deserialize<'de> for KeyId {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(from)?;
        Self::from_row_id(&text).map_err(serde::de::Error::custom)
    }
}

/// What a caller wrote where a key is expected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeyReference {
    /// A key.
    Key(KeyId),
    /// An alias, with its `alias/` prefix, and where it is.
    Alias(Place, String),
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
    /// Reads a key id, key ARN, alias name or alias ARN in a request that is for the place `at`; `known` finds the place of
    /// another account.
    ///
    /// # Errors
    /// See [`BadReference`].
    pub fn parse(
        text: &str,
        at: &At,
        known: impl Fn(&Scope) -> Option<Place>,
    ) -> Result<Self, BadReference> {
        let malformed = || BadReference::Malformed(text.to_owned());
        let key = |text: &str, place| {
            let id = text.parse::<KeyId>().map_err(|_| malformed())?;
            Ok(Self::Key(id.at(place)))
        };
        let Some(arn) = text.strip_prefix("arn:") else {
            if text.starts_with("alias/") {
                return Ok(Self::Alias(at.place, text.to_owned()));
            }
            return key(text, at.place);
        };
        let mut parts = arn.splitn(5, ':');
        let mut next = || parts.next().ok_or_else(malformed);
        let (_partition, service, region, account, resource) =
            (next()?, next()?, next()?, next()?, next()?);
        if service != "kms" {
            return Err(malformed());
        }
        if region != at.scope.region {
            return Err(BadReference::OtherRegion(region.to_owned()));
        }
        let place = match account == at.scope.account {
            true => Some(at.place),
            false => Scope::new(account, region)
                .filter(|_| at.crosses)
                .and_then(|scope| known(&scope)),
        };
        let place = place.ok_or_else(|| BadReference::OtherAccount(text.to_owned()))?;
        match resource.strip_prefix("key/") {
            Some(id) => key(id, place),
            None if resource.starts_with("alias/") => Ok(Self::Alias(place, resource.to_owned())),
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
    fn rows_name_the_place_of_a_key() {
        let id: KeyId = UUID.parse().unwrap();
        assert_eq!(id.row_id(), UUID);
        assert_eq!(KeyId::from_row_id(UUID), Ok(id));
        let scope = Scope::new("222222222222", "eu-west-1").unwrap();
        let there = id.at(Place::elsewhere(&scope));
        assert_eq!(there.to_string(), UUID);
        assert_eq!(there.row_id(), format!("{UUID}@222222222222:eu-west-1"));
        assert_eq!(KeyId::from_row_id(&there.row_id()), Ok(there));
        assert_ne!(there, id);
        for bad in [
            "@",
            "@222222222222:eu-west-1@",
            "@2:eu-west-1",
            "@222222222222:",
            "@222222222222",
        ] {
            assert_eq!(
                KeyId::from_row_id(&format!("{UUID}{bad}")),
                Err(BadId),
                "{bad}"
            );
        }
        let json = serde_json::to_string(&there).unwrap();
        assert_eq!(serde_json::from_str::<KeyId>(&json).unwrap(), there);
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
        let at = |crosses| At {
            scope: s.clone().into(),
            place: Place::HOME,
            crosses,
            for_user: false,
        };
        let parse = |text: &str| KeyReference::parse(text, &at(false), Place::known);
        let id: KeyId = UUID.parse().unwrap();
        let key = KeyReference::Key(id);
        assert_eq!(parse(UUID), Ok(key.clone()));
        let arn = s.key_arn(&id);
        assert_eq!(parse(&arn), Ok(key));
        assert_eq!(
            parse(&s.alias_arn("alias/x")),
            Ok(KeyReference::Alias(Place::HOME, "alias/x".into()))
        );
        let text = |t: &str| parse(t).unwrap_err().to_string();
        assert_eq!(text("nonsense"), "Invalid keyId 'nonsense'");
        assert_eq!(
            text(&arn.replace("local-host-1", "eu-west-1")),
            "Invalid arn eu-west-1"
        );
        let foreign = arn.replace("000000000000", "111111111111");
        assert_eq!(text(&foreign), format!("Key '{foreign}' does not exist"));
        // Some requests may be about keys of other accounts, in the same Region.
        let there = Place::elsewhere(&Scope::new("111111111111", "local-host-1").unwrap());
        let across = |text: &str| KeyReference::parse(text, &at(true), Place::known);
        assert_eq!(across(&foreign), Ok(KeyReference::Key(id.at(there))));
        assert_eq!(
            across(&foreign.replace("local-host-1", "eu-west-1")),
            Err(BadReference::OtherRegion("eu-west-1".into()))
        );
        assert_eq!(text("arn:aws:kms"), "Invalid keyId 'arn:aws:kms'");
        assert_eq!(
            text("arn:aws:s3:local-host-1:000000000000:key/x").find("Invalid keyId"),
            Some(0)
        );
    }
}
