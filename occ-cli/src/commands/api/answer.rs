//! One request: its connection, its answer, and what goes on between the two.

use std::cell::Cell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;

use bytes::{Bytes, BytesMut};
use futures_util::stream::LocalBoxStream;
use futures_util::{SinkExt as _, StreamExt as _};
use http_body_util::{BodyExt as _, Either, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::header::{CONNECTION, CONTENT_TYPE, HOST, HeaderMap, HeaderName, UPGRADE};
use hyper::http::{request, response};
use hyper::{Method, Request as HttpRequest, Response, StatusCode};
use hyper_util::rt::TokioIo;
use occ_proto::error::{Code, Problem};
use occ_proto::exec::NDJSON;
use occ_proto::policy::CLIENT_HEADER;
use occ_proto::{AGENT_HEADER, KEY_HEADER};
use serde_json::{Value, json};
use tokio::net::UnixStream;
use tokio::sync::{mpsc, oneshot};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::Role;

use super::Api;
use super::ask::{Content, Id, Piece, Request};
use super::said::{self, Mouth, Room, Said, is_json, media_type};
use crate::autostart::{self, Found, Start};
use crate::client;
use crate::connection::Connection;
use crate::error::{ABSENT, BAD_ANSWER, CliError, DAEMON_UNREACHABLE};
use crate::output;
use crate::ws::KEY;

/// The longest body that is one line, and the longest line or event of a stream, in bytes.
const LONGEST: usize = 64 * 1024 * 1024;
/// How many bytes are said at once: a multiple of three, so that base64 needs no padding in between.
const PIECE: usize = 48 * 1024;

type Body = Either<Full<Bytes>, StreamBody<LocalBoxStream<'static, io::Result<Frame<Bytes>>>>>;
type Driver = Option<Pin<Box<dyn Future<Output = ()>>>>;

/// Why a request has no whole answer.
enum Failed {
    /// No connection, hence nothing was sent.
    Unsent(CliError),
    /// The connection broke before the answer began.
    Unanswered(CliError),
    /// The connection broke.
    Broken(String),
    /// The answer cannot be passed on.
    Unusable(String),
}

/// A request, and what belongs to it.
pub(super) struct Work<'a> {
    api: &'a Api<'a>,
    request: Request,
    input: mpsc::Receiver<Piece>,
    /// How many bytes wait in `input`.
    bytes: Rc<Cell<usize>>,
}

/// How far a request's lines are.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Told {
    Nothing,
    /// That its answer is a stream.
    Stream,
    /// The last.
    All,
}

impl<'a> Work<'a> {
    pub(super) fn new(
        api: &'a Api<'a>,
        request: Request,
        input: mpsc::Receiver<Piece>,
        bytes: Rc<Cell<usize>>,
    ) -> Self {
        Self { api, request, input, bytes }
    }

    /// Serves the request until its last line has been said.
    pub(super) async fn run(self, cancelled: oneshot::Receiver<Problem>) {
        let (mouth, id) = (&self.api.mouth, self.request.id.clone());
        let reads = matches!(self.request.method, Method::GET | Method::HEAD);
        // Whether it may be made again without being done twice.
        let repeatable = (reads && !self.request.websocket) || self.request.goes_on();
        let told = Cell::new(Told::Nothing);
        let cancelled = async {
            match cancelled.await {
                Ok(problem) => problem,
                // Nobody can cancel it any more.
                Err(_) => std::future::pending().await,
            }
        };
        let problem = tokio::select! {
            biased;
            problem = cancelled => json!(problem),
            served = Box::pin(self.serve(&told)) => match served {
                Ok(()) => return,
                Err(failed) => described(failed, repeatable),
            },
        };
        let line = match told.get() {
            Told::Nothing => {
                let status = problem["status"].as_u64().and_then(|n| u16::try_from(n).ok());
                Said::failure(&id, status.unwrap_or(500), problem)
            }
            Told::Stream => Said::end(&id, Some(problem)),
            Told::All => return,
        };
        mouth.say(line).await;
    }

