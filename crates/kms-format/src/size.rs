//! Plain sizes out of lower sizes and back (FORMAT.md section 5.2): `stat` needs no key and reads no header.
//!
//! ```
//! use kms_format::size;
//!
//! assert_eq!(size::xts_lower_size(17)?, 4143);
//! assert_eq!(size::xts_plain_size(4143)?, 17);
//! # Ok::<(), size::SizeError>(())
//! ```

use crate::{ContentMode, gcm};

/// Bytes of the header page in front of every lower file.
pub const HEADER: u64 = 4096;
/// Bytes of a lower page.
pub const PAGE: u64 = 4096;
/// The largest lower size there can be: `off_t`.
pub const MAX_LOWER: u64 = i64::MAX.unsigned_abs();

const CELL: u64 = 16;
const GCM_CONTENT: u64 = gcm::CONTENT as u64;

/// A size that cannot be stored, or a lower size that means nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SizeError {
    /// The file would need a lower file of more than 2^63 − 1 bytes.
    #[error("a size of {size} bytes is too large")]
    TooLarge {
        /// The size asked for.
        size: u64,
    },
    /// The lower file is empty: its creation did not reach the disk, so nothing in it was ever synced.
    #[error("the lower file is empty: it was created, but its header never reached the disk")]
    Headerless,
    /// The lower file is shorter than a header page.
    #[error("the lower file has {lower} bytes, less than a header page: it was cut")]
    Cut {
        /// The lower size.
        lower: u64,
    },
    /// No plain size has this lower size.
    #[error("a lower size of {lower} bytes belongs to no plain size: the file was cut or extended")]
    Damaged {
        /// The lower size.
        lower: u64,
    },
}

/// The lower size of a file of `plain` bytes.
///
/// # Errors
/// [`SizeError::TooLarge`].
pub const fn lower_size(mode: ContentMode, plain: u64) -> Result<u64, SizeError> {
    match mode {
        ContentMode::Xts => xts_lower_size(plain),
        ContentMode::Gcm => gcm_lower_size(plain),
    }
}

/// The plain size of a file of `lower` bytes.
///
/// # Errors
/// Every variant of [`SizeError`].
pub const fn plain_size(mode: ContentMode, lower: u64) -> Result<u64, SizeError> {
    match mode {
        ContentMode::Xts => xts_plain_size(lower),
        ContentMode::Gcm => gcm_plain_size(lower),
    }
}

/// 4096 + P + r, with P = `plain` rounded up to 16 and r = P − `plain`.
///
/// # Errors
/// [`SizeError::TooLarge`].
pub const fn xts_lower_size(plain: u64) -> Result<u64, SizeError> {
    if plain > MAX_LOWER - HEADER - 2 * CELL {
        return Err(SizeError::TooLarge { size: plain });
    }
    let padded = plain.next_multiple_of(CELL);
    limited(
        plain,
        HEADER
            .saturating_add(padded)
            .saturating_add(padded.saturating_sub(plain)),
    )
}

/// The inverse of [`xts_lower_size`].
///
/// # Errors
/// [`SizeError::Damaged`] for codes 1 to 15, [`SizeError::Headerless`], [`SizeError::Cut`], [`SizeError::TooLarge`].
pub const fn xts_plain_size(lower: u64) -> Result<u64, SizeError> {
    let code = match code(lower) {
        Ok(code) => code,
        Err(error) => return Err(error),
    };
    match code.checked_sub((code % CELL).saturating_mul(2)) {
        Some(plain) if code == 0 || code >= CELL => Ok(plain),
        _ => Err(SizeError::Damaged { lower }),
    }
}

/// 4096 + 4096·k + (4064·k − `plain`), with k = the number of units.
///
/// # Errors
/// [`SizeError::TooLarge`].
pub const fn gcm_lower_size(plain: u64) -> Result<u64, SizeError> {
    let units = plain.div_ceil(GCM_CONTENT);
    let pad = units.saturating_mul(GCM_CONTENT).saturating_sub(plain);
    limited(
        plain,
        units
            .saturating_mul(PAGE)
            .saturating_add(HEADER)
            .saturating_add(pad),
    )
}

/// The inverse of [`gcm_lower_size`].
///
/// # Errors
/// Every variant of [`SizeError`].
pub const fn gcm_plain_size(lower: u64) -> Result<u64, SizeError> {
    let code = match code(lower) {
        Ok(code) => code,
        Err(error) => return Err(error),
    };
    let (units, pad) = (code / PAGE, code % PAGE);
    match units.saturating_mul(GCM_CONTENT).checked_sub(pad) {
        Some(plain) if pad < GCM_CONTENT => Ok(plain),
        _ => Err(SizeError::Damaged { lower }),
    }
}

const fn limited(plain: u64, lower: u64) -> Result<u64, SizeError> {
    if lower > MAX_LOWER {
        Err(SizeError::TooLarge { size: plain })
    } else {
        Ok(lower)
    }
}

const fn code(lower: u64) -> Result<u64, SizeError> {
    match lower.checked_sub(HEADER) {
        _ if lower > MAX_LOWER => Err(SizeError::TooLarge { size: lower }),
        Some(code) => Ok(code),
        None if lower == 0 => Err(SizeError::Headerless),
        None => Err(SizeError::Cut { lower }),
    }
}

#[cfg(test)]
mod tests;
