//! The command's output, to the client or to the descriptors that it passed.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::extract::ws::Message;
use bytes::Bytes;
use futures_util::SinkExt as _;
use occ_proto::exec::{ExecEvent, Exit};
use tokio::sync::mpsc;
use tokio::time::{Interval, MissedTickBehavior};

use super::{Sink, send};
use crate::exec::{Control, Destinations, ExecError, Running, Step};
use crate::ssh::Frame;

/// While the program takes no input, the client's side is not read; this often it is then checked that
/// the client is still there.
const ALIVE: Duration = Duration::from_millis(500);

/// How long a piece of output may wait for its reader once the command was told to end.
const STUCK: Duration = Duration::from_secs(1);
/// The number of an error that has none of its own.
const EIO: i32 = rustix::io::Errno::IO.raw_os_error();

/// Why there is no more output.
pub(super) enum Last {
    /// The command ended, and all its output is written.
    Ended(Result<Exit, ExecError>),
    /// A descriptor could not be written to, for this reason (errno).
    Unwritable(i32),
}

/// Sends output until the end, which it returns, or until the client has gone. The descriptors are closed
/// then. `blocked` says that the client's side is not read, `wrong` what is wrong with what it sent.
pub(super) async fn run(
    mut running: Running,
    sink: &mut Sink,
    mut destinations: Destinations,
    blocked: &AtomicBool,
    mut wrong: mpsc::Receiver<String>,
) -> Option<Last> {
    let mut alive = Alive::new(blocked);
    let control = running.control();
    let last = loop {
        let step = tokio::select! {
            biased;
            step = running.next() => step,
            Some(detail) = wrong.recv() => {
                send(sink, &ExecEvent::BadControl { detail }).await.ok()?;
                continue;
            }
            () = alive.check_is_due() => {
                alive.check(sink).await?;
                continue;
            }
        };
        match step {
            Step::Output(frame) if destinations.takes(frame.stream()) => {
                let writing = write(&mut destinations, &frame, &mut alive, sink);
                let Some(written) = unless_stuck(&control, writing).await else {
                    break Last::Ended(running.outcome());
                };
                if let Err(error) = written? {
                    // A write that takes nothing and says nothing is a device's fault.
                    break Last::Unwritable(error.raw_os_error().unwrap_or(EIO));
                }
            }
            Step::Output(frame) => {
                let sending = sink.send(Message::Binary(frame.into_bytes()));
                match unless_stuck(&control, sending).await {
                    Some(sent) => sent.ok()?,
                    None => break Last::Ended(running.outcome()),
                }
            }
            Step::Ended(outcome) => break Last::Ended(outcome),
        }
    };
    // Whoever reads a pipe waits for the last writer to close it, and does not expect one after occ.
    drop(destinations);
    Some(last)
}

/// Returns nothing when a command was told to end and its output is then stuck: whoever has set a time limit or
/// pressed Ctrl-C does not wait for a reader that has stopped.
async fn unless_stuck<T>(control: &Control, writing: impl Future<Output = T>) -> Option<T> {
    let stuck = async {
        control.told_to_end().await;
        tokio::time::sleep(STUCK).await;
    };
    tokio::select! {
        biased;
        done = writing => Some(done),
        () = stuck => None,
    }
}

/// Writes a frame to its descriptor. `None` means that the client has gone.
async fn write(
    destinations: &mut Destinations,
    frame: &Frame,
    alive: &mut Alive<'_>,
    sink: &mut Sink,
) -> Option<io::Result<()>> {
    let mut writing = std::pin::pin!(destinations.write(frame));
    loop {
        tokio::select! {
            biased;
            written = &mut writing => return Some(written),
            () = alive.check_is_due() => {}
        }
        alive.check(sink).await?;
    }
}

/// Finds out now and then whether a client that is not read is still there.
struct Alive<'a> {
    blocked: &'a AtomicBool,
    due: Interval,
}

impl<'a> Alive<'a> {
    fn new(blocked: &'a AtomicBool) -> Self {
        let mut due = tokio::time::interval(ALIVE);
        due.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self { blocked, due }
    }

    async fn check_is_due(&mut self) {
        self.due.tick().await;
    }

    /// Returns `None` when the client has gone.
    async fn check(&mut self, sink: &mut Sink) -> Option<()> {
        if self.blocked.load(Ordering::Relaxed) {
            // Not a ping: its answer could fail after our last word was sent, and with it the reading of that.
            // A pong that nobody asked for wants none (RFC 6455, section 5.5.3).
            sink.send(Message::Pong(Bytes::new())).await.ok()?;
        }
        Some(())
    }
}
