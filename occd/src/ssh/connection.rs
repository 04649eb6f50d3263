//! One live SSH connection: it opens channels, keeps a spare one, and knows how it is.

use std::future::Future;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use jiff::Timestamp;
use occ_proto::status::{ConnectionInfo, RemoteSystem, SystemUnknown};
use occ_proto::text::sanitize;
use russh::client::Handle;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::agent::{self, AgentChoice, Agents};
use super::algorithms::Line;
use super::auth::Login;
use super::channel::RawChannel;
use super::error::LossCause;
use super::handler::{Handler, Shared};
use super::hop::Hop;
use super::host_key::Standing;
use super::marker::SignalFault;
use super::probe;
use super::sessions::Sessions;
use super::stream::StreamControl;
use super::variables::Variables;
use crate::host::machine::ConnectionId;

pub(crate) mod channels;
mod life;
mod spare;

/// What is known when a connection has been made.
#[derive(Debug, Clone)]
pub struct Facts {
    /// The login name.
    pub user: String,
    /// The address, with port.
    pub peer: String,
    /// The jump host that it was reached through.
    pub hop: Option<Hop>,
    /// The server's identification, such as `OpenSSH_9.2p1`.
    pub server: String,
    /// How the login was made.
    pub login: Login,
    /// The agent that commands on the host may use, over a connection of its own.
    pub lends: Option<AgentChoice>,
    /// The agents that it is one of.
    pub agents: Arc<Agents>,
    /// The silence after which the server is asked for a sign of life.
    pub keepalive: Duration,
    /// Why the host is not asked what it is, if so.
    pub unasked: Option<SystemUnknown>,
    /// The most sessions that the server granted a connection before this one, where it refused more.
    pub granted: Option<u32>,
}

/// A live SSH connection. Dropping the last reference kills it.
pub struct Connection {
    id: AtomicU64,
    handle: Handle<Handler>,
    shared: Arc<Shared>,
    control: Arc<StreamControl>,
    facts: Facts,
    since: Timestamp,
    tasks: TaskTracker,
    spare: Mutex<Option<RawChannel>>,
    /// The server ends spares (dropbear).
    no_spare: AtomicBool,
    /// Callers that wait for a session: none is kept idle while there are any.
    waiting: AtomicU32,
    /// A spare is being opened.
    refilling: AtomicBool,
    sessions: Sessions,
    /// Streams that ask for a session, each in its turn.
    stream_turn: tokio::sync::Mutex<()>,
    /// The place of a stream has become free.
    stream_freed: Notify,
    /// See [`Connection::opens_no_sockets`].
    no_sockets: AtomicBool,
    pub(super) variables: Variables,
    /// See [`Connection::ending`].
    ending: CancellationToken,
    system: watch::Sender<Option<Arc<RemoteSystem>>>,
    /// When the host was asked last what it is. Who asks holds it.
    asked: tokio::sync::Mutex<Option<Instant>>,
    /// See [`Connection::is_forced`].
    forced: AtomicBool,
    /// It has been logged that the agent that may be lent is not there.
    missed_agent: AtomicBool,
    rtt_micros: AtomicU64,
    /// The server is being asked for a sign of life.
    checking: watch::Sender<bool>,
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connection")
            .field("id", &self.id())
            .field("facts", &self.facts)
            .finish_non_exhaustive()
    }
}

