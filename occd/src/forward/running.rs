//! A forward at work: how it is, and what has gone through it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use occ_proto::forward::{Direction, Forward, ForwardState};
use occ_proto::text::sanitize;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::open::Whose;
use super::record::Record;
use super::relay::Broken;
use crate::container::Sandboxes;
use crate::events::{Changes, Topic};
use crate::host::HostHandle;

/// A forward at work.
#[derive(Debug)]
pub(super) struct Running {
    pub(super) host: HostHandle,
    /// As it was when it began: the port may have been taken since, where any was wanted.
    pub(super) record: Record,
    /// It was remembered.
    pub(super) restored: bool,
    /// Tells whether the sandbox runs whose service is behind it.
    pub(super) sandboxes: Arc<Sandboxes>,
    changes: Arc<Changes>,
    /// Is cancelled when it is over, for the connections through it.
    pub(super) end: CancellationToken,
    known: Mutex<Known>,
    changed: Notify,
    pub(super) counts: Counts,
}

#[derive(Debug)]
struct Known {
    state: ForwardState,
    last_error: Option<String>,
}

/// What has gone through.
#[derive(Debug, Default)]
pub(super) struct Counts {
    open: AtomicU64,
    total: AtomicU64,
    /// Bytes from the host.
    received: AtomicU64,
    /// Bytes to the host.
    sent: AtomicU64,
}

/// Counts as an open connection until dropped.
#[derive(Debug)]
pub(super) struct Open(Arc<Running>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.counts.open.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Counts {
    pub(super) fn received(&self, bytes: usize) {
        self.received.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub(super) fn sent(&self, bytes: usize) {
        self.sent.fetch_add(bytes as u64, Ordering::Relaxed);
    }
}

impl Running {
    pub(super) fn new(
        (host, record): (HostHandle, Record),
        restored: bool,
        sandboxes: Arc<Sandboxes>,
        changes: Arc<Changes>,
        end: CancellationToken,
    ) -> Arc<Self> {
        let known = Mutex::new(Known { state: ForwardState::Waiting, last_error: None });
        let counts = Counts::default();
        let changed = Notify::new();
        Arc::new(Self { host, record, restored, sandboxes, changes, end, known, changed, counts })
    }

    /// Returns whose the connections through it are.
    pub(super) fn whose(&self) -> Whose<'_> {
        match self.record.service {
            Some(service) => Whose::Browsers(&self.sandboxes, service),
            None => Whose::Programs,
        }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a connection through it.
    pub(super) fn connection(self: &Arc<Self>) -> Open {
        self.counts.open.fetch_add(1, Ordering::Relaxed);
        self.counts.total.fetch_add(1, Ordering::Relaxed);
        Open(Arc::clone(self))
    }

    fn has_changed(&self) {
        self.changed.notify_waiters();
        self.changes.touch(Topic::Forwards);
    }

    /// It can be used.
    pub(super) fn listens(&self) {
        let mut known = self.known();
        if known.state == ForwardState::Refused {
            known.last_error = None;
        }
        known.state = ForwardState::Listening;
        drop(known);
        self.has_changed();
    }

    /// It can be used, but not as it was meant.
    pub(super) fn listens_but(&self, why: &str) {
        let why = sanitize(why);
        let (id, host) = (&self.record.id, &self.record.host);
        tracing::warn!(forward = id, %host, why, "a forward is not as it was meant");
        {
            let mut known = self.known();
            known.state = ForwardState::Listening;
            known.last_error = Some(why);
        }
        self.has_changed();
    }

    /// Its host is not connected.
    pub(super) fn waits(&self) {
        self.known().state = ForwardState::Waiting;
        self.changes.touch(Topic::Forwards);
    }

    /// It cannot be used.
    pub(super) fn refused(&self, why: &str) {
        let why = sanitize(why);
        let mut known = self.known();
        if known.state != ForwardState::Refused || known.last_error.as_ref() != Some(&why) {
            let (id, host) = (&self.record.id, &self.record.host);
            tracing::warn!(forward = id, %host, why, "a forward cannot be used");
        }
        known.state = ForwardState::Refused;
        known.last_error = Some(why);
        drop(known);
        self.has_changed();
    }

    /// Waits until it is known whether it can be used.
    pub(super) async fn told(&self) -> ForwardState {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            let state = self.known().state;
            if state != ForwardState::Waiting {
                return state;
            }
            changed.await;
        }
    }

    /// Returns why it cannot be used, or what failed last.
    pub(super) fn last_error(&self) -> Option<String> {
        self.known().last_error.clone()
    }

    /// A connection through it did not come about, or broke.
    pub(super) fn failed(&self, why: &str) {
        let why = sanitize(why);
        let (id, host) = (&self.record.id, &self.record.host);
        let before = self.known().last_error.replace(why.clone());
        // Whoever waits for something to listen there tries again and again.
        if before.as_deref() != Some(&why) {
            // Where a client of SOCKS wants to go is its own affair: the list tells.
            tracing::info!(forward = id, %host, "a connection through a forward failed");
        }
    }

    /// A connection through it broke. Whoever hangs up on this machine does as they like, and nothing is wrong with it.
    pub(super) fn broke(&self, broken: &Broken) {
        match broken {
            Broken::Near(error) => tracing::debug!(%error, "a forward's near end hung up"),
            Broken::Host(why) => self.failed(why),
        }
    }

    /// Returns how it is. `record` is how it is remembered.
    pub(super) fn show(&self, record: &Record) -> Forward {
        let (mut state, last_error) = {
            let known = self.known();
            (known.state, known.last_error.clone())
        };
        let is_here = record.direction != Direction::Remote;
        if is_here && state == ForwardState::Listening && self.host.snapshot().usable().is_none() {
            state = ForwardState::Waiting;
        }
        let count = |count: &AtomicU64| count.load(Ordering::Relaxed);
        Forward {
            state,
            last_error,
            connections: count(&self.counts.open),
            connections_total: count(&self.counts.total),
            bytes_in: count(&self.counts.received),
            bytes_out: count(&self.counts.sent),
            ..shown(record)
        }
    }
}

/// Returns a forward that is not at work: its host is not among the hosts.
pub(super) fn shown(record: &Record) -> Forward {
    Forward {
        id: record.id.clone(),
        host: record.host.clone(),
        direction: record.direction,
        listen: record.listen.clone(),
        to: record.to.clone(),
        service: record.service,
        session: record.session.clone(),
        state: ForwardState::Waiting,
        last_error: None,
        connections: 0,
        connections_total: 0,
        bytes_in: 0,
        bytes_out: 0,
    }
}
