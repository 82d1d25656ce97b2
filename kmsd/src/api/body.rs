//! The body of a request: read within limits, or read and thrown away.

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::{Body, Incoming};
use hyper::header::EXPECT;
use hyper::http::request::Parts;
use kms_api::{ApiError, ErrorCode};
use zeroize::Zeroizing;

use super::Refusal;
use crate::listen::server::Limits;

/// What is read and thrown away of a body that is too large, in bytes: a client that sends all of it
/// before it reads (as most do) then gets the answer instead of a broken pipe.
const MAX_DRAIN: usize = 32 * 1024 * 1024;

/// Reads a body and keeps nothing of it, so that a client that sends all of it before it reads gets its answer. Whether all
/// of it came, within the limits of a body: the connection can go on.
pub(super) async fn discard(parts: &Parts, mut body: Incoming, limits: &Limits) -> bool {
    // Who waits for leave to send the body is not given it.
    let announced = usize::try_from(body.size_hint().lower()).unwrap_or(usize::MAX);
    if parts.headers.contains_key(EXPECT) || announced > MAX_DRAIN {
        return false;
    }
    let read = async {
        let mut total = 0usize;
        while let Some(frame) = body.frame().await {
            let Ok(frame) = frame else {
                return false;
            };
            total = total.saturating_add(frame.data_ref().map_or(0, Bytes::len));
            if total > MAX_DRAIN {
                return false;
            }
        }
        true
    };
    tokio::time::timeout(limits.body, read)
        .await
        .unwrap_or_default()
}

/// Reads the body, within its limits of size and time.
pub(super) async fn read(
    mut body: Incoming,
    limits: &Limits,
) -> Result<Zeroizing<Vec<u8>>, Refusal> {
    let (most, limit) = (limits.request, limits.body);
    let announced = usize::try_from(body.size_hint().lower()).unwrap_or(usize::MAX);
    let read = async {
        let mut bytes = Zeroizing::new(Vec::with_capacity(announced.min(most)));
        let mut total = 0usize;
        while let Some(frame) = body.frame().await {
            let Ok(frame) = frame else {
                let error = ApiError::bare(ErrorCode::Serialization);
                return Err(Refusal::closing(error));
            };
            let Ok(data) = frame.into_data() else {
                continue;
            };
            total = total.saturating_add(data.len());
            if total <= most {
                bytes.extend_from_slice(&data);
            } else {
                *bytes = Vec::new();
            }
            if total > MAX_DRAIN || (announced > MAX_DRAIN && total > most) {
                break;
            }
        }
        if total > most {
            let text = format!("The request body is larger than {most} bytes.");
            let error = ApiError::new(ErrorCode::RequestTooLarge, text);
            return Err(Refusal::closing(error));
        }
        Ok(bytes)
    };
    tokio::time::timeout(limit, read).await.unwrap_or_else(|_| {
        let text = format!(
            "The request body did not arrive within {} s.",
            limit.as_secs_f32()
        );
        let error = ApiError::new(ErrorCode::RequestTimeout, text);
        Err(Refusal::closing(error))
    })
}
