//! One direction of one connection: read, hold for the latency, write under the limits.
//!
//! A filler reads chunks and stamps them with the time they are due, a drainer writes them when it has
//! come. Latency so costs memory and no throughput.

use std::collections::VecDeque;
use std::io;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep_until};

use super::{Shared, Toxics};

/// Bytes per read: large enough that system calls do not limit a link to less than 1 GB/s.
const CHUNK: usize = 256 * 1024;

/// Most bytes under way with latency: 250 ms at 1 GB/s.
const IN_FLIGHT: usize = 256 * 1024 * 1024;

/// Most bytes held without latency: no more than kernels buffer, so that a stopped reader stops its
/// writer; a quarter of it halves the throughput (measured).
const NO_LATENCY: usize = 16 * CHUNK;

/// How late a chunk may be before reading stops: then the receiver does not keep up, and the link must
/// push back as a network does instead of taking in [`IN_FLIGHT`] bytes.
const LATE: Duration = Duration::from_millis(20);

/// Chunks kept for reuse.
const SPARE: usize = 16;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Direction {
    ToServer,
    ToClient,
}

impl Direction {
    fn counter(self, shared: &Shared) -> &AtomicU64 {
        match self {
            Direction::ToServer => &shared.to_server,
            Direction::ToClient => &shared.to_client,
        }
    }
}

/// Bytes with the time they are due; no bytes at all is the end of file.
struct Chunk {
    due: Instant,
    bytes: Vec<u8>,
}

#[derive(Default)]
struct Held {
    chunks: VecDeque<Chunk>,
    bytes: usize,
    spare: Vec<Vec<u8>>,
}

#[derive(Default)]
struct Queue {
    held: Mutex<Held>,
    filled: Notify,
    drained: Notify,
}

impl Queue {
    fn has_room(&self, toxics: &Toxics) -> bool {
        let held = self.held.lock().unwrap();
        let limit = match (toxics.bandwidth, toxics.latency) {
            // What a slow link carries, and a little buffer before it.
            (Some(rate), latency) => {
                let seconds = (latency + Duration::from_millis(50)).as_secs_f64();
                (rate as f64 * seconds) as usize + 64 * 1024
            }
            (None, Duration::ZERO) => NO_LATENCY,
            (None, _) => IN_FLIGHT,
        };
        let late = held.chunks.front().is_some_and(|chunk| chunk.due.elapsed() > LATE);
        held.bytes < limit && !(late && held.bytes > NO_LATENCY)
    }

    fn spare(&self) -> Vec<u8> {
        let spare = self.held.lock().unwrap().spare.pop();
        spare.unwrap_or_else(|| Vec::with_capacity(CHUNK))
    }

    fn push(&self, due: Instant, bytes: Vec<u8>) {
        let mut held = self.held.lock().unwrap();
        held.bytes += bytes.len();
        held.chunks.push_back(Chunk { due, bytes });
        drop(held);
        self.filled.notify_one();
    }

    fn first_due(&self) -> Option<Instant> {
        self.held.lock().unwrap().chunks.front().map(|chunk| chunk.due)
    }

    fn pop(&self) -> Option<Vec<u8>> {
        self.held.lock().unwrap().chunks.pop_front().map(|chunk| chunk.bytes)
    }

    fn give_back(&self, mut bytes: Vec<u8>) {
        let mut held = self.held.lock().unwrap();
        held.bytes -= bytes.len();
        bytes.clear();
        if bytes.capacity() >= CHUNK && held.spare.len() < SPARE {
            held.spare.push(bytes);
        }
        drop(held);
        self.drained.notify_one();
    }
}

/// Forwards until the end of file has been passed on; an error is a connection that broke.
pub(super) async fn run(
    from: ReadHalf<'_>,
    to: WriteHalf<'_>,
    shared: &Shared,
    direction: Direction,
) -> io::Result<()> {
    let queue = Queue::default();
    let fill = fill(from, &queue, shared.toxics.subscribe());
    let drain = Drain {
        to,
        queue: &queue,
        toxics: shared.toxics.subscribe(),
        counter: direction.counter(shared),
        direction,
        forwarded: 0,
        free_at: Instant::now(),
    };
    tokio::try_join!(fill, drain.run()).map(|_| ())
}

