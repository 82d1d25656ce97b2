//! From an HTTP request to an operation and back, with one log line for each.

use std::future::poll_fn;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{CONNECTION, CONTENT_TYPE, HeaderValue};
use hyper::http::request::Parts;
use hyper::{Method, Request as HttpRequest, Response as HttpResponse, StatusCode};
use kms_api::{
    ApiError, Caller, CallerRole, ErrorCode, LEASE_HEADER, LEASES_HEADER, RELIANCE_HEADER, Request,
};
use tokio::io::AsyncWriteExt;
use tokio::net::UnixStream;
use uuid::Uuid;
use zeroize::Zeroizing;

use crate::audit::Asker;
use crate::auth::{self, Asked, OnBehalfOf, Session};
use crate::listen::places::Slot;
use crate::listen::server::Shared;
use crate::listen::source::Source;
use crate::service::{Entered, ErrorReply, Refused, Reply, Service};
use crate::uuids;

mod body;

/// Answers one HTTP request.
pub(crate) async fn answer<S: Service>(
    shared: &Shared<S>,
    source: &Source,
    slot: &Slot,
    request: HttpRequest<Incoming>,
) -> HttpResponse<Full<Bytes>> {
    let start = Instant::now();
    let id = uuids::draw();
    let mut entry = Entry {
        operation: "-".into(),
        key: None,
        principal: None,
        via: None,
        is_read_only: false,
    };
    let result = process(shared, source, slot, id, request, &mut entry).await;
    let micros = u64::try_from(start.elapsed().as_micros()).unwrap_or(u64::MAX);
    let code = result
        .as_ref()
        .err()
        .map(|refusal| refusal.failure.error.code);
    shared
        .service
        .answered(&entry.operation, code, start.elapsed());
    let outcome = match &result {
        Ok(_) => "ok",
        Err(Refusal { failure, .. }) => failure.error.code.as_str(),
    };
    let reason = result
        .as_ref()
        .err()
        .and_then(|refusal| refusal.failure.error.message.as_deref());
    let (ids, address) = match source {
        Source::Socket(session, _) => (Some(session.peer_ids()), None),
        Source::Network(session) => (None, Some(session.address())),
    };
    let (uid, pid) = ids.unzip();
    let address = address.map(tracing::field::display);
    if code == Some(ErrorCode::Throttling) {
        // One record says how many there were; kmsd's own log is not to be flooded instead.
        tracing::debug!(request_id = %id, uid, pid, address, "not answered");
        return encode(result, id);
    }
    let principal = entry
        .principal
        .clone()
        .unwrap_or_else(|| source.principal());
    macro_rules! line {
        ($level:ident) => {
            tracing::$level!(
                request_id = %id,
                operation = ?entry.operation,
                principal = &*principal,
                via = entry.via.as_deref(),
                uid,
                pid,
                address,
                key = entry.key.as_deref().map(tracing::field::debug),
                outcome,
                reason = reason.map(tracing::field::debug),
                duration_us = micros,
                "request"
            )
        };
    }
    if code.is_none() && entry.is_read_only {
        // It is in the audit log. Tens of thousands of lines in a second would drown what an administrator has to see.
        line!(debug);
    } else {
        line!(info);
    }
    encode(result, id)
}

/// What the log says about a request.
struct Entry {
    operation: String,
    key: Option<String>,
    /// The caller, where it is not the connection's own.
    principal: Option<Arc<str>>,
    /// The service that asked on behalf of that one.
    via: Option<Arc<str>>,
    /// It changes nothing.
    is_read_only: bool,
}

/// An error, and whether the connection can go on after it.
struct Refusal {
    failure: ErrorReply,
    close: bool,
}

impl Refusal {
    /// One after which the connection ends.
    fn closing(error: ApiError) -> Self {
        Self {
            failure: error.into(),
            close: true,
        }
    }
}

impl From<ErrorReply> for Refusal {
    fn from(failure: ErrorReply) -> Self {
        Self {
            failure,
            close: false,
        }
    }
}

impl From<ApiError> for Refusal {
    fn from(error: ApiError) -> Self {
        ErrorReply::from(error).into()
    }
}

