//! The spare session: one that is open before it is asked for, so that a command costs one round trip. A
//! server that ends such sessions (Dropbear) gets none; one that has few gets it back when there is room.

use std::sync::atomic::Ordering;
use std::sync::{Arc, MutexGuard, PoisonError};

use super::Connection;
use super::channels::Kind;
use crate::ssh::channel::{Channel, RawChannel};

impl Connection {
    pub(super) fn take_spare(&self) -> Option<RawChannel> {
        let raw = self.spare_slot().take()?;
        if raw.inbox.closed_reason().is_some() {
            // Dropbear ends all spares when any session ends: keeping them would only cost.
            self.no_spare.store(true, Ordering::Relaxed);
            self.sessions.ended();
            return None;
        }
        Some(raw)
    }

    pub(super) fn spare_slot(&self) -> MutexGuard<'_, Option<RawChannel>> {
        self.spare.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) async fn refill_spare(self: &Arc<Self>) {
        if !self.wants_spare() || self.refilling.swap(true, Ordering::SeqCst) {
            return;
        }
        if !self.sessions.begin(false) {
            self.refilling.store(false, Ordering::SeqCst);
            return;
        }
        let opened = self.open(Kind::Session).await;
        self.refilling.store(false, Ordering::SeqCst);
        match opened {
            // A session that is dropped unused becomes the spare.
            Ok(raw) => drop(Channel::new(raw, Arc::clone(self))),
            Err(error) => tracing::debug!(%error, "no spare channel"),
        }
    }

    fn wants_spare(&self) -> bool {
        let nobody_waits = self.waiting.load(Ordering::SeqCst) == 0;
        self.tolerates_spare() && nobody_waits && self.spare_slot().is_none()
    }

    fn tolerates_spare(&self) -> bool {
        let unwanted = self.no_spare.load(Ordering::Relaxed)
            || self.shared.retired.load(Ordering::SeqCst)
            || self.is_closed();
        !unwanted
    }

    /// Keeps a session on which nothing was started as the spare; returns it when none is wanted.
    /// Closing it would leave an entry in russh's table.
    pub(in crate::ssh) fn keep_spare(&self, raw: RawChannel) -> Option<RawChannel> {
        if !self.tolerates_spare() {
            return Some(raw);
        }
        let surplus = {
            let mut slot = self.spare_slot();
            if slot.is_none() { slot.replace(raw) } else { Some(raw) }
        };
        if surplus.is_none() {
            // Somebody may have begun to wait for a session meanwhile.
            self.shared.freed.notify_one();
        }
        surplus
    }

    /// Ends the spare for good, because it is of no use to somebody who needs its session.
    pub(super) fn give_up_spare(self: &Arc<Self>) {
        self.no_spare.store(true, Ordering::Relaxed);
        let spare = self.spare_slot().take();
        if let Some(raw) = spare {
            drop(Channel::new(raw, Arc::clone(self)));
        }
    }

    /// A command was lost on the spare: the server does not tolerate them.
    pub fn spare_failed(&self) {
        self.no_spare.store(true, Ordering::Relaxed);
    }
}
