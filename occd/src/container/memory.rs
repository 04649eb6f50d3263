//! What is known of each host's sandbox, so that a status costs no round trip.

use std::sync::Arc;
use std::time::Duration;

use dashmap::DashMap;
use jiff::Timestamp;
use occ_proto::HostName;
use occ_proto::container::{ContainerStatus, DiskUse};
use occ_proto::forward::{Endpoint, Service};
use tokio::sync::{Notify, watch};
use tokio::time::timeout;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use super::{Docker, DockerError, follow, is_running, published, sandbox};
use crate::events::{Changes, Topic};
use crate::host::HostHandle;
use crate::ssh::Connection;
use crate::ssh::error::chain;

/// How long a look at a sandbox may take for which a browser waits.
const LOOK: Duration = Duration::from_secs(10);

/// What is known of a sandbox.
#[derive(Debug, Clone, Default)]
pub struct Known {
    /// Its state when it was last seen.
    pub status: Option<ContainerStatus>,
    /// What it took on disk when that was looked at.
    pub disk: Option<DiskUse>,
    /// Docker tells of every change.
    pub live: bool,
    /// Why it does not, where the link is up.
    pub error: Option<Arc<DockerError>>,
}

impl Known {
    /// Returns the state with the time at which it was true: now, as long as changes are told.
    pub fn status(&self) -> Option<ContainerStatus> {
        let status = self.status.clone()?;
        let status = ContainerStatus { disk: self.disk.filter(|_| status.exists), ..status };
        Some(match self.live {
            true => ContainerStatus { as_of: Timestamp::now(), ..status },
            false => ContainerStatus { stale: true, ..status },
        })
    }
}

/// Keeps what is known of one sandbox.
#[derive(Debug)]
pub(super) struct Keeper {
    known: watch::Sender<Known>,
    host: HostName,
    changes: Arc<Changes>,
}

impl Keeper {
    /// Changes what is known.
    pub(super) fn modify(&self, change: impl FnOnce(&mut Known)) {
        self.known.send_modify(change);
        self.changes.touch(Topic::Container(self.host.clone()));
    }

    pub(super) fn borrow(&self) -> watch::Ref<'_, Known> {
        self.known.borrow()
    }

    pub(super) fn subscribe(&self) -> watch::Receiver<Known> {
        self.known.subscribe()
    }
}

#[derive(Debug)]
struct Followed {
    /// The host that it is, which a later one of the same name is not.
    host: HostHandle,
    known: watch::Receiver<Known>,
    /// Somebody else was answered by its engine.
    answered: Arc<Notify>,
    _end: DropGuard,
}

/// The sandboxes of all hosts.
#[derive(Debug)]
pub struct Sandboxes {
    hosts: DashMap<HostName, Followed>,
    changes: Arc<Changes>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl Sandboxes {
    /// Returns a memory of nothing, whose tasks end when `stop` is cancelled.
    pub fn new(changes: Arc<Changes>, tasks: TaskTracker, stop: CancellationToken) -> Self {
        Self { hosts: DashMap::new(), changes, tasks, stop }
    }

    /// Follows these hosts and no others, of which nothing is known from now on.
    pub fn follow(&self, hosts: &[HostHandle]) {
        let mut forgotten = Vec::new();
        self.hosts.retain(|name, followed| {
            let stays =
                hosts.iter().any(|host| host.name() == name && host.is_same(&followed.host));
            forgotten.extend((!stays).then(|| name.clone()));
            stays
        });
        for name in forgotten {
            self.changes.touch(Topic::Container(name));
        }
        for host in hosts.iter().filter(|host| !self.hosts.contains_key(host.name())) {
            let end = self.stop.child_token();
            let (sender, known) = watch::channel(Known::default());
            let changes = Arc::clone(&self.changes);
            let keeper = Keeper { known: sender, host: host.name().clone(), changes };
            let answered = Arc::new(Notify::new());
            self.tasks.spawn({
                let (host, end, answered) = (host.clone(), end.clone(), Arc::clone(&answered));
                async move {
                    end.run_until_cancelled(follow::follow(&host, &keeper, &answered)).await;
                }
            });
            let _end = end.drop_guard();
            let followed = Followed { host: host.clone(), known, answered, _end };
            self.hosts.insert(host.name().clone(), followed);
        }
    }

    /// A host's engine has answered, whatever was found out before: what is known is not to lag behind.
    pub fn answered(&self, name: &HostName) {
        if let Some(followed) = self.hosts.get(name) {
            // Nobody waits while it is followed.
            followed.answered.notify_waiters();
        }
    }

    /// Makes sure that a service of the host's sandbox is what answers at `to`: when the sandbox has stopped, or was made
    /// anew without the service, the port is free for any user of the host.
    ///
    /// # Errors
    /// Why it is not, or that nobody knows, as the rest of a sentence.
    pub async fn serves(
        &self,
        host: &HostHandle,
        connection: &Arc<Connection>,
        service: Service,
        to: &Endpoint,
    ) -> Result<(), String> {
        let is_there = |sandbox: &ContainerStatus| {
            let at = published(sandbox, service).map(|(host, port)| Endpoint::Tcp { host, port });
            is_running(sandbox) && at.as_ref() == Some(to)
        };
        {
            let followed =
                self.hosts.get(host.name()).filter(|followed| followed.host.is_same(host));
            let known = followed.as_ref().map(|followed| followed.known.borrow());
            let live = known.as_ref().filter(|known| known.live);
            if live.and_then(|known| known.status.as_ref()).is_some_and(is_there) {
                return Ok(());
            }
        }
        // It may have been started a moment ago, or Docker's events are not heard.
        let looked = timeout(LOOK, async {
            let socket = host.snapshot().settings.docker_socket.clone();
            let docker = Docker::connect(connection, socket.as_deref(), Some(host.clone())).await?;
            sandbox::look(&docker, None).await
        });
        match looked.await {
            Ok(Ok(sandbox)) if is_there(&sandbox) => Ok(()),
            Ok(Ok(sandbox)) => Err(match sandbox.state.as_deref() {
                None => "there is no sandbox".to_owned(),
                Some("running") => format!("the sandbox does not have {to}"),
                Some(state) => format!("the sandbox is not running ({state})"),
            }),
            Ok(Err(error)) => {
                Err(format!("it is not known whether the sandbox runs: {}", chain(&error)))
            }
            Err(_) => {
                Err("it is not known whether the sandbox runs: Docker does not answer".into())
            }
        }
    }

    /// Returns what is known of a host's sandbox.
    pub fn known(&self, name: &HostName) -> Known {
        self.hosts.get(name).map(|followed| followed.known.borrow().clone()).unwrap_or_default()
    }
}
