//! What a channel has received and its reader has not taken yet.
//!
//! The connection's handler pushes, one reader takes. Pushing never waits for the reader: up to
//! [`MEMORY`] bytes are held in memory, the rest goes to an unlinked temporary file, up to a limit. So a
//! reader that stops costs disk space and never stops the connection that its channel shares with others
//! (ARCHITECTURE.md, "Channels").
//!
//! ```text
//! push ──► tail (memory, ≤ 1 MiB) ──► file ──► front (memory, ≤ 4 MiB) ──► recv
//!     └──────────── while tail and file are empty ────────►┘
//! ```

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::{BufMut as _, Bytes, BytesMut};
use tokio::sync::Notify;

use super::error::LossCause;

/// Bytes held in memory for a reader before the file is used.
const MEMORY: usize = 4 * 1024 * 1024;
/// Bytes collected before they are written to the file in one go.
const TAIL: usize = 1024 * 1024;
/// Small messages of one stream are joined up to this size, so that a reader takes few large frames.
const JOIN: usize = 256 * 1024;
/// A frame of this size gets the room for a whole one when more comes.
const MUCH: usize = 16 * 1024;
/// The share of the file system that spilling leaves free, as a divisor: a tenth.
const FREE_SHARE: u64 = 10;

/// Requests of one channel that wait for their answers at once. More answers than that were not asked for.
pub(super) const ANSWERS: usize = 32;

/// A run of bytes of one stream. The first byte names the stream (`occ_proto::exec::STDOUT` or
/// `STDERR`), so that a frame is sent to a client as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame(Bytes);

impl Frame {
    /// Makes a frame of bytes that a stream's number precedes.
    pub fn of(bytes: Bytes) -> Self {
        debug_assert!(!bytes.is_empty(), "the stream's number");
        Self(bytes)
    }

    /// Returns the stream's number.
    pub fn stream(&self) -> u8 {
        self.0[0]
    }

    /// Returns the bytes.
    pub fn data(&self) -> Bytes {
        self.0.slice(1..)
    }

    /// Returns the stream's number followed by the bytes.
    pub fn into_bytes(self) -> Bytes {
        self.0
    }
}

/// How the program on the channel ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ExitReport {
    /// It exited with a status.
    Status(u32),
    /// A signal ended it; its name without `SIG`.
    Signal(String),
}

impl std::fmt::Display for ExitReport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Status(status) => write!(f, "exit code {status}"),
            Self::Signal(name) => write!(f, "signal {name}"),
        }
    }
}

/// Why no more comes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Closed {
    /// The server closed the channel.
    ByServer,
    /// The connection ended.
    Connection(LossCause),
}

/// Why output was thrown away. The channel itself is open still, and what runs on it runs on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OutputLost {
    /// The unread output passed the limit.
    Overflow {
        /// Bytes that were held when the limit was reached.
        held: u64,
    },
    /// The output could not be kept on disk.
    Spill(String),
}

/// Where and how much unread output is kept on disk.
#[derive(Debug)]
pub struct SpillPolicy {
    /// The directory of the temporary files.
    pub dir: PathBuf,
    limit: AtomicU64,
    /// What the files of all channels have.
    held: AtomicU64,
}

impl SpillPolicy {
    /// Returns a policy with a directory and the most bytes of one channel.
    pub fn new(dir: PathBuf, limit: u64) -> Self {
        Self { dir, limit: AtomicU64::new(limit), held: AtomicU64::new(0) }
    }

    /// Returns the bytes that are on disk now, of all channels.
    pub fn held(&self) -> u64 {
        self.held.load(Ordering::Relaxed)
    }

    /// Changes the most bytes of one channel, also for those that are open.
    pub fn set_limit(&self, limit: u64) {
        self.limit.store(limit, Ordering::Relaxed);
    }
}

