//! How long to wait before the next dial.
//!
//! The growth of the interval comes from the `backoff` crate, of which only the policy is used. That
//! crate is no longer maintained (RUSTSEC-2025-0012); it has no known flaw, and this file is the only
//! one that names it, so that replacing it is an afternoon's work. Two of its habits are turned off
//! here: its default `max_elapsed_time` of 15 minutes, after which it would end the retries for good,
//! and its jitter, which is symmetric around the interval. Ours is "full jitter" (Brooker, "Exponential
//! Backoff And Jitter", 2015): uniform between zero and the interval, so that many hosts that lost the
//! same network do not return in step.

use std::time::Duration;

use backoff::backoff::Backoff as _;
use backoff::exponential::{ExponentialBackoff, ExponentialBackoffBuilder};

/// The first interval.
const INITIAL: Duration = Duration::from_millis(500);
/// Each interval is twice the one before.
const MULTIPLIER: f64 = 2.0;
/// After this long without a connection the host is not coming back soon, and the cap is raised.
const LONG_DOWN: Duration = Duration::from_secs(30 * 60);
/// The first delay after a server's word that we come too often: OpenSSH's penalty for a refused
/// connection is 10 s (`PerSourcePenalties`, sshd_config(5)).
const PENALTY_INITIAL: Duration = Duration::from_secs(15);
/// OpenSSH's longest penalty.
const PENALTY_CAP: Duration = Duration::from_secs(600);

/// The caps that can be set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Caps {
    /// The longest delay while the host has been down for less than 30 minutes.
    pub normal: Duration,
    /// The longest delay after that.
    pub long_down: Duration,
}

impl Default for Caps {
    fn default() -> Self {
        Self { normal: Duration::from_secs(60), long_down: Duration::from_secs(300) }
    }
}

/// The delays of one host.
#[derive(Debug)]
pub struct DialBackoff<C: backoff::Clock = backoff::SystemClock> {
    interval: ExponentialBackoff<C>,
    penalty: Duration,
    caps: Caps,
    random: fastrand::Rng,
}

impl DialBackoff {
    /// Returns a backoff at its start. `random` is injected so that tests are exact.
    pub fn new(caps: Caps, random: fastrand::Rng) -> Self {
        let interval = ExponentialBackoffBuilder::new()
            .with_initial_interval(INITIAL)
            .with_multiplier(MULTIPLIER)
            .with_randomization_factor(0.0)
            .with_max_interval(caps.long_down)
            .with_max_elapsed_time(None)
            .build();
        Self { interval, penalty: PENALTY_INITIAL, caps, random }
    }

    /// Puts other caps in force, from the next delay on.
    pub fn set_caps(&mut self, caps: Caps) {
        self.interval.max_interval = caps.long_down;
        self.caps = caps;
    }

    /// Returns the delay before the next dial of a host that has been down for `down_for`.
    pub fn next(&mut self, down_for: Duration) -> Duration {
        let cap = if down_for >= LONG_DOWN { self.caps.long_down } else { self.caps.normal };
        // `None` cannot happen with `max_elapsed_time` unset; the cap is then the safe answer.
        let interval = self.interval.next_backoff().unwrap_or(cap).min(cap);
        interval.mul_f64(self.random.f64())
    }

    /// Returns the delay after the server said that we come too often: from 15 s, doubled each time up
    /// to 600 s, and up to a quarter more so that several clients of one address spread out.
    pub fn next_penalty(&mut self) -> Duration {
        let delay = self.penalty;
        self.penalty = (self.penalty * 2).min(PENALTY_CAP);
        delay.mul_f64(1.0 + 0.25 * self.random.f64())
    }

    /// Starts again from the first interval.
    pub fn reset(&mut self) {
        self.interval.reset();
        self.penalty = PENALTY_INITIAL;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn backoff(seed: u64) -> DialBackoff {
        DialBackoff::new(Caps::default(), fastrand::Rng::with_seed(seed))
    }

    #[test]
    fn the_interval_doubles_from_half_a_second_to_the_cap() {
        // With a thousand seeds the longest delay of each step comes close to the interval itself.
        let mut longest = [Duration::ZERO; 10];
        for seed in 0..1000 {
            let mut backoff = backoff(seed);
            for slot in &mut longest {
                *slot = (*slot).max(backoff.next(Duration::ZERO));
            }
        }
        for (step, longest) in longest.iter().enumerate() {
            let interval = (0.5 * 2f64.powi(step as i32)).min(60.0);
            let longest = longest.as_secs_f64();
            assert!(longest <= interval && longest > interval * 0.98, "{step}: {longest}");
        }
    }

    #[test]
    fn it_never_ends_and_the_cap_grows_for_a_host_long_down() {
        let mut backoff = backoff(1);
        let mut longest = Duration::ZERO;
        for _ in 0..10_000 {
            longest = longest.max(backoff.next(LONG_DOWN));
        }
        assert!(longest > Duration::from_secs(290) && longest <= Duration::from_secs(300));
    }

    #[test]
    fn penalties_start_at_15_s_double_and_stop_at_600_s() {
        let mut backoff = backoff(1);
        let mut floor = 15.0;
        for _ in 0..10 {
            let delay = backoff.next_penalty().as_secs_f64();
            assert!(delay >= floor && delay <= floor * 1.25, "{delay} for {floor}");
            floor = f64::min(floor * 2.0, 600.0);
        }
        backoff.reset();
        assert!(backoff.next_penalty() < Duration::from_secs(19));
    }

    proptest! {
        #[test]
        fn no_delay_is_past_the_cap(seed: u64, steps in 1usize..200, down in 0u64..4000) {
            let mut backoff = backoff(seed);
            let down = Duration::from_secs(down);
            let cap = if down >= LONG_DOWN { 300 } else { 60 };
            for _ in 0..steps {
                prop_assert!(backoff.next(down) <= Duration::from_secs(cap));
            }
        }
    }
}
