//! `WaitForEvents`.

use std::time::Duration;

use kms_api::{
    ApiError, ErrorCode, NotifiedEvent, Response, WaitForEventsRequest, WaitForEventsResponse,
};

use super::Shared;
use crate::events::Batch;

/// Events of an answer, unless the request says otherwise.
const LIMIT: u32 = 100;
/// The same for the wait, in milliseconds.
const TIMEOUT_MS: u32 = 20_000;

impl Shared {
    /// Waits for events.
    ///
    /// # Errors
    /// The marker is none.
    pub(super) async fn wait_for_events(
        &self,
        request: &WaitForEventsRequest,
    ) -> Result<Response, ApiError> {
        let timeout = request.timeout_ms.unwrap_or(TIMEOUT_MS);
        let timeout = Duration::from_millis(timeout.into());
        let after = after(request)?;
        let batch = self.events.wait(after, limit(request), timeout).await;
        Ok(response(batch))
    }

    /// The events there are, without waiting.
    ///
    /// # Errors
    /// The marker is none.
    pub(super) fn events_now(&self, request: &WaitForEventsRequest) -> Result<Response, ApiError> {
        Ok(response(self.events.now(after(request)?, limit(request))))
    }
}

fn after(request: &WaitForEventsRequest) -> Result<Option<u64>, ApiError> {
    let parse = |marker: &String| marker.parse().ok();
    match request.marker.as_ref().map(parse) {
        None => Ok(None),
        Some(Some(after)) => Ok(Some(after)),
        Some(None) => Err(ApiError::new(
            ErrorCode::InvalidMarker,
            "The marker is none that WaitForEvents gave.",
        )),
    }
}

fn limit(request: &WaitForEventsRequest) -> usize {
    request.limit.unwrap_or(LIMIT) as usize
}

fn response(batch: Batch) -> Response {
    let events = batch.events.into_iter().map(|placed| NotifiedEvent {
        sequence: placed.seq,
        event: (*placed.event).clone(),
    });
    Response::WaitForEvents(WaitForEventsResponse {
        events: events.collect(),
        next_marker: batch.next.to_string(),
        missed: batch.missed,
    })
}
