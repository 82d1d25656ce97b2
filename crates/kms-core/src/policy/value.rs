//! Values: what a request has, and how numbers, times, addresses and ARNs are read.

use std::borrow::Cow;
use std::net::IpAddr;
use std::sync::Arc;

use kms_api::civil::{Civil, days_of_month, days_since_1970};

use super::key::ConditionKey;

/// What a policy may ask about one request.
///
/// Only asked for what a statement that otherwise applies needs, so answers may be computed on
/// demand. Rules for implementations:
/// - names of encryption context members and tags are compared without case, as AWS does; where two
///   members of one request differ in case only, answer [`Values::Unknown`];
/// - [`Values::Absent`] is for what the request does not have, [`Values::Unknown`] for what it has and
///   what could not be established: a statement that needs it then denies and does not allow.
pub trait Context {
    /// The values of `key`.
    fn get(&self, key: ConditionKey<'_>) -> Values<'_>;
}

/// One value of a request.
#[derive(Clone, Debug, PartialEq)]
pub enum Value<'a> {
    /// Text, ARNs included.
    Text(Cow<'a, str>),
    /// A number.
    Number(i64),
    /// True or false.
    Bool(bool),
    /// Milliseconds since 1970. Text and date operators see it as a date; a key that is seconds since
    /// 1970 (`aws:EpochTime`) is a number.
    Time(i64),
    /// An address.
    Ip(IpAddr),
    /// Bytes.
    Bytes(&'a [u8]),
}

/// The values of a condition key in a request.
#[derive(Clone, Debug, PartialEq)]
pub enum Values<'a> {
    /// The request does not have the key.
    Absent,
    /// It cannot be said what they are; no statement allows on the strength of them.
    Unknown,
    /// A single value.
    One(Value<'a>),
    /// Texts of a multi-valued key, borrowed.
    Texts(&'a [Arc<str>]),
    /// Values of a multi-valued key.
    Many(Vec<Value<'a>>),
    /// What the caller is called.
    Names(Names<'a>),
}

/// What a caller is called: several names of one thing, not all of which need be known.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Names<'a> {
    /// Its names; the first stands for it in policy variables. Never none.
    pub known: &'a [Arc<str>],
    /// Names that it may have besides.
    pub possible: &'a [Arc<str>],
    /// What names begin with that it may have besides, whatever follows.
    pub beginnings: &'a [String],
}

impl Names<'_> {
    /// Whether there are no others than the known ones.
    pub(crate) fn are_all(&self) -> bool {
        self.possible.is_empty() && self.beginnings.is_empty()
    }
}

impl<'a> From<&'a str> for Value<'a> {
    fn from(text: &'a str) -> Self {
        Self::Text(Cow::Borrowed(text))
    }
}

impl<'a, T: Into<Value<'a>>> From<T> for Values<'a> {
    fn from(value: T) -> Self {
        Self::One(value.into())
    }
}

impl From<String> for Value<'_> {
    fn from(text: String) -> Self {
        Self::Text(Cow::Owned(text))
    }
}

impl From<bool> for Value<'_> {
    fn from(value: bool) -> Self {
        Self::Bool(value)
    }
}

impl From<i64> for Value<'_> {
    fn from(value: i64) -> Self {
        Self::Number(value)
    }
}

impl From<u32> for Value<'_> {
    fn from(value: u32) -> Self {
        Self::Number(value.into())
    }
}

impl From<IpAddr> for Value<'_> {
    fn from(value: IpAddr) -> Self {
        Self::Ip(value)
    }
}

impl<'a> Values<'a> {
    /// Whether there is a value here, or another one, that could not be established.
    pub(crate) fn is_open(&self) -> bool {
        match self {
            Self::Unknown => true,
            Self::Names(names) => !names.are_all(),
            Self::Absent | Self::One(_) | Self::Texts(_) | Self::Many(_) => false,
        }
    }

    /// A value that may be missing: absent then.
    pub fn optional(value: Option<impl Into<Value<'a>>>) -> Self {
        value.map_or(Self::Absent, |value| Self::One(value.into()))
    }

