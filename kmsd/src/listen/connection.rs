//! One connection: hyper over a stream with deadlines, until either side ends it.

use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;

use super::deadline::{Limits, Stage, Timed};
use super::places::Slot;
use super::server::{Shared, stopped};
use super::source::Source;
use crate::api;
use crate::service::Service;

/// Largest head of a request, in bytes.
const MAX_HEAD: usize = 16 * 1024;
/// Most header lines of a request.
const MAX_HEADERS: usize = 64;

/// Serves a connection until it ends, or for `idle` no request comes; at shutdown a request in progress is still answered.
pub(super) async fn serve<S: Service>(
    shared: Arc<Shared<S>>,
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    source: Source,
    slot: Slot,
    idle: Duration,
    mut stopping: watch::Receiver<bool>,
) {
    let stage = Arc::new(Stage::default());
    let limits = Limits {
        idle,
        head: shared.limits.head,
    };
    let stream = Timed::new(stream, Arc::clone(&stage), limits);
    let slot = Arc::new(slot);
    let place = Arc::clone(&slot);
    let service = service_fn(move |request| {
        stage.request_begins();
        let (stage, shared) = (Arc::clone(&stage), Arc::clone(&shared));
        let (source, slot) = (source.clone(), Arc::clone(&slot));
        async move {
            let response = api::answer(&shared, &source, &slot, request).await;
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
        tracing::debug!(%error, "a connection ended early");
    }
}
