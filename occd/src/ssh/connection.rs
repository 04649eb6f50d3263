//! One live SSH connection: it opens channels, keeps a spare one, and knows how it is.

use std::future::Future;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use jiff::Timestamp;
use occ_proto::status::{ConnectionInfo, RemoteSystem};
use occ_proto::text::sanitize;
use russh::client::Handle;
use russh::{ChannelOpenFailure, Disconnect};
use tokio::sync::{oneshot, watch};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::algorithms::Line;
use super::auth::Login;
use super::channel::{Channel, RawChannel};
use super::error::{ChannelError, LossCause};
use super::handler::{Handler, Shared};
use super::hop::Hop;
use super::host_key::HostKeyPolicy;
use super::marker::SignalFault;
use super::probe;
use super::sessions::{CROWDED, LINGERING, Sessions};
use super::stream::StreamControl;
use crate::host::machine::ConnectionId;

mod spare;

/// How long a server may take to announce its host keys after the login.
const ANNOUNCED: Duration = Duration::from_secs(10);
/// How long it may take to prove them.
const PROOF: Duration = Duration::from_secs(10);
/// How long a server may take to give a sign of life after the machine has slept.
const CHECK: Duration = Duration::from_secs(3);
/// The same on a connection that a slow reader slows down: a full window is drained within 10 s.
const CHECK_RETIRED: Duration = Duration::from_secs(15);

/// How long the server may take to open a channel.
const CHANNEL_OPEN: Duration = Duration::from_secs(10);
/// How long after the spare was taken the next one is opened: the command that took it goes first, and a server
/// that starts a program at that moment answers it 5 % sooner.
const REFILL_AFTER: Duration = Duration::from_millis(3);
/// How long programs have to end before their connection is closed: TERM, 2 s, KILL, and the way back.
const END_WORK: Duration = Duration::from_secs(5);
/// How long a polite goodbye may take.
const GOODBYE: Duration = Duration::from_secs(1);

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
    /// Commands on the host may use the user's agent, over a connection of its own.
    pub may_lend_agent: bool,
}

/// A live SSH connection. Dropping the last reference kills it.
pub struct Connection {
    id: ConnectionId,
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
    /// See [`Connection::ending`].
    ending: CancellationToken,
    system: watch::Sender<Option<Arc<RemoteSystem>>>,
    rtt_micros: AtomicU64,
    /// The server is being asked for a sign of life.
    checking: watch::Sender<bool>,
}

/// Counts as a channel in use, so that a retired connection does not close under a channel that is
/// being opened.
struct Busy<'a>(&'a Connection);

impl<'a> Busy<'a> {
    fn new(connection: &'a Connection) -> Self {
        connection.channel_opened();
        Self(connection)
    }
}

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        self.0.one_less();
    }
}

/// Counts as a caller that waits for a session, until dropped.
struct Waiting<'a>(&'a AtomicU32);

impl<'a> Waiting<'a> {
    fn new(count: &'a AtomicU32) -> Self {
        count.fetch_add(1, Ordering::SeqCst);
        Self(count)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connection")
            .field("id", &self.id)
            .field("facts", &self.facts)
            .finish_non_exhaustive()
    }
}

impl Connection {
    /// Takes an authenticated session and begins to probe the host and to keep a spare channel, both in
    /// the background: the connection can be used at once. The probe waits for `calm`.
    pub fn start(
        id: ConnectionId,
        handle: Handle<Handler>,
        shared: Arc<Shared>,
        control: Arc<StreamControl>,
        facts: Facts,
        tasks: TaskTracker,
        calm: impl Future<Output = ()> + Send + 'static,
    ) -> Arc<Self> {
        let sessions = Sessions::of(&facts.server);
        let connection = Arc::new(Self {
            id,
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
            ending: CancellationToken::new(),
            system: watch::Sender::new(None),
            rtt_micros: AtomicU64::new(0),
            checking: watch::Sender::new(false),
        });
        let weak = Arc::downgrade(&connection);
        connection.spawn(async move {
            calm.await;
            let Some(connection) = weak.upgrade() else { return };
            let system = probe::run(&connection).await;
            connection.system.send_replace(Some(Arc::new(system)));
            connection.refill_spare().await;
        });
        connection
    }

    /// Returns the generation.
    pub fn id(&self) -> ConnectionId {
        self.id
    }

    /// Returns what is shared with the handler.
    pub(super) fn shared(&self) -> &Shared {
        &self.shared
    }

    /// Returns a token that is cancelled when the connection has ended.
    pub fn closed(&self) -> CancellationToken {
        self.shared.closed.clone()
    }

