//! The WebSocket on which a command runs: the upgrade, and the two directions of bytes.
//!
//! Bytes from the command go from the socket's buffer to the file descriptor without another copy.
//! Nothing is read from the socket while a write is unfinished: a reader of ours that stops pushes
//! back through the daemon. Where the daemon has our descriptors (`descriptors.rs`), no bytes come here.

use std::io;

use bytes::{Bytes, BytesMut};
use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt as _, StreamExt as _};
use http_body_util::{BodyExt as _, Empty};
use hyper::header::{CONNECTION, HOST, HeaderName, UPGRADE};
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use occ_proto::error::Problem;
use occ_proto::exec::{
    DESCRIPTORS_HEADER, ExecControl, ExecEvent, ExecRequest, Exit, STDERR, STDIN, STDOUT,
};
use occ_proto::policy::CLIENT_HEADER;
use occ_proto::prompt::PROMPTS_HEADER;
use occ_proto::trust::NewHostKey;
use occ_proto::{AGENT_HEADER, KEY_HEADER};
use tokio::sync::mpsc;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::Role;

use crate::client::{Client, agent, broken, given_key, is_failure, kind, note_warnings, problem};
use crate::connection::Connection;
use crate::descriptors::{Offer, Socket};
use crate::error::{CliError, DAEMON_UNREACHABLE};
use crate::output::fold::Stream;
use crate::place::Place;
use crate::stdio::{Descriptor, Input};
use crate::versions::remedy;

/// The key and its answer from RFC 6455, section 1.3. The key exists to tell a WebSocket server from
/// a caching proxy; on a private Unix socket a fixed one does that as well as a random one.
pub(crate) const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

/// How much of standard input goes into one message, in bytes: what a pipe holds on Linux.
const STDIN_CHUNK: usize = 64 * 1024;

/// How many control messages may wait for the socket: two signals and their cancels.
const CONTROLS: usize = 4;

pub(crate) type WebSocket = WebSocketStream<Socket>;

/// Asks the daemon for a WebSocket. The offered descriptors are passed with the first message, if the daemon takes
/// them. Nothing begins before that message, so when the daemon goes meanwhile the next one is asked.
pub(crate) async fn open(client: &Client, path: &str, offer: Offer) -> Result<WebSocket, CliError> {
    client.let_in(async |_| open_now(client, path, offer.clone()).await).await
}

async fn open_now(client: &Client, path: &str, offer: Offer) -> Result<WebSocket, CliError> {
    let opened = async { Ok(open_once(client, path, offer.clone()).await) };
    // The daemon's silence is no reason to ask another, only its end.
    match client.at_once(opened).await? {
        Err(error) if error.code == DAEMON_UNREACHABLE => {
            client.find_next(error).await?;
            Box::pin(client.at_once(open_once(client, path, offer))).await
        }
        opened => opened,
    }
}

async fn open_once(client: &Client, path: &str, offer: Offer) -> Result<WebSocket, CliError> {
    let stream = client.stream().await?;
    let mut request = Request::get(path)
        .header(HOST, "localhost")
        .header(CONNECTION, "upgrade")
        .header(UPGRADE, "websocket")
        .header(HeaderName::from_static("sec-websocket-version"), "13")
        .header(HeaderName::from_static("sec-websocket-key"), KEY);
    request = request.header(CLIENT_HEADER, kind());
    if let Some(agent) = agent() {
        request = request.header(AGENT_HEADER, agent);
    }
    if let Some(key) = given_key() {
        request = request.header(KEY_HEADER, key);
    }
    if let Some(prompter) = client.prompter() {
        request = request.header(PROMPTS_HEADER, prompter.token());
    }
    if let Some(offer) = offer.header() {
        request = request.header(DESCRIPTORS_HEADER, offer);
    }
    let request = request
        .body(Empty::<Bytes>::new())
        .map_err(|error| CliError::failed(format!("the request cannot be made: {error}")))?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(Connection::new(stream))
        .await
        .map_err(|error| broken(&error))?;
    let ui = client.ui().clone();
    let answer = async move {
        let answer = sender.send_request(request).await.map_err(|error| broken(&error))?;
        let daemon = client.serves_us(answer.headers()).await?;
        note_warnings(&ui, answer.headers());
        let status = answer.status();
        if status != StatusCode::SWITCHING_PROTOCOLS {
            let body =
                answer.into_body().collect().await.map_err(|error| broken(&error))?.to_bytes();
            return Err(if is_failure(status) {
                problem(status, &body, &daemon)
            } else {
                CliError::incompatible(format!("occd {daemon} opens no such stream."))
                    .hint(remedy(&daemon))
            });
        }
        let accept = answer.headers().get("sec-websocket-accept");
        if accept.is_none_or(|value| value != ACCEPT) {
            return Err(CliError::incompatible(format!("occd {daemon} does not speak WebSocket."))
                .hint(remedy(&daemon)));
        }
        let offer = offer.taken_up(answer.headers().get(DESCRIPTORS_HEADER));
        let upgraded = hyper::upgrade::on(answer).await.map_err(|error| broken(&error))?;
        Ok((upgraded, offer))
    };
    // The connection must be driven for the answer to come; its own error is the answer's too.
    let (upgraded, offer) = tokio::join!(connection.with_upgrades(), answer).1?;
    let parts = upgraded
        .downcast::<TokioIo<Connection>>()
        .map_err(|_| CliError::failed("the upgraded connection is of another kind"))?;
    Ok(WebSocketStream::from_partially_read(
        Socket::new(parts.io.into_inner().into_inner(), offer),
        parts.read_buf.to_vec(),
        Role::Client,
        None,
    )
    .await)
}

