//! Unix sockets of this machine that speak to the engines of hosts: for the docker program, compose, editors.
//!
//! They are asked for by name and kept until somebody takes them away, also over a restart of the daemon.

use std::collections::BTreeSet;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixListener as StdListener;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use dashmap::DashMap;
use occ_proto::HostName;
use occ_proto::paths::{MAX_SOCKET_PATH, docker_socket_name};
use tokio::net::UnixListener;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use super::ready::Ready;
use super::relay;
use crate::host::HostHandle;
use crate::in_flight::InFlight;
use crate::policy::Guard;
use crate::{server, state_file};

/// Clients of one socket at a time. More wait in line.
const CLIENTS: usize = 128;

/// The sockets of all hosts.
#[derive(Debug)]
pub struct DockerSockets {
    /// The directory of the control socket, which is private.
    dir: PathBuf,
    /// Remembers which hosts have one.
    file: PathBuf,
    wanted: Mutex<BTreeSet<HostName>>,
    open: DashMap<HostName, OpenSocket>,
    tasks: TaskTracker,
    stop: CancellationToken,
    guard: Arc<Guard>,
    clients: InFlight,
}

#[derive(Debug)]
struct OpenSocket {
    host: HostHandle,
    path: PathBuf,
    _end: DropGuard,
}

impl Drop for OpenSocket {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_file(&self.path)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(path = %self.path.display(), %error, "a Docker socket could not be removed");
        }
    }
}

impl DockerSockets {
    /// Returns the sockets below `dir` that are remembered in `state`, none of them open yet.
    pub fn new(
        dir: &Path,
        state: &Path,
        guard: Arc<Guard>,
        tasks: TaskTracker,
        stop: CancellationToken,
    ) -> Self {
        let file = state.join("docker-sockets.json");
        let read = match std::fs::read(&file) {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(io::Error::other),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(BTreeSet::new()),
            Err(error) => Err(error),
        };
        let wanted = read.unwrap_or_else(|error| {
            tracing::warn!(file = %file.display(), %error, "not read; no Docker socket is opened");
            BTreeSet::new()
        });
        let dir = dir.to_owned();
        let (wanted, open) = (Mutex::new(wanted), DashMap::new());
        Self { dir, file, wanted, open, tasks, stop, guard, clients: InFlight::default() }
    }

    fn wanted(&self) -> MutexGuard<'_, BTreeSet<HostName>> {
        self.wanted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Brings the sockets in line with the hosts there are.
    pub fn follow(&self, hosts: &[HostHandle]) {
        self.open.retain(|name, open| {
            hosts.iter().any(|host| host.name() == name && host.is_same(&open.host))
        });
        for host in hosts {
            let missing =
                !self.open.contains_key(host.name()) && self.wanted().contains(host.name());
            if missing && let Err(error) = self.listen(host) {
                tracing::error!(host = %host.name(), %error, "no Docker socket");
            }
        }
    }

    /// Returns the socket of a host, which is there from now on.
    pub fn open(&self, host: &HostHandle) -> io::Result<PathBuf> {
        if let Some(open) = self.open.get(host.name()) {
            return Ok(open.path.clone());
        }
        let path = self.listen(host)?;
        let is_new = self.wanted().insert(host.name().clone());
        if is_new {
            self.save()?;
        }
        Ok(path)
    }

    /// Takes a host's socket away. Returns whether there was one.
    pub fn close(&self, name: &HostName) -> io::Result<bool> {
        let was_wanted = self.wanted().remove(name);
        if was_wanted {
            self.save()?;
        }
        Ok(self.open.remove(name).is_some() || was_wanted)
    }

    /// Returns a host's socket, if there is one.
    pub fn path(&self, name: &HostName) -> Option<PathBuf> {
        self.open.get(name).map(|open| open.path.clone())
    }

    /// Returns how many clients all of them have.
    pub fn clients(&self) -> usize {
        self.clients.count()
    }

    fn save(&self) -> io::Result<()> {
        state_file::save(&self.file, &*self.wanted())
    }

    fn listen(&self, host: &HostHandle) -> io::Result<PathBuf> {
        let path = self.dir.join(docker_socket_name(host.name()));
        if path.as_os_str().len() > MAX_SOCKET_PATH {
            let text = format!("the path {} is too long for a socket", path.display());
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
        let listener = bind(&path)?;
        let end = self.stop.child_token();
        let ready = Arc::new(Ready::new(host.clone()));
        self.tasks.spawn({
            let (ready, end) = (Arc::clone(&ready), end.clone());
            async move {
                end.run_until_cancelled(ready.keep()).await;
            }
        });
        let (tasks, token) = (self.tasks.clone(), end.clone());
        let (guard, clients) = (Arc::clone(&self.guard), self.clients.clone());
        self.tasks.spawn(async move {
            let accept = || server::accept(&listener);
            let client = |client| {
                let (ready, guard) = (Arc::clone(&ready), Arc::clone(&guard));
                let flying = clients.begin();
                async move {
                    let _flying = flying;
                    relay::serve(client, &ready, &guard).await
                }
            };
            server::serve_each(CLIENTS, accept, &tasks, &token, client).await;
        });
        let open = OpenSocket { host: host.clone(), path: path.clone(), _end: end.drop_guard() };
        self.open.insert(host.name().clone(), open);
        Ok(path)
    }
}

/// Binds a socket that only its owner may use. The directory is private, so nobody else comes to it before.
fn bind(path: &Path) -> io::Result<UnixListener> {
    match std::fs::remove_file(path) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let listener = StdListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    listener.set_nonblocking(true)?;
    UnixListener::from_std(listener)
}
