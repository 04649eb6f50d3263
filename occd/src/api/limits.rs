//! How much is done at once, so that a client that floods cannot take all memory, nor all places from the others for ever.

use std::sync::Arc;
use std::time::Duration;

use axum::http::StatusCode;
use occ_proto::Code;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, SemaphorePermit};
use tokio::time::timeout;

use super::error::ApiError;
use super::metrics::METRICS;

/// Requests at once. A stream takes a place until it begins, and none after that.
const PLACES: usize = 1024;
/// How long a request waits for a place.
const PATIENCE: Duration = Duration::from_secs(10);
/// When to come again.
const AGAIN: Duration = Duration::from_secs(1);

/// Streams leave one in so many of the clients' places to others.
const LEFT: usize = 8;

/// The places of clients that follow what changes: each keeps a connection, and most have nothing to hear.
#[derive(Debug, Clone)]
pub struct Streams(Arc<Semaphore>, usize);

impl Streams {
    /// Returns the places among those of so many clients.
    pub fn among(clients: usize) -> Self {
        let most = clients - clients / LEFT;
        Self(Arc::new(Semaphore::new(most)), most)
    }

    /// Takes a place, which is free again when that is dropped.
    pub(super) fn take(&self) -> Result<OwnedSemaphorePermit, ApiError> {
        Arc::clone(&self.0)
            .try_acquire_owned()
            .map_err(|_| too_many(format!("{} clients follow what changes.", self.1)))
    }
}

/// The places of one socket's requests.
#[derive(Debug)]
pub(super) struct Places {
    all: Semaphore,
    /// Numbers are wanted most when all places are taken, so they are told beside them; one after the other, since whoever
    /// floods with that is not to keep others from the processor.
    metrics: Semaphore,
}

impl Default for Places {
    fn default() -> Self {
        Self { all: Semaphore::new(PLACES), metrics: Semaphore::new(1) }
    }
}

impl Places {
    /// Waits for a place, and gives up when there is none for long.
    pub(super) async fn place(&self, path: &str) -> Result<SemaphorePermit<'_>, ApiError> {
        let (places, most) = match path {
            METRICS => (&self.metrics, 1),
            _ => (&self.all, PLACES),
        };
        // One that is free takes no clock.
        if let Ok(place) = places.try_acquire() {
            return Ok(place);
        }
        match timeout(PATIENCE, places.acquire()).await {
            // It is never closed.
            Ok(Ok(place)) => Ok(place),
            Ok(Err(_)) | Err(_) => Err(too_many(format!("{most} requests are being served."))),
        }
    }
}

/// Returns the problem of whatever there is too much of at the moment.
pub(super) fn too_many(detail: impl Into<String>) -> ApiError {
    ApiError::new(StatusCode::TOO_MANY_REQUESTS, Code::TooManyRequests, detail).after(AGAIN)
}
