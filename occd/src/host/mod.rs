//! One configured host: the handle through which everything else asks for its connection.
//!
//! A host is an actor (`actor.rs`) around a pure state machine (`machine.rs`). The handle sends it
//! requests and reads its published [`HostSnapshot`]; nothing here dials or changes state.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use jiff::Timestamp;
use occ_proto::status::{IdleReason, RemoteSystem, State};
use occ_proto::{HostConfig, HostName};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::ssh::agent::AgentChoice;
use crate::ssh::{ConnectError, Connection};
use crate::used::{LastUse, UseClock};
use crate::wake::SleepClock;

mod actor;
pub mod backoff;
mod beside;
mod dialled;
mod following;
pub mod machine;
mod samples;
mod status;
mod tries;
mod waiting;

pub use actor::{HostContext, spawn};
pub use status::etag;
pub(crate) use tries::COMMAND_PATIENCE;
pub use tries::Tries;

use crate::config::EffectiveSettings;
use crate::metrics::HostMetrics;
use crate::prompts::{Client, Questions, TimedOut};
use beside::Beside;
use samples::Samples;

/// Requests that wait for the actor. Each is answered within microseconds, so this many are enough for
/// a thousand clients at once, and a fuller queue only makes them wait.
const REQUESTS: usize = 64;

/// What others may ask of a host.
#[derive(Debug)]
enum HostRequest {
    /// The connection is wanted.
    Want {
        by: Wish,
        /// What the ssh-agent holds now, as a hash, where it was looked at.
        agent_holds: Option<u64>,
        done: oneshot::Sender<()>,
    },
    /// Close the connection and make a new one.
    Reconnect { done: oneshot::Sender<()> },
    /// Make a new connection, and leave the old one to what runs on it.
    Renew { done: oneshot::Sender<()> },
    /// Close the connection and stay away.
    Disconnect { done: oneshot::Sender<()> },
    /// A connection beside the shared one is the host's, if it is as the host is now; else it is closed.
    Adopt {
        connection: Arc<Connection>,
        /// What it was made by.
        made_by: Arc<HostSnapshot>,
        done: oneshot::Sender<bool>,
    },
    /// The machine woke up, or its network changed.
    Woken,
    /// A defect.
    #[cfg(test)]
    Panic,
    /// The configuration changed.
    Configure {
        config: Box<HostConfig>,
        settings: Box<EffectiveSettings>,
        done: oneshot::Sender<()>,
    },
    /// The same, and there is a connection that was made with it.
    Take {
        config: Box<HostConfig>,
        settings: Box<EffectiveSettings>,
        connection: Arc<Connection>,
        done: oneshot::Sender<()>,
    },
}

/// Why the connection is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wish {
    Glance,
    Command,
    Person,
}

/// A host as its actor last published it.
#[derive(Debug)]
pub struct HostSnapshot {
    /// The state.
    pub state: State,
    /// Since when.
    pub since: Timestamp,
    /// Dials since the last good connection.
    pub attempt: u32,
    /// When the next dial is due.
    pub next_retry_at: Option<Timestamp>,
    /// Why the host is idle, where there is a reason.
    pub idle_reason: Option<IdleReason>,
    /// At what age the server closed the last connections, where the host is idle because of that.
    pub idle_policy: Option<Duration>,
    /// The last failure, and when it was.
    pub last_error: Option<(Arc<ConnectError>, Timestamp)>,
    /// The agent that may hold, some day, the key that the login failed for want of.
    pub awaited_agent: Option<AgentChoice>,
    /// The connection that new work goes to.
    pub primary: Option<Arc<Connection>>,
    /// What the host behind it has said of itself.
    pub system: Option<Arc<RemoteSystem>>,
    /// Connections that only finish what runs on them.
    pub retired: Vec<Arc<Connection>>,
    /// Connections made so far.
    pub connects: u64,
    /// Dials that failed so far.
    pub dial_failures: u64,
    /// Bytes that were received and sent over connections that have ended.
    pub past_bytes: (u64, u64),
    /// The configuration.
    pub config: HostConfig,
    /// Its entity tag.
    pub etag: String,
    /// The settings.
    pub settings: EffectiveSettings,
    /// Grows with every change of what clients are shown.
    pub revision: u64,
}

