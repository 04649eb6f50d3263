//! What clients have in flight: requests until the last byte of their answer, and streams until they end.

use std::pin::Pin;
use std::task::{Context, Poll};

use axum::body::{Body, HttpBody};
use hyper::body::{Bytes, Frame, SizeHint};
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;

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

impl Flying {
    /// Returns the body, which is in flight until its end.
    pub fn with(self, body: Body) -> Body {
        Body::new(Counted { body, _flying: self })
    }
}

struct Counted {
    body: Body,
    _flying: Flying,
}

impl HttpBody for Counted {
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
