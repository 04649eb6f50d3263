//! One client of a forward: bytes, and an answer in HTTP when there is no way.

use std::io;
use std::time::Duration;

use occ_proto::text::sanitize;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, copy_bidirectional};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

use super::Target;
use crate::ssh::error::chain;
use crate::ssh::{ChannelError, ChannelStream};

/// How long the connection of a host that nobody has used yet may take.
const CONNECT: Duration = Duration::from_secs(15);
/// How long a client's request is read after a refusal, so that it sees the answer and no reset.
const LINGER: Duration = Duration::from_secs(1);

/// Serves a client to its end. An error is one that went away.
pub(super) async fn client(mut client: TcpStream, to: Target) -> io::Result<()> {
    client.set_nodelay(true)?;
    match open(&to).await {
        Ok(mut stream) => copy_bidirectional(&mut client, &mut stream).await.map(drop),
        Err(why) => refuse(client, "503 Service Unavailable", &why).await,
    }
}

/// Opens a stream to the port. An error is one sentence.
pub(super) async fn open(to: &Target) -> Result<ChannelStream, String> {
    let name = to.host.name();
    let deadline = Instant::now() + CONNECT;
    loop {
        let connected = to.host.connection_if_due(deadline).await;
        let connection = connected.map_err(|unreachable| {
            let error = unreachable.error.as_ref();
            format!("{name} is not connected: {}.", chain(error).trim_end_matches('.'))
        })?;
        return match connection.direct_tcpip(&to.address, to.port).await {
            Ok(channel) => Ok(channel.into_stream()),
            // It broke at this moment: what becomes of the host is known in the next.
            Err(ChannelError::Lost(_)) if Instant::now() < deadline => {
                to.host.other_than(&connection).await;
                continue;
            }
            Err(ChannelError::Refused(_)) => Err(format!(
                "Nothing answers on port {} of {name}: occ status --host {name}",
                to.port
            )),
            Err(error) => Err(format!("{name}: {}.", chain(&error))),
        };
    }
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