impl HostSnapshot {
    /// Returns whether clients are shown the same (`status.rs`), but for what moves all the time: bytes, channels, round
    /// trips, and whether the server is answering this moment.
    fn shows_the_same(&self, other: &Self) -> bool {
        // All of them by name, so that whoever adds one decides whether clients are shown it.
        let Self {
            state,
            since,
            attempt,
            next_retry_at,
            idle_reason,
            idle_policy,
            last_error,
            awaited_agent: _,
            primary,
            system,
            retired,
            connects,
            dial_failures: _,
            past_bytes: _,
            config,
            etag: _,
            settings: _,
            revision: _,
        } = self;
        let failed = |error: &Option<(_, Timestamp)>| error.as_ref().map(|(_, at)| *at);
        let id = |connection: &Arc<Connection>| connection.id();
        *state == other.state
            && *since == other.since
            && *attempt == other.attempt
            && *next_retry_at == other.next_retry_at
            && *idle_reason == other.idle_reason
            && *idle_policy == other.idle_policy
            && failed(last_error) == failed(&other.last_error)
            && primary.as_ref().map(id) == other.primary.as_ref().map(id)
            && *system == other.system
            && retired.len() == other.retired.len()
            && *connects == other.connects
            && *config == other.config
    }

    /// Returns the connection if it is up and stays so.
    pub fn usable(&self) -> Option<&Arc<Connection>> {
        self.primary
            .as_ref()
            .filter(|connection| !connection.is_closed() && !connection.is_ending())
    }

    /// Returns the dials that have ended, well or not.
    pub fn dials(&self) -> u64 {
        self.connects + self.dial_failures
    }

    /// Returns the bytes that were received and sent over all connections.
    pub fn bytes(&self) -> (u64, u64) {
        let live = self.connections().map(|connection| connection.bytes());
        live.fold(self.past_bytes, |sum, bytes| (sum.0 + bytes.0, sum.1 + bytes.1))
    }

    /// Returns the channels in use on all connections.
    pub fn open_channels(&self) -> u32 {
        self.connections().map(|connection| connection.active()).sum()
    }

    /// Returns all connections.
    pub fn connections(&self) -> impl Iterator<Item = &Arc<Connection>> {
        self.primary.iter().chain(&self.retired)
    }
}

/// Why a command got no connection.
#[derive(Debug, Clone)]
pub struct Unreachable {
    /// The failure.
    pub error: Arc<ConnectError>,
    /// Dials made while waiting.
    pub attempts: u32,
    /// How long was waited.
    pub waited: Duration,
    /// When the daemon dials next by itself.
    pub next_retry_at: Option<Timestamp>,
}

/// A host's handle. Cheap to clone.
#[derive(Debug, Clone)]
pub struct HostHandle {
    name: HostName,
    context: Arc<HostContext>,
    beside: Arc<Beside>,
    /// Shared with the actor, whose dials ask them.
    questions: Arc<Questions>,
    used: Arc<UseClock>,
    clock: Arc<SleepClock>,
    /// How many wait for the connection.
    waiting: Arc<AtomicUsize>,
    round_trips: Arc<Samples>,
    /// Shared with the actor.
    metrics: Arc<HostMetrics>,
    requests: mpsc::Sender<HostRequest>,
    /// Cancelled when it is removed, and when the daemon stops.
    stop: CancellationToken,
    snapshot: watch::Receiver<Arc<HostSnapshot>>,
}

impl HostHandle {
    /// Returns why it is not connected and will not be by itself.
    fn ended(&self) -> Arc<ConnectError> {
        Arc::new(match (self.context.stop.is_cancelled(), self.stop.is_cancelled()) {
            (true, _) => ConnectError::ShuttingDown,
            (false, true) => ConnectError::Removed,
            (false, false) => ConnectError::Stopped,
        })
    }

    /// Returns the host's name.
    pub fn name(&self) -> &HostName {
        &self.name
    }

    /// Returns the host as it is now.
    pub fn snapshot(&self) -> Arc<HostSnapshot> {
        Arc::clone(&self.snapshot.borrow())
    }

    /// Starts a dial if the host is idle, or if it lacked a key that the agent has now; waits for nothing.
    pub fn glance(&self) {
        let (done, _) = oneshot::channel();
        // A full queue means that others are asking already.
        let _ =
            self.requests.try_send(HostRequest::Want { by: Wish::Glance, agent_holds: None, done });
    }

