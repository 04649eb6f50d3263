//! The pool: every configured host by name, and the jump hosts that are needed and not configured.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError};

use dashmap::DashMap;
use dashmap::mapref::multiple::RefMulti;
use jiff::Timestamp;
use occ_proto::HostName;
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;

use crate::config::Config;
use crate::events::Topic;
use crate::host::{self, HostContext, HostHandle};
use crate::hosts::HostsSnapshot;
use crate::used::{LastUse, LastUsed};

mod hops;

/// The hosts. Shared by every request.
#[derive(Debug)]
pub struct Pool {
    hosts: DashMap<HostName, Entry>,
    /// Jump hosts that hosts.json does not name: never saved, and no part of `--all`.
    via: DashMap<HostName, Entry>,
    config: std::sync::Mutex<Arc<Config>>,
    context: Arc<HostContext>,
    stop: CancellationToken,
    /// When hosts were used before this daemon started, until they are here.
    used_before: std::sync::Mutex<LastUsed>,
    /// The revision of hosts.json that the pool is in line with.
    revision: AtomicU64,
    reloading: Mutex<()>,
}

#[derive(Debug)]
struct Entry {
    handle: HostHandle,
    stop: CancellationToken,
}

impl Pool {
    /// Returns an empty pool whose hosts end when `stop` is cancelled.
    pub fn new(context: Arc<HostContext>, used_before: LastUsed, stop: CancellationToken) -> Self {
        Self {
            hosts: DashMap::new(),
            via: DashMap::new(),
            config: std::sync::Mutex::default(),
            context,
            stop,
            used_before: std::sync::Mutex::new(used_before),
            revision: AtomicU64::new(0),
            reloading: Mutex::new(()),
        }
    }

    /// Returns what all hosts share.
    pub fn context(&self) -> &Arc<HostContext> {
        &self.context
    }

    /// Returns a host.
    pub fn get(&self, name: &HostName) -> Option<HostHandle> {
        let map = if name.is_via() { &self.via } else { &self.hosts };
        map.get(name).map(|entry| entry.handle.clone())
    }

    /// Returns what is known of the last use of each host of hosts.json; no moment for those whose login needs a client,
    /// which are not to be connected without one.
    pub fn used(&self) -> Vec<(HostName, Option<LastUse>)> {
        let used = |entry: RefMulti<'_, HostName, Entry>| {
            let handle = &entry.handle;
            let last = handle.last_use();
            let counts = |last: &LastUse| *last == LastUse::Disconnected || !handle.needs_client();
            (entry.key().clone(), last.filter(counts))
        };
        self.hosts.iter().map(used).collect()
    }

    /// Returns the hosts of hosts.json.
    pub fn configured(&self) -> Vec<HostHandle> {
        self.hosts.iter().map(|entry| entry.handle.clone()).collect()
    }

    /// Returns every host, also the jump hosts that hosts.json does not name, by their names.
    pub fn all(&self) -> Vec<HostHandle> {
        let hosts = self.hosts.iter().chain(self.via.iter());
        let mut all: Vec<HostHandle> = hosts.map(|entry| entry.handle.clone()).collect();
        all.sort_by(|a, b| a.name().cmp(b.name()));
        all
    }

    /// Has every connection of every host checked, and hosts that wait for their next dial dialled soon.
    pub fn check_all(&self) {
        self.all().iter().for_each(HostHandle::check);
    }

    /// Returns the jump hosts that hosts.json does not name, by their names.
    pub fn via(&self) -> Vec<HostHandle> {
        let mut all: Vec<HostHandle> = self.via.iter().map(|entry| entry.handle.clone()).collect();
        all.sort_by(|a, b| a.name().cmp(b.name()));
        all
    }

    fn config(&self) -> Arc<Config> {
        Arc::clone(&self.config.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Returns whether the pool has been brought in line with this state of hosts.json.
    pub fn knows(&self, snapshot: &HostsSnapshot) -> bool {
        self.revision.load(Ordering::Acquire) == snapshot.revision
    }

    /// Brings the pool in line with the files: new hosts appear, changed ones learn their new
    /// configuration, and those that are gone end.
    pub async fn reload(&self, snapshot: &HostsSnapshot, config: &Arc<Config>) {
        // One at a time, and never back to an older state: the watcher and a request may both come.
        let _reloading = self.reloading.lock().await;
        if snapshot.revision < self.revision.load(Ordering::Acquire) {
            return;
        }
        *self.config.lock().unwrap_or_else(PoisonError::into_inner) = Arc::clone(config);
        let file = &snapshot.file;
        let gone: Vec<HostName> = self
            .hosts
            .iter()
            .map(|entry| entry.key().clone())
            .filter(|name| !file.hosts.contains_key(name))
            .collect();
        for name in gone {
            if let Some((name, entry)) = self.hosts.remove(&name) {
                tracing::info!(host = %name, "removed");
                entry.stop.cancel();
                self.context.changes.touch(Topic::Host(name));
            }
        }
        let mut eager = Vec::new();
        for (name, host) in &file.hosts {
            let settings = config.effective(name);
            // The guard of the map is not held across an await.
            let existing = self.get(name);
            match existing {
                Some(handle) => handle.configure(host.clone(), settings).await,
                None => {
                    let stop = self.stop.child_token();
                    let before = self.take_used_before(name);
                    let used = match before {
                        Some(LastUse::At(at)) => Some(at),
                        Some(LastUse::Disconnected) | None => None,
                    };
                    let autoconnect = settings.autoconnect;
                    let handle = host::spawn(
                        name.clone(),
                        host.clone(),
                        settings,
                        Arc::clone(&self.context),
                        used,
                        stop.clone(),
                    );
                    if before == Some(LastUse::Disconnected) {
                        // It fails only while the daemon ends.
                        let _ = handle.disconnect().await;
                    } else if autoconnect.applies(used, Timestamp::now()) {
                        eager.push(handle.clone());
                    }
                    self.hosts.insert(name.clone(), Entry { handle, stop });
                    self.context.changes.touch(Topic::Host(name.clone()));
                }
            }
        }
        // Dials are made in the order in which they are asked for: the host that was used last comes first.
        eager.sort_by_key(|handle| std::cmp::Reverse(handle.last_used()));
        eager.iter().for_each(HostHandle::glance);
        self.reload_via(config).await;
        self.revision.store(snapshot.revision, Ordering::Release);
    }

    fn take_used_before(&self, name: &HostName) -> Option<LastUse> {
        self.used_before.lock().unwrap_or_else(PoisonError::into_inner).remove(name)
    }

    /// Ends the jump hosts that nobody uses, since what they were made from may have changed, and puts new
    /// settings in force for the others.
    async fn reload_via(&self, config: &Config) {
        for handle in self.via() {
            if hops::is_unused(&handle) {
                self.let_go(handle.name());
            } else {
                let settings = config.effective(handle.name());
                handle.configure(handle.snapshot().config.clone(), settings).await;
            }
        }
    }
}
