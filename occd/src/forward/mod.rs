//! Ports of this machine that lead to ports of hosts. They outlive connections and the daemon: the same port of this
//! machine each time.

use std::collections::BTreeMap;
use std::io;
use std::net::{Ipv4Addr, TcpListener as StdListener};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use occ_proto::HostName;
use occ_proto::forward::{Forward, Service};
use tokio::net::TcpListener;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use crate::host::HostHandle;
use crate::{server, state_file};

mod by_name;
mod serve;

/// How far from the host's port one of this machine is looked for.
const NEARBY: u16 = 100;
/// Clients of one port at a time. More wait in line.
const CLIENTS: usize = 512;

/// What a port of this machine leads to.
#[derive(Debug, Clone)]
struct Target {
    host: HostHandle,
    address: String,
    port: u16,
}

/// All of them.
#[derive(Debug)]
pub struct Forwards {
    /// Remembers them.
    file: PathBuf,
    entries: Mutex<BTreeMap<(HostName, Service), Entry>>,
    by_name: Mutex<Option<ByName>>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

#[derive(Debug)]
struct Entry {
    known: Forward,
    open: Option<Open>,
}

#[derive(Debug)]
struct Open {
    target: Target,
    _end: DropGuard,
}

/// The port behind which a host is found by its name.
#[derive(Debug)]
struct ByName {
    port: u16,
    _end: DropGuard,
}

impl Forwards {
    /// Returns those that are remembered in `state`, none of them open yet.
    pub fn new(state: &Path, tasks: TaskTracker, stop: CancellationToken) -> Self {
        let file = state.join("forwards.json");
        let remembered: Vec<Forward> = match std::fs::read(&file) {
            Ok(bytes) => serde_json::from_slice(&bytes).unwrap_or_else(|error| {
                tracing::warn!(path = %file.display(), %error, "the forwards are not remembered");
                Vec::new()
            }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => {
                tracing::warn!(path = %file.display(), %error, "the forwards are not remembered");
                Vec::new()
            }
        };
        let entries = remembered
            .into_iter()
            .map(|known| ((known.host.clone(), known.service), Entry { known, open: None }));
        let entries = Mutex::new(entries.collect());
        Self { file, entries, by_name: Mutex::default(), tasks, stop }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<(HostName, Service), Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Opens those of these hosts and closes those of others. `by_name` is the port behind which hosts are found by
    /// name, if there is to be one.
    pub fn follow(self: &Arc<Self>, hosts: &[HostHandle], by_name: Option<u16>) {
        let mut changed = false;
        let mut entries = self.lock();
        for ((name, _), entry) in entries.iter_mut() {
            let host = hosts.iter().find(|host| host.name() == name);
            match (host, &entry.open) {
                (None, _) => entry.open = None,
                (Some(host), Some(open)) if open.target.host.is_same(host) => {}
                (Some(host), _) => {
                    let before = entry.known.local_port;
                    match self.listen(host, &entry.known) {
                        Ok((open, port)) => {
                            entry.open = Some(open);
                            entry.known.local_port = port;
                            changed |= port != before;
                        }
                        Err(error) => tracing::error!(host = %name, %error, "no forward"),
                    }
                }
            }
        }
        let any = entries.values().any(|entry| entry.open.is_some());
        drop(entries);
        if changed && let Err(error) = self.save() {
            tracing::error!(%error, "the forwards cannot be remembered");
        }
        self.listen_by_name(by_name.filter(|_| any));
    }

    /// Returns the port of this machine that leads to a port of a host, which is open from now on.
    ///
    /// # Errors
    /// When no port can be had, or it cannot be remembered.
    pub fn ensure(
        self: &Arc<Self>,
        host: &HostHandle,
        service: Service,
        to: (&str, u16),
        by_name: Option<u16>,
    ) -> io::Result<u16> {
        let (address, port) = to;
        let key = (host.name().clone(), service);
        let mut entries = self.lock();
        let known = entries.get(&key);
        let same = |entry: &&Entry| entry.known.address == address && entry.known.port == port;
        let kept = known.filter(same).map_or(port, |entry| entry.known.local_port);
        if let Some(entry) = known.filter(same)
            && entry.open.as_ref().is_some_and(|open| open.target.host.is_same(host))
        {
            return Ok(kept);
        }
        let mut forward = Forward {
            host: host.name().clone(),
            service,
            address: address.to_owned(),
            port,
            local_port: kept,
            open: false,
        };
        // The port that it had is free from now on.
        entries.remove(&key);
        let (open, local) = self.listen(host, &forward)?;
        forward.local_port = local;
        entries.insert(key, Entry { known: forward, open: Some(open) });
        drop(entries);
        self.save()?;
        self.listen_by_name(by_name);
        Ok(local)
    }

    /// Takes a forward away. Returns whether there was one.
    pub fn remove(&self, host: &HostName, service: Service) -> io::Result<bool> {
        let was = self.lock().remove(&(host.clone(), service)).is_some();
        if was {
            self.save()?;
        }
        Ok(was)
    }

    /// Returns all of them.
    pub fn list(&self) -> Vec<Forward> {
        let of = |entry: &Entry| Forward { open: entry.open.is_some(), ..entry.known.clone() };
        self.lock().values().map(of).collect()
    }

    /// Returns the port of this machine that leads to a service of a host.
    pub fn port(&self, host: &HostName, service: Service) -> Option<u16> {
        let entries = self.lock();
        let entry = entries.get(&(host.clone(), service))?;
        entry.open.as_ref().map(|_| entry.known.local_port)
    }

    /// Returns the names of the hosts whose sandbox is found by name.
    fn names(&self) -> Vec<String> {
        let entries = self.lock();
        let open = entries
            .iter()
            .filter(|((_, service), entry)| *service == Service::Sandbox && entry.open.is_some());
        open.map(|((name, _), _)| name.to_string()).collect()
    }

    /// Returns the port behind which hosts are found by name.
    pub fn by_name(&self) -> Option<u16> {
        let by_name = self.by_name.lock().unwrap_or_else(PoisonError::into_inner);
        by_name.as_ref().map(|by_name| by_name.port)
    }

    /// Returns the sandbox of a host, whose name comes from a browser, which knows no capital letters.
    fn sandbox_of(&self, name: &str) -> Option<Target> {
        let entries = self.lock();
        let found = entries.iter().find(|((host, service), _)| {
            *service == Service::Sandbox && host.as_str().eq_ignore_ascii_case(name)
        });
        found.and_then(|(_, entry)| entry.open.as_ref()).map(|open| open.target.clone())
    }

    fn save(&self) -> io::Result<()> {
        let known: Vec<Forward> = self.lock().values().map(|entry| entry.known.clone()).collect();
        state_file::save(&self.file, &known)
    }

    fn listen(&self, host: &HostHandle, forward: &Forward) -> io::Result<(Open, u16)> {
        let (listener, port) = bind(forward.local_port)?;
        let target =
            Target { host: host.clone(), address: forward.address.clone(), port: forward.port };
        let end = self.stop.child_token();
        let (to, token) = (target.clone(), end.clone());
        let tasks = self.tasks.clone();
        self.tasks.spawn(async move {
            let client = |stream| serve::client(stream, to.clone());
            let accept = || server::accept_tcp(&listener);
            server::serve_each(CLIENTS, accept, &tasks, &token, client).await;
        });
        Ok((Open { target, _end: end.drop_guard() }, port))
    }

    /// Listens for browsers that name a host, or no longer.
    fn listen_by_name(self: &Arc<Self>, port: Option<u16>) {
        let mut by_name = self.by_name.lock().unwrap_or_else(PoisonError::into_inner);
        if by_name.as_ref().map(|by_name| by_name.port) == port {
            return;
        }
        *by_name = None;
        let Some(port) = port else { return };
        let listener = match bind_to(port) {
            Ok(listener) => listener,
            Err(error) => {
                tracing::warn!(port, %error, "hosts cannot be reached by name");
                return;
            }
        };
        let end = self.stop.child_token();
        let (tasks, token) = (self.tasks.clone(), end.clone());
        // It owns this one.
        let forwards = Arc::downgrade(self);
        self.tasks.spawn(async move {
            let client = |stream| by_name::client(stream, forwards.clone());
            let accept = || server::accept_tcp(&listener);
            server::serve_each(CLIENTS, accept, &tasks, &token, client).await;
        });
        *by_name = Some(ByName { port, _end: end.drop_guard() });
    }
}

/// Binds a port of this machine, the wanted one if it is free, else one nearby.
fn bind(wanted: u16) -> io::Result<(TcpListener, u16)> {
    let nearby = wanted..=wanted.saturating_add(NEARBY);
    let found =
        nearby.filter(|port| *port >= 1024).find_map(|port| Some((bind_to(port).ok()?, port)));
    match found {
        Some(found) => Ok(found),
        None => {
            let listener = bind_to(0)?;
            let port = listener.local_addr()?.port();
            Ok((listener, port))
        }
    }
}

fn bind_to(port: u16) -> io::Result<TcpListener> {
    let listener = StdListener::bind((Ipv4Addr::LOCALHOST, port))?;
    listener.set_nonblocking(true)?;
    TcpListener::from_std(listener)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_port_that_is_taken_is_passed_over() {
        let (first, port) =
            bind(20_000 + u16::try_from(std::process::id() % 10_000).unwrap()).unwrap();
        let (_second, other) = bind(port).unwrap();
        assert_ne!(other, port);
        drop(first);
        assert_eq!(bind(port).unwrap().1, port);
    }
}
