//! Dials: what they are made with, and what becomes of them.

use std::sync::Arc;

use jiff::Timestamp;
use occ_proto::Code;
use occ_proto::status::Phase;

use super::inputs::Inputs;
use super::{Actor, CurrentDial, DialResult};
use crate::host::dialled;
use crate::host::machine::{ConnectionId, Event, Retry};
use crate::ssh::dial::{Dial, DialSettings};
use crate::ssh::hop::HopDemand;
use crate::ssh::{ConnectError, Connection, Line};

impl Actor {
    pub(super) fn dialled(&mut self, id: ConnectionId, result: DialResult) {
        self.dial.take_if(|dial| dial.id == id);
        let is_refused = |error: &ConnectError| error.code() == Code::LoginRefused;
        self.questions.settle(result.as_ref().err().is_some_and(is_refused));
        match result {
            Ok(connection) => {
                self.connected(connection);
                self.handle(Event::Dialled(id));
            }
            Err(error) => {
                let retry = error.retry();
                self.dial_failures += 1;
                if retry == Retry::Fatal {
                    let seen = self.seen.take();
                    self.inputs = Some(Inputs::of(&seen.files, &self.context.dial));
                    self.tried_keys = self.given_keys();
                    self.note_agent(seen.agent);
                    self.wait_for_passwords(seen.passwords);
                }
                self.last_error = Some((Arc::new(error), Timestamp::now()));
                self.wait_for_hop();
                self.wait_for_key();
                self.handle(Event::DialFailed(id, retry));
                if self.machine.retries_exhausted() {
                    self.exhausted();
                }
            }
        }
    }

    /// Takes a connection that was made to try the configuration.
    pub(super) fn take(&mut self, connection: Arc<Connection>) {
        self.handle(Event::Given);
        match self.machine.primary() {
            Some(id) => {
                connection.set_id(id);
                self.connected(connection);
            }
            None => {
                self.context.tasks.spawn(async move { connection.close().await });
            }
        }
    }

    fn connected(&mut self, connection: Arc<Connection>) {
        let info = connection.info();
        tracing::info!(
            host = %self.name, id = info.id, peer = info.peer, server = info.server,
            cipher = info.cipher, phase = Phase::Established.as_str(), class = "success", "connected"
        );
        // Another beside it, or one that was made elsewhere, is in the place of none that had ended.
        if self.connects > 0 && self.machine.primary().is_none() {
            self.metrics.reconnects.add();
        }
        self.connects += 1;
        self.inputs = None;
        self.agents_tried.clear();
        self.used.set_by_client(connection.is_by_client());
        self.watch(&connection);
        self.connections.push(connection);
    }

    /// Says in the last error that no more dials follow.
    fn exhausted(&mut self) {
        if let Some((last, at)) = self.last_error.take() {
            let attempts = self.machine.attempt();
            let error = ConnectError::RetriesExhausted { attempts, last };
            self.last_error = Some((Arc::new(error), at));
        }
    }

    pub(super) fn dial(&mut self, id: ConnectionId) {
        let config = self.config.clone();
        let settings = DialSettings {
            line: self.line(),
            forced: self.forced,
            granted: self.granted(),
            ..self.settings.dial
        };
        let context = Arc::clone(&self.context);
        let name = self.name.clone();
        let questions = Arc::clone(&self.questions);
        let metrics = Arc::clone(&self.metrics);
        self.seen = Arc::default();
        let seen = Arc::clone(&self.seen);
        let used = self.used.last();
        // Also a dial that comes a little later than it was asked for is made for whoever asked.
        let demand = std::mem::replace(&mut self.demand, HopDemand::Background);
        let task = self.dials.spawn(async move {
            let dial = Dial {
                id,
                name: Some(&name),
                config: &config,
                settings: &settings,
                demand,
                used,
                lend_agent: false,
                looks_at_hop: false,
                questions: &questions,
                environment: &context.dial,
                seen: &seen,
                tasks: &context.tasks,
            };
            (id, dialled::dial(&dial, &metrics).await)
        });
        self.dial = Some(CurrentDial { id, demand, task });
    }

    /// Returns how many sessions the server grants a connection, as far as they have found out.
    pub(super) fn granted(&mut self) -> Option<u32> {
        let found = self.connections.iter().rev().find_map(|connection| connection.granted());
        self.granted = found.or(self.granted);
        self.granted
    }

    /// Returns what the connections found out about the line; what none of them knows stays.
    pub(super) fn line(&mut self) -> Line {
        let lines = self.connections.iter().map(|connection| connection.line());
        let rtt = lines.clone().rev().find_map(|line| line.rtt);
        let rate = lines.filter_map(|line| line.rate).max();
        self.line = Line { rtt: rtt.or(self.line.rtt), rate: rate.or(self.line.rate) };
        self.line
    }
}
