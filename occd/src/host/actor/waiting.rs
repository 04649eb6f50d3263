//! What a host waits for besides its own time: its jump host, somebody who unlocks a key, an agent that holds one;
//! and, while it is up, nobody's using it any more.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use occ_proto::HostName;
use occ_proto::status::State;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{Actor, Event, Signal};
use crate::ssh::ConnectError;
use crate::ssh::agent::AgentChoice;
use crate::ssh::error::IdentityError;

/// How long the agent is left alone after it was asked: somebody may look at a status again and again.
const AGENT_REST: Duration = Duration::from_secs(1);
/// The shortest time between two looks at whether a host is in use.
const SHORT_LOOK: Duration = Duration::from_millis(50);
/// States of agents that are remembered as tried in vain.
const AGENTS_TRIED: usize = 32;

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

    /// Arranges to be told when somebody gives the passphrase that a kept password could not be had for.
    pub(super) fn wait_for_passwords(&mut self, opened: Option<watch::Receiver<u64>>) {
        let Some(mut opened) = opened.filter(|_| !self.waits_for_passwords) else { return };
        self.waits_for_passwords = true;
        self.signals.push(Box::pin(async move {
            // The sender lives as long as the daemon.
            let _ = opened.changed().await;
            Signal::PasswordsOpened
        }));
    }

    /// Returns whether the login failed for want of an answer, and of none for a key.
    pub(super) fn lacks_answer(&self) -> bool {
        let error = self.last_error.as_ref().map(|(error, _)| error.as_ref());
        self.machine.state() == State::Failed
            && matches!(error, Some(ConnectError::Unanswered { key: None, .. }))
    }

    /// Disconnects a host that nobody has used for as long as occd.toml says, and arranges the next look.
    pub(super) fn look_at_use(&mut self) {
        let limit = self.settings.idle_timeout.filter(|_| self.machine.state() == State::Connected);
        let Some(limit) = limit else {
            self.look_at_use = None;
            return;
        };
        let now = Instant::now();
        let next = *self.look_at_use.get_or_insert(now + limit);
        if next > now {
            return;
        }
        let busy = self.connections.iter().any(|connection| connection.active() > 0);
        let used = self.used.last().map(|at| Timestamp::now().duration_since(at));
        let unused = used.and_then(|time| Duration::try_from(time).ok()).unwrap_or(limit);
        if !busy && unused >= limit {
            self.look_at_use = None;
            tracing::info!(host = %self.name, "nobody has used the host for as long as idle_timeout says");
            self.handle(Event::Unused);
            return;
        }
        // What has just ended was in use until now, as far as is known.
        let left = if busy { limit } else { limit.saturating_sub(unused).max(SHORT_LOOK) };
        self.look_at_use = Some(now + left);
    }

    /// Returns whether the login failed for want of a key that an agent may hold.
    pub(super) fn lacks_key(&self) -> bool {
        let error = self.last_error.as_ref().map(|(error, _)| error.as_ref());
        self.machine.state() == State::Failed
            && error.is_some_and(|error| {
                matches!(
                    error,
                    ConnectError::NoIdentity { .. }
                        | ConnectError::AuthRefused(_)
                        | ConnectError::Identity(IdentityError::NotInAgent { .. })
                        | ConnectError::Unanswered { key: Some(_), .. }
                )
            })
    }

    /// Returns the agent that may hold, some day, the key that the login failed for want of.
    pub(super) fn awaited_agent(&self) -> Option<&AgentChoice> {
        self.agent.as_ref().filter(|choice| **choice != AgentChoice::None && self.lacks_key())
    }

    /// Arranges to be told when that agent holds other keys, as long as it is waited for.
    pub(super) fn wait_for_agent(&mut self) {
        let Some(choice) = self.awaited_agent().cloned() else {
            self.agent_watch = None;
            return;
        };
        if self.agent_watch.is_some() {
            return;
        }
        let over = CancellationToken::new();
        self.agent_watch = Some(over.clone().drop_guard());
        let environment = Arc::clone(&self.context.dial);
        // Before anybody is told that the login failed, and does something about it.
        let before = choice.look(&environment.agents);
        self.signals.push(Box::pin(async move {
            let coming = environment.agents.comes(&choice, before);
            match over.run_until_cancelled(coming).await {
                Some(held) => Signal::AgentCame(held),
                None => Signal::AgentHolds(None),
            }
        }));
    }

    /// Has the agent asked what it holds now, if that may help.
    pub(super) fn ask_agent(&mut self) {
        let lately = self.agent_asked.is_some_and(|at| at.elapsed() < AGENT_REST);
        let Some(choice) = self.awaited_agent().filter(|_| !lately).cloned() else { return };
        self.agent_asked = Some(Instant::now());
        let environment = Arc::clone(&self.context.dial);
        self.signals.push(Box::pin(async move {
            Signal::AgentHolds(environment.agents.holds(&choice).await)
        }));
    }

    /// Returns whether the agent holds what no login has been tried with in vain. Each such state is good for one
    /// login: agents come and go, and a server counts refusals.
    pub(super) fn agent_may_help(&self, holds: Option<u64>) -> bool {
        holds.is_some_and(|held| self.lacks_key() && !self.agents_tried.contains(&held))
    }

    /// Takes note of what the agent held when a login failed.
    pub(super) fn note_agent(&mut self, seen: Option<(AgentChoice, Option<u64>)>) {
        let Some((choice, held)) = seen else {
            self.agent = None;
            return;
        };
        self.agent = Some(choice);
        if let Some(held) = held.filter(|held| !self.agents_tried.contains(held)) {
            self.agents_tried.push(held);
            let too_many = self.agents_tried.len().saturating_sub(AGENTS_TRIED);
            self.agents_tried.drain(..too_many);
        }
    }
}
