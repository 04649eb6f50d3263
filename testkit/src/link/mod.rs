//! [`FaultyLink`]: a TCP proxy on the loopback whose faults are switched while it runs.
//!
//! What a proxy above TCP cannot do: delay or lose the handshake itself (a connect is answered by the
//! kernel at once), and withhold the kernel's acknowledgements. So a sender in a black hole sees its
//! buffers fill and its window close rather than segments go unacknowledged.

mod pipe;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::ports;
use crate::wait::blocking;
use crate::worker::Worker;
use pipe::Direction;

/// Connections that may wait to be accepted; as many as a burst of tests makes.
const BACKLOG: u32 = 1024;

/// How long an orderly close waits for the other sides before it just closes.
const ORDERLY_CLOSE: Duration = Duration::from_secs(1);

/// The receive buffer of a narrow link, in bytes.
const NARROW: usize = 64 * 1024;
/// How long the listener may take to follow [`FaultyLink::refuse`].
const SWITCH: Duration = Duration::from_secs(10);

/// The faults in force.
#[derive(Debug, Clone, Default)]
struct Toxics {
    latency: Duration,
    bandwidth: Option<u64>,
    blackhole: bool,
    slice: Option<usize>,
    stall_after: Option<u64>,
}

/// How connections are ended on request.
#[derive(Debug, Clone, Copy)]
enum End {
    Reset,
    Close,
}

#[derive(Debug)]
struct Shared {
    target: SocketAddr,
    toxics: watch::Sender<Toxics>,
    refuse: watch::Sender<bool>,
    refusing: AtomicBool,
    end: watch::Sender<End>,
    accepted: AtomicU64,
    active: AtomicU64,
    to_server: AtomicU64,
    to_client: AtomicU64,
}

/// A TCP proxy to one target, with faults. It runs on a thread of its own and ends when dropped.
#[derive(Debug)]
pub struct FaultyLink {
    addr: SocketAddr,
    shared: Arc<Shared>,
    _worker: Worker,
}

impl FaultyLink {
    /// Starts a link to `target` on a free loopback port, without any fault.
    pub fn start(target: SocketAddr) -> Self {
        Self::start_on(ports::listen(), target)
    }

    /// The same with small buffers in the kernel, so that what the link holds up is soon held up everywhere. They
    /// are otherwise as large as several of SSH's windows.
    pub fn start_narrow(target: SocketAddr) -> Self {
        let listener = ports::listen();
        // Inherited by what is accepted.
        rustix::net::sockopt::set_socket_recv_buffer_size(&listener, NARROW).unwrap();
        Self::start_on(listener, target)
    }

    fn start_on(listener: std::net::TcpListener, target: SocketAddr) -> Self {
        let shared = Arc::new(Shared {
            target,
            toxics: watch::Sender::new(Toxics::default()),
            refuse: watch::Sender::new(false),
            refusing: AtomicBool::new(false),
            end: watch::Sender::new(End::Close),
            accepted: AtomicU64::new(0),
            active: AtomicU64::new(0),
            to_server: AtomicU64::new(0),
            to_client: AtomicU64::new(0),
        });
        listener.set_nonblocking(true).unwrap();
        let addr = listener.local_addr().unwrap();
        let worker = Worker::start("faulty-link", |stop| {
            let shared = Arc::clone(&shared);
            async move { accept_loop(listener, addr, shared, stop).await }
        });
        Self { addr, shared, _worker: worker }
    }

    /// Returns the address that clients connect to instead of the target's.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Returns the port of [`Self::addr`].
    pub fn port(&self) -> u16 {
        self.addr.port()
    }

    /// Delays what is read from now on by `one_way` in each direction. The bandwidth stays: what is
    /// under way is held in a queue (256 MiB at most).
    pub fn set_latency(&self, one_way: Duration) {
        self.shared.toxics.send_modify(|toxics| toxics.latency = one_way);
    }

    /// Limits each direction of each connection to this many bytes per second.
    pub fn set_bandwidth(&self, bytes_per_second: Option<u64>) {
        self.shared.toxics.send_modify(|toxics| toxics.bandwidth = bytes_per_second);
    }

    /// Makes the link swallow everything without a word: connections stay open, new ones are accepted,
    /// nothing is read and nothing forwarded, not even an end. Switched off, everything goes on.
    pub fn blackhole(&self, on: bool) {
        self.shared.toxics.send_modify(|toxics| toxics.blackhole = on);
    }

    /// Closes the listener, so that new connections are refused; existing ones stay. Switched off, the
    /// same port listens again. In force when it returns.
    pub fn refuse(&self, on: bool) {
        self.shared.refuse.send_replace(on);
        blocking::wait_until(
            "the link's listener to follow",
            SWITCH,
            || self.shared.refusing.load(Ordering::SeqCst),
            |refusing| *refusing == on,
        );
    }

    /// Ends every open connection with a reset on both sides.
    pub fn reset_all(&self) {
        self.shared.end.send_replace(End::Reset);
    }

    /// Ends every open connection in order, with an end of file on both sides. What is still in the
    /// link's queues is lost.
    pub fn close_all(&self) {
        self.shared.end.send_replace(End::Close);
    }

