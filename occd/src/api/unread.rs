//! Answers that are given before the request's body was read, such as a policy's. hyper closes the connection behind
//! them, and a client that has sent more, or is about to, loses its next request, or the answer itself.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::{Body, Bytes, HttpBody};
use axum::extract::Request;
use axum::http::{HeaderValue, header};
use axum::response::Response;
use futures_util::StreamExt as _;
use hyper::body::{Frame, SizeHint};
use tokio::time::timeout;

use super::BODY_LIMIT;

/// How long the answer waits for the rest of a body: what is on its way is here by then.
const REST: Duration = Duration::from_secs(1);

/// What a handler leaves of a body.
pub(super) struct Left {
    body: Option<Arc<Mutex<Option<Body>>>>,
    /// Such a client sends the body when it is asked for it, and not before.
    waits: bool,
}

/// Keeps what is left of a request's body.
pub(super) fn keep(request: Request) -> (Request, Left) {
    if request.body().is_end_stream() {
        return (request, Left { body: None, waits: false });
    }
    let waits = request.headers().contains_key(header::EXPECT);
    let left = Arc::new(Mutex::new(None));
    let kept = Arc::clone(&left);
    let request = request.map(|body| Body::new(Kept { body, left: kept }));
    (request, Left { body: Some(left), waits })
}

impl Left {
    /// Reads it, where that is not much; else says in the answer that the connection ends.
    pub(super) async fn finish(self, mut response: Response) -> Response {
        let Some(left) = self.body else { return response };
        let body = left.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(body) = body else { return response };
        if self.waits || !drained(body).await {
            response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }
}

/// Reads a body to its end. Returns whether it came to that.
async fn drained(body: Body) -> bool {
    if body.size_hint().lower() > BODY_LIMIT as u64 {
        return false;
    }
    let mut room = BODY_LIMIT;
    let mut pieces = body.into_data_stream();
    let rest = async {
        while let Some(piece) = pieces.next().await {
            let Ok(piece) = piece else { return false };
            match room.checked_sub(piece.len()) {
                Some(rest) => room = rest,
                None => return false,
            }
        }
        true
    };
    timeout(REST, rest).await.unwrap_or(false)
}

/// A body that is handed on when it is dropped before its end.
struct Kept {
    body: Body,
    left: Arc<Mutex<Option<Body>>>,
}

impl Drop for Kept {
    fn drop(&mut self) {
        if !self.body.is_end_stream() {
            let body = std::mem::take(&mut self.body);
            *self.left.lock().unwrap_or_else(PoisonError::into_inner) = Some(body);
        }
    }
}

impl HttpBody for Kept {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(context));
        if matches!(frame, None | Some(Err(_))) {
            // There is nothing left.
            self.body = Body::empty();
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
