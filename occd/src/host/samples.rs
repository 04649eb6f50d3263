//! The round trips of a host, as they were measured once a minute.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Round trips that are shown as recent: those of an hour.
const RECENT: usize = 60;

/// Round trips in milliseconds.
#[derive(Debug, Default)]
pub(super) struct Samples(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    recent: VecDeque<f64>,
    untaken: Vec<f64>,
}

impl Samples {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds one.
    pub(super) fn push(&self, rtt: Duration) {
        let ms = (rtt.as_secs_f64() * 1e6).round() / 1e3;
        let mut state = self.lock();
        if state.recent.len() == RECENT {
            state.recent.pop_front();
        }
        state.recent.push_back(ms);
        // Taken every minute; a recorder that does not come must not cost memory.
        if state.untaken.len() < RECENT {
            state.untaken.push(ms);
        }
    }

    /// Returns those of the last hour, the oldest first.
    pub(super) fn recent(&self) -> Vec<f64> {
        self.lock().recent.iter().copied().collect()
    }

    /// Takes those that nobody has taken.
    pub(super) fn take(&self) -> Vec<f64> {
        std::mem::take(&mut self.lock().untaken)
    }
}