    async fn serve(self, told: &Cell<Told>) -> Result<(), Failed> {
        let Self { api, request, input, bytes } = self;
        // A WebSocket is opened by a GET, and nothing begins before its first message.
        let reads = matches!(request.method, Method::GET | Method::HEAD);
        let repeatable = reads || request.goes_on();
        let Request { id, method, uri, headers, body, websocket, upload, start } = request;
        let http = HttpRequest::builder().method(method.clone()).uri(uri);
        let mut http = with_headers(http.header(HOST, "localhost"), headers);
        let has_type = http
            .headers_ref()
            .is_some_and(|headers: &HeaderMap| headers.contains_key(CONTENT_TYPE));
        let kind = match &body {
            _ if websocket => None,
            _ if upload => Some("application/octet-stream"),
            Some(Content::Json(_)) => Some("application/json"),
            Some(Content::Text(_) | Content::Bytes(_)) => Some("application/octet-stream"),
            None => None,
        };
        if let Some(kind) = kind.filter(|_| !has_type) {
            http = http.header(CONTENT_TYPE, kind);
        }
        let mut talk = Talk { mouth: &api.mouth, id, told };
        if upload {
            // Its pieces are there once: they are taken when somebody answers.
            let healthz = made(HttpRequest::get("/healthz").header(HOST, "localhost"))?;
            let asked = Box::pin(ask(api, start, true, healthz, Bytes::new())).await;
            asked.map_err(|failed| match failed {
                Failed::Unanswered(error) => Failed::Unsent(error),
                failed => failed,
            })?;
            let found = Box::pin(connect(api, start)).await.map_err(Failed::Unsent)?;
            let body = pieces(api.mouth.clone(), talk.id.clone(), input, bytes);
            let (answer, driver) = exchange(found.stream, made(http)?.map(|()| body)).await?;
            return talk.answer(answer, driver, false).await;
        }
        if websocket {
            http = http
                .header(CONNECTION, "upgrade")
                .header(UPGRADE, "websocket")
                .header("sec-websocket-version", "13")
                .header("sec-websocket-key", KEY);
            let asked = Box::pin(ask(api, start, repeatable, made(http)?, Bytes::new()));
            let (answer, driver) = asked.await?;
            if answer.status() != StatusCode::SWITCHING_PROTOCOLS {
                return talk.answer(answer, driver, false).await;
            }
            return talk.socket(answer, driver, body, input, &bytes).await;
        }
        let (http, body) = (made(http)?, body.map_or_else(Bytes::new, Content::bytes));
        let is_head = method == Method::HEAD;
        let asked = Box::pin(ask(api, start, repeatable, http.clone(), body.clone()));
        let (answer, driver) = asked.await?;
        match talk.answer(answer, driver, is_head).await {
            // One that waits for a change has its head at once, and nothing else for long.
            Err(Failed::Broken(_)) if repeatable && told.get() == Told::Nothing => {
                let asked = Box::pin(ask(api, start, repeatable, http, body));
                let (answer, driver) = asked.await?;
                talk.answer(answer, driver, is_head).await
            }
            answered => answered,
        }
    }
}

/// Returns a connection to the daemon, which is started when it does not run and `start` allows it.
async fn connect(api: &Api<'_>, start: bool) -> Result<Found, CliError> {
    match autostart::connect(api.context, Start::Never).await {
        Err(error) if start && error.code == ABSENT => {
            let _turn = api.starting.lock().await;
            autostart::connect(api.context, Start::IfNeeded).await
        }
        found => found,
    }
}

/// Sends a request, and once more to the next daemon when this one goes without an answer and that changes nothing.
async fn ask(
    api: &Api<'_>,
    start: bool,
    repeatable: bool,
    request: HttpRequest<()>,
    body: Bytes,
) -> Result<(Response<Incoming>, Driver), Failed> {
    let found = connect(api, start).await.map_err(Failed::Unsent)?;
    let (socket, pid) = (found.socket.clone(), found.pid());
    let with_body = || request.clone().map(|()| whole(body.clone()));
    match exchange(found.stream, with_body()).await {
        Err(Failed::Unanswered(error)) if error.may_ask_next(repeatable) => {
            client::ended(&socket, pid).await;
            let next = connect(api, start).await.map_err(Failed::Unsent)?;
            exchange(next.stream, with_body()).await
        }
        answer => answer,
    }
}