impl Connection {
    /// Takes an authenticated session and begins to probe the host, if it may be, and to keep a spare
    /// channel, both in the background: the connection can be used at once. The probe waits for `calm`.
    pub fn start(
        id: ConnectionId,
        handle: Handle<Handler>,
        shared: Arc<Shared>,
        control: Arc<StreamControl>,
        facts: Facts,
        tasks: TaskTracker,
        calm: impl Future<Output = ()> + Send + 'static,
    ) -> Arc<Self> {
        shared.tap.set_connection(id.0);
        let sessions = Sessions::of(&facts.server, facts.granted);
        // It ends with its jump host's.
        let ending = facts.hop.as_ref().map(|hop| hop.connection.ending.child_token());
        let connection = Arc::new(Self {
            id: AtomicU64::new(id.0),
            handle,
            shared,
            control,
            facts,
            since: Timestamp::now(),
            tasks,
            spare: Mutex::new(None),
            no_spare: AtomicBool::new(sessions.is_single()),
            waiting: AtomicU32::new(0),
            refilling: AtomicBool::new(false),
            sessions,
            stream_turn: tokio::sync::Mutex::default(),
            stream_freed: Notify::new(),
            no_sockets: AtomicBool::new(false),
            variables: Variables::default(),
            ending: ending.unwrap_or_default(),
            system: watch::Sender::new(None),
            asked: tokio::sync::Mutex::default(),
            forced: AtomicBool::new(false),
            missed_agent: AtomicBool::new(false),
            rtt_micros: AtomicU64::new(0),
            checking: watch::Sender::new(false),
        });
        let (weak, unasked) = (Arc::downgrade(&connection), connection.facts.unasked);
        connection.spawn(async move {
            calm.await;
            let Some(connection) = weak.upgrade() else { return };
            let answer = match unasked {
                None => probe::run(&connection, false).await,
                Some(why) => probe::Answer::none(why),
            };
            connection.forced.store(answer.forced, Ordering::Relaxed);
            *connection.asked.lock().await = Some(Instant::now());
            connection.system.send_replace(Some(Arc::new(answer.system)));
            connection.refill_spare().await;
        });
        connection
    }

    /// Returns the generation.
    pub fn id(&self) -> ConnectionId {
        ConnectionId(self.id.load(Ordering::Relaxed))
    }

    /// Makes it one of a host's generations, before the host knows it. What was made to try a configuration is of
    /// none until then.
    pub fn set_id(&self, id: ConnectionId) {
        self.id.store(id.0, Ordering::Relaxed);
        self.shared.tap.set_connection(id.0);
    }

    /// Returns the way to russh's session loop.
    pub(super) fn handle(&self) -> &Handle<Handler> {
        &self.handle
    }

    /// Returns the login name.
    pub(super) fn user(&self) -> &str {
        &self.facts.user
    }

    /// Returns what is shared with the handler.
    pub(super) fn shared(&self) -> &Shared {
        &self.shared
    }

    /// Returns a token that is cancelled when the connection has ended.
    pub fn closed(&self) -> CancellationToken {
        self.shared.closed.clone()
    }

    /// Returns whether the connection has ended, or is bound to in a moment: what is sent on one that was killed
    /// goes nowhere, and its sender could not tell.
    pub fn is_closed(&self) -> bool {
        self.shared.closed.is_cancelled() || self.control.is_killed()
    }

    /// Returns why the connection ended. One that ends with its jump host's ends because of it.
    pub fn cause(&self) -> LossCause {
        let cause = self.shared.cause();
        match (&self.facts.hop, &cause) {
            (Some(hop), LossCause::Closed | LossCause::Io(_)) if hop.connection.is_closed() => {
                LossCause::Hop(hop.name.clone())
            }
            _ => cause,
        }
    }

    /// Returns a token that is cancelled when the connection carries a bulk stream.
    pub fn bulk(&self) -> CancellationToken {
        self.shared.bulk.clone()
    }

    /// Returns the channels in use, spares not counted.
    pub fn active(&self) -> u32 {
        self.shared.active.load(Ordering::SeqCst)
    }

    /// Returns the channels that are open, with those that only stand by.
    pub fn open_channels(&self) -> usize {
        self.shared.open_channels()
    }

    /// Returns the bytes that were received and sent.
    pub fn bytes(&self) -> (u64, u64) {
        (self.control.bytes_in(), self.control.bytes_out())
    }

    /// Returns the last measured round trip.
    pub fn rtt(&self) -> Option<Duration> {
        match self.rtt_micros.load(Ordering::Relaxed) {
            0 => None,
            micros => Some(Duration::from_micros(micros)),
        }
    }

