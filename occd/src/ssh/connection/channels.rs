//! Opening channels: sessions, of which a server has only so many, and the ways to sockets.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use russh::ChannelOpenFailure;
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout};

use super::Connection;
use crate::ssh::channel::{Channel, RawChannel};
use crate::ssh::error::{ChannelError, LossCause};
use crate::ssh::sessions::{CROWDED, LINGERING, StreamPlace};

/// How long the server may take to open a channel.
const CHANNEL_OPEN: Duration = Duration::from_secs(10);
/// How long after the spare was taken the next one is opened: the command that took it goes first, and a server
/// that starts a program at that moment answers it 5 % sooner.
const REFILL_AFTER: Duration = Duration::from_millis(3);

/// How long what stands by waits for a session: less than what has others ask for another connection.
const STANDS_BY: Duration = Duration::from_millis(800);

/// How long the line for streams stands still until those in it give up: as long as a command waits.
const PATIENCE: Duration = Duration::from_secs(30);

#[derive(Debug)]
pub(super) enum Kind {
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

/// Work on a connection, see [`Connection::work`].
#[derive(Debug)]
pub struct Work(Arc<Connection>);

impl Drop for Work {
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

impl Connection {
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
            if !fresh && let Some(channel) = self.spare_session() {
                return Ok((channel, true));
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

    /// Returns the session that stands by, if there is one. Another takes its place soon.
    fn spare_session(self: &Arc<Self>) -> Option<Channel> {
        let raw = self.take_spare()?;
        let connection = Arc::clone(self);
        self.spawn(async move {
            tokio::time::sleep(REFILL_AFTER).await;
            connection.refill_spare().await;
        });
        Some(Channel::new(raw, Arc::clone(self)))
    }

    /// Returns a session if there is room for one at this moment, and nobody waits for it: for what may as well not be done.
    pub async fn session_at_once(self: &Arc<Self>) -> Option<Channel> {
        if self.is_closed() || self.waiting.load(Ordering::SeqCst) > 0 {
            return None;
        }
        if self.sessions.begin(false) {
            match self.open(Kind::Session).await {
                Ok(raw) => return Some(Channel::new(raw, Arc::clone(self))),
                // Whoever waits for a session may ask for itself.
                Err(_) => self.shared.freed.notify_one(),
            }
        }
        // A server that grants few may have none but that.
        self.spare_session()
    }

    /// Returns a session for a stream, which may last: it leaves others to commands, and waits in a line in which
    /// each comes in its turn, so that commands meet one of them at a time. What is crowded asks for another
    /// connection, unless it stands by: that gives up. So does everybody in the line when no stream has ended for
    /// long. Beware of [`ChannelError::Retired`], as with every session.
    pub async fn stream_session(
        self: &Arc<Self>,
        stands_by: bool,
    ) -> Result<Channel, ChannelError> {
        if !stands_by {
            let in_turn = async {
                let _turn = self.stream_turn.lock().await;
                self.next_stream_session(false).await
            };
            let nothing_ends =
                async { while timeout(PATIENCE, self.stream_freed.notified()).await.is_ok() {} };
            return tokio::select! {
                biased;
                session = in_turn => session,
                () = nothing_ends => Err(ChannelError::Full(PATIENCE)),
            };
        }
        // No more than is there at once: nobody waits for it.
        let waiting = async {
            let _turn = self.stream_turn.lock().await;
            self.next_stream_session(true).await
        };
        timeout(STANDS_BY, waiting).await.unwrap_or(Err(ChannelError::Full(STANDS_BY)))
    }

    async fn next_stream_session(
        self: &Arc<Self>,
        stands_by: bool,
    ) -> Result<Channel, ChannelError> {
        let place = loop {
            let freed = self.stream_freed.notified();
            tokio::pin!(freed);
            freed.as_mut().enable();
            // One that has no channel left is closed as well.
            if self.shared.retired.load(Ordering::SeqCst) {
                return Err(ChannelError::Retired);
            }
            if self.is_closed() {
                return Err(ChannelError::Lost(self.cause()));
            }
            if self.sessions.begin_stream(stands_by) {
                break StreamPlace::new(self, stands_by);
            }
            let waited = tokio::select! {
                waited = timeout(CROWDED, freed) => waited,
                () = self.shared.closed.cancelled() => continue,
            };
            if waited.is_err() && !stands_by {
                self.shared.bulk.cancel();
            }
        };
        let (mut channel, _) = self.session(false).await?;
        channel.hold(place);
        Ok(channel)
    }

    pub(in crate::ssh) fn stream_ended(&self, stands_by: bool) {
        self.sessions.stream_ended(stands_by);
        self.stream_freed.notify_waiters();
    }

    /// Returns a channel to a Unix socket on the host.
    pub async fn streamlocal(self: &Arc<Self>, path: &str) -> Result<Channel, ChannelError> {
        let _busy = Busy::new(self);
        let raw = self.open(Kind::Streamlocal(path.to_owned())).await?;
        Ok(Channel::new(raw, Arc::clone(self)))
    }

    /// Returns a channel to a TCP port that is reached from the host, for an SSH connection of its own: its
    /// bytes do not make this one a bulk connection, since others may have to go on sharing it.
    pub async fn transport(
        self: &Arc<Self>,
        address: &str,
        port: u16,
    ) -> Result<Channel, ChannelError> {
        let raw = self.open_tcp(address, port).await?;
        raw.inbox.set_transport();
        Ok(Channel::new(raw, Arc::clone(self)))
    }

    /// Returns a channel to a TCP port that is reached from the host.
    pub async fn direct_tcpip(
        self: &Arc<Self>,
        address: &str,
        port: u16,
    ) -> Result<Channel, ChannelError> {
        Ok(Channel::new(self.open_tcp(address, port).await?, Arc::clone(self)))
    }

    async fn open_tcp(
        self: &Arc<Self>,
        address: &str,
        port: u16,
    ) -> Result<RawChannel, ChannelError> {
        let _busy = Busy::new(self);
        let before = self.shared.refused.count();
        match self.open(Kind::Tcp(address.to_owned(), port)).await {
            Err(ChannelError::Refused(reason)) if reason == PROHIBITED => {
                Err(ChannelError::Prohibited)
            }
            Err(ChannelError::Refused(reason)) => {
                // The answer overtakes the words that came with it, inside this process.
                let _ = timeout(CHANNEL_OPEN, self.round_trip()).await;
                Err(ChannelError::Refused(match self.shared.refused.words_since(before) {
                    Some(words) => format!("{reason}: {words}"),
                    None => reason,
                }))
            }
            opened => opened,
        }
    }

    /// Opens a channel in a task of its own, so that a caller who leaves in the middle does not leave
    /// behind a channel that the server has opened and nobody owns.
    pub(super) async fn open(self: &Arc<Self>, kind: Kind) -> Result<RawChannel, ChannelError> {
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

    /// Counts as work on the connection until it is dropped: for what goes over channels that stand by.
    pub fn work(self: &Arc<Self>) -> Work {
        self.channel_opened();
        Work(Arc::clone(self))
    }

    pub(in crate::ssh) fn channel_opened(&self) {
        self.shared.active.fetch_add(1, Ordering::SeqCst);
    }

    /// A channel is in use no longer; `session` when the server has one session less for us.
    pub(in crate::ssh) fn channel_ended(self: &Arc<Self>, session: bool) {
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

    pub(in crate::ssh) fn one_less(&self) {
        if self.shared.active.fetch_sub(1, Ordering::SeqCst) > 1 {
            return;
        }
        // Who closes it waits for the last, which may be one that never came to be a channel.
        self.shared.freed.notify_waiters();
        if self.shared.retired.load(Ordering::SeqCst) {
            self.kill(LossCause::Ours);
        }
    }
}
