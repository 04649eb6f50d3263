//! Accepting clients: the peer check, and HTTP/1.1 on each connection.

use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use hyper::StatusCode;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use occ_proto::Problem;
use socket2::SockRef;
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::{Semaphore, oneshot, watch};
use tokio::time::{MissedTickBehavior, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt as _;

use crate::api::{self, Service};
use crate::audit::Who;
use crate::descriptors::{ClientStream, Passed};
use crate::in_flight::InFlight;
use crate::peer::Peer;
use crate::policy::{Asker, GrantInForce};
use crate::wire::{self, Turn, Wire};

/// How long a client may take to send a request's head.
const HEADER_TIME: Duration = Duration::from_secs(5);
/// The send buffer asked for on a client's socket; the system's limit (`net.core.wmem_max`) may be less. With
/// the default a bulk stream wakes both ends for every 200 KiB.
const SEND_BUFFER: usize = 1024 * 1024;
/// The most clients, as far as there are file descriptors; and those that are left for hosts and files.
const CLIENTS: usize = 16 * 1024;
const RESERVED: usize = 512;
/// Where there are not so many descriptors, clients have one in so many.
const SHARE: usize = 4;
/// How many are heard at a time though there are too many, and how long one of them may take to ask. The others are told at
/// once that there are, whatever they want.
const TOLD: usize = 64;
const REQUEST: Duration = Duration::from_secs(1);
/// Clients of the read-only socket at a time. More wait in line.
const LOOKING: usize = 512;
/// Clients of a grant at a time. More wait in line.
const GRANTED: usize = 128;
/// The pause after a failed accept. It fails when file descriptors run out, and then it fails again at
/// once: the pause keeps the loop from spinning until some are free.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// A sign of life that somebody waits for.
pub struct Pulse {
    /// How often.
    pub period: Duration,
    /// Gives it.
    pub beat: Box<dyn Fn() + Send + Sync>,
}

impl std::fmt::Debug for Pulse {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pulse").field("period", &self.period).finish_non_exhaustive()
    }
}

/// Serves clients until `stop` is cancelled; then lets running requests end. The pulse comes from here and nowhere
/// else: it ends when no client is accepted any more. `leaving` is told of each client that leaves.
pub async fn serve(
    listener: UnixListener,
    service: Service,
    clients: TaskTracker,
    pulse: Option<Pulse>,
    leaving: watch::Sender<()>,
    stop: CancellationToken,
) {
    let most = most_clients();
    let no_place = api::no_place(most);
    let refusal = wire::last_answer(&no_place);
    let heard = InFlight::default();
    let mut next = pulse.as_ref().map(|pulse| {
        let mut next = tokio::time::interval(pulse.period);
        next.set_missed_tick_behavior(MissedTickBehavior::Delay);
        next
    });
    let mut due = async || match &mut next {
        Some(next) => _ = next.tick().await,
        None => std::future::pending().await,
    };
    loop {
        let event = tokio::select! {
            biased;
            () = stop.cancelled() => return,
            () = due() => None,
            accepted = accept(&listener) => Some(accepted),
        };
        let Some(accepted) = event else {
            if let Some(pulse) = &pulse {
                (pulse.beat)();
            }
            continue;
        };
        let Some(stream) = accepted else { continue };
        if let Err(error) = SockRef::from(&stream).set_send_buffer_size(SEND_BUFFER) {
            tracing::debug!(%error, "the send buffer stays as it is");
        }
        if service.door.clients() >= most {
            service.door.answered(StatusCode::TOO_MANY_REQUESTS);
            // Those who are heard take a descriptor for a moment, too.
            if heard.count() < TOLD.min(most) {
                let (flying, away) = (heard.begin(), no_place.clone());
                let told = turn_away(stream, service.router.clone(), away);
                clients.spawn(async move {
                    told.await;
                    drop(flying);
                });
            } else if let Err(error) = SockRef::from(&stream).send(&refusal) {
                // It has gone: what nobody has read anything of yet has room for that.
                tracing::debug!(%error, "a client was not told that there are too many");
            }
            continue;
        }
        let passed = Passed::default();
        passed.keep(service.door.let_in());
        let served = client(stream, passed, service.clone(), Asker::default(), stop.clone());
        let leaving = leaving.clone();
        clients.spawn(async move {
            served.await;
            leaving.send_replace(());
        });
    }
}

/// Serves those who only look, so many at a time, until `stop` is cancelled.
pub async fn serve_looks(
    listener: UnixListener,
    service: Service,
    clients: TaskTracker,
    stop: CancellationToken,
) {
    let looks = |stream| {
        let asker = Asker { only_looks: true, ..Asker::default() };
        let passed = Passed::default();
        passed.keep(service.door.let_in());
        let served = client(stream, passed, service.clone(), asker, CancellationToken::new());
        async {
            served.await;
            Ok(())
        }
    };
    // The owner's own clients come first.
    serve_each(LOOKING.min(most_clients() / 4), || accept(&listener), &clients, &stop, looks).await;
}

