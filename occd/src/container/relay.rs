//! One client of a host's Docker socket: understood up to its first request, and from then on bytes.

use std::time::Duration;

use bytes::{Buf as _, BytesMut};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, copy_bidirectional};
use tokio::net::UnixStream;
use tokio::time::{Instant, timeout};

use super::DockerError;
use super::head::{self, Request};
use super::ready::Ready;
use super::way::Stream;
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
pub(super) async fn serve(mut client: UnixStream, ready: &Ready) -> std::io::Result<()> {
    let mut buffer = BytesMut::new();
    loop {
        let Some(request) = next(&mut client, &mut buffer).await? else { return Ok(()) };
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
    match stream(ready).await {
        Ok((mut engine, _work)) => {
            engine.write_all(&buffer).await?;
            drop(buffer);
            copy_bidirectional(&mut client, &mut engine).await?;
            Ok(())
        }
        Err(error) => refuse(client, error, false).await,
    }
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
    // What is known to be missing is not waited for.
    let socket = host.snapshot().settings.docker_socket.clone();
    if let Err(error) = super::way::Way::to_host(&connection, socket.as_deref()).await {
        return Err(Unavailable(format!("{name}: {}", chain(&error))));
    }
    match timeout(READY, ready.until_live()).await {
        Ok(live) => Ok(live),
        Err(_) => {
            let socket = host.snapshot().settings.docker_socket.clone();
            let error = match super::way::Way::to_host(&connection, socket.as_deref()).await {
                Ok(way) => match way.open().await {
                    Ok(_) => "Docker does not answer".to_owned(),
                    Err(error) => chain(&error),
                },
                Err(error) => chain(&error),
            };
            Err(Unavailable(format!("{name}: {error}")))
        }
    }
}

async fn stream(ready: &Ready) -> Result<(Box<dyn Stream>, Option<crate::ssh::Work>), Unavailable> {
    let fail =
        |error: DockerError| Unavailable(format!("{}: {}", ready.host().name(), chain(&error)));
    let live = match ready.live() {
        Some(live) => live,
        None => engine(ready).await?,
    };
    let stream = live.stream().await.map_err(fail)?;
    Ok((stream, live.work()))
}

/// Tells the client why, in Docker's own form.
async fn refuse(mut client: UnixStream, why: Unavailable, head_only: bool) -> std::io::Result<()> {
    let message = serde_json::json!({ "message": occ_proto::text::sanitize(&why.0) }).to_string();
    let length = message.len();
    let body = if head_only { "" } else { &message };
    let answer = format!(
        "HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\n\
         Content-Length: {length}\r\nConnection: close\r\n\r\n{body}"
    );
    client.write_all(answer.as_bytes()).await?;
    client.shutdown().await?;
    let rest = async {
        let mut sink = vec![0; 16 * 1024];
        while matches!(client.read(&mut sink).await, Ok(1..)) {}
    };
    // Either way: the answer has been sent.
    let _ = timeout(LINGER, rest).await;
    Ok(())
}