async fn process<S: Service>(
    shared: &Shared<S>,
    source: &Source,
    slot: &Slot,
    id: Uuid,
    request: HttpRequest<Incoming>,
    entry: &mut Entry,
) -> Result<Reply, Refusal> {
    let (parts, body) = request.into_parts();
    let target = target(&parts);
    if let Ok(target) = &target {
        let operation = target.rsplit('.').next().unwrap_or_default();
        entry.operation = operation.chars().take(64).collect();
    }
    let lease = parts
        .headers
        .get(LEASE_HEADER)
        .and_then(|value| value.to_str().ok())
        .map(Into::into);
    let user = on_behalf_of(&parts);
    let place = place(&parts);
    // Over the network nobody is known yet: of what cannot be signed rightly nothing is kept.
    let signed = match source {
        Source::Socket(..) => None,
        Source::Network(session) => match session.head(&*shared.service, &parts) {
            Ok(signed) => Some(signed),
            Err(error) => {
                let operation = entry.operation.as_str();
                let mut refusal =
                    recorded_refusal(shared, source, &parts, id, operation, error, false);
                refusal.close |= !body::discard(&parts, body, &shared.limits).await;
                return Err(refusal);
            }
        },
    };
    // The body is read whatever follows, so that the connection can be used again.
    let body = body::read(body, &shared.limits).await;
    // From here on the connection keeps its place.
    let Some(_work) = slot.work() else {
        return Err(Refusal::closing(crowded()));
    };
    // Of the network nobody is known yet: who cannot sign from an address takes nothing from those who can.
    if let (Source::Socket(..), Some(asker)) = (source, source.asker()) {
        shared.service.answers(asker, &source.principal())?;
    }
    let refuse = |refusal: auth::Refusal, operation: &str| {
        let error = refusal.error(&source.principal(), operation);
        // Who may not call holds no connection.
        let close = refusal.closes();
        recorded_refusal(shared, source, &parts, id, operation, error, close)
    };
    let (mut caller, entered) = match source {
        Source::Socket(session, origin) => {
            // Only now: everything that was sent for this request has been received.
            let foreign = origin.foreign();
            let caller = match (foreign, user) {
                (Some((uid, pid)), _) => Err(auth::Refusal::Foreign { uid, pid }),
                (None, Ok(user)) => registered(shared, session, user).await,
                (None, Err(refusal)) => Err(refusal),
            };
            let caller = caller.and_then(|(caller, entered)| {
                let caller = session.in_place(caller, &place?)?;
                Ok((caller, entered))
            });
            caller.map_err(|refusal| refuse(refusal, &entry.operation))?
        }
        Source::Network(session) => {
            // A signature covers the whole body: without it nobody is known.
            let (Ok(body), Some(signed)) = (&body, &signed) else {
                return Err(body.err().unwrap_or_else(|| Refusal::closing(crowded())));
            };
            if !matches!(user, Ok(None)) {
                return Err(refuse(auth::Refusal::NotAService, &entry.operation));
            }
            // The signature says it.
            if !matches!(&place, Ok(asked) if asked.region.is_none() && asked.account.is_none()) {
                let text = "The account and the Region of a request over the network are those of its signature.";
                let refusal = auth::Refusal::Header(text.to_owned());
                return Err(refuse(refusal, &entry.operation));
            }
            let entered = shared.service.enter();
            let caller = session.caller(&*shared.service, &parts, signed, body);
            let caller = caller.map_err(|error| {
                recorded_refusal(shared, source, &parts, id, &entry.operation, error, false)
            })?;
            entry.principal = Some(Arc::clone(&caller.arn));
            if let (CallerRole::User, Some(network)) = (caller.role, &caller.network) {
                let asker = Asker::access_key(&network.access_key_id);
                shared.service.answers(asker, &caller.arn)?;
            }
            (caller, entered)
        }
    };
    if matches!(source, Source::Socket(..)) && caller.scope.is_some() {
        entry.principal = Some(Arc::clone(&caller.arn));
    }
    if let Some(via) = &caller.via {
        entry.principal = Some(Arc::clone(&caller.arn));
        entry.via = Some(Arc::clone(&via.arn));
    }
    let request = read(target, body).map_err(|refusal| {
        let error = &refusal.failure.error;
        let recorded = shared
            .service
            .unreadable(id, &entry.operation, &caller, error);
        match recorded {
            Ok(()) => refusal,
            Err(error) => Refusal {
                failure: error.into(),
                close: refusal.close,
            },
        }
    })?;
    entry.is_read_only = request.is_read_only();
    entry.key = request.key().map(|key| key.chars().take(256).collect());
    auth::check(&request, &caller).map_err(|refusal| refuse(refusal, &entry.operation))?;
    caller.lease = lease;
    let reply = call(shared, id, request, caller, entered).await?;
    if entry.key.is_none() {
        entry.key = reply.response.key().map(str::to_owned);
    }
    Ok(reply)
}

