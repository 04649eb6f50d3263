//! Following a host from one connection to the next.

use std::sync::Arc;

use super::{HostHandle, HostSnapshot};
use crate::ssh::Connection;

impl HostHandle {
    /// Waits until the host is connected and returns the connection; nothing when the host is no more.
    pub async fn next_connection(&self) -> Option<Arc<Connection>> {
        while !self.is_ended() {
            self.up().await;
            let usable = self.snapshot.borrow().usable().cloned();
            if usable.is_some() {
                return usable;
            }
            // It went as it came. What the host does next is told to `up`.
            tokio::task::yield_now().await;
        }
        None
    }

    /// Waits until the host has another connection than this, none included, or is no more.
    pub async fn other_than(&self, connection: &Arc<Connection>) {
        let mut snapshots = self.snapshot.clone();
        let is_other = |snapshot: &Arc<HostSnapshot>| {
            snapshot.usable().is_none_or(|usable| usable.id() != connection.id())
        };
        // A host that was removed has none.
        let _ = snapshots.wait_for(is_other).await;
    }

    /// Waits until another Docker socket is set for the host than this one.
    pub async fn docker_socket_other_than(&self, socket: Option<&str>) {
        let mut snapshots = self.snapshot.clone();
        let is_other =
            |snapshot: &Arc<HostSnapshot>| snapshot.settings.docker_socket.as_deref() != socket;
        if snapshots.wait_for(is_other).await.is_err() {
            // A host that was removed has none.
            std::future::pending::<()>().await;
        }
    }

    /// Returns whether the host is no more.
    fn is_ended(&self) -> bool {
        self.requests.is_closed()
    }

    /// Returns whether this is a handle of the same host, and not of another of its name.
    pub fn is_same(&self, other: &Self) -> bool {
        self.snapshot.same_channel(&other.snapshot)
    }
}