/// How a command's stream ended.
#[derive(Debug)]
pub(crate) enum End {
    /// The daemon said how the command ended.
    Exit(Exit),
    /// The daemon said why it was not run, or that its end is not known.
    Problem(Box<Problem>),
    /// The daemon went away without a word.
    Lost,
    /// Our own output could not be written.
    Output(io::Error),
}

/// A command's stream that is open and has not been read.
#[derive(Debug)]
pub(crate) struct ExecStream {
    sink: SplitSink<WebSocket, Message>,
    stream: SplitStream<WebSocket>,
}

impl ExecStream {
    /// Asks the daemon for a WebSocket to run a command there. The offered descriptors are passed
    /// with the first message, if the daemon takes them.
    pub(crate) async fn open(
        client: &Client,
        place: &Place,
        offer: Offer,
    ) -> Result<Self, CliError> {
        let socket = open(client, &place.path("/exec"), offer).await?;
        let (sink, stream) = socket.split();
        Ok(Self { sink, stream })
    }

    /// Sends the command and returns its two directions.
    pub(crate) async fn start(mut self, request: &ExecRequest) -> Result<(Up, Down), CliError> {
        let text = serde_json::to_string(request)
            .map_err(|error| CliError::failed(format!("the request cannot be written: {error}")))?;
        self.sink.send(Message::text(text)).await.map_err(|error| {
            let error = broken(&error);
            let message =
                format!("{}; the command was not started.", error.message.trim_end_matches('.'));
            CliError { message, ..error }
        })?;
        Ok((Up { sink: self.sink }, Down { stream: self.stream }))
    }
}

/// The direction to the command.
#[derive(Debug)]
pub(crate) struct Up {
    sink: SplitSink<WebSocket, Message>,
}

/// Returns the way to send control messages, and where they come out.
pub(crate) fn controls() -> (mpsc::Sender<ExecControl>, mpsc::Receiver<ExecControl>) {
    mpsc::channel(CONTROLS)
}

impl Up {
    /// Passes standard input and control messages on, until the socket or the controls end. The input is not
    /// touched before `ready`; one that cannot be read ends there, and `on_unreadable` is told why.
    pub(crate) async fn run(
        mut self,
        mut stdin: Option<Input>,
        ready: impl Future<Output = ()>,
        mut controls: mpsc::Receiver<ExecControl>,
        on_unreadable: impl Fn(&io::Error),
    ) {
        let mut ready = std::pin::pin!(ready);
        let mut is_ready = false;
        enum Next {
            Control(Option<ExecControl>),
            Input(io::Result<usize>),
        }
        let mut buffer = BytesMut::new();
        if stdin.is_none() && self.send_input(Bytes::from_static(&[STDIN])).await.is_err() {
            return;
        }
        loop {
            if buffer.is_empty() {
                buffer.reserve(STDIN_CHUNK + 1);
                buffer.extend_from_slice(&[STDIN]);
            }
            let input = async {
                if !is_ready {
                    ready.as_mut().await;
                    is_ready = true;
                }
                match &mut stdin {
                    Some(stdin) => stdin.read(&mut buffer).await,
                    None => std::future::pending().await,
                }
            };
            let next = tokio::select! {
                biased;
                control = controls.recv() => Next::Control(control),
                read = input => Next::Input(read),
            };
            // A failed send means that the socket is gone, which the other direction reports.
            let sent = match next {
                Next::Control(None) => return,
                Next::Control(Some(control)) => match serde_json::to_string(&control) {
                    Ok(text) => self.sink.send(Message::text(text)).await,
                    Err(_) => Ok(()),
                },
                Next::Input(read @ (Ok(0) | Err(_))) => {
                    if let Err(error) = read {
                        on_unreadable(&error);
                    }
                    stdin = None;
                    self.send_input(Bytes::from_static(&[STDIN])).await
                }
                Next::Input(Ok(_)) => {
                    let chunk = buffer.split().freeze();
                    self.send_input(chunk).await
                }
            };
            if sent.is_err() {
                return;
            }
        }
    }

