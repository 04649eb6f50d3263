//! The transport under an SSH session: a stream that can be killed and that counts.
//!
//! russh spawns a task that owns the stream and offers no way to end it in the middle of a key
//! exchange, so the stream itself is the handle: killing it makes every read and write fail, which ends
//! the task. It also keeps the first bytes of the peer, because russh swallows the lines a server may
//! send before its identification (RFC 4253, section 4.2), and that is where OpenSSH says that a client
//! is penalised.

use std::future::Future as _;
use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use super::tcp::USER_TIMEOUT;
use super::transport::Transport;

/// How much of the peer's first words is kept: RFC 4253 limits the identification line to 255 bytes.
const HEAD: usize = 255;
/// The most that is read at once on a quiet connection. russh reads a packet in two pieces, of which the first has four
/// or sixteen bytes: without a buffer each would be a system call. What came is kept until it is taken, and no buffer is
/// kept that waits for more: there would be one for each connection.
const SMALL_BUFFER: usize = 4 * 1024;
/// The read buffer while much arrives; given back when it is quiet again.
const LARGE_BUFFER: usize = 128 * 1024;
/// Reads smaller than this set TCP_QUICKACK again. Larger ones are part of a bulk stream, where the
/// kernel acknowledges at once by itself and a system call per read would cost.
const QUICKACK_BELOW: usize = SMALL_BUFFER;

/// The controls of a [`GuardedStream`], shared with whoever may end it.
#[derive(Debug)]
pub struct StreamControl {
    kill: CancellationToken,
    begun: Instant,
    /// When something came last, in milliseconds since then.
    last_in: AtomicU64,
    bytes_in: AtomicU64,
    bytes_out: AtomicU64,
    head: Mutex<Vec<u8>>,
    identified: CancellationToken,
}

impl StreamControl {
    fn new() -> Self {
        Self {
            kill: CancellationToken::new(),
            begun: Instant::now(),
            last_in: AtomicU64::new(0),
            bytes_in: AtomicU64::new(0),
            bytes_out: AtomicU64::new(0),
            head: Mutex::default(),
            identified: CancellationToken::new(),
        }
    }

    /// Returns for how long nothing has come.
    pub fn silence(&self) -> Duration {
        let last = Duration::from_millis(self.last_in.load(Ordering::Relaxed));
        self.begun.elapsed().saturating_sub(last)
    }

    /// Ends the stream: every read and write from now on fails.
    pub fn kill(&self) {
        self.kill.cancel();
    }

    /// Returns whether it was ended so.
    pub fn is_killed(&self) -> bool {
        self.kill.is_cancelled()
    }

    /// Returns the bytes received.
    pub fn bytes_in(&self) -> u64 {
        self.bytes_in.load(Ordering::Relaxed)
    }

    /// Returns the bytes sent.
    pub fn bytes_out(&self) -> u64 {
        self.bytes_out.load(Ordering::Relaxed)
    }

    /// Returns the first bytes the peer sent, at most 255.
    pub fn head(&self) -> Vec<u8> {
        self.head.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Returns whether the peer's identification line has arrived: of protocol 2, which a server that
    /// knows the older one too calls 1.99 (RFC 4253, section 5.1).
    pub fn is_identified(&self) -> bool {
        self.identified.is_cancelled()
    }

    /// Waits for that.
    pub async fn identified(&self) {
        self.identified.cancelled().await;
    }

    fn received(&self, bytes: &[u8]) {
        let now = u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.last_in.store(now, Ordering::Relaxed);
        let before = self.bytes_in.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        if before < HEAD as u64 {
            let mut head = self.head.lock().unwrap_or_else(PoisonError::into_inner);
            let room = HEAD.saturating_sub(head.len()).min(bytes.len());
            head.extend_from_slice(&bytes[..room]);
            if !self.is_identified() && has_identification(&head) {
                self.identified.cancel();
            }
        }
    }
}

fn has_identification(head: &[u8]) -> bool {
    head.split_inclusive(|b| *b == b'\n').any(|line| {
        let version_2 = line.starts_with(b"SSH-2.0-") || line.starts_with(b"SSH-1.99-");
        version_2 && line.ends_with(b"\n")
    })
}

/// Bytes that were read and not yet taken.
#[derive(Debug, Default)]
struct ReadBuffer {
    bytes: Box<[u8]>,
    start: usize,
    end: usize,
    /// The next buffer is a large one: the last read filled this one.
    grow: bool,
}

impl ReadBuffer {
    fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// Moves what fits to the caller.
    fn take(&mut self, buf: &mut ReadBuf<'_>) {
        let n = (self.end - self.start).min(buf.remaining());
        buf.put_slice(&self.bytes[self.start..self.start + n]);
        self.start += n;
        if self.is_empty() && !self.grow {
            *self = Self::default();
        }
    }

