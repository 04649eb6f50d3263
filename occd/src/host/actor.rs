//! The actor of one host: carries out what the state machine says.
//!
//! It awaits in one place, [`Actor::next`]; everything else is not async. Dials are tasks of its own
//! `JoinSet`, the backoff is a deadline, so that a request is answered at once whatever is under way.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt as _, StreamExt as _};
use jiff::Timestamp;
use occ_proto::history::Link;
use occ_proto::status::{Phase, State};
use occ_proto::{HostConfig, HostName};
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use super::backoff::DialBackoff;
use super::machine::{Action, ConnectionId, Demand, Event, HostMachine};
use super::{HostHandle, HostRequest, HostSnapshot, REQUESTS, Wish, etag};
use crate::config::EffectiveSettings;
use crate::events::Changes;
use crate::history::Recorder;
use crate::metrics::HostMetrics;
use crate::prompts::Questions;
use crate::ssh::agent::AgentChoice;
use crate::ssh::dial::DialEnvironment;
use crate::ssh::hop::HopDemand;
use crate::ssh::seen::Seen;
use crate::ssh::{ConnectError, Connection, Line, LossCause};
use crate::used::UseClock;
use crate::wake::SleepClock;

mod connections;
mod dialling;
mod inputs;
mod publish;
mod waiting;

use inputs::Inputs;

/// When the machine wakes up, hosts are dialled spread over this time, and not all at once.
const WOKEN_SPREAD: Duration = Duration::from_secs(2);

/// What all hosts share.
#[derive(Debug)]
pub struct HostContext {
    /// For dialling.
    pub dial: Arc<DialEnvironment>,
    /// Is told of every change.
    pub changes: Arc<Changes>,
    /// Owns the tasks of connections.
    pub tasks: TaskTracker,
    /// Takes the changes of the link.
    pub recorder: Recorder,
    /// Notices sleep.
    pub clock: Arc<SleepClock>,
    /// Cancelled when the daemon stops, and all hosts with it.
    pub stop: CancellationToken,
    /// Notified when a host is used that was not used before, and when a person disconnects one.
    pub use_changed: Arc<Notify>,
}

type DialResult = Result<Arc<Connection>, ConnectError>;

/// What a connection tells.
enum Signal {
    Closed(Arc<Connection>),
    /// It is about to be closed, by us or because that of its jump host is.
    Ending(Arc<Connection>),
    Bulk(Arc<Connection>),
    /// The host has said something of itself on it.
    System(Arc<Connection>),
    /// The jump host that was waited for is there.
    HopUp,
    /// Somebody has unlocked the key that the login failed for.
    KeyOpened,
    /// Somebody has given the passphrase of the passwords that are kept.
    PasswordsOpened,
    /// There is another agent than when the login failed, and it holds that.
    AgentCame(u64),
    /// What the agent holds now.
    AgentHolds(Option<u64>),
}

/// What [`Actor::next`] returns.
enum Input {
    Request(HostRequest),
    Dialled(ConnectionId, DialResult),
    Signal(Signal),
    Due,
    Stop,
}

/// The dial under way.
struct CurrentDial {
    id: ConnectionId,
    demand: HopDemand,
    task: AbortHandle,
}

struct Actor {
    name: HostName,
    config: HostConfig,
    settings: EffectiveSettings,
    context: Arc<HostContext>,
    questions: Arc<Questions>,
    used: Arc<UseClock>,
    machine: HostMachine,
    requests: mpsc::Receiver<HostRequest>,
    stop: CancellationToken,
    dials: JoinSet<(ConnectionId, DialResult)>,
    dial: Option<CurrentDial>,
    signals: FuturesUnordered<BoxFuture<'static, Signal>>,
    connections: Vec<Arc<Connection>>,
    line: Line,
    /// The host runs one command, whatever is asked for, as far as its connections have found out.
    forced: bool,
    /// How many sessions the server grants a connection, as far as its connections have found out.
    granted: Option<u32>,
    last_error: Option<(Arc<ConnectError>, Timestamp)>,
    /// The files that a failed login depended on, as they were then.
    inputs: Option<Inputs>,
    /// For what the dial under way looks at.
    seen: Arc<Seen>,
    /// When to look whether the host is in use, where one that is not is to be disconnected.
    look_at_use: Option<Instant>,
    /// The agent that the login that failed asked.
    agent: Option<AgentChoice>,
    /// What agents held when it was tried in vain, as hashes.
    agents_tried: Vec<u64>,
    /// The keys of clients that it was tried with in vain, as hashes.
    tried_keys: Vec<u64>,
    /// Somebody waits for the next dial, see [`HopDemand`].
    demand: HopDemand,
    /// A [`Signal::HopUp`] is to come.
    waits_for_hop: bool,
    /// A [`Signal::KeyOpened`] is to come.
    waits_for_key: bool,
    /// A [`Signal::PasswordsOpened`] is to come.
    waits_for_passwords: bool,
    /// A [`Signal::AgentCame`] is to come, unless this is dropped.
    agent_watch: Option<DropGuard>,
    /// When the agent was last asked what it holds.
    agent_asked: Option<Instant>,
    connects: u64,
    dial_failures: u64,
    /// Shared with the handle.
    metrics: Arc<HostMetrics>,
    past_bytes: (u64, u64),
    since: Timestamp,
    /// The link as the history has it, and why.
    recorded: (Link, Option<String>),
    published: watch::Sender<Arc<HostSnapshot>>,
}

