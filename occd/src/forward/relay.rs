//! Bytes between a connection of this machine's and a channel of a host's.

use std::io;

use bytes::{Bytes, BytesMut};
use occ_proto::exec::STDOUT;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

use super::running::Counts;
use super::stream::LocalStream;
use crate::ssh::error::chain;
use crate::ssh::{Channel, Closed, OutputLost};

/// The most bytes that are read at once. A connection that carries little takes less: the buffer grows as it is filled.
const CHUNK: usize = 64 * 1024;
/// What is read for at first, and when little comes.
const SMALL: usize = 4 * 1024;

/// How a connection ended that did not end well.
#[derive(Debug)]
pub(super) enum Broken {
    /// The near end: a client, or for a host's port what that leads to.
    Near(io::Error),
    /// The far end, and why.
    Host(String),
}

/// Passes bytes both ways, and the end of each way, until both have ended. `begun` is what has been read already.
pub(super) async fn relay(
    mut client: LocalStream,
    begun: Bytes,
    channel: Channel,
    counts: &Counts,
) -> Result<(), Broken> {
    let ended = match &mut client {
        LocalStream::Tcp(stream) => {
            let (read, write) = stream.split();
            both(read, write, begun, &channel, counts).await
        }
        LocalStream::Unix(stream) => {
            let (read, write) = stream.split();
            both(read, write, begun, &channel, counts).await
        }
    };
    if ended.is_err() {
        client.reset();
    }
    ended
}

async fn both(
    read: impl AsyncRead + Unpin,
    write: impl AsyncWrite + Unpin,
    begun: Bytes,
    channel: &Channel,
    counts: &Counts,
) -> Result<(), Broken> {
    let up = async {
        tokio::select! {
            ended = up(read, begun, channel, counts) => ended,
            // Nobody is there any more who would take it.
            _ = channel.closed() => Ok(()),
        }
    };
    tokio::try_join!(up, down(channel, write, counts))?;
    match channel.closed_reason() {
        // What the client sent last may not have arrived.
        Some(Closed::Connection(cause)) => {
            Err(Broken::Host(format!("the link broke: {}", chain(&cause))))
        }
        _ => Ok(()),
    }
}

/// From the client to the host.
async fn up(
    mut read: impl AsyncRead + Unpin,
    begun: Bytes,
    channel: &Channel,
    counts: &Counts,
) -> Result<(), Broken> {
    let mut buffer = BytesMut::new();
    let mut room = SMALL;
    let mut next = begun;
    loop {
        if !next.is_empty() {
            counts.sent(next.len());
            // Why it is closed is seen at the other way's end.
            if channel.write(next).await.is_err() {
                return Ok(());
            }
        }
        buffer.reserve(room);
        let length = read.read_buf(&mut buffer).await.map_err(Broken::Near)?;
        if length == 0 {
            let _ = channel.eof().await;
            return Ok(());
        }
        room = if length >= room / 2 { CHUNK } else { SMALL };
        next = buffer.split().freeze();
    }
}

/// From the host to the client.
async fn down(
    channel: &Channel,
    mut write: impl AsyncWrite + Unpin,
    counts: &Counts,
) -> Result<(), Broken> {
    while let Some(frame) = channel.recv().await {
        if frame.stream() == STDOUT {
            let data = frame.data();
            write.write_all(&data).await.map_err(Broken::Near)?;
            counts.received(data.len());
        }
    }
    if let Some(lost) = channel.lost_output() {
        return Err(Broken::Host(match lost {
            OutputLost::Overflow { held } => {
                format!("the client left {held} bytes unread, and no more are kept")
            }
            OutputLost::Spill(why) => format!("what the client left unread cannot be kept: {why}"),
        }));
    }
    if !channel.output_complete()
        && let Some(Closed::Connection(cause)) = channel.closed_reason()
    {
        return Err(Broken::Host(format!("the link broke: {}", chain(&cause))));
    }
    write.shutdown().await.map_err(Broken::Near)
}
