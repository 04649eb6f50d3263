//! Connections of a host beside the one that all share: one that lends the user's ssh-agent, and one for terminals, where
//! no stream delays what is typed. Each is made for the first that wants it, shared by those alone, and closed when there
//! has been none for a while.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use occ_proto::status::{Phase, State};
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep_until};

use super::machine::ConnectionId;
use super::{HostHandle, HostRequest, Unreachable, dialled};
use crate::prompts::TimedOut;
use crate::ssh::agent;
use crate::ssh::dial::Dial;
use crate::ssh::hop::HopDemand;
use crate::ssh::seen::Seen;
use crate::ssh::{ConnectError, Connection};

/// How long one stays open after its last command.
const LINGER: Duration = Duration::from_secs(60);
/// Where the generations of these connections begin: the state machine counts its own from 1.
const FIRST: u64 = 1 << 32;

/// Returns whether a connection is beside the one that all share.
pub(super) fn is_beside(connection: &Connection) -> bool {
    connection.id().0 >= FIRST
}

/// A host's connections of this kind.
#[derive(Debug, Default)]
pub(super) struct Beside {
    agent: Arc<Slot>,
    terminals: Arc<Slot>,
    made: AtomicU64,
}

/// A connection, and when it was last used. Held while one is made, so that there is one.
#[derive(Debug, Default)]
struct Slot {
    current: tokio::sync::Mutex<Option<Arc<Connection>>>,
    used: Mutex<Option<Instant>>,
}

impl Slot {
    fn note(&self) {
        *self.used.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }

    /// Returns when the connection has been unused for long enough.
    fn end(&self) -> Instant {
        let used = *self.used.lock().unwrap_or_else(PoisonError::into_inner);
        used.unwrap_or_else(Instant::now) + LINGER
    }
}

impl HostHandle {
    /// Returns the connection for a command, given the one that all share: another, where commands on the host
    /// may use the agent, and for what runs in a terminal.
    pub async fn for_commands(
        &self,
        shared: Arc<Connection>,
        terminal: bool,
        deadline: Instant,
    ) -> Result<Arc<Connection>, Unreachable> {
        let agents = &self.context.dial.agents;
        // Without an agent commands run without, as with ssh.
        let lends = shared.lends().is_some_and(|choice| agent::is_there(choice, agents));
        // Nobody is to answer twice for one terminal.
        let apart = terminal && !shared.is_by_client();
        if !lends && !apart {
            return Ok(shared);
        }
        let (begun, spent) = (Instant::now(), self.questions.spent());
        let slot = if apart { &self.beside.terminals } else { &self.beside.agent };
        let making =
            self.questions.timeout_at(deadline, spent, self.connection_beside(slot, lends));
        let result = making.await.unwrap_or_else(|TimedOut| {
            Err(ConnectError::Timeout { phase: Phase::Connect, after: begun.elapsed() })
        });
        match result {
            // A terminal on the shared one is better than none.
            Err(error) if !lends => {
                tracing::info!(host = %self.name, %error, "no connection for terminals alone");
                Ok(shared)
            }
            result => result.map_err(|error| Unreachable {
                error: Arc::new(error),
                attempts: 1,
                waited: begun.elapsed(),
                next_retry_at: None,
            }),
        }
    }

    async fn connection_beside(
        &self,
        slot: &Arc<Slot>,
        lend_agent: bool,
    ) -> Result<Arc<Connection>, ConnectError> {
        let mut current = slot.current.lock().await;
        slot.note();
        let fits = |connection: &Arc<Connection>| {
            connection.takes_work() && connection.lends_agent() == lend_agent
        };
        if let Some(connection) = current.as_ref().filter(|connection| fits(connection)) {
            return Ok(Arc::clone(connection));
        }
        let connection = loop {
            if let Some(connection) = self.dial_beside(lend_agent).await? {
                break connection;
            }
        };
        connection.spawn(close_unused(Arc::clone(slot), Arc::clone(&connection)));
        *current = Some(Arc::clone(&connection));
        Ok(connection)
    }

    /// Makes a connection; nothing when the host is another one by then.
    async fn dial_beside(&self, lend_agent: bool) -> Result<Option<Arc<Connection>>, ConnectError> {
        let snapshot = self.snapshot();
        if snapshot.state == State::Stopped {
            return Err(ConnectError::Stopped);
        }
        let id = ConnectionId(FIRST + self.beside.made.fetch_add(1, Ordering::Relaxed));
        let dial = Dial {
            id,
            name: Some(&self.name),
            config: &snapshot.config,
            settings: &snapshot.settings.dial,
            demand: HopDemand::Command,
            used: None,
            lend_agent,
            looks_at_hop: false,
            questions: &self.questions,
            environment: &self.context.dial,
            seen: &Seen::default(),
            tasks: &self.context.tasks,
        };
        let connection = dialled::dial(&dial, &self.metrics).await?;
        tracing::info!(
            host = %self.name, id = id.0, lend_agent, phase = Phase::Established.as_str(),
            class = "success", "connected beside the shared connection"
        );
        let (done, adopted) = oneshot::channel();
        let adopt = Arc::clone(&connection);
        let request = HostRequest::Adopt { connection: adopt, made_by: snapshot, done };
        self.requests.send(request).await.map_err(|_| ConnectError::ShuttingDown)?;
        let adopted = adopted.await.map_err(|_| ConnectError::ShuttingDown)?;
        Ok(adopted.then_some(connection))
    }
}

async fn close_unused(slot: Arc<Slot>, connection: Arc<Connection>) {
    let closed = connection.closed();
    loop {
        tokio::select! {
            () = closed.cancelled() => return,
            () = sleep_until(slot.end()) => {}
        }
        // Held, so that nobody is given it in this moment.
        let _current = slot.current.lock().await;
        if connection.active() > 0 {
            slot.note();
        } else if slot.end() <= Instant::now() {
            connection.retire();
            return;
        }
    }
}