    /// Returns whether the connection has ended.
    pub fn is_closed(&self) -> bool {
        self.shared.closed.is_cancelled()
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

    /// Returns whether the server's host key was recorded by this connection.
    pub fn new_host_key(&self) -> bool {
        self.shared.host_key.get().is_some_and(|key| key.new)
    }

    /// Returns the server's host key if this connection recorded it and was made at or after that time: a
    /// caller who waited for it is to be told.
    pub fn host_key_recorded_since(&self, asked: Timestamp) -> Option<String> {
        let key = self.shared.host_key.get().filter(|key| key.new)?;
        (self.since >= asked).then(|| key.text.clone())
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

    /// Returns what the probe found, if it has answered.
    pub fn known_system(&self) -> Option<Arc<RemoteSystem>> {
        self.system.borrow().clone()
    }

    /// Returns the facts for a status.
    pub fn info(&self) -> ConnectionInfo {
        let negotiated = self.shared.negotiated.get();
        ConnectionInfo {
            id: self.id.0,
            user: self.facts.user.clone(),
            peer: self.facts.peer.clone(),
            via: self.via(),
            since: self.since,
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
            bytes_in: self.control.bytes_in(),
            bytes_out: self.control.bytes_out(),
            system: self.known_system().map(|system| (*system).clone()),
        }
    }

    /// Returns whether commands on the host may use the user's agent.
    pub fn may_lend_agent(&self) -> bool {
        self.facts.may_lend_agent
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

    // ---- Channels.

    /// Returns a session channel: the spare one at once, a new one after a round trip, or, when the
    /// server has none left, the next that becomes free; meanwhile another connection is asked for.
    /// `fresh` passes the spare over. The flag tells whether it was the spare.
    pub async fn session(self: &Arc<Self>, fresh: bool) -> Result<(Channel, bool), ChannelError> {
        let _busy = Busy::new(self);
        let mut waited = false;
        loop {
            let freed = self.shared.freed.notified();
            tokio::pin!(freed);
            freed.as_mut().enable();
            if !fresh && let Some(raw) = self.take_spare() {
                let connection = Arc::clone(self);
                self.spawn(async move {
                    tokio::time::sleep(REFILL_AFTER).await;
                    connection.refill_spare().await;
                });
                return Ok((Channel::new(raw, Arc::clone(self)), true));
            }
            let mut patience = CROWDED;
            if self.is_closed() {
                return Err(ChannelError::Lost(self.cause()));
            } else if self.sessions.begin(waited) {
                let error = match self.open(Kind::Session).await {
                    Ok(raw) => return Ok((Channel::new(raw, Arc::clone(self)), false)),
                    Err(error) => error,
                };
                patience = match self.sessions.patience() {
                    Some(patience) if matches!(error, ChannelError::Refused(_)) => patience,
                    _ => {
                        // Whoever waits for a session may ask for itself.
                        self.shared.freed.notify_one();
                        return Err(error);
                    }
                };
            }
            if fresh {
                self.give_up_spare();
            }
            let timed_out = {
                let _waiting = Waiting::new(&self.waiting);
                timeout(patience, freed).await.is_err()
            };
            waited = timed_out && patience == CROWDED;
            if waited {
                self.shared.bulk.cancel();
            }
            if self.shared.retired.load(Ordering::SeqCst) {
                return Err(ChannelError::Retired);
            }
        }
    }

    /// Returns a channel to a Unix socket on the host.
    pub async fn streamlocal(self: &Arc<Self>, path: &str) -> Result<Channel, ChannelError> {
        let _busy = Busy::new(self);
        let raw = self.open(Kind::Streamlocal(path.to_owned())).await?;
        Ok(Channel::new(raw, Arc::clone(self)))
    }

    /// Returns a channel to a TCP port that is reached from the host. It carries a connection of its own,
    /// so its bytes do not make this one a bulk connection: others may have to go on sharing it.
    pub async fn direct_tcpip(
        self: &Arc<Self>,
        address: &str,
        port: u16,
    ) -> Result<Channel, ChannelError> {
        let _busy = Busy::new(self);
        match self.open(Kind::Tcp(address.to_owned(), port)).await {
            Ok(raw) => {
                raw.inbox.set_transport();
                Ok(Channel::new(raw, Arc::clone(self)))
            }
            Err(ChannelError::Refused(reason)) if reason == PROHIBITED => {
                Err(ChannelError::Prohibited)
            }
            Err(error) => Err(error),
        }
    }

    /// Opens a channel in a task of its own, so that a caller who leaves in the middle does not leave
    /// behind a channel that the server has opened and nobody owns.
    async fn open(self: &Arc<Self>, kind: Kind) -> Result<RawChannel, ChannelError> {
        let (answer, answered) = oneshot::channel();
        let connection = Arc::clone(self);
        self.spawn(async move {
            let result = match kind {
                Kind::Session => connection.open_session().await,
                Kind::Streamlocal(_) | Kind::Tcp(..) => connection.open_now(kind).await,
            };
            if let Err(Ok(orphan)) = answer.send(result) {
                drop(Channel::new(orphan, connection));
            }
        });
        match timeout(CHANNEL_OPEN, answered).await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) => Err(ChannelError::Lost(self.cause())),
            Err(_) => Err(ChannelError::Timeout(CHANNEL_OPEN)),
        }
    }

    /// Opens a session that [`Sessions::begin`] allowed.
    async fn open_session(&self) -> Result<RawChannel, ChannelError> {
        let result = self.open_now(Kind::Session).await;
        match &result {
            Ok(_) => self.sessions.granted(),
            Err(ChannelError::Refused(_)) => self.sessions.refused(),
            Err(_) => self.sessions.failed(),
        }
        result
    }

    async fn open_now(&self, kind: Kind) -> Result<RawChannel, ChannelError> {
        let begun = Instant::now();
        let session = matches!(kind, Kind::Session);
        let opening = async {
            match kind {
                Kind::Session => self.handle.channel_open_session().await,
                Kind::Streamlocal(path) => self.handle.channel_open_direct_streamlocal(path).await,
                // The originator is for the server's log (RFC 4254, section 7.2).
                Kind::Tcp(address, port) => {
                    let port = u32::from(port);
                    self.handle.channel_open_direct_tcpip(address, port, "127.0.0.1", 0).await
                }
            }
        };
        let channel = tokio::select! {
            result = opening => result.map_err(|error| match error {
                russh::Error::ChannelOpenFailure(reason) => {
                    ChannelError::Refused(refusal(&reason).to_owned())
                }
                _ => ChannelError::Lost(self.cause()),
            })?,
            () = self.shared.closed.cancelled() => return Err(ChannelError::Lost(self.cause())),
        };
        self.set_rtt(begun.elapsed());
        let inbox = self.shared.claim(channel.id());
        // The handler delivers to the inbox; russh's own queue, which stops the whole connection when it
        // is full, is dropped here.
        let (read, write) = channel.split();
        drop(read);
        Ok(RawChannel { session, write, inbox })
    }

    pub(super) fn channel_opened(&self) {
        self.shared.active.fetch_add(1, Ordering::SeqCst);
    }

    /// A channel is in use no longer; `session` when the server has one session less for us.
    pub(super) fn channel_ended(self: &Arc<Self>, session: bool) {
        self.one_less();
        if !session {
            self.shared.freed.notify_one();
        } else if self.sessions.is_full() {
            let connection = Arc::clone(self);
            self.spawn(async move {
                tokio::time::sleep(LINGERING).await;
                connection.session_ended();
            });
        } else {
            self.session_ended();
        }
    }

    fn session_ended(self: &Arc<Self>) {
        self.sessions.ended();
        self.shared.freed.notify_one();
        // Where the server has few sessions, the spare had to go for a command: now there is room again.
        if self.sessions.is_full() {
            let connection = Arc::clone(self);
            self.spawn(async move { connection.refill_spare().await });
        }
    }

    fn one_less(&self) {
        let left = self.shared.active.fetch_sub(1, Ordering::SeqCst) - 1;
        if left == 0 && self.shared.retired.load(Ordering::SeqCst) {
            self.kill(LossCause::Ours);
        }
    }

    // ---- The end.

    /// Waits until the server has answered a question asked now, and so until all that it sent before has
    /// arrived; or until the connection has ended.
    pub async fn round_trip(&self) {
        tokio::select! {
            sent = self.handle.send_ping() => {
                if sent.is_ok() {
                    return;
                }
            }
            () = self.shared.closed.cancelled() => return,
        }
        // The session loop takes no messages any more; it says so in a moment.
        self.shared.closed.cancelled().await;
    }

    /// Measures the round trip to the server; nothing when the connection ends meanwhile.
    pub async fn measure(&self) -> Option<Duration> {
        let begun = Instant::now();
        self.round_trip().await;
        let rtt = begun.elapsed();
        (!self.is_closed()).then(|| {
            self.set_rtt(rtt);
            rtt
        })
    }

    /// Follows the server's change of host keys, if it announces one, in the background.
    pub fn follow_host_keys(self: &Arc<Self>, policy: HostKeyPolicy) {
        let trusted = self.shared.host_key.get().and_then(|key| key.recorded.clone());
        let Some(used) = trusted else { return };
        let connection = Arc::clone(self);
        self.spawn(async move {
            let mut announced = connection.shared.announced.subscribe();
            // A server that does announces them at the login.
            let Ok(Ok(keys)) = timeout(ANNOUNCED, announced.wait_for(Option::is_some))
                .await
                .map(|announced| announced.map(|keys| keys.clone().unwrap_or_default()))
            else {
                return;
            };
            let prove =
                async |keys| match timeout(PROOF, connection.handle.hostkeys_prove(keys)).await {
                    Ok(Ok(())) => Ok(()),
                    _ => Err(()),
                };
            if let Err(error) = policy.update(used, keys, prove).await {
                let error = super::error::chain(&error);
                tracing::warn!(error, "known_hosts is not updated");
            }
        });
    }

    /// Asks the server for a sign of life in the background; a connection without one is closed.
    pub fn check(self: &Arc<Self>) {
        if self.checking.send_replace(true) {
            return;
        }
        let connection = Arc::clone(self);
        self.spawn(async move {
            let before = connection.control.bytes_in();
            // One that is read no faster than its reader reads may be so long behind with the answer.
            let retired = connection.shared.retired.load(Ordering::SeqCst);
            let patience = if retired { CHECK_RETIRED } else { CHECK };
            let answered = timeout(patience, connection.round_trip()).await.is_ok();
            // What is on its way before the answer is as good.
            if !answered && connection.control.bytes_in() == before {
                connection.kill(LossCause::Asleep);
            }
            connection.checking.send_replace(false);
        });
    }

    /// Has the jump host checked, if there is one: it may be what is dead, and the next dial waits for the answer.
    pub fn doubt_hop(&self) {
        if let Some(hop) = self.facts.hop.as_ref().filter(|hop| !hop.connection.is_closed()) {
            hop.connection.check();
        }
    }

    /// Waits for the end of a check that is under way.
    pub async fn checked(&self) {
        let mut checking = self.checking.subscribe();
        // The sender is ours.
        let _ = checking.wait_for(|checking| !checking).await;
    }

    /// Returns whether new work may go over it.
    pub fn takes_work(&self) -> bool {
        let retired = self.shared.retired.load(Ordering::SeqCst);
        !retired && !self.is_closed() && !self.ending.is_cancelled()
    }

    /// Gives the connection no new work; it closes when its last channel has ended.
    pub fn retire(&self) {
        self.shared.retired.store(true, Ordering::SeqCst);
        *self.spare_slot() = None;
        self.shared.freed.notify_waiters();
        if self.active() == 0 {
            self.kill(LossCause::Ours);
        }
    }

    /// Waits until the connection is about to be closed: what runs on it is to end.
    pub async fn ending(&self) {
        self.ending.cancelled().await;
    }

    /// Ends what runs on the connection, says goodbye and closes. A program that does not end in time is left
    /// behind on the host, and whoever waits for it is told that its end is not known.
    pub async fn close(&self) {
        self.ending.cancel();
        let idle = async {
            loop {
                let freed = self.shared.freed.notified();
                tokio::pin!(freed);
                freed.as_mut().enable();
                if self.active() == 0 {
                    return;
                }
                freed.await;
            }
        };
        tokio::select! {
            () = idle => {}
            () = self.shared.closed.cancelled() => {}
            () = tokio::time::sleep(END_WORK) => {}
        }
        self.shared.set_cause(LossCause::Ours);
        let goodbye = self.handle.disconnect(Disconnect::ByApplication, "", "en");
        if timeout(GOODBYE, goodbye).await.is_ok_and(|sent| sent.is_ok()) {
            // Sent means queued: the loop ends by itself once it is on the wire.
            let _ = timeout(GOODBYE, self.shared.closed.cancelled()).await;
        }
        self.control.kill();
    }

    /// Ends the connection at once.
    pub fn kill(&self, cause: LossCause) {
        self.shared.set_cause(cause);
        self.control.kill();
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.control.kill();
    }
}

#[derive(Debug)]
enum Kind {
    Session,
    Streamlocal(String),
    Tcp(String, u16),
}

/// What a server says of what its settings forbid.
const PROHIBITED: &str = "administratively prohibited";

fn refusal(reason: &ChannelOpenFailure) -> &'static str {
    match reason {
        ChannelOpenFailure::AdministrativelyProhibited => PROHIBITED,
        ChannelOpenFailure::ConnectFailed => "connect failed",
        ChannelOpenFailure::UnknownChannelType => "unknown channel type",
        ChannelOpenFailure::ResourceShortage => "resource shortage",
        _ => "unknown reason",
    }
}

/// Returns a server's identification line as it is shown: without the protocol part.
pub fn identification(head: &[u8]) -> String {
    let text = String::from_utf8_lossy(head);
    let line = text.lines().find_map(|line| line.strip_prefix("SSH-")).unwrap_or_default();
    let software = line.split_once('-').map_or(line, |(_version, software)| software);
    sanitize(software.trim_end())
}