/// Waits for any change of the toxics; when the link is gone, for ever: the task is ended from outside.
async fn changed(toxics: &mut watch::Receiver<Toxics>) {
    if toxics.changed().await.is_err() {
        std::future::pending::<()>().await;
    }
}

async fn fill(
    mut from: ReadHalf<'_>,
    queue: &Queue,
    mut toxics: watch::Receiver<Toxics>,
) -> io::Result<()> {
    let mut buffer = queue.spare();
    loop {
        let now = toxics.borrow_and_update().clone();
        if now.blackhole || !queue.has_room(&now) {
            tokio::select! {
                () = changed(&mut toxics) => {}
                () = queue.drained.notified() => {}
            }
            continue;
        }
        let read = tokio::select! {
            biased;
            () = changed(&mut toxics) => None,
            read = from.read_buf(&mut buffer) => Some(read?),
        };
        let Some(count) = read else { continue };
        // Many small chunks may be under way: each takes its own size, not that of the buffer.
        let bytes = if count < CHUNK / 8 {
            let bytes = buffer.clone();
            buffer.clear();
            bytes
        } else {
            std::mem::replace(&mut buffer, queue.spare())
        };
        let latency = toxics.borrow().latency;
        queue.push(Instant::now() + latency, bytes);
        if count == 0 {
            return Ok(());
        }
    }
}

struct Drain<'a> {
    to: WriteHalf<'a>,
    queue: &'a Queue,
    toxics: watch::Receiver<Toxics>,
    counter: &'a AtomicU64,
    direction: Direction,
    /// Bytes written on this connection in this direction.
    forwarded: u64,
    /// When the bandwidth allows the next write.
    free_at: Instant,
}

impl Drain<'_> {
    async fn run(mut self) -> io::Result<()> {
        loop {
            let Some(due) = self.queue.first_due() else {
                self.queue.filled.notified().await;
                continue;
            };
            sleep_until(due).await;
            let Some(bytes) = self.queue.pop() else { continue };
            if bytes.is_empty() {
                self.allowance().await;
                return self.to.shutdown().await;
            }
            let mut rest = bytes.as_slice();
            while !rest.is_empty() {
                let most = self.allowance().await.min(rest.len());
                // In this order, so that a fault holds from the moment it was set.
                let written = tokio::select! {
                    biased;
                    () = changed(&mut self.toxics) => 0,
                    written = self.to.write(&rest[..most]) => written?,
                };
                rest = &rest[written..];
                self.account(written as u64).await;
            }
            self.queue.give_back(bytes);
        }
    }

    /// Waits until something may be written, and returns how much at once.
    async fn allowance(&mut self) -> usize {
        loop {
            let now = self.toxics.borrow_and_update().clone();
            let until_stall = match now.stall_after {
                Some(limit) if self.direction == Direction::ToClient => {
                    usize::try_from(limit.saturating_sub(self.forwarded)).unwrap_or(usize::MAX)
                }
                _ => usize::MAX,
            };
            if now.blackhole || until_stall == 0 {
                changed(&mut self.toxics).await;
                continue;
            }
            let slice = now.slice.unwrap_or(usize::MAX);
            // A hundredth of a second at a time, so that a slow link flows instead of jerking.
            let paced = now.bandwidth.map_or(usize::MAX, |rate| (rate / 100).max(1) as usize);
            return until_stall.min(slice).min(paced);
        }
    }

    async fn account(&mut self, written: u64) {
        self.forwarded += written;
        self.counter.fetch_add(written, Ordering::SeqCst);
        let rate = self.toxics.borrow().bandwidth;
        if let Some(rate) = rate.filter(|_| written > 0) {
            let cost = Duration::from_secs_f64(written as f64 / rate.max(1) as f64);
            self.free_at = self.free_at.max(Instant::now()) + cost;
            let until = self.free_at;
            // A change may lift the limit: then nothing more is waited for.
            tokio::select! {
                () = sleep_until(until) => {}
                () = changed(&mut self.toxics) => {}
            }
        }
    }
}
