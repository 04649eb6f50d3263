//! What a host that is down waits for besides its own time: its jump host, and somebody who unlocks a key.

use std::path::PathBuf;

use jiff::Timestamp;
use occ_proto::HostName;

use super::{Actor, Signal};
use crate::ssh::ConnectError;

impl Actor {
    /// Returns the jump host that the last dial waits for, and when that is dialled next.
    pub(super) fn hop_error(&self) -> Option<(&HostName, Option<Timestamp>)> {
        match self.last_error.as_ref().map(|(error, _)| error.as_ref()) {
            Some(ConnectError::Hop { name, next_retry_at, .. }) => Some((name, *next_retry_at)),
            _ => None,
        }
    }

    /// Arranges to be told when the jump host is there.
    pub(super) fn wait_for_hop(&mut self) {
        let Some((name, _)) = self.hop_error() else { return };
        let Some(hops) = self.context.dial.hops.get().filter(|_| !self.waits_for_hop) else {
            return;
        };
        let up = hops.up(name);
        self.waits_for_hop = true;
        self.signals.push(Box::pin(async move {
            up.await;
            Signal::HopUp
        }));
    }

    /// Returns the key that the last dial failed for, because nobody unlocked it.
    pub(super) fn locked_key(&self) -> Option<&PathBuf> {
        match self.last_error.as_ref().map(|(error, _)| error.as_ref()) {
            Some(ConnectError::Unanswered { key, .. }) => key.as_ref(),
            _ => None,
        }
    }

    /// Arranges to be told when somebody has unlocked that key, for whatever host.
    pub(super) fn wait_for_key(&mut self) {
        let Some(path) = self.locked_key().filter(|_| !self.waits_for_key) else { return };
        let opened = self.context.dial.unlocked.opened(path.clone());
        self.waits_for_key = true;
        self.signals.push(Box::pin(async move {
            opened.await;
            Signal::KeyOpened
        }));
    }
}
