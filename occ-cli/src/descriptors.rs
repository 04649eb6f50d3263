//! Passing our standard output and standard error to the daemon, which then writes the command's output
//! straight to where it must go (`occ_proto::exec::DESCRIPTORS_HEADER`).
//!
//! Only what the daemon can write to as well as we could is passed: anonymous pipes and /dev/null. A terminal
//! stays ours, as does a file, which the daemon would not write any faster, and whatever else there is.

use std::io;
use std::os::fd::BorrowedFd;
use std::pin::Pin;
use std::task::{Context, Poll};

use hyper::header::HeaderValue;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::UnixStream;

/// The descriptors to offer.
#[derive(Debug, Clone, Default)]
pub(crate) struct Offer {
    streams: &'static str,
    descriptors: Vec<BorrowedFd<'static>>,
}

impl Offer {
    /// Returns the standard streams that can be passed.
    pub(crate) fn of_standard_streams() -> Self {
        let (out, err) = (rustix::stdio::stdout(), rustix::stdio::stderr());
        match (passable(out), passable(err)) {
            (true, true) => Self { streams: "stdout,stderr", descriptors: vec![out, err] },
            (true, false) => Self { streams: "stdout", descriptors: vec![out] },
            (false, true) => Self { streams: "stderr", descriptors: vec![err] },
            (false, false) => Self::default(),
        }
    }

    /// Returns the header that makes the offer, unless there is nothing to offer.
    pub(crate) fn header(&self) -> Option<HeaderValue> {
        (!self.descriptors.is_empty()).then(|| HeaderValue::from_static(self.streams))
    }

    /// Returns the offer as the daemon's answer leaves it: an older daemon says nothing of it.
    pub(crate) fn taken_up(self, answer: Option<&HeaderValue>) -> Self {
        if answer.is_some_and(|answer| answer == self.streams) { self } else { Self::default() }
    }
}

/// Returns whether the daemon may write to a descriptor in our place.
#[cfg(target_os = "linux")]
fn passable(descriptor: BorrowedFd<'_>) -> bool {
    use rustix::fs::{FileType, fstat, major, minor, readlink};
    use std::os::fd::AsRawFd as _;

    let Ok(stat) = fstat(descriptor) else { return false };
    match FileType::from_raw_mode(stat.st_mode) {
        // A named one cannot be opened once more without a reader.
        FileType::Fifo => readlink(format!("/proc/self/fd/{}", descriptor.as_raw_fd()), Vec::new())
            .is_ok_and(|target| target.as_bytes().starts_with(b"pipe:[")),
        // Memory devices, major 1; null is the third (admin-guide/devices.txt).
        FileType::CharacterDevice => (major(stat.st_rdev), minor(stat.st_rdev)) == (1, 3),
        _ => false,
    }
}

/// The daemon takes none elsewhere.
#[cfg(not(target_os = "linux"))]
fn passable(_: BorrowedFd<'_>) -> bool {
    false
}

/// The connection to the daemon. Descriptors travel with the first bytes that are written.
#[derive(Debug)]
pub(crate) struct Socket {
    inner: UnixStream,
    passing: Vec<BorrowedFd<'static>>,
}

impl Socket {
    /// Wraps a connection.
    pub(crate) fn new(inner: UnixStream, offer: Offer) -> Self {
        Self { inner, passing: offer.descriptors }
    }
}

/// Writes some bytes with descriptors attached.
fn send(
    socket: &UnixStream,
    bytes: &[u8],
    descriptors: &[BorrowedFd<'static>],
) -> io::Result<usize> {
    use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    // There is room for both; without them the daemon sends us the output.
    control.push(SendAncillaryMessage::ScmRights(descriptors));
    Ok(sendmsg(socket, &[io::IoSlice::new(bytes)], &mut control, SendFlags::empty())?)
}

impl AsyncWrite for Socket {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        while !this.passing.is_empty() {
            std::task::ready!(this.inner.poll_write_ready(cx))?;
            let sent = this
                .inner
                .try_io(tokio::io::Interest::WRITABLE, || send(&this.inner, bytes, &this.passing));
            match sent {
                Ok(n) => {
                    this.passing.clear();
                    return Poll::Ready(Ok(n));
                }
                Err(error) => match error.kind() {
                    io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted => {}
                    // They cannot be passed, for one because too many are on their way (ETOOMANYREFS);
                    // what is wrong with the connection itself, the next write says.
                    _ => this.passing.clear(),
                },
            }
        }
        Pin::new(&mut this.inner).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(cx, buf)
    }
}
