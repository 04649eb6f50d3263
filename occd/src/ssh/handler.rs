//! What russh calls while a connection lives: the host key check, and every message of every channel.
//!
//! The handler runs inside russh's session loop, so what it awaits stops the whole connection. It waits
//! for the disk when a channel's unread output is spilled, and on purpose when a bulk connection is slowed
//! down to its reader's rate; for nothing else.

use std::collections::HashMap;
use std::future::Future;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use occ_proto::exec::{STDERR, STDOUT};
use occ_proto::text::{sanitize, sanitize_short};
use russh::client::{ChannelOpenHandle, DisconnectReason, Msg, Session};
use russh::keys::{PublicKey, PublicKeyOrCertificate};
use russh::{Channel, ChannelId, ChannelOpenFailure, Names, Sig};
use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::agent_forward::AgentLender;
use super::algorithms::{is_authenticated, is_post_quantum};
use super::error::{ConnectError, LossCause};
use super::host_key::{HostKeyPolicy, TrustedKey};
use super::inbox::{Closed, ExitReport, Inbox, SpillPolicy};
use super::refused_channels::RefusedChannels;
use super::remote_forward::RemoteForwards;
use super::tap::{ConnectionTap, Tap};

/// A stream that has moved this much makes its connection a bulk connection (ARCHITECTURE.md).
const BULK: u64 = 8 * 1024 * 1024;
/// The reader of a stream gets its turn this often. tokio keeps the task that was woken last for the worker
/// that woke it, which is busy as long as the server sends faster than this.
const TURN: u64 = 1024 * 1024;
/// A full window is always drained within this time, however slow the reader, so that the answers to
/// the server's keep-alives, which queue behind the data, pass in time.
const WINDOW_DRAIN: Duration = Duration::from_secs(10);
/// So many bytes without a pause are enough to tell how fast a line is.
const MEASURED: u64 = 1024 * 1024;
/// A longer pause than this is the sender's and not the line's.
const PAUSE: Duration = Duration::from_secs(1);
/// Host keys that a server may announce; one has three or four.
const MAX_ANNOUNCED: usize = 32;
/// Pauses are collected until they are worth a timer.
const SHORTEST_PAUSE: Duration = Duration::from_millis(5);

/// What the key exchange agreed on.
#[derive(Debug, Clone)]
pub(super) struct Negotiated {
    /// The key exchange algorithm.
    pub kex: String,
    /// Whether it withstands a quantum computer.
    pub post_quantum: bool,
    /// Whether the exchange itself is guarded against left-out packets (Terrapin, CVE-2023-48795).
    pub strict: bool,
    /// The cipher.
    pub cipher: String,
    /// What guards the packets against changes, where the cipher does not.
    pub mac: Option<String>,
    /// Whether what the server sends is compressed.
    pub compressed: bool,
}

/// What the handler shares with the connection's owner.
#[derive(Debug)]
pub struct Shared {
    inboxes: Mutex<HashMap<ChannelId, Slot>>,
    spill: Arc<SpillPolicy>,
    window: u32,
    /// Cancelled when the session loop has ended, however it ended.
    pub closed: CancellationToken,
    cause: OnceLock<LossCause>,
    /// Set when a stream has moved [`BULK`] bytes or no session has been free for a while: the
    /// connection is to be replaced. Never unset.
    pub bulk: CancellationToken,
    /// The connection takes no new work.
    pub retired: AtomicBool,
    /// Channels in use.
    pub active: AtomicU32,
    /// Told when a channel has ended, for those who wait for a free session.
    pub freed: Notify,
    pub(super) negotiated: OnceLock<Negotiated>,
    /// The server's host key.
    pub(super) host_key: OnceLock<TrustedKey>,
    /// The highest rate at which data came, in bytes per second; 0 as long as too little came.
    pub(super) rate: AtomicU64,
    /// The host keys that the server says it has.
    pub(super) announced: watch::Sender<Option<Vec<PublicKey>>>,
    /// Lends the agent, on a connection that is for that.
    lender: OnceLock<AgentLender>,
    /// The server's messages before the login, sanitized.
    banner: watch::Sender<String>,
    /// How long they were when the last offer of a key was signed.
    signed_at: Mutex<Option<usize>>,
    /// The channels that the server refused.
    pub(super) refused: RefusedChannels,
    /// What the server listens on for us.
    pub(super) remote_forwards: RemoteForwards,
    /// Who traces the host.
    pub(super) tap: ConnectionTap,
}

#[derive(Debug)]
struct Slot {
    inbox: Arc<Inbox>,
    /// The opener has taken its copy.
    claimed: bool,
}

