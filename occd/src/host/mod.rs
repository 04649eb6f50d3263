//! One configured host: the handle through which everything else asks for its connection.
//!
//! A host is an actor (`actor.rs`) around a pure state machine (`machine.rs`). The handle sends it
//! requests and reads its published [`HostSnapshot`]; nothing here dials or changes state.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use jiff::Timestamp;
use occ_proto::status::{HostStatus, IdleReason, LastError, State};
use occ_proto::{HostConfig, HostName};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;

use crate::ssh::agent::AgentChoice;
use crate::ssh::{ConnectError, Connection};
use crate::used::UseClock;
use crate::wake::SleepClock;

mod actor;
pub mod backoff;
mod following;
mod lending;
pub mod machine;
mod samples;
mod tries;

pub use actor::{HostContext, spawn};
pub use tries::Tries;

use crate::config::EffectiveSettings;
use crate::prompts::{Client, NoAnswer, Questions, TimedOut};
use crate::ssh::error::chain;
use lending::Lending;
use samples::Samples;
use tries::COMMAND_RETRIES;

/// Requests that wait for the actor. Each is answered within microseconds, so this many are enough for
/// a thousand clients at once, and a fuller queue only makes them wait.
const REQUESTS: usize = 64;

/// How long a dial may be set to take, at most.
const LONGEST_DIAL: Duration = Duration::from_secs(600);
/// How often a command that waits for a host that is down has it dialled, at least.
const WAIT_STEP: Duration = Duration::from_secs(5);

/// Counts as one that waits, until dropped.
struct Waiting<'a>(&'a AtomicUsize);

impl<'a> Waiting<'a> {
    fn new(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::SeqCst);
        Self(count)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

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
    /// A connection that lends the agent is the host's.
    Adopt { connection: Arc<Connection> },
    /// The machine woke up, or its network changed.
    Woken,
    /// A defect.
    #[cfg(test)]
    Panic,
    /// The configuration changed.
    Configure { config: Box<HostConfig>, settings: Box<EffectiveSettings> },
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
    /// The settings.
    pub settings: EffectiveSettings,
    /// Grows with every change.
    pub revision: u64,
}