/// The reply to a request that was refused before a policy could be asked; it is recorded.
fn recorded_refusal<S: Service>(
    shared: &Shared<S>,
    source: &Source,
    parts: &Parts,
    id: Uuid,
    operation: &str,
    error: ApiError,
    close: bool,
) -> Refusal {
    let (ids, network) = match source {
        Source::Socket(session, _) => {
            let identity = session.identity();
            (Some((identity.uid, identity.gid, identity.pid)), None)
        }
        Source::Network(session) => {
            let asker = Asker::address(session.address());
            if let Err(throttled) = shared.service.answers(asker, &source.principal()) {
                return throttled.into();
            }
            (None, Some(session.refused(parts)))
        }
    };
    let recorded = shared.service.refused(&Refused {
        id,
        operation,
        asker: source.asker(),
        principal: &source.principal(),
        ids,
        network: network.as_ref(),
        error: &error,
    });
    Refusal {
        failure: recorded.err().unwrap_or(error).into(),
        close,
    }
}

/// The caller of a request, and the request's registration: the caller is who it is after the request was registered, so
/// that whoever waits for registered requests waits for everything that is decided about a caller who is another by then.
async fn registered<S: Service>(
    shared: &Shared<S>,
    session: &Arc<Session>,
    user: Option<OnBehalfOf>,
) -> Result<(Caller, Entered), auth::Refusal> {
    /// The name service that says something else each time says nothing.
    const ATTEMPTS: usize = 16;
    for _ in 0..ATTEMPTS {
        let found = session.caller(shared.service.needs(), user).await?;
        let entered = shared.service.enter();
        if session.is_current(&found) {
            return Ok((found.caller, entered));
        }
    }
    Err(auth::Refusal::Unsettled)
}

/// The account and Region that a request names.
fn place(parts: &Parts) -> Result<Asked, auth::Refusal> {
    let one = |name: &str| {
        let mut values = parts.headers.get_all(name).iter();
        let Some(value) = values.next() else {
            return Ok(None);
        };
        match (values.next(), value.to_str()) {
            (None, Ok(text)) if text.len() <= 64 => Ok(Some(text.to_owned())),
            _ => Err(auth::Refusal::Header(format!(
                "The header {name} is not one name."
            ))),
        }
    };
    Ok(Asked {
        region: one(kms_api::REGION_HEADER)?,
        account: one(kms_api::ACCOUNT_HEADER)?,
    })
}

/// The user that a service names.
fn on_behalf_of(parts: &Parts) -> Result<Option<OnBehalfOf>, auth::Refusal> {
    let mut values = parts.headers.get_all(kms_api::ON_BEHALF_OF).iter();
    let Some(value) = values.next() else {
        return Ok(None);
    };
    let text = match values.next() {
        None => value.to_str().unwrap_or_default(),
        // Two users are none.
        Some(_) => "",
    };
    OnBehalfOf::parse(text).map(Some)
}

/// The request that a target and a body make up.
fn read(
    target: Result<String, ApiError>,
    body: Result<Zeroizing<Vec<u8>>, Refusal>,
) -> Result<Request, Refusal> {
    let target = target?;
    Ok(Request::decode(&target, &body?)?)
}

/// Calls the service so that a client that goes away does not stop an operation half way, and a panic is an error reply
/// instead of a dead connection.
///
/// Most operations end when they are polled for the first time, which is done here; only one that has to wait becomes a
/// task of its own. A task for each would wake another thread for each.
async fn call<S: Service>(
    shared: &Shared<S>,
    id: Uuid,
    request: Request,
    caller: Caller,
    entered: Entered,
) -> Result<Reply, ErrorReply> {
    let service = Arc::clone(&shared.service);
    let mut future = Box::pin(async move { service.call(id, request, caller, entered).await });
    let first = poll_fn(|context| {
        let poll = AssertUnwindSafe(|| future.as_mut().poll(context));
        Poll::Ready(catch_unwind(poll))
    })
    .await;
    let panicked = match first {
        Ok(Poll::Ready(result)) => return result,
        Ok(Poll::Pending) => match tokio::spawn(future).await {
            Ok(result) => return result,
            Err(error) => error.is_panic(),
        },
        Err(_) => true,
    };
    tracing::error!(panicked, "an operation ended without a result");
    let text = "kmsd failed; its log has the reason.";
    Err(ApiError::new(ErrorCode::Internal, text).into())
}