impl Shared {
    /// Returns the state of a connection that is about to be made.
    pub fn new(spill: Arc<SpillPolicy>, window: u32, tap: Arc<Tap>) -> Self {
        Self {
            inboxes: Mutex::default(),
            spill,
            window,
            closed: CancellationToken::new(),
            cause: OnceLock::new(),
            bulk: CancellationToken::new(),
            retired: AtomicBool::new(false),
            active: AtomicU32::new(0),
            freed: Notify::new(),
            negotiated: OnceLock::new(),
            host_key: OnceLock::new(),
            rate: AtomicU64::new(0),
            announced: watch::Sender::default(),
            lender: OnceLock::new(),
            banner: watch::Sender::default(),
            signed_at: Mutex::default(),
            refused: RefusedChannels::default(),
            remote_forwards: RemoteForwards::default(),
            tap: ConnectionTap::new(tap),
        }
    }

    /// Lets commands on the connection use an agent, from now on.
    pub(super) fn lend(&self, lender: AgentLender) {
        // Once, by the dial.
        let _ = self.lender.set(lender);
    }

    /// Returns whether the connection lends an agent.
    pub(super) fn lends_agent(&self) -> bool {
        self.lender.get().is_some()
    }

    /// Waits until the server has shown an address before the login, and returns what it said.
    pub(super) async fn address_in_banner(&self) -> String {
        let mut banner = self.banner.subscribe();
        let shown =
            banner.wait_for(|text| text.contains("://")).await.map(|text| text.trim().to_owned());
        match shown {
            Ok(text) => text,
            // The sender is ours.
            Err(_) => std::future::pending().await,
        }
    }

    fn signed_at(&self) -> MutexGuard<'_, Option<usize>> {
        self.signed_at.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that a key is offered, and has not signed yet.
    pub(super) fn unsigned(&self) {
        *self.signed_at() = None;
    }

    /// Notes that it has.
    pub(super) fn signed(&self) {
        *self.signed_at() = Some(self.banner.borrow().len());
    }

    /// Returns what the server has said since the key signed, if it did.
    pub(super) fn said_since_signed(&self) -> Option<String> {
        let at = (*self.signed_at())?;
        Some(self.banner.borrow().get(at..).unwrap_or_default().trim().to_owned())
    }

    /// Returns why the connection ended.
    pub fn cause(&self) -> LossCause {
        self.cause.get().cloned().unwrap_or(LossCause::Closed)
    }

    /// Returns the reason, if one was recorded.
    pub fn told_cause(&self) -> Option<LossCause> {
        self.cause.get().cloned()
    }

