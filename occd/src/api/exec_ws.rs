//! `GET /v1/hosts/{host}/exec`: a command over a WebSocket; the frames are in `proto/src/exec.rs`.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::extract::ws::rejection::WebSocketUpgradeRejection;
use axum::extract::ws::{Message, Utf8Bytes, WebSocket, WebSocketUpgrade};
use axum::response::Response;
use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt as _, StreamExt as _};
use occ_proto::exec::{ExecControl, ExecEvent, ExecRequest, STDIN};
use tokio::time::{MissedTickBehavior, timeout};

use super::error::{self, ApiError, ApiResult};
use super::extract::Host;
use crate::exec::{self, Command, Control, Running, Step};
use crate::host::{COMMAND_RETRIES, HostHandle};

/// How long a client may take to say what to run.
const REQUEST: Duration = Duration::from_secs(10);
/// The largest message of a client: a request as large as a body may be, or a piece of input.
const MESSAGE_LIMIT: usize = 2 * 1024 * 1024;
/// Output is collected up to this size before it is written to the socket.
const WRITE_BUFFER: usize = 256 * 1024;
/// How much input is read ahead of the program.
const READ_AHEAD: usize = 1024 * 1024;
/// While the program takes no input, the client's side is not read; this often it is then checked that
/// the client is still there.
const ALIVE: Duration = Duration::from_millis(500);

type Sink = SplitSink<WebSocket, Message>;
type Source = SplitStream<WebSocket>;

pub(super) async fn upgrade(
    Host(host): Host,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> ApiResult<Response> {
    let upgrade = upgrade.map_err(|rejection| {
        ApiError::bad_request(format!("This is no WebSocket handshake: {rejection}."))
    })?;
    Ok(upgrade
        .max_message_size(MESSAGE_LIMIT)
        .max_frame_size(MESSAGE_LIMIT)
        .write_buffer_size(WRITE_BUFFER)
        .on_upgrade(move |socket| async move { serve(host, socket).await }))
}

async fn serve(host: HostHandle, socket: WebSocket) {
    let (mut sink, mut source) = socket.split();
    // Whatever fails here fails because the client has gone; dropping all of it ends the command.
    let (running, early) = match begin(&host, &mut source).await {
        Ok(Some(begun)) => begun,
        Ok(None) => return,
        Err(problem) => {
            let event = ExecEvent::Error { problem: problem.into_problem() };
            let _ = send_event(&mut sink, &event).await;
            return;
        }
    };
    if send_event(&mut sink, &super::exec::started(&running)).await.is_err() {
        return;
    }
    let mut input = Input::new(running.control(), early);
    let blocked = Arc::clone(&input.blocked);
    // Both directions at once: a client that does not read must still be heard, and the other way round.
    tokio::select! {
        last = output(running, &mut sink, &blocked) => {
            if let Some(last) = last {
                let event = match last {
                    Ok(exit) => ExecEvent::Exit(exit),
                    Err(failure) => {
                        ExecEvent::Error { problem: error::exec(host.name(), &failure).into_problem() }
                    }
                };
                let _ = send_event(&mut sink, &event).await;
                let _ = sink.send(Message::Close(None)).await;
            }
        }
        () = input.run(&mut source) => {
            tracing::debug!(host = %host.name(), "the client left before its command ended");
        }
    }
}

/// Takes the request and starts the command. `None` means that the client has gone or has changed its
/// mind; the command is then not started, however long the connecting took. Also returns what the client
/// sent meanwhile.
async fn begin(
    host: &HostHandle,
    source: &mut Source,
) -> Result<Option<(Running, VecDeque<Message>)>, ApiError> {
    let first = match timeout(REQUEST, source.next()).await {
        Ok(Some(Ok(Message::Text(text)))) => text,
        Ok(Some(Ok(_))) => {
            return Err(ApiError::bad_request("The first message must be the request, as text."));
        }
        Ok(None | Some(Err(_))) => return Ok(None),
        Err(_) => return Err(ApiError::bad_request("No request came within 10 s.")),
    };
    let request: ExecRequest = serde_json::from_str(&first)
        .map_err(|error| ApiError::bad_request(format!("The request is not valid: {error}.")))?;
    if request.stdin.is_some() {
        return Err(ApiError::bad_request("On a WebSocket, stdin is sent as binary messages."));
    }
    let retries = request.retries.unwrap_or(COMMAND_RETRIES);
    let command = Command::new(request)?;
    let starting = exec::start(host, &command, retries);
    tokio::pin!(starting);
    let (mut early, mut early_bytes) = (VecDeque::new(), 0);
    loop {
        tokio::select! {
            biased;
            started = &mut starting => {
                return started
                    .map(|running| Some((running, early)))
                    .map_err(|failure| error::exec(host.name(), &failure));
            }
            message = source.next(), if early_bytes < READ_AHEAD => match message {
                // A signal before the start has nobody to go to but us.
                None | Some(Err(_) | Ok(Message::Close(_) | Message::Text(_))) => return Ok(None),
                Some(Ok(Message::Binary(data))) => {
                    early_bytes += data.len();
                    early.push_back(Message::Binary(data));
                }
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
            },
        }
    }
}

type Outcome = Result<occ_proto::exec::Exit, exec::ExecError>;

/// Sends output until the end, which it returns, or until the client has gone. While the client's side is
/// not read, a ping now and then finds out whether the client is still there.
async fn output(mut running: Running, sink: &mut Sink, blocked: &AtomicBool) -> Option<Outcome> {
    let mut alive = tokio::time::interval(ALIVE);
    alive.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            biased;
            step = running.next() => match step {
                Step::Output(frame) => sink.send(Message::Binary(frame.into_bytes())).await.ok()?,
                Step::Ended(outcome) => return Some(outcome),
            },
            _ = alive.tick() => {
                if blocked.load(Ordering::Relaxed) {
                    sink.send(Message::Ping(Bytes::new())).await.ok()?;
                }
            }
        }
    }
}

