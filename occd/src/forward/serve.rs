//! One client of a port or socket of this machine.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use occ_proto::forward::{Direction, Endpoint};
use occ_proto::text::sanitize;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::open::{NoWay, Whose, open};
use super::relay::relay;
use super::running::Running;
use super::socks::{self, Answer};
use super::stream::LocalStream;
use crate::ssh::Incoming;

/// How long a client's request is read after a refusal, so that it sees the answer and no reset.
const LINGER: Duration = Duration::from_secs(1);
/// How long it may take to reach what a client on the host wants to be connected to.
const CONNECT: Duration = Duration::from_secs(15);

/// Serves a client to its end. An error is one that went away.
pub(super) async fn client(client: LocalStream, running: Arc<Running>) -> io::Result<()> {
    client.at_once()?;
    let _open = running.connection();
    match (&running.record.to, running.record.direction) {
        (Some(to), Direction::Local) => directly(client, to, &running).await,
        _ => by_socks(client, &running).await,
    }
    Ok(())
}

async fn directly(client: LocalStream, to: &Endpoint, running: &Running) {
    let whose = running.whose();
    let no_way = match open(&running.host, to, whose).await {
        Ok(channel) => {
            running.listens();
            if let Err(broken) = relay(client, Bytes::new(), channel, &running.counts).await {
                running.broke(&broken);
            }
            return;
        }
        Err(no_way) => no_way,
    };
    // First: whoever was refused may ask at once why.
    tell(running, &no_way);
    match client {
        // A browser's.
        LocalStream::Tcp(client) if matches!(whose, Whose::Browsers(..)) => {
            if let Err(error) = unavailable(client, running, &no_way).await {
                tracing::debug!(%error, "a client went away");
            }
        }
        client => client.reset(),
    }
}

async fn by_socks(mut client: LocalStream, running: &Running) {
    let request = match socks::request(&mut client).await {
        Ok(Some(request)) => request,
        Ok(None) => return,
        Err(error) => {
            tracing::debug!(%error, "a client of SOCKS went away, or speaks something else");
            return;
        }
    };
    let answer = match open(&running.host, &request.to, Whose::Programs).await {
        Ok(channel) => {
            running.listens();
            if socks::answer(&mut client, request.version, Answer::Granted).await.is_ok()
                && let Err(broken) = relay(client, Bytes::new(), channel, &running.counts).await
            {
                running.broke(&broken);
            }
            return;
        }
        Err(no_way) => {
            tell(running, &no_way);
            match no_way {
                NoWay::Down(_) => Answer::Unreachable,
                NoWay::Forbidden(_) => Answer::Forbidden,
                NoWay::Refused(_) => Answer::Refused,
            }
        }
    };
    if let Err(error) = socks::answer(&mut client, request.version, answer).await {
        tracing::debug!(%error, "a client of SOCKS went away");
    }
}

/// Serves a client on the host that says itself where it wants to go; the connection is made here.
pub(super) async fn client_of_socks(incoming: Incoming, running: &Running) {
    let mut client = incoming.accept().await.into_stream();
    let request = match socks::request(&mut client).await {
        Ok(Some(request)) => request,
        Ok(None) => return,
        Err(error) => {
            tracing::debug!(%error, "a client of SOCKS went away, or speaks something else");
            return;
        }
    };
    let connected = match &request.to {
        Endpoint::Tcp { host, port } => {
            let connecting = timeout(CONNECT, TcpStream::connect((host.as_str(), *port)));
            connecting.await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
        }
        Endpoint::Unix { .. } => Err(io::ErrorKind::Unsupported.into()),
    };
    let (mut here, answer) = match connected {
        Ok(stream) => (Some(stream), Answer::Granted),
        Err(error) => {
            let to = &request.to;
            running.failed(&format!("{to} cannot be reached from this machine ({error})."));
            let is_refused = error.kind() == io::ErrorKind::ConnectionRefused;
            (None, if is_refused { Answer::Refused } else { Answer::Unreachable })
        }
    };
    let answered = socks::answer(&mut client, request.version, answer).await;
    let (Some(here), Ok(())) = (&mut here, answered) else { return };
    match tokio::io::copy_bidirectional(&mut client, here).await {
        Ok((received, sent)) => {
            running.counts.received(usize::try_from(received).unwrap_or(usize::MAX));
            running.counts.sent(usize::try_from(sent).unwrap_or(usize::MAX));
        }
        Err(error) => tracing::debug!(%error, "a client of SOCKS broke off"),
    }
}

/// What the server's settings forbid is so for the next client, too.
fn tell(running: &Running, no_way: &NoWay) {
    match no_way {
        // What SOCKS leads to may be allowed elsewhere.
        NoWay::Forbidden(why) if running.record.direction == Direction::Local => {
            running.refused(why);
        }
        _ => running.failed(no_way.why()),
    }
}

/// Tells a browser why it does not reach a service.
pub(super) async fn unavailable(
    client: TcpStream,
    running: &Running,
    no_way: &NoWay,
) -> io::Result<()> {
    let mut why = no_way.why().to_owned();
    if let NoWay::Refused(_) = no_way {
        why.push_str(&format!(" occ status --host {} shows more.", running.host.name()));
    }
    refuse(client, "503 Service Unavailable", &why).await
}

/// Tells a browser why there is nothing.
pub(super) async fn refuse(mut client: TcpStream, status: &str, why: &str) -> io::Result<()> {
    let body = format!("{}\n", sanitize(why));
    let answer = format!(
        "HTTP/1.1 {status}\r\nContent-Type: text/plain; charset=utf-8\r\n\
         Content-Length: {}\r\nRetry-After: 5\r\nConnection: close\r\n\r\n{body}",
        body.len()
    );
    // A client may speak first.
    let mut sink = vec![0; 16 * 1024];
    let _ = timeout(LINGER, client.read(&mut sink)).await;
    client.write_all(answer.as_bytes()).await?;
    client.shutdown().await?;
    let rest = async { while matches!(client.read(&mut sink).await, Ok(1..)) {} };
    // Either way: the answer has been sent.
    let _ = timeout(LINGER, rest).await;
    Ok(())
}