    /// Records why the connection ends; the first reason counts.
    pub fn set_cause(&self, cause: LossCause) {
        let _ = self.cause.set(cause);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<ChannelId, Slot>> {
        self.inboxes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns how many channels are open, with those that only stand by.
    pub fn open_channels(&self) -> usize {
        self.lock().len()
    }

    /// Returns the inbox of a channel that has just been opened, for its opener. russh tells the opener
    /// and the handler of the confirmation in no particular order, and the server may close the channel
    /// before either looks: whoever comes first makes the entry, and a closed one stays until claimed.
    pub fn claim(&self, id: ChannelId) -> Arc<Inbox> {
        let mut inboxes = self.lock();
        let slot = inboxes.entry(id).or_insert_with(|| self.slot());
        slot.claimed = true;
        let inbox = Arc::clone(&slot.inbox);
        if inbox.closed_reason().is_some() {
            inboxes.remove(&id);
        } else if self.closed.is_cancelled() {
            inboxes.remove(&id);
            inbox.close(Closed::Connection(self.cause()));
        }
        inbox
    }

    fn slot(&self) -> Slot {
        Slot { inbox: Arc::new(Inbox::new(Arc::clone(&self.spill))), claimed: false }
    }

    fn confirmed(&self, id: ChannelId) {
        self.lock().entry(id).or_insert_with(|| self.slot());
    }

    fn inbox(&self, id: ChannelId) -> Option<Arc<Inbox>> {
        self.lock().get(&id).map(|slot| Arc::clone(&slot.inbox))
    }

    fn channel_closed(&self, id: ChannelId) {
        let mut inboxes = self.lock();
        if let Some(slot) = inboxes.get(&id) {
            slot.inbox.close(Closed::ByServer);
            if slot.claimed {
                inboxes.remove(&id);
            }
        }
    }

    /// The session loop has ended: so has every channel.
    fn connection_closed(&self) {
        self.closed.cancel();
        let slots: Vec<_> = self.lock().drain().map(|(_, slot)| slot).collect();
        for slot in slots {
            slot.inbox.close(Closed::Connection(self.cause()));
        }
        self.freed.notify_waiters();
    }

    /// Returns whether reading may be slowed down: the connection takes no new work and the channel that
    /// would be slowed down is its only one.
    fn may_pace(&self) -> bool {
        self.retired.load(Ordering::SeqCst) && self.active.load(Ordering::SeqCst) <= 1
    }
}

/// Errors inside the session loop.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    /// russh's own.
    #[error(transparent)]
    Russh(#[from] russh::Error),
    /// The host key was refused.
    #[error(transparent)]
    HostKey(Box<ConnectError>),
}

/// Characters of a server's reason to disconnect that are kept: it is shown in tables and kept in the history.
const MAX_REASON: usize = 300;
/// Characters of a server's messages before the login that are kept.
const MAX_BANNER: usize = 4096;

/// The handler of one connection.
#[derive(Debug)]
pub struct Handler {
    shared: Arc<Shared>,
    host_key: HostKeyPolicy,
    /// Time owed by a bulk stream whose reader is slow.
    debt: Duration,
    rate: RateMeter,
}

/// Measures how fast data comes while it comes without a pause.
#[derive(Debug, Default)]
struct RateMeter {
    begun: Option<Instant>,
    last: Option<Instant>,
    bytes: u64,
}

impl RateMeter {
    /// Counts bytes; every [`MEASURED`] of them, returns the rate in bytes per second.
    fn count(&mut self, bytes: usize, now: Instant) -> Option<u64> {
        let paused = self.last.is_some_and(|last| now.duration_since(last) > PAUSE);
        self.last = Some(now);
        let begun = match self.begun.filter(|_| !paused) {
            Some(begun) => begun,
            None => {
                (self.begun, self.bytes) = (Some(now), 0);
                return None;
            }
        };
        self.bytes += bytes as u64;
        if self.bytes < MEASURED {
            return None;
        }
        let seconds = now.duration_since(begun).as_secs_f64().max(1e-6);
        let rate = self.bytes as f64 / seconds;
        (self.begun, self.bytes) = (Some(now), 0);
        Some((rate as u64).max(1))
    }
}

impl Handler {
    /// Returns the handler for a connection about to be made.
    pub fn new(shared: Arc<Shared>, host_key: HostKeyPolicy) -> Self {
        Self { shared, host_key, debt: Duration::ZERO, rate: RateMeter::default() }
    }

    async fn receive(&mut self, id: ChannelId, stream: u8, data: &[u8]) {
        // A lent agent's channel has none.
        let Some(inbox) = self.shared.inbox(id) else { return };
        let kind = if stream == STDERR { "stderr" } else { "data" };
        self.shared.tap.came(id, kind, data);
        let received = inbox.push(stream, data).await;
        // What a slow reader holds up says nothing of the line.
        if inbox.is_backlogged() {
            self.rate = RateMeter::default();
        } else if let Some(rate) = self.rate.count(data.len(), Instant::now()) {
            self.shared.rate.fetch_max(rate, Ordering::Relaxed);
        }
        if received >= BULK && !self.shared.bulk.is_cancelled() && !inbox.is_transport() {
            self.shared.bulk.cancel();
        }
        if self.shared.may_pace() && inbox.is_backlogged() {
            self.pace(&inbox, data.len()).await;
        } else if received % TURN < data.len() as u64 {
            tokio::task::yield_now().await;
        }
    }

    /// Waits for the reader, but not longer than these bytes' share of [`WINDOW_DRAIN`].
    async fn pace(&mut self, inbox: &Inbox, len: usize) {
        self.debt += WINDOW_DRAIN.mul_f64(len as f64 / f64::from(self.window()));
        if self.debt >= SHORTEST_PAUSE {
            let pause = std::mem::take(&mut self.debt);
            // Either way the loop goes on: the time limit is what keeps the connection alive.
            let _ = tokio::time::timeout(pause, inbox.drained()).await;
        }
    }

    fn window(&self) -> u32 {
        self.shared.window
    }
}

impl Drop for Handler {
    fn drop(&mut self) {
        self.shared.connection_closed();
    }
}

/// Refuses a channel that the server opens: only the lent agent's and those of listeners are ever asked for.
async fn refuse(kind: &str, reply: ChannelOpenHandle) -> Result<(), SessionError> {
    tracing::warn!(kind, "refused a channel that the server tried to open");
    reply.reject(ChannelOpenFailure::AdministrativelyProhibited).await;
    Ok(())
}

impl russh::client::Handler for Handler {
    type Error = SessionError;

    async fn check_server_key(
        &mut self,
        key: &PublicKeyOrCertificate,
    ) -> Result<bool, Self::Error> {
        let shown =
            self.host_key.check(key).await.map_err(|e| SessionError::HostKey(Box::new(e)))?;
        let _ = self.shared.host_key.set(shown);
        Ok(true)
    }

    async fn kex_done(
        &mut self,
        _shared_secret: Option<&[u8]>,
        names: &Names,
        _session: &mut Session,
    ) -> Result<(), Self::Error> {
        let _ = self.shared.negotiated.set(Negotiated {
            kex: names.kex.as_ref().to_owned(),
            post_quantum: is_post_quantum(names.kex),
            strict: names.strict_kex(),
            cipher: names.cipher.as_ref().to_owned(),
            mac: (!is_authenticated(names.cipher)).then(|| names.client_mac.as_ref().to_owned()),
            compressed: !matches!(names.server_compression, russh::compression::Compression::None),
        });
        Ok(())
    }

    async fn openssh_ext_host_keys_announced(
        &mut self,
        mut keys: Vec<PublicKey>,
        _session: &mut Session,
    ) -> Result<(), Self::Error> {
        keys.truncate(MAX_ANNOUNCED);
        self.shared.announced.send_replace(Some(keys));
        Ok(())
    }

    async fn auth_banner(&mut self, banner: &str, _: &mut Session) -> Result<(), Self::Error> {
        self.shared.banner.send_modify(|all| {
            let room = MAX_BANNER.saturating_sub(all.chars().count());
            all.extend(sanitize(banner).chars().take(room));
        });
        Ok(())
    }

    async fn channel_open_confirmation(
        &mut self,
        id: ChannelId,
        _max_packet_size: u32,
        _window_size: u32,
        _session: &mut Session,
    ) -> Result<(), Self::Error> {
        self.shared.confirmed(id);
        Ok(())
    }

    async fn channel_open_failure(
        &mut self,
        _id: ChannelId,
        _reason: ChannelOpenFailure,
        description: &str,
        _language: &str,
        _session: &mut Session,
    ) -> Result<(), Self::Error> {
        self.shared.refused.note(description);
        Ok(())
    }

    async fn channel_success(&mut self, id: ChannelId, _: &mut Session) -> Result<(), Self::Error> {
        if let Some(inbox) = self.shared.inbox(id) {
            inbox.set_accepted(true);
        }
        Ok(())
    }

    async fn channel_failure(&mut self, id: ChannelId, _: &mut Session) -> Result<(), Self::Error> {
        if let Some(inbox) = self.shared.inbox(id) {
            inbox.set_accepted(false);
        }
        Ok(())
    }

    async fn data(
        &mut self,
        id: ChannelId,
        data: &[u8],
        _: &mut Session,
    ) -> Result<(), Self::Error> {
        self.receive(id, STDOUT, data).await;
        Ok(())
    }

    async fn extended_data(
        &mut self,
        id: ChannelId,
        ext: u32,
        data: &[u8],
        _: &mut Session,
    ) -> Result<(), Self::Error> {
        // 1 is standard error (RFC 4254, section 5.2); no other number is defined.
        if ext == 1 {
            self.receive(id, STDERR, data).await;
        }
        Ok(())
    }

    async fn exit_status(
        &mut self,
        id: ChannelId,
        exit_status: u32,
        _: &mut Session,
    ) -> Result<(), Self::Error> {
        if let Some(inbox) = self.shared.inbox(id) {
            if self.shared.tap.is_on() {
                self.shared.tap.came(id, "exit", exit_status.to_string().as_bytes());
            }
            inbox.set_exit(ExitReport::Status(exit_status));
        }
        Ok(())
    }

    async fn exit_signal(
        &mut self,
        id: ChannelId,
        signal: Sig,
        _core_dumped: bool,
        _message: &str,
        _language: &str,
        _: &mut Session,
    ) -> Result<(), Self::Error> {
        if let Some(inbox) = self.shared.inbox(id) {
            let name = super::signal::name(&signal);
            self.shared.tap.came(id, "exit", name.as_bytes());
            inbox.set_exit(ExitReport::Signal(name));
        }
        Ok(())
    }

    async fn channel_eof(&mut self, id: ChannelId, _: &mut Session) -> Result<(), Self::Error> {
        if let Some(inbox) = self.shared.inbox(id) {
            self.shared.tap.came(id, "eof", &[]);
            inbox.set_eof();
        }
        Ok(())
    }

    async fn channel_close(&mut self, id: ChannelId, _: &mut Session) -> Result<(), Self::Error> {
        if self.shared.tap.is_on() && self.shared.inbox(id).is_some() {
            self.shared.tap.came(id, "close", &[]);
        }
        self.shared.channel_closed(id);
        Ok(())
    }

    async fn disconnected(
        &mut self,
        reason: DisconnectReason<Self::Error>,
    ) -> Result<(), Self::Error> {
        match reason {
            DisconnectReason::ReceivedDisconnect(info) => {
                self.shared
                    .set_cause(LossCause::Disconnected(sanitize_short(&info.message, MAX_REASON)));
                Ok(())
            }
            DisconnectReason::Error(error) => {
                if let SessionError::Russh(error) = &error {
                    self.shared.set_cause(loss_cause(error));
                }
                Err(error)
            }
        }
    }

    fn server_channel_open_session(
        &mut self,
        _: Channel<Msg>,
        reply: ChannelOpenHandle,
        _: &mut Session,
    ) -> impl Future<Output = Result<(), Self::Error>> + Send {
        refuse("session", reply)
    }

    fn server_channel_open_direct_tcpip(
        &mut self,
        _: Channel<Msg>,
        _: &str,
        _: u32,
        _: &str,
        _: u32,
        reply: ChannelOpenHandle,
        _: &mut Session,
    ) -> impl Future<Output = Result<(), Self::Error>> + Send {
        refuse("direct-tcpip", reply)
    }

    fn server_channel_open_direct_streamlocal(
        &mut self,
        _: Channel<Msg>,
        _: &str,
        reply: ChannelOpenHandle,
        _: &mut Session,
    ) -> impl Future<Output = Result<(), Self::Error>> + Send {
        refuse("direct-streamlocal", reply)
    }

    fn server_channel_open_x11(
        &mut self,
        _: Channel<Msg>,
        _: &str,
        _: u32,
        reply: ChannelOpenHandle,
        _: &mut Session,
    ) -> impl Future<Output = Result<(), Self::Error>> + Send {
        refuse("x11", reply)
    }

    async fn server_channel_open_forwarded_tcpip(
        &mut self,
        channel: Channel<Msg>,
        address: &str,
        port: u32,
        _: &str,
        _: u32,
        reply: ChannelOpenHandle,
        _: &mut Session,
    ) -> Result<(), Self::Error> {
        match self.shared.remote_forwards.tcp(address, port) {
            // Boxed, here and below: the task of every connection has room for the largest of these.
            Some(owner) => Box::pin(owner.give(channel, reply)).await,
            None => return refuse("forwarded-tcpip", reply).await,
        }
        Ok(())
    }

    async fn server_channel_open_forwarded_streamlocal(
        &mut self,
        channel: Channel<Msg>,
        path: &str,
        reply: ChannelOpenHandle,
        _: &mut Session,
    ) -> Result<(), Self::Error> {
        match self.shared.remote_forwards.unix(path) {
            Some(owner) => Box::pin(owner.give(channel, reply)).await,
            None => return refuse("forwarded-streamlocal", reply).await,
        }
        Ok(())
    }

    async fn server_channel_open_agent_forward(
        &mut self,
        channel: Channel<Msg>,
        reply: ChannelOpenHandle,
        _: &mut Session,
    ) -> Result<(), Self::Error> {
        match self.shared.lender.get().and_then(|lender| lender.serve(channel)) {
            Some(()) => reply.accept().await,
            None => return refuse("auth-agent", reply).await,
        }
        Ok(())
    }

    fn server_channel_open_unknown(
        &mut self,
        _: Channel<Msg>,
        reply: ChannelOpenHandle,
        _: &mut Session,
    ) -> impl Future<Output = Result<(), Self::Error>> + Send {
        refuse("unknown", reply)
    }
}

/// Returns russh's error in the words of a status.
pub(super) fn loss_cause(error: &russh::Error) -> LossCause {
    match error {
        russh::Error::KeepaliveTimeout | russh::Error::InactivityTimeout => LossCause::KeepAlive,
        russh::Error::HUP | russh::Error::Disconnect | russh::Error::ConnectionTimeout => {
            LossCause::Closed
        }
        russh::Error::IO(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => {
            LossCause::Closed
        }
        russh::Error::NoAuthMethod => LossCause::NoMethod,
        russh::Error::IO(error) => LossCause::Io(error.to_string()),
        russh::Error::SshEncoding(russh::keys::ssh_encoding::Error::CharacterEncoding) => {
            LossCause::NotText
        }
        other => LossCause::Protocol(sanitize(&other.to_string())),
    }
}
