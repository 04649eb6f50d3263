//! What clients have in flight: requests until the last byte of their answer, and streams until they end.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use axum::body::{Body, HttpBody};
use hyper::body::{Bytes, Frame, SizeHint};

/// Counts what is in flight.
#[derive(Debug, Clone, Default)]
pub struct InFlight(Arc<AtomicUsize>);

/// Is in flight until dropped.
#[derive(Debug)]
pub struct Flying(InFlight);

impl InFlight {
    /// Counts one more.
    pub fn begin(&self) -> Flying {
        self.0.fetch_add(1, Ordering::Relaxed);
        Flying(self.clone())
    }

    /// Returns how many there are.
    pub fn count(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

impl Drop for Flying {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
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
