//! Whether a request is what its sender signed, and recent.

use super::authorization::invalid;
use super::{CONTENT_HEADER, Signable, Signed, SigningKey, canonical, hash, string_to_sign, time};
use crate::{ApiError, ErrorCode};

/// How far the clocks of both sides may be apart, in milliseconds.
pub const MAX_SKEW_MS: i64 = 300_000;

impl Signed {
    /// Verifies the signature, and that it was made at most [`MAX_SKEW_MS`] before or after `now_ms`
    /// (milliseconds since 1970-01-01 UTC).
    ///
    /// # Errors
    /// `InvalidSignatureException`.
    pub fn verify(
        &self,
        request: &Signable<'_>,
        key: &SigningKey,
        now_ms: i64,
    ) -> Result<(), ApiError> {
        self.check_time(now_ms)?;
        self.check_content(request)?;
        let canonical = canonical::request(request, &self.headers).ok_or_else(mismatch)?;
        let text = string_to_sign(&self.stamp, &self.scope(), &canonical);
        match key.is_signature(&text, &self.signature) {
            true => Ok(()),
            false => Err(mismatch()),
        }
    }

    /// Whether it was made at most [`MAX_SKEW_MS`] before or after `now_ms`, which can be said before the body is there.
    ///
    /// # Errors
    /// `InvalidSignatureException`.
    pub fn check_time(&self, now_ms: i64) -> Result<(), ApiError> {
        let stamp = &self.stamp;
        let now = time::format(now_ms);
        // To the second, as the request has it.
        let apart = self.time_ms.saturating_sub(now_ms.div_euclid(1000) * 1000);
        if apart < -MAX_SKEW_MS {
            let earliest = time::format(now_ms.saturating_sub(MAX_SKEW_MS));
            return Err(invalid(format!(
                "Signature expired: {stamp} is now earlier than {earliest} ({now} - 5 min.)"
            )));
        }
        if apart > MAX_SKEW_MS {
            let latest = time::format(now_ms.saturating_add(MAX_SKEW_MS));
            return Err(invalid(format!(
                "Signature not yet current: {stamp} is still later than {latest} ({now} + 5 min.)"
            )));
        }
        Ok(())
    }

    /// A header that says what the body is must say what it is: a signature without the body signs nothing.
    fn check_content(&self, request: &Signable<'_>) -> Result<(), ApiError> {
        let expected = hash(request.body);
        match request
            .values(CONTENT_HEADER)
            .all(|value| value.trim_ascii().eq_ignore_ascii_case(expected.as_bytes()))
        {
            true => Ok(()),
            false => Err(invalid(format!(
                "The value of '{CONTENT_HEADER}' is not the SHA-256 of the body: unsigned and streaming payloads are not supported."
            ))),
        }
    }
}

/// The error for a signature that is another than the request has.
pub(super) fn mismatch() -> ApiError {
    invalid(
        "The request signature we calculated does not match the signature you provided. Check your AWS Secret Access \
         Key and signing method. Consult the service documentation for details."
            .to_owned(),
    )
}

/// The error for a Region that is not served.
pub fn wrong_region() -> ApiError {
    invalid("Credential should be scoped to a valid region.".to_owned())
}

/// The error for an access key that there is none of, or that is disabled, and for a session token.
pub fn invalid_token() -> ApiError {
    ApiError::new(
        ErrorCode::UnrecognizedClient,
        "The security token included in the request is invalid.",
    )
}
