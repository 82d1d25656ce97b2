//! Extended attributes of the `user.` namespace (FORMAT.md section 9). All others are stored as they are.

use data_encoding::BASE64URL_NOPAD;
use kms_crypto::random_array;
use zeroize::Zeroizing;

use crate::bytes::{Fields, put};
use crate::names::{open_padded, seal_padded};
use crate::{FormatError, NameError, Record, XattrKeys};

/// The namespace that is encrypted.
pub const NAMESPACE: &[u8] = b"user.";
/// What every lower name starts with.
pub const PREFIX: &str = "user.kmsfs.";
/// The longest attribute name, namespace included, in bytes: plain and lower.
pub const NAME_MAX: usize = 255;
/// How many bytes a lower value is longer than the plain one, for names of at most 165 bytes.
pub const OVERHEAD: usize = 29;

const HEAD: usize = OVERHEAD;
const PLAIN: u8 = 1;
const NAMED: u8 = 2;
const NAME_AAD: &[u8] = b"kmsfs/1/xattr-name";
const VALUE_AAD: &[u8] = b"kmsfs/1/xattr-value";
const DIGEST: usize = 43;

/// The lower name of an attribute: what getxattr, setxattr and removexattr use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LowerXattr {
    name: String,
    long: bool,
}

impl LowerXattr {
    /// The lower name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.name
    }
}

/// Is this attribute encrypted? The others pass through unchanged, but none of them may start with [`PREFIX`].
#[must_use]
pub fn is_encrypted(name: &[u8]) -> bool {
    name.starts_with(NAMESPACE)
}

/// Encrypts the name of an attribute (`user.` included). Deterministic.
///
/// # Errors
/// [`FormatError::Name`] for a name outside `user.`, an empty one, one with NUL, or one longer than [`NAME_MAX`].
pub fn encrypt_name(keys: &XattrKeys, name: &[u8]) -> Result<LowerXattr, FormatError> {
    let bare = bare(name)?;
    let sealed = seal_padded(&keys.names, NAME_AAD, bare)?;
    let long = BASE64URL_NOPAD
        .encode_len(sealed.len())
        .saturating_add(PREFIX.len())
        > NAME_MAX;
    let text = if long {
        format!(
            "={}",
            BASE64URL_NOPAD.encode(&kms_crypto::sha256(&[&sealed]))
        )
    } else {
        BASE64URL_NOPAD.encode(&sealed)
    };
    Ok(LowerXattr {
        name: format!("{PREFIX}{text}"),
        long,
    })
}

/// Does listing this lower attribute need its value ([`decrypt_long_name`])?
#[must_use]
pub fn is_long(lower: &[u8]) -> bool {
    lower
        .strip_prefix(PREFIX.as_bytes())
        .and_then(|text| text.strip_prefix(b"="))
        .is_some_and(|digest| digest.len() == DIGEST)
}

/// Decrypts a lower attribute name; the result starts with `user.`.
///
/// # Errors
/// [`FormatError::Name`] for a name that is not ours (show nothing), [`FormatError::TagMismatch`] for one that was
/// altered or copied from another object.
pub fn decrypt_name(keys: &XattrKeys, lower: &[u8]) -> Result<Vec<u8>, FormatError> {
    let text = lower
        .strip_prefix(PREFIX.as_bytes())
        .ok_or(NameError::Foreign)?;
    if is_long(lower) {
        return Err(NameError::SidecarMissing.into());
    }
    let sealed = BASE64URL_NOPAD
        .decode(text)
        .map_err(|_| NameError::Foreign)?;
    let bare = open_padded(Record::XattrName, &keys.names, NAME_AAD, &sealed)?;
    let name = [NAMESPACE, &bare].concat();
    self::bare(&name)?;
    Ok(name)
}