    /// Reads anew. The buffer must be empty.
    fn fill(&mut self, cx: &mut Context<'_>, inner: &mut Transport) -> Poll<io::Result<&[u8]>> {
        if self.grow {
            if self.bytes.len() != LARGE_BUFFER {
                self.bytes = vec![0; LARGE_BUFFER].into();
            }
            let mut buf = ReadBuf::new(&mut self.bytes);
            ready!(Pin::new(inner).poll_read(cx, &mut buf))?;
            self.end = buf.filled().len();
        } else {
            let mut small = [MaybeUninit::uninit(); SMALL_BUFFER];
            let mut buf = ReadBuf::uninit(&mut small);
            ready!(Pin::new(inner).poll_read(cx, &mut buf))?;
            self.bytes = buf.filled().into();
            self.end = self.bytes.len();
        }
        self.start = 0;
        self.grow = self.end >= SMALL_BUFFER;
        Poll::Ready(Ok(&self.bytes[..self.end]))
    }
}

/// A transport that can be killed and that counts its bytes.
#[derive(Debug)]
pub(super) struct GuardedStream {
    inner: Transport,
    unread: ReadBuffer,
    control: Arc<StreamControl>,
    killed_read: Pin<Box<WaitForCancellationFutureOwned>>,
    killed_write: Pin<Box<WaitForCancellationFutureOwned>>,
    stall: Stall,
}

impl GuardedStream {
    /// Wraps a connected stream and returns its controls.
    pub(super) fn new(inner: Transport) -> (Self, Arc<StreamControl>) {
        let control = Arc::new(StreamControl::new());
        let stream = Self {
            inner,
            unread: ReadBuffer::default(),
            killed_read: Box::pin(control.kill.clone().cancelled_owned()),
            killed_write: Box::pin(control.kill.clone().cancelled_owned()),
            stall: Stall::default(),
            control: Arc::clone(&control),
        };
        (stream, control)
    }
}

/// Notices that nothing can be sent any more. While russh waits to send it looks at no keep-alive, and only a
/// TCP connection of our own has the kernel's limit: not a channel of a jump host, not a ProxyCommand.
#[derive(Debug, Default)]
struct Stall {
    waiting: bool,
    timer: Option<Pin<Box<Sleep>>>,
}

impl Stall {
    /// Passes the result of a write on, or an error when it has been waited for too long.
    fn watch<T>(
        &mut self,
        cx: &mut Context<'_>,
        result: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if result.is_ready() {
            self.waiting = false;
            return result;
        }
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep(USER_TIMEOUT)));
        if !self.waiting {
            self.waiting = true;
            timer.as_mut().reset(Instant::now() + USER_TIMEOUT);
        }
        ready!(timer.as_mut().poll(cx));
        let text = format!("nothing could be sent for {} s", USER_TIMEOUT.as_secs());
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, text)))
    }
}

fn killed() -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionAborted, "closed by occd")
}

impl AsyncRead for GuardedStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.killed_read.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Err(killed()));
        }
        let this = &mut *self;
        if this.unread.is_empty() {
            let new = ready!(this.unread.fill(cx, &mut this.inner))?;
            this.control.received(new);
            if new.len() < QUICKACK_BELOW {
                this.inner.acknowledge();
            }
        }
        this.unread.take(buf);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for GuardedStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.killed_write.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Err(killed()));
        }
        let result = Pin::new(&mut self.inner).poll_write(cx, buf);
        let result = self.stall.watch(cx, result);
        if let Poll::Ready(Ok(n)) = result {
            self.control.bytes_out.fetch_add(n as u64, Ordering::Relaxed);
        }
        result
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let result = Pin::new(&mut self.inner).poll_flush(cx);
        self.stall.watch(cx, result)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}