/// Starts a host. It ends when `stop` is cancelled.
pub fn spawn(
    name: HostName,
    config: HostConfig,
    settings: EffectiveSettings,
    context: Arc<HostContext>,
    used: Option<Timestamp>,
    stop: CancellationToken,
) -> HostHandle {
    let (sender, requests) = mpsc::channel(REQUESTS);
    let backoff = DialBackoff::new(settings.caps, fastrand::Rng::new());
    let machine = HostMachine::new(Instant::now(), backoff, settings.limits);
    let since = Timestamp::now();
    let first = Arc::new(HostSnapshot {
        state: machine.state(),
        since,
        attempt: 0,
        next_retry_at: None,
        idle_reason: None,
        idle_policy: None,
        last_error: None,
        awaited_agent: None,
        primary: None,
        system: None,
        retired: Vec::new(),
        connects: 0,
        dial_failures: 0,
        past_bytes: (0, 0),
        etag: etag(&config),
        config: config.clone(),
        settings: settings.clone(),
        revision: context.changes.next_revision(),
    });
    let (published, snapshot) = watch::channel(first);
    let tasks = context.tasks.clone();
    let clock = Arc::clone(&context.clock);
    let shared_context = Arc::clone(&context);
    let used = Arc::new(UseClock::at(used, Arc::clone(&context.use_changed)));
    let questions = Arc::new(Questions::new(Arc::clone(&context.dial.prompts)));
    let metrics: Arc<HostMetrics> = Arc::default();
    let actor = Actor {
        name: name.clone(),
        config,
        settings,
        context,
        questions: Arc::clone(&questions),
        used: Arc::clone(&used),
        machine,
        requests,
        stop: stop.clone(),
        dials: JoinSet::new(),
        dial: None,
        signals: FuturesUnordered::new(),
        connections: Vec::new(),
        line: Line::default(),
        forced: false,
        granted: None,
        last_error: None,
        inputs: None,
        seen: Arc::default(),
        look_at_use: None,
        agent: None,
        agents_tried: Vec::new(),
        tried_keys: Vec::new(),
        demand: HopDemand::Background,
        waits_for_hop: false,
        waits_for_key: false,
        waits_for_passwords: false,
        agent_watch: None,
        agent_asked: None,
        connects: 0,
        dial_failures: 0,
        metrics: Arc::clone(&metrics),
        past_bytes: (0, 0),
        since,
        recorded: (Link::Idle, None),
        published,
    };
    tasks.spawn(actor.run());
    let round_trips = Arc::default();
    HostHandle {
        name,
        context: shared_context,
        beside: Arc::default(),
        questions,
        used,
        clock,
        waiting: Arc::default(),
        round_trips,
        metrics,
        requests: sender,
        stop,
        snapshot,
    }
}

impl Actor {
    async fn run(mut self) {
        // A panic is a defect of ours. It costs this host its connections, and nobody else anything.
        while AssertUnwindSafe(self.serve()).catch_unwind().await.is_err() {
            self.start_anew();
        }
        self.handle(Event::Disconnect);
        self.publish();
        // Removing a host ends what is left on it; otherwise the daemon stops and all ends.
        let goodbyes = self.connections.drain(..).map(|connection| async move {
            connection.close().await;
        });
        futures_util::future::join_all(goodbyes).await;
        self.dials.abort_all();
        while let Some(dialled) = self.dials.join_next().await {
            // One that came too late to be known to anybody.
            if let Ok((_, Ok(connection))) = dialled {
                connection.kill(LossCause::Ours);
            }
        }
    }

