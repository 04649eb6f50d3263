//! direct-tcpip and direct-streamlocal@openssh.com, to real sockets.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use russh::server::{ChannelOpenHandle, Msg};
use russh::{Channel, ChannelOpenFailure};
use tokio::io::{AsyncRead, AsyncWrite, copy_bidirectional};
use tokio::net::{TcpStream, UnixStream};

use super::Shared;
use super::faults::Phase;

/// Where a channel leads.
pub(super) enum To {
    Tcp(String, u16),
    Unix(PathBuf),
}

trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

async fn connect(to: To) -> io::Result<Box<dyn Stream>> {
    Ok(match to {
        To::Tcp(host, port) => Box::new(TcpStream::connect((host, port)).await?),
        To::Unix(path) => Box::new(UnixStream::connect(path).await?),
    })
}

/// Connects, answers, and copies both ways until both are at their end. Dropped, it closes both.
pub(super) async fn run(
    channel: Channel<Msg>,
    reply: ChannelOpenHandle,
    to: To,
    shared: Arc<Shared>,
) {
    shared.pass(Phase::ChannelOpen).await;
    match connect(to).await {
        Ok(mut socket) => {
            reply.accept().await;
            // An error is an end that went away; the channel is closed when the stream is dropped.
            let mut stream = channel.into_stream();
            let _ = copy_bidirectional(&mut stream, &mut socket).await;
        }
        // What OpenSSH answers, whatever the reason.
        Err(_) => reply.reject(ChannelOpenFailure::ConnectFailed).await,
    }
}
