//! Forwards: ports and sockets of this machine that lead to hosts, and of hosts that lead here. They outlive
//! connections and the daemon: the same port each time.

use std::collections::BTreeMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use occ_proto::HostName;
use occ_proto::forward::{Direction, Endpoint, Forward, ForwardState, Service, Spec};
use occ_proto::status::State;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use crate::container::Sandboxes;
use crate::events::{Changes, Topic};
use crate::host::{HostHandle, Tries, Unreachable};
use crate::policy::{Guard, Request};
use crate::prompts::Client;
use crate::{server, state_file};

mod by_name;
mod keep;
mod listen;
mod open;
mod owner;
mod record;
mod relay;
mod running;
mod serve;
mod socks;
mod stream;

pub use listen::BindError;
use listen::Listener;
use record::Record;
use running::Running;

/// How far from the host's port one of this machine is looked for, for what occ forwards by itself.
const NEARBY: u16 = 100;
/// Clients of the port where hosts are found by name, at a time. More wait in line.
const CLIENTS: usize = 512;
/// How long a server may take to say whether it listens, until it is let do so in the background.
const FIRST_ANSWER: Duration = Duration::from_secs(15);
/// How long a server may take to end its listening.
const END: Duration = Duration::from_secs(15);

/// All of them.
#[derive(Debug)]
pub struct Forwards {
    /// Remembers them.
    file: PathBuf,
    entries: Mutex<BTreeMap<String, Entry>>,
    by_name: Mutex<Option<ByName>>,
    sandboxes: Arc<Sandboxes>,
    changes: Arc<Changes>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

#[derive(Debug)]
struct Entry {
    record: Record,
    live: Option<Live>,
    /// Why the policy does not permit it.
    denied: Option<String>,
}

#[derive(Debug)]
struct Live {
    running: Arc<Running>,
    task: JoinHandle<()>,
    end: DropGuard,
}

/// The port behind which a host is found by its name.
#[derive(Debug)]
struct ByName {
    port: u16,
    _end: DropGuard,
}

/// Why there is no forward.
#[derive(Debug, thiserror::Error)]
pub enum AddError {
    /// The host cannot be reached.
    #[error("the host cannot be reached")]
    Unreachable(Unreachable),
    /// This machine does not listen.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// Another forward has it.
    #[error("{listen} is taken by the forward {id} to {host}")]
    Own {
        /// What was to be listened on.
        listen: Endpoint,
        /// That one's ID.
        id: String,
        /// Its host.
        host: HostName,
    },
    /// The host does not listen.
    #[error("{0}")]
    Refused(String),
    /// It cannot be remembered.
    #[error("the forward cannot be remembered")]
    Save(#[source] io::Error),
}

/// Why no port of this machine leads to a service of a host.
#[derive(Debug)]
pub enum NoPort {
    /// None can be had.
    Taken(io::Error),
    /// It cannot be remembered.
    Save(io::Error),
}

impl Entry {
    fn show(&self) -> Forward {
        match &self.live {
            Some(live) => live.running.show(&self.record),
            None => Forward { last_error: self.denied.clone(), ..running::shown(&self.record) },
        }
    }

    /// Ends it, waits until what it listened on is free, and returns what it was. It ends also when nobody waits.
    async fn end(self) -> Forward {
        let shown = self.show();
        if let Some(Live { task, end, .. }) = self.live {
            drop(end);
            if timeout(END, task).await.is_err() {
                tracing::warn!(forward = shown.id, "a forward takes long to end");
            }
        }
        shown
    }