    /// Returns what the connection has found out about the line.
    pub fn line(&self) -> Line {
        let rate = self.shared.rate.load(Ordering::Relaxed);
        Line { rtt: self.rtt(), rate: (rate > 0).then_some(rate) }
    }

    fn set_rtt(&self, rtt: Duration) {
        let micros = u64::try_from(rtt.as_micros()).unwrap_or(u64::MAX).max(1);
        self.rtt_micros.store(micros, Ordering::Relaxed);
    }

    /// Runs a task that belongs to the connection's host.
    pub fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.tasks.spawn(task);
    }

    /// Returns the server's host key: algorithm and SHA-256 fingerprint.
    pub fn host_key(&self) -> Option<String> {
        self.shared.host_key.get().map(|key| key.text.clone())
    }

    /// Returns whether the server's host key was recorded by this connection.
    pub fn new_host_key(&self) -> bool {
        self.shared.host_key.get().is_some_and(|key| key.standing == Standing::Recorded)
    }

    /// Returns the server's host key if this connection recorded it and was made at or after that time: a
    /// caller who waited for it is to be told.
    pub fn host_key_recorded_since(&self, asked: Timestamp) -> Option<String> {
        let key = self.shared.host_key.get().filter(|key| key.standing == Standing::Recorded)?;
        (self.since >= asked).then(|| key.text.clone())
    }

    /// Returns the longest command that the server takes, in bytes: its packets have a limit, past which it ends the
    /// connection (`PACKET_MAX_SIZE` of OpenSSH, `RECV_MAX_PAYLOAD_LEN` of Dropbear).
    pub fn longest_command(&self) -> usize {
        const AROUND: usize = 1024;
        match self.facts.server.starts_with("dropbear") {
            true => 32 * 1024 - AROUND,
            false => 256 * 1024 - AROUND,
        }
    }

    /// Returns what is known to be wrong with the server's way to signal a program (`marker.rs`).
    pub(super) fn signal_fault(&self) -> Option<SignalFault> {
        let server = &self.facts.server;
        if server.starts_with("dropbear") {
            Some(SignalFault::ProgramAlone)
        } else if self.facts.user == "root" && server.starts_with("OpenSSH") {
            Some(SignalFault::Refused)
        } else {
            None
        }
    }

    /// Returns what the probe found, waiting for it; `None` when the connection ends first.
    pub async fn system(&self) -> Option<Arc<RemoteSystem>> {
        let mut system = self.system.subscribe();
        tokio::select! {
            found = system.wait_for(Option::is_some) => found.ok().and_then(|found| found.clone()),
            () = self.shared.closed.cancelled() => None,
        }
    }

    /// Has a host that said what it is say it again, since an engine may have come or gone, unless it has been asked
    /// within that time, or is asked for somebody else meanwhile. Returns what it said last.
    pub async fn look_again(self: &Arc<Self>, within: Duration) -> Option<Arc<RemoteSystem>> {
        let since = Instant::now().checked_sub(within);
        let known = self.system().await?;
        if known.unknown.is_some() {
            return Some(known);
        }
        let mut asked = self.asked.lock().await;
        if asked.is_none_or(|asked| since.is_some_and(|since| asked < since)) {
            let answer = probe::run(self, true).await;
            *asked = Some(Instant::now());
            if answer.system.unknown.is_none() {
                self.system.send_replace(Some(Arc::new(answer.system)));
            }
        }
        self.known_system()
    }

    /// Returns whether the host ran something else than the probe: it runs one command, whatever is asked for.
    pub fn is_forced(&self) -> bool {
        self.forced.load(Ordering::Relaxed)
    }

    /// Returns whether the server was found to open no Unix socket of the host, though a program there may.
    pub fn opens_no_sockets(&self) -> bool {
        self.no_sockets.load(Ordering::Relaxed)
    }

    /// A program on the host answered for a socket that the server did not open.
    pub fn sockets_forbidden(&self) {
        self.no_sockets.store(true, Ordering::Relaxed);
    }

    /// Notes that the server does not answer where it is offered variables.
    pub fn takes_no_variables(&self) {
        self.variables.is_mute();
    }

    /// Returns the most sessions that the server grants a connection at once, where it has refused more.
    pub fn granted(&self) -> Option<u32> {
        self.sessions.granted_at_most()
    }

    /// Returns what is told of every answer of the host about itself that comes from now on.
    pub fn system_changes(&self) -> watch::Receiver<Option<Arc<RemoteSystem>>> {
        self.system.subscribe()
    }

    /// Returns what the probe found, if it has answered.
    pub fn known_system(&self) -> Option<Arc<RemoteSystem>> {
        self.system.borrow().clone()
    }

    /// Returns the facts for a status.
    pub fn info(&self) -> ConnectionInfo {
        let negotiated = self.shared.negotiated.get();
        ConnectionInfo {
            id: self.id().0,
            user: self.facts.user.clone(),
            peer: self.facts.peer.clone(),
            via: self.via(),
            since: self.since,
            unanswered_since: self.unanswered().and_then(|time| {
                Timestamp::now().checked_sub(jiff::SignedDuration::try_from(time).ok()?).ok()
            }),
            server: self.facts.server.clone(),
            kex: negotiated.map(|n| n.kex.clone()).unwrap_or_default(),
            post_quantum: negotiated.is_some_and(|n| n.post_quantum),
            strict_kex: negotiated.is_some_and(|n| n.strict),
            cipher: negotiated.map(|n| n.cipher.clone()).unwrap_or_default(),
            mac: negotiated.and_then(|n| n.mac.clone()),
            compressed: negotiated.is_some_and(|n| n.compressed),
            host_key: self.shared.host_key.get().map(|key| key.text.clone()).unwrap_or_default(),
            new_host_key: self.new_host_key(),
            auth: self.facts.login.how.clone(),
            auth_key: self.facts.login.key.clone(),
            not_kept: self.facts.login.not_kept.clone(),
            agent: self.facts.login.agent.as_ref().map(|path| path.display().to_string()),
            agent_forwarding: self.lends().is_some(),
            bytes_in: self.control.bytes_in(),
            bytes_out: self.control.bytes_out(),
            system: self.known_system().map(|system| (*system).clone()),
        }
    }

    /// Returns the agent that commands on the host may use, if it is there. That it is not is logged once.
    pub fn lends(&self) -> Option<&AgentChoice> {
        let choice = self.facts.lends.as_ref()?;
        let Some(why) = agent::why_not_there(choice, &self.facts.agents) else {
            return Some(choice);
        };
        if !self.missed_agent.swap(true, Ordering::Relaxed) {
            let peer = &self.facts.peer;
            tracing::warn!(peer, why, "commands run without the ssh-agent that they may use");
        }
        None
    }

    /// Returns whether commands on this connection can use it.
    pub fn lends_agent(&self) -> bool {
        self.shared.lends_agent()
    }

    /// Returns whether its login needed a client, as a new one would: for an answer, or for its key.
    pub fn is_by_client(&self) -> bool {
        self.facts.login.by_client
    }

    /// Returns the names of the jump hosts on the way, the one next to us first.
    fn via(&self) -> Vec<String> {
        let Some(hop) = &self.facts.hop else { return Vec::new() };
        let mut names = hop.connection.via();
        names.push(hop.name.to_string());
        names
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.control.kill();
    }
}

/// Returns a server's identification line as it is shown: without the protocol part.
pub fn identification(head: &[u8]) -> String {
    let text = String::from_utf8_lossy(head);
    let line = text.lines().find_map(|line| line.strip_prefix("SSH-")).unwrap_or_default();
    let software = line.split_once('-').map_or(line, |(_version, software)| software);
    sanitize(software.trim_end())
}
