//! The `Authorization` header.

use data_encoding::HEXLOWER;

use super::{ALGORITHM, DATE_HEADER, SERVICE, Signable, TERMINATOR, time};
use crate::{ApiError, ErrorCode};

/// Most headers that a signature may cover.
const MAX_SIGNED: usize = 64;

/// Headers that a signature must cover where a request has them: what they say decides what happens.
const MUST_BE_SIGNED: [&str; 5] = [
    "host",
    "x-amz-date",
    "x-amz-target",
    "x-amz-security-token",
    "x-amz-content-sha256",
];

/// What the `Authorization` header and the date of a request say. Nothing of it is verified yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signed {
    /// Id of the access key.
    pub access_key_id: String,
    /// Day of the credential scope, `YYYYMMDD`.
    pub date: String,
    /// Region of the credential scope.
    pub region: String,
    /// When it was signed, as it was written.
    pub stamp: String,
    /// The same in milliseconds since 1970-01-01 UTC.
    pub time_ms: i64,
    /// Names of the headers that the signature covers, lower case.
    pub headers: Vec<String>,
    /// The signature.
    pub(super) signature: [u8; 32],
}

impl Signed {
    /// Reads what a request says about its signature.
    ///
    /// # Errors
    /// `MissingAuthenticationTokenException` for a request that is not signed, `IncompleteSignatureException` for a
    /// signature that lacks something, and `InvalidSignatureException` for one that is scoped to something else.
    pub fn read(request: &Signable<'_>) -> Result<Self, ApiError> {
        let mut values = request.values("authorization");
        let Some(value) = values.next() else {
            return Err(missing());
        };
        let value = std::str::from_utf8(value).unwrap_or_default().trim();
        if values.next().is_some() {
            return Err(incomplete(
                "The request has more than one Authorization header.",
            ));
        }
        if value.is_empty() {
            return Err(missing());
        }
        let (algorithm, rest) = value.split_once(char::is_whitespace).unwrap_or((value, ""));
        if algorithm != ALGORITHM {
            return Err(incomplete(&format!(
                "Unsupported AWS 'algorithm': '{}'.",
                quoted(algorithm)
            )));
        }
        let [credential, headers, signature] = parameters(rest)?;
        let stamp = stamp(request);
        let lacking: Vec<String> = [
            (credential.is_none(), "'Credential' parameter"),
            (signature.is_none(), "'Signature' parameter"),
            (headers.is_none(), "'SignedHeaders' parameter"),
            (
                stamp.is_none(),
                "existence of either a 'X-Amz-Date' or a 'Date' header",
            ),
        ]
        .into_iter()
        .filter(|(lacks, _)| *lacks)
        .map(|(_, what)| format!("Authorization header requires {what}."))
        .collect();
        let (Some(credential), Some(headers), Some(signature), Some(stamp)) =
            (credential, headers, signature, stamp)
        else {
            return Err(incomplete(&lacking.join(" ")));
        };
        let Some(time_ms) = time::parse(stamp) else {
            return Err(incomplete(&format!(
                "Date must be in ISO-8601 'basic format'. Got '{}'. See http://en.wikipedia.org/wiki/ISO_8601",
                quoted(stamp)
            )));
        };
        let headers = signed_headers(request, headers)?;
        let parts: Vec<&str> = credential.split('/').collect();
        let [access_key_id, date, region, service, terminator] = parts[..] else {
            return Err(incomplete(&format!(
                "Credential must have exactly 5 slash-delimited elements, e.g. keyid/date/region/service/term, got '{}'",
                quoted(credential)
            )));
        };
        if terminator != TERMINATOR {
            return Err(invalid(format!(
                "Credential should be scoped with a valid terminator: '{TERMINATOR}', not '{}'.",
                quoted(terminator)
            )));
        }
        if service != SERVICE {
            return Err(invalid(format!(
                "Credential should be scoped to correct service: '{SERVICE}'."
            )));
        }
        let day = stamp.get(..8).unwrap_or_default();
        if date != day {
            return Err(invalid(format!(
                "Date in Credential scope does not match YYYYMMDD from ISO-8601 version of date from HTTP: '{}' != '{day}', from '{stamp}'.",
                quoted(date)
            )));
        }
        // One that is no signature at all is a wrong one.
        let decoded = HEXLOWER.decode(signature.as_bytes()).ok();
        let signature = decoded.and_then(|bytes| <[u8; 32]>::try_from(bytes).ok());
        let signature = signature.ok_or_else(super::verify::mismatch)?;
        Ok(Self {
            access_key_id: access_key_id.to_owned(),
            date: date.to_owned(),
            region: region.to_owned(),
            stamp: stamp.to_owned(),
            time_ms,
            headers,
            signature,
        })
    }

