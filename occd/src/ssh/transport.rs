//! What an SSH session runs over: a TCP connection, a channel of a jump host, or a ProxyCommand.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use super::channel::ChannelStream;
use super::proxy_command::ProxyCommand;

/// A stream of bytes to a server.
#[derive(Debug)]
pub(super) enum Transport {
    Tcp(TcpStream),
    /// A direct-tcpip channel of a jump host (RFC 4254, section 7.2).
    Channel(Box<ChannelStream>),
    Command(Box<ProxyCommand>),
}

impl Transport {
    /// Asks the kernel to acknowledge what has arrived at once. It leaves this mode by itself; without it
    /// the server's Nagle algorithm waits for an acknowledgement that we would delay by 40 ms.
    pub(super) fn acknowledge(&self) {
        #[cfg(target_os = "linux")]
        if let Self::Tcp(tcp) = self {
            // Only a hint to the kernel: a failure costs time, never correctness.
            let _ = socket2::SockRef::from(tcp).set_tcp_quickack(true);
        }
    }
}

impl AsyncRead for Transport {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(tcp) => Pin::new(tcp).poll_read(cx, buf),
            Self::Channel(channel) => Pin::new(channel).poll_read(cx, buf),
            Self::Command(command) => Pin::new(command).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Transport {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(tcp) => Pin::new(tcp).poll_write(cx, buf),
            Self::Channel(channel) => Pin::new(channel).poll_write(cx, buf),
            Self::Command(command) => Pin::new(command).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(tcp) => Pin::new(tcp).poll_flush(cx),
            Self::Channel(channel) => Pin::new(channel).poll_flush(cx),
            Self::Command(command) => Pin::new(command).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(tcp) => Pin::new(tcp).poll_shutdown(cx),
            Self::Channel(channel) => Pin::new(channel).poll_shutdown(cx),
            Self::Command(command) => Pin::new(command).poll_shutdown(cx),
        }
    }
}
