//! What is between hyper and a client's connection: what hyper answers by itself becomes a problem document, and a connection
//! that ends behind an answer ends when its client has read that.
//!
//! hyper answers what is no request with an empty 400, 414 or 431, which nobody is asked about. It is told from ours by
//! when it comes: while no request is being answered and all that was said is sent. By the same is told how long a client
//! has taken for a request's head. hyper can do that, too, with a timer for each request: a third of what an answer from
//! memory takes.
//!
//! A stream that its client does not read costs a place. hyper asks nobody for more then, so it is here that it is seen.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf as _, Bytes};
use hyper::body::{Body, Frame, SizeHint};
use hyper::{Response, StatusCode, header};
use occ_proto::error::PROBLEM_JSON;
use occ_proto::{
    API_VERSION, API_VERSION_HEADER, Code, MIN_CLIENT, MIN_CLIENT_HEADER, Problem, VERSION_HEADER,
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::Notify;
use tokio::time::{Instant, Sleep, sleep, sleep_until};

use crate::api::Door;
use crate::descriptors::ClientStream;

/// How long what a client still sends is read behind the last answer, so that it sees the answer and no broken pipe.
const LINGER: Duration = Duration::from_secs(5);

/// What a client that speaks HTTP/2 begins with (RFC 9113, section 3.4).
const HTTP2: &[u8] = b"PRI * HTTP/2";

/// No request is being answered.
const IDLE: u8 = 0;
/// One is.
const ANSWERING: u8 = 1;
/// The answer is made, and not sent yet.
const MADE: u8 = 2;
/// The connection is a stream, and not HTTP any more.
const STREAM: u8 = 3;

/// An answer whose client can come back for the rest of it, and how long a client that takes nothing is waited for.
#[derive(Debug, Clone, Copy)]
pub struct Resumable(pub Duration);

/// Where a connection is.
#[derive(Debug, Clone, Default)]
pub struct Turn(Arc<State>);

#[derive(Debug)]
struct State {
    at: AtomicU8,
    /// It ends behind the answer, whatever the client still sends.
    ends: AtomicBool,
    /// How long a client that takes nothing is waited for, in milliseconds; for ever if 0.
    patience: AtomicU64,
    /// A part of the next request's head has come.
    heard: AtomicBool,
    /// That head comes too slowly: the connection ends.
    late: AtomicBool,
    begun: Instant,
    /// Since when the next request's head is waited for, in milliseconds after `begun`.
    waits_since: AtomicU64,
    /// Whether [`Self::waits`] is to be told of that.
    is_asked: AtomicBool,
    waits: Notify,
}

impl Default for State {
    fn default() -> Self {
        Self {
            at: AtomicU8::new(IDLE),
            ends: AtomicBool::new(false),
            patience: AtomicU64::new(0),
            heard: AtomicBool::new(false),
            late: AtomicBool::new(false),
            begun: Instant::now(),
            waits_since: AtomicU64::new(0),
            is_asked: AtomicBool::new(false),
            waits: Notify::new(),
        }
    }
}

impl Turn {
    /// Returns once a request's head has not come for so long, after the one before was answered.
    pub async fn head_is_late(&self, patience: Duration) {
        let state = &self.0;
        loop {
            let since = state.waits_since.load(Ordering::Acquire);
            sleep_until(state.begun + Duration::from_millis(since) + patience).await;
            state.is_asked.store(true, Ordering::SeqCst);
            let is_idle = state.at.load(Ordering::SeqCst) == IDLE;
            if is_idle && state.waits_since.load(Ordering::Acquire) == since {
                return;
            }
            // Somebody who follows events for hours wakes nobody up.
            if !is_idle {
                state.waits.notified().await;
            }
        }
    }

    /// Ends the connection, once it is polled again: a client that has begun with its request is told why.
    pub fn give_up(&self) {
        self.0.late.store(true, Ordering::Release);
    }

    /// Ends the connection of a stream once it is flushed: what its client still sends is read first.
    pub fn end(&self) {
        self.0.ends.store(true, Ordering::Release);
    }

    /// A request is being answered.
    pub fn begin(&self) {
        self.0.heard.store(false, Ordering::Release);
        self.0.patience.store(0, Ordering::Release);
        self.0.at.store(ANSWERING, Ordering::Release);
    }

    /// That is the answer.
    pub fn answer<B>(&self, response: Response<B>) -> Response<Answer<B>> {
        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            self.0.at.store(STREAM, Ordering::Release);
        }
        if let Some(Resumable(patience)) = response.extensions().get() {
            let patience = u64::try_from(patience.as_millis()).unwrap_or(u64::MAX);
            self.0.patience.store(patience, Ordering::Release);
        }
        let closes = response.headers().get(header::CONNECTION);
        if closes.is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"close")) {
            self.0.ends.store(true, Ordering::Release);
        }
        response.map(|body| Answer { body, _made: Made(self.clone()) })
    }

    /// All that was said is sent.
    fn sent(&self) {
        let state = &self.0;
        if state.at.load(Ordering::Acquire) != MADE {
            return;
        }
        let since = u64::try_from(state.begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        state.waits_since.store(since, Ordering::Release);
        self.change(MADE, IDLE);
        if state.is_asked.swap(false, Ordering::SeqCst) {
            state.waits.notify_one();
        }
    }

    fn change(&self, from: u8, to: u8) {
        // Whatever else it is, it stays.
        let _ = self.0.at.compare_exchange(from, to, Ordering::SeqCst, Ordering::Acquire);
    }
}

