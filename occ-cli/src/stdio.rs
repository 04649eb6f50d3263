//! The three streams of this process, for `exec`: without copies, and without ever standing in a call
//! that does not return.
//!
//! SIGINT restarts a blocked read or write (SA_RESTART) instead of ending it, so that Ctrl-C would not
//! be seen while nobody reads our output. Pipes are therefore opened once more, non-blocking; the
//! descriptor we were given stays as it is, since other programs share it.

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd};
use std::os::unix::fs::FileTypeExt as _;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tokio::io::AsyncReadExt as _;
use tokio::net::unix::pipe;

use crate::keys::Keys;

/// What a pipe takes without blocking once it is writable: POSIX's PIPE_BUF, 4096 on Linux and at
/// least 512 elsewhere.
const PIPE_BUF: usize = if cfg!(target_os = "linux") { 4096 } else { 512 };

/// How often it is looked whether somebody still reads.
const LOOK: Duration = Duration::from_secs(1);

/// Returns when nobody reads standard output any more. What has nothing to say would not notice.
pub(crate) async fn reader_gone() {
    loop {
        tokio::time::sleep(LOOK).await;
        let stdout = io::stdout();
        let mut fds = [PollFd::new(&stdout, PollFlags::empty())];
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        if poll(&mut fds, Some(&now)).is_ok_and(|ready| ready > 0) {
            return;
        }
    }
}

/// What a descriptor is, as far as blocking is concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// A file or a device that always makes progress.
    Direct,
    /// A pipe.
    Pipe,
    /// A terminal, a socket: the other side may stop for ever.
    Other,
}

fn kind(file: &File) -> io::Result<Kind> {
    let kind = file.metadata()?.file_type();
    Ok(if kind.is_fifo() {
        Kind::Pipe
    } else if kind.is_socket() || rustix::termios::isatty(file) {
        Kind::Other
    } else {
        Kind::Direct
    })
}

/// Returns the way to open what is behind `file` once more. Only Linux makes a new open file of it
/// (proc(5), `/proc/pid/fd`); elsewhere `/dev/fd` hands out the one that is shared.
fn again(file: &File) -> Option<String> {
    cfg!(target_os = "linux").then(|| format!("/proc/self/fd/{}", file.as_raw_fd()))
}

/// Standard input.
#[derive(Debug)]
pub(crate) enum Input {
    /// Read where it is.
    Direct(File),
    /// A pipe of our own.
    Pipe(pipe::Receiver),
    /// The controlling terminal.
    Keys(Keys),
    /// Read by another thread.
    Thread(tokio::io::Stdin),
    /// Read already.
    Kept(Bytes),
}

impl Input {
    /// Returns this process's standard input.
    pub(crate) fn stdin() -> io::Result<Self> {
        let file = File::from(io::stdin().as_fd().try_clone_to_owned()?);
        Ok(match kind(&file)? {
            Kind::Direct => Self::Direct(file),
            Kind::Pipe => again(&file)
                .and_then(|path| pipe::OpenOptions::new().open_receiver(path).ok())
                .map_or_else(|| Self::Thread(tokio::io::stdin()), Self::Pipe),
            // A thread that reads in the background of a terminal has the whole process stopped.
            Kind::Other => {
                Keys::plain().map_or_else(|| Self::Thread(tokio::io::stdin()), Self::Keys)
            }
        })
    }

    /// Reads into the room that `buffer` has and returns how much; 0 is the end. Nothing is lost when
    /// the future is dropped.
    pub(crate) async fn read(&mut self, buffer: &mut BytesMut) -> io::Result<usize> {
        match self {
            Self::Direct(file) => {
                let filled = buffer.len();
                buffer.resize(buffer.capacity(), 0);
                let read = loop {
                    match file.read(&mut buffer[filled..]) {
                        Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                        read => break read,
                    }
                };
                buffer.truncate(filled + read.as_ref().copied().unwrap_or(0));
                read
            }
            Self::Pipe(pipe) => pipe.read_buf(buffer).await,
            Self::Keys(keys) => keys.read(buffer).await,
            Self::Thread(stdin) => stdin.read_buf(buffer).await,
            Self::Kept(bytes) => {
                let room = buffer.capacity() - buffer.len();
                let some = bytes.split_to(room.min(bytes.len()));
                buffer.extend_from_slice(&some);
                Ok(some.len())
            }
        }
    }
}

/// A file descriptor that output is written to.
#[derive(Debug)]
pub(crate) struct Descriptor {
    file: Arc<File>,
    way: Way,
}

/// How to write.
#[derive(Debug)]
enum Way {
    /// At once.
    Direct,
    /// A pipe that has not been full yet.
    Pipe,
    /// The pipe opened once more.
    Again(pipe::Sender),
    /// Each write on another thread, and awaited, so that nothing is read from the socket meanwhile.
    Thread,
}

impl Descriptor {
    /// Returns a writer to a descriptor of this process.
    pub(crate) fn of(stream: &impl AsFd) -> io::Result<Self> {
        let file = File::from(stream.as_fd().try_clone_to_owned()?);
        let way = match kind(&file)? {
            Kind::Direct => Way::Direct,
            Kind::Pipe => Way::Pipe,
            Kind::Other => Way::Thread,
        };
        Ok(Self { file: Arc::new(file), way })
    }

    /// Writes all of `bytes`.
    pub(crate) async fn write(&mut self, bytes: Bytes) -> io::Result<()> {
        let small = bytes.len() <= PIPE_BUF && is_writable(self.file.as_fd());
        if small || matches!(self.way, Way::Direct) {
            return write_all(&self.file, &bytes);
        }
        if matches!(self.way, Way::Pipe) {
            self.way = again(&self.file)
                .and_then(|path| pipe::OpenOptions::new().open_sender(path).ok())
                .map_or(Way::Thread, Way::Again);
        }
        if let Way::Again(pipe) = &self.way {
            let mut rest = &bytes[..];
            while !rest.is_empty() {
                match pipe.try_write(rest) {
                    Ok(written) => rest = &rest[written..],
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                        pipe.writable().await?;
                    }
                    Err(error) => return Err(error),
                }
            }
            return Ok(());
        }
        let file = Arc::clone(&self.file);
        tokio::task::spawn_blocking(move || write_all(&file, &bytes))
            .await
            .unwrap_or_else(|error| Err(io::Error::other(error)))
    }
}

fn is_writable(fd: BorrowedFd<'_>) -> bool {
    let mut fds = [PollFd::from_borrowed_fd(fd, PollFlags::OUT)];
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut fds, Some(&now)).is_ok_and(|ready| ready > 0)
}

/// Writes all of `bytes`, waiting where another program made the shared descriptor non-blocking.
fn write_all(mut file: &File, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match file.write(bytes) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => bytes = &bytes[written..],
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                let mut fds = [PollFd::new(&file, PollFlags::OUT)];
                match poll(&mut fds, None) {
                    Ok(_) | Err(rustix::io::Errno::INTR) => {}
                    Err(error) => return Err(error.into()),
                }
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