    /// `DATE/REGION/SERVICE/aws4_request`.
    pub(super) fn scope(&self) -> String {
        format!("{}/{}/{SERVICE}/{TERMINATOR}", self.date, self.region)
    }
}

/// Credential, SignedHeaders and Signature of the header, each at most once and in any order.
fn parameters(text: &str) -> Result<[Option<&str>; 3], ApiError> {
    let mut found = [None; 3];
    for part in text
        .split(',')
        .map(str::trim)
        .filter(|part| !part.is_empty())
    {
        let wrong = || {
            incomplete(&format!(
                "'{}' not a valid key=value pair (missing equal-sign) in Authorization header.",
                quoted(part)
            ))
        };
        let (name, value) = part.split_once('=').ok_or_else(wrong)?;
        let place = ["Credential", "SignedHeaders", "Signature"]
            .iter()
            .position(|known| *known == name.trim());
        let Some(place) = place.and_then(|place| found.get_mut(place)) else {
            continue;
        };
        if place.replace(value.trim()).is_some() {
            return Err(incomplete(&format!(
                "The Authorization header has more than one '{}' parameter.",
                quoted(name.trim())
            )));
        }
    }
    // Without a value it is not there.
    Ok(found.map(|value| value.filter(|value| !value.is_empty())))
}

/// When the request says it was signed.
fn stamp<'a>(request: &Signable<'a>) -> Option<&'a str> {
    let first = |name| {
        let value = request.values(name).next()?;
        Some(std::str::from_utf8(value).unwrap_or_default().trim())
    };
    first(DATE_HEADER).or_else(|| first("date"))
}

fn signed_headers(request: &Signable<'_>, list: &str) -> Result<Vec<String>, ApiError> {
    let names: Vec<&str> = list.split(';').collect();
    if names.len() > MAX_SIGNED {
        return Err(incomplete(&format!(
            "A signature covers at most {MAX_SIGNED} headers."
        )));
    }
    for required in MUST_BE_SIGNED {
        if !names.contains(&required)
            && (required == "host" || request.values(required).next().is_some())
        {
            return Err(incomplete(&match required {
                "host" => {
                    "'Host' or ':authority' must be a 'SignedHeader' in the AWS Authorization."
                        .to_owned()
                }
                other => format!("'{other}' must be a 'SignedHeader' in the AWS Authorization."),
            }));
        }
    }
    // A date that nobody signed is none.
    if request.values(DATE_HEADER).next().is_none() && !names.contains(&"date") {
        return Err(incomplete(
            "'Date' must be a 'SignedHeader' in the AWS Authorization.",
        ));
    }
    Ok(names.into_iter().map(str::to_owned).collect())
}

fn missing() -> ApiError {
    ApiError::new(
        ErrorCode::MissingAuthenticationToken,
        "Missing Authentication Token",
    )
}

fn incomplete(text: &str) -> ApiError {
    ApiError::new(ErrorCode::IncompleteSignature, text)
}

pub(super) fn invalid(text: String) -> ApiError {
    ApiError::new(ErrorCode::InvalidRequestSignature, text)
}

/// What a client sent, for an error's text: the beginning of it, without control characters.
fn quoted(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(128).collect()
}
