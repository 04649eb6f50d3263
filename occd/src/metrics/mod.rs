//! What is counted and timed, for whoever asks how the daemon does.
//!
//! Whoever does the work adds to atomics that it holds itself: nothing is looked up by a name for it, and nothing locked.
//! The numbers of a host live as long as its handle, so that those of one that is removed are gone with it. Whatever has a
//! state anyway is not counted here but read from there when somebody asks, by `api/metrics.rs`, which alone knows the names.

use std::sync::atomic::{AtomicU64, Ordering};

mod histogram;
mod host;
mod process;

pub use histogram::{Histogram, Times};
pub use host::{CommandEnd, DialStep, HostMetrics};
pub use process::Usage;

/// A number that only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds one.
    pub fn add(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    /// Returns the number.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}