#[derive(Debug, Default)]
struct State {
    front: VecDeque<BytesMut>,
    front_bytes: usize,
    file: Option<Spilled>,
    tail: VecDeque<BytesMut>,
    tail_bytes: usize,
    /// The tail is on its way to the file; until it has arrived, newer bytes may not overtake it.
    writing: bool,
    /// See [`Inbox::set_accepted`].
    answers: VecDeque<bool>,
    exit: Option<ExitReport>,
    eof: bool,
    closed: Option<Closed>,
    lost: Option<OutputLost>,
    /// Nobody will read: what arrives is dropped.
    discard: bool,
    received: u64,
    /// See [`Inbox::set_transport`].
    transport: bool,
    /// See [`Inbox::hurry`].
    hurry: bool,
}

#[derive(Debug)]
struct Spilled {
    file: Arc<File>,
    read: u64,
    written: u64,
    /// Is told how much it has.
    spill: Arc<SpillPolicy>,
}

impl Spilled {
    fn new(file: Arc<File>, spill: Arc<SpillPolicy>) -> Self {
        Self { file, read: 0, written: 0, spill }
    }

    fn set_written(&mut self, written: u64) {
        self.spill.held.fetch_add(written.saturating_sub(self.written), Ordering::Relaxed);
        self.written = written;
    }

    fn set_read(&mut self, read: u64) {
        self.spill.held.fetch_sub(read.saturating_sub(self.read), Ordering::Relaxed);
        self.read = read;
    }

    /// Returns how much its reader has not taken.
    fn unread(&self) -> u64 {
        self.written - self.read
    }
}

impl Drop for Spilled {
    fn drop(&mut self) {
        self.spill.held.fetch_sub(self.unread(), Ordering::Relaxed);
    }
}

/// What a channel has received.
#[derive(Debug)]
pub struct Inbox {
    state: Mutex<State>,
    /// Told when there may be something for the reader. Apart from `changed`, because a bulk stream brings
    /// a packet every few microseconds and only one task is to wake up for it: waking a second one makes
    /// tokio wake another worker too.
    arrived: Notify,
    /// Told of every change but new bytes.
    changed: Notify,
    spill: Arc<SpillPolicy>,
}

