//! What goes through the channels of a host, told to whoever traces it. Where nobody does, that costs a look at a flag.
//!
//! The handler and the channels call it, so a login, which has no channel, is never told. It waits for nobody: what whoever
//! traces does not take in time is counted, and missing.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;
use occ_proto::HostName;
use russh::ChannelId;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// Pieces that wait for the disk, and their bytes: a second of a fast line.
const QUEUE: usize = 16 * 1024;
const QUEUED_BYTES: usize = 64 * 1024 * 1024;

/// Where a piece goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// From the host.
    In,
    /// To the host.
    Out,
}

/// Something that went through a channel.
#[derive(Debug)]
pub struct Piece {
    /// When.
    pub at: Timestamp,
    /// Which connection of the host.
    pub connection: u64,
    /// Which of its channels.
    pub channel: u32,
    /// Where to.
    pub direction: Direction,
    /// What it is.
    pub kind: &'static str,
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// How many bytes it had that are told to nobody.
    pub left_out: Option<usize>,
}

/// The taps of all hosts.
#[derive(Debug, Default)]
pub struct Taps(Mutex<HashMap<HostName, Arc<Tap>>>);

impl Taps {
    /// Returns a host's, which all its connections have.
    pub fn of(&self, host: &HostName) -> Arc<Tap> {
        let mut taps = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(taps.entry(host.clone()).or_default())
    }
}

/// A host's tap.
#[derive(Debug, Default)]
pub struct Tap {
    on: AtomicBool,
    traced: Mutex<Option<Traced>>,
}

/// Where the pieces go.
#[derive(Debug)]
struct Traced {
    queue: mpsc::Sender<Piece>,
    waiting: Arc<Waiting>,
    end: CancellationToken,
}

/// What has not been taken.
#[derive(Debug, Default)]
struct Waiting {
    bytes: AtomicUsize,
    missing: AtomicU64,
}

/// Whoever traces a host. Dropped, the host is traced no more.
#[derive(Debug)]
pub struct Tracer {
    tap: Arc<Tap>,
    queue: mpsc::Receiver<Piece>,
    waiting: Arc<Waiting>,
    end: CancellationToken,
}

impl Tap {
    fn lock(&self) -> MutexGuard<'_, Option<Traced>> {
        self.traced.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins to trace; nothing where somebody does already.
    pub fn trace(self: &Arc<Self>) -> Option<Tracer> {
        let mut traced = self.lock();
        if traced.is_some() {
            return None;
        }
        let (sender, queue) = mpsc::channel(QUEUE);
        let (waiting, end) = (Arc::<Waiting>::default(), CancellationToken::new());
        *traced = Some(Traced { queue: sender, waiting: Arc::clone(&waiting), end: end.clone() });
        self.on.store(true, Ordering::Relaxed);
        Some(Tracer { tap: Arc::clone(self), queue, waiting, end })
    }

    /// Tells whoever traces to end it. Returns whether anybody does.
    pub fn end(&self) -> bool {
        let traced = self.lock();
        traced.iter().for_each(|traced| traced.end.cancel());
        traced.is_some()
    }

    /// Hands a piece to whoever traces.
    #[cold]
    pub(crate) fn tell(&self, piece: impl FnOnce(Timestamp) -> Piece) {
        let traced = self.lock();
        let Some(Traced { queue, waiting, .. }) = traced.as_ref() else { return };
        // By the clock as it is now, so that the times are in the order of the pieces.
        let piece = piece(Timestamp::now());
        let length = piece.bytes.len();
        let before = waiting.bytes.fetch_add(length, Ordering::Relaxed);
        if before + length > QUEUED_BYTES || queue.try_send(piece).is_err() {
            waiting.bytes.fetch_sub(length, Ordering::Relaxed);
            waiting.missing.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Tracer {
    /// Waits for the next piece.
    pub async fn next(&mut self) -> Piece {
        match self.queue.recv().await {
            Some(piece) => self.taken(piece),
            // The sender goes when this does.
            None => std::future::pending().await,
        }
    }

    /// Returns the next piece, if it is there.
    pub fn try_next(&mut self) -> Option<Piece> {
        let piece = self.queue.try_recv().ok()?;
        Some(self.taken(piece))
    }

    fn taken(&self, piece: Piece) -> Piece {
        self.waiting.bytes.fetch_sub(piece.bytes.len(), Ordering::Relaxed);
        piece
    }

    /// Returns how many pieces are missing.
    pub fn missing(&self) -> u64 {
        self.waiting.missing.load(Ordering::Relaxed)
    }

    /// Returns a token that is cancelled when somebody wants the trace to end.
    pub fn end(&self) -> CancellationToken {
        self.end.clone()
    }

    /// Takes no more pieces; those that are there can still be taken.
    pub fn close(&mut self) {
        self.tap.on.store(false, Ordering::Relaxed);
        self.queue.close();
    }
}

impl Drop for Tracer {
    fn drop(&mut self) {
        self.tap.on.store(false, Ordering::Relaxed);
        *self.tap.lock() = None;
    }
}

/// The tap of a host, as one of its connections has it.
#[derive(Debug, Default)]
pub(super) struct ConnectionTap {
    tap: Arc<Tap>,
    connection: AtomicU64,
}

impl ConnectionTap {
    pub(super) fn new(tap: Arc<Tap>) -> Self {
        Self { tap, connection: AtomicU64::new(0) }
    }

    /// Says which of the host's connections it is.
    pub(super) fn set_connection(&self, id: u64) {
        self.connection.store(id, Ordering::Relaxed);
    }

    /// Returns whether anybody traces the host.
    #[inline]
    pub(super) fn is_on(&self) -> bool {
        self.tap.on.load(Ordering::Relaxed)
    }

    /// Tells of bytes that come from the host, if somebody traces it.
    #[inline]
    pub(super) fn came(&self, channel: ChannelId, kind: &'static str, bytes: &[u8]) {
        if self.is_on() {
            self.tell(channel, Direction::In, kind, bytes, None);
        }
    }

    /// Tells of bytes that go to it.
    #[inline]
    pub(super) fn goes(&self, channel: ChannelId, kind: &'static str, bytes: &[u8]) {
        if self.is_on() {
            self.tell(channel, Direction::Out, kind, bytes, None);
        }
    }

    /// Tells how many bytes go to it that are nobody's business.
    pub(super) fn goes_unseen(&self, channel: ChannelId, length: usize) {
        if self.is_on() {
            self.tell(channel, Direction::Out, "data", &[], Some(length));
        }
    }

    #[cold]
    fn tell(
        &self,
        channel: ChannelId,
        direction: Direction,
        kind: &'static str,
        bytes: &[u8],
        left_out: Option<usize>,
    ) {
        self.tap.tell(|at| Piece {
            at,
            connection: self.connection.load(Ordering::Relaxed),
            channel: channel.into(),
            direction,
            kind,
            bytes: bytes.to_vec(),
            left_out,
        });
    }
}
