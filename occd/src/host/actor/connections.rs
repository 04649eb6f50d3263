//! What becomes of the connections that a host has: they end, are about to, or carry a bulk stream.

use std::sync::Arc;

use jiff::Timestamp;
use occ_proto::status::Phase;

use super::{Actor, Signal};
use crate::host::machine::{Event, Loss};
use crate::prompts::NoAnswer;
use crate::ssh::{ConnectError, Connection, LossCause};

impl Actor {
    pub(super) fn watch(&self, connection: &Arc<Connection>) {
        let (closed, bulk) = (connection.closed(), connection.bulk());
        let (for_closed, for_bulk) = (Arc::clone(connection), Arc::downgrade(connection));
        let (ending, for_ending) = (connection.ending(), Arc::clone(connection));
        let (end, over) = (closed.clone(), closed.clone());
        self.signals.push(Box::pin(async move {
            tokio::select! {
                () = ending.cancelled() => {}
                () = over.cancelled() => {}
            }
            Signal::Ending(for_ending)
        }));
        self.signals.push(Box::pin(async move {
            closed.cancelled().await;
            Signal::Closed(for_closed)
        }));
        self.signals.push(Box::pin(async move {
            tokio::select! {
                () = bulk.cancelled() => {}
                () = end.cancelled() => {}
            }
            match for_bulk.upgrade() {
                Some(connection) => Signal::Bulk(connection),
                // Dropped means closed, which the other signal tells.
                None => std::future::pending().await,
            }
        }));
        self.watch_system(connection);
    }

    /// Waits for what the host says of itself next: it is published then.
    pub(super) fn watch_system(&self, connection: &Arc<Connection>) {
        if connection.is_closed() {
            return;
        }
        let (mut said, closed) = (connection.system_changes(), connection.closed());
        let of = Arc::downgrade(connection);
        self.signals.push(Box::pin(async move {
            tokio::select! {
                _ = said.changed() => {}
                () = closed.cancelled() => {}
            }
            match of.upgrade() {
                Some(connection) => Signal::System(connection),
                None => std::future::pending().await,
            }
        }));
    }

    pub(super) fn closed(&mut self, connection: &Arc<Connection>) {
        let id = connection.id();
        let was_primary = self.machine.primary() == Some(id);
        self.line();
        self.granted();
        self.forced |= connection.is_forced();
        self.connections.retain(|other| other.id() != id);
        let (bytes_in, bytes_out) = connection.bytes();
        self.past_bytes = (self.past_bytes.0 + bytes_in, self.past_bytes.1 + bytes_out);
        let cause = connection.cause();
        let class = if cause == LossCause::Ours { "asked" } else { "transient" };
        tracing::info!(
            host = %self.name, id = id.0, phase = Phase::Established.as_str(), class,
            cause = %cause.for_log(),
            "the connection ended"
        );
        connection.doubt_hop();
        if was_primary {
            self.lost(connection, cause.clone());
        }
        // One beside the primary: the host goes on, and what was on that connection does not.
        if !was_primary && cause != LossCause::Ours {
            let error = ConnectError::Lost { phase: Phase::Established, cause: cause.clone() };
            self.last_error = Some((Arc::new(error), Timestamp::now()));
        }
        // A place has become free for the replacement of a bulk primary.
        if let Some(primary) = self.primary().filter(|primary| primary.bulk().is_cancelled()) {
            self.bulk(&primary);
        }
    }

    /// The host has lost its primary.
    fn lost(&mut self, connection: &Connection, cause: LossCause) {
        let idle_close = connection.active() == 0
            && matches!(cause, LossCause::Closed | LossCause::Disconnected(_));
        let loss = match connection.is_by_client() && !self.questions.can_help() {
            true => Loss::NeedsPerson,
            false if idle_close => Loss::Idle,
            false => Loss::Broken,
        };
        let phase = Phase::Established;
        let error = if loss == Loss::NeedsPerson {
            let question = format!("the connection ended ({cause}) and a login needs a person");
            ConnectError::Unanswered { question, phase, key: None, why: NoAnswer::Nobody }
        } else {
            ConnectError::Lost { phase, cause }
        };
        self.last_error = Some((Arc::new(error), Timestamp::now()));
        self.handle(Event::Lost { id: connection.id(), loss });
    }

    /// Closes a connection when that of its jump host is about to be closed: the host has none from now on.
    pub(super) fn ending(&mut self, connection: Arc<Connection>) {
        let Some(hop) = connection.ending_hop().filter(|_| !connection.is_closed()) else { return };
        if self.machine.primary() == Some(connection.id()) {
            self.lost(&connection, LossCause::Hop(hop.clone()));
        }
        self.context.tasks.spawn(async move { connection.close().await });
    }

    pub(super) fn bulk(&mut self, connection: &Arc<Connection>) {
        let can_login = !connection.is_by_client() || self.questions.can_help();
        let room = self.connections.len() < self.settings.max_connections;
        if room && can_login && !connection.is_closed() {
            self.handle(Event::Bulk(connection.id()));
        }
    }
}