impl Inbox {
    /// Returns an empty inbox.
    pub fn new(spill: Arc<SpillPolicy>) -> Self {
        Self { state: Mutex::default(), arrived: Notify::new(), changed: Notify::new(), spill }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell_all(&self) {
        self.arrived.notify_waiters();
        self.changed.notify_waiters();
    }

    // ---- The handler's side.

    /// Adds bytes of a stream. Waits for the disk, never for the reader. Returns how many bytes the
    /// channel has received in all.
    pub async fn push(&self, stream: u8, data: &[u8]) -> u64 {
        let (received, full_tail) = {
            let mut state = self.lock();
            state.received += data.len() as u64;
            let received = state.received;
            if state.drops() || state.closed.is_some() || data.is_empty() {
                return received;
            }
            let spilling = state.file.is_some() || state.tail_bytes > 0 || state.writing;
            if spilling || state.front_bytes + data.len() > MEMORY {
                append(&mut state.tail, stream, data);
                state.tail_bytes += data.len();
            } else {
                append(&mut state.front, stream, data);
                state.front_bytes += data.len();
            }
            (received, state.tail_bytes >= TAIL)
        };
        self.arrived.notify_waiters();
        if full_tail {
            self.write_tail().await;
        }
        received
    }

    /// Moves the tail to the file.
    async fn write_tail(&self) {
        let (file, offset, held, records) = {
            let mut state = self.lock();
            let frames = std::mem::take(&mut state.tail);
            state.tail_bytes = 0;
            state.writing = true;
            let (file, offset, held) = match &state.file {
                Some(spilled) => {
                    (Some(Arc::clone(&spilled.file)), spilled.written, spilled.unread())
                }
                None => (None, 0, 0),
            };
            (file, offset, held, frames)
        };
        let policy = Arc::clone(&self.spill);
        let written = tokio::task::spawn_blocking(move || {
            if held >= policy.limit.load(Ordering::Relaxed) {
                return Err(SpillError::Full);
            }
            write(file, offset, &records, &policy)
        });
        let result =
            written.await.unwrap_or_else(|panic| Err(SpillError::Io(io::Error::other(panic))));
        {
            let mut state = self.lock();
            state.writing = false;
            match result {
                Ok((file, written)) => {
                    let new = || Spilled::new(file, Arc::clone(&self.spill));
                    state.file.get_or_insert_with(new).set_written(written);
                }
                Err(SpillError::Full) => state.lost = Some(OutputLost::Overflow { held }),
                Err(SpillError::Io(error)) => {
                    state.lost = Some(OutputLost::Spill(error.to_string()));
                }
            }
            if state.drops() {
                state.drop_all();
            }
        }
        self.tell_all();
    }

    /// The server answered the next of the requests that want an answer (RFC 4254, section 6.5).
    pub fn set_accepted(&self, accepted: bool) {
        let mut state = self.lock();
        // A server that answers more than it was asked is not listened to.
        if state.answers.len() < ANSWERS {
            state.answers.push_back(accepted);
        }
        drop(state);
        self.tell_all();
    }

    /// The program ended.
    pub fn set_exit(&self, exit: ExitReport) {
        self.lock().exit.get_or_insert(exit);
        self.tell_all();
    }

    /// The server will send no more data.
    pub fn set_eof(&self) {
        self.lock().eof = true;
        self.tell_all();
    }

    /// No more comes.
    pub fn close(&self, why: Closed) {
        self.lock().closed.get_or_insert(why);
        self.tell_all();
    }

    // ---- The reader's side.

    /// Drops what is held and what is still to come.
    pub fn discard(&self) {
        let mut state = self.lock();
        state.discard = true;
        state.drop_all();
    }

    /// The channel carries a whole SSH connection: its reader always reads, and it is never a bulk stream.
    pub fn set_transport(&self) {
        self.lock().transport = true;
    }

    /// The program was told to end: how it ends, which comes behind its output, must not wait for the reader.
    pub fn hurry(&self) {
        self.lock().hurry = true;
        self.tell_all();
    }

    /// Returns whether [`Inbox::set_transport`] was called.
    pub fn is_transport(&self) -> bool {
        self.lock().transport
    }

    /// Returns how many bytes have arrived in all.
    pub fn received(&self) -> u64 {
        self.lock().received
    }

    /// Returns how the program ended, if it has.
    pub fn exit(&self) -> Option<ExitReport> {
        self.lock().exit.clone()
    }

    /// Returns why no more comes, if so.
    pub fn closed_reason(&self) -> Option<Closed> {
        self.lock().closed.clone()
    }

    /// Returns whether the server has said that no more data comes: by its end of file or its close.
    pub fn is_complete(&self) -> bool {
        let state = self.lock();
        state.eof || state.closed == Some(Closed::ByServer)
    }

    /// Waits until output is lost.
    pub async fn output_lost(&self) -> OutputLost {
        self.when(|state| state.lost.clone()).await
    }

    /// Returns why output was lost, if any was.
    pub fn lost(&self) -> Option<OutputLost> {
        self.lock().lost.clone()
    }

    /// Returns whether more is held than memory is meant for, and there is time for its reader.
    pub fn is_backlogged(&self) -> bool {
        self.lock().is_backlogged()
    }

    /// Waits for the answer to the first request that has not had one here: accepted, refused, or the channel's
    /// end without an answer.
    pub async fn accepted(&self) -> Result<bool, Closed> {
        self.when(|state| match (state.answers.pop_front(), &state.closed) {
            (Some(accepted), _) => Some(Ok(accepted)),
            (None, Some(closed)) => Some(Err(closed.clone())),
            (None, None) => None,
        })
        .await
    }

    /// Waits until the channel is closed.
    pub async fn closed(&self) -> Closed {
        self.when(|state| state.closed.clone()).await
    }

    /// Waits until the program has ended or the channel is closed.
    pub async fn exited(&self) {
        self.when(|state| (state.exit.is_some() || state.closed.is_some()).then_some(())).await;
    }

    /// Waits until the backlog is gone or the channel is closed.
    pub async fn drained(&self) {
        self.when(|state| {
            (!state.is_backlogged() || state.closed.is_some() || state.drops()).then_some(())
        })
        .await;
    }

    /// Waits for the next frame. Returns `None` when all is taken and no more comes: the server sent its
    /// end of file, or the channel is closed. Dropping the future loses nothing.
    pub async fn recv(&self) -> Option<Frame> {
        loop {
            let next = self
                .when_told(&self.arrived, |state| match state.front.pop_front() {
                    Some(frame) => {
                        state.front_bytes = state.front_bytes.saturating_sub(frame.len() - 1);
                        Some(Next::Frame(Frame(frame.freeze())))
                    }
                    None => match &state.file {
                        Some(spilled) if spilled.read < spilled.written => Some(Next::Read(
                            Arc::clone(&spilled.file),
                            spilled.read,
                            spilled.written,
                        )),
                        // The tail being written is older than what follows it.
                        _ if state.writing => None,
                        _ if state.tail_bytes > 0 => {
                            // The file has been read to its end: back to memory.
                            state.file = None;
                            state.front = std::mem::take(&mut state.tail);
                            state.front_bytes = std::mem::take(&mut state.tail_bytes);
                            Some(Next::Again)
                        }
                        _ => {
                            state.file = None;
                            (state.closed.is_some() || state.eof || state.lost.is_some())
                                .then_some(Next::End)
                        }
                    },
                })
                .await;
            match next {
                Next::Frame(frame) => return Some(frame),
                Next::End => return None,
                Next::Again => {}
                Next::Read(file, from, to) => self.read_back(file, from, to).await,
            }
            self.tell_all();
        }
    }

    /// Brings the next block of the file to the front.
    async fn read_back(&self, file: Arc<File>, from: u64, to: u64) {
        let result = tokio::task::spawn_blocking(move || read(&file, from, to))
            .await
            .unwrap_or_else(|panic| Err(io::Error::other(panic)));
        let mut state = self.lock();
        match result {
            Ok((frames, end)) => {
                // Discarded meanwhile: there is no file any more.
                let Some(spilled) = state.file.as_mut() else { return };
                spilled.set_read(end);
                state.front_bytes += frames.iter().map(|f| f.len() - 1).sum::<usize>();
                state.front.extend(frames);
            }
            Err(error) => {
                state.lost = Some(OutputLost::Spill(error.to_string()));
                state.drop_all();
            }
        }
    }

    /// Waits until `check` returns something; it is asked again after every change but new bytes.
    async fn when<T>(&self, check: impl FnMut(&mut State) -> Option<T>) -> T {
        self.when_told(&self.changed, check).await
    }

    /// Waits until `check` returns something; it is asked again after every notification.
    async fn when_told<T>(
        &self,
        notify: &Notify,
        mut check: impl FnMut(&mut State) -> Option<T>,
    ) -> T {
        loop {
            let told = notify.notified();
            tokio::pin!(told);
            // Registered before the look, so that a change between look and wait is not missed.
            told.as_mut().enable();
            if let Some(value) = check(&mut self.lock()) {
                return value;
            }
            told.await;
        }
    }
}

enum Next {
    Frame(Frame),
    Read(Arc<File>, u64, u64),
    Again,
    End,
}

impl State {
    /// See [`Inbox::is_backlogged`].
    fn is_backlogged(&self) -> bool {
        !self.hurry && (self.file.is_some() || self.tail_bytes > 0 || self.writing)
    }

