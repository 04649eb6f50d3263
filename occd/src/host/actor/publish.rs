//! Telling others how the host is: its snapshot, and its history.

use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use occ_proto::history::{Change, Link};
use occ_proto::status::{IdleReason, State};
use tokio::time::Instant;

use super::Actor;
use crate::events::Topic;
use crate::host::{HostSnapshot, etag};
use crate::ssh::error::chain;

/// How much two readings of two clocks, one after the other, differ at most: a moment that has moved by less has not.
const READING: SignedDuration = SignedDuration::from_millis(100);

impl Actor {
    /// Publishes the host as it is. Whoever waits for its connection looks anew each time, since much of a connection
    /// is in the connection itself; clients are told of what they are shown, when that is another.
    pub(super) fn publish(&mut self) {
        let before = Arc::clone(&self.published.borrow());
        let (now, wall) = (Instant::now(), Timestamp::now());
        let primary = self.primary();
        let primary_id = primary.as_ref().map(|connection| connection.id());
        // The deadline of a connected host is that of a replacement, which is nobody's concern.
        let due = self.machine.deadline().filter(|_| self.machine.state() == State::Backoff);
        let next_retry_at = match (due, self.hop_error()) {
            (None, _) => None,
            // Its own time is only there in case that nobody tells it of the jump host.
            (Some(_), Some((_, of_hop))) => of_hop,
            (Some(deadline), None) => {
                let wait = deadline.saturating_duration_since(now);
                Some(SignedDuration::try_from(wait).map_or(wall, |wait| wall + wait))
            }
        };
        let same = |at: &Timestamp| {
            let moved = |next: Timestamp| next.duration_since(*at).abs();
            next_retry_at.is_some_and(|next| moved(next) < READING)
        };
        let next_retry_at = before.next_retry_at.filter(same).or(next_retry_at);
        let mut snapshot = HostSnapshot {
            state: self.machine.state(),
            since: self.since,
            attempt: self.machine.attempt(),
            next_retry_at,
            idle_reason: self.idle_reason(),
            idle_policy: self.machine.idle_policy(),
            last_error: self.last_error.clone(),
            awaited_agent: self.awaited_agent().cloned(),
            system: primary.as_ref().and_then(|connection| connection.known_system()),
            primary,
            retired: self
                .connections
                .iter()
                .filter(|connection| Some(connection.id()) != primary_id)
                .cloned()
                .collect(),
            connects: self.connects,
            dial_failures: self.dial_failures,
            past_bytes: self.past_bytes,
            config: self.config.clone(),
            settings: self.settings.clone(),
            etag: etag(&self.config),
            revision: before.revision,
        };
        // Whoever ends the host tells of that.
        let is_news = !snapshot.shows_the_same(&before) && !self.stop.is_cancelled();
        if is_news {
            snapshot.revision = self.context.changes.next_revision();
        }
        self.published.send_replace(Arc::new(snapshot));
        if is_news {
            self.context.changes.touch(Topic::Host(self.name.clone()));
        }
        self.record(wall);
    }

    fn idle_reason(&self) -> Option<IdleReason> {
        let policy = self.machine.idle_policy().map(|_| IdleReason::ServerIdlePolicy);
        policy.or_else(|| self.machine.is_unused().then_some(IdleReason::IdleTimeout))
    }

    /// Records a change of the link, and while it is down each new cause.
    fn record(&mut self, at: Timestamp) {
        let link = match self.machine.state() {
            State::Connected => Link::Up,
            State::Backoff => Link::Down,
            State::Failed => Link::Failed,
            State::Idle => Link::Idle,
            State::Stopped => Link::Stopped,
            // What comes of it is told soon.
            State::Connecting | State::Unknown => return,
        };
        let error = self.last_error.as_ref().map(|(error, _)| error);
        let error = error.filter(|_| matches!(link, Link::Down | Link::Failed));
        let idle = self.machine.idle_policy();
        let policy =
            |age: Duration| format!("the server closes idle connections after {} s", age.as_secs());
        let unused = || {
            let words = "nobody used it for as long as idle_timeout says";
            self.machine.is_unused().then(|| words.to_owned())
        };
        let why = error.map(|error| chain(error.as_ref())).or(idle.map(policy)).or_else(unused);
        let recorded = (link, why);
        if recorded == self.recorded || self.stop.is_cancelled() {
            return;
        }
        let change = Change {
            at,
            link,
            code: error.map(|error| error.code()),
            phase: error.map(|error| error.phase()),
            idle_reason: self.idle_reason(),
            message: recorded.1.clone(),
        };
        self.context.recorder.record(&self.name, change);
        self.recorded = recorded;
    }
}
