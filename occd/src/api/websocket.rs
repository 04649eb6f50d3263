//! The WebSockets of clients: what their messages may be, and how one ends, in order or because it broke the protocol.

use std::error::Error as _;
use std::time::Duration;

use axum::extract::FromRequestParts;
use axum::extract::ws::{CloseCode, CloseFrame, Message, WebSocket, WebSocketUpgrade, close_code};
use axum::http::StatusCode;
use axum::http::request::Parts;
use axum::response::Response;
use bytes::Bytes;
use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt as _, StreamExt as _};
use occ_proto::exec::{ExecControl, STDIN};
use occ_proto::{Code, Problem};
use serde::Serialize;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::error::{Error, ProtocolError};

use super::error::ApiError;
use super::strict;
use crate::ssh::signal;
use crate::wire::Turn;

/// The largest message of a client, in bytes: a request as large as a body may be, or a piece of input.
const MESSAGE_LIMIT: usize = 2 * 1024 * 1024;
/// Output is collected up to this size, in bytes, before it is written to the socket.
const WRITE_BUFFER: usize = 256 * 1024;
/// How long a client is waited for that is to be told of the end.
pub(super) const GOODBYE: Duration = Duration::from_secs(2);

/// What goes to a client.
pub(super) type Sink = SplitSink<WebSocket, Message>;

/// A request for a WebSocket.
#[derive(Debug)]
pub(super) struct Handshake {
    upgrade: WebSocketUpgrade,
    turn: Turn,
}

impl<S: Send + Sync> FromRequestParts<S> for Handshake {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let turn = parts.extensions.get().cloned().unwrap_or_default();
        let upgrade = WebSocketUpgrade::from_request_parts(parts, state).await;
        let upgrade = upgrade.map_err(|rejection| {
            ApiError::bad_request(format!("This is no WebSocket handshake: {rejection}."))
        })?;
        Ok(Self { upgrade, turn })
    }
}

impl Handshake {
    /// Returns the answer, behind which `serve` has the WebSocket. It leaves with [`end`].
    pub(super) fn accept<F: Future<Output = ()> + Send + 'static>(
        self,
        serve: impl FnOnce(Sink, Source) -> F + Send + 'static,
    ) -> Response {
        let Self { upgrade, turn } = self;
        upgrade
            .max_message_size(MESSAGE_LIMIT)
            .max_frame_size(MESSAGE_LIMIT)
            .write_buffer_size(WRITE_BUFFER)
            .on_upgrade(move |socket| {
                let (sink, stream) = socket.split();
                serve(sink, Source { stream, closes: false, broken: None, turn })
            })
    }
}

/// What comes from a client.
#[derive(Debug)]
pub(super) struct Source {
    stream: SplitStream<WebSocket>,
    /// The client has said that it closes.
    closes: bool,
    broken: Option<Broken>,
    turn: Turn,
}

impl Source {
    /// Returns the next message; nothing once the client has gone, or has broken the protocol.
    pub(super) async fn next(&mut self) -> Option<Message> {
        match self.stream.next().await? {
            Ok(message) => {
                self.closes |= matches!(message, Message::Close(_));
                Some(message)
            }
            Err(error) => {
                tracing::debug!(%error, "a client's WebSocket broke");
                self.broken = Broken::of(&error);
                None
            }
        }
    }

    /// Returns what was wrong if the client has broken the protocol.
    pub(super) fn problem(&self) -> Option<ApiError> {
        let Broken { status, code, reason, .. } = self.broken.as_ref()?;
        Some(ApiError::new(*status, *code, format!("{reason}.")))
    }
}

/// How a client has broken the protocol.
#[derive(Debug)]
struct Broken {
    close: CloseCode,
    status: StatusCode,
    code: Code,
    /// A close frame has room for 123 bytes (RFC 6455, section 5.5).
    reason: String,
}

impl Broken {
    /// Returns how, and nothing where the client has gone.
    fn of(error: &axum::Error) -> Option<Self> {
        let bad = (StatusCode::BAD_REQUEST, Code::BadRequest);
        let large = (StatusCode::PAYLOAD_TOO_LARGE, Code::TooLarge);
        // RFC 6455, section 7.4.1.
        let (close, (status, code), reason) = match error.source()?.downcast_ref()? {
            Error::Capacity(_) => {
                (close_code::SIZE, large, "a message is larger than 2 MiB".to_owned())
            }
            Error::Utf8(_) => (close_code::INVALID, bad, "a text is not UTF-8".to_owned()),
            Error::Protocol(ProtocolError::ResetWithoutClosingHandshake) => return None,
            Error::Protocol(error) => (close_code::PROTOCOL, bad, error.to_string()),
            _ => return None,
        };
        Some(Self { close, status, code, reason })
    }
}

/// Returns what a binary message has for the program: nothing is the end of its input.
///
/// # Errors
/// With words when the message is for nobody.
pub(super) fn input(message: &Bytes) -> Result<Option<Bytes>, String> {
    match message.first() {
        Some(&STDIN) => Ok((message.len() > 1).then(|| message.slice(1..))),
        Some(stream) => Err(format!("a binary message begins with {STDIN}, not with {stream}")),
        None => Err(format!("a binary message begins with {STDIN}, and this one is empty")),
    }
}

/// Returns what a text message asks for while a program runs.
///
/// # Errors
/// With words when it is none of that.
pub(super) fn control(message: &str) -> Result<ExecControl, String> {
    match strict::from_slice(message.as_bytes()) {
        Ok(ExecControl::Signal { signal }) if signal::parse(&signal).is_none() => {
            Err(format!("{signal:?} is no signal"))
        }
        control => control.map_err(|unfit| unfit.text),
    }
}

/// Sends an event.
pub(super) async fn send(sink: &mut Sink, event: &impl Serialize) -> Result<(), axum::Error> {
    // See `json::line`.
    let text = serde_json::to_string(event).unwrap_or_default();
    sink.send(Message::Text(text.into())).await
}

/// Ends a WebSocket; a client that has broken the protocol is told how, in the event that `error` makes and in the close frame.
pub(super) async fn end<E: Serialize>(
    mut sink: Sink,
    mut source: Source,
    error: impl FnOnce(Box<Problem>) -> E,
) {
    let last = async {
        if let Some(problem) = source.problem() {
            send(&mut sink, &error(problem.into_problem())).await?;
        }
        source.turn.end();
        if source.closes {
            // The answer to that goes out as what comes next is asked for (RFC 6455, section 5.5.1).
            while source.next().await.is_some() {}
            return Ok(());
        }
        let frame = source
            .broken
            .map(|Broken { close, reason, .. }| CloseFrame { code: close, reason: reason.into() });
        sink.send(Message::Close(frame)).await
    };
    // One that has gone needs none, and one that does not read is not waited for.
    drop(timeout(GOODBYE, last).await);
}
