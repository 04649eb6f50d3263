//! The stream that russh gets: it can be ended from outside and held back at the key exchange.
//!
//! russh runs a connection in a task that cannot be aborted, so the stream is what ends it.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

use super::Shared;
use super::faults::Phase;

type BoxedFuture = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Whether the next read finds the end of the stream. What was written before is sent.
#[derive(Debug, Clone, Default)]
pub(super) struct EndOnRead(Arc<AtomicBool>);

impl EndOnRead {
    pub(super) fn set(&self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// How far what is written has come.
enum Writes {
    /// Until the identification line is out.
    Identification,
    /// Until the first packet is out, which says how long it is (RFC 4253, section 6).
    FirstPacket(Vec<u8>),
    /// Waiting for a stall in the key exchange to end, if there is one, and then this.
    Held(BoxedFuture, Box<Writes>),
    Open,
}

impl Writes {
    /// Returns how many of these bytes belong to what is being written, if its end is among them.
    fn end(&self, bytes: &[u8]) -> Option<usize> {
        match self {
            Self::Identification => bytes.iter().position(|byte| *byte == b'\n').map(|at| at + 1),
            Self::FirstPacket(before) => {
                let head: Vec<u8> = before.iter().chain(bytes).take(4).copied().collect();
                let length = u32::from_be_bytes(head.try_into().ok()?) as usize;
                Some(4 + length - before.len()).filter(|end| *end <= bytes.len())
            }
            Self::Held(..) | Self::Open => None,
        }
    }
}

pub(super) struct Tap {
    inner: TcpStream,
    cancelled: BoxedFuture,
    end_on_read: EndOnRead,
    writes: Writes,
    shared: Arc<Shared>,
}

impl Tap {
    pub(super) fn new(
        inner: TcpStream,
        token: CancellationToken,
        end_on_read: EndOnRead,
        shared: Arc<Shared>,
    ) -> Self {
        let cancelled = Box::pin(token.cancelled_owned());
        Self { inner, cancelled, end_on_read, writes: Writes::Identification, shared }
    }

    /// Returns an error once the token is cancelled; otherwise the task wakes up when it is.
    fn check(&mut self, context: &mut Context<'_>) -> io::Result<()> {
        match self.cancelled.as_mut().poll(context) {
            // A finished future must not be polled again.
            Poll::Ready(()) => {
                self.cancelled = Box::pin(std::future::ready(()));
                Err(io::ErrorKind::ConnectionAborted.into())
            }
            Poll::Pending => Ok(()),
        }
    }
}

impl AsyncRead for Tap {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.check(context)?;
        if self.end_on_read.0.load(Ordering::SeqCst) {
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.inner).poll_read(context, buffer)
    }
}

impl AsyncWrite for Tap {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.check(context)?;
        while let Writes::Held(held, next) = &mut self.writes {
            ready!(held.as_mut().poll(context));
            self.writes = std::mem::replace(next, Writes::Open);
        }
        let end = self.writes.end(bytes).unwrap_or(bytes.len());
        let written = ready!(Pin::new(&mut self.inner).poll_write(context, &bytes[..end]))?;
        let (done, next) = (&bytes[..written], self.writes.end(bytes) == Some(written));
        if let Writes::FirstPacket(before) = &mut self.writes {
            before.extend_from_slice(done);
        }
        if next {
            let (phase, then) = match self.writes {
                Writes::Identification => (Phase::Kex, Writes::FirstPacket(Vec::new())),
                _ => (Phase::KexReply, Writes::Open),
            };
            let shared = Arc::clone(&self.shared);
            let held = Box::pin(async move { shared.pass(phase).await });
            self.writes = Writes::Held(held, Box::new(then));
        }
        Poll::Ready(Ok(written))
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check(context)?;
        Pin::new(&mut self.inner).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check(context)?;
        Pin::new(&mut self.inner).poll_shutdown(context)
    }
}