    /// A value that could perhaps not be established: unknown then.
    pub fn known(value: Option<impl Into<Value<'a>>>) -> Self {
        value.map_or(Self::Unknown, |value| Self::One(value.into()))
    }
}

impl Value<'_> {
    /// As text, the way string operators and policy variables see it.
    pub(crate) fn text(&self) -> Cow<'_, str> {
        match self {
            Self::Text(text) => Cow::Borrowed(text),
            Self::Number(number) => Cow::Owned(number.to_string()),
            Self::Bool(value) => Cow::Borrowed(if *value { "true" } else { "false" }),
            Self::Time(ms) => Cow::Owned(Civil::from_millis(*ms).iso8601()),
            Self::Ip(address) => Cow::Owned(address.to_string()),
            Self::Bytes(bytes) => Cow::Owned(data_encoding::BASE64.encode(bytes)),
        }
    }

    pub(crate) fn decimal(&self) -> Option<Decimal> {
        match self {
            Self::Text(text) => Decimal::parse(text),
            Self::Number(number) => Some(Decimal::from(*number)),
            _ => None,
        }
    }

    pub(crate) fn time(&self) -> Option<i64> {
        match self {
            Self::Text(text) => parse_time(text),
            Self::Number(secs) => secs.checked_mul(1000),
            Self::Time(ms) => Some(*ms),
            _ => None,
        }
    }

    pub(crate) fn boolean(&self) -> Option<bool> {
        match self {
            Self::Text(text) => parse_bool(text),
            Self::Bool(value) => Some(*value),
            _ => None,
        }
    }

    pub(crate) fn ip(&self) -> Option<IpAddr> {
        match self {
            Self::Text(text) => text.parse::<IpAddr>().ok().map(|ip| ip.to_canonical()),
            Self::Ip(address) => Some(address.to_canonical()),
            _ => None,
        }
    }

    /// Whether the value is exactly these bytes; text is read as base64.
    pub(crate) fn is_bytes(&self, wanted: &[u8]) -> bool {
        match self {
            Self::Bytes(bytes) => *bytes == wanted,
            other => data_encoding::BASE64
                .decode(other.text().as_bytes())
                .is_ok_and(|bytes| bytes == wanted),
        }
    }
}

/// A decimal number with nine digits after the point, compared exactly.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Decimal(i128);

impl From<i64> for Decimal {
    fn from(number: i64) -> Self {
        Self(i128::from(number) * 1_000_000_000)
    }
}

impl Decimal {
    /// Up to 18 digits, a sign, and up to nine digits after a point.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (negative, digits) = match text.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, text.strip_prefix('+').unwrap_or(text)),
        };
        let (whole, fraction) = match digits.split_once('.') {
            Some((whole, fraction)) if !fraction.is_empty() => (whole, fraction),
            Some(_) => return None,
            None => (digits, ""),
        };
        let all_digits = |text: &str| text.bytes().all(|b| b.is_ascii_digit());
        if whole.is_empty() || whole.len() > 18 || fraction.len() > 9 {
            return None;
        }
        if !all_digits(whole) || !all_digits(fraction) {
            return None;
        }
        let scaled: i128 = format!("{whole}{fraction:0<9}").parse().ok()?;
        Some(Self(if negative { -scaled } else { scaled }))
    }
}

/// `true` or `false`, in any case.
pub(crate) fn parse_bool(text: &str) -> Option<bool> {
    if text.eq_ignore_ascii_case("true") {
        Some(true)
    } else if text.eq_ignore_ascii_case("false") {
        Some(false)
    } else {
        None
    }
}

