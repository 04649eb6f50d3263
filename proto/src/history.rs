//! What became of a host's link over time: `GET /v1/hosts/{host}/history`.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::error::Code;
use crate::name::HostName;
use crate::status::{IdleReason, Phase};

/// A host's link, as its history has it: dialling and waiting for the next dial are both `down`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(rename_all = "lowercase")]
pub enum Link {
    /// Connected.
    Up,
    /// Wanted, and not connected.
    Down,
    /// Not connected until a person acts.
    Failed,
    /// Not wanted so far, or closed by the server for idleness.
    Idle,
    /// Disconnected on request.
    Stopped,
    /// The daemon did not run.
    Off,
    /// A state of a newer daemon.
    #[serde(other)]
    Unknown,
}

impl Link {
    /// Returns the word used on the wire and on terminals.
    pub fn as_str(self) -> &'static str {
        match self {
            Link::Up => "up",
            Link::Down => "down",
            Link::Failed => "failed",
            Link::Idle => "idle",
            Link::Stopped => "stopped",
            Link::Off => "off",
            Link::Unknown => "unknown",
        }
    }
}

/// A change of a host's link. While a host is down, each new cause is one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
// `Change` is that of an event: a document has one name for one thing.
#[cfg_attr(feature = "schema", schema(as = LinkChange))]
pub struct Change {
    /// When.
    pub at: Timestamp,
    /// What the link became.
    pub link: Link,
    /// Why, as a stable word.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<Code>,
    /// In which phase.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<Phase>,
    /// Why it is idle, where there is a reason.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idle_reason: Option<IdleReason>,
    /// Why, in one sentence for a person.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

/// Round trips of an hour, counted by length: bucket `n` holds those of about 1.15ⁿ microseconds.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(transparent)]
pub struct RoundTrips(pub BTreeMap<u16, u32>);

/// The ratio between the lengths of two neighbouring buckets.
const STEP: f64 = 1.15;

impl RoundTrips {
    /// Counts a round trip, in milliseconds.
    pub fn add(&mut self, ms: f64) {
        let bucket = (ms * 1000.0).max(1.0).log(STEP).round();
        *self.0.entry(bucket.min(f64::from(u16::MAX)) as u16).or_default() += 1;
    }

    /// Counts those of another hour, too.
    pub fn merge(&mut self, other: &Self) {
        for (bucket, count) in &other.0 {
            *self.0.entry(*bucket).or_default() += count;
        }
    }

    /// Returns the length, in milliseconds, that so much of them (0 to 1) do not exceed; within 7 %.
    pub fn percentile(&self, part: f64) -> Option<f64> {
        let all: u64 = self.0.values().map(|count| u64::from(*count)).sum();
        let rank = ((all as f64) * part).ceil().max(1.0);
        let mut seen = 0;
        for (bucket, count) in &self.0 {
            seen += u64::from(*count);
            if seen as f64 >= rank {
                return Some(STEP.powi(i32::from(*bucket)) / 1000.0);
            }
        }
        None
    }
}

/// Percentiles of round trips, in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Percentiles {
    /// The median.
    pub p50: f64,
    /// The 95th percentile.
    pub p95: f64,
    /// The 99th percentile.
    pub p99: f64,
}

/// The history of one host.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct History {
    /// The host.
    pub name: HostName,
    /// From when on.
    pub since: Timestamp,
    /// The changes, the oldest first. The first one may be older than `since`: it held then.
    pub changes: Vec<Change>,
    /// The part of the time, from 0 to 1, that the link was up while it was wanted; absent where it never was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub availability: Option<f64>,
    /// For how long it was up, in seconds.
    pub up_s: u64,
    /// For how long it was wanted and not up, in seconds.
    pub down_s: u64,
    /// Its round trips, measured once a minute.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rtt_ms: Option<Percentiles>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_within_seven_per_cent() {
        let mut trips = RoundTrips::default();
        assert_eq!(trips.percentile(0.5), None);
        for n in 1..=100 {
            trips.add(f64::from(n));
        }
        for (part, exact) in [(0.5, 50.0), (0.95, 95.0), (0.99, 99.0), (0.0, 1.0)] {
            let found = trips.percentile(part).unwrap();
            assert!((found / exact - 1.0).abs() < 0.08, "{part}: {found}");
        }
        let mut twice = trips.clone();
        twice.merge(&trips);
        assert_eq!(twice.percentile(0.5), trips.percentile(0.5));
        trips.add(0.0);
        trips.add(f64::MAX);
        assert!(trips.percentile(1.0).unwrap() > 1e9);
    }
}