/// Returns how many clients there may be: each takes a file descriptor, and hosts need some, too.
pub fn most_clients() -> usize {
    let files = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    let files = files.and_then(|files| usize::try_from(files).ok()).unwrap_or(usize::MAX);
    files.saturating_sub(RESERVED).max(files / SHARE).min(CLIENTS)
}

/// Tells a client that there are too many; a sign of life is given to it all the same.
async fn turn_away(stream: UnixStream, router: Router, no_place: Box<Problem>) {
    let service = service_fn(move |request: hyper::Request<Incoming>| {
        let (router, no_place) = (router.clone(), no_place.clone());
        async move {
            if request.uri().path() == api::ALIVE {
                return router.oneshot(request.map(Body::new)).await;
            }
            Ok::<_, Infallible>(api::refuse(no_place))
        }
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service);
    // One that does not ask, or does not listen, is gone, which is as well.
    let _ = timeout(REQUEST, connection).await;
}

/// Serves clients with `client`, so many at a time, until `end` is cancelled. More wait in line.
pub async fn serve_each<S, A, C>(
    places: usize,
    accept: impl Fn() -> A,
    tasks: &TaskTracker,
    end: &CancellationToken,
    client: impl Fn(S) -> C,
) where
    A: Future<Output = Option<S>>,
    C: Future<Output = io::Result<()>> + Send + 'static,
{
    let places = Arc::new(Semaphore::new(places));
    loop {
        let place = tokio::select! {
            () = end.cancelled() => return,
            place = Arc::clone(&places).acquire_owned() => place,
        };
        let accepted = tokio::select! {
            () = end.cancelled() => return,
            accepted = accept() => accepted,
        };
        let Some(stream) = accepted else { continue };
        let (served, end) = (client(stream), end.clone());
        tasks.spawn(async move {
            let _place = place;
            if let Some(Err(error)) = end.run_until_cancelled(served).await {
                tracing::debug!(%error, "a client ended");
            }
        });
    }
}

/// Accepts a client of a port of this machine; nothing when that fails.
pub async fn accept_tcp(listener: &TcpListener) -> Option<TcpStream> {
    match listener.accept().await {
        Ok((stream, _)) => Some(stream),
        Err(error) => {
            tracing::error!(%error, "could not accept a client of a forward");
            tokio::time::sleep(ACCEPT_PAUSE).await;
            None
        }
    }
}

/// Accepts a client of this user's; nothing when it was none.
pub async fn accept(listener: &UnixListener) -> Option<UnixStream> {
    accept_of(listener, false).await
}

async fn accept_of(listener: &UnixListener, any_uid: bool) -> Option<UnixStream> {
    match listener.accept().await {
        // Before a byte is read. A peer that cannot be told is nobody's.
        Ok((stream, _)) => (any_uid || is_ours(&stream)).then_some(stream),
        Err(error) => {
            tracing::error!(%error, "could not accept a client");
            tokio::time::sleep(ACCEPT_PAUSE).await;
            None
        }
    }
}

fn is_ours(stream: &UnixStream) -> bool {
    let me = rustix::process::geteuid().as_raw();
    match stream.peer_cred() {
        // Root can do anything to this process anyway.
        Ok(peer) if peer.uid() == me || peer.uid() == 0 => true,
        Ok(peer) => {
            tracing::warn!(uid = peer.uid(), pid = peer.pid(), "refused a client of another user");
            false
        }
        Err(error) => {
            tracing::warn!(%error, "refused a client whose user cannot be told");
            false
        }
    }
}

/// Serves the clients of a grant, so many at a time, until `end` is cancelled; then whatever they have open ends, too.
pub async fn serve_grant(
    listener: UnixListener,
    service: Service,
    grant: Arc<GrantInForce>,
    any_uid: bool,
    tasks: TaskTracker,
    end: CancellationToken,
) {
    let client = |stream| {
        let asker = Asker { grant: Some(Arc::clone(&grant)), ..Asker::default() };
        let (passed, (here, gone)) = (Passed::default(), oneshot::channel::<()>());
        passed.keep(here);
        let served = client(stream, passed, service.clone(), asker, CancellationToken::new());
        async {
            served.await;
            // What has become a stream has its place until it ends, too.
            let _ = gone.await;
            Ok(())
        }
    };
    let accept = || accept_of(&listener, any_uid);
    serve_each(GRANTED.min(most_clients() / 4), accept, &tasks, &end, client).await;
}

async fn client(
    stream: UnixStream,
    passed: Passed,
    service: Service,
    asker: Asker,
    stop: CancellationToken,
) {
    let peer = Peer::of(&stream);
    let asker = Asker { peer, who: Who::of(peer), ..asker };
    let Service { router, door } = service;
    let turn = Turn::default();
    let turns = turn.clone();
    let stream = Wire::new(ClientStream::new(stream, passed.clone()), turn.clone(), door);
    let service = service_fn(move |mut request: hyper::Request<Incoming>| {
        turn.begin();
        let (router, turn) = (router.clone(), turn.clone());
        request.extensions_mut().insert(passed.clone());
        request.extensions_mut().insert(asker.clone());
        request.extensions_mut().insert(turn.clone());
        async move {
            let response: Result<_, Infallible> = router.oneshot(request.map(Body::new)).await;
            response.map(|response| turn.answer(response))
        }
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    tokio::pin!(connection);
    let served = async {
        tokio::select! {
            result = &mut connection => result,
            () = stop.cancelled() => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        }
    };
    tokio::pin!(served);
    let result = tokio::select! {
        result = &mut served => result,
        () = turns.head_is_late(HEADER_TIME) => {
            turns.give_up();
            timeout(HEADER_TIME, served).await.unwrap_or(Ok(()))
        }
    };
    if let Err(error) = result {
        tracing::debug!(%error, "a client's connection ended");
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
    use std::sync::mpsc::{self, RecvTimeoutError};

    use axum::extract::ws::WebSocketUpgrade;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    const PERIOD: Duration = Duration::from_millis(20);
    /// Guards against hanging.
    const GUARD: Duration = Duration::from_secs(30);

    #[test]
    fn the_pulse_ends_while_nothing_of_the_runtime_runs() {
        const WORKERS: usize = 2;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let mut runtime = tokio::runtime::Builder::new_multi_thread();
        let runtime = runtime.worker_threads(WORKERS).enable_all().build().unwrap();
        let (clients, stop) = (TaskTracker::new(), CancellationToken::new());
        let (beats, seen) = mpsc::sync_channel(1000);
        let beat = Box::new(move || beats.send(()).unwrap());
        let listener = runtime.block_on(async { UnixListener::bind(&path) }).unwrap();
        let pulse = Some(Pulse { period: PERIOD, beat });
        let (leaving, _) = watch::channel(());
        let served =
            serve(listener, Service::default(), clients.clone(), pulse, leaving, stop.clone());
        clients.spawn_on(served, runtime.handle());
        for _ in 0..3 {
            seen.recv_timeout(GUARD).unwrap();
        }
        // Every worker is kept from its work, as a defect would.
        let (stalled, all_stalled) = mpsc::sync_channel(WORKERS);
        let release: Vec<_> = (0..WORKERS)
            .map(|_| {
                let (release, released) = mpsc::sync_channel::<()>(1);
                let stalled = stalled.clone();
                clients.spawn_on(
                    async move {
                        stalled.send(()).unwrap();
                        released.recv().unwrap();
                    },
                    runtime.handle(),
                );
                release
            })
            .collect();
        for _ in 0..WORKERS {
            all_stalled.recv_timeout(GUARD).unwrap();
        }
        while seen.try_recv().is_ok() {}
        assert_eq!(seen.recv_timeout(PERIOD * 20), Err(RecvTimeoutError::Timeout));
        for release in release {
            release.send(()).unwrap();
        }
        seen.recv_timeout(GUARD).unwrap();
        stop.cancel();
    }

    #[tokio::test]
    async fn a_grants_clients_are_so_many_at_a_time_and_more_wait_in_line() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let listener = UnixListener::bind(&path).unwrap();
        let most = GRANTED.min(most_clients() / 4);
        let (end, at_work) = (CancellationToken::new(), Arc::new(AtomicUsize::new(0)));
        let release = Arc::new(Semaphore::new(0));
        let router = Router::new().fallback({
            let (at_work, release) = (Arc::clone(&at_work), Arc::clone(&release));
            async move |upgrade: WebSocketUpgrade| {
                upgrade.on_upgrade(async move |_stream| {
                    at_work.fetch_add(1, SeqCst);
                    release.acquire().await.unwrap().forget();
                })
            }
        });
        let service = Service { router, ..Service::default() };
        let grant = GrantInForce {
            name: "g".into(),
            host: "h".parse().unwrap(),
            policy: crate::policy::PolicyConfig::of_grant("g", &[], None),
            ends_at: jiff::Timestamp::now(),
            over: end.clone(),
        };
        let tasks = TaskTracker::new();
        let serving =
            serve_grant(listener, service, Arc::new(grant), true, tasks.clone(), end.clone());
        tasks.spawn(serving);
        let mut clients = Vec::new();
        let handshake = "GET / HTTP/1.1\r\nHost: h\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\
                         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
        let more = most + 16;
        for _ in 0..more {
            let mut client = UnixStream::connect(&path).await.unwrap();
            client.write_all(handshake.as_bytes()).await.unwrap();
            clients.push(client);
        }
        // Whatever could happen by itself has happened then: this is all one thread.
        for _ in 0..100_000 {
            tokio::task::yield_now().await;
        }
        assert_eq!(at_work.load(SeqCst), most);
        release.add_permits(more);
        for mut client in clients {
            let mut answer = String::new();
            client.read_to_string(&mut answer).await.unwrap();
            assert!(answer.starts_with("HTTP/1.1 101 "), "{answer}");
        }
        end.cancel();
    }
}
