//! What keeps a forward: one task for each, which listens here, or has the host listen, for as long as it is wanted.

use std::sync::{Arc, Weak};
use std::time::Duration;

use occ_proto::forward::{Direction, Endpoint};
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::Forwards;
use super::listen::{self, Listener};
use super::owner;
use super::relay::relay;
use super::running::Running;
use super::serve;
use super::stream::LocalStream;
use crate::ssh::error::chain;
use crate::ssh::{Connection, Incoming, ListenError, RemoteListener};
use crate::used::Autoconnect;
use crate::{exec, server};

/// Clients of one forward at a time. More wait in line; on a host, they are turned away.
const CLIENTS: usize = 512;
/// How soon what is taken is tried again at first: by the forward before, whose end is on its way.
const FIRST_RETRY: Duration = Duration::from_millis(100);
/// How soon it is tried again in the end: the server may hold a port for a connection whose end it has not seen.
const LAST_RETRY: Duration = Duration::from_secs(15);
/// How often a host that is idle is dialled for what it is to listen on.
const GLANCE: Duration = Duration::from_secs(15);

/// Removes a socket, and nothing else.
const REMOVE: &str = r#"test -S "$1" && rm -f -- "$1""#;

/// Keeps a forward until `end` is cancelled. `listeners` are those there are already.
pub(super) async fn keep(
    running: Arc<Running>,
    listeners: Vec<Listener>,
    forwards: Weak<Forwards>,
    tasks: TaskTracker,
    end: CancellationToken,
) {
    if running.record.direction == Direction::Remote {
        return there(&running, &forwards, &tasks, &end).await;
    }
    let listeners = if listeners.is_empty() {
        let listening = listen(&running);
        match end.run_until_cancelled(listening).await {
            Some(listeners) => listeners,
            None => return,
        }
    } else {
        listeners
    };
    running.listens();
    // Whoever wants it will use it; where nothing is to be connected at the start, that is waited for.
    let autoconnect = running.host.snapshot().settings.autoconnect;
    if !running.restored || autoconnect != Autoconnect::None {
        running.host.glance();
    }
    let each = listeners.iter().map(|listener| {
        let client = |stream| serve::client(stream, Arc::clone(&running));
        server::serve_each(CLIENTS, || listener.accept(), &tasks, &end, client)
    });
    futures_util::future::join_all(each).await;
}

/// Listens here, as soon as that is possible.
async fn listen(running: &Running) -> Vec<Listener> {
    let mut pause = FIRST_RETRY;
    loop {
        match listen::bind(&running.record.listen).await {
            Ok((listeners, _)) => return listeners,
            Err(error) => running.refused(&format!("{}.", chain(&error))),
        }
        sleep(pause).await;
        pause = (pause * 2).min(LAST_RETRY);
    }
}

/// Has each connection of the host listen, one after the other.
async fn there(
    running: &Arc<Running>,
    forwards: &Weak<Forwards>,
    tasks: &TaskTracker,
    end: &CancellationToken,
) {
    let places = Arc::new(Semaphore::new(CLIENTS));
    let mut on = running.record.listen.clone();
    let mut pause = FIRST_RETRY;
    // One that is remembered was listened on before.
    let mut known = running.restored;
    loop {
        let connected = end.run_until_cancelled(connected(running)).await;
        let Some(Some(connection)) = connected else { return };
        let listening = end.run_until_cancelled(ask(running, &connection, &on, known)).await;
        let Some(listening) = listening else { return };
        let mut listener = match listening {
            Ok(listener) => listener,
            Err(error) => {
                match &error {
                    ListenError::Lost(_) => running.waits(),
                    error => {
                        running.refused(&format!("{}: {}.", running.host.name(), chain(error)));
                    }
                }
                let wait = async {
                    tokio::select! {
                        () = sleep(pause) => {}
                        () = running.host.other_than(&connection) => {}
                    }
                };
                if end.run_until_cancelled(wait).await.is_none() {
                    return;
                }
                pause = (pause * 2).min(LAST_RETRY);
                continue;
            }
        };
        (pause, known) = (FIRST_RETRY, true);
        if let (Endpoint::Tcp { port, .. }, Some(taken)) = (&mut on, listener.port())
            && *port != taken
        {
            *port = taken;
            if let Some(forwards) = forwards.upgrade() {
                forwards.found_port(&running.record.id, &on);
            }
        }
        match end.run_until_cancelled(is_narrowed(running, &on)).await {
            Some(true) => running.listens_but(&format!(
                "{}: only programs of the host reach it: its sshd_config says so (GatewayPorts).",
                running.host.name()
            )),
            Some(false) => running.listens(),
            None => return listener.end().await,
        }
        let stays = {
            let serving = serve_there(running, &mut listener, &places, tasks, end);
            tokio::select! {
                () = end.cancelled() => false,
                () = serving => true,
                // It takes no new work, or has ended.
                () = running.host.other_than(&connection) => true,
            }
        };
        // What runs through it goes on.
        listener.end().await;
        if !stays {
            // OpenSSH leaves it behind, and would make it no second time.
            if let Endpoint::Unix { path } = &on {
                remove(running, path).await;
            }
            return;
        }
        running.waits();
    }
}

