//! The connection of a host that lends the user's ssh-agent: made for the first command that may use it, shared by
//! such commands alone, and closed when there has been none for a while.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use occ_proto::status::Phase;
use tokio::time::{Instant, sleep_until};

use super::machine::ConnectionId;
use super::{HostHandle, HostRequest, Unreachable};
use crate::prompts::TimedOut;
use crate::ssh::agent;
use crate::ssh::dial::{Dial, Steps};
use crate::ssh::hop::HopDemand;
use crate::ssh::seen::Seen;
use crate::ssh::{ConnectError, Connection};

/// How long it stays open after its last command.
const LINGER: Duration = Duration::from_secs(60);
/// Where the generations of these connections begin: the state machine counts its own from 1.
const FIRST: u64 = 1 << 32;

/// The connection, and when it was last used. Held while one is made, so that there is one.
#[derive(Debug, Default)]
pub(super) struct Lending {
    current: tokio::sync::Mutex<Option<Arc<Connection>>>,
    used: Mutex<Option<Instant>>,
    made: AtomicU64,
}

impl Lending {
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
    /// may use the agent.
    pub async fn for_commands(
        &self,
        shared: Arc<Connection>,
        deadline: Instant,
    ) -> Result<Arc<Connection>, Unreachable> {
        let agents = &self.context.dial.agents;
        // Without an agent commands run without, as with ssh.
        if !shared.lends().is_some_and(|choice| agent::is_there(choice, agents)) {
            return Ok(shared);
        }
        let (begun, spent) = (Instant::now(), self.questions.spent());
        let making = self.questions.timeout_at(deadline, spent, self.lending_connection());
        let result = making.await.unwrap_or_else(|TimedOut| {
            Err(ConnectError::Timeout { phase: Phase::Connect, after: begun.elapsed() })
        });
        result.map_err(|error| Unreachable {
            error: Arc::new(error),
            attempts: 1,
            waited: begun.elapsed(),
            next_retry_at: None,
        })
    }

    async fn lending_connection(&self) -> Result<Arc<Connection>, ConnectError> {
        let mut current = self.lending.current.lock().await;
        self.lending.note();
        if let Some(connection) = current.as_ref().filter(|connection| connection.takes_work()) {
            return Ok(Arc::clone(connection));
        }
        let snapshot = self.snapshot();
        let id = ConnectionId(FIRST + self.lending.made.fetch_add(1, Ordering::Relaxed));
        let dial = Dial {
            id,
            name: Some(&self.name),
            config: &snapshot.config,
            settings: &snapshot.settings.dial,
            demand: HopDemand::Command,
            used: None,
            lend_agent: true,
            looks_at_hop: false,
            questions: &self.questions,
            environment: &self.context.dial,
            seen: &Seen::default(),
            tasks: &self.context.tasks,
        };
        let connection = dial.run(&mut Steps::default()).await?;
        tracing::info!(host = %self.name, id = id.0, "connected for commands that may use the ssh-agent");
        let request = HostRequest::Adopt { connection: Arc::clone(&connection) };
        self.requests.send(request).await.map_err(|_| ConnectError::ShuttingDown)?;
        connection.spawn(close_unused(Arc::clone(&self.lending), Arc::clone(&connection)));
        *current = Some(Arc::clone(&connection));
        Ok(connection)
    }
}

async fn close_unused(lending: Arc<Lending>, connection: Arc<Connection>) {
    let closed = connection.closed();
    loop {
        tokio::select! {
            () = closed.cancelled() => return,
            () = sleep_until(lending.end()) => {}
        }
        // Held, so that nobody is given it in this moment.
        let _current = lending.current.lock().await;
        if connection.active() > 0 {
            lending.note();
        } else if lending.end() <= Instant::now() {
            connection.retire();
            return;
        }
    }
}