impl HostSnapshot {
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
        let live = self.primary.iter().chain(&self.retired).map(|connection| connection.bytes());
        live.fold(self.past_bytes, |sum, bytes| (sum.0 + bytes.0, sum.1 + bytes.1))
    }

    /// Returns the channels in use on all connections.
    pub fn open_channels(&self) -> u32 {
        self.primary.iter().chain(&self.retired).map(|connection| connection.active()).sum()
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
    lending: Arc<Lending>,
    /// Shared with the actor, whose dials ask them.
    questions: Arc<Questions>,
    used: Arc<UseClock>,
    clock: Arc<SleepClock>,
    /// How many wait for the connection.
    waiting: Arc<AtomicUsize>,
    round_trips: Arc<Samples>,
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
        self.used.note();
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
        self.used.note();
        if let Some(connection) = self.up_now().await {
            return Ok(connection);
        }
        let can_answer = behind.can_ask();
        let waiting =
            self.wait_for_connection(Wish::Command, Tries::Retries(0), deadline, can_answer);
        behind.during(&self.questions, waiting).await
    }

    /// Returns the connection if it is there or on its way; an idle host is dialled, one that is down is
    /// left to its own time.
    pub async fn connection_if_due(
        &self,
        deadline: Instant,
    ) -> Result<Arc<Connection>, Unreachable> {
        let _waiting = Waiting::new(&self.waiting);
        let begun = Instant::now();
        self.ask(|done| HostRequest::Want { by: Wish::Glance, agent_holds: None, done }).await?;
        let mut snapshots = self.snapshot.clone();
        loop {
            let snapshot = Arc::clone(&snapshots.borrow_and_update());
            if let Some(connection) = snapshot.usable().cloned() {
                connection.checked().await;
                if !connection.is_closed() {
                    return Ok(connection);
                }
                // What becomes of the host now is told in a moment.
            }
            let coming = matches!(snapshot.state, State::Connecting | State::Connected);
            if !coming || !matches!(timeout_at(deadline, snapshots.changed()).await, Ok(Ok(()))) {
                let error = match (&snapshot.last_error, snapshot.state) {
                    (_, State::Stopped) | (None, _) => self.ended(),
                    (Some((error, _)), _) => Arc::clone(error),
                };
                let next_retry_at = snapshot.next_retry_at;
                return Err(Unreachable {
                    error,
                    attempts: 0,
                    waited: begun.elapsed(),
                    next_retry_at,
                });
            }
        }
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
        self.questions.add(client);
        self.ask(|done| HostRequest::Reconnect { done }).await?;
        let deadline = Instant::now() + tries.patience();
        self.wait_for_connection(Wish::Command, tries, deadline, client.can_answer()).await
    }

    /// Closes the connection; nothing but a request to connect opens it again.
    pub async fn disconnect(&self) -> Result<(), Unreachable> {
        self.ask(|done| HostRequest::Disconnect { done }).await
    }

    /// Puts a new configuration in force.
    pub async fn configure(&self, config: HostConfig, settings: EffectiveSettings) {
        let request =
            HostRequest::Configure { config: Box::new(config), settings: Box::new(settings) };
        if self.requests.send(request).await.is_err() {
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
        self.used.note();
        let (config, settings) = (Box::new(config), Box::new(settings));
        self.ask(|done| HostRequest::Take { config, settings, connection, done }).await
    }

    async fn ask(
        &self,
        request: impl FnOnce(oneshot::Sender<()>) -> HostRequest,
    ) -> Result<(), Unreachable> {
        let gone = || Unreachable {
            error: self.ended(),
            attempts: 0,
            waited: Duration::ZERO,
            next_retry_at: None,
        };
        let (done, answered) = oneshot::channel();
        self.requests.send(request(done)).await.map_err(|_| gone())?;
        answered.await.map_err(|_| gone())
    }

    async fn wait_for_connection(
        &self,
        mut wish: Wish,
        tries: Tries,
        mut deadline: Instant,
        can_answer: bool,
    ) -> Result<Arc<Connection>, Unreachable> {
        let mut prolonged = matches!(tries, Tries::Wait(_));
        let _waiting = Waiting::new(&self.waiting);
        let (begun, spent) = (Instant::now(), self.questions.spent());
        let mut asked_in_vain = false;
        let mut cut_off = 0;
        let mut snapshots = self.snapshot.clone();
        let before = snapshots.borrow_and_update().dials();
        loop {
            let dials = snapshots.borrow_and_update().dials();
            // What failed for want of a key may go well with those that somebody has added since.
            let awaited = self.snapshot.borrow().awaited_agent.clone();
            let agent_holds = match awaited {
                Some(choice) => self.context.dial.agents.holds(&choice).await,
                None => None,
            };
            self.ask(|done| HostRequest::Want { by: wish, agent_holds, done }).await?;
            // A person's wish overrides a failed or stopped state once, not again and again.
            wish = Wish::Command;
            let give_up = |snapshot: &HostSnapshot, error: Arc<ConnectError>| Unreachable {
                error,
                attempts: u32::try_from(snapshot.dials() - before).unwrap_or(u32::MAX),
                waited: begun.elapsed(),
                next_retry_at: snapshot.next_retry_at,
            };
            // Wait for the end of the dial that was asked for.
            loop {
                let snapshot = Arc::clone(&snapshots.borrow_and_update());
                if let Some(connection) = snapshot.usable() {
                    return Ok(Arc::clone(connection));
                }
                let last_error = || match &snapshot.last_error {
                    Some((error, _)) => Arc::clone(error),
                    None => Arc::new(ConnectError::Stopped),
                };
                // The dial was under way before we came, and did not know whom to ask.
                let early = |e: &ConnectError| can_answer && !asked_in_vain && e.asked_nobody();
                match snapshot.state {
                    State::Failed if early(&last_error()) => {
                        asked_in_vain = true;
                        break;
                    }
                    State::Failed => return Err(give_up(&snapshot, last_error())),
                    State::Stopped => return Err(give_up(&snapshot, self.ended())),
                    // It failed, or it made a connection that is gone already.
                    State::Backoff if snapshot.dials() > dials => {
                        let error = last_error();
                        // A jump host that needs a person, or a server that wants us to stay away for a while:
                        // asking again brings the same answer.
                        let retry = error.blame().0.retry();
                        let hopeless = match tries {
                            Tries::Retries(_) => retry.is_hopeless_now(),
                            Tries::Wait(_) => retry == machine::Retry::Fatal,
                        };
                        if early(&error) {
                            asked_in_vain = true;
                            break;
                        }
                        // The jump host is being reconnected: the next dial waits for it.
                        if error.is_end_of_hop() && cut_off < COMMAND_RETRIES {
                            cut_off += 1;
                            break;
                        }
                        let made = u32::try_from(snapshot.dials() - before).unwrap_or(u32::MAX);
                        let made = made.saturating_sub(cut_off);
                        if hopeless || !tries.allow(made) {
                            return Err(give_up(&snapshot, error));
                        }
                        if matches!(tries, Tries::Retries(_)) {
                            break;
                        }
                    }
                    // A connection that broke while it was asked for.
                    State::Idle => break,
                    State::Backoff | State::Connecting | State::Connected => {}
                }
                // Who waits for long looks again by themselves: the backoff may have grown to minutes.
                let again = Instant::now() + WAIT_STEP;
                let looks_again = matches!(tries, Tries::Wait(_))
                    && snapshot.state == State::Backoff
                    && !last_error().retry().is_hopeless_now();
                let until = if looks_again { again.min(deadline) } else { deadline };
                let changed = self.questions.timeout_at(until, spent, snapshots.changed());
                let changed = tokio::select! {
                    changed = changed => changed,
                    question = self.questions.opened(), if !can_answer => {
                        let error = ConnectError::Unanswered {
                            question: question.to_string(),
                            phase: occ_proto::status::Phase::Authentication,
                            key: None,
                            why: NoAnswer::Elsewhere,
                        };
                        return Err(give_up(&snapshot, Arc::new(error)));
                    }
                };
                match changed {
                    Ok(Ok(())) => {}
                    Err(TimedOut) if until < deadline => break,
                    // The first dial has a limit of its own, which may be set to more than this.
                    Err(TimedOut) if !prolonged && snapshot.dials() == before => {
                        prolonged = true;
                        deadline += LONGEST_DIAL;
                    }
                    Ok(Err(_)) => {
                        return Err(give_up(&snapshot, self.ended()));
                    }
                    Err(TimedOut) => {
                        let error = match &snapshot.last_error {
                            Some((error, _)) => Arc::clone(error),
                            None => Arc::new(ConnectError::Timeout {
                                phase: occ_proto::status::Phase::Unknown,
                                after: begun.elapsed(),
                            }),
                        };
                        return Err(give_up(&snapshot, error));
                    }
                }
            }
        }
    }

    /// Returns the same with what is too much for a list.
    pub fn full_status(&self) -> HostStatus {
        HostStatus { rtt_recent_ms: self.round_trips.recent(), ..self.status() }
    }

    /// Returns the host as it is shown to clients.
    pub fn status(&self) -> HostStatus {
        let snapshot = self.snapshot();
        HostStatus {
            name: self.name.clone(),
            state: snapshot.state,
            status: snapshot.state.status(),
            since: snapshot.since,
            attempt: snapshot.attempt,
            next_retry_at: snapshot.next_retry_at,
            idle_reason: snapshot.idle_reason,
            idle_close_s: snapshot.idle_policy.map(|age| age.as_secs()),
            last_error: snapshot.last_error.as_ref().map(|(error, at)| last_error(error, *at)),
            rtt_recent_ms: Vec::new(),
            question: self.question().map(|question| question.to_string()),
            rtt_ms: snapshot
                .usable()
                .and_then(|connection| connection.rtt())
                .map(|rtt| (rtt.as_secs_f64() * 1e6).round() / 1e3),
            connections: u32::try_from(snapshot.retired.len()).unwrap_or(u32::MAX)
                + u32::from(snapshot.primary.is_some()),
            open_channels: snapshot.open_channels(),
            connects: snapshot.connects,
            bytes_in: snapshot.bytes().0,
            bytes_out: snapshot.bytes().1,
            connection: snapshot.primary.as_ref().map(|connection| connection.info()),
            etag: etag(&snapshot.config),
            sandbox: None,
            docker_error: None,
            config: snapshot.config.clone(),
            warnings: Vec::new(),
            revision: snapshot.revision,
        }
    }
}

fn last_error(error: &ConnectError, at: Timestamp) -> LastError {
    LastError {
        code: error.code(),
        phase: error.phase(),
        message: chain(error),
        hop: error.blame().1.cloned(),
        at,
        retryable: error.retry() != machine::Retry::Fatal,
    }
}

/// Returns the entity tag of a configuration: it changes exactly when the configuration does.
pub fn etag(config: &HostConfig) -> String {
    use sha2::Digest as _;
    // A struct of strings and numbers always serialises.
    let json = serde_json::to_vec(config).unwrap_or_default();
    let digest = sha2::Sha256::digest(&json);
    let hex: String = digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    format!("\"{hex}\"")
}
