//! The socket, or loopback port, of metrics: `GET /metrics`, apart from the API.

use std::convert::Infallible;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{Semaphore, watch};

use super::text;
use crate::config;
use crate::exit::Failure;
use crate::listen::server::stopped;
use crate::listen::{Cleanup, Listener};

/// Connections at a time; more wait.
const CONNECTIONS: usize = 8;
/// How long one scrape may take, and a connection may wait for the next.
const PATIENCE: Duration = Duration::from_secs(60);

/// The places where metrics are given out.
pub(crate) struct Places {
    unix: Option<(UnixListener, Cleanup)>,
    tcp: Option<TcpListener>,
}

/// Makes what is configured. In a runtime.
pub(crate) async fn open(metrics: &config::Metrics) -> Result<Places, Failure> {
    let unix = match &metrics.socket {
        Some(path) => Some(unix(path, metrics)?),
        None => None,
    };
    let tcp = match metrics.listen {
        Some(address) => {
            let listener = TcpListener::bind(address).await.map_err(|e| {
                Failure::listen(
                    format!("metrics cannot be given out on {address}: {e}"),
                    "Choose another port with `metrics.listen`, or end the program that has it.",
                )
            })?;
            Some(listener)
        }
        None => None,
    };
    Ok(Places { unix, tcp })
}

fn unix(path: &Path, metrics: &config::Metrics) -> Result<(UnixListener, Cleanup), Failure> {
    // The same care as for the socket of the API.
    let server = config::Server {
        socket: path.to_owned(),
        socket_mode: metrics.socket_mode.clone(),
        socket_group: metrics.socket_group.clone(),
        ..config::Server::default()
    };
    let listener = Listener::bind(&server)?;
    let failed = |e: io::Error| {
        Failure::listen(
            format!("metrics cannot be given out on {}: {e}", path.display()),
            "Choose another path with `metrics.socket`.",
        )
    };
    listener.into_tokio().map_err(failed)
}

/// Gives out what `scrape` writes until told to stop.
pub(crate) async fn run<S>(places: Places, scrape: S, stopping: watch::Receiver<bool>)
where
    S: Fn() -> String + Send + Sync + 'static,
{
    let scrape = Arc::new(scrape);
    let slots = Arc::new(Semaphore::new(CONNECTIONS));
    let unix = async {
        let Some((listener, _cleanup)) = &places.unix else {
            return std::future::pending().await;
        };
        loop {
            match listener.accept().await {
                Ok((stream, _)) => spawn(stream, &scrape, &slots).await,
                Err(error) => failed(&error).await,
            }
        }
    };
    let tcp = async {
        let Some(listener) = &places.tcp else {
            return std::future::pending().await;
        };
        loop {
            match listener.accept().await {
                Ok((stream, _)) => spawn(stream, &scrape, &slots).await,
                Err(error) => failed(&error).await,
            }
        }
    };
    let mut end = stopping;
    tokio::select! {
        () = unix => {}
        () = tcp => {}
        () = stopped(&mut end) => {}
    }
}

async fn failed(error: &io::Error) {
    tracing::warn!(%error, "a connection for metrics cannot be accepted at the moment");
    tokio::time::sleep(Duration::from_millis(100)).await;
}

async fn spawn<S, T>(stream: T, scrape: &Arc<S>, slots: &Arc<Semaphore>)
where
    S: Fn() -> String + Send + Sync + 'static,
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let Ok(slot) = Arc::clone(slots).acquire_owned().await else {
        return;
    };
    let scrape = Arc::clone(scrape);
    tokio::spawn(async move {
        let service = service_fn(move |request| {
            let answer = answer(&request, &*scrape);
            async move { Ok::<_, Infallible>(answer) }
        });
        let connection = http1::Builder::new()
            .header_read_timeout(None)
            .max_buf_size(16 * 1024)
            .serve_connection(TokioIo::new(stream), service);
        // A scraper that says nothing, or takes nothing, gives its place to another.
        let _ = tokio::time::timeout(PATIENCE, connection).await;
        drop(slot);
    });
}

fn answer(request: &Request<Incoming>, scrape: &dyn Fn() -> String) -> Response<Full<Bytes>> {
    let (status, body) = match (request.method(), request.uri().path()) {
        (&Method::GET, "/metrics") => (StatusCode::OK, scrape()),
        (&Method::GET, "/") => (StatusCode::OK, "kmsd: metrics are at /metrics\n".to_owned()),
        _ => (
            StatusCode::NOT_FOUND,
            "There is only GET /metrics.\n".to_owned(),
        ),
    };
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    let kind = HeaderValue::from_static(text::CONTENT_TYPE);
    response.headers_mut().insert(CONTENT_TYPE, kind);
    response
}