/// Milliseconds since 1970 of a time in one of W3C's profiles of ISO 8601 (`2026`, `2026-11`,
/// `2026-11-25`, `2026-11-25T20:40Z`, `2026-11-25T20:40:37.5+01:00`) or in seconds since 1970. Four
/// digits are a year.
pub(crate) fn parse_time(text: &str) -> Option<i64> {
    let unsigned = text.strip_prefix('-').unwrap_or(text);
    if unsigned.len() != 4 && !unsigned.is_empty() && unsigned.bytes().all(|b| b.is_ascii_digit()) {
        return text.parse::<i64>().ok()?.checked_mul(1000);
    }
    let (date, time) = match text.split_once(['T', 't']) {
        Some((date, time)) => (date, Some(time)),
        None => (text, None),
    };
    let mut parts = date.split('-');
    let year = number(parts.next()?, 4)?;
    let month = parts.next().map_or(Some(1), |part| number(part, 2))?;
    let day = parts.next().map_or(Some(1), |part| number(part, 2))?;
    if parts.next().is_some() || !(1..=12).contains(&month) || year == 0 {
        return None;
    }
    if !(1..=days_of_month(year, month)).contains(&day) {
        return None;
    }
    let mut ms = days_since_1970(year, month, day) * 86_400_000;
    if let Some(time) = time {
        if date.len() != 10 {
            return None;
        }
        ms += parse_clock(time)?;
    }
    Some(ms)
}

/// Milliseconds of `20:40:37.5+01:00`.
fn parse_clock(text: &str) -> Option<i64> {
    let (clock, offset) = if let Some(clock) = text.strip_suffix(['Z', 'z']) {
        (clock, 0)
    } else {
        let at = text.rfind(['+', '-'])?;
        let (clock, zone) = text.split_at_checked(at)?;
        let sign = if zone.starts_with('-') { -1 } else { 1 };
        let (hours, minutes) = zone.get(1..)?.split_once(':')?;
        let (hours, minutes) = (number(hours, 2)?, number(minutes, 2)?);
        if hours > 14 || minutes > 59 {
            return None;
        }
        (clock, sign * (hours * 60 + minutes))
    };
    let mut parts = clock.splitn(3, ':');
    let hours = number(parts.next()?, 2)?;
    let minutes = number(parts.next()?, 2)?;
    let (secs, ms) = match parts.next() {
        None => (0, 0),
        Some(part) => match part.split_once('.') {
            None => (number(part, 2)?, 0),
            Some((secs, fraction)) => {
                if fraction.is_empty() || fraction.len() > 9 {
                    return None;
                }
                let digits = format!("{fraction:0<3}");
                number(fraction, fraction.len())?;
                (number(secs, 2)?, number(digits.get(..3)?, 3)?)
            }
        },
    };
    if hours > 23 || minutes > 59 || secs > 60 {
        return None;
    }
    Some((((hours * 60 + minutes - offset) * 60) + secs) * 1000 + ms)
}

fn number(text: &str, digits: usize) -> Option<i64> {
    if text.len() != digits || !text.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    text.parse().ok()
}

/// A network: the first `bits` bits of `address`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Network {
    address: IpAddr,
    bits: u32,
}

impl Network {
    /// `203.0.113.0/24`, `2001:db8::/32` or an address.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (address, bits) = match text.split_once('/') {
            Some((address, bits)) => (address, Some(bits)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().ok()?;
        let most = if address.is_ipv4() { 32 } else { 128 };
        let bits = match bits {
            None => most,
            Some(text) => number(text, text.len()).and_then(|n| u32::try_from(n).ok())?,
        };
        (bits <= most && text.len() < 64).then_some(Self { address, bits })
    }

    pub(crate) fn contains(self, address: IpAddr) -> bool {
        // A shift by the whole width leaves nothing to compare.
        match (self.address, address) {
            (IpAddr::V4(net), IpAddr::V4(ip)) => (net.to_bits() ^ ip.to_bits())
                .checked_shr(32 - self.bits)
                .is_none_or(|rest| rest == 0),
            (IpAddr::V6(net), IpAddr::V6(ip)) => (net.to_bits() ^ ip.to_bits())
                .checked_shr(128 - self.bits)
                .is_none_or(|rest| rest == 0),
            _ => false,
        }
    }
}