/// Checks method, path, headers; returns the value of `X-Amz-Target`.
fn target(parts: &Parts) -> Result<String, ApiError> {
    let refused = |text: &str| Err(ApiError::new(ErrorCode::UnknownOperation, text));
    if parts.method != Method::POST || parts.uri.path() != "/" {
        return refused("kmsd takes POST requests for the path /.");
    }
    let header = |name| parts.headers.get(name).map(HeaderValue::as_bytes);
    if let Some(kind) = header("content-type") {
        let kind = kind.split(|byte| *byte == b';').next().unwrap_or_default();
        if !kind
            .trim_ascii()
            .eq_ignore_ascii_case(kms_api::CONTENT_TYPE.as_bytes())
        {
            return refused("The content type must be application/x-amz-json-1.1.");
        }
    }
    match header("x-amz-target").map(std::str::from_utf8) {
        Some(Ok(target)) => Ok(target.to_owned()),
        Some(Err(_)) => refused("The header X-Amz-Target is not text."),
        None => refused("The header X-Amz-Target is missing."),
    }
}

fn encode(result: Result<Reply, Refusal>, id: Uuid) -> HttpResponse<Full<Bytes>> {
    let encoded = result.and_then(|reply| {
        let body = reply
            .response
            .to_json()
            .map_err(|e| Refusal::from(ApiError::new(ErrorCode::Internal, e.to_string())))?;
        Ok((reply, body))
    });
    let notes;
    let (status, body, close) = match encoded {
        // The buffer is wiped when hyper has sent it.
        Ok((reply, body)) => {
            // The answer counts as on its way (`reply.in_flight`) until here: the connection writes it next.
            // Not until the client has taken it, or who reads slowly would hold up a revocation.
            notes = [
                reply.leases.map(|note| (LEASES_HEADER, note.to_header())),
                reply
                    .reliance
                    .map(|note| (RELIANCE_HEADER, note.to_header())),
            ];
            (200, Bytes::from_owner(Wiped(body)), false)
        }
        Err(Refusal { failure, close }) => {
            // Like the reply's, it is on its way (`failure.in_flight`) until here.
            let reliance = failure.reliance;
            notes = [
                None,
                reliance.map(|note| (RELIANCE_HEADER, note.to_header())),
            ];
            let error = failure.error;
            let status = error.code.http_status();
            (status, Bytes::from(error.to_json()), close)
        }
    };
    let mut response = HttpResponse::new(Full::new(body));
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::BAD_REQUEST);
    let headers = response.headers_mut();
    headers.insert(
        CONTENT_TYPE,
        HeaderValue::from_static(kms_api::CONTENT_TYPE),
    );
    if let Ok(id) = HeaderValue::from_str(&uuids::text(id)) {
        headers.insert("x-amzn-requestid", id);
    }
    for (name, value) in notes.into_iter().flatten() {
        if let Ok(value) = HeaderValue::from_str(&value) {
            headers.insert(name, value);
        }
    }
    if close {
        headers.insert(CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

/// A response body that is wiped when dropped.
struct Wiped(Zeroizing<Vec<u8>>);

impl AsRef<[u8]> for Wiped {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

/// Tells a client that there are too many connections, and hangs up.
pub(crate) async fn refuse_connection(stream: UnixStream, limit: Duration) {
    answer_and_close(stream, limit, &crowded()).await;
}

fn crowded() -> ApiError {
    ApiError::new(
        ErrorCode::ServiceUnavailable,
        "kmsd serves too many connections; try again or raise server.max_connections.",
    )
}

/// Answers whatever is asked on a new connection with `error`, and hangs up.
pub(crate) async fn answer_and_close(mut stream: UnixStream, limit: Duration, error: &ApiError) {
    let body = error.to_json();
    let status = StatusCode::from_u16(error.code.http_status()).unwrap_or(StatusCode::BAD_REQUEST);
    let head = format!(
        "HTTP/1.1 {} {}\r\ncontent-type: {}\r\nconnection: close\r\n\
         content-length: {}\r\n\r\n",
        status.as_u16(),
        status.canonical_reason().unwrap_or_default(),
        kms_api::CONTENT_TYPE,
        body.len()
    );
    let message = [head.as_bytes(), &body].concat();
    let _ = tokio::time::timeout(limit, stream.write_all(&message)).await;
}