/// Returns whether the server listens on its loopback alone though others were to be let in. OpenSSH's says yes to the
/// address and takes another; where the host tells (Linux), it is looked at.
async fn is_narrowed(running: &Running, on: &Endpoint) -> bool {
    let Some(port) = on.port().filter(|_| on.is_public()) else { return false };
    let tables = exec::look(&running.host, &["cat", "/proc/net/tcp", "/proc/net/tcp6"]).await;
    let tables = String::from_utf8_lossy(&tables.unwrap_or_default()).into_owned();
    owner::is_on_loopback_alone(&tables, port) == Some(true)
}

/// Returns the host's connection, when there is one; nothing when the host is no more.
async fn connected(running: &Running) -> Option<Arc<Connection>> {
    loop {
        running.host.glance();
        if let Ok(connection) = timeout(GLANCE, running.host.next_connection()).await {
            return connection;
        }
    }
}

/// Has the server listen. A socket of which it is `known` that we had it made, and which nobody listens on any more, is
/// replaced: OpenSSH leaves it behind.
async fn ask(
    running: &Running,
    connection: &Arc<Connection>,
    on: &Endpoint,
    known: bool,
) -> Result<RemoteListener, ListenError> {
    let asked = connection.listen(on).await;
    let (Err(ListenError::NoSocket(path)), true) = (&asked, known) else { return asked };
    if connection.streamlocal(path).await.is_ok() {
        return asked;
    }
    if remove(running, path).await { connection.listen(on).await } else { asked }
}

/// Removes a socket on the host. Returns whether it was there and is not any more.
async fn remove(running: &Running, path: &str) -> bool {
    exec::look(&running.host, &["sh", "-c", REMOVE, "sh", path]).await.is_some()
}

async fn serve_there(
    running: &Arc<Running>,
    listener: &mut RemoteListener,
    places: &Arc<Semaphore>,
    tasks: &TaskTracker,
    end: &CancellationToken,
) {
    while let Some(incoming) = listener.accept().await {
        let Ok(place) = Arc::clone(places).try_acquire_owned() else {
            incoming.refuse().await;
            continue;
        };
        let (running, end) = (Arc::clone(running), end.clone());
        tasks.spawn(async move {
            let _place = place;
            end.run_until_cancelled(client_there(incoming, &running)).await;
        });
    }
}

/// Serves a client on the host to its end.
async fn client_there(incoming: Incoming, running: &Arc<Running>) {
    let _open = running.connection();
    let Some(to) = &running.record.to else {
        return serve::client_of_socks(incoming, running).await;
    };
    let stream = LocalStream::connect(to).await.and_then(|stream| {
        stream.at_once()?;
        Ok(stream)
    });
    match stream {
        Ok(stream) => {
            let channel = incoming.accept().await;
            let relayed = relay(stream, bytes::Bytes::new(), channel, &running.counts).await;
            if let Err(broken) = relayed {
                running.broke(&broken);
            }
        }
        Err(error) => {
            incoming.refuse().await;
            running.failed(&format!("nothing answers at {to} of this machine ({error})."));
        }
    }
}
