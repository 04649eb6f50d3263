//! The numbers of one host.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use occ_proto::Code;

use super::{Counter, Histogram, Times};

/// Bounds of a dial and its parts, in seconds: from a machine beside this one to the end of the patience with a server.
const DIAL: &[f64] = &[0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0];
/// Bounds of a command, in seconds: from one round trip to work of hours.
const COMMAND: &[f64] =
    &[0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0, 600.0, 3600.0];

/// A part of a dial.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DialStep {
    /// Reading ssh_config, and looking the name up.
    Resolve,
    /// Waiting for the jump host's connection.
    Jump,
    /// The TCP connection, or the channel through the jump host.
    Connect,
    /// Agreeing on keys, and checking the server's.
    KeyExchange,
    /// Logging in.
    Login,
}

impl DialStep {
    const ALL: [Self; 5] =
        [Self::Resolve, Self::Jump, Self::Connect, Self::KeyExchange, Self::Login];

    /// Returns its word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Resolve => "resolve",
            Self::Jump => "jump",
            Self::Connect => "connect",
            Self::KeyExchange => "key_exchange",
            Self::Login => "login",
        }
    }
}

/// What became of a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CommandEnd {
    /// It exited with 0.
    Ok,
    /// It exited with something else.
    Failed,
    /// A signal ended it.
    Signal,
    /// Its time was over.
    TimedOut,
    /// The client left, or the host was disconnected.
    CutOff,
    /// It was not started.
    NotStarted,
    /// Nobody knows: the link broke, or the server did not say.
    Unknown,
    /// Its output was not read, and became too much to keep.
    Unread,
}

impl CommandEnd {
    const ALL: [Self; 8] = [
        Self::Ok,
        Self::Failed,
        Self::Signal,
        Self::TimedOut,
        Self::CutOff,
        Self::NotStarted,
        Self::Unknown,
        Self::Unread,
    ];

    /// Returns its word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Failed => "failed",
            Self::Signal => "signal",
            Self::TimedOut => "timed_out",
            Self::CutOff => "cut_off",
            Self::NotStarted => "not_started",
            Self::Unknown => "unknown",
            Self::Unread => "unread",
        }
    }
}

/// The numbers of one host, or of this machine as a place to run commands on.
#[derive(Debug)]
pub struct HostMetrics {
    /// Dials that were begun.
    pub dials: Counter,
    /// Connections that were made in place of one that had ended.
    pub reconnects: Counter,
    /// Failed dials by their codes. Rare, and a code is there once it has come.
    failures: Mutex<BTreeMap<&'static str, u64>>,
    made: Histogram,
    failed: Histogram,
    steps: [Histogram; DialStep::ALL.len()],
    /// From when a command was sent until its first byte of output.
    pub first_byte: Histogram,
    /// From when it was sent until its end.
    pub whole: Histogram,
    commands: [Counter; CommandEnd::ALL.len()],
}

impl Default for HostMetrics {
    fn default() -> Self {
        Self {
            dials: Counter::default(),
            reconnects: Counter::default(),
            failures: Mutex::default(),
            made: Histogram::new(DIAL),
            failed: Histogram::new(DIAL),
            steps: [const { Histogram::new(DIAL) }; DialStep::ALL.len()],
            first_byte: Histogram::new(COMMAND),
            whole: Histogram::new(COMMAND),
            commands: Default::default(),
        }
    }
}

impl HostMetrics {
    /// A dial went well.
    pub fn connected(&self, time: Duration) {
        self.made.add(time);
    }

    /// A dial failed.
    pub fn not_connected(&self, time: Duration, code: Code) {
        self.failed.add(time);
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        *failures.entry(code.as_str()).or_default() += 1;
    }

    /// A part of a dial went well.
    pub fn step(&self, step: DialStep, time: Duration) {
        self.steps[step as usize].add(time);
    }

    /// A command ended, or was not started.
    pub fn command(&self, end: CommandEnd) {
        self.commands[end as usize].add();
    }

    /// Returns the times of dials by what came of them, as far as there are any.
    pub fn dial_times(&self) -> impl Iterator<Item = (&'static str, Times)> {
        let all = [("ok", &self.made), ("failed", &self.failed)];
        all.into_iter().filter_map(|(word, histogram)| Some((word, histogram.times()?)))
    }

    /// Returns the times of parts of dials, as far as there are any.
    pub fn step_times(&self) -> impl Iterator<Item = (&'static str, Times)> {
        let all = DialStep::ALL.into_iter().zip(&self.steps);
        all.filter_map(|(step, histogram)| Some((step.as_str(), histogram.times()?)))
    }

    /// Returns how many dials failed with each code.
    pub fn failures(&self) -> BTreeMap<&'static str, u64> {
        self.failures.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Returns how many commands ended in each way, as far as there are any.
    pub fn commands(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let all = CommandEnd::ALL.into_iter().zip(&self.commands);
        all.map(|(end, count)| (end.as_str(), count.get())).filter(|(_, count)| *count > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_way_to_end_has_a_counter_of_its_own() {
        let metrics = HostMetrics::default();
        assert_eq!(metrics.commands().count(), 0);
        for (times, end) in CommandEnd::ALL.into_iter().enumerate() {
            (0..=times).for_each(|_| metrics.command(end));
        }
        let counted: Vec<u64> = metrics.commands().map(|(_, count)| count).collect();
        assert_eq!(counted, [1, 2, 3, 4, 5, 6, 7, 8]);
        for step in DialStep::ALL {
            metrics.step(step, Duration::from_millis(1));
        }
        let words: Vec<&str> = metrics.step_times().map(|(word, _)| word).collect();
        assert_eq!(words, DialStep::ALL.map(DialStep::as_str));
    }
}
