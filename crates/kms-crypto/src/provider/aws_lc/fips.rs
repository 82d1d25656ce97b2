//! Which module of AWS-LC this is, and whether it works.
#![allow(
    unsafe_code,
    reason = "the name of the version is only in AWS-LC's C interface"
)]

use std::ffi::CStr;

use super::lc;

/// What AWS-LC calls itself.
pub(crate) fn version() -> String {
    // SAFETY: takes a number and gives a static string that ends with a zero.
    let text = unsafe { CStr::from_ptr(lc::OpenSSL_version(lc::OPENSSL_VERSION)) };
    text.to_string_lossy().into_owned()
}

/// Runs the self-tests of the module.
pub(crate) fn self_test() -> bool {
    aws_lc_rs::try_fips_self_test().is_ok()
}

/// Whether the module is the validated one, in its approved mode: it has checked its own code when it was loaded.
pub(crate) fn approved_mode() -> bool {
    aws_lc_rs::try_fips_mode().is_ok()
}
