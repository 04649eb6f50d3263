//! Listeners on the server: what it may open channels for, and nothing else.
//!
//! A server opens a channel for each client of a listener. The connection's handler looks up who asked for that
//! listener and hands the channel over; one that nobody asked for is refused.

use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use occ_proto::forward::Endpoint;
use russh::ChannelOpenFailure;
use russh::client::{ChannelOpenHandle, Msg};
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::channel::{Channel, RawChannel};
use super::connection::Connection;
use super::connection::channels::Work;
use super::error::LossCause;

/// Clients of a listener that wait to be taken: as many as come in one burst on a busy machine. Each is taken at once by
/// a task of its own.
const WAITING: usize = 1024;
/// How long the server may take to answer.
const ANSWER: Duration = Duration::from_secs(10);

/// What one connection's server listens on for us.
#[derive(Debug, Default)]
pub(super) struct RemoteForwards(Mutex<Vec<Arc<Asked>>>);

/// A listener that was asked for.
#[derive(Debug)]
struct Asked {
    on: Endpoint,
    /// The port that the server took; 0 as long as it is not known.
    port: AtomicU16,
    clients: mpsc::Sender<Opened>,
}

impl Asked {
    fn is_on_port(&self, port: u16) -> bool {
        let own = self.port.load(Ordering::SeqCst);
        // Its answer, which names the port, may still be on the way to whoever asked.
        self.on.port().is_some() && (own == port || own == 0)
    }
}

/// A channel that the server wants to open.
struct Opened {
    channel: russh::Channel<Msg>,
    reply: ChannelOpenHandle,
}

impl RemoteForwards {
    fn lock(&self) -> MutexGuard<'_, Vec<Arc<Asked>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns whoever asked for a TCP listener.
    pub(super) fn tcp(&self, address: &str, port: u32) -> Option<Owner> {
        let port = u16::try_from(port).ok()?;
        let asked = self.lock();
        let mut there = asked.iter().filter(|one| one.is_on_port(port));
        let is_address = |one: &&Arc<Asked>| matches!(&one.on, Endpoint::Tcp { host, .. } if as_sent(host) == address);
        // Not every server repeats the address as it was asked for.
        let found = there.clone().find(is_address).or_else(|| there.next())?;
        Some(Owner(found.clients.clone()))
    }

    /// Returns whoever asked for a Unix socket.
    pub(super) fn unix(&self, path: &str) -> Option<Owner> {
        let is_it =
            |one: &&Arc<Asked>| matches!(&one.on, Endpoint::Unix { path: own } if own == path);
        self.lock().iter().find(is_it).map(|found| Owner(found.clients.clone()))
    }
}

/// Takes the channels of a listener.
pub(super) struct Owner(mpsc::Sender<Opened>);

impl Owner {
    /// Hands a channel over, or turns it away when too many wait.
    pub(super) async fn give(&self, channel: russh::Channel<Msg>, reply: ChannelOpenHandle) {
        if let Err(error) = self.0.try_send(Opened { channel, reply }) {
            error.into_inner().reply.reject(ChannelOpenFailure::ResourceShortage).await;
        }
    }
}

/// Returns an address as it is sent: all of them are the empty one (RFC 4254, section 7.1).
fn as_sent(host: &str) -> &str {
    if host == "*" { "" } else { host }
}

/// Why the server does not listen.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ListenError {
    /// It listens on nothing for us.
    #[error("the server forbids it (in its sshd_config: {0})")]
    Prohibited(&'static str),
    /// It would listen elsewhere.
    #[error("{0} is taken on the host")]
    Taken(Endpoint),
    /// A port that is root's.
    #[error("only root may listen on port {0} of the host")]
    Privileged(u16),
    /// A socket that it does not make.
    #[error(
        "the server does not make the socket {0}: it exists, its directory is missing or not ours, \
         or its sshd_config forbids it (AllowStreamLocalForwarding, DisableForwarding)"
    )]
    NoSocket(String),
    /// It did not answer.
    #[error("the server did not answer within {} s", .0.as_secs())]
    Timeout(Duration),
    /// The connection ended meanwhile.
    #[error("the connection was lost")]
    Lost(#[source] LossCause),
}

/// The settings of OpenSSH's server that decide on ports.
const PORT_SETTINGS: &str = "AllowTcpForwarding, PermitListen, DisableForwarding";

/// A listener on the server. Dropping it ends it, in the background.
#[derive(Debug)]
pub struct RemoteListener {
    connection: Arc<Connection>,
    asked: Arc<Asked>,
    clients: mpsc::Receiver<Opened>,
    ended: bool,
    /// The connection is in use as long as the server may have clients for us.
    _work: Work,
}

impl std::fmt::Debug for Opened {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Opened").field("channel", &self.channel.id()).finish_non_exhaustive()
    }
}

impl Connection {
    /// Has the server listen.
    ///
    /// # Errors
    /// When it does not.
    pub async fn listen(self: &Arc<Self>, on: &Endpoint) -> Result<RemoteListener, ListenError> {
        let (sender, clients) = mpsc::channel(WAITING);
        let port = AtomicU16::new(on.port().unwrap_or_default());
        let asked = Arc::new(Asked { on: on.clone(), port, clients: sender });
        // It may have a client before its answer is here.
        self.shared().remote_forwards.lock().push(Arc::clone(&asked));
        let _work = self.work();
        let listener =
            RemoteListener { connection: Arc::clone(self), asked, clients, ended: false, _work };
        match self.ask_to_listen(on).await {
            Ok(port) => {
                if port != 0 {
                    listener.asked.port.store(port, Ordering::SeqCst);
                }
                Ok(listener)
            }
            Err(error) => {
                // A late answer is a listener without an owner: it is ended like one.
                let mut listener = listener;
                listener.ended = !matches!(error, ListenError::Timeout(_));
                Err(error)
            }
        }
    }