/// The client's side of a running command.
struct Input {
    control: Control,
    /// Bytes for the program, `None` for the end of file.
    queue: VecDeque<Option<Bytes>>,
    queued: usize,
    writing: Option<BoxFuture<'static, ()>>,
    /// The queue is full and the client's side is not read.
    blocked: Arc<AtomicBool>,
}

impl Input {
    fn new(control: Control, early: VecDeque<Message>) -> Self {
        let mut input = Self {
            control,
            queue: VecDeque::new(),
            queued: 0,
            writing: None,
            blocked: Arc::default(),
        };
        for message in early {
            if let Message::Binary(data) = message {
                input.take(&data);
            }
        }
        input
    }

    /// Takes input and controls until the client has gone. A program that takes no input does not keep a
    /// signal from reaching it: some input is read ahead.
    async fn run(&mut self, source: &mut Source) {
        loop {
            if self.writing.is_none() {
                self.write_next();
            }
            let room = self.queued < READ_AHEAD;
            self.blocked.store(!room, Ordering::Relaxed);
            let writing = async {
                match self.writing.as_mut() {
                    Some(writing) => writing.await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = writing => self.writing = None,
                message = source.next(), if room => match message {
                    Some(Ok(message)) => {
                        if !self.message(message).await {
                            return;
                        }
                    }
                    None | Some(Err(_)) => return,
                },
            }
        }
    }

    fn write_next(&mut self) {
        let Some(next) = self.queue.pop_front() else { return };
        self.queued -= next.as_ref().map_or(0, Bytes::len);
        let control = self.control.clone();
        self.writing = Some(Box::pin(async move {
            let sent = match next {
                Some(data) => control.write(data).await,
                None => control.close_input().await,
            };
            if sent.is_err() {
                // The program has ended; what is still to come has no reader.
                tracing::trace!("input after the program's end");
            }
        }));
    }

    /// Queues a binary message.
    fn take(&mut self, data: &Bytes) {
        if data.first() == Some(&STDIN) {
            self.queued += data.len() - 1;
            self.queue.push_back((data.len() > 1).then(|| data.slice(1..)));
        }
    }

    /// Handles a message. Returns false when it is the client's goodbye.
    async fn message(&mut self, message: Message) -> bool {
        match message {
            Message::Binary(data) => self.take(&data),
            Message::Text(text) => match serde_json::from_str(&text) {
                Ok(ExecControl::Signal { signal }) => {
                    if !self.control.signal(&signal).await {
                        tracing::debug!("a client asked for an unknown signal");
                    }
                }
                Ok(ExecControl::Cancel) => self.control.cancel(),
                Err(error) => tracing::debug!(%error, "a client sent a control that is none"),
            },
            Message::Close(_) => return false,
            Message::Ping(_) | Message::Pong(_) => {}
        }
        true
    }
}

async fn send_event(sink: &mut Sink, event: &ExecEvent) -> Result<(), axum::Error> {
    // See `exec::line`.
    let text = serde_json::to_string(event).unwrap_or_default();
    sink.send(Message::Text(Utf8Bytes::from(text))).await
}
