//! The time that a dial has.

use std::time::Duration;

use tokio::time::Instant;

/// How long TCP, the identification line and the key exchange may each take.
const PER_PHASE: Duration = Duration::from_secs(10);

/// The time that a dial has.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limit {
    /// When it ends.
    pub(super) end: Instant,
    /// How long it was in all.
    pub(super) whole: Duration,
}

impl Limit {
    /// Returns the limit of a dial that begins now.
    pub(super) fn from_now(whole: Duration) -> Self {
        Self { end: Instant::now() + whole, whole }
    }

    /// Returns the limit of the same dial, if it is to be so long.
    pub(super) fn of_length(self, whole: Duration) -> Self {
        Self { end: self.end - self.whole + whole, whole }
    }

    /// Returns when a phase that begins now must end, and the limit that this comes from.
    pub(super) fn of_a_phase(self) -> (Instant, Duration) {
        let end = Instant::now() + PER_PHASE;
        if self.end < end { (self.end, self.whole) } else { (end, PER_PHASE) }
    }
}