    /// Dials anew if the host is failed: a test has just gone well. Waits for nothing.
    pub fn mended(&self) {
        if self.snapshot.borrow().state == State::Failed {
            let (done, _) = oneshot::channel();
            let wish = HostRequest::Want { by: Wish::Person, agent_holds: None, done };
            // A full queue means that somebody wants the host, which hurries it as well.
            let _ = self.requests.try_send(wish);
        }
    }

    /// Notes a use. One that is disconnected on request is asked in vain.
    pub fn note_use(&self) {
        if self.snapshot.borrow().state != State::Stopped {
            self.used.note();
        }
    }

    /// Returns what is known of its last use.
    pub fn last_use(&self) -> Option<LastUse> {
        self.used.last_use()
    }

    /// Returns when it was last used.
    pub fn last_used(&self) -> Option<Timestamp> {
        self.used.last()
    }

    /// Checks that the connections are alive, and hurries the next dial of a host that has none. Waits for
    /// nothing.
    pub fn check(&self) {
        let snapshot = self.snapshot();
        snapshot.primary.iter().chain(&snapshot.retired).for_each(Connection::check);
        // A full queue means that somebody wants the host, which hurries it as well.
        let _ = self.requests.try_send(HostRequest::Woken);
    }

    /// Returns the connection if it is up, and was looked at since the machine last slept.
    async fn up_now(&self) -> Option<Arc<Connection>> {
        self.clock.settled().await;
        let connection = Arc::clone(self.snapshot.borrow().usable()?);
        connection.checked().await;
        (!connection.is_closed()).then_some(connection)
    }

    /// Returns whether the last login needed a client.
    pub fn needs_client(&self) -> bool {
        self.used.is_by_client()
    }

    /// Measures the round trip, if the host is connected and nothing that fills the line runs there. Waits
    /// for nothing.
    pub fn measure(&self) {
        let snapshot = self.snapshot();
        let Some(connection) = snapshot.usable().filter(|c| !c.bulk().is_cancelled()) else {
            return;
        };
        let (connection, samples) = (Arc::clone(connection), Arc::clone(&self.round_trips));
        let owner = Arc::clone(&connection);
        owner.spawn(async move {
            if let Some(rtt) = connection.measure().await {
                samples.push(rtt);
            }
        });
    }

    /// Returns the round trips that were measured and not taken yet, in milliseconds.
    pub fn take_round_trips(&self) -> Vec<f64> {
        self.round_trips.take()
    }

    /// Returns what is counted and timed of the host.
    pub fn metrics(&self) -> &Arc<HostMetrics> {
        &self.metrics
    }

    /// Returns the question that the host's dial waits for.
    pub fn question(&self) -> Option<Arc<str>> {
        self.questions.open()
    }

    /// Returns how long people have been waited for in all.
    pub fn time_for_answers(&self) -> Duration {
        self.questions.spent()
    }

    /// Returns the connection, dialling if need be, within the time that the tries have and that a person
    /// takes for an answer. Without somebody to ask, a question is a failure.
    pub async fn connection(
        &self,
        tries: Tries,
        client: &Client,
    ) -> Result<Arc<Connection>, Unreachable> {
        self.connection_by(Instant::now() + tries.patience(), tries, client).await
    }

    /// The same until a deadline, for a caller who asks more than once.
    pub async fn connection_by(
        &self,
        deadline: Instant,
        tries: Tries,
        client: &Client,
    ) -> Result<Arc<Connection>, Unreachable> {
        self.note_use();
        if let Some(connection) = self.up_now().await {
            return Ok(connection);
        }
        self.questions.add(client);
        self.wait_for_connection(Wish::Command, tries, deadline, client.can_answer()).await
    }

    /// Waits for a connection until then at most, whatever is under way. The clock stands still while a person is
    /// asked.
    pub async fn at_most_until(
        &self,
        end: Option<Instant>,
        begun: Instant,
        connecting: impl Future<Output = Result<Arc<Connection>, Unreachable>>,
    ) -> Result<Arc<Connection>, Unreachable> {
        let Some(end) = end else { return connecting.await };
        let (before, spent) = (self.snapshot().dials(), self.questions.spent());
        match self.questions.timeout_at(end, spent, connecting).await {
            Ok(done) => done,
            Err(TimedOut) => {
                let (snapshot, waited) = (self.snapshot(), begun.elapsed());
                let attempts = snapshot.dials() - before;
                let error = match &snapshot.last_error {
                    Some((error, _)) if attempts > 0 => Arc::clone(error),
                    _ => Arc::new(ConnectError::Timeout {
                        phase: occ_proto::status::Phase::Unknown,
                        after: waited,
                    }),
                };
                let next_retry_at = snapshot.next_retry_at;
                let attempts = u32::try_from(attempts).unwrap_or(u32::MAX);
                Err(Unreachable { error, attempts, waited, next_retry_at })
            }
        }
    }

