//! Waiting for a value instead of sleeping.
//!
//! A deadline here guards a test against hanging. It is not a measurement: make it generous.

use std::fmt::Debug;
use std::time::Duration;

use tokio::time::Instant;

/// How often a value is looked at: short against what tests wait for, long against looking.
const POLL: Duration = Duration::from_millis(3);

/// Returns the first value that `f` gives.
///
/// # Panics
/// When the deadline passes, naming `what`.
pub async fn wait_for<T>(
    what: &str,
    deadline: Duration,
    mut f: impl AsyncFnMut() -> Option<T>,
) -> T {
    let end = Instant::now() + deadline;
    loop {
        if let Some(value) = f().await {
            return value;
        }
        assert!(Instant::now() < end, "waited {deadline:?} for {what}, which did not come");
        tokio::time::sleep(POLL).await;
    }
}

/// Returns the first value of `f` that `accept` takes.
///
/// # Panics
/// When the deadline passes, naming `what` and the last value seen.
pub async fn wait_until<T: Debug>(
    what: &str,
    deadline: Duration,
    mut f: impl AsyncFnMut() -> T,
    mut accept: impl FnMut(&T) -> bool,
) -> T {
    let end = Instant::now() + deadline;
    loop {
        let value = f().await;
        if accept(&value) {
            return value;
        }
        assert!(Instant::now() < end, "waited {deadline:?} for {what}; last seen: {value:?}");
        tokio::time::sleep(POLL).await;
    }
}

/// The same for code without an async runtime. They block the calling thread.
pub mod blocking {
    use super::{Debug, Duration, Instant, POLL};

    /// Returns the first value that `f` gives.
    ///
    /// # Panics
    /// When the deadline passes, naming `what`.
    pub fn wait_for<T>(what: &str, deadline: Duration, f: impl FnMut() -> Option<T>) -> T {
        try_wait_for(deadline, f)
            .unwrap_or_else(|| panic!("waited {deadline:?} for {what}, which did not come"))
    }

    /// Returns the first value that `f` gives, or `None` when the deadline passes.
    pub fn try_wait_for<T>(deadline: Duration, mut f: impl FnMut() -> Option<T>) -> Option<T> {
        let end = Instant::now() + deadline;
        loop {
            if let Some(value) = f() {
                return Some(value);
            }
            if Instant::now() >= end {
                return None;
            }
            std::thread::sleep(POLL);
        }
    }

    /// Returns the first value of `f` that `accept` takes.
    ///
    /// # Panics
    /// When the deadline passes, naming `what` and the last value seen.
    pub fn wait_until<T: Debug>(
        what: &str,
        deadline: Duration,
        mut f: impl FnMut() -> T,
        mut accept: impl FnMut(&T) -> bool,
    ) -> T {
        let end = Instant::now() + deadline;
        loop {
            let value = f();
            if accept(&value) {
                return value;
            }
            assert!(Instant::now() < end, "waited {deadline:?} for {what}; last seen: {value:?}");
            std::thread::sleep(POLL);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_first_value_is_returned() {
        let mut n = 0;
        let value = wait_for("three looks", Duration::from_secs(5), async || {
            n += 1;
            (n == 3).then_some(n)
        });
        assert_eq!(value.await, 3);
    }

    #[test]
    #[should_panic(expected = "for a seven; last seen: 4")]
    fn a_timeout_names_what_was_awaited_and_seen() {
        blocking::wait_until("a seven", Duration::from_millis(10), || 4, |n| *n == 7);
    }
}