    /// What arrives is dropped.
    fn drops(&self) -> bool {
        self.discard || self.lost.is_some()
    }

    fn drop_all(&mut self) {
        self.front = VecDeque::new();
        self.front_bytes = 0;
        self.tail = VecDeque::new();
        self.tail_bytes = 0;
        self.file = None;
    }
}

/// Appends to the last frame where stream and size allow it, else starts a new one.
fn append(queue: &mut VecDeque<BytesMut>, stream: u8, data: &[u8]) {
    match queue.back_mut() {
        Some(last) if last[0] == stream && last.len() + data.len() <= JOIN => {
            // Where much comes, more follows: growing by and by would copy each byte once more.
            if last.len() >= MUCH && last.capacity() - last.len() < data.len() {
                last.reserve(JOIN - last.len());
            }
            last.extend_from_slice(data);
        }
        _ => {
            let mut frame = BytesMut::with_capacity(data.len() + 1);
            frame.put_u8(stream);
            frame.extend_from_slice(data);
            queue.push_back(frame);
        }
    }
}

enum SpillError {
    Full,
    Io(io::Error),
}

/// Writes frames as records (length, then the frame) and returns the file and its new end.
fn write(
    file: Option<Arc<File>>,
    offset: u64,
    frames: &VecDeque<BytesMut>,
    policy: &SpillPolicy,
) -> Result<(Arc<File>, u64), SpillError> {
    let file = match file {
        Some(file) => file,
        None => {
            std::fs::create_dir_all(&policy.dir).map_err(SpillError::Io)?;
            Arc::new(tempfile::tempfile_in(&policy.dir).map_err(SpillError::Io)?)
        }
    };
    let disk = rustix::fs::fstatvfs(&*file).map_err(|e| SpillError::Io(e.into()))?;
    if disk.f_bavail < disk.f_blocks / FREE_SHARE {
        let error = format!("less than a tenth of the disk of {} is free", policy.dir.display());
        return Err(SpillError::Io(io::Error::new(io::ErrorKind::StorageFull, error)));
    }
    let mut block = Vec::with_capacity(TAIL + TAIL / 8);
    for frame in frames {
        // A frame is at most JOIN bytes or one SSH packet, far below u32::MAX.
        block.extend_from_slice(&(frame.len() as u32).to_le_bytes());
        block.extend_from_slice(frame);
    }
    file.write_all_at(&block, offset).map_err(SpillError::Io)?;
    Ok((file, offset + block.len() as u64))
}

/// Reads whole records from `from`, at most about [`TAIL`] bytes, and returns them with their end.
fn read(file: &File, from: u64, to: u64) -> io::Result<(Vec<BytesMut>, u64)> {
    give_back(file, from);
    let want = usize::try_from(to - from).unwrap_or(usize::MAX).min(TAIL + JOIN + 8);
    let mut block = vec![0; want];
    file.read_exact_at(&mut block, from)?;
    let mut frames = Vec::new();
    let mut at = 0;
    while let Some(header) = block.get(at..at + 4) {
        let mut len = [0; 4];
        len.copy_from_slice(header);
        let len = u32::from_le_bytes(len) as usize;
        let Some(frame) = block.get(at + 4..at + 4 + len) else { break };
        frames.push(BytesMut::from(frame));
        at += 4 + len;
    }
    Ok((frames, from + at as u64))
}

/// Gives the disk back what was taken, up to `end`. A file system that cannot do that gives it back with the file.
#[cfg(target_os = "linux")]
fn give_back(file: &File, end: u64) {
    use rustix::fs::{FallocateFlags, fallocate};
    if end > 0 {
        let hole = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        if let Err(error) = fallocate(file, hole, 0, end) {
            tracing::debug!(%error, "output that was read stays on the disk until all of it is");
        }
    }
}

#[cfg(not(target_os = "linux"))]
fn give_back(_: &File, _: u64) {}

#[cfg(test)]
#[path = "inbox_tests.rs"]
mod tests;
