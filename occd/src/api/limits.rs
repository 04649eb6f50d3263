//! How much is done at once, so that a client that floods cannot take all memory, nor all places from the others for ever.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use occ_proto::Code;
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::error::ApiError;
use super::metrics::METRICS;

/// Requests at once. A stream takes a place until it begins, and none after that.
const PLACES: usize = 1024;
/// How long a request waits for a place.
const PATIENCE: Duration = Duration::from_secs(10);
/// When to come again.
const AGAIN: Duration = Duration::from_secs(1);

/// The places of one socket's requests.
#[derive(Debug, Clone)]
pub(super) struct Places {
    all: Arc<Semaphore>,
    /// Numbers are wanted most when all places are taken, so they are told beside them; one after the other, since whoever
    /// floods with that is not to keep others from the processor.
    metrics: Arc<Semaphore>,
}

impl Default for Places {
    fn default() -> Self {
        Self { all: Arc::new(Semaphore::new(PLACES)), metrics: Arc::new(Semaphore::new(1)) }
    }
}

/// Has a request wait for a place, and turns it away when there is none for long.
pub(super) async fn limit(State(places): State<Places>, request: Request, next: Next) -> Response {
    let (places, most) = match request.uri().path() {
        METRICS => (places.metrics, 1),
        _ => (places.all, PLACES),
    };
    match timeout(PATIENCE, places.acquire()).await {
        // It is never closed.
        Ok(place) => {
            let response = next.run(request).await;
            drop(place);
            response
        }
        Err(_) => too_many(format!("{most} requests are being served.")).into_response(),
    }
}

/// Returns the problem of whatever there is too much of at the moment.
pub(super) fn too_many(detail: impl Into<String>) -> ApiError {
    ApiError::new(StatusCode::TOO_MANY_REQUESTS, Code::TooManyRequests, detail).after(AGAIN)
}