    fn is_service(&self, host: &HostName, service: Service) -> bool {
        self.record.service == Some(service) && self.record.host == *host
    }
}

impl Forwards {
    /// Returns those that are remembered in `state`, none of them open yet.
    pub fn new(
        state: &Path,
        sandboxes: Arc<Sandboxes>,
        changes: Arc<Changes>,
        tasks: TaskTracker,
        stop: CancellationToken,
    ) -> Self {
        let file = state.join("forwards.json");
        let entries = record::load(&file)
            .into_iter()
            .map(|record| (record.id.clone(), Entry { record, live: None, denied: None }));
        let entries = Mutex::new(entries.collect());
        Self { file, entries, by_name: Mutex::default(), sandboxes, changes, tasks, stop }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns how many connections go through all of them.
    pub fn connections(&self) -> u64 {
        self.lock().values().map(|entry| entry.show().connections).sum()
    }

    /// Opens those of these hosts and closes those of others. `by_name` is the port behind which hosts are found by
    /// name, if there is to be one. What the policy does not permit any more is closed, and opened when it does.
    pub fn follow(self: &Arc<Self>, hosts: &[HostHandle], by_name: Option<u16>, guard: &Guard) {
        let (mut changed, mut is_news) = (false, false);
        let mut entries = self.lock();
        for entry in entries.values_mut() {
            let before = entry.show();
            let host = hosts.iter().find(|host| *host.name() == entry.record.host);
            let record = &entry.record;
            let permitted = match record.service {
                None => guard
                    .check_forward(record.direction, &record.listen)
                    .and_then(|()| guard.still_permits(&record.host, &Request::Forward)),
                // What occ forwards by itself belongs to a sandbox: what is said of Docker decides.
                Some(_) => guard.still_permits(&record.host, &Request::Docker),
            };
            entry.denied = permitted.err().map(|denied| format!("{denied}."));
            match (host, &entry.live) {
                (None, _) => entry.live = None,
                _ if entry.denied.is_some() => entry.live = None,
                (Some(host), Some(live)) if live.running.host.is_same(host) => {}
                (Some(host), _) => match self.listen_for_service(&entry.record, by_name) {
                    Ok((listeners, listen)) => {
                        changed |= entry.record.listen != listen;
                        entry.record.listen = listen;
                        entry.live = Some(self.run(host, &entry.record, listeners, true));
                    }
                    Err(error) => tracing::error!(host = %host.name(), %error, "no forward"),
                },
            }
            is_news |= entry.show() != before;
        }
        let any =
            entries.values().any(|entry| entry.record.service.is_some() && entry.live.is_some());
        drop(entries);
        if is_news {
            self.changes.touch(Topic::Forwards);
        }
        if changed && let Err(error) = self.save() {
            tracing::error!(%error, "the forwards cannot be remembered");
        }
        self.listen_by_name(by_name.filter(|_| any));
    }

    /// What a person chose is kept, and its port waited for; what occ forwards by itself takes the next that is free, and
    /// leaves the one behind which hosts are found by their names.
    fn listen_for_service(
        &self,
        record: &Record,
        by_name: Option<u16>,
    ) -> io::Result<(Vec<Listener>, Endpoint)> {
        let (Some(_), Some(port)) = (record.service, record.listen.port()) else {
            return Ok((Vec::new(), record.listen.clone()));
        };
        let (listener, port) = bind_nearby(port, by_name)?;
        Ok((vec![Listener::Tcp(listener)], record::on_loopback(port)))
    }

    /// Sets a forward to work.
    fn run(
        self: &Arc<Self>,
        host: &HostHandle,
        record: &Record,
        listeners: Vec<Listener>,
        restored: bool,
    ) -> Live {
        let end = self.stop.child_token();
        let running = Running::new(
            (host.clone(), record.clone()),
            restored,
            Arc::clone(&self.sandboxes),
            Arc::clone(&self.changes),
            end.clone(),
        );
        let (tasks, token) = (self.tasks.clone(), end.clone());
        // It owns this one.
        let forwards = Arc::downgrade(self);
        let keeping = keep::keep(Arc::clone(&running), listeners, forwards, tasks, token);
        Live { running, task: self.tasks.spawn(keeping), end: end.drop_guard() }
    }

    /// Adds a forward, for a session if one is named, connecting its host. Returns it, and whether it is new: one that is there already is as good.
    /// That of a host which a person has disconnected is kept, in whichever direction, and waits for the host.
    ///
    /// # Errors
    /// When it cannot be used, or cannot be remembered. It is not added then.
    pub async fn add(
        self: &Arc<Self>,
        host: &HostHandle,
        spec: Spec,
        session: Option<&str>,
        (tries, client): (Tries, &Client),
    ) -> Result<(Forward, bool), AddError> {
        let here = spec.direction != Direction::Remote;
        let is_stopped = host.snapshot().state == State::Stopped;
        let connected = async {
            match is_stopped {
                true => Ok(()),
                false => self.connect(host, tries, client).await,
            }
        };
        if let Some(there) = self.already(host.name(), &spec)? {
            connected.await?;
            return Ok((there, false));
        }
        let (listeners, listen) = match here {
            true => listen::bind(&spec.listen).await?,
            false => (Vec::new(), spec.listen),
        };
        connected.await?;
        let record = Record {
            id: record::new_id(),
            host: host.name().clone(),
            direction: spec.direction,
            listen,
            to: spec.to,
            service: None,
            session: session.map(str::to_owned),
        };
        let live = self.run(host, &record, listeners, false);
        let id = record.id.clone();
        {
            let mut entries = self.lock();
            // Removed meanwhile: what comes after its forwards were taken away would lead to the next of its name.
            host.check_there().map_err(AddError::Unreachable)?;
            entries.insert(id.clone(), Entry { record, live: Some(live), denied: None });
        }
        if let Err(error) = self.save() {
            let taken = self.lock().remove(&id);
            if let Some(entry) = taken {
                entry.end().await;
            }
            return Err(AddError::Save(error));
        }
        if !is_stopped {
            // Goes on when the caller leaves: one that is refused is not to stay.
            let (forwards, of) = (Arc::clone(self), id.clone());
            let told = self.tasks.spawn(async move { forwards.first_answer(&of).await });
            match told.await {
                Ok(told) => told?,
                Err(error) => tracing::error!(%error, id, "a forward's first answer is not known"),
            }
        }
        let shown = self.lock().get(&id).map(Entry::show);
        // Somebody may have taken it away already.
        shown.map(|shown| (shown, true)).ok_or(AddError::Refused("it was removed.".to_owned()))
    }

    async fn connect(
        &self,
        host: &HostHandle,
        tries: Tries,
        client: &Client,
    ) -> Result<(), AddError> {
        host.connection(tries, client).await.map(drop).map_err(AddError::Unreachable)
    }

    /// Returns the same forward, if there is one.
    ///
    /// # Errors
    /// When another has what it is to listen on.
    fn already(&self, host: &HostName, spec: &Spec) -> Result<Option<Forward>, AddError> {
        let entries = self.lock();
        for entry in entries.values() {
            let own = &entry.record;
            let same_side = match spec.direction {
                Direction::Remote => own.direction == Direction::Remote && own.host == *host,
                _ => own.direction != Direction::Remote,
            };
            if !same_side || !overlap(&own.listen, &spec.listen) {
                continue;
            }
            let same = own.direction == spec.direction && own.to == spec.to && own.host == *host;
            if same && own.listen == spec.listen && own.service.is_none() {
                return Ok(Some(entry.show()));
            }
            return Err(AddError::Own {
                listen: spec.listen.clone(),
                id: own.id.clone(),
                host: own.host.clone(),
            });
        }
        Ok(None)
    }

    /// Waits until a server has said whether it listens. One that does not is not kept.
    async fn first_answer(&self, id: &str) -> Result<(), AddError> {
        let running = self
            .lock()
            .get(id)
            .and_then(|entry| entry.live.as_ref())
            .map(|live| Arc::clone(&live.running));
        let Some(running) = running else { return Ok(()) };
        // Where it takes longer, the list tells what became of it.
        let told = self.stop.run_until_cancelled(timeout(FIRST_ANSWER, running.told())).await;
        if let Some(Ok(ForwardState::Refused)) = told {
            let why = running.last_error().unwrap_or_default();
            if let Err(error) = self.remove(id).await {
                tracing::error!(%error, "the forwards cannot be remembered");
            }
            return Err(AddError::Refused(why));
        }
        Ok(())
    }

    /// Remembers the port that a server took where any was wanted.
    fn found_port(&self, id: &str, listen: &Endpoint) {
        if let Some(entry) = self.lock().get_mut(id) {
            entry.record.listen = listen.clone();
        }
        if let Err(error) = self.save() {
            tracing::error!(%error, "the forwards cannot be remembered");
        }
    }

    /// Returns the port of this machine that leads to a port of a host, which is open from now on.
    ///
    /// # Errors
    /// When no port can be had, or it cannot be remembered. None is open then.
    pub fn ensure(
        self: &Arc<Self>,
        host: &HostHandle,
        service: Service,
        to: (&str, u16),
        by_name: Option<u16>,
    ) -> Result<u16, NoPort> {
        let mut entries = self.lock();
        host.check_there().map_err(|gone| NoPort::Taken(io::Error::other(gone.error)))?;
        let mut record = Record::of_service(host.name().clone(), service, to, to.1);
        let known = entries.values().find(|entry| entry.is_service(host.name(), service));
        if let Some(entry) = known.filter(|entry| entry.record.to == record.to) {
            record = entry.record.clone();
            if let Some(port) = record.listen.port()
                && entry.live.as_ref().is_some_and(|live| live.running.host.is_same(host))
            {
                return Ok(port);
            }
        }
        // The port that it had is free from now on.
        entries.retain(|_, entry| !entry.is_service(host.name(), service));
        let (listeners, listen) =
            self.listen_for_service(&record, by_name).map_err(NoPort::Taken)?;
        let port = listen.port().unwrap_or_default();
        record.listen = listen;
        let live = self.run(host, &record, listeners, false);
        let id = record.id.clone();
        entries.insert(id.clone(), Entry { record, live: Some(live), denied: None });
        drop(entries);
        if let Err(error) = self.save() {
            self.lock().remove(&id);
            return Err(NoPort::Save(error));
        }
        self.listen_by_name(by_name);
        Ok(port)
    }

    /// Takes a service's forward away.
    pub fn remove_service(&self, host: &HostName, service: Service) -> io::Result<()> {
        let before = {
            let mut entries = self.lock();
            let before = entries.len();
            entries.retain(|_, entry| !entry.is_service(host, service));
            before != entries.len()
        };
        if before { self.save() } else { Ok(()) }
    }

    /// Takes a forward away, with the connections through it. What it listened on is free when this returns. Returns
    /// what it was, if there was one.
    ///
    /// # Errors
    /// When that cannot be remembered.
    pub async fn remove(&self, id: &str) -> io::Result<Option<Forward>> {
        let Some(entry) = self.lock().remove(id) else { return Ok(None) };
        // First: who asked for it may not wait for its end.
        let saved = self.save();
        let shown = entry.end().await;
        saved.map(|()| Some(shown))
    }

    /// Takes those away that are there for a session.
    ///
    /// # Errors
    /// When that cannot be remembered.
    pub async fn remove_of_session(&self, session: &str) -> io::Result<()> {
        self.remove_each(|record| record.session.as_deref() == Some(session)).await
    }

    /// Takes those away that lead to a host, or from one, its sandbox's included.
    ///
    /// # Errors
    /// When that cannot be remembered.
    pub async fn remove_of_host(&self, host: &HostName) -> io::Result<()> {
        self.remove_each(|record| record.host == *host).await
    }

    async fn remove_each(&self, is_one: impl Fn(&Record) -> bool) -> io::Result<()> {
        let taken: Vec<(String, Entry)> =
            self.lock().extract_if(.., |_, entry| is_one(&entry.record)).collect();
        let saved = if taken.is_empty() { Ok(()) } else { self.save() };
        // All at once: a server that is silent is waited for.
        futures_util::future::join_all(taken.into_iter().map(|(_, entry)| entry.end())).await;
        saved
    }

    /// Returns the port of this machine that leads there for a session.
    pub fn of_session(&self, session: &str, to: &Endpoint) -> Option<u16> {
        let entries = self.lock();
        let mut records = entries.values().map(|entry| &entry.record);
        let record = records.find(|record| {
            record.session.as_deref() == Some(session) && record.to.as_ref() == Some(to)
        });
        record.and_then(|record| record.listen.port())
    }

    /// Returns all of them.
    pub fn list(&self) -> Vec<Forward> {
        let mut all: Vec<Forward> = self.lock().values().map(Entry::show).collect();
        all.sort_by(|a, b| {
            (&a.host, a.direction, &a.listen).cmp(&(&b.host, b.direction, &b.listen))
        });
        all
    }

    /// Returns one of them.
    pub fn get(&self, id: &str) -> Option<Forward> {
        self.lock().get(id).map(Entry::show)
    }

    /// Returns the port of this machine that leads to a service of a host, where that is reached.
    pub fn port(&self, host: &HostName, service: Service, to: &Endpoint) -> Option<u16> {
        let entries = self.lock();
        let entry = entries.values().find(|entry| entry.is_service(host, service))?;
        let entry = (entry.record.to.as_ref() == Some(to)).then_some(entry)?;
        entry.live.as_ref().and_then(|_| entry.record.listen.port())
    }

    /// Returns the names of the hosts whose sandbox is found by name.
    fn names(&self) -> Vec<String> {
        let entries = self.lock();
        let open = entries
            .values()
            .filter(|entry| entry.record.service == Some(Service::Sandbox) && entry.live.is_some());
        open.map(|entry| entry.record.host.to_string()).collect()
    }

    /// Returns the port behind which hosts are found by name.
    pub fn by_name(&self) -> Option<u16> {
        let by_name = self.by_name.lock().unwrap_or_else(PoisonError::into_inner);
        by_name.as_ref().map(|by_name| by_name.port)
    }

    /// Returns the sandbox of a host, whose name comes from a browser, which knows no capital letters.
    fn sandbox_of(&self, name: &str) -> Option<Arc<Running>> {
        let entries = self.lock();
        let found = entries.values().find(|entry| {
            entry.record.service == Some(Service::Sandbox)
                && entry.record.host.as_str().eq_ignore_ascii_case(name)
        });
        found.and_then(|entry| entry.live.as_ref()).map(|live| Arc::clone(&live.running))
    }

    fn save(&self) -> io::Result<()> {
        self.changes.touch(Topic::Forwards);
        // Held while it is written, so that what is written last is the newest.
        let entries = self.lock();
        let known: Vec<&Record> = entries.values().map(|entry| &entry.record).collect();
        state_file::save(&self.file, &known)
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

/// Returns whether two listeners would have the same port, or the same socket.
fn overlap(one: &Endpoint, other: &Endpoint) -> bool {
    match (one, other) {
        (Endpoint::Tcp { host: a, port: p }, Endpoint::Tcp { host: b, port: q }) => {
            let any = |host: &str| matches!(host, "*" | "localhost" | "0.0.0.0" | "::");
            p == q && *p != 0 && (a == b || any(a) || any(b))
        }
        _ => one == other,
    }
}

/// Binds a port of this machine, the wanted one if it is free, else one nearby, but for one that is somebody else's.
fn bind_nearby(wanted: u16, but: Option<u16>) -> io::Result<(TcpListener, u16)> {
    let nearby = (wanted..=wanted.saturating_add(NEARBY)).filter(|port| Some(*port) != but);
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
    listen::tcp(SocketAddr::from((Ipv4Addr::LOCALHOST, port)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_port_that_is_taken_is_passed_over() {
        let (first, port) =
            bind_nearby(20_000 + u16::try_from(std::process::id() % 10_000).unwrap(), None)
                .unwrap();
        let (second, other) = bind_nearby(port, None).unwrap();
        assert_ne!(other, port);
        drop(second);
        let (_third, another) = bind_nearby(port, Some(other)).unwrap();
        assert!(another > other, "{another}");
        drop(first);
        assert_eq!(bind_nearby(port, None).unwrap().1, port);
        assert_ne!(bind_nearby(port, Some(port)).unwrap().1, port);
    }
}
