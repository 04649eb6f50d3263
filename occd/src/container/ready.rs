//! A host's engine made ready for clients of Docker's own protocol: streams that are open ahead, since opening one
//! costs a round trip, and the answer to `/_ping`, with which every client begins.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use super::DockerError;
use super::head::{self, Ping};
use super::way::{Opened, Stream, Way};
use crate::host::HostHandle;

/// Streams that are open ahead: a client begins with one or two.
const AHEAD: usize = 2;
/// How long the engine may take to answer `/_ping`.
const PING: Duration = Duration::from_secs(10);
/// How long until an engine that does not answer is asked again.
const RETRY: Duration = Duration::from_secs(2);

/// A host's engine.
#[derive(Debug)]
pub(super) struct Ready {
    host: HostHandle,
    live: watch::Sender<Option<Arc<Live>>>,
}

/// The engine over one connection of the host.
pub(super) struct Live {
    way: Way,
    /// What the engine answers to `/_ping`.
    pub(super) ping: Ping,
    ahead: Mutex<VecDeque<Opened>>,
}

impl std::fmt::Debug for Live {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Live").field("way", &self.way).finish_non_exhaustive()
    }
}

impl Ready {
    /// Returns the engine of a host, about which nothing is known yet.
    pub(super) fn new(host: HostHandle) -> Self {
        Self { host, live: watch::Sender::new(None) }
    }

    /// Returns the host.
    pub(super) fn host(&self) -> &HostHandle {
        &self.host
    }

    /// Returns the engine, if it is there.
    pub(super) fn live(&self) -> Option<Arc<Live>> {
        self.live.borrow().clone()
    }

    /// Waits until the engine is there.
    pub(super) async fn until_live(&self) -> Arc<Live> {
        let mut live = self.live.subscribe();
        loop {
            if let Some(live) = live.borrow_and_update().clone() {
                return live;
            }
            // The sender is ours.
            let _ = live.changed().await;
        }
    }

    /// Keeps the engine ready, as long as there is the host.
    pub(super) async fn keep(&self) {
        // Where a program stands in for the socket, a connection may be there because there are many clients: they
        // are not to wait until it has answered once more.
        let mut by_program = None;
        while let Some(connection) = self.host.next_connection().await {
            let socket = self.host.snapshot().settings.docker_socket.clone();
            let known = by_program.take().filter(|(_, at)| *at == socket).map(|(ping, _)| ping);
            let host = Some(self.host.clone());
            let making_ready = async {
                loop {
                    match Way::to_host(&connection, socket.as_deref(), host.clone()).await {
                        Ok(way) => match Live::over(way, known.clone()).await {
                            Ok(live) => return live,
                            Err(error) => {
                                tracing::debug!(error = error.for_log(), "the engine is not ready");
                            }
                        },
                        Err(error) => {
                            tracing::debug!(
                                error = error.for_log(),
                                "there is no way to an engine"
                            );
                        }
                    }
                    sleep(RETRY).await;
                }
            };
            let (host, wanted) = (&self.host, socket.as_deref());
            let another = async {
                tokio::select! {
                    () = host.other_than(&connection) => {}
                    () = host.docker_socket_other_than(wanted) => {}
                }
            };
            let mut another = std::pin::pin!(another);
            tokio::select! {
                live = making_ready => {
                    by_program = live.way.is_program().then(|| (live.ping.clone(), socket.clone()));
                    self.live.send_replace(Some(live));
                }
                () = &mut another => continue,
            }
            another.await;
            self.live.send_replace(None);
        }
    }
}

impl Live {
    /// Asks the engine for its answer to `/_ping` and opens streams ahead, of which the one that asked is the first.
    /// `known` is its answer, where it has been asked and a program stands in for the socket.
    async fn over(way: Way, known: Option<Ping>) -> Result<Arc<Self>, DockerError> {
        if let Some(ping) = known {
            way.by_program();
            return Ok(Arc::new(Self { way, ping, ahead: Mutex::default() }));
        }
        let mut opened = way.open().await?;
        let path = way.path();
        let asked = timeout(PING, ask(&mut opened.stream)).await;
        let Ok(Ok(ping)) = asked else {
            let source = match (opened.refusal, asked) {
                (Some(refusal), _) => refusal.into(),
                (None, Ok(Err(error))) => error.into(),
                (None, _) => "it does not answer".into(),
            };
            return Err(DockerError::Down { path, source });
        };
        way.answered(opened.refusal.as_ref());
        let ahead = if way.is_program() { VecDeque::new() } else { VecDeque::from([opened]) };
        let live = Arc::new(Self { way, ping, ahead: Mutex::new(ahead) });
        live.refill();
        Ok(live)
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Opened>> {
        self.ahead.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns a stream on which nothing was sent: one that is open ahead and that the engine has not closed, else a
    /// new one.
    pub(super) async fn stream(self: &Arc<Self>) -> Result<Opened, DockerError> {
        let open = {
            let mut ahead = self.lock();
            ahead.retain(|opened| !opened.stream.is_ended());
            ahead.pop_front()
        };
        self.refill();
        match open {
            Some(opened) => Ok(opened),
            None => self.way.open().await,
        }
    }

    /// Returns whether a program stands in for the socket.
    pub(super) fn is_program(&self) -> bool {
        self.way.is_program()
    }

    /// Opens streams ahead, in the background.
    fn refill(self: &Arc<Self>) {
        // They would take sessions from others.
        if self.way.is_program() {
            return;
        }
        let live = Arc::clone(self);
        self.way.spawn(async move {
            while live.lock().len() < AHEAD {
                match live.way.open().await {
                    Ok(opened) => live.lock().push_back(opened),
                    Err(error) => {
                        tracing::debug!(%error, "no stream is opened ahead");
                        return;
                    }
                }
            }
        });
    }
}

/// Asks for the answer to `/_ping` and leaves the stream as new.
async fn ask(stream: &mut Box<dyn Stream>) -> std::io::Result<Ping> {
    stream.write_all(b"GET /_ping HTTP/1.1\r\nHost: docker\r\n\r\n").await?;
    let mut buffer = BytesMut::new();
    loop {
        if let Some(ping) = head::answer(&buffer)? {
            return Ok(ping);
        }
        if stream.read_buf(&mut buffer).await? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
    }
}