/// Dropped when hyper has all of an answer.
#[derive(Debug)]
struct Made(Turn);

impl Drop for Made {
    fn drop(&mut self) {
        self.0.change(ANSWERING, MADE);
    }
}

/// The body of an answer.
#[derive(Debug)]
pub struct Answer<B> {
    body: B,
    _made: Made,
}

impl<B: Body + Unpin> Body for Answer<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A client's connection, as hyper has it.
#[derive(Debug)]
pub struct Wire {
    inner: ClientStream,
    turn: Turn,
    door: Door,
    /// What is being sent in place of hyper's answer, and how long that was.
    instead: Option<(Bytes, usize)>,
    reader: Option<Reader>,
    /// Until when it is lingered.
    linger: Option<Pin<Box<Sleep>>>,
}

impl Wire {
    /// Returns a client's connection whose answers `turn` is told of; `door` counts those that no route has given.
    pub fn new(inner: ClientStream, turn: Turn, door: Door) -> Self {
        Self { inner, turn, door, instead: None, reader: None, linger: None }
    }

    /// Says to who has begun with a request that it comes too slowly, and then reads no more.
    fn poll_late(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.turn.0.heard.swap(false, Ordering::AcqRel) {
            self.door.answered(StatusCode::REQUEST_TIMEOUT);
            self.instead = Some((too_late(), 0));
        }
        match ready!(self.poll_instead(cx, &[])) {
            Some(Err(error)) => Poll::Ready(Err(error)),
            Some(Ok(_)) | None => Poll::Ready(Ok(())),
        }
    }

    /// Says to who speaks HTTP/2 that nobody does here, and then reads no more. hyper would end without a word.
    fn poll_http2(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let detail = "This is HTTP/2; the daemon speaks HTTP/1.1.";
        self.door.answered(StatusCode::BAD_REQUEST);
        self.instead = Some((last_answer(&Problem::new(400, Code::BadRequest, detail)), 0));
        let state = &self.turn.0;
        state.ends.store(true, Ordering::Release);
        state.heard.store(false, Ordering::Release);
        state.late.store(true, Ordering::Release);
        self.poll_late(cx)
    }

    /// Writes to whoever reads, and ends the connection of a client that can come back and takes nothing.
    fn poll_send(
        &mut self,
        cx: &mut Context<'_>,
        write: impl FnOnce(Pin<&mut ClientStream>, &mut Context<'_>) -> Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        self.check_reader(cx)?;
        let sent = write(Pin::new(&mut self.inner), cx);
        if let Some(reader) = &mut self.reader {
            reader.left = self.inner.not_taken();
        }
        sent
    }

    /// Looks whether the client of a stream reads.
    fn check_reader(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        let patience = self.turn.0.patience.load(Ordering::Acquire);
        if patience == 0 {
            self.reader = None;
            return Ok(());
        }
        let reader = self.reader.get_or_insert_with(Reader::new);
        reader.look(self.inner.not_taken());
        match reader.poll_idle(Duration::from_millis(patience), cx) {
            Poll::Ready(()) => {
                Err(io::Error::new(io::ErrorKind::TimedOut, "the client reads nothing"))
            }
            Poll::Pending => Ok(()),
        }
    }

    /// Sends what there is in place of hyper's answer, if there is any.
    fn poll_instead(
        &mut self,
        cx: &mut Context<'_>,
        said: &[u8],
    ) -> Poll<Option<io::Result<usize>>> {
        if self.instead.is_none()
            && self.turn.0.at.load(Ordering::Acquire) == IDLE
            && let Some((status, answer)) = by_itself(said)
        {
            self.door.answered(status);
            self.instead = Some((answer, said.len()));
        }
        let Some((answer, length)) = &mut self.instead else { return Poll::Ready(None) };
        while answer.has_remaining() {
            match ready!(Pin::new(&mut self.inner).poll_write(cx, answer)) {
                Ok(0) => return Poll::Ready(Some(Err(io::ErrorKind::WriteZero.into()))),
                Ok(sent) => answer.advance(sent),
                Err(error) => return Poll::Ready(Some(Err(error))),
            }
        }
        let length = *length;
        self.instead = None;
        Poll::Ready(Some(Ok(length)))
    }
}

/// What is known of whoever reads a stream.
#[derive(Debug)]
struct Reader {
    /// When it was last seen to have taken something, or everything.
    took: Instant,
    /// What it has not taken, when that was looked at last.
    left: usize,
    /// Looks again when nobody writes.
    alarm: Pin<Box<Sleep>>,
}

impl Reader {
    fn new() -> Self {
        Self { took: Instant::now(), left: 0, alarm: Box::pin(sleep(Duration::ZERO)) }
    }