/// Returns a request without its body.
fn made(request: request::Builder) -> Result<HttpRequest<()>, Failed> {
    let bad = |error| Failed::Unusable(format!("the request cannot be made: {error}"));
    request.body(()).map_err(bad)
}

/// Adds the headers of a request, and those that every client of this user sends, unless it has its own.
fn with_headers(
    mut http: request::Builder,
    headers: Vec<(HeaderName, hyper::header::HeaderValue)>,
) -> request::Builder {
    let named = std::env::var_os("OCC_CLIENT").filter(|kind| !kind.is_empty());
    let kind = named.map(|_| client::kind());
    let usual = [(CLIENT_HEADER, kind), (AGENT_HEADER, client::agent())];
    for (name, value) in usual.into_iter().chain([(KEY_HEADER, client::given_key())]) {
        let has_own = headers.iter().any(|(own, _)| own == name);
        if let Some(value) = value.filter(|_| !has_own) {
            http = http.header(name, value);
        }
    }
    for (name, value) in headers {
        http = http.header(name, value);
    }
    http
}

fn whole(bytes: Bytes) -> Body {
    Either::Left(Full::new(bytes))
}

/// Returns a body that is sent in pieces. One whose end does not come is cut off, so that the daemon knows.
fn pieces(mouth: Mouth, id: Id, input: mpsc::Receiver<Piece>, bytes: Rc<Cell<usize>>) -> Body {
    let stream = futures_util::stream::unfold(Some((input, mouth, id, bytes)), async |state| {
        let (mut input, mouth, id, bytes) = state?;
        let Some(piece) = input.recv().await else {
            return Some((Err(io::ErrorKind::UnexpectedEof.into()), None));
        };
        bytes.set(bytes.get() - piece.len());
        if let Some(ack) = &piece.ack {
            mouth.say(Said::ack(&id, ack)).await;
        }
        let content = piece.content?;
        Some((Ok(Frame::data(content.bytes())), Some((input, mouth, id, bytes))))
    });
    Either::Right(StreamBody::new(stream.boxed_local()))
}

/// Sends a request. The driver has to be polled for the answer's body to come.
async fn exchange(
    stream: UnixStream,
    request: HttpRequest<Body>,
) -> Result<(Response<Incoming>, Driver), Failed> {
    let unanswered = |error: hyper::Error| Failed::Unanswered(client::broken(&error));
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(Connection::new(stream)).await.map_err(unanswered)?;
    // Its error is the answer's, too.
    let mut driver: Pin<Box<dyn Future<Output = ()>>> =
        Box::pin(async move { drop(connection.with_upgrades().await) });
    let mut asked = std::pin::pin!(sender.send_request(request));
    let (answer, driver) = tokio::select! {
        biased;
        answer = &mut asked => (answer, Some(driver)),
        () = &mut driver => (asked.await, None),
    };
    Ok((answer.map_err(unanswered)?, driver))
}

/// Polls the connection while something is waited for.
async fn driven<T>(driver: &mut Driver, what: impl Future<Output = T>) -> T {
    let mut what = std::pin::pin!(what);
    if let Some(connection) = driver {
        tokio::select! {
            biased;
            done = &mut what => return done,
            () = connection => *driver = None,
        }
    }
    what.await
}

/// What a request says.
struct Talk<'a> {
    mouth: &'a Mouth,
    id: Id,
    told: &'a Cell<Told>,
}

