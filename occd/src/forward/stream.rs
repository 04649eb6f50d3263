//! A connection of this machine's: TCP or a Unix socket.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use occ_proto::forward::Endpoint;
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;

/// How long connecting to something of this machine's, or near it, may take.
const CONNECT: Duration = Duration::from_secs(10);

/// A connection.
#[derive(Debug)]
pub(super) enum LocalStream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl LocalStream {
    /// Connects.
    pub(super) async fn connect(to: &Endpoint) -> io::Result<Self> {
        let connecting = async {
            Ok(match to {
                // Without a look-up, for which each connection would take a thread.
                Endpoint::Tcp { host, port } if host == "localhost" => {
                    let both = [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()];
                    let both = both.map(|address: IpAddr| SocketAddr::new(address, *port));
                    Self::Tcp(TcpStream::connect(&both[..]).await?)
                }
                Endpoint::Tcp { host, port } => {
                    Self::Tcp(TcpStream::connect((host.as_str(), *port)).await?)
                }
                Endpoint::Unix { path } => Self::Unix(UnixStream::connect(path).await?),
            })
        };
        timeout(CONNECT, connecting).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
    }

    /// Has small messages go out at once.
    pub(super) fn at_once(&self) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => stream.set_nodelay(true),
            Self::Unix(_) => Ok(()),
        }
    }

    /// Ends the connection so that the other side does not take it for a good end. A Unix socket has no such end.
    pub(super) fn reset(self) {
        if let Self::Tcp(stream) = &self
            && let Err(error) = SockRef::from(stream).set_linger(Some(Duration::ZERO))
        {
            tracing::debug!(%error, "a connection is closed and not reset");
        }
    }
}

// For the first words of a client; what follows goes over the stream inside.
impl AsyncRead for LocalStream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Unix(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for LocalStream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Unix(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_flush(cx),
            Self::Unix(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