    /// Takes note of what is left for it to take.
    fn look(&mut self, left: usize) {
        if left == 0 || left < self.left {
            self.took = Instant::now();
        }
        self.left = left;
    }

    /// Ready once it has taken nothing for so long, though there is something.
    fn poll_idle(&mut self, patience: Duration, cx: &mut Context<'_>) -> Poll<()> {
        if self.left == 0 {
            return Poll::Pending;
        }
        let end = self.took + patience;
        if self.alarm.deadline() != end {
            self.alarm.as_mut().reset(end);
        }
        self.alarm.as_mut().poll(cx)
    }
}

/// When to come again with a request whose head came too slowly, in milliseconds.
const AGAIN_MS: u64 = 1000;

/// Returns the answer to a head that comes too slowly.
fn too_late() -> Bytes {
    let detail = "The request's head came too slowly.";
    let problem = Problem::new(408, Code::RequestTimeout, detail);
    last_answer(&Problem { retryable: true, retry_after_ms: Some(AGAIN_MS), ..problem })
}

/// Returns what is answered in place of what hyper answers by itself, and its status.
fn by_itself(said: &[u8]) -> Option<(StatusCode, Bytes)> {
    let line = said.strip_prefix(b"HTTP/1.1 ")?;
    let status = StatusCode::from_bytes(line.get(..3)?).ok()?;
    let (code, detail) = match status {
        StatusCode::BAD_REQUEST => (Code::BadRequest, "The request is not valid HTTP/1.1."),
        StatusCode::URI_TOO_LONG => (Code::TooLarge, "The request's target is longer than 64 KiB."),
        StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE => {
            (Code::TooLarge, "The request's head is too large, or has more than 100 headers.")
        }
        _ => return None,
    };
    Some((status, last_answer(&Problem::new(status.as_u16(), code, detail))))
}

/// Returns a problem as an answer with which the connection ends.
pub fn last_answer(problem: &Problem) -> Bytes {
    let mut body = serde_json::to_string(problem).unwrap_or_default();
    body.push('\n');
    // In whole seconds, and not too early (RFC 9110, section 10.2.3).
    let again = problem.retry_after_ms.map(|time| time.div_ceil(1000));
    let again = again.map_or_else(String::new, |seconds| format!("Retry-After: {seconds}\r\n"));
    let status = StatusCode::from_u16(problem.status).unwrap_or(StatusCode::BAD_REQUEST);
    format!(
        "HTTP/1.1 {status}\r\nContent-Type: {PROBLEM_JSON}\r\nContent-Length: {}\r\n\
         {VERSION_HEADER}: {}\r\n{API_VERSION_HEADER}: {API_VERSION}\r\n\
         {MIN_CLIENT_HEADER}: {MIN_CLIENT}\r\n{again}Connection: close\r\n\r\n{body}",
        body.len(),
        env!("CARGO_PKG_VERSION")
    )
    .into()
}

impl AsyncRead for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.turn.0.late.load(Ordering::Acquire) {
            return self.poll_late(cx);
        }
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.inner).poll_read(cx, buf))?;
        let state = &self.turn.0;
        if buf.filled().len() > before && state.at.load(Ordering::Acquire) == IDLE {
            if buf.filled()[before..].starts_with(HTTP2) {
                buf.set_filled(before);
                return self.poll_http2(cx);
            }
            state.heard.store(true, Ordering::Release);
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Wire {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        match ready!(self.poll_instead(cx, buf)) {
            Some(sent) => Poll::Ready(sent),
            None => self.poll_send(cx, |stream, cx| stream.poll_write(cx, buf)),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let first = bufs.iter().find(|buf| !buf.is_empty());
        match ready!(self.poll_instead(cx, first.map_or(&[][..], |buf| buf))) {
            Some(sent) => Poll::Ready(sent),
            None => self.poll_send(cx, |stream, cx| stream.poll_write_vectored(cx, bufs)),
        }
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // hyper has written all that it has before it flushes.
        self.turn.sent();
        self.check_reader(cx)?;
        ready!(Pin::new(&mut self.inner).poll_flush(cx))?;
        let state = &self.turn.0;
        let is_stream = state.at.load(Ordering::Acquire) == STREAM;
        // Nobody shuts a stream down: it is dropped.
        match is_stream && state.ends.load(Ordering::Acquire) {
            true => self.poll_shutdown(cx),
            false => Poll::Ready(Ok(())),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if !this.turn.0.ends.load(Ordering::Acquire) {
            return Pin::new(&mut this.inner).poll_shutdown(cx);
        }
        if this.linger.is_none() {
            ready!(Pin::new(&mut this.inner).poll_shutdown(cx))?;
        }
        let until = this.linger.get_or_insert_with(|| Box::pin(sleep(LINGER)));
        if until.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Ok(()));
        }
        let mut sink = [0; 16 * 1024];
        loop {
            let mut room = ReadBuf::new(&mut sink);
            // An error is a client that is gone.
            let read = ready!(Pin::new(&mut this.inner).poll_read(cx, &mut room));
            if read.is_err() || room.filled().is_empty() {
                return Poll::Ready(Ok(()));
            }
        }
    }
}
