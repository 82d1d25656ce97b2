//! Dry runs: kmsd answers one that went well with an error of its own.

use kms_api::ErrorCode;
use kms_api::client::ClientError;

use crate::Context;
use crate::exit::Failure;

/// The answer of a request that may have been a dry run. `None`: it was one, it would have succeeded, and that has been said.
pub(super) fn answer<T>(
    answer: Result<T, ClientError>,
    context: &Context,
) -> Result<Option<T>, Failure> {
    match answer {
        Ok(answer) => Ok(Some(answer)),
        Err(error) => {
            said(error.into(), context)?;
            Ok(None)
        }
    }
}

/// The same for a request without an answer of its own.
pub(super) fn said(failure: Failure, context: &Context) -> Result<(), Failure> {
    if failure.code == Some(ErrorCode::DryRunOperation.as_str()) {
        return context
            .output
            .done("It could be done; nothing was changed.");
    }
    Err(failure)
}
