//! Response codes: which layer spoke, what it means here.

use tss_esapi::{
    Error,
    constants::response_code::{Tss2ResponseCode, Tss2ResponseCodeKind},
};

use crate::SealError;

/// Layers whose code is the TPM's own: the chip, and the resource manager answering in its place.
const TPM_LAYERS: [u32; 2] = [0, 12];

/// What the TPM said; `None` if the failure came from the software between.
pub(super) fn kind(error: &Error) -> Option<Tss2ResponseCodeKind> {
    let Error::Tss2Error(code) = error else {
        return None;
    };
    if TPM_LAYERS.contains(&(raw(*code) >> 16)) {
        code.kind()
    } else {
        None
    }
}

/// An error mapper for a step that has no failure with a name of its own.
pub(super) fn failed(operation: &'static str) -> impl Fn(Error) -> SealError {
    move |error| SealError::Tpm {
        operation,
        reason: describe(&error),
    }
}

/// As [`failed`], for steps that the owner's password guards and that need room.
pub(super) fn owner_failed(
    operation: &'static str,
    what: &'static str,
    password_given: bool,
) -> impl Fn(Error) -> SealError {
    move |error| match kind(&error) {
        Some(Tss2ResponseCodeKind::NvSpace) => SealError::NvFull { what },
        Some(Tss2ResponseCodeKind::BadAuth | Tss2ResponseCodeKind::AuthFail) => {
            SealError::OwnerAuth {
                reason: if password_given {
                    "the given one is wrong"
                } else {
                    "none was given"
                },
            }
        }
        _ => failed(operation)(error),
    }
}

/// Words and number of a response code.
pub(super) fn describe(error: &Error) -> String {
    match error {
        Error::Tss2Error(code) => format!("{code} ({:#x})", raw(*code)),
        Error::WrapperError(kind) => kind.to_string(),
    }
}

/// The number itself, which the wrapper only shows as text.
fn raw(code: Tss2ResponseCode) -> u32 {
    let text = match code {
        Tss2ResponseCode::Success => return 0,
        Tss2ResponseCode::FormatZero(code) => code.to_string(),
        Tss2ResponseCode::FormatOne(code) => code.to_string(),
    };
    text.rsplit_once("0x")
        .and_then(|(_, digits)| u32::from_str_radix(digits, 16).ok())
        .unwrap_or(u32::MAX)
}
