//! The time that a dial has. It stands still while a person is asked.

use std::time::Duration;

use occ_proto::status::Phase;
use tokio::time::Instant;

use super::error::ConnectError;
use crate::prompts::{Questions, TimedOut};

/// How long TCP, the identification line and the key exchange may each take.
const PER_PHASE: Duration = Duration::from_secs(10);

/// The time that a dial has.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limit {
    /// When it ends.
    end: Instant,
    /// How long it was in all.
    whole: Duration,
    /// How long people had been waited for by the time `end` was set.
    spent: Duration,
}

impl Limit {
    /// Returns the limit of a dial that begins now.
    pub(super) fn from_now(whole: Duration, questions: &Questions) -> Self {
        Self { end: Instant::now() + whole, whole, spent: questions.spent() }
    }

    /// Returns the limit of the same dial, if it is to be so long.
    pub(super) fn of_length(self, whole: Duration) -> Self {
        Self { end: self.end - self.whole + whole, whole, ..self }
    }

    /// Gives the dial so much more time.
    pub(super) fn extend(&mut self, time: Duration) {
        self.end += time;
    }

    /// Returns when the dial must end, as it looks now.
    pub(super) fn end(self, questions: &Questions) -> Instant {
        self.end + questions.spent().saturating_sub(self.spent)
    }

    /// Returns the limit of a phase that begins now.
    pub(super) fn of_a_phase(self, questions: &Questions) -> Self {
        let (end, spent) = (self.end(questions), questions.spent());
        let phase = Instant::now() + PER_PHASE;
        if end < phase {
            Self { end, whole: self.whole, spent }
        } else {
            Self { end: phase, whole: PER_PHASE, spent }
        }
    }

    /// Bounds a phase.
    pub(super) async fn bound<T>(
        self,
        phase: Phase,
        questions: &Questions,
        work: impl Future<Output = Result<T, ConnectError>>,
    ) -> Result<T, ConnectError> {
        match questions.timeout_at(self.end, self.spent, work).await {
            Ok(result) => result,
            Err(TimedOut) => Err(ConnectError::Timeout { phase, after: self.whole }),
        }
    }
}