impl Talk<'_> {
    async fn say(&self, line: Said, told: Told) {
        self.mouth.say(line).await;
        self.told.set(told);
    }

    /// Passes an answer on: as a whole, or as the stream that it is.
    async fn answer(
        &mut self,
        answer: Response<Incoming>,
        mut driver: Driver,
        is_head: bool,
    ) -> Result<(), Failed> {
        let (head, mut body) = answer.into_parts();
        let kind = media_type(&head.headers).to_owned();
        if is_head || kind.is_empty() || is_json(&head.headers) {
            return self.whole(head, body, driver).await;
        }
        let name = match kind.as_str() {
            "text/event-stream" => "events",
            NDJSON => "lines",
            _ => "bytes",
        };
        let line = Said::stream(&self.id, head.status, &head.headers, name);
        self.say(line, Told::Stream).await;
        let mut room = None;
        let mut buffer = BytesMut::new();
        let mut event = Event::default();
        while let Some(data) = next(&mut driver, &mut body).await? {
            if name == "bytes" {
                for piece in data.chunks(PIECE) {
                    self.mouth.say(Said::bytes(&self.id, piece, None)).await;
                }
                continue;
            }
            buffer.extend_from_slice(&data);
            while let Some(end) = buffer.iter().position(|byte| *byte == b'\n') {
                let line = buffer.split_to(end + 1);
                let line = std::str::from_utf8(&line)
                    .map_err(|_| Failed::Unusable("a line of the stream is not UTF-8".into()))?;
                let line = line.trim_end_matches(['\r', '\n']);
                let room = room.take();
                if name == "lines" {
                    // An empty one is a sign of life.
                    if !line.is_empty() {
                        let line = Said::event(&self.id, "line", None, line, room);
                        self.mouth.say(line).await;
                    }
                } else if let Some((name, at, data)) = event.line(line) {
                    let line = Said::event(&self.id, &name, at.as_deref(), &data, room);
                    self.mouth.say(line).await;
                }
            }
            let length = buffer.len() + event.data.len();
            self.mouth.room(length, &mut room).await;
            if length > LONGEST {
                return Err(Failed::Unusable("a line of the stream is too long".into()));
            }
        }
        self.say(Said::end(&self.id, None), Told::All).await;
        Ok(())
    }

    async fn whole(
        &mut self,
        head: response::Parts,
        mut body: Incoming,
        mut driver: Driver,
    ) -> Result<(), Failed> {
        let mut room: Room = None;
        let mut all = BytesMut::new();
        while let Some(data) = next(&mut driver, &mut body).await? {
            all.extend_from_slice(&data);
            if all.len() > LONGEST {
                return Err(Failed::Unusable("the answer is too long".into()));
            }
            self.mouth.room(all.len(), &mut room).await;
        }
        let line = Said::answer(&self.id, head.status, &head.headers, &all, room);
        self.say(line, Told::All).await;
        Ok(())
    }

    /// Passes messages on, both ways, until the daemon closes.
    async fn socket(
        &mut self,
        answer: Response<Incoming>,
        mut driver: Driver,
        first: Option<Content>,
        mut input: mpsc::Receiver<Piece>,
        bytes: &Cell<usize>,
    ) -> Result<(), Failed> {
        let (status, headers) = (answer.status(), answer.headers().clone());
        let upgraded = driven(&mut driver, hyper::upgrade::on(answer)).await;
        let upgraded = upgraded.map_err(|error| Failed::Broken(reason(&error)))?;
        let socket =
            WebSocketStream::from_raw_socket(TokioIo::new(upgraded), Role::Client, None).await;
        let (mut sink, mut stream) = socket.split();
        let line = Said::stream(&self.id, status, &headers, "websocket");
        self.say(line, Told::Stream).await;
        let up = async {
            if let Some(content) = first {
                sink.send(message(content)).await?;
            }
            while let Some(piece) = input.recv().await {
                let length = piece.len();
                let is_last = piece.is_last();
                sink.send(piece.content.map_or(Message::Close(None), message)).await?;
                bytes.set(bytes.get() - length);
                if let Some(ack) = &piece.ack {
                    self.mouth.say(Said::ack(&self.id, ack)).await;
                }
                if is_last {
                    break;
                }
            }
            Ok::<_, tokio_tungstenite::tungstenite::Error>(())
        };
        let down = async {
            loop {
                match stream.next().await {
                    Some(Ok(Message::Text(text))) => {
                        let line = Said::event(&self.id, "message", None, &text, None);
                        self.mouth.say(line).await;
                    }
                    Some(Ok(Message::Binary(data))) => {
                        for line in binary(&self.id, &data) {
                            self.mouth.say(line).await;
                        }
                    }
                    Some(Ok(Message::Close(_))) => return Ok(()),
                    Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => {}
                    Some(Err(error)) => return Err(Failed::Broken(error.to_string())),
                    None => return Err(Failed::Broken("it ended without a word".into())),
                }
            }
        };
        let mut down = std::pin::pin!(down);
        let ended = tokio::select! {
            biased;
            ended = &mut down => ended,
            // One that cannot be sent to is closed, which is heard at the other end of it.
            _ = up => down.await,
        };
        ended?;
        self.say(Said::end(&self.id, None), Told::All).await;
        Ok(())
    }
}

