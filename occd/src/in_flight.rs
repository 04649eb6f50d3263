//! What clients have in flight: requests until the last byte of their answer, and streams until they end.

use std::fmt::Debug;
use std::pin::Pin;
use std::task::{Context, Poll};

use axum::body::{Body, HttpBody};
use axum::http::StatusCode;
use axum::response::Response;
use hyper::body::{Bytes, Frame, SizeHint};
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;

use crate::descriptors::Passed;

/// Counts what is in flight.
#[derive(Debug, Clone)]
pub struct InFlight(TaskTracker);

/// Is in flight until dropped.
#[derive(Debug)]
pub struct Flying(#[expect(dead_code, reason = "it counts by being there")] TaskTrackerToken);

impl Default for InFlight {
    fn default() -> Self {
        let tracker = TaskTracker::new();
        // One that is closed can be waited for, and goes on counting.
        tracker.close();
        Self(tracker)
    }
}

impl InFlight {
    /// Counts one more.
    pub fn begin(&self) -> Flying {
        Flying(self.0.token())
    }

    /// Returns how many there are.
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// Waits until there is nothing.
    pub async fn none(&self) {
        self.0.wait().await;
    }
}

/// Holds something until the last byte of an answer; with one that becomes a stream, until its connection ends.
pub fn until_the_end_of<H: Debug + Send + Unpin + 'static>(
    held: H,
    response: Response,
    connection: Option<Passed>,
) -> Response {
    if response.status() == StatusCode::SWITCHING_PROTOCOLS
        && let Some(connection) = connection
    {
        connection.keep(held);
        return response;
    }
    response.map(|body| Body::new(Holding { body, _held: held }))
}

struct Holding<H> {
    body: Body,
    _held: H,
}

impl<H: Unpin> HttpBody for Holding<H> {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
