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
    /// How long each phase may take, unless somebody has said how long all may.
    per_phase: Option<Duration>,
}

impl Limit {
    /// Returns the limit of a dial that begins now: as long as it is set to, else as long as usual.
    pub(super) fn from_now(set: Option<Duration>, usual: Duration, questions: &Questions) -> Self {
        let whole = set.unwrap_or(usual);
        let per_phase = set.is_none().then_some(PER_PHASE);
        Self { end: Instant::now() + whole, whole, spent: questions.spent(), per_phase }
    }

    /// Returns the limit of the same dial, if it is to be so long.
    pub(super) fn of_length(self, whole: Duration) -> Self {
        Self { end: self.end - self.whole + whole, whole, per_phase: None, ..self }
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
        match self.per_phase.map(|time| (Instant::now() + time, time)) {
            Some((phase, time)) if phase <= end => Self { end: phase, whole: time, spent, ..self },
            _ => Self { end, spent, ..self },
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::prompts::Prompts;

    #[tokio::test(start_paused = true)]
    async fn a_phase_has_a_limit_of_its_own_unless_somebody_has_set_one_for_all() {
        let questions = Questions::new(Arc::new(Prompts::default()));
        let phase = |limit: Limit| limit.of_a_phase(&questions).end - Instant::now();
        let usual = Duration::from_secs(15);
        assert_eq!(phase(Limit::from_now(None, usual, &questions)), PER_PHASE);
        for seconds in [3, 12, 40] {
            let set = Duration::from_secs(seconds);
            assert_eq!(phase(Limit::from_now(Some(set), usual, &questions)), set);
            assert_eq!(phase(Limit::from_now(None, usual, &questions).of_length(set)), set);
        }
    }
}
