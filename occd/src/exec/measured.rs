//! Counting a command, and how long it took.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use occ_proto::exec::Exit;
use tokio::time::Instant;

use super::command::Command;
use super::error::ExecError;
use crate::metrics::{CommandEnd, HostMetrics};

/// A command that was started. A client's is counted once: when its end is known, or when it is dropped before.
#[derive(Debug)]
pub(super) struct Measured {
    metrics: Arc<HostMetrics>,
    /// When it was sent.
    begun: Instant,
    /// A terminal lasts as long as a person stays: its time tells nothing of the host.
    is_timed: bool,
    has_spoken: bool,
    /// Or is not to be.
    is_counted: AtomicBool,
}

impl Measured {
    pub(super) fn new(metrics: &Arc<HostMetrics>, begun: Instant, command: &Command) -> Self {
        let is_ours = !command.is_of_client();
        Self {
            metrics: Arc::clone(metrics),
            begun,
            is_timed: !is_ours && command.request().tty.is_none(),
            has_spoken: false,
            is_counted: AtomicBool::new(is_ours),
        }
    }

    /// Output has come.
    pub(super) fn output(&mut self) {
        if !std::mem::replace(&mut self.has_spoken, true) && self.is_timed {
            self.metrics.first_byte.add(self.begun.elapsed());
        }
    }

    /// It has ended.
    pub(super) fn ended(&self, outcome: &Result<Exit, ExecError>) {
        if self.is_counted.swap(true, Ordering::Relaxed) {
            return;
        }
        let end = outcome.as_ref().map_or_else(end_of_error, end_of);
        self.metrics.command(end);
        // How long somebody waited for what nobody knows is no time of a command's.
        if self.is_timed && outcome.is_ok() {
            self.metrics.whole.add(self.begun.elapsed());
        }
    }
}

impl Drop for Measured {
    fn drop(&mut self) {
        if !self.is_counted.swap(true, Ordering::Relaxed) {
            self.metrics.command(CommandEnd::CutOff);
        }
    }
}

fn end_of(exit: &Exit) -> CommandEnd {
    match (exit.code, &exit.signal) {
        _ if exit.timed_out => CommandEnd::TimedOut,
        _ if exit.cut_off => CommandEnd::CutOff,
        (Some(0), _) => CommandEnd::Ok,
        (Some(_), _) => CommandEnd::Failed,
        (None, Some(_)) => CommandEnd::Signal,
        // We ended it, and the server said no more than that.
        (None, None) => CommandEnd::CutOff,
    }
}

/// Counts a command that did not start.
pub(super) fn not_started(metrics: &HostMetrics, command: &Command, error: &ExecError) {
    if command.is_of_client() {
        metrics.command(end_of_error(error));
    }
}

fn end_of_error(error: &ExecError) -> CommandEnd {
    match error {
        ExecError::Unreachable(_)
        | ExecError::NoSession(_)
        | ExecError::NoShell(_)
        | ExecError::TooLong { .. }
        | ExecError::Refused
        | ExecError::NotStarted
        | ExecError::Spawn(_)
        | ExecError::NoTerminal => CommandEnd::NotStarted,
        ExecError::LinkLost { .. }
        | ExecError::OutputCut { .. }
        | ExecError::NoExit
        | ExecError::NoAnswer { .. } => CommandEnd::Unknown,
        ExecError::Overflow | ExecError::Spill(_) => CommandEnd::Unread,
    }
}
