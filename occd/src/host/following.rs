//! Following a host from one connection to the next.

use std::sync::Arc;

use tokio::time::Instant;

use super::tries::COMMAND_PATIENCE;
use super::{HostHandle, HostRequest, HostSnapshot, Tries, Unreachable, Wish};
use crate::prompts::Client;
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

    /// Makes a new connection for all that comes. What runs on the old one goes on there.
    pub async fn renew(&self, client: &Client) -> Result<Arc<Connection>, Unreachable> {
        self.questions.add(client);
        self.ask(|done| HostRequest::Renew { done }).await?;
        let deadline = Instant::now() + COMMAND_PATIENCE;
        let can_answer = client.can_answer();
        self.wait_for_connection(Wish::Command, Tries::default(), deadline, can_answer).await
    }

    /// Returns whether the host is no more.
    pub fn is_ended(&self) -> bool {
        self.requests.is_closed()
    }

    /// Returns whether this is a handle of the same host, and not of another of its name.
    pub fn is_same(&self, other: &Self) -> bool {
        self.snapshot.same_channel(&other.snapshot)
    }
}
