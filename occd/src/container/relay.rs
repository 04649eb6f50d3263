//! One client of a host's Docker socket: understood up to its first request, and from then on bytes.

use std::io::ErrorKind;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf as _, Bytes, BytesMut};
use occ_proto::policy::Action;
use occ_proto::session::SessionHost;
use occ_proto::{Code, HostName};
use tokio::io::{
    AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf, copy_bidirectional,
};
use tokio::net::UnixStream;
use tokio::time::{Instant, timeout};

use super::head::{self, Request};
use super::ready::Ready;
use super::way::Stream;
use super::{Docker, DockerError};
use crate::audit::Who;
use crate::peer::Peer;
use crate::policy::{Asker, Denied, Guard, Request as Asked};
use crate::prompts::Client;
use crate::ssh::error::chain;

/// How long a client may take to send a request's head once it has begun.
const HEADER_TIME: Duration = Duration::from_secs(5);
/// How long the connection of a host that nobody has used yet may take.
const CONNECT: Duration = Duration::from_secs(15);
/// How long an engine may take to be ready on a host that is connected.
const READY: Duration = Duration::from_secs(10);
/// How long what a client still sends is read after an error, so that it sees the error and no reset.
const LINGER: Duration = Duration::from_secs(1);

/// Why a request gets no engine, as one sentence.
struct Unavailable(String);

/// Serves a client to its end. An error is a client that went away.
pub(super) async fn serve(
    mut client: UnixStream,
    ready: &Ready,
    guard: &Guard,
) -> std::io::Result<()> {
    let mut buffer = BytesMut::new();
    loop {
        let request = match next(&mut client, &mut buffer).await {
            Err(error) if error.kind() == ErrorKind::InvalidData => {
                return answer(client, nonsense()).await;
            }
            request => request?,
        };
        let Some(request) = request else { return Ok(()) };
        let Request::Ping { length, head_only, last } = request else { break };
        buffer.advance(length);
        let pinged = match ready.live() {
            Some(live) => Ok(live),
            None => engine(ready).await,
        };
        match pinged {
            Ok(live) => client.write_all(live.ping.answer(head_only).as_bytes()).await?,
            Err(error) => return refuse(client, error, head_only).await,
        }
        if last {
            return client.shutdown().await;
        }
    }
    // One that may only read says one thing per connection, and is looked at each time.
    let peer = Peer::of(&client);
    let trail = guard.audit().trail(&Who::of(peer), "docker", "docker");
    trail.set(|line| {
        line.host = Some(ready.host().name().to_string());
        // More may follow on the connection, which are bytes to us. A query may have secrets, such as build arguments.
        let first = head::first_line(&buffer);
        line.detail = first.split('?').next().map(str::to_owned);
    });
    trail.begin();
    let only_reads = match may(peer, &buffer, ready, guard).await {
        Ok(only_reads) => only_reads,
        Err(denied) => {
            trail.failed(Code::PolicyDenied);
            let why = Unavailable(format!("{}: {denied}", ready.host().name()));
            return answer(client, forbidden(&why)).await;
        }
    };
    match stream(ready).await {
        Ok((mut engine, _, _work)) if only_reads => {
            trail.done();
            let Some(head) = head::read_only(&buffer) else { return Ok(()) };
            engine.write_all(&head).await?;
            drop(buffer);
            let (mut from, mut to) = client.split();
            let mut rest = [0; 1024];
            // What a client says after its request is not for the engine; when it leaves, that is the end.
            let left = async { while matches!(from.read(&mut rest).await, Ok(1..)) {} };
            tokio::select! {
                copied = tokio::io::copy(&mut engine, &mut to) => copied.map(drop)?,
                () = left => {}
            }
            client.shutdown().await
        }
        Ok((mut engine, is_program, _work)) => {
            if is_program {
                // A client keeps connections, and here each would keep a session.
                head::close_after(&mut buffer);
            }
            engine.write_all(&buffer).await?;
            trail.done();
            drop(buffer);
            copy_bidirectional(&mut client, &mut engine).await?;
            Ok(())
        }
        Err(error) => {
            trail.failed(Code::DockerUnavailable);
            refuse(client, error, false).await
        }
    }
}

/// Asks the policy about a client's first request, and returns whether that is one that only reads, of a client that may do no
/// more.
async fn may(
    peer: Option<Peer>,
    buffer: &[u8],
    ready: &Ready,
    guard: &Guard,
) -> Result<bool, Denied> {
    let place = SessionHost::Host(ready.host().name().clone());
    let asker = Asker { peer, ..Asker::default() };
    if !guard.restricts(&asker, &place) {
        return Ok(false);
    }
    let nobody = Client::default();
    let text = head::first_line(buffer);
    let read = head::read_only(buffer).is_some();
    if guard.decide(&asker, &place, &Asked::Docker).action == Action::Allow {
        return Ok(false);
    }
    let request = if read { Asked::DockerRead } else { Asked::Docker };
    let permitted = guard.permit((&asker, &nobody), &place, &request, &text, &|_, _| {}).await;
    permitted.map(|()| read)
}

/// Returns the next request's head, which stays in the buffer; nothing at the client's end.
async fn next(client: &mut UnixStream, buffer: &mut BytesMut) -> std::io::Result<Option<Request>> {
    // A client may hold a connection for as long as it likes, but not half a head.
    if buffer.is_empty() && client.read_buf(buffer).await? == 0 {
        return Ok(None);
    }
    let whole = async {
        loop {
            if let Some(request) = head::request(buffer)? {
                return Ok(Some(request));
            }
            if client.read_buf(buffer).await? == 0 {
                return Ok(None);
            }
        }
    };
    timeout(HEADER_TIME, whole).await.unwrap_or(Ok(None))
}

