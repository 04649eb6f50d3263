//! Unix sockets of this machine that speak to the engines of hosts: for the docker program, compose, editors.
//!
//! They are asked for by name and kept until somebody takes them away, also over a restart of the daemon.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixListener as StdListener;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

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
use crate::socket::SocketFile;
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
    /// Held from the look for a host's socket until it is there: two that were made at once would have one path.
    open: Mutex<BTreeMap<HostName, OpenSocket>>,
    tasks: TaskTracker,
    stop: CancellationToken,
    guard: Arc<Guard>,
    clients: InFlight,
}

/// A socket that is served, and its file, until it is dropped.
#[derive(Debug)]
struct OpenSocket {
    host: HostHandle,
    file: SocketFile,
    _end: DropGuard,
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
        let wanted = state_file::load(&file, "no Docker socket is opened");
        let dir = dir.to_owned();
        let (wanted, open) = (Mutex::new(wanted), Mutex::default());
        Self { dir, file, wanted, open, tasks, stop, guard, clients: InFlight::default() }
    }

    fn wanted(&self) -> MutexGuard<'_, BTreeSet<HostName>> {
        self.wanted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<HostName, OpenSocket>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Brings the sockets in line with the hosts there are.
    pub fn follow(&self, hosts: &[HostHandle]) {
        let mut all = self.lock();
        all.retain(|name, open| {
            hosts.iter().any(|host| host.name() == name && host.is_same(&open.host))
        });
        for host in hosts {
            if all.contains_key(host.name()) || !self.wanted().contains(host.name()) {
                continue;
            }
            match self.listen(host) {
                Ok(open) => _ = all.insert(host.name().clone(), open),
                Err(error) => tracing::error!(host = %host.name(), %error, "no Docker socket"),
            }
        }
    }

    /// Returns the socket of a host, which is there from now on.
    pub fn open(&self, host: &HostHandle) -> io::Result<PathBuf> {
        let path = match self.lock().entry(host.name().clone()) {
            Entry::Occupied(there) => return Ok(there.get().file.path().to_owned()),
            Entry::Vacant(place) => place.insert(self.listen(host)?).file.path().to_owned(),
        };
        let is_new = self.wanted().insert(host.name().clone());
        if is_new && let Err(error) = self.save() {
            // What the next daemon would not open is not open now, either.
            self.wanted().remove(host.name());
            self.lock().remove(host.name());
            return Err(error);
        }
        Ok(path)
    }

    /// Takes a host's socket away. Returns whether there was one.
    pub fn close(&self, name: &HostName) -> io::Result<bool> {
        let was_wanted = self.wanted().remove(name);
        if was_wanted && let Err(error) = self.save() {
            self.wanted().insert(name.clone());
            return Err(error);
        }
        let mut all = self.lock();
        Ok(all.remove(name).is_some() || was_wanted)
    }

    /// Returns whether a host, which need not be there, has a socket as soon as it is.
    pub fn is_wanted(&self, name: &HostName) -> bool {
        self.wanted().contains(name)
    }

    /// Returns a host's socket, if there is one.
    pub fn path(&self, name: &HostName) -> Option<PathBuf> {
        self.lock().get(name).map(|open| open.file.path().to_owned())
    }

    /// Returns how many clients all of them have.
    pub fn clients(&self) -> usize {
        self.clients.count()
    }

    fn save(&self) -> io::Result<()> {
        state_file::save(&self.file, &*self.wanted())
    }

    /// Makes a host's socket and serves it.
    fn listen(&self, host: &HostHandle) -> io::Result<OpenSocket> {
        let path = self.dir.join(docker_socket_name(host.name()));
        if path.as_os_str().len() > MAX_SOCKET_PATH {
            let text = format!("the path {} is too long for a socket", path.display());
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
        let (file, listener) = bind(&path)?;
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
        Ok(OpenSocket { host: host.clone(), file, _end: end.drop_guard() })
    }
}

/// Binds a socket that only its owner may use. The directory is private, so nobody else comes to it before.
fn bind(path: &Path) -> io::Result<(SocketFile, UnixListener)> {
    match std::fs::remove_file(path) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let listener = StdListener::bind(path)?;
    let file = SocketFile::of(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    listener.set_nonblocking(true)?;
    Ok((file, UnixListener::from_std(listener)?))
}
