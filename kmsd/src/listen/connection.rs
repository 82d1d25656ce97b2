//! One connection: hyper over a stream with deadlines, until either side ends it.

use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tokio::sync::watch;

use super::deadline::{Limits, Stage, Timed};
use super::places::Slot;
use super::server::{Shared, stopped};
use super::vouched::Vouched;
use crate::api;
use crate::auth::Session;
use crate::service::Service;

/// Largest head of a request, in bytes.
const MAX_HEAD: usize = 16 * 1024;
/// Most header lines of a request.
const MAX_HEADERS: usize = 64;

/// Serves a connection until it ends, or for `idle` no request comes; at shutdown a request in progress is still answered.
pub(super) async fn serve<S: Service>(
    shared: Arc<Shared<S>>,
    stream: UnixStream,
    session: Session,
    slot: Slot,
    idle: Duration,
    mut stopping: watch::Receiver<bool>,
) {
    let stage = Arc::new(Stage::default());
    let limits = Limits {
        idle,
        head: shared.limits.head,
    };
    let (uid, pid) = session.peer_ids();
    let (stream, origin) = match Vouched::new(stream, uid, pid) {
        Ok(vouched) => vouched,
        Err(error) => {
            tracing::warn!(uid, pid, %error, "a connection was closed: the kernel does not vouch for it");
            return;
        }
    };
    let stream = Timed::new(stream, Arc::clone(&stage), limits);
    let session = Arc::new(session);
    let slot = Arc::new(slot);
    let place = Arc::clone(&slot);
    let service = service_fn(move |request| {
        stage.request_begins();
        let (stage, shared) = (Arc::clone(&stage), Arc::clone(&shared));
        let (session, origin) = (Arc::clone(&session), Arc::clone(&origin));
        let slot = Arc::clone(&slot);
        async move {
            let response = api::answer(&shared, &session, &origin, &slot, request).await;
            stage.request_ends();
            Ok::<_, std::convert::Infallible>(response)
        }
    });
    let connection = http1::Builder::new()
        // Deadlines are those of `Timed`.
        .header_read_timeout(None)
        .max_buf_size(MAX_HEAD)
        .max_headers(MAX_HEADERS)
        .serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    let result = tokio::select! {
        result = connection.as_mut() => result,
        () = stopped(&mut stopping) => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
        // Nothing is worked on.
        () = place.given_up() => Ok(()),
    };
    if let Err(error) = result {
        tracing::debug!(pid, %error, "a connection ended early");
    }
}
