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

enum Writes {
    /// Until the identification line is out.
    Identification,
    /// Waiting for the stall in the key exchange to end, if there is one.
    Held(BoxedFuture),
    Open,
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
        if let Writes::Held(held) = &mut self.writes {
            ready!(held.as_mut().poll(context));
            self.writes = Writes::Open;
        }
        let written = ready!(Pin::new(&mut self.inner).poll_write(context, bytes))?;
        if matches!(self.writes, Writes::Identification) && bytes[..written].contains(&b'\n') {
            let shared = Arc::clone(&self.shared);
            self.writes = Writes::Held(Box::pin(async move { shared.pass(Phase::Kex).await }));
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