/// The name of a lower attribute for which [`is_long`] holds, out of its lower value.
///
/// # Errors
/// As [`open_value`].
pub fn decrypt_long_name(
    keys: &XattrKeys,
    lower: &[u8],
    value: &[u8],
) -> Result<Vec<u8>, FormatError> {
    let plain = open(keys, lower, NAMED, value)?;
    let (name, _) = split(&plain)?;
    let name = [NAMESPACE, name].concat();
    if encrypt_name(keys, &name)?.as_str().as_bytes() != lower {
        return Err(NameError::SidecarMismatch.into());
    }
    Ok(name)
}

/// Seals a value with a fresh nonce.
///
/// # Errors
/// [`FormatError::Crypto`].
pub fn seal_value(
    keys: &XattrKeys,
    name: &[u8],
    lower: &LowerXattr,
    value: &[u8],
) -> Result<Vec<u8>, FormatError> {
    let (kind, plain) = if lower.long {
        let name = bare(name)?;
        let length = u16::try_from(name.len()).map_err(|_| NameError::TooLong(name.len()))?;
        (NAMED, [&length.to_le_bytes(), name, value].concat())
    } else {
        (PLAIN, value.to_vec())
    };
    let mut plain = Zeroizing::new(plain);
    let nonce = random_array::<12>()?;
    let tag = keys
        .values
        .seal_in_place(&nonce, &aad(kind, lower.name.as_bytes()), &mut plain)?;
    let mut out = vec![0; HEAD];
    put(&mut out, 0, &[kind])?;
    put(&mut out, 1, &nonce)?;
    put(&mut out, 13, &tag)?;
    out.extend_from_slice(&plain);
    Ok(out)
}

/// Opens a value.
///
/// # Errors
/// [`FormatError::TagMismatch`] if it was altered or belongs to another name or object, [`FormatError::Truncated`],
/// [`FormatError::BadField`].
pub fn open_value(
    keys: &XattrKeys,
    lower: &LowerXattr,
    value: &[u8],
) -> Result<Vec<u8>, FormatError> {
    let kind = if lower.long { NAMED } else { PLAIN };
    let mut plain = open(keys, lower.name.as_bytes(), kind, value)?;
    if lower.long {
        return Ok(split(&plain)?.1.to_vec());
    }
    Ok(std::mem::take(&mut *plain))
}

/// The length of the plain value of a lower value of `length` bytes; `None` if the value has to be opened.
#[must_use]
pub fn plain_length(lower: &LowerXattr, length: usize) -> Option<usize> {
    if lower.long {
        None
    } else {
        length.checked_sub(HEAD)
    }
}

fn open(
    keys: &XattrKeys,
    lower: &[u8],
    kind: u8,
    value: &[u8],
) -> Result<Zeroizing<Vec<u8>>, FormatError> {
    const RECORD: Record = Record::XattrValue;
    let fields = Fields::at_least(RECORD, value, HEAD)?;
    if fields.u8(0)? != kind {
        return Err(fields.bad("kind", fields.u8(0)?));
    }
    let mut plain = Zeroizing::new(fields.rest(HEAD)?.to_vec());
    keys.values
        .open_in_place(
            &fields.array(1)?,
            &aad(kind, lower),
            &mut plain,
            &fields.array(13)?,
        )
        .map_err(FormatError::unopened(RECORD))?;
    Ok(plain)
}

fn split(plain: &[u8]) -> Result<(&[u8], &[u8]), FormatError> {
    let fields = Fields::at_least(Record::XattrValue, plain, 2)?;
    let length = usize::from(fields.u16(0)?);
    Ok((
        fields.slice(2, length)?,
        fields.rest(length.saturating_add(2))?,
    ))
}

fn aad(kind: u8, lower: &[u8]) -> Vec<u8> {
    [VALUE_AAD, &[kind], lower].concat()
}

fn bare(name: &[u8]) -> Result<&[u8], NameError> {
    let bare = name.strip_prefix(NAMESPACE).ok_or(NameError::Invalid)?;
    if bare.is_empty() {
        return Err(NameError::Empty);
    }
    if name.len() > NAME_MAX {
        return Err(NameError::TooLong(name.len()));
    }
    if bare.contains(&0) {
        return Err(NameError::Invalid);
    }
    Ok(bare)
}

#[cfg(test)]
mod tests;
