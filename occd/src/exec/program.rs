//! A program that was started, wherever it runs: the one face of the two executors.

use bytes::Bytes;
use occ_proto::exec::TtySize;
use tokio_util::sync::WaitForCancellationFutureOwned;

use super::process::Process;
use crate::ssh::{Channel, Closed, ExitReport, Frame, OutputLost, signal};

/// A program. Dropping it ends it.
#[derive(Debug)]
pub(super) enum Program {
    /// On a host, over a channel.
    Remote(Channel),
    /// On this machine.
    Local(Process),
}

impl Program {
    /// Sends bytes to it, as fast as it takes them.
    pub(super) async fn write(&self, data: Bytes) -> Result<(), Closed> {
        match self {
            Self::Remote(channel) => channel.write(data).await,
            Self::Local(process) => process.write(data).await,
        }
    }

    /// Sends it what a person was asked for.
    pub(super) async fn write_secret(&self, data: Bytes) -> Result<(), Closed> {
        match self {
            Self::Remote(channel) => channel.write_secret(data).await,
            Self::Local(process) => process.write(data).await,
        }
    }

    /// Tells it that nothing more comes.
    pub(super) async fn eof(&self) -> Result<(), Closed> {
        match self {
            Self::Remote(channel) => channel.eof().await,
            Self::Local(process) => process.eof().await,
        }
    }

    /// Sends a signal, named without `SIG`. Returns false for a name that is none.
    pub(super) async fn signal(&self, name: &str) -> bool {
        let Some(signal) = signal::parse(name) else { return false };
        match self {
            Self::Remote(channel) => {
                if channel.signal(signal).await.is_err() {
                    tracing::debug!(name, "a signal came after the program's end");
                }
            }
            Self::Local(process) => process.signal(name),
        }
        true
    }

    /// Tells its terminal its size.
    pub(super) async fn resize(&self, size: TtySize) {
        let done = match self {
            Self::Remote(channel) => channel.resize(size).await.is_ok(),
            Self::Local(process) => process.resize(size).await,
        };
        if !done {
            tracing::debug!("a terminal could not be resized");
        }
    }

    /// Waits for output; nothing means that no more comes. Dropping the future loses nothing.
    pub(super) async fn recv(&self) -> Option<Frame> {
        match self {
            Self::Remote(channel) => channel.recv().await,
            Self::Local(process) => process.recv().await,
        }
    }

    /// Waits until it has ended, or nothing more will be heard of it.
    pub(super) async fn exited(&self) {
        match self {
            Self::Remote(channel) => channel.exited().await,
            Self::Local(process) => process.exited().await,
        }
    }

    /// Waits until it has ended and its output, too, or nothing more will be heard of it.
    pub(super) async fn closed(&self) -> Closed {
        match self {
            Self::Remote(channel) => channel.closed().await,
            Self::Local(process) => process.closed().await,
        }
    }

    /// Waits until output is lost, because there was too much to keep or no place for it.
    pub(super) async fn output_lost(&self) -> OutputLost {
        match self {
            Self::Remote(channel) => channel.output_lost().await,
            // It waits for its reader.
            Self::Local(_) => std::future::pending().await,
        }
    }

    /// Waits until what it runs over has to end: its connection, or the daemon.
    pub(super) fn ending(&self) -> WaitForCancellationFutureOwned {
        match self {
            Self::Remote(channel) => channel.connection().ending().cancelled_owned(),
            Self::Local(process) => process.ending(),
        }
    }

    /// Waits until what was sent before has arrived.
    pub(super) async fn settle(&self) {
        if let Self::Remote(channel) = self {
            channel.connection().round_trip().await;
        }
    }

    /// Ends it: TERM, then KILL; HUP in place of TERM where it has a terminal. Returns whether it is known to
    /// have ended.
    pub(super) async fn end(&self) -> bool {
        match self {
            Self::Remote(channel) => channel.end().await,
            Self::Local(process) => process.end().await,
        }
    }

    /// Returns how it ended, as far as that is known.
    pub(super) fn exit(&self) -> Option<ExitReport> {
        match self {
            Self::Remote(channel) => channel.exit(),
            Self::Local(process) => process.exit(),
        }
    }

    /// Returns why nothing more comes, if so.
    pub(super) fn closed_reason(&self) -> Option<Closed> {
        match self {
            Self::Remote(channel) => channel.closed_reason(),
            Self::Local(process) => process.closed_reason(),
        }
    }

    /// Returns whether all output has arrived.
    pub(super) fn output_complete(&self) -> bool {
        match self {
            Self::Remote(channel) => channel.output_complete(),
            Self::Local(process) => process.closed_reason().is_some(),
        }
    }

    /// Returns why output was lost, if any was.
    pub(super) fn lost_output(&self) -> Option<OutputLost> {
        match self {
            Self::Remote(channel) => channel.lost_output(),
            Self::Local(_) => None,
        }
    }

    /// Returns whether [`Program::end`] was called.
    pub(super) fn was_told_to_end(&self) -> bool {
        match self {
            Self::Remote(channel) => channel.was_told_to_end(),
            Self::Local(process) => process.was_told_to_end(),
        }
    }

    /// Runs a task beside it, of the same owner.
    pub(super) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        match self {
            Self::Remote(channel) => channel.connection().spawn(task),
            Self::Local(process) => process.spawn(task),
        }
    }
}
