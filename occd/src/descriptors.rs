//! Descriptors that a client passes over its connection (SCM_RIGHTS, unix(7)).
//!
//! A [`ClientStream`] collects them only while somebody has asked for them with [`Passed::accept`]; at
//! any other time it reads without room for them, and the kernel closes what comes. What is collected is
//! not looked at here: `exec::Destinations` decides what may be written to.

use std::fmt::Debug;
use std::io;
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::UnixStream;
use tokio::runtime::Handle;
use tokio::task::JoinHandle;

/// The most descriptors of one client: its standard output and its standard error.
const MOST: usize = 2;

/// Closes descriptors whose kind is not known, on a thread that may block: the close of a socket may
/// linger, that of a terminal waits for its output, that of a file on NFS writes it back.
pub async fn close(descriptors: Vec<OwnedFd>) {
    if let Some(closing) = begin_to_close(descriptors)
        && let Err(error) = closing.await
    {
        tracing::warn!(%error, "a client's descriptors could not be closed");
    }
}

fn begin_to_close(descriptors: Vec<OwnedFd>) -> Option<JoinHandle<()>> {
    // Without a runtime the process is about to end.
    let runtime = Handle::try_current().ok().filter(|_| !descriptors.is_empty())?;
    Some(runtime.spawn_blocking(move || drop(descriptors)))
}

/// The descriptors that came on one connection and were not taken yet.
#[derive(Debug, Clone, Default)]
pub struct Passed(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    accepting: AtomicBool,
    received: Mutex<Vec<OwnedFd>>,
    /// What is held until the connection ends.
    kept: Mutex<Vec<Box<dyn Debug + Send>>>,
}

impl Drop for Shared {
    fn drop(&mut self) {
        drop(begin_to_close(std::mem::take(&mut *self.lock())));
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Vec<OwnedFd>> {
        self.received.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Passed {
    /// Collects from now on what the client passes. Returns false where this is not supported: only Linux
    /// closes what it receives on exec without a moment in between, and opens a pipe once more.
    pub fn accept(&self) -> bool {
        self.0.accepting.store(cfg!(target_os = "linux"), Ordering::Release);
        cfg!(target_os = "linux")
    }

    /// Holds something for as long as the connection is there, also as a stream.
    pub fn keep(&self, held: impl Debug + Send + 'static) {
        self.0.kept.lock().unwrap_or_else(PoisonError::into_inner).push(Box::new(held));
    }

    /// Ends the collecting and returns what has come, in its order: at most two, and none of a client
    /// that passed more.
    pub fn take(&self) -> Vec<OwnedFd> {
        self.0.accepting.store(false, Ordering::Release);
        std::mem::take(&mut *self.0.lock())
    }

    fn accepts(&self) -> bool {
        self.0.accepting.load(Ordering::Acquire)
    }

    /// Adds descriptors; `whole` says that none was lost on the way.
    #[cfg_attr(not(target_os = "linux"), expect(dead_code, reason = "nothing is received there"))]
    fn add(&self, new: Vec<OwnedFd>, whole: bool) {
        let mut received = self.0.lock();
        received.extend(new);
        if !whole || received.len() > MOST {
            // Which of them is which cannot be told any more.
            self.0.accepting.store(false, Ordering::Release);
            drop(begin_to_close(std::mem::take(&mut *received)));
            tracing::debug!("a client passed other descriptors than it may");
        }
    }
}

/// A client's connection.
#[derive(Debug)]
pub struct ClientStream {
    inner: UnixStream,
    passed: Passed,
}

impl ClientStream {
    /// Wraps an accepted connection; what comes with its bytes goes to `passed`.
    pub fn new(inner: UnixStream, passed: Passed) -> Self {
        Self { inner, passed }
    }

    /// Returns how much of what was written the client has not read: 0 if nothing, else a number that falls as it reads. It
    /// is 0 where that cannot be told.
    #[cfg(target_os = "linux")]
    pub fn not_taken(&self) -> usize {
        use rustix::ioctl::{Getter, ioctl};
        type Queued = Getter<{ libc::TIOCOUTQ as rustix::ioctl::Opcode }, libc::c_int>;
        // SAFETY: SIOCOUTQ, which is the same number, writes an int (unix(7), af_unix.c: unix_ioctl).
        #[allow(unsafe_code)]
        let queued = unsafe { ioctl(&self.inner, Queued::new()) };
        queued.ok().and_then(|queued| usize::try_from(queued).ok()).unwrap_or_default()
    }

    /// The same: here the system does not tell it.
    #[cfg(not(target_os = "linux"))]
    pub fn not_taken(&self) -> usize {
        0
    }
}

/// Reads with room for descriptors.
#[cfg(target_os = "linux")]
fn receive(socket: &UnixStream, bytes: &mut [u8], passed: &Passed) -> io::Result<usize> {
    use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, recvmsg};
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut into = [io::IoSliceMut::new(bytes)];
    let message = recvmsg(socket, &mut into, &mut control, RecvFlags::CMSG_CLOEXEC)?;
    let rights = control.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(rights) => Some(rights),
        _ => None,
    });
    let new: Vec<OwnedFd> = rights.flatten().collect();
    let whole = !message.flags.contains(ReturnFlags::CTRUNC);
    if !new.is_empty() || !whole {
        passed.add(new, whole);
    }
    Ok(message.bytes)
}

impl AsyncRead for ClientStream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        #[cfg(target_os = "linux")]
        while this.passed.accepts() {
            std::task::ready!(this.inner.poll_read_ready(cx))?;
            let read = this.inner.try_io(tokio::io::Interest::READABLE, || {
                receive(&this.inner, buf.initialize_unfilled(), &this.passed)
            });
            match read {
                Ok(n) => {
                    buf.advance(n);
                    return Poll::Ready(Ok(()));
                }
                Err(error) => match error.kind() {
                    io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted => {}
                    _ => return Poll::Ready(Err(error)),
                },
            }
        }
        Pin::new(&mut this.inner).poll_read(cx, buf)
    }
}

impl AsyncWrite for ClientStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}
