//! Where a command's output goes when its client has passed descriptors: straight there.
//!
//! What a client passes is not to be trusted further than the client itself: it must be of a kind that is
//! known, open for writing, and it must not be able to hold up anything but its own command. A pipe is
//! therefore opened once more, non-blocking, because the open file that the client shares with others
//! must stay as it is. A regular file is not taken: it could only be written on a thread that may block (NFS),
//! which was no faster than the way through the client, and under limits that are ours and not the client's.

use std::io;
use std::os::fd::OwnedFd;

use bytes::Bytes;
use occ_proto::exec::STDOUT;
use tokio::net::unix::pipe;
use tokio::task::coop::consume_budget;

use crate::descriptors;
use crate::ssh::Frame;

/// The destinations of a command's two streams. Dropping it closes them.
#[derive(Debug, Default)]
pub struct Destinations {
    stdout: Option<Destination>,
    stderr: Option<Destination>,
}

impl Destinations {
    /// Takes descriptors that came from a client for these streams. Those that cannot be used are closed.
    pub async fn of(streams: &[u8], passed: Vec<OwnedFd>) -> Self {
        let mut all = Self::default();
        let mut refused = Vec::new();
        for (stream, descriptor) in streams.iter().zip(passed) {
            match Destination::of(descriptor) {
                Ok(destination) if *stream == STDOUT => all.stdout = Some(destination),
                Ok(destination) => all.stderr = Some(destination),
                Err(descriptor) => refused.push(descriptor),
            }
        }
        descriptors::close(refused).await;
        all
    }

    /// Returns whether the frames of a stream are written here.
    pub fn takes(&self, stream: u8) -> bool {
        if stream == STDOUT { self.stdout.is_some() } else { self.stderr.is_some() }
    }

    /// Writes a frame of a stream that is taken here. Waits for a reader that is slow; may be dropped
    /// meanwhile, and must not be called again then.
    pub async fn write(&mut self, frame: &Frame) -> io::Result<()> {
        // A reader that is as fast as the connection would keep this task on its worker for ever.
        consume_budget().await;
        let stdout = frame.stream() == STDOUT;
        match if stdout { &mut self.stdout } else { &mut self.stderr } {
            Some(destination) => destination.write(frame.data()).await,
            None => Ok(()),
        }
    }
}

/// What a descriptor is.
#[derive(Debug)]
enum Destination {
    /// /dev/null: nothing has to be written.
    Null,
    /// The write end of an anonymous pipe, opened once more.
    Pipe(pipe::Sender),
}

impl Destination {
    /// Returns the destination behind a descriptor, or the descriptor where it is none.
    #[cfg(target_os = "linux")]
    fn of(descriptor: OwnedFd) -> Result<Self, OwnedFd> {
        use rustix::fs::{AtFlags, FileType, OFlags, StatxFlags, fcntl_getfl, statx};
        use std::os::fd::AsRawFd as _;

        let writable = fcntl_getfl(&descriptor).is_ok_and(|flags| {
            let mode = flags & OFlags::RWMODE;
            mode == OFlags::WRONLY || mode == OFlags::RDWR
        });
        // Without asking the server of a network file system, which may not answer.
        let how = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
        let Ok(what) = statx(&descriptor, c"", how, StatxFlags::TYPE) else {
            return Err(descriptor);
        };
        match FileType::from_raw_mode(what.stx_mode.into()) {
            _ if !writable => Err(descriptor),
            // Memory devices, major 1; null is the third (admin-guide/devices.txt).
            FileType::CharacterDevice if (what.stx_rdev_major, what.stx_rdev_minor) == (1, 3) => {
                Ok(Self::Null)
            }
            FileType::Fifo => {
                let path = format!("/proc/self/fd/{}", descriptor.as_raw_fd());
                // A named one belongs to a file system, and without readers it cannot be opened.
                let anonymous = rustix::fs::readlink(&path, Vec::new())
                    .is_ok_and(|target| target.as_bytes().starts_with(b"pipe:["));
                // Another user's pipe cannot be opened either.
                let again = anonymous.then(|| pipe::OpenOptions::new().open_sender(path));
                match again {
                    Some(Ok(pipe)) => Ok(Self::Pipe(pipe)),
                    _ => Err(descriptor),
                }
            }
            _ => Err(descriptor),
        }
    }

    /// Nothing is received elsewhere (`descriptors.rs`).
    #[cfg(not(target_os = "linux"))]
    fn of(descriptor: OwnedFd) -> Result<Self, OwnedFd> {
        Err(descriptor)
    }

    async fn write(&mut self, bytes: Bytes) -> io::Result<()> {
        match self {
            Self::Null => Ok(()),
            Self::Pipe(pipe) => {
                let mut rest = &bytes[..];
                while !rest.is_empty() {
                    match pipe.try_write(rest) {
                        Ok(written) => rest = &rest[written..],
                        Err(error) => match error.kind() {
                            io::ErrorKind::WouldBlock => pipe.writable().await?,
                            io::ErrorKind::Interrupted => {}
                            _ => return Err(error),
                        },
                    }
                }
                Ok(())
            }
        }
    }
}