    /// Forgets what was under way.
    fn start_anew(&mut self) {
        tracing::error!(host = %self.name, "the host's task panicked; it starts anew");
        self.connections.drain(..).for_each(|connection| connection.kill(LossCause::Ours));
        // Dropped, so that no result of theirs is taken for one of a later dial.
        self.dials = JoinSet::new();
        self.signals = FuturesUnordered::new();
        self.dial = None;
        (self.waits_for_hop, self.waits_for_key, self.waits_for_passwords) = (false, false, false);
        (self.agent, self.agent_watch) = (None, None);
        let backoff = DialBackoff::new(self.settings.caps, fastrand::Rng::new());
        self.machine = HostMachine::new(Instant::now(), backoff, self.settings.limits);
        let cause = LossCause::Protocol("internal error; the log of occd has more".into());
        let error = ConnectError::Lost { phase: Phase::Established, cause };
        self.last_error = Some((Arc::new(error), Timestamp::now()));
        self.since = Timestamp::now();
        self.publish();
    }

    /// Does what comes, until the host is to end.
    async fn serve(&mut self) {
        loop {
            match self.next().await {
                Input::Request(request) => self.request(request),
                Input::Dialled(id, result) => self.dialled(id, result),
                Input::Signal(Signal::Closed(connection)) => self.closed(&connection),
                Input::Signal(Signal::Ending(connection)) => self.ending(connection),
                Input::Signal(Signal::Bulk(connection)) => self.bulk(&connection),
                Input::Signal(Signal::System(connection)) => self.watch_system(&connection),
                Input::Signal(Signal::HopUp) => {
                    self.waits_for_hop = false;
                    // By now another dial may have failed for another reason.
                    if self.hop_error().is_some() {
                        self.handle(Event::HopUp);
                    }
                }
                Input::Signal(Signal::KeyOpened) => {
                    self.waits_for_key = false;
                    if self.locked_key().is_some() {
                        self.demand = HopDemand::Command;
                        self.handle(Event::Wanted(Demand::Command { inputs_changed: true }));
                    }
                }
                Input::Signal(Signal::PasswordsOpened) => {
                    self.waits_for_passwords = false;
                    if self.lacks_answer() {
                        self.demand = HopDemand::Command;
                        self.handle(Event::Wanted(Demand::Command { inputs_changed: true }));
                    }
                }
                Input::Signal(Signal::AgentCame(held)) => {
                    self.agent_watch = None;
                    self.agent_holds(Some(held));
                }
                Input::Signal(Signal::AgentHolds(held)) => self.agent_holds(held),
                Input::Due => self.handle(Event::Due),
                Input::Stop => return,
            }
            self.wait_for_agent();
            self.look_at_use();
            self.publish();
        }
    }

    fn agent_holds(&mut self, holds: Option<u64>) {
        if self.agent_may_help(holds) {
            self.handle(Event::Wanted(Demand::Command { inputs_changed: true }));
        }
    }