    /// Forwards in writes of at most this many bytes.
    pub fn slice(&self, bytes: Option<usize>) {
        self.shared.toxics.send_modify(|toxics| toxics.slice = bytes.map(|n| n.max(1)));
    }

    /// Forwards the first `bytes` from the server on each connection and then nothing more of it, not
    /// even its end; the other direction goes on. `None` lets the rest through.
    pub fn stall_after(&self, bytes: Option<u64>) {
        self.shared.toxics.send_modify(|toxics| toxics.stall_after = bytes);
    }

    /// Returns the number of connections accepted so far.
    pub fn connections(&self) -> u64 {
        self.shared.accepted.load(Ordering::SeqCst)
    }

    /// Returns the number of connections open now.
    pub fn active(&self) -> u64 {
        self.shared.active.load(Ordering::SeqCst)
    }

    /// Returns the bytes forwarded so far: to the server, to the client. They are counted just after they
    /// were written, so a receiver may be ahead of the count.
    pub fn bytes(&self) -> (u64, u64) {
        let load = |counter: &AtomicU64| counter.load(Ordering::SeqCst);
        (load(&self.shared.to_server), load(&self.shared.to_client))
    }
}

/// Returns a socket that holds the port; until it listens, connections to it are refused.
fn hold(addr: SocketAddr) -> std::io::Result<TcpSocket> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.bind(addr)?;
    Ok(socket)
}

async fn accept_loop(
    listener: std::net::TcpListener,
    addr: SocketAddr,
    shared: Arc<Shared>,
    stop: CancellationToken,
) {
    let mut refuse = shared.refuse.subscribe();
    // It may have been told before this began to listen.
    refuse.mark_changed();
    let mut connections = JoinSet::new();
    let mut listener = TcpListener::from_std(listener).unwrap();
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => break,
            Some(_) = connections.join_next() => None,
            Ok(()) = refuse.changed() => None,
            accepted = listener.accept() => Some(accepted),
        };
        match accepted {
            Some(Ok((client, _))) => {
                shared.accepted.fetch_add(1, Ordering::SeqCst);
                connections.spawn(serve(client, Arc::clone(&shared)));
            }
            // Out of file descriptors, most likely: accepting again at once would spin.
            Some(Err(_)) => tokio::time::sleep(Duration::from_millis(10)).await,
            None => {}
        }
        if *refuse.borrow() {
            drop(listener);
            // Whoever looks at this process's files in /proc at this moment keeps the listener for as long as that takes.
            let held = loop {
                match hold(addr) {
                    Ok(held) => break held,
                    Err(_) if stop.is_cancelled() => return,
                    Err(_) => tokio::time::sleep(Duration::from_millis(1)).await,
                }
            };
            shared.refusing.store(true, Ordering::SeqCst);
            tokio::select! {
                () = stop.cancelled() => break,
                _ = refuse.wait_for(|refuse| !refuse) => {}
            }
            listener = held.listen(BACKLOG).unwrap();
            shared.refusing.store(false, Ordering::SeqCst);
        }
    }
    connections.shutdown().await;
}

/// Counts a connection as open while it lives.
struct Active<'a>(&'a AtomicU64);

impl<'a> Active<'a> {
    fn new(counter: &'a AtomicU64) -> Self {
        counter.fetch_add(1, Ordering::SeqCst);
        Self(counter)
    }
}

impl Drop for Active<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

async fn serve(mut client: TcpStream, shared: Arc<Shared>) {
    let _active = Active::new(&shared.active);
    let mut end = shared.end.subscribe();
    let mut toxics = shared.toxics.subscribe();
    let connect = async {
        // An error means that the link is gone, and then this task is too.
        let _ = toxics.wait_for(|toxics| !toxics.blackhole).await;
        TcpStream::connect(shared.target).await
    };
    let connected = tokio::select! {
        _ = end.changed() => None,
        connected = connect => connected.ok(),
    };
    let Some(mut server) = connected else {
        // A target that refuses is passed on as well as an accepted connection can.
        let _ = client.set_zero_linger();
        return;
    };
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let how = {
        let (from_client, to_client) = client.split();
        let (from_server, to_server) = server.split();
        let up = pipe::run(from_client, to_server, &shared, Direction::ToServer);
        let down = pipe::run(from_server, to_client, &shared, Direction::ToClient);
        tokio::select! {
            _ = end.changed() => Some(*end.borrow()),
            done = async { tokio::try_join!(up, down) } => done.err().map(|_| End::Reset),
        }
    };
    match how {
        None => {}
        Some(End::Reset) => {
            let _ = (client.set_zero_linger(), server.set_zero_linger());
        }
        // Closing with unread bytes would send a reset: both ends are read out first.
        Some(End::Close) => {
            let both = async { tokio::join!(finish(&mut client), finish(&mut server)) };
            let _ = tokio::time::timeout(ORDERLY_CLOSE, both).await;
        }
    }
}

async fn finish(stream: &mut TcpStream) {
    let _ = stream.shutdown().await;
    let mut rest = vec![0; 64 * 1024];
    while matches!(stream.read(&mut rest).await, Ok(1..)) {}
}