fn message(content: Content) -> Message {
    match content {
        Content::Json(text) | Content::Text(text) => Message::text(text),
        Content::Bytes(bytes) => Message::Binary(bytes),
    }
}

/// Returns a message of bytes in lines. Each begins with the first byte of the message, which names the stream.
fn binary(id: &Id, data: &[u8]) -> Vec<Said> {
    let Some((stream, data)) = data.split_first() else {
        return vec![Said::bytes(id, data, None)];
    };
    let piece = |piece: &[u8]| Said::bytes(id, &[&[*stream], piece].concat(), None);
    match data.is_empty() {
        true => vec![piece(data)],
        false => data.chunks(PIECE - 1).map(piece).collect(),
    }
}

/// Returns the next bytes of a body; nothing at its end.
async fn next(driver: &mut Driver, body: &mut Incoming) -> Result<Option<Bytes>, Failed> {
    loop {
        match driven(driver, body.frame()).await {
            None => return Ok(None),
            Some(Err(error)) => return Err(Failed::Broken(reason(&error))),
            Some(Ok(frame)) => {
                if let Ok(data) = frame.into_data() {
                    return Ok(Some(data));
                }
            }
        }
    }
}

/// Returns the innermost text of an error of hyper's: the outermost says nothing.
fn reason(error: &hyper::Error) -> String {
    if error.is_incomplete_message() || error.is_body_write_aborted() {
        return "its answer breaks off".to_owned();
    }
    let mut inner: &dyn std::error::Error = error;
    while let Some(source) = inner.source() {
        inner = source;
    }
    inner.to_string()
}

fn described(failed: Failed, repeatable: bool) -> Value {
    let why = match failed {
        Failed::Unsent(error) => {
            let text = output::problem::json(&error);
            return serde_json::from_str(&text)
                .unwrap_or_else(|_| said::problem(503, &error.code, &error.message, true));
        }
        Failed::Unusable(why) => {
            let detail = format!("It cannot be passed on: {why}.");
            return said::problem(502, BAD_ANSWER, &detail, false);
        }
        Failed::Unanswered(error) => error.unanswered.unwrap_or(error.message.into()),
        Failed::Broken(why) => why.into(),
    };
    if repeatable {
        let detail = format!("occd went away before the end: {why}.");
        return said::problem(503, DAEMON_UNREACHABLE, &detail, true);
    }
    let detail = format!("occd went away before the end, and what came of it is not known: {why}.");
    json!(Problem::new(502, Code::OutcomeUnknown, detail))
}

/// A server-sent event that has not ended (HTML Standard, 9.2.6).
#[derive(Debug, Default)]
struct Event {
    name: String,
    id: Option<String>,
    data: String,
    has_data: bool,
}

impl Event {
    /// Takes a line. Returns name, ID and data of the event that it ends.
    fn line(&mut self, line: &str) -> Option<(String, Option<String>, String)> {
        if line.is_empty() {
            let event = std::mem::take(self);
            let name = if event.name.is_empty() { "message".to_owned() } else { event.name };
            return event.has_data.then_some((name, event.id, event.data));
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "event" => value.clone_into(&mut self.name),
            "id" => self.id = Some(value.to_owned()),
            "data" => {
                if std::mem::replace(&mut self.has_data, true) {
                    self.data.push('\n');
                }
                self.data.push_str(value);
            }
            // A comment, or a field of a newer daemon.
            _ => {}
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn server_sent_events_are_read() {
        let mut event = Event::default();
        let text = ": hello\n\nid: 7\nevent: host\ndata: {\ndata: }\n\ndata:x\n\nid: 8\n\n";
        let read: Vec<_> = text.lines().filter_map(|line| event.line(line)).collect();
        let all = |name: &str, id: Option<&str>, data: &str| {
            (name.to_owned(), id.map(str::to_owned), data.to_owned())
        };
        assert_eq!(read, [all("host", Some("7"), "{\n}"), all("message", None, "x")]);
    }
}