/// Returns the engine of a host, connecting it if nobody has used it yet. What is down is not waited for.
async fn engine(ready: &Ready) -> Result<std::sync::Arc<super::ready::Live>, Unavailable> {
    let host = ready.host();
    let name = host.name();
    let connected = host.connection_if_due(Instant::now() + CONNECT).await;
    let connection = connected.map_err(|unreachable| {
        Unavailable(format!("{name} is unreachable: {}", chain(unreachable.error.as_ref())))
    })?;
    let socket = host.snapshot().settings.docker_socket.clone();
    let asked = Box::pin(Docker::connect(&connection, socket.as_deref(), Some(host.clone())));
    let asked = tokio::select! {
        biased;
        live = ready.until_live() => return Ok(live),
        asked = timeout(READY, asked) => asked,
    };
    let error = asked.ok().and_then(Result::err);
    // It is ready in a moment, unless it has said why it is not.
    let within = match error {
        None | Some(DockerError::Lost | DockerError::Moved | DockerError::Crowded) => READY,
        Some(_) => Duration::ZERO,
    };
    let live = timeout(within, ready.until_live()).await;
    live.map_err(|_| {
        let why = match error {
            Some(error) => chain(&error),
            // Which of the two it is shows only once there is a session.
            None if connection.opens_no_sockets() => {
                "Docker does not answer, or the sessions that stand in for its socket are all in use (MaxSessions)".to_owned()
            }
            None => "Docker does not answer".to_owned(),
        };
        Unavailable(format!("{name}: {why}"))
    })
}

/// Returns a stream to the engine, and whether a program stands in for its socket.
async fn stream(
    ready: &Ready,
) -> Result<(Box<dyn Stream>, bool, Option<crate::ssh::Work>), Unavailable> {
    let fail =
        |error: DockerError| Unavailable(format!("{}: {}", ready.host().name(), chain(&error)));
    let live = match ready.live() {
        Some(live) => live,
        None => engine(ready).await?,
    };
    let opened = live.stream().await.map_err(fail)?;
    let (work, mut stream) = (opened.work(), opened.stream);
    if live.is_program() {
        stream = Box::new(Program { stream, name: ready.host().name().clone(), rest: None });
    }
    Ok((stream, live.is_program(), work))
}

/// The program that stands in for the socket. One that ends without a word of the engine's is an answer.
struct Program {
    stream: Box<dyn Stream>,
    name: HostName,
    /// What is still to be read of the answer, once anything was.
    rest: Option<Bytes>,
}

impl Program {
    fn refuse(&mut self) {
        let said = self.stream.stderr().last_line();
        let said = said.as_deref().unwrap_or("Docker does not answer");
        let why = Unavailable(format!("{}: {said}", self.name));
        self.rest = Some(unavailable(&why, false).into());
    }
}

impl Stream for Program {
    fn is_ended(&self) -> bool {
        self.stream.is_ended()
    }
}

impl AsyncRead for Program {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        let before = buf.filled().len();
        if self.rest.is_none() {
            match ready!(Pin::new(&mut self.stream).poll_read(cx, buf)) {
                Ok(()) if buf.filled().len() > before => self.rest = Some(Bytes::new()),
                _ => self.refuse(),
            }
        } else if self.rest.as_ref().is_some_and(Bytes::is_empty) {
            return Pin::new(&mut self.stream).poll_read(cx, buf);
        }
        if let Some(rest) = &mut self.rest {
            let length = rest.len().min(buf.remaining());
            buf.put_slice(&rest.split_to(length));
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Program {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        match ready!(Pin::new(&mut self.stream).poll_write(cx, buf)) {
            // Why it takes nothing is about to be read.
            Err(_) if self.rest.is_none() => Poll::Ready(Ok(buf.len())),
            written => Poll::Ready(written),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// Returns the answer that says why, in Docker's own form.
fn unavailable(why: &Unavailable, head_only: bool) -> String {
    let message = serde_json::json!({ "message": occ_proto::text::sanitize(&why.0) }).to_string();
    let length = message.len();
    let body = if head_only { "" } else { &message };
    format!(
        "HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\n\
         Content-Length: {length}\r\nConnection: close\r\n\r\n{body}"
    )
}

/// Returns the answer to what is no request, or has no end.
fn nonsense() -> String {
    let why = Unavailable("occd: this is no request of HTTP/1.1".to_owned());
    unavailable(&why, false).replacen("503 Service Unavailable", "400 Bad Request", 1)
}

/// Returns the answer to what the policy refuses.
fn forbidden(why: &Unavailable) -> String {
    unavailable(why, false).replacen("503 Service Unavailable", "403 Forbidden", 1)
}

/// Tells the client why, in Docker's own form.
async fn refuse(client: UnixStream, why: Unavailable, head_only: bool) -> std::io::Result<()> {
    answer(client, unavailable(&why, head_only)).await
}

async fn answer(mut client: UnixStream, text: String) -> std::io::Result<()> {
    client.write_all(text.as_bytes()).await?;
    client.shutdown().await?;
    let rest = async {
        let mut sink = vec![0; 16 * 1024];
        while matches!(client.read(&mut sink).await, Ok(1..)) {}
    };
    // Either way: the answer has been sent.
    let _ = timeout(LINGER, rest).await;
    Ok(())
}