    async fn send_input(
        &mut self,
        chunk: Bytes,
    ) -> Result<(), tokio_tungstenite::tungstenite::Error> {
        self.sink.send(Message::Binary(chunk)).await
    }
}

/// The direction from the command.
#[derive(Debug)]
pub(crate) struct Down {
    stream: SplitStream<WebSocket>,
}

impl Down {
    /// Passes the command's output to `output` until its end. `on_start` is called when the host has accepted the command,
    /// with its host key if that was recorded just now; `on_output` when something of it was written; `on_key` for each key
    /// that was recorded, also of jump hosts; `on_approval` with the question that a person is to answer first; `on_unsent`
    /// with whether the command is certain not to have been sent.
    pub(crate) async fn run(
        mut self,
        output: &mut Output,
        on_unsent: impl Fn(bool),
        on_start: impl Fn(Option<String>),
        on_output: impl Fn(),
        on_key: impl Fn(NewHostKey),
        on_approval: impl Fn(u64, &str),
    ) -> End {
        while let Some(message) = self.stream.next().await {
            match message {
                Ok(Message::Binary(bytes)) => {
                    if let Err(error) = output.write(bytes).await {
                        return End::Output(error);
                    }
                    on_output();
                }
                Ok(Message::Text(text)) => match serde_json::from_str(text.as_str()) {
                    Ok(ExecEvent::Exit(exit)) => return End::Exit(exit),
                    Ok(ExecEvent::Error { problem }) => return End::Problem(problem),
                    Ok(ExecEvent::OutputError { errno }) => {
                        return End::Output(io::Error::from_raw_os_error(errno));
                    }
                    Ok(ExecEvent::Started { new_host_key }) => {
                        on_start(new_host_key);
                        // What the start makes of the terminal is made of it before anything is written there.
                        tokio::task::yield_now().await;
                    }
                    Ok(ExecEvent::NewHostKey(key)) => on_key(key),
                    Ok(ExecEvent::Approval { id, message }) => on_approval(id, &message),
                    Ok(ExecEvent::Waiting) => on_unsent(true),
                    Ok(ExecEvent::Sending) => on_unsent(false),
                    // Events of a newer daemon within this API version are there to be ignored.
                    Ok(
                        ExecEvent::Stdout { .. }
                        | ExecEvent::Stderr { .. }
                        | ExecEvent::BadControl { .. },
                    )
                    | Err(_) => {}
                },
                Ok(Message::Close(_)) | Err(_) => return End::Lost,
                Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_)) => {}
            }
        }
        End::Lost
    }
}

/// Where a command's output goes.
#[derive(Debug)]
pub(crate) enum Output {
    /// To our own two streams.
    Streams {
        /// Standard output.
        out: Descriptor,
        /// Standard error.
        err: Descriptor,
    },
    /// Into memory, for one JSON document.
    Kept {
        /// Standard output.
        out: crate::commands::Kept,
        /// Standard error.
        err: crate::commands::Kept,
    },
    /// To our own two streams, line by line, beside other hosts'.
    Lines(crate::commands::HostLines),
}

impl Output {
    async fn write(&mut self, message: Bytes) -> io::Result<()> {
        let Some(&stream) = message.first() else { return Ok(()) };
        let bytes = message.slice(1..);
        match (self, stream) {
            (Self::Streams { out, .. }, STDOUT) => out.write(bytes).await,
            (Self::Streams { err, .. }, STDERR) => err.write(bytes).await,
            (Self::Kept { out, .. }, STDOUT) => {
                out.push(&bytes);
                Ok(())
            }
            (Self::Kept { err, .. }, STDERR) => {
                err.push(&bytes);
                Ok(())
            }
            (Self::Lines(lines), STDOUT) => lines.push(Stream::Out, &bytes).await,
            (Self::Lines(lines), STDERR) => lines.push(Stream::Err, &bytes).await,
            // A stream of a newer daemon.
            _ => Ok(()),
        }
    }
}
