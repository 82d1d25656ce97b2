//! The canonical form of a request, as everybody writes it who signs one.

use std::borrow::Cow;

use super::{Signable, hash};

/// The canonical request, with the headers that `signed` names (lower case, in the order given).
///
/// `None` when one of them is not there.
pub fn request(request: &Signable<'_>, signed: &[impl AsRef<str>]) -> Option<String> {
    let mut out = String::with_capacity(512);
    out.push_str(request.method);
    out.push('\n');
    out.push_str(&path(request.path));
    out.push('\n');
    out.push_str(&query(request.query));
    out.push('\n');
    for name in signed {
        let name = name.as_ref();
        out.push_str(name);
        out.push(':');
        let mut values = request.values(name);
        push_trimmed(&mut out, values.next()?);
        for value in values {
            out.push(',');
            push_trimmed(&mut out, value);
        }
        out.push('\n');
    }
    out.push('\n');
    for (at, name) in signed.iter().enumerate() {
        if at > 0 {
            out.push(';');
        }
        out.push_str(name.as_ref());
    }
    out.push('\n');
    out.push_str(&hash(request.body));
    Some(out)
}

/// The path without `.`, `..` and double slashes, each part encoded once more.
pub fn path(path: &str) -> Cow<'_, str> {
    if matches!(path, "" | "/") {
        return Cow::Borrowed("/");
    }
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    let mut out = String::with_capacity(path.len() + 8);
    for part in &parts {
        out.push('/');
        encode(&mut out, part.as_bytes());
    }
    // What ends as a directory stays one.
    if parts.is_empty() || path.ends_with('/') || path.ends_with("/.") || path.ends_with("/..") {
        out.push('/');
    }
    Cow::Owned(out)
}

/// The parameters of a query, encoded and in order.
pub fn query(query: &str) -> String {
    let mut pairs: Vec<(String, String)> = query
        .split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            (recode(name), recode(value))
        })
        .collect();
    pairs.sort_unstable();
    let mut out = String::with_capacity(query.len() + 8);
    for (at, (name, value)) in pairs.iter().enumerate() {
        if at > 0 {
            out.push('&');
        }
        out.push_str(name);
        out.push('=');
        out.push_str(value);
    }
    out
}

/// Decodes `%XX` and encodes again, so that every way to write a text becomes one.
fn recode(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut plain = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(byte) = bytes.get(at) {
        let digit = |at: usize| bytes.get(at).and_then(|b| char::from(*b).to_digit(16));
        match (byte, digit(at + 1), digit(at + 2)) {
            (b'%', Some(high), Some(low)) => {
                plain.push(u8::try_from(high * 16 + low).unwrap_or_default());
                at += 3;
            }
            _ => {
                plain.push(*byte);
                at += 1;
            }
        }
    }
    let mut out = String::with_capacity(text.len() + 8);
    encode(&mut out, &plain);
    out
}

/// Percent-encodes everything but the unreserved characters of RFC 3986.
fn encode(out: &mut String, bytes: &[u8]) {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    for byte in bytes {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(byte) {
            out.push(char::from(*byte));
        } else {
            out.push('%');
            for half in [byte >> 4, byte & 15] {
                let digit = DIGITS.get(usize::from(half)).copied();
                out.push(char::from(digit.unwrap_or(b'0')));
            }
        }
    }
}

/// A value without spaces around it, and with one where there are several.
fn push_trimmed(out: &mut String, value: &[u8]) {
    let value = String::from_utf8_lossy(value);
    let words = value.split([' ', '\t']).filter(|word| !word.is_empty());
    for (at, word) in words.enumerate() {
        if at > 0 {
            out.push(' ');
        }
        out.push_str(word);
    }
}
