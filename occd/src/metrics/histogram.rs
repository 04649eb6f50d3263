//! How often something took how long.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Times by classes, each up to a bound. It takes no memory to speak of until something is timed.
#[derive(Debug)]
pub struct Histogram {
    /// Seconds, each class's bound being in it.
    bounds: &'static [f64],
    state: OnceLock<Box<State>>,
}

#[derive(Debug)]
struct State {
    /// One for each bound, and one for what is above all.
    counts: Box<[AtomicU64]>,
    /// The sum; it is full after 500 years.
    nanos: AtomicU64,
}

/// What a histogram has.
#[derive(Debug, Clone, PartialEq)]
pub struct Times {
    /// The classes' bounds in seconds, the last being infinite, and how many are in each class alone.
    pub classes: Vec<(f64, u64)>,
    /// The sum in seconds.
    pub sum: f64,
    /// How many in all: what is in the classes, also while others are added.
    pub count: u64,
}

impl Histogram {
    /// Returns an empty one with these bounds, in seconds.
    pub const fn new(bounds: &'static [f64]) -> Self {
        Self { bounds, state: OnceLock::new() }
    }

    /// Adds a time.
    pub fn add(&self, time: Duration) {
        let state = self.state.get_or_init(|| {
            let counts = (0..=self.bounds.len()).map(|_| AtomicU64::new(0)).collect();
            Box::new(State { counts, nanos: AtomicU64::new(0) })
        });
        let seconds = time.as_secs_f64();
        let class = self.bounds.partition_point(|bound| *bound < seconds);
        state.counts[class].fetch_add(1, Ordering::Relaxed);
        let nanos = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        state.nanos.fetch_add(nanos, Ordering::Relaxed);
    }

    /// Returns what it has; nothing where nothing was ever timed.
    pub fn times(&self) -> Option<Times> {
        let state = self.state.get()?;
        let bounds = self.bounds.iter().copied().chain([f64::INFINITY]);
        let counts = state.counts.iter().map(|count| count.load(Ordering::Relaxed));
        let classes: Vec<(f64, u64)> = bounds.zip(counts).collect();
        let count = classes.iter().map(|(_, count)| count).sum();
        let sum = Duration::from_nanos(state.nanos.load(Ordering::Relaxed)).as_secs_f64();
        Some(Times { classes, sum, count })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_in_the_first_class_whose_bound_it_does_not_pass() {
        let histogram = Histogram::new(&[0.1, 1.0]);
        assert_eq!(histogram.times(), None);
        for ms in [1, 100, 101, 1000, 1001, 60_000] {
            histogram.add(Duration::from_millis(ms));
        }
        let times = histogram.times().unwrap();
        assert_eq!(times.classes, [(0.1, 2), (1.0, 2), (f64::INFINITY, 2)]);
        assert_eq!(times.count, 6);
        assert!((times.sum - 62.203).abs() < 1e-9, "{}", times.sum);
    }
}
