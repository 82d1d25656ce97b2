//! The seam between the server and what answers requests.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use kms_api::sigv4::{Signed, invalid_token};
use kms_api::{ApiError, Caller, ErrorCode, LeaseReport, Reliance, Request, Response};
use kms_core::audit::ActorNetwork;
use uuid::Uuid;

use crate::audit::Asker;
use crate::auth::Signer;
use crate::engine::InFlight;

/// An answer, and what the transport says about it beside the body.
#[derive(Debug)]
pub struct Reply {
    /// The answer.
    pub response: Response,
    /// Which services had to hear of the change: `X-Kmsd-Leases`.
    pub leases: Option<LeaseReport>,
    /// For how long the service that asked may rely on the answer: `X-Kmsd-Reliance`.
    pub reliance: Option<Reliance>,
    /// Kept until the answer is handed to the connection: a call that takes something away waits for
    /// the answers that were found before it.
    pub in_flight: Option<InFlight>,
}

impl From<Response> for Reply {
    fn from(response: Response) -> Self {
        Self {
            response,
            leases: None,
            reliance: None,
            in_flight: None,
        }
    }
}

/// A request that is about to be judged. From now on, whoever takes something away waits for its answer.
#[derive(Debug, Default)]
pub struct Entered {
    /// Kept until the answer is handed to the connection.
    pub in_flight: Option<InFlight>,
    /// The authorisation epoch at this moment: an answer is no newer than this, whatever it is found in.
    pub epoch: u64,
}

/// An error, and what the transport says about it beside the body.
#[derive(Debug)]
pub struct ErrorReply {
    /// The error.
    pub error: ApiError,
    /// For how long the service that asked may rely on it, where it says what somebody is allowed:
    /// `X-Kmsd-Reliance`.
    pub reliance: Option<Reliance>,
    /// As in [`Reply`]: "the dry run would have succeeded" is an answer that may be taken away, too.
    pub in_flight: Option<InFlight>,
}

impl From<ApiError> for ErrorReply {
    fn from(error: ApiError) -> Self {
        Self {
            error,
            reliance: None,
            in_flight: None,
        }
    }
}

/// Answers requests; the server does the rest (identity, limits, encoding, logging).
pub trait Service: Send + Sync + 'static {
    /// Registers a request, before it is looked whether its caller is still who it was found to be. What users and
    /// groups become after that look, [`Self::identity_changed`] waits for this request's answer.
    fn enter(&self) -> Entered {
        Entered::default()
    }

    /// Answers one request of a caller whose identity is established; `id` is the request's.
    fn call(
        &self,
        id: Uuid,
        request: Request,
        caller: Caller,
        entered: Entered,
    ) -> impl Future<Output = Result<Reply, ErrorReply>> + Send;

    /// Whether a request is looked at at all: not that of a user of whom too many have been refused.
    ///
    /// # Errors
    /// It is not; the error to reply with.
    fn answers(&self, asker: Asker, principal: &Arc<str>) -> Result<(), ApiError> {
        let _ = (asker, principal);
        Ok(())
    }

    /// Records a request that was refused before there was a caller to ask a policy about: a forged
    /// identity, another user namespace, a process that names users without being a service.
    ///
    /// # Errors
    /// That cannot be recorded; the error to reply with instead.
    fn refused(&self, refused: &Refused<'_>) -> Result<(), ApiError> {
        let _ = refused;
        Ok(())
    }

    /// Records a request of a known caller that could not be read as one: no operation, or a body that is not its JSON.
    ///
    /// # Errors
    /// That cannot be recorded; the error to reply with instead.
    fn unreadable(
        &self,
        id: Uuid,
        operation: &str,
        caller: &Caller,
        error: &ApiError,
    ) -> Result<(), ApiError> {
        let _ = (id, operation, caller, error);
        Ok(())
    }

    /// Counts a request that was answered; `outcome` is its error, none if it succeeded.
    fn answered(&self, operation: &str, outcome: Option<ErrorCode>, took: Duration) {
        let _ = (operation, outcome, took);
    }

    /// What identities are made of has changed (users, groups, their names): every decision that was
    /// made before is void. Blocks until nobody relies on one. Returns whether that is done; else it is to be said again.
    fn identity_changed(&self) -> bool {
        true
    }

    /// The access key that a request over the network says it is signed with.
    ///
    /// # Errors
    /// There is none, it is disabled, or the Region is not served; the error to reply with.
    fn signer(&self, signed: &Signed) -> Result<Arc<Signer>, ApiError> {
        let _ = signed;
        Err(invalid_token())
    }

    /// A signature of this access key was right.
    fn accepted(&self, access_key_id: &str) {
        let _ = access_key_id;
    }

    /// The wall clock, milliseconds since 1970-01-01 UTC.
    fn now_ms(&self) -> i64 {
        0
    }

    /// Which facts about a process the policies in force ask for.
    fn needs(&self) -> Needs {
        Needs::default()
    }
}

/// A request that was refused before a policy could be asked.
#[derive(Clone, Copy, Debug)]
pub struct Refused<'a> {
    /// The request's id, also in the response.
    pub id: Uuid,
    /// The operation, or what the client gave for one; `-` where it gave none.
    pub operation: &'a str,
    /// Whose records are limited by it; none of those who are not limited.
    pub asker: Option<Asker>,
    /// The principal of the connection.
    pub principal: &'a str,
    /// User, primary group and process id at connect; none over the network.
    pub ids: Option<(u32, u32, u32)>,
    /// Where it came from over the network.
    pub network: Option<&'a ActorNetwork>,
    /// The error that is replied with.
    pub error: &'a ApiError,
}

/// Facts about a process that cost something to establish.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Needs {
    /// The path of the executable, compared again at each request.
    pub exe: bool,
    /// The SHA-256 of the executable.
    pub exe_sha256: bool,
}