    async fn next(&mut self) -> Input {
        let deadline = [self.machine.deadline(), self.look_at_use].into_iter().flatten().min();
        let due = async {
            match deadline {
                Some(deadline) => tokio::time::sleep_until(deadline).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            () = self.stop.cancelled() => Input::Stop,
            Some(signal) = self.signals.next() => Input::Signal(signal),
            Some(joined) = self.dials.join_next() => match joined {
                Ok((id, result)) => Input::Dialled(id, result),
                Err(error) => match &self.dial {
                    // A panic in the dial is a defect of ours or of a library: this host fails, loudly.
                    Some(dial) if error.is_panic() => {
                        tracing::error!(host = %self.name, %error, "a dial panicked");
                        let error = ConnectError::Lost {
                            phase: Phase::Connect,
                            cause: LossCause::Protocol("internal error during the dial".into()),
                        };
                        Input::Dialled(dial.id, Err(error))
                    }
                    // Cancelled by us.
                    _ => Input::Due,
                },
            },
            request = self.requests.recv() => match request {
                Some(request) => Input::Request(request),
                None => Input::Stop,
            },
            () = due => Input::Due,
        }
    }

    fn request(&mut self, request: HostRequest) {
        let done = match request {
            HostRequest::Want { by, agent_holds, done } => {
                let demand = match by {
                    Wish::Glance => Demand::Glance,
                    Wish::Command if self.is_answerable() => Demand::Answer,
                    Wish::Command => Demand::Command {
                        inputs_changed: self.inputs_changed() || self.agent_may_help(agent_holds),
                    },
                    Wish::Person => Demand::Person,
                };
                if demand == Demand::Glance {
                    self.ask_agent();
                } else {
                    self.demand = HopDemand::Command;
                    // Also the dial that is under way is one that is waited for now.
                    self.context.dial.turns.hurry(&self.name);
                }
                self.handle(Event::Wanted(demand));
                Some(done)
            }
            HostRequest::Adopt { connection, made_by, done } => {
                self.watch(&connection);
                self.connections.push(Arc::clone(&connection));
                // It may have taken a while, and somebody has changed the host's address, or disconnected it.
                let adopted = self.machine.state() != State::Stopped
                    && self.dials_as(&made_by.config, &made_by.settings);
                if !adopted {
                    connection.retire();
                }
                // Who wanted it may have left.
                let _ = done.send(adopted);
                None
            }
            HostRequest::Reconnect { done } => {
                self.end_beside();
                self.demand = HopDemand::Command;
                self.handle(Event::Reconnect);
                Some(done)
            }
            HostRequest::Renew { done } => {
                // They are as old as the shared one.
                self.beside().for_each(|connection| connection.retire());
                self.demand = HopDemand::Command;
                self.handle(Event::Renew);
                Some(done)
            }
            #[cfg(test)]
            HostRequest::Panic => panic!("asked to"),
            HostRequest::Woken => {
                self.handle(Event::Woken { after: WOKEN_SPREAD.mul_f64(fastrand::f64()) });
                None
            }
            HostRequest::Disconnect { done } => {
                self.end_beside();
                self.handle(Event::Disconnect);
                Some(done)
            }
            HostRequest::Configure { config, settings, done } => {
                if self.configure(*config, *settings) {
                    self.handle(Event::ConfigChanged);
                }
                Some(done)
            }
            HostRequest::Take { config, settings, connection, done } => {
                self.configure(*config, *settings);
                self.take(connection);
                Some(done)
            }
        };
        // Published before the answer, so that whoever asked sees the effect.
        self.publish();
        if let Some(done) = done {
            reply(done);
        }
    }

    /// Puts a configuration in force. Returns whether it takes another connection than the one before.
    fn configure(&mut self, config: HostConfig, settings: EffectiveSettings) -> bool {
        // What is no part of a dial is in force without a new one.
        let same = self.dials_as(&config, &settings);
        self.config = config;
        self.settings = settings;
        self.machine.set_limits(self.settings.limits, self.settings.caps);
        if !same {
            self.forced = false;
            self.granted = None;
            self.agents_tried.clear();
            tracing::info!(host = %self.name, "the configuration of the connection changed");
            self.beside().for_each(|connection| connection.retire());
        }
        !same
    }

    /// Returns whether a configuration leads to the connection that the one in force leads to.
    fn dials_as(&self, config: &HostConfig, settings: &EffectiveSettings) -> bool {
        self.config.same_connection(config) && self.settings.dial.same_dial(&settings.dial)
    }

    /// Returns the connections beside the shared one, of which the state machine knows nothing.
    fn beside(&self) -> impl Iterator<Item = &Arc<Connection>> {
        self.connections.iter().filter(|connection| super::beside::is_beside(connection))
    }

    fn end_beside(&self) {
        for connection in self.beside() {
            let connection = Arc::clone(connection);
            connection.begin_to_end();
            self.context.tasks.spawn(async move { connection.close().await });
        }
    }

    fn primary(&self) -> Option<Arc<Connection>> {
        self.machine.primary().and_then(|id| self.connection(id))
    }

    fn connection(&self, id: ConnectionId) -> Option<Arc<Connection>> {
        self.connections.iter().find(|connection| connection.id() == id).cloned()
    }

    /// Lets the machine decide and carries its actions out.
    fn handle(&mut self, event: Event) {
        let before = self.machine.since();
        for action in self.machine.handle(event, Instant::now()) {
            match action {
                Action::Dial(id) => self.dial(id),
                Action::CancelDial(id) => {
                    if let Some(dial) = self.dial.take_if(|dial| dial.id == id) {
                        dial.task.abort();
                        // Whoever waits for it waits for the one in its place.
                        if dial.demand == HopDemand::Command {
                            self.demand = HopDemand::Command;
                        }
                    }
                }
                Action::Close(id) => {
                    if let Some(connection) = self.connection(id) {
                        // At once: whoever asked for it finds it so.
                        connection.begin_to_end();
                        self.context.tasks.spawn(async move { connection.close().await });
                    }
                }
                Action::Retire(id) => {
                    if let Some(connection) = self.connection(id) {
                        connection.retire();
                    }
                }
            }
        }
        if self.machine.since() != before {
            self.since = Timestamp::now();
        }
    }
}

/// Whoever asked may have gone; that is no concern of the host's.
fn reply(done: oneshot::Sender<()>) {
    let _ = done.send(());
}

#[cfg(test)]
mod tests;