    /// The same for a host behind this one, which is a jump host: whoever can answer for that can answer for
    /// this, and the clock of that dial stands still with ours.
    pub async fn connection_behind(
        &self,
        behind: &Questions,
        deadline: Instant,
    ) -> Result<Arc<Connection>, Unreachable> {
        self.note_use();
        if let Some(connection) = self.up_now().await {
            return Ok(connection);
        }
        let can_answer = behind.can_ask();
        let waiting =
            self.wait_for_connection(Wish::Command, Tries::Retries(0), deadline, can_answer);
        behind.during(&self.questions, waiting).await
    }

    /// Returns whether somebody waits for the connection.
    pub fn is_waited_for(&self) -> bool {
        self.waiting.load(Ordering::SeqCst) > 0
    }

    /// Waits until the host is connected, or is no more.
    pub fn up(&self) -> impl Future<Output = ()> + use<> {
        let mut snapshots = self.snapshot.clone();
        async move {
            // A host that was removed: whoever waits for it asks again, and is told so.
            let _ = snapshots.wait_for(|snapshot| snapshot.usable().is_some()).await;
        }
    }

    /// Connects because a person asked for it, also when the host is failed or stopped.
    pub async fn connect(
        &self,
        tries: Tries,
        client: &Client,
    ) -> Result<Arc<Connection>, Unreachable> {
        self.used.note();
        self.questions.add(client);
        let deadline = Instant::now() + tries.patience();
        self.wait_for_connection(Wish::Person, tries, deadline, client.can_answer()).await
    }

    /// Closes the connection and makes a new one.
    pub async fn reconnect(
        &self,
        tries: Tries,
        client: &Client,
    ) -> Result<Arc<Connection>, Unreachable> {
        self.used.note();
        self.questions.add(client);
        self.ask(|done| HostRequest::Reconnect { done }).await?;
        let deadline = Instant::now() + tries.patience();
        self.wait_for_connection(Wish::Command, tries, deadline, client.can_answer()).await
    }

    /// Closes the connection; nothing but a request to connect opens it again, and no start of a daemon.
    pub async fn disconnect(&self) -> Result<(), Unreachable> {
        self.ask(|done| HostRequest::Disconnect { done }).await?;
        self.used.note_disconnect();
        Ok(())
    }

    /// Puts a new configuration in force.
    pub async fn configure(&self, config: HostConfig, settings: EffectiveSettings) {
        let (config, settings) = (Box::new(config), Box::new(settings));
        // Whoever asks for something next is not to get what these do not allow any more.
        let configured = self.ask(|done| HostRequest::Configure { config, settings, done });
        if configured.await.is_err() {
            tracing::debug!(host = %self.name, "the host ended before it was configured");
        }
    }

    /// Puts a configuration in force together with the connection that was made to try it. A host that is stopped
    /// stays so, and the connection is closed.
    pub async fn take(
        &self,
        config: HostConfig,
        settings: EffectiveSettings,
        connection: Arc<Connection>,
    ) -> Result<(), Unreachable> {
        self.note_use();
        let (config, settings) = (Box::new(config), Box::new(settings));
        self.ask(|done| HostRequest::Take { config, settings, connection, done }).await
    }

    async fn ask(
        &self,
        request: impl FnOnce(oneshot::Sender<()>) -> HostRequest,
    ) -> Result<(), Unreachable> {
        let (done, answered) = oneshot::channel();
        self.requests.send(request(done)).await.map_err(|_| self.gone())?;
        answered.await.map_err(|_| self.gone())
    }

    fn gone(&self) -> Unreachable {
        Unreachable {
            error: self.ended(),
            attempts: 0,
            waited: Duration::ZERO,
            next_retry_at: None,
        }
    }

    /// Checks that it was not removed, as far as the pool knows at this moment.
    ///
    /// # Errors
    /// When it was, or the daemon stops.
    pub fn check_there(&self) -> Result<(), Unreachable> {
        if self.stop.is_cancelled() { Err(self.gone()) } else { Ok(()) }
    }
}
