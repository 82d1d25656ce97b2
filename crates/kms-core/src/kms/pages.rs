//! Pages and their markers. A marker names the operation it came from and the last entry before it;
//! a list that changes between pages neither repeats nor skips what stays in it.

use data_encoding::BASE64URL_NOPAD;
use kms_api::{ApiError, ErrorCode};

/// One page of a list.
pub(super) struct Page<T> {
    pub(super) entries: Vec<T>,
    pub(super) next_marker: Option<String>,
    pub(super) truncated: bool,
}

/// The place a marker points to; `list` ties it to one operation and its filters.
pub(super) fn start(list: &str, marker: Option<&str>) -> Result<Option<String>, ApiError> {
    let Some(marker) = marker else {
        return Ok(None);
    };
    BASE64URL_NOPAD
        .decode(marker.as_bytes())
        .ok()
        .and_then(|bytes| String::from_utf8(bytes).ok())
        .and_then(|text| {
            text.strip_prefix(list)?
                .strip_prefix('\n')
                .map(str::to_owned)
        })
        .map(Some)
        .ok_or_else(|| {
            ApiError::new(
                ErrorCode::InvalidMarker,
                format!("Could not deserialize marker '{marker}'"),
            )
        })
}

/// A marker whose place is none of this list's.
pub(super) fn bad_marker() -> ApiError {
    ApiError::new(ErrorCode::InvalidMarker, "Could not deserialize marker")
}

/// Takes a page from `rest`, which begins after the marker; each entry comes with its place.
pub(super) fn page<T>(list: &str, limit: u32, rest: impl Iterator<Item = (String, T)>) -> Page<T> {
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    let mut rest = rest.peekable();
    let mut entries = Vec::new();
    let mut last = String::new();
    while entries.len() < limit
        && let Some((place, entry)) = rest.next()
    {
        last = place;
        entries.push(entry);
    }
    let truncated = rest.peek().is_some();
    let next_marker =
        truncated.then(|| BASE64URL_NOPAD.encode(format!("{list}\n{last}").as_bytes()));
    Page {
        entries,
        next_marker,
        truncated,
    }
}
