//! The seam between the server and what answers requests.

use std::future::Future;

use kms_api::{ApiError, Caller, Request, Response};

/// Answers requests; the server does the rest (identity, limits, encoding, logging).
pub trait Service: Send + Sync + 'static {
    /// Answers one request of an admitted caller.
    fn call(
        &self,
        request: Request,
        caller: Caller,
    ) -> impl Future<Output = Result<Response, ApiError>> + Send;
}