    async fn ask_to_listen(self: &Arc<Self>, on: &Endpoint) -> Result<u16, ListenError> {
        match on {
            Endpoint::Unix { path } => {
                match self.answer(self.handle().streamlocal_forward(path.as_str())).await? {
                    Some(()) => Ok(0),
                    None => Err(ListenError::NoSocket(path.clone())),
                }
            }
            Endpoint::Tcp { host, port } => {
                let address = as_sent(host);
                let asking = self.handle().tcpip_forward(address, u32::from(*port));
                match self.answer(asking).await? {
                    Some(taken) => Ok(u16::try_from(taken).unwrap_or_default()),
                    None => Err(self.why_not(on, address, *port).await?),
                }
            }
        }
    }

    /// A refusal has no words (RFC 4254, section 4). What a server says to another port tells what it was.
    async fn why_not(
        self: &Arc<Self>,
        on: &Endpoint,
        address: &str,
        port: u16,
    ) -> Result<ListenError, ListenError> {
        if port == 0 {
            return Ok(ListenError::Prohibited(PORT_SETTINGS));
        }
        let other = self.answer(self.handle().tcpip_forward(address, 0)).await?;
        let Some(other) = other else { return Ok(ListenError::Prohibited(PORT_SETTINGS)) };
        let ended = self.handle().cancel_tcpip_forward(address, other);
        if self.answer(ended).await?.is_none() {
            tracing::debug!(port = other, "the server did not end a listener");
        }
        Ok(match port {
            1..1024 if self.user() != "root" => ListenError::Privileged(port),
            _ => ListenError::Taken(on.clone()),
        })
    }

    /// Waits for the answer to a request; nothing is a refusal.
    async fn answer<T>(
        &self,
        asking: impl Future<Output = Result<T, russh::Error>>,
    ) -> Result<Option<T>, ListenError> {
        let closed = self.closed();
        let answered = tokio::select! {
            answered = timeout(ANSWER, asking) => answered,
            () = closed.cancelled() => return Err(ListenError::Lost(self.cause())),
        };
        match answered {
            Ok(Ok(answer)) => Ok(Some(answer)),
            Ok(Err(russh::Error::RequestDenied)) => Ok(None),
            Ok(Err(_)) => Err(ListenError::Lost(self.cause())),
            Err(_) => Err(ListenError::Timeout(ANSWER)),
        }
    }
}

impl RemoteListener {
    /// Returns the port that the server took, if it is one.
    pub fn port(&self) -> Option<u16> {
        self.asked.on.port().map(|_| self.asked.port.load(Ordering::SeqCst))
    }

    /// Waits for the next client; nothing when the connection has ended or is about to.
    pub async fn accept(&mut self) -> Option<Incoming> {
        let (closed, ending) = (self.connection.closed(), self.connection.ending());
        let opened = tokio::select! {
            opened = self.clients.recv() => opened?,
            () = closed.cancelled() => return None,
            () = ending.cancelled() => return None,
        };
        Some(Incoming { connection: Arc::clone(&self.connection), opened })
    }

    /// Has the server listen no more, and waits until it says so.
    pub async fn end(mut self) {
        self.forget();
        let ending = end(Arc::clone(&self.connection), Arc::clone(&self.asked));
        self.ended = true;
        ending.await;
    }

    fn forget(&self) {
        let mut all = self.connection.shared().remote_forwards.lock();
        all.retain(|one| !Arc::ptr_eq(one, &self.asked));
    }
}

impl Drop for RemoteListener {
    fn drop(&mut self) {
        self.forget();
        if !self.ended && !self.connection.is_closed() {
            let ending = end(Arc::clone(&self.connection), Arc::clone(&self.asked));
            self.connection.spawn(ending);
        }
    }
}

async fn end(connection: Arc<Connection>, asked: Arc<Asked>) {
    let port = u32::from(asked.port.load(Ordering::SeqCst));
    let handle = connection.handle();
    let ended = match &asked.on {
        Endpoint::Tcp { host, .. } => {
            connection.answer(handle.cancel_tcpip_forward(as_sent(host), port)).await
        }
        Endpoint::Unix { path } => {
            connection.answer(handle.cancel_streamlocal_forward(path.as_str())).await
        }
    };
    if !matches!(ended, Ok(Some(()))) {
        tracing::debug!(on = %asked.on, "the server did not say that it listens no more");
    }
}

/// A client of a listener on the server. Dropping it refuses it.
#[derive(Debug)]
pub struct Incoming {
    connection: Arc<Connection>,
    opened: Opened,
}

impl Incoming {
    /// Takes the client.
    pub async fn accept(self) -> Channel {
        let Self { connection, opened: Opened { channel, reply } } = self;
        // Before the server may send anything.
        let inbox = connection.shared().claim(channel.id());
        let (read, write) = channel.split();
        drop(read);
        reply.accept().await;
        Channel::new(RawChannel { session: false, write, inbox }, connection)
    }

    /// Turns the client away: there is nothing for it here.
    pub async fn refuse(self) {
        self.opened.reply.reject(ChannelOpenFailure::ConnectFailed).await;
    }
}
