//! Accepting connections, and what happens on them before russh gets them.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use russh::server::{Config, run_stream};
use russh::{MethodKind, MethodSet, SshId};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::Shared;
use super::faults::{Banner, Phase};
use super::handler::HostHandler;
use super::stream::{EndOnRead, Tap};

/// How long connections may take to end with the host: killing and reaping their programs.
const WIND_UP: Duration = Duration::from_secs(10);

/// What a web server says to `SSH-2.0-…`.
const BAD_REQUEST: &[u8] =
    b"HTTP/1.1 400 Bad Request\r\nServer: testkit\r\nContent-Type: text/html\r\n\
    Content-Length: 15\r\nConnection: close\r\n\r\n<h1>400</h1>\r\n\r\n";

impl Shared {
    /// Returns when the server does not stall in `phase`, which is at once as a rule.
    pub(super) async fn pass(&self, phase: Phase) {
        // The sender is part of `self`, so waiting cannot fail.
        let _ = self.faults.subscribe().wait_for(|faults| faults.stall != Some(phase)).await;
    }
}

/// Counts something as open while it lives.
#[derive(Debug)]
pub(super) struct Counted(Arc<AtomicUsize>);

impl Counted {
    pub(super) fn new(counter: &Arc<AtomicUsize>) -> Self {
        counter.fetch_add(1, Ordering::SeqCst);
        Self(Arc::clone(counter))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

pub(super) async fn accept_loop(
    listener: std::net::TcpListener,
    shared: Arc<Shared>,
    stop: CancellationToken,
) {
    let listener = TcpListener::from_std(listener).unwrap();
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => break,
            Some(_) = connections.join_next() => None,
            accepted = listener.accept() => Some(accepted),
        };
        match accepted {
            Some(Ok((stream, _))) => {
                shared.counters.accepted.fetch_add(1, Ordering::SeqCst);
                connections.spawn(serve(stream, Arc::clone(&shared), stop.child_token()));
            }
            // Out of file descriptors, most likely: accepting again at once would spin.
            Some(Err(_)) => tokio::time::sleep(Duration::from_millis(10)).await,
            None => {}
        }
    }
    let all = async { while connections.join_next().await.is_some() {} };
    let _ = tokio::time::timeout(WIND_UP, all).await;
}

/// Serves one connection to its end, its programs included.
async fn serve(stream: TcpStream, shared: Arc<Shared>, token: CancellationToken) {
    let _active = Counted::new(&shared.counters.active);
    let tasks = TaskTracker::new();
    let mut dropped = shared.drop_connections.subscribe();
    let session = Box::pin(session(stream, Arc::clone(&shared), token.clone(), tasks.clone()));
    let ended = async {
        tokio::pin!(session);
        tokio::select! {
            () = &mut session => return,
            _ = dropped.changed() => {}
        }
        token.cancel();
        session.await;
    };
    ended.await;
    token.cancel();
    tasks.close();
    tasks.wait().await;
}

async fn session(
    mut stream: TcpStream,
    shared: Arc<Shared>,
    token: CancellationToken,
    tasks: TaskTracker,
) {
    let _ = stream.set_nodelay(true);
    let banner = shared.faults.borrow().banner.clone();
    if banner != Banner::Ssh {
        tokio::select! {
            () = token.cancelled() => {}
            () = misbehave(&mut stream, banner) => {}
        }
        return;
    }
    tokio::select! {
        () = token.cancelled() => return,
        () = shared.pass(Phase::Banner) => {}
    }
    let config = config(&shared);
    let end_on_read = EndOnRead::default();
    let tap = Tap::new(stream, token.clone(), end_on_read.clone(), Arc::clone(&shared));
    let handler = HostHandler::new(shared, token, tasks, end_on_read);
    // An error is a client that went away or did not speak SSH: its own business.
    if let Ok(running) = run_stream(config, tap, handler).await {
        let _ = running.await;
    }
}

fn config(shared: &Shared) -> Arc<Config> {
    let host_key = shared.host_key.lock().unwrap().clone();
    let faults = shared.faults.borrow();
    let methods: &[MethodKind] = match (faults.ask_passwords, faults.ask_twice) {
        (_, true) => &[MethodKind::KeyboardInteractive],
        (true, false) => &[MethodKind::PublicKey, MethodKind::Password],
        (false, false) => &[MethodKind::PublicKey],
    };
    Arc::new(Config {
        server_id: SshId::Standard("SSH-2.0-testkit_1".into()),
        methods: MethodSet::from(methods),
        // Tests offer wrong keys on purpose, and no attacker is to be slowed down.
        auth_rejection_time: Duration::ZERO,
        max_auth_attempts: 20,
        keys: vec![host_key],
        // Each connection's life is decided by its client and by the test.
        inactivity_timeout: None,
        event_buffer_size: 100,
        ..Config::default()
    })
}

async fn misbehave(stream: &mut TcpStream, banner: Banner) {
    let mut buffer = vec![0; 4096];
    let (bytes, stay) = match banner {
        Banner::Ssh => return,
        Banner::Garbage(bytes) => (bytes, true),
        Banner::Farewell(bytes) => (bytes, false),
        Banner::Http => {
            let _ = stream.read(&mut buffer).await;
            (BAD_REQUEST.to_vec(), false)
        }
    };
    let _ = stream.write_all(&bytes).await;
    if !stay {
        let _ = stream.shutdown().await;
    }
    // Closing with unread bytes would send a reset, which may overtake what was written.
    while matches!(stream.read(&mut buffer).await, Ok(1..)) {}
}
